"""Shares of the classes divided out of answers."""

from __future__ import annotations

import numpy as np
import pytest

from mien.data.faces import FaceSet
from mien.errors import MienError
from mien.evaluation.balance import STRENGTHS, balance_curve, balanced, class_shares

SHARES = np.array([0.8, 0.15, 0.05])


def train(labels: list[int], names: tuple[str, ...] = ("happy", "angry", "disgust")) -> FaceSet:
    ids, splits = np.array([str(number) for number in range(len(labels))]), np.full(len(labels), "train")
    pictures = np.zeros((len(labels), 8, 8), np.uint8)
    return FaceSet(pictures, np.array(labels), splits, ids, names, "archive.zip", "abc123")


def test_shares_are_in_the_order_of_the_model_and_above_0() -> None:
    shares = class_shares(train([0, 0, 0, 1]), ("disgusted", "anger", "happiness"))
    assert shares == pytest.approx(np.array([1, 1, 3]) / 5), "a class without pictures counts as one picture"
    with pytest.raises(MienError):
        class_shares(train([0, 2]), ("happy", "angry"))


def test_dividing_is_an_offset_of_the_logits() -> None:
    answers = np.random.default_rng(0).dirichlet([1, 1, 1], 20)
    shifted = np.exp(np.log(answers) - 0.7 * np.log(SHARES))
    assert balanced(answers, SHARES, 0.7) == pytest.approx(shifted / shifted.sum(axis=1, keepdims=True))
    assert balanced(answers, SHARES, 0.0) == pytest.approx(answers)


def test_rare_classes_gain_and_accuracy_pays() -> None:
    # Answers by Bayes' rule from one measurement of each picture: what divides the shares out is right by itself.
    generator = np.random.default_rng(1)
    labels = generator.choice(3, 4000, p=SHARES)
    measured = labels + generator.normal(0, 0.7, 4000)
    likelihoods = np.exp(-((measured[:, None] - np.arange(3)) ** 2) / (2 * 0.7**2))
    answers = likelihoods * SHARES
    rows = balance_curve(answers / answers.sum(axis=1, keepdims=True), labels, SHARES)
    assert [row["tau"] for row in rows] == list(STRENGTHS)
    first, last = rows[0], rows[-1]
    assert last["balanced_accuracy"] > first["balanced_accuracy"] + 0.1
    assert last["rarest_recall"] > first["rarest_recall"] + 0.2
    assert first["accuracy"] > last["accuracy"] + 0.05
    assert first["accuracy"] == pytest.approx((answers.argmax(axis=1) == labels).mean())


def test_a_rarest_class_without_pictures_here_has_no_recall() -> None:
    rows = balance_curve(np.full((4, 3), 1 / 3), np.array([0, 1, 0, 1]), SHARES)
    assert {row["rarest_recall"] for row in rows} == {None}
