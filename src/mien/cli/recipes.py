"""The recipes that come with the package: settings by name, as in ``--config baseline``."""

from __future__ import annotations

import difflib
from pathlib import Path

from mien.errors import MienError
from mien.files import expanded

RECIPES = Path(__file__).parents[1] / "recipes"
"""Folder of the recipes, one YAML file each."""


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
