"""A second look at places of which YuNet is not sure: from close by, in grey, upright and upside down.

YuNet alone takes lamps and galaxies for faces. A face stays one without its colours and in its mirror image, and is
hardly one upside down; a lamp loses much without its colours, and looks the same in either position.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from mien.recognition.detection.search import Tile, resized
from mien.recognition.detection.yunet_network import Network

UPRIGHT: tuple[int, int] = (96, 192)
"""Side in pixels of a face, and of what is seen around it: the larger, the surer YuNet is of faces that are blurred."""

TURNED: tuple[int, int] = (72, 160)
"""The same upside down: at this size YuNet sees hardly a face in a face that is upside down."""

WEIGHTS: tuple[float, float, float, float] = (0.5, 2.0, 0.5, -0.4)
"""What the four scores count in the evidence: of the first look, of the second, likeness, and upside down."""

_LEAST = 0.1


def evidence(first: float, second: float, likeness: float, turned: float) -> float:
    """How much speaks for a face, at most 1.

    Args:
        first: score of the first look, in [0, 1].
        second: mean score of the second look, upright and mirrored.
        likeness: mean class score of the same: how much a place looks like a face, wherever exactly that is.
        turned: the higher score upside down, mirrored or not.
    """
    total = sum(weight * score for weight, score in zip(WEIGHTS, (first, second, likeness, turned), strict=True))
    return total / sum(WEIGHTS[:3])


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
    turned = 0.0
    if evidence(row[4], second, likeness, 1.0) < least <= evidence(row[4], second, likeness, 0.0):
        _, seen = _seen(picture, row, TURNED)
        turned = max(_middle(rows, TURNED)[4] for rows in network.read([seen[::-1], seen[::-1, ::-1]], _LEAST))
    if not upright[4] or evidence(row[4], second, likeness, turned) < least:
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
