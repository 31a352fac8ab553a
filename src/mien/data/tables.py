"""Sets of faces in a CSV table with the columns emotion, pixels and Usage."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np

from mien.data.faces import OFFICIAL_SPLITS, FaceSet, assemble
from mien.data.layouts import files_of
from mien.data.sources import Entries
from mien.errors import Faults, MienError, first_line
from mien.labels import FER2013
from mien.progress import progress

IMAGE_SIZE = 48
"""Height and width of FER2013's pictures, in pixels."""

_MEGABYTE = 1_000_000
_PIXELS = IMAGE_SIZE * IMAGE_SIZE
_LABELS: dict[str, str] = {str(number): name for number, name in enumerate(FER2013)}
_LONGEST_LINE = 2**17


@dataclass(frozen=True)
class _Columns:
    """Number of columns of a table, and positions of three of them; ``usage`` is None if there is no such column."""

    count: int
    emotion: int
    pixels: int
    usage: int | None


def find_table(entries: Entries) -> str | None:
    """Returns the path of the FER2013 table in a source without pictures; None if there are pictures or no table.

    The challenge's archive has several tables (train.csv lacks ``Usage``): the one with all three columns is chosen.

    Raises:
        MienError: there are tables, but none is FER2013's, or several are; or the one that has ``Usage`` may be one
            that cannot be read.
    """
    files = files_of(entries)
    if not files.tables or files.pictures:
        return None
    with_usage: list[str] = []
    without_usage: list[str] = []
    unreadable: list[MienError] = []
    for path in files.tables:
        try:
            with entries.open(path) as stream:
                columns = _columns(next(_rows(stream, entries.where(path)), []))
        except MienError as error:  # such as notes in another encoding
            unreadable.append(error)
            continue
        if columns:
            (without_usage if columns.usage is None else with_usage).append(path)
    candidates = with_usage or ([] if unreadable else without_usage)
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise MienError(
            f"{entries.source}: holds several FER2013 tables ({', '.join(candidates)}), expected one; "
            "unpack the one that you mean and give its path"
        )
    if unreadable:
        raise unreadable[0]
    raise MienError(
        f"{entries.source}: none of its tables ({', '.join(files.tables)}) has the header emotion,pixels,Usage; "
        "give FER2013's fer2013.csv or icml_face_data.csv"
    )


def read_table(stream: IO[bytes], where: str, size: int, source: str) -> FaceSet:
    """Reads FER2013's CSV: the class as a number of 0 to 6 in ``emotion``, 2304 grey values of 0 to 255 in ``pixels``,
    and the split in ``Usage``; without that column every row is training. The header is row 1.

    Args:
        stream: content of the file.
        where: name of the file in error messages.
        size: size of the file in bytes, for the progress bar.
        source: path of the set, as the user wrote it.

    Raises:
        MienError: the header or rows are wrong; the message names row and field of the first few, and counts all.
    """
    rows = _rows(stream, where)
    header = next(rows, [])
    columns = _columns(header)
    if columns is None:
        raise MienError(
            f"{where}: row 1: the header is {','.join(header)[:60]!r}, expected emotion,pixels,Usage; "
            "give FER2013's fer2013.csv"
        )
    faces: list[tuple[np.ndarray, str, str, str]] = []
    faults, count, characters = Faults(where, "rows"), 0, 0
    with progress("reading rows", size // _MEGABYTE, "MB") as advance:
        for row, fields in enumerate(rows, start=2):
            if not fields:
                continue
            count += 1
            at = f"{where}: row {row}"
            try:
                faces.append((*_face(fields, columns, at), f"row {row}"))
            except MienError as error:
                faults.add(at, error)
                if faults.are_the_rule(count):
                    break
                continue
            before, characters = characters, characters + len(fields[columns.pixels])
            advance(characters // _MEGABYTE - before // _MEGABYTE)
    faults.check(count)
    if not faces:
        raise MienError(f"{where}: has no row below its header; check that the file is whole")
    images, classes, splits, ids = zip(*faces, strict=True)
    return assemble(np.stack(images), classes, splits, ids, source, official=columns.usage is not None)


def _rows(stream: IO[bytes], where: str) -> Iterator[list[str]]:
    try:
        yield from csv.reader(_lines(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""), where))
    except (csv.Error, UnicodeDecodeError) as error:
        raise MienError(
            f"{where}: is not a CSV file that can be read ({first_line(error)}); save it as UTF-8, or download it again"
        ) from error


def _lines(text: IO[str], where: str) -> Iterator[str]:
    """Yields lines of limited length, so that a file without line ends cannot fill the memory."""
    number = 0
    while line := text.readline(_LONGEST_LINE):
        number += 1
        if len(line) >= _LONGEST_LINE:
            raise MienError(
                f"{where}: line {number} has over {_LONGEST_LINE:,} characters, expected about 9,000; correct it"
            )
        yield line


def _columns(header: list[str]) -> _Columns | None:
    names = [name.strip().lower() for name in header]
    if not {"emotion", "pixels"} <= set(names) or len(set(names)) != len(names):
        return None
    usage = names.index("usage") if "usage" in names else None
    return _Columns(len(names), names.index("emotion"), names.index("pixels"), usage)


def _face(fields: list[str], columns: _Columns, at: str) -> tuple[np.ndarray, str, str]:
    """Returns the picture (uint8 [48, 48]), the class and the split of a row."""
    if len(fields) != columns.count:
        raise MienError(f"{at}: has {len(fields)} fields, expected {columns.count} as in the header; correct it")
    name = _class_of_number(fields[columns.emotion], at)
    image = _image(fields[columns.pixels], at)
    return image, name, "train" if columns.usage is None else _split_of_usage(fields[columns.usage], at)


def _class_of_number(field: str, at: str) -> str:
    text = field.strip()
    if text not in _LABELS:
        meaning = ", ".join(f"{number} {name}" for number, name in enumerate(FER2013))
        raise MienError(
            f"{at}, emotion: unknown label {text[:20]!r}, expected a number of: {meaning}; correct the row, or give a "
            "folder with one sub-folder per class"
        )
    return _LABELS[text]


def _split_of_usage(field: str, at: str) -> str:
    text = field.strip()
    if text not in OFFICIAL_SPLITS:
        expected = ", ".join(OFFICIAL_SPLITS)
        raise MienError(f"{at}, Usage: unknown split {text[:20]!r}, expected one of {expected}; correct the row")
    return OFFICIAL_SPLITS[text]


def _image(field: str, at: str) -> np.ndarray:
    """Returns the grey values of a row as uint8 [48, 48]."""
    strange = field.encode().translate(None, b"0123456789 \t\r\n")
    if strange:
        no_numbers = (value for value in field.split() if not (value.isascii() and value.isdigit()))
        wrong = next(no_numbers, strange.decode())
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
