"""Draws boxes and labels of faces on pictures, and writes copies of pictures with them."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mien import fonts
from mien.errors import MienError, one_line
from mien.files import LONGEST_NAME, SparedError, atomic_file, numbered
from mien.recognition.faces import Face, Record
from mien.text import safe_stem

Colour = tuple[int, int, int]
_Area = tuple[int, int, int, int]

COLOURS: dict[str, Colour] = {
    "angry": (226, 75, 60),
    "disgust": (126, 170, 60),
    "fear": (157, 108, 214),
    "happy": (244, 190, 46),
    "sad": (72, 132, 220),
    "surprise": (240, 132, 190),
    "neutral": (172, 180, 186),
}
"""A colour for every expression of FER2013, the same in photos, films and timelines."""

_DARK: Colour = (20, 22, 26)
_LIGHT: Colour = (255, 255, 255)
_SMALLEST_TEXT = 9


def colour_of(name: str, names: Sequence[str] = ()) -> Colour:
    """Returns the colour of an expression, RGB; no other one of ``names``, those of the model, has the same colour."""
    return palette(tuple(sorted({name, *names})))[name]


@lru_cache(maxsize=64)
def palette(names: tuple[str, ...]) -> dict[str, Colour]:
    """Returns a colour for each of any number of expressions: those of FER2013 keep theirs, and all differ.

    Each further name gets, of many colours of medium lightness, the one that is farthest from all before it and from
    those of FER2013.
    """
    others = [name for name in names if name not in COLOURS]
    count = np.arange(1, 64 + 8 * len(others) + 1)
    # The multiples of these numbers cover hue, lightness and saturation evenly (the R3 sequence).
    hues, lights, saturations = (count * share % 1 for share in (0.8191725134, 0.6710436067, 0.5497004779))
    candidates = np.array(
        [
            [round(255 * value) for value in colorsys.hls_to_rgb(hue, 0.42 + 0.36 * light, 0.45 + 0.5 * saturation)]
            for hue, light, saturation in zip(hues, lights, saturations, strict=True)
        ]
    )
    nearest = np.min([_distances(candidates, np.array(colour)) for colour in COLOURS.values()], axis=0)
    colours = dict(COLOURS)
    for name in others:
        best = candidates[int(nearest.argmax())]
        colours[name] = (int(best[0]), int(best[1]), int(best[2]))
        nearest = np.minimum(nearest, _distances(candidates, best))
    return colours


def _distances(colours: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Returns how different colours, int [N, 3], look from one, float [N] ("redmean", an approximation of CIELUV)."""
    red = (colours[:, 0] + colour[0]) / 2
    weights = np.stack([2 + red / 256, np.full(len(colours), 4.0), 2 + (255 - red) / 256], axis=1)
    return np.sqrt((weights * (colours - colour) ** 2).sum(axis=1))


def annotated(pixels: np.ndarray, faces: Sequence[Face]) -> np.ndarray:
    """Returns a copy of a picture with a box and a label for every face.

    A box has the colour of the expression and a dark rim, so that it is visible on any background. An uncertain answer
    gives a dashed box and a question mark after the label. A label stands above its box, or elsewhere if there is no
    room; labels that would not be legible in a tiny picture are omitted.

    Args:
        pixels: uint8 [H, W] (grey) or [H, W, 3] (RGB).
        faces: the faces in it.

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
    # Large boxes first, so that the box of a small face in front of a large one stays whole.
    order = sorted(range(len(faces)), key=lambda index: -_size(areas[index]))
    for index in order:
        face = faces[index]
        _box(pen, areas[index], _colour(face), line, dashed=bool(face.uncertain))
    taken: list[_Area] = []
    for index in order:
        other_areas = [area for row, area in enumerate(areas) if row != index]
        _plate(pen, faces[index], areas[index], other_areas, taken, (width, height))
    return np.asarray(image).copy()


def drawn(record: Record) -> Image.Image:
    """Returns a copy of the picture of a record with a box and a label for every face; mode RGB.

    Raises:
        MienError: the picture could not be read, or its pixels were not kept.
    """
    if record.pixels is None:
        reason = record.error or "its pixels were not kept; read it with keep_pixels=True"
        raise MienError(f"{record.input}: cannot be drawn on: {reason}")
    return Image.fromarray(annotated(record.pixels, record.faces))


def _colour(face: Face) -> Colour:
    return colour_of(face.label, tuple(face.probabilities))


def _area(face: Face, width: int, height: int) -> _Area:
    """Rounds a box to whole pixels within the picture: left, top, right and bottom, all inclusive."""
    left, top, wide, high = face.box
    right, bottom = round(left + wide) - 1, round(top + high) - 1
    left, top = min(max(round(left), 0), width - 1), min(max(round(top), 0), height - 1)
    return left, top, min(max(right, left), width - 1), min(max(bottom, top), height - 1)


def _size(area: _Area) -> int:
    return (area[2] - area[0]) * (area[3] - area[1])


def _box(pen: ImageDraw.ImageDraw, area: _Area, colour: Colour, line: int, *, dashed: bool) -> None:
    """Draws a box, solid or dashed; small boxes get thin lines, which leave the face visible, and tiny ones no rim."""
    left, top, right, bottom = area
    smaller = min(right - left, bottom - top)
    line = max(1, min(line, smaller // 24))
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
    other_areas: Sequence[_Area],
    taken: list[_Area],
    size: tuple[int, int],
) -> None:
    """Draws the label of a face on a dark plate where there is room, and adds the plate to ``taken``."""
    label = _fitting_label(face, area, size)
    if label is None:
        return
    text, points, (wide, high), pad = label
    places = list(_places(area, wide, high, size))
    # If a plate must cover something, then rather a face than another plate.
    free = [place for place in places if not any(_intersect(place, plate) for plate in taken)]
    clear = [place for place in free if not any(_intersect(place, area) for area in other_areas)]
    left, top, right, bottom = (clear or free or places)[0]
    taken.append((left, top, right, bottom))
    pen.rectangle((left, top, right, bottom), fill=_DARK)
    pen.rectangle((left, top, left + max(1, pad // 2) - 1, bottom), fill=_colour(face))
    fonts.write(pen, (left + pad + pad // 2, (top + bottom + 1) / 2), text, points, _LIGHT, "lm")


def _fitting_label(face: Face, area: _Area, size: tuple[int, int]) -> tuple[str, int, tuple[int, int], int] | None:
    """Returns the longest label that fits in the picture, the size of its font and of its plate, and the padding."""
    width, height = size
    largest = min(max(round((area[3] - area[1]) / 8), 12), max(12, min(width, height) // 24))
    mark = "?" if face.uncertain else ""
    texts = (f"{face.label}{mark} {face.score:.0%}", f"{face.label}{mark}", f"{face.label[:3]}{mark}")
    for text in texts:
        for points in range(largest, _SMALLEST_TEXT - 1, -1):
            pad = max(2, points // 4)
            wide, high = round(fonts.width(text, points)) + 2 * pad + pad // 2, round(1.35 * points)
            if wide <= width and high <= height // 3:
                return text, points, (wide, high), pad
    return None


def _places(area: _Area, wide: int, high: int, size: tuple[int, int]) -> Iterator[_Area]:
    """Yields places for a plate within the picture, the best first: above, below, beside, in the box, anywhere."""
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
    # The last resort: at the corner of the box, moved into the picture.
    x, y = min(max(left, 0), width - wide), min(max(top, 0), height - high)
    yield x, y, x + wide - 1, y + high - 1


def _intersect(first: _Area, second: _Area) -> bool:
    return first[0] <= second[2] and second[0] <= first[2] and first[1] <= second[3] and second[1] <= first[3]


# Copies with boxes, and free names for them.

_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_QUALITY = 95  # of JPEG and WebP


class CopyError(MienError):
    """A picture or a film cannot be written in its format, though others may be: it is too large for it."""


def picture_format(path: Path, endings: str = ".jpg or .png") -> str:
    """Returns Pillow's name of the format that the ending of a path means.

    Args:
        path: of the picture.
        endings: the best ones, for the message.

    Raises:
        MienError: no picture format that can be written has this ending.
    """
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind is None or kind not in Image.SAVE:
        raise MienError(f"{path}: is not a name for a picture, expected one that ends in {endings}; change it")
    return kind


def write_picture(image: Image.Image, path: Path, *, spare_all: bool = False) -> None:
    """Writes a picture; a file that appears at its path meanwhile is not replaced.

    Args:
        image: the picture.
        path: the file, whose ending decides the format.
        spare_all: leave also a file that was there before.

    Raises:
        MienError: no picture format has this ending, the disk is full or the folder cannot be written to.
        CopyError (a MienError): the format does not hold such a picture, such as WebP one of more than 16,383 pixels.
        SparedError (a MienError): a file appeared at the path; the picture has a number beside it.
    """
    kind = picture_format(path)
    options = {"quality": _QUALITY} if kind in ("JPEG", "WEBP") else {}
    with atomic_file(path, spare_newcomer=True, spare_all=spare_all) as temporary:
        try:
            image.save(temporary, format=kind, **options)
        except Exception as error:  # each encoder has its own: ValueError, RuntimeError, OSError, struct.error
            if isinstance(error, OSError) and error.errno is not None:
                raise
            reason = "not enough memory" if isinstance(error, MemoryError) else one_line(str(error))
            raise CopyError(
                f"{path}: {image.width}x{image.height} pixels cannot be written as {kind} ({reason}), expected a "
                "smaller picture or another format; make it smaller, or convert it to PNG"
            ) from error


class Copies:
    """Writes annotated copies under the names of the pictures.

    If a name is in use, a number is added: ``face-2.jpg``. Formats that cannot be written (GIF, PPM) become
    ``face.gif.png``.

    Args:
        folder: folder of the copies; it is created if it does not exist.
        reserved: paths of other results, which no copy takes, though nothing is there yet.
    """

    def __init__(self, folder: Path, reserved: Iterable[Path] = ()) -> None:
        self.folder = folder
        self._reserved = {os.path.realpath(path) for path in reserved}
        self._counts: dict[str, int] = {}

    def add(self, record: Record) -> Path:
        """Writes the copy of a picture and returns its path.

        Raises:
            MienError: the record has no pixels, the disk is full, or the folder cannot be written to.
            CopyError (a MienError): the format of the picture does not hold its copy, or the memory not its drawing.
        """
        path = self.place(Path(record.input).name)
        try:
            image = drawn(record)
        except MemoryError as error:  # only this picture is too large: the next one may be smaller
            raise CopyError(
                f"{path}: cannot be written, as there is not enough memory to draw on the picture; close other "
                "programs, or make it smaller"
            ) from error
        try:
            write_picture(image, path, spare_all=True)
        except SparedError as error:  # another command took the name after `place` had found it free
            return error.place
        return path

    def place(self, name: str, kinds: tuple[str, ...] = _ENDINGS, otherwise: str = ".png") -> Path:
        """Returns a free path in the folder for a copy.

        Args:
            name: file name of the original.
            kinds: endings that can be written.
            otherwise: ending that is appended to a name with another ending.
        """
        name = name if Path(name).suffix.lower() in kinds else name + otherwise
        stem, suffix = Path(name).stem, Path(name).suffix
        if len(os.fsencode(name)) > LONGEST_NAME:
            name = f"{safe_stem(stem)}{suffix}"
        count = self._counts.get(name, 0) + 1
        path = self.folder / (name if count == 1 else numbered(stem, count, suffix))
        while os.path.lexists(path) or os.path.realpath(path) in self._reserved:
            count += 1
            path = self.folder / numbered(stem, count, suffix)
        self._counts[name] = count
        return path
