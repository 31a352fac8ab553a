"""Shapes in face coordinates, painted on a canvas under a pose; backdrop, occlusion and the effects of a poor camera.

Face coordinates have the middle of the head at (0, 0), x to the viewer's right, y down; the chin lies near y = 1. Tones
are grey levels in [0, 255]. A ``Sketch`` collects shapes in these coordinates and projects them all at once, which is
several times faster than shape by shape. Shapes are painted without smooth edges on a canvas several times as fine as
the picture, whose pixels are then averaged: with whole numbers, so every machine draws the same picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from mien.data.images import gaussian_blur

IMAGE_SIZE = 48
"""Height and width of the pictures in pixels."""

FINENESS = 4
"""Canvas pixels along each side of a picture pixel."""

CANVAS = FINENESS * IMAGE_SIZE
"""Height and width of the canvas in pixels."""

_SPREAD = 3
"""Canvas pixels by which every shape is widened, so that thin shapes stay visible."""

_TURN = np.linspace(0.0, 2.0 * math.pi, 32, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)
_ROWS, _COLUMNS = np.mgrid[-1.0 : 1.0 : IMAGE_SIZE * 1j, -1.0 : 1.0 : IMAGE_SIZE * 1j].astype(np.float32)


@dataclass(frozen=True)
class Pose:
    """Pose of the head: angles in radians, scale in canvas pixels per face unit, shift in canvas pixels."""

    roll: float
    yaw: float
    pitch: float
    scale: float
    shift: tuple[float, float]


class Sketch:
    """Shapes in face coordinates, in the order of painting.

    ``relief`` says how far a shape follows the bulge of the face when the head turns: 0 for the outline, 1 for shapes
    on the skin, more for the nose.
    """

    def __init__(self) -> None:
        self._points: list[np.ndarray] = []
        self._reliefs: list[float] = []
        self._paints: list[tuple[float, float]] = []

    def fill(self, points: np.ndarray, tone: float, relief: float = 1.0) -> None:
        """Adds a filled polygon (float [N, 2])."""
        self.line(points, tone, 0.0, relief)

    def line(self, points: np.ndarray, tone: float, width: float, relief: float = 1.0) -> None:
        """Adds an open line through ``points`` (float [N, 2]); ``width`` in face units."""
        self._points.append(points)
        self._reliefs.append(relief)
        self._paints.append((tone, width))

    def paint(self, canvas: Image.Image, pose: Pose) -> None:
        """Paints every shape on ``canvas`` (mode L) in place, projected by ``pose``."""
        lengths = [len(points) for points in self._points]
        points = _project(np.concatenate(self._points), np.repeat(self._reliefs, lengths), pose)
        filled = np.array([not width for _, width in self._paints])
        points = _grown(points, np.array(lengths), np.where(filled, _SPREAD / 2, 0.0))
        # x0, y0, x1, y1, ... of all shapes in a row: Pillow's form of points.
        numbers = np.rint(points).astype(np.int64).ravel().tolist()
        pen = ImageDraw.Draw(canvas)
        start = 0
        for length, (tone, width) in zip(lengths, self._paints, strict=True):
            shape = numbers[start : start + 2 * length]
            start += 2 * length
            level = round(min(max(tone, 0.0), 255.0))
            if width:
                pen.line(shape, level, round(width * pose.scale) + _SPREAD)
            else:
                pen.polygon(shape, level)


def shade(tone: float, amount: float) -> float:
    """Moves a tone towards black (amount > 0) or white (amount < 0) by that share of the distance."""
    return tone * (1.0 - amount) if amount > 0 else tone + (255.0 - tone) * -amount


def curve(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Joins coordinates to points, float [N, 2]; faster than np.stack, and called dozens of times a face."""
    points = np.empty((len(x), 2))
    points[:, 0] = x
    points[:, 1] = y
    return points


def ellipse(x: float, y: float, half_width: float, half_height: float) -> np.ndarray:
    """Returns the outline of an ellipse, float [32, 2]."""
    return _CIRCLE * (half_width, half_height) + (x, y)


def backdrop(rng: np.random.Generator) -> Image.Image:
    """Paints a plain, sloping or cluttered backdrop: mode L, ``CANVAS`` pixels wide and high."""
    corners = rng.uniform(20.0, 235.0) + rng.normal(0.0, 25.0, (2, 2))
    tones = Image.fromarray(np.clip(corners, 0, 255).astype(np.uint8))
    slope = tones.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
    canvas = slope.resize((CANVAS, CANVAS), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(0, 4))):
        x, y, width, height, tone = (rng.random(5) * (CANVAS, CANVAS, 60, 120, 255)).tolist()
        pen.rectangle((int(x), int(y), int(x + width), int(y + height)), round(tone))
    return canvas


def occlude(canvas: Image.Image, skin: float, pose: Pose, rng: np.random.Generator) -> None:
    """Paints a bar (10 % of faces) or a hand (8 %) in front of the face, in place."""
    kind = rng.random()
    if kind < 0.1:
        _bar(canvas, rng)
    elif kind < 0.18:
        _hand(canvas, skin, pose, rng)


def photograph(canvas: Image.Image, negative: bool, rng: np.random.Generator) -> np.ndarray:
    """Photographs the canvas with a poor camera: light from a side, blur, exposure, noise, and ``negative`` inverts it.

    Returns:
        uint8 [48, 48].
    """
    picture = np.asarray(canvas.reduce(FINENESS)).astype(np.float32)
    angle, slope = rng.uniform(0.0, 2.0 * math.pi), rng.uniform(0.0, 0.4)
    picture *= 1.0 + slope * (math.cos(angle) * _COLUMNS + math.sin(angle) * _ROWS)
    if rng.random() < 0.35:
        picture = gaussian_blur(picture, rng.uniform(0.4, 0.9))
    contrast = rng.uniform(0.6, 1.1)
    picture = (picture - 128.0) * contrast + 128.0 + rng.uniform(-30.0, 30.0)
    if negative:
        picture = 255.0 - picture
    picture += rng.standard_normal(picture.shape, np.float32) * contrast * rng.uniform(1.0, 8.0)
    return np.clip(np.rint(picture), 0.0, 255.0).astype(np.uint8)


def _project(points: np.ndarray, relief: np.ndarray, pose: Pose) -> np.ndarray:
    """Projects face coordinates to canvas pixels: the face is an ellipsoid that turns and nods, then rolls."""
    x, y = points[:, 0], points[:, 1]
    bulge = relief * np.sqrt(np.clip(1.0 - x**2 - 0.7 * y**2, 0.0, 1.0))
    turned = x * math.cos(pose.yaw) + 0.8 * bulge * math.sin(pose.yaw)
    nodded = y * math.cos(pose.pitch) + 0.8 * bulge * math.sin(pose.pitch)
    cos, sin = pose.scale * math.cos(pose.roll), pose.scale * math.sin(pose.roll)
    middle = (CANVAS - 1) / 2
    columns = turned * cos - nodded * sin + middle + pose.shift[0]
    rows = turned * sin + nodded * cos + middle + pose.shift[1]
    return curve(columns, rows)


def _grown(points: np.ndarray, lengths: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    """Widens closed shapes: moves every point outwards, at right angles to the line between its neighbours.

    Args:
        points: float [N, 2], the points of all shapes in a row.
        lengths: int [K], number of points of each shape.
        amounts: float [K], distance by which the points of each shape move.
    """
    ends = np.cumsum(lengths)
    starts = ends - lengths
    after, before = np.arange(1, len(points) + 1), np.arange(-1, len(points) - 1)
    after[ends - 1], before[starts] = starts, ends - 1
    x, y = points.T
    # Twice the area of each shape; its sign is the direction in which the outline runs.
    area = np.add.reduceat(x * y[after] - x[after] * y, starts)
    along_x, along_y = x[after] - x[before], y[after] - y[before]
    share = np.repeat(amounts * np.sign(area), lengths) / np.maximum(np.hypot(along_x, along_y), 1e-9)
    return curve(x + share * along_y, y - share * along_x)


def _bar(canvas: Image.Image, rng: np.random.Generator) -> None:
    angle, offset, tone = rng.uniform(0.0, math.pi), rng.uniform(-80.0, 80.0), rng.uniform(0.0, 255.0)
    along = np.array([math.cos(angle), math.sin(angle)])
    middle = CANVAS / 2 + offset * np.array([-along[1], along[0]])
    start, end = np.rint(middle - CANVAS * along).astype(int), np.rint(middle + CANVAS * along).astype(int)
    ImageDraw.Draw(canvas).line((*start.tolist(), *end.tolist()), round(tone), 2 * int(rng.integers(5, 12)))


def _hand(canvas: Image.Image, skin: float, pose: Pose, rng: np.random.Generator) -> None:
    """Paints a palm from below or the side, with four fingers on cheek, chin or forehead."""
    side = -1.0 if rng.random() < 0.5 else 1.0
    angle = rng.uniform(-0.5, 0.5)
    knuckles = np.array([side * rng.uniform(0.5, 0.9), rng.uniform(0.3, 0.9)])
    upward = np.array([-side * math.sin(0.5 + angle), -math.cos(0.5 + angle)])
    across = np.array([-upward[1], upward[0]])
    skin, edge, scale = round(shade(skin, 0.06)), round(shade(skin, 0.4)), pose.scale
    centre = CANVAS / 2 + np.array(pose.shift)
    pen = ImageDraw.Draw(canvas)

    def disc(point: np.ndarray, radius: float, tone: int) -> None:
        x, y = np.rint(centre + scale * point).astype(int).tolist()
        pen.circle((x, y), round(radius * scale), tone)

    def finger_in(root: np.ndarray, tip: np.ndarray, width: float, tone: int) -> None:
        ends = np.rint(centre + scale * np.stack([root, tip])).astype(int).ravel().tolist()
        pen.line(ends, tone, round(width * scale))
        for end in (root, tip):
            disc(end, width / 2, tone)

    disc(knuckles - 0.3 * upward, 0.32, skin)
    for finger, length in enumerate((0.42, 0.52, 0.5, 0.38)):
        root = knuckles + (finger - 1.5) * 0.16 * across
        tip = root + length * upward
        finger_in(root, tip, 0.17, edge)
        finger_in(root, tip, 0.13, skin)
