"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mien.errors import MienError

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place when the block ends, and vanishes when it fails.

    Raises:
        MienError: the disk is full or the folder cannot be written to; ``path`` is as it was before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except Exception as error:
        if _is_of_writing(error):
            raise _unwritable(path, error) from error
        raise
    finally:
        # Where a parent of the path is a file, unlink too fails, and would hide the error above.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its place when the block ends, and vanishes when it fails.

    Raises:
        MienError: the disk is full or the folder cannot be written to; ``path`` is as it was before.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.exists():
            _exchange(path, temporary)
        else:
            os.replace(temporary, path)
    except Exception as error:
        if _is_of_writing(error):
            raise _unwritable(path, error) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def recover_folder(path: Path) -> None:
    """Clears up after an ``atomic_folder`` that was killed: the former folder comes back where no new one had come."""
    for leftover in _named(path.parent, rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}\.tmp(\.old)?"):
        if leftover.suffix == ".old" and not path.exists():
            os.replace(leftover, path)
        else:
            shutil.rmtree(leftover, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files that an ``atomic_file`` in a folder left when it was killed."""
    for leftover in _named(folder, r"\..+\.[0-9]+\.tmp"):
        with suppress(OSError):
            leftover.unlink()


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


def refuse_others(folder: Path, known: Iterable[str], wrote: str) -> None:
    """Makes sure, before any work, that a folder can be written, and that only files of a known kind are lost by it.

    Args:
        folder: that is to be replaced as a whole.
        known: names of the files that may be lost.
        wrote: what writes such files, for the message.

    Raises:
        MienError: it holds something else, or cannot be written.
    """
    recover_folder(folder)
    ensure_writable(folder)
    others = sorted({entry.name for entry in folder.iterdir()} - set(known)) if folder.is_dir() else []
    if others:
        raise MienError(
            f"{folder}: holds {others[0]}, which no {wrote} wrote; choose another --out, or empty the folder"
        )


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON atomically; NaN and infinity are refused, as JSON has no such numbers."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        MienError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MienError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise MienError(f"{path}: is not readable JSON ({error})") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """Reads a JSON file of a folder that Mien wrote; it holds an object.

    Raises:
        MienError: the file is missing, is not JSON, or holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise MienError(f"{path}: expected a JSON object, got {type(value).__name__}; copy the whole folder again")
    return value


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _named(folder: Path, pattern: str) -> list[Path]:
    """What in a folder is named after a pattern, sorted; nothing where no folder can be read."""
    try:
        return sorted(entry for entry in folder.iterdir() if re.fullmatch(pattern, entry.name))
    except OSError:
        return []


def _exchange(path: Path, new: Path) -> None:
    """Puts a folder in the place of another; where that fails, the other stays."""
    old = new.with_name(f"{new.name}.old")
    os.replace(path, old)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _is_of_writing(error: Exception) -> bool:
    """Whether an error means that something could not be written; safetensors is too slow to load to ask it here."""
    return isinstance(error, OSError) or type(error).__name__ == "SafetensorError"


def _unwritable(path: Path, error: Exception) -> MienError:
    number, reason = getattr(error, "errno", None), getattr(error, "strerror", None)
    told = re.search(r"\(os error ([0-9]+)\)", str(error))
    if number is None and told:
        number = int(told[1])
        reason = os.strerror(number)
    remedy = "free some space or choose another place" if number in _FULL else "choose another place"
    return MienError(f"{path}: cannot be written ({reason or error}); {remedy}")
