"""The settings that fine-tuning and pretraining share, with augmentation, and how they compare with a saved run's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import field
from importlib.util import find_spec
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs

from mien.config.fields import (
    GONE,
    AboveZero,
    AtLeastOne,
    AtLeastZero,
    Compile,
    Device,
    Integer,
    Mistake,
    Number,
    Place,
    Probability,
    SettingsError,
    Share,
    ShareBelowOne,
    Switch,
    mistake_of,
    without,
)

WITHOUT_EFFECT_ON_WEIGHTS: frozenset[str] = frozenset(
    {"out", "data", "teacher", "targets", "device", "tensorboard", "track", "checkpoint_seconds"}
)
"""Settings that a resumed run may change. Its data, teachers and stored answers are compared by their fingerprints."""

WITHOUT_EFFECT: frozenset[str] = frozenset({"small_until"})
"""Settings of earlier versions that do nothing unless one of ``GONE`` is set."""

TRACKERS: dict[str, str] = {
    "tensorboard": "pip install 'mien[tensorboard]'",
    "wandb": "pip install wandb",
    "mlflow": "pip install mlflow",
    "trackio": "pip install trackio",
}
"""The packages of the trackers, and the command that installs each."""

BEFORE: dict[str, Any] = {"reading_crop": 1.0}
"""Values in runs from before there was the setting, if that is not its default."""


# Groups are plain dataclasses, checked with the run that holds them: one error names the mistakes of all groups.
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


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False, revalidate_instances="always"))
class RunConfig:
    """The settings that fine-tuning and pretraining share.

    Attributes:
        data: where the pictures are.
        out: the folder of the run.
        batch_size: images per step, over all processes together; if the set is smaller, every step sees the whole set,
            or as many as can be shared evenly among pairs (mixup, cutmix), teachers that split a batch, and processes.
        optimizer: adamw, or muon, which moves the weight matrices between the first and the last layer along their
            orthogonalised momentum (Jordan et al. 2024) and the rest by AdamW; fresh networks learn faster by it.
        lr: peak learning rate.
        min_lr: learning rate at the end of the cosine, the same for all parts of a network (times layer_decay), as a
            share of lr.
        weight_decay: decoupled weight decay; norms, biases, positions, [CLS] and the mask token are exempt, and of a
            network of timm all vectors and what timm names.
        clip_grad: largest L2 norm of the gradient; 0 turns clipping off.
        validation_fraction: share of training images cut off as validation if the data has no validation split;
            copies of a photograph stay on one side.
        seed: decides initial weights, order, augmentation, drop path and masks.
        device: the processor or GPU that computes.
        precision: auto (bf16 on a GPU that has it, else fp32), fp32 or bf16.
        checkpoint_seconds: seconds between two saved states within an epoch; a state is also saved at the end of each
            epoch, or of each that is validated.
        compile: how a training step runs: off, operation by operation; graph, as a CUDA graph, which takes a second to
            record; on, by torch.compile, which takes minutes; auto is graph on a GPU, else off.
        track: trackers that get settings, losses and scores: tensorboard (OUT/tensorboard), wandb, mlflow, trackio.
        tensorboard: the older name of track tensorboard.
        augment: augmentation of training images.
    """

    data: Place
    out: Place
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

    @property
    def trackers(self) -> list[str]:
        """The trackers, each once; ``tensorboard: true`` is the older name of one of them."""
        return list(dict.fromkeys([*self.track, *(["tensorboard"] if self.tensorboard else [])]))

    @property
    def batch_unit(self) -> int:
        """A process reads a multiple of so many images a step: pairs if mixup or cutmix is on."""
        return 2 if self.augment.mixes else 1

    def missing_trackers(self) -> Iterator[str]:
        """Yields a message for each tracker whose package is not installed."""
        for name in self.trackers:
            if find_spec(name) is None:
                option = f"--track {name}" if name in self.track else f"--{name}"
                yield f"{option}: {name} is not installed; {TRACKERS[name]}"

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, arguments: ArgsKwargs, build: ValidatorFunctionWrapHandler) -> Self:
        """Builds the settings, or raises SettingsError with every mistake: of fields, then of fields that disagree.

        Rules over several fields run even if some values are wrong: a default takes the place of a wrong value, and a
        rule that needs it says nothing.
        """
        names = [entry.name for entry in dataclasses.fields(cls)]
        values = dict(zip(names, arguments.args, strict=False)) | (arguments.kwargs or {})
        without_effect = {name for name in GONE if values.get(name) is None} | WITHOUT_EFFECT
        values = cls._with_epochs({name: value for name, value in values.items() if name not in without_effect})
        values = cls._with_whole_groups(values)
        mistakes: list[Mistake] = []
        try:
            config = build(ArgsKwargs((), values))
        except ValidationError as error:
            # Two items of a list may be wrong, which is one mistake.
            mistakes = list(dict.fromkeys(mistake_of(cls, e["loc"], e["type"], values) for e in error.errors()))
            right = cls._with_whole_groups(without(values, {name for name, _ in mistakes}))
            config = build(ArgsKwargs((), {"data": "", "out": "", **right}))
        refused = {name for name, _ in mistakes}
        mistakes += [(names[0], problem) for names, problem in config._rules() if not refused & set(names)]
        if mistakes:
            raise SettingsError(mistakes)
        return config

    @classmethod
    def _with_epochs(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Returns the values with shares of the run, like 12.5%, as numbers of epochs; unchanged if there are none."""
        return values

    @classmethod
    def _with_whole_groups(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the values, the rest of a group that is given in part as this class has it by default.

        Pydantic would take the rest from the group's own defaults, which may be others.
        """
        whole = dict(values)
        for entry in dataclasses.fields(cls):
            part, factory = values.get(entry.name), entry.default_factory
            default = None if factory is dataclasses.MISSING else factory()
            if isinstance(part, Mapping) and dataclasses.is_dataclass(default):
                whole[entry.name] = {**vars(default), **part}
        return whole

    def _rules(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yields the fields that disagree, the one to change first, and what is wrong."""
        raise NotImplementedError


def to_dict(config: Any) -> dict[str, Any]:
    """Returns the settings as plain nested dictionaries, for JSON and YAML."""
    return dataclasses.asdict(config)


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
    before = completed(old, type(config))
    changed = [name for name in sorted(now) if name not in WITHOUT_EFFECT_ON_WEIGHTS and before[name] != now[name]]
    lost = [name for name in GONE if old.get(name) is not None]
    return [f"{name}: {before[name]} -> {now[name]}" for name in changed] + [
        f"{name}: {old[name]} -> gone, so that this version cannot go on with the run" for name in lost
    ]


def completed(old: Mapping[str, Any], kind: type[RunConfig]) -> dict[str, Any]:
    """Returns older settings by their dotted names (``flat``), with what was done before there was a setting for it."""
    return {**flat(to_dict(kind(data="", out=""))), **BEFORE, **flat(old)}


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings, as ``to_dict`` gives them, with the fields of each group under dotted names."""
    fields = dict(settings)
    for group in ("distill", "freeze", "augment"):
        fields |= {f"{group}.{name}": value for name, value in dict(fields.pop(group, {})).items()}
    return fields
