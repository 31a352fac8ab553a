"""Writes an Excel workbook for people: a sheet of faces, summaries, and a sheet that explains every column."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from tempfile import gettempdir
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

from mien.errors import MienError
from mien.files import atomic_file
from mien.recognition.faces import Face, Record
from mien.recognition.formats import Add, Ending, columns, rows
from mien.text import csv_path, csv_text

MOST_ROWS = 1_048_576
"""Rows of a sheet, by Excel's specification; more faces continue on another sheet."""

LONGEST_CELL = 32_767
"""Characters of a cell, by Excel's specification."""

SHARE = "0.0%"
"""Number format of probabilities and shares."""

_WIDE = {"input": 40, "file": 40, "error": 40, "column": 26, "meaning": 110}
_SHARES = ("score", "share", "mean_", "probability_")

MEANINGS: dict[str, str] = {
    "input": "the picture or film; a name that begins with =, +, - or @ has ./ in front, so that it is no formula",
    "status": "ok: at least one face; no_face: none was detected; error: the picture cannot be read",
    "error": "why it cannot be read",
    "width, height": "of the upright picture, in pixels",
    "frame": "number of the frame in a film, from 0; empty for a picture",
    "time_s": "time of the frame in seconds from the start of the film; empty for a picture",
    "face": "number of the face in its picture or frame, from left to right, from 0",
    "id": "number of a face that is followed through a film; empty for a picture. It identifies nobody",
    "box_x, box_y, box_w, box_h": "left, top, width and height of the face in pixels",
    "label": "the most probable expression: a guess about how the face looks, not about what the person feels",
    "score": "probability of the label, calibrated on photographs that the model had not seen in training",
    "uncertain": "TRUE: the probability of the label is below the threshold from which the model promises its stated "
    "accuracy (80 % for the models that come with Mien) on new photographs; treat such a label as not known. "
    "FALSE: it reaches the threshold. Empty: the model was not calibrated. In films the probabilities are smoothed "
    "over time, for which the promise was not measured",
    "detector_score": "how sure the detector is that this is a face, on its own scale",
    "probability_...": "probability of each expression; those of a face sum to 100 %",
    "faces": "number of faces, one for each frame in films",
    "records": "number of pictures, or of frames that were read",
    "sure": "number of them that are not uncertain",
    "share": "part of all faces that have this label",
    "unreadable": "number of pictures or frames with status error",
    "most_frequent": "the label of most of these faces",
    "person": "the id of a face that is followed through a film; after a cut it has a new one. It identifies nobody",
    "first_s, last_s": "when the face is first and last seen, in seconds",
    "second": "of the film: 0 holds the frames from 0 to 1 second",
    "mean_...": "mean probability of an expression over these faces",
}
"""What each column of the sheets means."""


def ensure_openpyxl() -> None:
    """Checks that workbooks can be written.

    Raises:
        MienError: openpyxl is not installed.
    """
    if find_spec("openpyxl") is None:
        raise MienError("--xlsx needs openpyxl, which is not installed; pip install 'mien[tables]' brings it")


@dataclass
class _Sums:
    """What is known of a group of faces, without the faces."""

    records: int = 0
    unreadable: int = 0
    faces: int = 0
    sure: int = 0
    first_s: float = math.inf
    last_s: float = -math.inf
    labels: Counter[str] = field(default_factory=Counter)
    totals: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, face: Face, time_s: float | None = None) -> None:
        self.faces += 1
        self.sure += face.uncertain is False
        self.labels[face.label] += 1
        for name, value in face.probabilities.items():
            self.totals[name] += value
        if time_s is not None:
            self.first_s, self.last_s = min(self.first_s, time_s), max(self.last_s, time_s)

    def most_frequent(self) -> str | None:
        return self.labels.most_common(1)[0][0] if self.labels else None

    def means(self, names: Sequence[str]) -> list[float | None]:
        return [self.totals[name] / self.faces if self.faces else None for name in names]

    def cells(self, names: Sequence[str]) -> list[Any]:
        """The cells below ``faces``, ``sure``, ``most_frequent`` and the means."""
        return [self.faces, self.sure, self.most_frequent(), *self.means(names)]


@dataclass
class Summary:
    """Sums over all faces, and over those of each expression, file, person and second; memory grows with these alone.

    Attributes:
        names: the expressions of the model.
    """

    names: Sequence[str]
    whole: _Sums = field(default_factory=_Sums)
    files: defaultdict[str, _Sums] = field(default_factory=lambda: defaultdict(_Sums))
    people: defaultdict[tuple[str, int], _Sums] = field(default_factory=lambda: defaultdict(_Sums))
    seconds: defaultdict[tuple[str, int], _Sums] = field(default_factory=lambda: defaultdict(_Sums))
    sure: Counter[str] = field(default_factory=Counter)

    def add(self, record: Record) -> None:
        """Adds the faces of a record."""
        of_file = self.files[record.input]
        of_file.records += 1
        of_file.unreadable += record.status == "error"
        for face in record.faces:
            groups = [self.whole, of_file]
            if face.id is not None:
                groups.append(self.people[record.input, face.id])
            if record.time_s is not None:
                groups.append(self.seconds[record.input, math.floor(record.time_s)])
            for group in groups:
                group.add(face, record.time_s)
            self.sure[face.label] += face.uncertain is False

    def sheets(self) -> Iterator[tuple[str, list[str], Iterable[list[Any]]]]:
        """The name, the heads and the rows of each sheet."""
        of_faces = ["faces", "sure", "most_frequent", *(f"mean_{name}" for name in self.names)]
        whole = self.whole
        yield (
            "Expressions",
            ["label", "faces", "share", "sure", "mean_probability"],
            (
                [name, count := whole.labels[name], count / whole.faces if whole.faces else None, self.sure[name], mean]
                for name, mean in zip(self.names, whole.means(self.names), strict=True)
            ),
        )  # fmt: skip
        yield (
            "Files",
            ["file", "records", "unreadable", *of_faces],
            ([_path(name), of.records, of.unreadable, *of.cells(self.names)] for name, of in self.files.items()),
        )
        yield (
            "People",
            ["file", "person", "first_s", "last_s", *of_faces],
            (
                [_path(name), number, _time(of.first_s), _time(of.last_s), *of.cells(self.names)]
                for (name, number), of in self.people.items()
            ),
        )
        yield (
            "Seconds",
            ["file", "second", *of_faces],
            ([_path(name), second, *of.cells(self.names)] for (name, second), of in sorted(self.seconds.items())),
        )
        yield "Columns", ["column", "meaning"], ([name, meaning] for name, meaning in MEANINGS.items())


class _Sheet:
    """A sheet that is written row by row; when it is full, another one continues it."""

    def __init__(self, workbook: Any, title: str, heads: Sequence[str]) -> None:
        self.workbook, self.title, self.heads, self.count = workbook, title, heads, 0
        self._open()

    def _open(self) -> None:
        from openpyxl.cell import WriteOnlyCell
        from openpyxl.styles import Font
        from openpyxl.utils import get_column_letter

        self.count += 1
        self.sheet = self.workbook.create_sheet(self.title if self.count == 1 else f"{self.title} {self.count}")
        self.sheet.freeze_panes = "A2"
        for column, head in enumerate(self.heads, 1):
            self.sheet.column_dimensions[get_column_letter(column)].width = _WIDE.get(head, max(10, len(head) + 2))
        cells = [WriteOnlyCell(self.sheet, value=_text(head)) for head in self.heads]
        for cell in cells:
            cell.font = Font(bold=True)
        self.sheet.append(cells)
        self.rows = 1

    def append(self, values: Iterable[Any]) -> None:
        """Adds a row, in the order of the heads."""
        from openpyxl.cell import WriteOnlyCell

        if self.rows == MOST_ROWS:
            self._open()
        cells = []
        for head, value in zip(self.heads, values, strict=True):
            value = round(value, 4) if isinstance(value, float) else value
            if isinstance(value, float) and head.startswith(_SHARES):
                value = WriteOnlyCell(self.sheet, value=value)
                value.number_format = SHARE
            cells.append(_text(value) if isinstance(value, str) else value)
        self.sheet.append(cells)
        self.rows += 1


@contextmanager
def xlsx_table(path: Path, names: Sequence[str]) -> Iterator[Add]:
    """Opens a workbook, which is complete when the block ends, whatever ends it (``mien.recognition.formats.Ending``).

    Faces are written to a temporary file on the way, so that memory does not grow with them. No cell is a formula, by
    the rule of ``mien.recognition.formats.csv_table``. Probabilities are rounded to 0.01 %.

    Args:
        path: the file; an existing one is replaced.
        names: the expressions of the model.

    Raises:
        MienError: it cannot be written, or openpyxl is not installed.
    """
    ensure_openpyxl()
    from openpyxl import Workbook
    from openpyxl.writer.excel import ExcelWriter

    workbook, heads, summary = Workbook(write_only=True), columns(names), Summary(names)
    faces = _Sheet(workbook, "Faces", heads)
    ending = Ending(path)

    def add(record: Record) -> None:
        summary.add(record)
        with _temporary_files(path):
            for row in rows(record):
                values = {**row, "input": _path(record.input)}
                faces.append(values.get(head) for head in heads)

    with atomic_file(path, spare_newcomer=True) as temporary:
        try:
            with ending.held(add) as noted:
                yield noted
            with _temporary_files(path):
                for title, sheet_heads, values in summary.sheets():
                    summary_sheet = _Sheet(workbook, title, sheet_heads)
                    for cells in values:
                        summary_sheet.append(cells)
                for sheet in workbook.worksheets:
                    sheet.close()
            # Closed here: an archive that ``workbook.save`` leaves open on a full disk prints tracebacks at exit.
            with ZipFile(temporary, "w", ZIP_DEFLATED) as archive:
                ExcelWriter(workbook, archive).save()
        except BaseException:
            for sheet in workbook.worksheets:
                with suppress(Exception):  # the disk may be full, or the sheet is closed already
                    sheet.close()  # ends its temporary file, which openpyxl removes at exit
            raise
    ending.raise_again()


@contextmanager
def _temporary_files(path: Path) -> Iterator[None]:
    """Says where the temporary files of a workbook are if one of them cannot be written: perhaps on another disk."""
    try:
        yield
    except OSError as error:
        raise MienError(
            f"{path}: cannot be written, as its temporary file in {gettempdir()} cannot "
            f"({error.strerror or error}); free some space there, or set TMPDIR to another folder"
        ) from error


def _text(text: str) -> str:
    """A text for a cell: no formula, no control character, not too long."""
    return _fit_for_xml(csv_text(text))[:LONGEST_CELL]


def _path(path: str) -> str:
    return _fit_for_xml(csv_path(path))[:LONGEST_CELL]


def _fit_for_xml(text: str) -> str:
    """Escapes the two characters that XML does not allow and openpyxl lets through: no workbook with them opens."""
    return text.replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")


def _time(seconds: float) -> float | None:
    return round(seconds, 3) if math.isfinite(seconds) else None
