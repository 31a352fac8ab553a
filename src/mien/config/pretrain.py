"""The settings of pretraining."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import field
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from mien.config.fields import (
    AboveZero,
    AtLeastOne,
    ImageSide,
    Integer,
    Number,
    Preset,
    ShareBelowOne,
    Switch,
)
from mien.config.run import AugmentConfig, RunConfig
from mien.limits import LARGEST_WIDTH, MOST_LAYERS
from mien.model.presets import SHAPES, mask_problem


def _crop_and_flip() -> AugmentConfig:
    """What a masked autoencoder needs: cropping and mirroring alone (He et al. 2022, table 1e)."""
    return AugmentConfig(crop_scale=0.7, rotation=0.0, shift=0.0, brightness=0.0, contrast=0.0)


@dataclass(frozen=True)
class PretrainConfig(RunConfig):
    """Everything that decides a pretraining run.

    The same settings and seed give the same weights on one machine; another processor or version of PyTorch
    rounds sums differently.

    The attributes of ``RunConfig`` belong to it as well.

    Attributes:
        data: FER2013 in any of its forms, another labelled set (labels are not used), or a folder or zip of pictures of
            faces, of any size and in any folders.
        out: the folder of the run; the autoencoder is written to OUT/model.
        preset: shape of the encoder.
        image_size: side of the pictures in pixels, a multiple of the preset's patch size; by default the preset's own.
        mask_ratio: share of the patches that the encoder does not see.
        norm_pix: predict each patch normalised by its own mean and deviation (He et al. 2022, section 4).
        decoder_size: width of the decoder; by default the preset's own.
        decoder_depth: blocks of the decoder; by default the preset's own.
        epochs: passes over the training images, unless steps or minutes are given.
        steps: optimizer steps in place of epochs.
        minutes: minutes of training in place of epochs, probes between epochs included and the last one not; the
            schedule follows the clock and ends annealed. Such a run can be resumed, but does not repeat bit for bit.
        lr: peak learning rate; by default 1e-3 * sqrt(batch_size / 1024), or 1e-3 by muon.
        warmup: share of the run that warms up linearly.
        probe_epochs: epochs from one measurement of k-NN and linear probe to the next; the last epoch is always
            measured; 0 turns both off.
        probe_images: most training faces that teach the probes, and most validation faces that test them.
        skip_broken: leave out pictures of an unlabelled folder that cannot be read, and count them.
        augment: augmentation of training images; by default only cropping and mirroring.
    """

    preset: Preset = "tiny"
    image_size: ImageSide | None = None
    mask_ratio: Annotated[Number, Field(gt=0, lt=1, title="a share")] = 0.75
    norm_pix: Switch = True
    decoder_size: Annotated[Integer, Field(ge=32, le=LARGEST_WIDTH, multiple_of=32)] | None = None
    decoder_depth: Annotated[Integer, Field(ge=1, le=MOST_LAYERS)] | None = None
    epochs: AtLeastOne = 100
    steps: AtLeastOne | None = None
    minutes: AboveZero | None = None
    batch_size: AtLeastOne = 256
    warmup: ShareBelowOne = 0.05
    probe_epochs: Annotated[Integer, Field(ge=0)] = 5
    probe_images: AtLeastOne = 4000
    skip_broken: Switch = False
    validation_fraction: Annotated[Number, Field(gt=0, le=0.5, title="a share")] = 0.05
    augment: AugmentConfig = field(default_factory=_crop_and_flip)

    def _rules(self) -> Iterator[tuple[tuple[str, ...], str]]:
        if self.steps is not None and self.minutes is not None:
            problem = f"got {self.steps} beside minutes {self.minutes}, expected one of the two"
            yield ("steps", "minutes"), problem
        shape = SHAPES[self.preset]
        size = self.image_size or shape.image_size
        if size % shape.patch_size:
            expected = f"expected a multiple of {shape.patch_size}, a patch of {self.preset}"
            yield ("image_size", "preset"), f"got {size}, {expected}"
        elif hidden := mask_problem(size, shape.patch_size, self.mask_ratio):
            yield ("mask_ratio", "image_size", "preset"), hidden
        for name in ("mixup", "cutmix"):
            value = getattr(self.augment, name)
            if value:
                yield (f"augment.{name}",), f"got {value}, expected 0: pretraining has no targets to mix"

    def resolved(self) -> PretrainConfig:
        """Returns the settings with the learning rate filled in."""
        if self.lr is not None:
            return self
        scale = 1.0 if self.optimizer == "muon" else math.sqrt(self.batch_size / 1024)
        return dataclasses.replace(self, lr=1e-3 * scale)
