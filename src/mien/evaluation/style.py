"""The style of all figures: colours, text sizes, axes, titles, fonts with the letters of each text, kinds of files."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from matplotlib import font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from matplotlib.ticker import NullFormatter

from mien import fonts

TEXT_SIZE = 12.5
SMALL_SIZE = 11.0
DPI = 150

FORMATS: tuple[str, ...] = ("png", "pdf", "svg")
"""Endings of the files of each figure. All three are always written: PNG for a screen, PDF for LaTeX, SVG to edit."""

_VECTOR: Mapping[str, Any] = {
    "pdf.fonttype": 42,  # TrueType: journals refuse Type 3 fonts
    "svg.fonttype": "path",  # looks the same without the font
    "svg.hashsalt": "mien",
}
_UNDATED: Mapping[str, Mapping[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
"""Metadata without a date, so that the same figure gives the same file."""


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
    """An empty figure of ``size`` (width and height in inches), with a layout that keeps its parts apart."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    return LetteredFigure(figsize=size, facecolor=theme.paper, layout=layout)


def png(figure: Figure, dpi: int = DPI) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor=figure.get_facecolor())
    return buffer.getvalue()


def files(figure: Figure) -> dict[str, bytes]:
    """The figure as a file of each of ``FORMATS``, by the ending."""
    return {"png": png(figure), **{suffix: vector(figure, suffix) for suffix in FORMATS[1:]}}


def vector(figure: Figure, suffix: str) -> bytes:
    """The figure as a ``pdf`` or ``svg`` file, without the date; text in a PDF stays text."""
    buffer = io.BytesIO()
    settings: Any = dict(_VECTOR)  # matplotlib types the name of every setting
    with rc_context(settings):
        figure.savefig(buffer, format=suffix, facecolor=figure.get_facecolor(), metadata=dict(_UNDATED[suffix]))
    return buffer.getvalue()


def set_title(axes: Axes, text: str, theme: Theme, *, bold: bool = True) -> None:
    """Sets the title of an axes, at its left."""
    axes.set_title(
        text,
        loc="left",
        color=theme.ink,
        fontsize=TEXT_SIZE + 1 if bold else TEXT_SIZE,
        fontweight="bold" if bold else "normal",
        parse_math=False,
    )


def style_axes(axes: Axes, theme: Theme) -> Axes:
    """Styles an axes: a thin frame at the left and below, quiet ticks, large labels."""
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
    """Adds a legend in one row above the axes, with the labels of ``order`` that the axes has."""
    handles, labels = axes.get_legend_handles_labels()
    handle_of = dict(zip(labels, handles, strict=True))
    shown = [label for label in order if label in handle_of]
    figure.legend(
        [handle_of[label] for label in shown],
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
    """A number; NaN for None or an empty text."""
    return math.nan if value is None or value == "" else float(value)


class LetteredFigure(Figure):
    """A figure that, before it is drawn, gives every text the fonts that its letters need.

    matplotlib's own font has Latin, Greek and Cyrillic. For letters of other scripts a font of the system is added;
    letters that no font here has become escapes such as ``\\u4e2d``.
    """

    def draw(self, renderer: Any) -> None:
        """Draws the figure."""
        for axes in self.axes:
            for axis in (axes.xaxis, axes.yaxis):
                if isinstance(axis.get_major_formatter(), NullFormatter):
                    continue
                names = [label.get_text() for label in axis.get_ticklabels()]
                lettered = [_lettered(name)[0] for name in names]
                if lettered != names:
                    axis.set_ticklabels(lettered)
        for text in self.findobj(Text):
            _letter(text)
        super().draw(renderer)


def _letter(text: Text) -> None:
    """Gives a text the fonts that it needs."""
    lettered, families = _lettered(text.get_text())
    if lettered != text.get_text():
        text.set_text(lettered)
    if families:
        text.set_fontfamily([*text.get_fontfamily(), *families])


def _lettered(text: str) -> tuple[str, tuple[str, ...]]:
    """Returns a text with escapes for letters that no font has, and the families that it needs beside the first."""
    if text.isascii():
        return text, ()
    lettered, files = fonts.drawable(text, Path(font_manager.findfont("DejaVu Sans")))
    return lettered, tuple(_family(file) for file in files)


@cache
def _family(file: Path) -> str:
    """Makes a font known to matplotlib and returns the name of its family."""
    font_manager.fontManager.addfont(str(file))
    return font_manager.FontProperties(fname=str(file)).get_name()
