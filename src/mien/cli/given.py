"""Values of settings as they were given, in a YAML file, each with the place it stands at."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mien.errors import MienError

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
