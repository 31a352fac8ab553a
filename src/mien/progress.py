"""Shows the progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

SECONDS_BETWEEN_LINES = 30.0


class Advance(Protocol):
    """Function that reports ``amount`` more finished units, with an optional short note (such as the running loss)."""

    def __call__(self, amount: int = 1, note: str = "") -> None: ...


@contextmanager
def progress(title: str, total: int, unit: str, *, done: int = 0, quiet: bool = False) -> Iterator[Advance]:
    """Shows on stderr how far the work is.

    Args:
        title: name of the work.
        total: number of units in all.
        unit: name of the units ("images").
        done: units that were finished before (a resumed epoch).
        quiet: show nothing (for the further processes of a distributed run).
    """
    if quiet:
        yield lambda amount=1, note="": None
    elif sys.stderr.isatty():
        with _bar(title, total, unit, done) as advance:
            yield advance
    else:
        yield _Lines(title, total, unit, done)


@contextmanager
def _bar(title: str, total: int, unit: str, done: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    started = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total, completed=done, rate="", note="")
        count = 0

        def advance(amount: int = 1, note: str = "") -> None:
            nonlocal count
            count += amount
            rate = count / max(time.monotonic() - started, 1e-9)
            bar.update(task, advance=amount, note=note, rate=f"{rate:,.0f} {unit}/s")

        yield advance


class _Lines:
    """Prints a plain line every half minute, so that a log stays readable."""

    def __init__(self, title: str, total: int, unit: str, done: int) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.first, self.done = done, done
        self.started = self.last = time.monotonic()

    def __call__(self, amount: int = 1, note: str = "") -> None:
        self.done += amount
        now = time.monotonic()
        if now - self.last < SECONDS_BETWEEN_LINES:
            return
        self.last = now
        rate = (self.done - self.first) / (now - self.started)
        left = (self.total - self.done) / rate if rate else float("inf")
        line = f"{self.title}: {self.done:,}/{self.total:,} {self.unit}, {rate:,.0f}/s, {left:,.0f} s left"
        print(line + (f", {note}" if note else ""), file=sys.stderr, flush=True)
