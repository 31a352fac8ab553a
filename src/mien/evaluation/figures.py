"""All figures of reports and runs, in one style."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from mien.evaluation.calibration import RiskCoverage, Threshold
from mien.evaluation.choice import CRITERIA, LAST, Choice
from mien.evaluation.metrics import Reliability
from mien.evaluation.style import (
    LIGHT,
    SMALL_SIZE,
    TEXT_SIZE,
    Theme,
    blank_figure,
    legend_above,
    or_nan,
    set_title,
    style_axes,
)
from mien.text import counted

FEW = 10
"""Bins of the reliability diagram with fewer pictures are pale, and the risk curve begins at this number of answers."""

SCORES: dict[str, str] = {"val_accuracy": "accuracy", "val_macro_f1": "macro-F1"}
"""The validation scores of fine-tuning: column of the history -> title."""

PROBES: dict[str, str] = {"linear_accuracy": "linear probe", "knn_accuracy": "k-NN"}
"""The validation scores of pretraining: column of the history -> title."""

CAPTION_LETTERS = 22
"""Letters of a line below a picture of a sheet, and of a class name beside a chart."""

MARGIN = 0.12
"""Room above and below the curves of training, as a share of their range."""

ROWS: tuple[str, ...] = ("face", "what the\nencoder saw", "filled by\nthe decoder")
HIDDEN_SHADE = 0.82
"""Brightness of a hidden patch, as a share of white."""


def confusion_matrix(confusion: Sequence[Sequence[int]], names: Sequence[str], *, theme: Theme = LIGHT) -> Figure:
    """Counts [C, C], a row per true class, shaded by the share of the row; a cell shows share in percent and count."""
    counts = np.asarray(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(4.8, 1.6 + 0.74 * len(names))
    figure = blank_figure((side + 0.3, side), theme)
    axes = style_axes(figure.add_subplot(), theme)
    shading = LinearSegmentedColormap.from_list("share", [theme.paper, theme.strongest])
    axes.imshow(shares, cmap=shading, vmin=0, vmax=1, aspect="equal")
    for row, column in np.ndindex(counts.shape):
        colour = _readable_on(shading(shares[row, column]), theme)
        if counts[row, column] == 0:
            axes.text(column, row, "0", ha="center", va="center", color=theme.faint, fontsize=SMALL_SIZE - 1)
            continue
        share = f"{100 * shares[row, column]:.0f}"
        weight = "bold" if row == column else "normal"
        spot: dict[str, Any] = {"ha": "center", "color": colour}
        axes.text(column, row + 0.02, f"{share} %", va="bottom", fontsize=TEXT_SIZE, fontweight=weight, **spot)
        axes.text(column, row + 0.10, f"{counts[row, column]:,}", va="top", fontsize=SMALL_SIZE - 2, **spot)
    ticks = np.arange(len(names))
    labels = [_two_lines(name) for name in names]
    axes.set_xticks(ticks, labels, rotation=35, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(ticks, labels, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    set_title(axes, f"Confusion matrix, {counted(counts.sum(), 'picture')}", theme)
    axes.set_xticks(ticks[1:] - 0.5, minor=True)
    axes.set_yticks(ticks[1:] - 0.5, minor=True)
    axes.grid(which="minor", color=theme.grid, linewidth=1)
    axes.tick_params(which="both", length=0)
    return figure


def per_class_bars(per_class: Mapping[str, Mapping[str, Any]], *, theme: Theme = LIGHT) -> Figure:
    """One bar of F1 per class, its value beside it, and markers for precision and recall; None is left out."""
    names = list(per_class)
    places = np.arange(len(names))
    figure = blank_figure((6.6, 1.5 + 0.52 * len(names)), theme)
    axes = style_axes(figure.add_subplot(), theme)
    values = {key: np.array([or_nan(per_class[name][key]) for name in names]) for key in ("f1", "precision", "recall")}
    axes.barh(places, values["f1"], height=0.62, color=theme.first, label="F1")
    edge: dict[str, Any] = {
        "markersize": 9,
        "markeredgecolor": theme.paper,
        "markeredgewidth": 1.2,
        "linestyle": "none",
        "clip_on": False,
        "zorder": 3,  # above the axis
    }
    axes.plot(values["precision"], places - 0.15, marker="D", color=theme.second, label="precision", **edge)
    axes.plot(values["recall"], places + 0.15, marker="o", color=theme.ink, label="recall", **edge)
    for place, value in enumerate(values["f1"]):
        text = "no pictures" if math.isnan(value) else f"{100 * value:.1f} %"
        axes.text(1.035, place, text, va="center", color=theme.ink, fontsize=TEXT_SIZE)
    axes.text(1.035, -0.62, "F1", va="center", color=theme.faint, fontsize=SMALL_SIZE)
    labels = [f"{_two_lines(name)}  ({per_class[name]['support']:,})" for name in names]
    axes.set_yticks(places, labels, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.grid(axis="x", color=theme.grid)
    axes.tick_params(axis="y", length=0, pad=9)  # a marker at 0 reaches to the left
    set_title(axes, "Scores of each expression", theme)
    legend_above(figure, axes, theme, ("F1", "precision", "recall"))
    return figure


def picture_sheet(images: np.ndarray, captions: Sequence[str], *, columns: int = 4, theme: Theme = LIGHT) -> Figure:
    """Pictures, uint8 [N, S, S] or [N, S, S, 3] with N of at least 1, in rows of ``columns``, captions below.

    Lines of captions that are longer than ``CAPTION_LETTERS`` are broken, so that neighbours do not overlap.
    """
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    figure = blank_figure((2.1 * columns, 2.75 * rows), theme)
    for place, (image, caption) in enumerate(zip(images, captions, strict=True)):
        axes = figure.add_subplot(rows, columns, place + 1)
        _show(axes, image)
        lines = [part for line in caption.splitlines() for part in textwrap.wrap(line, CAPTION_LETTERS)]
        axes.set_xlabel("\n".join(lines), color=theme.ink, fontsize=SMALL_SIZE, labelpad=7, parse_math=False)
    return figure


def reliability_diagram(bins: Reliability, *, theme: Theme = LIGHT) -> Figure:
    """Accuracy over confidence with the gap to the diagonal, and below it the number of pictures in each bin.

    Bars of fewer than ``FEW`` pictures are pale.
    """
    figure = blank_figure((6.6, 6.6), theme)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    width = float(bins.edges[1] - bins.edges[0])
    centres = (bins.edges[:-1] + bins.edges[1:]) / 2
    filled = bins.count > 0
    style_axes(upper, theme)
    for enough, alpha in ((True, 1.0), (False, 0.4)):
        rows = filled & ((bins.count >= FEW) == enough)
        label = "accuracy" if enough == (bins.count >= FEW).any() else None  # bars that are there colour the legend
        upper.bar(centres[rows], bins.accuracy[rows], width * 0.9, color=theme.first, alpha=alpha, label=label)
    upper.plot(
        [0, 1],
        [0, 1],
        color=theme.ink,
        linestyle=(0, (4, 3)),
        linewidth=1.4,
        label="perfect calibration",
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
    set_title(upper, f"Calibration error (ECE) {100 * bins.ece:.1f} %", theme)
    style_axes(lower, theme)
    lower.bar(centres, bins.count, width * 0.9, color=theme.faint, alpha=0.7)
    lower.set_ylabel("pictures")
    lower.set_xlabel("confidence (highest probability)")
    lower.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    lower.grid(axis="y", color=theme.grid)
    legend_above(figure, upper, theme, ("accuracy", "gap", "perfect calibration"))
    return figure


def risk_coverage_curve(curve: RiskCoverage, sure: Threshold | None = None, *, theme: Theme = LIGHT) -> Figure:
    """Accuracy of the most confident answers over the share of pictures that is answered.

    Args:
        curve: drawn from ``FEW`` answers on, if there are as many.
        sure: the answers above the model's own threshold; marked if there are any.
        theme: the colours.
    """
    figure = blank_figure((6.6, 4.6), theme)
    axes = style_axes(figure.add_subplot(), theme)
    enough = curve.coverage * curve.count >= min(FEW, curve.count)
    shown, marked = curve.accuracy[enough], "no threshold"
    axes.plot(curve.coverage[enough], shown, color=theme.first, linewidth=2.4, label="accuracy")
    axes.plot(1, shown[-1], "o", color=theme.first, markersize=7, clip_on=False)
    lowest = float(shown.min())
    if sure is not None and sure.accuracy is not None:
        mark: dict[str, Any] = {"markersize": 10, "markeredgecolor": theme.paper, "markeredgewidth": 1.2}
        marked = f"sure: confidence of at least {100 * sure.threshold:.1f} %"
        axes.plot(sure.coverage, sure.accuracy, "D", color=theme.second, label=marked, clip_on=False, **mark)
        axes.vlines(sure.coverage, 0, sure.accuracy, color=theme.second, linewidth=1.4, linestyle=(0, (4, 3)))
        lowest = min(lowest, sure.accuracy)
    axes.set_xlim(0, 1)
    axes.set_ylim(max(0.0, math.floor(10 * lowest - 0.5) / 10), 1.01)
    axes.set_xlabel("coverage: share of answers, most confident first")
    axes.set_ylabel("accuracy")
    set_title(axes, f"Area under risk and coverage (AURC) {100 * curve.aurc:.1f} %", theme)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.grid(color=theme.grid)
    legend_above(figure, axes, theme, ("accuracy", marked))
    return figure


def balance_lines(
    whole: Sequence[Mapping[str, Any]], clean: Sequence[Mapping[str, Any]] | None, *, theme: Theme = LIGHT
) -> Figure:
    """Scores over how much of the shares of the classes is divided out of the answers.

    Args:
        whole: the rows of ``mien.evaluation.balance.balance_curve``.
        clean: the same without twins of training, drawn dashed; None if these are not known.
        theme: the colours.
    """
    figure = blank_figure((6.6, 4.6), theme)
    axes = style_axes(figure.add_subplot(), theme)
    lines = {"accuracy": theme.first, "balanced_accuracy": theme.second, "macro_f1": theme.faint}
    titles = [CRITERIA[name] for name in lines]
    for rows, dash in ((whole, "-"), *([(clean, (0, (4, 2)))] if clean else [])):
        for (key, colour), title in zip(lines.items(), titles, strict=True):
            taus, scores = [row["tau"] for row in rows], [row[key] for row in rows]
            axes.plot(taus, scores, linestyle=dash, color=colour, linewidth=2.2, label=title if dash == "-" else None)
    axes.set_xlim(0, 1)
    axes.set_xlabel("tau: how much of the shares of the classes is divided out")
    axes.set_ylabel("score")
    set_title(axes, "Solid: all pictures. Dashed: without twins" if clean else "All pictures", theme, bold=False)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(color=theme.grid)
    legend_above(figure, axes, theme, titles)
    return figure


def curves(
    history: Sequence[Mapping[str, Any]],
    *,
    scores: Mapping[str, str] = SCORES,
    choice: Choice | None = None,
    theme: Theme = LIGHT,
) -> Figure:
    """Loss, validation scores and learning rate over the epochs.

    Args:
        history: a mapping per epoch with ``epoch`` and any of ``loss, val_loss, lr`` and the names of ``scores``
            (shares in [0, 1]); missing values, None and NaN are left out, and learning rates that are all zero (of a
            single epoch).
        scores: the columns to show as validation scores, and their titles.
        choice: what validation kept: that epoch is marked, or it is said that the start was kept. Without it, the best
            epoch of the first of ``scores`` is marked.
        theme: the colours.
    """
    epochs = [float(row["epoch"]) for row in history]
    rates = _series(history, "lr")
    panels = [("loss", {"loss": "training", "val_loss": "validation"})]
    panels.append(("validation", dict(scores)))
    panels += [("learning rate", {"lr": ""})] if (rates > 0).any() else []
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
        axes.margins(y=MARGIN)
        axes.grid(color=theme.grid)
        axes.yaxis.set_major_locator(MaxNLocator(5 if title != "learning rate" else 3))
    grid[0].set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    set_title(grid[0], f"Training, {len(epochs)} epoch{'s' if len(epochs) > 1 else ''}", theme)
    grid[1].yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    if len(panels) > 2:
        power = math.floor(math.log10(np.nanmax(rates)))
        grid[2].set_ylabel(f"learning rate\nin $10^{{{power}}}$")
        grid[2].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 10**power:g}"))
    grid[-1].set_xlabel("epoch")
    grid[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    key, label = next(iter(scores.items()))
    if choice is None:
        _mark_best(grid[1], epochs, _series(history, key), label, theme)
    else:
        _mark_chosen(grid[1], history, scores, choice, theme)
    # Scores are shares: their axis ends at 100 %, with room for a line along it, and its steps meet 100 %.
    low, high = grid[1].get_ylim()
    grid[1].set_ylim(low, min(high, 1 + 0.03 * (1 - low)))
    grid[1].yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    for axes in grid[:2]:
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best", frameon=False, fontsize=TEXT_SIZE, labelcolor=theme.ink)
    return figure


def reconstructions(
    originals: np.ndarray, hidden: np.ndarray, merged: np.ndarray, *, lent: bool, theme: Theme = LIGHT
) -> Figure:
    """Three rows of pictures (face, masked, reconstructed), one column per face, and what of the third is predicted.

    Args:
        originals: uint8 [N, S, S] (grey) or [N, S, S, 3] (RGB).
        hidden: bool [N, S, S], true for pixels that were masked for the encoder.
        merged: as ``originals``: visible patches as they are, hidden ones as predicted.
        lent: whether the predicted patches have the mean and contrast of the true ones.
        theme: the colours.
    """
    veil = np.uint8(round(255 * HIDDEN_SHADE))
    masked = np.where(hidden if originals.ndim == 3 else hidden[..., None], veil, originals)
    figure = blank_figure((1.15 * len(originals) + 1.2, 3.75), theme)
    grid = figure.subplots(3, len(originals), squeeze=False)
    for row, (title, images) in enumerate(zip(ROWS, (originals, masked, merged), strict=True)):
        for axes, image in zip(grid[row], images, strict=True):
            _show(axes, image)
        grid[row, 0].set_ylabel(title, rotation=0, ha="right", va="center", color=theme.ink, fontsize=TEXT_SIZE)
    remark = "Last row: visible patches as they are, hidden ones as predicted"
    remark += ", with the brightness and contrast of the true patch, which are not predicted." if lent else "."
    remark = textwrap.fill(remark, round(11 * figure.get_figwidth()))
    figure.supxlabel(remark, color=theme.faint, fontsize=SMALL_SIZE)
    return figure


def _two_lines(name: str) -> str:
    """A name for the side of a figure, which a longer one would leave no room; dots stand for what does not fit."""
    lines = textwrap.wrap(name, CAPTION_LETTERS)
    return "\n".join(lines) if len(lines) <= 2 else f"{lines[0]}\n{lines[1][: CAPTION_LETTERS - 1]}\u2026"


def _show(axes: Axes, image: np.ndarray) -> None:
    """Shows a picture, uint8 [S, S] or [S, S, 3], as its pixels are, without a frame."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_frame_on(False)


def _readable_on(background: tuple[float, float, float, float], theme: Theme) -> str:
    """The text colour of the theme with the higher contrast on ``background`` (WCAG 2.1)."""

    def luminance(colour: Any) -> float:
        channels = np.array(to_rgb(colour))
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05

    below = luminance(background[:3])
    return max(
        (theme.ink, theme.on_strongest),
        key=lambda text: max(below, luminance(text)) / min(below, luminance(text)),
    )


def _mark_best(axes: Axes, epochs: Sequence[float], accuracy: np.ndarray, label: str, theme: Theme) -> None:
    """Marks the epoch of the highest validation score by a ring, and names it in the title."""
    if not np.isfinite(accuracy).any():
        return
    best = int(np.nanargmax(accuracy))
    _ring(axes, epochs[best], accuracy[best], theme)
    set_title(axes, f"best {label}: {100 * accuracy[best]:.1f} % at epoch {epochs[best]:g}", theme, bold=False)


def _mark_chosen(
    axes: Axes, history: Sequence[Mapping[str, Any]], scores: Mapping[str, str], choice: Choice, theme: Theme
) -> None:
    """Marks the chosen epoch by a ring and names it, with the score that decided, in the title.

    The ring is on the line of that score, or on the first one if it has no line.
    """
    if choice.epoch == 0:
        set_title(axes, f"the start was kept, by {choice.criterion}", theme, bold=False)
        return
    key = f"val_{choice.select}" if f"val_{choice.select}" in scores else next(iter(scores))
    value = next((or_nan(row.get(key)) for row in history if row["epoch"] == choice.epoch), math.nan)
    if math.isfinite(value):
        _ring(axes, choice.epoch, value, theme)
        reason = "kept as the last" if choice.select == LAST else f"chosen by {choice.criterion}"
        title = f"{reason}: epoch {choice.epoch}, {scores[key]} {100 * value:.1f} %"
        set_title(axes, title, theme, bold=False)


def _ring(axes: Axes, epoch: float, value: float, theme: Theme) -> None:
    axes.plot(epoch, value, "o", markersize=13, markeredgewidth=2, color=theme.ink, fillstyle="none")


def _series(history: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    return np.array([or_nan(row.get(key)) for row in history])
