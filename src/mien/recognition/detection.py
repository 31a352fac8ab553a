"""Where the faces are: one small protocol, and the detectors behind it."""

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
        score: how sure the detector is, on a scale of its own where more is surer; None where it has none.
        whole: the box of a face that is cut off by an edge of the picture, as far as the detector guesses it beyond
            that edge; None where the box is all there is.
    """

    box: Box
    score: float | None
    whole: Box | None = None

    @property
    def framed(self) -> Box:
        """The box to cut the face out by: ``whole`` where there is one."""
        return self.box if self.whole is None else self.whole


class Detector(Protocol):
    """Finds faces in a picture."""

    @property
    def name(self) -> str:
        """yunet, none, or what a detector of one's own calls itself."""
        ...

    @property
    def margin(self) -> float:
        """By what share of a box's side FER2013's framing is larger on every side; negative where it is tighter."""
        ...

    def detect(self, picture: np.ndarray) -> list[Detection]:
        """The faces of a picture, uint8 [H, W] (grey) or [H, W, 3] (RGB), upright, from left to right."""
        ...


@runtime_checkable
class SideBySide(Protocol):
    """What a detector has beside ``Detector`` if several pictures may be searched at once, each on one thread."""

    threads: int

    def detect_alone(self, picture: np.ndarray) -> list[Detection]:
        """As ``Detector.detect``, on the calling thread alone."""
        ...


class WholePicture:
    """No detector: every picture is a crop of one face already."""

    name = "none"
    margin = 0.0

    def detect(self, picture: np.ndarray) -> list[Detection]:
        """One face that fills the picture, uint8 [H, W] or [H, W, 3].

        Raises:
            MienError: the array is no picture.
        """
        check(picture)
        height, width = picture.shape[:2]
        return [Detection((0.0, 0.0, float(width), float(height)), None)]


def check(picture: np.ndarray) -> None:
    """Checks that an array is a picture.

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


def apart(found: Sequence[Detection], union: float = 0.3, nested: float = 0.6) -> list[Detection]:
    """Leaves one box where several are about the same face, the one with the highest score.

    Args:
        found: detections that all have a score.
        union: the intersection over union, in [0, 1], above which two boxes are about one face.
        nested: the share of the smaller one that lies within the other, in [0, 1], above which they are too.

    Returns:
        Those that stay, from left to right, then from top to bottom.
    """
    kept: list[Detection] = []
    for candidate in sorted(found, key=lambda one: -(one.score or 0.0)):
        box = candidate.box
        if not any(
            overlap(box, other.box) > union
            or _shared(box, other.box) > nested * min(box[2] * box[3], other.box[2] * other.box[3])
            for other in kept
        ):
            kept.append(candidate)
    return sorted(kept, key=lambda one: one.box[:2])


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes, in [0, 1]."""
    common = _shared(one, other)
    return common / (one[2] * one[3] + other[2] * other[3] - common) if common else 0.0


def within(box: Sequence[float], width: int, height: int) -> Box:
    """The part of a box, left, top, width and height, that lies in a picture of ``width`` x ``height`` pixels."""
    left, top = max(0.0, float(box[0])), max(0.0, float(box[1]))
    right, bottom = min(float(width), float(box[0] + box[2])), min(float(height), float(box[1] + box[3]))
    return left, top, max(0.0, right - left), max(0.0, bottom - top)


def _shared(one: Box, other: Box) -> float:
    """The area in pixels that two boxes have in common."""
    across = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    down = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    return max(0.0, across) * max(0.0, down)
