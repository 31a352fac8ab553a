"""Draws faces in seven expressions: a seeded stand-in for real faces, so that everything runs without a download.

The drawings are grey, 48x48. Identity, head pose, light, polarity, noise and occlusion change the pixels more than the
expression does, and expressions have all strengths and blends, so no pixel gives a class away. A score on drawn faces
shows that the software works; it says nothing about real faces.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np
from PIL import Image

from mien.data.faces import OFFICIAL_SPLITS, SPLITS, FaceSet, fingerprint_of
from mien.data.portrait import HAIR, Identity, Movement, sketch_face
from mien.data.sketch import IMAGE_SIZE, Pose, backdrop, occlude, photograph
from mien.errors import MienError
from mien.files import atomic_file
from mien.labels import FER2013, canonical

EXPRESSIONS: dict[str, tuple[Movement, ...]] = {
    "angry": (
        Movement(inner=-1.0, outer=0.25, knit=1.0, lid=0.1, squint=0.4, press=1.0, width=-0.15, corner=-0.35),
        Movement(inner=-1.0, outer=0.3, knit=1.0, lid=0.2, squint=0.3, gap=0.6, teeth=1.0, width=0.1, corner=-0.5),
    ),
    "disgust": (
        Movement(inner=-0.6, outer=-0.3, knit=0.5, lid=-0.4, squint=0.8, wrinkle=1.0, upper=1.0, corner=-0.4),
        Movement(
            inner=-0.5,
            outer=-0.3,
            knit=0.4,
            lid=-0.5,
            squint=0.8,
            wrinkle=1.0,
            upper=1.0,
            corner=-0.5,
            gap=0.5,
            teeth=0.4,
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
"""Full movement of each expression, in one or two forms (for example mouth closed and open) that are blended."""

_MOVES: tuple[str, ...] = tuple(field.name for field in fields(Movement))
_FORMS: dict[str, np.ndarray] = {
    name: np.array([[getattr(form, move) for move in _MOVES] for form in forms]) for name, forms in EXPRESSIONS.items()
}

_PREFIX: dict[str, str] = {split: prefix for prefix, split in OFFICIAL_SPLITS.items()}


def draw_face(expression: str, rng: np.random.Generator) -> np.ndarray:
    """Draws a face with an expression; ``rng`` decides everything else.

    Args:
        expression: a class name of FER2013, or an alias.
        rng: decides identity, strength of the expression, pose, light and disturbances.

    Returns:
        uint8 [48, 48].

    Raises:
        MienError: there is no such expression.
    """
    name = canonical(expression)
    if name not in _FORMS:
        raise MienError(f"cannot draw {expression!r}; there is {', '.join(FER2013)}")
    negative = rng.random() < 0.13
    identity = _identity(rng, negative)
    pose = _pose(rng)
    sketch = sketch_face(identity, _movement(name, rng), gaze=tuple(rng.uniform(-0.3, 0.3, 2)))
    canvas = backdrop(rng)
    sketch.paint(canvas, pose)
    occlude(canvas, identity.skin, pose, rng)
    return photograph(canvas, negative, rng)


def draw_faces(train: int = 4000, validation: int = 1000, test: int = 1000, seed: int = 0) -> FaceSet:
    """Draws a set; in each split the class counts differ by at most one.

    A picture and its id depend on (seed, split, index in the split) only: a larger set of the same seed contains the
    smaller set. Rows are in alphabetical order of their ids, as ``read_faces`` returns them from the written archive,
    so both have the same fingerprint.

    Args:
        train: number of training pictures.
        validation: number of validation pictures.
        test: number of test pictures.
        seed: seed of all drawings, at least 0.

    Raises:
        MienError: a count or the seed is negative, all counts are 0, or the training pictures lack an expression
            that another split has.
    """
    counts = {"train": train, "validation": validation, "test": test}
    wrong = [f"{name} {value}" for name, value in {**counts, "seed": seed}.items() if value < 0]
    if wrong or not sum(counts.values()):
        remedy = "give numbers of at least 0" if wrong else "give at least one picture"
        raise MienError(f"cannot draw faces with {', '.join(wrong) or 'no pictures at all'}; {remedy}")
    if 0 < train < min(len(FER2013), max(validation, test)):
        raise MienError(
            f"cannot draw {train} training pictures, as another split would have expressions that they lack; give at "
            f"least {len(FER2013)}, or none"
        )
    drawn = {_member(split, index): (split, index) for split in SPLITS for index in range(counts[split])}
    ids = sorted(drawn)
    images = np.empty((len(ids), IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    labels = np.empty(len(ids), np.int64)
    for row, name in enumerate(ids):
        split, index = drawn[name]
        images[row] = draw_face(_expression(index), np.random.default_rng([seed, SPLITS.index(split), index]))
        labels[row] = FER2013.index(_expression(index))
    splits = np.array([drawn[name][0] for name in ids])
    return FaceSet(
        images=images,
        labels=labels,
        splits=splits,
        ids=np.array(ids),
        names=FER2013,
        source=f"drawn faces, seed {seed}",
        fingerprint=fingerprint_of(images, labels, splits, FER2013),
        warnings=("these are drawings: scores on them say nothing about real faces",),
    )


def write_archive(path: Path, faces: FaceSet) -> None:
    """Writes drawn faces as a zip archive in the layout of FER2013 on Kaggle, atomically.

    Members are lossless and named by the ids: ``train/angry/Training_000001.png``,
    ``test/happy/PublicTest_000004.png``, and so on. ``read_faces`` returns the same set; equal sets give equal bytes.

    Raises:
        MienError: the ids are not those of drawn faces, or the file cannot be written.
    """
    for name, label, split in zip(faces.ids, faces.labels, faces.splits, strict=True):
        start = f"{_folder(split)}/{faces.names[label]}/{_PREFIX[split]}_"
        if not (name.startswith(start) and name.endswith(".png")):
            raise MienError(f"{faces.source}: {name} does not fit {start}*.png; write only sets made by draw_faces")
    with (
        atomic_file(path, spare_newcomer=True) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
    ):
        for name, image in zip(faces.ids, faces.images, strict=True):
            png = io.BytesIO()
            Image.fromarray(image).save(png, format="PNG")
            # ZipInfo dates a member 1980, not today, so that equal sets give equal bytes.
            member = zipfile.ZipInfo(str(name))
            member.external_attr = 0o644 << 16
            archive.writestr(member, png.getvalue())


def _expression(index: int) -> str:
    return FER2013[index % len(FER2013)]


def _folder(split: str) -> str:
    return "train" if split == "train" else "test"


def _member(split: str, index: int) -> str:
    """Returns the path of a picture in the archive; numbers start from 1, as FER2013's do."""
    return f"{_folder(split)}/{_expression(index)}/{_PREFIX[split]}_{index + 1:06d}.png"


def _movement(expression: str, rng: np.random.Generator) -> Movement:
    """Draws a random strength of the expression and blend of its forms, plus small random movements."""
    forms = _FORMS[expression]
    blend = rng.beta(0.4, 0.4)
    full = forms[0] * (1.0 - blend) + forms[-1] * blend
    strength = 0.5 + 0.65 * rng.beta(2.5, 1.0)
    values = strength * full + rng.normal(0.0, 0.07, len(full))
    return Movement(*values.tolist())


def _identity(rng: np.random.Generator, negative: bool) -> Identity:
    """Draws a random identity; for a negative with dark skin, since the negative of a light face is a caricature."""
    r = rng.random(23).tolist()
    skin = 60.0 + 60.0 * r[0] if negative else 80.0 + 155.0 * r[0] ** 0.6
    hair_tone = 15.0 + 60.0 * r[1] if negative or r[2] < 0.75 else 120.0 + 100.0 * r[1]
    if abs(hair_tone - skin) < 35.0:
        hair_tone = max(skin - 55.0, 5.0)
    bearded = not negative and r[3] < 0.5
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
        beard=bearded and r[20] < 0.14,
        moustache=bearded and r[21] < 0.2,
        glasses=r[22] < 0.14,
    )


def _pose(rng: np.random.Generator) -> Pose:
    roll, yaw, pitch = (rng.normal(0.0, 1.0, 3) * (0.09, 0.15, 0.07)).tolist()
    dx, dy = rng.uniform(-9.0, 9.0, 2).tolist()
    return Pose(roll=roll, yaw=yaw, pitch=pitch, scale=float(rng.uniform(88.0, 104.0)), shift=(dx, dy))
