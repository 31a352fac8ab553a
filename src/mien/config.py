"""The settings of pretraining and fine-tuning: frozen dataclasses, every field documented and checked."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from mien.errors import MienError

LARGEST_IMAGE = 1024
"""Pixels a side of the pictures that a network may read; one of 20,000 would take gigabytes for each face."""

MOST_LAYERS = 256
"""Blocks of an encoder or decoder, and any other number of layers or stages."""

LARGEST_WIDTH = 8192
"""Width of a Transformer's blocks."""

LARGEST_NUMBER = 65_536
"""Any other number among the arguments of a network."""

LONGEST_LIST = 64
"""Numbers in a list among the arguments of a network."""

_DEPTHS = re.compile(r"(depth|layer|block|repeat|stage|num_)")


def number_fits(name: str, value: int | float) -> bool:
    """Whether a number may be the argument ``name`` of a timm network: finite and, as its name says, no bomb."""
    most = MOST_LAYERS if _DEPTHS.search(name) and name != "num_features" else LARGEST_NUMBER
    return math.isfinite(value) and abs(value) <= most


def argument_fits(name: str, value: Any) -> bool:
    """Whether every number in an argument of a timm network, at any depth of its lists and objects, fits."""
    if isinstance(value, dict):
        return all(argument_fits(f"{name}.{key}", item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return len(value) <= LONGEST_LIST and all(argument_fits(name, item) for item in value)
    return isinstance(value, bool) or not isinstance(value, int | float) or number_fits(name, value)


AT_LEAST_ONE = "a whole number of at least 1"
AT_LEAST_ZERO = "a number of at least 0"
ABOVE_ZERO = "a number above 0"
SHARE = "a share in [0, 1]"
SHARE_BELOW_ONE = "a share in [0, 1)"
PROBABILITY = "a probability in [0, 1]"
IMAGE_SIDE = f"a whole number from 1 to {LARGEST_IMAGE}"
LARGEST_SEED = 2**31 - 1


def is_side(value: int | None) -> bool:
    """Whether a number of pixels may be a side of pictures or patches; None, for one left open, may."""
    return value is None or 1 <= value <= LARGEST_IMAGE


class Problems:
    """Gathers every value that is out of its range, as ``field: got VALUE, expected RANGE``."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def check(self, name: str, value: Any, fine: bool, expected: str) -> None:
        """Notes a value that is not ``fine``, or not finite; None stands for a field that is left open."""
        finite = not isinstance(value, float) or math.isfinite(value)
        if value is not None and not (finite and fine):
            self.found.append(f"{name}: got {value!r}, expected {expected}")

    def add(self, problem: str) -> None:
        """Notes what concerns more than one field."""
        self.found.append(problem)

    def raise_if_any(self) -> None:
        """Raises MienError with every problem, or does nothing."""
        if self.found:
            raise MienError("; ".join(self.found))


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training images; validation and test images never see it.

    Attributes:
        crop_scale: smallest side of the random crop as a share of the image, in (0, 1]; 1 turns zooming in off.
        wide_scale: largest side of it, in [1, 2]; above 1 the view reaches beyond the image, which is mirrored there.
        still: share of the images that are neither cropped, turned nor shifted, so that nothing resamples them, in
            [0, 1].
        flip: probability of a left-right mirror image, in [0, 1].
        rotation: largest rotation either way, in degrees, in [0, 180].
        shift: largest shift either way as a share of the image, in [0, 1).
        brightness: largest change of brightness as a share of the white level, in [0, 1].
        contrast: largest relative change of contrast, in [0, 1).
        light: largest share by which light from one side brightens the edge there and darkens the opposite one, in
            [0, 1].
        blur: largest deviation of a Gaussian blur as a share of the side, in [0, 0.1]; every second image is blurred,
            on average.
        noise: largest deviation of Gaussian noise as a share of the white level, in [0, 0.5]; every second image is
            noisy, on average.
        jpeg: lowest quality of a loss as by JPEG, 1 to 100; every second image is compressed, on average, by a quality
            from it to 100; 0 turns it off.
        erasing: probability that a rectangle of 2 to 20 % of the image is blanked (Zhong et al. 2017), in [0, 1].
        mixup: Beta parameter of mixup (Zhang et al. 2017, timm.data.Mixup); 0 turns it off.
        cutmix: Beta parameter of cutmix (Yun et al. 2019, timm.data.Mixup); 0 turns it off.
        mix_probability: share of the batches that mixup or cutmix touch, in [0, 1].
    """

    crop_scale: float = 0.8
    wide_scale: float = 1.0
    still: float = 0.0
    flip: float = 0.5
    rotation: float = 10.0
    shift: float = 0.06
    brightness: float = 0.2
    contrast: float = 0.2
    light: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    jpeg: int = 0
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 1.0

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are blended, which makes the targets soft."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def mean_side(self) -> float:
        """Mean side of the views as a share of the image, above 0; below 1 they are zoomed in on average."""
        moving = (self.crop_scale + self.wide_scale) / 2
        return round(self.still + (1 - self.still) * moving, 9)

    def check(self, problems: Problems) -> None:
        """Adds every value that is out of its range."""
        check = problems.check
        check("augment.crop_scale", self.crop_scale, 0 < self.crop_scale <= 1, "a share in (0, 1]")
        check("augment.wide_scale", self.wide_scale, 1 <= self.wide_scale <= 2, "a multiple in [1, 2]")
        check("augment.still", self.still, 0 <= self.still <= 1, SHARE)
        check("augment.flip", self.flip, 0 <= self.flip <= 1, PROBABILITY)
        check("augment.rotation", self.rotation, 0 <= self.rotation <= 180, "degrees in [0, 180]")
        check("augment.shift", self.shift, 0 <= self.shift < 1, SHARE_BELOW_ONE)
        check("augment.brightness", self.brightness, 0 <= self.brightness <= 1, SHARE)
        check("augment.contrast", self.contrast, 0 <= self.contrast < 1, SHARE_BELOW_ONE)
        check("augment.light", self.light, 0 <= self.light <= 1, SHARE)
        check("augment.blur", self.blur, 0 <= self.blur <= 0.1, "a share of the side in [0, 0.1]")
        check("augment.noise", self.noise, 0 <= self.noise <= 0.5, "a share of the white level in [0, 0.5]")
        check("augment.jpeg", self.jpeg, 0 <= self.jpeg <= 100, "a quality from 1 to 100, or 0")
        check("augment.erasing", self.erasing, 0 <= self.erasing <= 1, PROBABILITY)
        check("augment.mixup", self.mixup, self.mixup >= 0, AT_LEAST_ZERO)
        check("augment.cutmix", self.cutmix, self.cutmix >= 0, AT_LEAST_ZERO)
        check("augment.mix_probability", self.mix_probability, 0 <= self.mix_probability <= 1, PROBABILITY)


WITHOUT_EFFECT_ON_WEIGHTS: frozenset[str] = frozenset(
    {"out", "data", "teacher", "device", "tensorboard", "checkpoint_seconds"}
)
"""Fields that may differ between a run and its resumption: data and teachers are compared by their fingerprints."""


BEFORE = "before"
"""In the metadata of a field: its value in runs from before there was the field, where that is not the default."""

DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
"""What a device may be called; whether this machine has it is seen when a run starts."""


class RunConfig(Protocol):
    """The fields that every run has; ``TrainConfig`` and ``PretrainConfig`` document them."""

    @property
    def data(self) -> str: ...
    @property
    def out(self) -> str: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def optimizer(self) -> str: ...
    @property
    def lr(self) -> float | None: ...
    @property
    def min_lr(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def clip_grad(self) -> float: ...
    @property
    def validation_fraction(self) -> float: ...
    @property
    def seed(self) -> int: ...
    @property
    def device(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def checkpoint_seconds(self) -> float: ...
    @property
    def tensorboard(self) -> bool: ...
    @property
    def augment(self) -> AugmentConfig: ...


def check_run(config: RunConfig, problems: Problems) -> None:
    """Adds every shared field that is out of its range."""
    check, c = problems.check, config
    check("batch_size", c.batch_size, c.batch_size >= 1, AT_LEAST_ONE)
    check("optimizer", c.optimizer, c.optimizer in ("adamw", "muon"), "adamw or muon")
    check("lr", c.lr, c.lr is None or c.lr > 0, ABOVE_ZERO)
    check("min_lr", c.min_lr, 0 <= c.min_lr <= 1, SHARE)
    check("weight_decay", c.weight_decay, c.weight_decay >= 0, AT_LEAST_ZERO)
    check("clip_grad", c.clip_grad, c.clip_grad >= 0, AT_LEAST_ZERO)
    check("validation_fraction", c.validation_fraction, 0 < c.validation_fraction <= 0.5, "a share in (0, 0.5]")
    check("seed", c.seed, 0 <= c.seed <= LARGEST_SEED, f"a whole number from 0 to {LARGEST_SEED}")
    check("device", c.device, DEVICE.fullmatch(c.device) is not None, "auto, cpu, cuda, cuda:N or mps")
    check("precision", c.precision, c.precision in ("auto", "fp32", "bf16"), "auto, fp32 or bf16")
    check("checkpoint_seconds", c.checkpoint_seconds, c.checkpoint_seconds > 0, ABOVE_ZERO)
    c.augment.check(problems)


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain nested dictionaries, for JSON and YAML."""
    return dataclasses.asdict(config)


def differences(old: dict[str, Any], config: RunConfig) -> list[str]:
    """The fields, as ``name: old -> new``, that decide the weights and differ between a configuration and an older one.

    Args:
        old: as ``to_dict`` gave it; fields that came after it was written stand at their defaults.
        config: what is asked for now.
    """
    return _differences(_with_defaults(old, type(config)), to_dict(config))


def _with_defaults(old: dict[str, Any], kind: type[Any]) -> dict[str, Any]:
    """``old``, and at their defaults the fields of ``kind`` that it does not know as they came after it was written.

    The default of a new field is what was done before there was one, unless its metadata has another value for that.
    """
    found = dict(old)
    for each in dataclasses.fields(kind):
        default = each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
        default = each.metadata.get(BEFORE, default)
        if dataclasses.is_dataclass(default) and not isinstance(default, type):
            found[each.name] = _with_defaults(old.get(each.name, {}), type(default))
        elif default is not dataclasses.MISSING:
            found.setdefault(each.name, default)
    return found


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for name in sorted(set(old) | set(new)):
        if not prefix and name in WITHOUT_EFFECT_ON_WEIGHTS:
            continue
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(before, after, f"{prefix}{name}.")
        elif before != after:
            found.append(f"{prefix}{name}: {before} -> {after}")
    return found


TIMM = "timm:"
"""What a backbone of timm starts with."""

SET_BY_MIEN: dict[str, str] = {
    "img_size": "image_size",
    "in_chans": "data",
    "num_classes": "data",
    "drop_path_rate": "drop_path",
    "pretrained": "backbone",
}
"""Arguments of ``timm.create_model`` that do not belong in ``network_args``, and the field that decides each."""

READING_CROP = 0.9
"""Share of a face's side that is read by default."""

PRESETS: tuple[str, ...] = ("nano", "mini", "tiny", "small", "base")


def is_fresh(backbone: str) -> bool:
    """Whether a backbone is a preset, or a timm network without a tag: its weights are random."""
    return backbone in PRESETS or (backbone.startswith(TIMM) and "." not in backbone)


@dataclass(frozen=True)
class FreezeConfig:
    """What of the encoder is kept as it came.

    Attributes:
        blocks: the embeddings and this many first blocks are frozen; 0 freezes nothing. By default 4 for a pretrained
            backbone (which must have more) and 0 for a fresh one.
        release_epoch: from this epoch on (1 is the first) nothing is frozen any more; by default frozen to the end.
        gradual: with release_epoch, release one block an epoch from the top, the embeddings last.
        random_weights: allow freezing a fresh backbone, whose weights are random.
    """

    blocks: int | None = None
    release_epoch: int | None = None
    gradual: bool = False
    random_weights: bool = False


@dataclass(frozen=True)
class DistillConfig:
    """How much is learnt from teachers, where there are any (Hinton et al. 2015, arXiv:1503.02531, section 2).

    Attributes:
        weight: share of the loss that the teachers have, in [0, 1]; the labels have the rest.
        temperature: both sides' logits are divided by it, which lets the teachers' smaller probabilities count.
        features: weight of the distance between the patches of a ViT after its middle block and the feature maps of
            teachers that are CNNs, added to the loss; 0 turns it off (Romero et al. 2015, arXiv:1412.6550).
        mirror: teachers read every second picture mirrored. Over the epochs a student so learns the average of their
            answers to a face and to its mirror image, which is better than either, in the time of one.
    """

    weight: float = 0.5
    temperature: float = 2.0
    features: float = 0.0
    mirror: bool = False


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run. The same configuration and seed give the same weights.

    Attributes:
        data: archive.zip, an unpacked folder, a folder with a sub-folder a class, or a FER2013 CSV file.
        out: the folder of the run; the model lands in OUT/model.
        backbone: a fresh preset (nano, mini, tiny, small, base), a Hugging Face id of a ViTMAE
            (facebook/vit-mae-base), a folder that holds one, the folder of a run, whose network then goes on (classes
            of the same name keep their rows of the head), or a network of timm: timm:resnet18 with random weights,
            timm:resnet18.a1_in1k with the pretrained weights of that tag.
        image_size: side of the pictures that the network reads, in pixels; by default the preset's or checkpoint's own,
            and the data's for a timm network. A ViTMAE's positions are resampled.
        reading_crop: share of a face's side that the trained network reads, in [0.5, 1], in validation and ever after;
            by default that of the classifier that goes on; for other backbones 0.9 if the training views are zoomed in
            on average, since a network reads best what is as large as they were (Touvron et al. 2019,
            arXiv:1906.06423), and 1 if not. Training does not depend on it; ``benchmarks/reading_crop.py`` measures
            what suits a trained network best.
        patch_size: side of a patch of a preset or ViTMAE, in pixels; by default its own. A ViTMAE's patch embedding is
            resampled (Beyer et al. 2023, FlexiViT).
        network_args: arguments of timm.create_model for a timm network, as YAML or JSON, like {"layers": [1, 1, 1, 1]}.
        epochs: passes over the training images.
        batch_size: images a step, over all processes together; a smaller set is seen whole in every step.
        optimizer: adamw, or muon, which moves the weight matrices between patch embedding and head along their
            orthogonalised momentum (Jordan et al. 2024) and the rest by AdamW; fresh networks learn faster by it.
        lr: peak learning rate of the encoder; by default 3e-5 for a pretrained backbone, 3e-4 for a fresh preset (1e-3
            by muon), and 1e-3 for a fresh timm network.
        head_lr: peak learning rate of the classification head; by default five times lr for a pretrained backbone,
            or lr.
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
            in (0, 0.5]; copies of a photograph stay on one side.
        seed: decides initial weights, order, augmentation and drop path.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto (bf16 on a GPU that has it, else fp32), fp32 or bf16.
        checkpoint_seconds: seconds between two saved states within an epoch; each epoch's end is saved too.
        tensorboard: also write OUT/tensorboard.
        teacher: model folders of trained classifiers to learn from as well (distillation); they see the same augmented
            pictures, and their probabilities are averaged.
        distill: how much is learnt from the teachers.
        freeze: what of the encoder is kept as it came.
        augment: augmentation of training images.
    """

    data: str
    out: str
    backbone: str = "tiny"
    image_size: int | None = None
    reading_crop: float | None = field(default=None, metadata={BEFORE: 1.0})
    patch_size: int | None = None
    network_args: dict[str, Any] | None = None
    epochs: int = 30
    batch_size: int = 64
    optimizer: Literal["adamw", "muon"] = "adamw"
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
    teacher: list[str] = field(default_factory=list)
    distill: DistillConfig = field(default_factory=DistillConfig)
    freeze: FreezeConfig = field(default_factory=FreezeConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        problems = Problems()
        self._check(problems)
        check_run(self, problems)
        problems.raise_if_any()

    def _check(self, problems: Problems) -> None:
        check, f, d = problems.check, self.freeze, self.distill
        check("epochs", self.epochs, self.epochs >= 1, AT_LEAST_ONE)
        check("head_lr", self.head_lr, self.head_lr is None or self.head_lr > 0, ABOVE_ZERO)
        check("warmup_epochs", self.warmup_epochs, 0 <= self.warmup_epochs <= self.epochs, "between 0 and epochs")
        check("layer_decay", self.layer_decay, 0 < self.layer_decay <= 1, "a factor in (0, 1]")
        check("label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, SHARE_BELOW_ONE)
        check("drop_path", self.drop_path, 0 <= self.drop_path < 1, "a rate in [0, 1)")
        check("ema", self.ema, 0 <= self.ema < 1, "a decay in [0, 1)")
        check("image_size", self.image_size, is_side(self.image_size), IMAGE_SIDE)
        crop = self.reading_crop
        check("reading_crop", crop, crop is None or 0.5 <= crop <= 1, "a share in [0.5, 1]")
        check("patch_size", self.patch_size, is_side(self.patch_size), IMAGE_SIDE)
        check("small_size", self.small_size, is_side(self.small_size), IMAGE_SIDE)
        check("small_until", self.small_until, 0 <= self.small_until < 1, SHARE_BELOW_ONE)
        check("teacher", self.teacher, all(self.teacher), "the names of model folders")
        check("distill.weight", d.weight, 0 <= d.weight <= 1, SHARE)
        check("distill.temperature", d.temperature, d.temperature > 0, ABOVE_ZERO)
        check("distill.features", d.features, d.features >= 0, AT_LEAST_ZERO)
        check("freeze.blocks", f.blocks, f.blocks is None or f.blocks >= 0, "a whole number of at least 0")
        check("freeze.release_epoch", f.release_epoch, f.release_epoch is None or f.release_epoch >= 2, "at least 2")
        check(
            "freeze.gradual", f.gradual, not f.gradual or f.release_epoch is not None, "freeze.release_epoch beside it"
        )
        if not self.teacher:
            given = [field.name for field in dataclasses.fields(d) if getattr(d, field.name) != field.default]
            told = ", ".join(f"distill.{name}" for name in given)
            check("teacher", self.teacher, not told, f"the folder of one beside {told}")
        if self.augment.mixes and self.batch_size % 2:
            problems.add(f"batch_size: got {self.batch_size}, expected an even number where mixup or cutmix is on")
        if self.is_timm:
            self._check_timm(problems)
        elif self.network_args is not None:
            problems.add(f"network_args: got {self.network_args} for {self.backbone}, expected a backbone timm:NAME")

    def _check_timm(self, problems: Problems) -> None:
        """What a timm network does not take, or takes from other fields."""
        if self.backbone == TIMM:
            problems.add(f"backbone: got {TIMM!r}, expected a name after it, like timm:resnet18")
        if self.distill.features:
            problems.add(f"distill.features: got {self.distill.features} for {self.backbone}, expected 0: only ViTs")
        if self.patch_size is not None:
            problems.add(f"patch_size: got {self.patch_size} for {self.backbone}, expected it in network_args")
        if self.freeze.blocks:
            problems.add(f"freeze.blocks: got {self.freeze.blocks} for {self.backbone}, expected 0: only ViTs freeze")
        for name, value in (self.network_args or {}).items():
            if not argument_fits(name, value):
                problems.add(
                    f"network_args: {str(name)[:60]}: got {str(value)[:60]}, expected at most {MOST_LAYERS} layers, "
                    f"blocks or the like, other numbers up to {LARGEST_NUMBER:,}, and lists of at most {LONGEST_LIST}"
                )
        for name in sorted(SET_BY_MIEN.keys() & (self.network_args or {}).keys()):
            problems.add(f"network_args: got {name}, which {SET_BY_MIEN[name]} decides, expected others")

    @property
    def is_timm(self) -> bool:
        """Whether the backbone is a network of timm."""
        return self.backbone.startswith(TIMM)

    @property
    def is_fresh(self) -> bool:
        """Whether its weights are random at the start."""
        return is_fresh(self.backbone)

    @property
    def _reading_crop(self) -> float:
        """The default: what was near the best for every network measured so far, be their mean side .9 or .95."""
        return READING_CROP if self.augment.mean_side < 1 else 1.0

    def resolved(self) -> TrainConfig:
        """The configuration with every default that depends on the backbone filled in."""
        fresh_lr = 1e-3 if self.is_timm or self.optimizer == "muon" else 3e-4
        lr = self.lr if self.lr is not None else (fresh_lr if self.is_fresh else 3e-5)
        head_lr = self.head_lr if self.head_lr is not None else (lr if self.is_fresh else 5 * lr)
        by_default = 0 if self.is_fresh or self.is_timm else 4
        blocks = self.freeze.blocks if self.freeze.blocks is not None else by_default
        crop = self.reading_crop if self.reading_crop is not None else self._reading_crop
        freeze = dataclasses.replace(self.freeze, blocks=blocks)
        return dataclasses.replace(self, lr=lr, head_lr=head_lr, reading_crop=crop, freeze=freeze)


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
        check("image_size", self.image_size, is_side(self.image_size), IMAGE_SIDE)
        check("mask_ratio", self.mask_ratio, 0 < self.mask_ratio < 1, "a share in (0, 1)")
        check(
            "decoder_size",
            size,
            size is None or (32 <= size <= LARGEST_WIDTH and size % 32 == 0),
            f"a multiple of 32, at most {LARGEST_WIDTH}",
        )
        check(
            "decoder_depth",
            depth,
            depth is None or 1 <= depth <= MOST_LAYERS,
            f"a whole number from 1 to {MOST_LAYERS}",
        )
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
