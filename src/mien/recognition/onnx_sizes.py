"""Rewrites an ONNX file so that the network takes pictures of any size.

OpenCV Zoo's YuNet declares an input of 640 x 640 pixels, although each of its layers works for any multiple of 32. ONNX
Runtime rejects inputs of another size than declared, so ``any_size`` rewrites the declaration in memory. It reads
protocol buffers itself (for each field a key of field number and wire type, then the value:
https://protobuf.dev/programming-guides/encoding), since the base install does not bring the package ``onnx``. All that
it changes stays as long as it was, so that no length in the file has to be written anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import cycle
from string import ascii_lowercase

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5

# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_VALUE_INFO = 11, 12, 13
_UNUSED = 3 << 3 | _LENGTH
"""Key of the field 3 of a graph, which ONNX does not use and every reader skips."""

_AXIS = re.compile(
    rb"\x0a(\x02\x08(?!\x03)[\x00-\x7f]|\x03\x08[\x80-\xff][\x00-\x7f]|\x04\x08[\x80-\xff]{2}[\x00-\x7f])"
)
"""An axis of a shape that has a number (field 1) of one, two or three bytes; not 3, the number of colours."""


def any_size(model: bytes) -> bytes:
    """Rewrites a network so that it takes any number of pictures of any size.

    Args:
        model: content of an ONNX file with one input, float32 [N, 3, H, W].

    Returns:
        The content, in which the axes of the input and the outputs have any length, but for the colours. It has no
        shapes of the values in between, which were computed for 640 x 640: ONNX Runtime infers them again.

    Raises:
        ValueError: the content is not a complete protocol buffer.
    """
    content, letters = bytearray(model), cycle(ascii_lowercase)

    def freed(axis: re.Match[bytes]) -> bytes:
        # A name (field 2) in place of the number. Two axes of one name would have to be equally long; those that have
        # no room for one differ from all others.
        room = len(axis[0]) - 4
        name = next(letters) * room if room else ""
        return bytes([axis[0][0], axis[0][1], 2 << 3 | _LENGTH, room]) + name.encode()

    graphs = [(start, end) for number, _, start, end in _fields(model, 0, len(model)) if number == _MODEL_GRAPH]
    for number, key, start, end in (field for graph in graphs for field in _fields(model, *graph)):
        if number == _GRAPH_VALUE_INFO:
            content[key] = _UNUSED
        elif number in (_GRAPH_INPUT, _GRAPH_OUTPUT):
            content[start:end] = _AXIS.sub(freed, model[start:end])
    return bytes(content)


def _fields(message: bytes, place: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yields the number of every field between two places, and the places of its key, its value and its end."""
    while place < end:
        start = place
        key, place = _varint(message, place)
        kind = key & 7
        if kind == _VARINT:
            _, after = _varint(message, place)
        elif kind == _LENGTH:
            length, place = _varint(message, place)
            after = place + length
        elif kind in (_FIXED32, _FIXED64):
            after = place + (4 if kind == _FIXED32 else 8)
        else:
            raise ValueError(f"it has a field of the unknown wire type {kind}")
        if after > end:
            raise ValueError("it ends in the middle of a field")
        yield key >> 3, start, place, after
        place = after


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """Decodes the variable-length number at a place; returns it and the place after it."""
    value = shift = 0
    while place < len(message) and shift < 70:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise ValueError("it ends in the middle of a number")
