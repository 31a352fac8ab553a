"""Names of the expressions, their order and their aliases.

FER2013's CSV files number the classes in the order of ``FER2013``; its folders sort them by name. Numbers alone are
therefore ambiguous, so every file that Mien writes stores the names too.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from mien.errors import MienError

FER2013: tuple[str, ...] = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""The classes in FER2013's own order (Goodfellow et al. 2013, arXiv:1307.0414)."""

ALIASES: dict[str, str] = {
    "anger": "angry",
    "disgusted": "disgust",
    "fearful": "fear",
    "afraid": "fear",
    "happiness": "happy",
    "sadness": "sad",
    "surprised": "surprise",
}
"""Spellings of the same seven names in other data sets and tools."""


def canonical(name: str) -> str:
    """Normalises a class name: lower case, composed Unicode, aliases replaced.

    macOS and some archives decompose letters, so that "é" is "e" and an accent (NFD); both forms become NFC.
    """
    cleaned = unicodedata.normalize("NFC", name.strip().lower())
    return ALIASES.get(cleaned, cleaned)


def class_order(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the names in the order in which a data set's classes are numbered.

    That is FER2013's order if all names are among its seven, else alphabetical order.

    Raises:
        MienError: two names are spellings of the same class.
    """
    spellings: dict[str, list[str]] = {}
    for name in names:
        spellings.setdefault(canonical(name), []).append(name)
    duplicates = {name: sorted(group) for name, group in spellings.items() if len(group) > 1}
    if duplicates:
        # In ASCII, since two spellings may differ in characters that look the same.
        shown = "; ".join(f"{name} ({', '.join(map(ascii, group))})" for name, group in sorted(duplicates.items()))
        raise MienError(f"two spellings of the same class: {shown}; keep one of them")
    if spellings.keys() <= set(FER2013):
        return tuple(name for name in FER2013 if name in spellings)
    return tuple(sorted(spellings))


def positions(names: Iterable[str], available: Iterable[str], where: str) -> list[int]:
    """Returns the position of each class in ``available``, matched by name.

    Args:
        names: the classes to find.
        available: the classes in their order.
        where: name of the source of ``available`` in messages.

    Raises:
        MienError: a class is not available.
    """
    order = {canonical(name): index for index, name in enumerate(available)}
    missing = [name for name in names if canonical(name) not in order]
    if missing:
        listed = ", ".join(missing)
        raise MienError(
            f"{where}: no class named {listed}; there is {', '.join(order)}; leave the pictures of {listed} out, or "
            "take a model that knows them"
        )
    return [order[canonical(name)] for name in names]


def has_any_class(names: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether one of the wanted classes is among others, whatever their spelling."""
    return bool({canonical(name) for name in wanted} & {canonical(name) for name in names})


def has_every_class(names: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether all wanted classes are among others, whatever their spelling."""
    return {canonical(name) for name in wanted} <= {canonical(name) for name in names}
