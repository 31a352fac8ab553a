"""The page of a report: an evaluation put into words, tables and figures, complete in one HTML file."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import mien
from mien.evaluation.evaluate import Evaluation
from mien.evaluation.figures import FEW
from mien.evaluation.metrics import BINS, most_confused
from mien.evaluation.template import Blocks, Markup

GENERATOR = '<meta name="generator" content="mien'
"""By this a page is known as one of ours."""

_LARGEST_PICTURE = 224
_AS_SURE_AS_RIGHT = 0.01
_UNDEFINED = "\u2013"
_NARROW_SPACE = "\u202f"


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


def render(
    evaluation: Evaluation,
    metrics: Mapping[str, Any],
    drawn: Mapping[str, Drawn],
    mistakes: np.ndarray,
    history: Sequence[Mapping[str, Any]] | None,
) -> str:
    """The whole of ``report.html``.

    Args:
        evaluation: what to tell.
        metrics: the content of ``metrics.json``.
        drawn: the figures ``confusion``, ``per_class``, ``reliability`` and, with a history, ``curves``.
        mistakes: int64 [K], positions of the pictures to show as mistakes.
        history: the training run by epochs, as ``mien.evaluation.figures.curves`` takes it.
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
        lead=blocks.fill(
            "lead",
            model=f"The model {evaluation.model}" if evaluation.model else "The model",
            classes=len(names),
            source=evaluation.source,
            commonest=commonest,
            baseline=percent(whole["per_class"][commonest]["support"] / whole["n"]),
        ),
        cards=blocks.each("card", _cards(whole)),
        warnings=blocks.fill("warnings", items=_items(blocks, evaluation.warnings)) if evaluation.warnings else "",
        twins=_twins(blocks, evaluation),
        purpose=blocks.fill(f"purpose_{evaluation.split}"),
        views=blocks.fill("views_two" if evaluation.tta else "views_one"),
        bars=_figure(blocks, drawn["per_class"], "bars", alt={"best": best, "worst": worst}),
        class_rows=blocks.each("class_row", _class_rows(whole)),
        confused=blocks.fill(
            "list", items=_items(blocks, [text.replace(" %", f"{_NARROW_SPACE}%") for text in confused])
        )
        if confused
        else blocks.fill("no_mistake"),
        confusion=_figure(blocks, drawn["confusion"], "confusion"),
        confusion_heads=blocks.each("confusion_head", [{"name": name} for name in names]),
        confusion_rows=_confusion_rows(blocks, whole),
        calibration=_calibration(blocks, evaluation),
        reliability=_figure(
            blocks,
            drawn["reliability"],
            "reliability",
            alt={"bins": BINS, "ece": _share(whole["ece"])},
            caption={"few": FEW},
        ),
        mistakes=_mistakes(blocks, evaluation, mistakes) if len(mistakes) else blocks.fill("no_mistake"),
        training=_training(blocks, drawn, history) if history else "",
        facts=_facts(blocks, evaluation, metrics),
    )


def _cards(whole: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The headline numbers; field names of the block ``card``."""
    interval = whole["ci95"]
    return [
        {
            "title": "Accuracy",
            "number": percent(whole["accuracy"]),
            "range": _range(interval["accuracy"], percent),
            "means": "pictures read as they are labelled",
        },
        {
            "title": "Macro-F1",
            "number": _share(whole["macro_f1"]),
            "range": _range(interval["macro_f1"], _share),
            "means": "every expression counts the same, however rare",
        },
        {
            "title": "Balanced accuracy",
            "number": percent(whole["balanced_accuracy"]),
            "range": _range(interval["balanced_accuracy"], percent),
            "means": "accuracy within each expression, averaged",
        },
        {
            "title": "Calibration error",
            "number": _share(whole["ece"]),
            "range": "0 is best",
            "means": f"gap between how sure and how right it is (ECE, {BINS} bins)",
        },
    ]


def _twins(blocks: Blocks, evaluation: Evaluation) -> Markup:
    scores = evaluation.twin_scores()
    if scores is None:
        return blocks.fill("twins_unknown", reason=evaluation.clean_reason)
    if not scores["n"]:
        return blocks.fill("twins_none")
    kinds: tuple[tuple[str, str, Callable[[float], str]], ...] = (
        ("accuracy", "accuracy", percent),
        ("macro-F1", "macro_f1", _share),
        ("balanced accuracy", "balanced_accuracy", percent),
        ("calibration error", "ece", _share),
    )
    parts: list[Mapping[str, Any]] = [evaluation.whole, evaluation.clean or {}, scores]
    rows = [_part_row(blocks, "pictures", [(f"{part['n']:,}" if part else "0", "") for part in parts])]
    for title, key, said in kinds:
        rows.append(_part_row(blocks, title, [_part_cell(part, key, said) for part in parts]))
    return blocks.fill(
        "twins",
        twins=f"{scores['n']:,}",
        n=f"{evaluation.whole['n']:,}",
        share=percent(scores["n"] / evaluation.whole["n"]),
        rows=blocks.each("part_row", rows),
    )


def _part_row(blocks: Blocks, score: str, cells: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """One row of the table of parts; a cell is a value and its interval."""
    filled = blocks.each("part_cell", [{"value": value, "range": interval} for value, interval in cells])
    return {"score": score, "cells": filled}


def _part_cell(part: Mapping[str, Any], key: str, said: Callable[[float], str]) -> tuple[str, str]:
    if key not in part:
        return _UNDEFINED, ""
    interval = part.get("ci95", {}).get(key)
    return said(part[key]), _range(interval, said) if interval else ""


def _class_rows(whole: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "support": f"{values['support']:,}",
            **{key: _share(values[key]) for key in ("precision", "recall", "f1")},
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


def _calibration(blocks: Blocks, evaluation: Evaluation) -> Markup:
    confidence = float(evaluation.probabilities.max(axis=1).mean())
    accuracy = evaluation.whole["accuracy"]
    if abs(confidence - accuracy) <= _AS_SURE_AS_RIGHT:
        block = "calibrated"
    else:
        block = "too_sure" if confidence > accuracy else "too_modest"
    ece = f"{100 * evaluation.whole['ece']:.1f} points"
    return blocks.fill(block, confidence=percent(confidence), accuracy=percent(accuracy), ece=ece)


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
    return _data_uri(buffer.getvalue()), picture.width


def _training(blocks: Blocks, drawn: Mapping[str, Drawn], history: Sequence[Mapping[str, Any]]) -> Markup:
    scores = [float(row["val_accuracy"]) for row in history if math.isfinite(row.get("val_accuracy") or math.nan)]
    best = f"Best validation accuracy {percent(max(scores))}." if scores else ""
    figure = _figure(blocks, drawn["curves"], "curves", alt={"epochs": len(history), "best": best})
    return blocks.fill("training", figure=figure)


def _facts(blocks: Blocks, evaluation: Evaluation, metrics: Mapping[str, Any]) -> Markup:
    versions = ", ".join(f"{name} {version}" for name, version in metrics["versions"].items())
    facts = [
        ("code_fact", "Command", metrics["command"]),
        ("code_fact", "Model", evaluation.model),
        ("code_fact", "Data", evaluation.source),
        ("code_fact", "Data fingerprint", evaluation.fingerprint),
        ("fact", "Split", f"{evaluation.split}, {evaluation.whole['n']:,} pictures"),
        ("fact", "Views", "picture and mirror image, averaged" if evaluation.tta else "one, no test-time augmentation"),
        ("fact", "Intervals", f"bootstrap over pictures, seed {evaluation.seed}"),
        ("fact", "Versions", versions),
    ]
    return Markup("\n".join(blocks.fill(block, key=key, value=value or "not recorded") for block, key, value in facts))


def _figure(
    blocks: Blocks,
    drawn: Drawn,
    name: str,
    *,
    alt: Mapping[str, Any] | None = None,
    caption: Mapping[str, Any] | None = None,
) -> Markup:
    return blocks.fill(
        "figure",
        light=_data_uri(drawn.light),
        dark=_data_uri(drawn.dark),
        width=drawn.width,
        height=drawn.height,
        alt=blocks.fill(f"{name}_alt", **(alt or {})),
        caption=blocks.fill(f"{name}_caption", **(caption or {})),
    )


def _items(blocks: Blocks, texts: Sequence[str]) -> Markup:
    return blocks.each("item", [{"text": text} for text in texts])


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def percent(share: float) -> str:
    """A share in [0, 1] in percent with one decimal."""
    return f"{100 * share:.1f}{_NARROW_SPACE}%"


def _share(value: float | None) -> str:
    return _UNDEFINED if value is None else f"{value:.3f}"


def _range(interval: Sequence[float], said: Callable[[float], str]) -> str:
    low, high = (said(value) for value in interval)
    return f"{low.removesuffix(f'{_NARROW_SPACE}%')} to {high}"
