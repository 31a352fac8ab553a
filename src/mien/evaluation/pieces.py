"""What every part of a report's page is made of: numbers in words, figures and tables."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mien.evaluation.template import Blocks, Markup

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
