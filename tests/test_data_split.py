"""Cutting validation from training keeps twins together and classes in proportion."""

from __future__ import annotations

import numpy as np
import pytest

from mien.data.faces import FaceSet
from mien.data.twins import cut_validation, groups, has_twin
from mien.errors import MienError


def faces_of(images: np.ndarray, labels: list[int], split: str = "train") -> FaceSet:
    count = len(images)
    return FaceSet(
        images=images.astype(np.uint8),
        labels=np.array(labels, np.int64),
        splits=np.array([split] * count),
        ids=np.array([f"row {row}" for row in range(count)]),
        names=tuple("abc"[: max(labels) + 1]),
        source="faces.zip",
        fingerprint="f" * 64,
    )


def different(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 12, 12))


def test_each_class_gives_its_share() -> None:
    faces = faces_of(different(100), [0] * 60 + [1] * 30 + [2] * 10)
    cut = cut_validation(faces, 0.1, seed=3)
    assert cut.part("validation").class_counts() == {"a": 6, "b": 3, "c": 1}
    assert cut.part("train").class_counts() == {"a": 54, "b": 27, "c": 9}
    assert (cut.images == faces.images).all() and cut.fingerprint == faces.fingerprint
    assert not faces.has("validation")


def test_the_seed_decides() -> None:
    faces = faces_of(different(100), [0] * 50 + [1] * 50)
    first, again, other = (cut_validation(faces, 0.2, seed).splits.tolist() for seed in (1, 1, 2))
    assert first == again and first != other


def test_twins_stay_together() -> None:
    base = different(40)
    images = np.concatenate([base, base[:30] // 2 + 20, base[:10]])
    labels = [0, 1] * 20 + [0, 1] * 15 + [1, 0] * 5
    faces = faces_of(images, labels)
    group = groups(faces.images)
    assert group.max() + 1 == 40
    for seed in range(10):
        cut = cut_validation(faces, 0.25, seed)
        inside = cut.splits == "validation"
        assert not has_twin(cut.images[inside], cut.images[~inside]).any()
        counts = cut.part("validation").class_counts()
        assert all(abs(count - 10) <= 1 for count in counts.values())


def test_groups_come_to_both_sides_in_the_same_proportion() -> None:
    base = different(1000)
    faces = faces_of(np.concatenate([base, base[:200]]), [0] * 1200)
    cut = cut_validation(faces, 0.5, seed=0)
    inside = (cut.splits == "validation")[:200]
    assert 70 <= inside.sum() <= 130


def test_a_class_of_large_groups_alone_gives_its_smallest() -> None:
    large = np.repeat(different(3, seed=5), [4, 3, 4], axis=0)
    faces = faces_of(np.concatenate([different(50), large]), [0] * 50 + [1] * 11)
    cut = cut_validation(faces, 0.1, seed=0)
    assert cut.part("validation").class_counts() == {"a": 5, "b": 3}


def test_other_splits_are_left_alone() -> None:
    train, test = faces_of(different(20), [0] * 20), faces_of(different(5, seed=1), [0] * 5, "test")
    both = faces_of(np.concatenate([train.images, test.images]), [0] * 25)
    both = FaceSet(**{**vars(both), "splits": np.concatenate([train.splits, test.splits])})
    cut = cut_validation(both, 0.1, seed=0)
    assert [len(cut.part(split)) for split in ("train", "validation", "test")] == [18, 2, 5]


@pytest.mark.parametrize(
    ("images", "labels"),
    [(different(11), [0] * 10 + [1]), (np.concatenate([different(10), np.zeros((3, 12, 12))]), [0] * 10 + [1] * 3)],
)
def test_a_class_that_cannot_be_on_both_sides(images: np.ndarray, labels: list[int]) -> None:
    with pytest.raises(
        MienError, match=r"faces\.zip: class b has \d training image\(s\), too few .* give a val/ folder"
    ):
        cut_validation(faces_of(images, labels), 0.1, seed=0)


def test_what_cannot_be_cut() -> None:
    faces = faces_of(different(10), [0] * 10)
    with pytest.raises(MienError, match="has a validation split already"):
        cut_validation(cut_validation(faces, 0.1, 0), 0.1, 0)
    with pytest.raises(MienError, match="has no train split"):
        cut_validation(faces_of(different(3), [0] * 3, "test"), 0.1, 0)
    with pytest.raises(MienError, match=r"got 1\.0, expected a share between 0 and 1"):
        cut_validation(faces, 1.0, 0)
