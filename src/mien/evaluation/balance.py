"""What answers gain for rare classes, and lose in accuracy, if the shares of the classes are divided out of them.

A network that learnt from unequal classes answers a rare one less often than its pictures deserve. Dividing each
probability by the class's share in training to the power tau, and scaling to a sum of 1, takes part of that back
(Menon et al. 2021, arXiv:2007.07314, section 4.1): 0 changes nothing, 1 aims at balanced accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mien.data.faces import FaceSet
from mien.evaluation.metrics import quick_scores

STRENGTHS: tuple[float, ...] = tuple(step / 10 for step in range(11))
"""The values of tau along the curve."""


def class_shares(train: FaceSet, names: Sequence[str], resample: float = 0.0) -> np.ndarray:
    """The share of each class in a training split, or among the pictures of an epoch that draws rare ones more often.

    Args:
        train: the split; a class without pictures counts as one picture.
        names: the C classes, in the order of the result.
        resample: of ``TrainConfig``: 0 takes the pictures as they are, 1 every class equally often.

    Returns:
        float64 [C], above 0, with a sum of 1.

    Raises:
        MienError: the split has a class that is not among ``names``.
    """
    counts = np.maximum(np.bincount(train.labels_in(names), minlength=len(names)), 1).astype(np.float64)
    drawn = counts ** (1 - resample)
    return drawn / drawn.sum()


def balanced(probabilities: np.ndarray, shares: np.ndarray, tau: float) -> np.ndarray:
    """Divides the shares of the classes out of answers.

    Args:
        probabilities: float64 [N, C], rows that sum to 1.
        shares: float64 [C], above 0.
        tau: how much of the shares is divided out; 0 changes nothing.

    Returns:
        float64 [N, C], rows that sum to 1.
    """
    weighted = probabilities / shares**tau
    return weighted / weighted.sum(axis=1, keepdims=True)


def balance_curve(probabilities: np.ndarray, labels: np.ndarray, shares: np.ndarray) -> list[dict[str, Any]]:
    """The scores of answers at each of ``STRENGTHS``.

    Args:
        probabilities: float64 [N, C], rows that sum to 1.
        labels: int64 [N], at least one.
        shares: float64 [C], of the classes in training.

    Returns:
        For each ``tau`` also ``accuracy``, ``balanced_accuracy``, ``macro_f1`` and ``rarest_recall``, the recall of the
        class with the smallest share (None if it has no picture here).
    """
    rarest = labels == shares.argmin()
    rows = []
    for tau in STRENGTHS:
        predicted = balanced(probabilities, shares, tau).argmax(axis=1)
        rows.append(
            {
                "tau": tau,
                **quick_scores(predicted, labels, len(shares)),
                "rarest_recall": float((predicted == labels)[rarest].mean()) if rarest.any() else None,
            }
        )
    return rows
