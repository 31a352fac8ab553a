"""Pictures held back: folds, the validation split, the weights that it keeps and, at the end, the temperature."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch.nn import functional as F

from mien.config import TrainConfig
from mien.data.clean import Sketches, twins_in_training
from mien.data.faces import FaceSet
from mien.data.twins import groups, has_twin
from mien.errors import MienError
from mien.evaluation.balance import class_shares
from mien.evaluation.calibration import LEAST_FOR_TEMPERATURE, LEAST_FOR_THRESHOLD, at_bound, calibrate
from mien.evaluation.choice import LAST
from mien.evaluation.metrics import quick_scores
from mien.files import write_json
from mien.log import report, warn
from mien.model.backbone import Backbone
from mien.model.classifier import Classifier
from mien.model.networks import Network, scale_head, shift_head
from mien.model.places import model_folder
from mien.text import counted
from mien.training.folder import Progress
from mien.training.run import gather_rows, on_main

LEAST_GAIN = 2
"""An epoch replaces the classifier that training began with if it labels at least so many validation pictures more
correctly. One picture more of nine is luck as often as not (LOG.md); of thousands it makes no difference."""


def score_of(scores: dict[str, float], select: str) -> float:
    """The score by which weights are kept, higher is better: in [0, 1], of a loss exp(-loss); of ``LAST`` the epoch."""
    if select == LAST:
        return scores.get("epoch", 0)
    value = scores[f"val_{select}"]
    return math.exp(-value) if select.endswith("loss") else value


def unseen_by(before: Sequence[tuple[dict[str, Any], Sketches | None]], validation: FaceSet) -> FaceSet:
    """The validation pictures that the backbone has not learnt from; all of them, with a warning, if it has from each.

    Somebody adds photos to a folder and goes on with the model that learnt from the first of them: the validation
    split, cut anew, holds pictures that this model knows by heart, and would keep it whatever training does.

    Args:
        before: of ``Backbone.learnt_before``.
        validation: the validation split.
    """
    sets = [sketches for _, sketches in before if sketches is not None]
    seen = twins_in_training(validation.images, sets) if sets else None
    if seen is None or not seen.any():
        return validation
    names = ", ".join(sorted({str(record.get("source")) for record, _ in before}))
    share = f"the backbone has learnt from {int(seen.sum()):,} of the {len(seen):,} validation pictures ({names})"
    if on_main():
        warn(f"{share}; {'scores will be too high, give others' if seen.all() else 'the others choose the epoch'}")
    return validation if seen.all() else validation.select(~seen)


def check_cut(config: TrainConfig, backbone: Backbone, faces: FaceSet) -> None:
    """Checks that neither backbone nor teachers have learnt from the pictures that are cut off for validation.

    A teacher hands on little of what it knows about single pictures, so a warning is enough there.

    Raises:
        MienError: the backbone, or one that it began with, was trained on this data and cut off others.
    """
    seed, fraction = config.seed, config.validation_fraction
    cut = backbone.other_cut(faces, seed, fraction)
    if cut is not None:
        raise MienError(
            f"seed, validation_fraction: got {seed} and {fraction}, but {backbone.name} {_learnt(cut)} the validation "
            f"pictures would be among those it knows; {_same(cut)}"
        )
    for name in config.teacher if on_main() else ():
        cut = Backbone(str(model_folder(name))).other_cut(faces, seed, fraction)
        if cut is not None:
            warn(
                f"--teacher {name}: {_learnt(cut)} it knows validation pictures of this run ({seed} and {fraction}), "
                f"whose scores may be too high; {_same(cut)}"
            )


def _learnt(cut: tuple[Any, Any]) -> str:
    return f"has learnt from this data with {cut[0]} and {cut[1]}, so that"


def _same(cut: tuple[Any, Any]) -> str:
    return f"give --seed {cut[0]} --validation-fraction {cut[1]}, or data with a val/ folder"


def cut_folds(
    group: np.ndarray, labels: np.ndarray, count: int, seed: int, names: Sequence[str] | None = None
) -> np.ndarray:
    """Cuts pictures into folds of about the same size and the same shares of classes.

    Args:
        group: int64 [N]; pictures of one group (near-identical ones, ``mien.data.twins.groups``) stay in one fold.
        labels: int64 [N].
        count: number of folds, at least 2.
        seed: of the cut.
        names: of the labels, for messages.

    Returns:
        int64 [N] in [0, count).

    Raises:
        MienError: there are fewer groups than folds, or a class would be missing from training.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if len(np.unique(group)) < count:
        raise MienError(
            f"folds: got {count}, expected at most {len(np.unique(group))}, the training pictures; lower it"
        )
    fold = np.empty(len(labels), np.int64)
    cut = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a class with fewer pictures than folds, which some folds then lack
            parts = list(cut.split(np.zeros(len(labels)), labels, group))
    except ValueError as error:
        raise MienError(f"folds: got {count}, more than any class has training pictures; lower it") from error
    for number, (_, held_back) in enumerate(parts):
        fold[held_back] = number
    for number in range(count):
        missing = set(np.unique(labels)) - set(np.unique(labels[fold != number]))
        if missing:
            name = names[min(missing)] if names else min(missing)
            raise MienError(
                f"folds: all training pictures of class {name} are copies of one photograph, so that a network would "
                "be trained without it; add pictures of that class"
            )
    return fold


class Validator:
    """Scores networks on the validation split, and says which of them is the best.

    Args:
        classifier: preprocessing and classes of the networks.
        train_set: the training split; its twins in validation do not count for ``clean_loss``.
        validation: the validation split.
        select: the score by which the best is chosen, ``TrainConfig.select``.
        accelerator: of this run; every process reads its share of the pictures.
    """

    def __init__(
        self, classifier: Classifier, train_set: FaceSet, validation: FaceSet, select: str, accelerator: Accelerator
    ) -> None:
        self.classifier, self.train_set, self.validation = classifier, train_set, validation
        self.select, self.accelerator = select, accelerator

    def scores(self, network: Network) -> dict[str, float]:
        """Loss, accuracy, macro-F1 and balanced accuracy of a network, by names like ``val_loss``."""
        # Each process has its own running statistics of batch norm; those of the main process are evaluated and saved.
        broadcast(list(network.buffers()))
        judge = Classifier(network, self.classifier.preprocessing, self.classifier.names)
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        share = torch.from_numpy(judge.logits(self.validation.images[rank::processes], quiet=True))
        answers = gather_rows(self.accelerator, share, len(self.validation)).cpu()
        labels = torch.from_numpy(self.validation.labels)
        means = quick_scores(answers.argmax(1).numpy(), labels.numpy(), answers.shape[1])
        scores = {"val_loss": F.cross_entropy(answers, labels).item()}
        scores |= {f"val_{name}": means[name] for name in ("accuracy", "macro_f1", "balanced_accuracy")}
        if self.select == "clean_loss":
            scores["val_clean_loss"] = F.cross_entropy(answers[self.clean], labels[self.clean]).item()
        return scores

    @cached_property
    def clean(self) -> torch.Tensor:
        """Which validation pictures have no twin in training, bool [V]; all of them if every one has."""
        clean = ~has_twin(self.validation.images, self.train_set.images)
        if not clean.any() and on_main():
            warn("every validation picture has a twin in training, so that clean_loss is the loss on all of them")
        return torch.from_numpy(clean if clean.any() else ~clean)

    def margin(self, state: Progress) -> float:
        """Gain in accuracy above which an epoch is the new best: 0, or ``LEAST_GAIN`` pictures if the start is best."""
        start_is_best = state.best_epoch == 0 and state.best_accuracy >= 0
        if self.select != "accuracy":
            return 0.0
        # Half a picture less, so that rounding decides nothing.
        return (LEAST_GAIN - 0.5) / len(self.validation) if start_is_best else 0.0


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
        twins = _twins(validation, training_images, classifier)
        meta["calibration"] = calibrate(logits, validation.labels, groups(validation.images), twins=twins)
        scale_head(classifier.network, meta["calibration"]["temperature"])
        classifier.save(folder, meta, classifier.sketches())
    # After the model and in any case, so that a run that was killed in between writes it when it resumes.
    write_json(out / "meta.json", meta)
    return _summary(meta["calibration"])


def recalibrated(
    classifier: Classifier, faces: FaceSet, command: str, *, balance: float | None = None
) -> dict[str, Any]:
    """Fits the temperature of a classifier again and replaces the one that is folded into its head.

    Args:
        classifier: its head is changed in place.
        faces: the data that it was trained on.
        command: the command line, for the record.
        balance: tau: first, the shares of the classes in training to this power are divided out of the answers
            (``mien.evaluation.balance``), in place of what was divided out before; None leaves that.

    Returns:
        Its ``meta.json`` with the new ``calibration``, which also holds ``command`` and ``temperature_before``, and
        ``balance``: ``tau``, the ``shares``, and the ``offsets`` that are now in the bias of the head, by class.

    Raises:
        MienError: it was trained on other data, there is no validation split, or its head has no bias to change.
    """
    meta = classifier.meta()
    if meta.get("data", {}).get("fingerprint") != faces.fingerprint:
        raise MienError(
            f"{faces.source}: is not the data that the model was trained on, so its temperature cannot be fitted "
            "again; give that data"
        )
    divided = meta.get("balance")
    if balance is not None:
        before = [divided["offsets"].get(name, 0.0) if divided else 0.0 for name in classifier.names]
        shares = class_shares(faces.part("train"), classifier.names)
        offsets = -balance * np.log(shares)
        shift_head(classifier.network, torch.from_numpy(offsets - before).float())
        divided = {
            "tau": balance,
            "shares": dict(zip(classifier.names, shares.tolist(), strict=True)),
            "offsets": dict(zip(classifier.names, offsets.tolist(), strict=True)),
        }
    former = float((meta.get("calibration") or {}).get("temperature", 1.0))
    validation = faces.part("validation")
    logits = former * classifier.logits(validation.images, quiet=True)
    twins = _twins(validation, faces.part("train").images, classifier)
    labels = validation.labels_in(classifier.names)
    record = calibrate(logits, labels, groups(validation.images), twins=twins)
    change = record["temperature"] / former
    scale_head(classifier.network, change)
    report(_summary(record))
    if divided:
        scaled = {name: offset / change for name, offset in divided["offsets"].items()}
        meta = {**meta, "balance": {**divided, "offsets": scaled}}
    return {**meta, "calibration": {**record, "temperature_before": former, "command": command}}


def _twins(validation: FaceSet, training_images: np.ndarray, classifier: Classifier) -> np.ndarray | None:
    """Which validation pictures have a twin in training, or in what the classifier had learnt before.

    Returns:
        bool [V]; None if it had learnt pictures that are not known.
    """
    sketches, before = classifier.sketches(), classifier.meta().get("learnt_before") or []
    earlier = () if sketches is None else sketches.earlier
    if len(earlier) != len(before):
        return None
    return twins_in_training(validation.images, [training_images, *earlier])


def _summary(record: dict[str, Any]) -> str:
    """A calibration record in one line."""
    count = record["n"]
    pictures = counted(count, "validation picture")
    if record.get("twins_left_out"):
        pictures += f" without a twin in training ({record['twins_left_out']:,} have one)"
    if count < LEAST_FOR_TEMPERATURE:
        return (
            f"not calibrated: {pictures} {'is' if count == 1 else 'are'} fewer than {LEAST_FOR_TEMPERATURE}; the "
            "temperature stays 1, and no answer is marked as uncertain"
        )
    if record["ece_after"] is None:
        change = "not measured, as validation cannot be halved"
    else:
        change = f"ECE {record['ece_before']:.2%} -> {record['ece_after']:.2%} (cross-fitted)"
    uncertain = record["uncertain"]
    if uncertain is None:
        marks = (
            f"no answer is marked as uncertain, as that takes {LEAST_FOR_THRESHOLD} pictures and there are {count:,}"
        )
    elif uncertain["threshold"] is None:
        marks = f"no threshold promises {uncertain['stated_accuracy']:.0%} right, so every answer is marked uncertain"
    else:
        marks = f"uncertain below {uncertain['threshold']:.2f}"
    temperature = f"temperature {record['temperature']:.3f}"
    if at_bound(record["temperature"]):
        temperature += " (the bound of its search, so that a better one may lie beyond it)"
    return f"calibrated on {pictures}: {temperature}, {change}; {marks}"
