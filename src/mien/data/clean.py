"""Sketches: 32 bytes a training picture, by which twins are found roughly when the training data is not at hand.

A model folder carries them in place of pictures. A sketch is 256 signs: of the middle frequencies of a picture's cosine
transform, its middle at 12x12 pixels, projected on random directions (Charikar 2002, section 3). The low frequencies,
which hold light, hair and the outline of a head, are left out. A picture is compared in 37 shifted and zoomed views,
and the nearest sketch decides. ``docs/twins.md`` says how many twins that finds and how
often it is wrong, and what of a face is left in a sketch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mien.data.faces import FaceSet
from mien.data.twins import cell_sums, comparable, has_twin

BITS = 256
"""Of a sketch."""

AGREEMENT = 224
"""Bits in which a view of a picture has to agree with a sketch to be called its twin, roughly."""

_CELLS, _ORDERS = 12, (4, 9)
_MIDDLE = (4, 4, 40)
_VIEWS = (
    *((row, column, 40) for row in (0, 2, 4, 6, 8) for column in (0, 2, 4, 6, 8)),
    *((2 + row, 2 + column, 44) for row in (-2, 0, 2) for column in (-2, 0, 2)),
    (0, 0, 48),
    (6, 6, 36),
    (8, 8, 32),
)
_ROWS = 512


@dataclass(frozen=True)
class Sketches:
    """Sketches of a set of pictures.

    Attributes:
        codes: uint8 [M, 32], 256 bits a picture.
        offsets: float32 [256], the medians of the projections, which bits are counted from.
    """

    codes: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.codes)


def sketch(images: np.ndarray) -> Sketches:
    """The sketches of a set.

    Args:
        images: uint8 [M, S, S] or [M, S, S, 3], M of at least 1.
    """
    projections = _projections(comparable(images), _MIDDLE)
    offsets = np.median(projections, axis=0).astype(np.float32)
    return Sketches(np.packbits(projections > offsets, axis=1), offsets)


def has_sketched_twin(images: np.ndarray, sketches: Sketches) -> np.ndarray:
    """bool [N]: for each picture, uint8 [N, S, S] or [N, S, S, 3], whether a sketch is likely to be of its twin."""
    pictures = comparable(images)
    # Signs as -1 and 1: an inner product is twice the bits that agree, less all bits.
    signs = 2 * np.unpackbits(sketches.codes, axis=1).astype(np.float32).T - 1
    result = np.zeros(len(pictures), bool)
    for start in range(0, len(pictures), _ROWS):
        block = pictures[start : start + _ROWS]
        for view in _VIEWS:
            bits = 2 * (_projections(block, view) > sketches.offsets).astype(np.float32) - 1
            result[start : start + _ROWS] |= (bits @ signs).max(axis=1, initial=-BITS) >= 2 * AGREEMENT - BITS
    return result


def _projections(pictures: np.ndarray, view: tuple[int, int, int]) -> np.ndarray:
    """float64 [N, 256] of part of uint8 [N, 48, 48]; of a part without contrast zeros."""
    top, left, side = view
    cells = cell_sums(pictures[:, top : top + side, left : left + side], _CELLS).reshape(len(pictures), -1)
    features = cells.astype(np.float64) @ _cosines()
    length = np.linalg.norm(features, axis=1, keepdims=True)
    scaled = np.divide(features, length, out=np.zeros(features.shape), where=length > 1e-6)
    return scaled @ _directions(features.shape[1])


def _cosines() -> np.ndarray:
    """float64 [144, K]: cosines of middle orders, higher ones louder, since faces hold less of them."""
    places = np.arange(_CELLS)
    waves = np.cos(np.pi * (places + 0.5)[:, None] * places / _CELLS)
    waves /= np.linalg.norm(waves, axis=0)
    orders = [(row, column) for row in places for column in places if _ORDERS[0] <= row + column <= _ORDERS[1]]
    return np.stack([np.outer(waves[:, r], waves[:, c]).ravel() * np.sqrt(r + c) for r, c in orders], axis=1)


def _directions(count: int) -> np.ndarray:
    """float64 [count, 256] of -1 and 1, the same on every machine and in every version of NumPy."""
    stream = b"".join(hashlib.sha256(f"mien sketch {number}".encode()).digest() for number in range(count))
    return 2.0 * np.unpackbits(np.frombuffer(stream, np.uint8)).reshape(count, BITS) - 1


class Trained(Protocol):
    """What is asked of a classifier to know what it was trained on."""

    def meta(self) -> dict[str, Any]:
        """The model's ``meta.json``."""
        ...

    def sketches(self) -> Sketches | None:
        """Sketches of the training pictures, if the model's folder has them."""
        ...


def trained_on(faces: FaceSet, classifier: Trained) -> np.ndarray | Sketches | None:
    """What a classifier was trained on: this data's training pictures, if its record says so; else its sketches.

    The training split of other data says nothing about what the classifier has seen.
    """
    same = classifier.meta().get("data", {}).get("fingerprint") == faces.fingerprint
    return faces.part("train").images if same and faces.has("train") else classifier.sketches()


def twins_in_training(images: np.ndarray, training: np.ndarray | Sketches | None) -> np.ndarray | None:
    """bool [N], which pictures have a twin in training; None where training is not known."""
    if training is None or not len(training):
        return None
    return has_sketched_twin(images, training) if isinstance(training, Sketches) else has_twin(images, training)
