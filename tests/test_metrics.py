"""Scores: every expected number here can be computed by hand."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from mien.evaluation.calibration import accuracy_interval
from mien.evaluation.metrics import (
    class_intervals,
    classification_report_text,
    ece_by_chance,
    mcnemar,
    most_confused,
    paired_difference,
    quick_scores,
    reliability,
    score,
    surest_mistakes,
)


def certain(predictions: list[int], classes: int) -> np.ndarray:
    """Probabilities of 1 for the predicted classes."""
    return np.eye(classes)[predictions]


def many(count: int = 3589, classes: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random probabilities that favour the true class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    weights = rng.random((count, classes)) + np.eye(classes)[labels] * rng.random((count, 1))
    return weights / weights.sum(axis=1, keepdims=True), labels


def without_intervals(of_class: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in of_class.items() if key != "ci95"}


def test_two_classes_by_hand() -> None:
    scores = score(certain([0, 1, 1, 1], 2), np.array([0, 0, 1, 1]), ("sad", "happy"))
    assert scores["n"] == 4
    assert scores["accuracy"] == 0.75
    assert scores["balanced_accuracy"] == pytest.approx((1 / 2 + 2 / 2) / 2)
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert scores["confusion"] == [[1, 1], [0, 2]]
    assert scores["names"] == ["sad", "happy"]
    sad = {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2}
    assert without_intervals(scores["per_class"]["sad"]) == sad
    assert scores["per_class"]["happy"]["precision"] == pytest.approx(2 / 3)


def test_likelihood_by_hand() -> None:
    scores = score(np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([0, 0]), ("a", "b"))
    assert scores["nll"] == pytest.approx((math.log(2) + math.log(4)) / 2)


def test_likelihood_of_the_impossible_is_finite() -> None:
    assert score(certain([1], 2), np.array([0]), ("a", "b"))["nll"] == pytest.approx(52 * math.log(2))


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.6, 0.4], [0.4, 0.6]])
    labels = np.array([0, 1, 0, 1])
    # Two pictures at .95, one of them right; two at .6, both right.
    expected = (2 * abs(0.95 - 0.5) + 2 * abs(0.6 - 1.0)) / 4
    assert score(probabilities, labels, ("a", "b"))["ece"] == pytest.approx(expected)


def test_calibration_error_by_chance_by_hand() -> None:
    """One bin: the gap is that of a mean of 100 tosses with p = 0.8, whose mean absolute deviation is 0.0319."""
    probabilities = np.tile([0.8, 0.2], (100, 1))
    chance = ece_by_chance(probabilities, resamples=4000)
    assert chance["mean"] == pytest.approx(math.sqrt(2 / math.pi * 0.8 * 0.2 / 100), abs=0.002)
    assert chance["upper"] == pytest.approx(1.96 * math.sqrt(0.8 * 0.2 / 100), abs=0.006)
    assert chance["gap"] == chance["upper"], "with one bin, the error is the difference of the means"
    assert chance == ece_by_chance(probabilities, resamples=4000) and ece_by_chance(np.eye(2))["upper"] == 0


def test_calibration_error_by_chance_uses_the_bins_of_the_error() -> None:
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.5, 1.0, 400)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    labels = [(generator.random(400) >= confidence).astype(int) for _ in range(300)]
    simulated_error = float(np.mean([reliability(probabilities, drawn_labels).ece for drawn_labels in labels]))
    assert ece_by_chance(probabilities)["mean"] == pytest.approx(simulated_error, rel=0.06)


def test_a_bin_holds_its_upper_edge_and_not_its_lower() -> None:
    bins = reliability(np.array([[0.6, 0.4], [0.8, 0.2], [1.0, 0.0], [0.61, 0.39]]), np.array([0, 1, 0, 0]), bins=5)
    assert bins.count.tolist() == [0, 0, 1, 2, 1]
    assert bins.accuracy[2:].tolist() == [1.0, 0.5, 1.0]
    assert bins.confidence[3] == pytest.approx((0.8 + 0.61) / 2)
    assert np.isnan(bins.accuracy[:2]).all()


def test_agrees_with_scikit_learn() -> None:
    probabilities, labels = many()
    predictions = probabilities.argmax(axis=1)
    scores = score(probabilities, labels, "abcdefg")
    assert scores["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predictions))
    assert scores["macro_f1"] == pytest.approx(f1_score(labels, predictions, average="macro"))
    means = quick_scores(predictions, labels, 7)
    assert means == {name: scores[name] for name in ("accuracy", "balanced_accuracy", "macro_f1")}


def test_classes_without_pictures_are_left_out_of_the_means() -> None:
    # "c" has no picture but is read once; "d" occurs in neither.
    scores = score(certain([0, 1, 1, 2], 4), np.array([0, 0, 1, 1]), ("a", "b", "c", "d"))
    assert scores["balanced_accuracy"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 2 / 4) / 2)
    unknown = {"precision": None, "recall": None, "f1": None}
    assert without_intervals(scores["per_class"]["c"]) == {**unknown, "precision": 0.0, "support": 0}
    assert scores["per_class"]["d"] == {**unknown, "support": 0, "ci95": unknown}
    assert "NaN" not in json.dumps(scores, allow_nan=False)
    assert quick_scores(np.array([0, 1, 1, 2]), np.array([0, 0, 1, 1]), 4)["macro_f1"] == scores["macro_f1"]


def test_a_class_that_is_never_read_counts_as_zero() -> None:
    scores = score(certain([0, 0], 2), np.array([0, 1]), ("a", "b"))
    never_read = {"precision": None, "recall": 0.0, "f1": 0.0, "support": 1}
    assert without_intervals(scores["per_class"]["b"]) == never_read
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_interval_of_a_coin() -> None:
    predictions = np.zeros(400, int)
    predictions[200:] = 1
    labels = np.zeros(400, int)
    low, high = score(certain(list(predictions), 2), labels, ("a", "b"))["ci95"]["accuracy"]
    half_width = 1.96 * math.sqrt(0.25 / 400)
    assert low == pytest.approx(0.5 - half_width, abs=0.01)
    assert high == pytest.approx(0.5 + half_width, abs=0.01)


def test_few_pictures_that_are_all_right_are_no_certainty() -> None:
    right = score(certain([0, 0, 0, 1, 1], 3), np.array([0, 0, 0, 1, 1]), ("a", "b", "c"))["ci95"]
    assert right["accuracy"] == pytest.approx([0.025 ** (1 / 5), 1])
    assert right["accuracy"] == pytest.approx(accuracy_interval(5, 5))
    assert right["balanced_accuracy"] == right["macro_f1"] == pytest.approx([0.025 ** (1 / 2), 1])
    wrong = score(certain([1, 1, 1, 0, 0], 3), np.array([0, 0, 0, 1, 1]), ("a", "b", "c"))["ci95"]
    assert wrong["accuracy"] == pytest.approx(accuracy_interval(0, 5))
    assert wrong["balanced_accuracy"] == wrong["macro_f1"] == pytest.approx(accuracy_interval(0, 2))
    assert json.loads(json.dumps(wrong)) == wrong


def test_each_class_has_the_interval_of_its_share_of_pictures() -> None:
    """Of 400 pictures of a class 300 are right, of 50 of another 10: both intervals are those of a binomial share."""
    (common, rare) = class_intervals(np.array([[300, 100], [40, 10]]), resamples=4000)
    for interval, share, count in ((common, 0.75, 400), (rare, 0.2, 50)):
        half_width = 1.96 * math.sqrt(share * (1 - share) / count)
        assert interval["recall"] == pytest.approx([share - half_width, share + half_width], abs=0.012)
    half_width = 1.96 * math.sqrt(300 * 40 / 340**3)
    assert common["precision"] == pytest.approx([300 / 340 - half_width, 300 / 340 + half_width], abs=0.01)
    assert rare["f1"] is not None and 0 < rare["f1"][0] < 20 / 160 < rare["f1"][1] < 0.25


def test_interval_of_a_class_equals_that_of_drawing_pictures_one_by_one() -> None:
    probabilities, labels = many(300, 3)
    predictions = probabilities.argmax(axis=1)
    rng = np.random.default_rng(1)
    draws = [rng.integers(0, 300, 300) for _ in range(1000)]
    values = [f1_score(labels[draw], predictions[draw], average=None)[2] for draw in draws]
    interval = score(probabilities, labels, ("a", "b", "c"))["per_class"]["c"]["ci95"]["f1"]
    assert interval == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=0.012)


def test_a_class_that_is_all_right_or_all_wrong_is_no_certainty() -> None:
    all_right, all_wrong = class_intervals(np.array([[5, 0], [3, 0]]))
    assert all_right["recall"] == pytest.approx(accuracy_interval(5, 5))
    assert all_wrong["recall"] == all_wrong["f1"] == pytest.approx(accuracy_interval(0, 3))
    assert all_wrong["precision"] is None
    (_, never_labelled) = class_intervals(np.array([[5, 2], [0, 0]]))
    assert never_labelled == {"precision": pytest.approx(accuracy_interval(0, 2)), "recall": None, "f1": None}


def test_interval_equals_that_of_drawing_pictures_one_by_one() -> None:
    probabilities, labels = many(300, 3)
    predictions = probabilities.argmax(axis=1)
    rng = np.random.default_rng(1)
    draws = [rng.integers(0, 300, 300) for _ in range(1000)]
    values = [quick_scores(predictions[draw], labels[draw], 3)["macro_f1"] for draw in draws]
    interval = score(probabilities, labels, ("a", "b", "c"))["ci95"]["macro_f1"]
    assert interval == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=0.01)


def test_interval_repeats_with_its_seed() -> None:
    probabilities, labels = many(200, 3)
    interval, repeated_interval, other_interval = (
        score(probabilities, labels, "abc", seed=seed)["ci95"] for seed in (1, 1, 2)
    )
    assert interval == repeated_interval != other_interval


def test_a_thousand_resamples_of_fer2013_take_less_than_two_seconds() -> None:
    probabilities, labels = many()
    score(probabilities[:10], labels[:10], "abcdefg")
    start = time.perf_counter()
    score(probabilities, labels, "abcdefg")
    assert time.perf_counter() - start < 2


def test_most_confused_in_words() -> None:
    names = ("fear", "sad", "happy")
    confusion = [[409, 87, 1], [0, 10, 0], [1200, 0, 1800]]
    assert most_confused(confusion, names, k=2) == [
        "happy was predicted as fear 1,200 times (40.0 % of happy)",
        "fear was predicted as sad 87 times (17.5 % of fear)",
    ]
    assert most_confused(confusion, names)[2:] == ["fear was predicted as happy once (0.2 % of fear)"]
    assert most_confused([[3, 0], [0, 4]], ("a", "b")) == []


def test_surest_mistakes_come_first() -> None:
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.55, 0.45]])
    assert surest_mistakes(probabilities, np.array([0, 1, 0, 1])).tolist() == [2, 1, 3]
    assert surest_mistakes(probabilities, np.array([0, 1, 0, 1]), k=1).tolist() == [2]


def pair(both_right: int, only_first: int, only_second: int, neither_right: int) -> tuple[np.ndarray, np.ndarray]:
    """Which pictures each of two classifiers reads right."""
    counts = (both_right, only_first, only_second, neither_right)
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


def test_mcnemar_by_hand() -> None:
    # Six coins with at most one head, or at most one tail: 2 (1 + 6) / 64.
    assert mcnemar(*pair(10, 1, 5, 3)) == {"b": 1, "c": 5, "p": pytest.approx(14 / 64)}
    assert mcnemar(*pair(0, 5, 1, 0)) == {"b": 5, "c": 1, "p": pytest.approx(14 / 64)}
    assert mcnemar(*pair(7, 0, 10, 0))["p"] == pytest.approx(2 / 1024)
    assert mcnemar(*pair(7, 3, 3, 1))["p"] == 1
    assert mcnemar(*pair(7, 0, 0, 1)) == {"b": 0, "c": 0, "p": 1.0}


def test_paired_difference_by_hand() -> None:
    result = paired_difference(*pair(40, 12, 3, 45))
    # Agresti and Min (2005): 12.5 and 3.5 of 102 pictures.
    centre, half_width = 9 / 102, 1.96 * math.sqrt(16 - 81 / 102) / 102
    assert result["difference"] == 0.09
    assert result["ci95"] == pytest.approx([centre - half_width, centre + half_width])
    low, high = paired_difference(*pair(5, 0, 0, 0))["ci95"]
    assert low == -high < 0, "equal answers on few pictures are no certainty"
    assert paired_difference(*pair(0, 2, 0, 0))["ci95"][1] <= 1


def test_paired_difference_holds_what_it_promises() -> None:
    """Of 2,000 pairs of classifiers that differ by 3 points, 95 % have the 3 points in their interval."""
    generator = np.random.default_rng(0)
    cells = generator.multinomial(400, [0.6, 0.12, 0.09, 0.19], 2000)
    inside = [low <= 0.03 <= high for low, high in (paired_difference(*pair(*row))["ci95"] for row in cells)]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)


def test_a_mean_of_classes_that_are_all_right_or_all_wrong_is_not_certain() -> None:
    labels = np.array([0] * 20 + [1] * 10)
    constant = score(certain([0] * 30, 2), labels, ("a", "b"))
    # Clopper and Pearson: 20 of 20 may be 83.2 %, 0 of 10 may be 30.8 %.
    low, high = 0.025 ** (1 / 20), 1 - 0.025 ** (1 / 10)
    assert constant["balanced_accuracy"] == 0.5
    assert constant["ci95"]["balanced_accuracy"] == pytest.approx([low / 2, (1 + high) / 2])
    assert constant["ci95"]["macro_f1"][0] < constant["macro_f1"] < constant["ci95"]["macro_f1"][1] < 0.5
    apart = score(certain([0] * 20 + [2] * 10, 3), labels, ("a", "b", "c"))
    assert apart["macro_f1"] == 0.5 and apart["ci95"]["macro_f1"] == pytest.approx([low / 2, (1 + high) / 2])


def test_report_text_has_four_digits_and_names_what_is_absent() -> None:
    text = classification_report_text(certain([0, 1, 1, 1], 3), np.array([0, 0, 1, 1]), ("sad", "happy", "fear"))
    assert "0.6667" in text
    assert "0.7333" in text
    assert text.endswith("without pictures, not in the averages: fear\n")
