"""The end of a training run: the temperature that validation asks for becomes part of the kept model's head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mien.data.faces import FaceSet
from mien.data.twins import groups, thumbnails
from mien.evaluation.calibration import LEAST_FOR_TEMPERATURE, LEAST_FOR_THRESHOLD, calibrate_if_enough
from mien.files import write_json
from mien.model.classifier import Classifier
from mien.model.head import scale_head


def calibrate_model(out: Path, validation: FaceSet, device: str | torch.device) -> str:
    """Fits the temperature of ``OUT/model`` on validation and folds it into its head, once.

    ``meta.json`` gains ``calibration`` (``mien.evaluation.calibration.calibrate``). Its ``metrics`` and the history of
    the run stay as they are: accuracy and F1 do not change, and the losses are those before scaling. The folder is
    replaced as a whole, weights and record together, so that a run that is interrupted here and resumed folds once.
    Of fewer pictures than ``LEAST_FOR_TEMPERATURE`` nothing is fitted.

    Args:
        out: the folder of the run, with its model.
        validation: the validation split, labels in the order of the model's classes.
        device: where the pictures are read.

    Returns:
        What was done, in one line.

    Raises:
        MienError: the model's head is not linear, or the disk is full; the model is as it was before.
    """
    folder = out / "model"
    classifier = Classifier.load(folder, device)
    meta = classifier.meta()
    if "calibration" not in meta:
        logits = classifier.logits(validation.images, quiet=True)
        meta["calibration"] = calibrate_if_enough(logits, validation.labels, groups(thumbnails(validation.images)))
        scale_head(classifier.network, meta["calibration"]["temperature"])
        classifier.save(folder, meta, classifier.train_thumbnails())
    # After the model, so that a run that stops in between catches up here when it is resumed.
    write_json(out / "meta.json", meta)
    return _told(meta["calibration"])


def _told(record: dict[str, Any]) -> str:
    count = record["n"]
    if count < LEAST_FOR_TEMPERATURE:
        return (
            f"not calibrated: {count:,} validation pictures are fewer than {LEAST_FOR_TEMPERATURE}; the temperature "
            "stays 1, and no answer is marked as uncertain"
        )
    if record["ece_after"] is None:
        brought = "not measured, as validation cannot be halved"
    else:
        brought = f"ECE {record['ece_before']:.4f} -> {record['ece_after']:.4f} (cross-fitted)"
    uncertain = record["uncertain"]
    if uncertain is None:
        sure = f"no answer is marked as uncertain, as that takes {LEAST_FOR_THRESHOLD} pictures and there are {count:,}"
    elif uncertain["threshold"] is None:
        sure = f"no threshold gives {uncertain['stated_accuracy']:.0%} right"
    else:
        sure = f"uncertain below {uncertain['threshold']:.2f}"
    return f"calibrated on validation: temperature {record['temperature']:.3f}, {brought}; {sure}"
