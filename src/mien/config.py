"""The settings of a training run: every field documented, frozen, checked all at once."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from mien.errors import MienError

PRESETS: tuple[str, ...] = ("nano", "tiny", "small")


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


@dataclass(frozen=True)
class FreezeConfig:
    """What of the encoder is kept as it came.

    Attributes:
        blocks: the embeddings and this many first blocks are frozen; 0 freezes nothing. By default 4 for a pretrained
            backbone and 0 for a fresh one.
        release_epoch: from this epoch on (1 is the first) nothing is frozen any more; by default frozen to the end.
        gradual: with release_epoch, release one block an epoch from the top, the embeddings last.
        random_weights: allow freezing a fresh backbone, whose weights are random.
    """

    blocks: int | None = None
    release_epoch: int | None = None
    gradual: bool = False
    random_weights: bool = False


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run. The same configuration and seed give the same weights.

    Attributes:
        data: archive.zip, an unpacked folder, a folder with a sub-folder a class, or a FER2013 CSV file.
        out: the folder of the run; the model lands in OUT/model.
        backbone: a fresh preset (nano, tiny, small), a Hugging Face id of a ViTMAE (facebook/vit-mae-base), or a folder
            that holds one.
        epochs: passes over the training images.
        batch_size: images a step, over all processes together.
        lr: peak learning rate of the encoder; by default 3e-5 for a pretrained backbone and 1e-3 for a fresh one.
        head_lr: peak learning rate of the classification head; by default 1.5e-4 for a pretrained backbone, or lr.
        min_lr: learning rate at the end of the cosine, as a share of the peak, in [0, 1].
        warmup_epochs: epochs of linear warm-up; may be a fraction.
        weight_decay: decoupled weight decay; norms, biases, positions and [CLS] are exempt.
        layer_decay: factor on the learning rate from each block to the one below it, in (0, 1]; 1 turns it off
            (Bao et al. 2021, BEiT).
        clip_grad: largest L2 norm of the gradient; 0 turns clipping off.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        class_weights: weight the loss by N / (classes * images of the class).
        drop_path: stochastic depth rate of the last block, rising linearly from 0 (Huang et al. 2016), in [0, 1).
        small_size: side of the pictures in the first epochs, in pixels, a multiple of the patch size; by default every
            epoch sees them at full size (progressive resizing, Tan and Le 2021).
        small_until: share of the epochs that see small pictures, in [0, 1), where small_size is given.
        ema: decay of the averaged weights that are evaluated and kept, in [0, 1); 0 turns averaging off. The decay is
            warmed up, so that the average does not remember the random start.
        validation_fraction: share of training images cut off as validation where the data has no validation split,
            in (0, 0.5]; near-identical pictures stay on one side.
        seed: decides initial weights, order, augmentation and drop path.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto (bf16 on a GPU that has it, else fp32), fp32 or bf16.
        checkpoint_seconds: seconds between two saved states within an epoch; each epoch's end is saved too.
        tensorboard: also write OUT/tensorboard.
        freeze: what of the encoder is kept as it came.
        augment: augmentation of training images.
    """

    data: str
    out: str
    backbone: str = "tiny"
    epochs: int = 30
    batch_size: int = 64
    lr: float | None = None
    head_lr: float | None = None
    min_lr: float = 0.01
    warmup_epochs: float = 1.0
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    clip_grad: float = 1.0
    label_smoothing: float = 0.1
    class_weights: bool = False
    drop_path: float = 0.0
    small_size: int | None = None
    small_until: float = 0.7
    ema: float = 0.999
    validation_fraction: float = 0.1
    seed: int = 0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    checkpoint_seconds: float = 300.0
    tensorboard: bool = False
    freeze: FreezeConfig = field(default_factory=FreezeConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        problems = _problems(self)
        if problems:
            raise MienError("; ".join(problems))

    @property
    def is_fresh(self) -> bool:
        """Whether the backbone is a preset with random weights rather than a pretrained one."""
        return self.backbone in PRESETS

    def resolved(self) -> TrainConfig:
        """The configuration with every default that depends on the backbone filled in."""
        lr = self.lr if self.lr is not None else (1e-3 if self.is_fresh else 3e-5)
        head_lr = self.head_lr if self.head_lr is not None else (lr if self.is_fresh else 5 * lr)
        blocks = self.freeze.blocks if self.freeze.blocks is not None else (0 if self.is_fresh else 4)
        return dataclasses.replace(self, lr=lr, head_lr=head_lr, freeze=dataclasses.replace(self.freeze, blocks=blocks))


WITHOUT_EFFECT_ON_WEIGHTS: frozenset[str] = frozenset({"out", "data", "device", "tensorboard", "checkpoint_seconds"})
"""Fields that may differ between a run and its resumption: the data is compared by its fingerprint instead."""


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain nested dictionaries, for JSON and YAML."""
    return dataclasses.asdict(config)


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """The fields, as ``name: old -> new``, that decide the weights and differ between two configurations."""
    found: list[str] = []
    for name in sorted(set(old) | set(new)):
        if not prefix and name in WITHOUT_EFFECT_ON_WEIGHTS:
            continue
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{name}.")
        elif before != after:
            found.append(f"{prefix}{name}: {before} -> {after}")
    return found


def _problems(config: TrainConfig) -> list[str]:
    """Every value that is out of its range, as ``field: got VALUE, expected RANGE``."""
    problems: list[str] = []

    def check(name: str, value: Any, fine: bool, expected: str) -> None:
        finite = not isinstance(value, float) or math.isfinite(value)
        if value is not None and not (finite and fine):
            problems.append(f"{name}: got {value!r}, expected {expected}")

    c, a, f = config, config.augment, config.freeze
    check("epochs", c.epochs, c.epochs >= 1, "a whole number of at least 1")
    check("batch_size", c.batch_size, c.batch_size >= 1, "a whole number of at least 1")
    check("lr", c.lr, c.lr is None or c.lr > 0, "a number above 0")
    check("head_lr", c.head_lr, c.head_lr is None or c.head_lr > 0, "a number above 0")
    check("min_lr", c.min_lr, 0 <= c.min_lr <= 1, "a share in [0, 1]")
    check("warmup_epochs", c.warmup_epochs, 0 <= c.warmup_epochs <= c.epochs, "between 0 and epochs")
    check("weight_decay", c.weight_decay, c.weight_decay >= 0, "a number of at least 0")
    check("layer_decay", c.layer_decay, 0 < c.layer_decay <= 1, "a factor in (0, 1]")
    check("clip_grad", c.clip_grad, c.clip_grad >= 0, "a number of at least 0")
    check("label_smoothing", c.label_smoothing, 0 <= c.label_smoothing < 1, "a share in [0, 1)")
    check("drop_path", c.drop_path, 0 <= c.drop_path < 1, "a rate in [0, 1)")
    check("small_size", c.small_size, c.small_size is None or c.small_size >= 1, "a whole number of at least 1")
    check("small_until", c.small_until, 0 <= c.small_until < 1, "a share in [0, 1)")
    check("ema", c.ema, 0 <= c.ema < 1, "a decay in [0, 1)")
    check("validation_fraction", c.validation_fraction, 0 < c.validation_fraction <= 0.5, "a share in (0, 0.5]")
    check("seed", c.seed, 0 <= c.seed < 2**31, "a whole number from 0 to 2147483647")
    check("precision", c.precision, c.precision in ("auto", "fp32", "bf16"), "auto, fp32 or bf16")
    check("checkpoint_seconds", c.checkpoint_seconds, c.checkpoint_seconds > 0, "a number above 0")
    check("freeze.blocks", f.blocks, f.blocks is None or f.blocks >= 0, "a whole number of at least 0")
    check("freeze.release_epoch", f.release_epoch, f.release_epoch is None or f.release_epoch >= 2, "at least 2")
    check("freeze.gradual", f.gradual, not f.gradual or f.release_epoch is not None, "freeze.release_epoch beside it")
    check("augment.crop_scale", a.crop_scale, 0 < a.crop_scale <= 1, "a share in (0, 1]")
    check("augment.flip", a.flip, 0 <= a.flip <= 1, "a probability in [0, 1]")
    check("augment.rotation", a.rotation, 0 <= a.rotation <= 180, "degrees in [0, 180]")
    check("augment.shift", a.shift, 0 <= a.shift < 1, "a share in [0, 1)")
    check("augment.brightness", a.brightness, 0 <= a.brightness <= 1, "a share in [0, 1]")
    check("augment.contrast", a.contrast, 0 <= a.contrast < 1, "a share in [0, 1)")
    check("augment.erasing", a.erasing, 0 <= a.erasing <= 1, "a probability in [0, 1]")
    check("augment.mixup", a.mixup, a.mixup >= 0, "a number of at least 0")
    check("augment.cutmix", a.cutmix, a.cutmix >= 0, "a number of at least 0")
    check("augment.mix_probability", a.mix_probability, 0 <= a.mix_probability <= 1, "a probability in [0, 1]")
    if a.mixes and c.batch_size % 2:
        problems.append(f"batch_size: got {c.batch_size}, expected an even number where mixup or cutmix is on")
    return problems
