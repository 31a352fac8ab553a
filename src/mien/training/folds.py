"""Out-of-fold answers: for every training picture the probabilities of networks that have not seen it.

A network knows its training pictures by heart, so its answers to them repeat the noise of their labels. Answers of
networks that were trained without the picture are free of that; a student can learn from them, and a label that they
contradict is worth a look.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mien.config import FoldsConfig, TrainConfig, to_dict
from mien.data.clean import twins_in_training
from mien.data.faces import FaceSet
from mien.data.read import read_faces
from mien.data.twins import groups
from mien.errors import MienError
from mien.evaluation.calibration import softmax
from mien.evaluation.metrics import negative_log_likelihood, quick_scores, reliability
from mien.files import ensure_writable, write_json
from mien.labels import positions
from mien.log import report, warn
from mien.machine import resolve_device, versions
from mien.model.backbone import Backbone
from mien.model.classifier import Classifier
from mien.model.places import model_folder
from mien.training.finetune import start, train
from mien.training.folder import state_path
from mien.training.objective import training_fingerprint, write_answers
from mien.training.run import on_main, prepare_faces
from mien.training.validation import cut_folds

ANSWERS = "answers.safetensors"
"""The file with the answers, in the folder of the runs."""

MOST_KNOWN = 0.1
"""Share of the training pictures that a backbone or a teacher may have learnt from before, by their sketches."""


def answer_folds(config: FoldsConfig, command: str = "") -> Path:
    """Trains a network for each fold and seed and writes the answers; finished runs are not trained again.

    Args:
        config: see ``FoldsConfig``.
        command: the command line, for the records.

    Returns:
        The file, for ``TrainConfig.targets``; ``OUT/folds.json`` beside it has accuracy and calibration. Of several
        processes the main one writes both.

    Raises:
        MienError: a setting, the data, the backbone or the folder is wrong, or the backbone or a teacher was trained on
            this data.
    """
    out = Path(config.out)
    ensure_writable(out)
    faces = faces_of(config)
    training = faces.part("train")
    cuts = cuts_of(config, training)
    answers, device = np.zeros((len(training), len(training.names))), resolve_device(config.device)
    for seed, fold in zip(config.seeds, cuts, strict=True):
        for number in range(config.folds):
            settings = settings_of(config, seed, number)
            held_back = np.flatnonzero(fold == number)
            if on_main():
                report(f"seed {seed}, fold {number + 1}/{config.folds}: {len(held_back):,} pictures held back")
            part = without(faces, held_back)
            train(
                settings, resume=state_path(Path(settings.out)).exists(), command=command, faces=part, calibrate=False
            )
            if on_main():  # the other processes wait before the next run
                held_out = training.select(held_back)
                answers[held_back] += answer(Path(settings.out), held_out, device) / len(config.seeds)
    if not on_main():
        return out / ANSWERS
    record: dict[str, Any] = {
        "names": list(training.names),
        "training": training_fingerprint(training),
        "fingerprint": faces.fingerprint,
        "folds": config.folds,
        "seeds": list(config.seeds),
        "scores": scores(answers, training),
        "command": command,
        "config": to_dict(config),
        "versions": versions(),
    }
    write_answers(out / ANSWERS, answers, cuts[0], record)
    write_json(out / "folds.json", record)
    report(summary(record["scores"]))
    return out / ANSWERS


def faces_of(config: FoldsConfig) -> FaceSet:
    """Reads the data of the runs, with a validation split.

    Raises:
        MienError: it cannot be used, or the backbone or a teacher was trained on it; or a setting is wrong, which is
            said before the data is read.
    """
    start(config)
    faces = read_faces(config.data)
    for warning in faces.warnings if on_main() else ():
        warn(warning)
    check_unseen(config, faces)
    return prepare_faces(faces, config)


def check_unseen(config: FoldsConfig, faces: FaceSet) -> None:
    """Checks that neither the backbone nor a teacher has learnt from the pictures that folds hold back.

    What was trained on other data may know some of them, as after photos were added to a folder. A few are told by a
    warning: of independent pictures, too, sketches take some for known.

    Raises:
        MienError: one of them was trained on this data, or knows more than ``MOST_KNOWN`` of its training pictures.
    """
    training = faces.part("train").images
    teachers = [("--teacher", name, str(model_folder(name))) for name in config.teacher]
    for option, name, folder in [("--backbone", config.backbone, config.backbone), *teachers]:
        backbone = Backbone(folder)
        is_same = any(record.get("fingerprint") == faces.fingerprint for record in backbone.learnt)
        sets = [sketches for _, sketches in backbone.learnt_before(faces) if sketches is not None]
        twins = twins_in_training(training, sets) if sets and not is_same else None
        count = 0 if twins is None else int(twins.sum())
        on_data = "this data" if is_same else f"{count:,} of the {len(training):,} training pictures, by its sketches"
        if is_same or count > MOST_KNOWN * len(training):
            raise MienError(
                f"{option} {name}: was trained on {on_data}, so that it knows the pictures that are held back; leave "
                "it out, or give one that was trained on other data or without labels"
            )
        if count and on_main():
            warn(f"{option} {name}: was trained on {on_data}; their answers may be of networks that know them")


def first_run(config: FoldsConfig) -> tuple[TrainConfig, FaceSet]:
    """The settings and the data of the first run."""
    faces = faces_of(config)
    fold = cuts_of(config, faces.part("train"))[0]
    return settings_of(config, config.seeds[0], 0), without(faces, np.flatnonzero(fold == 0))


def settings_of(config: FoldsConfig, seed: int, number: int) -> TrainConfig:
    """The settings of one run."""
    values: dict[str, Any] = {entry.name: getattr(config, entry.name) for entry in fields(TrainConfig)}
    return TrainConfig(**{**values, "seed": seed, "out": str(Path(config.out) / f"seed-{seed}-fold-{number + 1}")})


def cuts_of(config: FoldsConfig, training: FaceSet) -> list[np.ndarray]:
    """The folds of every seed, as ``cut_folds``; all before the first run, so that none is trained in vain."""
    group = groups(training.images)
    return [cut_folds(group, training.labels, config.folds, seed, training.names) for seed in config.seeds]


def without(faces: FaceSet, held_back: np.ndarray) -> FaceSet:
    """The data without some rows of its training split; its fingerprint says so."""
    rows = np.flatnonzero(faces.splits == "train")[held_back]
    digest = hashlib.sha256(f"{faces.fingerprint} without ".encode() + rows.astype("<i8").tobytes()).hexdigest()
    remaining = np.ones(len(faces), bool)
    remaining[rows] = False
    return replace(faces.select(remaining), fingerprint=digest)


def answer(run: Path, faces: FaceSet, device: torch.device) -> np.ndarray:
    """Probabilities of a run's model for faces, averaged over each picture and its mirror image: float64 [N, C]."""
    classifier = Classifier.load(run, device)
    columns = positions(faces.names, classifier.names, f"{run}: lacks classes")
    views = [softmax(classifier.logits(faces.images, flip=flip, quiet=True)) for flip in (False, True)]
    return np.asarray((views[0] + views[1]) / 2)[:, columns]


def scores(answers: np.ndarray, training: FaceSet) -> dict[str, float]:
    """Accuracy and calibration of the answers against the labels."""
    answers = answers / answers.sum(1, keepdims=True)
    predicted = answers.argmax(1)
    return {
        "n": len(training),
        **quick_scores(predicted, training.labels, len(training.names)),
        "nll": negative_log_likelihood(answers, training.labels),
        "ece": reliability(answers, training.labels).ece,
        "confidence": float(answers.max(1).mean()),
    }


def summary(values: dict[str, float]) -> str:
    """The scores in one line."""
    return (
        f"answers for {values['n']:,} training pictures by networks that have not seen them: accuracy "
        f"{values['accuracy']:.2%}, macro-F1 {values['macro_f1']:.2%}, balanced accuracy "
        f"{values['balanced_accuracy']:.2%}; ECE {values['ece']:.2%} (mean confidence {values['confidence']:.2%}), "
        f"log-likelihood {-values['nll']:.4f}"
    )
