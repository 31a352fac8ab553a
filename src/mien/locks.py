"""Locks on what a command writes: a second writer is refused, and only what nobody writes any more is cleared up.

A lock is an flock, which the system releases when its process ends in whatever way. Where there is none (Windows, some
network file systems), nothing is refused and nothing is cleared up.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from mien.errors import MienError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

P = ParamSpec("P")
T = TypeVar("T")

RUN_LOCK = ".mien.lock"
"""In the folder of a run, for as long as it is trained."""

_LONGEST_NAME = 180
"""Bytes of a name that go into that of its temporary folder; file systems allow 255 in all."""

_FILE = re.compile(r"\.mien-[a-z0-9_]{8}\.tmp(\.[A-Za-z0-9]{1,5})?")
_FOLDER_ENDING = r"\.[a-z0-9_]{8}\.tmp"
_ABSENT = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)

# The locks that each thread of this process holds, by path: what a command calls may ask for its lock again.
_held: dict[tuple[str, int], int] = {}


@contextmanager
def claim(path: Path, *, inside: bool = False) -> Iterator[None]:
    """Holds the right to write a folder for a block, and first clears up what a killed writer left.

    Within a thread, blocks for the same folder may be nested.

    Args:
        path: the folder, which need not exist; a link stands for what it points to.
        inside: the lock lies in the folder, as for a run, which is written file by file; else beside it, as for a
            folder that is replaced as a whole.

    Raises:
        MienError: another process or thread writes it, or a folder around it; or no lock can be made there.
    """
    real = Path(os.path.realpath(path))
    if not real.name:
        raise MienError(f"{path}: is the root of a file system, expected a folder below it; choose another place")
    lock = real / RUN_LOCK if inside else _beside(real)
    key = (str(lock), threading.get_ident())
    if key in _held:
        yield
        return
    ensure_writable(lock.parent)
    with _folder(lock.parent, path), _locked_file(lock, path):
        _held[key] = 1
        try:
            for place in (real, *real.parents):
                if any(_is_locked_by_another(other) for other in (place / RUN_LOCK, _beside(place))):
                    raise _busy(path)
            clear_folder(real)
            yield
        finally:
            del _held[key]


def holds_out(function: Callable[P, T]) -> Callable[P, T]:
    """Makes a function hold the folder ``out`` of its first argument, a ``RunConfig``, for as long as it works.

    Of several processes under ``torchrun``, the first one holds it.
    """

    @wraps(function)
    def holding(*args: P.args, **options: P.kwargs) -> T:
        config = args[0] if args else options["config"]
        if os.environ.get("RANK", "0") != "0":
            return function(*args, **options)
        with claim(Path(config.out), inside=True):  # type: ignore[attr-defined]
            return function(*args, **options)

    return holding


def ensure_writable(folder: Path) -> None:
    """Checks, before any work, that a folder can be written to, or made where it does not exist.

    Raises:
        MienError: a file is in its way, or the nearest folder that exists may not be written to.
    """
    place = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(place))
    if not place.is_dir():
        raise MienError(f"{folder}: cannot be made, as {place} is in its way and is no folder; choose another place")
    if not os.access(place, os.W_OK | os.X_OK):
        raise MienError(f"{folder}: cannot be written, as you may not write to {place}; choose another place")


@contextmanager
def temporary_folder(path: Path) -> Iterator[tuple[Path, int]]:
    """A new folder beside ``path``, locked for the block, and a descriptor of it; it is removed when the block ends."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{_short(path.name)}.", suffix=".tmp", dir=path.parent))
        number = os.open(folder, os.O_RDONLY)
        if _lock(number) is not False and is_at(number, folder):
            break
        os.close(number)  # a command that clears up has taken it for a dead one
    try:
        yield folder, number
    finally:
        if is_at(number, folder):
            shutil.rmtree(folder, ignore_errors=True)
        os.close(number)


@contextmanager
def temporary_file(folder: Path) -> Iterator[tuple[Path, int]]:
    """A new empty file in a folder, locked for the block, and a descriptor of it; it is removed when the block ends.

    Its name is random and short, so that nobody can put a link there beforehand, and a name of 255 bytes can be
    written.
    """
    while True:
        number, name = tempfile.mkstemp(prefix=".mien-", suffix=".tmp", dir=folder)
        if _lock(number) is not False and is_at(number, Path(name)):
            break
        os.close(number)
    try:
        yield Path(name), number
    finally:
        os.close(number)
        # Where a parent of the path is a file, unlink too fails, and would hide an error within the block.
        with suppress(OSError):
            Path(name).unlink(missing_ok=True)


def claim_file(number: int, path: Path) -> None:
    """Holds the right to write an open file, until it is closed; what is no regular file (a terminal) needs none.

    Raises:
        MienError: another command writes it.
    """
    if stat.S_ISREG(os.fstat(number).st_mode) and _lock(number) is False:
        raise _busy(path)


def is_at(number: int, path: Path) -> bool:
    """Whether an open file or folder is still what stands at a path."""
    try:
        there, here = os.fstat(number), os.lstat(path)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def clear_folder(path: Path) -> None:
    """Clears up after a writer of a folder that was killed: the former folder comes back if no new one had come.

    To be called with ``path`` claimed.
    """
    for leftover in _named(path.parent, rf"\.{re.escape(_short(path.name))}{_FOLDER_ENDING}(\.old)?"):
        if leftover.suffix == ".old" and not os.path.lexists(path):
            with suppress(OSError):
                os.rename(leftover, path)
        else:
            with _dead(leftover) as dead:
                if dead:
                    shutil.rmtree(leftover, ignore_errors=True)


def clear_files(folder: Path, *, of_a_run: bool = False) -> None:
    """Removes the temporary files in a folder that a killed writer left; those that are being written stay.

    Args:
        folder: any folder: only names that nobody else gives are looked at.
        of_a_run: the folder is that of a run, where the names of earlier versions and of safetensors, which writes
            ``.tmpXXXXXX`` first, are cleared too.
    """
    for leftover in _named(folder, _FILE.pattern + (r"|\..+\.[0-9]+\.tmp|\.tmp[A-Za-z0-9]{6}" if of_a_run else "")):
        with suppress(OSError), _dead(leftover) as dead:
            if dead:
                leftover.unlink()


def is_temporary(folder: Path) -> bool:
    """Whether a folder is, or lies in, a temporary one: such a folder is never made anew by its path."""
    return any(re.fullmatch(rf"\..+{_FOLDER_ENDING}", part) for part in folder.parts)


@contextmanager
def _folder(folder: Path, path: Path) -> Iterator[None]:
    """Makes a folder for a lock; what was made and is still empty when the block ends is removed."""
    missing = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unlockable(path, error) from error
    try:
        yield
    finally:
        for place in missing:
            with suppress(OSError):
                place.rmdir()


@contextmanager
def _locked_file(lock: Path, path: Path) -> Iterator[None]:
    """The lock file of a folder, held for a block and removed with its end."""
    while True:
        try:
            number = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        except OSError as error:
            raise _unlockable(path, error) from error
        if _lock(number) is False:
            os.close(number)
            raise _busy(path)
        if is_at(number, lock):
            break
        os.close(number)  # its former holder has just removed it
    try:
        yield
    finally:
        if is_at(number, lock):
            with suppress(OSError):
                lock.unlink()
        os.close(number)


def _lock(number: int) -> bool | None:
    """Locks an open file: True, False if another process or thread holds it, None if locks do not work there."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise
    return True


@contextmanager
def _dead(path: Path) -> Iterator[bool]:
    """Whether nobody writes a temporary file or folder any more: then it is locked for the block."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        yield False
        return
    try:
        yield _lock(number) is True and is_at(number, path)
    finally:
        os.close(number)


def _is_locked_by_another(lock: Path) -> bool:
    if (str(lock), threading.get_ident()) in _held:
        return False
    try:
        number = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(number).st_mode) and _lock(number) is False
    finally:
        os.close(number)


def _beside(path: Path) -> Path:
    return path.parent / f".{_short(path.name)}.lock"


def _short(name: str) -> str:
    """A name that leaves room for what is put before and behind it."""
    return os.fsdecode(os.fsencode(name)[:_LONGEST_NAME])


def _named(folder: Path, pattern: str) -> list[Path]:
    """What in a folder is named after a pattern, sorted; nothing if no folder can be read."""
    try:
        return sorted(entry for entry in folder.iterdir() if re.fullmatch(pattern, entry.name, re.DOTALL))
    except OSError:
        return []


def _busy(path: Path) -> MienError:
    return MienError(f"{path}: is being written by another command; wait until that has ended, or choose another place")


def _unlockable(path: Path, error: OSError) -> MienError:
    return MienError(f"{path}: cannot be written ({error.strerror or error}); choose another place")
