"""Several evaluations: their average, and paired tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import ROUND_FLOOR, Context, Decimal
from itertools import combinations
from typing import Any, TypeVar

import numpy as np

from mien.errors import MienError
from mien.evaluation.evaluate import Evaluation, Scaling, score_parts
from mien.evaluation.metrics import mcnemar, paired_difference
from mien.labels import canonical, positions
from mien.text import counted

T = TypeVar("T", int, float)


def average(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Averages the probabilities of several models on the same pictures (deep ensembles, arXiv:1612.01474).

    A picture counts as a twin if any of the models was trained on its twin. The average has no threshold for uncertain
    answers, because none was fitted for it.

    Args:
        evaluations: two or more; the average has the class order of the first, the rest are matched to it by name.

    Raises:
        MienError: the evaluations differ in classes, in pictures, or in views.
    """
    first = evaluations[0]
    for evaluation in evaluations[1:]:
        same_classes(first.names, first.model, evaluation.names, evaluation.model)
    if not same_pictures(evaluations):
        raise MienError(f"{first.model} was evaluated on other pictures than the rest; average like with like")
    if len({evaluation.views for evaluation in evaluations}) > 1:
        raise MienError("some models classified the mirror image too, some did not; average like with like")
    columns = [positions(first.names, evaluation.names, evaluation.model) for evaluation in evaluations]

    def mean(parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.mean([part[:, order] for part, order in zip(parts, columns, strict=True)], axis=0)

    probabilities = mean([evaluation.probabilities for evaluation in evaluations])
    twin_masks = [evaluation.twins for evaluation in evaluations if evaluation.twins is not None]
    twins = np.any(twin_masks, axis=0) if len(twin_masks) == len(evaluations) else None
    whole, clean, reason = score_parts(probabilities, first.labels, first.names, twins, first.seed)
    is_scaled = any(evaluation.scaling is not None for evaluation in evaluations)
    scalings = [evaluation.scaling or _unscaled(evaluation) for evaluation in evaluations]
    warnings = [warning for evaluation in evaluations for warning in evaluation.warnings]
    origins = {evaluation.trained_on_it for evaluation in evaluations}
    return replace(
        first,
        probabilities=probabilities,
        twins=twins,
        approximate=any(evaluation.approximate for evaluation in evaluations),
        whole=whole,
        clean=clean,
        clean_reason=reason,
        models=tuple(name for evaluation in evaluations for name in evaluation.models),
        warnings=tuple(dict.fromkeys(warnings)),
        scaling=Scaling(
            temperatures=tuple(value for scaling in scalings for value in scaling.temperatures),
            before=mean([scaling.before for scaling in scalings]),
            after=mean([scaling.after for scaling in scalings]),
            cross_fitted=any(scaling.cross_fitted for scaling in scalings),
        )
        if is_scaled
        else None,
        shares=None if any(evaluation.shares is None for evaluation in evaluations) else first.shares,
        balanced_by=tuple(dict.fromkeys(name for evaluation in evaluations for name in evaluation.balanced_by)),
        uncertain=None,
        parameters=_sum([evaluation.parameters for evaluation in evaluations]),
        seconds=_sum([evaluation.seconds for evaluation in evaluations]),
        trained_on_it=origins.pop() if len(origins) == 1 else None,
        taught_before=any(evaluation.taught_before for evaluation in evaluations),
    )


def _unscaled(evaluation: Evaluation) -> Scaling:
    """The scaling of a model without a fitted temperature, beside models that have one."""
    unknown = (None,) * len(evaluation.models)
    return Scaling(unknown, evaluation.probabilities, evaluation.probabilities, cross_fitted=False)


def same_classes(first_names: Sequence[str], first_model: str, names: Sequence[str], model: str) -> None:
    """Checks that two models have the same classes, in any order.

    Raises:
        MienError: the classes differ.
    """
    if {canonical(name) for name in first_names} != {canonical(name) for name in names}:
        raise MienError(
            f"{model}: knows the classes {', '.join(names)}, unlike {first_model} ({', '.join(first_names)}); evaluate "
            "models of the same classes together"
        )


def same_pictures(evaluations: Sequence[Evaluation]) -> bool:
    """True if all evaluations are of the same pictures in the same order."""
    first = evaluations[0]
    return all(
        (evaluation.split, evaluation.fingerprint) == (first.split, first.fingerprint)
        and np.array_equal(evaluation.ids, first.ids)
        for evaluation in evaluations[1:]
    )


def paired_tests(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """McNemar's exact test of each pair, on the whole split and on its clean part.

    p is not corrected for the number of tests.

    Args:
        evaluations: of the same pictures in the same order.

    Returns:
        For each pair in order: ``models`` (two); ``b``, ``c`` and ``p`` of ``mien.evaluation.metrics.mcnemar`` and
        ``difference`` and ``ci95`` of ``paired_difference`` on the whole split; and ``clean``: the same on the ``n``
        pictures without a twin in the training of either model, and ``approximate``, true if a twin was detected by
        sketches. ``clean`` is null if the twins of a model are unknown or no picture is left.
    """
    return [
        {"models": [first.model, second.model], **_paired(first.right, second.right), "clean": _clean(first, second)}
        for first, second in combinations(evaluations, 2)
    ]


def _paired(right_a: np.ndarray, right_b: np.ndarray) -> dict[str, Any]:
    return {**mcnemar(right_a, right_b), **paired_difference(right_a, right_b)}


def _clean(first: Evaluation, second: Evaluation) -> dict[str, Any] | None:
    if first.twins is None or second.twins is None:
        return None
    rows = ~(first.twins | second.twins)
    if not rows.any():
        return None
    counts = _paired(first.right[rows], second.right[rows])
    return {"n": int(rows.sum()), **counts, "approximate": first.approximate or second.approximate}


def pairs_text(pairs: Sequence[dict[str, Any]]) -> str:
    """``paired_tests`` as lines of text; several pairs come with the p that holds for all (Bonferroni)."""
    lines = ["McNemar's test of each pair, over pictures: it says nothing about other seeds."]
    for pair in pairs:
        clean = pair["clean"]
        first, second = pair["models"]
        lines.append(f"{first} against {second}, whole: {_counts_text(pair)}")
        about = "about " if clean and clean["approximate"] else ""
        of_clean = f"{about}{counted(clean['n'], 'picture')}: {_counts_text(clean)}" if clean else "not known for both"
        lines.append(f"{first} against {second}, strictly clean, {of_clean}")
    if (count := len(pairs)) > 1:
        bound = Context(prec=2, rounding=ROUND_FLOOR).divide(Decimal("0.05"), count)  # 0.017 is above 0.05 / 3
        lines.append(
            f"These are {count} pairs, and p is not corrected for their number: at .05 in all, in one part, a "
            f"p below {bound} holds (Bonferroni)."
        )
    return "\n".join(lines)


def _counts_text(test: dict[str, Any]) -> str:
    low, high = (100 * bound for bound in test["ci95"])
    return (
        f"{100 * test['difference']:+.2f} points ({low:+.2f} to {high:+.2f}); only the first is right on "
        f"{test['b']:,}, only the second on {test['c']:,}, p = {test['p']:.2g}"
    )


def _sum(values: Sequence[T | None]) -> T | None:
    """The sum of numbers; None if one is unknown."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) if len(numbers) == len(values) else None
