"""A detector and an engine whose answers a person can compute, and pictures for them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from film_helpers import write
from PIL import Image

from mien.recognition.detection import Detection
from mien.recognition.engine import Answers
from mien.recognition.pictures import read_photo
from mien.recognition.recognizer import Recognizer

SIDE = 8
"""Height and width of the crops that the engine reads, in pixels."""


def read(picture: Any, where: str, color: str | None = None) -> np.ndarray:
    """The pixels of a picture, uint8 [H, W] or [H, W, 3]."""
    return read_photo(picture, where, color).pixels


class Bright:
    """Takes every run of columns that holds bright pixels for a face."""

    name = "bright"
    margin = 0.0

    def detect(self, picture: np.ndarray) -> list[Detection]:
        bright = (picture if picture.ndim == 2 else picture.max(axis=2)) > 128
        columns = np.flatnonzero(np.diff(np.concatenate([[False], bright.any(axis=0), [False]]).astype(int)))
        detections = []
        for left, right in zip(columns[::2], columns[1::2], strict=True):
            rows = np.flatnonzero(bright[:, left:right].any(axis=1))
            box = (float(left), float(rows[0]), float(right - left), float(rows[-1] + 1 - rows[0]))
            detections.append(Detection(box, float(right - left)))
        return detections


class Mean:
    """Takes the mean of a crop for the probability of ``glad``; the embedding is the mean of each channel.

    Attributes:
        batches: how many crops it was given, time by time.
    """

    names = ("calm", "glad")
    image_size = SIDE
    stated_accuracy = 0.8

    def __init__(self, grey: bool = True, threshold: float | None = 0.9, answer: float | None = None) -> None:
        self.grey = grey
        self.threshold = threshold
        self.answer = answer
        self.batches: list[int] = []

    def read(self, crops: np.ndarray) -> Answers:
        assert crops.dtype == np.uint8 and crops.shape[1:3] == (SIDE, SIDE)
        assert crops.ndim == (3 if self.grey else 4)
        self.batches.append(len(crops))
        glad = crops.reshape(len(crops), -1).mean(axis=1) / 255
        if self.answer is not None:
            glad = np.full(len(crops), self.answer)
        channels = crops.reshape(len(crops), SIDE * SIDE, -1).mean(axis=1)
        return Answers(np.stack([1 - glad, glad], 1).astype(np.float32), channels.astype(np.float32))


def recognizer(engine: Mean | None = None, **options: Any) -> Recognizer:
    """A recognizer of bright rectangles."""
    return Recognizer(detector=Bright(), engine=engine or Mean(), **options)


def picture(levels: Sequence[int] = (255,), side: int = SIDE) -> np.ndarray:
    """uint8 [3 side, 2 side n + side]: black, with a square a level, from left to right."""
    pixels = np.zeros((3 * side, 2 * side * len(levels) + side), np.uint8)
    for index, level in enumerate(levels):
        left = side + 2 * side * index
        pixels[side : 2 * side, left : left + side] = level
    return pixels


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of a picture file."""
    stream = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(stream, kind, **options)
    return stream.getvalue()


def bomb(side: int = 30_000, *, packed: bool = True) -> bytes:
    """A PNG file of half a million bytes that would unpack to a square picture of one bit a pixel, or its head."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    packer = zlib.compressobj(1)
    rows = bytes(100 * (1 + (side + 7) // 8))
    data = b"".join(packer.compress(rows) for _ in range(side // 100 if packed else 1)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def film(name: str, levels: list[int], rate: float = 10, **options: Any) -> None:
    """A film with a square in every frame, as bright as is said; 0 is a frame without a face."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = (np.dstack([picture([level], side=32)] * 3) for level in levels)
    write(path, pictures, "mjpeg", rate=Fraction(rate), pixels="yuvj420p", **options)
