"""Locks on outputs: a second writer is refused, and only leftovers of dead writers are removed.

A lock is an flock, which the system releases however its process ends. On systems without flock (Windows, some network
file systems) nothing is refused and nothing is removed. On Windows there is no lock file either, and no file or folder
stays open while it is written: Windows neither renames nor removes what is open.
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
"""Lock file in the folder of a run during training."""

_LONGEST_NAME = 180
"""Bytes of a name that its temporary folder takes over; file systems allow 255 in all."""

_FILE = re.compile(r"\.mien-[a-z0-9_]{8}\.tmp(\.[A-Za-z0-9]{1,5})?")
_FOLDER_ENDING = r"\.[a-z0-9_]{8}\.tmp"
_UNLINKED = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""Flags with which a lock is opened: not through a link, and without waiting for the writer of a pipe."""

_ABSENT = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)

# Locks that this process holds, by path and thread: functions that a command calls may claim the same folder again.
_held: set[tuple[str, int]] = set()

# Folders in which this process has already removed leftovers of killed writers.
_cleared: set[str] = set()


@contextmanager
def claim(path: Path, *, inside: bool = False) -> Iterator[None]:
    """Locks a folder for writing during the block, and first removes what a killed writer left.

    Within a thread, blocks for the same folder may be nested.

    Args:
        path: the folder, which need not exist; a link is followed.
        inside: put the lock into the folder, as for a run, which is written file by file; else beside it, as for a
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
        _held.add(key)
        try:
            for place in (real, *real.parents):
                if any(_is_locked_by_another(file) for file in (place / RUN_LOCK, _beside(place))):
                    raise _busy(path)
            clear_folder(real)
            yield
        finally:
            _held.remove(key)


def holds_out(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator: claims the folder ``out`` of the first argument, a ``RunConfig``, while the function runs.

    Of several processes under ``torchrun``, only the first one claims it.
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
    """Checks, before any work, that a folder can be written to, or created if it does not exist.

    Raises:
        MienError: a file is in its way, or the nearest existing folder is not writable.
    """
    place = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(place))
    if not place.is_dir():
        raise MienError(f"{folder}: cannot be made, as {place} is in its way and is no folder; choose another place")
    if not os.access(place, os.W_OK | os.X_OK):
        raise MienError(f"{folder}: cannot be written, as you may not write to {place}; choose another place")


@contextmanager
def temporary_folder(path: Path) -> Iterator[tuple[Path, int | None]]:
    """Creates a folder beside ``path``, locked during the block and removed after it.

    Gives it and its descriptor, which is None on Windows.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{_short(path.name)}.", suffix=".tmp", dir=path.parent))
        if fcntl is None:
            descriptor = None
            break
        descriptor = os.open(folder, os.O_RDONLY)
        if _lock(descriptor) is not False and is_at(descriptor, folder):
            break
        os.close(descriptor)  # another command removed it before it was locked
    try:
        yield folder, descriptor
    finally:
        if is_at(descriptor, folder):
            shutil.rmtree(folder, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def temporary_file(folder: Path) -> Iterator[Path]:
    """Creates an empty file in a folder, locked during the block and removed after it.

    The name is random, so that nobody can put a link there beforehand, and short, so that the final name may have 255
    bytes.
    """
    while True:
        descriptor, name = tempfile.mkstemp(prefix=".mien-", suffix=".tmp", dir=folder)
        if fcntl is None:
            os.close(descriptor)
            break
        if _lock(descriptor) is not False and is_at(descriptor, Path(name)):
            break
        os.close(descriptor)
    try:
        yield Path(name)
    finally:
        if fcntl is not None:
            os.close(descriptor)
        # If a parent of the path is a file, unlink fails too, and would hide an error within the block.
        with suppress(OSError):
            Path(name).unlink(missing_ok=True)


def claim_file(descriptor: int, path: Path) -> None:
    """Locks an open file for writing until it is closed; does nothing if it is not a regular file (a terminal).

    Raises:
        MienError: another command writes it.
    """
    if stat.S_ISREG(os.fstat(descriptor).st_mode) and _lock(descriptor) is False:
        raise _busy(path)


def is_at(descriptor: int | None, path: Path) -> bool:
    """True if a path still names an open file or folder; without a descriptor (Windows), if anything is there."""
    if descriptor is None:
        return os.path.lexists(path)
    try:
        there, here = os.fstat(descriptor), os.lstat(path)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def clear_folder(path: Path) -> None:
    """Cleans up after a killed writer of a folder: restores the former folder if no new one took its place.

    The caller must have claimed ``path``.
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
    """Removes temporary files of killed writers from a folder; files that are being written stay.

    Args:
        folder: any folder; only names of Mien's temporary files are considered.
        of_a_run: the folder of a run; temporary files of earlier versions and of safetensors, which writes
            ``.tmpXXXXXX`` first, are removed too.
    """
    for leftover in _named(folder, _FILE.pattern + (r"|\..+\.[0-9]+\.tmp|\.tmp[A-Za-z0-9]{6}" if of_a_run else "")):
        with suppress(OSError), _dead(leftover) as dead:
            if dead:
                leftover.unlink()


def make_folder(folder: Path, *, clear: bool = False) -> None:
    """Creates the folder of a result, unless it is a temporary one or lies in one, which must not be made again.

    Args:
        folder: that of a result.
        clear: remove leftovers of killed writers the first time that this process writes there; each time would be
            slow.
    """
    if any(re.fullmatch(rf"\..+{_FOLDER_ENDING}", part) for part in folder.parts):
        return
    folder.mkdir(parents=True, exist_ok=True)
    real = os.path.realpath(folder)
    if clear and real not in _cleared:
        _cleared.add(real)
        clear_files(folder)


@contextmanager
def _folder(folder: Path, path: Path) -> Iterator[None]:
    """Creates the folder of a lock; folders that this created are removed after the block if they are empty."""
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
    """Creates and locks the lock file of a folder for the block, and removes it after that; nothing on Windows."""
    if fcntl is None:
        yield
        return
    while True:
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | _UNLINKED, 0o666)
        except OSError as error:
            raise _unlockable(path, error) from error
        if _lock(descriptor) is False:
            os.close(descriptor)
            raise _busy(path)
        if is_at(descriptor, lock):
            break
        os.close(descriptor)  # its former owner has just removed it
    try:
        yield
    finally:
        if is_at(descriptor, lock):
            with suppress(OSError):
                lock.unlink()
        os.close(descriptor)


def _lock(descriptor: int) -> bool | None:
    """Locks an open file; returns True, False if another process or thread holds it, None if locks do not work."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise
    return True


@contextmanager
def _dead(path: Path) -> Iterator[bool]:
    """Gives True if nobody writes a temporary file or folder any more; it is then locked during the block."""
    try:
        descriptor = os.open(path, os.O_RDONLY | _UNLINKED)
    except OSError:
        yield False
        return
    try:
        yield _lock(descriptor) is True and is_at(descriptor, path)
    finally:
        os.close(descriptor)


def _is_locked_by_another(lock: Path) -> bool:
    if (str(lock), threading.get_ident()) in _held:
        return False
    try:
        descriptor = os.open(lock, os.O_RDONLY | _UNLINKED)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode) and _lock(descriptor) is False
    finally:
        os.close(descriptor)


def _beside(path: Path) -> Path:
    return path.parent / f".{_short(path.name)}.lock"


def _short(name: str) -> str:
    """Shortens a name, so that a prefix and an ending fit."""
    return os.fsdecode(os.fsencode(name)[:_LONGEST_NAME])


def _named(folder: Path, pattern: str) -> list[Path]:
    """Lists the entries of a folder whose names match a pattern, sorted; none if the folder cannot be read."""
    try:
        return sorted(entry for entry in folder.iterdir() if re.fullmatch(pattern, entry.name, re.DOTALL))
    except OSError:
        return []


def _busy(path: Path) -> MienError:
    return MienError(f"{path}: is being written by another command; wait until that has ended, or choose another place")


def _unlockable(path: Path, error: OSError) -> MienError:
    return MienError(f"{path}: cannot be written ({error.strerror or error}); choose another place")
