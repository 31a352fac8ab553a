"""Reads any number of pictures and films and yields their records in order, with memory for one batch.

``read_inputs`` reads in this process, ``TimedReader`` in a second one that is killed if an input takes too long.
``resume`` leaves out what a table of an earlier command holds.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mien.errors import NO_MEMORY, MienError
from mien.files import SparedError
from mien.locks import clear_files
from mien.recognition.draw import Copies, CopyError
from mien.recognition.film.timeline import timeline_file
from mien.recognition.film.tracking import SMOOTHING_S
from mien.recognition.formats import Former, columns
from mien.recognition.paths import Film, Input, Nothing, Piped
from mien.recognition.recognizer import BrokenModelError, Recognizer
from mien.recognition.results import Recognition
from mien.recognition.time_limit import Alive, OverdueError, Say, TimedProcess, Work
from mien.text import csv_path, encodable


def silent(line: str) -> None:
    """Takes a line and says nothing."""


@dataclass(frozen=True)
class Settings:
    """Options for reading inputs, most of them for films.

    Attributes:
        every: read only every ``every``-th frame.
        smoothing: time constant in seconds for smoothing probabilities; 0 for none.
        video_out: path of the film with boxes, if there is exactly one film.
        timeline: path of the picture of its timeline, if there is exactly one film.
        audio: copy the sound into films with boxes.
        say: called with a line for each deviation in a written film: another codec, or sound that was re-encoded.
        not_copied: called with a line for each copy that cannot be written though others may, such as a picture that
            is too large for its format; reading goes on.
        batch: number of frames that share a batch; None for the usual one.
        decoded: called after each frame that was decoded, also if it is not read.
    """

    every: int = 1
    smoothing: float = SMOOTHING_S
    video_out: Path | None = None
    timeline: Path | None = None
    audio: bool = True
    say: Callable[[str], None] = silent
    not_copied: Callable[[str], None] = silent
    batch: int | None = None
    decoded: Callable[[], None] | None = None

    def outputs(self) -> list[Path]:
        """Returns the paths of the film with boxes and of the timeline, if there are any."""
        return [path for path in (self.video_out, self.timeline) if path is not None]


def read_inputs(
    recognizer: Recognizer,
    inputs: Sequence[Input],
    settings: Settings,
    copies: Copies | None = None,
) -> Generator[Recognition, None, None]:
    """Reads inputs one after the other; consecutive pictures share batches.

    Args:
        recognizer: reads the pictures.
        inputs: pictures, films, cameras and arguments that name neither.
        settings: the options.
        copies: writes annotated copies of pictures and films; None for no copies.

    Yields:
        A record for every picture and every frame, in order, without pixels; status ``error`` if it cannot be read.

    Raises:
        MienError: an output cannot be written, or the model answers with NaN.
    """
    for kind, group in itertools.groupby(inputs, type):
        if issubclass(kind, Path | Piped):
            for record in recognizer.stream(group, keep_pixels=copies is not None):
                _copy(record, "stdin" if kind is Piped else record.input, copies, settings)
                yield replace(record, pixels=None)
            continue
        for source in group:
            if isinstance(source, Nothing):
                yield Recognition(source.name, "error", source.reason)
            elif isinstance(source, Film):
                yield from _read_film(recognizer, source, settings, copies)


def _copy(record: Recognition, name: str, copies: Copies | None, settings: Settings) -> None:
    """Writes the copy of a picture under its name, if there are to be copies and it could be read."""
    if copies is None or record.pixels is None:
        return
    try:
        copies.add(replace(record, input=name))
    except CopyError as error:
        settings.not_copied(str(error))


class _FilmCopy:
    """Writes a copy or the timeline of a film; if that fails, the reason is reported and the film is read on.

    Args:
        copy: writes it (``write_annotated`` or ``timeline_file`` of ``mien.recognition.film``).
        not_copied: called with the reason.
        may_move: True if the copy may get another name if a file appears at its path while it is written.
    """

    def __init__(
        self,
        copy: AbstractContextManager[Callable[[Recognition], None]],
        not_copied: Callable[[str], None],
        *,
        may_move: bool,
    ) -> None:
        self._copy, self._not_copied, self._may_move = copy, not_copied, may_move
        self._stack = ExitStack()
        self._write: Callable[[Recognition], None] | None = None

    def __enter__(self) -> Callable[[Recognition], None]:
        self._write = self._stack.enter_context(self._copy)
        return self.write

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._write is not None:
            self._end(error)

    def write(self, record: Recognition) -> None:
        """Appends the frame of a record, unless an earlier one could not be written."""
        if self._write is None:
            return
        try:
            self._write(record)
        except Exception as error:
            self._end(error, is_of_copy=True)

    def _end(self, error: BaseException | None, *, is_of_copy: bool = False) -> None:
        """Finishes the copy after what has ended its block; raises again what is not a fault of this copy alone."""
        from mien.recognition.film.writer import NoFrameError

        self._write = None
        try:
            with self._stack:
                if error is not None:
                    raise error
        except NoFrameError:
            pass  # the records already say that no frame could be decoded
        except MienError as failure:
            if isinstance(failure, SparedError) and self._may_move:
                return
            if failure is error and not is_of_copy:
                raise
            self._not_copied(str(failure))


def _read_film(recognizer: Recognizer, film: Film, settings: Settings, copies: Copies | None) -> Iterator[Recognition]:
    """Yields the records of a film or a camera, and writes its copies and its timeline on the way."""
    # Imported here, so that reading pictures does not wait for FFmpeg.
    from mien.recognition.film.reader import film_info
    from mien.recognition.film.records import FilmRecognition
    from mien.recognition.film.writer import ENDINGS, write_annotated

    places = [] if settings.video_out is None else [settings.video_out]
    if copies is not None:
        places.append(copies.place(Path(film.name).name, ENDINGS, ".mp4"))
    try:
        info = film_info(film.source) if places else None
    except MienError as error:
        yield Recognition(film.name, "error", str(error))
        return
    records = FilmRecognition(
        recognizer, film.source, every=settings.every, smoothing=settings.smoothing,
        batch=settings.batch, keep_pixels=bool(places), decoded=settings.decoded,
    )  # fmt: skip
    with ExitStack() as stack:
        writers: list[Callable[[Recognition], None]] = []
        if settings.timeline is not None:
            timeline = timeline_file(settings.timeline, Path(film.name).name, settings.smoothing)
            writers.append(stack.enter_context(_FilmCopy(timeline, settings.not_copied, may_move=False)))
        if info is not None:
            for place in places:
                may_move = place != settings.video_out
                sound = film.source if settings.audio else None
                copy = write_annotated(
                    place, info, every=settings.every, sound=sound, say=settings.say, spare_all=may_move
                )
                writers.append(stack.enter_context(_FilmCopy(copy, settings.not_copied, may_move=may_move)))
        for record in _with_reason_at_end(records, film):
            for write in writers:
                write(record)
            yield replace(record, pixels=None)


def _with_reason_at_end(records: Iterator[Recognition], film: Film) -> Iterator[Recognition]:
    """Yields the records of a film; if reading fails, the last one gives the reason."""
    try:
        yield from records
    except BrokenModelError:
        raise
    except MienError as error:
        yield Recognition(film.name, "error", str(error))
    except MemoryError:  # only this film is too large: the next input may be smaller
        yield Recognition(film.name, "error", f"{film.name}: {NO_MEMORY}")


def resume(path: Path, inputs: Sequence[Input]) -> tuple[list[Input], Former]:
    """Finds the inputs that the table of an earlier command lacks.

    Its last input is read again: nobody knows whether a film was read to its end. The table keeps the frames that it
    has of it, but for the last one, of which rows may be missing.

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
    first_columns = columns(())
    done: Counter[str] = Counter()
    again, frame, begin, end = None, "", 0, 0
    first: dict[str, str] = {}
    last: dict[str, str] = {}
    frames: list[int] = []
    with file:
        for line in file:
            if not line.endswith(b"\n"):
                break  # half a row, by a crash of the machine
            try:
                cells = next(csv.reader([line.decode("utf-8-sig" if not end else "utf-8", "replace")]), [])
            except csv.Error:  # a cell of more than 131,072 letters
                cells = []
            if not header:
                header = cells
                if header[: len(first_columns)] != first_columns:
                    raise MienError(f"--resume: {path} is no table of `mien predict --csv`; give another name")
            elif len(cells) == len(header):
                values = dict(zip(header, cells, strict=True))
                # A film begins with frame 0; a row without a frame after its frames says why its reading ended.
                is_first = values["face"] in ("", "0") and (values["frame"] == "0" or not (values["frame"] or frame))
                if values["input"] != again or is_first:
                    done[values["input"]] += 1
                    again, begin, frames = values["input"], end, []
                    first = last = values
                if values["frame"].isdecimal() and int(values["frame"]) not in frames[-1:]:
                    begin, last = end, values
                    frames.append(int(values["frame"]))
                frame = values["frame"]
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
            return [left.pop(number), *left], Former(tuple(header), size, end, begin, again, frames, first, last)
    return left, Former(tuple(header), size, end, end)


def _cell(source: Input) -> str:
    """The cell that names an input."""
    return csv_path(encodable(str(source) if isinstance(source, Path) else source.name))


_FINISHING_S = 4.0
"""Seconds to finish the copies and the timeline of a film that exceeds the limit; less than ``time_limit._ALARM_S``."""


class TimedReader:
    """Reads inputs as ``read_inputs`` does, with a time limit for each.

    Args:
        seconds: limit for a picture, for the first frame of a film or camera, and from frame to frame, also for frames
            that ``every`` skips.
        options: keyword arguments of ``Recognizer``; they must be picklable.
        settings: the other options.
        annotate: folder of the annotated copies; None for no copies.

    Raises:
        MienError: the model or the detector cannot be loaded.
    """

    def __init__(
        self, seconds: float, options: dict[str, Any], settings: Settings, annotate: Path | None = None
    ) -> None:
        self._out_folders = [path.parent for path in settings.outputs()]
        self._out_folders += [] if annotate is None else [annotate]
        portable = replace(settings, say=silent, not_copied=silent)

        def pass_on(remark: tuple[Literal["say", "not_copied"], str]) -> None:
            getattr(settings, remark[0])(remark[1])

        self._process = TimedProcess(seconds, _prepare_reading, options, portable, annotate, say=pass_on)
        self.names: tuple[str, ...]
        self.threshold: float | None
        self.stated_accuracy: float | None
        self.names, self.threshold, self.stated_accuracy = self._process.greeting

    def read(self, inputs: Sequence[Input]) -> Generator[Recognition, None, None]:
        """Yields a record for every picture and every frame, in order; with status ``error`` if it exceeds the limit or
        crashes the process. The copies and the timeline of a film that exceeds it hold the frames until then; they are
        lost if native code crashes or hangs.

        Raises:
            MienError: as ``read_inputs``.
        """
        try:
            for source in inputs:
                if isinstance(source, Nothing):
                    yield Recognition(source.name, "error", source.reason)
                    continue
                name = os.fspath(source) if isinstance(source, Path) else source.name
                try:
                    is_written = isinstance(source, Film) and bool(self._out_folders)
                    yield from self._process.answers(source, name, _FINISHING_S if is_written else 0.0)
                except OverdueError as error:
                    for folder in self._out_folders:
                        clear_files(folder)
                    yield Recognition(name, "error", str(error))
        finally:
            self.close()

    def close(self) -> None:
        """Ends the process; a film that is being written is finished properly, as after Ctrl-C."""
        self._process.close()


def _prepare_reading(
    say: Say, options: dict[str, Any], portable: Settings, annotate: Path | None
) -> tuple[tuple[tuple[str, ...], float | None, float | None], Work]:
    """Runs in the process: loads the recognizer; returns its names, threshold and stated accuracy, and the function
    that reads."""
    recognizer = Recognizer(**options)
    # Each frame has the whole limit: as a part of a batch, the first one would wait for the others, and between the
    # frames that are read many may have to be decoded.
    settings = replace(
        portable,
        say=lambda line: say(("say", line)),
        not_copied=lambda line: say(("not_copied", line)),
        batch=1,
        decoded=lambda: say(Alive()),
    )
    copies = None if annotate is None else Copies(annotate, settings.outputs())
    greeting = recognizer.names, recognizer.engine.threshold, recognizer.stated_accuracy
    return greeting, lambda source: read_inputs(recognizer, [source], settings, copies)
