"""Decoded sets kept on disk, so that the second start is immediate.

One uncompressed .npz a source and way of reading it, under ``$MIEN_CACHE`` or ``~/.cache/mien``. A cache never fails a
command: what is broken or cannot be written is told on stderr, and the source is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mien.data.archive import walk
from mien.data.faces import FaceSet
from mien.errors import MienError
from mien.files import atomic_file

FORMAT = 1
"""Raise it when readers or the file's layout change: older files are then ignored."""

_ARRAYS = ("images", "labels", "splits", "ids")


def stamp(path: Path) -> str:
    """What changes when a source changes: size and time of a file, or a digest over those of all files of a folder.

    Raises:
        MienError: a folder cannot be listed.
    """
    digest = hashlib.sha256()
    if path.is_dir():
        for folder, _, names in walk(path):
            digest.update(f"{folder.relative_to(path)}\n".encode(errors="surrogateescape"))
            for name in names:
                digest.update(_state(folder / name).encode(errors="surrogateescape"))
    else:
        digest.update(_state(path).encode(errors="surrogateescape"))
    return digest.hexdigest()


def cached(path: Path, source: str, read: Callable[[], FaceSet], way: str = "") -> FaceSet:
    """The decoded form of a source: from the cache where it still holds, else read and kept.

    Args:
        path: the source.
        source: how the user named it.
        read: reads it.
        way: what else decides the result, where a source can be read in several ways (size, what is left out); each
            way is kept by itself.

    Raises:
        MienError: what ``read`` raises, or a folder cannot be listed.
    """
    absolute = path.resolve()
    mark = stamp(absolute)
    faces = load(absolute, mark, source, way)
    if faces is None:
        faces = read()
        store(absolute, mark, faces, way)
    return faces


def cache_folder() -> Path:
    """The folder of the cache: ``$MIEN_CACHE``, else ``~/.cache/mien``."""
    root = os.environ.get("MIEN_CACHE")
    return Path(root).expanduser() if root else Path.home() / ".cache" / "mien"


def cache_file(path: Path, way: str = "") -> Path:
    """Where the decoded form of the source at the absolute ``path``, read in this way, is kept."""
    # No path holds a NUL, so no other source and way give the same text.
    text = f"{path}\0{way}" if way else str(path)
    key = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:24]
    return cache_folder() / f"faces-{key}.npz"


def load(path: Path, mark: str, source: str, way: str = "") -> FaceSet | None:
    """The decoded form of a source, or None where there is none, or none that still holds.

    Args:
        path: the source, absolute.
        mark: its present ``stamp``.
        source: how the user named it.
        way: as ``cached``.
    """
    try:
        file = cache_file(path, way)
        with np.load(file, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            if (about["format"], about["stamp"]) != (FORMAT, mark):
                return None
            images, labels, splits, ids = (stored[name] for name in _ARRAYS)
        if not len(images) == len(labels) == len(splits) == len(ids):
            raise ValueError("arrays of different lengths")
        return FaceSet(
            images=images,
            labels=labels,
            splits=splits,
            ids=ids,
            names=tuple(about["names"]),
            source=source,
            fingerprint=about["fingerprint"],
            warnings=tuple(about["warnings"]),
        )
    except FileNotFoundError:
        return None
    except Exception as error:  # A broken file fails in many ways: BadZipFile, ValueError, KeyError, OSError.
        _tell(f"the cache of {source} cannot be read ({error}) and is made again")
        return None


def store(path: Path, mark: str, faces: FaceSet, way: str = "") -> None:
    """Keeps the decoded form of a source; several processes may do so at once, each writes a whole file."""
    about = {
        "format": FORMAT,
        "stamp": mark,
        "names": list(faces.names),
        "fingerprint": faces.fingerprint,
        "warnings": list(faces.warnings),
    }
    arrays = {name: getattr(faces, name) for name in _ARRAYS}
    try:
        file = cache_file(path, way)
        # Faces of people: for this user's eyes.
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_file(file) as temporary, temporary.open("wb") as stream:
            np.savez(stream, about=np.array(json.dumps(about)), **arrays)
    except (MienError, OSError, RuntimeError, UnicodeError) as error:
        _tell(f"{faces.source} was read, but its cache was not kept ({error}); set MIEN_CACHE to a folder with space")


def cached_array(name: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """An array that takes long to compute: from the cache if it is there, else computed and stored.

    Args:
        name: of the file, without its ending; it has to change whenever the result may.
        compute: makes the array.
    """
    file = cache_folder() / f"{name}.npy"
    try:
        return np.load(file, allow_pickle=False)
    except FileNotFoundError:
        pass
    except Exception as error:  # As in ``load``: a broken file fails in many ways.
        _tell(f"{file} cannot be read ({error}) and is made again")
    array = compute()
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_file(file) as temporary, temporary.open("wb") as stream:
            np.save(stream, array)
    except (MienError, OSError) as error:
        _tell(f"{file} cannot be written ({error}); set MIEN_CACHE to a folder with space")
    return array


def _state(path: Path) -> str:
    try:
        state = path.stat()
    except OSError:
        return f"{path.name} unreadable\n"
    return f"{path.name} {state.st_size} {state.st_mtime_ns}\n"


def _tell(message: str) -> None:
    print(f"warning: {' '.join(message.split())}", file=sys.stderr)
