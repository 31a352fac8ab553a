"""The settings of pretraining."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Literal

from mien.config.augment import AugmentConfig
from mien.config.problems import ABOVE_ZERO, AT_LEAST_ONE, SHARE_BELOW_ONE, Problems
from mien.config.run import check_run
from mien.config.train import PRESETS


def _crop_and_flip() -> AugmentConfig:
    """What a masked autoencoder needs: cropping and mirroring alone (He et al. 2022, table 1e)."""
    return AugmentConfig(crop_scale=0.7, rotation=0.0, shift=0.0, brightness=0.0, contrast=0.0)


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that decides a pretraining run. The same configuration and seed give the same weights.

    Attributes:
        data: FER2013 in any of its forms, another labelled set (labels are not used), or a folder or zip of pictures of
            faces, of any size and in any folders.
        out: the folder of the run; the autoencoder lands in OUT/model.
        preset: shape of the encoder (nano, mini, tiny, small, base).
        image_size: side of the pictures in pixels, a multiple of the preset's patch size; by default the preset's own.
        mask_ratio: share of the patches that the encoder does not see, in (0, 1).
        norm_pix: predict each patch normalised by its own mean and deviation (He et al. 2022, section 4).
        decoder_size: width of the decoder, a multiple of 32; by default the preset's own.
        decoder_depth: blocks of the decoder; by default the preset's own.
        epochs: passes over the training images, where neither steps nor minutes are given.
        steps: optimizer steps in place of epochs.
        minutes: minutes of training in place of epochs, probes between epochs included and the last one not; the
            schedule follows the clock and ends annealed. Such a run can be resumed, but does not repeat bit for bit.
        batch_size: images a step, over all processes together; a smaller set is seen whole in every step.
        optimizer: adamw, or muon for the weight matrices between patch embedding and prediction, as in ``TrainConfig``.
        lr: peak learning rate; by default 1e-3 * sqrt(batch_size / 1024), or 1e-3 by muon.
        min_lr: learning rate at the end of the cosine, as a share of the peak, in [0, 1].
        warmup: share of the run that warms up linearly, in [0, 1).
        weight_decay: decoupled weight decay; norms, biases, positions, [CLS] and the mask token are exempt.
        clip_grad: largest L2 norm of the gradient; 0 turns clipping off.
        probe_epochs: measure k-NN and linear probe every so many epochs, and at the end; 0 turns them off.
        probe_images: at most so many training faces teach the probes, and so many validation faces test them.
        skip_broken: leave out pictures of an unlabelled folder that cannot be read, and count them.
        validation_fraction: share of training images cut off as validation where the data has no validation split,
            in (0, 0.5]; copies of a photograph stay on one side.
        seed: decides initial weights, order, augmentation and masks.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto (bf16 on a GPU that has it, else fp32), fp32 or bf16.
        compile: auto (on a GPU), on or off: torch.compile of the network.
        checkpoint_seconds: seconds between two saved states within an epoch; each epoch's end is saved too.
        tensorboard: also write OUT/tensorboard.
        augment: augmentation of training images; by default cropping and mirroring alone.
    """

    data: str
    out: str
    preset: str = "tiny"
    image_size: int | None = None
    mask_ratio: float = 0.75
    norm_pix: bool = True
    decoder_size: int | None = None
    decoder_depth: int | None = None
    epochs: int = 100
    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 256
    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: float | None = None
    min_lr: float = 0.0
    warmup: float = 0.05
    weight_decay: float = 0.05
    clip_grad: float = 1.0
    probe_epochs: int = 5
    probe_images: int = 4000
    skip_broken: bool = False
    validation_fraction: float = 0.05
    seed: int = 0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    checkpoint_seconds: float = 300.0
    tensorboard: bool = False
    augment: AugmentConfig = field(default_factory=_crop_and_flip)

    def __post_init__(self) -> None:
        problems = Problems()
        self._check(problems)
        check_run(self, problems)
        problems.raise_if_any()

    def _check(self, problems: Problems) -> None:
        check = problems.check
        size, depth = self.decoder_size, self.decoder_depth
        check("preset", self.preset, self.preset in PRESETS, " or ".join(PRESETS))
        check("image_size", self.image_size, self.image_size is None or self.image_size >= 1, AT_LEAST_ONE)
        check("mask_ratio", self.mask_ratio, 0 < self.mask_ratio < 1, "a share in (0, 1)")
        check("decoder_size", size, size is None or (size >= 32 and size % 32 == 0), "a multiple of 32")
        check("decoder_depth", depth, depth is None or depth >= 1, AT_LEAST_ONE)
        check("epochs", self.epochs, self.epochs >= 1, AT_LEAST_ONE)
        check("steps", self.steps, self.steps is None or self.steps >= 1, AT_LEAST_ONE)
        check("minutes", self.minutes, self.minutes is None or self.minutes > 0, ABOVE_ZERO)
        check("warmup", self.warmup, 0 <= self.warmup < 1, SHARE_BELOW_ONE)
        check("probe_epochs", self.probe_epochs, self.probe_epochs >= 0, "a whole number of at least 0")
        check("probe_images", self.probe_images, self.probe_images >= 1, AT_LEAST_ONE)
        check("compile", self.compile, self.compile in ("auto", "on", "off"), "auto, on or off")
        if self.steps is not None and self.minutes is not None:
            problems.add(f"steps: got {self.steps} beside minutes {self.minutes}, expected one of the two")
        if self.augment.mixes:
            problems.add("augment.mixup: got mixing of images, expected 0: there are no targets to mix")

    def resolved(self) -> PretrainConfig:
        """The configuration with the learning rate filled in."""
        if self.lr is not None:
            return self
        scale = 1.0 if self.optimizer == "muon" else math.sqrt(self.batch_size / 1024)
        return dataclasses.replace(self, lr=1e-3 * scale)
