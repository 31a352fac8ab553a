"""An evaluation and its report: scores, the text of the page, and files that are never overwritten."""

from __future__ import annotations

import base64
import csv
import dataclasses
import html
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mien.cli.evaluate import headline, write_and_print
from mien.data.clean import sketch
from mien.data.faces import FaceSet
from mien.errors import MienError
from mien.evaluation import report as report_module
from mien.evaluation import style
from mien.evaluation.calibration import calibrate, cross_fitted, quality, softmax
from mien.evaluation.choice import Choice
from mien.evaluation.compare import average, paired_tests, pairs_text
from mien.evaluation.evaluate import Evaluation, evaluate, score_parts
from mien.evaluation.metrics import ece_by_chance
from mien.evaluation.report import FILES, refuse_foreign, write_report

NAMES = ("angry", "happy", "sad")
HISTORY = [{"epoch": n, "loss": 1 / n, "val_accuracy": 0.5 + n / 100, "val_macro_f1": 0.4, "lr": 1e-3} for n in (1, 2)]


DOT = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")
REAL = style.png, style.vector


@pytest.fixture(autouse=True)
def quick_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dot instead of each figure, as drawing takes long; figures have their own tests."""
    monkeypatch.setattr(style, "png", lambda figure: DOT)
    monkeypatch.setattr(style, "vector", lambda figure, suffix: b"<svg/>" if suffix == "svg" else b"%PDF-")


class Fixed:
    """A classifier with fixed answers: logits of the pictures, and of their mirror images."""

    def __init__(
        self,
        names: tuple[str, ...],
        logits: np.ndarray,
        mirrored_logits: np.ndarray | None = None,
        meta: dict[str, Any] | None = None,
    ) -> None:
        self.names, self.record = names, meta or {}
        self.logits_by_flip = {False: logits, True: logits if mirrored_logits is None else mirrored_logits}

    def logits(self, images: np.ndarray, *, batch_size: int, flip: bool = False, quiet: bool = False) -> np.ndarray:
        return self.logits_by_flip[flip].astype(np.float32)

    def meta(self) -> dict[str, Any]:
        return self.record


def faces(labels: list[int], names: tuple[str, ...] = NAMES, split: str = "test") -> FaceSet:
    count = len(labels)
    return FaceSet(
        images=np.random.default_rng(0).integers(0, 256, (count, 16, 16), dtype=np.uint8),
        labels=np.array(labels),
        splits=np.full(count, split),
        ids=np.array([f"{split}/{number}.jpg" for number in range(count)]),
        names=names,
        source="archive.zip",
        fingerprint="abc123",
    )


def logits(reads: list[int], classes: int = 3, certainty: float = 2.0) -> np.ndarray:
    return np.eye(classes)[reads] * certainty


def evaluated(names: tuple[str, ...] = NAMES, split: str = "test", **options: Any) -> Evaluation:
    """Six pictures, four of them read right."""
    options = {"training": None, **options}
    classifier = Fixed(names, logits([0, 1, 2, 0, 2, 1]))
    return evaluate(classifier, faces([0, 1, 2, 0, 1, 2], names, split), split, model="runs/first", **options)


class Page(HTMLParser):
    """What a reader of the page meets: addresses, images, headings, scripts, text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.alternatives: list[str | None] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.addresses += [values[key] or "" for key in ("src", "href", "srcset", "action", "data") if key in values]
        if tag == "img":
            self.alternatives.append(values.get("alt"))

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_labels_are_matched_to_the_model_by_name() -> None:
    data = faces([0, 1, 2, 2])  # angry, happy, sad, sad
    model_names = ("Sadness", "angry", "contempt", "happy")
    result = evaluate(Fixed(model_names, logits([1, 3, 0, 2], 4)), data, "test", training=None)
    assert result.names == model_names
    assert result.labels.tolist() == [1, 3, 0, 0]
    assert result.whole["accuracy"] == 0.75
    assert result.whole["per_class"]["Sadness"]["recall"] == 0.5
    assert result.warnings == ("no picture of contempt: left out of the means over classes",)


def test_a_class_that_the_model_does_not_know_is_refused() -> None:
    with pytest.raises(MienError, match=r"archive.zip: .*no class named sad; there is angry, happy"):
        evaluate(Fixed(("angry", "happy"), logits([0], 2)), faces([2]), "test", training=None)


def test_a_split_that_the_data_lacks_is_refused() -> None:
    with pytest.raises(MienError, match="has no validation split"):
        evaluate(Fixed(NAMES, logits([0])), faces([0]), "validation", training=None)


def test_answers_that_are_not_numbers_are_refused() -> None:
    broken_logits = logits([0, 1])
    broken_logits[1, 2] = np.nan
    with pytest.raises(MienError, match="answers picture 1 with NaN or infinity"):
        evaluate(Fixed(NAMES, broken_logits), faces([0, 1]), "test", training=None)


def test_mirror_images_are_averaged_only_when_asked_for() -> None:
    straight_logits, mirrored_logits = np.log([[0.5, 0.3, 0.2]]), np.log([[0.1, 0.7, 0.2]])
    classifier = Fixed(NAMES, straight_logits, mirrored_logits)
    plain_evaluation = evaluate(classifier, faces([1]), "test", training=None)
    tta_evaluation = evaluate(classifier, faces([1]), "test", training=None, tta=True)
    assert plain_evaluation.probabilities == pytest.approx(np.array([[0.5, 0.3, 0.2]]))
    assert tta_evaluation.probabilities == pytest.approx(np.array([[0.3, 0.5, 0.2]]))
    assert [(result.metrics()["tta"], result.metrics()["views"]) for result in (plain_evaluation, tta_evaluation)] == [
        (False, 1),
        (True, 2),
    ]


def images_of(other_count: int) -> np.ndarray:
    """The pictures of six faces, and so many others."""
    other_images = np.random.default_rng(9).integers(
        0, 256, (other_count, *faces([0]).images.shape[1:]), dtype=np.uint8
    )
    return np.concatenate([faces([0] * 6).images, other_images])


def test_the_clean_part_leaves_out_twins() -> None:
    data = faces([0, 1, 2, 0, 1, 2])
    result = evaluated(training=data.images[[0, 4]])
    assert result.twins is not None
    assert result.twins.tolist() == [True, False, False, False, True, False]
    metrics = result.metrics()
    assert metrics["n"] == 6
    assert metrics["accuracy"] == pytest.approx(4 / 6)
    assert metrics["clean"]["n"] == 4
    assert metrics["clean"]["accuracy"] == pytest.approx(3 / 4)
    assert metrics["twins"] == {"n": 2, "accuracy": 0.5}
    assert metrics["clean_reason"] is None


def test_without_training_pictures_the_clean_part_is_unknown() -> None:
    metrics = evaluated().metrics()
    assert metrics["clean"] is None
    assert metrics["twins"] is None
    assert "--train-data" in metrics["clean_reason"]


def test_a_split_of_twins_alone_has_no_clean_part(tmp_path: Path) -> None:
    metrics = evaluated(training=images_of(1)).metrics()
    assert metrics["clean"] is None
    assert metrics["twins"]["n"] == 6
    assert metrics["clean_reason"] == "every picture of this split has a twin in training"
    assert "  clean: empty, every picture of" in headline(evaluated(training=images_of(1)))
    assert "  clean: not known, the pictures that" in headline(evaluated())
    write_report(tmp_path / "out", evaluated(training=images_of(1)))
    text = page_of(tmp_path / "out").text
    assert "There is no score without twins: every picture of" in text and "published" not in text
    training_set = evaluated(training=faces([0] * 6).images).metrics()
    assert (training_set["clean"], training_set["twins"]["n"]) == (None, 6)
    assert training_set["clean_reason"] == "the model was trained on these very pictures"


def test_sketches_give_an_approximate_clean_part(tmp_path: Path) -> None:
    result = evaluated(training=sketch(faces([0] * 6).images[:2]))
    metrics = result.metrics()
    assert metrics["clean_is_approximate"] and metrics["twins"]["n"] >= 2
    write_report(tmp_path / "out", result)
    assert "an approximate count, from sketches of the training pictures" in page_of(tmp_path / "out").text


def test_the_folder_holds_every_file_and_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "png", REAL[0])
    monkeypatch.setattr(style, "vector", REAL[1])
    out = tmp_path / "reports" / "first"
    result = dataclasses.replace(evaluated(training=faces([0] * 6).images[:1]), shares=np.array([0.6, 0.3, 0.1]))
    write_report(out, result, command="mien evaluate runs/first", history=HISTORY)
    assert {entry.name for entry in out.iterdir()} == FILES
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert list(metrics)[:8] == ["split", "tta", "views", "model", "models", "averaged", "data", "n"]
    scores = {"accuracy", "balanced_accuracy", "macro_f1", "ece", "nll", "per_class", "confusion", "ci95", "clean"}
    assert scores <= set(metrics)
    assert metrics["command"] == "mien evaluate runs/first"
    assert metrics["data"] == {"source": "archive.zip", "fingerprint": "abc123"}
    assert "python" in metrics["versions"]
    assert "accuracy" in (out / "classification_report.txt").read_text(encoding="utf-8")
    assert [entry.name for entry in out.parent.iterdir()] == ["first"]
    for path in out.glob("*.png"):
        with Image.open(path) as picture:
            assert picture.width > 400, path.name
        assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF-1")
        assert "<svg " in path.with_suffix(".svg").read_text(encoding="utf-8")


def test_the_page_says_what_a_balance_would_trade(tmp_path: Path) -> None:
    labels = [0, 0, 0, 1, 1, 2] * 2
    data = dataclasses.replace(faces(labels), splits=np.array(["train"] * 6 + ["test"] * 6))
    answers = logits([0, 1, 2, 0, 2, 1])
    own = evaluate(Fixed(NAMES, answers, meta={"data": {"fingerprint": "abc123"}}), data, "test", training=None)
    balance = own.metrics()["balance"]
    assert balance["shares"] == pytest.approx(dict(zip(NAMES, (1 / 2, 1 / 3, 1 / 6), strict=True)))
    assert (balance["rarest"], balance["clean"], len(balance["whole"])) == (NAMES[2], None, 11)
    assert balance["whole"][0]["accuracy"] == own.whole["accuracy"]
    write_report(tmp_path / "own", own)
    assert "Rare expressions: what a balance would trade" in page_of(tmp_path / "own").text
    text = " ".join(page_of(tmp_path / "own").text.split())
    assert "A tau of 0 leaves the answers as they are; a tau of 1 should suit balanced accuracy best." in text
    assert "Often accuracy falls where balanced accuracy rises; then no tau is best for both." in text
    elsewhere = evaluate(Fixed(NAMES, answers, meta={"data": {"fingerprint": "other"}}), data, "test", training=None)
    assert elsewhere.metrics()["balance"] is None, "the shares of other data are not those of training"
    write_report(tmp_path / "elsewhere", elsewhere)
    assert "what a balance would trade" not in page_of(tmp_path / "elsewhere").text
    assert not (tmp_path / "elsewhere" / "balance.png").exists()


@pytest.mark.parametrize(
    ("record", "before", "pack"),
    [
        ({"config": {"resample": 0.5, "logit_adjustment": 0.0}}, ["resample 0.5"], "--balance TAU makes such a model"),
        (
            {"config": {"class_weights": True, "logit_adjustment": 0.3}},
            ["class_weights", "logit_adjustment 0.3"],
            "makes such a model",
        ),
        ({"balance": {"tau": 0.8, "offsets": {}}}, ["mien pack --balance 0.8"], "replaces the balance of this model"),
    ],
)
def test_the_page_says_what_balances_the_answers_already(
    record: dict[str, Any], before: list[str], pack: str, tmp_path: Path
) -> None:
    data = dataclasses.replace(faces([0, 0, 0, 1, 1, 2] * 2), splits=np.array(["train"] * 6 + ["test"] * 6))
    meta = {"data": {"fingerprint": "abc123"}, **record}
    own = evaluate(Fixed(NAMES, logits([0, 1, 2, 0, 2, 1]), meta=meta), data, "test", training=None)
    assert own.metrics()["balance"]["balanced_by"] == before
    assert average([own, own]).balanced_by == tuple(before)
    write_report(tmp_path / "out", own)
    text = " ".join(page_of(tmp_path / "out").text.split())
    reason = f"because {' and '.join(before)} already made up for a part of the shares"
    assert f"a tau below 1 should suit balanced accuracy best, {reason}." in text and pack in text
    write_report(tmp_path / "average", average([own, own]))
    assert "makes such a model" not in page_of(tmp_path / "average").text, "an average is no model to pack"


def test_equal_shares_have_nothing_to_trade(tmp_path: Path) -> None:
    data = dataclasses.replace(faces([0, 1, 2, 0, 1, 2] * 2), splits=np.array(["train"] * 6 + ["test"] * 6))
    meta = {"data": {"fingerprint": "abc123"}}
    own = evaluate(Fixed(NAMES, logits([0, 1, 2, 0, 2, 1]), meta=meta), data, "test", training=None)
    assert own.metrics()["balance"] is None
    write_report(tmp_path / "out", own)
    assert "rarest expression" not in page_of(tmp_path / "out").text


def test_scaling_may_change_the_answer_of_a_mean(tmp_path: Path) -> None:
    single = scaled("test")
    write_report(tmp_path / "single", single)
    assert "never the answer" in page_of(tmp_path / "single").text
    write_report(tmp_path / "average", average([single, single]))
    assert "may change which answer their mean gives" in page_of(tmp_path / "average").text
    scores = np.array([[[6.0, 0.0, 5.0]], [[0.0, 6.0, 5.0]]])  # each surest of another class, both nearly of the third
    answers = [evaluate(Fixed(NAMES, part * factor, meta=META), faces([0]), "test", training=None).probabilities
               for factor in (0.1, 3) for part in scores]  # fmt: skip
    assert [np.mean(pair, axis=0).argmax() for pair in (answers[:2], answers[2:])] == [2, 0]


def test_predictions_can_be_scored_again(tmp_path: Path) -> None:
    result = evaluated(training=faces([0] * 6).images[:1])
    write_report(tmp_path / "out", result)
    with (tmp_path / "out" / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [f"test/{number}.jpg" for number in range(6)]
    assert sum(row["label"] == row["prediction"] for row in rows) == 4
    assert [row["twin"] for row in rows] == ["yes"] + ["no"] * 5
    assert float(rows[0]["probability_angry"]) == pytest.approx(math.exp(2) / (math.exp(2) + 2), abs=1e-6)


def test_the_page_is_complete_in_itself(tmp_path: Path) -> None:
    write_report(tmp_path / "out", evaluated(), history=HISTORY)
    page = page_of(tmp_path / "out")
    assert len(page.addresses) >= 8
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|url\(|@import|<script|<link", text)
    assert page.tags.count("img") == len([alt for alt in page.alternatives if alt])
    assert page.tags.count("h1") == 1
    assert "{{" not in text and "{%" not in text


def test_the_page_says_the_scores_in_words(tmp_path: Path) -> None:
    result = dataclasses.replace(evaluated(training=faces([0] * 6).images[:1]), trained_on_it=True)
    write_report(tmp_path / "out", result, command="mien evaluate runs/first --data archive.zip")
    text = page_of(tmp_path / "out").text
    assert "66.7\u202f% of 6 faces were classified as labelled" in text
    assert "happy was predicted as sad once (50.0\u202f% of happy)" in text
    assert "1 of 6 pictures (16.7\u202f%)" in text
    assert "not about what a person feels" in text
    assert "The test split is for the final score alone" in text
    assert "mien evaluate runs/first --data archive.zip" in text
    assert "classified once, as it is" in text


def test_the_page_counts_what_the_data_holds(tmp_path: Path) -> None:
    result = evaluate(Fixed(NAMES, logits([1])), faces([1]), "test", training=images_of(1)[1:], model="runs/first")
    write_report(tmp_path / "out", result)
    text = page_of(tmp_path / "out").text
    assert "100.0\u202f% of 1 face was classified as labelled" in text and "test, 1 picture" in text
    assert "Data: archive.zip, 1 expression. A classifier that always answers “happy” would reach 100.0" in text
    assert "so far, over their share of all answers, from 1 answer on." in text
    lines = headline(result).splitlines()
    assert lines[0] == "runs/first on test of archive.zip: 1 picture" and "1 picture without a twin" in lines[2]


@pytest.mark.parametrize(
    ("split", "tta", "sentence"),
    [
        ("validation", False, "The validation split chooses"),
        ("train", False, "learned from these very pictures"),
        ("test", True, "test-time augmentation"),
    ],
)
def test_the_page_says_how_the_split_was_read(split: str, tta: bool, sentence: str, tmp_path: Path) -> None:
    write_report(tmp_path / "out", dataclasses.replace(evaluated(split=split, tta=tta), trained_on_it=True))
    assert sentence in " ".join(page_of(tmp_path / "out").text.split())


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_page_says_that_a_set_is_not_the_models_own(split: str, tmp_path: Path) -> None:
    write_report(tmp_path / "other", scaled(split, {**META, "data": {"fingerprint": "elsewhere"}}))
    text = " ".join(page_of(tmp_path / "other").text.split())
    assert "This is another set than the one that the model was last trained on" in text
    assert "for this one nothing was promised" in text
    assert "whether it was fitted on some of these pictures was not checked" in text
    write_report(tmp_path / "unknown", evaluated(split=split))
    assert "The model has no record of the set that training used" in page_of(tmp_path / "unknown").text
    for folder in ("other", "unknown"):
        text = page_of(tmp_path / folder).text
        assert "learned from these" not in text and "The validation split chooses" not in text


def test_the_page_says_that_an_earlier_stage_learnt_from_the_set(tmp_path: Path) -> None:
    before = [{"source": "other.zip", "fingerprint": "x"}, {"source": "a.zip", "fingerprint": "abc123"}]
    earlier = scaled("validation", {**META, "data": {"fingerprint": "elsewhere"}, "learnt_before": before})
    assert earlier.taught_before and not scaled("validation").taught_before
    write_report(tmp_path / "out", earlier)
    text = " ".join(page_of(tmp_path / "out").text.split())
    assert "The model learnt from this set before it went on with another one: the training split taught it" in text
    assert "The scores of these two splits are too high; only the test split is unseen." in text
    assert "chose nothing" not in text
    write_report(tmp_path / "average", average([scaled("validation"), earlier]))
    text = " ".join(page_of(tmp_path / "average").text.split())
    assert "At least one of the models learnt from this set before" in text and "from different sets" not in text


def test_an_average_is_of_its_own_set_if_all_its_models_are(tmp_path: Path) -> None:
    other_set = {**META, "data": {"fingerprint": "elsewhere"}}
    assert average([scaled("test"), scaled("test")]).trained_on_it is True
    mixed = average([scaled("test"), scaled("test", other_set)])
    assert mixed.trained_on_it is None
    write_report(tmp_path / "out", mixed)
    text = " ".join(page_of(tmp_path / "out").text.split())
    assert "These models learnt from different sets, or not all have a record of the set that training used, so" in text


@pytest.mark.parametrize(
    ("certainty", "times", "sentence"),
    [
        (9.0, 1, "is overconfident"),
        (1.0, 100, "is underconfident"),
        (1.0, 1, "may be well calibrated, as far as these pictures tell"),
        (math.log(4), 1, "is well calibrated on average"),
    ],
)
def test_the_page_says_whether_certainty_can_be_believed(
    certainty: float, times: int, sentence: str, tmp_path: Path
) -> None:
    # Four of six are right; a logit of ln 4 above two others is a probability of 4 / 6.
    classifier = Fixed(NAMES, logits([0, 1, 2, 0, 2, 1] * times, certainty=certainty))
    result = evaluate(classifier, faces([0, 1, 2, 0, 1, 2] * times), "test", training=None)
    write_report(tmp_path / "out", result)
    assert f"This one {sentence}: its mean confidence is" in page_of(tmp_path / "out").text


def test_a_mean_that_is_off_by_more_than_chance_is_named_though_the_error_is_not(tmp_path: Path) -> None:
    # In each of six bins of 100 pictures, 4 fewer are right than the confidence says: 4 points in all, 3 by chance.
    shares = [0.55, 0.63, 0.7, 0.77, 0.83, 0.9]
    answers = np.array([[math.log(share / (1 - share)), 0.0] for share in shares for _ in range(100)])
    labels = [int(number >= round(100 * share) - 4) for share in shares for number in range(100)]
    result = evaluate(Fixed(("a", "b"), answers), faces(labels, ("a", "b")), "test", training=None)
    metrics = result.metrics()
    assert metrics["ece"] == pytest.approx(0.04) and metrics["confidence_minus_accuracy"] == pytest.approx(0.04)
    assert metrics["ece_by_chance"]["gap"] < 0.04 < metrics["ece_by_chance"]["upper"]
    write_report(tmp_path / "out", result)
    assert "This one is overconfident: its mean confidence is" in page_of(tmp_path / "out").text


def test_a_mean_that_fits_does_not_hide_errors_at_single_confidences(tmp_path: Path) -> None:
    # Logits of ln 3 and ln 18 above two others are 60 % and 90 %; of the answers with either, 75 % are right.
    answers = np.array([[math.log(odds), 0.0, 0.0] for odds in (3, 18)] * 100)
    labels = [int(number // 2 % 4 == 3) for number in range(200)]
    result = evaluate(Fixed(NAMES, answers), faces(labels), "test", training=None)
    write_report(tmp_path / "out", result)
    sentence = "This one is well calibrated on average, but not at every confidence: its mean confidence is 75.0"
    assert sentence in page_of(tmp_path / "out").text


def test_the_page_says_why_twins_are_unknown_or_none(tmp_path: Path) -> None:
    write_report(tmp_path / "unknown", evaluated())
    assert "has is unknown: the pictures that the model was trained on" in page_of(tmp_path / "unknown").text
    other_images = np.random.default_rng(9).integers(0, 256, (3, 12, 12), dtype=np.uint8)
    write_report(tmp_path / "none", evaluated(training=other_images))
    assert "No picture of this split has a twin in training" in page_of(tmp_path / "none").text
    write_report(tmp_path / "all", evaluated(training=images_of(1)))
    assert "6 of 6 pictures" in page_of(tmp_path / "all").text


def test_no_folder_of_the_writer_stands_in_a_report(tmp_path: Path) -> None:
    data = faces([0, 1, 2, 0])
    data = dataclasses.replace(data, source=str(tmp_path / "archive.zip"))
    result = evaluate(Fixed(NAMES, logits([0, 1, 2, 0])), data, "test", training=None, model="first")
    write_report(tmp_path / "out", result)
    assert "Data: archive.zip, 3 expressions" in page_of(tmp_path / "out").text
    for path in (tmp_path / "out").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name


def test_the_page_says_what_the_last_epoch_has(tmp_path: Path) -> None:
    rows = [{"epoch": n, "loss": 1.0, "val_accuracy": value} for n, value in enumerate((0.5, 0.61, 0.6), 1)]
    write_report(tmp_path / "out", evaluated(), history=rows)
    text = " ".join(page_of(tmp_path / "out").text.split())
    assert "the best accuracy, 61.00 %, so that score is a little too high" in text
    assert "the last epoch, which nothing chose, has 60.00 %" in text


CHOSEN = [
    ("accuracy", 2, "chose by accuracy: epoch 2, accuracy 61.00 %. Its scores are a little too high"),
    ("clean_loss", 1, "chose by loss without twins: epoch 1, accuracy 50.00 %. Its scores are a little too high"),
    ("macro_f1", 3, "chose by macro-F1: epoch 3, accuracy 60.00 %. Its scores are a little too high, since they were"),
    ("last", 3, "The ring marks the last epoch, 3, accuracy 60.00 %, which was kept whatever it scored."),
    ("accuracy", 0, "no ring, since validation kept the classifier that training began with: by accuracy, no epoch"),
]


@pytest.mark.parametrize(("select", "epoch", "sentence"), CHOSEN)
def test_the_page_names_the_epoch_that_was_kept(select: str, epoch: int, sentence: str, tmp_path: Path) -> None:
    rows = [{"epoch": n, "loss": 1.0, "val_accuracy": value} for n, value in enumerate((0.5, 0.61, 0.6), 1)]
    evaluation = dataclasses.replace(evaluated(split="validation"), trained_on_it=True)
    write_report(tmp_path / "out", evaluation, history=rows, choice=Choice(epoch, select))
    text = " ".join(page_of(tmp_path / "out").text.split())
    assert sentence in text
    assert ("it decided which epoch was kept and which settings" in text) == (select != "last")
    assert "the best accuracy, 61.00 %" not in text and "highest validation accuracy" not in text
    assert ("the last epoch, which nothing chose, has 60.00 %" in text) == (epoch != 3)


def test_the_command_reports_the_choice_of_the_record(tmp_path: Path) -> None:
    record = {"metrics": {"epoch": 1}, "config": {"select": "loss"}}
    write_and_print(evaluated(), tmp_path / "out", "", HISTORY, [record])
    assert "chose by loss: epoch 1, accuracy 51.00" in " ".join(page_of(tmp_path / "out").text.split())


@pytest.mark.parametrize(("selects", "chose"), [(("last", "last"), False), (("last", "loss"), True)])
def test_the_page_of_an_average_says_that_no_epoch_was_chosen(
    selects: tuple[str, ...], chose: bool, tmp_path: Path
) -> None:
    own = dataclasses.replace(evaluated(split="validation"), trained_on_it=True)
    records: list[dict[str, Any]] = [{"metrics": {"epoch": 2}, "config": {"select": select}} for select in selects]
    write_and_print(average([own, own]), tmp_path / "out", "", records=records)
    text = " ".join(page_of(tmp_path / "out").text.split())
    assert ("it decided which epoch was kept and which settings" in text) == chose and "settings were better" in text


def test_odd_names_are_escaped(tmp_path: Path) -> None:
    names = ('<script>alert("1")</script>', "a & b", "$x_1$ {{ 7 * 7 }} {% raw %}")
    write_report(tmp_path / "out", evaluated(names), command="mien evaluate '<b>'")
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text and "<b>" not in text
    assert "&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;" in text
    assert "a &amp; b" in text
    assert "$x_1$ {{ 7 * 7 }} {% raw %}" in page_of(tmp_path / "out").text


def test_names_that_are_no_text_lose_no_report(tmp_path: Path) -> None:
    write_report(tmp_path / "out", evaluated(("caf\udce9", "happy", "sad")))
    for name in ("report.html", "classification_report.txt", "predictions.csv"):
        assert "caf\\xe9" in (tmp_path / "out" / name).read_text(encoding="utf-8"), name


def test_the_page_holds_the_classification_report_as_text(tmp_path: Path) -> None:
    write_report(tmp_path / "out", evaluated(("<angry>", "a & b", "sad")))
    report = (tmp_path / "out" / "classification_report.txt").read_text(encoding="utf-8")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert f"<pre>{html.escape(report)}</pre>" in page
    assert "&lt;angry&gt;" in page and "<angry>" not in page
    assert report in page_of(tmp_path / "out").text
    assert "<summary>The same scores as text, to copy</summary>" in page


def test_a_dash_for_precision_is_explained(tmp_path: Path) -> None:
    write_report(tmp_path / "all", evaluated())
    assert "never predicted" not in page_of(tmp_path / "all").text
    never_sad = evaluate(Fixed(NAMES, logits([0, 1, 0, 0, 0, 1])), faces([0, 1, 2, 0, 1, 2]), "test", training=None)
    write_report(tmp_path / "never", never_sad)
    assert "A dash for precision means that the expression was never predicted." in page_of(tmp_path / "never").text


def test_dashes_of_a_class_without_pictures_are_explained(tmp_path: Path) -> None:
    no_sad = evaluate(Fixed(NAMES, logits([0, 1, 2, 0])), faces([0, 1, 1, 0]), "test", training=None)
    write_report(tmp_path / "out", no_sad)
    text = page_of(tmp_path / "out").text
    assert "never predicted" not in text, "it was predicted, so its precision is 0 %"
    assert "An expression without pictures has no recall and no F1, and does not count in the mean." in text
    write_report(tmp_path / "all", evaluated())
    assert "An expression without pictures" not in page_of(tmp_path / "all").text


def test_names_of_mistakes_break_after_a_slash(tmp_path: Path) -> None:
    write_report(tmp_path / "out", evaluated())
    assert "<br>test/<wbr>4.jpg</p>" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_perfect_classifier_has_no_sheet_of_mistakes(tmp_path: Path) -> None:
    data = faces([0, 1, 2])
    result = evaluate(Fixed(NAMES, logits([0, 1, 2])), data, "test", training=None)
    write_report(tmp_path / "out", result)
    assert not (tmp_path / "out" / "mistakes.png").exists()
    text = page_of(tmp_path / "out").text
    assert text.count("No picture was misclassified") == 2
    assert text.count("bootstrap over pictures; Clopper-Pearson if all or none are right") == 2, "its intervals are not"
    write_report(tmp_path / "out", evaluated())
    assert "Clopper" not in page_of(tmp_path / "out").text
    write_report(tmp_path / "out", evaluate(Fixed(NAMES, logits([0, 0])), faces([0, 1]), "test", training=None))
    assert "Clopper-Pearson if all or none are right" in page_of(tmp_path / "out").text


def test_a_former_report_is_replaced(tmp_path: Path) -> None:
    write_report(tmp_path / "out", evaluated(), history=HISTORY)
    write_report(tmp_path / "out", evaluated(tta=True))
    assert not (tmp_path / "out" / "curves.png").exists()
    assert json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))["tta"] is True


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_report(tmp_path / "out", evaluated())
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.parametrize("other_files", [["notes.txt"], ["metrics.json"], ["report.html"]])
def test_a_folder_of_somebody_else_is_left_alone(other_files: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in other_files:
        (out / name).write_text("mine", encoding="utf-8")
    with pytest.raises(MienError, match=rf"holds other files than a report \({other_files[0]}\)"):
        write_report(out, evaluated())
    assert {entry.name: entry.read_text(encoding="utf-8") for entry in out.iterdir()} == dict.fromkeys(
        other_files, "mine"
    )


def test_a_note_beside_a_former_report_is_left_alone(tmp_path: Path) -> None:
    write_report(tmp_path / "out", evaluated())
    (tmp_path / "out" / "my notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(MienError, match=r"my notes\.txt"):
        write_report(tmp_path / "out", evaluated())
    assert (tmp_path / "out" / "my notes.txt").read_text(encoding="utf-8") == "mine"


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    with pytest.raises(MienError, match="is a file, expected a folder"):
        refuse_foreign(tmp_path / "out")


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    write_report(tmp_path / "out", evaluated())
    metrics_before = (tmp_path / "out" / "metrics.json").read_text(encoding="utf-8")
    monkeypatch.setattr(report_module, "classification_report_text", full)
    with pytest.raises(MienError, match="No space left on device"):
        write_report(tmp_path / "out", evaluated(tta=True))
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "metrics.json").read_text(encoding="utf-8") == metrics_before


META = {
    "calibration": {"temperature": 4.0, "uncertain": {"stated_accuracy": 0.8, "threshold": 0.7}},
    "data": {"fingerprint": "abc123"},
}


def scaled(split: str, meta: dict[str, Any] | None = META, tta: bool = False) -> Evaluation:
    """Forty pictures of two classes, three of four read right, with a probability of 3 / 4: T = 4 from ln 81."""
    classifier = Fixed(("angry", "happy"), np.tile([math.log(3), 0.0], (40, 1)), meta=meta)
    data = faces([0, 0, 0, 1] * 10, ("angry", "happy"), split)
    return evaluate(classifier, data, split, training=None, tta=tta, model="runs/first")


def test_on_test_nothing_is_fitted() -> None:
    calibration = scaled("test").metrics()["calibration"]
    assert (calibration["temperatures"], calibration["cross_fitted"]) == ([4.0], False)
    assert calibration["before"]["ece"] == pytest.approx(81 / 82 - 3 / 4)
    assert calibration["before"]["nll"] == pytest.approx(0.75 * math.log(82 / 81) + 0.25 * math.log(82))
    assert calibration["after"]["ece"] == pytest.approx(0, abs=1e-6)
    assert scaled("test", None).metrics()["calibration"] is None


@pytest.mark.parametrize("tta", [False, True])
def test_on_validation_scaling_is_cross_fitted(tta: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mien.evaluation.calibration.LEAST_FOR_TEMPERATURE", 60)
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 60)
    answers = (generator.normal(0, 2, (60, 3)) + np.eye(3)[labels]).astype(np.float32)
    data = faces(labels.tolist(), split="validation")
    result = evaluate(Fixed(NAMES, answers), data, "validation", training=None, tta=tta)
    temperatures = cross_fitted(answers, labels)
    assert temperatures is not None
    calibration = result.metrics()["calibration"]
    assert (calibration["temperatures"], calibration["cross_fitted"]) == ([None], True)
    assert calibration["before"] == pytest.approx(quality(softmax(answers), labels))
    assert calibration["after"] == pytest.approx(quality(softmax(answers / temperatures[:, None]), labels))
    record = calibrate(answers, labels)
    meta = {"calibration": record, "data": {"fingerprint": "abc123"}}
    scaled_classifier = Fixed(NAMES, answers / record["temperature"], meta=meta)
    calibration_again = evaluate(scaled_classifier, data, "validation", training=None, tta=tta).metrics()["calibration"]
    assert calibration_again["temperatures"] == [record["temperature"]]
    assert calibration_again["before"] == pytest.approx(calibration["before"], abs=1e-5)
    assert calibration_again["after"] == pytest.approx(calibration["after"], abs=1e-5)
    assert calibration_again["after"]["ece"] == pytest.approx(record["ece_after"], abs=1e-5)


def test_the_validation_split_of_other_data_is_measured_as_it_is() -> None:
    other_meta = {**META, "data": {"fingerprint": "elsewhere"}}
    assert scaled("validation", other_meta).metrics()["calibration"]["cross_fitted"] is False
    assert scaled("validation").metrics()["calibration"]["cross_fitted"] is True


def test_the_threshold_of_the_model_is_tried_here() -> None:
    curve = scaled("test").metrics()["risk_coverage"]
    assert curve["uncertain"] == {
        "stated_accuracy": 0.8, "threshold": 0.7, "coverage": 1.0, "accuracy": 0.75, "clean": None,
    }  # fmt: skip
    assert curve["points"][0] == {"coverage": 1.0, "accuracy": 0.75}
    assert curve["aurc"] == pytest.approx(0.25), "equally sure answers are in no order"
    without_threshold = {"calibration": {"temperature": 1.0, "uncertain": {"stated_accuracy": 0.8, "threshold": None}}}
    assert scaled("test", without_threshold).metrics()["risk_coverage"]["uncertain"] == {
        "stated_accuracy": 0.8,
        "threshold": None,
        "coverage": 0.0,
        "accuracy": None,
        "clean": None,
    }
    assert scaled("test", None).metrics()["risk_coverage"]["uncertain"] is None


def test_threshold_and_confidence_are_tried_on_the_clean_part_too(tmp_path: Path) -> None:
    evaluation = scaled("test")
    twins = np.arange(40) < 4
    probabilities = np.where(np.arange(40)[:, None] < 8, [[0.6, 0.4]], evaluation.probabilities)
    whole, clean, reason = score_parts(probabilities, evaluation.labels, evaluation.names, twins, 0)
    evaluation = dataclasses.replace(
        evaluation, twins=twins, whole=whole, clean=clean, clean_reason=reason, probabilities=probabilities
    )
    uncertain = evaluation.metrics()["risk_coverage"]["uncertain"]
    assert (uncertain["coverage"], uncertain["accuracy"]) == (0.8, 0.75)
    assert uncertain["clean"] == {"coverage": pytest.approx(32 / 36), "accuracy": 0.75}
    metrics = evaluation.metrics()
    assert metrics["confidence_minus_accuracy"] == pytest.approx(0.72 - 0.75)
    assert metrics["confidence_minus_accuracy_clean"] == pytest.approx((4 * 0.6 + 32 * 0.75) / 36 - 0.75)
    assert metrics["ece_by_chance_clean"] == ece_by_chance(evaluation.probabilities[~twins])
    write_report(tmp_path / "out", evaluation)
    text = re.sub(r"[ \n]+", " ", page_of(tmp_path / "out").text)
    assert (
        "of cases. On the pictures without a twin it may be well calibrated, as far as these pictures tell: its mean"
        in text
    )
    assert "there is 73.3\u202f%, its accuracy 75.0\u202f%, and they differ by 1.7 points, for" in text
    assert "75.0\u202f% of these are right; of the pictures without a twin 88.9\u202f% reach it, and 75.0" in text
    assert "Everything else on this page is of the whole split" in text
    low, high = (100 * bound for bound in evaluation.clean["ci95"]["accuracy"]) if evaluation.clean else (0, 0)
    (line,) = (line for line in headline(evaluation).splitlines() if line.startswith("  clean: "))
    assert line.startswith(f"  clean: accuracy 75.00% (95 %: {low:.2f} to {high:.2f}), macro-F1 ")


def test_an_average_says_when_only_some_models_are_scaled(tmp_path: Path) -> None:
    write_report(tmp_path / "out", average([scaled("validation"), scaled("validation", None)]))
    assert "Only some of these models have a temperature in their weights" in page_of(tmp_path / "out").text
    write_report(tmp_path / "test", average([scaled("test"), scaled("test")]))
    assert "divided by temperatures of 4.00 and 4.00, one per model" in page_of(tmp_path / "test").text
    mixed = average([scaled("test"), scaled("test", None)])
    write_report(tmp_path / "mixed", mixed)
    text = page_of(tmp_path / "mixed").text
    assert "Only some of these models have a temperature" in text and "No temperature is folded" not in text
    assert mixed.scaling is not None
    assert mixed.scaling.before[0, 0] == pytest.approx((81 / 82 + 3 / 4) / 2, abs=1e-6)
    assert mixed.scaling.after[0, 0] == pytest.approx(3 / 4, abs=1e-6)


def threshold(value: float | None, **fields: float) -> dict[str, Any]:
    return {"calibration": {"temperature": 4.0, "uncertain": {"stated_accuracy": 0.8, "threshold": value, **fields}}}


@pytest.mark.parametrize(
    ("split", "meta", "sentence"),
    [
        ("validation", META, "divided by a temperature of 4.00"),
        ("validation", META, "the second number is cross-fitted"),
        ("test", META, "error is 23.8 points without scaling and 0.0 points with it. Nothing was fitted on"),
        ("validation", None, "The weights hold no temperature"),
        ("validation", None, "With fewer than 100 pictures that number is mostly chance."),
        ("test", None, "the confidence is as training left it"),
        (
            "test",
            META,
            "below 70.0\u202f% are called uncertain. Of the other answers on the validation",
        ),
        ("test", META, "pictures, at least 80\u202f% were right; these pictures include some"),
        ("test", META, "Here, 40 of 40 answers (100.0\u202f%) reach the threshold, and 75.0\u202f% of these are right"),
        ("test", threshold(0.7, confidence=0.95), "Of the other answers, at least 80\u202f% should be right"),
        ("test", threshold(0.9), "Here, every answer is uncertain"),
        ("test", threshold(None), "no threshold could promise an accuracy of 80\u202f%: every answer of this model"),
        ("test", None, "has no threshold below which"),
    ],
)
def test_the_page_says_how_sure_it_is(split: str, meta: dict[str, Any] | None, sentence: str, tmp_path: Path) -> None:
    write_report(tmp_path / "out", scaled(split, meta))
    text = page_of(tmp_path / "out").text.replace("\n", " ")
    assert "Confidence and calibration" in text
    assert sentence in text


def three() -> list[Evaluation]:
    """Two pictures, one of each class, read by three models, one of which counts the classes the other way round."""
    data = faces([0, 1], ("angry", "happy"))
    answers = [[[0.6, 0.4], [0.8, 0.2]], [[0.5, 0.5], [0.3, 0.7]], [[0.7, 0.3], [0.9, 0.1]]]
    orders = [("angry", "happy"), ("angry", "happy"), ("happiness", "anger")]
    training_sets = [data.images[:1], data.images[1:], data.images[:1]]
    return [
        evaluate(Fixed(names, np.log(probabilities), meta=META), data, "test", training=thumbs, model=f"runs/{letter}")
        for names, probabilities, thumbs, letter in zip(orders, answers, training_sets, "abc", strict=True)
    ]


def test_probabilities_are_averaged_by_the_names_of_the_classes() -> None:
    average_evaluation = average(three())
    assert average_evaluation.names == ("angry", "happy")
    assert average_evaluation.probabilities == pytest.approx(np.array([[1.4 / 3, 1.6 / 3], [1.2 / 3, 1.8 / 3]]))
    metrics = average_evaluation.metrics()
    assert (metrics["averaged"], metrics["models"]) == (3, ["runs/a", "runs/b", "runs/c"])
    assert (metrics["model"], metrics["accuracy"]) == ("average of 3 models", 0.5)
    assert metrics["calibration"]["temperatures"] == [4.0] * 3
    assert metrics["risk_coverage"]["uncertain"] is None, "no threshold was fitted for the average"


def test_a_twin_of_any_model_is_a_twin_of_the_average() -> None:
    evaluations = three()
    assert [None if evaluation.twins is None else evaluation.twins.tolist() for evaluation in evaluations] == [
        [True, False],
        [False, True],
        [True, False],
    ]
    assert average(evaluations[::2]).metrics()["twins"]["n"] == 1
    assert average(evaluations).clean_reason == "every picture of this split has a twin in training"
    twins_unknown = evaluate(Fixed(("angry", "happy"), np.eye(2)), faces([0, 1], ("angry", "happy")), "test",
                             training=None)  # fmt: skip
    assert average([evaluations[0], twins_unknown]).metrics()["twins"] is None


def test_models_that_cannot_be_averaged_are_refused() -> None:
    evaluation = three()[0]
    three_classes = evaluate(Fixed(("angry", "happy", "sad"), np.eye(3)[:2]), faces([0, 1], ("angry", "happy")), "test",
                             training=None, model="runs/d")  # fmt: skip
    with pytest.raises(MienError, match=r"runs/d: knows the classes angry, happy, sad, unlike runs/a \(angry, happy\)"):
        average([evaluation, three_classes])
    other_pictures = evaluate(Fixed(("angry", "happy"), np.eye(2)[[0]]), faces([0], ("angry", "happy")), "test",
                              training=None)  # fmt: skip
    with pytest.raises(MienError, match="other pictures than the rest"):
        average([evaluation, other_pictures])
    tta_evaluation = evaluate(Fixed(("angry", "happy"), np.eye(2)), faces([0, 1], ("angry", "happy")), "test",
                              training=None, tta=True)  # fmt: skip
    with pytest.raises(MienError, match="mirror image"):
        average([evaluation, tta_evaluation])


@pytest.mark.parametrize(
    ("tta", "sentence"),
    [(False, "the mean of 3 predictions, one by each of the 3 models"), (True, "the mean of 6 predictions")],
)
def test_the_page_of_an_average_says_so(tta: bool, sentence: str, tmp_path: Path) -> None:
    data = faces([0, 1, 2, 0])
    models = [
        evaluate(
            Fixed(NAMES, logits([0, 1, 2, last_class])),
            data,
            "test",
            training=None,
            tta=tta,
            model=f"runs/{last_class}",
        )
        for last_class in (0, 1, 2)
    ]
    write_report(tmp_path / "out", average(models))
    text = page_of(tmp_path / "out").text.replace("\n", " ")
    assert "This is the score of an average of 3 models, not of a single model" in text
    assert "the probabilities of runs/0, runs/1 and runs/2 were averaged" in text
    assert "Evaluation on the test split, average of 3 models" in text
    assert sentence in text
    write_report(tmp_path / "single", models[0])
    assert "average of" not in page_of(tmp_path / "single").text


def test_models_are_paired_on_what_neither_knows_from_training_too() -> None:
    data = faces([0, 1, 2, 0, 1, 2])
    twins = {"a": [0, 1], "b": [1, 2]}
    predictions = {"a": [0, 1, 2, 0, 1, 2], "b": [1, 2, 0, 1, 1, 2]}
    first, second = (
        dataclasses.replace(
            evaluate(Fixed(NAMES, logits(predictions[name])), data, "test", training=None, model=name),
            twins=np.isin(np.arange(6), twins[name]),
        )
        for name in ("a", "b")
    )
    (pair,) = paired_tests([first, second])
    assert (pair["b"], pair["c"], pair["p"]) == (4, 0, 0.125)
    assert {name: pair["clean"][name] for name in ("n", "b", "c", "p", "approximate")} == {
        "n": 3, "b": 1, "c": 0, "p": 1.0, "approximate": False,
    }  # fmt: skip
    assert (pair["difference"], pair["clean"]["difference"]) == (4 / 6, 1 / 3)
    low, high = (100 * bound for bound in pair["ci95"])
    assert pairs_text([pair]).splitlines()[1:] == [
        f"a against b, whole: +66.67 points ({low:+.2f} to {high:+.2f}); only the first is right on 4, only the second "
        "on 0, p = 0.12",
        "a against b, strictly clean, 3 pictures: +33.33 points (-32.59 to +72.59); only the first is right on 1, only "
        "the second on 0, p = 1",
    ]
    (pair,) = paired_tests([dataclasses.replace(first, approximate=True), second])
    assert pair["clean"]["approximate"] and "strictly clean, about 3 pictures" in pairs_text([pair])
    (pair,) = paired_tests([first, dataclasses.replace(second, twins=np.ones(6, bool))])
    assert pair["clean"] is None


def test_models_are_paired_picture_by_picture() -> None:
    data = faces([0, 1, 2, 0])
    class_predictions = {"a": [0, 1, 2, 0], "b": [0, 1, 2, 1], "c": [1, 0, 0, 0]}
    evaluations = [
        evaluate(Fixed(NAMES, logits(predictions)), data, "test", training=None, model=name)
        for name, predictions in class_predictions.items()
    ]
    pairs = paired_tests(evaluations)
    assert [{key: value for key, value in pair.items() if key != "ci95"} for pair in pairs] == [
        {"models": ["a", "b"], "b": 1, "c": 0, "p": 1.0, "difference": 0.25, "clean": None},
        {"models": ["a", "c"], "b": 3, "c": 0, "p": 0.25, "difference": 0.75, "clean": None},
        {"models": ["b", "c"], "b": 3, "c": 1, "p": 0.625, "difference": 0.5, "clean": None},
    ]
    text = pairs_text(paired_tests([*evaluations, average(evaluations)]))
    assert re.search(r"a against c, whole: \+75.00 points .*; only the first is right on 3, .* 0, p = 0.25\n", text)
    assert "a against c, strictly clean, not known for both\n" in text
    assert "These are 6 pairs, and p is not corrected for their number: at .05 in all, in one part, a p" in text
    assert "p below 0.0083 holds (Bonferroni)" in text
    assert "p below 0.016 holds" in pairs_text(pairs), "0.017 would be more than 0.05 / 3"
    assert "corrected" not in pairs_text(paired_tests(evaluations[:2])), "one test needs no correction"
