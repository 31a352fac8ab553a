"""The one calm style of all figures, which colour-blind people can read too."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

TEXT_SIZE = 12.5
SMALL_SIZE = 11.0
DPI = 150


@dataclass(frozen=True)
class Theme:
    """Colours of a figure. ``first`` and ``second`` differ in lightness as well as in hue.

    Attributes:
        paper: the background.
        ink: text and points.
        faint: secondary text and the frame.
        grid: grid lines.
        first: the colour of what a figure is about.
        second: what it is compared with.
        strongest: the full end of the shading of the confusion matrix, whose empty end is ``paper``.
        on_strongest: text on it.
    """

    paper: str
    ink: str
    faint: str
    grid: str
    first: str
    second: str
    strongest: str
    on_strongest: str


LIGHT = Theme("#ffffff", "#1d2733", "#5c6873", "#e3e7eb", "#2f6f9f", "#d1751a", "#1f5a87", "#ffffff")
DARK = Theme("#1b222b", "#e8edf2", "#a3afbb", "#333d49", "#6bb0e0", "#f0a050", "#8cc5ee", "#10161d")


def blank_figure(size: tuple[float, float], theme: Theme) -> Figure:
    """An empty figure of so many inches, width and height, whose parts keep out of one another's way."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    return Figure(figsize=size, facecolor=theme.paper, layout=layout)


def png(figure: Figure, dpi: int = DPI) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor=figure.get_facecolor())
    return buffer.getvalue()


def style_axes(axes: Axes, theme: Theme) -> Axes:
    """Puts an axes into the style: a thin frame at the left and below, quiet ticks, large labels."""
    axes.set_facecolor(theme.paper)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.grid)
    axes.tick_params(colors=theme.ink, labelsize=TEXT_SIZE, color=theme.grid, length=4)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(theme.faint)
        axis.label.set_fontsize(TEXT_SIZE)
    axes.xaxis.labelpad = axes.yaxis.labelpad = 8
    return axes


def legend_above(figure: Figure, axes: Axes, theme: Theme, order: Sequence[str]) -> None:
    """The legend in one row above the axes."""
    handles, labels = axes.get_legend_handles_labels()
    known = dict(zip(labels, handles, strict=True))
    shown = [label for label in order if label in known]
    figure.legend(
        [known[label] for label in shown],
        shown,
        loc="outside upper center",
        ncols=len(shown),
        frameon=False,
        fontsize=TEXT_SIZE,
        labelcolor=theme.ink,
        handlelength=1.4,
        columnspacing=1.6,
    )


def or_nan(value: Any) -> float:
    """A number, NaN where there is none (None or an empty text)."""
    return math.nan if value is None or value == "" else float(value)
