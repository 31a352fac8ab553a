"""Formats of other tools, and tables."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from mien.errors import MienError
from mien.recognition.formats import Add, columns, csv_table, deepface, fer, hf, parquet_table, rows
from mien.recognition.results import Face, Recognition

NAMES = ("happy", "sad", "neutral")
HAPPY = Face((10.4, 20.0, 30.6, 40.0), "happy", 0.75, dict(zip(NAMES, (0.75, 0.05, 0.2), strict=True)), False, 7.5)
SAD = Face((1.0, 2.0, 3.0, 4.0), "sad", 0.5, dict(zip(NAMES, (0.25, 0.5, 0.25), strict=True)), None, None, id=3)
TWO = Recognition("photo.jpg", "ok", None, 640, 480, (HAPPY, SAD))
NONE = Recognition("film.mp4", "no_face", None, 64, 48, (), 5, 0.2)
BROKEN = Recognition("broken.jpg", "error", 'broken.jpg: is "no" picture, really')


def test_the_shape_of_fer() -> None:
    assert fer(TWO) == [
        {"box": [10, 20, 31, 40], "emotions": {"happy": 0.75, "sad": 0.05, "neutral": 0.2}},
        {"box": [1, 2, 3, 4], "emotions": {"happy": 0.25, "sad": 0.5, "neutral": 0.25}},
    ]
    assert fer(NONE) == []


def test_the_shape_of_deepface() -> None:
    first, second = deepface(TWO)
    assert first == {
        "emotion": {"happy": 75.0, "sad": 5.0, "neutral": 20.0},
        "dominant_emotion": "happy",
        "region": {"x": 10, "y": 20, "w": 31, "h": 40, "left_eye": None, "right_eye": None},
        "face_confidence": 1.0,
    }
    assert second["face_confidence"] == 0
    assert deepface(NONE) == []


def test_the_shape_of_hugging_face() -> None:
    first, second = hf(TWO)
    assert [answer["label"] for answer in first] == ["happy", "neutral", "sad"]
    assert second[0] == {"label": "sad", "score": 0.5}
    assert hf(NONE) == []


def test_a_row_a_face_and_one_where_there_is_none() -> None:
    first, second = rows(TWO)
    assert (first["input"], first["face"], first["label"], first["box_w"], first["probability_neutral"]) == (
        "photo.jpg", 0, "happy", 30.6, 0.2,
    )  # fmt: skip
    assert (second["face"], second["id"], second["uncertain"], second["detector_score"]) == (1, 3, None, None)
    (faceless_row,) = rows(NONE)
    assert faceless_row == {"input": "film.mp4", "status": "no_face", "error": None, "width": 64, "height": 48,
                            "frame": 5, "time_s": 0.2}  # fmt: skip
    assert set(first) == set(columns(NAMES))


Table = Callable[[Path, tuple[str, ...]], AbstractContextManager[Add]]


@pytest.mark.parametrize("table", [csv_table, parquet_table])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MienError, MemoryError, RuntimeError, GeneratorExit])
def test_every_record_is_left_whatever_ends_the_reading(
    table: Table, error: type[BaseException], tmp_path: Path
) -> None:
    if table is parquet_table:
        parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "faces.table"
    with pytest.raises(error), table(path, NAMES) as add:
        add(TWO)
        add(NONE)
        raise error("stop")
    assert [file.name for file in tmp_path.iterdir()] == ["faces.table"]
    if table is csv_table:
        assert len(path.read_text().splitlines()) == 4
    else:
        assert parquet.read_table(path).num_rows == 3


def test_a_parquet_file_that_cannot_be_written_or_is_empty_replaces_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = pytest.importorskip("pyarrow.parquet").ParquetWriter
    path = tmp_path / "faces.parquet"
    path.write_text("the former one")
    for error in (MienError("the model is broken"), KeyboardInterrupt()):
        with pytest.raises(type(error)), parquet_table(path, NAMES):
            raise error
        assert path.read_text() == "the former one"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("mien.recognition.formats._ROWS_AT_ONCE", 1)
    with pytest.raises(MienError, match=r"cannot be written \(No space left"), parquet_table(path, NAMES) as add:
        add(TWO)
        monkeypatch.setattr(writer, "write_table", full)
        add(TWO)
    assert path.read_text() == "the former one" and list(tmp_path.iterdir()) == [path]


def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("mien.recognition.formats._ROWS_AT_ONCE", 3)
    path = tmp_path / "faces.parquet"
    with parquet_table(path, NAMES) as add:
        for record in (TWO, NONE, BROKEN):
            add(record)
    table = parquet.read_table(path)
    assert table.column_names == columns(NAMES)
    assert parquet.ParquetFile(path).num_row_groups == 2  # written on the way, so that memory stays flat
    first, second, third, fourth = table.to_pylist()
    assert (first["score"], first["uncertain"], first["width"]) == (0.75, False, 640)
    assert (second["uncertain"], second["id"]) == (None, 3)
    assert (third["frame"], third["time_s"], third["label"]) == (5, 0.2, None)
    assert fourth["error"] == BROKEN.error


def test_parquet_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_spec(name: str) -> None:
        assert name == "pyarrow"

    monkeypatch.setattr("mien.recognition.formats.find_spec", find_spec)
    with pytest.raises(MienError, match=r"pyarrow, which is not installed; pip install 'mien\[parquet\]' brings it"):
        parquet_table(tmp_path / "faces.parquet", NAMES).__enter__()
    assert list(tmp_path.iterdir()) == []


def test_every_shape_is_json() -> None:
    shapes: list[Any] = [fer(TWO), deepface(TWO), hf(TWO), TWO.to_dict()]
    assert json.loads(json.dumps(shapes, allow_nan=False)) == shapes


def test_deepface_confidence_is_a_share() -> None:
    scores = (14.65, 0.93, -2.0, None)
    faces = tuple(Face((0, 0, 9, 9), "happy", 0.9, {"happy": 0.9}, detector_score=score) for score in scores)
    shapes = deepface(Recognition("a.png", "ok", None, 20, 20, faces))
    assert [face["face_confidence"] for face in shapes] == [1.0, 0.93, 0.0, 0.0]
