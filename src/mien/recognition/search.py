"""The scales and tiles at which a detector searches a picture.

The plan depends only on the size of the picture and of the smallest face, never on what was detected so far. A picture
without a face therefore takes no longer than one with a face.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

SMALLEST = 12.0
"""Least side in pixels of the smallest face in the finest search: from this size on YuNet gives real faces a score, low
as it may be, and a closer look follows (``python benchmarks/limits.py``). Large pictures are halved by it, which is
fast."""

SMALLEST_GREY = 24.0
"""The same for a grey picture: without colour, YuNet finds only larger faces."""

LARGEST_SMALLEST = 32.0
"""Largest side in pixels of the smallest face: enlarging helps with blurred and cut faces up to this size."""

PIXELS = 450_000
"""Pixels to which a picture is scaled within these two bounds; this sets the time of a search."""

FEW, FEW_SCALE = 90_000, 0.75
"""A picture with fewer pixels than ``FEW`` is scaled by ``FEW_SCALE`` instead of enlarged: the search takes most of the
time there, and real faces of 24 pixels are still large enough."""

SMALL_GAIN = 1.25
"""Pictures are not enlarged by less than this factor: films of 640x480 take two thirds of the time without, and of a
hundred faces one more is missed (``python benchmarks/detectors.py``)."""

STEP = 3.0
"""Factor by which each further search, for larger faces, is coarser."""

COARSEST = 400
"""Longer side in pixels of the coarsest search, which is one tile, so that it holds the largest face whole."""

OVERLAP = 128
"""Pixels that neighbouring tiles share; the next coarser search shows a larger face whole."""

ROOM = 0.1
"""Least room between a face and an inner edge of a tile, as a share of the box's longer side."""

LONGEST = 1152
"""Longest side of a tile in pixels; this bounds the memory."""

_BAND_PIXELS = 1 << 23
_SAMPLED_ROWS = 2.5
"""Source rows that are averaged for each row of a smaller picture, at least."""


@dataclass(frozen=True)
class Tile:
    """A part of a picture, and the size at which it is searched.

    Attributes:
        left, top, right, bottom: the part, in pixels of the picture.
        width, height: size in pixels to which the part is resized.
        finest: True if no other tile shows this part with more pixels.
    """

    left: int
    top: int
    right: int
    bottom: int
    width: int
    height: int
    finest: bool = False

    def pixels(self, picture: np.ndarray) -> np.ndarray:
        """Returns the resized part, uint8 [height, width] or [height, width, 3]."""
        return resized(picture[self.top : self.bottom, self.left : self.right], self.width, self.height)

    def whole(self, rows: np.ndarray, height: int, width: int) -> np.ndarray:
        """Drops the boxes of faces that an inner edge of the tile cuts off.

        A neighbouring tile or a coarser scale shows such a face whole; here its box would be too small.

        Args:
            rows: float64 [N, 4 or more]: left, top, width, height in pixels of the tile.
            height: height of the picture, in pixels.
            width: width of the picture, in pixels.
        """
        room = ROOM * rows[:, 2:4].max(axis=1, initial=0)
        cut = (rows[:, 0] < room) & (self.left > 0) | (rows[:, 1] < room) & (self.top > 0)
        cut |= (rows[:, 0] + rows[:, 2] > self.width - room) & (self.right < width)
        cut |= (rows[:, 1] + rows[:, 3] > self.height - room) & (self.bottom < height)
        return rows[~cut]

    def placed(self, rows: np.ndarray) -> np.ndarray:
        """Converts boxes, float64 [N, 4 or more], from pixels of the tile to pixels of the picture."""
        across, down = (self.right - self.left) / self.width, (self.bottom - self.top) / self.height
        rows = rows.copy()
        rows[:, :4] *= (across, down, across, down)
        rows[:, :2] += (self.left, self.top)
        return rows


def plan(height: int, width: int, min_face: float, grey: bool = False) -> list[Tile]:
    """Plans the tiles of a search for faces of at least ``min_face`` pixels; the finest scale comes first.

    Args:
        height: height of the picture, in pixels.
        width: width of the picture, in pixels.
        min_face: side in pixels of the smallest face to find.
        grey: True if the picture has no colour.
    """
    scale = min((PIXELS / (height * width)) ** 0.5, LARGEST_SMALLEST / min_face)
    if height * width < FEW:
        scale = min(scale, FEW_SCALE)
    elif 1 < scale <= SMALL_GAIN:
        scale = 1.0
    scale = max(scale, (SMALLEST_GREY if grey else SMALLEST) / min_face)
    tiles: list[Tile] = []
    while max(height, width) * scale > COARSEST:
        tiles += _tiles(height, width, scale, finest=not tiles)
        scale /= STEP
    whole = Tile(0, 0, width, height, max(1, round(width * scale)), max(1, round(height * scale)), finest=not tiles)
    return [*tiles, whole]


def resized(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resizes a picture: box filter (mean) to a smaller size, bilinear to a larger one.

    It works in bands, since Pillow's copy of the largest picture would take half a gigabyte.

    Args:
        pixels: uint8 [H, W] or [H, W, 3].
        width: new width in pixels.
        height: new height in pixels.

    Returns:
        uint8 [height, width] or [height, width, 3].
    """
    rows, columns = pixels.shape[:2]
    if (rows, columns) == (height, width):
        return pixels
    # If many rows become one, the mean of a few of them is precise enough.
    pixels = pixels[:: max(1, int(rows / height / _SAMPLED_ROWS))]
    rows, columns = pixels.shape[:2]
    shrinks = rows * columns > height * width
    method = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR  # the box filter takes half the time
    bands = min(height, -(-rows * columns // _BAND_PIXELS))
    parts = []
    for band in range(bands):
        first, last = (height * end // bands for end in (band, band + 1))
        region = pixels[first * rows // height : max(last * rows // height, first * rows // height + 1)]
        image = Image.fromarray(np.ascontiguousarray(region))
        parts.append(image.resize((width, last - first), method, reducing_gap=1.0))
    return np.concatenate([np.asarray(part) for part in parts]) if bands > 1 else np.asarray(parts[0])


def _tiles(height: int, width: int, scale: float, *, finest: bool) -> Iterator[Tile]:
    """Yields the tiles of one scale: two or more for two cores; on every machine, for equal answers."""
    wide, high = max(1, round(width * scale)), max(1, round(height * scale))
    across, down = _parts(wide), _parts(high)
    if across == down == 1:
        across, down = (2, 1) if wide > high else (1, 2)
    for top, bottom in _spans(high, down):
        for left, right in _spans(wide, across):
            yield Tile(
                left * width // wide, top * height // high, -(-right * width // wide), -(-bottom * height // high),
                right - left, bottom - top, finest,
            )  # fmt: skip


def _parts(length: int) -> int:
    """Counts the tiles that cover a length."""
    return max(1, -(-(length - OVERLAP) // (LONGEST - OVERLAP)))


def _spans(length: int, count: int) -> list[tuple[int, int]]:
    """Returns start and end of ``count`` equal parts of a length that overlap by at least ``OVERLAP``."""
    part = min(length, -(-(length + (count - 1) * OVERLAP) // count))
    return [(start, start + part) for start in (round(k * (length - part) / max(count - 1, 1)) for k in range(count))]
