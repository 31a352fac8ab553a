"""From a person's own photos, a folder a class, to a training set: each face cut out as recognition cuts it out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from mien.data.layouts import has_splits, is_picture, list_pictures
from mien.data.sources import LARGEST_PHOTO, Entries, open_entries
from mien.errors import MienError
from mien.files import atomic_folder, refuse_inputs
from mien.progress import progress
from mien.recognition.crop import cut
from mien.recognition.detection import Detection, Detector
from mien.recognition.pictures import read
from mien.text import safe_stem

WHICH: tuple[str, ...] = ("largest", "all", "only")
"""What to take of a photo with several faces: the largest, all of them, or nothing."""


@dataclass(frozen=True)
class Cropped:
    """What became of a photo.

    Attributes:
        path: within the source.
        crops: the files that were written, within the set; none where the photo gave no face.
        reason: why there is none, in one line; None otherwise.
    """

    path: str
    crops: tuple[str, ...]
    reason: str | None


def crop_set(
    source: Path, out: Path, detector: Detector, *, size: int = 48, grey: bool = True, which: str = "largest"
) -> list[Cropped]:
    """Cuts the faces out of photos and writes them as a set that ``mien train`` reads.

    Folders keep their meaning: SPLIT/CLASS/FILE or CLASS/FILE. A photo that cannot be read, or holds no face, is left
    out and told; it ends nothing.

    Args:
        source: a folder, or a zip archive, of photos.
        out: the folder of the set; it must not exist, and is written whole or not at all.
        detector: finds the faces, and knows the margin of FER2013's framing.
        size: height and width of the crops, in pixels.
        grey: luma alone, as FER2013 has it; else RGB.
        which: one of ``WHICH``.

    Returns:
        A record for every file, in alphabetical order; those that are no photos by their names come last.

    Raises:
        MienError: ``out`` exists, the source has another layout, or not one face was found.
    """
    if which not in WHICH:
        raise MienError(f"which: got {which!r}, expected {', '.join(WHICH)}")
    refuse_inputs(out, [source])
    if os.path.lexists(out):
        raise MienError(f"{out}: exists; choose another name, or remove it")
    records = []
    with open_entries(source) as entries, atomic_folder(out) as temporary:
        listing = list_pictures(entries)
        by_split = has_splits(listing.paths)
        with progress("cropping faces", len(listing.paths), "photos") as advance:
            for path, name, split in zip(listing.paths, listing.classes, listing.splits, strict=True):
                folder = PurePosixPath(split, name) if by_split else PurePosixPath(name)
                found, reason = _faces(entries, path, detector, which, size, grey)
                written = tuple(_write(temporary, folder, path, found))
                records.append(Cropped(path, written, reason))
                advance(1)
        records += [
            Cropped(path, (), f"{entries.where(path)}: is no picture by its name; save it as .jpg or .png")
            for path in entries.files()
            if not is_picture(path)
        ]
        if not any(record.crops for record in records):
            raise MienError(f"{source}: no face was found in {len(records):,} files, the first {records[0].reason}")
    return records


def _faces(
    entries: Entries, path: str, detector: Detector, which: str, size: int, grey: bool
) -> tuple[list[np.ndarray], str | None]:
    """The crops of a photo, or why there are none."""
    where = entries.where(path)
    try:
        picture = read(entries.read(path, LARGEST_PHOTO), where, None)
        found = detector.detect(picture)
    except MienError as error:
        return [], str(error)
    if not found:
        return [], f"{where}: no face was found"
    if which == "only" and len(found) > 1:
        return [], f"{where}: {len(found)} faces, and the folder tells the look of one"
    kept = [max(found, key=_area)] if which == "largest" else found
    return [cut(picture, face.framed, detector.margin, size, grey) for face in kept], None


def _area(face: Detection) -> float:
    return face.box[2] * face.box[3]


def _write(out: Path, folder: PurePosixPath, path: str, crops: list[np.ndarray]) -> Iterator[str]:
    """Writes the crops of a photo, named after it; the names that were written, within ``out``."""
    place, stem = out / folder, safe_stem(PurePosixPath(path).stem)
    if not place.resolve().is_relative_to(out.resolve()):
        raise MienError(f"{path}: would be written outside the set, as {folder}; rename its folder")
    if crops:  # an empty folder of a class would be no set
        place.mkdir(parents=True, exist_ok=True)
    for number, crop in enumerate(crops):
        name = stem if len(crops) == 1 else f"{stem}-{number + 1}"
        again = 1
        while (place / f"{name}.png").exists():  # photos that differ in their endings alone
            again += 1
            name = f"{stem}-again-{again}-{number + 1}"
        Image.fromarray(crop).save(place / f"{name}.png")
        yield str(folder / f"{name}.png")
