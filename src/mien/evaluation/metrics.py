"""Scores of a classifier from its probabilities: accuracy, F1, calibration error and confusion, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BINS = 15
"""Equal-width bins of the calibration error, as in Guo et al. 2017 (arXiv:1706.04599)."""

RESAMPLES = 1000
"""Samples of the bootstrap, and simulations of answers."""


@dataclass(frozen=True)
class Reliability:
    """Accuracy and mean confidence of the pictures in each confidence bin.

    Attributes:
        edges: float64 [bins + 1] from 0 to 1; bin k holds the top probabilities in (edges[k], edges[k + 1]].
        confidence: float64 [bins], mean top probability of a bin in [0, 1]; NaN if the bin is empty.
        accuracy: float64 [bins], share of correct predictions of a bin in [0, 1]; NaN if the bin is empty.
        count: int64 [bins], pictures in a bin.
    """

    edges: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error in [0, 1]: mean gap of confidence and accuracy, weighted by count."""
        filled = self.count > 0
        gaps = np.abs(self.confidence[filled] - self.accuracy[filled])
        return float(np.average(gaps, weights=self.count[filled]))


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> Reliability:
    """Confidence and accuracy of the pictures in equal-width bins of their top probability.

    Args:
        probabilities: float64 [N, C], rows that sum to 1.
        labels: int64 [N], positions of the true classes.
        bins: number of bins.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0.0, 1.0, bins + 1)
    bin_of = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(bin_of, minlength=bins)
    pictures = np.where(count > 0, count, np.nan)
    return Reliability(
        edges=edges,
        confidence=np.bincount(bin_of, weights=confidence, minlength=bins) / pictures,
        accuracy=np.bincount(bin_of, weights=correct, minlength=bins) / pictures,
        count=count,
    )


def ece_by_chance(probabilities: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, float]:
    """The calibration error that a perfectly calibrated classifier with these confidences shows by chance.

    The error is a mean of absolute gaps, so with few pictures it is above 0 even if confidence is right on average. A
    measured error below ``upper`` cannot be told from perfect calibration (consistency resampling: Vaicenavicius et al.
    2019, arXiv:1902.06977).

    Args:
        probabilities: float64 [N, C], rows that sum to 1.
        seed: of the simulated answers, each right with the probability of its confidence.
        resamples: number of simulations.

    Returns:
        ``mean`` and ``upper`` (95 % quantile) of the error, and ``gap``, the 95 % quantile of the absolute difference
        of mean confidence and accuracy, each in [0, 1].
    """
    confidence = probabilities.max(axis=1)
    edges = np.linspace(0.0, 1.0, BINS + 1)
    order = np.argsort(np.searchsorted(edges, confidence, side="left"), kind="stable")
    ordered = confidence[order]
    _, starts = np.unique(np.searchsorted(edges, ordered, side="left"), return_index=True)
    generator = np.random.default_rng(seed)
    errors, differences = [], []
    for _ in range(resamples):
        gaps = np.add.reduceat(ordered - (generator.random(len(ordered)) < ordered), starts)
        errors.append(np.abs(gaps).sum() / len(ordered))
        differences.append(abs(gaps.sum()) / len(ordered))
    upper, gap = np.quantile([errors, differences], 0.95, axis=1)
    return {"mean": float(np.mean(errors)), "upper": float(upper), "gap": float(gap)}


def score(probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str], *, seed: int = 0) -> dict[str, Any]:
    """Every score of one set of pictures, ready for JSON: shares in [0, 1], null if a number is undefined.

    Balanced accuracy and macro-F1 are means over the classes that have pictures; a class without pictures has null for
    recall and F1, and a class that is never predicted has null for precision. ``nll`` is
    ``negative_log_likelihood``. ``ci95`` is the percentile bootstrap over pictures (Efron 1979). If all pictures are
    read right, or none is, the bootstrap has no width: ``ci95`` is then the interval of Clopper and Pearson (1934), of
    all pictures for accuracy, and of the smallest class, which is wider, for the means over classes. If the score of
    every class is 0 or 1, so that their mean has no width either, its ``ci95`` is the mean of theirs. The ``ci95`` of
    each class is ``class_intervals``.

    Args:
        probabilities: float64 [N, C], rows that sum to 1.
        labels: int64 [N], positions of the true classes in ``names``.
        names: the C class names, in the order of the columns.
        seed: of the bootstrap, whose ``RESAMPLES`` samples take about 0.1 s.

    Returns:
        ``n, accuracy, balanced_accuracy, macro_f1, ece, nll, ci95, per_class, names, confusion`` (rows are the true
        classes, columns the predicted ones).
    """
    predictions = probabilities.argmax(axis=1)
    counts = confusion_counts(predictions, labels, len(names))
    of_classes, support = _class_scores(counts), counts.sum(axis=1)
    drawn = _drawn(counts, seed, RESAMPLES)
    of_class_intervals = _class_intervals(counts, drawn)
    return {
        "n": len(labels),
        **{name: float(value) for name, value in _means(counts).items()},
        "ece": reliability(probabilities, labels).ece,
        "nll": negative_log_likelihood(probabilities, labels),
        "ci95": _intervals(counts, drawn, of_class_intervals),
        "per_class": {
            name: {
                **{key: _number(values[index]) for key, values in of_classes.items()},
                "support": int(support[index]),
                "ci95": of_class_intervals[index],
            }
            for index, name in enumerate(names)
        },
        "names": list(names),
        "confusion": counts.tolist(),
    }


def negative_log_likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -log p(label), in nats, of float64 [N, C] and int64 [N]; a probability of 0 counts as 2.2e-16."""
    likelihood = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.clip(likelihood, np.finfo(np.float64).eps, 1.0)).mean())


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> dict[str, Any]:
    """McNemar's exact two-sided test of whether two classifiers differ in accuracy on the same pictures (McNemar 1947).

    If both are equally good, each picture that only one of them classifies correctly is a fair coin toss.

    Args:
        right_a: bool [N], which pictures the first classifies correctly.
        right_b: bool [N], which pictures the second classifies correctly.

    Returns:
        ``b`` and ``c``, the pictures that only the first and only the second classifies correctly, and ``p`` in (0, 1],
        the probability of such an uneven pair of counts if both are equally good; 1 if both counts are 0.
    """
    from scipy.stats import binomtest

    b, c = _right_alone(right_a, right_b)
    return {"b": b, "c": c, "p": float(binomtest(b, b + c).pvalue) if b + c else 1.0}


def paired_difference(right_a: np.ndarray, right_b: np.ndarray) -> dict[str, Any]:
    """How many more pictures the first of two classifiers reads right, as a share of the same pictures.

    Args:
        right_a: bool [N], which pictures the first classifies correctly.
        right_b: bool [N], which pictures the second classifies correctly.

    Returns:
        ``difference`` in [-1, 1], positive if the first is better, and ``ci95``, its interval for matched pairs, Wald's
        with half a picture added to each cell (Agresti and Min 2005, Statistics in Medicine 24:729).
    """
    b, c = _right_alone(right_a, right_b)
    gained, lost, pictures = b + 0.5, c + 0.5, len(right_a) + 2
    centre = (gained - lost) / pictures
    half = 1.96 * np.sqrt(gained + lost - (gained - lost) ** 2 / pictures) / pictures
    ci95 = [max(-1.0, float(centre - half)), min(1.0, float(centre + half))]
    return {"difference": (b - c) / len(right_a), "ci95": ci95}


def _right_alone(right_a: np.ndarray, right_b: np.ndarray) -> tuple[int, int]:
    """The numbers of pictures that only the first and only the second classifies correctly."""
    return int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())


def confusion_counts(predictions: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Counts of (true, predicted) pairs, int64 [classes, classes], rows true, from int64 [N] positions."""
    cells = np.bincount(labels * classes + predictions, minlength=classes * classes)
    return cells.reshape(classes, classes)


def quick_scores(predictions: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, float]:
    """``accuracy``, ``balanced_accuracy`` and ``macro_f1`` as in ``score``, fast enough for every epoch.

    Args:
        predictions: int64 [N], positions of the predicted classes.
        labels: int64 [N], of the true ones; at least one.
        classes: number of classes.
    """
    return {name: float(value) for name, value in _means(confusion_counts(predictions, labels, classes)).items()}


def classification_report_text(probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> str:
    """scikit-learn's table of precision, recall, F1 and support with four digits.

    Classes without pictures are listed below the table and left out of the averages.
    """
    from sklearn.metrics import classification_report

    support = np.bincount(labels, minlength=len(names))
    present = np.flatnonzero(support)
    table = classification_report(
        labels,
        probabilities.argmax(axis=1),
        labels=present,
        target_names=[names[int(index)] for index in present],
        digits=4,
        zero_division=0.0,
    )
    absent = [name for name, count in zip(names, support, strict=True) if count == 0]
    return table + (f"\nwithout pictures, not in the averages: {', '.join(absent)}\n" if absent else "")


def most_confused(confusion: Sequence[Sequence[int]], names: Sequence[str], k: int = 5) -> list[str]:
    """The k most frequent mistakes in words, such as "fear was predicted as sad 87 times (17.5 % of fear)"."""
    pairs = [
        (count, label, prediction)
        for label, row in enumerate(confusion)
        for prediction, count in enumerate(row)
        if label != prediction and count > 0
    ]
    pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    return [
        f"{names[label]} was predicted as {names[prediction]} {'once' if count == 1 else f'{count:,} times'} "
        f"({100 * count / sum(confusion[label]):.1f} % of {names[label]})"
        for count, label, prediction in pairs[:k]
    ]


def surest_mistakes(probabilities: np.ndarray, labels: np.ndarray, k: int = 12) -> np.ndarray:
    """Positions, int64 [at most k], of the misclassified pictures, the highest top probability first."""
    confidence = probabilities.max(axis=1)
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return wrong[np.argsort(-confidence[wrong], kind="stable")][:k]


def class_intervals(
    confusion: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES
) -> list[dict[str, list[float] | None]]:
    """The intervals of precision, recall and F1 of each class, at 95 %, by the bootstrap over pictures.

    A score of 0 or 1 has no width in the bootstrap: its interval is that of Clopper and Pearson (1934), of the pictures
    that were predicted as the class for precision, and of those with its label for recall and F1.

    Args:
        confusion: int64 [C, C], rows are the true classes, columns the predicted ones; at least one picture.
        seed: of the bootstrap.
        resamples: number of bootstrap samples.

    Returns:
        For each class ``precision``, ``recall`` and ``f1``, each [low, high]; None if the score is undefined.
    """
    return _class_intervals(confusion, _drawn(confusion, seed, resamples))


def _class_intervals(confusion: np.ndarray, drawn: np.ndarray) -> list[dict[str, list[float] | None]]:
    """``class_intervals`` from bootstrap samples of the confusion counts, int64 [resamples, C, C]."""
    labelled, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    pictures = {"precision": predicted, "recall": labelled, "f1": labelled}
    samples = _class_scores(drawn)
    intervals: list[dict[str, list[float] | None]] = [{} for _ in confusion]
    for name, values in _class_scores(confusion).items():
        for index, value in enumerate(values):
            if np.isnan(value):
                bounds = None
            elif value in (0, 1):
                bounds = _without_width(bool(value), pictures[name][index])
            else:
                bounds = np.nanpercentile(samples[name][:, index], [2.5, 97.5]).tolist()
            intervals[index][name] = bounds
    return intervals


def _class_scores(confusions: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1, each float64 [..., C], of confusion counts [..., C, C]; NaN if undefined."""
    labelled, predicted = confusions.sum(axis=-1), confusions.sum(axis=-2)
    hits = np.diagonal(confusions, axis1=-2, axis2=-1)
    totals = {"precision": (hits, predicted), "recall": (hits, labelled), "f1": (2 * hits, labelled + predicted)}
    missing = {"precision": predicted == 0, "recall": labelled == 0, "f1": labelled == 0}
    return {
        name: np.where(missing[name], np.nan, part / np.maximum(total, 1)) for name, (part, total) in totals.items()
    }


def _drawn(counts: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """Bootstrap samples of confusion counts [C, C], int64 [resamples, C, C]."""
    # Drawing N pictures with replacement draws the cells of the confusion matrix from a multinomial distribution.
    total = counts.sum()
    draws = np.random.default_rng(seed).multinomial(total, counts.ravel() / total, size=resamples)
    return draws.reshape(resamples, *counts.shape)


def _without_width(all_right: bool, pictures: int) -> list[float]:
    """The interval of Clopper and Pearson (1934) at 95 % if all of so many pictures are right, or none is."""
    bound = float(0.025 ** (1 / pictures))
    return [bound, 1.0] if all_right else [0.0, 1 - bound]


def _intervals(
    counts: np.ndarray, drawn: np.ndarray, of_classes: Sequence[Mapping[str, list[float] | None]]
) -> dict[str, list[float]]:
    """Percentile intervals of the scores, each [low, high] at 95 %, from bootstrap samples of the confusion counts.

    Args:
        counts: int64 [C, C], confusion counts.
        drawn: int64 [resamples, C, C], bootstrap samples of them.
        of_classes: ``class_intervals``.
    """
    total, hits, support = counts.sum(), np.trace(counts), counts.sum(axis=1)
    if hits in (0, total):  # every sample would be the same, which is no certainty
        of_smallest = _without_width(bool(hits), support[support > 0].min())
        of_all = _without_width(bool(hits), total)
        return {"accuracy": of_all, **dict.fromkeys(("balanced_accuracy", "macro_f1"), of_smallest)}
    intervals = {name: np.percentile(values, [2.5, 97.5]).tolist() for name, values in _means(drawn).items()}
    scores = _class_scores(counts)
    for mean, name in (("balanced_accuracy", "recall"), ("macro_f1", "f1")):
        if np.isin(scores[name][support > 0], (0, 1)).all():
            bounds = [ends for of_class in of_classes if (ends := of_class[name])]
            intervals[mean] = np.mean(bounds, axis=0).tolist()
    return intervals


def _means(confusions: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy and means over the classes with pictures, each float64 [...], of confusion counts [..., C, C]."""
    of_classes = _class_scores(confusions)
    return {
        "accuracy": np.trace(confusions, axis1=-2, axis2=-1) / confusions.sum(axis=(-2, -1)),
        "balanced_accuracy": np.nanmean(of_classes["recall"], axis=-1),
        "macro_f1": np.nanmean(of_classes["f1"], axis=-1),
    }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
