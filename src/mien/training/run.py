"""What a run of pretraining and one of fine-tuning have in common: their folder, their saved state, their clock."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator

from mien.config import PretrainConfig, RunConfig, TrainConfig
from mien.data.faces import FaceSet
from mien.data.split import cut_validation
from mien.errors import MienError
from mien.files import ensure_writable, recover_folder, refuse_inputs, remove_leftovers
from mien.training.device import on_main
from mien.training.history import require_tensorboard, write_history, write_tensorboard
from mien.training.state import Progress, Saved, load_state, save_state, state_path

C = TypeVar("C", TrainConfig, PretrainConfig)

STEPS_BETWEEN_CHECKS = 20
"""How often the loss is looked at and a state may be saved; in between, a GPU never waits for the host."""

Parts = dict[str, dict[str, torch.Tensor]]
"""What a state holds beside the counters: tensors by part and name."""


def open_run(config: RunConfig, fingerprint: str, resume: bool) -> Saved | None:
    """The state to go on from, or None for a new run; what a killed run left half-written goes.

    Raises:
        MienError: a run is there and is not to be resumed, or cannot be; the folder cannot be written to; or something
            that the configuration asks for is not installed.
    """
    out = Path(config.out)
    ensure_writable(out)
    if Path(config.data).is_dir():
        refuse_inputs(out, [Path(config.data)], may_hold=True)
    if config.tensorboard:
        require_tensorboard()
    has_state = state_path(out).exists()
    if (out / "model").exists() and not has_state:
        raise MienError(
            f"--out {out}: holds a model but no {state_path(out).name}, as its run ended before it first saved one, or "
            "it was removed; such a run cannot be resumed: remove the folder, or choose another --out"
        )
    if has_state and not resume:
        raise MienError(f"--out {out}: already holds a run; continue it with --resume, or choose another folder")
    if on_main():
        recover_folder(out / "model")
        remove_leftovers(out)
    return load_state(out, config, fingerprint) if resume else None


def prepare_faces(faces: FaceSet, config: RunConfig) -> FaceSet:
    """The data with a validation split: where it has none, a part of training becomes one, twins kept together.

    Raises:
        MienError: there is no training image, or there are too few to cut from.
    """
    faces.part("train")
    if not faces.has("validation"):
        faces = cut_validation(faces, config.validation_fraction, config.seed)
        if on_main():
            count = len(faces.part("validation"))
            print(f"no validation split: {count:,} training images became one, twins kept together", file=sys.stderr)
    return faces


def fit_batch(config: C, faces: FaceSet, processes: int) -> C:
    """The configuration, with fewer images a step if the training split has fewer than ``batch_size``.

    A step then sees them all, or as many as the processes can share evenly, in pairs where mixup or cutmix is on.

    Raises:
        MienError: there are too few even for that.
    """
    count, shared_by = len(faces.part("train")), processes * (2 if config.augment.mixes else 1)
    if count >= config.batch_size:
        return config
    if count < shared_by:
        raise MienError(
            f"{faces.source}: has {count} training images, expected at least {shared_by}, so that every process has "
            "some, and two where mixup or cutmix is on; add images"
        )
    if on_main():
        print(f"{count} training images, fewer than --batch-size {config.batch_size}: every step sees them all",
              file=sys.stderr)  # fmt: skip
    return dataclasses.replace(config, batch_size=count - count % shared_by)


class Run:
    """A run under way.

    Args:
        config: with every default resolved.
        fingerprint: of the data.
        accelerator: device and processes.
        saved: the state to go on from, or None.
    """

    def __init__(self, config: RunConfig, fingerprint: str, accelerator: Accelerator, saved: Saved | None) -> None:
        self.config, self.fingerprint, self.accelerator = config, fingerprint, accelerator
        self.out = Path(config.out)
        self.state = saved.progress if saved else Progress()
        self.clock = time.monotonic()

    @property
    def seconds(self) -> float:
        """Training time so far, over all resumptions."""
        return self.state.seconds + time.monotonic() - self.clock

    def looks_at(self, step: int, steps: int) -> bool:
        """Whether the loss is looked at after a step of an epoch of so many."""
        return step % STEPS_BETWEEN_CHECKS == 0 or step == steps

    def check(self, loss_sum: torch.Tensor) -> bool:
        """Takes the mean over the processes of the loss so far into the state; whether it is time to save.

        Raises:
            MienError: the loss is NaN or infinite; the last saved state is from before.
        """
        due = on_main() and time.monotonic() - self.clock > self.config.checkpoint_seconds
        both = torch.stack([loss_sum, torch.full_like(loss_sum, float(due))])
        state = self.state
        state.loss_sum, anybody_due = self.accelerator.reduce(both, "mean").tolist()
        self.require_finite("the loss", state.loss_sum)
        return anybody_due > 0

    def require_finite(self, what: str, value: float) -> None:
        """Stops training where a number, named by ``what``, is NaN or infinite.

        Raises:
            MienError: it is; the last saved state is from before.
        """
        if math.isfinite(value):
            return
        kept = (
            f"the last good state is kept in {self.out}" if state_path(self.out).exists() else "no state was saved yet"
        )
        raise MienError(
            f"{what} became {value} in epoch {self.state.epoch}, step {self.state.step}: training stopped, {kept}; "
            "start anew in another --out with a lower --lr or --precision fp32"
        )

    def finish_epoch(self, row: dict[str, Any], images: int, trained: float) -> None:
        """Completes the row of an epoch with time and rate, and turns to the next epoch.

        Args:
            row: what was measured.
            images: how many were seen.
            trained: ``seconds`` when the last step was done, so that the rate is that of training alone.

        Raises:
            MienError: a loss is NaN or infinite, as after a last update that broke the weights; to be called before
                anything of the epoch is saved.
        """
        state = self.state
        self.require_finite("the loss", row["loss"])
        if row["val_loss"] is not None:
            self.require_finite("the validation loss", row["val_loss"])
        row["seconds"] = round(self.seconds, 2)
        before = state.history[-1]["seconds"] if state.history else 0.0
        row["images_per_second"] = round(images / max(trained - before, 0.01), 1)
        state.history.append(row)
        state.epoch, state.step, state.loss_sum = state.epoch + 1, 0, 0.0

    def tell(self, line: str) -> None:
        """Writes the history and prints a line; to be called by the main process alone."""
        write_history(self.out, self.state.history)
        if self.config.tensorboard:
            write_tensorboard(self.out, self.state.history[-1])
        print(line, flush=True)

    def save(self, parts: Callable[[], Parts]) -> None:
        """Writes the state, from the main process.

        Raises:
            MienError: a weight or a moment is NaN or infinite, or the disk is full; the former state is still there.
        """
        now = time.monotonic()
        self.state.seconds += now - self.clock
        self.clock = now
        if on_main():
            found = parts()
            for name, tensor in ((name, tensor) for part in found.values() for name, tensor in part.items()):
                if tensor.is_floating_point() and not tensor.isfinite().all():
                    self.require_finite(name, float(tensor[~tensor.isfinite()][0]))
            save_state(self.out, self.config, self.fingerprint, self.state, found)
