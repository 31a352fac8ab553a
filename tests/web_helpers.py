"""A service of a detector and an engine whose answers a person can compute, in this process or in one of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from recognition_helpers import Bright, Mean, encoded
from starlette.testclient import TestClient

from mien.recognition.detection import Detection
from mien.recognition.engine import Answers
from mien.web import server
from mien.web.app import create_app
from mien.web.batching import BatchRecognizer
from mien.web.settings import ServiceSettings

ROOT = Path(__file__).parents[1]
LONG_S = 60.0
"""Seconds that a test waits for a service at most: the machine may be busy."""


class Gate(Bright):
    """The detector ``Bright``, which waits at a gate: work piles up until the gate is opened."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.gate = threading.Event()
        self.searches = 0
        if is_open:
            self.gate.set()

    def detect(self, picture: np.ndarray) -> list[Detection]:
        self.searches += 1
        assert self.gate.wait(LONG_S)
        return super().detect(picture)


class Broken(Mean):
    """The engine ``Mean``, which answers nearly white crops with NaN."""

    def read(self, crops: np.ndarray) -> Answers:
        answers = super().read(crops)
        answers.probabilities[crops.reshape(len(crops), -1).mean(axis=1) > 225] = np.nan
        return answers


def face(level: int = 220, count: int = 1, kind: str = "PNG") -> bytes:
    """A dark picture with ``count`` bright squares that ``Bright`` takes for faces."""
    pixels = np.zeros((24, 20 * count + 4), np.uint8)
    for left in range(4, 20 * count, 20):
        pixels[6:18, left : left + 12] = level
    return encoded(pixels, kind)


def recognizer(detector: Any = None, engine: Any = None) -> BatchRecognizer:
    """A recognizer of the two stand-ins, or of the parts that are given."""
    return BatchRecognizer(engine=engine or Mean(), detector=detector or Bright())


@contextmanager
def client(
    settings: ServiceSettings | None = None, detector: Any = None, engine: Any = None, **changes: Any
) -> Iterator[TestClient]:
    """A client of the application, without a network."""
    settings = replace(settings or ServiceSettings(), **changes)
    app = create_app(settings, lambda: recognizer(detector, engine))
    with TestClient(app, raise_server_exceptions=False) as test_client:
        yield test_client


@contextmanager
def running(detector: Any = None, engine: Any = None, **changes: Any) -> Iterator[str]:
    """The service on a free port, in a thread of this process; gives its address."""
    settings = ServiceSettings(port=0, **changes)
    with closing(server._listener(settings)) as listener:
        config = server._config(settings, lambda: create_app(settings, lambda: recognizer(detector, engine)))
        uvicorn_server = server._Server(config)
        thread = threading.Thread(target=uvicorn_server.run, args=([listener],))
        thread.start()
        try:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            wait_until(lambda: uvicorn_server.started)
            yield address
        finally:
            uvicorn_server.should_exit = True
            thread.join(LONG_S)
            assert not thread.is_alive()


@contextmanager
def process(*options: str, code: int | None = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``mien serve`` as a process of its own on a free port; gives it and its address; ends it by SIGTERM.

    Args:
        options: further options.
        code: expected exit code; None for any.
    """
    command = [sys.executable, "-m", "mien", "serve", "--port", "0", "--model", "nano-int8", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    # The log goes into a file: nobody reads a pipe while the test runs, and a full one would halt the service.
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment) as service,
    ):
        assert service.stdout is not None
        try:
            address = service.stdout.readline().split(": ")[0]
            assert address.startswith("http://127.0.0.1:"), address
            wait_until(lambda: httpx.get(f"{address}/readyz", timeout=LONG_S).status_code == 200)
            yield service, address
        finally:
            if service.poll() is None:
                service.send_signal(signal.SIGTERM)
            try:
                service.wait(timeout=LONG_S)
            except subprocess.TimeoutExpired:
                service.kill()
                raise
            log.seek(0)
            assert code is None or service.returncode == code, log.read()


def children(pid: int) -> list[int]:
    """The workers of a supervisor: processes whose parent it is, without multiprocessing's tracker."""
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                command_line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if parent == pid and b"spawn_main" in command_line:
                pids.append(int(entry.name))
    return sorted(pids)


def wait_until(condition: Any, seconds: float = LONG_S) -> None:
    """Waits until a condition holds; fails if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def files(pictures: Sequence[bytes], field: str = "pictures") -> list[tuple[str, tuple[str, bytes]]]:
    """A form with pictures."""
    return [(field, (f"{number}.png", data)) for number, data in enumerate(pictures)]
