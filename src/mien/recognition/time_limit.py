"""A time limit for each input: a second process reads it, and is killed if the time is over.

Decoders and networks are native code. Neither an exception nor a thread can stop a decoder that works for minutes, or a
network in an endless loop; only killing the process can. Without a limit, no second process is started.
"""

from __future__ import annotations

import pickle
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mien.errors import MienError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

Say = Callable[[Any], None]
"""Function that takes a remark: a line, or anything else that can be pickled."""

Work = Callable[[Any], Iterator[Any]]
"""Function that yields the pieces of the answer to a task."""

Prepare = Callable[..., tuple[Any, Work]]
"""Function that the process calls as ``prepare(say, *arguments)``; it loads the model, returns greeting and work."""


@dataclass(frozen=True)
class Alive:
    """A remark that starts the time limit again: work goes on, though the next piece of the answer is not ready."""


LOADING_S = 300.0
"""Least limit in seconds for loading the model; loading does not count as time of an input."""

_ENDING_S = 10.0  # time to finish a film that is being written, after Ctrl-C
_ALARM_S = 5.0  # delay after which the process ends itself, in case the parent process no longer exists


class OverdueError(MienError):
    """An input exceeded the time limit, or crashed the process that read it."""


class TimedProcess:
    """A process for one task after the other. If a task takes too long, it is killed, and the next task gets a new one.

    Args:
        seconds: limit until the first piece of an answer, from each piece to the next, and to the end; also from each
            remark ``Alive`` on.
        prepare: a module-level function, called once in each process.
        arguments: arguments of ``prepare``; they must be picklable.
        say: called with each remark of the work.

    Attributes:
        greeting: first value that ``prepare`` returns.

    Raises:
        MienError: ``prepare`` fails.
    """

    def __init__(self, seconds: float, prepare: Prepare, *arguments: Any, say: Say | None = None) -> None:
        self._seconds, self._say = seconds, say
        self._call = (prepare, arguments)
        self._process: Any = None
        self._pipe: Connection | None = None
        self.greeting: Any = None
        self._start()

    def answers(self, task: Any, name: str, finishing_s: float = 0.0) -> Iterator[Any]:
        """Yields the pieces of the answer to a task.

        Args:
            task: argument of the work; it must be picklable.
            name: name of the task in messages.
            finishing_s: if the time is over, seconds in which the process may still finish its files, interrupted as
                by Ctrl-C, before it is killed. Native code that hangs does not let it.

        Raises:
            OverdueError: the task took too long, or the process died.
            MienError: the work raised it; other exceptions of the work are raised too.
        """
        pipe = self._pipe or self._start()
        with suppress(OSError):  # the process has died: _next reports it
            pipe.send(task)
        while True:
            kind, value = self._next(pipe, self._seconds, name, finishing_s)
            if kind == "end":
                return
            yield value

    def close(self) -> None:
        """Ends the process; a running task is interrupted as by Ctrl-C."""
        if self._process is None:
            return
        self._process.terminate()
        self._process.join(_ENDING_S)
        self._kill()

    def _start(self) -> Connection:
        """Starts a process and waits until it is prepared."""
        import multiprocessing  # it takes milliseconds to load, which most commands do not need

        # A forked child would inherit locks held by threads of libraries.
        context = multiprocessing.get_context("spawn")
        self._pipe, child_pipe = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(child_pipe, self._seconds, *self._call, list(warnings.filters)),
            name="mien-timed",
            daemon=True,
        )
        self._process.start()
        child_pipe.close()
        try:
            _, self.greeting = self._next(self._pipe, max(LOADING_S, self._seconds), "loading the model")
        except BaseException:
            self._kill()
            raise
        return self._pipe

    def _next(self, pipe: Connection, seconds: float, name: str, finishing_s: float = 0.0) -> tuple[str, Any]:
        """Receives the next message, and passes remarks on."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if not pipe.poll(max(0.0, deadline - time.monotonic())):
                    if finishing_s:
                        self._process.terminate()
                        self._process.join(finishing_s)
                    self._kill()
                    raise OverdueError(_overdue(name, seconds))
                kind, value = pipe.recv()
            except (EOFError, ConnectionError) as error:
                self._process.join(_ENDING_S)
                code = self._process.exitcode
                self._kill()
                if hasattr(signal, "SIGALRM") and code == -signal.SIGALRM:
                    raise OverdueError(_overdue(name, seconds)) from error
                raise OverdueError(_died(name, code)) from error
            if kind == "failed":  # the process has ended with this exception
                self._kill()
                raise value
            if kind != "say":
                return kind, value
            if isinstance(value, Alive):
                deadline = time.monotonic() + seconds
            elif self._say is not None:
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


def _serve(
    pipe: Connection, seconds: float, prepare: Prepare, arguments: tuple[Any, ...], filters: Sequence[Any]
) -> None:
    """Runs in the process: works on tasks until the parent closes the pipe."""
    _listen_to_one_signal()
    warnings.filters[:] = filters  # type: ignore[index]

    def send(kind: str, value: Any = None) -> None:
        _alarm(0)  # time in which the parent does not read does not count
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
    """Turns the first SIGTERM into KeyboardInterrupt; ignores the signals that a terminal sends to every process."""

    def end(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end)


def _alarm(seconds: float) -> None:
    """Makes the system kill this process after a time, whatever it does then; 0 cancels this."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _portable(error: Exception) -> Exception:
    """Returns an exception that can be pickled, with the traceback as a note for --debug."""
    error.add_note(f"in the process of --timeout:\n{traceback.format_exc()}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
