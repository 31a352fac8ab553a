"""Handles the signals that end a command: no half record and no temporary file is left behind."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TextIO

TERMINATING: tuple[signal.Signals, ...] = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Signals that a service, a container or a closed terminal sends to end a command."""


class Ended(KeyboardInterrupt):
    """Raised when a signal other than Ctrl-C ends a command; handlers of Ctrl-C catch it too.

    Attributes:
        number: the number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


_is_held = False
_due: int | None = None
"""The signal that came while signals were held."""


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP raise ``Ended`` within a block, so that it ends as after Ctrl-C.

    Signals that are ignored (under ``nohup``) or that other code handles are left alone, and so are all signals if this
    is not the main thread.
    """
    former: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        present = {number: signal.getsignal(number) for number in (signal.SIGINT, *TERMINATING)}
        # Of Ctrl-C, mien.__main__ leaves the system's own handler.
        ours = (signal.SIG_DFL, signal.default_int_handler)
        former = {number: handler for number, handler in present.items() if handler in ours}
    for number in former:
        signal.signal(number, _on_signal)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def held() -> Iterator[None]:
    """Delays the signals of ``ended_by_signals`` until a block has ended, such as the writing of a record.

    Raises:
        KeyboardInterrupt: Ctrl-C came during the block.
        Ended: another of the signals came during the block.
    """
    global _is_held, _due
    _is_held, _due = True, None
    try:
        yield
    finally:
        _is_held = False
    if _due is not None:
        _raise(_due)


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _due
    if not _is_held:
        _raise(number)
    _due = number


def _raise(number: int) -> None:
    raise KeyboardInterrupt if number == signal.SIGINT else Ended(number)


class Silence(io.TextIOBase):
    """A stderr that shows nothing, with ``--quiet``.

    Attributes:
        loud: the stream for what is an error all the same.
    """

    def __init__(self, loud: TextIO) -> None:
        self.loud = loud

    def write(self, text: str) -> int:
        """Drops a text."""
        return len(text)


def stream_of_errors() -> TextIO:
    """Returns stderr, also while a ``Silence`` stands in its place."""
    return sys.stderr.loud if isinstance(sys.stderr, Silence) else sys.stderr


def _replace_stderr(stream: TextIO) -> None:
    if isinstance(sys.stderr, Silence):
        sys.stderr.loud = stream
    else:
        sys.stderr = stream


@contextmanager
def without_remarks_of_decoders() -> Iterator[None]:
    """Discards what native code (libtiff) writes to stderr during a block; what Python prints is shown.

    The records tell what is wrong with a picture. Nothing changes if stderr is not the process's own.
    """
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    former = stream_of_errors()
    try:
        own = former.fileno() == 2
    except (AttributeError, OSError, ValueError):
        own = False
    if not own:
        yield
        return
    former.flush()
    stderr_copy = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    binary = os.fdopen(stderr_copy, "wb", 0, closefd=False)
    _replace_stderr(io.TextIOWrapper(binary, former.encoding, former.errors, line_buffering=True, write_through=True))
    try:
        yield
    finally:
        _replace_stderr(former)
        os.dup2(stderr_copy, 2)
        os.close(stderr_copy)
