"""Several evaluations side by side: mean and deviation over seeds, and tests that pair them picture by picture."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from mien.errors import MienError
from mien.evaluation.evaluate import Evaluation
from mien.evaluation.metrics import mcnemar

COMPARED: tuple[str, ...] = ("accuracy", "macro_f1", "balanced_accuracy", "ece", "nll")
"""The scores that are averaged over several runs."""


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
        for field in ("split", "views", "averaged"):
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


def paired_tests(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """McNemar's exact test of each pair, on the whole split; the probabilities are not corrected for their number.

    Args:
        evaluations: of the same pictures in the same order.

    Returns:
        ``models`` (two), and ``b``, ``c`` and ``p`` of ``mien.evaluation.metrics.mcnemar``, for each pair in order.
    """
    return [
        {"models": [first.model, second.model], **mcnemar(first.right, second.right)}
        for first, second in combinations(evaluations, 2)
    ]


def average_scores(evaluation: Evaluation) -> dict[str, dict[str, float] | None]:
    """``whole`` and ``clean`` (None where it is unknown) of an average, each ``{score: value}``."""
    parts = {"whole": evaluation.whole, "clean": evaluation.clean}
    return {part: scores and {name: scores[name] for name in COMPARED} for part, scores in parts.items()}


def comparison_table(comparison: dict[str, Any]) -> str:
    """``compare_runs`` as lines of text: shares in percent, the likelihood in nats.

    Where there is an ``average`` (``average_scores``), it has columns of its own; where there are ``pairs``
    (``paired_tests``), each gets a line below.
    """
    views = ", picture and mirror image averaged" if comparison["tta"] else ""
    parts = [part for part in ("whole", "clean") if comparison[part]]
    average = comparison.get("average") or {}
    count = comparison["runs"]
    title = f"{comparison['split']}, {count} {'run' if count == 1 else 'runs'}, mean ± standard deviation{views}"
    heads = [*parts, *(f"average, {part}" for part in parts if average.get(part))]
    lines = [title, " " * 20 + "".join(f"{head:>18}" for head in heads)]
    for name in COMPARED:
        cells = [_cell(name, **comparison[part][name]) for part in parts]
        cells += [_cell(name, average[part][name]) for part in parts if average.get(part)]
        lines.append(f"{name:20}{''.join(cells)}".rstrip())
    for pair in comparison.get("pairs") or []:
        first, second = pair["models"]
        lines.append(
            f"{first} against {second}: {pair['b']:,} pictures are read right by the first alone, {pair['c']:,} by the "
            f"second alone, p = {pair['p']:.2g} (McNemar)"
        )
    return "\n".join(lines)


def _cell(name: str, mean: float, std: float | None = None, values: Sequence[float] = ()) -> str:
    scale, digits, unit = (1, 4, "  ") if name == "nll" else (100, 2, " %")
    spread = "" if std is None else f" ± {scale * std:.{digits}f}"
    return f"{scale * mean:.{digits}f}{spread}{unit}".rjust(18)


def _spread(scores: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    spread = {}
    for name in COMPARED:
        values = [float(part[name]) for part in scores]
        std = statistics.stdev(values) if len(values) > 1 else None
        spread[name] = {"mean": statistics.fmean(values), "std": std, "values": values}
    return spread
