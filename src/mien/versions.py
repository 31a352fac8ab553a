"""Which software, and what machine, made an artefact."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

import mien
from mien.threads import all_cores

LIBRARIES: tuple[str, ...] = ("torch", "torchvision", "transformers", "timm", "accelerate", "scikit-learn", "numpy")


def versions() -> dict[str, str]:
    """Versions of Mien, Python and the libraries that decide a result; libraries that are missing are left out."""
    found = {"mien": mien.__version__, "python": platform.python_version()}
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
