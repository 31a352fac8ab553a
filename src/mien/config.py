"""The settings of pretraining and fine-tuning, each with its bounds and its default beside it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Annotated, Any, Literal, Self, get_args, get_origin, get_type_hints

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidatorFunctionWrapHandler,
    model_validator,
)
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo
from pydantic_core import ArgsKwargs

from mien.errors import MienError
from mien.limits import LARGEST_IMAGE, LARGEST_NUMBER, LARGEST_WIDTH, LONGEST_LIST, MOST_LAYERS, argument_fits


def _integer(value: Any) -> Any:
    """Raises ValueError for what pydantic takes for an integer and a person would not: True and 3.0."""
    if isinstance(value, bool | float) or (isinstance(value, str) and "." in value):
        raise ValueError("expected a whole number")
    return value


def _number(value: Any) -> Any:
    """Raises ValueError for True and False, which pydantic takes for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


def _switch(value: Any) -> Any:
    """Raises ValueError for 1, 0 and single letters, which pydantic takes for true and false."""
    if str(value).lower() not in ("true", "false", "yes", "no", "on", "off"):
        raise ValueError("expected true or false")
    return value


def _on_or_off(value: Any) -> Any:
    """Returns True and False as on and off, since YAML reads a bare ``off`` as False."""
    return ("off", "on")[value] if isinstance(value, bool) else value


Switch = Annotated[bool, BeforeValidator(_switch)]
Integer = Annotated[int, BeforeValidator(_integer)]
Number = Annotated[float, BeforeValidator(_number)]
AtLeastOne = Annotated[Integer, Field(ge=1)]
ImageSide = Annotated[Integer, Field(ge=1, le=LARGEST_IMAGE)]
AboveZero = Annotated[Number, Field(gt=0)]
AtLeastZero = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1, title="a share")]
ShareBelowOne = Annotated[Number, Field(ge=0, lt=1, title="a share")]
Probability = Annotated[Number, Field(ge=0, le=1, title="a probability")]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:[0-9]+)?)$", description="auto, cpu, cuda, cuda:N or mps")]
Folder = Annotated[str, Field(min_length=1, description="the name of a model folder")]
Compile = Annotated[Literal["auto", "graph", "on", "off"], BeforeValidator(_on_or_off)]
Criterion = Literal["accuracy", "macro_f1", "balanced_accuracy", "loss", "clean_loss"]
Preset = Literal["nano", "mini", "tiny", "small", "base"]

PRESETS: tuple[str, ...] = get_args(Preset)

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

WITHOUT_EFFECT_ON_WEIGHTS: frozenset[str] = frozenset(
    {"out", "data", "teacher", "targets", "device", "tensorboard", "track", "checkpoint_seconds"}
)
"""Settings that a resumed run may change. Its data, teachers and stored answers are compared by their fingerprints."""

GONE: dict[str, str] = {"small_size": "is gone: every epoch sees the pictures at full size, remove it"}
"""Settings of earlier versions that changed the weights; null is still accepted."""

WITHOUT_EFFECT: frozenset[str] = frozenset({"small_until"})
"""Settings of earlier versions that do nothing unless one of ``GONE`` is set."""

BEFORE: dict[str, Any] = {"reading_crop": 1.0}
"""Values in runs from before there was the setting, if that is not its default."""

READING_CROP = 0.9
"""Share of a face's side that is read by default."""

Mistake = tuple[str, str]
"""The dotted name of a setting, and what is wrong with it."""


class SettingsError(MienError):
    """Everything that is wrong with the settings of a run.

    Attributes:
        mistakes: the dotted name of a setting and what is wrong with it, for each mistake.
    """

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("; ".join(f"{name}: {problem}" for name, problem in mistakes))
        self.mistakes = mistakes


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training images; validation and test images are never augmented.

    Bounds are checked when the settings of a run are made.

    Attributes:
        crop_scale: smallest side of the random crop as a share of the image; 1 turns zooming in off.
        wide_scale: largest side of it; above 1 the view reaches beyond the image, which is mirrored there.
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
        jpeg: lowest quality of a loss as by JPEG; every second image is compressed, on average, by a quality from it to
            100; 0 turns it off.
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
        release_epoch: from this epoch on (1 is the first) nothing is frozen any more; by default frozen to the end.
        gradual: with release_epoch, release one block an epoch from the top, the embeddings last.
        random_weights: allow freezing a fresh backbone, whose weights are random.
    """

    blocks: Annotated[Integer, Field(ge=0)] | None = None
    release_epoch: Annotated[Integer, Field(ge=2)] | None = None
    gradual: Switch = False
    random_weights: Switch = False


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """How much is learnt from teachers, if there are any (Hinton et al. 2015, arXiv:1503.02531, section 2).

    Attributes:
        weight: share of the loss that the teachers have; the labels have the rest.
        temperature: both sides' logits are divided by it, so that the teachers' smaller probabilities count.
        features: weight of the distance between the patches of a ViT after its middle block and the feature maps of
            teachers that are CNNs, added to the loss; 0 turns it off (Romero et al. 2015, arXiv:1412.6550).
        mirror: teachers read every second picture mirrored. Over the epochs the student learns the average of their
            answers to a face and to its mirror image, which is better than either, in the time of one.
        targets_weight: share of the loss that the stored answers of ``targets`` have; labels have what it and the
            teachers leave.
    """

    weight: Share = 0.5
    temperature: AboveZero = 2.0
    features: AtLeastZero = 0.0
    mirror: Switch = False
    targets_weight: Share = 0.3


# Groups are plain dataclasses, checked with the run that holds them: one error names the mistakes of all groups.
@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False, revalidate_instances="always"))
class RunConfig:
    """The settings that fine-tuning and pretraining share.

    Attributes:
        data: where the pictures are.
        out: the folder of the run.
        batch_size: images a step, over all processes together; a smaller set is seen whole in every step.
        optimizer: adamw, or muon, which moves the weight matrices between the first and the last layer along their
            orthogonalised momentum (Jordan et al. 2024) and the rest by AdamW; fresh networks learn faster by it.
        lr: peak learning rate.
        min_lr: learning rate at the end of the cosine, as a share of the peak.
        weight_decay: decoupled weight decay; norms, biases, positions, [CLS] and the mask token are exempt.
        clip_grad: largest L2 norm of the gradient; 0 turns clipping off.
        validation_fraction: share of training images cut off as validation if the data has no validation split;
            copies of a photograph stay on one side.
        seed: decides initial weights, order, augmentation, drop path and masks.
        device: the processor or GPU that computes.
        precision: auto (bf16 on a GPU that has it, else fp32), fp32 or bf16.
        checkpoint_seconds: seconds between two saved states within an epoch; each epoch's end is saved too.
        compile: how a training step runs: off, operation by operation; graph, as a CUDA graph, which takes a second to
            record; on, by torch.compile, which takes minutes; auto is graph on a GPU, else off.
        track: trackers that get settings, losses and scores: tensorboard (OUT/tensorboard), wandb, mlflow, trackio.
        tensorboard: the older name of track tensorboard.
        augment: augmentation of training images.
    """

    data: str
    out: str
    batch_size: AtLeastOne = 64
    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: AboveZero | None = None
    min_lr: Share = 0.0
    weight_decay: AtLeastZero = 0.05
    clip_grad: AtLeastZero = 1.0
    validation_fraction: Annotated[Number, Field(gt=0, le=0.5, title="a share")] = 0.1
    seed: Annotated[Integer, Field(ge=0, le=2**31 - 1)] = 0
    device: Device = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    checkpoint_seconds: AboveZero = 300.0
    compile: Compile = "auto"
    track: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = field(default_factory=list)
    tensorboard: Switch = False
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, arguments: ArgsKwargs, build: ValidatorFunctionWrapHandler) -> Self:
        """Builds the settings, or raises SettingsError with every mistake: of fields, then of fields that disagree.

        Rules over several fields run even if some values are wrong: a default takes the place of a wrong value, and a
        rule that needs it says nothing.
        """
        names = [entry.name for entry in dataclasses.fields(cls)]
        values = dict(zip(names, arguments.args, strict=False)) | (arguments.kwargs or {})
        values = {name: value for name, value in values.items() if name not in WITHOUT_EFFECT}
        values = {name: value for name, value in values.items() if name not in GONE or value is not None}
        mistakes: list[Mistake] = []
        try:
            config = build(ArgsKwargs((), values))
        except ValidationError as error:
            # Two items of a list may be wrong, which is one mistake.
            mistakes = list(dict.fromkeys(_mistake(cls, e["loc"], e["type"], values) for e in error.errors()))
            config = build(ArgsKwargs((), {"data": "", "out": "", **_without(values, {name for name, _ in mistakes})}))
        refused = {name for name, _ in mistakes}
        mistakes += [(names[0], problem) for names, problem in config._rules() if not refused & set(names)]
        if mistakes:
            raise SettingsError(mistakes)
        return config

    def _rules(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yields the fields that disagree, the one to change first, and what is wrong."""
        raise NotImplementedError


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """Everything that decides a training run. The same settings and seed give the same weights.

    The attributes of ``RunConfig`` belong to it as well.

    Attributes:
        data: archive.zip, an unpacked folder, a folder with a sub-folder a class, or a FER2013 CSV file.
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
        validate_epochs: validate, and save a state, every so many epochs and at the end.
        select: which weights are kept: those of the highest accuracy, macro_f1 or balanced_accuracy on validation, or
            of the lowest loss, there or (clean_loss) on the validation pictures without a twin in training.
        lr: peak learning rate of the encoder; by default 3e-5 for a pretrained backbone, 3e-4 for a fresh preset (1e-3
            by muon), and 1e-3 for a fresh timm network.
        head_lr: peak learning rate of the classification head; by default five times lr for a pretrained backbone,
            or lr.
        warmup_epochs: epochs of linear warm-up; may be a fraction.
        layer_decay: factor on the learning rate from each block to the one below it; 1 turns it off
            (Bao et al. 2021, BEiT).
        label_smoothing: share of the target spread over all classes.
        class_weights: weight the loss of each picture by N / (classes * images of its class).
        logit_adjustment: tau; training adds tau * log(share of the class) to the logits, so that rare classes are
            answered more often (Menon et al. 2021, arXiv:2007.07314); 1 aims at balanced accuracy, 0 turns it off.
        resample: an epoch draws each class in proportion to images ** (1 - resample), with repetitions: 1 as often as
            any other, 0 every image once.
        drop_path: stochastic depth rate of the last block, rising linearly from 0 (Huang et al. 2016).
        ema: largest decay of the averaged weights that are evaluated and kept; 0 turns averaging off. After n updates
            the decay is at most 1 - (1 + n)^(-2/3), so that the average does not remember the random start: 0.9967
            after 5,376 updates, and 0.999 only after 31,622.
        teacher: model folders of trained classifiers to learn from as well (distillation); they see the same augmented
            pictures, and their probabilities are averaged.
        targets: a file of ``mien folds`` with answers of networks that have not seen the picture, to learn from too.
        distill: how much is learnt from the teachers and from stored answers.
        freeze: the part of the encoder that training leaves as it is.
    """

    backbone: str = "tiny"
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
    warmup_epochs: AtLeastZero = 1.0
    layer_decay: Annotated[Number, Field(gt=0, le=1, title="a factor")] = 1.0
    label_smoothing: ShareBelowOne = 0.1
    class_weights: Switch = False
    logit_adjustment: Annotated[Number, Field(ge=0, le=3)] = 0.0
    resample: Share = 0.0
    drop_path: Annotated[Number, Field(ge=0, lt=1, title="a rate")] = 0.0
    ema: Annotated[Number, Field(ge=0, lt=1, title="a decay")] = 0.999
    teacher: list[Folder] = field(default_factory=list)
    targets: Annotated[str, Field(min_length=1, description="a file of `mien folds`")] | None = None
    distill: DistillConfig = field(default_factory=DistillConfig)
    freeze: FreezeConfig = field(default_factory=FreezeConfig)

    def _rules(self) -> Iterator[tuple[tuple[str, ...], str]]:
        if self.warmup_epochs > self.epochs and self.minutes is None:
            yield ("warmup_epochs", "epochs"), f"got {self.warmup_epochs}, expected at most epochs, {self.epochs}"
        if self.freeze.gradual and self.freeze.release_epoch is None:
            yield ("freeze.gradual", "freeze.release_epoch"), "got true, expected freeze.release_epoch beside it"
        if self.augment.mixes and self.batch_size % 2:
            names = ("batch_size", "augment.mixup", "augment.cutmix")
            yield names, f"got {self.batch_size}, expected an even number if mixup or cutmix is on"
        changed = [f"distill.{name}" for name, value in vars(self.distill).items() if value != getattr(_DISTILL, name)]
        of_targets = {"distill.targets_weight", "distill.temperature"}
        without = {"distill.targets_weight"} if self.targets is None else of_targets
        lacking = [name for name in changed if name not in without]
        if lacking and not self.teacher:
            yield ("teacher", *lacking), f"got [], expected the folder of one beside {', '.join(lacking)}"
        if "distill.targets_weight" in changed and self.targets is None:
            yield ("targets", "distill.targets_weight"), "got null, expected a file beside distill.targets_weight"
        shares = (self.distill.weight if self.teacher else 0) + (self.distill.targets_weight if self.targets else 0)
        if shares > 1:
            both = ("distill.targets_weight", "distill.weight")
            yield both, f"got {self.distill.targets_weight} beside {self.distill.weight}, expected at most 1 together"
        if self.is_timm:
            yield from self._timm_rules()
        elif self.network_args is not None:
            got = f"got {shown_value(self.network_args)} for {self.backbone}"
            yield ("network_args", "backbone"), f"{got}, expected a backbone timm:NAME"

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
    def is_fresh(self) -> bool:
        """True if its weights are random at the start."""
        return is_fresh(self.backbone)

    def resolved(self) -> TrainConfig:
        """Returns the settings with every default that depends on the backbone filled in."""
        fresh_lr = 1e-3 if self.is_timm or self.optimizer == "muon" else 3e-4
        lr = self.lr if self.lr is not None else (fresh_lr if self.is_fresh else 3e-5)
        head_lr = self.head_lr if self.head_lr is not None else (lr if self.is_fresh else 5 * lr)
        by_default = 0 if self.is_fresh or self.is_timm else 4
        blocks = self.freeze.blocks if self.freeze.blocks is not None else by_default
        # What was near the best for every network measured so far, be their mean side 0.9 or 0.95.
        by_views = READING_CROP if self.augment.mean_side < 1 else 1.0
        crop = self.reading_crop if self.reading_crop is not None else by_views
        freeze = dataclasses.replace(self.freeze, blocks=blocks)
        return dataclasses.replace(self, lr=lr, head_lr=head_lr, reading_crop=crop, freeze=freeze)


@dataclass(frozen=True)
class FoldsConfig(TrainConfig):
    """Everything that decides the runs of ``mien folds``.

    The attributes of ``TrainConfig`` belong to it as well; ``seed`` is overruled by ``seeds``.

    Attributes:
        out: the folder of the runs, OUT/seed-S-fold-K, and of the answers, OUT/answers.safetensors.
        folds: parts of the training split; each is answered by networks that were trained on the others.
        seeds: of the networks; each seed has its own folds, and the answers are averaged over seeds.
    """

    folds: Annotated[Integer, Field(ge=2, le=100)] = 5
    seeds: Annotated[list[Annotated[Integer, Field(ge=0, le=2**31 - 1)]], Field(min_length=1)] = field(
        default_factory=lambda: [0]
    )


def _crop_and_flip() -> AugmentConfig:
    """What a masked autoencoder needs: cropping and mirroring alone (He et al. 2022, table 1e)."""
    return AugmentConfig(crop_scale=0.7, rotation=0.0, shift=0.0, brightness=0.0, contrast=0.0)


@dataclass(frozen=True)
class PretrainConfig(RunConfig):
    """Everything that decides a pretraining run. The same settings and seed give the same weights.

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
        probe_epochs: measure k-NN and linear probe every so many epochs, and at the end; 0 turns them off.
        probe_images: at most so many training faces teach the probes, and so many validation faces test them.
        skip_broken: leave out pictures of an unlabelled folder that cannot be read, and count them.
        augment: augmentation of training images; by default cropping and mirroring alone.
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


_DISTILL = DistillConfig()


def is_fresh(backbone: str) -> bool:
    """True if a backbone is a preset, or a timm network without a tag: its weights are random."""
    return backbone in PRESETS or (backbone.startswith(TIMM) and "." not in backbone)


def to_dict(config: Any) -> dict[str, Any]:
    """Returns the settings as plain nested dictionaries, for JSON and YAML."""
    return dataclasses.asdict(config)


def field_types(schema: type, prefix: str = "") -> dict[str, Any]:
    """Returns the type of every setting with its bounds; names within a group are dotted."""
    types: dict[str, Any] = {}
    for name, kind in get_type_hints(schema, include_extras=True).items():
        is_group = isinstance(kind, type) and dataclasses.is_dataclass(kind)
        types |= field_types(kind, f"{prefix}{name}.") if is_group else {f"{prefix}{name}": kind}
    return types


def differences(old: dict[str, Any], config: RunConfig) -> list[str]:
    """Returns the settings that decide the weights and differ from older ones, as ``name: old -> new``.

    Args:
        old: as ``to_dict`` gave it. Settings that it lacks had their default: a new setting's default is what was done
            before there was one. Names that are no settings any more are ignored, unless they changed the weights.
        config: what shall go on now.

    Raises:
        TypeError, ValueError: a group in ``old`` is not a mapping.
    """
    now = flat(to_dict(config))
    before = {**flat(to_dict(type(config)(data="", out=""))), **BEFORE, **flat(old)}
    changed = [name for name in sorted(now) if name not in WITHOUT_EFFECT_ON_WEIGHTS and before[name] != now[name]]
    lost = [name for name in GONE if old.get(name) is not None]
    return [f"{name}: {before[name]} -> {now[name]}" for name in changed] + [
        f"{name}: {old[name]} -> gone, so that this version cannot go on with the run" for name in lost
    ]


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings, as ``to_dict`` gives them, with the fields of each group under dotted names."""
    fields = dict(settings)
    for group in ("distill", "freeze", "augment"):
        fields |= {f"{group}.{name}": value for name, value in dict(fields.pop(group, {})).items()}
    return fields


def expected(kind: Any) -> str:
    """Returns in words what a type with its bounds accepts, like ``a share in [0, 1)``."""
    info = FieldInfo.from_annotation(kind)
    if info.description:
        return info.description
    kind, arguments = info.annotation, get_args(info.annotation)
    if get_origin(kind) is Literal:
        return " or ".join(arguments)
    if get_origin(kind) is list:
        return f"a list, each item {expected(arguments[0])}"
    if get_origin(kind) is dict:
        return 'names and values like {"depth": 2}'
    if type(None) in arguments:
        return f"{expected(arguments[0])} or null"
    names = ("gt", "ge", "lt", "le", "multiple_of")
    bounds = {name: getattr(entry, name) for entry in info.metadata for name in names if hasattr(entry, name)}
    nouns = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    noun = info.title or nouns[kind]
    if "multiple_of" in bounds:
        return f"a multiple of {bounds['multiple_of']}, at most {bounds['le']}"
    low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
    if high is not None:
        return f"{noun} in {'[' if 'ge' in bounds else '('}{low}, {high}{']' if 'le' in bounds else ')'}"
    return noun if low is None else f"{noun} {'of at least' if 'ge' in bounds else 'above'} {low}"


LONGEST_VALUE = 100
"""Letters of a value that a message quotes."""


def shown_value(value: Any) -> str:
    """Returns a value for a message: as YAML writes null, true and false, and cut if it is long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write a number of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def _mistake(schema: type, location: tuple[str | int, ...], kind: str, values: Mapping[str, Any]) -> Mistake:
    """Returns what pydantic found wrong at a location, in words.

    Args:
        schema: the class of the settings.
        location: the names of group and field, and the place within a list.
        kind: pydantic's name of the error.
        values: the settings as they were handed over.
    """
    if kind == "unexpected_keyword_argument":
        name = ".".join(map(str, location))
        return name, GONE.get(name, "no such field")
    if kind == "missing":
        return str(location[0]), "is missing"
    types = field_types(schema)
    depth = 2 if len(location) > 1 and ".".join(map(str, location[:2])) in types else 1
    name, value = ".".join(map(str, location[:depth])), values.get(str(location[0]))
    if depth == 2:
        value = _members(value)[str(location[1])]
    if name in types:
        return name, f"got {shown_value(value)}, expected {expected(types[name])}"
    members = ", ".join(field for field in types if field.startswith(f"{name}."))
    return name, f"got {shown_value(value)}, expected a group of fields: {members}"


def _members(group: Any) -> dict[str, Any]:
    """Returns the fields of a group, which is a mapping or a dataclass."""
    return dict(group) if isinstance(group, Mapping) else vars(group)


def _without(values: Mapping[str, Any], refused: set[str]) -> dict[str, Any]:
    """Returns the values without the refused ones, which may lie in groups."""
    rest = {name: value for name, value in values.items() if name not in refused}
    for group in {name.partition(".")[0] for name in refused if "." in name} & rest.keys():
        rest[group] = {k: v for k, v in _members(rest[group]).items() if f"{group}.{k}" not in refused}
    return rest
