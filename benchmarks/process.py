"""Fresh processes and their memory, for benchmarks on Linux."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def resident(field: str) -> float:
    """MiB of this process in memory now (VmRSS) or at its peak (VmHWM).

    Not ``resource.getrusage``: its peak of a new process begins at that of the process which started it.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return float(re.search(rf"{field}:\s+(\d+) kB", status).group(1)) / 1024  # type: ignore[union-attr]


def in_fresh_process(function: Callable[..., T], *arguments: object) -> T:
    """Calls a function in a new process, so that it sees no memory of earlier work."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()
