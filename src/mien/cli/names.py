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


def picture_for(photo: Path, what: str) -> Path:
    """Returns a new PNG file in the working folder that is named after a photo: ``photo-explained.png``; reports it."""
    return _reported(free_path(Path(f"{safe_stem(photo.stem)}-{what}.png")))


def _reported(path: Path) -> Path:
    print(f"mien: writing to {shown(path)}; --out chooses another place", file=sys.stderr)
    return path
