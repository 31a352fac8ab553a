"""What was found in a picture: one record for every input, whether it holds faces, none, or cannot be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from PIL import Image

from mien.errors import MienError

Box = tuple[float, float, float, float]
"""Left, top, width and height in pixels of the upright picture; the origin is its top left corner."""


@dataclass(frozen=True)
class Face:
    """A face and what its look was read as: a guess about the picture, not about what the person feels.

    Attributes:
        box: left, top, width and height in pixels of the upright picture, within it.
        label: the likeliest expression.
        score: its probability, in [0, 1].
        probabilities: the calibrated probability of every expression, in [0, 1]; they sum to 1.
        uncertain: whether ``score`` is below the threshold from which on the model promises its stated accuracy, on
            photographs that it has not seen; always True if it could promise that at no threshold; None if the model
            was not calibrated.
        detector_score: how sure the detector is, on a scale of its own where more is surer; None where none was asked.
        crop: uint8 [S, S] (grey) or [S, S, 3] (RGB), what the network read.
        embedding: float32 [D], the [CLS] vector after the last norm.
        id: the same for one face from frame to frame of a film; None for a picture.
    """

    box: Box
    label: str
    score: float
    probabilities: Mapping[str, float] = field(hash=False)
    uncertain: bool | None = None
    detector_score: float | None = None
    crop: np.ndarray | None = field(default=None, repr=False, compare=False)
    embedding: np.ndarray | None = field(default=None, repr=False, compare=False)
    id: int | None = None

    def record(self) -> dict[str, Any]:
        """JSON-ready: ``box``, ``label``, ``score``, ``uncertain``, ``emotions``, ``detector_score``, and ``id`` in a
        film."""
        found: dict[str, Any] = {
            "box": [round(value, 1) for value in self.box],
            "label": self.label,
            "score": self.score,
            "uncertain": self.uncertain,
            "emotions": dict(self.probabilities),
            "detector_score": self.detector_score,
        }
        return found if self.id is None else {**found, "id": self.id}


@dataclass(frozen=True)
class Recognition:
    """What became of one input, or of one frame of a film.

    Attributes:
        input: the path, or ``picture N`` for pixels, counted from 0.
        status: ``ok`` (faces were read), ``no_face`` (the picture was read and holds none) or ``error``.
        error: why it could not be read, in one line; None otherwise.
        width: of the upright picture, in pixels; None where it could not be read.
        height: the same.
        faces: from left to right.
        frame: number of the frame in a film, from 0; None for a picture.
        time_s: when the frame is shown, in seconds from the start; None for a picture.
        pixels: uint8 [height, width] (grey) or [height, width, 3] (RGB), upright; None where they were not kept.
    """

    input: str
    status: Literal["ok", "no_face", "error"]
    error: str | None = None
    width: int | None = None
    height: int | None = None
    faces: tuple[Face, ...] = ()
    frame: int | None = None
    time_s: float | None = None
    pixels: np.ndarray | None = field(default=None, repr=False, compare=False)

    def record(self) -> dict[str, Any]:
        """JSON-ready: ``input``, ``status``, ``error``, ``width``, ``height``, ``frame``, ``time_s``, ``faces``."""
        return {
            "input": self.input,
            "status": self.status,
            "error": self.error,
            "width": self.width,
            "height": self.height,
            "frame": self.frame,
            "time_s": self.time_s,
            "faces": [face.record() for face in self.faces],
        }

    def annotated(self) -> Image.Image:
        """A copy of the picture with a box around every face, and what its look was read as; mode RGB.

        Raises:
            MienError: the picture could not be read, or its pixels were not kept (``Recognizer.stream`` without
                ``keep_pixels``, the frames of a film).
        """
        if self.pixels is None:
            reason = self.error or "its pixels were not kept; read it with Recognizer.recognize"
            raise MienError(f"{self.input}: cannot be drawn on: {reason}")
        from mien.recognition.draw import annotated

        return Image.fromarray(annotated(self.pixels, self.faces))
