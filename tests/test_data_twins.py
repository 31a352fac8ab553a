"""Twins (cropped, tilted, watermarked), what is no twin, the real archive; and the cut that keeps twins together."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from data_helpers import noise
from PIL import Image, ImageDraw

from mien.data import twins as module
from mien.data.alignment import aligned_correlation
from mien.data.faces import FaceSet
from mien.data.read import read_faces
from mien.data.twins import (
    candidates,
    cell_sums,
    comparable,
    cut_validation,
    groups,
    has_twin,
    twin_pairs,
)
from mien.errors import MienError


def photographs(count: int, seed: int = 0, side: int = 96) -> list[Image.Image]:
    """Different smooth pictures with the detail that a photograph has: noise at several sizes."""
    generator = np.random.default_rng(seed)
    pictures = []
    for _ in range(count):
        pixels = np.zeros((side, side))
        for cells in (3, 6, 12, 24):
            layer = Image.fromarray(generator.normal(0, 1, (cells, cells)).astype(np.float32))
            pixels += np.asarray(layer.resize((side, side), Image.Resampling.BICUBIC)) / cells**0.5
        pixels = 128 + 45 * pixels / pixels.std()
        pictures.append(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)))
    return pictures


def crop(picture: Image.Image, left: float = 12, top: float = 12, side: float = 72, tilt: float = 0) -> np.ndarray:
    """uint8 [48, 48] of a square of the picture, in pixels and degrees."""
    rotated = picture.rotate(tilt, Image.Resampling.BICUBIC)
    box = (left, top, left + side, top + side)
    return np.asarray(rotated.resize((48, 48), Image.Resampling.BOX, box=box))


def watermarked(pixels: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(pixels)
    ImageDraw.Draw(picture).text((4, 20), "stock", fill=180)
    return np.asarray(picture)


CHANGES = {
    "shifted": {"left": 17, "top": 9},
    "zoomed in": {"left": 18, "top": 16, "side": 62},
    "zoomed out": {"left": 4, "top": 6, "side": 86},
    "tilted": {"tilt": 4},
    "all of it": {"left": 9, "top": 15, "side": 78, "tilt": -2},
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_crop_of_a_photograph_is_its_twin(change: str) -> None:
    pictures = photographs(30)
    crops = np.stack([crop(picture) for picture in pictures])
    changed_crops = np.stack([crop(picture, **CHANGES[change]) for picture in pictures])
    pairs = twin_pairs(changed_crops, crops)
    assert pairs.tolist() == [[row, row] for row in range(30)]
    # Thumbnails alone, as they lie, would not have shown it.
    plain_correlations = [
        np.corrcoef(a.reshape(-1), b.reshape(-1))[0, 1] for a, b in zip(crops, changed_crops, strict=True)
    ]
    assert np.mean(plain_correlations) < 0.96


def test_light_contrast_and_a_watermark_do_not_matter() -> None:
    base = np.stack([crop(picture) for picture in photographs(10)])
    assert has_twin(base // 2 + 60, base).all()
    assert has_twin(np.stack([watermarked(pixels) for pixels in base]), base).sum() >= 8


def test_other_photographs_are_no_twins() -> None:
    base, different_photographs = (np.stack([crop(picture) for picture in photographs(150, seed)]) for seed in (0, 1))
    assert not has_twin(different_photographs, base).any() and len(twin_pairs(base)) == 0
    assert not has_twin(base[:, :, ::-1], base).any(), "a mirror image is another picture"


def test_correlation_is_the_same_both_ways_and_one_of_a_picture_with_itself() -> None:
    pictures = photographs(8)
    crops = np.stack([crop(picture) for picture in pictures])
    changed_crops = np.stack([crop(picture, **CHANGES["all of it"]) for picture in pictures])
    assert aligned_correlation(crops, crops) == pytest.approx(np.ones(8))
    assert (aligned_correlation(crops, changed_crops) == aligned_correlation(changed_crops, crops)).all()
    assert (aligned_correlation(crops, changed_crops) > 0.97).all()


def test_the_answer_is_made_of_whole_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inner products of descriptors are exact in float32, so that no machine adds them up otherwise."""
    pictures = np.stack([crop(picture) for picture in photographs(40)])
    descriptors = module._descriptors(pictures, (4, 4, 40))
    assert (descriptors == np.rint(descriptors)).all()
    exact_products = descriptors.astype(np.int64) @ descriptors.astype(np.int64).T
    assert (descriptors @ descriptors.T == exact_products).all() and exact_products.max() < 2**24
    values = aligned_correlation(pictures[:20], pictures[20:])
    assert (values == aligned_correlation(pictures[:20], pictures[20:])).all()
    single_values = np.concatenate(
        [aligned_correlation(pictures[i : i + 1], pictures[20 + i : 21 + i]) for i in range(20)]
    )
    assert (values == single_values).all(), "neighbours in a block do not matter"


def test_pictures_are_compared_at_48_pixels_in_grey() -> None:
    colour = noise(3, side=48, channels=3)
    assert (comparable(colour[None])[0] == np.asarray(Image.fromarray(colour).convert("L"))).all()
    large = np.asarray(photographs(1)[0])
    means = large.reshape(48, 2, 48, 2).astype(int).sum(axis=(1, 3))
    assert (comparable(large[None])[0] == (means + 2) // 4).all(), "halves go up"
    assert (comparable(np.full((1, 100, 100), 201, np.uint8)) == 201).all()
    small = noise(1, side=12)
    assert (comparable(small[None])[0] == np.repeat(np.repeat(small, 4, axis=0), 4, axis=1)).all()


def test_blank_pictures_are_twins_of_blank_pictures_alone() -> None:
    images = np.stack([np.full((12, 12), 0), np.full((12, 12), 200), noise(1, side=12), np.full((12, 12), 7)])
    images = images.astype(np.uint8)
    assert twin_pairs(images).tolist() == [[0, 1], [0, 3]]
    assert groups(images).tolist() == [0, 0, 1, 0]
    assert has_twin(images, images[1:2]).tolist() == [True, True, False, True]
    assert has_twin(images[2:3], images[:2]).tolist() == [False]


def test_nothing_has_no_twins() -> None:
    no_pictures, one_picture = np.empty((0, 12, 12), np.uint8), noise(1, side=12)[None]
    assert has_twin(one_picture, no_pictures).tolist() == [False] and has_twin(no_pictures, one_picture).tolist() == []
    assert twin_pairs(no_pictures).shape == (0, 2) and groups(no_pictures).tolist() == []


def test_groups_are_chains_of_twins_numbered_by_their_first_member() -> None:
    first, second = photographs(2)
    chain = [crop(first, left=left, side=60) for left in (2, 10, 18, 26, 34)]
    images = np.stack([noise(9, side=48), chain[4], crop(second), chain[0], chain[2], noise(9, side=48), chain[1],
                       chain[3]])  # fmt: skip
    assert not has_twin(chain[0][None], chain[4][None]).any(), "the ends have too little in common"
    assert groups(images).tolist() == [0, 1, 2, 1, 1, 0, 1, 1]


def test_many_copies_do_not_hide_a_twin() -> None:
    picture, *other_pictures = photographs(12)
    copies = [crop(picture)] * 20
    images = np.stack(
        [*copies, crop(picture, **CHANGES["shifted"]), *(crop(photograph) for photograph in other_pictures)]
    )
    assert groups(images).tolist() == [0] * 21 + list(range(1, 12))


def test_pairs_are_found_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS", 7)
    monkeypatch.setattr(module, "_PAIRS", 3)
    pictures = photographs(40)
    images = np.stack([*(crop(picture) for picture in pictures), crop(pictures[3], **CHANGES["shifted"])])
    images[31] = images[12]
    assert twin_pairs(images).tolist() == [[3, 40], [12, 31]]


def test_memory_does_not_grow_with_the_pictures_that_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """All in float64, and 256 rows of the search for each of eight threads, are 6 and 11 GB for 450,000 pictures."""
    images = np.stack([*(crop(picture) for picture in photographs(40)), crop(photographs(40)[3], **CHANGES["shifted"])])
    sizes = list[int]()

    def described(pictures: np.ndarray, view: tuple[int, int, int]) -> np.ndarray:
        sizes.append(len(pictures))
        return descriptors(pictures, view)

    descriptors = module._descriptors
    monkeypatch.setattr(module, "_descriptors", described)
    monkeypatch.setattr(module, "_LARGEST_BLOCK", 41 * 5)
    assert twin_pairs(images).tolist() == [[3, 40]]
    assert sizes[0] == 41 and max(sizes[1:]) == 5  # the first are the middles of all
    monkeypatch.setattr(module, "_LARGEST_BLOCK", 96 * 96 * 3)
    colour = np.repeat(images.repeat(2, axis=1).repeat(2, axis=2)[..., None], 3, axis=3)
    tracemalloc.start()
    assert (comparable(colour) == images).all()
    cell_sums(np.zeros((2000, 48, 48), np.uint8), 8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20  # 2,000 pictures have 4.6 million pixels, 37 MB in float64


def test_large_searches_are_stored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "_WORTH_STORING", 0)
    images = np.stack([crop(picture) for picture in photographs(3)] * 2)
    expected = [[0, 3], [1, 4], [2, 5]]
    assert twin_pairs(images).tolist() == expected
    (file,) = tmp_path.glob("twins-*.npy")
    monkeypatch.setattr(module, "aligned_correlation", lambda *_: pytest.fail("it is stored"))
    assert twin_pairs(images).tolist() == expected
    monkeypatch.undo()
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "_WORTH_STORING", 0)
    file.write_bytes(b"broken")
    assert twin_pairs(images).tolist() == expected and np.load(file).tolist() == expected
    assert twin_pairs(images[:4]).tolist() == [[0, 3]] and len(list(tmp_path.glob("twins-*.npy"))) == 2


def test_part_of_the_real_archive_holds_the_known_twins(
    fer2013: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path_factory.getbasetemp() / "real"))
    faces = read_faces(fer2013)
    train, validation = (comparable(faces.part(split).images) for split in ("train", "validation"))
    assert has_twin(validation[:400], train).sum() == 135  # one of them blank
    # The control: the same search for mirror images, of which a few are real.
    assert has_twin(np.ascontiguousarray(validation[:400, :, ::-1]), train).sum() == 3


@pytest.mark.slow
def test_the_real_archive_holds_the_known_twins(
    fer2013: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path_factory.getbasetemp() / "real"))
    faces = read_faces(fer2013)
    train, validation = (faces.part(split).images for split in ("train", "validation"))
    assert has_twin(validation, train).sum() == 995
    assert len(candidates(comparable(validation), comparable(train))) == 20_120


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


def noise_images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 12, 12))


def test_each_class_gives_its_share() -> None:
    faces = faces_of(noise_images(100), [0] * 60 + [1] * 30 + [2] * 10)
    cut_faces = cut_validation(faces, 0.1, seed=3)
    assert cut_faces.part("validation").class_counts() == {"a": 6, "b": 3, "c": 1}
    assert cut_faces.part("train").class_counts() == {"a": 54, "b": 27, "c": 9}
    assert (cut_faces.images == faces.images).all() and cut_faces.fingerprint == faces.fingerprint
    assert not faces.has("validation")


def test_the_seed_decides() -> None:
    faces = faces_of(noise_images(100), [0] * 50 + [1] * 50)
    splits, repeated, with_other_seed = (cut_validation(faces, 0.2, seed).splits.tolist() for seed in (1, 1, 2))
    assert splits == repeated and splits != with_other_seed


def test_twins_stay_together() -> None:
    base = noise_images(40)
    images = np.concatenate([base, base[:30] // 2 + 20, base[:10]])
    labels = [0, 1] * 20 + [0, 1] * 15 + [1, 0] * 5
    faces = faces_of(images, labels)
    group = groups(faces.images)
    assert group.max() + 1 == 40
    for seed in range(10):
        cut_faces = cut_validation(faces, 0.25, seed)
        in_validation = cut_faces.splits == "validation"
        assert not has_twin(cut_faces.images[in_validation], cut_faces.images[~in_validation]).any()
        counts = cut_faces.part("validation").class_counts()
        assert all(abs(count - 10) <= 1 for count in counts.values())


def test_groups_come_to_both_sides_in_the_same_proportion() -> None:
    base = noise_images(1000)
    faces = faces_of(np.concatenate([base, base[:200]]), [0] * 1200)
    cut_faces = cut_validation(faces, 0.5, seed=0)
    in_validation = (cut_faces.splits == "validation")[:200]
    assert 70 <= in_validation.sum() <= 130


def test_a_class_of_large_groups_alone_gives_its_smallest() -> None:
    large = np.repeat(noise_images(3, seed=5), [4, 3, 4], axis=0)
    faces = faces_of(np.concatenate([noise_images(50), large]), [0] * 50 + [1] * 11)
    cut_faces = cut_validation(faces, 0.1, seed=0)
    assert cut_faces.part("validation").class_counts() == {"a": 5, "b": 3}


def test_other_splits_are_left_alone() -> None:
    train, test = faces_of(noise_images(20), [0] * 20), faces_of(noise_images(5, seed=1), [0] * 5, "test")
    faces = faces_of(np.concatenate([train.images, test.images]), [0] * 25)
    faces = FaceSet(**{**vars(faces), "splits": np.concatenate([train.splits, test.splits])})
    cut_faces = cut_validation(faces, 0.1, seed=0)
    assert [len(cut_faces.part(split)) for split in ("train", "validation", "test")] == [18, 2, 5]


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (noise_images(11), [0] * 10 + [1]),
        (np.concatenate([noise_images(10), np.zeros((3, 12, 12))]), [0] * 10 + [1] * 3),
    ],
)
def test_a_class_that_cannot_be_on_both_sides(images: np.ndarray, labels: list[int]) -> None:
    with pytest.raises(MienError, match=r"faces\.zip: class b has \d training images?, too few .* give a val/ folder"):
        cut_validation(faces_of(images, labels), 0.1, seed=0)
    with pytest.raises(MienError, match=r"class a has 1 .*, class b has 1 .*; add images of these classes"):
        cut_validation(faces_of(noise_images(2), [0, 1]), 0.1, seed=0)


def test_what_cannot_be_cut() -> None:
    faces = faces_of(noise_images(10), [0] * 10)
    with pytest.raises(MienError, match="has a validation split already"):
        cut_validation(cut_validation(faces, 0.1, 0), 0.1, 0)
    with pytest.raises(MienError, match="has no train split"):
        cut_validation(faces_of(noise_images(3), [0] * 3, "test"), 0.1, 0)
    with pytest.raises(MienError, match=r"got 1\.0, expected a share between 0 and 1"):
        cut_validation(faces, 1.0, 0)
