"""Tells which pictures a model has met in training: by the training pictures, or by sketches of 32 bytes each.

A model folder holds sketches in place of the pictures. A sketch consists of 256 signs: the middle of a picture at 12x12
pixels, the middle frequencies of its cosine transform, projected on random directions (Charikar 2002, section 3). Low
frequencies are left out: they hold light, hair and the outline of the head. A picture is compared in 37 shifted and
zoomed views, and the nearest sketch decides. ``docs/twins.md`` says how many twins this finds, how often it is wrong,
and what of a face remains in a sketch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from mien.data.faces import FaceSet
from mien.data.twins import cell_sums, comparable, cut_validation, has_twin
from mien.errors import MienError

BITS = 256
"""Number of bits of a sketch."""

AGREEMENT = 224
"""Number of equal bits at which a view of a picture and a sketch count as twins."""

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
        offsets: float32 [256], the medians of the projections; a bit is set if the projection is above.
        earlier: of the sets that a classifier had learnt before this one, if training went on with a trained one.
    """

    codes: np.ndarray
    offsets: np.ndarray
    earlier: tuple[Sketches, ...] = ()

    def __len__(self) -> int:
        return len(self.codes)


Pictures: TypeAlias = "np.ndarray | Sketches"
"""Pictures, uint8 [M, S, S] or [M, S, S, 3], or their sketches."""


def sketch(images: np.ndarray) -> Sketches:
    """Computes the sketches of a set.

    Args:
        images: uint8 [M, S, S] or [M, S, S, 3], M of at least 1.
    """
    projections = _projections(comparable(images), _MIDDLE)
    offsets = np.median(projections, axis=0).astype(np.float32)
    return Sketches(np.packbits(projections > offsets, axis=1), offsets)


def has_sketched_twin(images: np.ndarray, sketches: Sketches) -> np.ndarray:
    """Returns bool [N], for uint8 [N, S, S] or [N, S, S, 3]: True if a sketch is probably that of a picture's twin."""
    pictures = comparable(images)
    # With signs as -1 and 1 an inner product is twice the number of equal bits, minus the number of all bits.
    signs = 2 * np.unpackbits(sketches.codes, axis=1).astype(np.float32).T - 1
    result = np.zeros(len(pictures), bool)
    for start in range(0, len(pictures), _ROWS):
        block = pictures[start : start + _ROWS]
        for view in _VIEWS:
            bits = 2 * (_projections(block, view) > sketches.offsets).astype(np.float32) - 1
            result[start : start + _ROWS] |= (bits @ signs).max(axis=1, initial=-BITS) >= 2 * AGREEMENT - BITS
    return result


def _projections(pictures: np.ndarray, view: tuple[int, int, int]) -> np.ndarray:
    """Projects a square part of uint8 [N, 48, 48] on the directions: float64 [N, 256]; zeros without contrast."""
    top, left, side = view
    cells = cell_sums(pictures[:, top : top + side, left : left + side], _CELLS).reshape(len(pictures), -1)
    features = cells.astype(np.float64) @ _cosines()
    length = np.linalg.norm(features, axis=1, keepdims=True)
    scaled = np.divide(features, length, out=np.zeros(features.shape), where=length > 1e-6)
    return scaled @ _directions(features.shape[1])


def _cosines() -> np.ndarray:
    """Returns cosines of the middle orders, float64 [144, K]; higher orders, weaker in faces, are amplified."""
    places = np.arange(_CELLS)
    waves = np.cos(np.pi * (places + 0.5)[:, None] * places / _CELLS)
    waves /= np.linalg.norm(waves, axis=0)
    orders = [(row, column) for row in places for column in places if _ORDERS[0] <= row + column <= _ORDERS[1]]
    return np.stack([np.outer(waves[:, r], waves[:, c]).ravel() * np.sqrt(r + c) for r, c in orders], axis=1)


def _directions(count: int) -> np.ndarray:
    """Returns random signs, float64 [count, 256]; from SHA-256, so that no version of NumPy changes them."""
    stream = b"".join(hashlib.sha256(f"mien sketch {number}".encode()).digest() for number in range(count))
    return 2.0 * np.unpackbits(np.frombuffer(stream, np.uint8)).reshape(count, BITS) - 1


class Trained(Protocol):
    """The part of a classifier that says which pictures it was trained on."""

    @property
    def folder(self) -> Path | None:
        """Where it was read from."""
        ...

    def meta(self) -> dict[str, Any]:
        """Returns the content of the model's ``meta.json``; ``learnt_before`` has the data of ``Sketches.earlier``."""
        ...

    def sketches(self) -> Sketches | None:
        """Returns the sketches of the training pictures; None if the model folder has none."""
        ...


def trained_on(faces: FaceSet, classifier: Trained, stated: FaceSet | None = None) -> list[Pictures] | None:
    """Returns the pictures that a classifier was trained on, and those of the classifiers that training went on from.

    The fingerprints in its ``meta.json`` decide which of these sets is the training split of ``faces`` or of
    ``stated``; of the others there are sketches.

    Args:
        faces: the data that the classifier is scored on, with the validation split that training had (``as_trained``).
        classifier: with its record and sketches.
        stated: data that somebody says it was trained on, with the same validation split; it takes the place of its
            own set if there are no sketches of that, and else counts as well.

    Returns:
        A list of sets; None if one of them is unknown.
    """
    meta, sketches = classifier.meta(), classifier.sketches()
    records = [meta.get("data", {}), *(meta.get("learnt_before") or [])]
    earlier = () if sketches is None else sketches.earlier
    at_hand = {data.fingerprint: data for data in (stated, faces) if data is not None and data.has("train")}
    pictures: list[Pictures | None] = [sketches, *earlier, *[None] * len(records)]
    del pictures[len(records) :]
    used = {str(record.get("fingerprint")): number for number, record in enumerate(records)}
    for fingerprint, data in at_hand.items():
        if fingerprint in used:
            pictures[used[fingerprint]] = data.part("train").images
    if stated is not None and stated.fingerprint not in used:
        if pictures[0] is None:
            pictures[0] = stated.part("train").images
        else:
            pictures.append(stated.part("train").images)
    sets = [part for part in pictures if part is not None]
    return sets if len(sets) == len(pictures) else None


def as_trained(faces: FaceSet, classifier: Trained) -> FaceSet:
    """The data with the validation split that was cut from training when the classifier was trained on it.

    Data with a validation split, or that the classifier was not trained on, is returned unchanged.

    Raises:
        MienError: the record of the classifier is damaged.
    """
    if faces.has("validation"):
        return faces
    meta = classifier.meta()
    try:
        if meta.get("data", {}).get("fingerprint") != faces.fingerprint:
            return faces
        fraction, seed = float(meta["config"]["validation_fraction"]), int(meta["config"]["seed"])
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise MienError(
            f"{classifier.folder}/meta.json: its data or config is not as `mien train` wrote it "
            f"({type(error).__name__}: {error}); copy the whole folder again"
        ) from error
    return cut_validation(faces, fraction, seed)


def sets_of(training: Pictures | Sequence[Pictures] | None) -> list[Pictures]:
    """Returns one set or several as a list; empty if the training pictures are unknown."""
    if training is None:
        return []
    return [training] if isinstance(training, np.ndarray | Sketches) else list(training)


def twins_in_training(images: np.ndarray, training: Pictures | Sequence[Pictures] | None) -> np.ndarray | None:
    """Returns bool [N], True if a picture has a twin in one of the sets; None if the training pictures are unknown."""
    sets = sets_of(training)
    if not sets or not all(len(pictures) for pictures in sets):
        return None
    twins = np.zeros(len(images), bool)
    for pictures in sets:
        twins |= has_sketched_twin(images, pictures) if isinstance(pictures, Sketches) else has_twin(images, pictures)
    return twins
