"""The interface of a face detector, and the geometry that detectors share: boxes, the tiles of a search, crops."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from mien.errors import MienError
from mien.recognition.arguments import WrongTypeError, type_of
from mien.recognition.engine import Engine, face_size
from mien.recognition.results import Box


@dataclass(frozen=True)
class Detection:
    """A face that a detector found.

    Attributes:
        box: left, top, width and height in pixels of the picture, in the framing of the detector.
        score: confidence on the detector's own scale, higher is surer; None if it has none.
        whole: the full box of a face that an edge of the picture cuts off, as the detector guesses it beyond that edge;
            None if the face is not cut off.
    """

    box: Box
    score: float | None
    whole: Box | None = None

    @property
    def framed(self) -> Box:
        """The box by which to cut the face out: ``whole`` if there is one, else ``box``."""
        return self.box if self.whole is None else self.whole


class Detector(Protocol):
    """Finds faces in a picture."""

    @property
    def name(self) -> str:
        """``yunet``, ``none``, or the name of another detector."""

    @property
    def margin(self) -> float:
        """Share of a box's longer side that FER2013's framing adds on every side; negative if it is tighter."""

    def detect(self, picture: np.ndarray, /) -> list[Detection]:
        """The faces of a picture, uint8 [H, W] (grey) or [H, W, 3] (RGB), upright, from left to right.

        Boxes may leave the picture: they are clipped to it (``fitted``).
        """


@runtime_checkable
class SideBySide(Protocol):
    """What a ``Detector`` has in addition if it can search several pictures at once, each on one thread."""

    threads: int

    def detect_alone(self, picture: np.ndarray, /) -> list[Detection]:
        """Does the same as ``Detector.detect`` on the calling thread only."""


def check(picture: np.ndarray) -> None:
    """Checks that a value is an array of pixels.

    Raises:
        MienError: it is not uint8 [H, W] or [H, W, 3] with at least one pixel.
    """
    if not isinstance(picture, np.ndarray):
        raise MienError(f"picture: is {type_of(picture)}, expected a uint8 array [H, W] or [H, W, 3]")
    right_shape = picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] == 3)
    if picture.dtype != np.uint8 or not right_shape or not picture.size:
        raise MienError(
            f"picture: is {picture.dtype} {list(picture.shape)}, expected uint8 [H, W] or [H, W, 3] with pixels in it; "
            "convert it"
        )


UNION = 0.3
"""Intersection over union, in [0, 1], above which two boxes show the same face."""

NESTED = 0.6
"""Share of the smaller box within the larger one, in [0, 1], above which they show the same face too."""


def without_duplicates(detections: Sequence[Detection]) -> list[Detection]:
    """Keeps the detection with the highest score of each face: from left to right, then from top to bottom."""
    detections = sorted(detections, key=lambda detection: -(detection.score or 0.0))
    boxes = np.array([detection.box for detection in detections], np.float64).reshape(-1, 4)
    remaining = (detections[index] for index in np.flatnonzero(_distinct(boxes, NESTED)))
    return sorted(remaining, key=lambda detection: detection.box[:2])


def overlap(first: Box, second: Box) -> float:
    """Returns the intersection over union of two boxes, in [0, 1]."""
    across = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    down = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    common = max(0.0, across) * max(0.0, down)
    return common / (first[2] * first[3] + second[2] * second[3] - common) if common else 0.0


def within(box: Sequence[float], width: int, height: int) -> Box:
    """Clips a box (left, top, width, height) to a picture of ``width`` x ``height`` pixels."""
    left, top = max(0.0, float(box[0])), max(0.0, float(box[1]))
    right, bottom = min(float(width), float(box[0] + box[2])), min(float(height), float(box[1] + box[3]))
    return left, top, max(0.0, right - left), max(0.0, bottom - top)


def fitted(detection: Detection, width: int, height: int) -> Detection:
    """Clips the box of a detection to a picture of ``width`` x ``height`` pixels; the full box becomes its ``whole``.

    Raises:
        WrongTypeError (a MienError and a TypeError): it is no Detection, which is a mistake of the detector.
        MienError: the box is not four finite numbers, shows less than a pixel of the picture, or has more than twice
            its longer side.
    """
    if not isinstance(detection, Detection):
        raise WrongTypeError(f"detector: found {type_of(detection)}, expected a mien.recognition.detection.Detection")
    boxes = detection.box, detection.framed
    clipped = [within(box, width, height) for box in boxes if len(box) == 4 and np.isfinite(box).all()]
    longest = 2 * max(width, height)
    if len(clipped) < 2 or min(min(box[2:]) for box in clipped) < 1 or max(detection.framed[2:]) > longest:
        raise MienError(
            f"the detector found a face at {', '.join(f'{value:g}' for value in detection.framed)} (left, top, width, "
            f"height) in {width}x{height} pixels, expected a box that overlaps them and is at most twice as large; "
            "correct the detector"
        )
    if np.abs(np.subtract(detection.box, clipped[0])).max() <= _NEAR:
        return detection
    return Detection(clipped[0], detection.score, detection.framed)


def _shared(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Returns the areas that a box shares with others, float64 [N], in pixels."""
    across = np.minimum(box[0] + box[2], boxes[:, 0] + boxes[:, 2]) - np.maximum(box[0], boxes[:, 0])
    down = np.minimum(box[1] + box[3], boxes[:, 1] + boxes[:, 3]) - np.maximum(box[1], boxes[:, 1])
    return across.clip(0) * down.clip(0)


def suppressed(rows: np.ndarray) -> np.ndarray:
    """Non-maximum suppression: keeps the box with the highest score among boxes that overlap by more than ``UNION``.

    Args:
        rows: float64 [N, 5 or more]: left, top, width, height, score, and any further columns.

    Returns:
        The remaining rows, the surest first.
    """
    rows = rows[np.argsort(-rows[:, 4], kind="stable")]
    return rows[_distinct(rows)]


def _distinct(boxes: np.ndarray, nested: float = 2.0) -> np.ndarray:
    """Returns which boxes overlap none that comes before and remains, bool [N].

    Args:
        boxes: float64 [N, 4 or more]: left, top, width, height, and any further columns; the surest first.
        nested: share of the smaller box within the larger one from which on they overlap too; above 1, it never is.
    """
    areas = boxes[:, 2] * boxes[:, 3]
    remains = np.ones(len(boxes), bool)
    for index in range(len(boxes)):
        if remains[index]:
            area, rest = areas[index], areas[index + 1 :]
            shared = _shared(boxes[index], boxes[index + 1 :])
            remains[index + 1 :] &= shared <= UNION * (area + rest - shared)
            remains[index + 1 :] &= shared <= nested * np.minimum(area, rest)
    return remains


# The scales and tiles at which a detector searches a picture. The plan depends only on the size of the picture and of
# the smallest face, never on what was detected so far. A picture without a face therefore takes no longer than one with
# a face.

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

SLIVER = 0.25
"""Least shorter side of a picture, as a share of the side of the smallest face, below which it cannot even hold a face
that its edges cut off: YuNet finds none in strips of less than half of that side."""

UNIT = 32
"""Pixels to whose multiples a detector pads the sides of a tile, so that a strip costs as if it were that wide."""

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

    def uncut(self, rows: np.ndarray, height: int, width: int) -> np.ndarray:
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

    The work, padding included, is bounded by the pixels of the picture, whatever its shape.

    Args:
        height: height of the picture, in pixels.
        width: width of the picture, in pixels.
        min_face: side in pixels of the smallest face to find.
        grey: True if the picture has no colour.

    Returns:
        The tiles; none if the picture is too thin to hold a face.
    """
    if min(height, width) < SLIVER * min_face:
        return []
    scale = min((PIXELS / (height * width)) ** 0.5, LARGEST_SMALLEST / min_face)
    if height * width < FEW:
        scale = min(scale, FEW_SCALE)
    elif 1 < scale <= SMALL_GAIN:
        scale = 1.0
    scale = max(scale, (SMALLEST_GREY if grey else SMALLEST) / min_face)
    if min(height, width) < min_face:
        # It holds no face whole, and nearly all of a tile could be padding: that is not worth more than a usual search.
        scale = min(scale, PIXELS / (UNIT * max(height, width)))
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


# Crops: a face is cut out framed as FER2013 frames faces.

_NEAR = 1e-6


def face_crop(picture: np.ndarray, detection: Detection, margin: float, engine: Engine) -> np.ndarray:
    """Cuts a face out as the engine reads it: the middle of the frame that FER2013 has around a face.

    The face is resampled once, from the picture's own pixels to the size at which it is read. The crop after that loses
    no sharpness.

    Args:
        picture: uint8 [H, W] (grey) or [H, W, 3] (RGB), upright.
        detection: a face in it.
        margin: the detector's margin, as in ``cut``.
        engine: decides the sizes and the channels.

    Returns:
        uint8 [S, S] or [S, S, 3], where S is the engine's ``image_size``.
    """
    crop_size, frame_size = engine.image_size, face_size(engine)
    frame = cut(picture, detection.framed, margin, frame_size, engine.grey)
    edge = (frame_size - crop_size) // 2
    return np.ascontiguousarray(frame[edge : edge + crop_size, edge : edge + crop_size])


def cut(picture: np.ndarray, box: Box, margin: float, size: int, grey: bool) -> np.ndarray:
    """Cuts out the square around a box, enlarged by the margin, and resizes it.

    The filter is bilinear with antialiasing. If the square leaves the picture, the pixels at the edge are repeated: a
    black bar would show the network a border that no face of FER2013 has. If the box is the whole picture and the
    margin is 0, the picture is a crop already: it is resized as ``Classifier.logits`` resizes, square or not.

    Args:
        picture: uint8 [H, W] (grey) or [H, W, 3] (RGB), upright.
        box: left, top, width and height in pixels, within the picture.
        margin: share of the box's longer side that is added on every side.
        size: height and width S of the crop, in pixels.
        grey: return luma (ITU-R BT.601, Pillow's mode L) instead of RGB.

    Returns:
        uint8 [S, S] or [S, S, 3].
    """
    height, width = picture.shape[:2]
    if margin == 0 and tuple(box) == (0, 0, width, height):
        return _resized(picture, (0.0, 0.0, float(width), float(height)), size, grey)
    left, top, side = square(box, margin, width, height)
    # The filter reads beyond the square by its radius: real pixels of the picture, as far as there are any.
    radius = max(1.0, side / size)
    columns, before, after = _span(left, side, radius, width)
    rows, above, below = _span(top, side, radius, height)
    region = picture[rows, columns]
    if before or after or above or below:
        region = np.pad(region, ((above, below), (before, after), *[(0, 0)] * (picture.ndim - 2)), mode="edge")
    x, y = left - (columns.start - before), top - (rows.start - above)
    return _resized(region, (x, y, x + side, y + side), size, grey)


def square(box: Box, margin: float, width: int, height: int) -> tuple[float, float, float]:
    """Returns the square that frames a face: left, top and side in pixels. It may leave the picture.

    It has the centre of the box. If an edge of the picture cuts the box off, the box counts as the visible part of a
    square box that goes on beyond that edge.

    Args:
        box: left, top, width and height in pixels, within the picture.
        margin: share of the box's longer side that is added on every side.
        width: width of the picture, in pixels.
        height: height of the picture, in pixels.
    """
    longer = max(box[2], box[3])
    left = _enlarged_start(box[0], box[2], longer, width)
    top = _enlarged_start(box[1], box[3], longer, height)
    return left - margin * longer, top - margin * longer, max(longer * (1 + 2 * margin), 1.0)


def _enlarged_start(start: float, length: float, new_length: float, end: int) -> float:
    """Start of an interval that grows to ``new_length``: around its centre, or beyond the one edge that it touches."""
    at_start, at_end = abs(start) <= _NEAR, abs(start + length - end) <= _NEAR
    if at_start and not at_end:
        return start + length - new_length
    return start if at_end and not at_start else start + (length - new_length) / 2


def _span(start: float, length: float, radius: float, end: int) -> tuple[slice, int, int]:
    """Returns the pixels to read along one axis, and how often the first and the last pixel are repeated.

    The edge is repeated only if the interval itself leaves the picture. Otherwise the filter ends at the edge, as it
    does when a whole picture is resized.
    """
    first, last = math.floor(start - radius), math.ceil(start + length + radius)
    low = min(max(first, 0), end - 1)
    high = max(min(last, end), low + 1)
    before = low - first if start < -_NEAR else 0
    after = last - high if start + length > end + _NEAR else 0
    return slice(low, high), before, after


def _resized(region: np.ndarray, box: tuple[float, float, float, float], size: int, grey: bool) -> np.ndarray:
    """Resizes the part ``box`` (left, top, right, bottom) of a region to uint8 [size, size] or [size, size, 3]."""
    # Pillow copies an array that is not contiguous pixel by pixel, which is slow.
    image = Image.fromarray(np.ascontiguousarray(region))
    # Rounding of floats may put the box outside by a millionth of a pixel, and Pillow refuses that.
    bounds = (max(0.0, box[0]), max(0.0, box[1]), min(float(image.width), box[2]), min(float(image.height), box[3]))
    if bounds != (0, 0, size, size) or image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR, box=bounds)
    return np.asarray(image.convert("L" if grey else "RGB"))
