"""The film object: an iterator as before, and films, tables and JSON that read the film from its start."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from film_helpers import numbered, write
from recognition_helpers import recognizer

from mien.errors import MienError
from mien.recognition.arguments import WrongTypeError
from mien.recognition.film import records as records_module
from mien.recognition.film.reader import FilmInfo, Frame, film_info, frames
from mien.recognition.film.records import FilmRecognition


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Five frames of 64 px with a bright square, ten a second."""
    path = tmp_path / "film.avi"
    square = np.dstack([np.pad(np.full((32, 32), 255, np.uint8), 16)] * 3)
    write(path, [square] * 5, "mjpeg", rate=10, pixels="yuvj420p")
    return path


def test_it_iterates_once_as_a_generator_does(film: Path) -> None:
    records = recognizer().recognize_film(film, every=2)
    assert isinstance(records, FilmRecognition) and iter(records) is records
    assert next(records).frame == 0 and [record.frame for record in records] == [2, 4]
    assert list(records) == []
    closed_records = recognizer().recognize_film(film)
    next(closed_records)
    closed_records.close()
    assert list(closed_records) == []
    assert repr(records) == f"FilmRecognition({str(film)!r}, every=2, smoothing=0.25)"


@pytest.mark.parametrize(
    ("setting", "value"),
    [("every", 0), ("every", 1.5), ("every", "2"), ("smoothing", -1.0), ("smoothing", math.nan), ("smoothing", "a")],
)
def test_wrong_settings_are_errors_for_users(setting: str, value: Any, film: Path) -> None:
    with pytest.raises(MienError, match=f"{setting}: got {value!r}, expected"):
        recognizer().recognize_film(film, **{setting: value})


def test_arrays_as_arguments_are_errors_for_users(film: Path) -> None:
    array: Any = np.zeros((4, 4), np.uint8)
    with pytest.raises(WrongTypeError, match="source: is a ndarray, expected a film file or the number of a camera"):
        recognizer().recognize_film(array)
    for setting in ("every", "smoothing"):
        with pytest.raises(MienError, match=f"{setting}: got array"):
            recognizer().recognize_film(film, **{setting: array})
    with pytest.raises(MienError, match="patience: got array"):
        next(recognizer().stream([], patience=array))


def test_tables_and_json_read_the_whole_film_whatever_was_read_before(film: Path, tmp_path: Path) -> None:
    records = recognizer().recognize_film(film, every=2)
    next(records)
    rows = list(csv.DictReader(records.to_csv().splitlines()))
    assert [row["frame"] for row in rows] == ["0", "2", "4"] and {row["id"] for row in rows} == {"0"}
    assert records.to_csv(tmp_path / "film.csv") is None and len((tmp_path / "film.csv").read_text().splitlines()) == 4
    assert [record["frame"] for record in json.loads(records.to_json())] == [0, 2, 4]
    pytest.importorskip("pandas")
    table = records.to_df()
    assert table["time_s"].tolist() == pytest.approx([0, 0.2, 0.4]) and "probability_glad" in table
    assert [record.frame for record in records] == [2, 4]  # the iterator goes on where it was


def test_a_film_without_faces_has_the_columns_of_the_model(tmp_path: Path) -> None:
    path = tmp_path / "dark.avi"
    write(path, [np.zeros((64, 64, 3), np.uint8)] * 2, "mjpeg", rate=10, pixels="yuvj420p")
    text = recognizer().recognize_film(path).to_csv()
    assert text.splitlines()[0].endswith("probability_calm,probability_glad") and text.count("no_face") == 2


def test_the_film_with_boxes_has_the_frames_and_the_sound(tmp_path: Path) -> None:
    import av

    path = numbered(tmp_path / "film.mp4", 20, "libx264", sound="aac", sound_s=0.8)
    records = recognizer().recognize_film(path)
    records.write(tmp_path / "marked.mp4", timeline=tmp_path / "film.png")
    assert len(list(frames(tmp_path / "marked.mp4"))) == 20 and (tmp_path / "film.png").is_file()
    assert film_info(tmp_path / "marked.mp4").duration_s == pytest.approx(film_info(path).duration_s or 0, abs=0.01)
    with av.open(str(tmp_path / "marked.mp4")) as marked_film:
        assert marked_film.streams.audio
    records.write(tmp_path / "silent.mp4", audio=False)
    with av.open(str(tmp_path / "silent.mp4")) as silent_film:
        assert not silent_film.streams.audio


def test_boxes_are_drawn_on_the_written_film(film: Path, tmp_path: Path) -> None:
    recognizer().recognize_film(film).write(tmp_path / "marked.avi")
    original, annotated = (next(iter(frames(path))).pixels for path in (film, tmp_path / "marked.avi"))
    assert original is not None and annotated is not None
    assert np.abs(original.astype(int) - annotated).max() > 100


def test_deviations_of_the_written_film_are_logged_as_warnings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = numbered(tmp_path / "film.avi", 10, sound="pcm_s16le", sound_s=0.4)
    with caplog.at_level(logging.WARNING, "mien"):
        recognizer().recognize_film(path).write(tmp_path / "marked.mp4")
    assert "was encoded anew as aac" in caplog.text and {record.name for record in caplog.records} == {"mien"}


def test_the_film_is_not_written_over_and_names_are_checked_first(film: Path, tmp_path: Path) -> None:
    bytes_before = film.read_bytes()
    records = recognizer().recognize_film(film)
    with pytest.raises(MienError, match=r"film\.avi: is the film that is read, and would be written over"):
        records.write(film)
    for write_table in (records.to_csv, records.to_json):
        with pytest.raises(MienError, match=r"film\.avi: is the film that is read, and would be written over"):
            write_table(film)
    with pytest.raises(MienError, match=r"ends in \.mp4 or \.avi"):
        records.write(tmp_path / "marked.gif")
    assert film.read_bytes() == bytes_before
    with pytest.raises(MienError, match=r"missing\.mp4"):
        recognizer().recognize_film(tmp_path / "missing.mp4").write(tmp_path / "marked.mp4")
    assert not (tmp_path / "marked.mp4").exists()
    (tmp_path / "marked.mp4").write_text("an earlier one")
    with pytest.raises(MienError, match=r"missing\.mp4: cannot be read"):
        recognizer().recognize_film(tmp_path / "missing.mp4").write(tmp_path / "marked.mp4")
    assert (tmp_path / "marked.mp4").read_text() == "an earlier one"


def test_the_timeline_is_checked_before_the_film_is_read(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object) -> Iterator[Frame]:
        raise AssertionError("the film is read")
        yield

    monkeypatch.setattr(records_module, "frames", read)
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    for name, message in (
        ("film.txt", r"one that ends in \.png"), ("file/film.png", "is in its way"), ("folder.png", "is a folder"),
    ):  # fmt: skip
        with pytest.raises(MienError, match=message):
            recognizer().recognize_film(film).write(tmp_path / "marked.mp4", timeline=tmp_path / name)
    assert not (tmp_path / "marked.mp4").exists()


def test_a_film_and_its_timeline_hold_what_was_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    info = FilmInfo(25.0)
    monkeypatch.setattr("mien.recognition.film.reader.film_info", lambda _: info)
    with pytest.raises(MienError, match="unplugged"):
        stopped(monkeypatch, MienError("unplugged"), 11).write(tmp_path / "a.mp4", timeline=tmp_path / "a.png")
    assert len(list(frames(tmp_path / "a.mp4"))) == 11 and (tmp_path / "a.png").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"a.mp4", "a.png"}
    film = stopped(monkeypatch, MienError("damaged"), 11, tmp_path / "film.mp4")  # a batch has 8 frames
    with pytest.raises(MienError, match="damaged"):
        film.write(tmp_path / "b.mp4", audio=False)
    assert len(list(frames(tmp_path / "b.mp4"))) == 11


def stopped(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, pictures: int = 2, source: Any = 0
) -> FilmRecognition:
    """A camera (or film) of a bright square that ends with an error after some pictures."""

    def fake_frames(*_: object) -> Iterator[Frame]:
        square = np.dstack([np.pad(np.full((32, 32), 255, np.uint8), 16)] * 3)
        yield from (Frame(index, index / 10, square) for index in range(pictures))
        raise error

    monkeypatch.setattr(records_module, "frames", fake_frames)
    return FilmRecognition(recognizer(), source)


def test_a_table_of_a_camera_is_what_was_read_until_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = stopped(monkeypatch, KeyboardInterrupt())
    assert [row["frame"] for row in camera.to_rows()] == [0, 1]
    assert [record["frame"] for record in json.loads(camera.to_json())] == [0, 1]
    assert [row["frame"] for row in csv.DictReader(camera.to_csv().splitlines())] == ["0", "1"]
    pytest.importorskip("pandas")
    assert camera.to_df()["frame"].tolist() == [0, 1]


@pytest.mark.parametrize("read", ["to_rows", "to_df", "to_csv", "to_json"])
def test_what_ends_a_film_or_breaks_a_camera_is_raised(read: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if read == "to_df":
        pytest.importorskip("pandas")
    with pytest.raises(KeyboardInterrupt):
        getattr(stopped(monkeypatch, KeyboardInterrupt(), 9, Path("film.mp4")), read)()
    with pytest.raises(MienError, match="unplugged"):
        getattr(stopped(monkeypatch, MienError("unplugged")), read)()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MienError("unplugged")])
def test_files_hold_what_was_read_until_the_end(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    camera = stopped(monkeypatch, error)
    for name in ("a.json", "a.jsonl", "a.csv"):
        with pytest.raises(type(error)):
            (camera.to_csv if name == "a.csv" else camera.to_json)(tmp_path / name)
    array, lines = ((tmp_path / name).read_text("utf-8") for name in ("a.json", "a.jsonl"))
    assert array.endswith("]\n") and [record["frame"] for record in json.loads(array)] == [0, 1]
    assert lines.endswith("}\n") and [json.loads(line)["frame"] for line in lines.splitlines()] == [0, 1]
    assert len((tmp_path / "a.csv").read_text("utf-8").splitlines()) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "a.jsonl", "a.csv"}


def test_without_a_record_an_error_leaves_the_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("earlier")
    with pytest.raises(MienError, match="unplugged"):
        stopped(monkeypatch, MienError("unplugged"), 0).to_csv(path)
    assert path.read_text() == "earlier"


def test_without_a_record_what_ends_the_reading_leaves_the_file_and_ctrl_c_an_empty_array_if_there_was_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    path.write_text("earlier")
    with pytest.raises(MienError, match="unplugged"):
        stopped(monkeypatch, MienError("unplugged"), 0).to_json(path)
    assert path.read_text() == "earlier"
    with pytest.raises(KeyboardInterrupt):
        stopped(monkeypatch, KeyboardInterrupt(), 0).to_json(path)
    assert path.read_text() == "earlier"
    path.unlink()
    with pytest.raises(KeyboardInterrupt):
        stopped(monkeypatch, KeyboardInterrupt(), 0).to_json(path)
    assert json.loads(path.read_text()) == []
