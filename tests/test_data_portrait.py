"""Sketches under a pose, lines, relief and backdrops, held to pixels that can be computed by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from mien.data.sketch import CANVAS, Pose, Sketch, backdrop

FRONTAL = Pose(roll=0.0, yaw=0.0, pitch=0.0, scale=80.0, shift=(0.0, 0.0))
SQUARE = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])


def test_a_square_lands_where_the_pose_puts_it() -> None:
    canvas = Image.new("L", (CANVAS, CANVAS))
    sketch = Sketch()
    sketch.fill(SQUARE, 200.0, relief=0.0)
    sketch.paint(canvas, replace(FRONTAL, shift=(20.0, -10.0)))
    # 80 pixels a unit around the middle (95.5, 95.5), moved 20 right and 10 up; the ink spreads by 3 pixels.
    rows, columns = np.nonzero(np.asarray(canvas) == 200)
    assert abs(columns.mean() - 115.5) < 0.6
    assert abs(rows.mean() - 85.5) < 0.6
    assert abs(len(rows) - 83**2) < 200


def test_a_line_has_its_width_and_the_thinnest_line_is_visible() -> None:
    def painted(width: float) -> np.ndarray:
        canvas = Image.new("L", (CANVAS, CANVAS))
        sketch = Sketch()
        sketch.line(np.array([(-0.5, 0.0), (0.5, 0.0)]), 255.0, width, relief=0.0)
        sketch.paint(canvas, FRONTAL)
        return np.asarray(canvas)[:, CANVAS // 2]

    assert [(painted(width) > 0).sum() for width in (0.001, 0.05, 0.1)] == [3, 7, 11]


def test_turning_the_head_moves_the_nose_more_than_the_outline() -> None:
    def middle(relief: float) -> float:
        canvas = Image.new("L", (CANVAS, CANVAS))
        sketch = Sketch()
        sketch.fill(0.1 * SQUARE, 255.0, relief)
        sketch.paint(canvas, replace(FRONTAL, yaw=0.4))
        ink = np.asarray(canvas).sum(axis=0, dtype=float)
        return float((ink * np.arange(CANVAS)).sum() / ink.sum())

    assert abs(middle(0.0) - 95.5) < 0.6
    # A point in the middle bulges by 0.8 units: 80 * 0.8 * sin(0.4) = 24.9 pixels.
    assert abs(middle(1.0) - 120.4) < 0.8
    assert middle(1.25) > middle(1.0) + 4


def test_backdrops_fill_the_canvas() -> None:
    picture = backdrop(np.random.default_rng(0))
    assert picture.size == (CANVAS, CANVAS)
    assert picture.mode == "L"
