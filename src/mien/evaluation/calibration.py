"""Calibration of a classifier: temperature scaling, and the threshold below which answers are called uncertain.

Both are fitted on the validation pictures without a twin in training (``mien.data.twins``): the model is too accurate
and too confident on twins, and the pictures of users have none. The effect of scaling is measured on the same pictures,
therefore cross-fitted: fitted on one half, measured on the other, both ways.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mien.evaluation.metrics import negative_log_likelihood, reliability

STATED_ACCURACY = 0.8
"""Least accuracy of the answers that are not called uncertain; it holds with ``CONFIDENCE``."""

CONFIDENCE = 0.95
"""Probability that a threshold from newly drawn validation pictures keeps the promise of ``STATED_ACCURACY``."""

FEWEST_SURE = 30
"""Least number of sure answers from which a threshold may be judged."""

POINTS: tuple[float, ...] = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""The coverages at which reports give the accuracy."""

LEAST_FOR_TEMPERATURE = 100
"""Least number of pictures to fit a temperature.

With 100, it is within a fifth of the temperature of all 3,589 pictures in 95 % of the draws (LOG.md), and the loss that
it adds by chance is below 0.005. With 10, it is off by more than half; with 3, by a factor of four.
"""

LEAST_FOR_THRESHOLD = 300
"""Least number of pictures to fit a threshold.

With 300, at least 75 % of the sure answers are right (instead of 80 %) in 97.5 % of the draws; with 100, only 71 %.
"""

_LARGEST_TEMPERATURE = 5.0

_NEAR_BOUND = 1.001
"""Factor by which a temperature at the bound of its search may differ from that bound."""


@dataclass(frozen=True)
class RiskCoverage:
    """Accuracy of the most confident answers over their share of all answers.

    Source: El-Yaniv and Wiener 2010; Geifman and El-Yaniv 2017 (arXiv:1705.08500).

    Attributes:
        thresholds: float64 [K], the distinct top probabilities in falling order.
        coverage: float64 [K], share of the pictures whose top probability reaches the threshold, in (0, 1].
        accuracy: float64 [K], share of these that is classified correctly, in [0, 1].
        count: N, the number of pictures.
    """

    thresholds: np.ndarray
    coverage: np.ndarray
    accuracy: np.ndarray
    count: int

    @property
    def aurc(self) -> float:
        """Area under the risk-coverage curve in [0, 1], 0 is best: mean risk of the 1 ... N most confident answers."""
        answers = np.arange(1, self.count + 1)
        return float((1 - self._hits(answers) / answers).mean())

    def accuracy_at(self, coverage: float) -> float:
        """Accuracy in [0, 1] of the ``coverage`` N most confident answers (rounded, at least one)."""
        answers = max(1, round(coverage * self.count))
        return float(self._hits(np.array([answers]))[0] / answers)

    def _hits(self, answers: np.ndarray) -> np.ndarray:
        """Correct answers among the most confident ``answers`` [M]; ties count as the mean over all their orders."""
        numbers = np.concatenate([[0.0], self.coverage * self.count])
        return np.interp(answers, numbers, np.concatenate([[0.0], self.accuracy * self.coverage * self.count]))


@dataclass(frozen=True)
class Threshold:
    """The confidence from which answers count as sure, and what it does on a set of pictures.

    Attributes:
        threshold: the lowest top probability of a sure answer, in [0, 1].
        coverage: share of the pictures with a sure answer, in [0, 1].
        accuracy: share of the sure answers that is right, in [0, 1]; None if there is no sure answer.
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
    """The temperature that minimises the loss if the logits are divided by it (Guo et al. 2017, section 4.2).

    Args:
        logits: float [N, C].
        labels: int64 [N], positions of the true classes.

    Returns:
        A number in [0.2, 5]; 1 if no finite temperature is best: every answer is right, or all logits are equal.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    logits, rows = logits.astype(np.float64), np.arange(len(labels))
    if (logits[rows, labels] == logits.max(axis=1)).all():
        return 1.0
    # The loss is convex in 1 / T, so it has a single minimum over log T too.
    best = minimize_scalar(
        lambda log: -log_softmax(logits / math.exp(log), axis=1)[rows, labels].mean(),
        bounds=(-math.log(_LARGEST_TEMPERATURE), math.log(_LARGEST_TEMPERATURE)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return math.exp(float(best.x))


def at_bound(temperature: float) -> bool:
    """True if a temperature of ``fit_temperature`` lies at a bound of its search: a better one may lie beyond."""
    return max(temperature, 1 / temperature) * _NEAR_BOUND >= _LARGEST_TEMPERATURE


def cross_fitted(
    logits: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    seed: int = 0,
    fitted_on: np.ndarray | None = None,
) -> np.ndarray | None:
    """The temperature for each picture, fitted on the half of the pictures that does not contain it.

    Args:
        logits: float [N, C].
        labels: int64 [N], positions of the true classes; each class is divided evenly between the halves.
        groups: int64 [N]; pictures of one group (twins) stay in one half. None: every picture is its own group.
        seed: of the halves.
        fitted_on: bool [N], the pictures to fit on (those without a twin in training); None fits on all.

    Returns:
        float64 [N]; None if the pictures cannot be halved.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    groups = np.arange(len(labels)) if groups is None else groups
    if len(np.unique(groups)) < 2 or np.bincount(labels).max() < 2:
        return None
    with warnings.catch_warnings():
        # A class with a single picture can only be in one half; scikit-learn warns about it.
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
    """Accuracy over coverage, the most confident answers first.

    Args:
        probabilities: float64 [N, C], N of at least 1.
        labels: int64 [N], positions of the true classes.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    thresholds, positions = np.unique(-confidence, return_inverse=True)
    answers = np.cumsum(np.bincount(positions))
    hits = np.cumsum(np.bincount(positions, weights=correct))
    return RiskCoverage(-thresholds, answers / len(labels), hits / answers, len(labels))


def threshold_for(probabilities: np.ndarray, labels: np.ndarray, accuracy: float) -> Threshold | None:
    """The lowest threshold whose sure answers are accurate enough with ``CONFIDENCE``, not by luck on these pictures.

    More and more of the most confident answers are taken, from ``FEWEST_SURE`` or a tenth of all on, in steps of a
    fortieth, as long as the lower Clopper-Pearson bound of their accuracy holds. The order of these tests is fixed
    beforehand and the first failure ends them, so the confidence needs no correction for their number (fixed sequence
    testing: Angelopoulos et al. 2021, arXiv:2110.01052, section 2.3; the purpose is that of Geifman and El-Yaniv 2017).

    Args:
        probabilities: float64 [N, C].
        labels: int64 [N], positions of the true classes.
        accuracy: the share in [0, 1] of answers at or above the threshold that must be right.

    Returns:
        The last threshold that held; None if the first did not hold, or if there are too few pictures.
    """
    curve, n = risk_coverage(probabilities, labels), len(labels)
    counts = np.rint(curve.coverage * n).astype(np.int64)
    first, step = max(FEWEST_SURE, math.ceil(n / 10)), max(1, n // 40)
    result = None
    for answers in [*range(first, n, step), n] if n >= first else []:
        # Equally confident answers are taken together.
        place = int(np.searchsorted(counts, answers))
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
        one_sided: puts all the risk of error on the lower end; the upper end is then 1.
    """
    from scipy.special import betaincinv

    risk = (1 - CONFIDENCE) / (1 if one_sided else 2)
    low = float(betaincinv(right, count - right + 1, risk)) if right else 0.0
    high = float(betaincinv(right + 1, count - right, 1 - risk)) if right < count and not one_sided else 1.0
    return low, high


def apply_threshold(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> Threshold:
    """Coverage and accuracy of a given threshold on these pictures."""
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
    """Fits temperature and threshold on the clean validation pictures, and measures the effect of scaling there.

    From too few pictures nothing is fitted: below ``LEAST_FOR_TEMPERATURE`` the temperature is 1, and below
    ``LEAST_FOR_THRESHOLD`` no answer is called sure or uncertain.

    Args:
        logits: float [N, C], before scaling.
        labels: int64 [N], positions of the true classes.
        groups: int64 [N], twins share a number.
        seed: of the halves.
        twins: bool [N], true if the picture has a twin in training; twins are left out, unless all pictures are twins;
            None if they are unknown.

    Returns:
        What ``meta.json`` holds as ``calibration``: ``temperature``, ``split``, ``n`` (pictures fitted on),
        ``twins_left_out`` (null if twins are unknown, or if all pictures are twins), ``ece_before``, ``ece_after``,
        ``nll_before``, ``nll_after`` (after: cross-fitted; null if no temperature was fitted or the pictures cannot be
        halved) and ``uncertain`` (null if no threshold was fitted): ``stated_accuracy``, ``confidence``, the
        ``threshold`` of a sure answer, its ``coverage``, its ``accuracy`` and the interval ``ci95`` of that accuracy
        (null, 0, null and null if no threshold keeps the promise).
    """
    clean = np.ones(len(labels), bool) if twins is None or twins.all() else ~twins
    logits, labels, groups = logits[clean], labels[clean], None if groups is None else groups[clean]
    count, temperature = len(labels), 1.0
    before = quality(softmax(logits), labels) if count else None
    after = uncertain = None
    if count >= LEAST_FOR_TEMPERATURE:
        temperature, temperatures = fit_temperature(logits, labels), cross_fitted(logits, labels, groups, seed)
        after = None if temperatures is None else quality(softmax(logits / temperatures[:, None]), labels)
    if count >= LEAST_FOR_THRESHOLD:
        uncertain = promise(softmax(logits / temperature), labels)
    return {
        "temperature": temperature,
        "split": "validation",
        "n": count,
        "twins_left_out": None if twins is None or twins.all() else int(twins.sum()),
        **{f"{name}_before": before and before[name] for name in ("ece", "nll")},
        **{f"{name}_after": after and after[name] for name in ("ece", "nll")},
        "uncertain": uncertain,
    }


def promise(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """The field ``uncertain`` of ``calibrate``, from scaled probabilities [N, C]."""
    fitted = threshold_for(probabilities, labels, STATED_ACCURACY)
    record: dict[str, Any] = {"stated_accuracy": STATED_ACCURACY, "confidence": CONFIDENCE}
    if fitted is None:
        return {**record, "threshold": None, "coverage": 0.0, "accuracy": None, "ci95": None}
    # Rounded down: weights with the folded temperature answer up to a rounding error differently, and the same picture
    # must count as sure again.
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


def is_fitted(calibration: Mapping[str, Any] | None) -> bool:
    """True if a temperature was fitted.

    Args:
        calibration: the field of ``meta.json``. From fewer pictures than ``LEAST_FOR_TEMPERATURE`` it holds a
            temperature too, which is 1 and fitted to nothing.
    """
    if not calibration or calibration.get("temperature") is None:
        return False
    return bool(calibration["temperature"] != 1 or calibration.get("n", 0) >= LEAST_FOR_TEMPERATURE)
