"""What a caller may pass as a picture, and what to say about everything else."""

from __future__ import annotations

import glob
import inspect
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from mien.errors import MienError

Color = Literal["rgb", "bgr", "gray"]
"""Meaning of the last axis of an array."""

LARGEST_FILE = 2**30
"""Bytes of the largest file that is read: twice an uncompressed photo of the most pixels."""


def check_color(picture: Any, color: str | None) -> None:
    """Checks the option ``color`` for a picture.

    Args:
        picture: as for ``read``.
        color: ``rgb``, ``bgr``, ``gray`` or None.

    Raises:
        MienError: ``color`` has another value, or is missing for an array that may be RGB or BGR.
    """
    if color is not None and color not in get_args(Color):
        raise MienError(f"color: got {color!r}, expected one of {', '.join(map(repr, get_args(Color)))}")
    if color is None and isinstance(picture, np.ndarray) and picture.ndim == 3 and picture.shape[2] in (3, 4):
        raise MienError(
            f"color: is missing for an array {list(picture.shape)}, whose first channel may be red or blue; "
            "say color='bgr' for one from OpenCV, color='rgb' for one from Pillow, imageio or scikit-image"
        )


class WrongTypeError(MienError, TypeError):
    """A value of a type that is no picture: a mistake of the call, not of one picture."""


def check_type(picture: Any) -> None:
    """Checks that a value may be one picture, before anything is read.

    None passes, as ``cv2.imread`` gives it for a file that it cannot read: that is a fault of one picture.

    Raises:
        WrongTypeError (a MienError and a TypeError): it has another type, or is an array of several pictures.
    """
    if isinstance(picture, np.ndarray):
        if picture.ndim == 4:
            raise WrongTypeError(
                f"picture: is an array {list(picture.shape)} of several pictures, expected one of them, [H, W, 3]; "
                "give list(array)"
            )
        return
    known = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, type(None))
    if isinstance(picture, known) or callable(getattr(picture, "read", None)):
        return
    raise WrongTypeError(f"picture: is a {type(picture).__name__}, expected {EXPECTED}{remedy(picture)}")


EXPECTED = "a path, bytes, a binary file, a PIL image, a NumPy array, or a list of these"
"""What a picture may be, in messages."""


def remedy(value: Any) -> str:
    """Returns what to do with a value that is no picture, to be appended to a message; empty if nothing is known."""
    if isinstance(value, set | frozenset):
        return "; a set has no order: give a list"
    if isinstance(value, Mapping):
        return "; give list(x.values()) for the pictures in a dict"
    if callable(getattr(value, "detach", None)) and callable(getattr(value, "cpu", None)):
        first = tuple(getattr(value, "shape", ()))[:1]
        axes = ".permute(1, 2, 0)" if first in ((1,), (3,)) and len(value.shape) == 3 else ""
        return f"; give x{axes}.cpu().numpy(), as uint8 in 0 to 255"
    if hasattr(value, "__array__"):
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
        return "is an address, and Mien downloads no pictures; download it, and give the file or its bytes"
    if kind[1].lower() == "file":
        return "is an address, expected a path; give it without file://"
    return (
        f"is an address ({kind[1]}), expected a file; record a part of the stream to a file, or give a camera by its "
        "number"
    )


def check_is_path(name: str, where: str) -> None:
    """Refuses texts that name no file and are addresses, pictures themselves or patterns, with what to do instead."""
    if os.path.lexists(name):
        return
    hint = address_hint(name)
    if hint is None and glob.has_magic(name):
        hint = "is a pattern that no file has as its name; give sorted(glob.glob(pattern)), or use `mien predict`"
    if hint is not None:
        raise MienError(f"{where if len(where) <= 200 else where[:60] + '...'}: {hint}")


def bytes_of_stream(stream: Any, where: str) -> bytes:
    """Reads an open binary file to its end.

    Raises:
        MienError: it is closed, at its end, opened as text, asynchronous, or larger than ``LARGEST_FILE``.
    """
    if inspect.iscoroutinefunction(stream.read):
        raise MienError(
            f"{where}: is read with await, expected a plain file; give the bytes: await x.read(), or x.file"
        )
    try:
        data = stream.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:  # ValueError: the file is closed
        raise MienError(
            f"{where}: cannot be read ({getattr(error, 'strerror', None) or error}); open it again"
        ) from error
    if isinstance(data, str):
        raise MienError(f"{where}: is a file opened as text, expected bytes; open it with mode 'rb'")
    if not isinstance(data, bytes | bytearray | memoryview):
        raise MienError(f"{where}: read() gives a {type(data).__name__}, expected bytes; give the bytes of the file")
    if len(data) > LARGEST_FILE:
        raise MienError(f"{where}: is larger than {LARGEST_FILE >> 30} GiB, expected a picture; make it smaller")
    if not len(data) and _position(stream):
        raise MienError(f"{where}: is at its end, nothing is left to read; call seek(0) first")
    return bytes(data)


def _position(stream: Any) -> int:
    """Returns where an open file stands, in bytes from its start; 0 if it does not say."""
    try:
        return int(stream.tell())
    except (AttributeError, OSError, TypeError, ValueError):
        return 0
