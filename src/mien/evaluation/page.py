"""The page of a report: an evaluation put into words, tables and figures, complete in one HTML file."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import mien
from mien.evaluation.certainty import certainty
from mien.evaluation.evaluate import Evaluation
from mien.evaluation.metrics import BINS, most_confused
from mien.evaluation.pieces import (
    NARROW_SPACE,
    UNDEFINED,
    Drawn,
    data_uri,
    decimals,
    figure_panel,
    list_items,
    listed,
    part_row,
    percent,
    spread,
)
from mien.evaluation.template import Blocks, Markup

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
