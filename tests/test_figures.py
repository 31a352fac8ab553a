"""Figures: their content in both themes and in edge cases, and no change of global state."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from itertools import pairwise
from typing import Any, get_args

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from PIL import Image

from mien.config.fields import Criterion
from mien.evaluation.balance import balance_curve
from mien.evaluation.calibration import apply_threshold, risk_coverage
from mien.evaluation.choice import CRITERIA, LAST, Choice, choice_of
from mien.evaluation.figures import (
    balance_lines,
    confusion_matrix,
    curves,
    per_class_bars,
    picture_sheet,
    reliability_diagram,
    risk_coverage_curve,
)
from mien.evaluation.metrics import reliability, score
from mien.evaluation.style import DARK, LIGHT, Theme, files, png

NAMES = ("angry", "$happy$", "<sad & \\tired>")


def scores() -> dict[str, Any]:
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.7, 0.3, 0.0]])
    return score(probabilities, np.array([0, 1, 1]), NAMES)


def history(epochs: int) -> list[dict[str, Any]]:
    return [
        {"epoch": n, "loss": 2 / n, "val_loss": 2.1 / n, "val_accuracy": 0.5 - abs(n - 2) / 10, "lr": 1e-3 / n}
        for n in range(1, epochs + 1)
    ]


def answers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Ever less sure answers, from 0.9 to 0.6, of which every third is wrong."""
    confidence = np.linspace(0.9, 0.6, count)
    return np.stack([confidence, 1 - confidence], axis=1), (np.arange(count) % 3 == 2).astype(int)


def texts(figure: Figure) -> list[str]:
    figure.canvas.draw_idle()
    drawn_texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    return drawn_texts + [axes.get_title(loc="left") for axes in figure.axes]


def make_all(theme: Theme) -> dict[str, Figure]:
    metrics = scores()
    bins = reliability(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1]))
    images = np.arange(5 * 16, dtype=np.uint8).reshape(5, 4, 4)
    return {
        "confusion": confusion_matrix(metrics["confusion"], NAMES, theme=theme),
        "bars": per_class_bars(metrics["per_class"], theme=theme),
        "reliability": reliability_diagram(bins, theme=theme),
        "risk": risk_coverage_curve(risk_coverage(*answers(30)), apply_threshold(*answers(30), 0.7), theme=theme),
        "balance": balance_lines(balance_curve(*answers(30), np.array([0.7, 0.3])), None, theme=theme),
        "sheet": picture_sheet(images, ["a $b$, read as\nc"] * 5, theme=theme),
        "curves": curves(history(4), theme=theme),
    }


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_every_figure_is_a_picture_of_its_theme(theme: Theme) -> None:
    settings_before = dict(matplotlib.rcParams)
    for name, figure in make_all(theme).items():
        with Image.open(io.BytesIO(png(figure, dpi=40))) as picture:
            corner = picture.convert("RGB").getpixel((0, 0))
            assert picture.width > 150 and picture.height > 80, name
        assert np.allclose(np.array(corner) / 255, to_rgb(theme.paper), atol=0.01), name
    assert dict(matplotlib.rcParams) == settings_before


def test_every_figure_has_a_title_and_named_axes() -> None:
    for name, figure in make_all(LIGHT).items():
        if name != "sheet":
            assert any(axes.get_title(loc="left") for axes in figure.axes), name
    axes = confusion_matrix([[1, 0], [0, 1]], ("a", "b")).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title(loc="left")) == (
        "predicted", "true", "Confusion matrix, 2 pictures",
    )  # fmt: skip


def test_a_figure_is_written_for_screens_for_latex_and_to_edit() -> None:
    figure = confusion_matrix([[3, 1], [0, 4]], ("a", "b"))
    settings_before = dict(matplotlib.rcParams)
    contents = files(figure)
    assert list(contents) == ["png", "pdf", "svg"]
    assert contents["png"].startswith(b"\x89PNG") and contents["pdf"].startswith(b"%PDF-1")
    assert b"<svg " in contents["svg"] and b"/Type3" not in contents["pdf"]
    second_contents = files(confusion_matrix([[3, 1], [0, 4]], ("a", "b")))
    assert second_contents["pdf"] == contents["pdf"] and second_contents["svg"] == contents["svg"], (
        "no date in the files"
    )
    assert dict(matplotlib.rcParams) == settings_before


def test_lines_without_twins_are_dashed() -> None:
    rows = balance_curve(*answers(30), np.array([0.7, 0.3]))
    (alone,), (both,) = balance_lines(rows, None).axes, balance_lines(rows, rows).axes
    assert [line.get_linestyle() for line in alone.lines] == ["-"] * 3
    assert [line.get_linestyle() for line in both.lines] == ["-"] * 3 + ["--"] * 3
    assert both.get_title(loc="left") == "Solid: all pictures. Dashed: without twins"
    for line, key in zip(both.lines, ("accuracy", "balanced_accuracy", "macro_f1") * 2, strict=True):
        assert np.array_equal(line.get_ydata(), [row[key] for row in rows])


@pytest.mark.parametrize("losses", [[1.20, 1.19, 1.18], [0.5, 0.5, 0.5], [3.0, 0.1, 0.05]])
def test_curves_keep_a_margin_to_the_frame(losses: list[float]) -> None:
    figure = curves([{"epoch": n, "loss": loss, "val_loss": loss + 0.01} for n, loss in enumerate(losses, 1)])
    low, high = figure.axes[0].get_ylim()
    span = max(losses) + 0.01 - min(losses)
    assert low <= min(losses) - 0.1 * span and high >= max(losses) + 0.01 + 0.1 * span
    assert high - low < 1.5 * span + 0.1, "the axis begins near the loss, not at 0"


def test_the_confusion_matrix_says_shares_and_counts() -> None:
    drawn_texts = texts(confusion_matrix([[30, 10], [0, 1500]], ("a", "b")))
    assert {"75 %", "30", "25 %", "10", "100 %", "1,500", "0"} <= set(drawn_texts)


def test_a_row_without_pictures_draws() -> None:
    assert png(confusion_matrix([[0, 0], [1, 1]], ("a", "b")), dpi=30)


def test_bars_say_what_has_no_pictures() -> None:
    per_class: dict[str, dict[str, Any]] = {
        "a": {"precision": 0.5, "recall": 1.0, "f1": 2 / 3, "support": 2},
        "b": {"precision": None, "recall": None, "f1": None, "support": 0},
    }
    figure = per_class_bars(per_class)
    assert {"66.7 %", "no pictures"} <= set(texts(figure))
    assert png(figure, dpi=30)


def test_the_reliability_diagram_says_its_error() -> None:
    bins = reliability(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1]))
    assert "Calibration error (ECE) 35.0 %" in texts(reliability_diagram(bins))


def test_the_legend_has_the_colour_of_the_bars() -> None:
    bins = reliability(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1]))
    swatch = reliability_diagram(bins).legends[0].get_patches()[0]
    assert to_hex(swatch.get_facecolor()) == to_hex(LIGHT.first)


@pytest.mark.parametrize(("rate", "power", "first"), [(1e-3, -3, "1"), (1.5e-4, -4, "1.5")])
def test_the_learning_rate_has_one_unit(rate: float, power: int, first: str) -> None:
    axes = curves([{"epoch": n, "loss": 1.0, "lr": rate / n} for n in (1, 2)]).axes[2]
    assert axes.get_ylabel() == f"learning rate\nin $10^{{{power}}}$"
    assert axes.yaxis.get_major_formatter()(rate) == first


def test_learning_rates_of_zero_have_no_axis() -> None:
    assert len(curves([{"epoch": 1, "loss": 1.0, "lr": 0.0}]).axes) == 2


def test_the_risk_is_drawn_from_ten_answers_on() -> None:
    figure = risk_coverage_curve(risk_coverage(*answers(30)))
    line = figure.axes[0].lines[0]
    assert np.asarray(line.get_xdata()) == pytest.approx(np.arange(10, 31) / 30)
    assert np.asarray(line.get_ydata())[[0, -1]] == pytest.approx([7 / 10, 20 / 30])
    assert figure.axes[0].get_ylim()[0] < 20 / 30
    assert any(re.match(r"Area under risk and coverage \(AURC\) \d+\.\d %$", text) for text in texts(figure))


@pytest.mark.parametrize(
    ("threshold", "marks"), [(0.7, ["sure: confidence of at least 70.0 %"]), (0.95, []), (None, [])]
)
def test_the_sure_answers_are_marked(threshold: float | None, marks: list[str]) -> None:
    operating_point = None if threshold is None else apply_threshold(*answers(30), threshold)
    figure = risk_coverage_curve(risk_coverage(*answers(30)), operating_point)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["accuracy", *marks]


def test_the_risk_of_a_single_answer_draws() -> None:
    assert png(risk_coverage_curve(risk_coverage(*answers(1))), dpi=30)


def test_curves_mark_the_best_epoch() -> None:
    assert "best accuracy: 50.0 % at epoch 2" in texts(curves(history(4)))


def test_curves_go_up_to_all_pictures_and_their_names_cover_no_line() -> None:
    rows = [{"epoch": n, "loss": 0.37 + n / 100, "val_loss": 0.06, "val_accuracy": 1.0} for n in (1, 2, 3)]
    figure = curves([{**row, "val_macro_f1": 1.0} for row in rows], choice=Choice(0, "accuracy"))
    png(figure, dpi=30)
    scores = figure.axes[1]
    shown = [tick for tick in scores.get_yticks() if scores.get_ylim()[0] <= tick <= scores.get_ylim()[1]]
    assert scores.get_ylim()[1] > 1 and max(shown) == pytest.approx(1)
    for axes in figure.axes[:2]:
        legend = axes.get_legend()
        assert legend is not None
        corners = [
            axes.transData.transform(np.column_stack([line.get_xdata(), line.get_ydata()])) for line in axes.lines
        ]
        assert not any(legend.get_window_extent().contains(*corner) for line in corners for corner in line)


@pytest.mark.parametrize(
    ("choice", "title", "ring"),
    [
        (Choice(2, "accuracy"), "chosen by accuracy: epoch 2, accuracy 50.0 %", [(2, 0.5)]),
        (Choice(4, "loss"), "chosen by loss: epoch 4, accuracy 30.0 %", [(4, 0.3)]),
        (Choice(1, "macro_f1"), "chosen by macro-F1: epoch 1, macro-F1 20.0 %", [(1, 0.2)]),
        (Choice(4, "last"), "kept as the last: epoch 4, accuracy 30.0 %", [(4, 0.3)]),
        (Choice(0, "accuracy"), "the start was kept, by accuracy", []),
        (Choice(9, "accuracy"), None, []),
    ],
    ids=["best", "by loss", "by another line", "the last", "the start", "an epoch that is not there"],
)
def test_curves_mark_the_epoch_that_was_kept(
    choice: Choice, title: str | None, ring: list[tuple[float, float]]
) -> None:
    figure = curves([{**row, "val_macro_f1": 0.2} for row in history(4)], choice=choice)
    assert (title is None or title in texts(figure)) and not any(text.startswith("best") for text in texts(figure))
    rings = [line for axes in figure.axes for line in axes.lines if line.get_fillstyle() == "none"]
    assert [tuple(np.asarray(line.get_xydata()).ravel()) for line in rings] == ring


def test_what_was_chosen_is_read_from_the_record() -> None:
    record: dict[str, Any] = {"metrics": {"epoch": 3}, "config": {"select": "clean_loss"}}
    assert choice_of(record) == Choice(3, "clean_loss")
    assert choice_of({**record, "config": {}}) == Choice(3, "accuracy")
    assert {*CRITERIA, LAST} == set(get_args(Criterion))
    no_records: list[dict[str, Any]] = [{}, {"metrics": None, "config": {}}, {**record, "config": {"select": ["$x_"]}}]
    assert not any(choice_of(damaged) for damaged in no_records)


@pytest.mark.parametrize(
    "rows",
    [
        history(1),
        [{"epoch": 1, "loss": 1.0}],
        [{"epoch": 1, "loss": 1.0, "val_accuracy": None, "lr": float("nan")}, {"epoch": 2, "loss": 0.5, "lr": 1e-5}],
        history(60),
    ],
    ids=["one epoch", "loss alone", "gaps", "many epochs"],
)
def test_curves_of_odd_histories_draw(rows: list[dict[str, Any]]) -> None:
    assert png(curves(rows), dpi=30)


def test_a_sheet_takes_one_picture_and_colour() -> None:
    assert png(picture_sheet(np.zeros((1, 8, 8, 3), np.uint8), ["one"]), dpi=30)


def test_captions_of_long_names_stay_below_their_pictures() -> None:
    caption = "happily surprised woman, predicted\n" + "x" * 40 + ", 88.1 %"
    figure = picture_sheet(np.zeros((4, 8, 8), np.uint8), ["angry, predicted\nsad, 88.1 %"] * 3 + [caption])
    assert figure.axes[0].get_xlabel() == "angry, predicted\nsad, 88.1 %"
    assert figure.axes[3].get_xlabel().startswith("happily surprised\nwoman, predicted\nx")
    png(figure, dpi=50)
    boxes = [axes.xaxis.label.get_window_extent() for axes in figure.axes]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_many_classes_draw() -> None:
    names = [f"a rather long class name {number}" for number in range(20)]
    assert png(confusion_matrix(np.eye(20, dtype=int).tolist(), names), dpi=20)


def test_pyplot_is_not_needed() -> None:
    code = "import mien.evaluation.figures, sys; sys.exit('matplotlib.pyplot' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0


def test_long_class_names_leave_room_for_the_bars(recwarn: pytest.WarningsRecorder) -> None:
    names = ("a_name_of_a_class_without_any_space_that_goes_on_and_on", "angry", "a name with many words in it " * 2)
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.7, 0.3, 0.0]])
    scored = score(probabilities, np.array([0, 1, 1]), names)
    for figure in (per_class_bars(scored["per_class"]), confusion_matrix(scored["confusion"], names)):
        png(figure)
        (axes,) = figure.axes
        labels = [label.get_text() for label in axes.get_yticklabels()]
        assert labels[0].startswith("a_name_of_a_class_with\nout_any_space_that_go\u2026")
        assert axes.get_position().width > 1 / 3
    assert not [warning for warning in recwarn if "constrained_layout" in str(warning.message)]
