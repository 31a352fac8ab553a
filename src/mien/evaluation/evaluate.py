"""Evaluates a classifier on a split of a data set: probabilities, scores, and the scores without twins of training."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mien.data.clean import Pictures, Sketches, sets_of, twins_in_training
from mien.data.faces import FaceSet
from mien.data.twins import groups
from mien.errors import NO_NUMBERS, MienError
from mien.evaluation.balance import balance_curve, class_shares
from mien.evaluation.calibration import (
    POINTS,
    Threshold,
    apply_threshold,
    cross_fitted,
    is_fitted,
    quality,
    risk_coverage,
    softmax,
)
from mien.evaluation.metrics import ece_by_chance, score
from mien.machine import versions
from mien.text import portable

BALANCING: tuple[str, ...] = ("class_weights", "logit_adjustment", "resample")
"""Settings of training that make up for unequal shares of the classes."""

PACKED_BALANCE = "mien pack --balance"

WARM_UP = 32
"""Pictures that are classified before the clock starts: the first pass sets up threads and kernels."""


class Reads(Protocol):
    """The methods of a classifier that evaluation needs."""

    @property
    def names(self) -> tuple[str, ...]:
        """The class names, in the order of the logits."""
        ...

    def logits(self, images: np.ndarray, *, batch_size: int, flip: bool = False, quiet: bool = False) -> np.ndarray:
        """float32 [N, C] of uint8 [N, S, S] or [N, S, S, 3], of their mirror images if ``flip``."""
        ...

    def meta(self) -> dict[str, Any]:
        """The model's ``meta.json``; evaluation uses ``calibration`` and the data's fingerprint; may be empty."""
        ...


@dataclass(frozen=True)
class Scaling:
    """The effect of temperature scaling on the confidence of the answers.

    Attributes:
        temperatures: of each model; None if no temperature was fitted and folded into its head.
        before: float64 [N, C], probabilities without the folded temperatures.
        after: float64 [N, C], probabilities with scaling: if ``cross_fitted``, each picture by the temperature fitted
            on the half of the split that does not contain it; else as the models answer.
        cross_fitted: true if temperatures are fitted on this split.
    """

    temperatures: tuple[float | None, ...]
    before: np.ndarray
    after: np.ndarray
    cross_fitted: bool


@dataclass(frozen=True)
class Evaluation:
    """Predictions and scores of a classifier, or of the average of several, on one split.

    Attributes:
        split: ``train``, ``validation`` or ``test``.
        names: the C class names, in the classifier's order.
        probabilities: float64 [N, C], rows that sum to 1, columns in the order of ``names``.
        labels: int64 [N], positions of the true classes in ``names``.
        images: uint8 [N, S, S] or [N, S, S, 3], the pictures.
        ids: str [N], the names of the pictures in the data.
        twins: bool [N], true if a picture has a twin in training (``mien.data.twins``); None if unknown.
        approximate: true if twins were detected by sketches of the training pictures, not by the pictures themselves.
        whole: ``mien.evaluation.metrics.score`` of the whole split.
        clean: the same of the pictures without a twin in training; None if there are none or twins are unknown.
        clean_reason: why ``clean`` is None.
        views: predictions per picture and model: 1, or 2 with the mirror image.
        models: the names of the classifiers; several if their probabilities were averaged.
        source: the path or name of the data, without the folders above the working folder.
        fingerprint: the data's fingerprint.
        seed: of the bootstrap intervals, and of the halves of ``scaling``.
        warnings: sentences about the data, for the report.
        scaling: the effect of temperature scaling; None if it was not measured.
        shares: float64 [C], of the classes in the data that the model was trained on; None if that data is not at hand.
        balanced_by: what already makes up for unequal shares in the answers, such as ``logit_adjustment 0.3``.
        uncertain: ``stated_accuracy`` and ``threshold`` of the model (``calibration.calibrate``), or None.
        parameters: numbers in the network, or in all averaged networks; None if unknown.
        seconds: time that classifying the pictures took, over all views and models; None if it was not measured.
        trained_on_it: whether the set is the one that the model was last trained on, by its fingerprint; None if the
            model's record does not say on what it was trained.
        taught_before: whether the model, or one of the averaged ones, learnt from the set before it went on with
            another one, by its fingerprint.
    """

    split: str
    names: tuple[str, ...]
    probabilities: np.ndarray
    labels: np.ndarray
    images: np.ndarray
    ids: np.ndarray
    twins: np.ndarray | None
    whole: dict[str, Any]
    clean: dict[str, Any] | None
    clean_reason: str | None
    views: int
    models: tuple[str, ...]
    source: str
    fingerprint: str
    seed: int
    warnings: tuple[str, ...] = ()
    approximate: bool = False
    scaling: Scaling | None = None
    shares: np.ndarray | None = None
    balanced_by: tuple[str, ...] = ()
    uncertain: Mapping[str, Any] | None = None
    parameters: int | None = None
    seconds: float | None = None
    trained_on_it: bool | None = None
    taught_before: bool = False

    @property
    def tta(self) -> bool:
        """True if the mirror image was averaged in (test-time augmentation)."""
        return self.views > 1

    @property
    def model(self) -> str:
        """The name of the classifier, or the number of averaged models."""
        return self.models[0] if len(self.models) == 1 else f"average of {len(self.models)} models"

    @property
    def right(self) -> np.ndarray:
        """bool [N], true if the prediction matches the label."""
        return self.probabilities.argmax(axis=1) == self.labels

    def twin_scores(self) -> dict[str, Any] | None:
        """Number and accuracy (null if there are none) of the pictures with a twin in training."""
        if self.twins is None:
            return None
        right = self.right[self.twins]
        return {"n": len(right), "accuracy": float(right.mean()) if len(right) else None}

    def sure(self, *, clean: bool = False) -> Threshold | None:
        """Coverage and accuracy of the answers above the model's own threshold; None without a threshold.

        Args:
            clean: only the pictures without a twin in training; the result is None if these are unknown.
        """
        threshold = self.uncertain["threshold"] if self.uncertain else None
        if threshold is None or (clean and self.clean is None):
            return None
        rows = self._rows(clean)
        return apply_threshold(self.probabilities[rows], self.labels[rows], threshold)

    def _rows(self, clean: bool) -> np.ndarray:
        """bool [N]: the pictures without a twin in training if ``clean``, else all."""
        return ~self.twins if clean and self.twins is not None else np.ones(len(self.labels), bool)

    def metrics(self, command: str = "") -> dict[str, Any]:
        """The content of ``metrics.json``: what was evaluated, all scores, and the command that repeats them."""
        clean = None if self.clean is None else self.probabilities[self._rows(clean=True)]
        return {
            "split": self.split,
            "tta": self.tta,
            "views": self.views,
            "model": self.model,
            "models": list(self.models),
            "averaged": len(self.models),
            "data": {"source": self.source, "fingerprint": self.fingerprint},
            **self.whole,
            "clean": self.clean,
            "clean_reason": self.clean_reason,
            "clean_is_approximate": self.approximate,
            "twins": self.twin_scores(),
            "calibration": self._calibration(),
            "confidence_minus_accuracy": float(self.probabilities.max(axis=1).mean() - self.whole["accuracy"]),
            "confidence_minus_accuracy_clean": None
            if clean is None or self.clean is None
            else float(clean.max(axis=1).mean() - self.clean["accuracy"]),
            "ece_by_chance": ece_by_chance(self.probabilities, seed=self.seed),
            "ece_by_chance_clean": None if clean is None else ece_by_chance(clean, seed=self.seed),
            "risk_coverage": self._risk_coverage(),
            "balance": self._balance(),
            "parameters": self.parameters,
            "seconds": None if self.seconds is None else round(self.seconds, 3),
            "warnings": list(self.warnings),
            "seed": self.seed,
            "command": command,
            "versions": versions(),
        }

    def cross_fitted_ece(self, *, clean: bool = False) -> float | None:
        """ECE with each half of the split scaled by the temperature of the other half.

        None if a model holds no fitted temperature, or one that was not fitted on this split.

        Args:
            clean: only the pictures without a twin in training; the result is None if these are unknown.
        """
        if self.scaling is None or not self.scaling.cross_fitted or None in self.scaling.temperatures:
            return None
        if clean and self.clean is None:
            return None
        rows = self._rows(clean)
        return float(quality(self.scaling.after[rows], self.labels[rows])["ece"])

    def _calibration(self) -> dict[str, Any] | None:
        if self.scaling is None:
            return None
        return {
            "temperatures": list(self.scaling.temperatures),
            "cross_fitted": self.scaling.cross_fitted,
            "before": quality(self.scaling.before, self.labels),
            "after": quality(self.scaling.after, self.labels),
        }

    def _balance(self) -> dict[str, Any] | None:
        """The curves of ``mien.evaluation.balance``, whole and clean, and the shares; None if all are equal."""
        if self.shares is None or not np.ptp(self.shares):
            return None
        clean = ~self.twins if self.twins is not None else np.zeros(len(self.labels), bool)
        return {
            "shares": dict(zip(self.names, self.shares.tolist(), strict=True)),
            "rarest": self.names[int(self.shares.argmin())],
            "balanced_by": list(self.balanced_by),
            "whole": balance_curve(self.probabilities, self.labels, self.shares),
            "clean": balance_curve(self.probabilities[clean], self.labels[clean], self.shares) if clean.any() else None,
        }

    def _risk_coverage(self) -> dict[str, Any]:
        curve, sure, clean = risk_coverage(self.probabilities, self.labels), self.sure(), self.sure(clean=True)
        uncertain = self.uncertain and {
            "stated_accuracy": self.uncertain["stated_accuracy"],
            "threshold": sure.threshold if sure else None,
            "coverage": sure.coverage if sure else 0.0,
            "accuracy": sure.accuracy if sure else None,
            "clean": {"coverage": clean.coverage, "accuracy": clean.accuracy} if clean else None,
        }
        points = [{"coverage": coverage, "accuracy": curve.accuracy_at(coverage)} for coverage in POINTS]
        return {"aurc": curve.aurc, "points": points, "uncertain": uncertain}


def evaluate(
    classifier: Reads,
    faces: FaceSet,
    split: str,
    *,
    training: Pictures | Sequence[Pictures] | None,
    tta: bool = False,
    batch_size: int = 256,
    seed: int = 0,
    model: str = "",
    parameters: int | None = None,
    quiet: bool = False,
) -> Evaluation:
    """Classifies every picture of a split (and its mirror image, if ``tta``) and scores the answers.

    Args:
        classifier: gives the class order of the result; the labels of the data are matched to it by name.
        faces: the data; only ``split`` is used.
        split: ``train``, ``validation`` or ``test``.
        training: the pictures that the classifier was trained on, uint8 [M, S, S] or [M, S, S, 3], to detect twins; or
            their sketches; or several sets (``mien.data.clean.trained_on``); or None if they are unavailable.
        tta: average the probabilities of the picture and of its mirror image.
        batch_size: pictures per forward pass.
        seed: of the bootstrap intervals and of the halves for cross-fitting.
        model: the name of the classifier, for the report.
        parameters: numbers in its network, for the report.
        quiet: hides the progress bar.

    Raises:
        MienError: the data has no such split or a class that the classifier does not know, or an answer is NaN.
    """
    part, meta = faces.part(split), classifier.meta()
    labels = part.labels_in(classifier.names)
    classifier.logits(part.images[:WARM_UP], batch_size=WARM_UP, quiet=True)
    started = time.perf_counter()
    readings = [
        _checked(classifier.logits(part.images, batch_size=batch_size, flip=flip, quiet=quiet), model)
        for flip in ((False, True) if tta else (False,))
    ]
    seconds = time.perf_counter() - started
    record = meta.get("calibration") or {}
    temperature = record.get("temperature") if is_fitted(record) else None
    fingerprint = meta.get("data", {}).get("fingerprint")
    trained_on_it = None if fingerprint is None else fingerprint == faces.fingerprint
    # True if the temperature was fitted on these very pictures, or none was fitted yet.
    fits_here = split == "validation" and (not record or bool(trained_on_it))
    names, probabilities = tuple(classifier.names), _mean_softmax(readings)
    sets = sets_of(training)
    is_training_set = any(isinstance(images, np.ndarray) and np.array_equal(images, part.images) for images in sets)
    twins = np.ones(len(part), bool) if is_training_set else twins_in_training(part.images, training)
    whole, clean, reason = score_parts(probabilities, labels, names, twins, seed)
    reason = "the model was trained on these very pictures" if is_training_set else reason
    halves = groups(part.images) if fits_here else None
    return Evaluation(
        split=split,
        names=names,
        probabilities=probabilities,
        labels=labels,
        images=part.images,
        ids=part.ids,
        twins=twins,
        whole=whole,
        clean=clean,
        clean_reason=reason,
        views=2 if tta else 1,
        models=(model,),
        source=portable(faces.source),
        fingerprint=faces.fingerprint,
        seed=seed,
        warnings=(*faces.warnings, *_absent(whole)),
        approximate=any(isinstance(pictures, Sketches) for pictures in sets),
        scaling=_scaling(readings, labels, halves, twins, temperature, seed),
        shares=class_shares(faces.part("train"), names) if trained_on_it and faces.has("train") else None,
        balanced_by=_balanced_by(meta),
        uncertain=record.get("uncertain"),
        parameters=parameters,
        seconds=seconds,
        trained_on_it=trained_on_it,
        taught_before=taught_before(meta, faces.fingerprint),
    )


def taught_before(meta: Mapping[str, Any], fingerprint: str) -> bool:
    """True if a model learnt from a set before it went on with the set of its last training.

    Args:
        meta: ``meta.json`` of the model.
        fingerprint: of the set.
    """
    return any(record.get("fingerprint") == fingerprint for record in meta.get("learnt_before") or [])


def score_parts(
    probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str], twins: np.ndarray | None, seed: int
) -> tuple[dict[str, Any], dict[str, Any] | None, str | None]:
    """The fields ``whole``, ``clean`` and ``clean_reason`` of an ``Evaluation``, from its other fields."""
    whole = score(probabilities, labels, names, seed=seed)
    if twins is None:
        reason = "the pictures that the model was trained on are not at hand, or not all of them"
        return whole, None, f"{reason}; give them by --train-data"
    if twins.all():
        return whole, None, "every picture of this split has a twin in training"
    return whole, score(probabilities[~twins], labels[~twins], names, seed=seed), None


def _balanced_by(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings in a ``meta.json`` that make up for unequal shares of the classes."""
    config, packed = meta.get("config"), meta.get("balance") or {}
    settings = {name: config.get(name) for name in BALANCING} if isinstance(config, Mapping) else {}
    settings[PACKED_BALANCE] = packed.get("tau")
    return tuple(name if value is True else f"{name} {value:g}" for name, value in settings.items() if value)


def _absent(whole: dict[str, Any]) -> list[str]:
    names = [name for name, values in whole["per_class"].items() if values["support"] == 0]
    return [f"no picture of {', '.join(names)}: left out of the means over classes"] if names else []


def _scaling(
    readings: Sequence[np.ndarray],
    labels: np.ndarray,
    halves: np.ndarray | None,
    twins: np.ndarray | None,
    temperature: float | None,
    seed: int,
) -> Scaling | None:
    """The effect of scaling on the logits [N, C] of each view; ``halves``, int64 [N], asks for cross-fitting here."""
    raw = [logits * (temperature or 1.0) for logits in readings]
    if halves is not None:
        fitted_on = None if twins is None or twins.all() else ~twins
        temperatures = cross_fitted(raw[0], labels, halves, seed, fitted_on)
        if temperatures is None:
            return None
        after = _mean_softmax([logits / temperatures[:, None] for logits in raw])
    elif temperature is None:
        return None
    else:
        after = _mean_softmax(readings)
    return Scaling((temperature,), _mean_softmax(raw), after, cross_fitted=halves is not None)


def _mean_softmax(readings: Sequence[np.ndarray]) -> np.ndarray:
    """Mean probabilities over the views, float64 [N, C], from the logits [N, C] of each view."""
    return np.mean([softmax(logits) for logits in readings], axis=0)


def _checked(logits: np.ndarray, model: str) -> np.ndarray:
    """The logits as float64 [N, C]; raises MienError if one is NaN or infinite."""
    if not np.isfinite(logits).all():
        row = int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])
        raise MienError(f"{model or 'the model'}: answers picture {row} with {NO_NUMBERS}")
    return logits.astype(np.float64)
