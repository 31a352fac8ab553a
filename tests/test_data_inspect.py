"""The report on a data set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from data_helpers import encode, noise, write_zip

from mien.data.inspect import describe, inspect
from mien.data.read import read_faces


def test_counts_and_warnings(tmp_path: Path) -> None:
    blank = np.full((12, 12), 9, np.uint8)
    members = {
        "train/happy/Training_1.png": noise(1, side=12),
        "train/happy/Training_2.png": noise(2, side=12),
        "train/sad/Training_3.png": noise(1, side=12),
        "train/sad/Training_4.png": blank,
        "test/happy/PublicTest_5.png": noise(2, side=12),
        "test/sad/PublicTest_6.png": noise(6, side=12),
        "test/sad/PrivateTest_7.png": noise(6, side=12) // 2,
    }
    source = write_zip(tmp_path / "archive.zip", {name: encode(pixels) for name, pixels in members.items()})
    report = inspect(read_faces(source, cache=False))
    assert report["splits"] == {
        "train": {"total": 4, "classes": {"happy": 2, "sad": 2}},
        "validation": {"total": 2, "classes": {"happy": 1, "sad": 1}},
        "test": {"total": 1, "classes": {"happy": 0, "sad": 1}},
    }
    assert report["twins"][1] == {"of": "validation", "among": "train", "total": 1, "classes": {"happy": 1, "sad": 0}}
    assert [(row["of"], row["among"]) for row in report["twins"]] == [
        ("train", "train"), ("validation", "train"), ("validation", "validation"), ("test", "train"),
        ("test", "validation"), ("test", "test"),
    ]  # fmt: skip
    counts, *warnings = report["warnings"]
    assert counts.startswith("named as in FER2013, but with other counts: ")
    assert warnings == [
        "2 of 4 train images (50.0 %) are the same photograph as another image of the split; "
        "by class: happy 50 %, sad 50 %",
        "1 of 2 validation images (50.0 %) are the same photograph as an image in train; "
        "by class: happy 100 %, sad 0 %",
        "1 of 1 test images (100.0 %) are the same photograph as an image in validation; by class: sad 100 %",
        "1 picture(s) occur more than once with different labels, the first: "
        "train/happy/Training_1.png happy, train/sad/Training_3.png sad",
        "1 picture(s) are blank, the first is train/sad/Training_4.png",
    ]
    assert json.loads(json.dumps(report)) == report
    lines = describe(report).splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["train", "validation", "test"],
        ["happy", "2", "1", "0"],
        ["sad", "2", "1", "1"],
        ["total", "4", "2", "1"],
    ]
    assert lines[4:] == [f"warning: {warning}" for warning in report["warnings"]]


def test_a_clean_set_has_no_warnings_and_its_report_only_its_own_splits(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "a.zip", {"test/a/1.png": encode(noise(1)), "test/b/2.png": encode(noise(2))})
    report = inspect(read_faces(source, cache=False))
    twins = [{"of": "test", "among": "test", "total": 0, "classes": {"a": 0, "b": 0}}]
    assert report == {"splits": {"test": {"total": 2, "classes": {"a": 1, "b": 1}}}, "twins": twins, "warnings": []}


def test_the_example_of_different_labels_shows_different_labels(tmp_path: Path) -> None:
    members = {f"train/{name}/{row}.png": noise(1) for row, name in enumerate(["a", "a", "a", "a", "b", "c", "c"])}
    source = write_zip(tmp_path / "a.zip", {name: encode(pixels) for name, pixels in members.items()})
    conflicts = [text for text in inspect(read_faces(source, cache=False))["warnings"] if "different labels" in text]
    assert conflicts == [
        "1 picture(s) occur more than once with different labels, the first: "
        "train/a/0.png a, train/b/4.png b, train/c/5.png c"
    ]


@pytest.mark.slow
def test_the_real_archive(
    fer2013: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path_factory.getbasetemp() / "real"))
    report = inspect(read_faces(fer2013))
    assert report["splits"]["train"]["total"] == 28709
    assert report["splits"]["train"]["classes"]["angry"] == 3995
    assert report["splits"]["validation"]["total"] == 3589
    warnings = "\n".join(report["warnings"])
    assert "7,911 of 28,709 train images (27.6 %) are the same photograph as another image of the split" in warnings
    assert "995 of 3,589 validation images (27.7 %) are the same photograph as an image in train" in warnings
    assert "surprise 63 %" in warnings
    example = warnings.split("with different labels, the first: ")[1].splitlines()[0].split(", ")
    assert len({text.split()[1] for text in example}) == len(example) > 1


def test_grey_pictures_among_coloured_ones(tmp_path: Path) -> None:
    pictures = {"happy/1.png": noise(1), "happy/2.png": noise(2, channels=3), "sad/1.png": noise(3, channels=3)}
    source = write_zip(tmp_path / "mixed.zip", {name: encode(pixels) for name, pixels in pictures.items()})
    (warning,) = inspect(read_faces(source, cache=False))["warnings"]
    assert warning.startswith("1 of 3 pictures are grey") and warning.endswith("happy 50 %, sad 0 %")
    for kept in ("happy/1.png", "happy/2.png"):
        alone = write_zip(tmp_path / f"{kept[6]}.zip", {kept: encode(pictures[kept])})
        assert not inspect(read_faces(alone, cache=False))["warnings"]
