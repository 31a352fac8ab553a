"""Pretraining: trains a masked autoencoder on unlabelled faces; ``mien train`` fine-tunes its encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from timm.optim import param_groups_weight_decay
from transformers import ViTMAEForPreTraining

from mien.config import PretrainConfig
from mien.data.faces import FaceSet
from mien.data.read import read_for_pretraining
from mien.evaluation.probe import probe
from mien.locks import holds_out
from mien.log import say, warn
from mien.model.mae import build_autoencoder, count_patches, reconstruct, save_autoencoder
from mien.model.networks import lay_out
from mien.model.preprocessing import Preprocessing, tensor
from mien.model.presets import SHAPES
from mien.training.folder import Saved, write_config
from mien.training.history import pretraining_line, write_curves, write_reconstructions
from mien.training.loop import Loop
from mien.training.optim import TICKS, Schedule, restore_moments, start_optimizer
from mien.training.plan import pretraining_lines
from mien.training.run import (
    fit_batch,
    on_main,
    open_run,
    prepare_faces,
    start_accelerator,
)
from mien.training.step import Pass

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
    if dry:
        config = replace(config, track=[], tensorboard=False)  # trackers write, too
    config_as_typed, accelerator = config, start_accelerator(config)
    size = config.image_size or SHAPES[config.preset].image_size
    with accelerator.main_process_first():  # the main process fills the cache and clears the folder for the others
        faces = prepare_faces(read_for_pretraining(config.data, size, config.skip_broken), config)
        config = fit_batch(config, faces, accelerator.num_processes).resolved()
        saved = None if dry else open_run(config, faces.fingerprint, resume)
        if on_main() and not dry and not resume:
            write_config(Path(config.out), config_as_typed)
    torch.manual_seed(config.seed)
    network, preprocessing = build_autoencoder(config, grey=faces.is_grey)
    if on_main():
        for warning in faces.warnings:
            warn(warning)
    return Pretraining(
        config, lay_out(network.to(accelerator.device)), preprocessing, faces, accelerator, saved, command
    )


class Pretraining(Loop[PretrainConfig, ViTMAEForPreTraining]):
    """Pretraining.

    Args:
        config: with every default resolved.
        network: on the device; trained in place.
        preprocessing: of its input.
        faces: with a train and a validation split; only the probes use the labels.
        accelerator: device, precision and processes.
        saved: the state to resume from, or None for a new run.
        command: the command line, for ``meta.json``.

    Attributes:
        is_measured: whether the last epoch of the history was measured, if any shall be.
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
        channels = network.config.num_channels
        super().__init__(config, network, preprocessing, channels, faces, accelerator, saved, command)
        rate = config.lr or 0.0
        groups = param_groups_weight_decay(network, config.weight_decay, no_weight_decay_list=NO_DECAY)
        ends = [network.vit.embeddings.patch_embeddings.projection, network.decoder.decoder_pred]
        self.optimizer = start_optimizer(config.optimizer, network, groups, ends, rate, BETAS, self.precision)
        warmup = round(config.warmup * TICKS)
        self.schedule = Schedule(self.optimizer, config.min_lr * rate, TICKS, warmup, self.budget.ticks)
        if saved:
            network.load_state_dict(saved.part("network"))
            restore_moments(network, self.optimizer, saved.part("moments"))
        model = accelerator.prepare_model(network)
        self.model: Callable[..., Any] = torch.compile(model) if self.method == "on" else model
        self.step = Pass(self.loss, network, accelerator, self.method, half=self.precision == "bf16")
        history = self.state.history
        self.is_measured = not (config.probe_epochs and history and history[-1]["val_loss"] is None)

    @property
    def last_update(self) -> int:
        """Updates of the whole run, unless minutes end it."""
        return self.config.steps or super().last_update

    def steps_of(self, epoch: int) -> int:
        """Steps of an epoch; a budget of steps may cut the last one short."""
        if self.config.steps is None:
            return self.steps
        return min(self.steps, self.config.steps - (epoch - 1) * self.steps)

    def fit(self) -> None:
        """Trains until the budget is spent and the weights are measured."""
        # An epoch that the budget cut short is still to be finished. If the time ran out while one was saved that was
        # not measured, another of one update is.
        while not self.is_over or self.state.step or not self.is_measured:
            self.train_epoch(self.state.epoch)
            self.finish_epoch(self.state.epoch)
        self.tracking.finish()
        if on_main():
            self.save_model()
            write_curves(self.out, self.state.history, pretraining=True)

    def start_epoch(self, epoch: int) -> None:
        """Draws the masks of an epoch."""
        super().start_epoch(epoch)
        noise = mask_noise(len(self.images), count_patches(self.network), self.config.seed, epoch)
        self.noise = noise.to(self.accelerator.device)

    def batch(self, views: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The pictures and the noise that decides which patches are hidden."""
        return views, self.noise[rows]

    def loss(self, pixels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Mean squared error over the hidden patches (He et al. 2022, section 3)."""
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            loss: torch.Tensor = self.model(pixel_values=pixels, noise=noise).loss
        return loss

    def finish_epoch(self, epoch: int) -> None:
        """Evaluates every ``probe_epochs`` and at the end, and saves history, figure, state and model."""
        config, state = self.config, self.state
        is_over, updates = self.is_over, self.updates
        is_probed = bool(config.probe_epochs) and (epoch % config.probe_epochs == 0 or is_over)
        self.is_measured = is_probed or not config.probe_epochs
        row: dict[str, Any] = {"epoch": epoch, "loss": state.loss_sum / state.step}
        row |= {"val_loss": None, "knn_accuracy": None, "linear_accuracy": None}
        if on_main() and is_probed:
            row |= self.evaluate()
        row["lr"] = self.rate
        before = state.history[-1]["images"] if state.history else 0
        row["images"] = before + state.step * config.batch_size
        self.finish_row(row)
        if on_main():
            line = pretraining_line(row, None if config.minutes or config.steps else config.epochs)
            self.report(line, updates)
        self.end_epoch(is_over, self.save_model if is_probed and not is_over else None)

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
        self.require_finite("the validation loss", total / len(validation))
        # Evenly spaced, so that every class is shown: folders list them one after the other.
        rows = np.linspace(0, len(validation) - 1, min(SHOWN, len(validation))).astype(int)
        pixels = self.pixels(validation.images[rows])
        merged, hidden = reconstruct(self.network, pixels, noise[rows])
        write_reconstructions(self.out, self.preprocessing, pixels, merged, hidden, lent=config.norm_pix)
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

    def save_model(self) -> None:
        """Writes ``OUT/model``."""
        last, count = self.state.history[-1], len(self.validation)
        record = self.record()
        scores = {name: last[name] for name in ("val_loss", "knn_accuracy", "linear_accuracy")}
        pictures = {"n": min(count, self.config.probe_images), "split_n": count}  # measured, and in all
        meta = {
            "metrics": {"split": "validation", **scores, **pictures},
            "training": {k: last[k] for k in ("epoch", "images", "loss", "seconds", "images_per_second")},
            **record,
            "data": {**record["data"], "warnings": list(self.faces.warnings)},
        }
        save_autoencoder(self.network, self.preprocessing, self.out / "model", meta)
