"""Frees an ONNX file from the one input size that it declares.

OpenCV Zoo's YuNet says 640 x 640, though every layer of it takes any multiple of 32. ONNX Runtime holds a network to
what its file says, so the file is changed in memory: protocol buffers are read by hand (field number and wire type,
then the value: https://protobuf.dev/programming-guides/encoding), as the package ``onnx`` is no part of the base
install.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FLOAT = 1

# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_VALUE_INFO = 11, 12, 13
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR = 1
_TENSOR_ELEMENT, _TENSOR_SHAPE = 1, 2
_SHAPE_DIMENSION = 1
_DIMENSION_VALUE, _DIMENSION_NAME = 1, 2


def any_size(model: bytes) -> bytes:
    """The same network for any number of pictures of any size.

    Args:
        model: an ONNX file whose one input is float32 [N, 3, H, W], and whose outputs have three axes.

    Returns:
        The file with input [any, 3, any, any], outputs [any, any, any], and without the shapes in between.

    Raises:
        ValueError: it is no protocol buffer that can be read to its end.
    """
    return b"".join(
        _field(number, kind, _graph(value) if number == _MODEL_GRAPH and isinstance(value, bytes) else value)
        for number, kind, value in _fields(model)
    )


def _graph(graph: bytes) -> bytes:
    parts = []
    for number, kind, value in _fields(graph):
        if number == _GRAPH_VALUE_INFO:
            continue
        if number in (_GRAPH_INPUT, _GRAPH_OUTPUT) and isinstance(value, bytes):
            name = _name(value)
            places = tuple(f"{name.decode()}_{axis}" for axis in range(3))
            value = _tensor(name, ("n", 3, "h", "w") if number == _GRAPH_INPUT else places)
        parts.append(_field(number, kind, value))
    return b"".join(parts)


def _name(value_info: bytes) -> bytes:
    return next((value for number, _, value in _fields(value_info)
                 if number == _VALUE_NAME and isinstance(value, bytes)), b"")  # fmt: skip


def _tensor(name: bytes, shape: Sequence[int | str]) -> bytes:
    """A ValueInfoProto: a float32 tensor of a shape whose named sides are free."""
    sides = (
        _field(_DIMENSION_VALUE, _VARINT, side)
        if isinstance(side, int)
        else _field(_DIMENSION_NAME, _LENGTH, side.encode())
        for side in shape
    )
    dimensions = b"".join(_field(_SHAPE_DIMENSION, _LENGTH, side) for side in sides)
    tensor = _field(_TENSOR_ELEMENT, _VARINT, _FLOAT) + _field(_TENSOR_SHAPE, _LENGTH, dimensions)
    return _field(_VALUE_NAME, _LENGTH, name) + _field(_VALUE_TYPE, _LENGTH, _field(_TYPE_TENSOR, _LENGTH, tensor))


def _fields(message: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Number, wire type and value of every field, in order."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, kind = key >> 3, key & 7
        value: int | bytes
        if kind == _VARINT:
            value, place = _varint(message, place)
        elif kind in (_LENGTH, _FIXED32, _FIXED64):
            length = {_FIXED32: 4, _FIXED64: 8}.get(kind, 0)
            if kind == _LENGTH:
                length, place = _varint(message, place)
            if place + length > len(message):
                raise ValueError("it ends in the middle of a field")
            value, place = message[place : place + length], place + length
        else:
            raise ValueError(f"it has a field of the unknown wire type {kind}")
        yield number, kind, value


def _field(number: int, kind: int, value: int | bytes) -> bytes:
    start = _encoded(number << 3 | kind)
    if isinstance(value, int):
        return start + _encoded(value)
    return start + (_encoded(len(value)) if kind == _LENGTH else b"") + value


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message) and shift < 70:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise ValueError("it ends in the middle of a number")


def _encoded(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
