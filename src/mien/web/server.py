"""Starts the service: one process, or several under a supervisor that replaces those that die."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import json
import logging
import logging.config
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Any

import uvicorn
from prometheus_client.multiprocess import mark_process_dead
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from mien.errors import MienError
from mien.web import metrics
from mien.web.app import create_app, load
from mien.web.guard import Guard
from mien.web.protocol import GuardedProtocol
from mien.web.settings import ServiceSettings

KEEP_ALIVE_S = 75
"""Seconds for which a connection stays open between two requests.

Longer than proxies keep theirs (nginx and AWS's load balancers: 60): one that sends a request into a connection that is
just being closed gets no answer, and tells its client 502.
"""

_BACKLOG = 1024
_PAUSE_S = 0.002
"""Seconds for which a worker leaves new connections to others after each that it accepts."""

_HUNG_S = 30
"""Seconds after which a worker that does not answer the supervisor is killed."""

logger = logging.getLogger("mien.web")


def serve(settings: ServiceSettings) -> int:
    """Serves until SIGTERM or Ctrl-C; requests in flight are finished.

    Returns:
        The exit code: 0, or 1 if a worker cannot start.

    Raises:
        MienError: the model cannot be loaded, or the address cannot be listened on.
    """
    recognizer = load(settings)  # before any process starts, so that a wrong model is one line
    logging.config.dictConfig(log_config())
    with closing(_listener(settings)) as listener:
        host, port = listener.getsockname()[:2]
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        if not settings.api_keys and not ipaddress.ip_address(host).is_loopback:
            logger.warning("everybody who reaches this address may use the service; --api-key-file asks for a key")
        print(f"{address}: the page; {address}/docs: the service", flush=True)
        if settings.workers > 1:
            del recognizer
            with _counts_of_workers():
                return _supervise(_config(settings, functools.partial(create_app, settings)), listener)
        return _run(_config(settings, functools.partial(create_app, settings, lambda: recognizer)), listener)


class FairLoop(asyncio.SelectorEventLoop):
    """An event loop that pauses after each connection that it accepts, so that workers share a burst of them.

    asyncio accepts as many as the backlog holds: the worker that wakes first would take them all.
    """

    def _accept_connection(
        self, protocol_factory: Any, sock: Any, sslcontext: Any = None, server: Any = None, backlog: int = 1, *rest: Any
    ) -> None:
        super()._accept_connection(protocol_factory, sock, sslcontext, server, 1, *rest)  # type: ignore[misc]
        if self.remove_reader(sock):  # else accepting failed, and asyncio itself tries again, in a second
            self.call_later(_PAUSE_S, self._go_on, sock, protocol_factory, sock, sslcontext, server, backlog, *rest)

    def _go_on(self, listener: socket.socket, *arguments: Any) -> None:
        if listener.fileno() >= 0:  # it was not closed meanwhile
            self.add_reader(listener, self._accept_connection, *arguments)


class _Server(uvicorn.Server):
    """A server after which the process goes on, and can end with exit code 0, after SIGTERM."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles the signals; uvicorn would raise them again afterwards."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()


class _Supervisor(Multiprocess):
    """uvicorn's supervisor; it also takes the gauges of dead workers out of the counts."""

    def keep_subprocess_alive(self) -> None:
        """Replaces the workers that have died or hang."""
        before = {process.pid for process in self.processes}
        self._leave_pipes()
        super().keep_subprocess_alive()
        self._leave_pipes()
        for pid in before - {process.pid for process in self.processes}:
            logger.warning("a worker died and was replaced", extra={"worker": pid})
            mark_process_dead(pid)

    def _leave_pipes(self) -> None:
        """Closes this process's copies of the workers' ends of the pipes.

        A worker that is killed while it is asked whether it lives then closes its pipe for good, and is replaced at
        once. Windows copies an end only when the worker reads it, which may be later.
        """
        if sys.platform != "win32":
            for process in self.processes:
                process.child_conn.close()


def _run(config: uvicorn.Config, listener: socket.socket) -> int:
    try:
        _Server(config).run([listener])
    except SystemExit as error:  # uvicorn's way to say that the application did not start; its log line says why
        return 1 if error.code else 0
    return 0


def _supervise(config: uvicorn.Config, listener: socket.socket) -> int:
    supervisor = _Supervisor(config, [listener])
    supervisor.run()
    return 1 if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes) else 0


def _config(settings: ServiceSettings, make_app: Callable[[], Guard]) -> uvicorn.Config:
    return uvicorn.Config(
        make_app,
        factory=True,
        workers=settings.workers,
        loop=f"{__name__}:FairLoop" if settings.workers > 1 else "asyncio",
        http=GuardedProtocol,
        ws="none",
        lifespan="on",
        log_config=log_config(),
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=2 * int(settings.timeout_s) + 5,
        timeout_worker_healthcheck=_HUNG_S,
    )


def _listener(settings: ServiceSettings) -> socket.socket:
    """Binds the address; the workers share the socket, so that no connection is lost with a worker."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # asyncio turns Nagle's algorithm off only for sockets of this protocol; with it, the body of each answer would
        # wait 40 ms until the client has acknowledged its headers.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        _keep_to_itself(listener)
        listener.bind(address)
        listener.listen(_BACKLOG)  # from here on clients wait instead of being refused, while workers load the model
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that is too long
        raise MienError(
            f"--host {settings.host} --port {settings.port}: cannot be listened on "
            f"({getattr(error, 'strerror', None) or error}); give --host an address of this machine, such as "
            "127.0.0.1, or choose another port, if another program uses this one"
        ) from error
    listener.set_inheritable(True)
    return listener


def _keep_to_itself(listener: socket.socket) -> None:
    """Lets no second service listen on the address, and does not let one that has ended block it.

    Windows lets two sockets with SO_REUSEADDR listen on one address; elsewhere that only skips the wait after an end.
    """
    if sys.platform == "win32":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    else:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


@contextmanager
def _counts_of_workers() -> Iterator[None]:
    """Makes the folder in which the workers keep their counts, and removes it at the end."""
    try:
        counts = tempfile.TemporaryDirectory(prefix="mien-counts-", ignore_cleanup_errors=True)
    except OSError as error:
        raise MienError(
            f"--workers: the workers keep their counts in the folder for temporary files, which cannot be written to "
            f"({error.strerror or error}); set TMPDIR to another, or mount one (docker run --tmpfs /tmp)"
        ) from error
    with counts as folder:
        os.environ[metrics.FOLDER] = folder
        try:
            yield
        finally:
            del os.environ[metrics.FOLDER]


_FIELDS = ("request_id", "method", "route", "status", "seconds", "bytes", "pictures", "faces", "kind", "worker")
"""Extra fields of a log record that are written: never pictures, names of files or addresses."""


class JsonFormatter(logging.Formatter):
    """Writes a log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns ``time`` (UTC), ``level``, ``logger``, ``message``, the extra fields and ``traceback``."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": when,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)


def log_config() -> dict[str, Any]:
    """Returns the settings of ``logging`` for the service, uvicorn and asyncio, which log through the same lines."""
    names = ("mien", "uvicorn", "asyncio")
    loggers = {name: {"handlers": ["stderr"], "level": "INFO", "propagate": False} for name in names}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonFormatter}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stderr"}},
        "loggers": loggers,
    }
