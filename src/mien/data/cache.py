"""Stores decoded sets and slow results on disk, so that the second start is immediate.

Each source and way of reading has an uncompressed .npz file under ``$MIEN_CACHE`` or ``~/.cache/mien``. The cache never
makes a command fail: a broken file or a full disk gives a warning on stderr, and the source is read again. A cached set
decides what is trained on and scored; therefore a file is used only if it belongs to this user, lies in a folder to
which nobody else may write, and has the content of its stored fingerprint.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from mien.data.faces import SPLITS, FaceSet, fingerprint_of
from mien.data.sources import walk
from mien.errors import MienError, first_line
from mien.files import atomic_file, expanded
from mien.log import warn
from mien.text import encodable

FORMAT = 3
"""Version of the files; raise it when the readers or the content of the files change: older files are then ignored."""

_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_DIGEST = hashlib.sha256().digest_size
_ARRAYS = ("images", "labels", "splits", "ids")


def stamp(path: Path) -> str:
    """Returns a digest that changes if a source changes: of size and times of the file, or of all files in the folder.

    The time of the last change of a file's state is among them: pictures of equal size from an archive often have equal
    times of modification, and two that change places give each other's labels.

    Raises:
        MienError: a folder cannot be listed.
    """
    digest = hashlib.sha256()
    if path.is_dir():
        for folder, children, names in walk(path):
            digest.update(f"{folder.relative_to(path)}\n".encode(errors="surrogateescape"))
            # The walk enters each folder once, but a link may show it in another split.
            for link in filter(Path.is_symlink, (folder / name for name in children)):
                digest.update(f"{link.relative_to(path)} -> {link.resolve()}\n".encode(errors="surrogateescape"))
            for name in names:
                digest.update(_state(folder / name).encode(errors="surrogateescape"))
    else:
        digest.update(_state(path).encode(errors="surrogateescape"))
    return digest.hexdigest()


def cached(path: Path, source: str, read: Callable[[], FaceSet], way: str = "") -> FaceSet:
    """Returns the set of a source: from the cache if the source is unchanged, else read and stored.

    Args:
        path: path of the source.
        source: path of the source as the user wrote it.
        read: reads the source.
        way: the options of reading, if a source can be read in several ways; each way has its own file.

    Raises:
        MienError: ``read`` raises it, or a folder cannot be listed.
    """
    absolute = path.resolve()
    mark = stamp(absolute)
    faces = load(absolute, mark, source, way)
    if faces is None:
        faces = read()
        store(absolute, mark, faces, way)
    return faces


def cache_folder() -> Path:
    """Returns the folder of the cache: ``$MIEN_CACHE``, else ``~/.cache/mien``."""
    root = os.environ.get("MIEN_CACHE")
    return expanded(root) if root else Path.home() / ".cache" / "mien"


def cache_file(path: Path, way: str = "") -> Path:
    """Returns the cache file of the source at the absolute ``path``, read in this way."""
    # A path cannot contain a NUL, so the text is different for every source and way.
    text = f"{path}\0{way}" if way else str(path)
    key = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:24]
    return cache_folder() / f"faces-{key}.npz"


def load(path: Path, mark: str, source: str, way: str = "") -> FaceSet | None:
    """Returns the set of a source from the cache; None if there is no file, or the source has changed.

    Args:
        path: absolute path of the source.
        mark: present ``stamp`` of the source.
        source: path of the source as the user wrote it.
        way: as ``cached``.
    """
    try:
        with _opened(cache_file(path, way)) as stream, np.load(stream, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            if (about["format"], about["stamp"]) != (FORMAT, mark):
                return None
            images, labels, splits, ids = (stored[name] for name in _ARRAYS)
        faces = FaceSet(
            images=images,
            labels=labels,
            splits=splits,
            ids=ids,
            names=tuple(about["names"]),
            source=encodable(source),
            fingerprint=about["fingerprint"],
            warnings=tuple(about["warnings"]),
        )
        _check_content(faces)
        return faces
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # A broken file fails in many ways: BadZipFile, ValueError, KeyError, OSError.
        warn(f"the cache of {source} cannot be read ({first_line(error)}) and is made again")
        return None


def store(path: Path, mark: str, faces: FaceSet, way: str = "") -> None:
    """Stores the set of a source; several processes may do so at once, as each writes a whole file."""
    about = {
        "format": FORMAT,
        "stamp": mark,
        "names": list(faces.names),
        "fingerprint": faces.fingerprint,
        "warnings": list(faces.warnings),
    }
    arrays = {name: getattr(faces, name) for name in _ARRAYS}
    try:
        with _written(cache_file(path, way)) as stream:
            np.savez(stream, about=np.array(json.dumps(about)), **arrays)
    except (MienError, OSError, RuntimeError, UnicodeError) as error:
        warn(
            f"{faces.source} was read, but its cache was not stored ({first_line(error)}); set MIEN_CACHE to another "
            "folder"
        )


def cached_array(name: str, compute: Callable[[], np.ndarray], fits: Callable[[np.ndarray], bool]) -> np.ndarray:
    """Returns an array that takes long to compute: from the cache, else computed and stored.

    The file is a .npy file, followed by its SHA-256.

    Args:
        name: name of the file without its ending; it must change if the result may change.
        compute: computes the array.
        fits: returns False for an array that ``compute`` cannot have returned (dtype, shape, range); a cached array
            that does not fit is computed again.
    """
    try:
        with _opened(cache_folder() / f"{name}.npy") as stream:
            content = stream.read()
        content, digest = content[:-_DIGEST], content[-_DIGEST:]
        if hashlib.sha256(content).digest() != digest:
            raise ValueError("its content is not what was stored")
        stored = np.load(io.BytesIO(content), allow_pickle=False)
        if not isinstance(stored, np.ndarray) or not fits(stored):
            raise ValueError("its content is not of the expected kind")
        return stored
    except (FileNotFoundError, NotADirectoryError):
        pass
    except Exception as error:  # As in ``load``: a broken file fails in many ways.
        warn(f"the cache of {name} cannot be read ({first_line(error)}) and is made again")
    array = compute()
    try:
        with _written(cache_folder() / f"{name}.npy") as stream:
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            stream.write(buffer.getbuffer())
            stream.write(hashlib.sha256(buffer.getbuffer()).digest())
    except (MienError, OSError, RuntimeError, UnicodeError) as error:
        warn(f"the cache of {name} was not stored ({first_line(error)}); set MIEN_CACHE to another folder")
    return array


@contextmanager
def _written(file: Path) -> Iterator[IO[bytes]]:
    """Opens a cache file for writing; only this user may read it, since it holds faces of people.

    Raises:
        MienError: the folder belongs to another user, others may write to it, or the disk is full.
        OSError: the folder cannot be made.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_folder(file.parent)
    if "MIEN_CACHE" not in os.environ:
        file.parent.chmod(0o700)  # another program may have made it readable to all
    with atomic_file(file, private=True) as temporary, temporary.open("wb") as stream:
        yield stream


def _check_folder(folder: Path) -> None:
    """Refuses a folder in which another user could place a cache file.

    Raises:
        MienError: the folder belongs to another user, or others may write to it.
    """
    state = folder.stat()
    if not _is_own(state):
        raise MienError(
            f"{folder} belongs to another user, or others may write to it; set MIEN_CACHE to a folder of your own, or "
            f"take their rights away: chmod go-w {folder}"
        )


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    """Opens a cache file that this user wrote.

    Raises:
        MienError: the path is no regular file, or the file or its folder belongs to another user, or others may write
            to it.
        OSError: the file cannot be opened.
    """
    _check_folder(file.parent)
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as stream:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode) or not _is_own(state):
            raise MienError(f"{file} is no regular file, belongs to another user, or others may write to it")
        yield stream


def _is_own(state: os.stat_result) -> bool:
    """True if this user alone may write a file or folder.

    On Windows always: there, files have no user number, every mode says that all may write, and the rights are those of
    the folder, by default the user's own.
    """
    if not hasattr(os, "geteuid"):
        return True
    return state.st_uid == os.geteuid() and not state.st_mode & _BY_OTHERS


def _check_content(faces: FaceSet) -> None:
    """Checks that a cached set is one that a reader can return, down to the last pixel.

    Raises:
        ValueError: a type, shape or range is wrong, or the fingerprint does not match.
    """
    images, labels, names = faces.images, faces.labels, faces.names
    count, shape = len(faces.ids) if faces.ids.ndim == 1 else -1, images.shape
    fits = {
        "images": images.dtype == np.uint8 and len(shape) in (3, 4) and shape[0] == count > 0 and min(shape) > 0,
        "sides": shape[1:2] == shape[2:3] and shape[3:] in ((), (3,)),
        "labels": labels.dtype == np.int64 and labels.shape == (count,),
        "splits": faces.splits.dtype.kind == "U" and faces.splits.shape == (count,),
        "ids": faces.ids.dtype.kind == "U",
        "names": all(isinstance(name, str) and name for name in names) and 0 < len(names) == len(set(names)),
        "warnings": all(isinstance(warning, str) for warning in faces.warnings),
    }
    wrong = [name for name, is_right in fits.items() if not is_right]
    if wrong:
        raise ValueError(f"its {', '.join(wrong)} are not what a reader returns")
    if labels.min() < 0 or labels.max() >= len(names) or not set(faces.splits.tolist()) <= set(SPLITS):
        raise ValueError("a label or a split is out of range")
    if faces.fingerprint != fingerprint_of(images, labels, faces.splits.tolist(), names):
        raise ValueError("its content is not what was stored")


def _state(path: Path) -> str:
    try:
        state = path.stat()
    except OSError:
        return f"{path.name} unreadable\n"
    return f"{path.name} {state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}\n"
