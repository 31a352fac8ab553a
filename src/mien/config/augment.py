"""The settings of augmentation, which pretraining and fine-tuning share."""

from __future__ import annotations

from dataclasses import dataclass

from mien.config.problems import AT_LEAST_ZERO, PROBABILITY, SHARE, SHARE_BELOW_ONE, Problems


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training images; validation and test images never see it.

    Attributes:
        crop_scale: smallest side of the random crop as a share of the image, in (0, 1]; 1 turns cropping off.
        flip: probability of a left-right mirror image, in [0, 1].
        rotation: largest rotation either way, in degrees, in [0, 180].
        shift: largest shift either way as a share of the image, in [0, 1).
        brightness: largest change of brightness as a share of the white level, in [0, 1].
        contrast: largest relative change of contrast, in [0, 1).
        erasing: probability that a rectangle of 2 to 20 % of the image is blanked (Zhong et al. 2017), in [0, 1].
        mixup: Beta parameter of mixup (Zhang et al. 2017, timm.data.Mixup); 0 turns it off.
        cutmix: Beta parameter of cutmix (Yun et al. 2019, timm.data.Mixup); 0 turns it off.
        mix_probability: share of the batches that mixup or cutmix touch, in [0, 1].
    """

    crop_scale: float = 0.8
    flip: float = 0.5
    rotation: float = 10.0
    shift: float = 0.06
    brightness: float = 0.2
    contrast: float = 0.2
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 1.0

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are blended, which makes the targets soft."""
        return self.mixup > 0 or self.cutmix > 0

    def check(self, problems: Problems) -> None:
        """Adds every value that is out of its range."""
        check = problems.check
        check("augment.crop_scale", self.crop_scale, 0 < self.crop_scale <= 1, "a share in (0, 1]")
        check("augment.flip", self.flip, 0 <= self.flip <= 1, PROBABILITY)
        check("augment.rotation", self.rotation, 0 <= self.rotation <= 180, "degrees in [0, 180]")
        check("augment.shift", self.shift, 0 <= self.shift < 1, SHARE_BELOW_ONE)
        check("augment.brightness", self.brightness, 0 <= self.brightness <= 1, SHARE)
        check("augment.contrast", self.contrast, 0 <= self.contrast < 1, SHARE_BELOW_ONE)
        check("augment.erasing", self.erasing, 0 <= self.erasing <= 1, PROBABILITY)
        check("augment.mixup", self.mixup, self.mixup >= 0, AT_LEAST_ZERO)
        check("augment.cutmix", self.cutmix, self.cutmix >= 0, AT_LEAST_ZERO)
        check("augment.mix_probability", self.mix_probability, 0 <= self.mix_probability <= 1, PROBABILITY)
