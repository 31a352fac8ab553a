"""Records as tables, in CSV and Parquet files, and in the formats of other tools."""

from __future__ import annotations

import csv
import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

from mien.errors import MienError
from mien.files import atomic_file, unwritable
from mien.locks import claim_file
from mien.recognition.faces import Face, Record
from mien.text import csv_path, csv_text, encodable

_ROWS_AT_ONCE = 4096

_SAME_SCORE = 0.01
"""Scores of one face by one model differ by less, whatever else is in its batch."""


def fer(record: Record) -> list[dict[str, Any]]:
    """Returns the faces as ``FER().detect_emotions`` does: ``box`` [x, y, w, h] in whole pixels, and ``emotions``."""
    return [{"box": _whole_box(face), "emotions": dict(face.probabilities)} for face in record.faces]


def deepface(record: Record) -> list[dict[str, Any]]:
    """Returns the faces as ``DeepFace.analyze(actions=["emotion"])`` does; emotions are in percent.

    ``face_confidence`` is the detector's score, in [0, 1] as in deepface: a score outside is moved to the nearer end.
    It is 0 if the detector has none. Eyes are not detected.
    """
    return [
        {
            "emotion": {name: 100 * value for name, value in face.probabilities.items()},
            "dominant_emotion": face.label,
            "region": {**dict(zip("xywh", _whole_box(face), strict=True)), "left_eye": None, "right_eye": None},
            "face_confidence": min(max(face.detector_score or 0.0, 0.0), 1.0),
        }
        for face in record.faces
    ]


def hf(record: Record) -> list[list[dict[str, Any]]]:
    """Returns for every face what ``transformers.pipeline("image-classification")`` does: ``label`` and ``score``, the
    surest first."""
    return [
        [
            {"label": name, "score": value}
            for name, value in sorted(face.probabilities.items(), key=lambda item: -item[1])
        ]
        for face in record.faces
    ]


FORMATS: dict[str, Callable[[Record], list[Any]]] = {"fer": fer, "deepface": deepface, "hf": hf}
"""Functions to the formats of other tools, by the tool's name."""


def columns(names: Sequence[str]) -> list[str]:
    """Returns the columns of a table of faces, for a model with these expressions."""
    of_record = ["input", "status", "error", "width", "height", "frame", "time_s"]
    of_face = ["face", "id", "box_x", "box_y", "box_w", "box_h", "label", "score", "uncertain", "detector_score"]
    return [*of_record, *of_face, *(f"probability_{name}" for name in names)]


def rows(record: Record) -> list[dict[str, Any]]:
    """Returns a row for every face of a record, or one without a face if it has none; missing values are None.

    ``face`` counts the faces of a picture from 0.
    """
    common = {key: value for key, value in record.to_dict().items() if key not in ("faces", "first_of_several")}
    common = {key: encodable(value) if isinstance(value, str) else value for key, value in common.items()}
    return [{**common, **_of_face(index, face)} for index, face in enumerate(record.faces)] or [common]


Add: TypeAlias = Callable[[Record], None]
"""Function that adds the next record to a table."""


class Ending:
    """Holds back what ends the block of a table or a film, until the records so far are in a complete file.

    Hours of reading must not be lost because of the last picture. Nothing is held back if the file itself could not be
    written, or if it has no record yet: then an earlier file stays. If there is none, Ctrl-C leaves an empty table.

    Args:
        path: the file; None if there is none, or if the caller keeps an earlier one.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._spares_earlier = path is not None and path.is_file()
        self._error: BaseException | None = None
        self._records = 0
        self._is_broken = False

    @contextmanager
    def held(self, add: Add) -> Iterator[Add]:
        """Gives the function that adds a record; what ends the block is kept for ``raise_again``."""

        def noted(record: Record) -> None:
            try:
                add(record)
            except Exception:
                self._is_broken = True
                raise
            self._records += 1

        try:
            yield noted
        except BaseException as error:
            makes_empty = isinstance(error, KeyboardInterrupt) and not self._spares_earlier
            if self._is_broken or not (self._records or makes_empty):
                raise
            self._error = error

    @property
    def is_early(self) -> bool:
        """True if an error or Ctrl-C has ended the block, and is held back."""
        return self._error is not None

    def raise_again(self) -> None:
        """Raises what ended the block, if it was not its end."""
        if self._error is not None:
            raise self._error


# CSV, which an earlier command may have begun.


@dataclass(frozen=True)
class Former:
    """What the table of an earlier command holds.

    Attributes:
        header: its columns; empty if there is no table yet.
        size: of the file in bytes.
        whole: bytes of whole rows.
        end: bytes that stay if ``again`` is read; what follows are its rows, of a film those from its last frame on.
        again: the input that is read again, as its cell has it; None if there is none.
        frames: of a film that is read again the numbers of its frames.
        first: the first of its rows; empty if there is none.
        last: the first row of its last frame, of a picture ``first``.
    """

    header: tuple[str, ...] = ()
    size: int = 0
    whole: int = 0
    end: int = 0
    again: str | None = None
    frames: Sequence[int] = ()
    first: dict[str, str] = field(default_factory=dict)
    last: dict[str, str] = field(default_factory=dict)

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

    def place(self, path: Path, row: dict[str, Any], index: int) -> int | None:
        """Returns after how many bytes a record is written; None if it is a frame that the table has and keeps.

        Args:
            path: of the table.
            row: the first row of the record.
            index: number of records before it in this command.

        Raises:
            MienError: frame, label or score differ, so that the table comes from another model or other options; or
                the score is no number.
        """
        if csv_path(row["input"]) != self.again:
            return self.whole
        if index == 0:
            self._compare(path, self.first, row)
        if row["frame"] is not None and index < len(self.frames) and row["frame"] != self.frames[index]:
            raise MienError(
                f"--resume: {path} has frame {self.frames[index]} of {self.again}, which is now read with frame "
                f"{row['frame']} in its place: another --every or another file; give those of before, or another --csv"
            )
        if row["frame"] is not None and index < len(self.frames) - 1:
            return None
        self._compare(path, self.last, row)
        return self.end

    def _compare(self, path: Path, former: dict[str, str], row: dict[str, Any]) -> None:
        if "error" in (former["status"], row["status"]):
            return
        labels = [former["label"] or "no face", row.get("label") or "no face"]
        try:
            scores = [float(former["score"] or 0), float(row.get("score") or 0)]
        except ValueError as error:
            raise MienError(
                f"--resume: {path} has {former['score']!r} as a score of {self.again}, expected a number such as "
                "0.75; undo what another program did to the table, or give another --csv"
            ) from error
        if labels[0] != labels[1] or abs(scores[0] - scores[1]) > _SAME_SCORE:
            raise MienError(
                f"--resume: {path} has {labels[0]} {scores[0]:.2f} for {self.again}, which is now read as {labels[1]} "
                f"{scores[1]:.2f}: another model, other options or another file; give those of before, or another --csv"
            )


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
        path: the file; an existing one is replaced, with the first record or when the block ends without an error or
            Ctrl-C.
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
        kept = 0  # records that the table has already

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

        def begin(place: int) -> None:
            nonlocal is_begun, written_bytes
            is_begun = True
            if is_regular:
                written_bytes = file.seek(place)
                file.truncate()
            if not written_bytes:
                write(csv_header(header))

        def add(record: Record) -> None:
            nonlocal kept
            values = [row if digits is None else _rounded(row, digits) for row in rows(record)]
            if not is_begun:
                place = 0 if former is None else former.place(path, values[0], kept)
                if place is None:
                    kept += 1
                    return
                begin(place)
            write(csv_lines(header, values))

        if not os.fstat(file.fileno()).st_size:
            begin(0)  # at once, for those who follow a pipe
        yield add  # what ends the block before the first record leaves an earlier table
        if not is_begun:
            begin(0 if former is None else former.whole)


def csv_header(header: Sequence[str]) -> str:
    """Returns the names of the columns as a line of CSV."""
    return csv_lines(header, [dict(zip(header, header, strict=True))])


def csv_lines(header: Sequence[str], values: Iterable[dict[str, Any]]) -> str:
    """Returns rows as lines of CSV, without a header; a missing value is an empty cell."""
    text = io.StringIO()
    csv.DictWriter(text, header, restval="", lineterminator="\n").writerows(map(_cells, values))
    return text.getvalue()


# Parquet.


def ensure_pyarrow() -> None:
    """Checks that Parquet files can be written.

    Raises:
        MienError: pyarrow is not installed.
    """
    if find_spec("pyarrow") is None:
        raise MienError("Parquet needs pyarrow, which is not installed; pip install 'mien[parquet]' brings it")


@contextmanager
def parquet_table(path: Path, names: Sequence[str]) -> Iterator[Add]:
    """Opens a Parquet file, which is complete when the block ends, whatever ends it (``Ending``).

    Args:
        path: the file; an existing one is replaced.
        names: the expressions of the model.

    Raises:
        MienError: it cannot be written, or pyarrow is not installed.
    """
    ensure_pyarrow()
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    whole, real, text = pyarrow.int64(), pyarrow.float64(), pyarrow.string()
    kinds = dict.fromkeys(["width", "height", "frame", "face", "id"], whole) | {"uncertain": pyarrow.bool_()}
    kinds |= dict.fromkeys(["input", "status", "error", "label"], text)
    schema = pyarrow.schema([(name, kinds.get(name, real)) for name in columns(names)])
    waiting: list[dict[str, Any]] = []
    ending = Ending(path)

    def flush() -> None:
        writer.write_table(pyarrow.Table.from_pylist(waiting, schema))
        waiting.clear()

    def add(record: Record) -> None:
        waiting.extend(rows(record))
        if len(waiting) >= _ROWS_AT_ONCE:
            flush()

    with atomic_file(path, spare_newcomer=True) as temporary, ParquetWriter(temporary, schema) as writer:
        with ending.held(add) as noted:
            yield noted
        flush()
    ending.raise_again()


def _whole_box(face: Face) -> list[int]:
    return [round(value) for value in face.box]


def _of_face(index: int, face: Face) -> dict[str, Any]:
    return {
        "face": index,
        "id": face.id,
        **{f"box_{side}": round(value, 1) for side, value in zip("xywh", face.box, strict=True)},
        "label": face.label,
        "score": face.score,
        "uncertain": face.uncertain,
        "detector_score": face.detector_score,
        **{f"probability_{name}": value for name, value in face.probabilities.items()},
    }


def _rounded(row: dict[str, Any], digits: int) -> dict[str, Any]:
    return {key: round(value, digits) if isinstance(value, float) else value for key, value in row.items()}


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    return {
        key: (csv_path if key == "input" else csv_text)(value) if isinstance(value, str) else value
        for key, value in row.items()
    }
