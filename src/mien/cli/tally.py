"""Counts the records and outputs of `mien predict`, and words what it says at its end."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mien.cli.output import reason_of
from mien.files import identity
from mien.text import counted

if TYPE_CHECKING:
    from mien.recognition.results import Recognition


class Outputs:
    """What a command writes, told apart from what was at the same places before.

    Args:
        options: of the command.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        files = (options.timeline, options.video_out)
        self._former_files = {path: identity(path) for path in files if path is not None}
        self._no_copies = [path for path in (table_path(options), *files) if path is not None]
        self._former_copies = self._copies()

    def _copies(self) -> set[str]:
        """Returns the names in the folder of annotated copies."""
        folder = self._options.annotate
        if folder is None or not folder.is_dir():
            return set()
        real = os.path.realpath(folder)
        others = {path.name for path in self._no_copies if os.path.realpath(path.parent) == real}
        return {path.name for path in folder.iterdir() if not path.name.startswith(".mien-")} - others

    def lines(self, tally: Tally) -> list[str]:
        """Returns a line for each output that was written."""
        options, table = self._options, table_path(self._options)
        now = " in this run" if options.resume else ""  # the table holds others
        rows = f"{counted(tally.records, 'record')}, {counted(tally.faces, 'face')}{now}"
        lines = [] if table is None else [f"{table}: {rows}"]
        for path, what in ((options.timeline, "the timeline"), (options.video_out, "the film with boxes")):
            if path is not None and path.is_file() and identity(path) != self._former_files[path]:
                lines.append(f"{path}: {what}")
        if options.annotate is not None:
            copies = len(self._copies() - self._former_copies)
            lines.append(f"{options.annotate}: {copies:,} annotated {'copy' if copies == 1 else 'copies'}")
        return lines

    def doubled(self, names: Collection[str]) -> Iterator[str]:
        """Yields which copies got a number since an earlier file has their name, if any did.

        Args:
            names: file names of the inputs: one that itself ends in a number is no double.
        """
        copies = sorted(self._copies() - self._former_copies)
        numbered = [(name, re.sub(r"-[0-9]+(\.[^.]*)$", r"\1", name)) for name in copies]
        again = [(name, former) for name, former in numbered if name != former and former in self._former_copies]
        # Some copies have an ending more: face.gif.png.
        again = [(name, former) for name, former in again if former in names or Path(former).stem in names]
        if again:
            name, former = again[0]
            yield (
                f"{self._options.annotate}: {counted(len(again), 'name')} {'was' if len(again) == 1 else 'were'} "
                f"taken by earlier copies, so that beside {former} there is now {name}; "
                "remove the folder before the command to have one copy of each"
            )


def table_path(options: argparse.Namespace) -> Path | None:
    """Returns the file of the table of faces, if there is to be one."""
    return options.csv or options.xlsx or options.parquet


CROP_HINT = "no face was found; if the pictures are face crops already, add --detector none"

LARGEST_CROP = 256
"""Pixels of the longer side up to which a picture without a face may be a face crop."""


@dataclass
class Tally:
    """Counts of the records so far.

    Attributes:
        records: pictures and frames.
        faces: the faces in them.
        failed: records with status ``error``.
        reason: the first of their reasons.
        uncertain: faces whose answer is uncertain.
        in_films: how many of these are in films.
        frames: how many of the records are frames of films.
        crop_like: pictures without a face that are square, or small enough to be face crops.
        threshold: of the model (``mien.recognition.engine.Engine``); None if it was not calibrated, infinity if it
            never reached its stated accuracy.
        stated_accuracy: of the model, in [0, 1]; None if it was not calibrated.
        several: files that hold more pictures than the one that was read.
        first_of_several: the name of the first of these.
        not_copied: the reasons of the copies that could not be written, a line each.
    """

    records: int = 0
    faces: int = 0
    failed: int = 0
    reason: str = ""
    uncertain: int = 0
    in_films: int = 0
    frames: int = 0
    crop_like: int = 0
    several: int = 0
    first_of_several: str = ""
    threshold: float | None = None
    stated_accuracy: float | None = None
    not_copied: list[str] = field(default_factory=list)

    def add(self, record: Recognition) -> None:
        self.records += 1
        self.faces += len(record.faces)
        uncertain = sum(bool(face.uncertain) for face in record.faces)
        self.uncertain += uncertain
        if record.frame is not None:
            self.frames += 1
            self.in_films += uncertain
        if record.first_of_several:
            self.several += 1
            self.first_of_several = self.first_of_several or record.input
        if record.status == "error":
            self.failed += 1
            self.reason = self.reason or reason_of(record)
        elif not record.faces and record.frame is None:
            width, height = record.width or 0, record.height or 0
            self.crop_like += width == height or max(width, height) <= LARGEST_CROP

    def failures(self, options: argparse.Namespace, in_lines: bool) -> Iterator[str]:
        """Yields how many could not be read, unless the only record has said so; arguments as of ``remarks``."""
        printed = in_lines or options.format
        if self.failed and not (printed and self.records == 1):
            first = "" if printed else f", the first is {self.reason}"
            of_what = " pictures and frames" if self.frames else ""
            yield f"{self.failed:,} of {self.records:,}{of_what} could not be read{first}"

    def remarks(self, options: argparse.Namespace, in_lines: bool) -> Iterator[str]:
        """Yields what a person has to know about the whole run.

        Args:
            options: of the command.
            in_lines: whether the records were printed as lines for people, errors included.
        """
        if self.several:
            yield several_line(self.several, self.first_of_several)
        yield from doubts(
            self.faces,
            self.uncertain,
            self.threshold,
            self.stated_accuracy,
            for_people=in_lines or table_path(options) is not None,
            in_films=self.in_films > 0,
        )
        if self.crop_like and not self.faces and options.detector != "none":
            yield CROP_HINT


def several_line(count: int, first: str) -> str:
    """Says that files hold more pictures than the one that was read.

    Args:
        count: how many, at least one.
        first: the name of the first of them.
    """
    files = "1 file holds" if count == 1 else f"{count:,} files hold"
    return (
        f"{files} several pictures, frames of an animation or pages ({first}): only the first picture was read; save "
        "the others as files of their own"
    )


def doubts(
    faces: int,
    uncertain: int,
    threshold: float | None,
    stated_accuracy: float | None,
    *,
    for_people: bool = True,
    in_films: bool = False,
) -> Iterator[str]:
    """Yields what "uncertain" means, and in any case what a model without a threshold does not promise.

    Args:
        faces: number of answers.
        uncertain: how many of them are uncertain.
        threshold: of the model (``mien.recognition.engine.Engine``).
        stated_accuracy: of the model, in [0, 1].
        for_people: whether a person reads the answers, so that the meaning of the word has to be said.
        in_films: whether some uncertain answers are of films, for which the promise was not measured.
    """
    if not faces:
        return
    if threshold is None:
        yield (
            "this model has no threshold for sure answers (too few validation pictures for one, or none), so that "
            "no answer is marked as uncertain, however low its score; take none of them for certain"
        )
    elif math.isinf(threshold):
        yield (
            f"uncertain: every answer of this model, as no score promised {stated_accuracy or 0:.0%} right "
            "answers on its validation pictures; treat its answers as unknown"
        )
    elif uncertain and for_people:
        yield (
            f"uncertain: {uncertain:,} of {counted(faces, 'face')} "
            f"{'has' if uncertain == 1 else 'have'} a score below "
            f"{threshold:.2f}, from which on the model promises {stated_accuracy or 0:.0%} right answers"
            f"{' for single photos (for films that was not measured)' if in_films else ''}; treat "
            f"{'this answer' if uncertain == 1 else 'these answers'} as unknown"
        )
