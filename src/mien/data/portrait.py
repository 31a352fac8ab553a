"""Draws the parts of a face: head, hair, creases, eyes, brows, nose, mouth and glasses, for an identity and a movement.

Face coordinates and tones are those of ``mien.data.sketch``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mien.data.sketch import Sketch, curve, ellipse, shade

HAIR: tuple[str, ...] = ("bald", "short", "fringe", "parted", "long", "bun")
"""Hair styles of an identity."""

_ALONG = np.linspace(0.0, 1.0, 8)
_ACROSS = np.linspace(-1.0, 1.0, 13)
_BELL = np.clip(1.0 - _ACROSS**2, 0.0, 1.0)
_ROUND = _BELL**0.6
_BOW = 1.0 - 0.35 * np.exp(-((_ACROSS / 0.2) ** 2))


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
    sketch.fill(_band(x, ceiling, floor), 238.0)

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
    sketch.fill(_band(x, y - weight, y + weight), min(identity.hair_tone, shade(identity.skin, 0.45)))


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
