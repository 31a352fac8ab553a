"""The benchmarks of recognition: that they count right and run; no test depends on a time."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recognition_helpers import recognizer

pytest.importorskip("skimage.data")
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

beside_fer: Any = importlib.import_module("beside_fer")
fer_side: Any = importlib.import_module("fer_side")
video: Any = importlib.import_module("video")


def side(seconds: float, faces: int) -> dict[str, Any]:
    return {
        "pictures": {"picture-1-256": {"seconds": seconds, "list_seconds": seconds / 2, "faces": faces}},
        "crops": {"1": seconds / 10, "64": seconds / 100},
    }


def test_the_median_over_the_rounds_counts() -> None:
    record = beside_fer.merged([side(0.03, 1), side(0.01, 1), side(0.02, 1)])
    assert record["pictures"]["picture-1-256"] == {
        "seconds": 0.02,
        "list_seconds": 0.01,
        "faces": 1,
    }
    assert record["crops"] == {"1": pytest.approx(0.002), "64": pytest.approx(0.0002)}


def test_the_table_tells_ratios_and_how_many_faces_there_are() -> None:
    fer, mien = side(0.02, 2), side(0.01, 1)
    record = {
        "pictures": {
            "picture-1-256": {"fer": fer["pictures"]["picture-1-256"], "mien": mien["pictures"]["picture-1-256"]}
        },
        "crops": {"mini": {"1": {"fer": 0.0005, "mien": 0.002}}, "nano": {"1": {"fer": 0.0005, "mien": 0.0005}}},
        "first_answer": {"fer": 3.0, "mien": 1.5},
        "megabytes": {"fer": 8000.0, "mien": 400.0},
    }
    rows = beside_fer.table(record).splitlines()[2:]
    assert rows == [
        "| 256 (2 and 1 faces, 1 there) | 20.0 ms | 10.0 ms | 2.00 |",
        "| 256, a list of 16 | 100.0/s | 200.0/s | 2.00 |",
        "| a crop, 1 at once, mini | 0.500 ms | 2.000 ms | 0.25 |",
        "| a crop, 1 at once, nano | 0.500 ms | 0.500 ms | 1.00 |",
        "| first answer | 3.00 s | 1.50 s | 2.00 |",
        "| install | 8,000 MB | 400 MB | 20.0 |",
    ]


def test_pictures_hold_what_their_names_say() -> None:
    pictures = beside_fer.pictures()
    assert {name: picture.shape for name, picture in pictures.items()} == {
        "picture-1-256": (256, 256, 3), "picture-1-512": (512, 512, 3), "picture-1-1024": (1024, 1024, 3),
        "picture-1-2048": (2048, 2048, 3), "picture-12-collage": (1536, 2048, 3),
    }  # fmt: skip
    assert np.array_equal(pictures["picture-12-collage"][512:1024, 512:1024], pictures["picture-1-512"])


def test_faces_reach_fer_as_its_own_code_prepares_them() -> None:
    crops = np.stack([np.zeros((48, 48), np.uint8), np.full((48, 48), 255, np.uint8)])
    inputs = fer_side.inputs(crops)
    assert (inputs.shape, inputs.dtype) == ((2, 64, 64), np.float32)
    assert inputs[0].min() == inputs[0].max() == -1.0 and inputs[1].min() == inputs[1].max() == 1.0


def test_our_side_counts_and_times_every_picture(tmp_path: Path) -> None:
    white = np.zeros((40, 60, 3), np.uint8)
    white[5:15, 5:15] = 255
    np.save(tmp_path / "picture-1-60.npy", white)
    np.save(tmp_path / "crops.npy", np.zeros((64, 48, 48), np.uint8))
    record = beside_fer.measure_mien(recognizer(), tmp_path, 1)
    assert record["pictures"]["picture-1-60"]["faces"] == 1 and set(record["crops"]) == {"1", "64"}
    assert beside_fer.measure_mien(recognizer(), tmp_path, 1, whole=False)["pictures"] == {}


def test_an_install_is_measured_without_its_links(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to("/usr/bin/env")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "a.so").write_bytes(bytes(2_000_000))
    assert beside_fer.megabytes(tmp_path / "bin" / "python") == pytest.approx(2.0)


def test_the_film_has_as_many_frames_as_it_is_said_to(tmp_path: Path) -> None:
    video.write_film(tmp_path / "film.mp4", 12)
    reader = recognizer()
    records = list(video.FilmRecognition(reader, tmp_path / "film.mp4"))
    assert [record.frame for record in records] == list(range(12))
    assert json.dumps([record.to_dict() for record in records])
