"""The files of a zip archive, read in place, or of a folder, through one small interface."""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Protocol

from mien.errors import MienError

LARGEST_FILE = 32 * 2**20
"""Bytes that one picture may hold, unpacked; a face crop holds a few thousand."""

LARGEST_TABLE = 2 * 2**30
"""Bytes that a CSV file in an archive may hold, unpacked; fer2013.csv holds 0.3e9."""

LARGEST_PHOTO = 2**30
"""Bytes that a photo may hold, unpacked, where faces are cut out of photos."""

DEEPEST, LONGEST_PATH = 32, 4096
"""Folders around a member of an archive, and bytes of its path, beyond which the archive is refused."""

_JUNK_NAMES = frozenset({"__macosx", "@eadir", "thumbs.db", "desktop.ini"})
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError)
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_ENCRYPTED = 1
_GZIP = b"\x1f\x8b"


class Entries(Protocol):
    """The files of a source, by their relative paths with forward slashes.

    Attributes:
        source: what the user named, for messages.
    """

    source: str

    def files(self) -> list[str]:
        """Every file in alphabetical order, without what operating systems leave behind (see ``is_junk``)."""

    def folders(self) -> list[str]:
        """Every folder that is told, empty ones too, in alphabetical order."""

    def read(self, path: str, limit: int | None = None) -> bytes:
        """The bytes of a picture.

        Raises:
            MienError: the file cannot be read or is larger than ``limit`` bytes (by default ``LARGEST_FILE``).
        """

    def open(self, path: str) -> AbstractContextManager[IO[bytes]]:
        """A table as a stream.

        Raises:
            MienError: the file cannot be read (also while it is read) or is larger than ``LARGEST_TABLE``.
        """

    def size(self, path: str) -> int:
        """Bytes of a file, unpacked, as the source declares them."""

    def where(self, path: str) -> str:
        """How a message names a file."""


@contextmanager
def open_entries(path: Path) -> Iterator[Entries]:
    """The files of a folder or of a zip archive.

    Raises:
        MienError: the path is neither, or the archive is damaged or has entries that climb out of it.
    """
    if path.is_dir():
        yield FolderEntries(path)
        return
    with _open_zip(path) as archive:
        yield ZipEntries(archive, str(path))


def is_junk(path: str) -> bool:
    """Whether a file is one that operating systems leave behind: ``__MACOSX/``, ``@eaDir/``, dotfiles, Thumbs.db."""
    return any(part.startswith(".") or part.lower() in _JUNK_NAMES for part in path.split("/"))


class ZipEntries:
    """The members of a zip archive; nothing is unpacked to disk.

    Raises:
        MienError: a member's name is absolute or climbs out of the archive, or two members have the same name.
    """

    def __init__(self, archive: zipfile.ZipFile, source: str) -> None:
        self.source = source
        self._archive = archive
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._folders: set[str] = set()
        for info in archive.infolist():
            # Some Windows tools write backslashes.
            path = info.filename.replace("\\", "/")
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
            if path.endswith("/"):
                self._folders.add(path.rstrip("/"))
            elif path in self._members:
                raise MienError(f"{source}: holds {path} twice; expected each name once; make the archive again")
            else:
                self._members[path] = info

    def files(self) -> list[str]:
        return sorted(path for path in self._members if not is_junk(path))

    def folders(self) -> list[str]:
        implied = {parent for path in self._members for parent in _parents(path)}
        return sorted(path for path in self._folders | implied if not is_junk(path))

    def read(self, path: str, limit: int | None = None) -> bytes:
        with self._open(path, limit or LARGEST_FILE) as stream:
            # Without a number zipfile would unpack all there is before it cuts at the declared size.
            return stream.read(self.size(path) + 1)

    def open(self, path: str) -> AbstractContextManager[IO[bytes]]:
        return self._open(path, LARGEST_TABLE)

    def size(self, path: str) -> int:
        return self._members[path].file_size

    def where(self, path: str) -> str:
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
                f"{where}: cannot be read from the archive ({error}); download or make the archive again"
            ) from error


class FolderEntries:
    """The files below a folder, links to folders included."""

    def __init__(self, root: Path) -> None:
        self.source = str(root)
        self._root = root
        self._files: list[str] = []
        self._folders: list[str] = []
        for folder, _, names in walk(root):
            relative = folder.relative_to(root).as_posix()
            if relative == ".":
                self._files += names
            else:
                self._folders.append(relative)
                self._files += [f"{relative}/{name}" for name in names]

    def files(self) -> list[str]:
        return sorted(path for path in self._files if not is_junk(path))

    def folders(self) -> list[str]:
        return sorted(path for path in self._folders if not is_junk(path))

    def read(self, path: str, limit: int | None = None) -> bytes:
        with self._open(path, limit or LARGEST_FILE) as stream:
            return stream.read(limit or LARGEST_FILE)

    def open(self, path: str) -> AbstractContextManager[IO[bytes]]:
        return open_file(self._root / path)

    def size(self, path: str) -> int:
        return (self._root / path).stat().st_size

    def where(self, path: str) -> str:
        return str(self._root / path)

    @contextmanager
    def _open(self, path: str, limit: int) -> Iterator[IO[bytes]]:
        with open_file(self._root / path) as stream:
            _check_size(self.where(path), self.size(path), limit)
            yield stream


@contextmanager
def open_file(path: Path) -> Iterator[IO[bytes]]:
    """A file on disk as a stream of bytes.

    Raises:
        MienError: it cannot be read, or is no regular file.
    """
    if path.exists() and not path.is_file():
        raise MienError(f"{path}: is no regular file, expected one; give another path")
    try:
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        raise MienError(f"{path}: cannot be read ({error.strerror or error}); check the file and its rights") from error


def walk(
    root: Path, unlisted: Callable[[str, MienError], None] | None = None
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """As ``os.walk``, in alphabetical order, into linked folders too, but into none twice.

    Args:
        root: where to begin.
        unlisted: is told of each folder that cannot be listed, by its name and why; without it, the first one ends all.

    Raises:
        MienError: a folder cannot be listed.
    """

    def fail(error: OSError) -> None:
        told = MienError(f"{error.filename}: cannot be listed ({error.strerror}); check the rights of the folder")
        if unlisted is None:
            raise told from error
        unlisted(str(error.filename), told)

    seen: set[str] = set()
    for folder, children, names in os.walk(root, followlinks=True, onerror=fail):
        real = os.path.realpath(folder)
        if real in seen:
            children.clear()
            continue
        seen.add(real)
        children.sort()
        yield Path(folder), children, sorted(names)


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
                    f"{path}: is a truncated or damaged zip archive ({error}); download or copy it again"
                ) from error
            if head.startswith(_GZIP):
                raise MienError(
                    f"{path}: is packed with gzip, {expected}; unpack it and give what comes out"
                ) from error
            raise MienError(f"{path}: is not a zip archive; {expected}; check the path or download it again") from error
        with archive:
            yield archive


def _check_size(where: str, size: int, limit: int) -> None:
    if size > limit:
        raise MienError(
            f"{where}: holds {size:,} bytes unpacked, expected at most {limit:,}; "
            "this may be a decompression bomb: remove the file, or make it smaller if it is yours"
        )


def _parents(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path
