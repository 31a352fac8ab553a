"""The results as users get them: records that become tables, JSON and pictures."""

from __future__ import annotations

import io
import os
from abc import abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, overload

from PIL import Image

from mien.errors import MienError
from mien.files import atomic_file, expanded
from mien.recognition.faces import MOST_IN_REPR, Record
from mien.recognition.faces import Box as Box
from mien.recognition.faces import Face as Face
from mien.recognition.formats import Ending, columns, csv_header, csv_lines, csv_table, rows
from mien.text import json_shown

if TYPE_CHECKING:
    import pandas


class Tables:
    """What all results can do: become a table of faces, JSON, or a file of either.

    A table has a row for every face, and one without a face for a picture that has none or cannot be read
    (``mien.recognition.formats.columns``). Expressions are guesses about how a face looks, not what a person feels.
    """

    @abstractmethod
    def _records(self) -> Iterable[Recognition]:
        """The records of the table, in order."""

    def _names(self) -> tuple[str, ...] | None:
        """The expressions of the model, if they are known without reading the records."""
        return None

    def _until_stopped(self) -> AbstractContextManager[object]:
        """Context in which the records are read into memory; it swallows what ends a source that has no end."""
        return nullcontext()

    def _check_not_source(self, path: Path) -> None:
        """Raises a MienError if a file to write is what the records were read from, or are yet to be."""

    def _read(self) -> tuple[Iterable[Recognition], tuple[str, ...]]:
        """Returns the records, and the expressions: of all models whose records these are, if no one model is known."""
        names = self._names()
        if names is not None:
            return self._records(), names
        records = list(self._records())
        of_records = (record.names for record in records)
        of_faces = (face.probabilities for record in records for face in record.faces)
        return records, tuple(dict.fromkeys(chain.from_iterable(chain(of_records, of_faces))))

    def to_rows(self) -> list[dict[str, Any]]:
        """Returns the rows of ``to_df`` as dicts: one for every face, or one without a face for a picture without any.

        Every row has the same keys; missing values are None. Ctrl-C ends the reading of a camera: the rows until then
        are returned.
        """
        records, names = self._read()
        empty = dict.fromkeys(columns(names))
        return [empty | row for row in self._rows(records)]

    def _rows(self, records: Iterable[Recognition]) -> list[dict[str, Any]]:
        """The rows of the records in memory; of a camera until Ctrl-C."""
        table: list[dict[str, Any]] = []
        with self._until_stopped():
            for record in records:
                table += rows(record)
        return table

    def to_df(self) -> pandas.DataFrame:
        """Returns a pandas DataFrame with a row for every face; of a camera those until Ctrl-C.

        Raises:
            MienError: pandas is not installed.
        """
        if find_spec("pandas") is None:
            raise MienError("to_df: needs pandas, which is not installed; pip install 'mien[tables]' brings it")
        import pandas

        records, names = self._read()
        return pandas.DataFrame(self._rows(records), columns=columns(names))

    @overload
    def to_csv(self, path: None = None) -> str: ...

    @overload
    def to_csv(self, path: str | os.PathLike[str]) -> None: ...

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str | None:
        """Returns the table as CSV, or writes it to a file as ``mien predict --csv`` does and returns None.

        Ctrl-C ends the reading of a camera: the text until then is returned. A file holds the rows until then, and the
        KeyboardInterrupt is raised. What ends the reading before the first record leaves an earlier file.

        Args:
            path: a file, which is replaced; None to get the text.

        Raises:
            MienError: the file cannot be written, another command writes it, or it is a picture or film that is read.
        """
        records, names = self._read()
        if path is None:
            header = columns(names)
            lines = [csv_header(header)]
            with self._until_stopped():
                for record in records:
                    lines.append(csv_lines(header, rows(record)))
            return "".join(lines)
        path = expanded(path)
        self._check_not_source(path)
        with csv_table(path, names) as add:
            for record in records:
                add(record)
        return None

    @overload
    def to_json(self, path: None = None) -> str: ...

    @overload
    def to_json(self, path: str | os.PathLike[str]) -> None: ...

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str | None:
        """Returns the records as JSON, or writes them to a file and returns None.

        A picture is one object, as ``to_dict`` returns it; several are an array, one object a line. A file whose name
        ends in ``.jsonl`` gets the lines without the array.

        Ctrl-C ends the reading of a camera: the text until then is returned. A file is complete whatever ends the
        reading, and holds the records until then; the error or KeyboardInterrupt is raised afterwards. What ends it
        before the first record leaves an earlier file.

        Args:
            path: a file, which is replaced; None to get the text.

        Raises:
            MienError: the file cannot be written, or is a picture or film that is read.
        """
        if path is None:
            text = io.StringIO()
            ending = Ending()
            self._write_json(text, ending, lines=False)
            with self._until_stopped():
                ending.raise_again()
            return text.getvalue()
        path = expanded(path)
        self._check_not_source(path)
        lines = path.suffix.lower() == ".jsonl"
        ending = Ending(path)
        with (
            atomic_file(path, spare_newcomer=True) as temporary,
            open(temporary, "w", encoding="utf-8", newline="\n") as file,
        ):
            self._write_json(file, ending, lines)
            file.write("" if lines else "\n")
        ending.raise_again()
        return None

    def _write_json(self, file: TextIO, ending: Ending, lines: bool) -> None:
        """Writes the records as an array or as lines; ``ending`` keeps what ended their reading too early."""
        before = ""

        def add(record: Record) -> None:
            nonlocal before
            file.write(before + _json_text(record.to_dict()) + ("\n" if lines else ""))
            before = "" if lines else ",\n"

        file.write("" if lines else "[")
        with ending.held(add) as noted:
            for record in self._records():
                noted(record)
        file.write("" if lines else "]")


@dataclass(frozen=True, repr=False)
class Recognition(Record, Tables):
    """The result for one picture, or for one frame of a film. It iterates over its faces, which have an index.

    As with a list, ``len`` is the number of faces, and a result without faces is false.

    Attributes:
        input: the path, or ``picture N`` for pixels, counted from 0.
        status: ``ok`` (at least one face), ``no_face``, or ``error`` (the picture cannot be read).
        error: the reason in one line if the status is ``error``, else None.
        width: width of the upright picture in pixels; None if it cannot be read.
        height: its height in pixels; None if it cannot be read.
        faces: from left to right.
        frame: number of the frame in a film, from 0; None for a picture.
        time_s: time at which the frame is shown, in seconds from the start; None for a picture.
        pixels: uint8 [height, width] (grey) or [height, width, 3] (RGB), upright; None if they were not kept.
        names: the expressions that the model distinguishes, which are columns of a table also without a face; empty if
            they are not known.
        first_of_several: True if the file holds more pictures, as frames of an animation or as pages; they were not
            read. Not in tables; in JSON only if it is True.
    """

    def annotated(self) -> Image.Image:
        """Returns a copy of the picture with a box and a label for every face; mode RGB.

        Raises:
            MienError: the picture could not be read, or its pixels were not kept (``Recognizer.stream`` without
                ``keep_pixels``, the frames of a film).
        """
        from mien.recognition.draw import drawn  # it loads fonts, which reading does not need

        return drawn(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the picture with a box and a label for every face, in the format of the file's ending.

        Raises:
            MienError: as ``annotated``; or the file is the picture that was read, no picture format has this ending,
                the format does not hold a picture of this size, or the file cannot be written.
        """
        from mien.recognition.draw import write_picture

        path = expanded(path)
        self._check_not_source(path)
        write_picture(self.annotated(), path)

    def show(self) -> None:
        """Opens the picture with its boxes in the system's viewer, or below the cell of a notebook.

        Raises:
            MienError: as ``annotated``.
        """
        self.annotated().show(self.input)

    def _repr_png_(self) -> bytes | None:
        """The picture with its boxes as a PNG file, for notebooks; None if there are no pixels."""
        if self.pixels is None:
            return None
        buffer = io.BytesIO()
        self.annotated().save(buffer, "PNG")
        return buffer.getvalue()

    def _records(self) -> Iterable[Recognition]:
        return [self]

    def _check_not_source(self, path: Path) -> None:
        sources = filter(os.path.exists, (self.input, os.path.expanduser(self.input)))
        if os.path.exists(path) and any(os.path.samefile(path, source) for source in sources):
            raise MienError(f"{path}: is the picture that was read; choose another place, so that it is not lost")

    def _write_json(self, file: TextIO, ending: Ending, lines: bool) -> None:
        file.write(_json_text(self.to_dict()) + ("\n" if lines else ""))


class Recognitions(list[Recognition], Tables):
    """The results for a list of pictures: a list with tables, in the order of the pictures."""

    def to_dict(self) -> list[dict[str, Any]]:
        """Returns the JSON-ready dicts of the records (``Recognition.to_dict``)."""
        return [record.to_dict() for record in self]

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Writes a copy with boxes of every picture that could be read, under its name; a name in use gets a number.

        Args:
            folder: folder of the copies; it is created if it does not exist.

        Returns:
            The paths of the copies.

        Raises:
            MienError: some copies cannot be written, as the format does not hold them, the disk is full or the folder
                cannot be written to. All others are there; the message says how many are missing, and why.
        """
        from mien.recognition.draw import Copies

        copies = Copies(expanded(folder))
        paths: list[Path] = []
        problems: list[str] = []
        for record in self:
            if record.pixels is None:
                continue
            try:
                paths.append(copies.add(record))
            except MienError as error:
                problems.append(str(error))
        if problems:
            more = [f"and {len(problems) - MOST_IN_REPR} more"] if len(problems) > MOST_IN_REPR else []
            raise MienError(
                f"{folder}: {len(problems)} of {len(problems) + len(paths)} copies could not be written: "
                + "; ".join([*problems[:MOST_IN_REPR], *more])
            )
        return paths

    def __repr__(self) -> str:
        words = [repr(record) for record in islice(self, MOST_IN_REPR)]
        more = len(self) - MOST_IN_REPR
        return f"[{', '.join(words)}{f', and {more} more' if more > 0 else ''}]"

    def _records(self) -> Iterable[Recognition]:
        return self

    def _check_not_source(self, path: Path) -> None:
        for record in self:
            record._check_not_source(path)


def _json_text(value: Any) -> str:
    """Encodes JSON in UTF-8, or in ASCII if a file name has bytes that are not UTF-8."""
    text = json_shown(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json_shown(value, ascii_only=True)
    return text
