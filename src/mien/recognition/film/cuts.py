"""Hard cuts: where one shot of a film ends and another begins, told from flashes, pans, fades and what passes by.

A frame is looked at as a small grey picture. After a cut two things are different at once: how many dark and bright
places there are, and where they are, even if the picture is moved a little. A pan changes the second alone, a fade the
first alone. A flash changes both, but what was before comes back. `python benchmarks/cuts.py` measures how often this
is right.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

    from mien.recognition.film.deinterlacer import Shown

ROWS, COLUMNS = 24, 32
"""Cells of the small picture."""

LEVELS = 0.2
"""Share of the cells that have to change their level of grey (one of 16)."""

LIKENESS = 0.5
"""Correlation, after the best small move, that has to be fallen below."""

AHEAD = 3
"""How many frames are waited for what was before to come back, as after a flash."""

# A frame and its small picture, None for a frame that is lost.
_Look: TypeAlias = "tuple[Shown, np.ndarray | None]"
_SAMPLES = 2
_BINS = 16
_MOVES = [(down, right) for down in range(-2, 3) for right in range(-6, 7)]


def thumbnail(picture: VideoFrame) -> np.ndarray:
    """float32 [ROWS, COLUMNS]: the mean grey, 0 to 255, of 2x2 samples in each cell of a frame."""
    plane = picture.planes[0]
    bits = picture.format.components[0].bits
    if picture.format.is_rgb or picture.format.has_palette or not picture.format.is_planar or not 8 <= bits <= 16:
        picture = picture.reformat(format="gray")
        plane, bits = picture.planes[0], 8
    kind = np.uint8 if bits == 8 else np.uint16
    grey = np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)
    return reduced(grey[:, : plane.width]) / np.float32(1 << (bits - 8))


def reduced(grey: np.ndarray) -> np.ndarray:
    """float32 [ROWS, COLUMNS]: the means of 2x2 samples in each cell of a grey picture [H, W]."""
    rows, columns = _places(*grey.shape)
    sampled = grey.take(rows, axis=0).take(columns, axis=1).astype(np.float32)
    return (sampled[::2, ::2] + sampled[1::2, ::2] + sampled[::2, 1::2] + sampled[1::2, 1::2]) / _SAMPLES**2


@lru_cache(maxsize=16)
def _places(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows [R] and columns [C] of the samples of a picture."""
    rows = (np.arange(ROWS * _SAMPLES) * 2 + 1) * height // (2 * ROWS * _SAMPLES)
    columns = (np.arange(COLUMNS * _SAMPLES) * 2 + 1) * width // (2 * COLUMNS * _SAMPLES)
    return rows, columns


def differs(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether two small pictures, float32 [ROWS, COLUMNS] in 0 to 255, show different shots."""
    return _levels_apart(before, after) > LEVELS and likeness(before, after, _MOVES) < LIKENESS


def likeness(first: np.ndarray, second: np.ndarray, moves: list[tuple[int, int]]) -> float:
    """The largest correlation in [-1, 1] of two grey pictures of one size, over moves by so many (rows, columns).

    The brightness of a whole picture and its contrast make no difference.
    """
    height, width = first.shape
    best = -1.0
    for down, right in moves:
        here = first[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)]
        there = second[max(0, -down) : height + min(0, -down), max(0, -right) : width + min(0, -right)]
        here, there = here - here.mean(), there - there.mean()
        scale = float(np.sqrt((here * here).sum() * (there * there).sum()))
        best = max(best, float((here * there).sum()) / max(scale, 1e-6 * here.size))
    return best


def _levels_apart(before: np.ndarray, after: np.ndarray) -> float:
    """The share of cells, in [0, 1], that are at another level of grey, wherever they are."""
    counts = [np.bincount(grey.ravel().astype(np.uint8) // (256 // _BINS), minlength=_BINS) for grey in (before, after)]
    return float(np.abs(counts[0] - counts[1]).sum()) / (2 * before.size)


def marked(frames: Iterator[Shown]) -> Iterator[tuple[Shown, bool]]:
    """The frames of a film, each with whether a hard cut is right before it; they come ``AHEAD`` frames later."""
    finder = _Finder()
    waiting: deque[_Look] = deque()
    for frame in frames:
        waiting.append((frame, None if frame.picture is None else thumbnail(frame.picture)))
        if len(waiting) > AHEAD:
            yield waiting[0][0], finder.cut_before(*waiting)
            waiting.popleft()
    while waiting:
        yield waiting[0][0], finder.cut_before(*waiting)
        waiting.popleft()


class _Finder:
    """Holds the last small picture of the shot that goes on."""

    def __init__(self) -> None:
        self._before: np.ndarray | None = None

    def cut_before(self, look: _Look, *later: _Look) -> bool:
        """Whether a shot begins with a frame, the next one in turn; ``later`` are those that follow it."""
        grey = look[1]
        if grey is None:
            return False
        before = self._before
        if before is not None and differs(before, grey):
            if any(each is not None and not differs(before, each) for _, each in later):
                return False  # a flash, after which the shot goes on
            self._before = grey
            return True
        self._before = grey
        return False
