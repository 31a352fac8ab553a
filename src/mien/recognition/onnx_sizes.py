"""Rewrites an ONNX file so that the network takes pictures of any size.

OpenCV Zoo's YuNet declares an input of 640 x 640 pixels, although each of its layers works for any multiple of 32. ONNX
Runtime rejects inputs of another size than declared, so ``any_size`` rewrites the declaration in memory. It parses
protocol buffers itself (for each field a key of field number and wire type, then the value:
https://protobuf.dev/programming-guides/encoding), since the base install does not bring the package ``onnx``.
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
    """Rewrites a network so that it takes any number of pictures of any size.

    Args:
        model: content of an ONNX file with one input, float32 [N, 3, H, W], and outputs of three axes.

    Returns:
        The content with input [any, 3, any, any], outputs [any, any, any], and no shapes of the values in between.

    Raises:
        ValueError: the content is not a complete protocol buffer.
    """
    return b"".join(
        _field(number, kind, _graph(value) if number == _MODEL_GRAPH and isinstance(value, bytes) else value)
        for number, kind, value in _fields(model)
    )


def _graph(graph: bytes) -> bytes:
    """Rewrites a GraphProto: free sizes for inputs and outputs, no shapes in between."""
    parts = []
    for number, kind, value in _fields(graph):
        if number == _GRAPH_VALUE_INFO:
            continue  # shapes of the values in between were computed for 640 x 640; ONNX Runtime infers them again
        if number in (_GRAPH_INPUT, _GRAPH_OUTPUT) and isinstance(value, bytes):
            name = _name(value)
            # Each axis of an output has a name of its own: two axes of one name would have to be equally long.
            axes = tuple(f"{name.decode()}_{axis}" for axis in range(3))
            value = _tensor(name, ("n", 3, "h", "w") if number == _GRAPH_INPUT else axes)
        parts.append(_field(number, kind, value))
    return b"".join(parts)


def _name(value_info: bytes) -> bytes:
    """Returns the name in a ValueInfoProto."""
    return next((value for number, _, value in _fields(value_info)
                 if number == _VALUE_NAME and isinstance(value, bytes)), b"")  # fmt: skip


def _tensor(name: bytes, shape: Sequence[int | str]) -> bytes:
    """Encodes a ValueInfoProto of a float32 tensor; a number in the shape is a fixed size, a name a free one."""
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
    """Yields number, wire type and value of every field, in order."""
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
    """Encodes one field."""
    start = _encoded(number << 3 | kind)
    if isinstance(value, int):
        return start + _encoded(value)
    return start + (_encoded(len(value)) if kind == _LENGTH else b"") + value


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


def _encoded(value: int) -> bytes:
    """Encodes a variable-length number: seven bits a byte, the lowest first."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
