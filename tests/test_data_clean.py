"""Sketches of training pictures: small, and near for the same photograph."""

from __future__ import annotations

import numpy as np
import pytest
from test_data_twins import CHANGES, crop, photographs

from mien.data.clean import has_sketched_twin, sketch


def test_a_sketch_has_32_bytes_and_finds_the_picture_itself() -> None:
    images = np.stack([crop(picture) for picture in photographs(50)])
    sketches = sketch(images)
    assert sketches.codes.shape == (50, 32) and sketches.codes.dtype == np.uint8 and len(sketches) == 50
    # Half of the bits are set, so that each says as much as it can.
    assert np.unpackbits(sketches.codes, axis=1).mean(axis=0) == pytest.approx(np.full(256, 0.5), abs=0.02)
    assert has_sketched_twin(images, sketches).all()
    assert has_sketched_twin(np.repeat(images[..., None], 3, axis=3), sketches).all()


@pytest.mark.parametrize("change", ["shifted", "tilted", "zoomed out"])
def test_most_crops_of_a_photograph_are_found(change: str) -> None:
    pictures = photographs(60)
    sketches = sketch(np.stack([crop(picture) for picture in pictures]))
    changed_crops = np.stack([crop(picture, **CHANGES[change]) for picture in pictures])
    assert has_sketched_twin(changed_crops, sketches).mean() > 0.6


def test_other_photographs_are_not() -> None:
    sketches = sketch(np.stack([crop(picture) for picture in photographs(200)]))
    assert has_sketched_twin(np.stack([crop(picture) for picture in photographs(200, seed=1)]), sketches).mean() < 0.05
