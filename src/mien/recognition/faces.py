"""The data of a result: a face, and the record of a picture or a frame with the faces in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, overload

import numpy as np

from mien.text import shown

Box = tuple[float, float, float, float]
"""Left, top, width and height in pixels of the upright picture; the origin is its top left corner."""

MOST_IN_REPR = 4
"""Most faces of a record, or records of a list, that its ``repr`` names."""

_LONGEST_IN_REPR = 60


@dataclass(frozen=True, repr=False)
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
    crop: np.ndarray | None = field(default=None, compare=False)
    embedding: np.ndarray | None = field(default=None, compare=False)
    id: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns a JSON-ready dict: ``box``, ``label``, ``score``, ``uncertain``, ``probabilities``,
        ``detector_score``; in a film also ``id``."""
        values: dict[str, Any] = {
            "box": [round(value, 1) for value in self.box],
            "label": self.label,
            "score": self.score,
            "uncertain": self.uncertain,
            "probabilities": dict(self.probabilities),
            "detector_score": self.detector_score,
        }
        return values if self.id is None else {**values, "id": self.id}

    def __repr__(self) -> str:
        number = "" if self.id is None else f", id={self.id}"
        return f"Face({self._in_short()}, box=({', '.join(f'{value:.0f}' for value in self.box)}){number})"

    def _in_short(self) -> str:
        return f"{shown(self.label)}{'?' if self.uncertain else ''} {self.score:.0%}"


@dataclass(frozen=True, repr=False)
class Record:
    """The data of a ``mien.recognition.results.Recognition``, whose docstring describes the fields."""

    input: str
    status: Literal["ok", "no_face", "error"]
    error: str | None = None
    width: int | None = None
    height: int | None = None
    faces: tuple[Face, ...] = ()
    frame: int | None = None
    time_s: float | None = None
    pixels: np.ndarray | None = field(default=None, compare=False)
    names: tuple[str, ...] = field(default=(), compare=False)
    first_of_several: bool = field(default=False, compare=False)

    def __iter__(self) -> Iterator[Face]:
        return iter(self.faces)

    def __len__(self) -> int:
        return len(self.faces)

    @overload
    def __getitem__(self, index: int) -> Face: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Face, ...]: ...

    def __getitem__(self, index: int | slice) -> Face | tuple[Face, ...]:
        return self.faces[index]

    def to_dict(self) -> dict[str, Any]:
        """Returns a JSON-ready dict: ``input``, ``status``, ``error``, ``width``, ``height``, ``frame``, ``time_s``,
        ``faces``; of a file with more pictures, which were not read, also ``first_of_several``."""
        values: dict[str, Any] = {
            "input": self.input,
            "status": self.status,
            "error": self.error,
            "width": self.width,
            "height": self.height,
            "frame": self.frame,
            "time_s": self.time_s,
            "faces": [face.to_dict() for face in self.faces],
        }
        return {**values, "first_of_several": True} if self.first_of_several else values

    def __repr__(self) -> str:
        name = self.input if len(self.input) <= _LONGEST_IN_REPR else f"...{self.input[3 - _LONGEST_IN_REPR :]}"
        words = [repr(name)]
        if self.frame is not None:
            words.append(f"frame {self.frame}" + ("" if self.time_s is None else f" ({self.time_s:.2f} s)"))
        if self.status == "error":
            return f"{type(self).__name__}({', '.join(words)}, error: {shown(self.error)})"
        words += [f"{self.width}x{self.height}"] + ["first of several pictures"] * self.first_of_several
        words += [face._in_short() for face in self.faces[:MOST_IN_REPR]] or ["no face"]
        more = len(self.faces) - MOST_IN_REPR
        return f"{type(self).__name__}({', '.join(words)}{f', and {more} more faces' if more > 0 else ''})"
