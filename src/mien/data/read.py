"""The one way into Mien for a data set: whatever its form, the same object comes out."""

from __future__ import annotations

from pathlib import Path

from mien.data import cache as caches
from mien.data.archive import open_entries
from mien.data.faces import FaceSet
from mien.data.folders import read_folders
from mien.data.tables import find_table, read_table, read_table_file
from mien.errors import MienError
from mien.files import expanded


def read_faces(source: str | Path, *, cache: bool = True) -> FaceSet:
    """Reads a data set.

    Args:
        source: FER2013's ``archive.zip`` from Kaggle (read in place), the same unpacked, ``fer2013.csv`` or
            ``icml_face_data.csv`` (also in a zip), or any zip or folder with a folder a class.
        cache: keep the decoded set under ``$MIEN_CACHE`` or ``~/.cache/mien`` and use it as long as the source is
            unchanged.

    Raises:
        MienError: there is no such source, or something in it is wrong: which file, row or field, and what to do.
    """
    path = locate(source)
    return caches.cached(path, str(source), lambda: _read(path)) if cache else _read(path)


def locate(source: str | Path) -> Path:
    """The file or folder that the user named, ``~`` resolved.

    Raises:
        MienError: there is none.
    """
    path = expanded(source)
    if path.is_dir() or path.is_file():
        return path
    problem = "is no file or folder" if path.exists() else "there is no such file or folder"
    raise MienError(
        f"{source}: {problem}; check the path, get FER2013 with `mien data fetch`, "
        "or make a stand-in with `mien data draw`"
    )


def _read(path: Path) -> FaceSet:
    if path.suffix.lower() == ".csv" and path.is_file():
        return read_table_file(path)
    with open_entries(path) as entries:
        table = find_table(entries)
        if table is None:
            return read_folders(entries)
        with entries.open(table) as stream:
            return read_table(stream, entries.where(table), entries.size(table), entries.source)
