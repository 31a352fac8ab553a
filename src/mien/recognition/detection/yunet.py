"""YuNet (Wu et al. 2023), a small convolutional face detector, through OpenCV; its model is not part of Mien."""

from __future__ import annotations

import importlib
import threading
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from mien.errors import MienError
from mien.files import atomic_file, expanded
from mien.recognition.detection.detectors import Detection, apart, check, within

REPOSITORY = "opencv/face_detection_yunet"
FILE = "face_detection_yunet_2023mar.onnx"
PAGE = f"https://huggingface.co/{REPOSITORY}"
_ONNX = b"\x08"
"""What every ONNX file begins with, the field of its version; a page of a proxy does not."""

LARGEST_SIDE = 1024
"""Longer side in pixels of what the network sees; larger pictures are made smaller."""


class YuNet:
    """Finds faces by YuNet; MIT licence, about 230 kB.

    Its boxes hold brow to chin more tightly in width than in height. By how much FER2013's frame is larger has not
    been measured, as the model could not be had where Mien was made: ``margin`` is an option, and
    ``benchmarks/framing.py --detector yunet:FILE.onnx`` measures it.
    """

    name = "yunet"

    def __init__(self, model: str | Path | None = None, score: float = 0.7, margin: float = 0.0) -> None:
        """Loads the network.

        Args:
            model: its ONNX file; None downloads it from the Hugging Face hub, once, into the cache.
            score: the lowest score in (0, 1] of a face that is told.
            margin: by what share of a box's longer side the frame is larger on every side; not measured.

        Raises:
            MienError: the file is missing, is no such model, or cannot be downloaded, or the score is out of range.
        """
        if not 0 < score <= 1:
            raise MienError(f"yunet: the score is {score}, expected a number above 0 and up to 1")
        self.margin = margin
        self._network = load(expanded(model) if model is not None else download(), score)
        # The network keeps the size of its input: two threads must not set it at once.
        self._lock = threading.Lock()

    def detect(self, picture: np.ndarray) -> list[Detection]:
        """The faces of a picture, uint8 [H, W] (grey) or [H, W, 3] (RGB), from left to right; scores in (0, 1].

        Raises:
            MienError: the array is no picture.
        """
        import cv2

        check(picture)
        height, width = picture.shape[:2]
        colours = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR if picture.ndim == 2 else cv2.COLOR_RGB2BGR)
        scale = min(1.0, LARGEST_SIDE / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        if scale < 1:
            colours = cv2.resize(colours, size, interpolation=cv2.INTER_AREA)
        with self._lock:
            self._network.setInputSize(size)
            _, rows = self._network.detect(colours)
        return decode(rows, (width / size[0], height / size[1]), width, height)


def decode(rows: np.ndarray | None, scale: tuple[float, float], width: int, height: int) -> list[Detection]:
    """What OpenCV's FaceDetectorYN gives, as detections.

    Args:
        rows: float32 [N, 15]: left, top, width, height, five landmarks as x and y, score; None where nothing was found.
        scale: pixels of the picture for one of what the network saw, across and down.
        width: of the picture, in pixels.
        height: the same.
    """
    found = []
    for row in np.zeros((0, 15)) if rows is None else rows:
        box = within([row[0] * scale[0], row[1] * scale[1], row[2] * scale[0], row[3] * scale[1]], width, height)
        if box[2] >= 1 and box[3] >= 1 and np.isfinite(row).all():
            found.append(Detection(box, float(row[14])))
    return apart(found)


def load(path: Path, score: float) -> Any:
    """OpenCV's FaceDetectorYN of a model file.

    Raises:
        MienError: there is no such file, or it is no YuNet.
    """
    import cv2

    if not path.is_file():
        raise MienError(f"{path}: there is no such file, expected YuNet's model; download {FILE} from {PAGE}")
    try:
        network = cv2.FaceDetectorYN.create(str(path), "", (64, 64), score, 0.3, 5000)
        # A network that is another one is told by its first answer, not when it is loaded.
        network.detect(np.zeros((64, 64, 3), np.uint8))
    except (cv2.error, SystemError) as error:
        raise MienError(
            f"{path}: is not a YuNet model that OpenCV can read ({_reason(error)}); download {FILE} from {PAGE}"
        ) from error
    return network


def download() -> Path:
    """The model file in the cache, downloaded where it is not there yet: by huggingface_hub where it is installed.

    Raises:
        MienError: it cannot be downloaded.
    """
    try:
        if find_spec("huggingface_hub") is not None:
            return Path(importlib.import_module("huggingface_hub").hf_hub_download(REPOSITORY, FILE))
        return _fetch(Path("~/.cache/mien").expanduser() / FILE)
    except MienError:
        raise
    except Exception as error:  # Of requests, urllib and the hub's client, by whatever went wrong.
        raise MienError(
            f"yunet: its model cannot be downloaded ({_reason(error)}); download {FILE} from {PAGE} by hand and give "
            f"it as yunet:{FILE}, or use the detector haar"
        ) from error


def _fetch(target: Path) -> Path:
    if not target.is_file():
        with urllib.request.urlopen(f"{PAGE}/resolve/main/{FILE}", timeout=30) as answer:
            content = answer.read()
        if not content.startswith(_ONNX):
            raise MienError(f"yunet: {PAGE} answered with something else than its model; download {FILE} by hand and "
                            f"give it as yunet:{FILE}")  # fmt: skip
        with atomic_file(target) as temporary:
            temporary.write_bytes(content)
    return target


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
