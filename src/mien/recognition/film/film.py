"""Films and cameras: a record for every frame, faces that are followed, and a film with boxes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from mien.errors import MienError
from mien.files import atomic_file
from mien.recognition.engines.engines import Engine
from mien.recognition.film.tracking import SMOOTHING_S, Tracker
from mien.recognition.inputs.frames import Frame, frames, silence
from mien.recognition.output.draw import annotated
from mien.recognition.results import Recognition

BATCH = 8
"""How many frames of a film are read together; a camera's are read one by one, so that answers come at once."""

CODECS: dict[str, str] = {".mp4": "mp4v", ".avi": "MJPG"}
"""What annotated films may be: MPEG-4 in MP4, or MJPEG in AVI."""

SLOWEST, FASTEST = 0.01, 1000.0
"""Frames a second between which annotated films may be."""


class NoFrameError(MienError):
    """Not a single frame of a film could be decoded."""


class Reader(Protocol):
    """What reads pictures: ``mien.recognition.recognizer.Recognizer``, or anything with its interface."""

    @property
    def engine(self) -> Engine:
        """The network; its threshold tells which answers are uncertain."""
        ...

    def recognize(self, given: list[Any], color: str | None = None) -> list[Recognition]:
        """A record for each of some uint8 [H, W, 3] pictures, in order."""
        ...


class Write(Protocol):
    """Appends the frame of a record to a film, with what was read in it."""

    def __call__(self, record: Recognition) -> None: ...


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
    ``label``, ``score`` and ``uncertain`` follow.

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
    while waiting := list(islice(stream, batch)):
        pictures = [frame.pixels for frame in waiting if frame.pixels is not None]
        found = iter(recognizer.recognize(pictures, color="rgb") if pictures else [])
        for frame in waiting:
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


def check_film(path: Path) -> None:
    """Checks, before any work, that an annotated film can have this name.

    Raises:
        MienError: its ending is neither .mp4 nor .avi.
    """
    if path.suffix.lower() not in CODECS:
        raise MienError(f"{path}: cannot be written as a film, expected a name that ends in .mp4 or .avi; change it")


@contextmanager
def write_annotated(path: Path, rate: float, *, live: bool = False) -> Iterator[Write]:
    """A film with a box around every face, written beside its place and moved there when the block ends.

        with write_annotated(Path("out.mp4"), about(source).rate / every) as write:
            for record in recognize_film(recognizer, source, every=every, keep_pixels=True):
                write(record)

    Every record is one frame, of the size of the first (the codecs want even sides: an odd one loses a pixel); one that
    could not be decoded shows the frame before it. There is no sound. After Ctrl-C the film holds what was written
    until then and can be played; after any other error there is none.

    Args:
        path: a name that ends in .mp4 or .avi.
        rate: frames a second, in [0.01, 1000].
        live: show a frame until the time of the next one, by repeating it: a camera gives fewer frames than its rate
            says where they are read more slowly, and the film is to last as long as what it shows.

    Raises:
        MienError: the name ends otherwise, the rate is out of range, or the film cannot be written.
        NoFrameError (a MienError): nothing was written into it, or nothing but frames that could not be decoded.
    """
    check_film(path)
    if not SLOWEST <= rate <= FASTEST:
        raise MienError(
            f"{path}: cannot be written as a film of {rate:g} frames a second, expected {SLOWEST:g} to "
            f"{FASTEST:g}; leave out fewer frames"
        )
    interrupted: BaseException | None = None
    with atomic_file(path, spare_newcomer=True) as temporary:
        # OpenCV takes the container from the ending of the name.
        unfinished = temporary.with_name(temporary.name + path.suffix.lower())
        film = _Film(unfinished, path, rate, live)
        try:
            try:
                yield film.write
            except (KeyboardInterrupt, GeneratorExit) as error:
                if not film.count:
                    raise
                interrupted = error
            film.close()
            os.replace(unfinished, temporary)
        finally:
            film.release()
            unfinished.unlink(missing_ok=True)
    if interrupted is not None:
        raise interrupted


class _Film:
    """A film that is being written; ``path`` is how messages name it."""

    def __init__(self, file: Path, path: Path, rate: float, live: bool = False) -> None:
        self.file, self.path, self.rate, self.live = file, path, rate, live
        self.count = 0
        self.owed = 0
        self.writer: cv2.VideoWriter | None = None
        self.size = (0, 0)
        self.last: np.ndarray | None = None

    def write(self, record: Recognition) -> None:
        if self.live and self.last is not None:
            for _ in range(round((record.time_s or 0.0) * self.rate) - self.count):
                self._put(self.last)
        if record.pixels is not None:
            self.last = self._fitted(annotated(record.pixels, record.faces))
        elif record.status != "error":
            raise ValueError(f"frame {record.frame}: has no pixels; ask recognize_film for keep_pixels=True")
        if self.last is None:
            self.owed += 1  # of what size a film that begins with damaged frames is, the first good one tells
            return
        while self.owed:
            self._put(np.zeros_like(self.last))
            self.owed -= 1
        self._put(self.last)

    def close(self) -> None:
        """Ends the film, and checks that all of it is on the disk: OpenCV does not tell when one is full.

        Raises:
            NoFrameError: no frame was written.
            MienError: some are missing.
        """
        self.release()
        if self.count == 0:
            raise NoFrameError(f"{self.path}: was not written, as no frame could be decoded")
        with silence():
            capture = cv2.VideoCapture(str(self.file.absolute()), cv2.CAP_FFMPEG)
            held = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            capture.release()
        if held < self.count:  # one more may be there than was counted, after Ctrl-C
            raise self._unwritable(f"holds {held} of {self.count} frames; free some space or choose another place")

    def release(self) -> None:
        if self.writer is not None:
            self.writer.release()
            self.writer = None

    def _put(self, pixels: np.ndarray) -> None:
        if self.writer is None:
            codec = cv2.VideoWriter.fourcc(*CODECS[self.path.suffix.lower()])
            with silence():
                self.writer = cv2.VideoWriter(str(self.file.absolute()), cv2.CAP_FFMPEG, codec, self.rate, self.size)
            if not self.writer.isOpened():
                raise self._unwritable("the folder does not let write, or the size has no codec; choose another place")
        self.writer.write(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        self.count += 1

    def _fitted(self, pixels: np.ndarray) -> np.ndarray:
        """A frame of the size of the first; smaller or larger ones, which some cameras give, are stretched."""
        height, width = pixels.shape[:2]
        if self.size == (0, 0):
            self.size = (max(2, width - width % 2), max(2, height - height % 2))
        wide, high = self.size
        if (width - width % 2, height - height % 2) == self.size:
            return pixels[:high, :wide]
        return cv2.resize(pixels, self.size, interpolation=cv2.INTER_AREA)

    def _unwritable(self, reason: str) -> MienError:
        return MienError(f"{self.path}: cannot be written as a film: {reason}")
