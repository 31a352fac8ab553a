"""Which software made an artefact."""

from __future__ import annotations

import platform
from importlib import metadata

import mien

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
