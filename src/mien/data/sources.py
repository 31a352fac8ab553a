"""Reads the files of a folder or of a zip archive through one interface; archives are read in place and distrusted."""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, TypeAlias

from mien.errors import MienError, first_line

LARGEST_FILE = 32 * 2**20
"""Most bytes of a face crop, unpacked; usual crops have a few thousand."""

LARGEST_TABLE = 2 * 2**30
"""Most bytes of a CSV file in an archive, unpacked; fer2013.csv has 0.3e9."""

LARGEST_PHOTO = 2**30
"""Most bytes of a photo from which faces are cut, unpacked."""

DEEPEST, LONGEST_PATH = 32, 4096
"""Most folders around a member of an archive, and most characters of its path."""

MOST_PLACES = 100
"""Most places at which links may show one folder of a data set; more are links that multiply each other."""

_JUNK_NAMES = frozenset(
    {"__macosx", "@eadir", "thumbs.db", "desktop.ini", "lost+found", "$recycle.bin", "system volume information"}
)
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, UnicodeDecodeError, NotImplementedError)
"""Errors of ``zipfile`` about a member: the last two are about its name in UTF-8 and the flags of its packing."""

_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_ENCRYPTED, _UTF_8 = 1, 1 << 11
_GZIP = b"\x1f\x8b"


@contextmanager
def open_entries(path: Path, *, again: bool = True) -> Iterator[Entries]:
    """Opens a folder or a zip archive.

    Args:
        path: of the folder or archive.
        again: list a linked folder at each of its places, as ``walk``.

    Raises:
        MienError: the path is neither of them, the archive is damaged, or a member's path leads out of it.
    """
    if path.is_dir():
        yield FolderEntries(path, again=again)
        return
    with _open_zip(path) as archive:
        yield ZipEntries(archive, str(path))


def is_junk(path: str) -> bool:
    """True for what operating systems leave behind: ``__MACOSX/``, ``lost+found/``, dotfiles, Thumbs.db, and so on."""
    return any(part.startswith(".") or part.lower() in _JUNK_NAMES for part in path.split("/"))


def parents(path: str) -> Iterator[str]:
    """Yields the folders around a file of a source, the innermost first."""
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


class ZipEntries:
    """The members of a zip archive; nothing is unpacked to disk. Paths are relative and have forward slashes.

    Attributes:
        source: path of the archive for messages.

    Raises:
        MienError: a member's path is too long, is absolute or leads out of the archive, or occurs twice.
    """

    def __init__(self, archive: zipfile.ZipFile, source: str) -> None:
        self.source = source
        self._archive = archive
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._folders: set[str] = set()
        for info in archive.infolist():
            # Some Windows tools write backslashes.
            path = _name(info).replace("\\", "/")
            if path.count("/") > DEEPEST or len(path) > LONGEST_PATH:
                raise MienError(
                    f"{source}: entry {path[:60]!r}... lies {path.count('/'):,} folders deep in {len(path):,} letters, "
                    f"expected at most {DEEPEST} and {LONGEST_PATH:,}; do not trust this file, get it from its "
                    "original place"
                )
            if path.startswith("/") or re.match(r"[A-Za-z]:", path) or ".." in path.split("/"):
                raise MienError(
                    f"{source}: entry {info.filename!r} climbs out of the archive; expected relative paths only; "
                    "do not trust this file, get it from its original place"
                )
            # `tar -a` of Windows and macOS writes ./train/happy/1.png, in which "." is no hidden folder.
            is_folder, path = path.endswith("/"), "/".join(part for part in path.split("/") if part not in ("", "."))
            if is_folder:
                self._folders |= {path} - {""}
            elif path in self._members:
                raise MienError(f"{source}: holds {path} twice; expected each name once; make the archive again")
            else:
                self._members[path] = info

    def files(self) -> list[str]:
        """Lists every file in alphabetical order, without junk files (``is_junk``)."""
        return sorted(path for path in self._members if not is_junk(path))

    def folders(self) -> list[str]:
        """Lists every folder in alphabetical order, empty folders too."""
        implied = {parent for path in self._members for parent in parents(path)}
        return sorted(path for path in self._folders | implied if not is_junk(path))

    def read(self, path: str, limit: int | None = None) -> bytes:
        """Returns the content of a picture file.

        Raises:
            MienError: the file cannot be read, or is larger than ``limit`` bytes (by default ``LARGEST_FILE``).
        """
        with self._open(path, limit or LARGEST_FILE) as stream:
            # read() without a size would unpack the whole member, even if it is larger than it declares.
            return stream.read(self.size(path) + 1)

    def open(self, path: str) -> AbstractContextManager[IO[bytes]]:
        """Opens a table as a stream of bytes.

        Raises:
            MienError: the file cannot be opened or read on, or is larger than ``LARGEST_TABLE``.
        """
        return self._open(path, LARGEST_TABLE)

    def size(self, path: str) -> int:
        """Returns the unpacked size of a file in bytes, as the source declares it."""
        return self._members[path].file_size

    def where(self, path: str) -> str:
        """Returns the name of a file for messages."""
        return f"{self.source}: {path}"

    @contextmanager
    def _open(self, path: str, limit: int) -> Iterator[IO[bytes]]:
        info, where = self._members[path], self.where(path)
        _check_size(where, info.file_size, limit)
        if info.flag_bits & _ENCRYPTED or info.compress_type not in _METHODS:
            raise MienError(
                f"{where}: is encrypted or packed by method {info.compress_type}, "
                "expected a plain zip (stored or deflated); make the archive again"
            )
        try:
            with self._archive.open(info) as stream:
                yield stream
        except _BROKEN as error:
            raise MienError(
                f"{where}: cannot be read from the archive ({first_line(error)}); download or make the archive again"
            ) from error


class FolderEntries:
    """The files below a folder, also those in linked folders; the methods are those of ``ZipEntries``.

    Args:
        root: the folder.
        again: list a linked folder at each of its places, as ``walk``: one that two splits link to belongs to both.

    Raises:
        MienError: a folder cannot be listed, or has too many places (``walk``).
    """

    def __init__(self, root: Path, *, again: bool = True) -> None:
        self.source = str(root)
        self._root = root
        self._files: list[str] = []
        self._folders: list[str] = []
        for folder, _, names in walk(root, again=again):
            relative = folder.relative_to(root).as_posix()
            if relative == ".":
                self._files += names
            else:
                self._folders.append(relative)
                self._files += [f"{relative}/{name}" for name in names]

    def files(self) -> list[str]:
        return sorted(self._files)

    def folders(self) -> list[str]:
        return sorted(self._folders)

    def read(self, path: str, limit: int | None = None) -> bytes:
        limit = limit or LARGEST_FILE
        with open_file(self._root / path) as stream:
            _check_size(self.where(path), self.size(path), limit)
            return stream.read(limit)

    def open(self, path: str) -> AbstractContextManager[IO[bytes]]:
        return open_file(self._root / path)

    def size(self, path: str) -> int:
        return (self._root / path).stat().st_size

    def where(self, path: str) -> str:
        return str(self._root / path)


Entries: TypeAlias = ZipEntries | FolderEntries
"""The files of a source."""


@contextmanager
def open_file(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file on disk as a stream of bytes.

    Raises:
        MienError: the file cannot be read, or is no regular file.
    """
    try:
        if path.exists() and not path.is_file():  # they raise OSError, as for a name that is too long
            raise MienError(f"{path}: is no regular file, expected one; give another path")
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        raise MienError(f"{path}: cannot be read ({error.strerror or error}); check the file and its rights") from error


def walk(
    root: Path, on_error: Callable[[str, MienError], None] | None = None, *, again: bool = False, junk: bool = False
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walks a folder as ``os.walk`` does, in alphabetical order; follows links to folders, also in circles, and ends.

    Args:
        root: the folder to start from.
        on_error: called with the path and the error of each folder that cannot be listed; without it, the first such
            error is raised.
        again: visit a folder at each of its places, where its name says what its files are, like ``val`` that is a
            link to ``test``; only within itself it is left out. By default, each folder is visited once.
        junk: list junk (``is_junk``) and enter its folders, which others often may not.

    Raises:
        MienError: a folder cannot be listed, or with ``again`` has more than ``MOST_PLACES`` places.
    """

    def fail(error: OSError) -> None:
        message = MienError(f"{error.filename}: cannot be listed ({error.strerror}); check the rights of the folder")
        if on_error is None:
            raise message from error
        on_error(str(error.filename), message)

    visited = _Visited(str(root), again)
    for folder, children, names in os.walk(root, followlinks=True, onerror=fail):
        if not visited.add(folder):
            children.clear()
            continue
        children[:] = sorted(name for name in children if junk or not is_junk(name))
        yield Path(folder), children, sorted(name for name in names if junk or not is_junk(name))


class _Visited:
    """The folders of a walk so far, each parent before its children.

    Args:
        root: where the walk begins.
        again: as ``walk``.
    """

    def __init__(self, root: str, again: bool) -> None:
        self._root, self._again = root, again
        self._real: dict[str, str] = {}
        self._places: dict[str, list[str]] = {}

    def add(self, folder: str) -> bool:
        """Adds a folder and returns True, or returns False if the walk must leave it out.

        Raises:
            MienError: it has too many places.
        """
        real = os.path.realpath(folder)
        places = self._places.setdefault(real, [])
        if (places and not self._again) or self._is_within(folder, real):
            return False
        if len(places) == MOST_PLACES:
            raise MienError(
                f"{folder}: is {places[0]} again, by links; expected at most {MOST_PLACES} places of one folder; "
                "remove links that lead back and forth"
            )
        self._real[folder] = real
        places.append(folder)
        return True

    def _is_within(self, folder: str, real: str) -> bool:
        """True if a folder is one of those through which the walk reached it; else links would lead round for ever."""
        while folder != self._root:
            folder = os.path.dirname(folder)
            if self._real[folder] == real:
                return True
        return False


@contextmanager
def _open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    expected = "expected FER2013's archive.zip, a folder of pictures, or a .csv file"
    with open_file(path) as stream:
        head = stream.read(4)
        try:
            archive = zipfile.ZipFile(stream)
        except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
            if head.startswith(b"PK"):
                raise MienError(
                    f"{path}: is a truncated or damaged zip archive ({first_line(error)}); download or copy it again"
                ) from error
            if head.startswith(_GZIP):
                raise MienError(
                    f"{path}: is packed with gzip, {expected}; unpack it and give the unpacked file"
                ) from error
            raise MienError(f"{path}: is not a zip archive; {expected}; check the path or download it again") from error
        with archive:
            yield archive


def _name(info: zipfile.ZipInfo) -> str:
    """Returns the name of a member; macOS writes UTF-8 without the flag for it, which ``zipfile`` reads as cp437."""
    if info.flag_bits & _UTF_8:
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename


def _check_size(where: str, size: int, limit: int) -> None:
    if size > limit:
        raise MienError(
            f"{where}: holds {size:,} bytes unpacked, expected at most {limit:,}; "
            "this may be a decompression bomb: remove the file, or make it smaller if it is yours"
        )
