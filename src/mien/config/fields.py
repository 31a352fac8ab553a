"""The types of settings with their bounds, and what is wrong with a value, in words."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BeforeValidator, Field
from pydantic.fields import FieldInfo

from mien.errors import MienError
from mien.files import at_home
from mien.limits import LARGEST_IMAGE


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


def on_or_off(value: Any) -> Any:
    """Returns true and yes as on, false and no as off, in every spelling of YAML."""
    words = {"true": "on", "yes": "on", "false": "off", "no": "off"}
    return words.get(str(value).lower(), value)


_SHARE_OF_EPOCHS = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*%")


def in_epochs(name: str, value: Any, epochs: int) -> Any:
    """Returns the value of a setting, a share of the epochs like ``12.5%`` as a number of epochs.

    Of 80 epochs, a warm-up of 12.5% takes 10, and a release at 12.5% is epoch 11; a release is epoch 2 or later.
    """
    match = _SHARE_OF_EPOCHS.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or float(match[1]) > 100 or name not in ("warmup_epochs", "freeze.release_epoch"):
        return value
    number = epochs * (float(match[1]) / 100)
    return number if name == "warmup_epochs" else max(2, round(number) + 1)


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
Epochs = Annotated[Number, Field(ge=0, description="a number of at least 0, or a share of the epochs like 12.5%")]
ReleaseEpoch = Annotated[
    Integer, Field(ge=2, description="a whole number of at least 2, or a share of the epochs like 12.5%")
]
Place = Annotated[str, BeforeValidator(lambda value: at_home(value) if isinstance(value, str) else value)]
Folder = Annotated[Place, Field(min_length=1, description="the name of a model folder")]
Compile = Annotated[Literal["auto", "graph", "on", "off"], BeforeValidator(on_or_off)]
Criterion = Literal["accuracy", "macro_f1", "balanced_accuracy", "loss", "clean_loss", "last"]
Preset = Literal["nano", "mini", "tiny", "small", "base"]

PRESETS: tuple[str, ...] = get_args(Preset)


GONE: dict[str, str] = {"small_size": "is gone: every epoch sees the pictures at full size, remove it"}
"""Settings of earlier versions that changed the weights; null is still accepted."""

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


def field_types(schema: type, prefix: str = "") -> dict[str, Any]:
    """Returns the type of every setting with its bounds; names within a group are dotted."""
    types: dict[str, Any] = {}
    for name, kind in get_type_hints(schema, include_extras=True).items():
        is_group = isinstance(kind, type) and dataclasses.is_dataclass(kind)
        types |= field_types(kind, f"{prefix}{name}.") if is_group else {f"{prefix}{name}": kind}
    return types


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


def mistake_of(schema: type, location: tuple[str | int, ...], kind: str, values: Mapping[str, Any]) -> Mistake:
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
        value = members(value)[str(location[1])]
    if name in types:
        return name, f"got {shown_value(value)}, expected {expected(types[name])}"
    fields = ", ".join(field for field in types if field.startswith(f"{name}."))
    return name, f"got {shown_value(value)}, expected a group of fields: {fields}"


def members(group: Any) -> dict[str, Any]:
    """Returns the fields of a group, which is a mapping or a dataclass."""
    return dict(group) if isinstance(group, Mapping) else vars(group)


def without(values: Mapping[str, Any], refused: set[str]) -> dict[str, Any]:
    """Returns the values without the refused ones, which may lie in groups."""
    rest = {name: value for name, value in values.items() if name not in refused}
    for group in {name.partition(".")[0] for name in refused if "." in name} & rest.keys():
        rest[group] = {k: v for k, v in members(rest[group]).items() if f"{group}.{k}" not in refused}
    return rest
