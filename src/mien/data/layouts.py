"""Works out the layout of a source from its file names (splits, classes, tables), and parses FER2013's tables."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np

from mien.data.faces import OFFICIAL_SPLITS, FaceSet, assemble
from mien.data.images import SUFFIXES
from mien.data.sources import Entries, parents
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
"""Split of each folder name, in lower case."""

IMAGE_SIZE = 48
"""Height and width of FER2013's pictures, in pixels."""

_PREFIX = re.compile(r"([A-Za-z]+)_\d")
_PIXELS = IMAGE_SIZE * IMAGE_SIZE
_LABELS: dict[str, str] = {str(number): name for number, name in enumerate(FER2013)}
_LONGEST_LINE = 2**17
_MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Files:
    """The files of a source by their endings, each list in alphabetical order.

    Attributes:
        pictures: paths of the pictures.
        tables: paths of the CSV files.
        ignored: paths of all files that are no pictures, CSV files included.
    """

    pictures: list[str]
    tables: list[str]
    ignored: list[str]

    def warnings(self) -> list[str]:
        """Returns a warning about the files that are no pictures, if there are any."""
        if not self.ignored:
            return []
        return [f"left out {len(self.ignored):,} file(s) that are no pictures, the first is {self.ignored[0]}"]


@dataclass(frozen=True)
class Listing:
    """The pictures of a labelled source, before any picture is decoded.

    Attributes:
        paths: path of each picture, in alphabetical order.
        classes: class of each picture, by its canonical name.
        splits: split of each picture.
        official: True if file names have FER2013's prefixes.
        warnings: files that were left out, and pictures in an unexpected folder.
    """

    paths: list[str]
    classes: list[str]
    splits: list[str]
    official: bool
    warnings: list[str]


@dataclass(frozen=True)
class _Place:
    """The parts of a picture's path ``[TOP/][SPLIT/]CLASS/PREFIX_...``.

    ``folder_split`` and ``name_split`` are the splits by folder and by prefix, ``''`` if there is none.
    """

    path: str
    folder_split: str
    class_folder: str
    prefix: str
    name_split: str


@dataclass(frozen=True)
class _Columns:
    """Number of columns of a table, and positions of three of them; ``usage`` is None if there is no such column."""

    count: int
    emotion: int
    pixels: int
    usage: int | None


def is_picture(path: str) -> bool:
    """True if the file name ends as that of a picture."""
    return path.lower().endswith(SUFFIXES)


def files_of(entries: Entries) -> Files:
    """Sorts the files of a source into pictures, tables and ignored files, by their endings."""
    paths = entries.files()
    return Files(
        pictures=[path for path in paths if is_picture(path)],
        tables=[path for path in paths if path.lower().endswith(".csv")],
        ignored=[path for path in paths if not is_picture(path)],
    )


def has_splits(pictures: list[str]) -> bool:
    """True if a file name has one of FER2013's prefixes, or a path has the form SPLIT/CLASS/FILE.

    A single such picture is enough: test pictures must not become training pictures because of a stray file.
    """
    if any(_prefix(path) in OFFICIAL_SPLITS for path in pictures):
        return True
    deep = [path for path in pictures if path.count("/") >= 2]
    if not deep:
        return False
    depth, _ = _layout(deep)
    return any(path.count("/") == depth + 2 and _split_of_folder(path.split("/")[depth]) for path in deep)


def list_pictures(entries: Entries) -> Listing:
    """Lists every picture of a source with a folder a class, with its class and split; decodes none.

    The split follows the prefix of the file name (``Training_``, ``PublicTest_``, ``PrivateTest_``: Kaggle's ``test/``
    holds the last two), else the folder (train, val, test), else it is train.

    Raises:
        MienError: there is no picture, the folder of a class or split is empty, a file lies outside the layout or has
            an unknown prefix, or a folder's name cannot be that of a class.
    """
    files = files_of(entries)
    pictures = files.pictures
    if not pictures:
        raise MienError(
            f"{entries.source}: holds no picture, expected train/, val/ and test/ with a folder a class in each, "
            "or a folder a class alone; check that this is the right place"
        )
    depth, by_split = _layout(pictures)
    places = [_place(entries, path, depth, by_split) for path in pictures]
    _check_folders(entries, pictures, depth, by_split)
    _check_spellings(entries, places)
    classes = [_class_name(entries, place) for place in places]
    official = any(place.name_split for place in places)
    for place in places:
        if official and place.prefix and not place.name_split:
            raise MienError(
                f"{entries.where(place.path)}: unknown prefix {place.prefix}_ among FER2013's file names, expected "
                f"{', '.join(f'{name}_' for name in OFFICIAL_SPLITS)}; rename or remove the file"
            )
    return Listing(
        paths=pictures,
        classes=classes,
        splits=[place.name_split or place.folder_split or "train" for place in places],
        official=official,
        warnings=[*_misplaced_warnings(places), *files.warnings()],
    )


def find_table(entries: Entries) -> str | None:
    """Returns the path of the FER2013 table in a source without pictures; None if there are pictures or no table.

    The challenge's archive has several tables (train.csv lacks ``Usage``): the one with all three columns is chosen.

    Raises:
        MienError: there are tables, but none is FER2013's, or several are.
    """
    files = files_of(entries)
    if not files.tables or files.pictures:
        return None
    with_usage: list[str] = []
    without_usage: list[str] = []
    for path in files.tables:
        with entries.open(path) as stream:
            columns = _columns(next(_rows(stream, entries.where(path)), []))
        if columns:
            (without_usage if columns.usage is None else with_usage).append(path)
    candidates = with_usage or without_usage
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise MienError(
            f"{entries.source}: holds several FER2013 tables ({', '.join(candidates)}), expected one; "
            "unpack the one that you mean and give its path"
        )
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
        MienError: the header or a row is wrong; the message names row and field.
    """
    rows = _rows(stream, where)
    header = next(rows, [])
    columns = _columns(header)
    if columns is None:
        raise MienError(
            f"{where}: row 1: the header is {','.join(header)[:60]!r}, expected emotion,pixels,Usage; "
            "give FER2013's fer2013.csv"
        )
    images: list[np.ndarray] = []
    classes: list[str] = []
    splits: list[str] = []
    ids: list[str] = []
    characters = 0
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
            classes.append(_class_of_number(fields[columns.emotion], at))
            images.append(_image(pixels, at))
            splits.append("train" if columns.usage is None else _split_of_usage(fields[columns.usage], at))
            ids.append(f"row {row}")
            before, characters = characters, characters + len(pixels)
            advance(characters // _MEGABYTE - before // _MEGABYTE)
    if not images:
        raise MienError(f"{where}: has no row below its header; check that the file is whole")
    return assemble(np.stack(images), classes, splits, ids, source, official=columns.usage is not None)


def _layout(pictures: list[str]) -> tuple[int, bool]:
    """Returns how many folders lie around the layout, and whether its folders are splits.

    Archives often have a top folder around everything; a folder that is named as a split belongs to the layout.
    """
    split_paths = [path.split("/") for path in pictures]
    shortest = min(map(len, split_paths))
    depth = 0
    while shortest - depth > 2:
        first = split_paths[0][depth]
        if _split_of_folder(first) or any(parts[depth] != first for parts in split_paths):
            break
        depth += 1
    return depth, any(_split_of_folder(parts[depth]) for parts in split_paths)


def _split_of_folder(name: str) -> str:
    return SPLIT_FOLDERS.get(name.strip().lower(), "")


def _prefix(path: str) -> str:
    match = _PREFIX.match(path.rpartition("/")[2])
    return match.group(1) if match else ""


def _place(entries: Entries, path: str, depth: int, by_split: bool) -> _Place:
    parts = path.split("/")[depth:]
    folder_split = _split_of_folder(parts[0]) if by_split and len(parts) == 3 else ""
    if not folder_split and (by_split or len(parts) != 2):
        expected = f"SPLIT/CLASS/FILE with SPLIT one of {', '.join(SPLIT_FOLDERS)}" if by_split else "CLASS/FILE"
        raise MienError(f"{entries.where(path)}: lies outside the layout, expected {expected}; move or remove it")
    prefix = _prefix(path)
    return _Place(path, folder_split, parts[-2], prefix, OFFICIAL_SPLITS.get(prefix, ""))


def _check_folders(entries: Entries, pictures: list[str], depth: int, by_split: bool) -> None:
    """Refuses folders of a class or a split without pictures."""
    filled = {parent for path in pictures for parent in parents(path)}
    top = pictures[0].split("/")[:depth]
    for folder in entries.folders():
        parts = folder.split("/")
        if folder in filled or parts[:depth] != top:
            continue
        inner = parts[depth:]
        in_split = by_split and bool(_split_of_folder(inner[0]))
        is_class = len(inner) == 2 if in_split else not by_split and len(inner) == 1
        if is_class or (in_split and len(inner) == 1):
            kind = f"class {inner[-1]}" if is_class else "split"
            raise MienError(
                f"{entries.where(folder)}: the folder of a {kind} holds no picture; put pictures there or remove it"
            )


def _check_spellings(entries: Entries, places: list[_Place]) -> None:
    """Refuses two spellings of a class in the same split."""
    for split in sorted({place.folder_split for place in places}):
        try:
            class_order(sorted({place.class_folder for place in places if place.folder_split == split}))
        except MienError as error:
            raise MienError(f"{entries.source}: {error}") from error


def _class_name(entries: Entries, place: _Place) -> str:
    """Returns the class of a picture by a name that is safe as a folder's name."""
    name = percent_encoded(canonical(place.class_folder))
    if not is_safe_name(name):
        raise MienError(
            f"{entries.where(place.path)}: the folder {place.class_folder!r} cannot give a class its name, expected "
            "letters or digits, and neither '..' nor control characters; rename the folder"
        )
    return name


def _misplaced_warnings(places: list[_Place]) -> list[str]:
    """Warns of FER2013's file names in the folder of another split; PublicTest in ``test/`` is Kaggle's layout."""
    misplaced = [
        place.path
        for place in places
        if place.name_split
        and place.folder_split not in {"", place.name_split}
        and (place.name_split, place.folder_split) != ("validation", "test")
    ]
    if not misplaced:
        return []
    return [
        f"{len(misplaced):,} file(s) lie in another split than they are named for, the first is {misplaced[0]}; "
        "the name decides"
    ]


def _rows(stream: IO[bytes], where: str) -> Iterator[list[str]]:
    try:
        yield from csv.reader(_lines(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""), where))
    except (csv.Error, UnicodeDecodeError) as error:
        raise MienError(f"{where}: is not a CSV file that can be read ({error}); download it again") from error


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


def _class_of_number(field: str, at: str) -> str:
    text = field.strip()
    if text not in _LABELS:
        meaning = ", ".join(f"{number} {name}" for number, name in enumerate(FER2013))
        raise MienError(f"{at}, emotion: unknown label {text[:20]!r}, expected a number of: {meaning}; correct the row")
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
