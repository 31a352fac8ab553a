"""The groups of settings: augmentation, freezing, distillation."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from pydantic import Field

from mien.config.fields import (
    AboveZero,
    AtLeastZero,
    Integer,
    Number,
    Probability,
    ReleaseEpoch,
    Share,
    ShareBelowOne,
    Switch,
)


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training images; validation and test images are never augmented.

    Bounds are checked when the settings of a run are made.

    Attributes:
        crop_scale: smallest side of the random crop as a share of the image; 1 turns zooming in off.
        wide_scale: largest side of the random crop as a share of the image; above 1 the crop reaches beyond the image,
            which is mirrored there.
        still: share of the images that are neither cropped, turned nor shifted, so that nothing resamples them.
        flip: probability of a left-right mirror image.
        rotation: largest rotation either way, in degrees.
        shift: largest shift either way as a share of the image.
        brightness: largest change of brightness as a share of the white level.
        contrast: largest relative change of contrast.
        light: largest share by which light from one side brightens the edge there and darkens the opposite one.
        blur: largest deviation of a Gaussian blur as a share of the side; every second image is blurred, on average.
        noise: largest deviation of Gaussian noise as a share of the white level; every second image is noisy, on
            average.
        jpeg: lowest quality of a simulated JPEG compression, whose quality varies from it to 100; every second image is
            compressed, on average; 0 turns it off.
        erasing: probability that a rectangle of 2 to 20 % of the image is blanked (Zhong et al. 2017).
        mixup: Beta parameter of mixup (Zhang et al. 2017, timm.data.Mixup); 0 turns it off.
        cutmix: Beta parameter of cutmix (Yun et al. 2019, timm.data.Mixup); 0 turns it off.
        mix_probability: share of the batches that mixup or cutmix change.
    """

    crop_scale: Annotated[Number, Field(gt=0, le=1, title="a share")] = 0.8
    wide_scale: Annotated[Number, Field(ge=1, le=2, title="a multiple")] = 1.0
    still: Share = 0.0
    flip: Probability = 0.5
    rotation: Annotated[Number, Field(ge=0, le=180, title="degrees")] = 10.0
    shift: ShareBelowOne = 0.06
    brightness: Share = 0.2
    contrast: ShareBelowOne = 0.2
    light: Share = 0.0
    blur: Annotated[Number, Field(ge=0, le=0.1, title="a share of the side")] = 0.0
    noise: Annotated[Number, Field(ge=0, le=0.5, title="a share of the white level")] = 0.0
    jpeg: Annotated[Integer, Field(ge=0, le=100)] = 0
    erasing: Probability = 0.0
    mixup: AtLeastZero = 0.0
    cutmix: AtLeastZero = 0.0
    mix_probability: Probability = 1.0

    @property
    def mixes(self) -> bool:
        """True if images of a batch are blended, which makes the targets soft."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def mean_side(self) -> float:
        """Mean side of the views as a share of the image, above 0; below 1 they are zoomed in on average."""
        moving = (self.crop_scale + self.wide_scale) / 2
        return round(self.still + (1 - self.still) * moving, 9)


@dataclasses.dataclass(frozen=True)
class FreezeConfig:
    """The part of the encoder that training leaves as it is.

    Attributes:
        blocks: the embeddings and this many first blocks are frozen; 0 freezes nothing. By default 4 for a pretrained
            backbone (which must have more) and 0 for a fresh one.
        release_epoch: from this epoch on (1 is the first) nothing is frozen any more; 12.5% stands for the epoch after
            this share of them; by default frozen to the end.
        gradual: with release_epoch, release one block an epoch from the top, the embeddings last.
        random_weights: allow freezing a fresh backbone, whose weights are random.
    """

    blocks: Annotated[Integer, Field(ge=0)] | None = None
    release_epoch: ReleaseEpoch | None = None
    gradual: Switch = False
    random_weights: Switch = False


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """How much is learnt from teachers, if there are any (Hinton et al. 2015, arXiv:1503.02531, section 2).

    Attributes:
        weight: share of the loss that the teachers have; the labels have the rest.
        temperature: logits of student and teachers are divided by it, so that the teachers' small probabilities count.
        features: weight of the distance between the patches of a ViT after its middle block and the feature maps of
            teachers that are CNNs, added to the loss; 0 turns it off (Romero et al. 2015, arXiv:1412.6550).
        mirror: teachers read every second picture mirrored. Over the epochs the student learns the average of their
            answers to a face and to its mirror image, which is better than either, in the time of one answer.
        split_batch: the pictures of a batch are divided among the teachers, each read by one of them, in place of
            each by all. Over the epochs the student learns the same average in the time of one teacher, with more
            noise in a step.
        targets_weight: share of the loss that the stored answers of ``targets`` have; the labels have what this share
            and that of the teachers leave.
    """

    weight: Share = 0.5
    temperature: AboveZero = 2.0
    features: AtLeastZero = 0.0
    mirror: Switch = False
    split_batch: Switch = False
    targets_weight: Share = 0.3
