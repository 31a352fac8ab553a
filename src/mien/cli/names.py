"""The default names of outputs: new ones, told to the user, that never take the place of a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from mien.files import free_path
from mien.text import safe_stem, shown


def out_for(kind: str, models: Sequence[Path]) -> Path:
    """Returns a new folder ``KIND/NAME`` that is named after the models, such as ``reports/first``; reports it."""
    names = [path.resolve().parent.name if path.name == "model" else path.resolve().name for path in models]
    return _reported(free_path(Path(kind) / safe_stem("-".join(names))))


def faces_of(photos: Path) -> Path:
    """Returns a new folder in the working folder that is named after a set of photos: ``photos-faces``; reports it."""
    return new_file(Path(f"{safe_stem(photos.resolve().stem)}-faces"))


def new_file(path: Path) -> Path:
    """Returns the path, or if something is there, the first with a number: ``drawn-2.zip``; reports it."""
    return _reported(free_path(path))


def _reported(path: Path) -> Path:
    print(f"mien: writing to {shown(path)}; --out chooses another place", file=sys.stderr)
    return path
