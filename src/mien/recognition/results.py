"""The results: a record for every picture or frame, and the faces in it."""

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
    """A face and its expression: a guess about the picture, not about what the person feels.

    Attributes:
        box: left, top, width and height in pixels of the upright picture, within it.
        label: the most probable expression.
        score: its probability, in [0, 1].
        probabilities: the calibrated probability of every expression, in [0, 1]; they sum to 1.
        uncertain: True if ``score`` is below the threshold from which the model promises its stated accuracy on new
            photographs; always True if no threshold reaches that accuracy; None if the model was not calibrated.
        detector_score: confidence on the detector's own scale, higher is surer; None if it has none.
        crop: uint8 [S, S] (grey) or [S, S, 3] (RGB), the network's input.
        embedding: float32 [D], the [CLS] vector after the last norm.
        id: number of the face, the same in all frames of a film; None for a picture.
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
        """Returns a JSON-ready dict: ``box``, ``label``, ``score``, ``uncertain``, ``emotions``, ``detector_score``;
        in a film also ``id``."""
        values: dict[str, Any] = {
            "box": [round(value, 1) for value in self.box],
            "label": self.label,
            "score": self.score,
            "uncertain": self.uncertain,
            "emotions": dict(self.probabilities),
            "detector_score": self.detector_score,
        }
        return values if self.id is None else {**values, "id": self.id}


@dataclass(frozen=True)
class Recognition:
    """The result for one picture, or for one frame of a film.

    Attributes:
        input: the path, or ``picture N`` for pixels, counted from 0.
        status: ``ok`` (at least one face), ``no_face``, or ``error`` (the picture cannot be read).
        error: the reason in one line if the status is ``error``, else None.
        width: width of the upright picture in pixels; None if it cannot be read.
        height: its height in pixels; None if it cannot be read.
        faces: from left to right.
        frame: number of the frame in a film, from 0; None for a picture.
        time_s: time at which the frame is shown, in seconds from the start; None for a picture.
        pixels: uint8 [height, width] (grey) or [height, width, 3] (RGB), upright; None if they were not kept.
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
        """Returns a JSON-ready dict: ``input``, ``status``, ``error``, ``width``, ``height``, ``frame``, ``time_s``,
        ``faces``."""
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
        """Returns a copy of the picture with a box and a label for every face; mode RGB.

        Raises:
            MienError: the picture could not be read, or its pixels were not kept (``Recognizer.stream`` without
                ``keep_pixels``, the frames of a film).
        """
        if self.pixels is None:
            reason = self.error or "its pixels were not kept; read it with Recognizer.recognize"
            raise MienError(f"{self.input}: cannot be drawn on: {reason}")
        from mien.recognition.draw import annotated

        return Image.fromarray(annotated(self.pixels, self.faces))
