"""The average of several models on one split: the mean of their probabilities (Lakshminarayanan et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mien.errors import MienError
from mien.evaluation.evaluate import Evaluation, Scaling, score_parts
from mien.labels import canonical, positions


def average(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Averages what several models made of the same pictures (deep ensembles, arXiv:1612.01474).

    A picture counts as a twin where any of the models was trained on its twin. The average has no threshold for
    uncertain answers, as none was fitted for it.

    Args:
        evaluations: two or more; the class order of the first is kept, the others are matched to it by name.

    Raises:
        MienError: they differ in classes, in pictures, or in views.
    """
    first = evaluations[0]
    for other in evaluations[1:]:
        same_classes(first.names, first.model, other.names, other.model)
    if not same_pictures(evaluations):
        raise MienError(f"{first.model} was evaluated on other pictures than the rest; average like with like")
    if len({evaluation.views for evaluation in evaluations}) > 1:
        raise MienError("some models read the mirror image too, others do not; average like with like")
    columns = [positions(first.names, evaluation.names, evaluation.model) for evaluation in evaluations]

    def mean(parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.mean([part[:, order] for part, order in zip(parts, columns, strict=True)], axis=0)

    probabilities = mean([evaluation.probabilities for evaluation in evaluations])
    known = [evaluation.twins for evaluation in evaluations if evaluation.twins is not None]
    twins = np.any(known, axis=0) if len(known) == len(evaluations) else None
    whole, clean, reason = score_parts(probabilities, first.labels, first.names, twins, first.seed)
    scalings = [evaluation.scaling for evaluation in evaluations if evaluation.scaling is not None]
    told = [text for evaluation in evaluations for text in evaluation.warnings]
    return replace(
        first,
        probabilities=probabilities,
        twins=twins,
        approximate=any(evaluation.approximate for evaluation in evaluations),
        whole=whole,
        clean=clean,
        clean_reason=reason,
        models=tuple(name for evaluation in evaluations for name in evaluation.models),
        warnings=tuple(dict.fromkeys(told)),
        scaling=Scaling(
            temperatures=tuple(value for scaling in scalings for value in scaling.temperatures),
            before=mean([scaling.before for scaling in scalings]),
            after=mean([scaling.after for scaling in scalings]),
            cross_fitted=any(scaling.cross_fitted for scaling in scalings),
        )
        if len(scalings) == len(evaluations)
        else None,
        uncertain=None,
    )


def same_classes(names: Sequence[str], model: str, others: Sequence[str], other: str) -> None:
    """Checks that two models know the same classes, in whatever order.

    Raises:
        MienError: they do not.
    """
    ours, theirs = ({canonical(name) for name in found} for found in (names, others))
    if ours != theirs:
        raise MienError(
            f"{other}: knows the classes {', '.join(others)}, unlike {model} ({', '.join(names)}); evaluate models of "
            "the same classes together"
        )


def same_pictures(evaluations: Sequence[Evaluation]) -> bool:
    """Whether all were evaluated on the same pictures, in the same order."""
    first = evaluations[0]
    return all(
        (evaluation.split, evaluation.fingerprint) == (first.split, first.fingerprint)
        and np.array_equal(evaluation.ids, first.ids)
        for evaluation in evaluations[1:]
    )
