"""The layouts of a labelled set: folders of classes, and tables with pixels or paths."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from mien.data.faces import OFFICIAL_SPLITS, FaceSet, assemble
from mien.data.images import SUFFIXES, decode, put
from mien.data.sources import Entries, open_file
from mien.errors import MienError
from mien.labels import FER2013, canonical, class_order
from mien.progress import progress
from mien.text import is_safe_name, percent_encoded

SPLIT_FOLDERS: dict[str, str] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "publictest": "validation",
    "test": "test",
    "privatetest": "test",
}
"""Folder names, in lower case, that stand for a split."""

_PREFIX = re.compile(r"([A-Za-z]+)_\d")
_EXPECTED = "expected train/, val/ and test/ with a folder a class in each, or a folder a class alone"
_BATCH = 256


@dataclass(frozen=True)
class Listing:
    """What a source holds, before any picture is decoded.

    Attributes:
        paths: every picture, in alphabetical order.
        classes: its class, by the canonical name.
        splits: its split.
        official: whether file names carry FER2013's prefixes.
        warnings: what was left out or looks odd.
    """

    paths: list[str]
    classes: list[str]
    splits: list[str]
    official: bool
    warnings: list[str]


@dataclass(frozen=True)
class _Place:
    """Where a picture lies: ``[TOP/][SPLIT/]CLASS/NAME``; ``folder`` is its split by folder, or ''."""

    path: str
    folder: str
    class_folder: str
    name: str


def split_of_folder(name: str) -> str:
    """The split that a folder's name stands for, whatever its case and the spaces around it; '' where it is none."""
    return SPLIT_FOLDERS.get(name.strip().lower(), "")


def is_picture(path: str) -> bool:
    """Whether a file's name ends as a picture's does."""
    return path.lower().endswith(SUFFIXES)


def read_folders(entries: Entries) -> FaceSet:
    """Reads every picture of a source with a folder a class.

    The split is that of the file-name prefix (``Training_``, ``PublicTest_``, ``PrivateTest_``: Kaggle's ``test/``
    merges the last two), else that of the folder (train, val, test), else train. The set is grey unless a picture has
    colour.

    Raises:
        MienError: there is no picture, a class folder is empty, a file lies outside the layout or has an unknown
            prefix, a picture is broken or of another size, or a class has no training image.
    """
    listing = list_pictures(entries)
    return assemble(
        _decode_all(entries, listing.paths),
        listing.classes,
        listing.splits,
        listing.paths,
        entries.source,
        official=listing.official,
        warnings=listing.warnings,
    )


def list_pictures(entries: Entries) -> Listing:
    """Finds every picture with its class and split; decodes none.

    Raises:
        MienError: as ``read_folders``, as far as it can be told from the names.
    """
    paths = entries.files()
    pictures = [path for path in paths if is_picture(path)]
    if not pictures:
        raise MienError(f"{entries.source}: holds no picture, {_EXPECTED}; check that this is the right place")
    depth = _depth_of_layout(pictures)
    by_split = any(split_of_folder(path.split("/")[depth]) for path in pictures)
    places = [_place(entries, path, depth, by_split) for path in pictures]
    _check_folders(entries, pictures, depth, by_split)
    _check_spellings(entries, places)
    official = any(_prefix(place.name) in OFFICIAL_SPLITS for place in places)
    return Listing(
        paths=pictures,
        classes=[_class_name(entries, place) for place in places],
        splits=[_split_of_place(entries, place, official) for place in places],
        official=official,
        warnings=[*_misplaced(places), *other_files(paths)],
    )


def _class_name(entries: Entries, place: _Place) -> str:
    """The class of a picture, by a name that may become that of a folder."""
    name = percent_encoded(canonical(place.class_folder))
    if not is_safe_name(name):
        raise MienError(
            f"{entries.where(place.path)}: the folder {place.class_folder!r} cannot give a class its name, expected "
            "letters or digits, and neither '..' nor control characters; rename the folder"
        )
    return name


def has_splits(pictures: list[str]) -> bool:
    """Whether pictures are named with FER2013's prefixes or lie in SPLIT/CLASS/FILE, as far as their paths tell.

    One such picture suffices: test pictures must not be taken for pictures without a split because of a stray file.
    """
    if any(_prefix(path.rpartition("/")[2]) in OFFICIAL_SPLITS for path in pictures):
        return True
    deep = [path for path in pictures if path.count("/") >= 2]
    if not deep:
        return False
    depth = _depth_of_layout(deep)
    inner = [path.split("/")[depth:] for path in deep]
    return any(len(parts) == 3 and split_of_folder(parts[0]) for parts in inner)


def other_files(paths: list[str]) -> list[str]:
    """A warning about the files that are no pictures by their names, where there are any."""
    others = [path for path in paths if not is_picture(path)]
    return [f"left out {len(others):,} file(s) that are no pictures, the first is {others[0]}"] if others else []


def _depth_of_layout(pictures: list[str]) -> int:
    """How many folders lie around the layout: an archive often holds one top folder."""
    split_paths = [path.split("/") for path in pictures]
    shortest = min(len(parts) for parts in split_paths)
    depth = 0
    while shortest - depth > 2:
        first = split_paths[0][depth]
        if split_of_folder(first) or any(parts[depth] != first for parts in split_paths):
            break
        depth += 1
    return depth


def _place(entries: Entries, path: str, depth: int, by_split: bool) -> _Place:
    parts = path.split("/")[depth:]
    if by_split and len(parts) == 3 and split_of_folder(parts[0]):
        return _Place(path, split_of_folder(parts[0]), parts[1], parts[2])
    if not by_split and len(parts) == 2:
        return _Place(path, "", parts[0], parts[1])
    expected = f"SPLIT/CLASS/FILE with SPLIT one of {', '.join(SPLIT_FOLDERS)}" if by_split else "CLASS/FILE"
    raise MienError(f"{entries.where(path)}: lies outside the layout, expected {expected}; move or remove it")


def _check_folders(entries: Entries, pictures: list[str], depth: int, by_split: bool) -> None:
    filled = {path.rsplit("/", level)[0] for path in pictures for level in range(1, path.count("/") + 1)}
    top = pictures[0].split("/")[:depth]
    for folder in entries.folders():
        parts = folder.split("/")
        if folder in filled or parts[:depth] != top:
            continue
        inner = parts[depth:]
        in_split = by_split and bool(split_of_folder(inner[0]))
        is_class = len(inner) == 2 if in_split else not by_split and len(inner) == 1
        if is_class or (in_split and len(inner) == 1):
            kind = f"class {inner[-1]}" if is_class else "split"
            raise MienError(
                f"{entries.where(folder)}: the folder of a {kind} holds no picture; put pictures there or remove it"
            )


def _check_spellings(entries: Entries, places: list[_Place]) -> None:
    for folder in sorted({place.folder for place in places}):
        try:
            class_order(sorted({place.class_folder for place in places if place.folder == folder}))
        except MienError as error:
            raise MienError(f"{entries.source}: {error}") from error


def _prefix(name: str) -> str:
    match = _PREFIX.match(name)
    return match.group(1) if match else ""


def _split_of_place(entries: Entries, place: _Place, official: bool) -> str:
    prefix = _prefix(place.name)
    if prefix in OFFICIAL_SPLITS:
        return OFFICIAL_SPLITS[prefix]
    if official and prefix:
        raise MienError(
            f"{entries.where(place.path)}: unknown prefix {prefix}_ among FER2013's file names, expected "
            f"{', '.join(f'{name}_' for name in OFFICIAL_SPLITS)}; rename or remove the file"
        )
    return place.folder or "train"


def _misplaced(places: list[_Place]) -> list[str]:
    """FER2013's file names in a folder that says otherwise; PublicTest in ``test/`` is Kaggle's habit."""
    odd = []
    for place in places:
        split = OFFICIAL_SPLITS.get(_prefix(place.name), "")
        if split and place.folder not in {"", split} and (split, place.folder) != ("validation", "test"):
            odd.append(place)
    if not odd:
        return []
    return [
        f"{len(odd):,} file(s) lie in another split than they are named for, the first is {odd[0].path}; "
        "the name decides"
    ]


def _decode_all(entries: Entries, paths: list[str]) -> np.ndarray:
    """uint8 [N, S, S], or [N, S, S, 3] from the first picture on that has colour."""
    first = decode(entries.read(paths[0]), entries.where(paths[0]))
    size = len(first)
    try:
        images = np.empty((len(paths), *first.shape), np.uint8)
        with progress("reading pictures", len(paths), "images") as advance:
            for row, path in enumerate(paths):
                images = put(images, row, decode(entries.read(path), entries.where(path), size))
                if (row + 1) % _BATCH == 0:
                    advance(_BATCH)
            advance(len(paths) % _BATCH)
    except MemoryError as error:
        raise MienError(
            f"{entries.source}: {len(paths):,} pictures of {size}x{size} pixels do not fit into memory; "
            "make them smaller"
        ) from error
    return images


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
            splits.append("train" if columns.usage is None else _split_of_usage(fields[columns.usage], at))
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


def _split_of_usage(field: str, at: str) -> str:
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
