"""Detects hard cuts, where one shot of a film ends and the next begins.

Each frame is reduced to a small grey picture. A cut changes two things at once: the histogram of grey levels, and the
layout, even at the best small shift. A pan changes only the layout and a fade only the histogram. A flash changes both,
but the former picture comes back, so the decision waits for a few frames. `python benchmarks/cuts.py` measures how
often this is right.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from mien.recognition.pictures import until_error

if TYPE_CHECKING:  # reading pictures imports this module too, and does not wait for FFmpeg
    from av.video.frame import VideoFrame

    from mien.recognition.film.pixels import DecodedFrame

ROWS, COLUMNS = 24, 32
"""Cells of the small picture."""

LEVELS = 0.2
"""Least change of the histogram of 16 grey levels at a cut, as a share of the cells."""

SCENE_LIKENESS = 0.5
"""Correlation of two frames, at the best small shift, below which the layout has changed."""

AHEAD = 3
"""Frames to wait for the former picture to come back, as after a flash."""

# A frame and its small picture; None if the frame is lost.
_Look: TypeAlias = "tuple[DecodedFrame, np.ndarray | None]"
_SAMPLES = 2
_BINS = 16
_SCENE_SHIFTS = [(down, right) for down in range(-2, 3) for right in range(-6, 7)]


def thumbnail(picture: VideoFrame) -> np.ndarray:
    """Reduces a frame to float32 [ROWS, COLUMNS], 0 to 255: the mean grey of 2x2 samples in each cell."""
    # The first plane of most films is the luma itself, which saves a conversion of the whole frame.
    plane = picture.planes[0]
    bits = picture.format.components[0].bits
    if picture.format.is_rgb or picture.format.has_palette or not picture.format.is_planar or not 8 <= bits <= 16:
        picture = picture.reformat(format="gray")
        plane, bits = picture.planes[0], 8
    kind = np.uint8 if bits == 8 else np.uint16
    grey = np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)
    return reduced(grey[:, : plane.width]) / np.float32(1 << (bits - 8))


def reduced(grey: np.ndarray) -> np.ndarray:
    """Reduces a grey picture [H, W] to float32 [ROWS, COLUMNS]: the mean of 2x2 samples in each cell."""
    rows, columns = _places(*grey.shape)
    sampled = grey.take(rows, axis=0).take(columns, axis=1).astype(np.float32)
    return (sampled[::2, ::2] + sampled[1::2, ::2] + sampled[::2, 1::2] + sampled[1::2, 1::2]) / _SAMPLES**2


@lru_cache(maxsize=16)
def _places(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows [R] and columns [C] of the samples of a picture."""
    rows = (np.arange(ROWS * _SAMPLES) * 2 + 1) * height // (2 * ROWS * _SAMPLES)
    columns = (np.arange(COLUMNS * _SAMPLES) * 2 + 1) * width // (2 * COLUMNS * _SAMPLES)
    return rows, columns


def differs(before: np.ndarray, after: np.ndarray) -> bool:
    """True if two small pictures, float32 [ROWS, COLUMNS] in 0 to 255, show different shots."""
    return _histogram_change(before, after) > LEVELS and likeness(before, after, _SCENE_SHIFTS) < SCENE_LIKENESS


def likeness(first: np.ndarray, second: np.ndarray, shifts: list[tuple[int, int]]) -> float:
    """Returns the largest correlation in [-1, 1] of two grey pictures of one size over shifts by (rows, columns).

    The brightness and the contrast of a whole picture do not matter.
    """
    height, width = first.shape
    best = -1.0
    for down, right in shifts:
        here = first[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)]
        there = second[max(0, -down) : height + min(0, -down), max(0, -right) : width + min(0, -right)]
        here, there = here - here.mean(), there - there.mean()
        scale = float(np.sqrt((here * here).sum() * (there * there).sum()))
        best = max(best, float((here * there).sum()) / max(scale, 1e-6 * here.size))
    return best


def _histogram_change(before: np.ndarray, after: np.ndarray) -> float:
    """Returns the share of cells in [0, 1] by which the histograms of two small pictures differ."""
    counts = [np.bincount(grey.ravel().astype(np.uint8) // (256 // _BINS), minlength=_BINS) for grey in (before, after)]
    return float(np.abs(counts[0] - counts[1]).sum()) / (2 * before.size)


def with_cuts(frames: Iterator[DecodedFrame]) -> Iterator[tuple[DecodedFrame, bool]]:
    """Yields the frames of a film, each with True if a cut is right before it; with a delay of ``AHEAD`` frames."""
    errors: list[Exception] = []
    looks = ((frame, None if frame.picture is None else thumbnail(frame.picture)) for frame in frames)
    before: np.ndarray | None = None  # the last small picture of the current shot
    for (frame, grey), *later in _windows(until_error(looks, errors)):
        is_cut = False
        if grey is not None:
            before = grey if before is None else before
            is_cut = differs(before, grey)
            if is_cut and any(picture is not None and not differs(before, picture) for _, picture in later):
                is_cut = False  # a flash: the former picture comes back
            else:
                before = grey
        yield frame, is_cut
    if errors:
        raise errors[0]


def _windows(looks: Iterator[_Look]) -> Iterator[tuple[_Look, ...]]:
    """Yields each frame together with the ``AHEAD`` frames after it; at the end there are fewer."""
    window: deque[_Look] = deque()
    for look in looks:
        window.append(look)
        if len(window) > AHEAD:
            yield tuple(window)
            window.popleft()
    while window:
        yield tuple(window)
        window.popleft()
