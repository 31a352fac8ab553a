"""Writes faces as a CSV file, record by record, and goes on with the file of a command that was stopped."""

from __future__ import annotations

import csv
import io
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mien.errors import MienError
from mien.files import unwritable
from mien.locks import claim_file
from mien.recognition.faces import Record
from mien.recognition.formats import Add, columns, rows
from mien.recognition.paths import Film, Input, Piped
from mien.text import csv_path, csv_text, encodable

_SAME_SCORE = 0.01
"""Scores of one face by one model differ by less, whatever else is in its batch."""


@dataclass(frozen=True)
class Former:
    """What the table of an earlier command holds.

    Attributes:
        header: its columns; empty if there is no table yet.
        size: of the file in bytes.
        end: bytes that stay; what follows belongs to ``again``, or is half a row.
        again: the input whose rows are written anew, as its cell has it; None if there is none.
        row: the first of these rows; empty if there is none.
    """

    header: tuple[str, ...] = ()
    size: int = 0
    end: int = 0
    again: str | None = None
    row: dict[str, str] | None = None

    def check(self, path: Path, size: int, header: Sequence[str]) -> None:
        """Checks that the table is still as it was read, and has the columns of the model.

        Raises:
            MienError: it has changed, or the columns differ.
        """
        if size != self.size:
            raise MienError(f"--resume: {path} was changed by another command meanwhile; run this one again")
        if self.header and self.header != tuple(header):
            raise MienError(
                f"--resume: {path} has other columns than {', '.join(header)}; give the model that it was made with, "
                "or another --csv"
            )

    def compare(self, path: Path, row: dict[str, Any]) -> None:
        """Compares the first row of the input that is read again.

        Raises:
            MienError: label or score differ, so that the rest of the table comes from another model or other options.
        """
        if not self.row or "error" in (self.row["status"], row["status"]):
            return
        labels = [self.row["label"] or "no face", row.get("label") or "no face"]
        scores = [float(self.row["score"] or 0), float(row.get("score") or 0)]
        if labels[0] != labels[1] or abs(scores[0] - scores[1]) > _SAME_SCORE:
            raise MienError(
                f"--resume: {path} has {labels[0]} {scores[0]:.2f} for {self.again}, which is now read as {labels[1]} "
                f"{scores[1]:.2f}: another model, other options or another file; give those of before, or another --csv"
            )


def resume(path: Path, inputs: Sequence[Input]) -> tuple[list[Input], Former]:
    """Finds the inputs that the table of an earlier command lacks.

    Its last input is read again: nobody knows whether a film was read to its end.

    Args:
        path: of the table; there may be none yet.
        inputs: all files of the command.

    Returns:
        The inputs to read, the last one of the table first, and what the table holds.

    Raises:
        MienError: the file is no table of faces, or an input is a camera or standard input.
    """
    if any(
        isinstance(source, Piped) or (isinstance(source, Film) and isinstance(source.source, int)) for source in inputs
    ):
        raise MienError("--resume: goes with files, not with a camera or standard input; leave it out")
    try:
        size = path.stat().st_size
        file = path.open("rb") if size else io.BytesIO()
    except FileNotFoundError:
        return list(inputs), Former()
    header: list[str] = []
    done: Counter[str] = Counter()
    again, row, begin, end = None, {}, 0, 0
    with file:
        for line in file:
            if not line.endswith(b"\n"):
                break  # half a row, by a crash of the machine
            cells = next(csv.reader([line.decode("utf-8-sig" if not end else "utf-8", "replace")]), [])
            if not header:
                header = cells
                if header[:2] != columns(())[:2]:
                    raise MienError(f"--resume: {path} is no table of `mien predict --csv`; give another name")
            elif len(cells) == len(header):
                values = dict(zip(header, cells, strict=True))
                if values["input"] != again or (not values["frame"] and values["face"] in ("", "0")):
                    done[values["input"]] += 1
                    again, row, begin = values["input"], values, end
            end += len(line)
    done.subtract([again] if again is not None else [])
    left = []
    for source in inputs:
        if done[_cell(source)] > 0:
            done[_cell(source)] -= 1
        else:
            left.append(source)
    for number, source in enumerate(left):
        if _cell(source) == again:
            return [left.pop(number), *left], Former(tuple(header), size, begin, again, row)
    return left, Former(tuple(header), size, end)


def _cell(source: Input) -> str:
    """The cell that names an input."""
    return csv_path(encodable(str(source) if isinstance(source, Path) else source.name))


@contextmanager
def csv_table(
    path: Path,
    names: Sequence[str],
    *,
    digits: int | None = None,
    byte_order_mark: bool = False,
    former: Former | None = None,
) -> Iterator[Add]:
    """Opens a CSV file (UTF-8, with a header); each record is on disk as soon as it is added.

    No cell is a formula for a spreadsheet: a path that begins with ``=``, ``+``, ``-`` or ``@`` gets ``./`` in front,
    any other text an apostrophe. Control characters and line breaks are escaped. JSON and Parquet keep it.

    Args:
        path: the file; an existing one is replaced, with the first record or when the block ends without an error.
        names: the expressions of the model.
        digits: decimals of scores, probabilities and times; None writes them as they are.
        byte_order_mark: begin with U+FEFF, by which Excel recognises UTF-8.
        former: what the file holds already, to which records are added (``resume``); None replaces it.

    Raises:
        MienError: the file cannot be written, another command writes it, or it does not fit to what is added.
        BrokenPipeError: it is a pipe whose reader has gone.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    except OSError as error:
        raise unwritable(path, error) from error
    header = columns(names)
    with open(number, "wb", buffering=0) as file:
        claim_file(file.fileno(), path)  # before it is truncated, as another command may be writing it
        is_regular = stat.S_ISREG(os.fstat(number).st_mode)  # pipes and devices cannot be truncated
        if former is not None:
            former.check(path, os.fstat(file.fileno()).st_size, header)
        written_bytes = 0
        is_begun = False

        def write(lines: str) -> None:
            # The rows of a record are written in one piece: after Ctrl-C or on a full disk, all are there or none.
            nonlocal written_bytes
            mark = "\ufeff" if byte_order_mark and not written_bytes else ""
            data = memoryview((mark + lines).encode("utf-8", "backslashreplace"))
            try:
                while data:
                    data = data[file.write(data) :]
            except BrokenPipeError:
                raise
            except OSError as error:
                with suppress(OSError):
                    file.truncate(written_bytes)
                raise unwritable(path, error) from error
            written_bytes = file.tell() if is_regular else 1

        def begin() -> None:
            nonlocal is_begun, written_bytes
            is_begun = True
            if is_regular:
                written_bytes = file.seek(former.end if former is not None else 0)
                file.truncate()
            if not written_bytes:
                write(csv_header(header))

        def add(record: Record) -> None:
            values = [row if digits is None else _rounded(row, digits) for row in rows(record)]
            if not is_begun:
                if former is not None:
                    former.compare(path, values[0])
                begin()
            write(csv_lines(header, values))

        if not os.fstat(file.fileno()).st_size:
            begin()  # at once, for those who follow a pipe
        try:
            yield add
        except Exception:
            is_begun = True  # an error before the first record leaves an earlier table
            raise
        finally:
            if not is_begun:
                begin()


def csv_header(header: Sequence[str]) -> str:
    """Returns the names of the columns as a line of CSV."""
    return csv_lines(header, [dict(zip(header, header, strict=True))])


def csv_lines(header: Sequence[str], values: Iterable[dict[str, Any]]) -> str:
    """Returns rows as lines of CSV, without a header; a missing value is an empty cell."""
    text = io.StringIO()
    csv.DictWriter(text, header, restval="", lineterminator="\n").writerows(map(_cells, values))
    return text.getvalue()


def _rounded(row: dict[str, Any], digits: int) -> dict[str, Any]:
    return {key: round(value, digits) if isinstance(value, float) else value for key, value in row.items()}


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    return {
        key: (csv_path if key == "input" else csv_text)(value) if isinstance(value, str) else value
        for key, value in row.items()
    }
