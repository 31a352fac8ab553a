"""Reads a set of faces from a zip archive, a folder or a table, with labels or without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from mien.data import cache as caches
from mien.data.faces import FaceSet, assemble
from mien.data.images import decode, decode_resized, put
from mien.data.layouts import files_of, has_splits, list_pictures
from mien.data.sources import Entries, open_entries, open_file
from mien.data.tables import find_table, read_table
from mien.errors import Faults, MienError
from mien.files import expanded
from mien.progress import progress

CLASS_NAME = "face"
"""The only class of a set without labels."""


def read_faces(source: str | Path, *, cache: bool = True) -> FaceSet:
    """Reads a labelled set.

    The set is grey, uint8 [N, S, S], unless a picture has colour: then RGB, uint8 [N, S, S, 3].

    Args:
        source: FER2013's ``archive.zip`` from Kaggle (read in place), the same unpacked, ``fer2013.csv`` or
            ``icml_face_data.csv`` (also in a zip), or any zip or folder with a folder a class.
        cache: store the decoded set under ``$MIEN_CACHE`` or ``~/.cache/mien``, and read it from there until the source
            changes.

    Raises:
        MienError: there is no such source, or it has a fault; the message names the file, row or field.
    """
    path = locate(source)
    return caches.cached(path, str(source), lambda: _read(path)) if cache else _read(path)


def read_unlabelled(source: str | Path, *, image_size: int, skip_broken: bool = False, cache: bool = True) -> FaceSet:
    """Reads every picture below a folder or in a zip archive: the central square of each, scaled to one size.

    The set is grey, uint8 [N, S, S], unless a picture has colour: then RGB, uint8 [N, S, S, 3]. All are training images
    of the single class ``face``.

    Args:
        source: a folder or zip archive with pictures at any depth, of any size up to 8192 pixels a side.
        image_size: S, height and width of the result in pixels.
        skip_broken: leave out pictures that cannot be read; the set's warnings then say how many, and why.
        cache: as ``read_faces``.

    Raises:
        MienError: there is no such source, no picture in it, or none that can be read; or, without ``skip_broken``,
            a picture cannot be read.
    """
    path = locate(source)

    def read() -> FaceSet:
        with open_entries(path, again=False) as entries:  # without labels, a folder's place says nothing
            return _read_unlabelled(entries, image_size, skip_broken)

    way = f"unlabelled, {image_size} px, {'without broken ones' if skip_broken else 'whole'}"
    return caches.cached(path, str(source), read, way) if cache else read()


def read_for_pretraining(source: str | Path, image_size: int, skip_broken: bool = False) -> FaceSet:
    """Reads a source with ``read_faces`` if it has labels and splits, else with ``read_unlabelled``.

    Args:
        source: what ``read_faces`` reads, or any folder or zip archive with pictures.
        image_size: height and width in pixels of pictures without labels; a labelled set keeps its own size.
        skip_broken: as ``read_unlabelled``.

    Raises:
        MienError: as the two readers, or ``skip_broken`` is set for a labelled source.
    """
    if not is_labelled(source):
        return read_unlabelled(source, image_size=image_size, skip_broken=skip_broken)
    if skip_broken:
        raise MienError(
            f"--skip-broken: {source} is a data set with labels or splits, expected a folder or zip of pictures "
            "without; leave the option out, and repair or remove the broken pictures"
        )
    return read_faces(source)


def is_labelled(source: str | Path) -> bool:
    """True if ``read_faces`` finds labels and splits in a source; decided by file names, no picture is decoded.

    This is so for a CSV file, for a source with a CSV file and no picture, for file names with FER2013's prefixes, and
    for paths SPLIT/CLASS/FILE. It is not so for pictures in one folder, or in a folder a person or a class.

    Raises:
        MienError: there is no such source, or it is a file other than a zip archive or a CSV file.
    """
    path = locate(source)
    if _is_table(path):
        return True
    with open_entries(path) as entries:
        files = files_of(entries)
    return has_splits(files.pictures) if files.pictures else bool(files.tables)


def locate(source: str | Path) -> Path:
    """Returns the path of a source with ``~`` resolved.

    Raises:
        MienError: there is no such file or folder.
    """
    path = expanded(source)
    try:
        if str(source) and (path.is_dir() or path.is_file()):  # Path("") would be the working folder
            return path
        problem = "is no file or folder" if str(source) and path.exists() else "there is no such file or folder"
    except OSError as error:
        problem = f"cannot be looked at ({error.strerror})"
    raise MienError(
        f"{str(source) or repr('')}: {problem}; check the path, get FER2013 with `mien data fetch`, "
        "or make a stand-in with `mien data draw`"
    )


def _is_table(path: Path) -> bool:
    return path.suffix.lower() == ".csv" and path.is_file()


def _read(path: Path) -> FaceSet:
    if _is_table(path):
        with open_file(path) as stream:
            return read_table(stream, str(path), path.stat().st_size, str(path))
    with open_entries(path) as entries:
        table = find_table(entries)
        if table is None:
            return _read_folders(entries)
        with entries.open(table) as stream:
            faces = read_table(stream, entries.where(table), entries.size(table), entries.source)
        others = [path for path in files_of(entries).tables if path != table]
    if not others:
        return faces
    left_out = f"read {table} alone; left out {len(others):,} other table(s), the first is {others[0]}"
    return replace(faces, warnings=(*faces.warnings, left_out))


def _read_folders(entries: Entries) -> FaceSet:
    """Reads every picture of a source with a folder a class; see ``list_pictures`` for classes and splits.

    Raises:
        MienError: as ``list_pictures``; or pictures are broken or of another size, which are read to the last so that
            all are counted and the first few named; or a class has no training image.
    """
    listing = list_pictures(entries)
    faults = Faults(entries.source, "pictures")

    def load(path: str, first: tuple[str, int] | None) -> np.ndarray | None:
        try:
            return decode(entries.read(path), entries.where(path), first)
        except MienError as error:
            faults.add(entries.where(path), error)
            return None

    images, _ = _load_all(entries.source, listing.paths, load, faults)
    return assemble(
        images,
        listing.classes,
        listing.splits,
        listing.paths,
        entries.source,
        official=listing.official,
        warnings=listing.warnings,
    )


def _read_unlabelled(entries: Entries, image_size: int, skip_broken: bool) -> FaceSet:
    files = files_of(entries)
    if not files.pictures:
        raise files.no_picture(entries, "a folder or zip archive with pictures of faces")
    problems: list[str] = []

    def load(path: str, _: tuple[str, int] | None) -> np.ndarray | None:
        try:
            return decode_resized(entries.read(path), entries.where(path), image_size)
        except MienError as error:
            if not skip_broken:
                raise MienError(f"{error}, or leave such pictures out with --skip-broken") from error
            problems.append(str(error))
            return None

    images, paths = _load_all(entries.source, files.pictures, load)
    if not paths:
        raise MienError(
            f"{entries.source}: none of its {len(files.pictures):,} pictures can be read, the first is {problems[0]}"
        )
    warnings = files.warnings()
    if problems:
        warnings.append(
            f"left out {len(problems):,} of {len(files.pictures):,} pictures that cannot be read, "
            f"the first is {problems[0]}"
        )
    return assemble(
        images,
        [CLASS_NAME] * len(paths),
        ["train"] * len(paths),
        paths,
        entries.source,
        official=False,
        warnings=warnings,
    )


def _load_all(
    source: str,
    paths: list[str],
    load: Callable[[str, tuple[str, int] | None], np.ndarray | None],
    faults: Faults | None = None,
) -> tuple[np.ndarray, list[str]]:
    """Loads pictures of one size into one array.

    Args:
        source: path of the set for messages.
        paths: path of each picture.
        load: receives a path, and path and side of the first picture that was loaded (None if there is none yet);
            returns uint8 [S, S] or [S, S, 3], or None to leave the picture out.
        faults: filled by ``load``; raised at the end, or as soon as they are the rule.

    Returns:
        uint8 [M, S, S], or [M, S, S, 3] if a picture has colour, and the paths of these M pictures.
    """
    images = np.empty((0, 0, 0), np.uint8)
    loaded: list[str] = []
    with progress("reading pictures", len(paths), "images") as advance:
        for number, path in enumerate(paths, start=1):
            pixels = load(path, (loaded[0], images.shape[1]) if loaded else None)
            if pixels is not None:
                try:
                    if not loaded:
                        images = np.empty((len(paths), *pixels.shape), np.uint8)
                    images = put(images, len(loaded), pixels)
                except MemoryError as error:
                    raise MienError(
                        f"{source}: {len(paths):,} pictures of {len(pixels)}x{len(pixels)} pixels do not fit into "
                        "memory; give fewer or smaller pictures"
                    ) from error
                loaded.append(path)
            advance()
            if faults and faults.are_the_rule(number):
                break
    if faults:
        faults.check(number)
    return images[: len(loaded)], loaded
