"""A frozen dataclass of settings, read from YAML files and the command line; every problem is told at once.

jsonargparse makes the options, their help and their types out of the dataclass. It stops at the first wrong value,
though, and lets some pass (a number where a group of fields belongs, a key given twice); so each value goes through it
alone, with the place it came from, and what was wrong is gathered.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import types
from argparse import SUPPRESS, ArgumentError
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from mien.errors import MienError

T = TypeVar("T")

PRINT_CONFIG = "print_config"
PLACEHOLDER = "."
MOST_PROBLEMS, LONGEST_VALUE = 20, 100
"""What of many mistakes one error tells: so many of them, and so many letters of each value."""


@dataclass
class Settings:
    """The settings of a command, as gathered so far.

    Attributes:
        schema: the dataclass.
        command: the command as it is typed, for messages.
        fields: every field, dotted where it lies in a group, and its type.
        values: what was given and is of the right type.
        places: where each of these values came from.
        problems: what was wrong, a phrase each.
        refused: the fields whose values were wrong.
        flags: the options without a value that were given.
    """

    schema: type
    command: str
    fields: dict[str, Any]
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    flags: set[str] = field(default_factory=set)

    @property
    def groups(self) -> set[str]:
        """The names before a dot."""
        return {name.partition(".")[0] for name in self.fields if "." in name}


def read_settings(schema: type[T], parser: ArgumentParser, arguments: Sequence[str]) -> tuple[T, set[str]]:
    """Reads the settings of a command.

    Values on the command line win over those of ``--config FILE.yaml``, wherever they stand; a later file wins over an
    earlier one.

    Args:
        schema: a frozen dataclass whose ``__post_init__`` raises ``MienError`` with ``field: ...; field: ...``.
        parser: of ``settings_parser``.
        arguments: what was typed after the command.

    Returns:
        The settings, and the names of the flags that were given.

    Raises:
        MienError: every unknown key, wrong type and wrong value, and what is missing.
        SystemExit: help or the configuration was asked for and has been printed.
    """
    settings = Settings(schema, parser.prog, field_types(schema))
    if {"-h", "--help"} & set(arguments):
        parser.print_help()
        raise SystemExit(0)
    flags = {name for name in _option_names(parser) if name not in settings.fields and name != "config"}
    files, typed = _typed(arguments, settings, flags)
    for path in files:
        values, problems = yaml_values(path, settings.groups)
        settings.problems += problems
        for value in values:
            _accept(value, settings, parser)
    for value in typed:
        _accept(value, settings, parser)
    config = _build(settings, parser)
    if PRINT_CONFIG in settings.flags:
        whole = dataclasses.asdict(config)
        missing = [name for name in _required(schema) if name not in settings.values]
        print(yaml.safe_dump({k: v for k, v in whole.items() if k not in missing}, sort_keys=False), end="")
        raise SystemExit(0)
    return config, settings.flags


def settings_parser(schema: type, command: str, description: str, flags: dict[str, str]) -> ArgumentParser:
    """The parser of a command whose options are the fields of ``schema``, plus ``--config`` and flags.

    Args:
        schema: the frozen dataclass.
        command: the command as it is typed.
        description: what it does, with examples.
        flags: options without a value, and their help.
    """
    parser = ArgumentParser(
        prog=command,
        usage=f"{command} [--config FILE.yaml] [--FIELD VALUE ...]",
        description=description,
        formatter_class=_Formatter,
        exit_on_error=False,
        print_config=None,
    )
    parser.add_argument("--config", metavar="FILE.yaml", help="read fields from this file; the command line wins")
    parser.add_argument(f"--{PRINT_CONFIG}", action="store_true", help="print every field as YAML and stop")
    for name, text in flags.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    parser.add_class_arguments(schema, nested_key=None)
    groups = {name.partition(".")[0] for name in field_types(schema) if "." in name}
    for action in parser._actions:
        if action.dest in groups:
            action.help = SUPPRESS  # jsonargparse takes a file for a whole group; --config does that here
        if f"--{action.dest}+" in action.option_strings:
            action.option_strings = [f"--{action.dest}"]  # words after one option are the list here
            action.metavar = f"{action.dest.upper()} ..."
    return parser


class _Formatter(DefaultHelpFormatter):
    """jsonargparse's help, with the line breaks of the description kept."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in text.splitlines(keepends=True))


def field_types(schema: type, prefix: str = "") -> dict[str, Any]:
    """Every field of a dataclass and its type; those of dataclasses within it are dotted."""
    found: dict[str, Any] = {}
    for name, kind in get_type_hints(schema).items():
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            found |= field_types(kind, f"{prefix}{name}.")
        else:
            found[prefix + name] = kind
    return found


def _typed(arguments: Sequence[str], settings: Settings, flags: set[str]) -> tuple[list[Path], list[Value]]:
    """What was typed: the files named by --config, and the values; flags are noted in ``settings``."""
    files: list[Path] = []
    values: list[Value] = []
    tokens = list(arguments)
    while tokens:
        token = tokens.pop(0)
        if not token.startswith("--"):
            settings.problems.append(f"{token!r}: no option stands in front of it, like --epochs 30")
            continue
        name, equals, text = token[2:].partition("=")
        name = name.replace("-", "_")
        kind = settings.fields.get(name)
        if name in flags and not equals:
            settings.flags.add(name)
            continue
        words = [text] if equals else []
        while tokens and not tokens[0].startswith("--") and (not words or get_origin(kind) is list):
            words.append(tokens.pop(0))
        value = _joined(words) if get_origin(kind) is list else next(iter(words), None)
        if value is None and kind is bool:
            value = "true"
        if name in flags:
            settings.problems.append(f"--{name}: takes no value, got {value!r}")
        elif value is None and (name in settings.fields or name == "config"):
            settings.problems.append(f"--{name}: a value is missing")
            settings.refused.add(name)
        elif name == "config":
            files.append(Path(str(value)))
        else:
            values.append(Value(name, value, f"--{name}", typed=True))
    return files, values


def _joined(words: Sequence[str]) -> str | None:
    """Words that are the items of a list as the list that they make; a list that was typed as one stays as it is."""
    if len(words) == 1 and words[0].startswith("["):
        return words[0]
    return json.dumps(list(words)) if words else None


def _accept(given: Value, settings: Settings, parser: ArgumentParser) -> None:
    """Notes a value with its type, or what is wrong with it."""
    key = given.key
    if key in settings.groups:
        members = ", ".join(name for name in settings.fields if name.startswith(f"{key}."))
        settings.problems.append(f"{given.where}: got {_shown(given.value)}, expected a group of fields: {members}")
        return
    if key not in settings.fields:
        close = difflib.get_close_matches(key, _candidates(key, settings.fields), n=1)
        hint = _full_name(close[0], settings.fields) if close else ""
        settings.problems.append(f"{given.where}: no such field" + (f", did you mean {hint}?" if hint else ""))
        return
    try:
        value = _typed_value(given, settings, parser)
    except (ArgumentError, TypeError, ValueError):
        expected = _expected(settings.fields[key])
        settings.problems.append(f"{given.where}: got {_shown(given.value)}, expected {expected}")
        settings.refused.add(key)
        return
    settings.values[key] = value
    settings.places[key] = given.where
    settings.refused.discard(key)


def _typed_value(given: Value, settings: Settings, parser: ArgumentParser) -> Any:
    """The value as its field has it, read by jsonargparse beside nothing but stand-ins for what is required."""
    whole = dict.fromkeys(_required(settings.schema), PLACEHOLDER) | {given.key: given.value}
    if given.typed:
        parsed = parser.parse_args([f"--{name}={text}" for name, text in whole.items()])
    else:
        parsed = parser.parse_object(whole)
    value = parsed[given.key]
    if value is None and types.NoneType not in get_args(settings.fields[given.key]):
        raise TypeError("jsonargparse takes null for a field that was not given")
    return value


def _build(settings: Settings, parser: ArgumentParser) -> Any:
    """The dataclass, or one error with everything that was wrong."""
    required = _required(settings.schema)
    missing = [name for name in required if name not in settings.values and name not in settings.refused]
    problems = list(settings.problems)
    if PRINT_CONFIG not in settings.flags:
        problems += [f"--{name}: is missing" for name in missing]
    config = None
    try:
        whole = {**dict.fromkeys(required, PLACEHOLDER), **settings.values}
        config = _instance(settings.schema, parser.parse_object(whole))
    except MienError as error:
        problems += [told for problem in str(error).split("; ") if (told := _placed(problem, settings))]
    if problems:
        if len(problems) > MOST_PROBLEMS:
            problems[MOST_PROBLEMS:] = [f"and {len(problems) - MOST_PROBLEMS:,} more"]
        raise MienError(f"{'; '.join(problems)}; see `{settings.command} --help`")
    return config


def _instance(schema: type, parsed: Namespace) -> Any:
    """The dataclass filled from jsonargparse's namespace, groups first."""
    filled = {}
    for name, kind in get_type_hints(schema).items():
        value = parsed[name]
        filled[name] = _instance(kind, value) if isinstance(kind, type) and dataclasses.is_dataclass(kind) else value
    return schema(**filled)


def _placed(problem: str, settings: Settings) -> str:
    """A problem ``field: ...`` with the place of the value in front; empty where it follows from a refused value."""
    key, _, rest = problem.partition(": ")
    if any(re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", rest) for name in settings.refused):
        return ""
    return f"{settings.places[key]}: {rest}" if key in settings.places else problem


def _candidates(key: str, names: dict[str, Any]) -> list[str]:
    """Names to compare an unknown key with: whole ones, and the last parts of dotted ones."""
    return [*names, *(name.rpartition(".")[2] for name in names if "." in name and "." not in key)]


def _full_name(name: str, names: dict[str, Any]) -> str:
    return name if name in names else next(full for full in names if full.endswith(f".{name}"))


def _required(schema: type) -> list[str]:
    missing = dataclasses.MISSING
    return [f.name for f in dataclasses.fields(schema) if f.default is missing and f.default_factory is missing]


def _option_names(parser: ArgumentParser) -> list[str]:
    return [name[2:] for action in parser._actions for name in action.option_strings if name.startswith("--")]


def _shown(value: Any) -> str:
    """A value as it is written in YAML, where that differs from Python."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def _expected(kind: Any) -> str:
    """What a type accepts, in words."""
    if get_origin(kind) is Literal:
        return " or ".join(str(choice) for choice in get_args(kind))
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_expected(part) for part in get_args(kind))
    if get_origin(kind) is list:
        return f"a list, each item {_expected(get_args(kind)[0])}"
    if get_origin(kind) is dict:
        return 'names and values like {"depth": 2}'
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", types.NoneType: "null"}
    return words.get(kind, str(kind))


_LONGEST_KEY = 80
"""Letters of a key; the longest field has some 20."""

_DEEPEST = 20
"""Levels of a YAML file; settings have three at most."""


@dataclass(frozen=True)
class Value:
    """One value as it was given.

    Attributes:
        key: the field, dotted where it lies in a group.
        value: as YAML reads it; text where it came from the command line.
        where: ``file.yaml line 3: epochs`` or ``--epochs``, the start of a line that tells what is wrong with it.
        typed: whether it was typed on the command line.
    """

    key: str
    value: Any
    where: str
    typed: bool


def yaml_values(path: Path, groups: Collection[str]) -> tuple[list[Value], list[str]]:
    """The values of a YAML file with the lines they stand on.

    Args:
        path: the file.
        groups: keys whose values are mappings to look into.

    Returns:
        The values in the order of the file, and what is wrong with its keys, a phrase each.

    Raises:
        MienError: the file is missing or is no YAML; nothing else can be told then.
    """
    problems: list[str] = []
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        if isinstance(root, yaml.MappingNode):
            return list(_walk(root, "", path, loader, groups, problems)), problems
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
    if root is not None:
        problems.append(f"{path}: expected lines like `epochs: 30`, got something else")
    return [], problems


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


def _walk(
    mapping: yaml.MappingNode,
    prefix: str,
    path: Path,
    loader: yaml.SafeLoader,
    groups: Collection[str],
    problems: list[str],
) -> Iterator[Value]:
    first: dict[str, int] = {}
    for key_node, node in mapping.value:
        key = prefix + str(loader.construct_object(key_node, deep=True))[:_LONGEST_KEY]
        line = key_node.start_mark.line + 1
        where = f"{path} line {line}: {key}"
        if key in first:
            problems.append(f"{where}: is given twice, first on line {first[key]}, keep one")
            continue
        first[key] = line
        if key in groups and isinstance(node, yaml.MappingNode):
            yield from _walk(node, f"{key}.", path, loader, groups, problems)
        else:
            yield Value(key, loader.construct_object(node, deep=True), where, typed=False)
