"""Where a detector looks in a picture: at which scales, and in which tiles.

The plan follows from the size of the picture and of the smallest face alone, never from what has been found: a picture
without a face costs no more than one with a face.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

SMALLEST = 13.0
"""Side in pixels that the smallest face has at least when it is looked for: YuNet finds real faces from there on
(``python benchmarks/limits.py``)."""

SMALLEST_GREY = 24.0
"""The same in a grey picture: without its colours it knows faces only when they are larger."""

LARGEST_SMALLEST = 32.0
"""The same, at most: enlarging shows faces better that are blurred or cut out, but not beyond that."""

PIXELS = 450_000
"""Pixels to which a picture is brought within these two bounds: they set how long a search takes."""

FEW, FEW_SCALE = 90_000, 0.75
"""A picture of fewer pixels is not enlarged but brought to this scale: the search takes most of the time there, and
real faces of 24 pixels are still large enough."""

STEP = 3.0
"""How many times coarser each further search is, for larger faces."""

COARSEST = 400
"""Longer side in pixels of the last, coarsest search, which is one tile, so that the largest face is whole in it."""

OVERLAP = 128
"""Pixels that neighbouring tiles share; a face that is larger than that is seen whole by the next coarser search."""

ROOM = 0.1
"""How much of a tile has to be seen around a face, as a share of the box's longer side, where the picture goes on."""

LONGEST = 1152
"""Longest side of a tile, in pixels: what bounds the memory."""

_BAND = 1 << 23
_ROWS = 2.5  # of a picture for each row of the smaller one, at least


@dataclass(frozen=True)
class Tile:
    """A part of a picture, and the size in which it is looked at.

    Attributes:
        left, top, right, bottom: the part, in pixels of the picture.
        width, height: what it is brought to.
    """

    left: int
    top: int
    right: int
    bottom: int
    width: int
    height: int

    def pixels(self, picture: np.ndarray) -> np.ndarray:
        """The part in its size: uint8 [height, width] or [height, width, 3]."""
        return resized(picture[self.top : self.bottom, self.left : self.right], self.width, self.height)

    def whole(self, rows: np.ndarray, height: int, width: int) -> np.ndarray:
        """Of boxes in the tile, those of faces that are not cut off by an edge of the tile within the picture.

        What is cut off is whole in a neighbour or at a coarser scale; here its box would be too small.

        Args:
            rows: float64 [N, 4 or more]: left, top, width, height in pixels of the tile.
            height: of the picture, in pixels.
            width: the same.
        """
        room = ROOM * rows[:, 2:4].max(axis=1, initial=0)
        cut = (rows[:, 0] < room) & (self.left > 0) | (rows[:, 1] < room) & (self.top > 0)
        cut |= (rows[:, 0] + rows[:, 2] > self.width - room) & (self.right < width)
        cut |= (rows[:, 1] + rows[:, 3] > self.height - room) & (self.bottom < height)
        return rows[~cut]

    def placed(self, rows: np.ndarray) -> np.ndarray:
        """Boxes in the tile, float64 [N, 5 or more] (left, top, width, height, ...), in pixels of the picture."""
        across, down = (self.right - self.left) / self.width, (self.bottom - self.top) / self.height
        rows = rows.copy()
        rows[:, :4] *= (across, down, across, down)
        rows[:, :2] += (self.left, self.top)
        return rows


def plan(height: int, width: int, min_face: float, grey: bool = False) -> list[Tile]:
    """The tiles in which to look for faces of at least ``min_face`` pixels, the finest search first.

    Args:
        height: of the picture, in pixels.
        width: the same.
        min_face: side in pixels of the smallest face that is to be found.
        grey: whether the picture has no colours.
    """
    scale = min((PIXELS / (height * width)) ** 0.5, LARGEST_SMALLEST / min_face)
    if height * width < FEW:
        scale = min(scale, FEW_SCALE)
    scale = max(scale, (SMALLEST_GREY if grey else SMALLEST) / min_face)
    tiles: list[Tile] = []
    while max(height, width) * scale > COARSEST:
        tiles += _tiles(height, width, scale)
        scale /= STEP
    return [*tiles, Tile(0, 0, width, height, max(1, round(width * scale)), max(1, round(height * scale)))]


def resized(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture in another size: the mean of the pixels that one covers where it becomes smaller, else bilinear.

    In bands, as Pillow's copy of a picture of the largest size would take half a gigabyte.

    Args:
        pixels: uint8 [H, W] or [H, W, 3].
        width: in pixels.
        height: the same.

    Returns:
        uint8 [height, width] or [height, width, 3].
    """
    rows, columns = pixels.shape[:2]
    if (rows, columns) == (height, width):
        return pixels
    # Where many rows become one, the mean of some of them will do.
    pixels = pixels[:: max(1, int(rows / height / _ROWS))]
    rows, columns = pixels.shape[:2]
    shrinks = rows * columns > height * width
    method = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR  # the mean takes half of the time
    bands = min(height, -(-rows * columns // _BAND))
    parts = []
    for band in range(bands):
        first, last = (height * end // bands for end in (band, band + 1))
        region = pixels[first * rows // height : max(last * rows // height, first * rows // height + 1)]
        image = Image.fromarray(np.ascontiguousarray(region))
        parts.append(image.resize((width, last - first), method, reducing_gap=1.0))
    return np.concatenate([np.asarray(part) for part in parts]) if bands > 1 else np.asarray(parts[0])


def _tiles(height: int, width: int, scale: float) -> Iterator[Tile]:
    """The tiles of one search: two at least, for two cores; on any machine, as answers must not depend on the cores."""
    wide, high = max(1, round(width * scale)), max(1, round(height * scale))
    across, down = _parts(wide), _parts(high)
    if across == down == 1:
        across, down = (2, 1) if wide > high else (1, 2)
    for top, bottom in _spans(high, down):
        for left, right in _spans(wide, across):
            yield Tile(
                left * width // wide, top * height // high, -(-right * width // wide), -(-bottom * height // high),
                right - left, bottom - top,
            )  # fmt: skip


def _parts(length: int) -> int:
    """How many tiles cover a length."""
    return max(1, -(-(length - OVERLAP) // (LONGEST - OVERLAP)))


def _spans(length: int, count: int) -> list[tuple[int, int]]:
    """Start and end of equal parts of a length that share ``OVERLAP``."""
    part = min(length, -(-(length + (count - 1) * OVERLAP) // count))
    return [(start, start + part) for start in (round(k * (length - part) / max(count - 1, 1)) for k in range(count))]
