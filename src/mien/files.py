"""Writes files and folders atomically, so that a reader never sees half of one, and reads JSON."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import Any

from mien.errors import MienError, first_line
from mien.locks import claim, clear_files, ensure_writable, is_at, make_folder, temporary_file, temporary_folder
from mien.text import encodable, safe_stem

LONGEST_NAME = 255
"""Bytes of the longest file name that file systems allow."""

LARGEST_JSON = 64 * 2**20
"""Bytes of the largest JSON file that is read; the largest that Mien writes has some hundred thousand."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


class SparedError(MienError):
    """Something came to be at the path of a result, and is left as it is.

    Attributes:
        place: where the result is instead.
    """

    place: Path


@contextmanager
def atomic_file(
    path: Path, *, private: bool = False, spare_newcomer: bool = False, spare_all: bool = False
) -> Iterator[Path]:
    """Gives a temporary file that replaces ``path`` when the block ends, and is removed if the block fails.

    Args:
        path: the file.
        private: only this user may read the file; else it has the mode of any new file (umask).
        spare_newcomer: do not replace a file that appeared at ``path`` during the block; the new file then gets a name
            with a number beside it.
        spare_all: nor one that was there before, for a path that was free when it was chosen.

    Raises:
        MienError: the disk is full or the folder cannot be written to; ``path`` is unchanged. Or ``path`` is a folder
            or a link to one, which is said before the block.
        SparedError (a MienError): a newcomer was spared; the message says where the new file is.
    """
    with _errors_of_writing(path):
        make_folder(path.parent, clear=True)
        before = None if spare_all else identity(path)
        if before is not None:
            refuse_folder(path)
        with temporary_file(path.parent) as temporary:
            yield temporary
            if not stat.S_ISREG(os.lstat(temporary).st_mode):
                raise MienError(f"{path}: its temporary file was replaced by something else; choose another place")
            temporary.chmod(0o600 if private else 0o666 & ~umask())
            if spare_all or (spare_newcomer and before is None):
                _move_or_spare(temporary, path)
            elif spare_newcomer and identity(path) != before:
                spare(temporary, path)
            else:
                os.replace(temporary, path)


@contextmanager
def atomic_folder(path: Path, *, check: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """Gives a temporary folder that replaces ``path`` when the block ends, and is removed if the block fails.

    No other command can write ``path`` meanwhile (``mien.locks.claim``). A folder that appears there by other means
    during the block is not replaced; the new folder then gets a name with a number beside it.

    Args:
        path: the folder; a link is followed.
        check: function that gets the path of the former folder and raises MienError if it holds files that must not be
            lost. It is called after that folder was moved aside, so that no file can be added any more.

    Raises:
        MienError: the disk is full, the folder cannot be written to, or another command writes it; ``path`` is
            unchanged.
        SparedError (a MienError): a newcomer was spared; the message says where the new folder is.
    """
    path = Path(os.path.realpath(path))
    with _errors_of_writing(path):
        make_folder(path.parent)
        with claim(path):
            before = identity(path)
            if before is not None and not path.is_dir():
                raise MienError(f"{path}: is a file, expected a folder or nothing; choose another place")
            with temporary_folder(path) as (temporary, descriptor):
                yield temporary
                if not is_at(descriptor, temporary):
                    raise MienError(
                        f"{path}: its temporary folder {temporary.name} was removed or replaced while it was written; "
                        "nothing was written; run the command again"
                    )
                open_to_readers(temporary)
                if before is None:
                    _move_or_spare(temporary, path)
                else:
                    exchange(path, temporary, before, check)


def recover_folder(path: Path) -> None:
    """Cleans up after a killed ``atomic_folder``: restores the former folder if no new one took its place.

    Raises:
        MienError: another command writes the folder.
    """
    if path.parent.is_dir():
        with claim(path):
            pass  # claim() cleans up


def remove_leftovers(folder: Path) -> None:
    """Removes temporary files that a killed ``atomic_file`` left in the folder of a run."""
    clear_files(folder, of_a_run=True)


def refuse_inputs(out: Path, inputs: Iterable[Path | None], *, may_hold: bool = False) -> None:
    """Checks, before any work, that an output is not an input, contains none and lies in none.

    Args:
        out: the file or folder to write.
        inputs: files and folders to read; None and missing ones are ignored.
        may_hold: allow a folder ``out`` around an input, if only files with distinct names are written into it.

    Raises:
        MienError: ``out`` is, contains or lies in an input.
    """
    real = Path(os.path.realpath(out))
    for source in inputs:
        if source is None or not os.path.exists(source):  # no OSError of a name that is too long
            continue
        place = Path(os.path.realpath(source))
        if real == place or (out.exists() and out.samefile(source)):
            how = "is what it is made from"
        elif real.is_relative_to(place):
            how = f"lies in {source}, which it is made from"
        elif place.is_relative_to(real) and not may_hold:
            how = f"holds {source}, which it is made from"
        else:
            continue
        raise MienError(f"--out {out}: {how}; choose another place, so that nothing is lost")


def refuse_others(folder: Path, names: Iterable[str], writer: str) -> None:
    """Checks, before any work, that a folder can be replaced, and that no foreign file is lost by that.

    Args:
        folder: the folder to replace.
        names: names of the files that may be lost.
        writer: the command that writes such files, for the message.

    Raises:
        MienError: the folder holds another file, or cannot be written.
    """
    ensure_writable(folder)
    recover_folder(folder)
    refuse_unknown(folder, names, writer)


def refuse_unknown(folder: Path, names: Iterable[str], writer: str) -> None:
    """Checks that a folder, if it exists, holds only files with the given names; arguments as in ``refuse_others``."""
    foreign_names = sorted({entry.name for entry in folder.iterdir()} - set(names)) if folder.is_dir() else []
    if foreign_names:
        raise MienError(
            f"{folder}: holds {foreign_names[0]}, which no {writer} wrote; choose another --out, or empty the folder"
        )


def refuse_folder(path: Path) -> None:
    """Checks, before any work, that the path of a file to write is no folder and no link to one.

    Raises:
        MienError: it is.
    """
    if os.path.isdir(path):
        raise MienError(f"{path}: is a folder, expected the name of a file; choose another place")


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically, with the same bytes on every system; what is not UTF-8 in file names is escaped."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(encodable(text).encode())  # as text, Windows would end lines with a carriage return too


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON atomically.

    Raises:
        ValueError: a number is NaN or infinity, which JSON does not have.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    # Of names that are not UTF-8, the escapes of Python are those of JSON, which preserve them.
    write_text(path, text.encode(errors="backslashreplace").decode() + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        MienError: the file is missing or is not JSON.
    """
    try:
        size = path.stat().st_size
        if not path.is_file() or size > LARGEST_JSON:
            raise MienError(f"{path}: expected a JSON file of at most {LARGEST_JSON >> 20} MiB; copy the folder again")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MienError(f"{path}: no such file") from error
    except RecursionError as error:
        raise MienError(f"{path}: is not readable JSON (nested too deeply)") from error
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, not JSON, or a number of thousands of digits
        raise MienError(f"{path}: is not readable JSON ({first_line(error)})") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """Reads a JSON file that must hold an object.

    Raises:
        MienError: the file is missing, is not JSON, or holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise MienError(f"{path}: expected a JSON object, got {type(value).__name__}; copy the whole folder again")
    return value


def free_path(path: Path) -> Path:
    """Returns the path if nothing is there, or else with the first number that is free: ``runs/tiny-2``."""
    return next(place for place in chain((path,), _numbered_places(path)) if not os.path.lexists(place))


def expanded(path: str | os.PathLike[str]) -> Path:
    """Resolves ``~`` and ``~user`` in a path.

    Raises:
        MienError: the user does not exist or has no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise MienError(f"{path}: its home folder is not known ({error}); give the whole path") from error


def at_home(text: str) -> str:
    """Resolves ``~`` at the beginning of a typed path, where no shell did; any other text stays as it was typed.

    Raises:
        MienError: as ``expanded``.
    """
    return str(expanded(text)) if text.startswith("~") else text


def sha256_of(path: Path) -> str:
    """Returns the hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _errors_of_writing(path: Path) -> Iterator[None]:
    """Raises a MienError that names ``path`` in place of an error of writing within the block."""
    try:
        yield
    except Exception as error:
        # By name, as safetensors would be slow to import.
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise unwritable(path, error) from error
        raise


def unwritable(path: Path, error: Exception) -> MienError:
    """Describes a failure to write; safetensors mentions the system's error number only in its text."""
    number, reason = getattr(error, "errno", None), getattr(error, "strerror", None)
    in_text = re.search(r"\(os error ([0-9]+)\)", str(error))
    if number is None and in_text:
        number = int(in_text[1])
        reason = os.strerror(number)
    remedy = "free some space or choose another place" if number in _FULL else "choose another place"
    return MienError(f"{path}: cannot be written ({reason or error}); {remedy}")


Identity = tuple[int, ...] | None
"""Device and inode of a folder, and also size and time of a file; None if there is nothing."""


def identity(path: Path) -> Identity:
    """Identifies the folder, or the file and its content, at a path; None if there is nothing."""
    try:
        state = os.lstat(path)
    except OSError:
        return None
    if stat.S_ISDIR(state.st_mode):
        return state.st_dev, state.st_ino
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


def exchange(path: Path, new: Path, before: Identity, check: Callable[[Path], None] | None) -> None:
    """Replaces a folder by a new one; if that fails, the former folder stays."""
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


def _move_or_spare(new: Path, path: Path) -> None:
    """Moves a new file or folder to a path that was free, or beside a newcomer there."""
    if not _moved(new, path):
        spare(new, path)


def spare(new: Path, path: Path) -> None:
    """Moves a new file or folder beside a newcomer at its path.

    Raises:
        SparedError: always; the message says where the result is.
    """
    place = next(place for place in _numbered_places(path) if _moved(new, place))
    error = SparedError(f"{path}: came to be while this command ran, and is left as it is; the result is in {place}")
    error.place = place
    raise error


def _numbered_places(path: Path) -> Iterator[Path]:
    """Yields the path with 2, 3 and so on in its name, without end."""
    return (path.with_name(numbered(path.stem, number, path.suffix)) for number in count(2))


def _moved(new: Path, place: Path) -> bool:
    """Gives a file or a folder another name; returns False if the name is taken, perhaps since a moment ago."""
    if os.path.lexists(place):
        return False
    try:
        if stat.S_ISDIR(os.lstat(new).st_mode):
            os.rename(new, place)  # fails if a file or a full folder has just appeared there
        else:
            os.link(new, place, follow_symlinks=False)  # unlike a renaming, it never replaces a file
    except OSError:
        if os.path.lexists(place):
            return False
        os.rename(new, place)  # a file system without hard links
    return True


def numbered(stem: str, number: int, suffix: str) -> str:
    """Returns a file name with a number before its ending; a stem that is too long is shortened."""
    name = f"{stem}-{number}{suffix}"
    return name if len(os.fsencode(name)) <= LONGEST_NAME else f"{safe_stem(stem)}-{number}{suffix}"


def open_to_readers(folder: Path) -> None:
    """Gives a folder and its contents the modes of new files; mkdtemp and safetensors make them private."""
    mask = umask()
    for place, folders, files in os.walk(folder):
        for name in folders:
            os.chmod(os.path.join(place, name), 0o777 & ~mask)
        for name in files:
            os.chmod(os.path.join(place, name), 0o666 & ~mask)
    folder.chmod(0o777 & ~mask)


def umask() -> int:
    """Returns the umask of this process."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            return int(next(line.split()[1] for line in file if line.startswith("Umask:")), 8)
    except (OSError, StopIteration):
        mask = os.umask(0o077)  # without /proc it can only be read by setting it
        os.umask(mask)
        return mask
