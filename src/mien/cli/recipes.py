"""Recipes: YAML files of settings, those of the package by name; each setting is read with its line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from mien.errors import MienError
from mien.files import expanded

RECIPES = Path(__file__).parents[1] / "recipes"
"""Folder of the recipes, one YAML file each."""

Add = Callable[[str, Any, str], None]

_LONGEST_FILE = 100_000
"""Letters of a YAML file, some 50 times a long recipe; PyYAML takes about a second to read as many."""

_LONGEST_KEY = 80
"""Letters of a key; the longest field has some 20."""

_DEEPEST = 20
"""Levels of a YAML file; settings have three at most."""


def recipes() -> tuple[str, ...]:
    """Returns the names of the recipes, sorted."""
    return tuple(sorted(path.stem for path in RECIPES.glob("*.yaml")))


def recipe_file(word: str) -> Path:
    """Returns the file that ``--config`` names: a file of that path, or else the recipe of that name.

    Raises:
        MienError: it is neither; the message names the nearest recipe.
    """
    path = expanded(word)
    if path.exists() or path.is_symlink():
        return path
    if word in recipes():
        return RECIPES / f"{word}.yaml"
    # Earlier versions had the recipes beside the package: configs/baseline.yaml.
    close = difflib.get_close_matches(path.stem, recipes(), n=1)
    hint = f"did you mean --config {close[0]}?" if close else f"recipes: {', '.join(recipes())};"
    raise MienError(f"{word}: is no file and no recipe; {hint} --config expects a YAML file or the name of a recipe")


def read_yaml(path: Path, add: Add, groups: Collection[str]) -> list[str]:
    """Adds the values of a YAML file with the lines they stand on.

    Args:
        path: the file.
        add: called with the dotted name, the value and the place of each field.
        groups: names of the fields that are groups.

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
        loader = Loader(text)
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
                add(name, value, place)
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
            yield name, _plain(node, loader), key_node.start_mark.line + 1


def _plain(node: yaml.Node, loader: yaml.SafeLoader) -> Any:
    """Returns the value of a node; a bare yes, no, on or off stays the word that was written, as in YAML 1.2.

    Switches accept these words as well, and where a text is expected, ``off`` is one.
    """
    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:bool":
        is_word = node.value.lower() in ("yes", "no", "on", "off")
        return node.value if is_word else loader.construct_object(node)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, loader) for item in node.value]
    return loader.construct_object(node, deep=True)


class Loader(yaml.SafeLoader):
    """Reads settings, which are flat: aliases, by which 400 bytes become gigabytes, and deep nesting are refused.

    So is a key that is given twice, of which PyYAML would keep the last in silence.
    """

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

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in keys:
                problem = f"{key.value[:_LONGEST_KEY]} is given twice, keep one"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            keys.add(str(key.value))
        return super().construct_mapping(node, deep)


# YAML 1.1 takes 2026-11-27 for a date, 1:30 for 90 and 010 for 8: here they are text, which a field accepts or refuses.
Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in rules if tag.rpartition(":")[2] not in ("timestamp", "int")]
    for letter, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# So is a number of more digits than Python reads.
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0|[1-9][0-9]{0,4000})$"), list("-+0123456789")
)
# YAML 1.1 takes 3e-5, which has no dot, for text.
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parsed(text: str) -> Any:
    """Returns a text as YAML or JSON reads it, or the text if it is neither."""
    try:
        value = Loader(text).get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    return text if value is None else value
