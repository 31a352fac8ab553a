"""Reads the pictures of many requests on a few threads; their faces share batches.

Finding the faces takes most of the time and is done for one picture at a time, on as many threads as there are cores.
Reading a face alone takes half as long again as reading it among eight, so a face waits for others while pictures wait
to be searched, but never while a thread has nothing to do: without load nothing waits.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mien.recognition.detection import Detection, Detector, SideBySide
from mien.recognition.detectors import WholePicture
from mien.recognition.pictures import NamedFile
from mien.recognition.recognizer import Recognizer, SearchedPicture, search_pictures
from mien.recognition.results import Recognition
from mien.web.uploads import Upload

SHARED_FACES = 8
"""Faces that are read at once as soon as there are so many: larger batches are no faster for each face."""


_CLOSE_S = 10.0
"""Seconds for which closing waits for the threads, all together: one that hangs in a picture never ends."""


class OneThread:
    """A detector that searches a picture on the calling thread only.

    Args:
        detector: has the method ``detect_alone`` (``mien.recognition.detection.SideBySide``).
    """

    def __init__(self, detector: Any) -> None:
        self._detector = detector
        self.name: str = detector.name
        self.margin: float = detector.margin

    def detect(self, picture: np.ndarray) -> list[Detection]:
        """Returns the faces of a picture, uint8 [H, W] or [H, W, 3], from left to right."""
        detections: list[Detection] = self._detector.detect_alone(picture)
        return detections


class BatchRecognizer(Recognizer):
    """A ``Recognizer`` whose two halves, the search and the reading, can be called alone."""

    def search(self, upload: Upload, detector: Detector) -> SearchedPicture:
        """Decodes a picture, finds its faces and cuts them out; what is wrong with it stands in its record."""
        (picture,) = search_pictures([NamedFile(upload.name, upload.data)], detector, self.engine)
        return picture

    def read(self, pictures: Sequence[SearchedPicture]) -> list[Recognition]:
        """Reads the faces of pictures in one batch.

        Raises:
            BrokenModelError (a MienError): the model answers with NaN.
        """
        return list(self._read(pictures))


@dataclass
class _Request:
    """The pictures of one request, and its answer.

    Attributes:
        future: gets the records, in order; if it is cancelled, what has not begun is left out.
        records: the records so far; None for those that are missing.
    """

    future: Future[list[Recognition]]
    records: list[Recognition | None]


@dataclass(frozen=True)
class _Task:
    """Work for a thread: a picture to search, or any call; if it fails, so does the future."""

    future: Future[Any]
    work: Callable[[], None]

    def run(self) -> None:
        """Does the work."""
        try:
            self.work()
        except Exception as error:
            _fail(self.future, error)


@dataclass(frozen=True)
class _Searched:
    """A searched picture that waits to be read."""

    request: _Request
    index: int
    picture: SearchedPicture
    since: float


class Reader:
    """Reads pictures for many callers at once.

    Args:
        recognizer: finds and reads faces.
        threads: number of threads that search pictures.
        batch_wait_s: longest time in seconds that a face waits for others; 0 reads the faces of each request alone.
        on_batch: called with the number of faces of each batch.
    """

    def __init__(
        self,
        recognizer: BatchRecognizer,
        threads: int,
        batch_wait_s: float,
        on_batch: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.recognizer = recognizer
        self._batch_wait_s, self._on_batch = batch_wait_s, on_batch
        detector = recognizer.detector
        self._alone: Detector = OneThread(detector) if isinstance(detector, SideBySide) else detector
        self._changed = threading.Condition()
        self._tasks: deque[_Task] = deque()
        self._searched: list[_Searched] = []
        self._running: dict[int, float] = {}
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"mien-reader-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, uploads: Sequence[Upload], detector: str = "yunet") -> Future[list[Recognition]]:
        """Queues the pictures of a request.

        Args:
            uploads: the pictures.
            detector: ``none`` if they are face crops, else the recognizer's own detector finds the faces.

        Returns:
            A future of the records, in order.
        """
        request = _Request(Future(), [None] * len(uploads))
        searches = [partial(self._search, request, *pair, detector) for pair in enumerate(uploads)]
        self._queue(request.future, searches)
        return request.future

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        """Queues any call, such as an explanation; it runs on one thread."""
        future: Future[Any] = Future()
        self._queue(future, [lambda: _resolve(future, function())])
        return future

    def stuck_s(self) -> float:
        """Returns for how many seconds the oldest call that is running has been running; 0 if none is."""
        now = time.monotonic()
        return max((now - started for started in list(self._running.values())), default=0.0)

    def alive(self) -> bool:
        """True if every thread runs."""
        return all(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """Ends the threads after what is queued; returns when they have ended, or after 10 seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        deadline = time.monotonic() + _CLOSE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _queue(self, future: Future[Any], work: Sequence[Callable[[], None]]) -> None:
        """Queues tasks; if their future is cancelled, those that have not begun are forgotten, with their pictures."""
        with self._changed:
            self._tasks.extend(_Task(future, part) for part in work)
            self._changed.notify(len(work))
        future.add_done_callback(self._forget)

    def _forget(self, future: Future[Any]) -> None:
        if future.cancelled():
            with self._changed:
                self._tasks = deque(task for task in self._tasks if task.future is not future)

    def _work(self) -> None:
        identity = threading.get_ident()
        while (job := self._next_job()) is not None:
            self._running[identity] = time.monotonic()
            try:
                job()
            finally:
                del self._running[identity]

    def _next_job(self) -> Callable[[], None] | None:
        """Waits for work: reads a batch if it is due, else takes the next task; None if the reader was closed."""
        with self._changed:
            while True:
                if self._searched and self._is_due():
                    batch = [item for item in self._searched if not item.request.future.cancelled()]
                    self._searched = []
                    return lambda: self._read(batch)
                if self._tasks:
                    return self._tasks.popleft().run
                if self._closed:
                    return None
                self._changed.wait()

    def _is_due(self) -> bool:
        faces = sum(len(item.picture.crops) for item in self._searched)
        waited_s = time.monotonic() - self._searched[0].since
        return not self._tasks or faces >= SHARED_FACES or waited_s >= self._batch_wait_s

    def _search(self, request: _Request, index: int, upload: Upload, detector: str) -> None:
        picture = self.recognizer.search(upload, self._detector(detector))
        with self._changed:
            self._searched.append(_Searched(request, index, picture, time.monotonic()))
            self._changed.notify()

    def _detector(self, name: str) -> Detector:
        """Returns the detector for the next picture: on all cores if nothing else is to be done."""
        if name == "none":
            return WholePicture()
        is_only_one = len(self._running) <= 1 and not self._tasks
        return self.recognizer.detector if is_only_one else self._alone

    def _read(self, batch: Sequence[_Searched]) -> None:
        """Reads the faces of a batch; if that fails, each picture alone, so that only broken ones fail."""
        groups: dict[int, list[_Searched]] = {}
        for item in batch:
            groups.setdefault(0 if self._batch_wait_s > 0 else id(item.request), []).append(item)
        for group in groups.values():
            try:
                self._read_group(group)
            except Exception as error:
                if len(group) == 1:
                    _fail(group[0].request.future, error)
                    continue
                for item in group:
                    self._read([item])

    def _read_group(self, group: Sequence[_Searched]) -> None:
        records = self.recognizer.read([item.picture for item in group])
        faces, most = sum(len(record.faces) for record in records), self.recognizer.batch_size
        for start in range(0, faces, most):
            self._on_batch(min(most, faces - start))
        for item, record in zip(group, records, strict=True):
            request = item.request
            request.records[item.index] = record
            if None not in request.records:  # two threads may see that at once; the first one answers
                _resolve(request.future, request.records)


def _resolve(future: Future[Any], value: Any) -> None:
    with suppress(Exception):  # it was cancelled or has failed meanwhile
        future.set_result(value)


def _fail(future: Future[Any], error: Exception) -> None:
    with suppress(Exception):
        future.set_exception(error)
