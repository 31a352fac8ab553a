"""Following faces from frame to frame, and smoothing what is read from them over time.

Boxes are joined to tracks by overlap and distance, where a track is expected by its constant velocity: the nearest pair
first, as in SORT (Bewley et al. 2016, section 3) but without Kalman filter and Hungarian method, which few faces do not
need.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from mien.recognition.detection import overlap
from mien.recognition.results import Box, Face

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

    from mien.recognition.film.pixels import Shown


SMOOTHING_S = 0.25
"""Time constant of the smoothing, in seconds: a change is followed to 63 % after so long, to 95 % after three times."""

PATIENCE_S = 0.5
"""How long a face may be out of sight and keep its id, in seconds."""

PATIENCE_UPDATES = 2
"""In how many looks on end a face may be missing and keep its id, where they are far apart in time."""

FARTHEST = 1.0
"""How far a face may be from where it was expected, in sides of its box."""

LARGEST_RATIO = 2.0
"""How much larger or smaller a face may be than when it was last seen."""

LIKENESS = 0.6
"""Correlation with the crop of the last look, after the best small move, below which a face is another one."""

LOOKS_S = 0.3
"""How far apart looks may be for their crops to be compared, in seconds: a head that turns looks different later."""

_VELOCITY_S = 0.15
_LOOK, _FLAT = 16, 2.0
_MOVES = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]


@dataclass
class _Track:
    """A face that is followed.

    Attributes:
        id: its number.
        box: where it was last seen.
        velocity: of the middle of the box, in pixels a second: right, down; None after the first look.
        seen_s: when it was last seen.
        missed: in how many looks it has been missing since.
        probabilities: float64 [C], smoothed.
        look: float32 [16, 16], the last crop, made small; None where faces have none.
    """

    id: int
    box: Box
    velocity: tuple[float, float] | None
    seen_s: float
    missed: int
    probabilities: np.ndarray
    look: np.ndarray | None

    def expected(self, time_s: float) -> Box:
        """Where it should be by now, if it goes on as it went."""
        left, top, width, height = self.box
        right, down = self.velocity or (0.0, 0.0)
        passed = time_s - self.seen_s
        return left + right * passed, top + down * passed, width, height


class Tracker:
    """Gives the faces of a film ids that stay, and smooths their probabilities.

    With the time ``dt`` since a face was last seen, its probabilities p become
    p + (1 - exp(-dt / smoothing)) (new - p): the same at any frame rate.

    Args:
        smoothing: the time constant in seconds; 0 leaves probabilities as they are read.
        threshold: the probability in [0, 1] below which an answer is uncertain; None where the model has none.

    Raises:
        ValueError: ``smoothing`` is negative or no number.
    """

    def __init__(self, smoothing: float = SMOOTHING_S, threshold: float | None = None) -> None:
        if not (math.isfinite(smoothing) and smoothing >= 0):
            raise ValueError(f"smoothing: expected seconds, 0 or more, got {smoothing}")
        self.smoothing = smoothing
        self.threshold = threshold
        self._tracks: list[_Track] = []
        self._next = 0

    def update(self, faces: Sequence[Face], time_s: float) -> tuple[Face, ...]:
        """The faces of the next frame, in the same order, with id and smoothed probabilities.

        ``label``, ``score`` and ``uncertain`` follow from these; box, crop and embedding are those of the frame. An id
        is given once: a face that was away for longer than the patience comes back with a new one.

        Args:
            faces: what was read in the frame; the same expressions each time.
            time_s: when the frame is shown, in seconds; later than the one before.
        """
        looks = [look(face.crop) for face in faces]
        joined = self._join(faces, looks, time_s)
        followed = []
        for index, face in enumerate(faces):
            read = np.array(list(face.probabilities.values()), np.float64)
            if index in joined:
                track = self._tracks[joined[index]]
                self._follow(track, face.box, read, time_s)
                track.look = looks[index]
            else:
                track = _Track(self._next, face.box, None, time_s, -1, read, looks[index])
                self._tracks.append(track)
                self._next += 1
            track.missed = -1  # this look counts for every track below
            followed.append(self._smoothed(face, track))
        for track in self._tracks:
            track.missed += 1
        self._tracks = [
            track
            for track in self._tracks
            if track.missed <= PATIENCE_UPDATES or time_s - track.seen_s <= PATIENCE_S + 1e-9
        ]
        return tuple(followed)

    def forget(self) -> None:
        """Ends every track, as at a hard cut: the faces that come next get new ids and start unsmoothed."""
        self._tracks.clear()

    def _join(self, faces: Sequence[Face], looks: Sequence[np.ndarray | None], time_s: float) -> dict[int, int]:
        """Which track each face belongs to: a pair is joined if neither has a nearer partner that is still free."""
        pairs = []
        for row, track in enumerate(self._tracks):
            expected = track.expected(time_s)
            for column, face in enumerate(faces):
                distance = _apart(expected, face.box)
                recent = time_s - track.seen_s <= LOOKS_S + 1e-9
                if distance is not None and not (recent and is_another(track.look, looks[column])):
                    pairs.append((distance, row, column))
        joined: dict[int, int] = {}
        for _, row, column in sorted(pairs):
            if column not in joined and row not in joined.values():
                joined[column] = row
        return joined

    def _follow(self, track: _Track, box: Box, read: np.ndarray, time_s: float) -> None:
        passed = max(time_s - track.seen_s, 1e-6)
        (across, down), (former_across, former_down) = _middle(box), _middle(track.box)
        velocity = ((across - former_across) / passed, (down - former_down) / passed)
        if track.velocity is not None:
            # Boxes tremble by a pixel or two, which in a 25th of a second looks like speed.
            share = 1 - math.exp(-passed / _VELOCITY_S)
            velocity = (
                track.velocity[0] + share * (velocity[0] - track.velocity[0]),
                track.velocity[1] + share * (velocity[1] - track.velocity[1]),
            )
        share = 1 - math.exp(-passed / self.smoothing) if self.smoothing else 1.0
        track.probabilities = track.probabilities + share * (read - track.probabilities)
        track.box, track.velocity, track.seen_s = box, velocity, time_s

    def _smoothed(self, face: Face, track: _Track) -> Face:
        if not self.smoothing:
            return replace(face, id=track.id)
        names = list(face.probabilities)
        best = int(track.probabilities.argmax())
        score = float(track.probabilities[best])
        return replace(
            face,
            id=track.id,
            label=names[best],
            score=score,
            probabilities=dict(zip(names, track.probabilities.tolist(), strict=True)),
            uncertain=None if self.threshold is None else score < self.threshold,
        )


def look(crop: np.ndarray | None) -> np.ndarray | None:
    """float32 [16, 16] in 0 to 255: the mean grey of the cells of a crop, uint8 [S, S] or [S, S, 3]; None for one that
    is not there or smaller."""
    if crop is None or min(crop.shape[:2]) < _LOOK:
        return None
    grey = crop.astype(np.float32) if crop.ndim == 2 else crop.mean(axis=2, dtype=np.float32)
    edges = [np.linspace(0, side, _LOOK + 1).astype(int) for side in grey.shape]
    sums = np.add.reduceat(np.add.reduceat(grey, edges[0][:-1], axis=0), edges[1][:-1], axis=1)
    cells: np.ndarray = sums / np.outer(np.diff(edges[0]), np.diff(edges[1])).astype(np.float32)
    return cells


def is_another(before: np.ndarray | None, after: np.ndarray | None) -> bool:
    """Whether two looks in the same place are of different faces, as after a cut between shots that are framed alike.

    `python benchmarks/cuts.py` measures how often this is right.
    """
    if before is None or after is None or min(before.std(), after.std()) < _FLAT:
        return False  # what is of one colour is like nothing
    return likeness(before, after, _MOVES) < LIKENESS


def _apart(one: Box, other: Box) -> float | None:
    """How badly two boxes fit: what they lack in overlap, and how far apart they are in sides; None: not at all."""
    side, other_side = (math.sqrt(max(box[2] * box[3], 1e-9)) for box in (one, other))
    if max(side, other_side) > LARGEST_RATIO * min(side, other_side):
        return None
    (across, down), (other_across, other_down) = _middle(one), _middle(other)
    distance = math.hypot(across - other_across, down - other_down) / ((side + other_side) / 2)
    return None if distance > FARTHEST else 1 - overlap(one, other) + distance


def _middle(box: Box) -> tuple[float, float]:
    return box[0] + box[2] / 2, box[1] + box[3] / 2


# Hard cuts: where one shot of a film ends and another begins, told from flashes, pans, fades and what passes by.
#
# A frame is looked at as a small grey picture. After a cut two things are different at once: how many dark and bright
# places there are, and where they are, even if the picture is moved a little. A pan changes the second alone, a fade
# the first alone. A flash changes both, but what was before comes back. `python benchmarks/cuts.py` measures how often
# this is right.


ROWS, COLUMNS = 24, 32
"""Cells of the small picture."""

LEVELS = 0.2
"""Share of the cells that have to change their level of grey (one of 16)."""

SCENE_LIKENESS = 0.5
"""Correlation, after the best small move, that has to be fallen below."""

AHEAD = 3
"""How many frames are waited for what was before to come back, as after a flash."""

# A frame and its small picture, None for a frame that is lost.
_Look: TypeAlias = "tuple[Shown, np.ndarray | None]"
_SAMPLES = 2
_BINS = 16
_SCENE_MOVES = [(down, right) for down in range(-2, 3) for right in range(-6, 7)]


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
    return _levels_apart(before, after) > LEVELS and likeness(before, after, _SCENE_MOVES) < SCENE_LIKENESS


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
