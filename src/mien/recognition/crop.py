"""From pictures to the crops that a network reads: decode, detect, cut out, framed as FER2013 frames faces."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from mien.errors import MienError
from mien.machine import side_by_side
from mien.recognition.arguments import check_color
from mien.recognition.detection import Detection, Detector, SideBySide
from mien.recognition.engine import Engine, face_size
from mien.recognition.pictures import read
from mien.recognition.results import Box, Recognition
from mien.text import shown

_NEAR = 1e-6
_MOST_DECODED_BYTES = 64 * 2**20
"""Bytes of decoded pixels from which on a group of pictures is searched, even if some threads stay idle."""


@dataclass(frozen=True)
class SearchedPicture:
    """A picture whose faces are cut out and not read yet.

    Attributes:
        record: the result so far, without faces.
        detections: the faces in the picture; empty if there are none, or if the picture cannot be read.
        crops: uint8 [S, S] or [S, S, 3], one for each detection.
    """

    record: Recognition
    detections: Sequence[Detection]
    crops: Sequence[np.ndarray]

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        pixels = self.record.pixels
        return sum(crop.nbytes for crop in self.crops) + (0 if pixels is None else pixels.nbytes)


def search_pictures(
    pictures: Iterable[Any],
    detector: Detector,
    engine: Engine,
    color: str | None = None,
    *,
    keep_pixels: bool = False,
    patience: float = math.inf,
) -> Iterator[SearchedPicture]:
    """Decodes pictures, detects their faces and cuts these out, as many pictures at once as the detector has threads.

    Args:
        pictures: as ``mien.recognition.pictures.read`` takes them; read one group ahead at most.
        detector: finds the faces.
        engine: the network that will read them; it decides the size and the channels of the crops.
        color: the order of the channels of arrays.
        keep_pixels: keep the pixels in the record.
        patience: seconds after which a group is searched, even if it is not full.

    Yields:
        One item for each picture, in order; its record has status ``error`` if the picture cannot be read.

    Raises:
        MienError: ``color`` is unknown, or is missing for a colour array.
    """
    group_size = detector.threads if isinstance(detector, SideBySide) else 1
    group: list[_DecodedPicture] = []
    started = time.monotonic()
    for index, picture in enumerate(pictures):
        check_color(picture, color)
        name = _name_of(picture, index)
        group.append(_decode(picture, name, color))
        decoded_bytes = sum(decoded.pixels.nbytes for decoded in group if decoded.pixels is not None)
        is_full = len(group) >= group_size or decoded_bytes >= _MOST_DECODED_BYTES
        if is_full or time.monotonic() - started >= patience:
            yield from _search_group(group, detector, engine, keep_pixels)
            group, started = [], time.monotonic()
    yield from _search_group(group, detector, engine, keep_pixels)


def _name_of(picture: Any, index: int) -> str:
    """Returns the name of a picture in its record: the path, also that of an open file, or its number."""
    if isinstance(picture, str | os.PathLike):
        return os.fsdecode(picture)
    name = getattr(picture, "name", None) if callable(getattr(picture, "read", None)) else None
    return name if isinstance(name, str) and name else f"picture {index}"


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


@dataclass(frozen=True)
class _DecodedPicture:
    """A picture before the search: uint8 [H, W] or [H, W, 3], or the reason why it cannot be read."""

    name: str
    pixels: np.ndarray | None
    error: str | None = None


def _decode(picture: Any, name: str, color: str | None) -> _DecodedPicture:
    try:
        return _DecodedPicture(name, read(picture, name, color))
    except MienError as error:
        return _DecodedPicture(name, None, str(error))
    except MemoryError:  # only this picture is too large: the next one may be smaller
        return _DecodedPicture(name, None, _out_of_memory(name))


def _search_group(
    group: Sequence[_DecodedPicture], detector: Detector, engine: Engine, keep_pixels: bool
) -> list[SearchedPicture]:
    """Searches some pictures: side by side with one thread each if the detector can, else one after the other."""
    if len(group) > 1 and isinstance(detector, SideBySide):
        detect = detector.detect_alone
        return side_by_side(
            lambda picture: _search(picture, detect, detector.margin, engine, keep_pixels), group, detector.threads
        )
    return [_search(picture, detector.detect, detector.margin, engine, keep_pixels) for picture in group]


def _search(
    picture: _DecodedPicture,
    detect: Callable[[np.ndarray], list[Detection]],
    margin: float,
    engine: Engine,
    keep_pixels: bool,
) -> SearchedPicture:
    """Detects the faces of one picture and cuts them out."""
    name, pixels = picture.name, picture.pixels
    if pixels is None:
        return SearchedPicture(Recognition(name, "error", picture.error), [], [])
    try:
        detections = detect(pixels)
    except MienError as error:
        return SearchedPicture(Recognition(name, "error", str(error)), [], [])
    except MemoryError:
        return SearchedPicture(Recognition(name, "error", _out_of_memory(name)), [], [])
    height, width = pixels.shape[:2]
    kept_pixels = pixels if keep_pixels else None
    record = Recognition(name, "ok" if detections else "no_face", width=width, height=height, pixels=kept_pixels)
    crops = [face_crop(pixels, detection, margin, engine) for detection in detections]
    return SearchedPicture(record, detections, crops)


def _out_of_memory(name: str) -> str:
    return shown(f"{name}: needs more memory than there is left; close other programs, or make it smaller")
