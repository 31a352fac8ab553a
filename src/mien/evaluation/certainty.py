"""The part of a report's page that says how sure the answers are, and how far that can be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mien.evaluation.evaluate import Evaluation
from mien.evaluation.figures import FEW
from mien.evaluation.metrics import BINS
from mien.evaluation.pieces import Drawn, decimals, figure_panel, listed, part_row, percent
from mien.evaluation.template import Blocks, Markup

_AS_SURE_AS_RIGHT = 0.01


def certainty(
    blocks: Blocks, evaluation: Evaluation, metrics: Mapping[str, Any], drawn: Mapping[str, Drawn]
) -> dict[str, Markup]:
    """The fields of the page that tell of calibration and of uncertain answers.

    Args:
        blocks: of the page.
        evaluation: what to tell.
        metrics: the content of ``metrics.json``.
        drawn: with the figures ``reliability`` and ``risk_coverage``.
    """
    curve = metrics["risk_coverage"]
    points = [
        {"coverage": percent(point["coverage"], 0), "accuracy": percent(point["accuracy"])} for point in curve["points"]
    ]
    return {
        "calibration": _calibration(blocks, evaluation),
        "scaling": _scaling(blocks, evaluation, metrics["calibration"]),
        "reliability": figure_panel(
            blocks,
            drawn["reliability"],
            "reliability",
            alt={"bins": BINS, "ece": decimals(metrics["ece"])},
            caption={"few": FEW},
        ),
        "uncertain": _uncertain(blocks, evaluation, curve["uncertain"]),
        "risk_coverage": figure_panel(
            blocks, drawn["risk_coverage"], "risk_coverage", alt={"aurc": decimals(curve["aurc"])}, caption={"few": FEW}
        ),
        "coverage_heads": blocks.each("coverage_head", points),
        "coverage_cells": blocks.each("coverage_cell", points),
    }


def _calibration(blocks: Blocks, evaluation: Evaluation) -> Markup:
    confidence = float(evaluation.probabilities.max(axis=1).mean())
    accuracy = evaluation.whole["accuracy"]
    if abs(confidence - accuracy) <= _AS_SURE_AS_RIGHT:
        block = "calibrated"
    else:
        block = "too_sure" if confidence > accuracy else "too_modest"
    ece = _points(evaluation.whole["ece"])
    return blocks.fill(block, confidence=percent(confidence), accuracy=percent(accuracy), ece=ece)


def _scaling(blocks: Blocks, evaluation: Evaluation, measured: Mapping[str, Any] | None) -> Markup:
    """What dividing by a temperature does to the calibration, in words and as a table."""
    if evaluation.scaling is None or measured is None:
        return blocks.fill("scaling_unknown")
    before, after = measured["before"], measured["after"]
    rows = [
        part_row(blocks, title, [(decimals(before[key]), ""), (decimals(after[key]), "")])
        for title, key in (("calibration error (ECE)", "ece"), ("loss (NLL), in nats", "nll"))
    ]
    known = [temperature for temperature in evaluation.scaling.temperatures if temperature is not None]
    if len(known) == len(evaluation.models):
        how = blocks.fill("scaling_folded", temperature=_temperatures(known))
    else:
        how = blocks.fill("scaling_some" if known else "scaling_would")
    kind = "cross_fitted" if measured["cross_fitted"] else "measured"
    return blocks.fill(
        "scaling",
        how=how,
        measured=blocks.fill(f"scaling_{kind}"),
        before=_points(before["ece"]),
        after=_points(after["ece"]),
        rows=blocks.each("part_row", rows),
    )


def _temperatures(known: Sequence[float]) -> str:
    values = [f"{temperature:.2f}" for temperature in known]
    return f"a temperature of {values[0]}" if len(values) == 1 else f"temperatures of {listed(values)}, each its own"


def _uncertain(blocks: Blocks, evaluation: Evaluation, found: Mapping[str, Any] | None) -> Markup:
    """From which certainty on answers count, and what that means here."""
    if found is None:
        return blocks.fill("uncertain_average" if len(evaluation.models) > 1 else "uncertain_unknown")
    stated = percent(found["stated_accuracy"], 0)
    if found["threshold"] is None:
        return blocks.fill("uncertain_never", stated=stated)
    if found["accuracy"] is None:
        here = blocks.fill("sure_none")
    else:
        n = evaluation.whole["n"]
        shares = {"coverage": percent(found["coverage"]), "accuracy": percent(found["accuracy"])}
        here = blocks.fill("sure_here", count=f"{round(found['coverage'] * n):,}", n=f"{n:,}", **shares)
    promised = "confidence" in (evaluation.uncertain or {})
    fields = {"threshold": percent(found["threshold"]), "stated": stated, "here": here}
    return blocks.fill("uncertain" if promised else "uncertain_unbound", **fields)


def _points(gap: float) -> str:
    """A gap between shares, in percentage points."""
    return f"{100 * gap:.1f} points"
