"""The figures of a report and of a training run, in one calm style that colour-blind people can read too.

Figures are made without pyplot, so that no global state is touched and none needs closing.
"""

from mien.evaluation.figures.certainty import FEW, reliability_diagram, risk_coverage_curve
from mien.evaluation.figures.classes import confusion_matrix, per_class_bars, picture_sheet
from mien.evaluation.figures.reconstruction import reconstructions
from mien.evaluation.figures.style import DARK, LIGHT, SMALL_SIZE, TEXT_SIZE, Theme, blank_figure, png
from mien.evaluation.figures.training import PROBES, SCORES, curves

__all__ = [
    "DARK",
    "FEW",
    "LIGHT",
    "PROBES",
    "SCORES",
    "SMALL_SIZE",
    "TEXT_SIZE",
    "Theme",
    "blank_figure",
    "confusion_matrix",
    "curves",
    "per_class_bars",
    "picture_sheet",
    "png",
    "reconstructions",
    "reliability_diagram",
    "risk_coverage_curve",
]
