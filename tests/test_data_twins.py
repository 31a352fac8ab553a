"""Near-identical pictures, by hand and on the real archive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_helpers import noise
from PIL import Image

from mien.data.read import read_faces
from mien.data.twins import groups, has_twin, thumbnails, twin_pairs


def test_a_thumbnail_is_the_rounded_mean_of_each_cell() -> None:
    image = np.zeros((24, 24), np.uint8)
    image[0:2, 0:2] = [[1, 2], [3, 5]]
    image[0:2, 2:4] = [[1, 1], [0, 0]]
    image[22:24, 22:24] = 255
    expected = np.zeros((12, 12), np.uint8)
    expected[0, 0] = 3  # 11 / 4 = 2.75
    expected[0, 1] = 1  # 2 / 4 = 0.5, halves go up
    expected[11, 11] = 255
    result = thumbnails(image[None])
    assert result.dtype == np.uint8 and (result == expected).all()


def test_sizes_that_twelve_does_not_divide_are_averaged_by_area() -> None:
    image = np.zeros((18, 18), np.uint8)
    image[0, 0], image[0, 1], image[1, 1] = 90, 180, 240
    # A cell is 1.5 x 1.5 pixels: 1 * 90 + 0.5 * 180 + 0.25 * 240 = 240 of 2.25.
    assert thumbnails(image[None])[0, 0, 0] == round(240 / 2.25)
    assert (thumbnails(np.full((1, 100, 100), 201, np.uint8)) == 201).all()
    assert (
        thumbnails(np.arange(36, dtype=np.uint8).reshape(1, 6, 6)).reshape(6, 2, 6, 2)[:, 0, :, 1].reshape(-1)
        == range(36)
    ).all()


def test_colour_becomes_luma_as_pillow_does_it() -> None:
    colour = noise(3, side=12, channels=3)
    assert (thumbnails(colour[None])[0] == np.asarray(Image.fromarray(colour).convert("L"))).all()


def test_twins_do_not_mind_light_and_contrast() -> None:
    face = noise(1, side=12) // 2
    thumbs = np.stack([face, face + 100, 2 * face, noise(2, side=12), 255 - face])
    assert has_twin(thumbs[:1], thumbs[1:2]).tolist() == [True]
    assert has_twin(thumbs, thumbs[2:3]).tolist() == [True, True, True, False, False]
    assert twin_pairs(thumbs).tolist() == [[0, 1], [0, 2], [1, 2]]


def test_the_threshold_decides() -> None:
    base = np.zeros((12, 12), np.uint8)
    base[:, :6] = 100
    other = base.copy()
    other[0, 0] = 0
    # Counts of bright pixels 72 and 71 of 144, 71 shared: phi = (71 * 144 - 72 * 71) / sqrt(72 * 72 * 71 * 73).
    phi = (71 * 144 - 72 * 71) / np.sqrt(72 * 72 * 71 * 73)
    pair = base[None], other[None]
    assert has_twin(*pair, threshold=phi - 1e-5).all() and not has_twin(*pair, threshold=phi + 1e-5).any()


def test_blank_pictures_are_twins_of_blank_pictures_alone() -> None:
    thumbs = np.stack([np.full((12, 12), 0), np.full((12, 12), 200), noise(1, side=12)]).astype(np.uint8)
    assert twin_pairs(thumbs).tolist() == [[0, 1]]
    assert has_twin(thumbs[2:], thumbs[:2]).tolist() == [False]


def test_nothing_has_no_twins() -> None:
    none, one = np.empty((0, 12, 12), np.uint8), noise(1, side=12)[None]
    assert has_twin(one, none).tolist() == [False] and has_twin(none, one).tolist() == []
    assert twin_pairs(none).shape == (0, 2) and groups(none).tolist() == []


def test_groups_are_chains_of_twins_numbered_by_their_first_member() -> None:
    # Each step moves the bright half by one pixel: neighbours correlate above .97, the ends of the chain do not.
    def half(pixels: int) -> np.ndarray:
        image = np.zeros(144, np.uint8)
        image[:pixels] = 200
        return image.reshape(12, 12)

    thumbs = np.stack([noise(9, side=12), half(70), half(74), half(72), noise(9, side=12), half(20), half(70)])
    assert not has_twin(thumbs[1:2], thumbs[2:3], threshold=0.96).any()
    assert groups(thumbs, threshold=0.96).tolist() == [0, 1, 1, 1, 0, 2, 1]
    assert groups(thumbs, threshold=0.99).tolist() == [0, 1, 2, 3, 0, 4, 1]


def test_pairs_are_found_across_chunks() -> None:
    thumbs = np.random.default_rng(0).integers(0, 256, (2500, 12, 12), dtype=np.uint8)
    thumbs[2400], thumbs[1500] = thumbs[5], thumbs[1400]
    assert twin_pairs(thumbs).tolist() == [[5, 2400], [1400, 1500]]
    assert np.bincount(groups(thumbs)).max() == 2 and len(np.unique(groups(thumbs))) == 2498


def test_the_real_archive_holds_the_known_twins(
    fer2013: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path_factory.getbasetemp() / "real"))
    faces = read_faces(fer2013)
    train, validation = (thumbnails(faces.part(split).images) for split in ("train", "validation"))
    # 11 of the first and 1 of the second are blank pictures.
    assert len(np.unique(twin_pairs(train))) == 2368
    assert has_twin(validation, train).sum() == 292
