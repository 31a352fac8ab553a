"""What to say to a caller about a value that is no picture: what was expected, and what to give instead."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mien.errors import MienError


class WrongTypeError(MienError, TypeError):
    """A value of a type that is no picture: a mistake of the call, not of one picture."""


def whole_number(value: Any) -> int | None:
    """Returns a whole number, also of NumPy, as Python's; None for any other value and for a bool."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:  # an array of several has the method, too
        return None


EXPECTED = "a path, bytes, a binary file, a PIL image, a NumPy array, or a list of these"
"""What a picture may be, in messages."""


def remedy(value: Any) -> str:
    """Returns what to do with a value that is no picture, to be appended to a message; empty if nothing is known."""
    if isinstance(value, set | frozenset):
        return "; a set has no order: give a list"
    if type(value) in (list, tuple):
        return "; give one list, without lists in it"
    if isinstance(value, Mapping):
        return "; give list(x.values()) for the pictures in a dict"
    if callable(getattr(value, "detach", None)) and callable(getattr(value, "cpu", None)):
        first = tuple(getattr(value, "shape", ()))[:1]
        axes = ".permute(1, 2, 0)" if first in ((1,), (3,)) and len(value.shape) == 3 else ""
        return f"; give x{axes}.cpu().numpy(), as uint8 in 0 to 255"
    if hasattr(value, "__array__") and len(getattr(value, "shape", ())) != 1:  # one axis: a column of a table
        return "; give numpy.asarray(x), as uint8 in 0 to 255"
    if isinstance(value, Iterable):
        return "; give list(x), or read it with Recognizer.stream, which takes any iterable"
    return ""


def address_hint(text: str) -> str | None:
    """Returns what to do about a text that is an address or holds a picture itself; None for a path.

    A ``Path`` of an address has lost one of its slashes.
    """
    kind = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+):/", text)
    if text.lower().startswith("data:"):
        return "is a data URI, expected a picture; give the bytes: base64.b64decode(text.split(',', 1)[1])"
    if kind is None or os.path.lexists(text):
        return None
    if kind[1].lower() in ("http", "https", "ftp", "s3", "gs"):
        return "is an address, and Mien downloads nothing; download it, and give the file"
    if kind[1].lower() == "file":
        return "is an address, expected a path; give it without file://"
    return (
        f"is an address ({kind[1]}), expected a file; record a part of the stream to a file, or give a camera by its "
        "number"
    )


def type_of(value: object) -> str:
    """The type of a value for messages: ``an int``, ``a list``, ``None``."""
    return "None" if value is None else _with_article(type(value).__name__)


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeio' else 'a'} {noun}"


def not_uint8(array: np.ndarray) -> str:
    """Describes what is wrong with an array that is not uint8, and the remedy."""
    if np.issubdtype(array.dtype, np.floating):
        if np.isnan(array).any():
            return f"is a {array.dtype} array with NaN, expected uint8 in 0 to 255; find out where the NaN come from"
        return (
            f"is a {array.dtype} array, expected uint8 in 0 to 255; where values are in 0 to 1 give "
            "(255 * x).round().astype('uint8')"
        )
    if array.dtype == np.uint16:
        return (
            "is a uint16 array, expected uint8 in 0 to 255; where values fill 16 bits give (x // 257).astype('uint8')"
        )
    kind = _with_article(f"{array.dtype} array")
    return f"is {kind}, expected uint8 in 0 to 255; give x.astype('uint8') where that loses nothing"
