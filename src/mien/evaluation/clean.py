"""The clean part of a split: the pictures whose photograph a classifier has not been trained on."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from mien.data.faces import FaceSet
from mien.data.sketches import Sketches, has_sketched_twin
from mien.data.twins import has_twin


class Trained(Protocol):
    """What is asked of a classifier to know what it was trained on."""

    def meta(self) -> dict[str, Any]:
        """The model's ``meta.json``."""
        ...

    def sketches(self) -> Sketches | None:
        """Sketches of the training pictures, if the model's folder has them."""
        ...


def trained_on(faces: FaceSet, classifier: Trained) -> np.ndarray | Sketches | None:
    """What a classifier was trained on: this data's training pictures, if its record says so; else its sketches.

    The training split of other data says nothing about what the classifier has seen.
    """
    same = classifier.meta().get("data", {}).get("fingerprint") == faces.fingerprint
    return faces.part("train").images if same and faces.has("train") else classifier.sketches()


def twins_in_training(images: np.ndarray, training: np.ndarray | Sketches | None) -> np.ndarray | None:
    """bool [N], which pictures have a twin in training; None where training is not known."""
    if training is None or not len(training):
        return None
    return has_sketched_twin(images, training) if isinstance(training, Sketches) else has_twin(images, training)
