"""Accuracy of a classifier on pictures made worse: dark, blurred, tilted, half covered.

Follows the common corruptions of Hendrycks and Dietterich (2019, arXiv:1903.12261), with one strength each, and adds
covered parts, as by a mask or sunglasses. Strengths are shares of the picture's side, so they mean the same at every
size.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from mien.data.faces import FaceSet
from mien.data.images import gaussian_blur
from mien.errors import NO_NUMBERS, MienError
from mien.evaluation.evaluate import Reads
from mien.evaluation.metrics import paired_difference, quick_scores

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""Changes a picture, uint8 [S, S] or [S, S, 3], to one of the same shape; takes its own random numbers."""


def _scaled(share: float, around: float) -> Change:
    """Multiplies the distances from the grey value ``around`` (0 to 255) by ``share``."""

    def change(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
        return _grey(around + share * (image.astype(np.float32) - around))

    return change


def _blurred(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return gaussian_blur(image, image.shape[0] / 32)


def _noisy(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return _grey(image + random.normal(0, 20, image.shape))


def _coarse(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    side = image.shape[0]
    half = (max(1, side // 2), max(1, side // 2))
    small = Image.fromarray(image).resize(half, Image.Resampling.BOX)
    return np.asarray(small.resize((side, side), Image.Resampling.BILINEAR))


def _compressed(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=20)
    return np.asarray(Image.open(stream))


def _tilted(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    side = image.shape[0]
    room = math.ceil(side / 5)  # turned about the middle by 15 degrees, a corner lies an eighth of the side outside
    extended = Image.fromarray(_extended(image, room))
    turned = np.asarray(extended.rotate(random.choice([-15.0, 15.0]), Image.Resampling.BILINEAR))
    return turned[room : room + side, room : room + side]


def _shifted(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    side = image.shape[0]
    room = round(side / 10)
    right, down = random.choice([-1, 1], 2) * room
    return _extended(image, room)[room - down :][:side, room - right :][:, :side]


def _extended(image: np.ndarray, room: int) -> np.ndarray:
    """The picture with its edge pixels repeated outwards, ``room`` times on every side."""
    return np.pad(image, [(room, room), (room, room), (0, 0)][: image.ndim], mode="edge")


def _covered(top: float, bottom: float) -> Change:
    """Paints the rows between two shares of the height in the mean colour of the picture."""

    def change(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
        covered = image.copy()
        side = image.shape[0]
        covered[round(top * side) : round(bottom * side)] = image.mean(axis=(0, 1))
        return covered

    return change


CHANGES: dict[str, tuple[str, Change]] = {
    "dark": ("at half the brightness", _scaled(0.5, 0.0)),
    "bright": ("halfway to white", _scaled(0.5, 255.0)),
    "flat": ("at half the contrast", _scaled(0.5, 128.0)),
    "blurred": ("by a Gaussian, its deviation 1/32 of the side", _blurred),
    "noisy": ("Gaussian, its deviation 20 grey levels", _noisy),
    "coarse": ("at half the resolution", _coarse),
    "compressed": ("JPEG of quality 20", _compressed),
    "tilted": ("by 15 degrees to either side", _tilted),
    "shifted": ("by a tenth of the side, both ways", _shifted),
    "eyes covered": ("rows from 0.2 to 0.45 of the height in one grey", _covered(0.2, 0.45)),
    "mouth covered": ("rows from 0.6 to 1 of the height in one grey", _covered(0.6, 1.0)),
}
"""The changes by name: a description for tables, and the function."""


def robustness(
    classifier: Reads, faces: FaceSet, split: str, *, seed: int = 0, batch_size: int = 256
) -> list[dict[str, Any]]:
    """Accuracy and macro-F1 on a split with changed pictures, for each change.

    Args:
        classifier: the labels are matched to it by name.
        faces: the data; only ``split`` is used.
        split: ``train``, ``validation`` or ``test``.
        seed: of noise and directions; one seed gives every model the same pictures.
        batch_size: pictures per forward pass.

    Returns:
        One row per change, first the unchanged pictures as ``none``: ``change``, ``how``, ``accuracy``, ``macro_f1``,
        and the difference in accuracy from the unchanged ones as ``difference`` and ``difference_ci95``
        (``mien.evaluation.metrics.paired_difference``).

    Raises:
        MienError: the data has no such split or a class that the classifier does not know.
    """
    part = faces.part(split)
    labels = part.labels_in(classifier.names)
    changes = {"none": ("as they are", _same), **CHANGES}
    predictions = {}
    for name, (_, change) in changes.items():
        logits = classifier.logits(changed(part.images, change, seed), batch_size=batch_size, quiet=True)
        if not np.isfinite(logits).all():
            raise MienError(f"the model answers pictures changed by {name!r} with {NO_NUMBERS}")
        predictions[name] = logits.argmax(axis=1)
    unchanged = predictions["none"] == labels
    rows = []
    for name, (how, _) in changes.items():
        scores = quick_scores(predictions[name], labels, len(classifier.names))
        difference = paired_difference(predictions[name] == labels, unchanged)
        rows.append(
            {
                "change": name,
                "how": how,
                "accuracy": scores["accuracy"],
                "macro_f1": scores["macro_f1"],
                "difference": difference["difference"],
                "difference_ci95": difference["ci95"],
            }
        )
    return rows


def changed(images: np.ndarray, change: Change, seed: int) -> np.ndarray:
    """Changes every picture of uint8 [N, S, S] or [N, S, S, 3]; each has its own seed, from ``seed`` and its row."""
    return np.stack([change(image, np.random.default_rng([seed, row])) for row, image in enumerate(images)])


def _same(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return image


def _grey(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
