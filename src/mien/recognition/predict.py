"""Reading single face crops with a trained classifier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mien.model.classifier import Classifier

LARGEST_SIDE = 8192
"""Pixels along a side beyond which a face crop is taken for a mistake or an attack."""


def predict(paths: Sequence[str | Path], classifier: Classifier) -> list[dict[str, Any]]:
    """Reads pictures that each hold one cropped face.

    The answers are guesses about how a face looks, not about what a person feels.

    Args:
        paths: pictures in any format that Pillow reads, grey or colour, of any size.
        classifier: a trained classifier.

    Returns:
        A record for every path, in order: ``input``, ``status`` (ok or error), ``error`` (the reason, or None),
        ``label``, ``score`` (its probability, in [0, 1]) and ``emotions`` (the probability of each class; they sum
        to 1).
    """
    return [_record(path, classifier) for path in paths]


def read_picture(path: str | Path) -> np.ndarray:
    """Decodes a picture, upright.

    Returns:
        uint8 [H, W] where the file is grey, uint8 [H, W, 3] (RGB) otherwise.

    Raises:
        ValueError: the file is no picture, is cut short, or is larger than a face crop can be.
        OSError: the file cannot be opened.
    """
    try:
        with Image.open(path) as picture:
            if max(picture.size) > LARGEST_SIDE:
                raise ValueError(f"is {picture.width}x{picture.height} pixels, expected at most {LARGEST_SIDE} a side")
            upright = ImageOps.exif_transpose(picture)
            return np.asarray(upright if upright.mode == "L" else upright.convert("RGB"))
    except UnidentifiedImageError as error:
        raise ValueError("is not a picture that Pillow reads") from error
    except (SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot be decoded ({error})") from error


def _record(path: str | Path, classifier: Classifier) -> dict[str, Any]:
    record: dict[str, Any] = {"input": str(path), "status": "ok", "error": None}
    try:
        picture = read_picture(path)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        return {**record, "status": "error", "error": f"{path}: {reason}", "label": None, "score": None, "emotions": {}}
    logits = classifier.logits(picture[None], quiet=True)[0].astype(np.float64)
    exponentials = np.exp(logits - logits.max())
    probabilities = exponentials / exponentials.sum()
    best = int(probabilities.argmax())
    emotions = {name: float(value) for name, value in zip(classifier.names, probabilities, strict=True)}
    return {**record, "label": classifier.names[best], "score": float(probabilities[best]), "emotions": emotions}
