"""Films and cameras: a record for every frame, and faces that are followed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from mien.recognition.engine import Engine
from mien.recognition.film.reader import Frame, frames
from mien.recognition.film.tracking import SMOOTHING_S, Tracker
from mien.recognition.results import Recognition

BATCH = 8
"""How many frames of a film are read together; a camera's are read one by one, so that answers come at once."""

_MOST_BYTES = 64 * 2**20
# A batch ends with the frame that fills it: frames of 4K come three at a time, larger ones one by one.


class Reader(Protocol):
    """What reads pictures: ``mien.recognition.recognizer.Recognizer``, or anything with its interface."""

    @property
    def engine(self) -> Engine:
        """The network; its threshold tells which answers are uncertain."""
        ...

    def recognize(self, given: list[Any], color: str | None = None) -> list[Recognition]:
        """A record for each of some uint8 [H, W, 3] pictures, in order."""
        ...


def recognize_film(
    recognizer: Reader,
    source: str | Path | int,
    *,
    every: int = 1,
    smoothing: float = SMOOTHING_S,
    batch: int | None = None,
    keep_pixels: bool = False,
) -> Iterator[Recognition]:
    """Reads the faces of a film or of a camera, with memory for one batch of frames, however long it is.

    Every frame has its record: one that cannot be decoded has status ``error``. Faces are followed: ``Face.id`` is the
    same from frame to frame, and probabilities are smoothed over time (``mien.recognition.film.tracking``), from which
    ``label``, ``score`` and ``uncertain`` follow. After a hard cut faces have new ids, and the smoothing starts again.

    Args:
        recognizer: reads the frames.
        source: a film file, or the number of a camera.
        every: give each ``every``-th frame alone.
        smoothing: time constant in seconds; 0 gives every frame as it was read by itself.
        batch: how many frames are read together, so that the network sees their faces at once; ``BATCH`` for a film and
            1 for a camera by default.
        keep_pixels: whether the records keep their picture, for ``annotated()`` and ``write_annotated``.

    Yields:
        The records in the order of the frames, with ``frame`` and ``time_s``.

    Raises:
        MienError: the film or the camera cannot be read at all, or the model answers with NaN.
        ValueError: ``every`` or ``batch`` is below 1, or ``smoothing`` below 0.
    """
    batch = (1 if isinstance(source, int) else BATCH) if batch is None else batch
    if batch < 1:
        raise ValueError(f"batch: expected at least 1, got {batch}")
    tracker = Tracker(smoothing, recognizer.engine.threshold)
    name = f"camera {source}" if isinstance(source, int) else str(source)
    return _records(recognizer, frames(source, every), tracker, name, batch, keep_pixels)


def _records(
    recognizer: Reader, stream: Iterator[Frame], tracker: Tracker, name: str, batch: int, keep_pixels: bool
) -> Iterator[Recognition]:
    for waiting in _batches(stream, batch):
        pictures = [frame.pixels for frame in waiting if frame.pixels is not None]
        found = iter(recognizer.recognize(pictures, color="rgb") if pictures else [])
        for frame in waiting:
            if frame.cut:
                tracker.forget()
            if frame.pixels is None:
                yield Recognition(name, "error", frame.reason, frame=frame.index, time_s=frame.time_s)
                continue
            record = next(found)
            yield replace(
                record,
                input=name,
                faces=tracker.update(record.faces, frame.time_s),
                frame=frame.index,
                time_s=frame.time_s,
                pixels=frame.pixels if keep_pixels else None,
            )


def _batches(stream: Iterator[Frame], batch: int) -> Iterator[list[Frame]]:
    """The frames in parts of at most ``batch``, and of no more than one frame beyond ``_MOST_BYTES``."""
    waiting: list[Frame] = []
    size = 0
    for frame in stream:
        waiting.append(frame)
        size += 0 if frame.pixels is None else frame.pixels.nbytes
        if len(waiting) == batch or size >= _MOST_BYTES:
            yield waiting
            waiting, size = [], 0
    if waiting:
        yield waiting
