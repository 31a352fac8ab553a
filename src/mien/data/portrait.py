"""Paints drawn faces: the parts of a head under a pose, backdrop and occlusion, and the effects of a poor camera.

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

HAIR: tuple[str, ...] = ("bald", "short", "fringe", "parted", "long", "bun")
"""Hair styles of an identity."""

_TURN = np.linspace(0.0, 2.0 * math.pi, 32, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)
_ROWS, _COLUMNS = np.mgrid[-1.0 : 1.0 : IMAGE_SIZE * 1j, -1.0 : 1.0 : IMAGE_SIZE * 1j].astype(np.float32)
_ALONG = np.linspace(0.0, 1.0, 8)
_ACROSS = np.linspace(-1.0, 1.0, 13)
_BELL = np.clip(1.0 - _ACROSS**2, 0.0, 1.0)
_ROUND = _BELL**0.6
_BOW = 1.0 - 0.35 * np.exp(-((_ACROSS / 0.2) ** 2))


@dataclass(frozen=True)
class Pose:
    """Pose of the head: angles in radians, scale in canvas pixels per face unit, shift in canvas pixels."""

    roll: float
    yaw: float
    pitch: float
    scale: float
    shift: tuple[float, float]


@dataclass(frozen=True)
class Movement:
    """Movements of the face muscles, 0 at rest and 1 in full, in the spirit of FACS (Ekman & Friesen 1978).

    Attributes:
        inner: inner ends of the brows raised (+) or lowered (-).
        outer: outer ends of the brows raised (+) or lowered (-).
        knit: brows drawn together.
        lid: upper lids raised (+) or lowered (-).
        squint: lower lids and cheeks raised.
        wrinkle: nose wrinkled.
        corner: corners of the mouth up (+) or down (-).
        width: mouth stretched (+) or rounded (-).
        gap: mouth opened.
        upper: upper lip raised.
        press: lips pressed together.
        teeth: share of an open mouth in which teeth are visible.
    """

    inner: float = 0.0
    outer: float = 0.0
    knit: float = 0.0
    lid: float = 0.0
    squint: float = 0.0
    wrinkle: float = 0.0
    corner: float = 0.0
    width: float = 0.0
    gap: float = 0.0
    upper: float = 0.0
    press: float = 0.0
    teeth: float = 0.0


@dataclass(frozen=True)
class Identity:
    """The features of a person: proportions in face coordinates, tones in [0, 255]."""

    head_width: float
    jaw: float
    eye_distance: float
    eye_size: float
    eye_height: float
    eye_slant: float
    brow_lift: float
    brow_arch: float
    brow_weight: float
    nose_length: float
    nose_width: float
    mouth_height: float
    mouth_width: float
    lip: float
    age: float
    skin: float
    hair_tone: float
    hair: str
    beard: bool
    moustache: bool
    glasses: bool


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


def sketch_face(identity: Identity, movement: Movement, gaze: tuple[float, float]) -> Sketch:
    """Sketches the whole head, back to front; ``gaze`` shifts the irises, in shares of the eye's half width."""
    sketch = Sketch()
    _head(sketch, identity)
    _creases(sketch, identity, movement)
    if identity.beard:
        _beard(sketch, identity)
    if identity.hair != "bald":
        _hair(sketch, identity)
    for side in (-1.0, 1.0):
        _eye(sketch, identity, movement, gaze, side)
        _brow(sketch, identity, movement, side)
    _nose(sketch, identity, movement)
    _mouth(sketch, identity, movement)
    if identity.glasses:
        _glasses(sketch, identity)
    return sketch


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


def _outline(identity: Identity, grow: float = 0.0) -> np.ndarray:
    """Returns the outline of the head: an ellipse whose lower half has the width of the identity's jaw."""
    x, y = ellipse(0.0, 0.0, 1.0, 1.0).T
    widened = np.sign(x) * np.abs(x) ** np.where(y > 0, 1.0 - 0.45 * identity.jaw, 1.0)
    return curve(widened * (identity.head_width + grow), y * (1.02 + grow))


def _head(sketch: Sketch, identity: Identity) -> None:
    width, skin, hair = identity.head_width, identity.skin, identity.hair_tone
    neck = np.array([(-0.42, 0.6), (0.42, 0.6), (0.5, 1.9), (-0.5, 1.9)])
    if identity.hair == "long":
        sketch.fill(ellipse(0.0, 0.1, width + 0.28, 1.28), hair, 0.0)
    elif identity.hair == "bun":
        sketch.fill(ellipse(0.0, -1.15, 0.34, 0.3), hair, -0.3)
    sketch.fill(neck, shade(skin, 0.22), 0.0)
    if identity.hair != "long":
        for side in (-1.0, 1.0):
            sketch.fill(ellipse(side * (width + 0.03), -0.02, 0.12, 0.22), shade(skin, 0.1), -0.2)
    outline = _outline(identity)
    sketch.fill(outline, skin, 0.0)
    sketch.line(np.concatenate([outline, outline[:1]]), shade(skin, 0.35), 0.03, 0.0)


def _beard(sketch: Sketch, identity: Identity) -> None:
    """Draws a beard from ear to ear round the chin, up to the nose; it covers the creases beside the mouth."""
    cheek = identity.head_width * 0.7
    edge = [(-cheek, 0.32), (0.0, 0.22), (cheek, 0.32)]
    sketch.fill(np.concatenate([_outline(identity)[1:16], edge]), identity.hair_tone, 0.2)


def _hair(sketch: Sketch, identity: Identity) -> None:
    """Draws the hair on top of the head, from ear to ear over the crown and back along the forehead."""
    crown = _outline(identity, 0.09)[16:]
    along = np.linspace(1.0, -1.0, 9)
    inner = identity.head_width * 0.98
    heights = {
        "short": -0.74 + 0.3 * along**4,
        "fringe": -0.6 + 0.25 * along**4,
        "parted": -0.72 - 0.12 * np.sin(2.5 * along + 0.6) + 0.3 * along**4,
        "long": -0.76 + 0.5 * along**4,
        "bun": -0.78 + 0.35 * along**4,
    }[identity.hair]
    hairline = curve(along * inner, heights)
    sketch.fill(np.concatenate([crown, hairline]), identity.hair_tone, 0.1)


def _creases(sketch: Sketch, identity: Identity, movement: Movement) -> None:
    """Draws the folds of the skin that movement makes: forehead, between the brows, bridge of the nose, cheeks."""
    skin, eyes = identity.skin, identity.eye_height
    raised = max(movement.inner, 0.0) + max(movement.outer, 0.0) + 0.4 * identity.age
    if raised > 0.5 and identity.hair != "fringe":
        for row in range(2):
            arch = eyes - identity.brow_lift - 0.27 - 0.11 * row - 0.03 * _BELL - 0.03 * movement.inner
            sketch.line(curve(0.34 * _ACROSS, arch), shade(skin, min(0.1 + 0.12 * raised, 0.3)), 0.025)
    if movement.knit > 0.35:
        for side in (-1.0, 1.0):
            fold = np.array([(side * 0.05, eyes - 0.34), (side * 0.07, eyes - 0.14)])
            sketch.line(fold, shade(skin, min(0.5 * movement.knit, 0.5)), 0.03)
    if movement.wrinkle > 0.3:
        for row in range(3):
            half = 0.09 + 0.03 * row
            fold = np.array([(-half, eyes + 0.1 * row), (0.0, eyes + 0.05 + 0.1 * row), (half, eyes + 0.1 * row)])
            sketch.line(fold, shade(skin, min(0.5 * movement.wrinkle, 0.5)), 0.035, 1.15)
    cheeks = max(movement.corner, 0.0) + 0.3 * movement.squint + 0.8 * movement.wrinkle + 0.35 * identity.age
    if cheeks > 0.3:
        tone = shade(skin, min(0.08 + 0.18 * cheeks, 0.34))
        top = eyes + identity.nose_length
        for side in (-1.0, 1.0):
            bend = [
                (side * (identity.nose_width + 0.03), top - 0.06),
                (side * (identity.nose_width + 0.14), top + 0.06),
                (side * (identity.mouth_width + 0.12), identity.mouth_height - 0.05),
            ]
            sketch.line(np.array(bend), tone, 0.03)


def _eye(sketch: Sketch, identity: Identity, movement: Movement, gaze: tuple[float, float], side: float) -> None:
    half, skin = identity.eye_size, identity.skin
    x = side * (identity.eye_distance + half * _ACROSS)
    opening = half * max(0.62 * (1.0 + 0.75 * movement.lid), 0.03)
    slant = identity.eye_slant * _ACROSS
    droop = 0.05 * movement.inner * (0.5 - 0.5 * _ACROSS)
    floor = identity.eye_height + slant + half * (0.42 - 0.5 * movement.squint) * _ROUND
    ceiling = np.minimum(identity.eye_height + slant - (opening + droop) * _ROUND, floor)
    sketch.fill(np.stack([np.concatenate([x, x[::-1]]), np.concatenate([ceiling, floor[::-1]])], axis=1), 238.0)

    # The outline of the iris is clipped to the lids at every x.
    order = slice(None, None, int(side))
    iris_x = side * identity.eye_distance + half * gaze[0]
    for radius, tone in ((0.52, 60.0), (0.26, 10.0)):
        ring = ellipse(iris_x, identity.eye_height - 0.1 * half + half * gaze[1], radius * half, radius * half)
        upper = np.interp(ring[:, 0], x[order], ceiling[order])
        lower = np.interp(ring[:, 0], x[order], floor[order])
        ring[:, 1] = np.clip(ring[:, 1], upper, lower)
        sketch.fill(ring, tone)
    dark = min(shade(skin, 0.75), 70.0)
    sketch.line(curve(x, ceiling), dark, 0.05)
    sketch.line(curve(x, floor), shade(skin, 0.4), 0.025)
    if movement.lid > -0.4:
        crease = ceiling - 0.05 - 0.02 * _BELL
        sketch.line(curve(x, crease)[2:-1], shade(skin, 0.25), 0.02)
    if movement.squint > 0.35:
        pouch = floor + 0.08 + 0.03 * _BELL
        sketch.line(curve(x, pouch)[1:-2], shade(skin, min(0.4 * movement.squint, 0.4)), 0.025)


def _brow(sketch: Sketch, identity: Identity, movement: Movement, side: float) -> None:
    start = identity.eye_distance - identity.eye_size * 1.05 - 0.07 * movement.knit
    x = side * (start + _ALONG * identity.eye_size * 2.3)
    rise = 0.21 * (movement.inner * (1.0 - _ALONG) ** 1.3 + movement.outer * _ALONG**1.3)
    arch = (identity.brow_arch + 0.04 * min(movement.inner, movement.outer)) * 4.0 * _ALONG * (1.0 - _ALONG)
    y = identity.eye_height - identity.brow_lift - rise - arch + 0.03 * _ALONG + 0.05 * movement.wrinkle
    weight = identity.brow_weight * (0.8 + 0.5 * _ALONG - 1.0 * _ALONG**3)
    upper, lower = curve(x, y - weight), curve(x, y + weight)
    tone = min(identity.hair_tone, shade(identity.skin, 0.45))
    sketch.fill(np.concatenate([upper, lower[::-1]]), tone)


def _nose(sketch: Sketch, identity: Identity, movement: Movement) -> None:
    skin, wide = identity.skin, identity.nose_width * (1.0 + 0.2 * movement.wrinkle)
    tip = identity.eye_height + identity.nose_length - 0.06 * movement.wrinkle
    bridge = np.array([(0.06, identity.eye_height), (0.07, tip - 0.2), (wide * 0.9, tip - 0.04)])
    sketch.line(bridge, shade(skin, 0.2), 0.03, 1.25)
    under = np.array([(-wide, tip - 0.06), (-wide * 0.8, tip + 0.02), (-wide * 0.3, tip), (0.0, tip + 0.05)])
    mirrored = under[::-1] * (-1.0, 1.0)
    sketch.line(np.concatenate([under, mirrored]), shade(skin, 0.45), 0.04, 1.2)
    for side in (-1.0, 1.0):
        sketch.fill(ellipse(side * wide * 0.5, tip + 0.01, 0.04, 0.025), shade(skin, 0.7), 1.2)


def _mouth(sketch: Sketch, identity: Identity, movement: Movement) -> None:
    skin, gap = identity.skin, max(movement.gap, 0.0)
    x = identity.mouth_width * (1.0 + 0.36 * movement.width) * _ACROSS
    middle = identity.mouth_height - 0.22 * movement.corner * (_ACROSS**2 - 0.4)
    middle = middle - 0.11 * movement.upper * (1.0 - np.abs(_ACROSS) ** 3)
    upper_in = middle - (0.12 * gap + 0.05 * movement.upper) * _ROUND
    lower_in = middle + 0.36 * gap * _ROUND
    thick = identity.lip * (1.0 - 0.75 * min(max(movement.press, 0.0), 1.0))
    upper_out = upper_in - thick * _BELL**0.7 * _BOW
    lower_out = lower_in + 1.25 * thick * _BELL
    if identity.moustache:
        top = upper_out - 0.04 - 0.1 * _ROUND * _BOW
        sketch.fill(_band(x, top, upper_out - 0.01), identity.hair_tone)
    sketch.fill(_band(x, upper_out, lower_out), shade(skin, 0.32))
    if gap > 0.08 or movement.upper > 0.4:
        sketch.fill(_band(x, upper_in, lower_in), min(skin * 0.25, 30.0))
        if movement.teeth > 0.25:
            edge = np.minimum(upper_in + 0.15 * movement.teeth * _ROUND, lower_in - 0.012)
            sketch.fill(_band(x[1:-1], upper_in[1:-1], np.maximum(edge, upper_in)[1:-1]), 235.0)
        if gap > 0.55:
            tongue = np.maximum(lower_in - 0.13 * _BELL, upper_in)
            sketch.fill(_band(x[3:-3], tongue[3:-3], lower_in[3:-3]), shade(skin, 0.5))
    else:
        sketch.line(curve(x, (upper_in + lower_in) / 2), min(shade(skin, 0.75), 70.0), 0.045)
    if movement.corner < -0.3:
        chin = identity.mouth_height + 0.3 + 0.3 * gap + 0.03 * _BELL
        sketch.line(curve(0.4 * x, chin - 0.06 * _BELL), shade(skin, 0.22), 0.03)


def _band(x: np.ndarray, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Returns the polygon between two curves over the same x."""
    return np.stack([np.concatenate([x, x[::-1]]), np.concatenate([upper, lower[::-1]])], axis=1)


def _glasses(sketch: Sketch, identity: Identity) -> None:
    tone = 25.0 if identity.skin > 110.0 else 225.0
    radius = identity.eye_size * 1.35
    for side in (-1.0, 1.0):
        rim = ellipse(side * identity.eye_distance, identity.eye_height + 0.02, radius, radius * 0.9)
        sketch.line(np.concatenate([rim, rim[:1]]), tone, 0.035)
        inner, outer = side * (identity.eye_distance - radius), side * (identity.eye_distance + radius)
        sketch.line(np.array([(outer, identity.eye_height), (side * identity.head_width, -0.1)]), tone, 0.03)
        sketch.line(np.array([(inner, identity.eye_height), (0.0, identity.eye_height - 0.03)]), tone, 0.03)
