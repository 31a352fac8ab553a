"""Giving what was written its name: modes, and what came to be there meanwhile."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from mien.errors import MienError

Identity = tuple[int, ...] | None
"""Which file, with which content, or which folder; None for nothing."""


def identity(path: Path) -> Identity:
    """Which file, with which content, or which folder stands at a path; None if there is nothing."""
    try:
        state = os.lstat(path)
    except OSError:
        return None
    if stat.S_ISDIR(state.st_mode):
        return state.st_dev, state.st_ino
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


def exchange(path: Path, new: Path, before: Identity, check: Callable[[Path], None] | None) -> None:
    """Puts a folder in the place of another; where that fails, the other stays."""
    if identity(path) != before:
        spare(new, path)
    old = new.with_name(f"{new.name}.old")
    os.rename(path, old)
    try:
        if check is not None:
            check(old)
        os.rename(new, path)
    except (OSError, MienError) as error:
        os.rename(old, path)
        if isinstance(error, MienError):
            raise MienError(str(error).replace(str(old), str(path))) from error
        raise
    shutil.rmtree(old, ignore_errors=True)


def rename_or_spare(new: Path, path: Path) -> None:
    """Renames a folder to a path where none was; rename(2) refuses to put it over a file or a folder with content."""
    try:
        os.rename(new, path)
    except OSError as error:
        if not os.path.lexists(path):
            raise
        spare(new, path, error)


def link_or_spare(new: Path, path: Path) -> None:
    """Gives a file its name where there was none; link(2) refuses to replace what has come to be there."""
    try:
        os.link(new, path, follow_symlinks=False)
    except FileExistsError as error:
        spare(new, path, error)
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            spare(new, path)
        os.rename(new, path)


def spare(new: Path, path: Path, cause: Exception | None = None) -> None:
    """Puts what was written beside a newcomer.

    Raises:
        MienError: in any case, to tell where it is.
    """
    number = 2
    while os.path.lexists(place := path.with_name(f"{path.stem}-{number}{path.suffix}")):
        number += 1
    os.rename(new, place)
    raise MienError(
        f"{path}: came to be while this command ran, and is left as it is; the result is in {place}"
    ) from cause


def open_to_readers(folder: Path) -> None:
    """Gives a folder and all in it the modes of new files: mkdtemp and safetensors make them for their owner alone."""
    mask = umask()
    for place, folders, files in os.walk(folder):
        for name in folders:
            os.chmod(os.path.join(place, name), 0o777 & ~mask)
        for name in files:
            os.chmod(os.path.join(place, name), 0o666 & ~mask)
    folder.chmod(0o777 & ~mask)


def umask() -> int:
    """The permissions that new files of this process are not given."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            return int(next(line.split()[1] for line in file if line.startswith("Umask:")), 8)
    except (OSError, StopIteration):
        mask = os.umask(0o077)  # elsewhere it can only be read by setting it
        os.umask(mask)
        return mask
