"""Stored answers for training pictures, which ``mien folds`` writes and a run learns from beside its labels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mien.data.faces import FaceSet, fingerprint_of
from mien.errors import MienError
from mien.files import atomic_file, sha256_of
from mien.labels import positions
from mien.training.run import Saved

KEY = "mien-folds"
"""Name of the record in the header of the file."""


@dataclass(frozen=True)
class StoredAnswers:
    """Answers for the pictures of a training split.

    Attributes:
        path: of the file.
        probabilities: float32 [N, C], rows sum to 1, in the order of the training split.
        names: the classes of the columns.
        training: fingerprint of the training split (``training_fingerprint``).
        sha256: hexadecimal, of the file.
    """

    path: Path
    probabilities: np.ndarray
    names: tuple[str, ...]
    training: str
    sha256: str

    @classmethod
    def load(cls, path: Path, faces: FaceSet) -> StoredAnswers:
        """Reads a file of ``mien folds`` and checks that it belongs to the training split.

        Raises:
            MienError: the file is missing or damaged, or was made from other pictures or labels.
        """
        try:
            with safe_open(path, framework="np") as file:
                record = json.loads((file.metadata() or {})[KEY])
                probabilities = file.get_tensor("probabilities")
            names, training = tuple(map(str, record["names"])), str(record["training"])
        except FileNotFoundError as error:
            raise MienError(f"--targets {path}: no such file; give one that `mien folds` wrote") from error
        except (SafetensorError, KeyError, TypeError, OSError, ValueError, RecursionError) as error:
            raise MienError(
                f"--targets {path}: is damaged or no file of `mien folds` ({error}); make it again"
            ) from error
        train = faces.part("train")
        if training != training_fingerprint(train):
            raise MienError(
                f"--targets {path}: was made from other training pictures or labels than those of {faces.source}; "
                "give the file that `mien folds` made from this data"
            )
        fits = probabilities.dtype == np.float32 and probabilities.shape == (len(train), len(names))
        if not (fits and np.isfinite(probabilities).all() and np.allclose(probabilities.sum(1), 1, atol=1e-3)):
            raise MienError(
                f"--targets {path}: expected float32 probabilities [{len(train)}, {len(names)}], got "
                f"{probabilities.dtype} {list(probabilities.shape)}, or values that are none; make it again"
            )
        return cls(path, probabilities, names, training, sha256_of(path))

    def rows(self, train: FaceSet) -> torch.Tensor:
        """The answers with a column for each class of the training split: float32 [N, C]."""
        columns = positions(train.names, self.names, f"--targets {self.path}: lacks classes")
        return torch.from_numpy(self.probabilities[:, columns])

    def state(self) -> dict[str, torch.Tensor]:
        """The file's SHA-256 as a part of a run's state: uint8 [32]."""
        return {"sha256": torch.tensor(list(bytes.fromhex(self.sha256)), dtype=torch.uint8)}


def check_targets(stored: StoredAnswers | None, saved: Saved) -> None:
    """Checks that the stored answers are those of the saved run.

    Raises:
        MienError: the run has others, or the one has some and the other has none.
    """
    expected, current = saved.part("targets"), {} if stored is None else stored.state()
    if expected.keys() != current.keys():
        raise MienError(
            f"--resume: the run learns {'from' if expected else 'without'} stored answers; give the same --targets"
        )
    if stored is not None and not torch.equal(expected["sha256"], current["sha256"]):
        raise MienError(
            f"--resume: {stored.path} differs from the stored answers that the run learnt from; give the same --targets"
        )


def training_fingerprint(train: FaceSet) -> str:
    """Hexadecimal SHA-256 of the pictures, labels and class names of a training split."""
    return fingerprint_of(train.images, train.labels, (), train.names)


def write_answers(path: Path, probabilities: np.ndarray, fold: np.ndarray, record: dict[str, Any]) -> None:
    """Writes a file that ``StoredAnswers.load`` reads, atomically.

    Args:
        path: the file.
        probabilities: float32 [N, C].
        fold: int64 [N], the fold of each picture.
        record: JSON-ready, with ``names`` and ``training``.
    """
    tensors: dict[str, np.ndarray] = {
        "probabilities": np.ascontiguousarray(probabilities, np.float32),
        "fold": fold.astype(np.int64),
    }
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata={KEY: json.dumps(record)})
