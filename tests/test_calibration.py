"""Calibration: temperatures, halves, risk and thresholds, with numbers that can be computed by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from conftest import synthetic_faces

from mien.cli.evaluate import headline
from mien.data.clean import sketch
from mien.data.twins import groups, has_twin
from mien.errors import MienError
from mien.evaluation import calibration
from mien.evaluation.calibration import (
    LEAST_FOR_TEMPERATURE,
    LEAST_FOR_THRESHOLD,
    STATED_ACCURACY,
    accuracy_interval,
    apply_threshold,
    at_bound,
    calibrate,
    cross_fitted,
    fit_temperature,
    is_fitted,
    quality,
    risk_coverage,
    softmax,
    threshold_for,
)
from mien.evaluation.evaluate import evaluate
from mien.evaluation.table import model_row
from mien.model.classifier import Classifier
from mien.training import validation as calibrate_module
from mien.training.validation import _summary, calibrate_model


@pytest.fixture
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits temperature and threshold to any number of pictures."""
    for name in ("LEAST_FOR_TEMPERATURE", "LEAST_FOR_THRESHOLD"):
        monkeypatch.setattr(calibration, name, 1)


def two_classes(confidences: list[float], right: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Answers for the first of two classes, each so sure, and labels that make them right (1) or wrong (0)."""
    first = np.array(confidences)
    return np.stack([first, 1 - first], axis=1), 1 - np.array(right)


def same_answer(difference: float, right_count: int, wrong_count: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits (difference, 0) for every picture; the first class is right so often."""
    logits = np.tile([difference, 0.0], (right_count + wrong_count, 1))
    return logits, np.array([0] * right_count + [1] * wrong_count)


def test_temperature_by_hand() -> None:
    # Three of four are right, so the likeliest probability is 3 / 4, a logit of ln 3: a quarter of ln 81.
    assert fit_temperature(*same_answer(math.log(81), 3, 1)) == pytest.approx(4, rel=1e-4)
    assert fit_temperature(*same_answer(math.log(3) / 2, 3, 1)) == pytest.approx(0.5, rel=1e-4)


def test_temperature_undoes_what_made_the_logits_larger() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (5000, 7))
    labels = np.array([generator.choice(7, p=row) for row in softmax(logits)])
    assert fit_temperature(logits, labels) == pytest.approx(1, abs=0.05)
    assert fit_temperature(3 * logits, labels) == pytest.approx(3 * fit_temperature(logits, labels), rel=1e-4)


@pytest.mark.parametrize("labels", [[0, 0], [0, 1]])
def test_where_no_temperature_is_best_it_is_one(labels: list[int]) -> None:
    always_right = 2.0 * np.eye(2)[labels]
    assert fit_temperature(always_right, np.array(labels)) == 1
    assert fit_temperature(np.zeros((2, 2)), np.array(labels)) == 1


def test_temperature_of_answers_worse_than_chance_is_bounded() -> None:
    worst = fit_temperature(*same_answer(1.0, 1, 3))
    assert worst == pytest.approx(5, rel=1e-3) and at_bound(worst)
    timid = fit_temperature(*same_answer(math.log(3) / 10, 3, 1))  # 0.1 would be best
    assert timid == pytest.approx(0.2, rel=1e-3) and at_bound(timid)
    record = {"n": 400, "ece_before": 0.5, "ece_after": 0.1, "uncertain": {"threshold": 0.5}}
    assert "temperature 5.000 (the bound of its search, so that" in _summary({**record, "temperature": worst})
    assert "temperature 1.200, ECE" in _summary({**record, "temperature": 1.2})
    assert not at_bound(4.9) and not at_bound(0.21) and not at_bound(1.0)


def test_each_half_gets_the_temperature_of_the_other() -> None:
    logits, labels = (
        np.concatenate(parts)
        for parts in zip(same_answer(math.log(81), 3, 1), same_answer(math.log(9), 3, 1), strict=True)
    )
    temperatures = cross_fitted(logits, labels, groups=np.repeat([0, 1], 4))
    assert temperatures is not None
    assert temperatures == pytest.approx(np.repeat([2.0, 4.0], 4), rel=1e-4)


def test_halves_hold_every_class_and_repeat_with_their_seed() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [40, 20, 10])
    logits = generator.normal(0, 1, (70, 3)) + 2 * np.eye(3)[labels]
    temperatures, repeated, with_other_seed = (cross_fitted(logits, labels, seed=seed) for seed in (1, 1, 2))
    assert temperatures is not None and repeated is not None and with_other_seed is not None
    assert len(np.unique(temperatures)) == 2
    half = temperatures == temperatures[0]
    assert np.bincount(labels[half]).tolist() == [20, 10, 5]
    assert (temperatures == repeated).all() and (temperatures != with_other_seed).any()


@pytest.mark.usefixtures("few_are_enough")
@pytest.mark.parametrize(
    ("labels", "groups"),
    [([0], None), ([0, 1], None), ([0, 0, 1, 1], [5, 5, 5, 5])],
    ids=["one picture", "one a class", "all twins"],
)
def test_what_has_no_halves_is_not_measured(labels: list[int], groups: list[int] | None) -> None:
    logits = np.eye(2)[[1] * len(labels)]
    assert cross_fitted(logits, np.array(labels), None if groups is None else np.array(groups)) is None
    record = calibrate(logits, np.array(labels), None if groups is None else np.array(groups))
    assert record["ece_after"] is None and record["nll_after"] is None


def test_risk_over_coverage_by_hand() -> None:
    curve = risk_coverage(*two_classes([0.7, 0.9, 0.6, 0.8], [1, 1, 1, 0]))
    assert curve.thresholds.tolist() == [0.9, 0.8, 0.7, 0.6]
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.accuracy.tolist() == pytest.approx([1, 1 / 2, 2 / 3, 3 / 4])
    assert curve.aurc == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert [curve.accuracy_at(coverage) for coverage in (1.0, 0.5, 0.01)] == pytest.approx([3 / 4, 1 / 2, 1])


def test_equally_sure_answers_count_together_whatever_their_order() -> None:
    for right in ([0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1]):
        curve = risk_coverage(*two_classes([0.8, 0.8, 0.8, 0.6], right))
        assert curve.thresholds.tolist() == [0.8, 0.6]
        assert curve.coverage.tolist() == [0.75, 1.0]
        assert curve.accuracy.tolist() == pytest.approx([2 / 3, 3 / 4])
        assert curve.accuracy_at(0.25) == pytest.approx(2 / 3)
        assert curve.aurc == pytest.approx((1 / 3 + 1 / 3 + 1 / 3 + 1 / 4) / 4)


def test_the_interval_of_an_accuracy_by_hand() -> None:
    # All of n right: the lower end is .025^(1/n), or .05^(1/n) with all the risk there; none right: the mirror image.
    assert accuracy_interval(10, 10) == pytest.approx((0.025**0.1, 1.0))
    assert accuracy_interval(10, 10, one_sided=True) == pytest.approx((0.05**0.1, 1.0))
    assert accuracy_interval(0, 10) == pytest.approx((0.0, 1 - 0.025**0.1))
    # 80 of 100, Clopper and Pearson's tables: .7082 to .8733.
    assert accuracy_interval(80, 100) == pytest.approx((0.7082, 0.8733), abs=1e-4)


def answers_of(right: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Answers that are less and less sure, the first the surest; which of them are right."""
    return two_classes(np.linspace(0.99, 0.51, len(right)).tolist(), right)


def test_the_threshold_keeps_its_word_with_confidence() -> None:
    # The first 200 are right, then every other one. Point accuracy is .8 at 332 answers, the lower bound fails sooner.
    answers = answers_of([1] * 200 + [1, 0] * 100)
    operating_point = threshold_for(*answers, 0.8)
    assert operating_point is not None and operating_point.accuracy is not None
    count = round(operating_point.coverage * 400)
    assert count in range(40, 401, 10) and count < 332
    lower_bound = accuracy_interval(round(operating_point.accuracy * count), count, one_sided=True)[0]
    wider_point = apply_threshold(*answers, float(np.sort(answers[0].max(axis=1))[::-1][count + 9]))
    assert lower_bound >= 0.8 and wider_point.accuracy is not None
    assert accuracy_interval(round(wider_point.accuracy * (count + 10)), count + 10, one_sided=True)[0] < 0.8


def test_the_promise_is_broken_no_more_often_than_it_says() -> None:
    # Three of four are right however sure the answer: any threshold breaks the promise of 80 %.
    generator = np.random.default_rng(0)
    promises = [
        threshold_for(*answers_of((generator.random(300) < 0.75).astype(int).tolist()), 0.8) is not None
        for _ in range(200)
    ]
    assert np.mean(promises) <= 0.05


def test_a_threshold_takes_all_that_are_equally_sure() -> None:
    operating_point = threshold_for(*two_classes([0.9] * 40 + [0.6] * 10, [1] * 40 + [0] * 10), 0.8)
    assert operating_point is not None
    assert (operating_point.threshold, operating_point.coverage, operating_point.accuracy) == (0.9, 0.8, 1.0)


@pytest.mark.usefixtures("few_are_enough")
@pytest.mark.parametrize("right", [[1] * 29, [0, 1] * 30], ids=["too few pictures", "too often wrong"])
def test_a_promise_that_cannot_be_made(right: list[int]) -> None:
    answers = answers_of(right)
    assert threshold_for(*answers, 0.8) is None
    assert calibrate(np.log(answers[0]), answers[1])["uncertain"] == {
        "stated_accuracy": STATED_ACCURACY,
        "confidence": 0.95,
        "threshold": None,
        "coverage": 0.0,
        "accuracy": None,
        "ci95": None,
    }


def test_twins_of_training_are_left_out() -> None:
    generator = np.random.default_rng(2)
    labels = generator.integers(0, 3, 200)
    logits = generator.normal(0, 1, (200, 3)) + 2 * np.eye(3)[labels]
    twins = np.arange(200) < 60
    logits[twins] += 20 * np.eye(3)[labels[twins]]
    record = calibrate(logits, labels, np.arange(200), twins=twins)
    assert (record["n"], record["twins_left_out"]) == (140, 60)
    assert record["temperature"] == fit_temperature(logits[60:], labels[60:])
    assert {**record, "twins_left_out": 0} == calibrate(logits[60:], labels[60:], np.arange(140), twins=twins[60:])
    # Where nothing else is left, twins have to do, and nobody is told that they were left out.
    for count in (200, 50):
        of_twins = calibrate(logits[:count], labels[:count], twins=np.ones(count, bool))
        assert (of_twins["n"], of_twins["twins_left_out"]) == (count, None)


def test_halves_are_fitted_on_clean_pictures_alone() -> None:
    generator = np.random.default_rng(3)
    labels = np.repeat([0, 1], 50)
    logits = generator.normal(0, 1, (100, 2)) + 2 * np.eye(2)[labels]
    clean = generator.random(100) < 0.7
    distorted_logits = logits.copy()
    distorted_logits[~clean] *= 100
    first, second = (cross_fitted(values, labels, fitted_on=clean) for values in (logits, distorted_logits))
    assert first is not None and second is not None and (first == second).all()


def test_a_threshold_on_other_pictures() -> None:
    answers = two_classes([0.9, 0.7, 0.6], [1, 0, 1])
    at_low_threshold = apply_threshold(*answers, 0.7)
    assert (at_low_threshold.coverage, at_low_threshold.accuracy) == (2 / 3, 0.5)
    at_high_threshold = apply_threshold(*answers, 0.95)
    assert (at_high_threshold.coverage, at_high_threshold.accuracy) == (0.0, None)


@pytest.mark.usefixtures("few_are_enough")
def test_what_a_model_folder_is_told() -> None:
    logits, labels = same_answer(math.log(81), 30, 10)
    record = calibrate(logits, labels)
    assert list(record) == [
        "temperature", "split", "n", "twins_left_out",
        "ece_before", "nll_before", "ece_after", "nll_after", "uncertain",
    ]  # fmt: skip
    assert (record["split"], record["n"]) == ("validation", 40)
    assert record["temperature"] == pytest.approx(4, rel=1e-4)
    # 81 / 82 sure and right in 3 of 4; halves are stratified, so each is scaled to 3 / 4, give or take a picture.
    assert record["ece_before"] == pytest.approx(81 / 82 - 3 / 4)
    assert record["nll_before"] == pytest.approx((30 * math.log(82 / 81) + 10 * math.log(82)) / 40)
    assert record["ece_after"] == pytest.approx(0, abs=1e-3)
    assert record["nll_after"] == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4), abs=1e-4)
    assert record["uncertain"]["threshold"] is None, "three of four are right at any certainty, not four of five"


@pytest.mark.usefixtures("few_are_enough")
def test_the_stored_threshold_survives_rounding() -> None:
    logits, labels = same_answer(1.0, 90, 10)
    uncertain = calibrate(logits, labels)["uncertain"]
    assert (uncertain["coverage"], uncertain["accuracy"]) == (1.0, 0.9)
    assert uncertain["threshold"] < 0.9 and uncertain["threshold"] == pytest.approx(0.9, abs=1e-4)
    float32_probabilities = softmax((logits / calibrate(logits, labels)["temperature"]).astype(np.float32))
    assert apply_threshold(float32_probabilities, labels, uncertain["threshold"]).coverage == 1.0


def test_scaling_changes_no_answer() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (50, 5))
    assert (softmax(logits / 7).argmax(axis=1) == logits.argmax(axis=1)).all()
    assert softmax(logits / 7).sum(axis=1) == pytest.approx(np.ones(50))


def test_quality_is_what_the_scores_measure() -> None:
    probabilities, labels = two_classes([0.95, 0.95, 0.6, 0.6], [1, 0, 1, 1])
    assert quality(probabilities, labels) == pytest.approx(
        {"ece": (2 * 0.45 + 2 * 0.4) / 4, "nll": -(math.log(0.95) + math.log(0.05) + 2 * math.log(0.6)) / 4}
    )


def of_count(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Answers that are three times too sure, and labels drawn from what they should have been."""
    generator = np.random.default_rng(1)
    logits = generator.normal(0, 2, (count, 7))
    return 3 * logits, np.array([generator.choice(7, p=row) for row in softmax(logits)], np.int64)


@pytest.mark.parametrize("count", [0, 3, LEAST_FOR_TEMPERATURE - 1])
def test_few_pictures_fit_nothing(count: int) -> None:
    record = calibrate(*of_count(count))
    assert (record["temperature"], record["uncertain"], record["n"]) == (1.0, None, count)
    assert record["nll_after"] is None and (record["nll_before"] is None) == (count == 0)
    assert record.keys() == calibrate(*of_count(LEAST_FOR_THRESHOLD)).keys()


def test_a_temperature_that_was_not_fitted_scales_no_score(run_folder: Path) -> None:
    """The weights hold no temperature: table, headline and card give the ECE of the answers as they are."""
    pictures = synthetic_faces({"validation": 80})
    for calibrated in (False, True):
        if calibrated:
            calibrate_model(run_folder, pictures, TRAINING[:0], "cpu")
        classifier = Classifier.load(run_folder)
        assert is_fitted(classifier.meta().get("calibration")) is False
        result = evaluate(classifier, pictures, "validation", training=None, quiet=True)
        estimate = model_row(result).scores["ece"]
        assert result.cross_fitted_ece() is None and estimate is not None and estimate.value == result.whole["ece"]
        assert result.scaling is None or result.scaling.temperatures == (None,), "what scaling would do may be shown"
        assert "the temperature was fitted on this split" not in headline(result)


def test_a_threshold_takes_more_pictures_than_a_temperature() -> None:
    record = calibrate(*of_count(LEAST_FOR_TEMPERATURE))
    assert 2 < record["temperature"] < 4 and record["uncertain"] is None
    assert calibrate(*of_count(LEAST_FOR_THRESHOLD))["uncertain"]["threshold"] > 0


@pytest.mark.parametrize(
    ("count", "message_end"),
    [
        (12, "not calibrated: 12 validation pictures are fewer than 100; the temperature stays 1, and no answer is "
             "marked as uncertain"),
        (120, "; no answer is marked as uncertain, as that takes 300 pictures and there are 120"),
    ],
)  # fmt: skip
def test_a_model_of_few_pictures_says_so(run_folder: Path, count: int, message_end: str) -> None:
    logits_before = answers(run_folder)
    pictures = synthetic_faces({"validation": count})
    assert calibrate_model(run_folder, pictures, TRAINING[:0], "cpu").endswith(message_end)
    record = json.loads((run_folder / "meta.json").read_text())["calibration"]
    assert record["uncertain"] is None
    assert answers(run_folder) == pytest.approx(logits_before / record["temperature"], abs=1e-4)


def test_too_few_pictures_are_counted_without_the_twins(run_folder: Path) -> None:
    pictures = synthetic_faces({"validation": 12}).part("validation")
    assert calibrate_model(run_folder, pictures, pictures.images[1:], "cpu").startswith(
        "not calibrated: 1 validation picture without a twin in training (11 have one) is fewer than 100; the "
    )


FACES = synthetic_faces({"train": 4, "validation": LEAST_FOR_THRESHOLD + 10})
TRAINING = FACES.part("train").images


@pytest.fixture
def run_folder(mae_folder: Path, tmp_path: Path) -> Path:
    """A run folder whose model has a random head that is far too sure."""
    import torch

    from mien.model.networks import heads
    from mien.model.vit import build

    torch.manual_seed(0)
    network, preprocessing = build(str(mae_folder), FACES.names, grey=True)
    for parameter in heads(network)[0].parameters():
        torch.nn.init.normal_(parameter, std=5)
    meta = {"names": list(FACES.names), "metrics": {"accuracy": 0.5, "loss": 9.0}}
    Classifier(network, preprocessing, FACES.names).save(
        tmp_path / "run" / "model", meta, sketch(FACES.part("train").images)
    )
    return tmp_path / "run"


def answers(run: Path) -> np.ndarray:
    return Classifier.load(run / "model").logits(FACES.part("validation").images, quiet=True)


def test_the_temperature_becomes_part_of_the_head_once(run_folder: Path) -> None:
    validation, logits_before = FACES.part("validation"), answers(run_folder)
    message = calibrate_model(run_folder, validation, TRAINING, "cpu")
    meta = json.loads((run_folder / "model" / "meta.json").read_text())
    record = meta["calibration"]
    temperature = record["temperature"]
    assert temperature > 2
    twins = has_twin(validation.images, TRAINING)
    assert record == calibrate(logits_before, validation.labels, groups(validation.images), twins=twins)
    assert answers(run_folder) == pytest.approx(logits_before / temperature, abs=1e-4)
    assert meta["metrics"] == {"accuracy": 0.5, "loss": 9.0}
    assert json.loads((run_folder / "meta.json").read_text()) == meta
    bound = " (the bound of its search, so that a better one may lie beyond it)" if at_bound(temperature) else ""
    assert f"temperature {temperature:.3f}{bound}, ECE {record['ece_before']:.2%}" in message
    sketches = Classifier.load(run_folder / "model").sketches()
    assert sketches is not None and sketches.codes.shape == (4, 32)
    scaled_weights = (run_folder / "model" / "model.safetensors").read_bytes()
    assert calibrate_model(run_folder, validation, TRAINING, "cpu") == message
    assert (run_folder / "model" / "model.safetensors").read_bytes() == scaled_weights


def test_an_interrupted_end_is_made_up_for(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MienError("the disk is full")

    logits_before = answers(run_folder)
    with monkeypatch.context() as patch:
        patch.setattr("mien.model.classifier.write_json", full)
        with pytest.raises(MienError, match="the disk is full"):
            calibrate_model(run_folder, FACES.part("validation"), TRAINING, "cpu")
    assert (answers(run_folder) == logits_before).all(), "the model is as it was"
    with monkeypatch.context() as patch:
        patch.setattr(calibrate_module, "write_json", full)
        with pytest.raises(MienError, match="the disk is full"):
            calibrate_model(run_folder, FACES.part("validation"), TRAINING, "cpu")
    scaled_logits = answers(run_folder)
    assert (scaled_logits != logits_before).any() and not (run_folder / "meta.json").exists()
    calibrate_model(run_folder, FACES.part("validation"), TRAINING, "cpu")
    assert (answers(run_folder) == scaled_logits).all()
    assert "calibration" in json.loads((run_folder / "meta.json").read_text())


def test_training_ends_with_it_and_resuming_changes_nothing(
    mae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mien.config import FreezeConfig, TrainConfig
    from mien.training import finetune

    monkeypatch.setattr(finetune, "read_faces", lambda source: synthetic_faces({"train": 24, "validation": 12}))
    config = TrainConfig(data="synthetic", out=str(tmp_path / "run"), backbone=str(mae_folder), epochs=1,
                         batch_size=12, device="cpu", freeze=FreezeConfig(blocks=1))  # fmt: skip
    weights = finetune.train(config) / "model.safetensors"
    message, scaled_weights = capsys.readouterr().out.splitlines()[-1], weights.read_bytes()
    meta = json.loads((tmp_path / "run" / "meta.json").read_text())
    assert message.startswith("not calibrated: 12 validation pictures are fewer than 100; the temperature stays 1")
    assert meta["calibration"]["n"] == 12 and meta["calibration"]["temperature"] == 1
    assert meta == json.loads((weights.parent / "meta.json").read_text())
    finetune.train(config, resume=True)
    assert capsys.readouterr().out.splitlines()[-1] == message
    assert weights.read_bytes() == scaled_weights


def test_a_temperature_from_too_few_pictures_is_none() -> None:
    logits = np.random.default_rng(0).normal(size=(LEAST_FOR_TEMPERATURE, 3))
    labels = np.arange(LEAST_FOR_TEMPERATURE) % 3
    assert is_fitted(calibrate(logits, labels))
    assert not is_fitted(calibrate(logits[1:], labels[1:]))
    assert not is_fitted(None) and not is_fitted({})
