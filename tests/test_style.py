"""Text of figures: in a font that has the letters, or as escapes; never boxes."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import pytest
from test_fonts import made_font

from mien import fonts
from mien.evaluation.style import LetteredFigure


def drawn(figure: LetteredFigure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of each letter that becomes a box
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def labelled(names: list[str]) -> LetteredFigure:
    figure = LetteredFigure()
    axes = figure.add_subplot()
    axes.set_xticks(range(len(names)), names)
    axes.set_title(names[-1])
    figure.text(0.1, 0.5, "two\nlines")
    return figure


def test_the_figures_of_reports_are_such() -> None:
    from mien.evaluation.style import LIGHT, blank_figure

    assert isinstance(blank_figure((2, 2), LIGHT), LetteredFigure)


def test_latin_greek_and_cyrillic_stay() -> None:
    figure = labelled(["glücklich", "χαρά", "радость"])
    assert drawn(figure)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["glücklich", "χαρά", "радость"]


def test_letters_that_no_font_has_are_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "system_fonts", lambda: ())
    fonts._split.cache_clear()
    figure = labelled(["calm", "高兴"])
    drawn(figure)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["calm", r"\u9ad8\u5174"]
    assert figure.axes[0].get_title() == r"\u9ad8\u5174"
    fonts._split.cache_clear()


def test_a_font_of_the_system_is_used_for_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = made_font(tmp_path / "Made.ttf", "高兴")
    monkeypatch.setattr(fonts, "system_fonts", lambda: (file,))
    fonts._split.cache_clear()
    figure = labelled(["calm", "高兴"])
    drawn(figure)
    label = figure.axes[0].get_xticklabels()[1]
    assert label.get_text() == "高兴" and "Made" in label.get_fontfamily()
    fonts._split.cache_clear()
