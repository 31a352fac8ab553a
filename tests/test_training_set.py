"""Photos in, a training set out, by a detector whose finds a person can foretell."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from data_helpers import encode, noise, write_folder, write_zip
from PIL import Image

from mien.cli import main
from mien.data.read import read_faces
from mien.errors import MienError
from mien.recognition.detection import Detection
from mien.recognition.training_set import crop_set


class Halves:
    """As many faces as the picture is times as wide as high, side by side, the last the largest by a pixel."""

    name, margin = "halves", 0.0

    def detect(self, picture: np.ndarray) -> list[Detection]:
        height, width = picture.shape[:2]
        count = width // height
        return [
            Detection((float(i * height), 0.0, height - (i < count - 1), height - (i < count - 1)), 1.0)
            for i in range(count)
        ]


def photo(width: int, height: int = 60, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return encode(pixels)


PHOTOS = {
    "happy/one.png": photo(60),
    "happy/two.png": photo(120, seed=1),
    "sad/tall.png": photo(30, seed=2),
    "sad/broken.jpg": b"no picture",
    "sad/one.png": photo(60, seed=3),
}


def test_each_photo_gives_its_largest_face_or_a_reason(tmp_path: Path) -> None:
    source, out = write_folder(tmp_path / "photos", PHOTOS), tmp_path / "set"
    records = crop_set(source, out, Halves(), size=20)
    assert {record.path: record.crops for record in records} == {
        "happy/one.png": ("happy/one.png",),
        "happy/two.png": ("happy/two.png",),
        "sad/broken.jpg": (),
        "sad/one.png": ("sad/one.png",),
        "sad/tall.png": (),
    }
    reasons = {record.path: record.reason or "" for record in records}
    assert "sad/tall.png: no face was found" in reasons["sad/tall.png"]
    assert "not a picture" in reasons["sad/broken.jpg"] and not reasons["happy/two.png"]
    faces = read_faces(str(out))
    assert faces.images.shape == (3, 20, 20) and faces.names == ("happy", "sad")
    grey = Image.open(io.BytesIO(PHOTOS["happy/two.png"])).convert("L")
    expected = np.asarray(grey.resize((20, 20), Image.Resampling.BILINEAR, box=(60, 0, 120, 60))).astype(int)
    assert np.abs(faces.images[1].astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("which", "count"), [("largest", 3), ("all", 4), ("only", 2)])
def test_what_a_photo_with_two_faces_gives(which: str, count: int, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "photos", PHOTOS)
    records = crop_set(source, tmp_path / "set", Halves(), which=which)
    assert sum(len(record.crops) for record in records) == count
    assert len(list((tmp_path / "set").rglob("*.png"))) == count


def test_splits_and_colours_are_kept_and_names_told_apart(tmp_path: Path) -> None:
    photos = {"train/happy/a.png": photo(60), "train/happy/a.jpg": photo(60, seed=1), "test/sad/b.png": photo(60)}
    source = write_zip(tmp_path / "photos.zip", {**photos, "train/sad/c.png": photo(60, seed=2)})
    crop_set(source, tmp_path / "set", Halves(), grey=False)
    faces = read_faces(str(tmp_path / "set"))
    assert faces.images.shape == (4, 48, 48, 3)
    assert sorted(faces.splits) == ["test", "train", "train", "train"]


def test_nothing_is_written_where_nothing_was_found(tmp_path: Path) -> None:
    source, out = write_folder(tmp_path / "photos", {"sad/tall.png": photo(30)}), tmp_path / "set"
    with pytest.raises(MienError, match="no face was found in 1 files"):
        crop_set(source, out, Halves())
    assert not out.exists()
    out.mkdir()
    with pytest.raises(MienError, match="set: exists; choose another name"):
        crop_set(source, out, Halves())


def test_a_class_without_a_face_leaves_no_empty_folder(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "photos", {"happy/a.png": photo(60), "sad/tall.png": photo(30)})
    crop_set(source, tmp_path / "set", Halves())
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["happy"]


@pytest.mark.parametrize("options", [[], ["--timeout", "60"]])
def test_the_command_tells_that_of_several_pictures_in_a_file_it_takes_the_first(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, pages = tmp_path / "photos", [Image.fromarray(noise(number, 30)) for number in (0, 1)]
    write_folder(source, {"happy/a.png": encode(noise(2, 30)), "sad/b.png": encode(noise(3, 30))})
    arguments = ["data", "crop", str(source), "--detector", "none", "--size", "24", *options, "--out"]
    assert main([*arguments, str(tmp_path / "alone")]) == 0
    assert "several" not in capsys.readouterr().err
    for name in ("happy/c.tif", "happy/d.png"):
        pages[0].save(source / name, save_all=True, append_images=pages[1:])
    assert main([*arguments, str(tmp_path / "set")]) == 0
    output = capsys.readouterr()
    assert output.out.endswith(": 4 faces of 4 photos, 0 files left out\n")
    assert "mien: 2 files hold several pictures, frames of an animation or pages (happy/c.tif): only the" in output.err


def test_the_command_tells_what_was_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = {
        "happy/a.png": encode(noise(0, 30)),
        "sad/b.png": encode(noise(1, 30)),
        "sad/c.png": b"",
        "sad/d.heic": b"x",
    }
    source, out = write_folder(tmp_path / "photos", members), tmp_path / "set"
    assert main(["data", "crop", str(source), "--out", str(out), "--detector", "none", "--size", "24"]) == 0
    output = capsys.readouterr()
    assert output.out == f"{out}: 2 faces of 2 photos, 2 files left out\n"
    assert "mien: left out" in output.err and "c.png: is empty" in output.err and "d.heic: is no picture" in output.err
    arguments = ["data", "crop", str(source), "--out", str(tmp_path / "again"), "--detector", "none", "--size", "24"]
    assert main([*arguments, "-q"]) == 0
    assert capsys.readouterr().err == output.err
    assert main(["data", "crop", str(source), "--out", str(out)]) == 2
    (source / "sad" / "c.png").unlink()
    (source / "happy" / "a.png").unlink()
    (source / "happy").rmdir()
    arguments = ["data", "crop", str(source), "--out", str(tmp_path / "one"), "--detector", "none", "--size", "24"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.endswith(": 1 face of 1 photo, 1 file left out\n")


def test_a_class_without_faces_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photos = {"train/sad/a.png": photo(30), "train/happy/a.png": photo(60), "test/sad/a.png": photo(60, seed=1)}
    crop_set(write_folder(tmp_path / "photos", photos), tmp_path / "set", Halves(), size=20)
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert message.startswith("no photo of train/sad gave a face")
    caplog.clear()
    del photos["train/sad/a.png"]
    crop_set(write_folder(tmp_path / "fewer", photos), tmp_path / "other", Halves(), size=20)
    assert not caplog.records


def test_a_crop_is_not_larger_than_what_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = write_folder(tmp_path / "photos", PHOTOS), tmp_path / "set"
    assert main(["data", "crop", str(source), "--out", str(out), "--size", "2049"]) == 2
    assert "from 8 to 2048" in capsys.readouterr().err and not out.exists()
