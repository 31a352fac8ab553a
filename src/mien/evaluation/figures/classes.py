"""Figures of what is read as what: the confusion matrix, scores by class, and pictures with captions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure

from mien.evaluation.figures.style import (
    LIGHT,
    SMALL_SIZE,
    TEXT_SIZE,
    Theme,
    blank_figure,
    legend_above,
    or_nan,
    style_axes,
)


def confusion_matrix(confusion: Sequence[Sequence[int]], names: Sequence[str], *, theme: Theme = LIGHT) -> Figure:
    """Counts [C, C], rows true, shaded by the share of the row; each cell says its share in percent and its count."""
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
    axes.set_xticks(ticks, names, rotation=35, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(ticks, names, parse_math=False)
    axes.set_xlabel("read as")
    axes.set_ylabel("labelled")
    axes.set_xticks(ticks[1:] - 0.5, minor=True)
    axes.set_yticks(ticks[1:] - 0.5, minor=True)
    axes.grid(which="minor", color=theme.grid, linewidth=1)
    axes.tick_params(which="both", length=0)
    return figure


def per_class_bars(per_class: Mapping[str, Mapping[str, Any]], *, theme: Theme = LIGHT) -> Figure:
    """F1 as a bar a class and in figures beside it, with markers for precision and recall; None is left out."""
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
    }
    axes.plot(values["precision"], places - 0.15, marker="D", color=theme.second, label="precision", **edge)
    axes.plot(values["recall"], places + 0.15, marker="o", color=theme.ink, label="recall", **edge)
    for place, value in enumerate(values["f1"]):
        axes.text(1.035, place, _said(value), va="center", color=theme.ink, fontsize=TEXT_SIZE)
    axes.text(1.035, -0.62, "F1", va="center", color=theme.faint, fontsize=SMALL_SIZE)
    labels = [f"{name}  ({per_class[name]['support']:,})" for name in names]
    axes.set_yticks(places, labels, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.grid(axis="x", color=theme.grid)
    axes.tick_params(axis="y", length=0)
    legend_above(figure, axes, theme, ("F1", "precision", "recall"))
    return figure


def picture_sheet(images: np.ndarray, captions: Sequence[str], *, columns: int = 4, theme: Theme = LIGHT) -> Figure:
    """At least one picture, uint8 [N, S, S] or [N, S, S, 3], in rows of ``columns``, each above its caption."""
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    figure = blank_figure((2.1 * columns, 2.75 * rows), theme)
    for place, (image, caption) in enumerate(zip(images, captions, strict=True)):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_xlabel(caption, color=theme.ink, fontsize=SMALL_SIZE, labelpad=7, parse_math=False)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_frame_on(False)
    return figure


def _readable_on(background: tuple[float, float, float, float], theme: Theme) -> str:
    """Whichever of the theme's two text colours has the higher contrast on ``background`` (WCAG 2.1)."""

    def luminance(colour: Any) -> float:
        channels = np.array(to_rgb(colour))
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05

    below = luminance(background[:3])
    return max(
        (theme.ink, theme.on_strongest),
        key=lambda text: max(below, luminance(text)) / min(below, luminance(text)),
    )


def _said(value: float) -> str:
    return "no pictures" if math.isnan(value) else f"{value:.2f}"
