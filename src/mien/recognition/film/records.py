"""Reads films and cameras: a record for every frame, with faces that are tracked from frame to frame."""

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
"""Frames of a film that share a batch; frames of a camera are read one by one, so that answers come at once."""

_MOST_BYTES = 64 * 2**20
"""Bytes at which a batch of frames ends, with the frame that reaches them: three frames of 4K."""


class Reader(Protocol):
    """The part of ``mien.recognition.recognizer.Recognizer`` that reading films needs."""

    @property
    def engine(self) -> Engine:
        """The network; its threshold decides which answers are uncertain."""
        ...

    def recognize(self, given: list[Any], color: str | None = None) -> list[Recognition]:
        """Reads pictures, uint8 [H, W, 3]; returns a record for each, in order."""
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
    """Reads the faces of a film or of a camera, with memory for one batch of frames.

    Every frame has a record; its status is ``error`` if it cannot be decoded. Faces are tracked: ``Face.id`` stays the
    same. Probabilities are smoothed over time (``mien.recognition.film.tracking``); ``label``, ``score``
    and ``uncertain`` follow from the smoothed ones. After a hard cut, faces get new ids and smoothing starts again.

    Args:
        recognizer: reads the frames.
        source: a film file, or the number of a camera.
        every: read only every ``every``-th frame.
        smoothing: time constant in seconds; 0 for no smoothing.
        batch: number of frames that share a batch; by default ``BATCH`` for a film and 1 for a camera.
        keep_pixels: keep the frame in its record, for ``annotated()`` and ``write_annotated``.

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
            yield replace(
                record,
                input=name,
                faces=tracker.update(record.faces, frame.time_s),
                frame=frame.index,
                time_s=frame.time_s,
                pixels=frame.pixels if keep_pixels else None,
            )


def _batches(stream: Iterator[Frame], batch: int) -> Iterator[list[Frame]]:
    """Groups the frames; a group ends at ``batch`` frames or at ``_MOST_BYTES``."""
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
