"""From a box in a picture to the crop that a network reads, framed as FER2013 frames faces."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from mien.recognition.detection import Detection
from mien.recognition.engine import Engine, face_size
from mien.recognition.results import Box

_NEAR = 1e-6


def cut(picture: np.ndarray, box: Box, margin: float, size: int, grey: bool) -> np.ndarray:
    """Cuts a face out: the square around a box, larger by the margin, brought to one size.

    Bilinear with antialiasing. Where the square leaves the picture, the picture's edge goes on, as a black bar would
    tell the network of a border that no face of FER2013 has. A box that is the whole picture, without a margin, is a
    crop already: it is resized as it is, as ``Classifier.logits`` resizes, be it square or not. Only the part of the
    picture that is read is touched.

    Args:
        picture: uint8 [H, W] (grey) or [H, W, 3] (RGB), upright.
        box: left, top, width and height in pixels, within the picture.
        margin: by what share of the box's longer side the square is larger on every side.
        size: height and width S of the crop, in pixels.
        grey: whether luma (ITU-R BT.601, Pillow's mode L) is wanted, else RGB.

    Returns:
        uint8 [S, S] or [S, S, 3].
    """
    height, width = picture.shape[:2]
    if margin == 0 and tuple(box) == (0, 0, width, height):
        return _resized(picture, (0.0, 0.0, float(width), float(height)), size, grey)
    left, top, side = square(box, margin, width, height)
    # The filter reads beyond the square by its radius; what the picture has there is used.
    radius = max(1.0, side / size)
    columns, before, after = _span(left, side, radius, width)
    rows, above, below = _span(top, side, radius, height)
    region = picture[rows, columns]
    if before or after or above or below:
        region = np.pad(region, ((above, below), (before, after), *[(0, 0)] * (picture.ndim - 2)), mode="edge")
    x, y = left - (columns.start - before), top - (rows.start - above)
    return _resized(region, (x, y, x + side, y + side), size, grey)


def square(box: Box, margin: float, width: int, height: int) -> tuple[float, float, float]:
    """The square that frames a face: left, top and side in pixels; it may leave the picture.

    It lies around the centre of the box. A box that is cut off by an edge of the picture, and therefore not square, is
    taken for the visible part of a square one that goes on beyond that edge.

    Args:
        box: left, top, width and height in pixels, within the picture.
        margin: by what share of the box's longer side the square is larger on every side.
        width: of the picture, in pixels.
        height: the same.
    """
    longer = max(box[2], box[3])
    left, top = _start(box[0], box[2], longer, width), _start(box[1], box[3], longer, height)
    return left - margin * longer, top - margin * longer, max(longer * (1 + 2 * margin), 1.0)


def _start(start: float, length: float, wanted: float, end: int) -> float:
    """Where an interval of a length begins once it is made longer: around its centre, or over the edge it touches."""
    at_start, at_end = abs(start) <= _NEAR, abs(start + length - end) <= _NEAR
    if at_start and not at_end:
        return start + length - wanted
    return start if at_end and not at_start else start + (length - wanted) / 2


def _span(start: float, length: float, radius: float, end: int) -> tuple[slice, int, int]:
    """The pixels of one axis that are read, and how many times the first and the last one are repeated before them.

    Only where the interval itself leaves the picture is the edge repeated; elsewhere the filter ends at the edge, as
    it does when a whole picture is resized.
    """
    first, last = math.floor(start - radius), math.ceil(start + length + radius)
    low = min(max(first, 0), end - 1)
    high = max(min(last, end), low + 1)
    before = low - first if start < -_NEAR else 0
    after = last - high if start + length > end + _NEAR else 0
    return slice(low, high), before, after


def _resized(region: np.ndarray, box: tuple[float, float, float, float], size: int, grey: bool) -> np.ndarray:
    # An array that is not contiguous is copied by Pillow pixel by pixel.
    image = Image.fromarray(np.ascontiguousarray(region))
    # Sums of floats may leave the picture by less than a millionth of a pixel, and Pillow refuses that.
    bounds = (max(0.0, box[0]), max(0.0, box[1]), min(float(image.width), box[2]), min(float(image.height), box[3]))
    if bounds != (0, 0, size, size) or image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR, box=bounds)
    return np.asarray(image.convert("L" if grey else "RGB"))


def face_crop(picture: np.ndarray, detection: Detection, margin: float, engine: Engine) -> np.ndarray:
    """Cuts a face out as the engine reads it: framed as in FER2013, and of that frame the middle.

    The face is resampled once, from the picture's own pixels to the size at which it is read; cropping after that
    costs no sharpness.

    Args:
        picture: uint8 [H, W] (grey) or [H, W, 3] (RGB), upright.
        detection: the face in it.
        margin: the detector's, as ``mien.recognition.crop.cut`` takes it.
        engine: whose sizes and channels are taken.

    Returns:
        uint8 [S, S] or [S, S, 3], S the engine's ``image_size``.
    """
    size, whole = engine.image_size, face_size(engine)
    face, edge = cut(picture, detection.framed, margin, whole, engine.grey), (whole - size) // 2
    return np.ascontiguousarray(face[edge : edge + size, edge : edge + size])
