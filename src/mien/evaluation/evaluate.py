"""One classifier on one split of a data set: probabilities, scores, and the same scores without twins of training."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mien.data.faces import FaceSet
from mien.data.twins import has_twin, thumbnails
from mien.errors import MienError
from mien.evaluation.metrics import score
from mien.labels import positions
from mien.versions import versions

COMPARED: tuple[str, ...] = ("accuracy", "macro_f1", "balanced_accuracy", "ece", "nll")
"""The scores that are averaged over several runs."""


class Reads(Protocol):
    """What evaluation needs of a classifier."""

    @property
    def names(self) -> tuple[str, ...]:
        """The class names, in the order of the logits."""
        ...

    def logits(self, images: np.ndarray, *, batch_size: int, flip: bool = False, quiet: bool = False) -> np.ndarray:
        """float32 [N, C] of uint8 [N, S, S] or [N, S, S, 3], of their mirror images where ``flip`` is set."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """What a classifier made of one split.

    Attributes:
        split: ``train``, ``validation`` or ``test``.
        names: the C class names, in the classifier's order.
        probabilities: float64 [N, C], rows that sum to 1, columns in the order of ``names``.
        labels: int64 [N], positions of the true classes in ``names``.
        images: uint8 [N, S, S] or [N, S, S, 3], as the data has them.
        ids: str [N], as the data has them.
        twins: bool [N], whether a picture has a near-identical twin in training; None where that is unknown.
        whole: ``mien.evaluation.metrics.score`` of the whole split.
        clean: the same of the pictures without a twin in training; None where there are none or it is unknown.
        clean_reason: why ``clean`` is None.
        views: pictures averaged into one answer, 1, or 2 where the mirror image was read too.
        model: which classifier it was, in words.
        source: where the data came from.
        fingerprint: the data's fingerprint.
        seed: of the bootstrap intervals.
        warnings: what a careful person would want to know.
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
    model: str
    source: str
    fingerprint: str
    seed: int
    warnings: tuple[str, ...] = ()

    @property
    def tta(self) -> bool:
        """Whether the mirror image was averaged in (test-time augmentation)."""
        return self.views > 1

    def twin_scores(self) -> dict[str, Any] | None:
        """Number and accuracy (null where there are none) of the pictures with a twin in training."""
        if self.twins is None:
            return None
        right = (self.probabilities.argmax(axis=1) == self.labels)[self.twins]
        return {"n": len(right), "accuracy": float(right.mean()) if len(right) else None}

    def metrics(self, command: str = "") -> dict[str, Any]:
        """The content of ``metrics.json``: what was evaluated, the scores, the same without twins, how to repeat it."""
        return {
            "split": self.split,
            "tta": self.tta,
            "views": self.views,
            "model": self.model,
            "data": {"source": self.source, "fingerprint": self.fingerprint},
            **self.whole,
            "clean": self.clean,
            "clean_reason": self.clean_reason,
            "twins": self.twin_scores(),
            "warnings": list(self.warnings),
            "seed": self.seed,
            "command": command,
            "versions": versions(),
        }


def evaluate(
    classifier: Reads,
    faces: FaceSet,
    split: str,
    *,
    train_thumbnails: np.ndarray | None,
    tta: bool = False,
    batch_size: int = 256,
    seed: int = 0,
    model: str = "",
    quiet: bool = False,
) -> Evaluation:
    """Reads every picture of a split once (or with its mirror image) and scores the answers.

    Args:
        classifier: columns of the result keep its class order; the data's labels are matched to it by name.
        faces: the data; ``split`` alone is read.
        split: ``train``, ``validation`` or ``test``.
        train_thumbnails: uint8 [M, 12, 12] of the pictures that the classifier was trained on, to tell which pictures
            have a twin among them; None where they are not known.
        tta: average the probabilities of the picture and of its mirror image.
        batch_size: pictures a forward pass.
        seed: of the bootstrap intervals.
        model: which classifier it is, in words, for the report.
        quiet: show no progress.

    Raises:
        MienError: the data has no such split or a class that the classifier does not know, or an answer is NaN.
    """
    part = faces.part(split)
    order = np.array(positions(part.names, classifier.names, f"{faces.source}: the model cannot score this data"))
    labels = order[part.labels].astype(np.int64)
    probabilities = np.mean(
        [
            _softmax(classifier.logits(part.images, batch_size=batch_size, flip=flip, quiet=quiet), model)
            for flip in ((False, True) if tta else (False,))
        ],
        axis=0,
    )
    names = tuple(classifier.names)
    whole = score(probabilities, labels, names, seed=seed)
    twins, clean, reason = None, None, None
    if train_thumbnails is None or not len(train_thumbnails):
        reason = "the pictures that the model was trained on are not known; give the training data too"
    else:
        twins = has_twin(thumbnails(part.images), train_thumbnails)
        if twins.all():
            reason = "every picture of this split has a twin in training"
        else:
            clean = score(probabilities[~twins], labels[~twins], names, seed=seed)
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
        model=model,
        source=faces.source,
        fingerprint=faces.fingerprint,
        seed=seed,
        warnings=(*faces.warnings, *_absent(whole)),
    )


def compare_runs(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and sample standard deviation (n - 1; null for one run) over the ``metrics.json`` of several seeds.

    Returns:
        ``split, tta, runs, models``, ``whole`` and ``clean`` (null where a run has none), both
        ``{score: {"mean", "std", "values"}}``.

    Raises:
        MienError: there is no run, or the runs differ in what was evaluated.
    """
    if not runs:
        raise MienError("no run to compare; give at least one")
    try:
        for field in ("split", "views"):
            found = sorted({str(run[field]) for run in runs})
            if len(found) > 1:
                raise MienError(f"the runs differ in {field} ({', '.join(found)}); compare runs evaluated in one way")
        if len({run["data"]["fingerprint"] for run in runs}) > 1:
            raise MienError("the runs were evaluated on different data; compare runs evaluated on the same data")
        cleans = [run["clean"] for run in runs]
        return {
            "split": runs[0]["split"],
            "tta": runs[0]["tta"],
            "runs": len(runs),
            "models": [run["model"] for run in runs],
            "whole": _spread(runs),
            "clean": None if None in cleans else _spread(cleans),
        }
    except KeyError as error:
        raise MienError(f"a run has no {error} in its metrics; evaluate it again") from error


def comparison_table(comparison: dict[str, Any]) -> str:
    """``compare_runs`` as lines of text: shares in percent, the likelihood in nats."""
    views = ", picture and mirror image averaged" if comparison["tta"] else ""
    parts = [part for part in ("whole", "clean") if comparison[part]]
    count = comparison["runs"]
    title = f"{comparison['split']}, {count} {'run' if count == 1 else 'runs'}, mean ± standard deviation{views}"
    lines = [title, " " * 20 + "".join(f"{part:>18}" for part in parts)]
    for name in COMPARED:
        scale, unit = (1, "  ") if name == "nll" else (100, " %")
        digits = 4 if name == "nll" else 2
        cells = []
        for part in parts:
            mean, std = comparison[part][name]["mean"], comparison[part][name]["std"]
            spread = "" if std is None else f" ± {scale * std:.{digits}f}"
            cells.append(f"{scale * mean:.{digits}f}{spread}{unit}".rjust(18))
        lines.append(f"{name:20}{''.join(cells)}".rstrip())
    return "\n".join(lines)


def _softmax(logits: np.ndarray, model: str) -> np.ndarray:
    """Probabilities, float64 [N, C], of logits [N, C]."""
    if not np.isfinite(logits).all():
        row = int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])
        raise MienError(f"{model or 'the model'}: answers NaN or infinity for picture {row}; its weights are damaged")
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponents = np.exp(shifted)
    return exponents / exponents.sum(axis=1, keepdims=True)


def _absent(whole: dict[str, Any]) -> list[str]:
    absent = [name for name, values in whole["per_class"].items() if values["support"] == 0]
    return [f"no picture of {', '.join(absent)}: left out of the means over classes"] if absent else []


def _spread(scores: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    spread = {}
    for name in COMPARED:
        values = [float(part[name]) for part in scores]
        std = statistics.stdev(values) if len(values) > 1 else None
        spread[name] = {"mean": statistics.fmean(values), "std": std, "values": values}
    return spread
