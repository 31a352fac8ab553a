"""Work side by side on a processor: calls on threads of their own, for libraries that let go of Python meanwhile.

Not by ``concurrent.futures.ThreadPoolExecutor``: a pool takes no work any more once the main thread has ended, though a
camera may be read by another one, and its threads are lost in a fork.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

MOST = 8
"""Threads that are worth starting for a little work."""


def cores() -> int:
    """The number of cores that this process may use, at most ``MOST``."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, MOST)


def begun(call: Callable[[], R]) -> Future[R]:
    """A call on a thread of its own; what it raises is raised where the result is asked for."""
    found: Future[R] = Future()

    def run() -> None:
        try:
            found.set_result(call())
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return found


def side_by_side(call: Callable[[T], R], parts: Sequence[T], threads: int) -> list[R]:
    """A call for each part, on as many threads, this one among them; the results in order."""
    lanes = min(threads, len(parts))
    if lanes <= 1:
        return [call(part) for part in parts]

    def lane(start: int) -> list[R]:
        return [call(part) for part in parts[start::lanes]]

    others = [begun(partial(lane, start)) for start in range(1, lanes)]
    found = [lane(0), *(other.result() for other in others)]
    return [found[place % lanes][place // lanes] for place in range(len(parts))]
