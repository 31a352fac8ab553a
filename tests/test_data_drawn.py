"""Drawn faces: repeatable, balanced, in FER2013's layout, and neither trivial nor hopeless."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mien.data.drawn import EXPRESSIONS, draw_face, draw_faces, write_archive
from mien.data.faces import FaceSet
from mien.data.read import read_faces
from mien.errors import MienError
from mien.labels import FER2013


@pytest.fixture(scope="module")
def faces() -> FaceSet:
    return draw_faces(train=30, validation=9, test=8, seed=5)


@pytest.mark.parametrize("expression", FER2013)
def test_every_expression_is_drawn(expression: str) -> None:
    picture = draw_face(expression, np.random.default_rng(0))
    assert picture.shape == (48, 48)
    assert picture.dtype == np.uint8
    assert picture.std() > 10


def test_the_seven_expressions_move_the_face_differently() -> None:
    assert set(EXPRESSIONS) == set(FER2013)
    assert all(len({len(astuple(form)) for form in forms}) == 1 for forms in EXPRESSIONS.values())
    assert len({astuple(forms[0]) for forms in EXPRESSIONS.values()}) == 7
    same_person = [draw_face(name, np.random.default_rng(3)) for name in ("neutral", "surprise")]
    assert (np.abs(same_person[0].astype(int) - same_person[1]) > 40).sum() > 20


def test_an_alias_draws_the_same_face() -> None:
    assert (draw_face("Happiness", np.random.default_rng(1)) == draw_face("happy", np.random.default_rng(1))).all()


def test_unknown_expression_names_the_seven() -> None:
    with pytest.raises(MienError, match="cannot draw 'contempt'; there is angry, disgust"):
        draw_face("contempt", np.random.default_rng(0))


def test_same_seed_same_set(faces: FaceSet) -> None:
    repeated = draw_faces(train=30, validation=9, test=8, seed=5)
    assert (repeated.images == faces.images).all()
    assert repeated.fingerprint == faces.fingerprint
    assert draw_faces(train=30, validation=9, test=8, seed=6).fingerprint != faces.fingerprint


def test_a_larger_set_holds_the_smaller_one(faces: FaceSet) -> None:
    larger_set = draw_faces(train=40, validation=9, test=20, seed=5)
    position = {name: row for row, name in enumerate(larger_set.ids)}
    rows = [position[name] for name in faces.ids]
    assert (larger_set.images[rows] == faces.images).all()
    assert (larger_set.labels[rows] == faces.labels).all()


def test_shapes_types_and_balance(faces: FaceSet) -> None:
    assert faces.images.shape == (47, 48, 48)
    assert faces.images.dtype == np.uint8
    assert faces.labels.dtype == np.int64
    assert faces.names == FER2013
    assert len(set(faces.ids)) == 47
    assert {split: len(faces.part(split)) for split in ("train", "validation", "test")} == {
        "train": 30,
        "validation": 9,
        "test": 8,
    }
    # 30 = 7 * 4 + 2: the first two classes have one more.
    assert list(faces.part("train").class_counts().values()) == [5, 5, 4, 4, 4, 4, 4]


def test_no_two_pictures_are_equal(faces: FaceSet) -> None:
    assert len({image.tobytes() for image in faces.images}) == len(faces)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": -1}, "train -1"),
        ({"train": 7, "seed": -2}, "seed -2"),
        (
            {"train": 6, "validation": 10, "test": 0},
            "6 training pictures, as another split .*; give at least 7, or none",
        ),
        ({"train": 0, "validation": 0, "test": 0}, "no pictures at all; give at least one"),
    ],
)
def test_impossible_counts_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(MienError, match=message):
        draw_faces(**arguments)


def test_archive_has_the_kaggle_layout(faces: FaceSet, tmp_path: Path) -> None:
    write_archive(tmp_path / "drawn.zip", faces)
    with zipfile.ZipFile(tmp_path / "drawn.zip") as archive:
        members = archive.namelist()
        assert len(members) == 47
        # Numbers run from 1 in each split and the classes take turns: 1 is angry, 4 is happy.
        assert "train/angry/Training_000001.png" in members
        assert "test/happy/PublicTest_000004.png" in members
        assert "test/angry/PrivateTest_000008.png" in members
        first = np.array(Image.open(io.BytesIO(archive.read("train/angry/Training_000001.png"))))
    assert (first == draw_face("angry", np.random.default_rng([5, 0, 0]))).all()


def test_equal_sets_give_equal_bytes(faces: FaceSet, tmp_path: Path) -> None:
    for name in ("one.zip", "two.zip"):
        write_archive(tmp_path / name, faces)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.zip", "two.zip"]


def test_the_archive_reads_back_as_the_same_set(faces: FaceSet, tmp_path: Path) -> None:
    write_archive(tmp_path / "drawn.zip", faces)
    archived = read_faces(tmp_path / "drawn.zip", cache=False)
    assert (archived.images == faces.images).all()
    assert archived.ids.tolist() == faces.ids.tolist()
    assert archived.fingerprint == faces.fingerprint


def test_ids_of_another_set_are_refused(faces: FaceSet, tmp_path: Path) -> None:
    foreign_faces = replace(faces, ids=np.array([f"row {row}" for row in range(len(faces))]))
    with pytest.raises(MienError, match=r"row 0 does not fit test/angry/PrivateTest_\*\.png"):
        write_archive(tmp_path / "drawn.zip", foreign_faces)
    assert list(tmp_path.iterdir()) == []


def test_a_linear_model_sees_something_but_not_enough() -> None:
    from sklearn.linear_model import RidgeClassifier

    drawn_faces = draw_faces(train=700, validation=350, test=0, seed=0)
    train, validation = drawn_faces.part("train"), drawn_faces.part("validation")
    mean, deviation = train.images.mean(0), train.images.std(0)
    pixels, held_out = (((part.images - mean) / deviation).reshape(len(part), -1) for part in (train, validation))
    model = RidgeClassifier(alpha=1e3).fit(pixels, train.labels)
    accuracy = model.score(held_out, validation.labels)
    # Chance is 1/7 with a standard error of 0.019; a small ViT passes 0.8 with enough pictures.
    assert 0.25 < accuracy < 0.58


def test_drawing_needs_no_torch() -> None:
    code = "import sys, mien.data.drawn; assert not {'torch', 'sklearn', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
