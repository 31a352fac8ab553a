"""Reads a set of faces from a zip archive, a folder or a table, with labels or without."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mien.data import cache as caches
from mien.data.faces import FaceSet, assemble
from mien.data.images import decode_resized, put
from mien.data.layouts import find_table, has_splits, is_picture, other_files, read_folders, read_table, read_table_file
from mien.data.sources import Entries, open_entries
from mien.errors import MienError
from mien.files import expanded
from mien.progress import progress


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


CLASS_NAME = "face"
"""The one class of a set without labels."""


def read_for_pretraining(
    source: str | Path, image_size: int, skip_broken: bool = False, *, cache: bool = True
) -> FaceSet:
    """Reads a source in the way that suits it: with its splits where it has some, else as pictures without labels.

    Args:
        source: what ``mien.data.read.read_faces`` understands, or any folder or zip of pictures.
        image_size: height and width in pixels of pictures without labels; a labelled set keeps its own size.
        skip_broken: as ``read_unlabelled``.
        cache: as ``read_faces``.

    Raises:
        MienError: as either reader, or ``skip_broken`` is given for a labelled source.
    """
    if not is_labelled(source):
        return read_unlabelled(source, image_size=image_size, skip_broken=skip_broken, cache=cache)
    if skip_broken:
        raise MienError(
            f"--skip-broken: {source} is a data set with labels or splits, expected a folder or zip of pictures "
            "without; leave the option out, and repair or remove what is broken"
        )
    return read_faces(source, cache=cache)


def is_labelled(source: str | Path) -> bool:
    """Whether a source has splits that ``mien.data.read.read_faces`` understands; judged by names, nothing is decoded.

    It is where it is a CSV file, holds one and no picture, has file names with FER2013's prefixes, or folders
    SPLIT/CLASS/FILE. Pictures in one folder, in a folder a person or a class, or deeper are not.

    Raises:
        MienError: there is no such source, or it is a file other than a zip archive or a CSV file.
    """
    path = locate(source)
    if path.suffix.lower() == ".csv" and path.is_file():
        return True
    with open_entries(path) as entries:
        files = entries.files()
    pictures = [file for file in files if is_picture(file)]
    if not pictures:
        return any(file.lower().endswith(".csv") for file in files)
    return has_splits(pictures)


def read_unlabelled(source: str | Path, *, image_size: int, skip_broken: bool = False, cache: bool = True) -> FaceSet:
    """Reads every picture below a folder or in a zip archive: the centred square of each, brought to one size.

    The set is grey, uint8 [N, S, S], unless a picture has colour: then RGB, uint8 [N, S, S, 3]. All are training images
    of the one class ``face``.

    Args:
        source: a folder or zip archive with pictures at any depth, of any size up to 8192 pixels a side.
        image_size: S, height and width of the result in pixels.
        skip_broken: leave out pictures that cannot be read, and say in the set's warnings how many and why.
        cache: keep the decoded set, as ``mien.data.read.read_faces`` does.

    Raises:
        MienError: there is no such source, no picture in it, or none that can be read; or, without ``skip_broken``,
            one cannot be read.
    """
    path = locate(source)

    def read() -> FaceSet:
        with open_entries(path) as entries:
            return _read_pictures(entries, image_size, skip_broken)

    way = f"unlabelled, {image_size} px, {'without broken ones' if skip_broken else 'whole'}"
    return caches.cached(path, str(source), read, way) if cache else read()


def _read_pictures(entries: Entries, size: int, skip_broken: bool) -> FaceSet:
    files = entries.files()
    pictures = [file for file in files if is_picture(file)]
    if not pictures:
        raise MienError(f"{entries.source}: holds no picture; give a folder or zip archive with pictures of faces")
    images, kept, problems = _decode_all(entries, pictures, size, skip_broken)
    if not kept:
        raise MienError(
            f"{entries.source}: none of its {len(pictures):,} pictures can be read, the first is {problems[0]}"
        )
    warnings = other_files(files)
    if problems:
        warnings.append(
            f"left out {len(problems):,} of {len(pictures):,} pictures that cannot be read, the first is {problems[0]}"
        )
    return assemble(
        images,
        [CLASS_NAME] * len(kept),
        ["train"] * len(kept),
        kept,
        entries.source,
        official=False,
        warnings=warnings,
    )


def _decode_all(
    entries: Entries, paths: list[str], size: int, skip_broken: bool
) -> tuple[np.ndarray, list[str], list[str]]:
    """The pictures, uint8 [M, S, S] or [M, S, S, 3], the paths of these M, and what is wrong with the others."""
    kept: list[str] = []
    problems: list[str] = []
    try:
        images = np.empty((len(paths), size, size), np.uint8)
        with progress("reading pictures", len(paths), "images") as advance:
            for path in paths:
                try:
                    pixels = decode_resized(entries.read(path), entries.where(path), size)
                except MienError as error:
                    if not skip_broken:
                        raise MienError(f"{error}, or leave such pictures out with --skip-broken") from error
                    problems.append(str(error))
                else:
                    images = put(images, len(kept), pixels)
                    kept.append(path)
                advance()
    except MemoryError as error:
        raise MienError(
            f"{entries.source}: {len(paths):,} pictures of {size}x{size} pixels do not fit into memory; "
            "give fewer, or a smaller image size"
        ) from error
    return images[: len(kept)], kept, problems
