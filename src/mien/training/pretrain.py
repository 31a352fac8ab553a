"""Pretraining: trains a masked autoencoder on unlabelled faces; ``mien train`` fine-tunes its encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from timm.optim import param_groups_weight_decay
from transformers import ViTMAEForPreTraining

from mien.config import PretrainConfig, to_dict
from mien.data.faces import SPLITS, FaceSet
from mien.data.read import read_for_pretraining
from mien.evaluation.probe import probe
from mien.locks import holds_out
from mien.log import say, warn
from mien.machine import machine_of, versions
from mien.model.mae import build_autoencoder, count_patches, reconstruct, save_autoencoder
from mien.model.networks import lay_out
from mien.model.preprocessing import Preprocessing, tensor
from mien.model.presets import SHAPES
from mien.progress import progress
from mien.training.augment import Augment, local_rows, random_table, seed_step, shuffled
from mien.training.folder import Parts, Saved, write_config
from mien.training.history import pretraining_line, write_curves, write_reconstructions
from mien.training.optim import BudgetSchedule, moments, restore_moments, start_optimizer
from mien.training.plan import pretraining_lines
from mien.training.run import (
    Budget,
    Run,
    fit_batch,
    on_main,
    open_run,
    prepare_faces,
    resolve_precision,
    start_accelerator,
)
from mien.training.step import Pass, Recorded, method_of

NO_DECAY: tuple[str, ...] = ("vit.embeddings.cls_token", "decoder.mask_token")
"""Exempt from weight decay beside every bias and norm."""

BETAS = (0.9, 0.95)
"""AdamW's decay rates (He et al. 2022, table 8)."""

SHOWN = 8
"""Validation faces in the figure of reconstructions."""


def mask_noise(count: int, patches: int, seed: int, epoch: int) -> torch.Tensor:
    """Noise that decides the masks of an epoch, float32 [count, patches] in [0, 1): the lowest values stay visible."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch, 0x3A5))))
    return torch.from_numpy(generator.random((count, patches), dtype=np.float32))


@holds_out
def pretrain(config: PretrainConfig, *, resume: bool = False, command: str = "") -> Path:
    """Trains a masked autoencoder and writes its folder.

    Args:
        config: see ``PretrainConfig``.
        resume: continue from the state in ``config.out``.
        command: the command line, for ``meta.json``.

    Returns:
        ``config.out/model``: the last weights, a backbone for ``mien train``.

    Raises:
        MienError: a setting, the data or the folder is wrong, or the loss became NaN; the last saved state stays.
    """
    pretraining = prepared(config, resume=resume, command=command)
    if on_main():
        say("\n".join(pretraining_lines(pretraining)))
    pretraining.fit()
    pretraining.accelerator.wait_for_everyone()
    return Path(config.out) / "model"


def prepared(config: PretrainConfig, *, resume: bool = False, command: str = "", dry: bool = False) -> Pretraining:
    """Reads the data of a run and opens its folder.

    Args:
        config: see ``PretrainConfig``.
        resume: continue from the state in ``config.out``.
        command: the command line, for ``meta.json``.
        dry: leave the folder of the run alone: neither read nor write there.

    Raises:
        MienError: as ``pretrain``.
    """
    given, accelerator = config, start_accelerator(config)
    size = config.image_size or SHAPES[config.preset].image_size
    with accelerator.main_process_first():  # the main process fills the cache and clears the folder for the others
        faces = prepare_faces(read_for_pretraining(config.data, size, config.skip_broken), config)
        config = fit_batch(config, faces, accelerator.num_processes).resolved()
        saved = None if dry else open_run(config, faces.fingerprint, resume)
        if on_main() and not dry and not resume:
            write_config(Path(config.out), given)
    torch.manual_seed(config.seed)
    network, preprocessing = build_autoencoder(config, grey=faces.is_grey)
    if on_main():
        for warning in faces.warnings:
            warn(warning)
    return Pretraining(
        config, lay_out(network.to(accelerator.device)), preprocessing, faces, accelerator, saved, command
    )


class Pretraining:
    """The pretraining loop. Everything random in it is a function of seed and step, unless minutes end the run.

    Args:
        config: with every default resolved.
        network: on the device; trained in place.
        preprocessing: of its input.
        faces: with a train and a validation split; only the probes use the labels.
        accelerator: device, precision and processes.
        saved: the state to resume from, or None for a new run.
        command: the command line, for ``meta.json``.
    """

    def __init__(
        self,
        config: PretrainConfig,
        network: ViTMAEForPreTraining,
        preprocessing: Preprocessing,
        faces: FaceSet,
        accelerator: Accelerator,
        saved: Saved | None = None,
        command: str = "",
    ) -> None:
        self.config, self.network, self.preprocessing = config, network, preprocessing
        self.faces, self.accelerator, self.command = faces, accelerator, command
        self.run = Run(config, faces.fingerprint, accelerator, saved)
        self.out, self.state = self.run.out, self.run.state
        self.augment = Augment(config.augment, preprocessing, network.config.num_channels)
        self.images = self.augment.reduced(tensor(faces.part("train").images).to(accelerator.device))
        self.steps = len(self.images) // config.batch_size
        self.precision = resolve_precision(config.precision, accelerator.device)
        rate = config.lr or 0.0
        groups = param_groups_weight_decay(network, config.weight_decay, no_weight_decay_list=NO_DECAY)
        ends = [network.vit.embeddings.patch_embeddings.projection, network.decoder.decoder_pred]
        self.optimizer = start_optimizer(config.optimizer, network, groups, ends, rate, BETAS, self.precision)
        self.budget = self.build_budget()
        self.schedule = BudgetSchedule(self.optimizer, rate, config.min_lr, config.warmup, self.budget)
        if saved:
            network.load_state_dict(saved.part("network"))
            restore_moments(network, self.optimizer, saved.part("moments"))
        method = method_of(config.compile, accelerator)
        model = accelerator.prepare_model(network)
        self.model: Callable[..., Any] = torch.compile(model) if method == "on" else model
        self.views = Recorded(self.augment, "augmentation") if method == "graph" else self.augment
        self.step = Pass(self.loss, network, accelerator, method, half=self.precision == "bf16")

    def build_budget(self) -> Budget:
        """The length of the run: by minutes, else by steps, else by epochs."""
        config = self.config
        if config.minutes is None:
            return Budget(config.steps or config.epochs * self.steps, None)
        budget = Budget(None, config.minutes)
        budget.look(self.updates, self.run.seconds, self.accelerator)
        return budget

    @property
    def updates(self) -> int:
        """Updates done so far."""
        return (self.state.epoch - 1) * self.steps + self.state.step

    def steps_of(self, epoch: int) -> int:
        """Steps of an epoch; a budget of steps may cut the last one short."""
        if self.config.steps is None:
            return self.steps
        return min(self.steps, self.config.steps - (epoch - 1) * self.steps)

    @property
    def is_over(self) -> bool:
        """Whether the budget is spent."""
        return self.budget.spent(self.updates) >= 1.0

    def fit(self) -> None:
        """Trains until the budget is spent."""
        while not self.is_over or self.state.step:  # an epoch that the budget cut short is still to be finished
            self.train_epoch(self.state.epoch)
            self.finish_epoch(self.state.epoch)
        self.run.tracking.finish()
        if on_main():
            self.save_model()
            write_curves(self.out, self.state.history, pretraining=True)

    def train_epoch(self, epoch: int) -> None:
        """One pass over the training images, the rest of an interrupted pass, or less if the budget ends."""
        config, state, device = self.config, self.state, self.accelerator.device
        count = len(self.images)
        order = shuffled(count, config.seed, epoch).to(device)
        random = random_table(count, config.seed, epoch).to(device)
        noise = mask_noise(count, count_patches(self.network), config.seed, epoch).to(device)
        self.network.train()
        loss_sum = torch.tensor(state.loss_sum, device=device)
        done, total, note = state.step * config.batch_size, self.steps_of(epoch) * config.batch_size, ""
        with progress(f"epoch {epoch}", total, "images", done=done, quiet=not on_main()) as advance:
            while state.step < self.steps and not self.is_over:
                seed_step(config.seed, self.updates + 1, self.accelerator.process_index)
                self.schedule.step_update(self.updates + 1)
                rows = local_rows(order, state.step, self.accelerator, config.batch_size)
                loss = self.step(self.views(self.images[rows], random[rows]), noise[rows])
                if config.clip_grad:
                    self.accelerator.clip_grad_norm_(self.network.parameters(), config.clip_grad)
                self.optimizer.step()
                self.optimizer.zero_grad()
                loss_sum += loss
                state.step += 1
                self.budget.look(self.updates, self.run.seconds, self.accelerator)
                if self.run.is_check_due(state.step, self.steps) or self.is_over:
                    is_save_due = self.run.check(loss_sum)
                    note = f"loss {state.loss_sum / state.step:.4f}"
                    rate = max(group["lr"] for group in self.optimizer.param_groups)
                    values = {"loss": state.loss_sum / state.step, "lr": rate}
                    self.run.tracking.log(values, self.updates, prefix="step")
                    note += f", {self.budget.spent(self.updates):.0%} of the time" if config.minutes else ""
                    if is_save_due and state.step < self.steps:
                        self.run.save(self.parts)
                advance(config.batch_size, note)

    def loss(self, pixels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Mean squared error over the hidden patches (He et al. 2022, section 3)."""
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            loss: torch.Tensor = self.model(pixel_values=pixels, noise=noise).loss
        return loss

    def finish_epoch(self, epoch: int) -> None:
        """Evaluates every ``probe_epochs`` and at the end, and saves history, figure, state and model."""
        config, state, is_over, trained = self.config, self.state, self.is_over, self.run.seconds
        is_probed = bool(config.probe_epochs) and (epoch % config.probe_epochs == 0 or is_over)
        row: dict[str, Any] = {"epoch": epoch, "loss": state.loss_sum / state.step}
        row |= {"val_loss": None, "knn_accuracy": None, "linear_accuracy": None}
        if on_main() and is_probed:
            row |= self.evaluate()
        row["lr"] = max(group["lr"] for group in self.optimizer.param_groups)
        before, updates = state.history[-1]["images"] if state.history else 0, self.updates
        row["images"] = before + state.step * config.batch_size
        self.run.finish_epoch(row, row["images"] - before, trained)
        if on_main():
            line = pretraining_line(row, None if config.minutes or config.steps else config.epochs)
            self.run.report(line, updates)
        if is_over:
            self.run.close(config.minutes)
        self.run.save(self.parts)
        if on_main() and is_probed and not is_over:
            self.save_model()
        if not is_over:
            self.budget.look(self.updates, self.run.seconds, self.accelerator, after_a_pause=True)
            if self.is_over:  # the time ran out while the epoch was probed and saved: nothing is left to resume
                self.run.save(self.parts)

    @torch.inference_mode()
    def evaluate(self) -> dict[str, float]:
        """Loss on validation faces under fixed masks, and the probes if there are labels; redraws the figure."""
        config, device = self.config, self.accelerator.device
        self.network.eval()
        validation = self.sample("validation")
        noise = mask_noise(len(validation), count_patches(self.network), config.seed, 0).to(device)
        total = 0.0
        for start in range(0, len(validation), config.batch_size):
            batch = slice(start, start + config.batch_size)
            pixels = self.pixels(validation.images[batch])
            total += float(self.network(pixel_values=pixels, noise=noise[batch]).loss) * len(pixels)
        self.run.require_finite("the validation loss", total / len(validation))
        # Evenly spaced, so that every class is shown: folders list them one after the other.
        rows = np.linspace(0, len(validation) - 1, min(SHOWN, len(validation))).astype(int)
        pixels = self.pixels(validation.images[rows])
        write_reconstructions(self.out, self.preprocessing, pixels, *reconstruct(self.network, pixels, noise[rows]))
        scores = {"val_loss": total / len(validation)}
        if len(self.faces.names) > 1:
            probes = probe(self.network, self.preprocessing, self.sample("train"), validation)
            scores |= {"knn_accuracy": probes.knn, "linear_accuracy": probes.linear}
        return scores

    def sample(self, split: str) -> FaceSet:
        """A fixed sample of ``probe_images`` faces of a split, or the whole split if it is smaller."""
        part = self.faces.part(split)
        chosen = np.random.default_rng(self.config.seed).permutation(len(part))[: self.config.probe_images]
        return part.select(np.sort(chosen))

    def pixels(self, images: np.ndarray) -> torch.Tensor:
        """uint8 faces to the float32 [B, C, S, S] that the network reads, on the device, not augmented."""
        return self.preprocessing(tensor(images).to(self.accelerator.device), self.network.config.num_channels)

    def parts(self) -> Parts:
        """The tensors of the state: weights and moments."""
        return {"network": self.network.state_dict(), "moments": moments(self.network, self.optimizer)}

    def save_model(self) -> None:
        """Writes ``OUT/model``."""
        last = self.state.history[-1]
        meta = {
            "command": self.command,
            "metrics": {"split": "validation", **{k: last[k] for k in ("val_loss", "knn_accuracy", "linear_accuracy")}},
            "training": {k: last[k] for k in ("epoch", "images", "loss", "seconds", "images_per_second")},
            "data": {"source": self.faces.source, "fingerprint": self.faces.fingerprint,
                     "images": {name: len(self.faces.part(name)) for name in SPLITS if self.faces.has(name)},
                     "warnings": list(self.faces.warnings)},
            "config": to_dict(self.config),
            "machine": machine_of(self.accelerator.device),
            "versions": versions(),
        }  # fmt: skip
        save_autoencoder(self.network, self.preprocessing, self.out / "model", meta)
