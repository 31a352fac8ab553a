"""Holding exported files to PyTorch: what each engine answers to the same crops, and how fast."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from mien.errors import MienError
from mien.export.int8 import STATIC
from mien.model.preprocessing import Preprocessing, tensor, to_luma
from mien.recognition.engines.engines import BATCH, Answers, Engine

TOLERANCE = 1e-4
"""Largest difference of a float32 file's probabilities from PyTorch's."""

MOST_LOST = 0.3
"""Points of accuracy that an int8 file may lose on the split."""

_NOISE = 0.1
"""Points of accuracy by which two ways to int8 do not differ: four pictures of FER2013's validation split."""


@dataclass(frozen=True)
class Parity:
    """What an engine made of crops, beside what PyTorch made of them.

    Attributes:
        largest_difference: of any probability.
        mean_difference: of the probabilities, their absolute values averaged.
        largest_embedding_difference: of any component of an embedding.
        agreement: share of the crops to which it gives the same label, in [0, 1].
        accuracy: share of the crops that it labels as the data does; None where the crops have no labels.
        rate: crops a second.
    """

    largest_difference: float
    mean_difference: float
    largest_embedding_difference: float
    agreement: float
    accuracy: float | None
    rate: float


class Comparison:
    """Lets engines read the same crops, and holds each to the first.

    Args:
        engine: what the others are held against.
        crops: as the engines read them, N of at least 1.
        labels: int64 [N], positions in the engines' names, or None.
    """

    def __init__(self, engine: Engine, crops: np.ndarray, labels: np.ndarray | None) -> None:
        self._crops, self._labels = crops, labels
        self._reference: Answers | None = None
        self.reference = self.parity(engine)

    def parity(self, engine: Engine) -> Parity:
        """Reads the crops, and a batch of them before, in which memory is set up and which no clock sees."""
        engine.read(self._crops[:BATCH])
        started = time.perf_counter()
        answers = engine.read(self._crops)
        rate = len(self._crops) / (time.perf_counter() - started)
        self._reference = self._reference or answers
        return _parity(answers, self._reference, self._labels, rate)


def lost(parity: Parity, reference: Parity) -> float:
    """Points of accuracy that an engine loses; below 0 where it gains some."""
    if parity.accuracy is None or reference.accuracy is None:
        raise ValueError("expected crops with labels")
    return 100 * (reference.accuracy - parity.accuracy)


def choose(candidates: Mapping[str, Parity], reference: Parity) -> tuple[str, str]:
    """Which way to int8 to take, and why: the one that loses less accuracy, static where that is a matter of noise."""
    losses = {name: lost(parity, reference) for name, parity in candidates.items()}
    best = min(losses, key=lambda name: losses[name])
    told = " and ".join(f"{name} {loss:+.2f}" for name, loss in losses.items())
    if len(losses) == 1:
        return best, f"points lost: {told}; the only way open to this network and data"
    if losses.get(STATIC, np.inf) <= min(losses[best] + _NOISE, MOST_LOST):
        return STATIC, f"points lost: {told}; no worse up to {_NOISE}, and its answers do not depend on the batch"
    return best, f"points lost: {told}"


def check_float(parity: Parity, tolerance: float, where: str) -> None:
    """Holds a float32 file to its tolerance.

    Raises:
        MienError: its probabilities differ by more.
    """
    if not parity.largest_difference <= tolerance:
        raise MienError(
            f"{where}: ONNX Runtime's probabilities differ from PyTorch's by up to {parity.largest_difference:.1e}, "
            f"expected at most {tolerance:.1e}; nothing was written; give a larger --tolerance if that will do"
        )


def check_int8(parity: Parity, reference: Parity, where: str) -> None:
    """Holds an int8 file to ``MOST_LOST``.

    Raises:
        MienError: it loses more accuracy.
    """
    loss = lost(parity, reference)
    if not loss <= MOST_LOST:
        raise MienError(
            f"{where}: int8 loses {loss:.2f} points of accuracy and agrees with PyTorch in {parity.agreement:.1%}, "
            f"expected a loss of at most {MOST_LOST}; nothing was written; leave out --int8"
        )


def crops_of(images: np.ndarray, preprocessing: Preprocessing, grey: bool) -> np.ndarray:
    """Pictures of a data set as an engine reads them.

    Args:
        images: uint8 [N, H, W] or [N, H, W, 3].
        preprocessing: to whose size they are brought.
        grey: whether the engine reads luma.

    Returns:
        uint8 [N, S, S] where ``grey``, else uint8 [N, S, S, 3].
    """
    found = []
    for start in range(0, len(images), BATCH):
        batch = tensor(images[start : start + BATCH])
        planes = preprocessing.resize(batch.unsqueeze(1) if batch.ndim == 3 else batch.movedim(-1, 1))
        if grey and planes.shape[1] == 3:
            planes = to_luma(planes.float()).round().to(torch.uint8)
        found.append((planes[:, 0] if grey else planes.expand(-1, 3, -1, -1).movedim(1, -1)).numpy())
    return np.ascontiguousarray(np.concatenate(found))


def random_crops(image_size: int, grey: bool, count: int = 256) -> np.ndarray:
    """Crops without a face, uint8: from flat to noisy, of every brightness."""
    rng = np.random.default_rng(0)
    shape = (count, image_size, image_size) if grey else (count, image_size, image_size, 3)
    level, spread = (rng.uniform(0, most, (count, *[1] * (len(shape) - 1))) for most in (255, 100))
    return np.clip(rng.normal(level, spread, shape), 0, 255).astype(np.uint8)


def table(parities: Mapping[str, Parity], sizes: Mapping[str, int]) -> str:
    """The comparison for a person; rates as multiples of the first engine's, sizes in bytes as MiB."""
    heads = ("", "accuracy", "agreement", "largest difference", "mean difference", "rate", "MiB")
    rows: list[tuple[str, ...]] = [heads]
    first = next(iter(parities.values()))
    for name, parity in parities.items():
        accuracy = "" if parity.accuracy is None else f"{parity.accuracy:.2%}"
        size = f"{sizes[name] / 2**20:.1f}" if name in sizes else ""
        ratio = f"{parity.rate / first.rate:.2f}x"
        differences = (f"{parity.largest_difference:.1e}", f"{parity.mean_difference:.1e}")
        rows.append((name, accuracy, f"{parity.agreement:.2%}", *differences, ratio, size))
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def as_json(parities: Mapping[str, Parity], reference: Parity) -> dict[str, Any]:
    """The comparison for ``parity.json``, each rate also as a multiple of the reference's."""
    return {name: {**asdict(parity), "rate_ratio": parity.rate / reference.rate} for name, parity in parities.items()}


def _parity(answers: Answers, reference: Answers, labels: np.ndarray | None, rate: float) -> Parity:
    differences = np.abs(answers.probabilities.astype(np.float64) - reference.probabilities)
    found, expected = answers.probabilities.argmax(1), reference.probabilities.argmax(1)
    return Parity(
        largest_difference=float(differences.max()),
        mean_difference=float(differences.mean()),
        largest_embedding_difference=float(np.abs(answers.embeddings - reference.embeddings).max()),
        agreement=float((found == expected).mean()),
        accuracy=None if labels is None else float((found == labels).mean()),
        rate=rate,
    )
