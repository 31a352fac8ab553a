"""Expression names, their orders and their aliases: the only copy in the project.

FER2013's CSV files number the classes by ``FER2013``; its folder layouts sort them by name. Numbers alone are
therefore ambiguous, so every artefact of Mien carries the names beside them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from mien.errors import MienError

FER2013: tuple[str, ...] = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""FER2013's own number order (Goodfellow et al. 2013, arXiv:1307.0414)."""

ALIASES: dict[str, str] = {
    "anger": "angry",
    "disgusted": "disgust",
    "fearful": "fear",
    "afraid": "fear",
    "happiness": "happy",
    "sadness": "sad",
    "surprised": "surprise",
}
"""Spellings of other sets and tools for the same seven names."""


def canonical(name: str) -> str:
    """The project's spelling of a class name: lower case, composed Unicode, with the aliases of the seven resolved.

    macOS and some archives decompose letters: "é" is then "e" and an accent (NFD). Both become the one letter (NFC).
    """
    cleaned = unicodedata.normalize("NFC", name.strip().lower())
    return ALIASES.get(cleaned, cleaned)


def class_order(names: Iterable[str]) -> tuple[str, ...]:
    """The order in which a set's classes are numbered.

    FER2013's own order where the names are (a subset of) its seven, alphabetical order otherwise.

    Raises:
        MienError: two spellings of the same class stand side by side.
    """
    spellings: dict[str, list[str]] = {}
    for name in names:
        spellings.setdefault(canonical(name), []).append(name)
    twice = {name: sorted(group) for name, group in spellings.items() if len(group) > 1}
    if twice:
        # In ASCII, as two spellings may differ in characters that look the same.
        shown = "; ".join(f"{name} ({', '.join(map(ascii, group))})" for name, group in sorted(twice.items()))
        raise MienError(f"two spellings of the same class: {shown}; keep one of them")
    if spellings.keys() <= set(FER2013):
        return tuple(name for name in FER2013 if name in spellings)
    return tuple(sorted(spellings))


def positions(wanted: Iterable[str], available: Iterable[str], where: str) -> list[int]:
    """For each wanted class its position in ``available``, matched by name.

    Raises:
        MienError: a wanted class is not available.
    """
    order = {canonical(name): index for index, name in enumerate(available)}
    missing = [name for name in wanted if canonical(name) not in order]
    if missing:
        raise MienError(f"{where}: no class named {', '.join(missing)}; there is {', '.join(order)}")
    return [order[canonical(name)] for name in wanted]
