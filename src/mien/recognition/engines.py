"""From face crops to probabilities: ONNX Runtime, or torch where it is installed; both answer the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Answers:
    """What a network made of N crops.

    Attributes:
        probabilities: float32 [N, C], calibrated; rows sum to 1.
        embeddings: float32 [N, D], the [CLS] vectors after the last norm.
    """

    probabilities: np.ndarray
    embeddings: np.ndarray


class Engine(Protocol):
    """A network that reads face crops."""

    @property
    def names(self) -> tuple[str, ...]:
        """The expressions, in the order of the columns."""
        ...

    @property
    def image_size(self) -> int:
        """Height and width S of the crops, in pixels."""
        ...

    @property
    def grey(self) -> bool:
        """Whether crops are uint8 [N, S, S] luma; else uint8 [N, S, S, 3] RGB."""
        ...

    @property
    def threshold(self) -> float | None:
        """The probability in [0, 1] below which an answer is uncertain; None where validation gave none."""
        ...

    @property
    def stated_accuracy(self) -> float | None:
        """The share of answers at or above ``threshold`` that validation had right, in [0, 1]."""
        ...

    def read(self, crops: np.ndarray) -> Answers:
        """Reads crops, uint8 [N, S, S] or [N, S, S, 3]; N may be 0."""
        ...
