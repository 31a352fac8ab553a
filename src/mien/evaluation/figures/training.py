"""The figure of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mien.evaluation.figures.style import LIGHT, TEXT_SIZE, Theme, blank_figure, or_nan, style_axes

SCORES: dict[str, str] = {"val_accuracy": "accuracy", "val_macro_f1": "macro-F1"}
"""What fine-tuning measures on validation, by the column of its history."""

PROBES: dict[str, str] = {"linear_accuracy": "linear probe", "knn_accuracy": "k-NN"}
"""What pretraining measures on validation, by the column of its history."""


def curves(history: Sequence[Mapping[str, Any]], *, scores: Mapping[str, str] = SCORES, theme: Theme = LIGHT) -> Figure:
    """Loss, validation scores and learning rate over the epochs.

    Args:
        history: a mapping an epoch with ``epoch`` and any of ``loss, val_loss, lr, image_size`` (pixels) and the names
            of ``scores`` (shares in [0, 1]); what is missing, None or NaN is left out. A line shows where the size of
            the pictures changes.
        scores: the columns to show as validation scores, and what they are called; the best of the first is marked,
            among the epochs at the last size, as only these are kept.
        theme: the colours.
    """
    epochs = [float(row["epoch"]) for row in history]
    rates = _series(history, "lr")
    panels = [("loss", {"loss": "training", "val_loss": "validation"})]
    panels.append(("validation", dict(scores)))
    panels += [("learning rate", {"lr": ""})] if np.isfinite(rates).any() else []
    figure = blank_figure((6.6, 2.7 * len(panels)), theme)
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=[3, 3, 1.5][: len(panels)])[:, 0]
    for axes, (title, lines) in zip(grid, panels, strict=True):
        style_axes(axes, theme)
        styles = ((theme.first, "o", "-"), (theme.second, "D", "--"))
        for (key, label), (colour, marker, dash) in zip(lines.items(), styles, strict=False):
            values = _series(history, key)
            measured = np.isfinite(values)
            if measured.any():
                shown = marker if len(epochs) <= 40 and key != "lr" else ("o" if len(epochs) == 1 else "")
                axes.plot(
                    np.array(epochs)[measured],
                    values[measured],
                    dash,
                    color=colour,
                    marker=shown,
                    markersize=5,
                    linewidth=2,
                    label=label or None,
                )
        axes.set_ylabel(title)
        axes.grid(color=theme.grid)
        axes.yaxis.set_major_locator(MaxNLocator(5 if title != "learning rate" else 3))
    grid[0].set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    grid[0].set_ylim(bottom=min(0.0, *grid[0].get_ylim()))
    grid[1].yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    if len(panels) > 2:
        grid[2].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    grid[-1].set_xlabel("epoch")
    grid[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    key, label = next(iter(scores.items()))
    sizes = _series(history, "image_size")
    kept = ~(sizes < sizes[-1])
    _mark_best(grid[1], epochs, np.where(kept, _series(history, key), np.nan), label, theme)
    if not kept.all():
        _mark_sizes(list(grid), epochs[int(np.flatnonzero(~kept)[-1])] + 0.5, sizes, theme)
    for axes, corner in zip(grid, ("upper right", "lower right"), strict=False):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc=corner, frameon=False, fontsize=TEXT_SIZE, labelcolor=theme.ink)
    return figure


def _mark_best(axes: Axes, epochs: Sequence[float], accuracy: np.ndarray, label: str, theme: Theme) -> None:
    """A ring and a word at the epoch of the highest validation score."""
    if not np.isfinite(accuracy).any():
        return
    best = int(np.nanargmax(accuracy))
    axes.plot(epochs[best], accuracy[best], "o", markersize=13, markeredgewidth=2, color=theme.ink, fillstyle="none")
    axes.set_title(
        f"best {label}: {100 * accuracy[best]:.1f} % at epoch {epochs[best]:g}",
        loc="left",
        color=theme.ink,
        fontsize=TEXT_SIZE,
    )


def _mark_sizes(grid: Sequence[Axes], epoch: float, sizes: np.ndarray, theme: Theme) -> None:
    """A line through all panels where the pictures grow, and both sizes beside it in the first."""
    for axes in grid:
        axes.axvline(epoch, color=theme.faint, linewidth=1, linestyle=":")
    for text, side, shift in ((f"{sizes[0]:g} px", "right", -5), (f"{sizes[-1]:g} px", "left", 5)):
        grid[0].annotate(
            text,
            (epoch, 0.02),
            xycoords=("data", "axes fraction"),
            xytext=(shift, 0),
            textcoords="offset points",
            ha=side,
            color=theme.faint,
            fontsize=TEXT_SIZE,
        )


def _series(history: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    return np.array([or_nan(row.get(key)) for row in history])
