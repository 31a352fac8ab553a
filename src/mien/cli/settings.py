"""Reads the settings of a command from YAML files and the command line; one error names every mistake and its place."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from mien.config import RunConfig, SettingsError, expected, field_types, flat, shown_value, to_dict
from mien.errors import MienError

R = TypeVar("R", bound=RunConfig)

PRINT_CONFIG = "print_config"
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
        flags: options without a value.
        files: the YAML files named by ``--config``.
        replaced: name, value and place of each value that a later one replaced; it must be right all the same.
        problems: what is no value of a field, in words.
    """

    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    places: dict[str, str] = dataclasses.field(default_factory=dict)
    flags: set[str] = dataclasses.field(default_factory=set)
    files: list[Path] = dataclasses.field(default_factory=list)
    replaced: list[tuple[str, Any, str]] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)

    def add(self, name: str, value: Any, place: str) -> None:
        """Adds a value, in place of an earlier one of the same field."""
        if name in self.values:
            self.replaced.append((name, self.values.pop(name), self.places.pop(name)))
        self.values[name], self.places[name] = value, place


def read_settings(
    schema: type[R],
    arguments: Sequence[str],
    command: str = "mien train",
    description: str = "",
    flags: Mapping[str, str] | None = None,
) -> tuple[R, set[str]]:
    """Reads the settings of a command.

    Values on the command line win over those of ``--config FILE.yaml``, wherever they stand; a later file wins over an
    earlier one. Dashes and underscores in options are alike, and the fields of a group are dotted:
    ``--augment.rotation 5``.

    Args:
        schema: the class of the settings.
        arguments: what was typed after the command.
        command: the command as it is typed, for messages.
        description: what it does, with examples, for ``--help``.
        flags: options without a value, and their help.

    Returns:
        The settings, and the names of the flags that were typed.

    Raises:
        MienError: every unknown field, wrong value and missing field, and what is no YAML.
        SystemExit: help or the settings were asked for and have been printed.
    """
    flags = flags or {}
    if {"-h", "--help"} & set(arguments):
        settings_parser(schema, command, description, flags).print_help()
        raise SystemExit(0)
    typed, options = _parse(arguments, field_types(schema), {PRINT_CONFIG, *flags})
    for path in typed.files:
        typed.problems += _read_file(path, typed, _groups(schema))
    for option in options:
        typed.add(*option)
    printing = PRINT_CONFIG in typed.flags
    missing = [name for name in ("data", "out") if printing and name not in typed.values]
    config = _build(schema, typed, dict.fromkeys(missing, "."), command)
    if printing:
        settings = {name: value for name, value in to_dict(config).items() if name not in missing}
        print(yaml.safe_dump(settings, sort_keys=False), end="")
        raise SystemExit(0)
    return config, typed.flags


def _groups(schema: type) -> set[str]:
    """Returns the names of the fields that are groups."""
    return {name.partition(".")[0] for name in field_types(schema) if "." in name}


def _parse(
    arguments: Sequence[str], types: Mapping[str, Any], flags: Collection[str]
) -> tuple[Typed, list[tuple[str, Any, str]]]:
    """Sorts what was typed into files and flags, and name, value and place of each field; wrong values stay."""
    typed, options = Typed(), []
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            typed.problems.append(f"{word!r}: no option stands in front of it, like --epochs 30")
            continue
        name, equals, text = word[2:].partition("=")
        name = name.replace("-", "_")
        if name in flags:
            typed.flags.add(name)
            if equals:
                typed.problems.append(f"--{name}: takes no value, got {text!r}")
            continue
        kind = FieldInfo.from_annotation(types.get(name, str)).annotation
        texts = [text] if equals else []
        while words and not words[0].startswith("--") and (not texts or get_origin(kind) is list):
            texts.append(words.pop(0))
        if name != "config":
            options.append((name, _value(texts, kind), f"--{name}"))
        elif texts:
            typed.files.append(Path(texts[0]))
        else:
            typed.problems.append("--config: a value is missing")
    return typed, options


def _value(texts: list[str], kind: Any) -> Any:
    """Turns the words after an option into a value; pydantic reads numbers and switches from their text."""
    if not texts:
        return True if kind is bool else _NO_VALUE
    text, parts = texts[0], (kind, *get_args(kind))
    if get_origin(kind) is list:
        return _parsed(text) if len(texts) == 1 and text.startswith("[") else texts
    if NoneType in parts and text == "null":
        return None
    return _parsed(text) if any(get_origin(part) is dict for part in parts) else text


def _parsed(text: str) -> Any:
    """Returns a text as YAML or JSON reads it, or the text if it is neither."""
    try:
        value = _Loader(text).get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    return text if value is None else value


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
        try:
            TypeAdapter(types.get(name, Any), config=ConfigDict(allow_inf_nan=False)).validate_python(value)
        except ValidationError:
            yield f"{place}: got {shown_value(value)}, expected {expected(types[name])}"


def _placed(name: str, problem: str, typed: Typed, schema: type) -> str:
    """Returns a mistake behind the place of its value, with the nearest name if there is no such field."""
    if typed.values.get(name) is _NO_VALUE and not problem.startswith("no such"):
        problem = "a value is missing"
    if problem == "no such field":
        fields = list(field_types(schema))
        last_parts = {field.rpartition(".")[2]: field for field in fields if "." not in name}
        close = difflib.get_close_matches(name, [*fields, *last_parts], n=1)
        problem += f", did you mean {last_parts.get(close[0], close[0])}?" if close else ""
    return f"{typed.places.get(name, f'--{name}')}: {problem}"


def settings_parser(schema: type, command: str, description: str, flags: Mapping[str, str]) -> argparse.ArgumentParser:
    """Returns a parser that prints the help of a command: every field, what it is, its type and its default."""
    parser = argparse.ArgumentParser(
        prog=command,
        usage=f"{command} [--config FILE.yaml] [--FIELD VALUE ...]",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE.yaml", help="read fields from this file; the command line wins")
    for name, text in {PRINT_CONFIG: "print every field as YAML and stop", **flags}.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    defaults, texts = flat(to_dict(schema(data="", out=""))), _documentation(schema)
    for name, kind in field_types(schema).items():
        default = "required" if name in ("data", "out") else f"default {json.dumps(defaults[name])}"
        text = f"{texts[name]} ({expected(kind)}; {default})"
        metavar = name.rpartition(".")[2].upper() + (" ..." if get_origin(kind) is list else "")
        parser.add_argument(f"--{name}", metavar=metavar, help=text.replace("%", "%%"))
    return parser


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


_LONGEST_FILE = 100_000
"""Letters of a YAML file, some 50 times a long recipe; PyYAML takes about a second to read as many."""

_LONGEST_KEY = 80
"""Letters of a key; the longest field has some 20."""

_DEEPEST = 20
"""Levels of a YAML file; settings have three at most."""


def _read_file(path: Path, typed: Typed, groups: Collection[str]) -> list[str]:
    """Adds the values of a YAML file with the lines they stand on.

    Returns:
        What is wrong with the file's keys, in words.

    Raises:
        MienError: the file is missing, too long or no YAML, so that nothing else can be said of it.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_LONGEST_FILE + 1)
        if len(text) > _LONGEST_FILE:
            raise MienError(f"{path}: is longer than {_LONGEST_FILE:,} letters, expected some lines like `epochs: 30`")
        loader = _Loader(text)
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            return [] if root is None else [f"{path}: expected lines like `epochs: 30`, got something else"]
        first_lines: dict[str, int] = {}
        problems = []
        for name, value, line in _walk(root, "", loader, groups):
            place = f"{path} line {line}: {name}"
            if name in first_lines:
                problems.append(f"{place}: is given twice, first on line {first_lines[name]}, keep one")
            else:
                first_lines[name] = line
                typed.add(name, value, place)
        return problems
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1} column {mark.column + 1}" if mark else ""
        reason = getattr(error, "problem", None) or error
        raise MienError(f"{path}{place}: is not YAML ({reason}); expected lines like `epochs: 30`") from error
    except RecursionError as error:  # the scanner itself, on thousands of brackets
        raise MienError(f"{path}: is not YAML (nested too deeply); expected lines like `epochs: 30`") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MienError(f"{path}: cannot be read ({reason}); --config expects a YAML file") from error


def _walk(
    mapping: yaml.MappingNode, prefix: str, loader: yaml.SafeLoader, groups: Collection[str]
) -> Iterator[tuple[str, Any, int]]:
    """Yields the dotted name, the value and the line of every field."""
    for key_node, node in mapping.value:
        name = prefix + str(loader.construct_object(key_node, deep=True))[:_LONGEST_KEY]
        if name in groups and isinstance(node, yaml.MappingNode):
            yield from _walk(node, f"{name}.", loader, groups)
        else:
            yield name, loader.construct_object(node, deep=True), key_node.start_mark.line + 1


class _Loader(yaml.SafeLoader):
    """Reads settings, which are flat: aliases, by which 400 bytes become gigabytes, and deep nesting are refused."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem="aliases (*name) are not taken", problem_mark=self.peek_event().start_mark
            )
        if self._depth >= _DEEPEST:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=self.peek_event().start_mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


# YAML 1.1 takes 3e-5, which has no dot, for text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
