"""Drawn faces: a seeded stand-in for real ones, so that the whole path runs without a download.

Seven expressions as grey 48x48 drawings. Identity, head pose, light, polarity, noise and occlusion vary more than the
expression does, and expressions come in all strengths down to hardly visible, so that no pixel gives a class away.
A score on drawn faces says that the machinery works; it says nothing about real faces.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mien.data.drawing import CANVAS, HAIR, Identity, Movement, Pose, ellipse, shade, sketch_face
from mien.data.faces import SPLITS, FaceSet
from mien.errors import MienError
from mien.files import atomic_file
from mien.labels import FER2013, canonical

IMAGE_SIZE = 48

EXPRESSIONS: dict[str, tuple[Movement, ...]] = {
    "angry": (
        Movement(inner=-1.0, outer=0.25, knit=1.0, lid=0.1, squint=0.4, press=1.0, width=-0.15, corner=-0.35),
        Movement(inner=-1.0, outer=0.3, knit=1.0, lid=0.2, squint=0.3, gap=0.6, teeth=1.0, width=0.1, corner=-0.5),
    ),
    "disgust": (
        Movement(inner=-0.6, outer=-0.3, knit=0.5, lid=-0.4, squint=0.8, wrinkle=1.0, upper=1.0, corner=-0.4),
        Movement(
            inner=-0.5, outer=-0.3, knit=0.4, lid=-0.5, squint=0.8, wrinkle=1.0, upper=1.0, corner=-0.5, gap=0.5, teeth=0.4
        ),
    ),
    "fear": (
        Movement(inner=1.0, outer=0.15, knit=0.8, lid=1.0, width=0.4, corner=-0.5, gap=0.45, teeth=0.6),
        Movement(inner=1.0, outer=0.3, knit=0.8, lid=0.9, width=0.55, corner=-0.6, gap=0.2, teeth=0.4),
    ),
    "happy": (
        Movement(outer=0.15, lid=-0.1, squint=0.6, corner=1.0, width=0.4),
        Movement(outer=0.2, lid=-0.2, squint=0.85, corner=1.0, width=0.5, gap=0.5, teeth=1.0),
    ),
    "sad": (
        Movement(inner=0.9, outer=-0.6, knit=0.4, lid=-0.4, corner=-1.0, width=-0.1),
        Movement(inner=1.0, outer=-0.6, knit=0.5, lid=-0.9, squint=0.3, corner=-1.0, gap=0.2, width=0.1),
    ),
    "surprise": (
        Movement(inner=1.0, outer=1.0, lid=1.0, gap=1.0, width=-0.5),
        Movement(inner=0.9, outer=0.9, lid=0.8, gap=0.55, width=-0.6),
    ),
    "neutral": (Movement(),),
}
"""For each expression its full movement, in one or two forms (mouth closed or open, say) that are blended."""

_MOVES: tuple[str, ...] = tuple(field.name for field in fields(Movement))
_FORMS: dict[str, np.ndarray] = {
    name: np.array([[getattr(form, move) for move in _MOVES] for form in forms])
    for name, forms in EXPRESSIONS.items()
}
_ROWS, _COLUMNS = np.mgrid[-1.0 : 1.0 : IMAGE_SIZE * 1j, -1.0 : 1.0 : IMAGE_SIZE * 1j].astype(np.float32)

_PREFIX: dict[str, tuple[str, str]] = {
    "train": ("train", "Training"),
    "validation": ("test", "PublicTest"),
    "test": ("test", "PrivateTest"),
}
"""For each split its folder and file-name prefix in the Kaggle archive."""


def draw_face(expression: str, rng: np.random.Generator) -> np.ndarray:
    """Draws one face with the given expression; everything else about it comes from ``rng``.

    Args:
        expression: one of the seven names of FER2013, or an alias of one.
        rng: decides identity, strength of the expression, pose, light and disturbances.

    Returns:
        uint8 [48, 48].

    Raises:
        MienError: there is no such expression.
    """
    name = canonical(expression)
    if name not in _FORMS:
        raise MienError(f"cannot draw {expression!r}; there is {', '.join(FER2013)}")
    identity = _identity(rng)
    pose = _pose(rng)
    sketch = sketch_face(identity, _movement(name, rng), gaze=tuple(rng.uniform(-0.3, 0.3, 2)))
    canvas = _background(rng)
    sketch.paint(canvas, pose)
    _occlude(canvas, identity, pose, rng)
    return _photograph(canvas, rng)


def draw_faces(train: int = 4000, validation: int = 1000, test: int = 1000, seed: int = 0) -> FaceSet:
    """Draws a whole set, its classes equally often (within one) in each split.

    Each picture is a function of (seed, split, its index in the split) alone: a larger set of the same seed begins
    with the pictures of a smaller one.

    Args:
        train: pictures of the training split; the other splits likewise.
        validation: pictures of the validation split.
        test: pictures of the test split.
        seed: at least 0.

    Raises:
        MienError: a count or the seed is negative, or all counts are 0.
    """
    counts = {"train": train, "validation": validation, "test": test}
    wrong = [f"{name} {value}" for name, value in {**counts, "seed": seed}.items() if value < 0]
    if wrong or not sum(counts.values()):
        raise MienError(f"cannot draw faces with {', '.join(wrong) or 'no pictures at all'}; give numbers of at least 0")
    splits = np.repeat(SPLITS, [counts[split] for split in SPLITS])
    labels = np.concatenate([np.arange(counts[split]) % len(FER2013) for split in SPLITS])
    images = np.empty((len(labels), IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    rows = iter(range(len(labels)))
    for part, split in enumerate(SPLITS):
        for index in range(counts[split]):
            row = next(rows)
            images[row] = draw_face(FER2013[labels[row]], np.random.default_rng([seed, part, index]))
    return FaceSet(
        images=images,
        labels=labels.astype(np.int64),
        splits=splits,
        ids=np.array(_members(labels, splits, FER2013)),
        names=FER2013,
        source=f"drawn faces, seed {seed}",
        fingerprint="",
        warnings=("these are drawings: scores on them say nothing about real faces",),
    )


def write_archive(path: Path, faces: FaceSet) -> None:
    """Writes grey faces as a zip in the layout of FER2013 on Kaggle, atomically; equal sets give equal bytes.

    Members are lossless: ``train/angry/Training_000001.png``, ``test/happy/PublicTest_000002.png``, and so on.

    Raises:
        MienError: the set is in colour, or the file cannot be written.
    """
    if not faces.is_grey:
        raise MienError(f"{faces.source}: only grey faces can be written in FER2013's layout; these are in colour")
    members = _members(faces.labels, faces.splits, faces.names)
    with atomic_file(Path(path)) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for member, image in zip(members, faces.images, strict=True):
            png = io.BytesIO()
            Image.fromarray(image).save(png, format="PNG")
            # The constructor's date of 1980, not today's, and PNG data that is already compressed.
            archive.writestr(zipfile.ZipInfo(member), png.getvalue())


def _members(labels: np.ndarray, splits: np.ndarray, names: tuple[str, ...]) -> list[str]:
    """The archive's member of each picture, numbered within its split from 1."""
    seen = dict.fromkeys(SPLITS, 0)
    members = []
    for label, split in zip(labels, splits, strict=True):
        seen[split] += 1
        folder, prefix = _PREFIX[split]
        members.append(f"{folder}/{names[label]}/{prefix}_{seen[split]:06d}.png")
    return members


def _movement(expression: str, rng: np.random.Generator) -> Movement:
    """The expression in some strength, some blend of its forms, over a face that is never quite at rest."""
    forms = _FORMS[expression]
    blend = rng.beta(0.4, 0.4)
    full = forms[0] * (1.0 - blend) + forms[-1] * blend
    strength = 0.5 + 0.65 * rng.beta(2.5, 1.0)
    values = strength * full + rng.normal(0.0, 0.07, len(full))
    return Movement(*values.tolist())


def _identity(rng: np.random.Generator) -> Identity:
    r = rng.random(24).tolist()
    skin = 80.0 + 155.0 * r[0] ** 0.6
    hair_tone = 15.0 + 60.0 * r[1] if r[2] < 0.75 else 120.0 + 100.0 * r[1]
    if abs(hair_tone - skin) < 35.0:
        hair_tone = skin - 55.0
    male = r[3] < 0.5
    return Identity(
        head_width=0.72 + 0.16 * r[4],
        jaw=r[5],
        eye_distance=0.36 + 0.05 * r[6],
        eye_size=0.19 + 0.05 * r[7],
        eye_height=-0.18 + 0.1 * r[8],
        eye_slant=0.05 * (r[9] - 0.6),
        brow_lift=0.26 + 0.07 * r[10],
        brow_arch=0.02 + 0.05 * r[11],
        brow_weight=0.038 + 0.032 * r[12],
        nose_length=0.36 + 0.1 * r[13],
        nose_width=0.12 + 0.06 * r[14],
        mouth_height=0.52 + 0.08 * r[15],
        mouth_width=0.33 + 0.09 * r[16],
        lip=0.04 + 0.05 * r[17],
        age=max(0.0, r[18] * 2.0 - 1.0),
        skin=skin,
        hair_tone=hair_tone,
        hair=HAIR[int(r[19] * len(HAIR))],
        beard=male and r[20] < 0.14,
        moustache=male and r[21] < 0.2,
        glasses=r[22] < 0.14,
    )


def _pose(rng: np.random.Generator) -> Pose:
    roll, yaw, pitch = (rng.normal(0.0, 1.0, 3) * (0.09, 0.15, 0.07)).tolist()
    dx, dy = rng.uniform(-4.5, 4.5, 2).tolist()
    return Pose(roll=roll, yaw=yaw, pitch=pitch, scale=float(rng.uniform(44.0, 52.0)), shift=(dx, dy))


def _background(rng: np.random.Generator) -> np.ndarray:
    """A plain, sloping or cluttered backdrop, uint8 [CANVAS, CANVAS]."""
    corners = rng.uniform(20.0, 235.0) + rng.normal(0.0, 25.0, (2, 2))
    backdrop = cv2.resize(np.clip(corners, 0, 255).astype(np.uint8), (CANVAS, CANVAS), interpolation=cv2.INTER_LINEAR)
    for _ in range(int(rng.integers(0, 4))):
        x, y, width, height, tone = (rng.random(5) * (CANVAS, CANVAS, 30, 60, 255)).tolist()
        cv2.rectangle(backdrop, (int(x), int(y)), (int(x + width), int(y + height)), tone, cv2.FILLED)
    return backdrop


def _occlude(canvas: np.ndarray, identity: Identity, pose: Pose, rng: np.random.Generator) -> None:
    """Sometimes puts a bar or a hand before a part of the face, in place."""
    kind = rng.random()
    if kind < 0.1:
        _bar(canvas, rng)
    elif kind < 0.18:
        _hand(canvas, identity, pose, rng)


def _bar(canvas: np.ndarray, rng: np.random.Generator) -> None:
    angle, offset, tone = rng.uniform(0.0, math.pi), rng.uniform(-40.0, 40.0), rng.uniform(0.0, 255.0)
    along = np.array([math.cos(angle), math.sin(angle)])
    middle = CANVAS / 2 + offset * np.array([-along[1], along[0]])
    start, end = np.rint(middle - CANVAS * along).astype(int), np.rint(middle + CANVAS * along).astype(int)
    cv2.line(canvas, start.tolist(), end.tolist(), tone, int(rng.integers(5, 12)), cv2.LINE_AA)


def _hand(canvas: np.ndarray, identity: Identity, pose: Pose, rng: np.random.Generator) -> None:
    """A palm that comes in from below or the side with four fingers on cheek, chin or forehead."""
    side = -1.0 if rng.random() < 0.5 else 1.0
    angle = rng.uniform(-0.5, 0.5)
    knuckles = np.array([side * rng.uniform(0.5, 0.9), rng.uniform(0.3, 0.9)])
    upward = np.array([-side * math.sin(0.5 + angle), -math.cos(0.5 + angle)])
    across = np.array([-upward[1], upward[0]])
    skin, scale = shade(identity.skin, 0.06), pose.scale
    centre = CANVAS / 2 + np.array(pose.shift)

    def pixel(point: np.ndarray) -> list[int]:
        return np.rint(centre + scale * point).astype(int).tolist()

    palm = knuckles - 0.3 * upward
    cv2.circle(canvas, pixel(palm), int(0.32 * scale), skin, cv2.FILLED, cv2.LINE_AA)
    for finger, length in enumerate((0.42, 0.52, 0.5, 0.38)):
        root = knuckles + (finger - 1.5) * 0.16 * across
        tip = root + length * upward
        cv2.line(canvas, pixel(root), pixel(tip), shade(identity.skin, 0.4), int(0.17 * scale), cv2.LINE_AA)
        cv2.line(canvas, pixel(root), pixel(tip), skin, int(0.13 * scale), cv2.LINE_AA)


def _photograph(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a poor camera makes of the canvas: light from a side, blur, exposure, sometimes a negative, and noise."""
    picture = cv2.resize(canvas, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_AREA).astype(np.float32)
    angle, slope = rng.uniform(0.0, 2.0 * math.pi), rng.uniform(0.0, 0.4)
    picture *= 1.0 + slope * (math.cos(angle) * _COLUMNS + math.sin(angle) * _ROWS)
    if rng.random() < 0.35:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 0.9))
    contrast = rng.uniform(0.6, 1.1)
    picture = (picture - 128.0) * contrast + 128.0 + rng.uniform(-30.0, 30.0)
    picture += rng.standard_normal(picture.shape, np.float32) * contrast * rng.uniform(1.0, 8.0)
    return np.clip(np.rint(picture), 0.0, 255.0).astype(np.uint8)
