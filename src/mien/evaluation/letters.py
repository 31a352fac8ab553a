"""Figures whose text is written in fonts that have its letters, never as boxes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import NullFormatter

from mien import fonts


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
