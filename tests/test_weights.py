"""The models that come with the package: small, pretrained as promised, and as good as their cards say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image
from remake import SHIPPED as MADE
from transformers import pipeline

from mien import Recognizer
from mien.data.read import read_faces
from mien.evaluation.calibration import accuracy_interval
from mien.evaluation.evaluate import evaluate
from mien.export.pack import FILES, LARGEST_WEIGHTS
from mien.export.parity import MOST_LOST
from mien.model.classifier import SHARED_FINGERPRINTS, Classifier
from mien.model.places import DEFAULT, FINGERPRINTS, SHIPPED

ALL_WEIGHTS = 40 * 2**20
"""Bytes of every file of weights together."""

PICTURES = 3589
"""Of FER2013's validation split."""

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.name for path in SHIPPED.iterdir() if path.is_dir())
CARDS = {name: SHIPPED / name / "README.md" for name in NAMES}


def meta(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((SHIPPED / name / "meta.json").read_text(encoding="utf-8"))
    return record


def accuracy(folder: Path, archive: Path) -> float:
    """Of a model folder on FER2013's validation split, read by PyTorch."""
    evaluation = evaluate(Classifier.load(folder), read_faces(str(archive)), "validation", training=None, quiet=True)
    return float(evaluation.whole["accuracy"])


def test_reading_a_face_leaves_nothing_behind(tmp_path: Path) -> None:
    """ONNX Runtime keeps what it would report to its maker in the home folder of the user, unless told not to."""
    code = "import numpy as np, mien; mien.Recognizer(detector='none').recognize(np.zeros((48, 48), np.uint8))"
    inherited_variables = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    environment = {
        **inherited_variables,
        "PYTHONPATH": str(ROOT / "src"),
        "HOME": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60
    )
    assert (completed.returncode, completed.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_they_are_there_and_small() -> None:
    assert DEFAULT in NAMES and set(NAMES) <= set(MADE)
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    for name in NAMES:
        assert {path.name for path in (SHIPPED / name).iterdir()} == FILES - {FINGERPRINTS}
    (shared_file,) = (path for path in SHIPPED.iterdir() if path.is_file())
    assert shared_file.name == SHARED_FINGERPRINTS.format(meta(DEFAULT)["data"]["fingerprint"][:16])
    assert shared_file.stat().st_size < 1e6
    assert len(files) == len(NAMES) * (len(FILES) - 1) + 1
    assert all(path.stat().st_size <= LARGEST_WEIGHTS for path in files)
    assert sum(path.stat().st_size for path in files) <= ALL_WEIGHTS


@pytest.mark.parametrize("name", NAMES)
def test_they_know_roughly_what_they_were_trained_on(name: str) -> None:
    sketches = Classifier.load(SHIPPED / name).sketches()
    assert sketches is not None and len(sketches) == meta(name)["data"]["images"]["train"] == 28709


@pytest.mark.parametrize("name", NAMES)
def test_they_promise_what_clean_pictures_allow(name: str) -> None:
    record = meta(name)["calibration"]
    assert (record["n"], record["twins_left_out"]) == (3589 - 995, 995)
    uncertain = record["uncertain"]
    sure_count = round(uncertain["coverage"] * record["n"])
    right_count = round(uncertain["accuracy"] * sure_count)
    assert accuracy_interval(right_count, sure_count, one_sided=True)[0] >= uncertain["stated_accuracy"] == 0.8
    assert (
        uncertain["ci95"] == pytest.approx(accuracy_interval(right_count, sure_count)) and uncertain["coverage"] > 0.3
    )
    assert Recognizer(name, detector="none").engine.threshold == uncertain["threshold"]
    assert f"{uncertain['accuracy']:.1%} are right (95 %: " in CARDS[name].read_text(encoding="utf-8")


def test_the_default_was_a_masked_autoencoder_first() -> None:
    roles = [stage["role"] for stage in meta(DEFAULT)["release"]["origin"]]
    assert "pretraining" in roles and roles[-1] == "fine-tuning"
    config = json.loads((SHIPPED / DEFAULT / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["ViTForImageClassification"]


@pytest.mark.parametrize("name", NAMES)
def test_each_engine_and_the_pipeline_give_the_same_answer(name: str) -> None:
    picture = Image.fromarray(skimage.data.astronaut())
    (face,) = Recognizer(name).recognize(picture).faces
    x, y, width, height = face.box
    crop = picture.convert("L").crop((x, y, x + width, y + height)).resize((48, 48))
    answers = pipeline("image-classification", model=str(SHIPPED / name), top_k=7)(crop)
    (by_onnx,) = Recognizer(name, detector="none").recognize(crop).faces
    assert {answer["label"] for answer in answers} == set(by_onnx.probabilities)
    for answer in answers:
        assert by_onnx.probabilities[answer["label"]] == pytest.approx(answer["score"], abs=2e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_card_tells_what_is_measured(name: str, fer2013: Path) -> None:
    stated_scores = meta(name)["release"]["scores"]["validation"]
    # Another processor rounds otherwise.
    assert accuracy(SHIPPED / name, fer2013) == pytest.approx(stated_scores["accuracy"], abs=2.5 / PICTURES)
    assert f"{stated_scores['accuracy']:.2%}" in CARDS[name].read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_int8_loses_little_on_real_faces(name: str, fer2013: Path) -> None:
    validation = read_faces(str(fer2013)).part("validation")
    accuracies = {}
    for model in (name, f"{name}-int8"):
        results = Recognizer(model, detector="none").recognize(list(validation.images))
        labels = [result.faces[0].label for result in results]
        accuracies[model] = np.mean(
            [label == validation.names[index] for label, index in zip(labels, validation.labels, strict=True)]
        )
    assert accuracies[name] - accuracies[f"{name}-int8"] <= MOST_LOST / 100


@pytest.mark.parametrize("name", ["face_cnn", "wide_cnn"])
def test_the_cnns_that_taught_it_are_as_good_as_they_say(name: str, fer2013: Path) -> None:
    folder = ROOT / "teachers" / name
    stated_metrics = json.loads((folder / "meta.json").read_text(encoding="utf-8"))["metrics"]
    # They were measured before their weights were halved.
    assert accuracy(folder, fer2013) == pytest.approx(stated_metrics["accuracy"], abs=5 / PICTURES)
    assert not (folder / FINGERPRINTS).exists()
