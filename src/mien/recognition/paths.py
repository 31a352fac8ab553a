"""From what was typed after `mien predict` to the pictures and films that it names, in order."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from mien.data.sources import is_junk, walk
from mien.errors import MienError
from mien.recognition.pictures import FILM_SUFFIXES, SUFFIXES, Kind, kind_of


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


def expand(words: Sequence[str], leave_out: Path | None = None, neither: Counter[Kind] | None = None) -> list[Input]:
    """The files that words name: each file itself, what a folder holds, what a pattern fits.

    Folders are looked through to the bottom, in alphabetical order. Of what they hold, pictures and films are taken,
    whatever their names, and files that are named like one, though they are empty or damaged. A word with ``*``, ``?``
    or ``[`` that is no file is a pattern, in which ``**`` stands for any folders. A file that is named twice comes
    twice.

    Args:
        words: files, folders and patterns.
        leave_out: a folder within the others that is not looked into, as it is where results go, unless it is named.
        neither: counts the files of folders that hold neither a picture nor a film, by what they hold.
    """
    neither = Counter() if neither is None else neither
    return [each for word in words for each in _expand(word, leave_out, neither)]


def counted(neither: Counter[Kind]) -> str:
    """Files that were left out, by what they hold: ``2 text, 1 sound``; the most frequent first."""
    return ", ".join(f"{count:,} {kind.value}" for kind, count in neither.most_common())


def _expand(word: str, leave_out: Path | None, neither: Counter[Kind]) -> list[Input]:
    if not word:
        return [Nothing(word, "an empty word names no file; check the command line")]
    path = Path(word)
    if os.path.isdir(path):
        return _in_folder(path, leave_out, neither)
    if os.path.lexists(path) or not glob.has_magic(word):
        return [_file(path)]
    found: list[Input] = []
    named = os.path.dirname(re.split(r"[*?[]", word)[0])
    unlisted: list[Input] = []
    for match in sorted(_matches(word, unlisted)):
        if leave_out is not None and _within(match, leave_out) and not _within(named, leave_out):
            continue
        if not os.path.isdir(match):
            found.append(_file(Path(match)))
        elif "**" not in word:  # with **, what is in the folder is named by itself
            found += _in_folder(Path(match), leave_out, neither)
    found += unlisted
    return found or [Nothing(word, f"{word}: no file has such a name; check the pattern")]


def _matches(word: str, unlisted: list[Input]) -> list[str]:
    """The files that a pattern fits, and, of one without ``**``, folders; hidden ones only if it names the dot.

    With ``**`` no folder is looked into twice, unlike in ``glob``, which goes round in circles where links lead back.
    """
    parts = Path(word).parts
    if "**" not in parts:
        return glob.glob(word)
    first = parts.index("**")
    rest = parts[first:]
    hidden = any(part.startswith(".") for part in rest)
    matches = []
    for base in glob.glob(os.path.join(*parts[:first])) if first else [""]:
        for place, children, names in walk(Path(base), lambda name, error: unlisted.append(Nothing(name, str(error)))):
            children[:] = [name for name in children if hidden or not name.startswith(".")]
            inside = place.relative_to(base or ".").parts
            matches += [str(place / name) for name in names if _fits((*inside, name), rest)]
    return matches


def _fits(path: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether the parts of a path fit those of a pattern, of which ``**`` stands for any number of them."""
    places = _after_stars({0}, pattern)
    for part in path:
        hidden = part.startswith(".")
        reached = set()
        for place in places:
            if place < len(pattern) and (not hidden or pattern[place].startswith(".")):
                if pattern[place] == "**":
                    reached.add(place)
                elif fnmatch(part, pattern[place]):
                    reached.add(place + 1)
        places = _after_stars(reached, pattern)
    return len(pattern) in places


def _after_stars(places: set[int], pattern: tuple[str, ...]) -> set[int]:
    """The places in a pattern, and those that are reached from them where ``**`` stands for nothing."""
    reached = set(places)
    for place in places:
        while place < len(pattern) and pattern[place] == "**":
            place += 1
            reached.add(place)
    return reached


def _within(path: str, folder: Path) -> bool:
    return Path(os.path.realpath(path or ".")).is_relative_to(os.path.realpath(folder))


def _in_folder(folder: Path, leave_out: Path | None, neither: Counter[Kind]) -> list[Input]:
    unlisted: list[Input] = []
    inputs: list[Input] = []
    others: Counter[Kind] = Counter()
    for path in _files(folder, leave_out, unlisted):
        kind = _kind_in_folder(path)
        if kind is Kind.PICTURE:
            inputs.append(path)
        elif kind is Kind.FILM:
            inputs.append(Film(path))
        else:
            others[kind] += 1
    neither.update(others)
    inputs += unlisted
    if inputs:
        return inputs
    held = f"; its {others.total():,} files hold something else ({counted(others)})" if others else ""
    return [Nothing(str(folder), f"{folder}: holds no picture and no film{held}; check the path")]


def _files(folder: Path, leave_out: Path | None, unlisted: list[Input]) -> Iterator[Path]:
    barred = None if leave_out is None else os.path.realpath(leave_out)
    for place, children, names in walk(folder, lambda name, error: unlisted.append(Nothing(name, str(error)))):
        children[:] = [name for name in children if not is_junk(name) and os.path.realpath(place / name) != barred]
        if os.path.realpath(place) != barred or place == folder:
            yield from (place / name for name in names if not is_junk(name))


def _file(path: Path) -> Path | Film:
    """A file that was named itself: a film, or a picture, which it is taken for where it is neither."""
    return Film(path) if _kind(path) is Kind.FILM else path


def _kind_in_folder(path: Path) -> Kind:
    kind = _kind(path)
    # Some containers hold films and sound alike. To ask FFmpeg takes some milliseconds: not of those named as films.
    if kind is Kind.FILM and path.suffix.lower() not in FILM_SUFFIXES and _is_sound(path):
        return Kind.SOUND
    # A photo that is empty or damaged is to be told, and not to vanish among the texts.
    return Kind.PICTURE if kind is not Kind.FILM and path.suffix.lower() in SUFFIXES else kind


def _kind(path: Path) -> Kind:
    """What a file holds; its ending is asked only where its content says nothing."""
    kind = kind_of(path)
    if kind in (Kind.PICTURE, Kind.FILM):
        return kind
    if path.suffix.lower() in FILM_SUFFIXES:
        return Kind.FILM
    return Kind.FILM if kind is Kind.UNKNOWN and path.suffix.lower() not in SUFFIXES and _is_film(path) else kind


def _is_sound(path: Path) -> bool:
    from mien.recognition.film.decoder import NoPicturesError, opened

    try:
        with opened(path):
            return False
    except NoPicturesError:
        return True
    except MienError:
        return False


def _is_film(path: Path) -> bool:
    """Whether FFmpeg gets a picture out of a file whose beginning is of no known kind."""
    from mien.recognition.film.decoder import opened, shown

    try:
        with opened(path) as (container, stream):
            first = next(shown(container, stream), None)
            return first is not None and first.picture is not None
    except MienError:
        return False
