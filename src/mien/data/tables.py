"""FER2013 as a CSV file: fer2013.csv (``emotion,pixels,Usage``) and icml_face_data.csv (``emotion, Usage, pixels``)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from mien.data.archive import Entries, open_file
from mien.data.assemble import OFFICIAL_SPLITS, assemble
from mien.data.faces import FaceSet
from mien.data.folders import is_picture
from mien.errors import MienError
from mien.labels import FER2013
from mien.progress import progress

IMAGE_SIZE = 48
"""Height and width of FER2013's pictures, in pixels."""

_PIXELS = IMAGE_SIZE * IMAGE_SIZE
_LABELS: dict[str, str] = {str(number): name for number, name in enumerate(FER2013)}
_LONGEST_LINE = 2**17
_MEGABYTE = 1_000_000


@dataclass(frozen=True)
class _Columns:
    """Positions of the columns; ``usage`` is None where there is no such column."""

    count: int
    emotion: int
    pixels: int
    usage: int | None


def read_table_file(path: Path) -> FaceSet:
    """Reads a CSV file; see ``read_table``."""
    with open_file(path) as stream:
        return read_table(stream, str(path), path.stat().st_size, str(path))


def read_table(stream: IO[bytes], where: str, size: int, source: str) -> FaceSet:
    """Reads FER2013's CSV: a number of 0 to 6 in ``emotion``, 2304 grey values of 0 to 255 in ``pixels``, and the
    split in ``Usage``; without that column every row is training. The header is row 1.

    Args:
        stream: the file's bytes.
        where: how a message names the file.
        size: the file's bytes in all, for the progress bar.
        source: where the set came from, as the user gave it.

    Raises:
        MienError: with row and field, for anything else.
    """
    rows = _rows(stream, where)
    columns = _columns(next(rows, []), where)
    images: list[np.ndarray] = []
    classes: list[str] = []
    splits: list[str] = []
    ids: list[str] = []
    read = 0
    with progress("reading rows", size // _MEGABYTE, "MB") as advance:
        for row, fields in enumerate(rows, start=2):
            if not fields:
                continue
            at = f"{where}: row {row}"
            if len(fields) != columns.count:
                raise MienError(
                    f"{at}: has {len(fields)} fields, expected {columns.count} as in the header; correct it"
                )
            pixels = fields[columns.pixels]
            classes.append(_expression(fields[columns.emotion], at))
            images.append(_image(pixels, at))
            splits.append("train" if columns.usage is None else _split(fields[columns.usage], at))
            ids.append(f"row {row}")
            before, read = read, read + len(pixels)
            advance(read // _MEGABYTE - before // _MEGABYTE)
    if not images:
        raise MienError(f"{where}: has no row below its header; check that the file is whole")
    return assemble(np.stack(images), classes, splits, ids, source, official=columns.usage is not None)


def find_table(entries: Entries) -> str | None:
    """The one FER2013 table in a source without pictures, or None where there is no table at all.

    The challenge's archive holds others beside it (train.csv has no Usage): the one with all three columns counts.

    Raises:
        MienError: there are tables, but not exactly one is FER2013's.
    """
    files = entries.files()
    tables = [path for path in files if path.lower().endswith(".csv")]
    if not tables or any(is_picture(path) for path in files):
        return None
    fitting: dict[bool, list[str]] = {True: [], False: []}
    for path in tables:
        with entries.open(path) as stream:
            columns = _find_columns(next(_rows(stream, entries.where(path)), []))
        if columns:
            fitting[columns.usage is not None].append(path)
    for candidates in (fitting[True], fitting[False]):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise MienError(
                f"{entries.source}: holds several FER2013 tables ({', '.join(candidates)}), expected one; "
                "unpack the one that you mean and give its path"
            )
    raise MienError(
        f"{entries.source}: none of its tables ({', '.join(tables)}) has the header emotion,pixels,Usage; "
        "give FER2013's fer2013.csv or icml_face_data.csv"
    )


def _rows(stream: IO[bytes], where: str) -> Iterator[list[str]]:
    try:
        yield from csv.reader(_lines(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""), where))
    except (csv.Error, UnicodeDecodeError) as error:
        raise MienError(f"{where}: is not a CSV file that can be read ({error}); download it again") from error


def _lines(text: IO[str], where: str) -> Iterator[str]:
    """Lines of bounded length, so that a file without line ends cannot fill the memory."""
    number = 0
    while line := text.readline(_LONGEST_LINE):
        number += 1
        if len(line) >= _LONGEST_LINE:
            raise MienError(
                f"{where}: line {number} has over {_LONGEST_LINE:,} characters, expected about 9,000; correct it"
            )
        yield line


def _columns(header: list[str], where: str) -> _Columns:
    columns = _find_columns(header)
    if columns is None:
        shown = ",".join(header)[:60]
        raise MienError(
            f"{where}: row 1: the header is {shown!r}, expected emotion,pixels,Usage; give FER2013's fer2013.csv"
        )
    return columns


def _find_columns(header: list[str]) -> _Columns | None:
    names = [name.strip().lower() for name in header]
    if not {"emotion", "pixels"} <= set(names) or len(set(names)) != len(names):
        return None
    usage = names.index("usage") if "usage" in names else None
    return _Columns(len(names), names.index("emotion"), names.index("pixels"), usage)


def _expression(field: str, at: str) -> str:
    text = field.strip()
    if text not in _LABELS:
        meaning = ", ".join(f"{number} {name}" for number, name in enumerate(FER2013))
        raise MienError(f"{at}, emotion: unknown label {text[:20]!r}, expected a number of: {meaning}; correct the row")
    return _LABELS[text]


def _split(field: str, at: str) -> str:
    text = field.strip()
    if text not in OFFICIAL_SPLITS:
        known = ", ".join(OFFICIAL_SPLITS)
        raise MienError(f"{at}, Usage: unknown split {text[:20]!r}, expected one of {known}; correct the row")
    return OFFICIAL_SPLITS[text]


def _image(field: str, at: str) -> np.ndarray:
    """uint8 [48, 48] from the grey values of a row."""
    strange = field.encode().translate(None, b"0123456789 \t\r\n")
    if strange:
        values_only = (value for value in field.split() if not (value.isascii() and value.isdigit()))
        wrong = next(values_only, strange.decode())
        expected = "whole numbers of 0 to 255 with spaces between"
        raise MienError(
            f"{at}, pixels: {wrong[:20]!r} is not a grey value, expected {expected}; correct or remove the row"
        )
    values = np.fromstring(field, dtype=np.int64, sep=" ")
    if len(values) != _PIXELS:
        raise MienError(
            f"{at}, pixels: has {len(values):,} values, expected {_PIXELS:,} ({IMAGE_SIZE}x{IMAGE_SIZE}); "
            "correct or remove the row"
        )
    if values.max() > 255:
        raise MienError(f"{at}, pixels: {values.max()} is no grey value, expected 0 to 255; correct or remove the row")
    return values.astype(np.uint8).reshape(IMAGE_SIZE, IMAGE_SIZE)
