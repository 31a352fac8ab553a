"""The benchmarks of detection: that composites hold what they say, and that the counts are right."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mien.data.drawn import draw_faces, write_archive
from mien.recognition.detection import Detection, overlap

pytest.importorskip("skimage.data")
FOLDER = Path(__file__).parents[1] / "benchmarks"


def load(name: str) -> ModuleType:
    """A script of benchmarks/ as a module; they import each other by name."""
    import importlib

    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))


pytest.importorskip("cv2")  # draws the scenes; the package with YuNet's weights brings one
scenes, detectors, framing, limits = (load(name) for name in ("scenes", "detectors", "framing", "limits"))


class Whole:
    """Finds a box of a known place in every picture of 240 px, whose face fills the middle 120."""

    name, margin = "whole", 0.0

    def detect(self, picture: np.ndarray) -> list[Detection]:
        assert picture.shape == (240, 240)
        return [Detection((72.0, 84.0, 96.0, 96.0), 1.0)]


def test_composites_are_the_same_for_the_same_seed_and_hold_their_faces() -> None:
    faces = np.full((20, 48, 48), 255, np.uint8)
    drawn = scenes.scenes(faces, 8, seed=3)
    redrawn = scenes.scenes(faces, 8, seed=3)
    assert all(np.array_equal(first.pixels, second.pixels) for first, second in zip(drawn, redrawn, strict=True))
    assert [scene.kind for scene in drawn].count("portrait") == 2
    for scene in drawn:
        height, width = scene.pixels.shape[:2]
        for face in scene.faces:
            left, top, side, _ = face.box
            assert left >= 0 and top >= 0 and left + side <= width and top + side <= height
            assert abs(face.tilt) <= 20
            if scene.kind == "composite":
                assert 40 <= side <= 400
                assert scene.pixels[int(top + side / 2), int(left + side / 2)].tolist() == [255, 255, 255]


def test_faces_of_a_composite_do_not_overlap() -> None:
    generator = np.random.default_rng(0)
    scene = scenes.composite([np.zeros((48, 48), np.uint8)] * 6, np.zeros((600, 800, 3), np.uint8), generator)
    boxes = [face.box for face in scene.faces]
    assert len(boxes) >= 2
    assert not any(overlap(box, earlier_box) for row, box in enumerate(boxes) for earlier_box in boxes[:row])


def test_a_collage_holds_a_face_a_cell() -> None:
    scene = scenes.collage(100)
    assert scene.pixels.shape == (300, 400, 3)
    assert {(int(face.box[0] // 100), int(face.box[1] // 100)) for face in scene.faces} == {
        (column, row) for column in range(4) for row in range(3)
    }


def test_a_box_counts_once_and_what_is_left_is_wrong() -> None:
    truths = (scenes.Truth((0, 0, 10, 10), 0.0), scenes.Truth((100, 0, 10, 10), 0.0))
    scene = scenes.Scene(np.zeros((20, 120, 3), np.uint8), truths, "composite")
    # The second overlaps by a half of a union of 15: 1/3, too little beside the first; the third is nowhere.
    hits, wrong_boxes = detectors.matches(scene, [(0, 0, 10, 10), (5, 0, 10, 10), (50, 0, 10, 10)])
    assert (hits, wrong_boxes) == ([True, False], 2)
    record = detectors.score([scene], lambda picture: [(0, 0, 10, 10), (50, 0, 10, 10)])
    assert (record["precision"], record["kinds"]) == (0.5, {"composite": [1, 2]})
    assert detectors.score([scene], lambda picture: [])["precision"] is None


def test_the_margin_is_that_of_boxes_at_known_places() -> None:
    measures = framing.boxes(np.zeros((5, 48, 48), np.uint8), Whole(), 120)
    # A side of 96 in a frame of 120; centres agree across (120), and lie 12 px lower than the frame's (120).
    assert measures == pytest.approx(np.tile([0.8, 0.0, 0.1], (5, 1)))
    intervals = framing.framing(measures)
    assert intervals["margin"] == pytest.approx([0.125] * 3)
    assert intervals["right"] == pytest.approx([0.0] * 3) and intervals["down"] == pytest.approx([-0.125] * 3)


def test_the_table_has_both_detectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_archive(tmp_path / "drawn.zip", draw_faces(14, 14, 14, seed=0))
    if not hasattr(pytest.importorskip("cv2"), "CascadeClassifier"):
        pytest.skip("fer's detector needs OpenCV 4")
    options = ["--data", str(tmp_path / "drawn.zip"), "--scenes", "4"]
    monkeypatch.setattr(sys, "argv", ["detectors.py", *options])
    detectors.main()
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(record["results"]) == {"yunet", "fer"}
    assert record["results"]["yunet"]["kinds"]["portrait"] == [1, 1]


def test_fer_can_be_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_archive(tmp_path / "drawn.zip", draw_faces(14, 14, 14, seed=0))
    options = ["--data", str(tmp_path / "drawn.zip"), "--scenes", "4", "--without-fer"]
    monkeypatch.setattr(sys, "argv", ["detectors.py", *options])
    detectors.main()
    assert set(json.loads(capsys.readouterr().out.splitlines()[-1])["results"]) == {"yunet"}


def test_the_limits_are_counted_right() -> None:
    class Everywhere:
        """Finds a face in the whole picture, and nothing else."""

        name, margin = "everywhere", 0.0

        def detect(self, picture: np.ndarray) -> list[Detection]:
            height, width = picture.shape[:2]
            return [Detection((0, 0, width, height), None)]

    generator = np.random.default_rng(0)
    assert limits.share(lambda source: source.random() < 2, 3, 0) == 1
    assert not limits.small(Everywhere(), 24, (480, 640), False, generator)
    assert not limits.tilted(Everywhere(), 30, generator)
    assert limits.hit(Everywhere(), np.zeros((50, 50, 3), np.uint8), (5, 5, 40, 40))
    for mirrored in (False, True):
        pixels, (left, _, side, _) = limits.portrait(38, 0, mirrored)
        assert pixels.shape == (200, 200, 3) and side == pytest.approx(38)
        assert (left + side / 2) / 200 == pytest.approx(0.561 if mirrored else 0.439)


def test_the_smallest_and_the_cut_off_faces_that_the_readme_names_are_found() -> None:
    from mien.recognition.detectors import YuNet

    generator = np.random.default_rng(1)
    assert limits.small(YuNet(), 24, (900, 1300), False, generator)
    assert limits.cut(YuNet(), 0.2, generator)
