"""Crops of faces: the square around a box, the margin, edges of the picture, and the resizing."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mien.recognition.detection import cut, square


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def ramp(height: int, width: int) -> np.ndarray:
    """Grey that tells its own column."""
    return np.tile(np.arange(width, dtype=np.uint8), (height, 1))


def test_a_box_of_the_wanted_size_is_cut_as_it_is() -> None:
    picture = noise(40, 60)
    assert np.array_equal(cut(picture, (10, 5, 20, 20), 0, 20, grey=True), picture[5:25, 10:30])


def test_the_margin_is_a_share_of_the_side_on_every_side() -> None:
    picture = noise(40, 60)
    # A tenth of 20 pixels on each side: the square of 24 from (8, 3).
    assert np.array_equal(cut(picture, (10, 5, 20, 20), 0.1, 24, grey=True), picture[3:27, 8:32])
    assert square((10, 5, 20, 20), 0.1, 60, 40) == pytest.approx((8, 3, 24))
    assert square((10, 5, 20, 20), -0.1, 60, 40) == pytest.approx((12, 7, 16))


def test_a_box_that_is_not_square_is_made_so_around_its_centre() -> None:
    assert square((10, 5, 10, 20), 0, 60, 40) == (5, 5, 20)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 10, 15, 20), (-5, 10, 20)),  # cut off on the left
        ((45, 10, 15, 20), (45, 10, 20)),  # on the right
        ((10, 0, 20, 12), (10, -8, 20)),  # at the top
        ((10, 28, 20, 12), (10, 28, 20)),  # at the bottom
        ((0, 0, 60, 40), (0, -10, 60)),  # touches both sides: around its centre
    ],
)
def test_a_box_cut_off_by_an_edge_goes_on_beyond_it(
    box: tuple[float, float, float, float], expected: tuple[float, float, float]
) -> None:
    assert square(box, 0, 60, 40) == expected


def test_the_edge_is_repeated_where_the_square_leaves_the_picture() -> None:
    picture = ramp(30, 30)
    crop = cut(picture, (0, 0, 20, 20), 0.5, 40, grey=True)  # from -10 to 30 both ways
    assert np.array_equal(crop[20], np.maximum(np.arange(-10, 30), 0))
    assert np.array_equal(crop[0], crop[39])
    corner_crop = cut(picture, (25, 25, 5, 5), 1.0, 15, grey=True)  # from 20 to 35
    assert np.array_equal(corner_crop[3], np.minimum(np.arange(20, 35), 29))


def test_a_cut_equals_pillow_on_the_whole_picture() -> None:
    picture = noise(200, 300, 3)
    box = (33.4, 21.7, 120.3, 120.3)
    bounds = (box[0], box[1], box[0] + box[2], box[1] + box[3])
    expected = Image.fromarray(picture).resize((48, 48), Image.Resampling.BILINEAR, box=bounds)
    assert np.abs(cut(picture, box, 0, 48, grey=False).astype(int) - np.asarray(expected)).max() <= 1
    luma = np.asarray(expected.convert("L")).astype(int)
    assert np.abs(cut(picture, box, 0, 48, grey=True) - luma).max() <= 1


def test_grey_and_colour_go_both_ways() -> None:
    grey = ramp(20, 20)
    red = np.zeros((20, 20, 3), np.uint8)
    red[..., 0] = 200
    assert np.array_equal(cut(grey, (0, 0, 20, 20), 0, 20, grey=False), np.repeat(grey[..., None], 3, axis=2))
    assert (cut(red, (2, 2, 10, 10), 0.1, 8, grey=True) == 60).all()  # 0.299 x 200 = 59.8


@pytest.mark.parametrize("box", [(0.0, 0.0, 0.2, 0.2), (59.9, 39.9, 0.1, 0.1), (0.0, 0.0, 60.0, 1.0)])
def test_boxes_of_any_size_give_a_crop(box: tuple[float, float, float, float]) -> None:
    assert cut(noise(40, 60), box, 0.3, 16, grey=True).shape == (16, 16)
    assert cut(noise(40, 60, 3), box, -0.3, 16, grey=False).shape == (16, 16, 3)


def test_a_picture_of_one_pixel_gives_a_crop_of_one_colour() -> None:
    picture = np.full((1, 1), 77, np.uint8)
    assert (cut(picture, (0, 0, 1, 1), 0, 48, grey=True) == 77).all()
    assert (cut(picture, (0, 0, 1, 1), 0.4, 48, grey=True) == 77).all()


@pytest.mark.parametrize("shape", [(48, 48), (60, 60), (120, 80), (31, 77), (300, 200, 3), (48, 48, 3), (20, 33, 3)])
def test_a_crop_is_resized_whole_as_training_does(shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    from mien.model.preprocessing import Preprocessing, tensor, to_luma

    picture = noise(*shape)
    preprocessing = Preprocessing(48, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    planes = tensor(picture[None])
    resized = preprocessing.resize(planes.unsqueeze(1) if planes.ndim == 3 else planes.movedim(-1, 1)).float()
    expected = (to_luma(resized) if resized.shape[1] == 3 else resized)[0, 0].numpy()
    crop = cut(picture, (0, 0, shape[1], shape[0]), 0, 48, grey=True)
    assert isinstance(resized, torch.Tensor)
    assert np.abs(crop - expected).max() <= 1


def test_a_small_part_of_a_large_picture_is_cheap() -> None:
    class Watched(np.ndarray):
        """Counts the pixels that are taken out of it."""

        values_read = 0

        def __getitem__(self, index: object) -> object:  # type: ignore[override]
            values = np.asarray(self).__getitem__(index)  # type: ignore[call-overload]
            Watched.values_read += values.size
            return values

    picture = np.zeros((2048, 2048, 3), np.uint8).view(Watched)
    assert cut(picture, (700, 300, 400, 400), 0.1, 48, grey=True).shape == (48, 48)
    assert 480 * 480 * 3 <= Watched.values_read <= 510 * 510 * 3
