"""Sets that keep a folder a class: FER2013's Kaggle layout, and any other set of square pictures."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from mien.data.archive import Entries
from mien.data.assemble import OFFICIAL_SPLITS, assemble
from mien.data.faces import FaceSet
from mien.data.pictures import SUFFIXES, decode, put
from mien.errors import MienError
from mien.labels import canonical, class_order
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
        splits=[_split(entries, place, official) for place in places],
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


def _split(entries: Entries, place: _Place, official: bool) -> str:
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
