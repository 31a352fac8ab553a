"""Where a detector looks: every face is whole in some tile, large enough, whatever the size of the picture."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mien.web
from mien.recognition import detection
from mien.recognition.detection import COARSEST, LONGEST, OVERLAP, SMALLEST, SMALLEST_GREY, UNIT, Tile, plan, resized
from mien.recognition.detectors import YuNet

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


def padded(tiles: list[Tile]) -> int:
    """The pixels that the network reads: each side of a tile is padded to a multiple of ``UNIT``."""
    return sum(-(-tile.width // UNIT) * -(-tile.height // UNIT) * UNIT**2 for tile in tiles)


@pytest.mark.parametrize("pixels", [1_000_000, 25_000_000, 134_000_000])
@pytest.mark.parametrize("thin", [1, 5, 6, 12, 23, 24, 40, 100])
@pytest.mark.parametrize("grey", [False, True])
def test_a_strip_takes_about_as_long_as_a_square_of_as_many_pixels(pixels: int, thin: int, grey: bool) -> None:
    square = padded(plan(math.isqrt(pixels), math.isqrt(pixels), 24, grey))
    # A strip that just holds the smallest face shows it with 12 pixels, and is padded to 32.
    assert padded(plan(thin, pixels // thin, 24, grey)) < 3.5 * square
    assert padded(plan(pixels // thin, thin, 24, grey)) < 3.5 * square


def test_a_picture_that_is_too_thin_for_a_face_is_not_searched() -> None:
    assert plan(5, 640, 24) == plan(640, 5, 24) == plan(1, 25_000_000, 24, grey=True) == []
    assert plan(6, 640, 24) and plan(2, 640, 8)  # a quarter of the smallest face
    assert YuNet().detect(np.zeros((1, 1_000_000), np.uint8)) == []


@pytest.mark.parametrize("size", [(12, 12), (20, 20), (20, 640), (16, 4000), (30, 30), (24, 20_000)])
def test_small_and_long_pictures_are_searched_as_well_as_others(size: tuple[int, int]) -> None:
    assert scale(plan(*size, 24)[0]) == pytest.approx(0.75 if math.prod(size) < detection.FEW else 0.968, rel=0.03)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_page_plans_the_same_tiles(tmp_path: Path) -> None:
    sizes = [*SIZES, (5, 640), (6, 640), (23, 100_000), (24, 100_000), (1, 1_000_000), (1_000_000, 7), (1080, 1920)]
    for name in ("search.js", "pixels.js"):
        shutil.copy(Path(mien.web.__file__).parent / "page/reading" / name, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    cases = [(*size, min_face, grey) for size in sizes for min_face in (8, 24) for grey in (False, True)]
    (tmp_path / "plans.js").write_text(
        f"import {{ plan }} from './search.js';\n"
        f"console.log(JSON.stringify({json.dumps(cases)}.map((given) => plan(...given))));"
    )
    output = subprocess.run(["node", "plans.js"], cwd=tmp_path, capture_output=True, check=True, timeout=60).stdout
    for given, tiles in zip(cases, json.loads(output), strict=True):
        assert tiles == [asdict(tile) for tile in plan(*given)], given
