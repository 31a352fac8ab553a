"""Calibration at the end of training: fits a temperature on validation and folds it into the head of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mien.data.faces import FaceSet
from mien.data.twins import groups, has_twin
from mien.errors import MienError
from mien.evaluation.calibration import LEAST_FOR_TEMPERATURE, LEAST_FOR_THRESHOLD, at_bound, calibrate_if_enough
from mien.files import write_json
from mien.model.classifier import Classifier
from mien.model.networks import scale_head


def calibrate_model(out: Path, validation: FaceSet, training_images: np.ndarray, device: str | torch.device) -> str:
    """Fits the temperature of ``OUT/model`` on validation and folds it into its head, once.

    ``meta.json`` gains ``calibration`` (``mien.evaluation.calibration.calibrate``). Its ``metrics`` and the history of
    the run stay: accuracy and F1 do not change, and the losses are those before scaling. Weights and record are
    replaced together, so that a run that is interrupted here and resumed folds the temperature only once. With fewer
    pictures than ``LEAST_FOR_TEMPERATURE`` nothing is fitted.

    Args:
        out: the folder of the run, with its model.
        validation: the validation split, labels in the order of the model's classes.
        training_images: uint8 [M, S, S] or [M, S, S, 3]; validation pictures with a twin among them are left out.
        device: of the network.

    Returns:
        A line that says what was fitted.

    Raises:
        MienError: the model's head is not linear, or the disk is full; the model stays unchanged.
    """
    folder = out / "model"
    classifier = Classifier.load(folder, device)
    meta = classifier.meta()
    if "calibration" not in meta:
        logits = classifier.logits(validation.images, quiet=True)
        twins = has_twin(validation.images, training_images)
        meta["calibration"] = calibrate_if_enough(logits, validation.labels, groups(validation.images), twins=twins)
        scale_head(classifier.network, meta["calibration"]["temperature"])
        classifier.save(folder, meta, classifier.sketches())
    # After the model and in any case, so that a run that was killed in between writes it when it resumes.
    write_json(out / "meta.json", meta)
    return _summary(meta["calibration"])


def recalibrated(classifier: Classifier, faces: FaceSet, command: str) -> dict[str, Any]:
    """Fits the temperature of a classifier again and replaces the one that is folded into its head.

    Args:
        classifier: its head is changed in place.
        faces: the data that it was trained on.
        command: the command line, for the record.

    Returns:
        Its ``meta.json`` with the new ``calibration``, which also holds ``command`` and ``temperature_before``.

    Raises:
        MienError: it was trained on other data, or there is no validation split.
    """
    meta = classifier.meta()
    if meta.get("data", {}).get("fingerprint") != faces.fingerprint:
        raise MienError(
            f"{faces.source}: is not the data that the model was trained on, so its temperature cannot be fitted "
            "again; give that data"
        )
    former = float((meta.get("calibration") or {}).get("temperature", 1.0))
    validation = faces.part("validation")
    logits = former * classifier.logits(validation.images, quiet=True)
    twins = has_twin(validation.images, faces.part("train").images)
    labels = validation.labels_in(classifier.names)
    record = calibrate_if_enough(logits, labels, groups(validation.images), twins=twins)
    scale_head(classifier.network, record["temperature"] / former)
    return {**meta, "calibration": {**record, "temperature_before": former, "command": command}}


def _summary(record: dict[str, Any]) -> str:
    """A calibration record in one line."""
    count = record["n"]
    if count < LEAST_FOR_TEMPERATURE:
        return (
            f"not calibrated: {count:,} validation pictures are fewer than {LEAST_FOR_TEMPERATURE}; the temperature "
            "stays 1, and no answer is marked as uncertain"
        )
    if record["ece_after"] is None:
        change = "not measured, as validation cannot be halved"
    else:
        change = f"ECE {record['ece_before']:.4f} -> {record['ece_after']:.4f} (cross-fitted)"
    uncertain = record["uncertain"]
    if uncertain is None:
        marks = (
            f"no answer is marked as uncertain, as that takes {LEAST_FOR_THRESHOLD} pictures and there are {count:,}"
        )
    elif uncertain["threshold"] is None:
        marks = f"no threshold promises {uncertain['stated_accuracy']:.0%} right, so every answer is marked uncertain"
    else:
        marks = f"uncertain below {uncertain['threshold']:.2f}"
    pictures = f"{count:,} validation pictures"
    if record.get("twins_left_out"):
        pictures += f" without a twin in training ({record['twins_left_out']:,} have one)"
    temperature = f"temperature {record['temperature']:.3f}"
    if at_bound(record["temperature"]):
        temperature += " (the bound of its search, so that a better one may lie beyond it)"
    return f"calibrated on {pictures}: {temperature}, {change}; {marks}"
