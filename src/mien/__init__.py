"""Mien: facial expression recognition with Vision Transformers, and numbers that anybody can check.

    from mien import Recognizer

    result = Recognizer().recognize("photo.jpg")
    for face in result:
        print(face.label, face.score)

An answer is a guess about how a face looks in a picture, not about what the person feels.
"""

from __future__ import annotations

import logging as _logging
import os as _os
from typing import TYPE_CHECKING as _TYPE_CHECKING

from mien.version import __version__

if _TYPE_CHECKING:
    from mien.errors import MienError as MienError
    from mien.recognition.arguments import WrongTypeError as WrongTypeError
    from mien.recognition.faces import Face as Face
    from mien.recognition.film.records import FilmRecognition as FilmRecognition
    from mien.recognition.recognizer import BrokenModelError as BrokenModelError
    from mien.recognition.recognizer import Recognizer as Recognizer
    from mien.recognition.results import Recognition as Recognition
    from mien.recognition.results import Recognitions as Recognitions

# Loaded when they are asked for, so that ``import mien`` and ``mien --help`` stay quick.
_HOMES = {
    "BrokenModelError": "mien.recognition.recognizer",
    "Face": "mien.recognition.faces",
    "FilmRecognition": "mien.recognition.film.records",
    "MienError": "mien.errors",
    "Recognition": "mien.recognition.results",
    "Recognitions": "mien.recognition.results",
    "Recognizer": "mien.recognition.recognizer",
    "WrongTypeError": "mien.recognition.arguments",
}

__all__ = [
    "BrokenModelError",
    "Face",
    "FilmRecognition",
    "MienError",
    "Recognition",
    "Recognitions",
    "Recognizer",
    "WrongTypeError",
    "__version__",
]

# Mien works offline. ONNX Runtime has reported its use to its maker since 1.29.0, unless this is set before it starts:
# if a program imports onnxruntime before mien, it has to set the variable itself.
_os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# A library's messages go where the program that uses it sends them; without this, warnings would appear on stderr.
_logging.getLogger("mien").addHandler(_logging.NullHandler())


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
