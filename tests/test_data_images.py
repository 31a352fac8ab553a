"""The Gaussian blur, held to its definition and to SciPy's."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from mien.data.images import Border, gaussian_blur


@pytest.mark.parametrize(("border", "mode"), [("reflect", "mirror"), ("symmetric", "reflect")])
@pytest.mark.parametrize("shape", [(48, 48), (21, 30, 3)])
def test_it_is_scipys(border: str, mode: str, shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(0).normal(100, 50, shape)
    deviation = len(picture) / 8
    expected = gaussian_filter(picture, deviation, mode=mode, radius=int(np.ceil(3 * deviation)), axes=(0, 1))
    assert gaussian_blur(picture, deviation, cast(Border, border)) == pytest.approx(expected, abs=1e-9)


def test_a_point_becomes_a_bell_of_the_same_weight() -> None:
    point = np.zeros((15, 15), np.float32)
    point[7, 7] = 1
    blurred = gaussian_blur(point, 1.0)
    assert blurred.dtype == np.float32 and blurred.sum() == pytest.approx(1)
    assert blurred[7, 8] / blurred[7, 7] == pytest.approx(np.exp(-0.5)) and blurred[7, 3] == 0


def test_whole_numbers_are_rounded() -> None:
    assert (gaussian_blur(np.full((9, 9), 7, np.uint8), 2.0) == 7).all()
    step = np.tile(np.array([0, 255], np.uint8), (8, 1)).repeat(4, axis=1)
    assert gaussian_blur(step, 1.0).dtype == np.uint8
    assert (gaussian_blur(step, 1.0) == np.rint(gaussian_blur(step.astype(float), 1.0))).all()


def test_a_picture_smaller_than_the_bell() -> None:
    assert (gaussian_blur(np.full((1, 1), 9, np.uint8), 3.0) == 9).all()
    assert gaussian_blur(np.array([[0, 10], [20, 30]], np.uint8), 4.0).shape == (2, 2)
