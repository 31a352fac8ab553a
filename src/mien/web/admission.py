"""Admits requests up to a limit of number and bytes, and turns the rest away at once."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mien.web import metrics
from mien.web.problems import Problem
from mien.web.settings import ServiceSettings

_LARGEST_BODIES = 16
"""Bodies of the largest size that fit into the memory that all bodies together may take."""

_SHARE = 0.1
"""Weight of the latest request in the mean time between two answers."""


class Admission:
    """Counts the requests that a worker holds; used by one event loop.

    Args:
        settings: limits.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._most, self._most_bytes = settings.queue, _LARGEST_BODIES * settings.max_bytes
        self._largest = settings.max_bytes
        self._held = self._bytes = 0
        self._seconds = 0.1
        self._latest = 0.0

    @contextmanager
    def slot(self, length: str | None) -> Iterator[None]:
        """Holds a place for a request.

        Args:
            length: the header Content-Length; without it, the largest body is expected.

        Raises:
            Problem: there is no place.
        """
        size = min(int(length), self._largest) if length is not None and length.isdecimal() else self._largest
        if self._held >= self._most or self._bytes + size > self._most_bytes:
            wait = self.retry_after_s()
            raise Problem(
                "busy",
                f"{self._held} requests are being read; try again in {wait} s",
                headers={"Retry-After": str(wait)},
            )
        self._change(1, size)
        try:
            yield
        finally:
            self._change(-1, -size)

    def note_answer(self) -> None:
        """Notes that a request was answered, for the time after which trying again is worth it."""
        now = time.monotonic()
        if self._latest:
            between = min(now - self._latest, 1.0)
            self._seconds += _SHARE * (between - self._seconds)
        self._latest = now

    def retry_after_s(self) -> int:
        """Returns in how many whole seconds half of the requests in the queue are done."""
        return min(60, max(1, math.ceil(self._held / 2 * self._seconds)))

    def _change(self, count: int, size: int) -> None:
        self._held += count
        self._bytes += size
        metrics.HELD.set(self._held)
