"""Reading single face crops with a trained classifier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mien.data.pictures import read_picture
from mien.errors import MienError
from mien.model.classifier import Classifier


def predict(paths: Sequence[str | Path], classifier: Classifier) -> list[dict[str, Any]]:
    """Reads pictures that each hold one cropped face.

    The answers are guesses about how a face looks, not about what a person feels.

    Args:
        paths: pictures as ``mien.data.pictures.read_picture`` takes them, grey or colour, of any shape.
        classifier: a trained classifier.

    Returns:
        A record for every path, in order: ``input``, ``status`` (ok or error), ``error`` (the reason, or None),
        ``label``, ``score`` (its probability, in [0, 1]) and ``emotions`` (the probability of each class; they sum
        to 1).

    Raises:
        MienError: the classifier answers with NaN or infinity.
    """
    return [_record(path, classifier) for path in paths]


def _record(path: str | Path, classifier: Classifier) -> dict[str, Any]:
    record: dict[str, Any] = {"input": str(path), "status": "ok", "error": None}
    try:
        picture = read_picture(path)
    except MienError as error:
        return {**record, "status": "error", "error": str(error), "label": None, "score": None, "emotions": {}}
    logits = classifier.logits(picture[None], quiet=True)[0].astype(np.float64)
    if not np.isfinite(logits).all():
        raise MienError(
            f"{classifier.folder or 'the model'}: answers {path} with NaN or infinity, expected numbers; its weights "
            "are damaged: copy the whole folder again, or train anew"
        )
    exponentials = np.exp(logits - logits.max())
    probabilities = exponentials / exponentials.sum()
    best = int(probabilities.argmax())
    emotions = {name: float(value) for name, value in zip(classifier.names, probabilities, strict=True)}
    return {**record, "label": classifier.names[best], "score": float(probabilities[best]), "emotions": emotions}
