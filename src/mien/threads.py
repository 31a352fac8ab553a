"""Work side by side on a processor: calls on other threads, for libraries that let go of Python meanwhile.

Not by ``concurrent.futures.ThreadPoolExecutor``: it takes no work any more once the main thread has ended, though a
camera may be read by another one, and its threads are lost in a fork. Not by a new thread a call: OpenCV keeps a
kilobyte of each that it has ever seen.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

MOST = 8
"""Threads that are worth having for a little work."""


def all_cores() -> int:
    """The number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores() -> int:
    """The number of cores that this process may use, at most ``MOST``."""
    return min(all_cores(), MOST)


class _Workers:
    """Threads that wait for calls; they are started when they are needed, and end with the process."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._free = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._started = 0

    def begin(self, call: Callable[[], R]) -> Future[R]:
        found: Future[R] = Future()
        self._calls.put((found, call))
        if not self._free.acquire(blocking=False):
            with self._lock:
                wanted = self._started < MOST
                self._started += wanted
            if wanted:
                threading.Thread(target=self._work, name="mien", daemon=True).start()
        return found

    def _work(self) -> None:
        while True:
            found, call = self._calls.get()
            try:
                found.set_result(call())
            except BaseException as error:
                found.set_exception(error)
            del found, call
            self._free.release()


_workers = _Workers()


def _afresh() -> None:
    global _workers
    _workers = _Workers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_afresh)


def side_by_side(call: Callable[[T], R], parts: Sequence[T], threads: int) -> list[R]:
    """A call for each part, on as many threads, this one among them; the results in order.

    All calls have ended when it returns or raises, after Ctrl-C too. They must not ask for threads themselves: there
    are ``MOST`` for all.
    """
    lanes = min(threads, len(parts))

    def lane(start: int) -> list[R]:
        return [call(part) for part in parts[start::lanes]]

    others = [_workers.begin(partial(lane, start)) for start in range(1, lanes)]
    try:
        found = [lane(0)] if parts else []
    finally:
        wait(others)
    found += [other.result() for other in others]
    return [found[place % lanes][place // lanes] for place in range(len(parts))]
