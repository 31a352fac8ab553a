"""Ctrl-C that waits while a record is written, so that no output is left with half of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Holds Ctrl-C back in the parts of a ``with`` block that say so.

    Where Ctrl-C is ignored already (under ``nohup``), and in other threads than the main one, nothing is changed.
    """

    def __init__(self) -> None:
        self._held = False
        self._due = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Takes over Ctrl-C for a block."""
        former = signal.getsignal(signal.SIGINT)
        if former is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
            yield
            return
        signal.signal(signal.SIGINT, self._on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, former)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds Ctrl-C back for a block.

        Raises:
            KeyboardInterrupt: when the block has ended, where it came within.
        """
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._due:
            self._due = False
            raise KeyboardInterrupt

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self._held:
            raise KeyboardInterrupt
        self._due = True
