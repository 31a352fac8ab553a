"""Reading face crops: a record for every picture, in order, and errors that name the file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import synthetic_faces
from PIL import Image

from mien.model.backbone import build
from mien.model.classifier import Classifier
from mien.model.head import heads
from mien.recognition.predict import predict, read_picture

NAMES = ("calm", "glad", "sour")


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    network, preprocessing = build("nano", NAMES, grey=False)
    torch.nn.init.normal_(heads(network)[0].weight)
    return Classifier(network.eval(), preprocessing, NAMES)


def test_probabilities_are_those_of_the_classifier(classifier: Classifier, tmp_path: Path) -> None:
    image = synthetic_faces({"train": 1}, size=48).images[0]
    Image.fromarray(image).save(tmp_path / "face.png")
    (record,) = predict([tmp_path / "face.png"], classifier)
    expected = torch.from_numpy(classifier.logits(image[None])[0]).softmax(0).tolist()
    assert record["status"] == "ok" and record["error"] is None
    assert list(record["emotions"].values()) == pytest.approx(expected, abs=1e-6)
    assert sum(record["emotions"].values()) == pytest.approx(1)
    assert record["label"] == NAMES[int(np.argmax(expected))]
    assert record["score"] == max(record["emotions"].values())


def test_a_bad_file_is_a_record_and_order_is_kept(classifier: Classifier, tmp_path: Path) -> None:
    Image.fromarray(np.full((30, 20), 90, np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_text("not a picture")
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)).save(whole, "JPEG")
    (tmp_path / "c.jpg").write_bytes(whole.getvalue()[:-400])
    (tmp_path / "d.png").write_bytes(b"")
    paths = [tmp_path / name for name in ("a.png", "b.jpg", "c.jpg", "d.png", "missing.png", "a.png")]
    records = predict(paths, classifier)
    assert [record["status"] for record in records] == ["ok", "error", "error", "error", "error", "ok"]
    assert [record["input"] for record in records] == [str(path) for path in paths]
    assert "b.jpg" in records[1]["error"] and "not a picture" in records[1]["error"]
    assert "truncated" in records[2]["error"]
    assert records[4]["error"].endswith("No such file or directory")
    assert records[0]["emotions"] == records[5]["emotions"]


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK", "1", "LA"])
def test_any_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    kind = "jpg" if mode == "CMYK" else "png"
    Image.new("RGB", (5, 4), (200, 100, 50)).convert(mode).save(tmp_path / f"face.{kind}")
    assert read_picture(tmp_path / f"face.{kind}").shape == (4, 5, 3)


def test_a_rotated_photo_is_read_upright(tmp_path: Path) -> None:
    picture = Image.new("L", (6, 3))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "face.jpg", exif=exif)
    assert read_picture(tmp_path / "face.jpg").shape == (6, 3)


def test_a_huge_picture_is_not_decoded(tmp_path: Path) -> None:
    Image.new("1", (9000, 2)).save(tmp_path / "wide.png")
    with pytest.raises(ValueError, match="9000x2 pixels, expected at most 8192"):
        read_picture(tmp_path / "wide.png")
