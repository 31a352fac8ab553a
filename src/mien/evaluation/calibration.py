"""How far a classifier's certainty can be trusted: temperature scaling, and which answers are called uncertain.

The temperature is fitted on the validation split alone. As the same split also measures, what scaling brings there is
cross-fitted: fitted on one half, measured on the other, both ways.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from mien.evaluation.metrics import negative_log_likelihood, reliability

STATED_ACCURACY = 0.8
"""Answers are called uncertain below the certainty above which at least this share of validation was read right."""

POINTS: tuple[float, ...] = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""The coverages at which reports give the accuracy."""

LEAST_FOR_TEMPERATURE = 100
"""Pictures below which no temperature is fitted. From 100 it is within a fifth of that of all 3,589 pictures in 95 % of
the draws (LOG.md), and the loss that it adds by chance is below 0.005; from 10 it is off by more than half, from 3 by
four times."""

LEAST_FOR_THRESHOLD = 300
"""Pictures below which no threshold of uncertain answers is fitted. From 300, at least 75 % of the sure answers are
right instead of 80 % in 97.5 % of the draws; from 100 as few as 71 %."""

_LARGEST_TEMPERATURE = 5.0


@dataclass(frozen=True)
class RiskCoverage:
    """How right the surest answers are (El-Yaniv and Wiener 2010; Geifman and El-Yaniv 2017, arXiv:1705.08500).

    Attributes:
        thresholds: float64 [K], the different top probabilities, falling.
        coverage: float64 [K], share of the pictures whose top probability reaches the threshold, in (0, 1].
        accuracy: float64 [K], share of these that is read right, in [0, 1].
        count: N, the number of pictures.
    """

    thresholds: np.ndarray
    coverage: np.ndarray
    accuracy: np.ndarray
    count: int

    @property
    def aurc(self) -> float:
        """Area under the risk-coverage curve in [0, 1], 0 is best: mean risk of the 1, 2, ..., N surest answers."""
        kept = np.arange(1, self.count + 1)
        return float((1 - self._hits(kept) / kept).mean())

    def accuracy_at(self, coverage: float) -> float:
        """Accuracy in [0, 1] of the surest answers, of which there are ``coverage`` N, rounded, at least one."""
        kept = max(1, round(coverage * self.count))
        return float(self._hits(np.array([kept]))[0] / kept)

    def _hits(self, kept: np.ndarray) -> np.ndarray:
        """Right answers among the ``kept`` surest; among equally sure ones, their mean over all orders."""
        numbers = np.concatenate([[0.0], self.coverage * self.count])
        return np.interp(kept, numbers, np.concatenate([[0.0], self.accuracy * self.coverage * self.count]))


@dataclass(frozen=True)
class Threshold:
    """From which certainty on answers count as sure.

    Attributes:
        threshold: the lowest top probability of a sure answer, in [0, 1].
        coverage: share of the pictures with a sure answer, in [0, 1].
        accuracy: share of the sure answers that is right, in [0, 1]; None where there is no sure answer.
    """

    threshold: float
    coverage: float
    accuracy: float | None


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities, float64 [..., C], of logits [..., C]."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponents = np.exp(shifted)
    return exponents / exponents.sum(axis=-1, keepdims=True)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature by which logits are divided to make the labels likeliest (Guo et al. 2017, section 4.2).

    Args:
        logits: float [N, C].
        labels: int64 [N], positions of the true classes.

    Returns:
        A number in [0.2, 5]; 1 where no finite temperature is best, as every answer is right or all logits are equal.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    logits, rows = logits.astype(np.float64), np.arange(len(labels))
    if (logits[rows, labels] == logits.max(axis=1)).all():
        return 1.0
    # The loss is convex in 1 / T, so over log T too it has one minimum alone.
    found = minimize_scalar(
        lambda log: -log_softmax(logits / math.exp(log), axis=1)[rows, labels].mean(),
        bounds=(-math.log(_LARGEST_TEMPERATURE), math.log(_LARGEST_TEMPERATURE)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return math.exp(float(found.x))


def cross_fitted(
    logits: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None, seed: int = 0
) -> np.ndarray | None:
    """For each picture the temperature that was fitted without it: on the half to which it does not belong.

    Args:
        logits: float [N, C].
        labels: int64 [N], positions of the true classes; each class gives both halves its share.
        groups: int64 [N]; pictures of one group (twins) stay in one half. None where each stands alone.
        seed: of the halves.

    Returns:
        float64 [N]; None where there are no two halves.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    groups = np.arange(len(labels)) if groups is None else groups
    if len(np.unique(groups)) < 2 or np.bincount(labels).max() < 2:
        return None
    with warnings.catch_warnings():
        # A class with a single picture is in one half alone, and that is all there is to be done.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        halves = list(StratifiedGroupKFold(2, shuffle=True, random_state=seed).split(logits, labels, groups))
    temperatures = np.empty(len(labels))
    for fitting, measured in halves:
        if not len(fitting):
            return None
        temperatures[measured] = fit_temperature(logits[fitting], labels[fitting])
    return temperatures


def risk_coverage(probabilities: np.ndarray, labels: np.ndarray) -> RiskCoverage:
    """Accuracy over coverage, the surest answers first.

    Args:
        probabilities: float64 [N, C], N of at least 1.
        labels: int64 [N], positions of the true classes.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    thresholds, place = np.unique(-confidence, return_inverse=True)
    kept = np.cumsum(np.bincount(place))
    hits = np.cumsum(np.bincount(place, weights=right))
    return RiskCoverage(-thresholds, kept / len(labels), hits / kept, len(labels))


def threshold_for(probabilities: np.ndarray, labels: np.ndarray, accuracy: float) -> Threshold | None:
    """The smallest top probability from which on answers are right often enough.

    Args:
        probabilities: float64 [N, C].
        labels: int64 [N], positions of the true classes.
        accuracy: the share in [0, 1] of answers at or above the threshold that must be right.

    Returns:
        None where no threshold reaches that.
    """
    curve = risk_coverage(probabilities, labels)
    reached = np.flatnonzero(curve.accuracy >= accuracy)
    if not len(reached):
        return None
    last = reached[-1]
    return Threshold(float(curve.thresholds[last]), float(curve.coverage[last]), float(curve.accuracy[last]))


def apply_threshold(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> Threshold:
    """Coverage and accuracy that a threshold, found elsewhere, has on these pictures."""
    sure = probabilities.max(axis=1) >= threshold
    right = (probabilities.argmax(axis=1) == labels)[sure]
    return Threshold(threshold, float(sure.mean()), float(right.mean()) if len(right) else None)


def calibrate(
    logits: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None, seed: int = 0
) -> dict[str, Any]:
    """Fits temperature and threshold on the validation split, and tells what scaling brings there.

    Args:
        logits: float [N, C], before scaling.
        labels: int64 [N], positions of the true classes.
        groups: int64 [N], twins share a number.
        seed: of the halves.

    Returns:
        What ``meta.json`` holds as ``calibration``: ``temperature``, ``split``, ``n``, ``ece_before``, ``ece_after``,
        ``nll_before``, ``nll_after`` (after: cross-fitted; null where the split cannot be halved) and ``uncertain``:
        ``stated_accuracy``, the ``threshold`` of a sure answer and its ``coverage`` and ``accuracy`` (null, 0 and null
        where no threshold reaches the stated accuracy).
    """
    temperature = fit_temperature(logits, labels)
    scaled = softmax(logits / temperature)
    temperatures = cross_fitted(logits, labels, groups, seed)
    before = quality(softmax(logits), labels)
    after = None if temperatures is None else quality(softmax(logits / temperatures[:, None]), labels)
    found = threshold_for(scaled, labels, STATED_ACCURACY)
    if found is not None:
        # Rounded down, so that the same picture is sure again where the folded weights answer a rounding error away.
        found = apply_threshold(scaled, labels, math.floor(found.threshold * 1e6) / 1e6)
    return {
        "temperature": temperature,
        "split": "validation",
        "n": len(labels),
        **{f"{name}_before": before[name] for name in before},
        **{f"{name}_after": None if after is None else after[name] for name in before},
        "uncertain": {
            "stated_accuracy": STATED_ACCURACY,
            "threshold": found.threshold if found else None,
            "coverage": found.coverage if found else 0.0,
            "accuracy": found.accuracy if found else None,
        },
    }


def quality(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """``ece`` and ``nll`` of probabilities [N, C], as ``mien.evaluation.metrics.score`` measures them."""
    return {
        "ece": reliability(probabilities, labels).ece,
        "nll": negative_log_likelihood(probabilities, labels),
    }


def calibrate_if_enough(
    logits: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None, seed: int = 0
) -> dict[str, Any]:
    """``calibrate``, but fits nothing to fewer pictures than it takes.

    Args:
        logits: as ``calibrate``.
        labels: as ``calibrate``.
        groups: as ``calibrate``.
        seed: as ``calibrate``.

    Returns:
        As ``calibrate``. Below ``LEAST_FOR_TEMPERATURE`` pictures ``temperature`` is 1, and ``ece_after`` and
        ``nll_after`` are null; below ``LEAST_FOR_THRESHOLD`` ``uncertain`` is null: no answer is called sure or
        uncertain.
    """
    count = len(labels)
    if count < LEAST_FOR_TEMPERATURE:
        before = quality(softmax(logits), labels) if count else dict.fromkeys(("ece", "nll"))
        scores = {f"{name}_before": before[name] for name in before} | {f"{name}_after": None for name in before}
        return {"temperature": 1.0, "split": "validation", "n": count, **scores, "uncertain": None}
    record = calibrate(logits, labels, groups, seed)
    return record if count >= LEAST_FOR_THRESHOLD else {**record, "uncertain": None}
