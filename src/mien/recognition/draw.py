"""Pictures with a box around every face and what its look was read as, legible at any size and on any ground."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mien.files import atomic_file
from mien.text import safe_stem

if TYPE_CHECKING:
    from mien.recognition.results import Face, Recognition


Colour = tuple[int, int, int]
_Area = tuple[int, int, int, int]
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

COLOURS: dict[str, Colour] = {
    "angry": (226, 75, 60),
    "disgust": (126, 170, 60),
    "fear": (157, 108, 214),
    "happy": (244, 190, 46),
    "sad": (72, 132, 220),
    "surprise": (240, 132, 190),
    "neutral": (172, 180, 186),
}
"""A colour for every expression of FER2013, alike in photos, films and timelines."""

_OTHERS: tuple[Colour, ...] = ((60, 180, 175), (200, 140, 90), (120, 120, 255), (255, 140, 90), (140, 200, 140))
_DARK: Colour = (20, 22, 26)
_LIGHT: Colour = (255, 255, 255)
_SMALLEST_TEXT = 9


def colour_of(name: str) -> Colour:
    """The colour of an expression, RGB; one that FER2013 does not know has the same each time."""
    return COLOURS.get(name) or _OTHERS[sum(name.encode()) % len(_OTHERS)]


@lru_cache(maxsize=64)
def font(size: int) -> _Font:
    """Pillow's own typeface in a size in pixels; no font need be installed."""
    return ImageFont.load_default(size)


def annotated(pixels: np.ndarray, faces: Sequence[Face]) -> np.ndarray:
    """A copy of a picture with a box around every face and a plate that tells what its look was read as.

    Boxes have the colour of the expression and a dark rim, so that they show on any ground. A face whose answer is
    uncertain has a dashed box, and a question mark after the label. Plates stand above their box, or where there is
    room; what would not be legible, in a picture of a few pixels say, is left out.

    Args:
        pixels: uint8 [H, W] (grey) or [H, W, 3] (RGB).
        faces: what was read in it.

    Returns:
        uint8 [H, W, 3], RGB.
    """
    colour = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels
    if not faces:
        return colour.copy()
    image = Image.fromarray(np.ascontiguousarray(colour))
    pen = ImageDraw.Draw(image)
    width, height = image.size
    line = max(1, round(min(width, height) / 240))
    areas = [_area(face, width, height) for face in faces]
    # Large boxes first, so that a small face in front of a large one stays whole.
    order = sorted(range(len(faces)), key=lambda index: -_size(areas[index]))
    for index in order:
        _box(pen, areas[index], colour_of(faces[index].label), line, dashed=bool(faces[index].uncertain))
    taken: list[_Area] = []
    for index in order:
        others = [area for other, area in enumerate(areas) if other != index]
        _plate(pen, faces[index], areas[index], others, taken, (width, height))
    return np.asarray(image).copy()


def _area(face: Face, width: int, height: int) -> _Area:
    """Left, top, right and bottom of a box in whole pixels of the picture; right and bottom belong to it."""
    left, top, wide, high = face.box
    right, bottom = round(left + wide) - 1, round(top + high) - 1
    left, top = min(max(round(left), 0), width - 1), min(max(round(top), 0), height - 1)
    return left, top, min(max(right, left), width - 1), min(max(bottom, top), height - 1)


def _size(area: _Area) -> int:
    return (area[2] - area[0]) * (area[3] - area[1])


def _box(pen: ImageDraw.ImageDraw, area: _Area, colour: Colour, line: int, *, dashed: bool) -> None:
    left, top, right, bottom = area
    smaller = min(right - left, bottom - top)
    line = max(1, min(line, smaller // 8))
    rim = max(1, line // 2) if smaller >= 12 else 0
    if rim:
        pen.rectangle((left - rim, top - rim, right + rim, bottom + rim), outline=_DARK, width=line + 2 * rim)
    if not dashed or smaller < 12:
        pen.rectangle(area, outline=colour, width=line)
        return
    dash = max(3 * line, round(smaller / 14))
    for start in range(left, right, 2 * dash):
        end = min(start + dash - 1, right)
        pen.rectangle((start, top, end, top + line - 1), fill=colour)
        pen.rectangle((start, bottom - line + 1, end, bottom), fill=colour)
    for start in range(top, bottom, 2 * dash):
        end = min(start + dash - 1, bottom)
        pen.rectangle((left, start, left + line - 1, end), fill=colour)
        pen.rectangle((right - line + 1, start, right, end), fill=colour)


def _plate(
    pen: ImageDraw.ImageDraw,
    face: Face,
    area: _Area,
    others: Sequence[_Area],
    taken: list[_Area],
    size: tuple[int, int],
) -> None:
    """Writes the label of a face where there is room, and notes the place as taken."""
    written = _fitting(face, area, size)
    if written is None:
        return
    text, chosen, (wide, high), pad = written
    places = list(_places(area, wide, high, size))
    # A plate may cover a face rather than another plate, if it must cover something.
    free = [place for place in places if not any(_meet(place, other) for other in taken)]
    clear = [place for place in free if not any(_meet(place, other) for other in others)]
    left, top, right, bottom = (clear or free or places)[0]
    taken.append((left, top, right, bottom))
    pen.rectangle((left, top, right, bottom), fill=_DARK)
    pen.rectangle((left, top, left + max(1, pad // 2) - 1, bottom), fill=colour_of(face.label))
    pen.text((left + pad + pad // 2, (top + bottom + 1) / 2), text, fill=_LIGHT, font=chosen, anchor="lm")


def _fitting(face: Face, area: _Area, size: tuple[int, int]) -> tuple[str, _Font, tuple[int, int], int] | None:
    """The longest text for a face that the picture has room for, its font, width and height of its plate, its rim."""
    width, height = size
    wanted = min(max(round((area[3] - area[1]) / 8), 12), max(12, min(width, height) // 24))
    mark = "?" if face.uncertain else ""
    texts = (f"{face.label}{mark} {face.score:.0%}", f"{face.label}{mark}", f"{face.label[:3]}{mark}")
    for text in texts:
        for points in range(wanted, _SMALLEST_TEXT - 1, -1):
            chosen, pad = font(points), max(2, points // 4)
            wide, high = round(chosen.getlength(text)) + 2 * pad + pad // 2, round(1.35 * points)
            if wide <= width and high <= height // 3:
                return text, chosen, (wide, high), pad
    return None


def _places(area: _Area, wide: int, high: int, size: tuple[int, int]) -> Iterator[_Area]:
    """Where a plate may stand within the picture, the best place first: above, below, beside, in the box, anywhere."""
    width, height = size
    left, top, right, bottom = area
    flush = right - wide + 1
    corners = [(left, top - high - 1), (flush, top - high - 1), (left, bottom + 2), (flush, bottom + 2)]
    corners += [(right + 2, top), (left - wide - 1, top), (left + 1, top + 1), (left + 1, bottom - high)]
    corners += [(left, top - step * high - step) for step in (2, 3)] + [(left, bottom + step * high) for step in (1, 2)]
    for x, y in corners:
        moved = min(max(x, 0), width - wide)
        if 0 <= y <= height - high and (moved == x or y != top):
            yield moved, y, moved + wide - 1, y + high - 1
    # Over the box, when nothing else is left: moved into the picture.
    x, y = min(max(left, 0), width - wide), min(max(top, 0), height - high)
    yield x, y, x + wide - 1, y + high - 1


def _meet(one: _Area, other: _Area) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]


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
