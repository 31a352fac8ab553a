"""Works out the layout of a source of pictures from its file names: splits, classes and tables."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mien.data.faces import OFFICIAL_SPLITS
from mien.data.images import SUFFIXES
from mien.data.sources import Entries, FolderEntries, parents
from mien.errors import Faults, MienError
from mien.labels import canonical, class_order
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
    "fer2013train": "train",
    "fer2013valid": "validation",
    "fer2013test": "test",
}
"""Split of each folder name, in lower case; the last three are FER+'s."""

UNREAD: tuple[str, ...] = (".gif", ".heic", ".heif", ".avif", ".jfif", ".jpe", ".jp2", ".jxl", ".dng")
"""Endings of pictures that are not read from a data set, in lower case; a warning says that they are missing."""

_PACKED = (".zip", ".tar", ".tgz", ".gz", ".7z", ".rar")

_PREFIX = re.compile(r"([A-Za-z]+)_\d")


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
        warning = f"left out {len(self.ignored):,} file(s) that are no pictures, the first is {self.ignored[0]}"
        unread = self.unread()
        return [f"{warning}; {unread}, save these as .png" if unread else warning]

    def unread(self, folder: str = "") -> str:
        """Says how many files in a folder are pictures that are not read, and their endings; ``''`` if none."""
        within = f"{folder}/" if folder else ""
        paths = [path.lower() for path in self.ignored if path.startswith(within) and path.lower().endswith(UNREAD)]
        endings = ", ".join(sorted({f".{path.rpartition('.')[2]}" for path in paths}))
        return f"{len(paths):,} may be pictures of a kind that is not read ({endings})" if paths else ""

    def no_picture(self, entries: Entries, expected: str) -> MienError:
        """Returns the error about a source without pictures; it names what the user probably meant."""
        remedy = "check that this is the right place"
        packed = [path for path in self.ignored if path.lower().endswith(_PACKED)]
        if unread := self.unread():
            remedy = f"{unread}: save these as .png"
        elif packed:
            remedy = f"unpack the archive in it, {entries.where(packed[0])}, and give what comes out"
            if isinstance(entries, FolderEntries) and packed[0].lower().endswith(".zip"):
                remedy = f"give the archive in it, {entries.where(packed[0])}"
        return MienError(f"{entries.source}: holds no picture, expected {expected}; {remedy}")


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
        MienError: there is no picture, the folder of a class or split is empty, files lie outside the layout or have
            an unknown prefix, or a folder's name cannot be that of a class. The message names the first few.
    """
    files = files_of(entries)
    pictures = files.pictures
    if not pictures:
        raise files.no_picture(
            entries, "train/, val/ and test/ with a folder a class in each, or a folder a class alone"
        )
    depth, by_split = _layout(pictures)
    places = _places(entries, files, depth, by_split)
    _check_folders(entries, files, depth, by_split)
    _check_spellings(entries, places)
    classes = [_class_name(entries, place) for place in places]
    official = any(place.name_split for place in places)
    if official:
        _check_prefixes(entries, places)
    warnings = [*_misplaced_warnings(places), *_name_warnings(places), *_number_warnings(classes), *files.warnings()]
    return Listing(
        paths=pictures, classes=classes, splits=list(map(_split, places)), official=official, warnings=warnings
    )


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


def _split(place: _Place) -> str:
    return place.name_split or place.folder_split or "train"


def _prefix(path: str) -> str:
    match = _PREFIX.match(path.rpartition("/")[2])
    return match.group(1) if match else ""


def _places(entries: Entries, files: Files, depth: int, by_split: bool) -> list[_Place]:
    faults, places = Faults(entries.source, "pictures"), []
    remedy = "move or remove it, or rename its folders"
    if files.tables:
        table = files.tables[0]
        remedy += f" (beside pictures, a table such as {table} is not read: give each class a folder"
        remedy += ", or name the table itself if it holds FER2013's pixels)"
    for path in files.pictures:
        try:
            places.append(_place(entries, path, depth, by_split, remedy))
        except MienError as error:
            faults.add(entries.where(path), error)
    faults.check(len(files.pictures))
    return places


def _place(entries: Entries, path: str, depth: int, by_split: bool, remedy: str) -> _Place:
    parts = path.split("/")[depth:]
    folder_split = _split_of_folder(parts[0]) if by_split and len(parts) == 3 else ""
    if not folder_split and (by_split or len(parts) != 2):
        raise MienError(
            f"{entries.where(path)}: lies outside the layout, expected {'' if by_split else 'CLASS/FILE, or '}"
            f"SPLIT/CLASS/FILE with SPLIT one of {', '.join(SPLIT_FOLDERS)}; {remedy}"
        )
    prefix = _prefix(path)
    return _Place(path, folder_split, parts[-2], prefix, OFFICIAL_SPLITS.get(prefix, ""))


def _check_folders(entries: Entries, files: Files, depth: int, by_split: bool) -> None:
    """Refuses folders of a class or a split without pictures."""
    faults, folders = Faults(entries.source, "folders"), entries.folders()
    filled = {parent for path in files.pictures for parent in parents(path)}
    top = files.pictures[0].split("/")[:depth]
    for folder in folders:
        parts = folder.split("/")
        if folder in filled or parts[:depth] != top:
            continue
        inner = parts[depth:]
        in_split = by_split and bool(_split_of_folder(inner[0]))
        is_class = len(inner) == 2 if in_split else not by_split and len(inner) == 1
        if is_class or (in_split and len(inner) == 1):
            kind = f"class {inner[-1]}" if is_class else "split"
            where = entries.where(folder)
            problem, remedy = f"{where}: the folder of a {kind} holds no picture", "put pictures there or remove it"
            if unread := files.unread(folder):
                problem, remedy = f"{problem} that is read, and {unread}", "save these as .png, or remove the folder"
            faults.add(where, MienError(f"{problem}; {remedy}"))
    faults.check(len(folders))


def _check_prefixes(entries: Entries, places: list[_Place]) -> None:
    """Refuses file names with other prefixes than FER2013's."""
    faults = Faults(entries.source, "pictures")
    for place in places:
        if place.prefix and not place.name_split:
            where, expected = entries.where(place.path), ", ".join(f"{name}_" for name in OFFICIAL_SPLITS)
            problem = f"unknown prefix {place.prefix}_ among FER2013's file names, expected {expected}"
            faults.add(where, MienError(f"{where}: {problem}; rename or remove the file"))
    faults.check(len(places))


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


def _name_warnings(places: list[_Place]) -> list[str]:
    """Warns of names such as ``test_0001.jpg`` (RAF-DB's) among pictures of another split."""
    strange = [
        place for place in places if not place.name_split and _split_of_folder(place.prefix) not in {"", _split(place)}
    ]
    if not strange:
        return []
    return [
        f"{len(strange):,} file(s) are named as of another split than they are read as, the first is "
        f"{strange[0].path}, read as {_split(strange[0])}; if the names are right, move the files into train/, val/ "
        "and test/ with a folder a class in each"
    ]


def _number_warnings(classes: list[str]) -> list[str]:
    """Warns of classes that are numbers, which mean other expressions in each data set."""
    numbers = sorted({name for name in classes if name.isdecimal()})
    if not numbers:
        return []
    return [
        f"{len(numbers):,} class(es) have a number as name ({', '.join(numbers[:10])}), and answers will be these "
        "numbers; rename the folders to the expressions, in the order of this data set: each has its own"
    ]
