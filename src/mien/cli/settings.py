"""Reads the settings of a run from YAML files and the command line; one error names every mistake and its place.

The parser here prints the help of each field, and is what shell completion knows of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from mien.cli.parser import HelpFormatter, Switch, meant
from mien.cli.recipes import parsed, read_yaml, recipe_file, recipes
from mien.config import (
    PRESETS,
    TIMM,
    FoldsConfig,
    PretrainConfig,
    RunConfig,
    SettingsError,
    expected,
    field_types,
    flat,
    in_epochs,
    shown_value,
    to_dict,
)
from mien.errors import MienError
from mien.files import at_home, free_path
from mien.model.hub import is_hub_id
from mien.training.folder import CONFIG, check_typed, recorded, state_path

R = TypeVar("R", bound=RunConfig)

FLAGS: dict[str, str] = {
    "print-config": "print every field as YAML and stop",
    "dry-run": "print the plan (what is frozen and until when, parameters, memory, hours from timed steps), and stop",
}
"""Options without a value, and their help."""

MOST_MISTAKES = 20
"""Mistakes that one error names; it counts the others."""

_NO_VALUE = object()
"""Stands for the value of an option that was typed without one; no field accepts it."""


@dataclasses.dataclass
class Typed:
    """What was typed after a command, and what its files hold.

    Attributes:
        values: by the dotted name of the field; a later value replaces an earlier one.
        places: where each value stands, like ``recipe.yaml line 3: epochs`` or ``--epochs``.
        flags: options without a value, and ``resume``.
        files: the YAML files named by ``--config``.
        replaced: name, value and place of each value that a later one replaced; it must be right all the same.
        problems: what is no value of a field, in words.
        resumed: the folder that ``--resume`` names.
    """

    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    places: dict[str, str] = dataclasses.field(default_factory=dict)
    flags: set[str] = dataclasses.field(default_factory=set)
    files: list[Path] = dataclasses.field(default_factory=list)
    replaced: list[tuple[str, Any, str]] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    resumed: str | None = None

    def add(self, name: str, value: Any, place: str) -> None:
        """Adds a value, in place of an earlier one of the same field."""
        if name in self.values:
            self.replaced.append((name, self.values.pop(name), self.places.pop(name)))
        self.values[name], self.places[name] = value, place


def read_settings(
    schema: type[R], arguments: Sequence[str], command: str = "mien train", description: str = ""
) -> tuple[R, set[str]]:
    """Reads the settings of a command.

    Values on the command line win over those of ``--config FILE.yaml``, wherever they stand; a later file wins over an
    earlier one. Dashes and underscores in options are alike, and the fields of a group are dotted:
    ``--augment.rotation 5``. With ``--resume``, what is not typed is as the run recorded it.

    Args:
        schema: the class of the settings.
        arguments: what was typed after the command.
        command: the command as it is typed, for messages.
        description: what it does, with examples, for ``--help``.

    Returns:
        The settings, and the names of the flags that were typed: ``dry-run``, ``resume``.

    Raises:
        MienError: every unknown field, wrong value and missing field, and what is no YAML.
        SystemExit: help or the settings were asked for and have been printed.
    """
    if {"-h", "--help"} & set(arguments):
        settings_parser(schema, command, description).print_help()
        raise SystemExit(0)
    typed, options = _parse(arguments, field_types(schema))
    if "resume" in typed.flags and issubclass(schema, FoldsConfig):
        raise MienError("--resume: `mien folds` goes on by itself; type the same command again, with the same --out")
    for path in typed.files:
        typed.problems += read_yaml(path, typed.add, _groups(schema))
    for option in options:
        typed.add(*option)
    if "resume" in typed.flags:
        _add_recorded(schema, typed)
    printing = "print-config" in typed.flags
    missing = [name for name in ("data", "out") if printing and name not in typed.values]
    defaults = dict.fromkeys(missing, ".")
    if "out" not in typed.values and "resume" not in typed.flags and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        defaults.setdefault("out", default_out(schema, typed))
    config = _build(schema, typed, defaults, command)
    if printing:
        settings = {name: value for name, value in to_dict(config).items() if name not in missing}
        print(yaml.safe_dump(settings, sort_keys=False), end="")
        raise SystemExit(0)
    return config, typed.flags


def default_out(schema: type, typed: Typed) -> str:
    """Returns a new folder in ``runs`` that is named after the recipe, or else after the backbone or preset."""
    if typed.files:
        stem = typed.files[-1].stem
        name = typed.files[-1].resolve().parent.name if stem == "config" else stem
    elif issubclass(schema, PretrainConfig):
        name = f"mae-{typed.values.get('preset', PretrainConfig.preset)}"
    else:
        backbone = Path(str(typed.values.get("backbone", "tiny")).replace(":", "-"))
        backbone = backbone.resolve() if backbone.is_dir() else backbone
        name = backbone.parent.name if backbone.name == "model" and backbone.parent.name else backbone.name
    return str(free_path(Path("runs") / (name or "run")))


def _add_recorded(schema: type, typed: Typed) -> None:
    """Adds what the run that ``--resume`` names recorded, for every field that was not typed."""
    out = typed.values.get("out")
    out = at_home(out) if isinstance(out, str) else out
    if out is None:
        raise MienError("--resume: no run is named, give its folder, like --resume runs/first")
    if not isinstance(out, str) or not state_path(Path(out)).is_file():
        if typed.resumed is not None:
            raise MienError(f"--resume {typed.resumed}: {_no_state(schema, Path(typed.resumed))}")
        return
    settings = recorded(Path(out), pretraining=issubclass(schema, PretrainConfig))
    types = field_types(schema)
    epochs = typed.values.get("epochs", settings.get("epochs"))
    typed.problems += check_typed(Path(out), settings, _comparable(schema, typed, epochs))
    for name, value in settings.items():
        if name in types and typed.values.get(name) is None:
            typed.values.pop(name, None)
            typed.values[name], typed.places[name] = value, f"{state_path(Path(out))}: {name}"
    data, backbone = (str(typed.values.get(name, "")) for name in ("data", "backbone"))
    if data == settings.get("data") and not os.path.exists(data):
        typed.problems.append(
            f"--data: {data}, on which the run in {out} was trained, is gone; give the place where it is now"
        )
    is_name = backbone.startswith(TIMM) or backbone in PRESETS or is_hub_id(backbone)
    if backbone and backbone == settings.get("backbone") and not is_name and not os.path.exists(backbone):
        typed.problems.append(
            f"--backbone: {backbone}, with which the run in {out} began, is gone; put it back there, or a link to it"
        )


def _no_state(schema: type, out: Path) -> str:
    """Returns why the run in a folder cannot go on, and what to do."""
    config = out / CONFIG
    if config.is_file() and not (out / "model").exists():
        command = "mien pretrain" if issubclass(schema, PretrainConfig) else "mien train"
        return f"was stopped before it saved a state; start it anew by `{command} --config {config} --out {out}`"
    return f"holds no run that can go on ({state_path(out).name} is missing); give the folder of one, like runs/first"


def _comparable(schema: type, typed: Typed, epochs: Any) -> dict[str, Any]:
    """Returns the typed values that are right, as their fields hold them; shares of the epochs as epochs."""
    types, values = field_types(schema), {}
    for name, value in typed.values.items():
        if str(epochs).isdigit():
            value = in_epochs(name, value, int(epochs))
        with suppress(KeyError, ValidationError):  # a mistake that is reported elsewhere
            values[name] = _validated(types[name], value)
    return values


def _validated(kind: Any, value: Any) -> Any:
    """Returns a value as a field of this type holds it; raises ValidationError if it is wrong."""
    return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False)).validate_python(value)


def _groups(schema: type) -> set[str]:
    """Returns the names of the fields that are groups."""
    return {name.partition(".")[0] for name in field_types(schema) if "." in name}


def _parse(arguments: Sequence[str], types: Mapping[str, Any]) -> tuple[Typed, list[tuple[str, Any, str]]]:
    """Sorts what was typed into files and flags, and name, value and place of each field; wrong values stay."""
    typed, options = Typed(), list[tuple[str, Any, str]]()
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            guess = meant(word, [*map(dashed, types), "--config"]) if word.startswith("-") else None
            if guess is None:
                typed.problems.append(f"{word!r}: no option stands in front of it, like --epochs 30")
                continue
            typed.problems.append(f"unknown option {word}, did you mean {guess}?")
            if words and not words[0].startswith("-"):
                words.pop(0)  # most likely its value, so it is no second mistake
            continue
        name, equals, text = word[2:].partition("=")
        name, option = name.replace("-", "_"), dashed(name)
        flag = name.replace("_", "-")
        if flag in FLAGS:
            typed.flags.add(flag)
            if equals:
                typed.problems.append(f"{option}: takes no value, got {text!r}")
            continue
        if name.startswith("no_") and _is_switch(types.get(name[3:])) and not equals:
            options.append((name[3:], False, option))
            continue
        kind = _kind(types.get(name, str))
        texts = [text] if equals else []
        while words and not words[0].startswith("--") and (not texts or get_origin(kind) is list):
            texts.append(words.pop(0))
        if name == "resume":
            typed.flags.add(name)
            typed.resumed = texts[0] if texts else None
        elif name != "config":
            if get_origin(kind) is list and name in (earlier for earlier, _, _ in options):
                typed.problems.append(f"{option}: is given twice, give all its values behind one")
            options.append((name, _value(texts, kind), option))
        elif texts:
            typed.files.append(recipe_file(texts[0]))
        else:
            typed.problems.append("--config: a value is missing")
    if typed.resumed is not None:
        elsewhere = [value for name, value, _ in options if name == "out" and value != typed.resumed]
        typed.problems += [f"--out: got {value}, but --resume names {typed.resumed}, give one" for value in elsewhere]
        options.append(("out", typed.resumed, "--resume"))
    return typed, options


def _kind(annotated: Any) -> Any:
    """Returns the plain type of a field; None for no field."""
    return None if annotated is None else FieldInfo.from_annotation(annotated).annotation


def _is_switch(annotated: Any) -> bool:
    """True for a field that is on or off, or ``null`` as well."""
    kind = _kind(annotated)
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return {_kind(member) for member in members} - {NoneType} == {bool}


def _value(texts: list[str], kind: Any) -> Any:
    """Turns the words after an option into a value; pydantic reads numbers and switches from their text."""
    if not texts:
        return True if _is_switch(kind) else _NO_VALUE
    text, parts = texts[0], (kind, *get_args(kind))
    if get_origin(kind) is list:
        return parsed(text) if len(texts) == 1 and text.startswith("[") else texts
    if NoneType in parts and text == "null":
        return None
    return parsed(text) if any(get_origin(part) is dict for part in parts) else text


def _build(schema: type[R], typed: Typed, defaults: Mapping[str, Any], command: str) -> R:
    """Builds the settings, or raises one error with every mistake, those of the command line and the files in order."""
    values: dict[str, Any] = dict(defaults)
    groups = _groups(schema)
    for name, value in typed.values.items():
        group, _, member = name.partition(".")
        if not member or group not in groups:
            values[name] = value
        elif isinstance(values.setdefault(group, {}), dict):  # else pydantic refuses the group
            values[group][member] = value
    problems, config = [*typed.problems, *_replaced_mistakes(schema, typed)], None
    try:
        config = schema(**values)
    except SettingsError as error:
        order = {name: position for position, name in enumerate(typed.places)}
        mistakes = sorted(error.mistakes, key=lambda mistake: order.get(mistake[0], len(order)))
        shown = mistakes[: max(0, MOST_MISTAKES - len(problems))]
        problems += [_placed(name, problem, typed, schema) for name, problem in shown]
        problems += [problem for _, problem in mistakes[len(shown) :]]
    if config is not None and not problems:
        return config
    if len(problems) > MOST_MISTAKES:
        problems[MOST_MISTAKES:] = [f"and {len(problems) - MOST_MISTAKES:,} more"]
    raise MienError(f"{'; '.join(problems)}; see `{command} --help`")


def _replaced_mistakes(schema: type, typed: Typed) -> Iterator[str]:
    """Yields what is wrong with values that later ones replaced."""
    types = field_types(schema)
    for name, value, place in typed.replaced:
        if value is _NO_VALUE:
            yield f"{place}: a value is missing"
            continue
        try:
            _validated(types.get(name, Any), in_epochs(name, value, epochs=1))
        except ValidationError:
            yield f"{place}: got {shown_value(value)}, expected {expected(types[name])}"


def _placed(name: str, problem: str, typed: Typed, schema: type) -> str:
    """Returns a mistake behind the place of its value, with the nearest name if there is no such field."""
    if typed.values.get(name) is _NO_VALUE and not problem.startswith("no such"):
        problem = "a value is missing"
    place = typed.places.get(name, dashed(name))
    if problem == "no such field":
        fields, is_option = list(field_types(schema)), place.startswith("--")
        last_parts = {field.rpartition(".")[2]: field for field in fields if "." not in name}
        # Of an option that looks like none, the meaning is a better guess than the spelling.
        names = [*_groups(schema), *fields, *last_parts]
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.75 if is_option else 0.6)
        near = last_parts.get(close[0], close[0]) if close else None
        if is_option:
            options = [*map(dashed, fields), "--config", "--resume", "--dry-run"]
            near = dashed(near) if near else meant(dashed(name), options)
        problem += f", did you mean {near}?" if near else ""
    return f"{place}: {problem}"


def settings_parser(schema: type, command: str, description: str) -> argparse.ArgumentParser:
    """Returns a parser that prints the help of a command: every field, what it is, its type and its default."""
    parser = argparse.ArgumentParser(
        prog=command,
        usage=f"{command} [--config FILE.yaml | RECIPE] [--FIELD VALUE ...]",
        description=description,
        formatter_class=HelpFormatter,
    )
    names = ", ".join(recipes())
    parser.add_argument(
        "--config",
        metavar="FILE.yaml",
        help=f"read fields from this file, or from a recipe by its name ({names}); the command line wins",
    )
    if not issubclass(schema, FoldsConfig):  # they go on by themselves
        parser.add_argument(
            "--resume",
            nargs="?",
            metavar="RUN",
            help="continue the run in this folder (by default OUT) where it stopped, with the settings that it "
            "recorded; the result is the same as without the stop",
        )
    for name, text in FLAGS.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    defaults, texts = flat(to_dict(schema(data="", out=""))), _documentation(schema)
    for name, kind in field_types(schema).items():
        default = {"data": "required", "out": "default: a new folder in runs/"}.get(
            name, f"default {json.dumps(defaults[name])}"
        )
        text = f"{texts[name]} ({expected(kind)}; {default})".replace("%", "%%")
        option = dashed(name)
        if _is_switch(kind):
            parser.add_argument(option, action=Switch, help=text)
            continue
        plain = _kind(kind)
        metavar = option.rpartition(".")[2].removeprefix("--").upper() + (" ..." if get_origin(kind) is list else "")
        action = parser.add_argument(option, metavar=metavar, help=text)
        action.choices = get_args(plain) if get_origin(plain) is Literal else None
    return parser


def dashed(name: str) -> str:
    """Returns the option of a field: ``--batch-size`` for ``batch_size``."""
    return f"--{name.replace('_', '-')}"


def _documentation(schema: type) -> dict[str, str]:
    """Returns what the docstrings of a class and its groups say of each field; names within a group are dotted."""
    texts: dict[str, str] = {}
    for owner in reversed(schema.__mro__):
        attributes = (owner.__doc__ or "").partition("Attributes:\n")[2]
        for name, text in re.findall(r"^ {8}(\w+): (.+(?:\n {12}.+)*)", attributes, re.MULTILINE):
            texts[name] = " ".join(text.split()).rstrip(".")
    for name, kind in get_type_hints(schema).items():
        if dataclasses.is_dataclass(kind):
            texts |= {f"{name}.{member}": text for member, text in _documentation(kind).items()}  # type: ignore[arg-type]
    return texts
