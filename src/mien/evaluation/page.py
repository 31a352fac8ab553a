"""The page of a report: an evaluation put into words, tables and figures, complete in one HTML file."""

from __future__ import annotations

import base64
import html
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import Any

import numpy as np

import mien
from mien.evaluation.evaluate import Evaluation
from mien.evaluation.figures import FEW
from mien.evaluation.metrics import BINS, most_confused

GENERATOR = '<meta name="generator" content="mien'
"""By this a page is known as one of ours."""

_LARGEST_PICTURE = 224


def render(
    evaluation: Evaluation,
    metrics: Mapping[str, Any],
    drawn: Mapping[str, Drawn],
    mistakes: np.ndarray,
    history: Sequence[Mapping[str, Any]] | None,
    class_report: str,
) -> str:
    """The whole of ``report.html``.

    Args:
        evaluation: what to tell.
        metrics: the content of ``metrics.json``.
        drawn: the figures ``confusion``, ``per_class``, ``reliability``, ``risk_coverage`` and, with a history,
            ``curves``.
        mistakes: int64 [K], positions of the pictures to show as mistakes.
        history: the training run by epochs, as ``mien.evaluation.figures.curves`` takes it.
        class_report: precision, recall and F1 by class, as text.
    """
    blocks = Blocks("mien.evaluation", "report.html")
    whole, names = evaluation.whole, evaluation.names
    commonest = max(names, key=lambda name: whole["per_class"][name]["support"])
    confused = most_confused(whole["confusion"], names)
    ranked = sorted((values["f1"], name) for name, values in whole["per_class"].items() if values["f1"] is not None)
    best, worst = (f"{name} {value:.2f}" for value, name in (ranked[-1], ranked[0]))
    return blocks.fill(
        "page",
        version=mien.__version__,
        split=evaluation.split,
        n=f"{whole['n']:,}",
        accuracy=percent(whole["accuracy"]),
        classes=len(names),
        subject=blocks.fill("subject_average", count=len(evaluation.models)) if len(evaluation.models) > 1 else "",
        lead=blocks.fill(
            "lead",
            model=_subject(blocks, evaluation),
            classes=len(names),
            source=evaluation.source,
            commonest=commonest,
            baseline=percent(whole["per_class"][commonest]["support"] / whole["n"]),
        ),
        cards=blocks.each("card", _cards(evaluation)),
        warnings=blocks.fill("warnings", items=list_items(blocks, evaluation.warnings)) if evaluation.warnings else "",
        twins=_twins(blocks, evaluation),
        purpose=blocks.fill(f"purpose_{evaluation.split}"),
        views=_views(blocks, evaluation),
        bars=figure_panel(blocks, drawn["per_class"], "bars", alt={"best": best, "worst": worst}),
        class_rows=blocks.each("class_row", _class_rows(whole)),
        class_report=class_report,
        confused=blocks.fill(
            "list", items=list_items(blocks, [text.replace(" %", f"{NARROW_SPACE}%") for text in confused])
        )
        if confused
        else blocks.fill("no_mistake"),
        confusion=figure_panel(blocks, drawn["confusion"], "confusion"),
        confusion_heads=blocks.each("confusion_head", [{"name": name} for name in names]),
        confusion_rows=_confusion_rows(blocks, whole),
        **certainty(blocks, evaluation, metrics, drawn),
        mistakes=_mistakes(blocks, evaluation, mistakes) if len(mistakes) else blocks.fill("no_mistake"),
        training=_training(blocks, drawn, history) if history else "",
        facts=_facts(blocks, evaluation, metrics),
    )


def _subject(blocks: Blocks, evaluation: Evaluation) -> Markup:
    """What answered: one model, or several together, so that the two are never mixed up."""
    if len(evaluation.models) > 1:
        return blocks.fill("lead_average", count=len(evaluation.models), models=listed(evaluation.models))
    return blocks.fill("lead_model", model=evaluation.model)


def _views(blocks: Blocks, evaluation: Evaluation) -> Markup:
    kind = "average" if len(evaluation.models) > 1 else "model"
    readings = len(evaluation.models) * evaluation.views
    return blocks.fill(f"views_{kind}_{evaluation.views}", count=len(evaluation.models), readings=readings)


def _cards(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The headline numbers; field names of the block ``card``."""
    whole, cross_fitted = evaluation.whole, evaluation.cross_fitted_ece()
    interval = whole["ci95"]
    return [
        {
            "title": "Accuracy",
            "number": percent(whole["accuracy"]),
            "range": spread(interval["accuracy"], percent),
            "means": "pictures read as they are labelled",
        },
        {
            "title": "Macro-F1",
            "number": decimals(whole["macro_f1"]),
            "range": spread(interval["macro_f1"], decimals),
            "means": "every expression counts the same, however rare",
        },
        {
            "title": "Balanced accuracy",
            "number": percent(whole["balanced_accuracy"]),
            "range": spread(interval["balanced_accuracy"], percent),
            "means": "accuracy within each expression, averaged",
        },
        {
            "title": "Calibration error",
            "number": decimals(whole["ece"]),
            "range": "0 is best" if cross_fitted is None else f"cross-fitted {decimals(cross_fitted)}",
            "means": f"gap between how sure and how right it is (ECE, {BINS} bins)",
        },
    ]


def _twins(blocks: Blocks, evaluation: Evaluation) -> Markup:
    scores = evaluation.twin_scores()
    if scores is None:
        return blocks.fill("twins_unknown", reason=evaluation.clean_reason)
    if not scores["n"]:
        return blocks.fill("twins_none", were="were, by a rough search," if evaluation.approximate else "were")
    kinds: tuple[tuple[str, str, Callable[[float], str]], ...] = (
        ("accuracy", "accuracy", percent),
        ("macro-F1", "macro_f1", decimals),
        ("balanced accuracy", "balanced_accuracy", percent),
        ("calibration error", "ece", decimals),
    )
    parts: list[Mapping[str, Any]] = [evaluation.whole, evaluation.clean or {}, scores]
    rows = [part_row(blocks, "pictures", [(f"{part['n']:,}" if part else "0", "") for part in parts])]
    for title, key, said in kinds:
        rows.append(part_row(blocks, title, [_part_cell(part, key, said) for part in parts]))
    return blocks.fill(
        "twins",
        how=" (a rough count, by sketches of the training pictures)" if evaluation.approximate else "",
        twins=f"{scores['n']:,}",
        n=f"{evaluation.whole['n']:,}",
        share=percent(scores["n"] / evaluation.whole["n"]),
        rows=blocks.each("part_row", rows),
    )


def _part_cell(part: Mapping[str, Any], key: str, said: Callable[[float], str]) -> tuple[str, str]:
    if key not in part:
        return UNDEFINED, ""
    interval = part.get("ci95", {}).get(key)
    return said(part[key]), spread(interval, said) if interval else ""


def _temperature(evaluation: Evaluation) -> str:
    """The temperatures that are folded into the heads, where the report knows of them."""
    found = evaluation.scaling.temperatures if evaluation.scaling else (None,)
    return ", ".join("none folded in" if value is None else f"{value:.4f}, folded into the head" for value in found)


def _class_rows(whole: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "support": f"{values['support']:,}",
            **{key: decimals(values[key]) for key in ("precision", "recall", "f1")},
        }
        for name, values in whole["per_class"].items()
    ]


def _confusion_rows(blocks: Blocks, whole: Mapping[str, Any]) -> Markup:
    rows = []
    for true, counts in enumerate(whole["confusion"]):
        cells = [
            blocks.fill("confusion_hit" if true == read else "confusion_cell", count=f"{count:,}")
            for read, count in enumerate(counts)
        ]
        rows.append({"name": whole["names"][true], "cells": Markup("".join(cells))})
    return blocks.each("confusion_row", rows)


def _mistakes(blocks: Blocks, evaluation: Evaluation, rows: np.ndarray) -> Markup:
    items = []
    for row in rows:
        picture, size = _picture(evaluation.images[row])
        values = evaluation.probabilities[row]
        items.append(
            {
                "image": picture,
                "size": size,
                "true": evaluation.names[evaluation.labels[row]],
                "read": evaluation.names[values.argmax()],
                "certainty": percent(values.max()),
                "id": evaluation.ids[row],
            }
        )
    return blocks.fill("mistakes", items=blocks.each("mistake", items))


def _picture(image: np.ndarray) -> tuple[str, int]:
    """A face crop as a data URI, and its side in pixels; large ones are made smaller."""
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((_LARGEST_PICTURE, _LARGEST_PICTURE))
    buffer = io.BytesIO()
    picture.save(buffer, format="png")
    return data_uri(buffer.getvalue()), picture.width


def _training(blocks: Blocks, drawn: Mapping[str, Drawn], history: Sequence[Mapping[str, Any]]) -> Markup:
    scores = [float(row["val_accuracy"]) for row in history if math.isfinite(row.get("val_accuracy") or math.nan)]
    best = f"Best validation accuracy {percent(max(scores))}." if scores else ""
    curves = figure_panel(blocks, drawn["curves"], "curves", alt={"epochs": len(history), "best": best})
    return blocks.fill("training", figure=curves)


def _facts(blocks: Blocks, evaluation: Evaluation, metrics: Mapping[str, Any]) -> Markup:
    versions = ", ".join(f"{name} {version}" for name, version in metrics["versions"].items())
    facts = [
        ("code_fact", "Command", metrics["command"]),
        ("code_fact", "Model" if len(evaluation.models) == 1 else "Models averaged", ", ".join(evaluation.models)),
        ("code_fact", "Data", evaluation.source),
        ("code_fact", "Data fingerprint", evaluation.fingerprint),
        ("fact", "Split", f"{evaluation.split}, {evaluation.whole['n']:,} pictures"),
        ("fact", "Views", "picture and mirror image, averaged" if evaluation.tta else "one, no test-time augmentation"),
        ("fact", "Temperature", _temperature(evaluation)),
        ("fact", "Intervals", f"bootstrap over pictures, seed {evaluation.seed}"),
        ("fact", "Versions", versions),
    ]
    return Markup("\n".join(blocks.fill(block, key=key, value=value or "not recorded") for block, key, value in facts))


_AS_SURE_AS_RIGHT = 0.01


def certainty(
    blocks: Blocks, evaluation: Evaluation, metrics: Mapping[str, Any], drawn: Mapping[str, Drawn]
) -> dict[str, Markup]:
    """The fields of the page that tell of calibration and of uncertain answers.

    Args:
        blocks: of the page.
        evaluation: what to tell.
        metrics: the content of ``metrics.json``.
        drawn: with the figures ``reliability`` and ``risk_coverage``.
    """
    curve = metrics["risk_coverage"]
    points = [
        {"coverage": percent(point["coverage"], 0), "accuracy": percent(point["accuracy"])} for point in curve["points"]
    ]
    return {
        "calibration": _calibration(blocks, evaluation),
        "scaling": _scaling(blocks, evaluation, metrics["calibration"]),
        "reliability": figure_panel(
            blocks,
            drawn["reliability"],
            "reliability",
            alt={"bins": BINS, "ece": decimals(metrics["ece"])},
            caption={"few": FEW},
        ),
        "uncertain": _uncertain(blocks, evaluation, curve["uncertain"]),
        "risk_coverage": figure_panel(
            blocks, drawn["risk_coverage"], "risk_coverage", alt={"aurc": decimals(curve["aurc"])}, caption={"few": FEW}
        ),
        "coverage_heads": blocks.each("coverage_head", points),
        "coverage_cells": blocks.each("coverage_cell", points),
    }


def _calibration(blocks: Blocks, evaluation: Evaluation) -> Markup:
    confidence = float(evaluation.probabilities.max(axis=1).mean())
    accuracy = evaluation.whole["accuracy"]
    if abs(confidence - accuracy) <= _AS_SURE_AS_RIGHT:
        block = "calibrated"
    else:
        block = "too_sure" if confidence > accuracy else "too_modest"
    ece = _points(evaluation.whole["ece"])
    return blocks.fill(block, confidence=percent(confidence), accuracy=percent(accuracy), ece=ece)


def _scaling(blocks: Blocks, evaluation: Evaluation, measured: Mapping[str, Any] | None) -> Markup:
    """What dividing by a temperature does to the calibration, in words and as a table."""
    if evaluation.scaling is None or measured is None:
        return blocks.fill("scaling_unknown")
    before, after = measured["before"], measured["after"]
    rows = [
        part_row(blocks, title, [(decimals(before[key]), ""), (decimals(after[key]), "")])
        for title, key in (("calibration error (ECE)", "ece"), ("loss (NLL), in nats", "nll"))
    ]
    known = [temperature for temperature in evaluation.scaling.temperatures if temperature is not None]
    if len(known) == len(evaluation.models):
        how = blocks.fill("scaling_folded", temperature=_temperatures(known))
    else:
        how = blocks.fill("scaling_some" if known else "scaling_would")
    kind = "cross_fitted" if measured["cross_fitted"] else "measured"
    return blocks.fill(
        "scaling",
        how=how,
        measured=blocks.fill(f"scaling_{kind}"),
        before=_points(before["ece"]),
        after=_points(after["ece"]),
        rows=blocks.each("part_row", rows),
    )


def _temperatures(known: Sequence[float]) -> str:
    values = [f"{temperature:.2f}" for temperature in known]
    return f"a temperature of {values[0]}" if len(values) == 1 else f"temperatures of {listed(values)}, each its own"


def _uncertain(blocks: Blocks, evaluation: Evaluation, found: Mapping[str, Any] | None) -> Markup:
    """From which certainty on answers count, and what that means here."""
    if found is None:
        return blocks.fill("uncertain_average" if len(evaluation.models) > 1 else "uncertain_unknown")
    stated = percent(found["stated_accuracy"], 0)
    if found["threshold"] is None:
        return blocks.fill("uncertain_never", stated=stated)
    if found["accuracy"] is None:
        here = blocks.fill("sure_none")
    else:
        n = evaluation.whole["n"]
        shares = {"coverage": percent(found["coverage"]), "accuracy": percent(found["accuracy"])}
        here = blocks.fill("sure_here", count=f"{round(found['coverage'] * n):,}", n=f"{n:,}", **shares)
    promised = "confidence" in (evaluation.uncertain or {})
    fields = {"threshold": percent(found["threshold"]), "stated": stated, "here": here}
    return blocks.fill("uncertain" if promised else "uncertain_unbound", **fields)


def _points(gap: float) -> str:
    """A gap between shares, in percentage points."""
    return f"{100 * gap:.1f} points"


UNDEFINED = "\u2013"
NARROW_SPACE = "\u202f"


@dataclass(frozen=True)
class Drawn:
    """A figure for a light and for a dark page.

    Attributes:
        light: the PNG file for a light page.
        dark: the PNG file for a dark page.
        width: of both on the page, in CSS pixels (96 an inch).
        height: of both on the page, in CSS pixels.
    """

    light: bytes
    dark: bytes
    width: int
    height: int


def figure_panel(
    blocks: Blocks,
    drawn: Drawn,
    name: str,
    *,
    alt: Mapping[str, Any] | None = None,
    caption: Mapping[str, Any] | None = None,
) -> Markup:
    """A figure with the blocks ``NAME_alt`` and ``NAME_caption`` filled in."""
    return blocks.fill(
        "figure",
        light=data_uri(drawn.light),
        dark=data_uri(drawn.dark),
        width=drawn.width,
        height=drawn.height,
        alt=blocks.fill(f"{name}_alt", **(alt or {})),
        caption=blocks.fill(f"{name}_caption", **(caption or {})),
    )


def part_row(blocks: Blocks, score: str, cells: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """One row of a table; a cell is a value and what stands below it in small print."""
    filled = blocks.each("part_cell", [{"value": value, "range": below} for value, below in cells])
    return {"score": score, "cells": filled}


def list_items(blocks: Blocks, texts: Sequence[str]) -> Markup:
    """The items of a list."""
    return blocks.each("item", [{"text": text} for text in texts])


def data_uri(png: bytes) -> str:
    """A PNG file as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def percent(share: float, digits: int = 1) -> str:
    """A share in [0, 1] in percent."""
    return f"{100 * share:.{digits}f}{NARROW_SPACE}%"


def decimals(value: float | None) -> str:
    """A share in [0, 1], or a number of nats, with three decimals; a dash where it is undefined."""
    return UNDEFINED if value is None else f"{value:.3f}"


def spread(interval: Sequence[float], said: Callable[[float], str]) -> str:
    """An interval in words."""
    low, high = (said(value) for value in interval)
    return f"{low.removesuffix(f'{NARROW_SPACE}%')} to {high}"


def listed(texts: Sequence[str]) -> str:
    """Words in a row: a, b and c."""
    return " and ".join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else "".join(texts)


_BLOCK = re.compile(r"<!-- block (\w+) -->\n(.*?)\n?<!-- end -->", re.DOTALL)


class Markup(str):
    """Text that is HTML already and is not escaped again."""


class Blocks:
    """The blocks of a packaged HTML file: what stands between ``<!-- block NAME -->`` and ``<!-- end -->``.

    Each is a ``string.Template`` whose ``${fields}`` are escaped when they are filled.
    """

    def __init__(self, package: str, file: str) -> None:
        text = resources.files(package).joinpath(file).read_text(encoding="utf-8")
        self._templates = {name: Template(body) for name, body in _BLOCK.findall(text)}

    def fill(self, name: str, /, **values: Any) -> Markup:
        """One block with its fields filled in.

        Raises:
            KeyError: there is no such block, or a field has no value.
        """
        safe = {key: value if isinstance(value, Markup) else html.escape(str(value)) for key, value in values.items()}
        return Markup(self._templates[name].substitute(safe))

    def each(self, name: str, rows: Iterable[Mapping[str, Any]]) -> Markup:
        """The block once for each row of values, one after the other."""
        return Markup("\n".join(self.fill(name, **row) for row in rows))
