"""Figures of how sure the answers are: reliability, and risk over coverage."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mien.evaluation.calibration import RiskCoverage, Threshold
from mien.evaluation.figures.style import LIGHT, TEXT_SIZE, Theme, blank_figure, legend_above, style_axes
from mien.evaluation.metrics import Reliability

FEW = 10
"""Fewer pictures say little: such bins of the reliability diagram are pale, and the risk is drawn from so many on."""


def reliability_diagram(bins: Reliability, *, theme: Theme = LIGHT) -> Figure:
    """Accuracy over confidence with the gap to the diagonal, and below it how many pictures stand in each bin.

    Bars of fewer than ``FEW`` pictures are pale.
    """
    figure = blank_figure((6.6, 6.6), theme)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    width = float(bins.edges[1] - bins.edges[0])
    centres = (bins.edges[:-1] + bins.edges[1:]) / 2
    filled = bins.count > 0
    style_axes(upper, theme)
    for enough, alpha in ((True, 1.0), (False, 0.4)):
        here = filled & ((bins.count >= FEW) == enough)
        label = "share read right" if enough else None
        upper.bar(centres[here], bins.accuracy[here], width * 0.9, color=theme.first, alpha=alpha, label=label)
    upper.plot(
        [0, 1],
        [0, 1],
        color=theme.ink,
        linestyle=(0, (4, 3)),
        linewidth=1.4,
        label="as sure as it is right",
        path_effects=[withStroke(linewidth=3.2, foreground=theme.paper)],
    )
    upper.vlines(
        bins.confidence[filled],
        np.minimum(bins.accuracy, bins.confidence)[filled],
        np.maximum(bins.accuracy, bins.confidence)[filled],
        color=theme.second,
        linewidth=3.5,
        label="gap",
    )
    upper.set_ylim(0, 1)
    upper.set_xlim(0, 1)
    upper.set_ylabel("accuracy")
    upper.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    upper.grid(axis="y", color=theme.grid)
    upper.text(
        0.03,
        0.95,
        f"calibration error (ECE) {bins.ece:.3f}",
        transform=upper.transAxes,
        va="top",
        color=theme.ink,
        fontsize=TEXT_SIZE + 1,
        fontweight="bold",
    )
    style_axes(lower, theme)
    lower.bar(centres, bins.count, width * 0.9, color=theme.faint, alpha=0.7)
    lower.set_ylabel("pictures")
    lower.set_xlabel("confidence: the highest of the probabilities")
    lower.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    lower.grid(axis="y", color=theme.grid)
    legend_above(figure, upper, theme, ("share read right", "gap", "as sure as it is right"))
    return figure


def risk_coverage_curve(curve: RiskCoverage, sure: Threshold | None = None, *, theme: Theme = LIGHT) -> Figure:
    """Accuracy of the surest answers over the share of pictures that is answered.

    Args:
        curve: drawn from ``FEW`` answers on, where there are more.
        sure: the answers that the model's own threshold calls sure; marked where there are any.
        theme: the colours.
    """
    figure = blank_figure((6.6, 4.6), theme)
    axes = style_axes(figure.add_subplot(), theme)
    enough = curve.coverage * curve.count >= min(FEW, curve.count)
    shown, marked = curve.accuracy[enough], "no threshold"
    axes.plot(curve.coverage[enough], shown, color=theme.first, linewidth=2.4, label="share read right")
    axes.plot(1, shown[-1], "o", color=theme.first, markersize=7, clip_on=False)
    lowest = float(shown.min())
    if sure is not None and sure.accuracy is not None:
        mark: dict[str, Any] = {"markersize": 10, "markeredgecolor": theme.paper, "markeredgewidth": 1.2}
        marked = f"sure: from {100 * sure.threshold:.1f} % certainty on"
        axes.plot(sure.coverage, sure.accuracy, "D", color=theme.second, label=marked, clip_on=False, **mark)
        axes.vlines(sure.coverage, 0, sure.accuracy, color=theme.second, linewidth=1.4, linestyle=(0, (4, 3)))
        lowest = min(lowest, sure.accuracy)
    axes.set_xlim(0, 1)
    axes.set_ylim(max(0.0, math.floor(10 * lowest - 0.5) / 10), 1.01)
    axes.set_xlabel("coverage: share of pictures answered, the surest first")
    axes.set_ylabel("accuracy of these")
    axes.set_title(
        f"area under the risk (AURC) {curve.aurc:.3f}",
        loc="left",
        color=theme.ink,
        fontsize=TEXT_SIZE + 1,
        fontweight="bold",
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.grid(color=theme.grid)
    legend_above(figure, axes, theme, ("share read right", marked))
    return figure
