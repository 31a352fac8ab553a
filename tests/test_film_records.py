"""Records of films: one a frame, steady ids and memory, whatever the batches."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from film_helpers import HEIGHT, WIDTH, damage, number_of, numbered, picture, write

from mien.recognition.engine import Answers
from mien.recognition.film import reader
from mien.recognition.film.records import FilmRecognition
from mien.recognition.results import Face, Recognition

NAMES = ("happy", "sad")


class Network:
    """What of an engine the reading of films asks for."""

    names, image_size, grey, threshold, stated_accuracy = NAMES, 20, False, 0.6, 0.8

    def read(self, crops: np.ndarray) -> Answers:
        raise AssertionError("the recognizer reads")


class RedSquares:
    """Finds the red square of a frame; it is happy in even frames and sad in odd ones."""

    def __init__(self) -> None:
        self.engine = Network()
        self.batches: list[int] = []

    def recognize(self, pictures: list[Any], color: str | None = None) -> list[Recognition]:
        assert color == "rgb"
        self.batches.append(len(pictures))
        return [self._read(pixels, index) for index, pixels in enumerate(pictures)]

    def _read(self, pixels: np.ndarray, index: int) -> Recognition:
        red = (pixels[10:, :, 0] > 180) & (pixels[10:, :, 2] < 80)
        if red.sum() < 200:
            return Recognition(f"picture {index}", "no_face", width=WIDTH, height=HEIGHT, pixels=pixels)
        rows, columns = np.nonzero(red)
        box = (float(columns.min()), float(rows.min() + 10), float(np.ptp(columns) + 1), float(np.ptp(rows) + 1))
        happy = 1.0 if number_of(pixels) % 2 == 0 else 0.0
        label = "happy" if happy else "sad"
        face = Face(box, label, 1.0, {"happy": happy, "sad": 1 - happy}, False, 7.0)
        return Recognition(f"picture {index}", "ok", width=WIDTH, height=HEIGHT, faces=(face,), pixels=pixels)


class Quick(RedSquares):
    """Finds the same face in every frame."""

    def _read(self, pixels: np.ndarray, index: int) -> Recognition:
        face = Face((20.0, 20.0, 30.0, 30.0), "sad", 0.9, {"happy": 0.1, "sad": 0.9}, False)
        return Recognition(f"picture {index}", "ok", faces=(face,), pixels=pixels)


def test_frames_of_a_camera_are_read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg's own test pattern stands in for a camera."""
    pattern = "testsrc2=size=96x64:rate=25:duration=0.12"
    monkeypatch.setattr(reader, "_CAMERA_PAUSE_S", 0.0)
    monkeypatch.setattr(reader, "_device", lambda number: (pattern, "lavfi", {}))
    recognizer = Quick()
    records = list(FilmRecognition(recognizer, 0))
    assert recognizer.batches == [1, 1, 1]
    assert {record.input for record in records} == {"camera 0"}
    assert [record.status for record in records] == ["ok", "ok", "ok", "error"]


def test_every_frame_has_its_record(tmp_path: Path) -> None:
    path, recognizer = numbered(tmp_path / "film.mp4", 20), RedSquares()
    records = list(FilmRecognition(recognizer, path, smoothing=0))
    assert recognizer.batches == [8, 8, 4]
    assert [record.frame for record in records] == list(range(20))
    assert [record.time_s for record in records] == pytest.approx([index / 25 for index in range(20)])
    assert {(record.input, record.status, record.width, record.height) for record in records} == {
        (str(path), "ok", WIDTH, HEIGHT)
    }
    assert [record.faces[0].label for record in records] == ["happy", "sad"] * 10
    assert {record.faces[0].id for record in records} == {0} and records[0].pixels is None
    for index, record in enumerate(records):
        assert record.faces[0].box[0] == pytest.approx(index, abs=3)


def test_an_error_of_a_frame_is_that_of_the_film(tmp_path: Path) -> None:
    class Failing(RedSquares):
        def _read(self, pixels: np.ndarray, index: int) -> Recognition:
            return Recognition(f"picture {index}", "error", f"picture {index}: needs more memory")

    (record,) = FilmRecognition(Failing(), numbered(tmp_path / "film.mp4", 1))
    assert (record.input, record.error) == (str(tmp_path / "film.mp4"), "needs more memory")


def test_batches_change_nothing(tmp_path: Path) -> None:
    path = numbered(tmp_path / "film.mp4", 20)
    single_records, batch_records = (list(FilmRecognition(RedSquares(), path, batch=batch)) for batch in (1, 20))
    assert single_records == batch_records


def test_smoothing_and_threshold(tmp_path: Path) -> None:
    records = list(FilmRecognition(RedSquares(), numbered(tmp_path / "film.mp4", 3), smoothing=0.25))
    former_weight = float(np.exp(-0.04 / 0.25))
    happy = [1.0, former_weight, former_weight**2 + 1 - former_weight]
    assert [record.faces[0].probabilities["happy"] for record in records] == pytest.approx(happy)
    assert records[1].faces[0].label == "happy" and not records[1].faces[0].uncertain


def test_damaged_frames_are_records_and_the_face_keeps_its_id(tmp_path: Path) -> None:
    path = damage(numbered(tmp_path / "film.mp4", 80), 30, 4)
    records = list(FilmRecognition(RedSquares(), path, keep_pixels=True))
    assert [record.frame for record in records] == list(range(80))
    lost_records = [record for record in records if record.status == "error"]
    assert lost_records and all(record.error and record.pixels is None and not record.faces for record in lost_records)
    assert all(record.pixels is not None for record in records if record.status != "error")
    assert (
        lost_records[0].to_dict()["frame"] == lost_records[0].frame
        and lost_records[0].to_dict()["error"] == lost_records[0].error
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch: expected at least 1"),
        ({"every": 0}, "every:"),
        ({"smoothing": -1}, "smoothing:"),
    ],
)
def test_wrong_settings_are_refused_at_once(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        FilmRecognition(RedSquares(), numbered(tmp_path / "film.mp4", 1), **options)


def test_memory_does_not_grow_with_the_film(tmp_path: Path) -> None:
    path, count = tmp_path / "film.avi", 2000
    pictures = [picture(number) for number in range(20)]
    write(path, (pictures[number % 20] for number in range(count)), "mjpeg", pixels="yuvj420p")
    held_bytes, peaks = [], []
    tracemalloc.start()
    try:
        for record in FilmRecognition(Quick(), path):
            if record.frame in (499, count - 1):
                current, peak = tracemalloc.get_traced_memory()
                held_bytes.append(current)
                peaks.append(peak)
                tracemalloc.reset_peak()
    finally:
        tracemalloc.stop()
    assert record.frame == count - 1 and record.time_s == pytest.approx((count - 1) / 25)
    # A batch may be held at one time and not at the other; 1,500 frames would be 28 MB.
    assert abs(held_bytes[1] - held_bytes[0]) < 10 * WIDTH * HEIGHT * 3
    assert peaks[1] < peaks[0] + 10 * WIDTH * HEIGHT * 3
