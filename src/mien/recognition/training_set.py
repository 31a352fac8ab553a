"""Makes a training set from own photos in class folders: faces are cut out as for recognition."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from mien.data.layouts import has_splits, is_picture, list_pictures
from mien.data.sources import LARGEST_PHOTO, Entries, open_entries
from mien.errors import MienError
from mien.files import atomic_folder, refuse_inputs
from mien.log import warn
from mien.progress import progress
from mien.recognition.detection import Detector, cut
from mien.recognition.pictures import read_photo
from mien.recognition.time_limit import OverdueError, Say, TimedProcess, Work
from mien.text import safe_stem

WHICH: tuple[str, ...] = ("largest", "all", "only")
"""Faces to take from a photo: the largest, all of them, or only one (photos with several faces are skipped)."""


@dataclass(frozen=True)
class Cropped:
    """The result for one photo.

    Attributes:
        path: path of the photo within the source.
        crops: paths of the written crops within the set; empty if the photo gave no face.
        reason: why it gave none, in one line; None otherwise.
        first_of_several: True if the file holds more pictures, as frames of an animation or as pages; they were not
            read.
    """

    path: str
    crops: tuple[str, ...]
    reason: str | None
    first_of_several: bool = False


MakeDetector = Callable[[], Detector]
"""Picklable function that makes a detector, as for a second process; a detector itself cannot be handed over."""


def crop_set(
    source: Path,
    out: Path,
    detector: Detector | MakeDetector,
    *,
    size: int = 48,
    grey: bool = True,
    which: str = "largest",
    timeout: float | None = None,
) -> list[Cropped]:
    """Cuts the faces out of photos and writes them as a set for ``mien train``.

    The folders stay: SPLIT/CLASS/FILE or CLASS/FILE. A photo that cannot be read, or holds no face, is skipped and
    reported.

    Args:
        source: a folder or a zip archive of photos.
        out: folder of the set; it must not exist, and is written whole or not at all.
        detector: finds the faces; its margin gives FER2013's framing. With ``timeout``, a function that makes it.
        size: height and width of the crops, in pixels.
        grey: write luma, as in FER2013, instead of RGB.
        which: one of ``WHICH``.
        timeout: seconds after which a second process, which reads the photos, is killed, and the photo is skipped; None
            for no limit and no second process.

    Returns:
        A record for every file, in alphabetical order; files whose names are not those of pictures come last.

    Raises:
        MienError: ``out`` exists, the source has another layout, or no face was found at all.
    """
    if which not in WHICH:
        raise MienError(f"which: got {which!r}, expected {', '.join(WHICH)}")
    refuse_inputs(out, [source])
    if os.path.lexists(out):
        raise MienError(f"{out}: exists; choose another name, or remove it")
    records, filled = [], dict[PurePosixPath, bool]()
    with (
        open_entries(source) as entries,
        _cutter(entries, timeout, source, detector, which, size, grey) as cut_faces,
        atomic_folder(out) as temporary,
    ):
        listing = list_pictures(entries)
        by_split = has_splits(listing.paths)
        with progress("cropping faces", len(listing.paths), "photos") as advance:
            for path, name, split in zip(listing.paths, listing.classes, listing.splits, strict=True):
                folder = PurePosixPath(split, name) if by_split else PurePosixPath(name)
                crops, reason, several = cut_faces(path)
                filled[folder] = filled.get(folder, False) or bool(crops)
                records.append(Cropped(path, tuple(_write(temporary, folder, path, crops)), reason, several))
                advance(1)
        records += [
            Cropped(path, (), f"{entries.where(path)}: is no picture by its name; save it as .jpg or .png")
            for path in entries.files()
            if not is_picture(path)
        ]
        if not any(record.crops for record in records):
            raise MienError(f"{source}: no face was found in {len(records):,} files, the first {records[0].reason}")
    if lost := [str(folder) for folder, has_faces in filled.items() if not has_faces]:
        warn(f"no photo of {', '.join(lost)} gave a face, so that {out} lacks this class; add photos that show one")
    return records


Cuts: TypeAlias = tuple[list[np.ndarray], str | None, bool]
"""The crops of a photo, the reason why there are none, and whether its file holds more pictures."""

CutFaces = Callable[[str], Cuts]
"""From the path of a photo within the source to its crops."""


@contextmanager
def _cutter(
    entries: Entries,
    timeout: float | None,
    source: Path,
    detector: Detector | MakeDetector,
    *options: Any,
) -> Iterator[CutFaces]:
    """Gives the function that cuts, in this process or, with a time limit, in a second one; see ``crop_set``."""
    if timeout is None:
        yield partial(_cut_faces, entries, detector() if callable(detector) else detector, *options)
        return
    with closing(TimedProcess(timeout, _prepare_cutting, source, detector, *options)) as process:

        def cut_faces(path: str) -> Cuts:
            try:
                (cuts,) = process.answers(path, entries.where(path))
            except OverdueError as error:
                return [], str(error), False
            return cuts

        yield cut_faces


def _prepare_cutting(
    say: Say, source: Path, make_detector: MakeDetector, which: str, size: int, grey: bool
) -> tuple[None, Work]:
    """Runs in the process of the time limit: opens the source, and gives the function that cuts."""
    stack = ExitStack()
    atexit.register(stack.close)  # the source stays open as long as the process lives
    entries, detector = stack.enter_context(open_entries(source)), make_detector()
    return None, lambda path: iter([_cut_faces(entries, detector, which, size, grey, path)])


def _cut_faces(entries: Entries, detector: Detector, which: str, size: int, grey: bool, path: str) -> Cuts:
    """Cuts the faces out of a photo."""
    where = entries.where(path)
    try:
        photo = read_photo(entries.read(path, LARGEST_PHOTO), where)
        detections = detector.detect(photo.pixels)
    except MienError as error:
        return [], str(error), False
    if not detections:
        return [], f"{where}: no face was found", photo.first_of_several
    if which == "only" and len(detections) > 1:
        reason = f"{where}: {len(detections)} faces, and the folder tells the look of one"
        return [], reason, photo.first_of_several
    if which == "largest":
        detections = [max(detections, key=lambda detection: detection.box[2] * detection.box[3])]
    crops = [cut(photo.pixels, detection.framed, detector.margin, size, grey) for detection in detections]
    return crops, None, photo.first_of_several


def _write(out: Path, folder: PurePosixPath, path: str, crops: list[np.ndarray]) -> Iterator[str]:
    """Writes the crops of a photo under names made from its own; yields their paths within ``out``."""
    place, stem = out / folder, safe_stem(PurePosixPath(path).stem)
    if not place.resolve().is_relative_to(out.resolve()):
        raise MienError(f"{path}: would be written outside the set, as {folder}; rename its folder")
    if crops:  # an empty class folder would make the set invalid
        place.mkdir(parents=True, exist_ok=True)
    for number, crop in enumerate(crops):
        name = stem if len(crops) == 1 else f"{stem}-{number + 1}"
        copy_number = 1
        while (place / f"{name}.png").exists():  # photos whose names differ only in their endings
            copy_number += 1
            name = f"{stem}-again-{copy_number}-{number + 1}"
        Image.fromarray(crop).save(place / f"{name}.png")
        yield str(folder / f"{name}.png")
