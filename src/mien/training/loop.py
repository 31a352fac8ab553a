"""The training loop: steps over the images, epoch by epoch, until the budget of the run is spent.

Fine-tuning and pretraining share it and say what a step computes, what an epoch reports and what is saved. Everything
random is a function of seed and step, so a run can stop and resume anywhere, unless minutes end it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from accelerate import Accelerator
from torch import nn

from mien.config import to_dict
from mien.data.faces import SPLITS, FaceSet
from mien.errors import MienError
from mien.log import report
from mien.machine import machine_of, versions
from mien.model.preprocessing import Preprocessing, tensor
from mien.progress import progress
from mien.training.augment import Augment, local_rows, random_table, seed_step, shuffled
from mien.training.folder import Parts, Progress, Saved, save_state, state_path
from mien.training.history import write_history
from mien.training.optim import Budget, Schedule, moments
from mien.training.run import C, on_main, resolve_precision, warn_of_slow_bf16
from mien.training.step import Pass, Recorded, method_of
from mien.training.trackers import Tracking

N = TypeVar("N", bound=nn.Module)

STEPS_BETWEEN_CHECKS = 20
"""Steps between two checks of the loss and the clock; between them, a GPU never waits for the host."""


class Loop(Generic[C, N]):
    """Data, clock, steps and state of a run.

    A subclass sets ``step``, ``optimizer`` and ``schedule`` before the first epoch.

    Args:
        config: with every default resolved.
        network: on the device; trained in place.
        preprocessing: of its input.
        num_channels: that it reads, 1 or 3.
        faces: with a train and a validation split.
        accelerator: device, precision and processes.
        saved: the state to resume from, or None for a new run.
        command: the command line, for ``meta.json``.
        undisturbed: teachers read other views than the student (``Augment``).

    Attributes:
        step: forward and backward pass of a batch.
        optimizer: of the trainable parameters.
        schedule: of its learning rates.
        images: uint8 [N, H, W] or [N, H, W, 3], the training images, on the device.
        steps: of an epoch.
        is_save_due: at the last check of the clock, ``checkpoint_seconds`` had passed since a state was saved.
        trained: images read since the last row of the history or since this process began, and the seconds it took.
    """

    step: Pass
    optimizer: torch.optim.Optimizer
    schedule: Schedule

    def __init__(
        self,
        config: C,
        network: N,
        preprocessing: Preprocessing,
        num_channels: int,
        faces: FaceSet,
        accelerator: Accelerator,
        saved: Saved | None,
        command: str,
        *,
        undisturbed: bool = False,
    ) -> None:
        self.config: C = config
        self.network, self.preprocessing = network, preprocessing
        self.faces, self.accelerator, self.command = faces, accelerator, command
        self.out, self.state = Path(config.out), saved.progress if saved else Progress()
        self.tracking = Tracking(config, accelerator, resumed=saved is not None)
        self.clock = time.monotonic()
        self.train_set, self.validation = faces.part("train"), faces.part("validation")
        self.augment = Augment(config.augment, preprocessing, num_channels, undisturbed=undisturbed)
        self.images = self.augment.reduced(tensor(self.train_set.images).to(accelerator.device))
        self.steps = len(self.images) // config.batch_size
        self.precision = resolve_precision(config.precision, accelerator.device)
        warn_of_slow_bf16(self.precision, accelerator.device)
        self.method = method_of(config.compile, accelerator)
        self.views = Recorded(self.augment, "augmentation") if self.method == "graph" else self.augment
        self.is_save_due = False
        self.trained = (0, 0.0)
        self.budget = Budget(self.last_update if config.minutes is None else None, config.minutes)
        self.look_at_the_clock()

    @property
    def last_update(self) -> int:
        """Updates of the whole run, unless minutes end it."""
        return self.config.epochs * self.steps

    @property
    def updates(self) -> int:
        """Updates done so far."""
        return (self.state.epoch - 1) * self.steps + self.state.step

    @property
    def seconds(self) -> float:
        """Training time so far in seconds, over all resumptions."""
        return self.state.seconds + time.monotonic() - self.clock

    @property
    def is_over(self) -> bool:
        """Whether the budget is spent; a run makes one update at least, however few its minutes."""
        return self.updates > 0 and self.budget.spent(self.updates) >= 1.0

    def look_at_the_clock(self, *, after_a_pause: bool = False) -> None:
        """Updates the budget of a run that minutes end."""
        self.budget.look(self.updates, self.seconds, self.accelerator, after_a_pause=after_a_pause)

    def steps_of(self, epoch: int) -> int:
        """Steps of an epoch."""
        return self.steps

    def start_epoch(self, epoch: int) -> None:
        """Prepares the network for an epoch."""
        self.network.train()

    def order(self, epoch: int) -> torch.Tensor:
        """The rows of an epoch in the order in which they are read, int64 [N]."""
        return shuffled(len(self.images), self.config.seed, epoch)

    def numbers(self, table: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        """The numbers of ``random_table`` for each place of an epoch's order, float32 [N, 21]: those of the picture."""
        return table[order]

    def batch(self, views: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The arguments of ``step``.

        Args:
            views: float32 [B, C, S, S], augmented.
            rows: int64 [B], of the pictures in the training split.
        """
        raise NotImplementedError

    def after_step(self, update: int) -> None:
        """What follows an update of the weights; the first is 1."""

    def parts(self) -> Parts:
        """The tensors of the state: weights and moments."""
        return {"network": self.network.state_dict(), "moments": moments(self.network, self.optimizer)}

    @property
    def rate(self) -> float:
        """The highest learning rate of all groups."""
        return float(max(group["lr"] for group in self.optimizer.param_groups))

    def train_epoch(self, epoch: int) -> None:
        """One pass over the training images, the rest of an interrupted pass, or less if the budget ends.

        An epoch makes one update at least.
        """
        config, state, device = self.config, self.state, self.accelerator.device
        started, first_step, (images, seconds) = time.monotonic(), state.step, self.trained
        order = self.order(epoch).to(device)
        random = self.numbers(random_table(len(self.images), config.seed, epoch).to(device), order)
        self.start_epoch(epoch)
        loss_sum = torch.tensor(state.loss_sum, device=device)
        done, total, note = state.step * config.batch_size, self.steps_of(epoch) * config.batch_size, ""
        with progress(f"epoch {epoch}", total, "images", done=done, quiet=not on_main()) as advance:
            while state.step < self.steps and not (self.is_over and state.step):
                rows = local_rows(order, state.step, self.accelerator, config.batch_size)
                loss_sum += self.update(rows, local_rows(random, state.step, self.accelerator, config.batch_size))
                state.step += 1
                self.look_at_the_clock()
                if state.step % STEPS_BETWEEN_CHECKS == 0 or state.step == self.steps or self.is_over:
                    note = self.check(loss_sum)
                advance(config.batch_size, note)
        images += (state.step - first_step) * config.batch_size
        self.trained = (images, seconds + time.monotonic() - started)

    def update(self, rows: torch.Tensor, random: torch.Tensor) -> torch.Tensor:
        """One step of the optimizer; returns the loss before it, float32 [].

        Args:
            rows: int64 [B], of the pictures in the training split.
            random: float32 [B, 21], numbers of ``random_table`` for each of them.
        """
        update = self.updates + 1
        seed_step(self.config.seed, update, self.accelerator.process_index)
        self.schedule.step_update(update)
        loss = self.step(*self.batch(self.views(self.images[rows], random), rows))
        if self.config.clip_grad:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.config.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.after_step(update)
        return loss

    def check(self, loss_sum: torch.Tensor) -> str:
        """Checks and tracks the mean loss, and saves the state if it is time to; returns a note for the progress bar.

        Args:
            loss_sum: float32 [], the sum over this epoch's steps of this process's loss.

        Raises:
            MienError: the loss is NaN or infinite; the last saved state stays.
        """
        state = self.state
        is_due = on_main() and time.monotonic() - self.clock > self.config.checkpoint_seconds
        # One reduction for both numbers: the main process alone decides, the others learn of it here.
        sums = torch.stack([loss_sum, torch.full_like(loss_sum, float(is_due))])
        state.loss_sum, share_due = self.accelerator.reduce(sums, "mean").tolist()
        self.require_finite("the loss", state.loss_sum)
        self.is_save_due = share_due > 0
        loss = state.loss_sum / state.step
        self.tracking.log({"loss": loss, "lr": self.rate}, self.updates, prefix="step")
        if self.is_save_due and state.step < self.steps and not self.is_over:
            self.save_state()
        share = f", {self.budget.spent(self.updates):.0%} of the time" if self.config.minutes else ""
        return f"loss {loss:.4f}{share}"

    def require_finite(self, what: str, value: float) -> None:
        """Stops training if a value is NaN or infinite.

        Args:
            what: names the value in the message.
            value: for example a loss.

        Raises:
            MienError: it is NaN or infinite; the last saved state stays.
        """
        if math.isfinite(value):
            return
        has_state = state_path(self.out).exists()
        remains = f"the last good state is kept in {self.out}" if has_state else "no state was saved yet"
        raise MienError(
            f"{what} became {value} in epoch {self.state.epoch}, step {self.state.step}: training stopped, {remains}; "
            "start anew in another --out with a lower --lr or --precision fp32"
        )

    def finish_row(self, row: dict[str, Any]) -> None:
        """Adds an epoch to the history, with its time and rate, and moves on to the next epoch.

        Call it before anything of the epoch is saved, since it checks the losses: the last update may have broken the
        weights.

        Args:
            row: the scores of the epoch; gains ``seconds`` and ``images_per_second``.

        Raises:
            MienError: a loss is NaN or infinite.
        """
        state, (images, seconds) = self.state, self.trained
        self.require_finite("the loss", row["loss"])
        if row["val_loss"] is not None:
            self.require_finite("the validation loss", row["val_loss"])
        row["seconds"] = round(self.seconds, 2)
        row["images_per_second"] = round(images / max(seconds, 0.01), 1)
        state.history.append(row)
        state.epoch, state.step, state.loss_sum = state.epoch + 1, 0, 0.0
        self.trained = (0, 0.0)

    def report(self, line: str, update: int) -> None:
        """Writes the history, tracks the epoch and logs a line; call it in the main process only."""
        write_history(self.out, self.state.history)
        self.tracking.log(self.state.history[-1], update, prefix="epoch")
        report(line)

    def end_epoch(self, is_over: bool, save_model: Callable[[], None] | None) -> None:
        """Saves the state and then the model, and looks at the clock again.

        Args:
            is_over: whether the budget was spent by the steps of the epoch.
            save_model: saves it, in the main process; None if it is not to be saved.
        """
        if is_over and self.config.minutes is not None:
            # The end was estimated between two looks at the clock; resumed, the run would train for the rest of it.
            self.state.seconds += max(0.0, 60 * self.config.minutes - self.seconds)
        self.save_state()
        if save_model is not None and on_main():
            save_model()
        if not is_over:
            self.look_at_the_clock(after_a_pause=True)
            if self.is_over:  # the time ran out while the epoch was scored and saved: nothing is left to resume
                self.save_state()

    def save_state(self) -> None:
        """Writes the state of the run, from the main process.

        Raises:
            MienError: a weight or a moment is NaN or infinite, or the disk is full; the former state stays.
        """
        now = time.monotonic()
        self.state.seconds += now - self.clock
        self.clock = now
        if on_main():
            parts = self.parts()
            for name, tensor in ((name, tensor) for part in parts.values() for name, tensor in part.items()):
                if tensor.is_floating_point() and not tensor.isfinite().all():
                    self.require_finite(name, float(tensor[~tensor.isfinite()][0]))
            save_state(self.out, self.config, self.faces.fingerprint, self.state, parts)

    def record(self) -> dict[str, Any]:
        """What ``meta.json`` says of every run: its command, data, settings, machine and packages."""
        images = {name: len(self.faces.part(name)) for name in SPLITS if self.faces.has(name)}
        return {
            "command": self.command,
            "data": {"source": self.faces.source, "fingerprint": self.faces.fingerprint, "images": images},
            "config": to_dict(self.config),
            "machine": machine_of(self.accelerator.device),
            "versions": versions(),
        }
