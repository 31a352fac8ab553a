"""How far a classifier's certainty can be trusted: temperature scaling, and which answers are called uncertain.

Both are fitted on the validation pictures that have no twin in training (``mien.data.twins``): twins are answered too
well, and the pictures of users have none. As the same pictures also measure, what scaling brings there is cross-fitted:
fitted on one half, measured on the other, both ways.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from mien.evaluation.metrics import negative_log_likelihood, reliability

STATED_ACCURACY = 0.8
"""Share of the answers that are not called uncertain that is right, at least, with ``CONFIDENCE``."""

CONFIDENCE = 0.95
"""Of that promise: the chance that validation pictures drawn afresh would not give a threshold that breaks it."""

FEWEST_SURE = 30
"""Sure answers by which a threshold may be judged, at least."""

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
    logits: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    seed: int = 0,
    fitted_on: np.ndarray | None = None,
) -> np.ndarray | None:
    """For each picture the temperature that was fitted without it: on the half to which it does not belong.

    Args:
        logits: float [N, C].
        labels: int64 [N], positions of the true classes; each class gives both halves its share.
        groups: int64 [N]; pictures of one group (twins) stay in one half. None where each stands alone.
        seed: of the halves.
        fitted_on: bool [N], which pictures temperatures are fitted on (those without a twin in training); None takes
            all.

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
        if fitted_on is not None:
            fitting = fitting[fitted_on[fitting]]
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
    """A threshold from which on answers are right often enough, with ``CONFIDENCE``, and not by luck on these pictures.

    More and more of the surest answers are taken, beginning with ``FEWEST_SURE`` or a tenth of all, in steps of a
    fortieth, as long as the lower Clopper-Pearson bound of their accuracy holds. As the order of these tests is fixed
    beforehand and the first failure ends them, the confidence needs no correction for their number (fixed sequence
    testing: Angelopoulos et al. 2021, arXiv:2110.01052, section 2.3; the purpose is that of Geifman and El-Yaniv 2017).

    Args:
        probabilities: float64 [N, C].
        labels: int64 [N], positions of the true classes.
        accuracy: the share in [0, 1] of answers at or above the threshold that must be right.

    Returns:
        The last that held; None if the first did not, or if there are too few pictures.
    """
    curve, n = risk_coverage(probabilities, labels), len(labels)
    counts = np.rint(curve.coverage * n).astype(np.int64)
    first, step = max(FEWEST_SURE, math.ceil(n / 10)), max(1, n // 40)
    result = None
    for wanted in [*range(first, n, step), n] if n >= first else []:
        # Equally sure answers are taken together.
        place = int(np.searchsorted(counts, wanted))
        right = round(curve.accuracy[place] * counts[place])
        if accuracy_interval(right, int(counts[place]), one_sided=True)[0] < accuracy:
            break
        result = Threshold(float(curve.thresholds[place]), float(curve.coverage[place]), float(curve.accuracy[place]))
    return result


def accuracy_interval(right: int, count: int, *, one_sided: bool = False) -> tuple[float, float]:
    """The Clopper-Pearson interval of a share, at ``CONFIDENCE``.

    Args:
        right: successes.
        count: trials, at least 1.
        one_sided: all the risk of error is on the lower end; the upper end is then 1.
    """
    from scipy.special import betaincinv

    risk = (1 - CONFIDENCE) / (1 if one_sided else 2)
    low = float(betaincinv(right, count - right + 1, risk)) if right else 0.0
    high = float(betaincinv(right + 1, count - right, 1 - risk)) if right < count and not one_sided else 1.0
    return low, high


def apply_threshold(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> Threshold:
    """Coverage and accuracy that a threshold, found elsewhere, has on these pictures."""
    sure = probabilities.max(axis=1) >= threshold
    right = (probabilities.argmax(axis=1) == labels)[sure]
    return Threshold(threshold, float(sure.mean()), float(right.mean()) if len(right) else None)


def calibrate(
    logits: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    seed: int = 0,
    twins: np.ndarray | None = None,
) -> dict[str, Any]:
    """Fits temperature and threshold on the clean validation pictures, and reports what scaling brings there.

    Args:
        logits: float [N, C], before scaling.
        labels: int64 [N], positions of the true classes.
        groups: int64 [N], twins share a number.
        seed: of the halves.
        twins: bool [N], which pictures have a twin in training; they are left out, unless all are twins.

    Returns:
        What ``meta.json`` holds as ``calibration``: ``temperature``, ``split``, ``n`` (pictures fitted on),
        ``twins_left_out``, ``ece_before``, ``ece_after``, ``nll_before``, ``nll_after`` (after: cross-fitted; null
        where the pictures cannot be halved) and ``uncertain``: ``stated_accuracy``, ``confidence``, the ``threshold``
        of a sure answer, its ``coverage``, its ``accuracy`` and that one's interval ``ci95`` (null, 0, null and null
        where no threshold keeps the promise).
    """
    clean = _clean_rows(len(labels), twins)
    left_out = len(labels) - len(clean)
    logits, labels, groups = logits[clean], labels[clean], None if groups is None else groups[clean]
    temperature = fit_temperature(logits, labels)
    temperatures = cross_fitted(logits, labels, groups, seed)
    before = quality(softmax(logits), labels)
    after = None if temperatures is None else quality(softmax(logits / temperatures[:, None]), labels)
    return {
        "temperature": temperature,
        "split": "validation",
        "n": len(labels),
        "twins_left_out": left_out,
        **{f"{name}_before": before[name] for name in before},
        **{f"{name}_after": None if after is None else after[name] for name in before},
        "uncertain": promise(softmax(logits / temperature), labels),
    }


def promise(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """The field ``uncertain`` of ``calibrate``, from scaled probabilities [N, C]."""
    fitted = threshold_for(probabilities, labels, STATED_ACCURACY)
    record: dict[str, Any] = {"stated_accuracy": STATED_ACCURACY, "confidence": CONFIDENCE}
    if fitted is None:
        return {**record, "threshold": None, "coverage": 0.0, "accuracy": None, "ci95": None}
    # Rounded down, so that the same picture is sure again where the folded weights answer a rounding error away.
    rounded = apply_threshold(probabilities, labels, math.floor(fitted.threshold * 1e6) / 1e6)
    count, accuracy = round(rounded.coverage * len(labels)), rounded.accuracy or 0.0
    interval = accuracy_interval(round(accuracy * count), count)
    return {
        **record,
        "threshold": rounded.threshold,
        "coverage": rounded.coverage,
        "accuracy": accuracy,
        "ci95": list(interval),
    }


def quality(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """``ece`` and ``nll`` of probabilities [N, C], as ``mien.evaluation.metrics.score`` measures them."""
    return {
        "ece": reliability(probabilities, labels).ece,
        "nll": negative_log_likelihood(probabilities, labels),
    }


def calibrate_if_enough(
    logits: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    seed: int = 0,
    twins: np.ndarray | None = None,
) -> dict[str, Any]:
    """``calibrate``, but fits nothing to fewer clean pictures than it takes.

    Args:
        logits: as ``calibrate``.
        labels: as ``calibrate``.
        groups: as ``calibrate``.
        seed: as ``calibrate``.
        twins: as ``calibrate``.

    Returns:
        As ``calibrate``. Below ``LEAST_FOR_TEMPERATURE`` clean pictures ``temperature`` is 1, and ``ece_after`` and
        ``nll_after`` are null; below ``LEAST_FOR_THRESHOLD`` ``uncertain`` is null: no answer is called sure or
        uncertain.
    """
    clean = _clean_rows(len(labels), twins)
    count = len(clean)
    if count < LEAST_FOR_TEMPERATURE:
        before = quality(softmax(logits[clean]), labels[clean]) if count else dict.fromkeys(("ece", "nll"))
        return {
            "temperature": 1.0,
            "split": "validation",
            "n": count,
            "twins_left_out": len(labels) - count,
            **{f"{name}_before": before[name] for name in before},
            **{f"{name}_after": None for name in before},
            "uncertain": None,
        }
    record = calibrate(logits, labels, groups, seed, twins)
    return record if count >= LEAST_FOR_THRESHOLD else {**record, "uncertain": None}


def _clean_rows(count: int, twins: np.ndarray | None) -> np.ndarray:
    """int64: rows of the pictures without a twin in training; all rows if that is not known or all are twins."""
    return np.arange(count) if twins is None or twins.all() else np.flatnonzero(~twins)
