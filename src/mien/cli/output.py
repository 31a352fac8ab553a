"""Prints records, a line a face for people or JSON, and remarks; names what a command writes if nobody did."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.cli.signals import stream_of_errors
from mien.errors import one_line
from mien.files import free_path
from mien.text import json_shown, safe_stem, shown

if TYPE_CHECKING:
    from mien.recognition.results import Face, Recognition


def reason_of(record: Recognition) -> str:
    """Returns the name of an input, or of a frame, and the reason why it cannot be read."""
    reason = str(record.error)
    where = shown(one_line(record.input))
    if record.frame is not None:
        return f"{where} frame {record.frame}: {reason}"
    return reason if where in reason else f"{where}: {reason}"


def print_json(record: Recognition) -> None:
    """Prints the record as a JSON object on one line."""
    _print_json(record.to_dict())


def print_converted(record: Recognition, convert: Callable[[Recognition], list[Any]]) -> None:
    """Prints a line in the format of another tool; an error becomes null, and its reason goes to stderr."""
    if record.status == "error":
        complain(reason_of(record))
    _print_json(None if record.status == "error" else convert(record))


def print_lines(record: Recognition) -> None:
    """Prints a line for each face, for people."""
    name = shown(record.input)
    where = name if record.frame is None else f"{name} frame {record.frame} ({record.time_s:.2f} s)"
    if record.status == "error":
        lines = [f"error: {shown(record.error)}"]
        if record.frame is not None:
            lines = [f"{where}: {lines[0]}"]
    else:
        lines = [f"{where}: {shown(_described(face))}" for face in record.faces] or [f"{where}: no face"]
    _print("\n".join(lines))


def _described(face: Face) -> str:
    """Describes a face: the label, the next two expressions, and the box."""
    ranked = sorted(face.probabilities.items(), key=lambda item: -item[1])
    runners_up = ", ".join(f"{name} {share:.0%}" for name, share in ranked[1:3])
    left, top, width, height = (round(value) for value in face.box)
    number = "" if face.id is None else f"face {face.id}, "
    doubt = ", uncertain" if face.uncertain else ""
    return f"{number}{face.label} {face.score:.0%}{doubt} ({runners_up}), {width}x{height} px at {left},{top}"


def _print_json(value: Any) -> None:
    text = json_shown(value)
    _print(text if _fits(text) else json_shown(value, ascii_only=True))


def _print(text: str) -> None:
    """Prints a line at once, so that a reader of a pipe gets each record immediately."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _fits(text: str) -> bool:
    """True if the encoding of stdout has all characters of a text; file names may hold bytes that are not UTF-8."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def remark(text: str) -> None:
    """Prints a remark on stderr, as stdout is for the records."""
    print(f"mien: {shown(text)}", file=sys.stderr)


def complain(text: str) -> None:
    """Prints on stderr what is wrong with an input, also with ``--quiet``."""
    print(f"mien: {shown(text)}", file=stream_of_errors())


def out_for(kind: str, models: Sequence[Path]) -> Path:
    """Returns a new folder ``KIND/NAME`` that is named after the models, such as ``reports/first``; reports it."""
    return new_file(Path(kind) / safe_stem("-".join(map(short_name, models))))


def short_name(folder: Path) -> str:
    """Returns the name of a model folder; of a run that holds it in ``model``, the name of the run."""
    resolved = folder.resolve()
    return resolved.parent.name if resolved.name == "model" else resolved.name


def faces_of(photos: Path) -> Path:
    """Returns a new folder in the working folder that is named after a set of photos: ``photos-faces``; reports it."""
    return new_file(Path(f"{safe_stem(photos.resolve().stem)}-faces"))


def new_file(path: Path) -> Path:
    """Returns the path, or if something is there, the first with a number: ``drawn-2.zip``; reports it."""
    free = free_path(path)
    remark(f"writing to {free}; --out chooses another place")
    return free
