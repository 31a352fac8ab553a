"""Where the faces are: one small protocol, and the detectors behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mien.recognition.results import Box


@dataclass(frozen=True)
class Detection:
    """A face that a detector found.

    Attributes:
        box: left, top, width and height in pixels of the picture, within it, in the framing of the detector.
        score: how sure the detector is, on a scale of its own where more is surer; None where it has none.
    """

    box: Box
    score: float | None


class Detector(Protocol):
    """Finds faces in a picture."""

    @property
    def name(self) -> str:
        """haar, yunet or none."""
        ...

    @property
    def margin(self) -> float:
        """By what share of a box's side FER2013's framing is larger on every side; negative where it is tighter."""
        ...

    def detect(self, picture: np.ndarray) -> list[Detection]:
        """The faces of a picture, uint8 [H, W] (grey) or [H, W, 3] (RGB), upright, from left to right."""
        ...
