"""Where a detector looks: every face is whole in some tile, large enough, whatever the size of the picture."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from mien.recognition import detection
from mien.recognition.detection import COARSEST, LONGEST, OVERLAP, SMALLEST, SMALLEST_GREY, Tile, plan, resized

SIZES = [
    (1, 1),
    (48, 48),
    (300, 400),
    (480, 640),
    (1536, 2048),
    (512, 16000),
    (16000, 512),
    (9000, 12000),
    (8, 1 << 24),
]


def scale(tile: Tile) -> float:
    return tile.width / (tile.right - tile.left)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("min_face", [8, 24, 100])
@pytest.mark.parametrize(("grey", "smallest"), [(False, SMALLEST), (True, SMALLEST_GREY)])
def test_a_face_of_any_size_is_whole_in_a_tile_that_shows_it_well(
    size: tuple[int, int], min_face: int, grey: bool, smallest: float
) -> None:
    height, width = size
    tiles = plan(height, width, min_face, grey)
    generator = np.random.default_rng(0)
    edges = np.array([(tile.left, tile.top, tile.right, tile.bottom, scale(tile)) for tile in tiles])
    largest = min(height, width)
    for _ in range(60):
        if largest < min_face:
            return
        side = float(np.exp(generator.uniform(np.log(min_face), np.log(largest))))
        left, top = generator.uniform(0, width - side), generator.uniform(0, height - side)
        holds = (edges[:, 0] <= left) & (edges[:, 1] <= top)
        holds &= (edges[:, 2] >= left + side) & (edges[:, 3] >= top + side)
        sides = side * edges[holds, 4]
        # The finest search shows it well, coarser ones never larger than YuNet knows.
        assert any(0.98 * smallest <= pixels <= 1.01 * COARSEST for pixels in sides), (side, left, top)


@pytest.mark.parametrize("size", SIZES)
def test_tiles_are_bounded_and_within_the_picture(size: tuple[int, int]) -> None:
    for tile in plan(*size, 24):
        assert max(tile.width, tile.height) <= LONGEST
        assert 0 <= tile.left < tile.right <= size[1] and 0 <= tile.top < tile.bottom <= size[0]


def test_the_work_grows_with_the_pixels_and_with_smaller_faces() -> None:
    def work(height: int, width: int, min_face: int) -> int:
        return sum(tile.width * tile.height for tile in plan(height, width, min_face))

    assert work(480, 640, 24) < 1.6 * detection.PIXELS
    assert work(12000, 11000, 24) < 0.45 * 12000 * 11000  # a quarter, with the overlaps and the coarser searches
    assert work(4096, 4096, 12) > 3.5 * work(4096, 4096, 24)
    assert work(4096, 4096, 96) < work(4096, 4096, 24) / 8


def test_boxes_go_back_to_where_they_were() -> None:
    tile = Tile(100, 50, 300, 150, 50, 25)
    assert tile.placed(np.array([[10.0, 5.0, 4.0, 6.0, 0.9]])).tolist() == [[140, 70, 16, 24, 0.9]]


def test_neighbours_share_enough() -> None:
    tiles = [tile for tile in plan(512, 16000, 24) if scale(tile) > 0.45]
    for left_tile, next_tile in pairwise(tiles):
        assert (left_tile.right - next_tile.left) * scale(left_tile) >= OVERLAP - 2


def test_a_picture_that_is_made_smaller_in_bands_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).normal(0, 40, (64, 48, 3))
    smooth = Image.fromarray((128 + noise).clip(0, 255).astype(np.uint8)).resize((960, 1280), Image.Resampling.BICUBIC)
    pixels = np.asarray(smooth)
    reference = resized(pixels, 120, 160)
    monkeypatch.setattr(detection, "_BAND_PIXELS", 100_000)
    # Levels; a row may go to the neighbour.
    assert np.abs(resized(pixels, 120, 160).astype(int) - reference).mean() < 2
    assert resized(pixels[..., 0], 120, 160).shape == (160, 120)
    assert resized(pixels, 960, 1280) is pixels


def test_a_picture_is_not_enlarged_a_little() -> None:
    assert next(scale(tile) for tile in plan(480, 640, 24)) == 1  # 1.2 would fill the pixels of a search
    assert next(scale(tile) for tile in plan(400, 500, 24)) > detection.SMALL_GAIN
    assert next(scale(tile) for tile in plan(480, 640, 10)) == pytest.approx(SMALLEST / 10, rel=0.01)
