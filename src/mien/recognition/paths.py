"""Expands the arguments of `mien predict` (files, folders, patterns) to pictures and films, in order."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from mien.data.sources import walk
from mien.errors import MienError
from mien.files import expanded
from mien.recognition.pictures import (
    FILM_SUFFIXES,
    HEAD,
    LARGEST_FILE,
    SOUND_SUFFIXES,
    SUFFIXES,
    Kind,
    NamedFile,
    kind_of,
    kind_of_bytes,
)


@dataclass(frozen=True)
class Film:
    """A film file or, by its number, a camera."""

    source: Path | int

    @property
    def name(self) -> str:
        """Its name in records."""
        return f"camera {self.source}" if isinstance(self.source, int) else str(self.source)


@dataclass(frozen=True)
class Nothing:
    """An argument that names nothing readable.

    Attributes:
        name: the argument as typed, its name in records.
        reason: why it names nothing, in one line.
    """

    name: str
    reason: str


class Piped(NamedFile):
    """A picture from standard input, whole; its name is the argument as typed, such as ``-``."""


Input = Path | Film | Piped | Nothing
"""A picture file, a film or a camera, a picture from standard input, or an argument that names none of these."""

STDIN: tuple[str, ...] = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
"""Arguments that stand for standard input."""

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//|[a-z]+/[a-z+.-]+;base64,)")
_LIVE = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "udp", "tcp", "mms")


def expand(
    words: Sequence[str],
    leave_out: Path | None = None,
    skipped: Counter[Kind] | None = None,
) -> list[Input]:
    """Returns the files that arguments name: a file itself, the contents of a folder, the matches of a pattern.

    The first bytes of a file decide what it is; none is decoded. Folders are searched recursively, in alphabetical
    order. They give all pictures and films, whatever their names, and also empty or damaged files with the ending of
    one; but no containers with the ending of sound. An argument with ``*``, ``?`` or ``[`` that is not a file is a
    pattern; in it ``**`` stands for any number of folders. A file that is named twice is returned twice.

    ``-`` is a picture from standard input, a number of one or two digits a camera, and an address names nothing.

    Args:
        words: files, folders and patterns.
        leave_out: a folder to skip, since results are written there, unless an argument names it.
        skipped: counter to which the skipped files of folders are added, by kind.
    """
    skipped = Counter() if skipped is None else skipped
    return [source for word in words for source in _expand(word, leave_out, skipped)]


def counted(skipped: Counter[Kind]) -> str:
    """Describes the skipped files by kind, the most frequent first: ``2 text, 1 sound``."""
    return ", ".join(f"{count:,} {kind.value}" for kind, count in skipped.most_common())


def skipped_line(skipped: Counter[Kind]) -> str:
    """Says how many files of folders were skipped, and of which kinds."""
    files = "1 file that holds" if skipped.total() == 1 else f"{skipped.total():,} files that hold"
    return f"skipped {files} neither a picture nor a film: {counted(skipped)}"


def _expand(word: str, leave_out: Path | None, skipped: Counter[Kind]) -> list[Input]:
    path = Path(word)
    if word in STDIN and not (word == "-" and path.exists()):
        return [_piped(word)]
    if not os.path.lexists(path):
        if word.startswith("~"):
            try:
                path = expanded(word)
            except MienError as error:
                return [Nothing(word, str(error))]
            word = str(path)
        elif _ADDRESS.match(word):
            return [Nothing(word, f"{word}: {_of_address(word)}")]
        elif re.fullmatch("[0-9]{1,2}", word):
            return [Film(int(word))]
    if re.fullmatch("/dev/video[0-9]{1,2}", word):
        return [Film(int(word.removeprefix("/dev/video")))]
    if os.path.isdir(path):
        return _in_folder(path, leave_out, skipped)
    if os.path.lexists(path) or not glob.has_magic(word):
        return [_file(path)]
    inputs: list[Input] = []
    fixed_folder = os.path.dirname(re.split(r"[*?[]", word)[0])
    unlisted: list[Input] = []
    for match in sorted(_matches(word, unlisted)):
        if leave_out is not None and _within(match, leave_out) and not _within(fixed_folder, leave_out):
            continue
        if not os.path.isdir(match):
            inputs.append(_file(Path(match)))
        elif "**" not in Path(word).parts:  # ** also matches the files in the folder
            inputs += _in_folder(Path(match), leave_out, skipped)
    inputs += unlisted
    return inputs or [Nothing(word, f"{word}: no file has such a name; check the pattern")]


def _of_address(word: str) -> str:
    """Says what to do with an address, since Mien opens no connection."""
    kind = word.partition(":")[0].lower()
    if kind in _LIVE:
        return (
            "is a live stream, and Mien opens no connection; record a part of it first, like "
            f"`ffmpeg -i {word} -t 60 part.mp4`, or give a camera of this machine by its number, like 0"
        )
    if kind == "file":
        return f"is an address, expected a path; give {word.removeprefix('file://') or 'the path'}"
    if kind == "data":
        return "is a picture in an address, expected a file; decode it first, like `base64 -d | mien predict -`"
    return f"is an address, and Mien opens no connection; download it first, like `curl -L {word} | mien predict -`"


def _piped(word: str) -> Input:
    """Reads standard input, which is a picture."""
    if sys.stdin is None or sys.stdin.isatty():
        return Nothing(word, f"{word}: nothing is piped in, expected a picture, like `mien predict - < photo.jpg`")
    data = sys.stdin.buffer.read(LARGEST_FILE + 1)
    kind = kind_of_bytes(data[:HEAD])
    if kind is Kind.EMPTY:
        return Nothing(word, f"{word}: standard input is empty, expected a picture, like `mien predict - < photo.jpg`")
    if kind is Kind.FILM:
        return Nothing(word, f"{word}: is a film, expected a picture; films are read from files: save it first")
    return Piped(word, data)  # with a byte more than allowed, it is refused when it is read


def _matches(word: str, unlisted: list[Input]) -> list[str]:
    """Returns the files that a pattern matches, without ``**`` also folders; hidden ones only if it contains their dot.

    With ``**`` every folder is visited once; ``glob`` would go in circles if links lead back to a parent.
    """
    parts = Path(word).parts
    if "**" not in parts:
        return glob.glob(word)
    first = parts.index("**")
    rest = parts[first:]
    hidden = any(part.startswith(".") for part in rest)
    matches = []
    for base in glob.glob(os.path.join(*parts[:first])) if first else [""]:
        for place, children, names in walk(Path(base), partial(_note_unlisted, unlisted), junk=True):
            children[:] = [name for name in children if hidden or not name.startswith(".")]
            inside = place.relative_to(base or ".").parts
            matches += [str(place / name) for name in names if _fits((*inside, name), rest)]
    return matches


def _fits(path: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """True if the parts of a path match the parts of a pattern, in which ``**`` stands for any number of parts.

    ``matches[n]`` says whether ``path[n:]`` matches the parts of the pattern so far, from its end. A recursion would
    take exponential time for a pattern with many ``**``.
    """
    matches = [False] * len(path) + [True]
    for wanted in reversed(pattern):
        after = matches
        matches = [False] * len(path) + [wanted == "**" and after[-1]]
        for n in reversed(range(len(path))):
            if wanted == "**" and after[n]:
                matches[n] = True
            elif not path[n].startswith(".") or wanted.startswith("."):
                matches[n] = matches[n + 1] if wanted == "**" else after[n + 1] and fnmatch(path[n], wanted)
    return matches[0]


def _within(path: str, folder: Path) -> bool:
    return Path(os.path.realpath(path or ".")).is_relative_to(os.path.realpath(folder))


def _in_folder(folder: Path, leave_out: Path | None, skipped: Counter[Kind]) -> list[Input]:
    unlisted: list[Input] = []
    inputs: list[Input] = []
    skipped_here: Counter[Kind] = Counter()
    for path in _files(folder, leave_out, unlisted):
        kind = _kind_in_folder(path)
        if kind is Kind.PICTURE:
            inputs.append(path)
        elif kind is Kind.FILM:
            inputs.append(Film(path))
        else:
            skipped_here[kind] += 1
    skipped.update(skipped_here)
    inputs += unlisted
    if inputs:
        return inputs
    contents = ""
    if skipped_here:
        contents = f"; its {skipped_here.total():,} files hold something else ({counted(skipped_here)})"
    return [Nothing(str(folder), f"{folder}: holds no picture and no film{contents}; check the path")]


def _note_unlisted(unlisted: list[Input], name: str, error: MienError) -> None:
    """Adds a folder that cannot be listed, as ``walk`` reports it."""
    unlisted.append(Nothing(name, str(error)))


def _files(folder: Path, leave_out: Path | None, unlisted: list[Input]) -> Iterator[Path]:
    excluded = None if leave_out is None else os.path.realpath(leave_out)
    for place, children, names in walk(folder, partial(_note_unlisted, unlisted)):
        children[:] = [name for name in children if os.path.realpath(place / name) != excluded]
        if os.path.realpath(place) != excluded or place == folder:
            yield from (place / name for name in names)


def _file(path: Path) -> Path | Film:
    """Returns a file that an argument names: a film, or else a picture, whose reader reports what is wrong with it."""
    return Film(path) if _kind(path) is Kind.FILM else path


def _kind_in_folder(path: Path) -> Kind:
    kind, ending = _kind(path), path.suffix.lower()
    if kind is Kind.FILM:
        return Kind.SOUND if ending in SOUND_SUFFIXES else kind
    # An empty or damaged photo must be reported, not skipped as a text.
    return Kind.PICTURE if ending in SUFFIXES else kind


def _kind(path: Path) -> Kind:
    """Returns the kind of a file; the ending of a film counts if the content is neither picture nor film."""
    content, ending = kind_of(path), path.suffix.lower()
    if content in (Kind.PICTURE, Kind.FILM) or (content is Kind.TEXT and ending == ".ts"):
        return content
    return Kind.FILM if ending in FILM_SUFFIXES else content
