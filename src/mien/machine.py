"""Processor cores, calls on several threads, compute devices and library versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from mien.errors import MienError
from mien.version import __version__

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
R = TypeVar("R")

MOST = 8
"""Most threads that the package uses at once: more do not make its short calls faster."""


def all_cores() -> int:
    """Counts the cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores() -> int:
    """Counts the cores that this process may run on, up to ``MOST``."""
    return min(all_cores(), MOST)


class Map(Protocol):
    """A function like ``map`` for one sequence of arguments; the results are in its order."""

    def __call__(self, call: Callable[[T], R], parts: Iterable[T], /) -> Iterator[R]: ...


_pools: dict[int, ThreadPoolExecutor] = {}


def _renew_pools() -> None:
    """Starts the pools of a forked child anew: it inherits them, but none of their threads."""
    for threads, pool in _pools.items():
        pool.__init__(threads, thread_name_prefix="mien")  # type: ignore[misc]  # who holds a pool keeps it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_pools)


def threaded_map(threads: int) -> Map:
    """Returns a function like ``map`` that makes up to ``threads`` calls at once, or ``map`` itself for one thread.

    All who ask for the same number share the threads, at most ``MOST``. A call must therefore not use such a function
    itself: nested calls could wait for each other. If a call raises, those that run end by themselves, and no further
    one begins.
    """
    threads = min(threads, MOST)
    if threads == 1:
        return map
    if threads not in _pools:
        _pools.setdefault(threads, ThreadPoolExecutor(threads, thread_name_prefix="mien"))
    return _pools[threads].map


LIBRARIES: tuple[str, ...] = ("torch", "torchvision", "transformers", "timm", "accelerate", "scikit-learn", "numpy")


def versions() -> dict[str, str]:
    """Returns the versions of Mien, Python and the installed libraries that influence a result."""
    return {"mien": __version__, "python": platform.python_version(), **installed_versions(LIBRARIES)}


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Returns the version of each of these packages that is installed."""
    installed = {}
    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


def machine() -> dict[str, str | int]:
    """Returns the name of the ``processor`` and the number of ``cores`` that this process may run on."""
    return {"processor": _processor(Path("/proc/cpuinfo")), "cores": all_cores()}


def _processor(cpuinfo: Path) -> str:
    """Returns the first model name in Linux's ``cpuinfo``, or else the name that Python reports."""
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (names[0] if names else platform.processor()) or platform.machine()


def resolve_device(name: str) -> torch.device:
    """Returns the torch device for ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        MienError: the name is unknown, or this machine has no such device.
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
    device_counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= device_counts.get(device.type, 0):
        available = ", ".join(f"{count} {kind}" for kind, count in device_counts.items() if count)
        raise MienError(f"device: got {name}, which this machine does not have (it has: {available}); use auto or cpu")
    return device


def torch_devices() -> list[str]:
    """Returns the devices of torch with their names; an empty list if torch is not installed."""
    if find_spec("torch") is None:
        return []
    import torch

    names = [f"cuda:{index} {torch.cuda.get_device_name(index)}" for index in range(torch.cuda.device_count())]
    return ["cpu", *names, *(["mps"] if torch.backends.mps.is_available() else [])]


def machine_of(device: torch.device) -> dict[str, str | int]:
    """Returns ``processor``, ``cores`` and, if the device is a GPU, its name as ``gpu``; for ``meta.json``."""
    import torch

    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {**machine(), **gpu}
