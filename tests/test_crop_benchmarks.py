"""The benchmarks of the reading crop and of int8: that they choose and read as they say."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import synthetic_faces
from PIL import Image
from recognition_helpers import SIDE, Mean

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
reading_crop: Any = importlib.import_module("reading_crop")
int8_alone: Any = importlib.import_module("int8_alone")


def test_the_readings_are_whole_and_two_pixels_apart() -> None:
    ways = reading_crop.readings(48)
    assert next(iter(ways)) == "whole" and ways["whole"] == (48, "bilinear")
    assert [size for size, way in ways.values() if way == "bicubic"] == [50, 52, 54, 56, 58, 60]
    assert ways["0.857 bilinear"] == (56, "bilinear") and len(ways) == 13


@pytest.mark.parametrize(("way", "method"), [("bilinear", 2), ("bicubic", 3)])
def test_what_is_read_is_the_middle(way: str, method: int) -> None:
    images = synthetic_faces({"train": 2}, size=48).images
    crops = reading_crop.framed(images, 56, way, 48)
    for image, crop in zip(images, crops, strict=True):
        expected = np.asarray(Image.fromarray(image).resize((56, 56), Image.Resampling(method)))[4:52, 4:52]
        assert crop.shape == (48, 48) and np.abs(crop.astype(int) - expected).max() <= 1
    assert (reading_crop.framed(images, 48, "bilinear", 48) == images).all()


def test_a_reading_is_chosen_on_the_clean_pictures_of_the_half_that_it_does_not_score() -> None:
    count = 40
    labels, group = np.arange(count) % 2, np.arange(count) // 2
    clean = np.arange(count) % 4 < 2
    losses = {"whole": np.full(count, 0.5), "closer": np.where(clean, 0.4, 9.0)}  # awful where nobody chooses
    halvings, choice_counts = reading_crop.cross_fitted(losses, labels, clean, group, 3)
    assert choice_counts == {"closer": 6} and all(scored["closer"].all() for scored in halvings)
    # A reading that is good on one half alone is chosen there and scored on the other.
    (scored,), _ = reading_crop.cross_fitted({"a": losses["whole"], "b": losses["whole"]}, labels, clean, group, 1)
    first = scored["a"] if "a" in scored else scored["b"]
    from sklearn.model_selection import StratifiedGroupKFold

    choosing, scoring = next(StratifiedGroupKFold(2, shuffle=True, random_state=0).split(labels, labels, group))
    assert first.all() and not set(group[choosing]) & set(group[scoring])
    half_losses = np.full(count, 0.5)
    half_losses[choosing] = 0.1
    (scored,), _ = reading_crop.cross_fitted({"whole": losses["whole"], "good": half_losses}, labels, clean, group, 1)
    assert scored["good"].tolist() == np.isin(np.arange(count), scoring).tolist()


def test_scores_of_a_network_that_looks_at_the_mean() -> None:
    """Noise around levels by class: the middle has the mean of the whole, so no reading is better by much."""
    faces = synthetic_faces({"validation": 30}, names=("calm", "glad"), size=SIDE)
    record = reading_crop.measured(Mean(), faces, np.ones(30, bool), np.arange(30), repeats=4)
    whole = record["readings"]["whole"]
    glad = faces.images.reshape(30, -1).mean(axis=1) / 255
    assert whole["accuracy"] == ((glad > 0.5) == faces.labels).mean()
    expected = -np.log(np.where(faces.labels == 1, glad, 1 - glad)).mean()
    assert whole["nll"] == pytest.approx(expected, abs=1e-5) and whole["p"] == whole["clean_p"] == 1
    assert sum(record["cross_fitted"]["chosen"].values()) == 8
    assert record["cross_fitted"]["nll"] == pytest.approx(expected, abs=0.01)
    assert reading_crop.report("mean", record).count("\n") == len(record["readings"]) + 2


def test_crops_are_read_so_many_at_a_time() -> None:
    network, crops = Mean(), synthetic_faces({"train": 5}, size=SIDE).images
    one_by_one, together = (int8_alone.read(network, crops, at_once) for at_once in (1, 64))
    assert network.batches == [1] * 5 + [5] and np.allclose(one_by_one, together)
