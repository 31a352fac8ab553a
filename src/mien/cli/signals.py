"""Signals that end a command: they leave whole records, no temporary files, and wait while a record is written."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATING: tuple[signal.Signals, ...] = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Signals by which a service, a container or a closed terminal ends a command."""


class Ended(KeyboardInterrupt):
    """A command was ended by a signal other than Ctrl-C; whatever waits for Ctrl-C sees it too.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """For a block, SIGTERM and SIGHUP raise ``Ended``, so that it ends as after Ctrl-C.

    Signals that are ignored (under ``nohup``) or that somebody else handles stay as they are, as do all in other
    threads than the main one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, *TERMINATING)}
    for number in TERMINATING:
        if former[number] is signal.SIG_DFL:
            signal.signal(number, _end)
    if former[signal.SIGINT] is signal.SIG_DFL:  # as mien.__main__ leaves it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in former.items():
            if handler is not None:  # of something that is no Python
                signal.signal(number, handler)


class Interrupts:
    """Holds Ctrl-C, SIGTERM and SIGHUP back in the parts of a ``with`` block that say so.

    Where they are ignored already (under ``nohup``), and in other threads than the main one, nothing is changed.
    """

    def __init__(self) -> None:
        self._held = False
        self._due: int | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Takes over the signals for a block."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former = {number: signal.getsignal(number) for number in (signal.SIGINT, *TERMINATING)}
        ours = {number: handler for number, handler in former.items() if handler in (signal.default_int_handler, _end)}
        for number in ours:
            signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number, handler in ours.items():
                signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the signals back for a block.

        Raises:
            KeyboardInterrupt: when the block has ended, where one came within; ``Ended`` for another than Ctrl-C.
        """
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._due is not None:
            number, self._due = self._due, None
            _raise(number)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._held:
            _raise(number)
        self._due = number


def _end(number: int, frame: FrameType | None) -> None:
    raise Ended(number)


def _raise(number: int) -> None:
    raise KeyboardInterrupt if number == signal.SIGINT else Ended(number)


def hide_remarks() -> None:
    """Hides advice and warnings of the libraries; to be called before they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # no line for each try to reach the hub
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=r"(torch|transformers|timm|accelerate|huggingface_hub|tqdm)\b")


def hide_bars() -> None:
    """Hides the progress bars of transformers, which flash by for local files; a download should keep them."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
