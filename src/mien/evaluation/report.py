"""The report of an evaluation: one folder with the numbers, the figures and a page that a person can read."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mien.errors import MienError
from mien.evaluation import figures
from mien.evaluation.calibration import risk_coverage
from mien.evaluation.evaluate import Evaluation
from mien.evaluation.metrics import classification_report_text, reliability, surest_mistakes
from mien.evaluation.page import GENERATOR, Drawn, percent, render
from mien.files import atomic_folder, recover_folder, write_json
from mien.text import csv_path, csv_text, shown

PAGE = "report.html"
FILES: frozenset[str] = frozenset(
    {
        PAGE,
        "metrics.json",
        "predictions.csv",
        "classification_report.txt",
        "confusion.png",
        "per_class.png",
        "reliability.png",
        "risk_coverage.png",
        "mistakes.png",
        "curves.png",
    }
)
"""Everything that a report folder may hold; a folder with anything else is not replaced."""

MISTAKES = 12
CSS_DPI = 96


def write_report(
    out: Path, evaluation: Evaluation, *, command: str = "", history: Sequence[Mapping[str, Any]] | None = None
) -> None:
    """Writes ``metrics.json``, ``predictions.csv``, ``classification_report.txt``, figures and ``report.html``.

    Args:
        out: the folder, written whole or not at all; a former report there is replaced.
        evaluation: what to report.
        command: the command that repeats it.
        history: the training run by epochs, as ``mien.evaluation.figures.curves`` takes it.

    Raises:
        MienError: ``out`` holds something that is not a former report, or cannot be written.
    """
    recover_folder(out)
    refuse_foreign(out)
    metrics = evaluation.metrics(command)
    drawn = _draw(evaluation, history)
    mistakes = surest_mistakes(evaluation.probabilities, evaluation.labels, MISTAKES)
    with atomic_folder(out, check=refuse_foreign) as folder:
        write_json(folder / "metrics.json", metrics)
        (folder / "predictions.csv").write_text(_predictions(evaluation), encoding="utf-8")
        text = classification_report_text(evaluation.probabilities, evaluation.labels, evaluation.names)
        (folder / "classification_report.txt").write_text(text, encoding="utf-8")
        for name, figure in drawn.items():
            (folder / f"{name}.png").write_bytes(figure.light)
        if len(mistakes):
            sheet = figures.picture_sheet(evaluation.images[mistakes], _captions(evaluation, mistakes))
            (folder / "mistakes.png").write_bytes(figures.png(sheet))
        page = render(evaluation, metrics, drawn, mistakes, history, text)
        (folder / PAGE).write_text(page, encoding="utf-8")


def refuse_foreign(out: Path) -> None:
    """Checks that ``out`` may be replaced: it does not exist, is an empty folder, or holds a former report alone.

    Raises:
        MienError: it is anything else.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise MienError(f"{out}: is a file, expected a folder for the report; choose another place")
    found = sorted(entry.name for entry in out.iterdir())
    foreign = [name for name in found if name not in FILES]
    page = out / PAGE
    is_report = page.is_file() and GENERATOR in page.read_text(encoding="utf-8", errors="replace")[:2000]
    if foreign or (found and not is_report):
        told = ", ".join((foreign or found)[:3])
        raise MienError(f"{out}: holds other files than a report ({told}), which would be lost; choose an empty folder")


def _draw(evaluation: Evaluation, history: Sequence[Mapping[str, Any]] | None) -> dict[str, Drawn]:
    whole = evaluation.whole
    bins = reliability(evaluation.probabilities, evaluation.labels)
    curve, sure = risk_coverage(evaluation.probabilities, evaluation.labels), evaluation.sure()
    makers: dict[str, Callable[[figures.Theme], Figure]] = {
        "confusion": lambda theme: figures.confusion_matrix(whole["confusion"], evaluation.names, theme=theme),
        "per_class": lambda theme: figures.per_class_bars(whole["per_class"], theme=theme),
        "reliability": lambda theme: figures.reliability_diagram(bins, theme=theme),
        "risk_coverage": lambda theme: figures.risk_coverage_curve(curve, sure, theme=theme),
    }
    if history:
        makers["curves"] = lambda theme: figures.curves(history, theme=theme)
    drawn = {}
    for name, make in makers.items():
        light, dark = make(figures.LIGHT), make(figures.DARK)
        width, height = (round(inches * CSS_DPI) for inches in light.get_size_inches())
        drawn[name] = Drawn(figures.png(light), figures.png(dark), width, height)
    return drawn


def _predictions(evaluation: Evaluation) -> str:
    """One line a picture: its id, label, reading, whether it has a twin in training, and every probability.

    No cell is a formula to a spreadsheet, by the rule of ``mien.recognition.formats.csv_table``.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "label", "prediction", "twin", *(shown(f"p_{name}") for name in evaluation.names)])
    read = evaluation.probabilities.argmax(axis=1)
    for row, probabilities in enumerate(evaluation.probabilities):
        twin = "" if evaluation.twins is None else ("yes" if evaluation.twins[row] else "no")
        label, prediction = evaluation.names[evaluation.labels[row]], evaluation.names[read[row]]
        cells = [csv_path(str(evaluation.ids[row])), csv_text(label), csv_text(prediction), twin]
        writer.writerow([*cells, *(f"{value:.7f}" for value in probabilities)])
    return text.getvalue()


def _captions(evaluation: Evaluation, rows: np.ndarray) -> list[str]:
    names = evaluation.names
    return [
        f"{names[evaluation.labels[row]]}, read as\n{names[values.argmax()]}, {percent(values.max())}"
        for row, values in zip(rows, evaluation.probabilities[rows], strict=True)
    ]
