"""Mien: facial expression recognition with Vision Transformers, and numbers that anybody can check."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from mien.version import __version__

if TYPE_CHECKING:
    from mien.recognition.recognizer import Recognizer

__all__ = ["Recognizer", "__version__"]

# Mien works offline. ONNX Runtime from 1.32 on reports its use to its maker unless this is set before it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def __getattr__(name: str) -> Any:
    """``mien.Recognizer``, loaded when it is asked for: ``import mien`` and ``mien --help`` stay quick."""
    if name == "Recognizer":
        from mien.recognition.recognizer import Recognizer

        return Recognizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "Recognizer"])
