"""The settings of fine-tuning, of freezing and distillation among them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import field
from typing import Annotated, Any

from pydantic import Field, JsonValue
from pydantic.dataclasses import dataclass

from mien.config.fields import (
    PRESETS,
    AboveZero,
    AtLeastOne,
    AtLeastZero,
    Criterion,
    Epochs,
    Folder,
    ImageSide,
    Integer,
    Number,
    Place,
    ReleaseEpoch,
    Share,
    ShareBelowOne,
    Switch,
    in_epochs,
    members,
    shown_value,
)
from mien.config.run import RunConfig
from mien.limits import LARGEST_NUMBER, LONGEST_LIST, MOST_LAYERS, argument_fits
from mien.model.presets import SHAPES, size_problem

TIMM = "timm:"
"""Prefix of a backbone from timm."""

SET_BY_MIEN: dict[str, str] = {
    "img_size": "image_size",
    "in_chans": "data",
    "num_classes": "data",
    "drop_path_rate": "drop_path",
    "pretrained": "backbone",
}
"""Arguments of ``timm.create_model`` that ``network_args`` must not hold, and the setting that decides each."""

READING_CROP = 0.9
"""Share of a face's side that is read by default."""


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
        undisturbed: teachers read each view as it was before light, contrast, blur, noise, JPEG and erasing changed it
            for the student, who so learns to answer a poor picture as a good one (Xie et al. 2020, arXiv:1911.04252,
            section 2). Crop, rotation, mirroring and mixing are the same for both.
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
    undisturbed: Switch = False
    split_batch: Switch = False
    targets_weight: Share = 0.3


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """Everything that decides a training run.

    The same settings and seed give the same weights on one machine; another processor or version of PyTorch
    rounds sums differently.

    The attributes of ``RunConfig`` belong to it as well.

    Attributes:
        data: archive.zip, an unpacked folder, a folder with one sub-folder per class, or a FER2013 CSV file.
        out: the folder of the run; the model is written to OUT/model.
        backbone: a fresh preset (nano, mini, tiny, small, base), a Hugging Face id of a ViTMAE
            (facebook/vit-mae-base), a folder that holds one, the folder of a run, whose network then goes on (classes
            of the same name keep their rows of the head), or a network of timm: timm:resnet18 with random weights,
            timm:resnet18.a1_in1k with the pretrained weights of that tag.
        image_size: side of the pictures that the network reads, in pixels; by default the preset's or checkpoint's own,
            and the data's for a timm network. A ViTMAE's positions are resampled.
        reading_crop: share of a face's side that the trained network reads, in validation and ever after; by default
            that of the classifier that goes on; for other backbones 0.9 if the training views are zoomed in on average,
            since a network reads best what is as large as they were (Touvron et al. 2019, arXiv:1906.06423), and 1 if
            not. Training does not depend on it; ``benchmarks/reading_crop.py`` measures what suits a network best.
        patch_size: side of a patch of a preset or ViTMAE, in pixels; by default its own. A ViTMAE's patch embedding is
            resampled (Beyer et al. 2023, FlexiViT).
        network_args: arguments of timm.create_model for a timm network, as YAML or JSON, like {"layers": [1, 1, 1, 1]}.
        epochs: passes over the training images, unless minutes are given.
        minutes: minutes of training in place of epochs, validation included; the learning rate follows the clock and
            ends annealed. Such a run can be resumed, but does not repeat bit for bit.
        validate_epochs: epochs from one validation, after which a state is saved, to the next; the last epoch is always
            validated. After the other epochs a state is saved if checkpoint_seconds have passed since the last one.
        select: which weights are kept: those of the highest accuracy, macro_f1 or balanced_accuracy on validation, or
            of the lowest loss, there or (clean_loss) on the validation pictures without a twin in training; or those of
            the last epoch, whatever they score, so that nothing chooses.
        lr: peak learning rate of the encoder; by default 3e-5 for a pretrained backbone, 3e-4 for a fresh preset (1e-3
            by muon), and 1e-3 for a fresh timm network.
        head_lr: peak learning rate of the classification head; by default five times lr for a pretrained backbone,
            or lr.
        warmup_epochs: epochs of linear warm-up, which may be a fraction, or a share of epochs like 12.5%.
        layer_decay: factor on the learning rate from each block to the one below it; 1 turns it off
            (Bao et al. 2021, BEiT).
        label_smoothing: share of the target spread over all classes.
        linear_probe: fit the rows of the head for classes that the backbone does not know to the training pictures
            before the first epoch, and count that as epoch 0, the best until an epoch does better (Kumar et al. 2022,
            arXiv:2202.10054); by default if the backbone is a trained classifier that lacks a class of the data.
        class_weights: weight the loss of each picture by N / (classes * images of its class).
        logit_adjustment: tau; training adds tau * log(share of the class) to the logits, so that rare classes are
            answered more often (Menon et al. 2021, arXiv:2007.07314); 1 aims at balanced accuracy, 0 turns it off. It
            also holds for what is learnt from teachers and stored answers: balanced ones are balanced once more.
        resample: an epoch draws each class in proportion to images ** (1 - resample), with repetitions: 1 as often as
            any other, 0 every image once.
        drop_path: stochastic depth rate of the last block, rising linearly from 0 (Huang et al. 2016).
        ema: largest decay of the averaged weights that are evaluated and kept; 0 turns averaging off. After n updates
            the decay is at most 1 - n^(-2/3), so that the average does not remember the random start: 0.9967
            after 5,376 updates, and 0.999 only after 31,623.
        start_share: the weights that are evaluated and kept are a mean of those that training began with, by this
            share, and the trained ones, so that a classifier that learns a few other faces forgets less (Wortsman et
            al. 2022, arXiv:2109.01903); needs a backbone that is a classifier with every class of the data; 0 turns it
            off.
        teacher: model folders of trained classifiers to learn from as well (distillation); they see the same augmented
            pictures, and their probabilities are averaged.
        targets: a file of ``mien folds`` with answers of networks that have not seen the picture, to learn from too.
        distill: how much is learnt from the teachers and from stored answers.
        freeze: the part of the encoder that training leaves as it is.
    """

    backbone: Place = "tiny"
    image_size: ImageSide | None = None
    reading_crop: Annotated[Number, Field(ge=0.5, le=1, title="a share")] | None = None
    patch_size: ImageSide | None = None
    network_args: dict[str, JsonValue] | None = None
    epochs: AtLeastOne = 30
    minutes: AboveZero | None = None
    validate_epochs: AtLeastOne = 1
    select: Criterion = "accuracy"
    head_lr: AboveZero | None = None
    min_lr: Share = 0.01
    warmup_epochs: Epochs = 1.0
    layer_decay: Annotated[Number, Field(gt=0, le=1, title="a factor")] = 1.0
    label_smoothing: ShareBelowOne = 0.1
    linear_probe: Switch | None = None
    class_weights: Switch = False
    logit_adjustment: Annotated[Number, Field(ge=0, le=3)] = 0.0
    resample: Share = 0.0
    drop_path: Annotated[Number, Field(ge=0, lt=1, title="a rate")] = 0.0
    ema: Annotated[Number, Field(ge=0, lt=1, title="a decay")] = 0.999
    start_share: ShareBelowOne = 0.0
    teacher: list[Folder] = field(default_factory=list)
    targets: Annotated[Place, Field(min_length=1, description="a file of `mien folds`")] | None = None
    distill: DistillConfig = field(default_factory=DistillConfig)
    freeze: FreezeConfig = field(default_factory=FreezeConfig)

    @classmethod
    def _with_epochs(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Returns the values with shares of the run, like 12.5%, as numbers of epochs."""
        try:
            epochs = max(1, int(values.get("epochs", cls.epochs)))
        except (TypeError, ValueError, OverflowError):
            epochs = cls.epochs  # a mistake that is reported elsewhere
        values = {name: in_epochs(name, value, epochs) for name, value in values.items()}
        freeze = values.get("freeze")
        if isinstance(freeze, dict | FreezeConfig):
            fields = members(freeze).items()
            values["freeze"] = {name: in_epochs(f"freeze.{name}", value, epochs) for name, value in fields}
        return values

    def _rules(self) -> Iterator[tuple[tuple[str, ...], str]]:
        if self.warmup_epochs > self.epochs and self.minutes is None:
            yield (
                ("warmup_epochs", "epochs"),
                f"got {self.warmup_epochs}, expected at most epochs, {self.epochs}, or a share of them like 10%",
            )
        yield from self._shape_rules()
        if self.freeze.gradual and self.freeze.release_epoch is None:
            yield ("freeze.gradual", "freeze.release_epoch"), "got true, expected freeze.release_epoch beside it"
        if self.augment.mixes and self.batch_size % 2:
            names = ("batch_size", "augment.mixup", "augment.cutmix")
            yield names, f"got {self.batch_size}, expected an even number if mixup or cutmix is on"
        if self.head_lr is not None and self.head_lr < (end := self.min_lr * self.peak_lr):
            yield (
                ("head_lr", "min_lr", "lr"),
                f"got {self.head_lr}, expected at least min_lr * lr, {end:.2e}, at which all rates end",
            )
        yield from self._distillation_rules()
        if self.is_timm:
            yield from self._timm_rules()
        elif self.network_args is not None:
            got = f"got {shown_value(self.network_args)} for {self.backbone}"
            yield ("network_args", "backbone"), f"{got}, expected a backbone timm:NAME"

    def _distillation_rules(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yields what needs a teacher or stored answers that are not there, and shares of more than the whole loss."""
        changed = [f"distill.{name}" for name, value in vars(self.distill).items() if value != getattr(_DISTILL, name)]
        of_targets = {"distill.targets_weight", "distill.temperature"}
        without = {"distill.targets_weight"} if self.targets is None else of_targets
        lacking = [name for name in changed if name not in without]
        if lacking and not self.teacher:
            yield ("teacher", *lacking), f"got [], expected the folder of one beside {', '.join(lacking)}"
        if "distill.targets_weight" in changed and self.targets is None:
            yield ("targets", "distill.targets_weight"), "got null, expected a file beside distill.targets_weight"
        if self.batch_size % self.readers:
            names = ("batch_size", "distill.split_batch")
            yield names, f"got {self.batch_size} for {self.readers} teachers, expected equal parts for them"
        shares = (self.distill.weight if self.teacher else 0) + (self.distill.targets_weight if self.targets else 0)
        if shares > 1:
            names = ("distill.targets_weight", "distill.weight")
            yield names, f"got {self.distill.targets_weight} beside {self.distill.weight}, expected at most 1 together"

    def _shape_rules(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yields what does not suit a preset, whose shape is known before anything is loaded."""
        shape, blocks = SHAPES.get(self.backbone), self.freeze.blocks
        if shape is None:
            return
        problem = size_problem(self.image_size or shape.image_size, self.patch_size or shape.patch_size)
        if problem:
            yield ("patch_size" if self.image_size is None else "image_size", "backbone"), problem
        if blocks and blocks > shape.depth:
            expected = f"expected at most {shape.depth}, the blocks of {self.backbone}"
            yield ("freeze.blocks", "backbone"), f"got {blocks}, {expected}"
        elif blocks and not self.freeze.random_weights:
            yield (
                ("freeze.blocks", "backbone"),
                f"got {blocks} with the backbone {self.backbone}, whose weights are random at the start; give a "
                "pretrained --backbone, --freeze.blocks 0, or --freeze.random-weights if that is what you want",
            )

    def _timm_rules(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yields the fields that a timm network does not take, or takes from other fields."""
        if self.backbone == TIMM:
            yield ("backbone",), f"got {TIMM!r}, expected a name after it, like timm:resnet18"
        if self.distill.features:
            got = f"got {self.distill.features} for {self.backbone}"
            yield ("distill.features", "backbone"), f"{got}, expected 0: only ViTs learn from feature maps"
        if self.patch_size is not None:
            got = f"got {self.patch_size} for {self.backbone}"
            yield ("patch_size", "backbone"), f"{got}, expected it in network_args"
        if self.freeze.blocks:
            got = f"got {self.freeze.blocks} for {self.backbone}"
            yield ("freeze.blocks", "backbone"), f"{got}, expected 0: only ViTs freeze"
        for name, value in (self.network_args or {}).items():
            if not argument_fits(name, value):
                yield (
                    ("network_args", "backbone"),
                    f"{name[:60]}: got {str(value)[:60]}, expected at most {MOST_LAYERS} layers, blocks or the like, "
                    f"other numbers up to {LARGEST_NUMBER:,}, and lists of at most {LONGEST_LIST}",
                )
        for name in sorted(SET_BY_MIEN.keys() & (self.network_args or {}).keys()):
            yield ("network_args", "backbone"), f"got {name}, which {SET_BY_MIEN[name]} decides, remove it"

    @property
    def is_timm(self) -> bool:
        """True if the backbone is a network of timm."""
        return self.backbone.startswith(TIMM)

    @property
    def batch_unit(self) -> int:
        """Pairs for mixup and cutmix, and as many images for each of the teachers that split a batch."""
        return math.lcm(super().batch_unit, self.readers)

    @property
    def readers(self) -> int:
        """Teachers among whom a batch is divided; 1 if each reads all of it."""
        return max(1, len(self.teacher)) if self.distill.split_batch else 1

    @property
    def is_fresh(self) -> bool:
        """True if its weights are random at the start."""
        return is_fresh(self.backbone)

    @property
    def peak_lr(self) -> float:
        """Peak learning rate of the encoder, given or by default."""
        fresh_lr = 1e-3 if self.is_timm or self.optimizer == "muon" else 3e-4
        return self.lr if self.lr is not None else (fresh_lr if self.is_fresh else 3e-5)

    def resolved(self) -> TrainConfig:
        """Returns the settings with every default that depends on the backbone filled in."""
        lr = self.peak_lr
        head_lr = self.head_lr if self.head_lr is not None else (lr if self.is_fresh else 5 * lr)
        by_default = 0 if self.is_fresh or self.is_timm else 4
        blocks = self.freeze.blocks if self.freeze.blocks is not None else by_default
        # What was near the best for every network measured so far, be their mean side 0.9 or 0.95.
        by_views = READING_CROP if self.augment.mean_side < 1 else 1.0
        crop = self.reading_crop if self.reading_crop is not None else by_views
        freeze = dataclasses.replace(self.freeze, blocks=blocks)
        return dataclasses.replace(self, lr=lr, head_lr=head_lr, reading_crop=crop, freeze=freeze)


_DISTILL = DistillConfig()


def is_fresh(backbone: str) -> bool:
    """True if a backbone is a preset, or a timm network without a tag: its weights are random."""
    return backbone in PRESETS or (backbone.startswith(TIMM) and "." not in backbone)


@dataclass(frozen=True)
class FoldsConfig(TrainConfig):
    """Everything that decides the runs of ``mien folds``.

    The attributes of ``TrainConfig`` belong to it as well.

    Attributes:
        out: the folder of the runs, OUT/seed-S-fold-K, and of the answers, OUT/answers.safetensors.
        seed: decides which training images are cut off as validation if the data has none; seeds decide all else.
        folds: parts of the training split; each is answered by networks that were trained on the others.
        seeds: of the networks; each seed has its own folds, and the answers are averaged over seeds.
    """

    folds: Annotated[Integer, Field(ge=2, le=100)] = 5
    seeds: Annotated[list[Annotated[Integer, Field(ge=0, le=2**31 - 1)]], Field(min_length=1)] = field(
        default_factory=lambda: [0]
    )

    def _rules(self) -> Iterator[tuple[tuple[str, ...], str]]:
        yield from super()._rules()
        if len(set(self.seeds)) < len(self.seeds):
            yield ("seeds",), f"got {self.seeds}, expected each once: the same seed gives the same networks again"
        if self.targets is not None:
            got = f"got {shown_value(self.targets)}"
            yield ("targets",), f"{got}, expected none: they answer all training pictures, and a fold lacks some"
