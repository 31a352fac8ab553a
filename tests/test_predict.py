"""Reading face crops: a record for every picture, in order, and errors that name the file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import synthetic_faces
from PIL import Image

from mien.data.pictures import LARGEST_FILE, read_picture
from mien.errors import MienError
from mien.model.backbone import build
from mien.model.classifier import Classifier
from mien.model.head import heads
from mien.recognition.predict import predict

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
    assert records[3]["error"].startswith(f"{paths[3]}: is empty")
    assert "No such file or directory" in records[4]["error"]
    assert records[0]["emotions"] == records[5]["emotions"]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "1", "L", "LA"])
def test_any_mode_becomes_rgb_or_grey(mode: str, tmp_path: Path) -> None:
    kind = "jpg" if mode == "CMYK" else "png"
    Image.new("RGB", (5, 4), (200, 100, 50)).convert(mode).save(tmp_path / f"face.{kind}")
    pixels = read_picture(tmp_path / f"face.{kind}")
    assert (pixels.shape, pixels.dtype) == ((4, 5) if mode in ("1", "L", "LA") else (4, 5, 3), np.uint8)


def eps() -> bytes:
    """A file that Pillow would hand to an interpreter of PostScript."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 100, 50)).save(stream, "EPS")
    return stream.getvalue()


def png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (png(Image.fromarray(np.full((8, 8), 30000, np.uint16))), "pixels of kind I;16, expected 8-bit grey or colour"),
        (png(Image.new("RGBA", (8, 8), (200, 100, 50, 0))), "has transparent parts, expected an opaque picture"),
        (png(Image.new("LA", (8, 8), (200, 128))), "has transparent parts"),
        (eps(), "is not a picture that can be read, expected JPEG, PNG, BMP, WEBP, TIFF or PPM; replace"),
        (bytes(LARGEST_FILE + 1), "is larger than 32 MiB"),
    ],
    ids=["16 bits", "transparent", "half transparent", "EPS", "too large"],
)
def test_a_picture_that_would_be_misread_is_refused(
    data: bytes, told: str, classifier: Classifier, tmp_path: Path
) -> None:
    path = tmp_path / "face.png"
    path.write_bytes(data)
    (record,) = predict([path], classifier)
    assert (record["status"], record["label"], record["score"], record["emotions"]) == ("error", None, None, {})
    assert record["error"].startswith(f"{path}: ") and told in record["error"]


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_answers_that_are_no_numbers_are_refused(
    broken: float, classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (8, 8), 90).save(tmp_path / "face.png")
    answers = np.array([[0.5, broken, 1.0]], np.float32)
    monkeypatch.setattr(Classifier, "logits", lambda *_, **__: answers)
    with pytest.raises(MienError, match=r"face\.png with NaN or infinity, expected numbers; its weights are damaged"):
        predict([tmp_path / "face.png"], classifier)


def test_a_rotated_photo_is_read_upright(tmp_path: Path) -> None:
    picture = Image.new("L", (6, 3))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "face.jpg", exif=exif)
    assert read_picture(tmp_path / "face.jpg").shape == (6, 3)


def test_a_huge_picture_is_not_decoded(tmp_path: Path) -> None:
    Image.new("1", (9000, 2)).save(tmp_path / "wide.png")
    with pytest.raises(MienError, match="9000x2 pixels, expected at most 8192x8192"):
        read_picture(tmp_path / "wide.png")
