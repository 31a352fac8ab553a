"""Writes annotated copies of pictures and finds free names for those of films."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mien.files import atomic_file
from mien.text import safe_stem

if TYPE_CHECKING:
    from mien.recognition.results import Recognition

_KINDS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".bmp": "BMP",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
_QUALITY = 95

_LONGEST_NAME = 255
"""Bytes of the longest file name that file systems allow."""


def numbered(stem: str, count: int, suffix: str) -> str:
    """Returns a file name with a number before its ending; a stem that is too long is shortened."""
    name = f"{stem}-{count}{suffix}"
    return name if len(os.fsencode(name)) <= _LONGEST_NAME else f"{safe_stem(stem)}-{count}{suffix}"


class Copies:
    """Writes annotated copies under the names of the pictures.

    If a name is in use, a number is added: ``face-2.jpg``. Formats that cannot be written (GIF, PPM) become
    ``face.gif.png``.

    Args:
        folder: folder of the copies; it is created if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._counts: dict[str, int] = {}

    def add(self, record: Recognition) -> Path:
        """Writes the copy of a picture and returns its path.

        Raises:
            MienError: the record has no pixels, or the folder cannot be written to.
        """
        path = self.place(Path(record.input).name)
        with atomic_file(path, spare_newcomer=True) as temporary:
            record.annotated().save(temporary, format=_KINDS[path.suffix.lower()], quality=_QUALITY)
        return path

    def place(
        self, name: str, kinds: tuple[str, ...] = tuple(_KINDS), otherwise: str = ".png", not_at: Path | None = None
    ) -> Path:
        """Returns a free path in the folder for a copy.

        Args:
            name: file name of the original.
            kinds: endings that can be written.
            otherwise: ending that is appended to a name with another ending.
            not_at: a path that is reserved, though nothing is there yet.
        """
        name = name if Path(name).suffix.lower() in kinds else name + otherwise
        stem, suffix = Path(name).stem, Path(name).suffix
        if len(os.fsencode(name)) > _LONGEST_NAME:
            name = f"{safe_stem(stem)}{suffix}"
        count = self._counts.get(name, 0) + 1
        path = self.folder / (name if count == 1 else numbered(stem, count, suffix))
        reserved = None if not_at is None else not_at.absolute()
        while os.path.lexists(path) or path.absolute() == reserved:
            count += 1
            path = self.folder / numbered(stem, count, suffix)
        self._counts[name] = count
        return path
