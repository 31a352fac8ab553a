"""Reads any number of pictures and films and yields their records in order, with memory for one batch.

``read_inputs`` reads in this process, ``TimedReader`` in a second one that is killed if an input takes too long.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mien.errors import MienError
from mien.locks import clear_files
from mien.recognition.draw import Copies
from mien.recognition.film.timeline import timeline_file
from mien.recognition.film.tracking import SMOOTHING_S
from mien.recognition.paths import Film, Input, Nothing, Piped
from mien.recognition.recognizer import BrokenModelError, Recognizer
from mien.recognition.results import Recognition
from mien.recognition.time_limit import OverdueError, Say, TimedProcess, Work


@dataclass(frozen=True)
class FilmSettings:
    """Options for reading films.

    Attributes:
        every: read only every ``every``-th frame.
        smoothing: time constant in seconds for smoothing probabilities; 0 for none.
        video_out: path of the film with boxes, if there is exactly one film.
        timeline: path of the picture of its timeline, if there is exactly one film.
        audio: copy the sound into films with boxes.
        say: called with a line for each deviation in a written film: another codec, or sound that was re-encoded.
    """

    every: int = 1
    smoothing: float = SMOOTHING_S
    video_out: Path | None = None
    timeline: Path | None = None
    audio: bool = True
    say: Callable[[str], None] | None = None


def read_inputs(
    recognizer: Recognizer, inputs: Sequence[Input], films: FilmSettings, copies: Copies | None = None
) -> Generator[Recognition, None, None]:
    """Reads inputs one after the other; consecutive pictures share batches.

    Args:
        recognizer: reads the pictures.
        inputs: pictures, films, cameras and arguments that name neither.
        films: options for films.
        copies: writes annotated copies of pictures and films; None for no copies.

    Yields:
        A record for every picture and every frame, in order, without pixels; status ``error`` if it cannot be read.

    Raises:
        MienError: an output cannot be written, or the model answers with NaN.
    """
    for kind, group in itertools.groupby(inputs, type):
        if issubclass(kind, Path):
            yield from _of_pictures(recognizer, group, copies)
            continue
        for source in group:
            if isinstance(source, Nothing):
                yield Recognition(source.word, "error", source.reason)
            elif isinstance(source, Piped):
                yield _of_piped(recognizer, source, copies)
            elif isinstance(source, Film):
                yield from _of_film(recognizer, source, films, copies)


def _of_pictures(recognizer: Recognizer, paths: Iterator[Input], copies: Copies | None) -> Iterator[Recognition]:
    """Yields the records of pictures, and writes their copies on the way."""
    for record in recognizer.stream(paths, keep_pixels=copies is not None):
        if copies is not None and record.pixels is not None:
            copies.add(record)
        yield replace(record, pixels=None)


def _of_piped(recognizer: Recognizer, source: Piped, copies: Copies | None) -> Recognition:
    """Returns the record of a picture from standard input, and writes its copy."""
    (record,) = recognizer.stream([source.data], keep_pixels=copies is not None)
    if copies is not None and record.pixels is not None:
        copies.add(replace(record, input="stdin"))
    error = record.error if record.error is None else record.error.replace(record.input, source.name, 1)
    return replace(record, input=source.name, error=error, pixels=None)


def _of_film(
    recognizer: Recognizer, film: Film, settings: FilmSettings, copies: Copies | None
) -> Iterator[Recognition]:
    """Yields the records of a film or a camera, and writes its copies and its timeline on the way."""
    # Imported here, so that reading pictures does not wait for FFmpeg.
    from mien.recognition.film import reader as frames
    from mien.recognition.film.records import recognize_film
    from mien.recognition.film.writer import ENDINGS, NoFrameError, write_copy

    places = [] if settings.video_out is None else [settings.video_out]
    if copies is not None:
        places.append(copies.place(Path(film.name).name, ENDINGS, ".mp4", not_at=settings.video_out))
    try:
        about = frames.about(film.source) if places else None
    except MienError as error:
        yield Recognition(film.name, "error", str(error))
        return
    records = recognize_film(
        recognizer, film.source, every=settings.every, smoothing=settings.smoothing, keep_pixels=bool(places)
    )
    try:
        with ExitStack() as stack:
            writers: list[Callable[[Recognition], None]] = []
            if settings.timeline is not None:
                timeline = timeline_file(settings.timeline, Path(film.name).name, settings.smoothing)
                writers.append(stack.enter_context(timeline))
            if about is not None:
                for place in places:
                    copy = write_copy(
                        place, film.source, about, every=settings.every, audio=settings.audio, say=settings.say
                    )
                    writers.append(stack.enter_context(copy))
            for record in _to_the_end(records, film):
                for write in writers:
                    write(record)
                yield replace(record, pixels=None)
    except NoFrameError:
        pass  # the records already say that no frame could be decoded


def _to_the_end(records: Iterator[Recognition], film: Film) -> Iterator[Recognition]:
    """Yields the records of a film; if reading fails, the last one gives the reason."""
    try:
        yield from records
    except BrokenModelError:
        raise
    except MienError as error:
        yield Recognition(film.name, "error", str(error))
    except MemoryError:  # only this film is too large: the next input may be smaller
        reason = f"{film.name}: needs more memory than there is left; close other programs, or make it smaller"
        yield Recognition(film.name, "error", reason)


class TimedReader:
    """Reads inputs as ``read_inputs`` does, with a time limit for each.

    Args:
        seconds: limit for a picture, for the first frame of a film or camera, and from frame to frame.
        options: keyword arguments of ``Recognizer``; they must be picklable.
        films: options for films.
        annotate: folder of the annotated copies; None for no copies.

    Raises:
        MienError: the model or the detector cannot be loaded.
    """

    def __init__(self, seconds: float, options: dict[str, Any], films: FilmSettings, annotate: Path | None) -> None:
        self._out_folders = [path.parent for path in (films.video_out, films.timeline) if path is not None]
        self._out_folders += [] if annotate is None else [annotate]
        self._process = TimedProcess(
            seconds, _prepare_reading, options, replace(films, say=None), annotate, say=films.say
        )
        self.names: tuple[str, ...]
        self.threshold: float | None
        self.stated_accuracy: float | None
        self.names, self.threshold, self.stated_accuracy = self._process.greeting

    def read(self, inputs: Sequence[Input]) -> Generator[Recognition, None, None]:
        """Yields a record for every picture and every frame, in order; with status ``error`` if it exceeds the limit or
        crashes the process. Unfinished outputs of such an input (copies, timeline) are lost.

        Raises:
            MienError: as ``read_inputs``.
        """
        try:
            for source in inputs:
                if isinstance(source, Nothing):
                    yield Recognition(source.word, "error", source.reason)
                    continue
                name = os.fspath(source) if isinstance(source, Path) else source.name
                try:
                    yield from self._process.answers(source, name)
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
    say: Say, options: dict[str, Any], films: FilmSettings, annotate: Path | None
) -> tuple[tuple[tuple[str, ...], float | None, float | None], Work]:
    """Runs in the process: loads the recognizer; returns the names of its expressions with its threshold and its stated
    accuracy (``mien.recognition.engine.Engine``), and the function that reads."""
    recognizer = Recognizer(**options)
    settings = replace(films, say=say)
    copies = None if annotate is None else Copies(annotate)
    greeting = recognizer.names, recognizer.engine.threshold, recognizer.stated_accuracy
    return greeting, lambda source: read_inputs(recognizer, [source], settings, copies)
