"""From what was typed after `mien predict` to the pictures and films that it names, in order."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mien.data.archive import is_junk, walk
from mien.recognition.inputs.pictures import FILMS, SUFFIXES


@dataclass(frozen=True)
class Film:
    """A film file or, by its number, a camera."""

    source: Path | int

    @property
    def name(self) -> str:
        """How records name it."""
        return f"camera {self.source}" if isinstance(self.source, int) else str(self.source)


@dataclass(frozen=True)
class Nothing:
    """A word that names nothing that could be read.

    Attributes:
        word: as it was typed.
        reason: why, in one line.
    """

    word: str
    reason: str


Input = Path | Film | Nothing
"""A picture file, a film or a camera, or a word that names neither."""


def expand(words: Sequence[str], leave_out: Path | None = None) -> list[Input]:
    """The files that words name: each file itself, what a folder holds, what a pattern fits.

    Folders are looked through to the bottom, in alphabetical order, for files whose names end as those of pictures and
    films do. A word with ``*``, ``?`` or ``[`` that is no file is a pattern, in which ``**`` stands for any folders. A
    file is a film where its name ends like one; any other is taken for a picture. A file that is named twice comes
    twice.

    Args:
        words: files, folders and patterns.
        leave_out: a folder within the others that is not looked into, as it is where results go, unless it is named.
    """
    return [found for word in words for found in _expand(word, leave_out)]


def _expand(word: str, leave_out: Path | None) -> list[Input]:
    if not word:
        return [Nothing(word, "an empty word names no file; check the command line")]
    path = Path(word)
    if os.path.isdir(path):
        return _in_folder(path, leave_out)
    if os.path.lexists(path) or not glob.has_magic(word):
        return [_file(path)]
    found: list[Input] = []
    named = os.path.dirname(re.split(r"[*?[]", word)[0])
    for match in sorted(glob.glob(word, recursive=True)):
        if leave_out is not None and _within(match, leave_out) and not _within(named, leave_out):
            continue
        if not os.path.isdir(match):
            found.append(_file(Path(match)))
        elif "**" not in word:  # with **, what is in the folder is named by itself
            found += _in_folder(Path(match), leave_out)
    return found or [Nothing(word, f"{word}: no file has such a name; check the pattern")]


def _within(path: str, folder: Path) -> bool:
    return Path(os.path.realpath(path or ".")).is_relative_to(os.path.realpath(folder))


def _in_folder(folder: Path, leave_out: Path | None) -> list[Input]:
    unlisted: list[Input] = []
    files = list(_files(folder, leave_out, unlisted))
    suffixes = {*SUFFIXES, *FILMS}
    found = [*(_file(path) for path in files if path.suffix.lower() in suffixes), *unlisted]
    if found:
        return found
    seen = f"; its {len(files):,} files have other endings than .jpg, .png, .mp4 and the like" if files else ""
    return [Nothing(str(folder), f"{folder}: holds no picture and no film{seen}; check the path")]


def _files(folder: Path, leave_out: Path | None, unlisted: list[Input]) -> Iterator[Path]:
    barred = None if leave_out is None else os.path.realpath(leave_out)
    for place, children, names in walk(folder, lambda name, error: unlisted.append(Nothing(name, str(error)))):
        children[:] = [name for name in children if not is_junk(name) and os.path.realpath(place / name) != barred]
        if os.path.realpath(place) != barred or place == folder:
            yield from (place / name for name in names if not is_junk(name))


def _file(path: Path) -> Path | Film:
    return Film(path) if path.suffix.lower() in FILMS else path
