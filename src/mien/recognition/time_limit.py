"""A limit on the time that each input may take: a process of its own reads it, and is killed when the time is over.

Decoders and networks are native code: no exception and no thread ends a picture that is decoded for minutes, or a
network with an endless loop. Only the end of a process does. Who asks for no limit pays nothing for this.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.errors import MienError
from mien.locks import clear_files

if TYPE_CHECKING:
    from mien.recognition.batch import FilmSettings
    from mien.recognition.paths import Input
    from mien.recognition.results import Recognition

Say = Callable[[str], None]
Work = Callable[[Any], Iterator[Any]]
"""Answers a task, in pieces."""

Prepare = Callable[..., tuple[Any, Work]]
"""Called in the process as ``prepare(say, *arguments)``: loads what is needed; what it tells of that, and the work."""

LOADING_S = 300.0
"""Seconds that a process may take to load the model, at least; they do not count as time of an input."""

_ENDING_S = 10.0  # for a film that is being written to be ended properly after Ctrl-C
_ALARM_S = 5.0  # by which the process ends itself later than its time, should nobody be left to end it


class OverdueError(MienError):
    """An input took longer than it may, or ended the process that read it."""


class TimedProcess:
    """A process that does one task after the other; one that takes too long is killed, and the next has a new process.

    Args:
        seconds: that may pass until the first piece of an answer, from each piece to the next, and to the end.
        prepare: a function of a module, called in each process.
        arguments: of ``prepare``; they must be picklable.
        say: is told the remarks of the work.

    Attributes:
        greeting: what ``prepare`` tells of what it has loaded.

    Raises:
        MienError: the process could not load what it needs.
    """

    def __init__(self, seconds: float, prepare: Prepare, *arguments: Any, say: Say | None = None) -> None:
        self._seconds, self._say = seconds, say
        self._call = (prepare, arguments)
        self._process: Any = None
        self._pipe: Connection | None = None
        self.greeting: Any = None
        self._start()

    def answers(self, task: Any, name: str) -> Iterator[Any]:
        """The pieces of the answer to a task.

        Args:
            task: picklable.
            name: how an error names it.

        Raises:
            OverdueError: it took too long, or the process died.
            MienError: raised by the work itself, as is any other exception.
        """
        pipe = self._pipe or self._start()
        with suppress(OSError):  # of a process that has died: told below
            pipe.send(task)
        while True:
            kind, value = self._next(pipe, self._seconds, name)
            if kind == "end":
                return
            yield value

    def close(self) -> None:
        """Ends the process; a task that is being done is broken off as by Ctrl-C."""
        if self._process is None:
            return
        self._process.terminate()
        self._process.join(_ENDING_S)
        self._kill()

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")  # a fork would share the locks of the libraries' threads
        self._pipe, inner = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(inner, self._seconds, *self._call, list(warnings.filters)),
            name="mien-timed",
            daemon=True,
        )
        self._process.start()
        inner.close()
        try:
            _, self.greeting = self._next(self._pipe, max(LOADING_S, self._seconds), "loading the model")
        except BaseException:
            self._kill()
            raise
        return self._pipe

    def _next(self, pipe: Connection, seconds: float, name: str) -> tuple[str, Any]:
        """The next message that is no remark."""
        until = time.monotonic() + seconds
        while True:
            try:
                if not pipe.poll(max(0.0, until - time.monotonic())):
                    self._kill()
                    raise OverdueError(_overdue(name, seconds))
                kind, value = pipe.recv()
            except (EOFError, ConnectionError) as error:
                self._process.join(_ENDING_S)
                code = self._process.exitcode
                self._kill()
                if code == -getattr(signal, "SIGALRM", 0):
                    raise OverdueError(_overdue(name, seconds)) from error
                raise OverdueError(_died(name, code)) from error
            if kind == "failed":  # it has ended with that
                self._kill()
                raise value
            if kind != "say":
                return kind, value
            if self._say is not None:
                self._say(value)

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join(_ENDING_S)
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


def _overdue(name: str, seconds: float) -> str:
    return f"{name}: took longer than {seconds:g} s and was broken off; leave it out, or give it a longer --timeout"


def _died(name: str, code: int | None) -> str:
    reason = f"exit code {code}"
    if code is not None and code < 0:
        with suppress(ValueError):
            reason = signal.Signals(-code).name
    return f"{name}: ended the process that read it ({reason}); leave it out, or see if there is enough memory"


# --- within the process -----------------------------------------------------------------------------------------------


def _serve(
    pipe: Connection, seconds: float, prepare: Prepare, arguments: tuple[Any, ...], filters: Sequence[Any]
) -> None:
    """Does the tasks that come, until the other end closes the pipe."""
    _listen_to_one_signal()
    warnings.filters[:] = filters  # type: ignore[index]

    def send(kind: str, value: Any = None) -> None:
        _alarm(0)  # whoever reads slowly may take her time
        pipe.send((kind, value))
        _alarm(seconds + _ALARM_S)

    with suppress(EOFError, ConnectionError, KeyboardInterrupt):
        try:
            greeting, work = prepare(lambda text: send("say", text), *arguments)
            send("ready", greeting)
            while True:
                _alarm(0)
                task = pipe.recv()
                _alarm(seconds + _ALARM_S)
                for piece in work(task):
                    send("piece", piece)
                send("end")
        except (EOFError, ConnectionError, KeyboardInterrupt):
            _alarm(0)
            raise
        except Exception as error:
            send("failed", _portable(error))


def _listen_to_one_signal() -> None:
    """Of the signals, only the first SIGTERM counts, and as Ctrl-C: a terminal sends its own to every process."""

    def end(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end)


def _alarm(seconds: float) -> None:
    """Lets the system kill this process after a time, whatever it does then; 0 takes that back."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _portable(error: Exception) -> Exception:
    """An exception as another process can read it, with the traceback as a note for --debug."""
    error.add_note(f"in the process of --timeout:\n{traceback.format_exc()}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


# --- pictures and films -----------------------------------------------------------------------------------------------


class TimedReader:
    """Reads inputs as ``read_inputs`` does, each within its time.

    Args:
        seconds: that a picture may take, a film or camera until its first frame and from frame to frame.
        options: of ``Recognizer``, picklable.
        films: how films are read.
        annotate: folder of the annotated copies; None writes none.

    Raises:
        MienError: the model or the detector cannot be loaded.
    """

    def __init__(self, seconds: float, options: dict[str, Any], films: FilmSettings, annotate: Path | None) -> None:
        self._places = [place.parent for place in (films.video_out, films.timeline) if place is not None]
        self._places += [] if annotate is None else [annotate]
        self._process = TimedProcess(
            seconds, _prepare_reading, options, replace(films, say=None), annotate, say=films.say
        )
        self.names: tuple[str, ...] = self._process.greeting

    def read(self, inputs: Sequence[Input]) -> Generator[Recognition, None, None]:
        """A record for every picture and every frame, in order; one with status ``error`` for what took too long, or
        ended its process. What was being written of that input (its copies, its timeline) is lost.

        Raises:
            MienError: as ``read_inputs``.
        """
        from mien.recognition.paths import Film, Nothing
        from mien.recognition.results import Recognition

        try:
            for given in inputs:
                if isinstance(given, Nothing):
                    yield Recognition(given.word, "error", given.reason)
                    continue
                name = given.name if isinstance(given, Film) else os.fspath(given)
                try:
                    yield from self._process.answers(given, name)
                except OverdueError as error:
                    for folder in self._places:
                        clear_files(folder)
                    yield Recognition(name, "error", str(error))
        finally:
            self.close()

    def close(self) -> None:
        """Ends the process; a film that is being written is ended properly, as after Ctrl-C."""
        self._process.close()


def _prepare_reading(
    say: Say, options: dict[str, Any], films: FilmSettings, annotate: Path | None
) -> tuple[tuple[str, ...], Work]:
    from mien.recognition.batch import read_inputs
    from mien.recognition.draw import Copies
    from mien.recognition.recognizer import Recognizer

    recognizer = Recognizer(**options)
    settings = replace(films, say=say)
    copies = None if annotate is None else Copies(annotate)
    return recognizer.names, lambda given: read_inputs(recognizer, [given], settings, copies)
