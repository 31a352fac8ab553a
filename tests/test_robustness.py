"""Pictures made worse, and the accuracy of a classifier whose answers are known by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import synthetic_faces

from mien.errors import MienError
from mien.evaluation.metrics import paired_difference
from mien.evaluation.robustness import CHANGES, changed, robustness


class ByBrightness:
    """Reads the mean brightness: below 90 is calm, below 150 glad, above sour."""

    names = ("calm", "glad", "sour")

    def logits(self, images: np.ndarray, **_: Any) -> np.ndarray:
        level = np.digitize(images.reshape(len(images), -1).mean(axis=1), [90, 150])
        return np.eye(3, dtype=np.float32)[level]

    def meta(self) -> dict[str, Any]:
        return {}


def change_picture(change: str, image: np.ndarray, seed: int = 0) -> np.ndarray:
    return changed(image[None], CHANGES[change][1], seed)[0]


@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 3)])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_keeps_shape_and_kind(change: str, shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    original = image.copy()
    changed_image = change_picture(change, image)
    assert (changed_image.shape, changed_image.dtype) == (shape, np.uint8)
    assert not np.array_equal(changed_image, original) and np.array_equal(image, original)


def test_brightness_and_contrast_by_hand() -> None:
    image = np.array([[0, 100], [200, 255]], np.uint8)
    assert change_picture("dark", image).tolist() == [[0, 50], [100, 128]]
    assert change_picture("bright", image).tolist() == [[128, 178], [228, 255]]
    assert change_picture("flat", image).tolist() == [[64, 114], [164, 192]]


def test_a_covered_band_is_one_grey_and_the_rest_as_before() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 20), dtype=np.uint8)
    changed_image = change_picture("mouth covered", image)
    assert np.array_equal(changed_image[:12], image[:12]) and len(np.unique(changed_image[12:])) == 1
    eyes = change_picture("eyes covered", image)
    assert len(np.unique(eyes[4:9])) == 1 and np.array_equal(eyes[9:], image[9:])


def test_a_shift_moves_by_a_tenth() -> None:
    image = np.zeros((20, 20), np.uint8)
    image[10, 10] = 255
    (row,), (column,) = np.nonzero(change_picture("shifted", image))
    assert (abs(row - 10), abs(column - 10)) == (2, 2)


def test_the_same_seed_gives_the_same_noise_and_another_another() -> None:
    image = np.full((8, 8), 128, np.uint8)
    assert np.array_equal(change_picture("noisy", image, 1), change_picture("noisy", image, 1))
    assert not np.array_equal(change_picture("noisy", image, 1), change_picture("noisy", image, 2))


def test_rows_tell_what_a_change_costs() -> None:
    rows = {row["change"]: row for row in robustness(ByBrightness(), synthetic_faces({"validation": 30}), "validation")}
    assert list(rows) == ["none", *CHANGES]
    assert rows["none"]["accuracy"] == 1.0 and rows["coarse"]["accuracy"] == 1.0
    # Halved, 60, 120 and 180 are 30, 60 and 90: the first two read as calm, the last as calm or glad.
    assert rows["dark"]["accuracy"] == pytest.approx(1 / 3)
    assert rows["none"]["difference"] == 0 and rows["dark"]["difference"] == pytest.approx(-2 / 3)
    expected = paired_difference(np.arange(30) < 10, np.ones(30, bool))["ci95"]
    assert rows["dark"]["difference_ci95"] == pytest.approx(expected)


def test_answers_that_are_no_numbers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ByBrightness, "logits", lambda *_, **__: np.full((6, 3), np.nan, np.float32))
    with pytest.raises(MienError, match="'none' with NaN or infinity"):
        robustness(ByBrightness(), synthetic_faces({"validation": 6}), "validation")
