"""``mien predict``: a record for every picture and frame, files that are never left in half, and honest exit codes."""

from __future__ import annotations

import argparse
import csv
import errno
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnx
import pytest
from film_helpers import write
from PIL import Image
from recognition_helpers import SIDE, Bright, Mean, bomb, encoded, film, picture

import mien
from mien.cli import main
from mien.cli.tally import Tally
from mien.errors import MienError
from mien.model.places import SHIPPED
from mien.recognition import draw
from mien.recognition.draw import Copies
from mien.recognition.film import writer
from mien.recognition.film.reader import frames
from mien.recognition.results import Face, Recognition

KEYS = ["input", "status", "error", "width", "height", "frame", "time_s", "faces"]


@pytest.fixture(autouse=True)
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mean:
    """The command works in a folder of its own, with a detector and an engine that a person can follow."""
    engine = Mean()
    monkeypatch.setattr("mien.recognition.detectors.detector", lambda *_: Bright())
    monkeypatch.setattr("mien.recognition.engines.engine", lambda *_: engine)
    monkeypatch.chdir(tmp_path)
    return engine


def save(name: str, levels: list[int]) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(picture(levels)))


def predict(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], list[str]]:
    """Exit code, lines of stdout, lines of stderr."""
    capsys.readouterr()
    code = main(["predict", *arguments])
    output = capsys.readouterr()
    return code, output.out.splitlines(), output.err.splitlines()


def test_json_gives_a_record_for_every_input(capsys: pytest.CaptureFixture[str], engine: Mean) -> None:
    save("photos/a.png", [255, 204])
    save("photos/more/b.png", [])
    save("c.png", [153])
    code, out, err = predict(capsys, "photos", "*.png", "--json")
    records = [json.loads(line) for line in out]
    assert (code, err) == (0, [])
    assert [list(record) for record in records] == [KEYS] * 3
    assert [record["input"] for record in records] == ["photos/a.png", "photos/more/b.png", "c.png"]
    assert [record["status"] for record in records] == ["ok", "no_face", "ok"]
    assert [records[0][key] for key in ("width", "height", "frame", "time_s")] == [40, 24, None, None]
    face = records[0]["faces"][1]
    assert face == {
        "box": [24, 8, 8, 8], "label": "glad", "score": pytest.approx(0.8), "uncertain": True,
        "probabilities": {"calm": pytest.approx(0.2), "glad": pytest.approx(0.8)}, "detector_score": 8,
    }  # fmt: skip
    assert engine.batches == [3]


def test_lines_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    save("a.png", [255, 204])
    save("b.png", [])
    assert predict(capsys, "a.png", "b.png") == (
        0,
        [
            "a.png: glad 100% (calm 0%), 8x8 px at 8,8",
            "a.png: glad 80%, uncertain (calm 20%), 8x8 px at 24,8",
            "b.png: no face",
        ],
        [
            "mien: uncertain: 1 of 2 faces has a score below 0.90, from which on the model promises 80% right "
            "answers; treat this answer as unknown"
        ],
    )


def test_a_table_says_on_stderr_what_uncertain_means(capsys: pytest.CaptureFixture[str]) -> None:
    save("a.png", [255, 204])
    code, _, err = predict(capsys, "a.png", "--csv", "a.csv")
    assert code == 0 and [line.startswith("mien: uncertain: 1 of 2 faces") for line in err] == [True]


@pytest.mark.parametrize("frame", [None, 3])
def test_the_promise_is_one_for_photos(frame: int | None) -> None:
    unsure_face = Face((0.0, 0.0, 8.0, 8.0), "glad", 0.6, {"glad": 0.6, "calm": 0.4}, True, None)
    tally = Tally(threshold=0.9, stated_accuracy=0.8)
    tally.add(Recognition("a", "ok", faces=(unsure_face,), frame=frame))
    (line,) = tally.remarks(argparse.Namespace(detector="yunet", csv=None, xlsx=None, parquet=None), in_lines=True)
    assert ("for single photos (for films that was not measured)" in line) == (frame is not None)


@pytest.mark.parametrize("options", [[], ["--json"], ["--csv", "a.csv"], ["--format", "hf"]])
@pytest.mark.parametrize(
    ("threshold", "remark", "uncertain"),
    [
        (None, "this model has no threshold for sure answers", None),
        (math.inf, "uncertain: every answer of this model, as no score promised 80% right answers", True),
    ],
)
def test_a_model_without_a_threshold_says_so_in_one_line(
    threshold: float | None,
    remark: str,
    uncertain: bool | None,
    options: list[str],
    capsys: pytest.CaptureFixture[str],
    engine: Mean,
) -> None:
    engine.threshold = threshold
    save("a.png", [255, 204])
    code, out, err = predict(capsys, "a.png", *options)
    assert code == 0 and len(err) == 1 and err[0].startswith(f"mien: {remark}")
    if options == ["--json"]:
        assert [face["uncertain"] for face in json.loads(out[0])["faces"]] == [uncertain] * 2
    save("b.png", [])
    assert not [line for line in predict(capsys, "b.png", *options)[2] if "uncertain" in line]  # no face, no answer


@pytest.mark.parametrize("stated_accuracy", ["0.8", "null"])
def test_so_it_does_with_a_time_limit(stated_accuracy: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.load(SHIPPED / "nano" / "model.onnx")
    values = {"threshold": "null", "stated_accuracy": stated_accuracy}
    for entry in model.metadata_props:
        entry.value = values.get(entry.key, entry.value)
    onnx.save(model, "model.onnx")
    save("a.png", [255])
    options = ["--model", "model.onnx", "--detector", "none", "--timeout", "60"]
    code, out, err = predict(capsys, "a.png", *options)
    sentence = "this model has no threshold" if stated_accuracy == "null" else "uncertain: every answer of this model"
    assert code == 0 and len(err) == 1 and sentence in err[0]
    assert (", uncertain" in out[0]) == (stated_accuracy != "null")


@pytest.mark.parametrize("options", [[], ["--json"], ["--csv", "faces.csv"], ["--timeout", "60"]])
def test_a_line_says_that_of_several_pictures_in_a_file_the_first_was_read(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pages = [Image.fromarray(picture([level])) for level in (140, 255)]
    for name, kind in (("a.gif", "GIF"), ("b.tif", "TIFF")):
        Path(name).write_bytes(encoded(pages[0], kind, save_all=True, append_images=pages[1:]))
    save("c.png", [255])
    options = [*options, "--model", str(SHIPPED / "nano")] if "--timeout" in options else options
    said = [line for line in predict(capsys, "c.png", "a.gif", *options)[2] if "several" in line]
    assert said == [
        "mien: 1 file holds several pictures, frames of an animation or pages (a.gif): only the first picture was "
        "read; save the others as files of their own"
    ]
    said = [line for line in predict(capsys, "b.tif", "a.gif", *options)[2] if "several" in line]
    assert len(said) == 1 and said[0].startswith("mien: 2 files hold several pictures")
    assert "pages (b.tif): only" in said[0]
    assert not [line for line in predict(capsys, "c.png", *options)[2] if "several" in line]
    if "--json" in options:
        records = [json.loads(line) for line in predict(capsys, "c.png", "a.gif", *options)[1]]
        assert [record.get("first_of_several") for record in records] == [None, True]


def test_a_bad_file_never_ends_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    save("whole.png", [255])
    files = {
        "empty.jpg": b"",
        "text.jpg": b"not a picture",
        "cut.jpg": encoded(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8), "JPEG")[:-900],
        "bomb.png": bomb(packed=False),
        "film.mp4": b"not a film",
    }
    for name, data in files.items():
        Path(name).write_bytes(data)
    Path("hollow").mkdir()
    inputs = [*files, "missing.png", "*.tif", "hollow", "whole.png"]
    code, out, err = predict(capsys, *inputs, "--json")
    records = [json.loads(line) for line in out]
    assert code == 3
    assert [record["input"] for record in records] == inputs
    assert [record["status"] for record in records] == ["error"] * 8 + ["ok"]
    reasons = [
        "is empty",
        "not a picture",
        "truncated",
        "134 million",
        "not a film",
        "No such",
        "no file",
        "no picture",
    ]
    for record, reason in zip(records[:-1], reasons, strict=True):
        assert record["error"].startswith(f"{record['input']}: ") and reason in record["error"]
        assert record["faces"] == []
    assert err == [f"mien: 8 of 9 could not be read, the first is {records[0]['error']}"]
    code, out, err = predict(capsys, *inputs)
    assert (code, out[0]) == (3, f"error: {records[0]['error']}")
    assert out[-1] == "whole.png: glad 100% (calm 0%), 8x8 px at 8,8"


def test_quiet_says_what_could_not_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    save("a.png", [204])
    Path("b.png").write_bytes(b"no picture")
    film("film.avi", [204, 204])
    failure = "mien: 1 of 3 pictures and frames could not be read, the first is b.png: is not a picture"
    code, _, err = predict(capsys, "b.png", "film.avi", "-q", "--json")
    assert code == 3 and len(err) == 1 and err[0].startswith(failure)
    failure = "mien: 1 of 2 could not be read, the first is b.png: is not a picture"
    code, _, err = predict(capsys, "a.png", "b.png", "-q", "--csv", "faces.csv")
    assert code == 3 and len(err) == 1 and err[0].startswith(failure)
    code, _, err = predict(capsys, "a.png", "b.png", "-q", "--json")
    assert code == 3 and len(err) == 1 and err[0].startswith(failure)
    code, out, err = predict(capsys, "a.png", "b.png", "-q", "--format", "fer")
    assert (code, out[1]) == (3, "null") and err[0].startswith("mien: b.png: is not a picture")


def test_it_is_3_also_when_nothing_could_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = predict(capsys, "missing.png", "--json")
    assert (code, len(out), len(err)) == (3, 1, 1)
    assert err[0].startswith("mien: 1 of 1 could not be read, the first is missing.png: cannot be read (No such file")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "PATH is missing: give pictures, films or folders, or --camera N"),
        (["a.png", "--csv", "b.png"], "--csv: got b.png, expected a name that ends in .csv"),
        (["a.png", "--parquet", "b.csv"], "--parquet: got b.csv, expected a name that ends in .parquet"),
        (["a.png", "--timeline", "b.gif"], "--timeline: got b.gif, expected a name that ends in .png"),
        (["a.png", "--csv", "a.csv", "--json"], "not allowed with argument"),
        (["a.png", "--csv", "a.csv", "--format", "fer"], "--format: prints JSON, and goes neither with --csv nor"),
        (["a.png", "--csv", "faces.xlsx"], "--csv: got faces.xlsx, a workbook of Excel; use --xlsx faces.xlsx"),
        (["a.png", "--xlsx", "faces.csv"], "--xlsx: got faces.csv, expected a name that ends in .xlsx"),
        (["a.png", "--json", "--bom", "--digits", "3"], "--digits: is for tables by --csv FILE.csv, which is missing"),
        (["a.png", "--format", "rmn"], "--format: invalid choice: 'rmn'"),
        (["a.png", "--every", "0"], "--every: got '0', expected a whole number of at least 1"),
        (["a.png", "--smoothing", "-1"], "--smoothing: got '-1', expected a number of seconds"),
        (["a.png", "--smoothing", "nan"], "--smoothing: got 'nan', expected a number of seconds"),
        (["a.png", "--batch-size", "none"], "--batch-size: got 'none'"),
        (["--camera", "-1"], "--camera: got '-1'"),
        (["a.png", "--video-out", "b.mp4"], "--video-out: needs exactly one film or camera, got 0"),
        (["a.mp4", "b.mp4", "--timeline", "b.png"], "--timeline: needs exactly one film or camera, got 2"),
        (["a.mp4", "--video-out", "folder.mp4"], "--video-out: folder.mp4 is a folder, expected the name of a file"),
        (["a.mp4", "--timeline", "folder.png"], "--timeline: folder.png is a folder, expected the name of a file"),
        (["a.mp4", "--video-out", "b.gif"], "b.gif: cannot be written as a film, expected a name that ends in .mp4"),
        (["film.mp4", "--video-out", "film.mp4"], "--video-out: film.mp4 is one of the inputs, and would be written"),
        (["a.png", "--csv", "film.mp4/x.csv"], "film.mp4 is in its way and is no folder"),
        (["a.png", "--annotate", "film.mp4"], "film.mp4 is in its way and is no folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_is_2_and_writes_nothing(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("film.mp4").touch()
    for name in ("folder.mp4", "folder.png"):
        Path(name).mkdir()
    code, out, err = predict(capsys, *arguments)
    assert (code, out, len(err)) == (2, [], 1)
    assert err[0].startswith("mien: error: ") and message in err[0]
    assert sorted(map(str, Path().rglob("*"))) == ["film.mp4", "folder.mp4", "folder.png"]


def test_a_model_that_cannot_be_used_is_2(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise MienError(f"{arguments[0]}: is no model")

    monkeypatch.setattr("mien.recognition.engines.engine", fail)
    save("a.png", [255])
    Path("old.csv").write_text("kept")
    assert predict(capsys, "a.png", "--model", "nowhere", "--csv", "old.csv") == (
        2, [], ["mien: error: nowhere: is no model"],
    )  # fmt: skip
    assert Path("old.csv").read_text() == "kept"


@pytest.mark.parametrize(("options", "expected"), [([], None), (["--min-face", "40"], 40)])
def test_the_smallest_face_reaches_the_detector(
    options: list[str], expected: int | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    smallest_faces: list[int | None] = []

    def detector_of(name: str, min_face: int | None) -> Bright:
        smallest_faces.append(min_face)
        return Bright()

    monkeypatch.setattr("mien.recognition.detectors.detector", detector_of)
    save("a.png", [140])
    assert predict(capsys, "a.png", *options)[0] == 0
    assert smallest_faces == [expected]


def test_a_smallest_face_that_is_no_number_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    save("a.png", [140])
    code, _, err = predict(capsys, "a.png", "--min-face", "7")
    assert code == 2 and "--min-face: got '7', expected a whole number of at least 8" in err[0]


def test_options_reach_the_recognizer(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    received_arguments: list[Any] = []
    engine = Mean()

    def engine_of(*arguments: Any) -> Mean:
        received_arguments.extend(arguments)
        return engine

    def detector_of(name: str, min_face: float | None) -> Bright:
        received_arguments.append(name)
        return Bright()

    monkeypatch.setattr("mien.recognition.engines.engine", engine_of)
    monkeypatch.setattr("mien.recognition.detectors.detector", detector_of)
    save("a.png", [140, 150, 160])
    options = ["--model", "m", "--engine", "torch", "--device", "cuda:1", "--detector", "none", "--batch-size", "2"]
    assert predict(capsys, "a.png", *options)[0] == 0
    assert {"m", "torch", "cuda:1", "none"} <= set(received_arguments)
    assert engine.batches == [2, 1]


@pytest.mark.parametrize("told_by_engine", [True, False])
def test_a_broken_model_is_2(
    told_by_engine: bool, capsys: pytest.CaptureFixture[str], engine: Mean, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(crops: np.ndarray) -> None:
        raise MienError("m: answers NaN; its weights are damaged")

    engine.answer = float("nan")
    if told_by_engine:
        monkeypatch.setattr(engine, "read", fail)
    save("a.png", [255])
    film("b.avi", [255])
    for name in ("a.png", "b.avi"):
        code, out, err = predict(capsys, name, "--json")
        assert (code, out, len(err)) == (2, [], 1) and "its weights are damaged" in err[0]


@pytest.mark.parametrize(
    ("name", "box_key", "keys"),
    [("fer", "box", ["box", "emotions"]), ("deepface", "region", ["emotion", "dominant_emotion", "region"])],
)
def test_other_shapes(name: str, box_key: str, keys: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    save("a.png", [255, 204])
    save("b.png", [])
    code, out, err = predict(capsys, "a.png", "b.png", "missing.png", "--format", name)
    results = [json.loads(line) for line in out]
    assert (code, len(results), results[1], results[2]) == (3, 2 + 1, [], None)
    assert [list(face)[: len(keys)] for face in results[0]] == [keys] * 2
    assert box_key in results[0][0]
    assert len(err) == 2 and err[0].startswith("mien: missing.png: cannot be read")
    assert err[1].startswith("mien: 1 of 3 could not be read")


def test_the_shape_of_hugging_face(capsys: pytest.CaptureFixture[str]) -> None:
    save("a.png", [204])
    _, out, _ = predict(capsys, "a.png", "--format", "hf")
    scores = [{"label": "glad", "score": pytest.approx(0.8)}, {"label": "calm", "score": pytest.approx(0.2)}]
    assert json.loads(out[0]) == [scores]


def test_csv(capsys: pytest.CaptureFixture[str]) -> None:
    save("a.png", [255, 204])
    code, out, err = predict(capsys, "a.png", "missing.png", "--csv", "new/faces.csv")
    assert (code, out, len(err)) == (3, ["new/faces.csv: 2 records, 2 faces"], 2)
    assert "could not be read" in err[0] and err[1].startswith("mien: uncertain: 1 of 2 faces")
    with Path("new/faces.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["input"], row["status"], row["label"]) for row in rows] == [
        ("a.png", "ok", "glad"), ("a.png", "ok", "glad"), ("missing.png", "error", ""),
    ]  # fmt: skip
    assert float(rows[1]["probability_calm"]) == pytest.approx(0.2)


def test_a_workbook(capsys: pytest.CaptureFixture[str]) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    save("a.png", [255, 204])
    code, out, err = predict(capsys, "a.png", "missing.png", "--xlsx", "new/faces.xlsx")
    assert (code, out, len(err)) == (3, ["new/faces.xlsx: 2 records, 2 faces"], 2)
    faces = list(openpyxl.load_workbook("new/faces.xlsx")["Faces"].values)
    assert [row[0] for row in faces] == ["input", "a.png", "a.png", "missing.png"]


def test_annotated_copies_never_replace_anything(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a/x.png", "b/x.png", "a/y.gif"):
        save(name, [255])
    Path("a/y.gif").write_bytes(encoded(picture([255]), "GIF"))
    Path("broken.png").write_bytes(b"")
    assert predict(capsys, "a", "b", "broken.png", "--annotate", "marked")[0] == 3
    assert sorted(os.listdir("marked")) == ["x-2.png", "x.png", "y.gif.png"]
    with Image.open("marked/x-2.png") as image:
        assert (image.mode, image.size) == ("RGB", (3 * SIDE, 3 * SIDE))
    originals = {path: path.read_bytes() for path in Path("a").iterdir()}
    assert predict(capsys, "a", "--annotate", "a")[0] == 0
    assert sorted(os.listdir("a")) == ["x-2.png", "x.png", "y.gif", "y.gif.png"]
    assert all(path.read_bytes() == data for path, data in originals.items())


@pytest.mark.parametrize("options", [[], ["--timeout", "60"]])
def test_a_copy_that_cannot_be_written_ends_nothing(capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    """What is too large for its format, as a misnamed file may be, is read; the copies after it are written."""
    for name, width in (("a.webp", 16_384), ("b.jpg", 65_501), ("d.png", 40)):
        Path("mixed").mkdir(exist_ok=True)
        Path("mixed", name).write_bytes(encoded(Image.new("L", (width, 8))))
    wide = [np.zeros((16, 16_400, 3), np.uint8)] * 3
    write(Path("mixed/c.mkv"), wide, "mjpeg", rate=Fraction(10), pixels="yuvj420p")
    if options:  # the second process has no detector of this test
        options += ["--detector", "none"]
    code, out, err = predict(capsys, "mixed", "--json", "--annotate", "marked", *options)
    records = [json.loads(line) for line in out]
    assert [record["input"] for record in records] == [
        "mixed/a.webp",
        "mixed/b.jpg",
        *["mixed/c.mkv"] * 3,
        "mixed/d.png",
    ]
    assert "error" not in [record["status"] for record in records]
    assert (code, os.listdir("marked")) == (3, ["d.png"])
    assert [line.split(" cannot be written as ")[0] for line in err[:3]] == [
        "mien: marked/a.webp: 16384x8 pixels", "mien: marked/b.jpg: 65501x8 pixels", "mien: marked/c.mkv.mp4:",
    ]  # fmt: skip
    assert err[3:4] == ["mien: marked: 1 annotated copy"]


def test_a_film_with_boxes_that_cannot_be_written_leaves_the_former_one(capsys: pytest.CaptureFixture[str]) -> None:
    Path("boxes.mp4").write_text("the former one")
    write(Path("a.mkv"), [np.zeros((16, 16_400, 3), np.uint8)] * 3, "mjpeg", rate=Fraction(10), pixels="yuvj420p")
    save("b.png", [255])
    code, out, err = predict(capsys, "a.mkv", "b.png", "--video-out", "boxes.mp4", "--timeline", "time.png")
    assert (code, len(out)) == (3, 4) and Path("boxes.mp4").read_text() == "the former one"
    assert (
        err[0].startswith("mien: boxes.mp4: cannot be written as a film") and err[1] == "mien: time.png: the timeline"
    )
    assert not any("the film with boxes" in line for line in err)


def test_a_picture_that_cannot_be_drawn_on_ends_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    annotated = draw.annotated

    def scarce(pixels: np.ndarray, faces: Any) -> np.ndarray:
        if len(faces) == 2:
            raise MemoryError
        return annotated(pixels, faces)

    save("a.png", [255, 255])
    save("b.png", [255])
    monkeypatch.setattr(draw, "annotated", scarce)
    code, out, err = predict(capsys, "a.png", "b.png", "--annotate", "marked", "--json")
    assert (code, len(out), os.listdir("marked")) == (3, 2, ["b.png"])
    assert err[0].startswith("mien: marked/a.png: cannot be written, as there is not enough memory to draw")


def test_a_figure_that_found_its_place_taken_ends_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    film("a.avi", [255] * 3)
    save("b.png", [255])
    save_picture = Image.Image.save

    def taken(image: Image.Image, *arguments: Any, **options: Any) -> None:
        Path("time.png").write_text("of another command")
        save_picture(image, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", taken)
    code, out, err = predict(capsys, "a.avi", "b.png", "--timeline", "time.png", "--json")
    assert (code, len(out)) == (3, 4) and "left as it is; the result is in time-2.png" in err[0]
    assert Path("time.png").read_text() == "of another command" and Image.open("time-2.png").format == "PNG"


def test_a_broken_model_keeps_what_it_read_and_the_former_table(
    capsys: pytest.CaptureFixture[str], engine: Mean, monkeypatch: pytest.MonkeyPatch
) -> None:
    film("a.avi", [255] * 24)
    original = engine.read

    def breaking(crops: np.ndarray) -> Any:
        if len(engine.batches) == good:
            raise MienError("m: answers NaN; its weights are damaged")
        return original(crops)

    monkeypatch.setattr(engine, "read", breaking)
    outputs = ["--csv", "a.csv", "--timeline", "a.png", "--video-out", "a.mp4", "--annotate", "marked"]
    good = 2
    code, _, err = predict(capsys, "a.avi", *outputs)
    assert (code, err) == (2, ["mien: error: m: answers NaN; its weights are damaged"])
    assert len(Path("a.csv").read_text().splitlines()) == 17 and Path("a.png").is_file()
    assert frames_of("a.mp4") == frames_of("marked/a.avi") == 16
    former = {name: Path(name).read_bytes() for name in ("a.csv", "a.png", "a.mp4", "marked/a.avi")}
    good = 0
    engine.batches.clear()
    assert predict(capsys, "a.avi", *outputs)[0] == 2
    assert {name: Path(name).read_bytes() for name in former} == former and os.listdir("marked") == ["a.avi"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("step", ["_put", "finish"])
def test_a_film_that_cannot_be_written_on_is_told_and_the_reading_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int, step: str
) -> None:
    film("a.avi", [255] * 8)
    save("b.png", [255])
    original, calls = getattr(writer._Film, step), []

    def failing(*arguments: Any, **options: Any) -> None:
        calls.append(step)
        if step == "finish" or len(calls) > 3:
            av.error.err_check(-number)
        original(*arguments, **options)

    monkeypatch.setattr(writer._Film, step, failing)
    outputs = ["--csv", "a.csv", "--video-out", "a.mp4", "--timeline", "a.png"]
    code, _, err = predict(capsys, "a.avi", "b.png", *outputs)
    assert code == 3 and len(Path("a.csv").read_text().splitlines()) == 10, err
    assert err[0].startswith(f"mien: a.mp4: cannot be written ({os.strerror(number)}); ") and len(err) <= 2, err
    assert not Path("a.mp4").exists() and Path("a.png").is_file()
    assert not [name for name in os.listdir() if name.startswith(".mien")]


def test_the_films_limit_does_not_end_the_reading(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    film("a.avi", [255] * 8)
    limits = iter([None, None, "the quota is used up"])
    monkeypatch.setattr(writer._Film, "limit", lambda film: next(limits))
    code, out, err = predict(capsys, "a.avi", "--json", "--video-out", "a.mp4")
    assert (code, len(out)) == (3, 8) and "a.mp4: cannot be written on, as the quota is used up" in err[0]
    assert frames_of("a.mp4") == 3


def test_a_full_disk_still_ends_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("a.png", "b.png"):
        save(name, [255])
    monkeypatch.setattr(Image.Image, "save", full)
    code, out, err = predict(capsys, "a.png", "b.png", "--annotate", "marked", "--json")
    assert (code, out) == (2, []) and err[-1].startswith("mien: error: marked/a.png: cannot be written (No space left")


def test_the_copies_of_two_commands_do_not_meet(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another command writes under the same name, after this one has found it free."""
    save("a.png", [255])
    film("film.avi", [255] * 3)
    place = Copies.place

    def taken(*arguments: Any, **options: Any) -> Path:
        path = place(*arguments, **options)
        others.append(path)
        return path

    others: list[Path] = []
    annotate = draw.annotated

    def slow(*arguments: Any) -> np.ndarray:
        Path("marked").mkdir(exist_ok=True)
        others[-1].write_text("of another command")
        return annotate(*arguments)

    monkeypatch.setattr(Copies, "place", taken)
    monkeypatch.setattr("mien.recognition.draw.annotated", slow)
    monkeypatch.setattr("mien.recognition.film.writer.annotated", slow)
    code, out, err = predict(capsys, "a.png", "film.avi", "--annotate", "marked")
    assert (code, len(out)) == (0, 4), err
    assert sorted(os.listdir("marked")) == ["a-2.png", "a.png", "film-2.avi", "film.avi"]
    assert {Path("marked", name).read_text() for name in ("a.png", "film.avi")} == {"of another command"}
    assert frames_of("marked/film-2.avi") == 3 and Image.open("marked/a-2.png").size == (3 * SIDE, 3 * SIDE)


def test_a_film_has_a_record_for_every_frame(capsys: pytest.CaptureFixture[str]) -> None:
    film("film.avi", [255, 255, 0, 255])
    save("a.png", [255])
    code, out, err = predict(capsys, "a.png", "film.avi", "a.png", "--json", "--smoothing", "0")
    records = [json.loads(line) for line in out]
    assert (code, err) == (0, [])
    assert [(record["input"], record["frame"]) for record in records] == [
        ("a.png", None), *[("film.avi", frame) for frame in range(4)], ("a.png", None),
    ]  # fmt: skip
    assert [record["time_s"] for record in records[1:5]] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert [record["status"] for record in records[1:5]] == ["ok", "ok", "no_face", "ok"]
    assert [face["id"] for record in records[1:5] for face in record["faces"]] == [0, 0, 0]
    assert "id" not in records[0]["faces"][0]
    _, out, _ = predict(capsys, "film.avi", "--every", "3")
    assert [line.split(":")[0] for line in out] == ["film.avi frame 0 (0.00 s)", "film.avi frame 3 (0.30 s)"]
    assert out[0].startswith("film.avi frame 0 (0.00 s): face 0, glad ")


def frames_of(path: str) -> int:
    return sum(frame.pixels is not None for frame in frames(path))


def test_films_are_written_with_boxes(capsys: pytest.CaptureFixture[str]) -> None:
    film("film.avi", [255] * 6)
    assert predict(capsys, "film.avi", "--video-out", "out/boxes.mp4", "--timeline", "time.png", "--every", "2")[0] == 0
    assert frames_of("out/boxes.mp4") == 3
    with Image.open("time.png") as image:
        assert image.width == 1600
    Path("bad.mp4").write_bytes(b"no film")
    code, out, _ = predict(capsys, "bad.mp4", "film.avi", "--annotate", "marked")
    assert (code, len(out)) == (3, 7)
    assert os.listdir("marked") == ["film.avi"] and frames_of("marked/film.avi") == 6


def test_sound_goes_along_and_can_be_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    film("film.avi", [255] * 10, sound="pcm_s16le", sound_s=1.0)
    code, _, err = predict(capsys, "film.avi", "--video-out", "out.mp4", "--annotate", "marked")
    assert code == 0
    assert err == [
        "mien: out.mp4: its sound (pcm_s16le) was encoded anew as aac, as MP4 does not hold it well",
        "mien: out.mp4: the film with boxes",
        "mien: marked: 1 annotated copy",
    ]
    silent_result = predict(capsys, "film.avi", "--video-out", "silent.mp4", "--no-audio")
    assert silent_result[::2] == (0, ["mien: silent.mp4: the film with boxes"])
    stream_types = {}
    for name in ("out.mp4", "marked/film.avi", "silent.mp4"):
        with av.open(name) as container:
            stream_types[name] = [stream.type for stream in container.streams]
    assert stream_types == {
        "out.mp4": ["video", "audio"],
        "marked/film.avi": ["video", "audio"],
        "silent.mp4": ["video"],
    }


def test_a_folder_is_read_by_content_and_the_last_line_counts_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    film("mixed/film.avi", [255] * 2)
    Path("mixed/film.avi").rename("mixed/film.dat")
    save("mixed/photo.txt.png", [255])
    Path("mixed/photo.txt.png").rename("mixed/photo.txt")
    for name, data in {"notes.md": b"words", "old.zip": b"PK\x03\x04", "more.txt": b"words"}.items():
        Path("mixed", name).write_bytes(data)
    code, out, err = predict(capsys, "mixed", "--json")
    assert [json.loads(line)["input"] for line in out] == ["mixed/film.dat"] * 2 + ["mixed/photo.txt"]
    assert (code, err) == (0, ["mien: skipped 3 files that hold neither a picture nor a film: 2 text, 1 archive"])


def test_few_frames_of_a_long_film_are_written_slowly(capsys: pytest.CaptureFixture[str]) -> None:
    """25 frames a second and each 3,000th: less than the slowest film that can be written."""
    film("film.avi", [255] * 4, rate=25)
    options = ["--every", "3000", "--video-out", "out.mp4", "--annotate", "marked", "--json"]
    code, out, err = predict(capsys, "film.avi", *options)
    assert (code, len(out)) == (0, 1)
    assert err == ["mien: out.mp4: the film with boxes", "mien: marked: 1 annotated copy"]
    assert frames_of("out.mp4") == frames_of("marked/film.avi") == 1


def test_results_in_the_folder_of_copies_are_neither_copies_nor_in_their_way(
    capsys: pytest.CaptureFixture[str],
) -> None:
    film("film.avi", [255] * 3)
    save("figure.png", [255])
    code, out, err = predict(
        capsys, "figure.png", "film.avi", "--annotate", "marked", "--csv", "marked/faces.csv",
        "--timeline", "marked/../marked/figure.png", "--video-out", "marked/film.avi",
    )  # fmt: skip
    assert (code, out[-1], err) == (0, "marked: 2 annotated copies", [])
    assert sorted(os.listdir("marked")) == ["faces.csv", "figure-2.png", "figure.png", "film-2.avi", "film.avi"]
    with Image.open("marked/figure.png") as figure, Image.open("marked/figure-2.png") as copy:
        assert (figure.width, copy.width) == (1600, 3 * SIDE)


def test_the_two_copies_of_a_film_do_not_meet(capsys: pytest.CaptureFixture[str]) -> None:
    film("film.avi", [255] * 3)
    assert predict(capsys, "film.avi", "--annotate", "marked", "--video-out", "marked/film.avi")[0] == 0
    assert {name: frames_of(f"marked/{name}") for name in os.listdir("marked")} == {"film.avi": 3, "film-2.avi": 3}


def test_a_figure_that_cannot_be_written_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise MienError("time.png: cannot be written (No space left on device); free some space")

    monkeypatch.setattr("mien.recognition.film.timeline.Timeline.save", full)
    film("film.avi", [255] * 3)
    save("photo.png", [255])
    code, _, err = predict(capsys, "film.avi", "photo.png", "--timeline", "time.png", "--csv", "rows.csv")
    assert (code, err[0]) == (3, "mien: time.png: cannot be written (No space left on device); free some space")
    assert len(Path("rows.csv").read_text().splitlines()) == 5  # what comes after the film is read as well


def test_no_input_is_written_over(capsys: pytest.CaptureFixture[str]) -> None:
    film("film.avi", [255] * 3)
    save("photo.png", [255])
    photo_bytes = Path("photo.png").read_bytes()
    for words in (["photo.png"], ["."]):
        code, out, err = predict(capsys, "film.avi", *words, "--timeline", "photo.png")
        assert (code, out, len(err)) == (2, [], 1) and Path("photo.png").read_bytes() == photo_bytes
    assert predict(capsys, "photo.png", "--timeline", "other.png")[0] == 2


def test_an_error_is_one_line_whatever_the_name(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a  b\nc.jpg").touch()
    code, _, err = predict(capsys, "a  b\nc.jpg", "--csv", "rows.csv")
    assert code == 3 and len(err) == 1 and "a  b c.jpg: is empty" in err[0]


def test_a_film_that_is_none_leaves_no_figure(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.mp4").write_bytes(b"no film")
    code, out, err = predict(capsys, "bad.mp4", "--timeline", "time.png", "--video-out", "out.mp4")
    assert (code, len(out), err) == (3, 1, []), "the line on stdout says it once"
    assert os.listdir(".") == ["bad.mp4"]


def test_a_camera_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    if Path("/dev/video97").exists():
        pytest.skip("there is a camera 97")
    code, out, _ = predict(capsys, "--camera", "97", "--json")
    (record,) = [json.loads(line) for line in out]
    assert (code, record["input"], record["status"]) == (3, "camera 97", "error")
    assert record["error"].startswith("camera 97: cannot be opened")


def test_a_name_that_is_too_long_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    save("a.png", [255])
    Path("faces.csv").touch()
    names = [300 * "x" + ending for ending in (".png", ".mp4", "")]
    assert predict(capsys, *names, "a.png", "--csv", "faces.csv")[0] == 3
    with open("faces.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["input"], row["status"]) for row in rows] == [*((name, "error") for name in names), ("a.png", "ok")]
    assert all("cannot be read (" in row["error"] for row in rows[:3])
    assert main(["explain", names[0], "a.png", "--out", "explained"]) == 3
    assert main(["explain", names[0], "--out", "a.png"]) == 2
    assert "cannot be read (" in capsys.readouterr().err


def test_a_name_that_stdout_cannot_show(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    save(name, [255])
    save("\u0142.png", [255])
    for encoding in ("utf-8", "ascii"):
        stdout = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stdout)
            assert main(["predict", name, "\u0142.png", "--json"]) == 0
            assert main(["predict", name, "\u0142.png"]) == 0
        lines = stdout.detach().getvalue().decode(encoding).splitlines()
        assert [json.loads(line)["input"] for line in lines[:2]] == [name, "\u0142.png"]
        assert lines[2].startswith("caf\\xe9.png: glad")


@pytest.mark.parametrize("options", [["--json"], ["--format", "hf"]])
def test_an_expression_that_stdout_cannot_show(
    options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mean, "names", ("calm", "fr\xf6h \U0001f600"))
    save("a.png", [255])
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        assert main(["predict", "a.png", *options]) == 0
    answer = json.loads(stdout.detach().getvalue())
    face = answer[0][0] if options[0] == "--format" else answer["faces"][0]
    assert face["label"] == "fr\xf6h \U0001f600"


INTERRUPTED = """
import sys
sys.path[:0] = {paths!r}
from recognition_helpers import Bright, Mean
from mien.cli import main
from mien.recognition import detectors
from mien.recognition import engines
import time
class Slow(Mean):
    def read(self, crops):
        time.sleep(0.02)
        return super().read(crops)
detectors.detector, engines.engine = (lambda *_: Bright()), (lambda *_: Slow())
sys.exit(main(["predict", *sys.argv[1:]]))
"""


@pytest.mark.parametrize("output", ["--json", "--csv"])
def test_ctrl_c_leaves_whole_records(output: str) -> None:
    save("a.png", [255])
    code = INTERRUPTED.format(paths=[str(Path(__file__).parent), str(Path(mien.__file__).parents[1])])
    target = Path("faces.csv" if output == "--csv" else "faces.jsonl")
    arguments = ["a.png"] * 2000 + ["--batch-size", "1", output] + (["faces.csv"] if output == "--csv" else [])
    with (Path("faces.jsonl") if output == "--json" else Path("told")).open("wb") as stdout:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stdout=stdout, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 60
        while not (target.exists() and target.stat().st_size > 2000):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "mien: interrupted\n")
    text = target.read_text()
    assert text.endswith("\n")
    if output == "--json":
        records = [json.loads(line) for line in text.splitlines()]
        assert 0 < len(records) < 2000 and all(record["status"] == "ok" for record in records)
    else:
        rows = list(csv.DictReader(io.StringIO(text)))
        assert 0 < len(rows) < 2000 and all(row["probability_glad"] == "1.0" for row in rows)


@pytest.mark.parametrize("moment", ["reading", "telling"])
def test_ctrl_c_ends_a_film_properly(
    moment: str, capsys: pytest.CaptureFixture[str], engine: Mean, monkeypatch: pytest.MonkeyPatch
) -> None:
    film("film.avi", [255] * 24)
    original_read, written_frames = engine.read, []

    def interrupted(crops: np.ndarray) -> Any:
        if len(engine.batches) == 2:
            raise KeyboardInterrupt
        return original_read(crops)

    def rows(record: Any) -> list[dict[str, Any]]:
        written_frames.append(record.frame)
        if record.frame == 9:
            signal.raise_signal(signal.SIGINT)  # is held back until the row is written
        return [{"input": record.input, "frame": record.frame}]

    if moment == "reading":
        monkeypatch.setattr(engine, "read", interrupted)
    else:
        monkeypatch.setattr("mien.recognition.formats.rows", rows)
    outputs = ["--csv", "film.csv", "--video-out", "out.mp4", "--timeline", "out.png"]
    code, _, err = predict(capsys, "film.avi", *outputs)
    assert (code, err) == (130, ["mien: interrupted"])
    frames = 16 if moment == "reading" else 10  # two batches of 8, or all up to the row that was being written
    assert len(Path("film.csv").read_text().splitlines()) == 1 + frames
    assert frames_of("out.mp4") == frames
    assert sorted(os.listdir(".")) == ["film.avi", "film.csv", "out.mp4", "out.png"]


def test_ctrl_c_waits_for_the_record_that_is_being_written() -> None:
    from mien.cli.signals import ended_by_signals, held

    events = []
    with pytest.raises(KeyboardInterrupt), ended_by_signals():
        with held():
            signal.raise_signal(signal.SIGINT)
            events.append("written")
        events.append("not reached")
    assert events == ["written"]
    with pytest.raises(ValueError, match="full"), ended_by_signals(), held():
        signal.raise_signal(signal.SIGINT)
        raise ValueError("the disk is full")
    with ended_by_signals(), held():
        events.append("not ended by what came before")
    with pytest.raises(KeyboardInterrupt), ended_by_signals():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
