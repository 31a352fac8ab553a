"""Reads films and cameras: a record for every frame, with faces that are tracked from frame to frame."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from mien.errors import MienError
from mien.files import expanded
from mien.recognition.arguments import WrongTypeError, address_hint, type_of, whole_number
from mien.recognition.engine import Engine
from mien.recognition.film.reader import Frame, frames
from mien.recognition.film.tracking import SMOOTHING_S, Tracker
from mien.recognition.pictures import Color, until_error
from mien.recognition.results import Recognition, Tables

BATCH = 8
"""Frames of a film that share a batch; frames of a camera are read one by one, so that answers come at once."""

_MOST_BYTES = 64 * 2**20
"""Bytes at which a batch of frames ends, with the frame that reaches them: three frames of 4K."""


class PictureReader(Protocol):
    """The part of ``mien.recognition.recognizer.Recognizer`` that reading films needs."""

    @property
    def engine(self) -> Engine:
        """The network; its threshold decides which answers are uncertain."""

    def recognize(self, pictures: list[Any], color: Color | None = None) -> list[Recognition]:
        """Reads pictures, uint8 [H, W, 3]; returns a record for each, in order."""


def film_source(source: object) -> Path | int:
    """Returns the path of a film, or the number of a camera, for what a caller gave.

    Raises:
        MienError: it is an address, or empty.
        WrongTypeError (a MienError and a TypeError): it is neither a path nor a number.
    """
    number = whole_number(source)
    if number is not None:
        return number
    if not isinstance(source, str | os.PathLike):
        hint = "; write it to a file first" if callable(getattr(source, "read", None)) else ""
        raise WrongTypeError(f"source: is {type_of(source)}, expected a film file or the number of a camera{hint}")
    if not os.fspath(source):
        raise MienError("the path is empty, expected that of a film; check where it comes from")
    problem = address_hint(os.fspath(source))
    if problem is not None:
        raise MienError(f"{source}: {problem}")
    return Path(source) if os.path.lexists(source) else expanded(source)


class FilmRecognition(Tables):
    """The faces of a film or a camera, read frame by frame: an iterator over a ``Recognition`` for every frame.

    The records come in the order of the frames, with ``frame`` and ``time_s``; the status is ``error`` if a frame
    cannot be decoded. Faces are tracked: ``Face.id`` stays the same. Probabilities are smoothed over time
    (``mien.recognition.film.tracking``); ``label``, ``score`` and ``uncertain`` follow from the smoothed ones. After a
    hard cut, faces get new ids and smoothing starts again. There is memory for one batch of frames.

    Like a file it is read once, from the first frame to the last, while one iterates; ``close`` ends that early. Each
    of ``write``, ``to_rows``, ``to_df``, ``to_csv`` and ``to_json`` reads the whole film for itself, from its start. Of
    a camera they read until it stops or Ctrl-C. Then those that return a table or a text return what was read until
    then; those that write a file complete it and raise the KeyboardInterrupt.

    Args:
        recognizer: reads the frames.
        source: a film file, or the number of a camera.
        every: read only every ``every``-th frame.
        smoothing: time constant in seconds; 0 for no smoothing.
        keep_pixels: keep the frame in the records that one iterates over, for ``annotated()`` and ``write_annotated``.
        batch: number of frames that share a batch; by default ``BATCH`` for a film and 1 for a camera.
        decoded: called after each frame that was decoded, also if it is not read.

    Raises:
        MienError: the film or the camera cannot be read at all, or the model answers with NaN; raised by the iteration.
        ValueError: ``every`` or ``batch`` is below 1, or ``smoothing`` below 0.
    """

    def __init__(
        self,
        recognizer: PictureReader,
        source: Path | int,
        *,
        every: int = 1,
        smoothing: float = SMOOTHING_S,
        keep_pixels: bool = False,
        batch: int | None = None,
        decoded: Callable[[], None] | None = None,
    ) -> None:
        self.source, self.every, self.smoothing = source, every, smoothing
        self._batch = (1 if isinstance(source, int) else BATCH) if batch is None else batch
        if self._batch < 1:
            raise ValueError(f"batch: expected at least 1, got {batch}")
        self._recognizer, self._decoded = recognizer, decoded
        self._iterator = self._from_start(keep_pixels)

    def __iter__(self) -> Iterator[Recognition]:
        return self

    def __next__(self) -> Recognition:
        return next(self._iterator)

    def close(self) -> None:
        """Ends the reading and closes the film, as for a generator."""
        self._iterator.close()

    def write(
        self, path: str | os.PathLike[str], *, audio: bool = True, timeline: str | os.PathLike[str] | None = None
    ) -> None:
        """Writes a copy of the film with a box and a label for every face, in its rhythm and with its sound.

        Whatever ends the reading, Ctrl-C or an error, both files hold the frames until then. What had to be done
        differently (another codec, sound that was encoded anew) is logged as a warning by the logger ``mien``.

        Args:
            path: the copy; .mp4 (H.264) or .avi (MJPEG).
            audio: copy the sound.
            timeline: a picture (.png) of the probabilities over the time of the film, written in the same pass.

        Raises:
            MienError: a path has another ending or is the film itself, the film cannot be read, or no frame of it, or a
                file cannot be written.
        """
        from mien.recognition.film.reader import film_info
        from mien.recognition.film.timeline import timeline_file
        from mien.recognition.film.writer import check_film, write_annotated

        place, figure = expanded(path), None if timeline is None else expanded(timeline)
        check_film(place)
        self._check_not_source(place)
        if figure is not None:
            self._check_not_source(figure)
        warn = logging.getLogger("mien").warning
        with ExitStack() as stack:
            copy = write_annotated(
                place, film_info(self.source), every=self.every, sound=self.source if audio else None,
                say=lambda text: warn("%s", text),
            )  # fmt: skip
            writers: list[Callable[[Recognition], None]] = [stack.enter_context(copy)]
            if figure is not None:
                title = Path(_name_of(self.source)).name
                writers.append(stack.enter_context(timeline_file(figure, title, self.smoothing)))
            for record in self._from_start(keep_pixels=True):
                for write in writers:
                    write(record)

    def __repr__(self) -> str:
        return f"FilmRecognition({_name_of(self.source)!r}, every={self.every}, smoothing={self.smoothing:g})"

    def _from_start(self, keep_pixels: bool = False) -> Generator[Recognition, None, None]:
        stream = frames(self.source, self.every, self._decoded)
        tracker = Tracker(self.smoothing, self._recognizer.engine.threshold)
        return _records(self._recognizer, stream, tracker, _name_of(self.source), self._batch, keep_pixels)

    def _records(self) -> Iterable[Recognition]:
        return self._from_start()

    def _until_stopped(self) -> AbstractContextManager[object]:
        return suppress(KeyboardInterrupt) if isinstance(self.source, int) else nullcontext()

    def _names(self) -> tuple[str, ...]:
        return self._recognizer.engine.names

    def _check_not_source(self, path: Path) -> None:
        is_file = isinstance(self.source, Path) and os.path.exists(path) and os.path.exists(self.source)
        if is_file and os.path.samefile(path, self.source):
            raise MienError(f"{path}: is the film that is read, and would be written over; give another name")


def _name_of(source: str | Path | int) -> str:
    return f"camera {source}" if isinstance(source, int) else str(source)


def _records(
    recognizer: PictureReader, stream: Iterator[Frame], tracker: Tracker, name: str, batch: int, keep_pixels: bool
) -> Generator[Recognition, None, None]:
    """Yields the record of each frame of a stream, with tracked faces."""
    for waiting in _batches(stream, batch):
        pictures = [frame.pixels for frame in waiting if frame.pixels is not None]
        records = iter(recognizer.recognize(pictures, color="rgb") if pictures else [])
        for frame in waiting:
            if frame.cut:
                tracker.forget()
            if frame.pixels is None:
                yield Recognition(name, "error", frame.reason, frame=frame.index, time_s=frame.time_s)
                continue
            record = next(records)
            error = None if record.error is None else record.error.removeprefix(f"{record.input}: ")
            yield replace(
                record,
                input=name,
                error=error,
                faces=tracker.update(record.faces, frame.time_s),
                frame=frame.index,
                time_s=frame.time_s,
                pixels=frame.pixels if keep_pixels else None,
            )


def _batches(stream: Iterator[Frame], batch: int) -> Iterator[list[Frame]]:
    """Groups the frames; a group ends at ``batch`` frames or at ``_MOST_BYTES``."""
    waiting: list[Frame] = []
    size = 0
    errors: list[Exception] = []
    for frame in until_error(stream, errors):  # the frames before it were decoded, and have their records
        waiting.append(frame)
        size += 0 if frame.pixels is None else frame.pixels.nbytes
        if len(waiting) == batch or size >= _MOST_BYTES:
            yield waiting
            waiting, size = [], 0
    if waiting:
        yield waiting
    if errors:
        raise errors[0]
