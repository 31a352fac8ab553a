"""Processor cores, work on several threads, compute devices, and the versions that made an artefact."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from functools import partial
from importlib import metadata
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from mien.errors import MienError
from mien.version import __version__

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
R = TypeVar("R")

MOST = 8
"""Threads that are worth having for a little work."""


def all_cores() -> int:
    """The number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores() -> int:
    """The number of cores that this process may use, at most ``MOST``."""
    return min(all_cores(), MOST)


class _Workers:
    """Threads that wait for calls; they are started when they are needed, and end with the process."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._free = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._started = 0

    def begin(self, call: Callable[[], R]) -> Future[R]:
        found: Future[R] = Future()
        self._calls.put((found, call))
        if not self._free.acquire(blocking=False):
            with self._lock:
                wanted = self._started < MOST
                self._started += wanted
            if wanted:
                threading.Thread(target=self._work, name="mien", daemon=True).start()
        return found

    def _work(self) -> None:
        while True:
            found, call = self._calls.get()
            try:
                found.set_result(call())
            except BaseException as error:
                found.set_exception(error)
            del found, call
            self._free.release()


_workers = _Workers()


def _afresh() -> None:
    global _workers
    _workers = _Workers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_afresh)


def side_by_side(call: Callable[[T], R], parts: Sequence[T], threads: int) -> list[R]:
    """A call for each part, on as many threads, this one among them; the results in order.

    All calls have ended when it returns or raises, after Ctrl-C too. They must not ask for threads themselves: there
    are ``MOST`` for all.
    """
    lanes = min(threads, len(parts))

    def lane(start: int) -> list[R]:
        return [call(part) for part in parts[start::lanes]]

    others = [_workers.begin(partial(lane, start)) for start in range(1, lanes)]
    try:
        found = [lane(0)] if parts else []
    finally:
        wait(others)
    found += [other.result() for other in others]
    return [found[place % lanes][place // lanes] for place in range(len(parts))]


LIBRARIES: tuple[str, ...] = ("torch", "torchvision", "transformers", "timm", "accelerate", "scikit-learn", "numpy")


def versions() -> dict[str, str]:
    """Versions of Mien, Python and the libraries that decide a result; libraries that are missing are left out."""
    found = {"mien": __version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str | int]:
    """``processor``, as the system names it, and ``cores``, those that this process may run on."""
    return {"processor": _processor(Path("/proc/cpuinfo")), "cores": all_cores()}


def _processor(told: Path) -> str:
    """The first model name of Linux's ``cpuinfo``, else what Python knows."""
    lines = told.read_text(encoding="utf-8").splitlines() if told.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (names[0] if names else platform.processor()) or platform.machine()


def resolve_device(name: str) -> torch.device:
    """The device that ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps`` means here.

    Raises:
        MienError: there is no such device.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise MienError(f"device: got {name}, expected auto, cpu, cuda, cuda:N or mps") from error
    present = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= present.get(device.type, 0):
        here = ", ".join(f"{count} {kind}" for kind, count in present.items() if count)
        raise MienError(f"device: got {name}, which this machine does not have (it has: {here}); use auto or cpu")
    return device


def machine_of(device: torch.device) -> dict[str, str | int]:
    """``processor``, ``cores``, and the ``gpu`` where that is the device, for ``meta.json``."""
    import torch

    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {**machine(), **gpu}
