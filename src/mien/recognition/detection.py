"""The interface of a face detector, and the geometry of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from mien.errors import MienError
from mien.recognition.results import Box


@dataclass(frozen=True)
class Detection:
    """A face that a detector found.

    Attributes:
        box: left, top, width and height in pixels of the picture, within it, in the framing of the detector.
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
        ...

    @property
    def margin(self) -> float:
        """Share of a box's longer side that FER2013's framing adds on every side; negative if it is tighter."""
        ...

    def detect(self, picture: np.ndarray) -> list[Detection]:
        """The faces of a picture, uint8 [H, W] (grey) or [H, W, 3] (RGB), upright, from left to right."""
        ...


@runtime_checkable
class SideBySide(Protocol):
    """What a ``Detector`` has in addition if it can search several pictures at once, each on one thread."""

    threads: int

    def detect_alone(self, picture: np.ndarray) -> list[Detection]:
        """Does the same as ``Detector.detect`` on the calling thread only."""
        ...


class WholePicture:
    """The detector ``none``: every picture is a crop of one face already."""

    name = "none"
    margin = 0.0

    def __repr__(self) -> str:
        return "WholePicture()"

    def detect(self, picture: np.ndarray) -> list[Detection]:
        """Returns one face that fills the picture, uint8 [H, W] or [H, W, 3].

        Raises:
            MienError: the array is not a picture.
        """
        check(picture)
        height, width = picture.shape[:2]
        return [Detection((0.0, 0.0, float(width), float(height)), None)]


def check(picture: np.ndarray) -> None:
    """Checks that a value is an array of pixels.

    Raises:
        MienError: it is not uint8 [H, W] or [H, W, 3] with at least one pixel.
    """
    if not isinstance(picture, np.ndarray):
        raise MienError(f"picture: is a {type(picture).__name__}, expected a uint8 array [H, W] or [H, W, 3]")
    right_shape = picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] == 3)
    if picture.dtype != np.uint8 or not right_shape or not picture.size:
        raise MienError(
            f"picture: is {picture.dtype} {list(picture.shape)}, expected uint8 [H, W] or [H, W, 3] with pixels in it; "
            "convert it"
        )


def without_duplicates(detections: Sequence[Detection], union: float = 0.3, nested: float = 0.6) -> list[Detection]:
    """Keeps the detection with the highest score of each face.

    Args:
        detections: all have a score.
        union: intersection over union in [0, 1] above which two boxes show the same face.
        nested: share of the smaller box within the larger one, in [0, 1], above which they show the same face too.

    Returns:
        The remaining detections, from left to right, then from top to bottom.
    """
    distinct: list[Detection] = []
    for candidate in sorted(detections, key=lambda detection: -(detection.score or 0.0)):
        box = candidate.box
        if not any(
            overlap(box, surer.box) > union
            or _intersection(box, surer.box) > nested * min(box[2] * box[3], surer.box[2] * surer.box[3])
            for surer in distinct
        ):
            distinct.append(candidate)
    return sorted(distinct, key=lambda detection: detection.box[:2])


def overlap(first: Box, second: Box) -> float:
    """Returns the intersection over union of two boxes, in [0, 1]."""
    common = _intersection(first, second)
    return common / (first[2] * first[3] + second[2] * second[3] - common) if common else 0.0


def within(box: Sequence[float], width: int, height: int) -> Box:
    """Clips a box (left, top, width, height) to a picture of ``width`` x ``height`` pixels."""
    left, top = max(0.0, float(box[0])), max(0.0, float(box[1]))
    right, bottom = min(float(width), float(box[0] + box[2])), min(float(height), float(box[1] + box[3]))
    return left, top, max(0.0, right - left), max(0.0, bottom - top)


def _intersection(first: Box, second: Box) -> float:
    """Returns the area that two boxes share, in pixels."""
    across = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    down = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    return max(0.0, across) * max(0.0, down)
