"""Processor cores, calls on several threads, compute devices and library versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

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


_pool = ThreadPoolExecutor(MOST, thread_name_prefix="mien")


def _renew_pool() -> None:
    """Replaces the pool in a forked child, which inherits the pool but none of its threads."""
    global _pool
    _pool = ThreadPoolExecutor(MOST, thread_name_prefix="mien")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_pool)


def side_by_side(call: Callable[[T], R], parts: Sequence[T], threads: int) -> list[R]:
    """Calls a function for each part on up to ``threads`` threads, the calling thread included.

    Every call has ended when this returns or raises, also after Ctrl-C. A call must not use ``side_by_side`` itself:
    all callers share ``MOST`` threads, so that nested calls could wait for each other.

    Args:
        call: takes one part.
        parts: the arguments, one for each call.
        threads: how many calls run at once, at most.

    Returns:
        The results, in the order of the parts.
    """
    lanes = min(threads, len(parts))

    def run_lane(start: int) -> list[R]:
        return [call(part) for part in parts[start::lanes]]

    futures = [_pool.submit(run_lane, start) for start in range(1, lanes)]
    try:
        results = [run_lane(0)] if parts else []
    finally:
        wait(futures)
    results += [future.result() for future in futures]
    return [results[index % lanes][index // lanes] for index in range(len(parts))]


LIBRARIES: tuple[str, ...] = ("torch", "torchvision", "transformers", "timm", "accelerate", "scikit-learn", "numpy")


def versions() -> dict[str, str]:
    """Returns the versions of Mien, Python and the installed libraries that influence a result."""
    installed = {"mien": __version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            installed[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
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
