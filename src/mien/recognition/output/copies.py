"""Annotated copies of pictures in a folder, none of which ever takes the place of a file that is there."""

from __future__ import annotations

import os
from pathlib import Path

from mien.files import atomic_file
from mien.recognition.results import Recognition
from mien.text import safe_stem

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
"""Bytes of a file's name that file systems allow."""


def numbered(stem: str, count: int, suffix: str) -> str:
    """A name with a number before its ending, the stem shortened if it must be."""
    name = f"{stem}-{count}{suffix}"
    return name if len(os.fsencode(name)) <= _LONGEST_NAME else f"{safe_stem(stem)}-{count}{suffix}"


class Copies:
    """Writes annotated copies under the names of the pictures.

    A name that is taken, be it by a picture of another folder, by the picture itself or by an earlier run, gets a
    number: ``face-2.jpg``. Pictures of kinds that are not written (GIF, PPM) become ``face.gif.png``.

    Args:
        folder: where to, made where it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._counts: dict[str, int] = {}

    def add(self, record: Recognition) -> Path:
        """Writes the copy of a picture whose pixels the record keeps; returns its path.

        Raises:
            MienError: the record keeps no pixels, or the folder cannot be written to.
        """
        path = self.place(Path(record.input).name)
        with atomic_file(path, spare_newcomer=True) as temporary:
            record.annotated().save(temporary, format=_KINDS[path.suffix.lower()], quality=_QUALITY)
        return path

    def place(
        self, name: str, kinds: tuple[str, ...] = tuple(_KINDS), otherwise: str = ".png", not_at: Path | None = None
    ) -> Path:
        """A path in the folder that is not taken, for a file of a name.

        Args:
            name: of the original.
            kinds: the endings that can be written.
            otherwise: what is put behind a name with another ending.
            not_at: a path that is taken, though nothing is there yet.
        """
        name = name if Path(name).suffix.lower() in kinds else name + otherwise
        stem, suffix = Path(name).stem, Path(name).suffix
        if len(os.fsencode(name)) > _LONGEST_NAME:
            name = f"{safe_stem(stem)}{suffix}"
        count = self._counts.get(name, 0) + 1
        path = self.folder / (name if count == 1 else numbered(stem, count, suffix))
        taken = None if not_at is None else not_at.absolute()
        while os.path.lexists(path) or path.absolute() == taken:
            count += 1
            path = self.folder / numbered(stem, count, suffix)
        self._counts[name] = count
        return path
