"""Tracks faces from frame to frame, and smooths their probabilities over time.

Each track predicts its box at constant velocity. Boxes are matched to the predictions by overlap and distance, the
nearest pair first: as in SORT (Bewley et al. 2016, section 3), but without the Kalman filter and the Hungarian method,
since films have few faces.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mien.recognition.detection import overlap
from mien.recognition.film.cuts import likeness
from mien.recognition.results import Box, Face

SMOOTHING_S = 0.25
"""Time constant of the smoothing in seconds: after it the answer has followed a change to 63 %, after three to 95 %."""

PATIENCE_S = 0.5
"""Longest time in seconds that a face may be missing and still keep its id."""

PATIENCE_UPDATES = 2
"""Most consecutive frames that a face may be missing and still keep its id, if they are far apart in time."""

FARTHEST = 1.0
"""Largest distance between a face and the predicted box, in sides of the box."""

LARGEST_RATIO = 2.0
"""Largest ratio between the sides of a face in two frames."""

LIKENESS = 0.6
"""Correlation of two consecutive crops, at the best small shift, below which they show different faces."""

LOOKS_S = 0.3
"""Longest time in seconds between two crops that are compared: later, a turning head looks different."""

_VELOCITY_S = 0.15
# A velocity from two frames alone counts them as at least this far apart, as the frames of a film usually are. Some are
# stamped 1 ms apart, in which a jitter of 3 pixels would look like 3,000 pixels a second.
_FIRST_STEP_S = 0.03
_LOOK, _FLAT = 16, 2.0
_FACE_SHIFTS = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]


@dataclass
class _Track:
    """A tracked face.

    Attributes:
        id: number of the face.
        box: its last box.
        velocity: of the centre of the box, in pixels a second (right, down); None after the first frame.
        seen_s: time of its last frame, in seconds.
        missed: number of frames since then.
        probabilities: float64 [C], smoothed.
        look: float32 [16, 16], its last crop, reduced; None if faces have no crops.
    """

    id: int
    box: Box
    velocity: tuple[float, float] | None
    seen_s: float
    missed: int
    probabilities: np.ndarray
    look: np.ndarray | None

    def expected(self, time_s: float) -> Box:
        """Box extrapolated at constant velocity."""
        left, top, width, height = self.box
        right, down = self.velocity or (0.0, 0.0)
        passed = time_s - self.seen_s
        return left + right * passed, top + down * passed, width, height


class Tracker:
    """Gives the faces of a film lasting ids and smooths their probabilities.

    If ``dt`` is the time since the last frame with a face, its probabilities p become
    p + (1 - exp(-dt / smoothing)) (new - p). The result is the same at any frame rate.

    Args:
        smoothing: time constant in seconds; 0 for no smoothing.
        threshold: probability in [0, 1] below which an answer is uncertain; None if the model has none.

    Raises:
        ValueError: ``smoothing`` is negative, infinite or NaN.
    """

    def __init__(self, smoothing: float = SMOOTHING_S, threshold: float | None = None) -> None:
        if not (math.isfinite(smoothing) and smoothing >= 0):
            raise ValueError(f"smoothing: expected seconds, 0 or more, got {smoothing}")
        self.smoothing = smoothing
        self.threshold = threshold
        self._tracks: list[_Track] = []
        self._next = 0

    def update(self, faces: Sequence[Face], time_s: float) -> tuple[Face, ...]:
        """Returns the faces of the next frame, in the same order, with ids and smoothed probabilities.

        ``label``, ``score`` and ``uncertain`` follow from these; box, crop and embedding stay those of the frame. An id
        is never reused: a face that was missing longer than ``PATIENCE_S`` gets a new one.

        Args:
            faces: the faces of the frame, always with the same expressions.
            time_s: time of the frame in seconds, later than that of the frame before.
        """
        looks = [look(face.crop) for face in faces]
        matches = self._match(faces, looks, time_s)
        for track in self._tracks:
            track.missed += 1
        followed = []
        for index, face in enumerate(faces):
            probabilities = np.array(list(face.probabilities.values()), np.float64)
            if index in matches:
                track = self._tracks[matches[index]]
                self._follow(track, face.box, probabilities, time_s)
                track.look, track.missed = looks[index], 0
            else:
                track = _Track(self._next, face.box, None, time_s, 0, probabilities, looks[index])
                self._tracks.append(track)
                self._next += 1
            followed.append(self._smoothed(face, track))
        self._tracks = [
            track
            for track in self._tracks
            if track.missed <= PATIENCE_UPDATES or time_s - track.seen_s <= PATIENCE_S + 1e-9
        ]
        return tuple(followed)

    def forget(self) -> None:
        """Ends every track, as at a hard cut: the faces that come next get new ids and start unsmoothed."""
        self._tracks.clear()

    def _match(self, faces: Sequence[Face], looks: Sequence[np.ndarray | None], time_s: float) -> dict[int, int]:
        """Matches faces to tracks, the nearest pair first; returns the row of the track for each matched face."""
        pairs = []
        for row, track in enumerate(self._tracks):
            expected = track.expected(time_s)
            is_recent = time_s - track.seen_s <= LOOKS_S + 1e-9
            for column, face in enumerate(faces):
                distance = _mismatch(expected, face.box)
                if distance is not None and not (is_recent and is_another(track.look, looks[column])):
                    pairs.append((distance, row, column))
        matches: dict[int, int] = {}
        for _, row, column in sorted(pairs):
            if column not in matches and row not in matches.values():
                matches[column] = row
        return matches

    def _follow(self, track: _Track, box: Box, probabilities: np.ndarray, time_s: float) -> None:
        """Updates a track with its face in the current frame."""
        passed = max(time_s - track.seen_s, 1e-6)
        (across, down), (former_across, former_down) = _middle(box), _middle(track.box)
        step = passed if track.velocity is not None else max(passed, _FIRST_STEP_S)
        velocity = ((across - former_across) / step, (down - former_down) / step)
        if track.velocity is not None:
            # Boxes jitter by a pixel or two, which over 1/25 s would look like speed; so the velocity is smoothed too.
            share = 1 - math.exp(-passed / _VELOCITY_S)
            velocity = (
                track.velocity[0] + share * (velocity[0] - track.velocity[0]),
                track.velocity[1] + share * (velocity[1] - track.velocity[1]),
            )
        share = 1 - math.exp(-passed / self.smoothing) if self.smoothing else 1.0
        track.probabilities = track.probabilities + share * (probabilities - track.probabilities)
        track.box, track.velocity, track.seen_s = box, velocity, time_s

    def _smoothed(self, face: Face, track: _Track) -> Face:
        """Returns a face with the id and the smoothed probabilities of its track."""
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
    """Reduces a crop, uint8 [S, S] or [S, S, 3], to the mean grey of 16 x 16 cells, float32 in 0 to 255; None for a
    smaller crop or none."""
    if crop is None or min(crop.shape[:2]) < _LOOK:
        return None
    grey = crop.astype(np.float32) if crop.ndim == 2 else crop.mean(axis=2, dtype=np.float32)
    edges = [np.linspace(0, side, _LOOK + 1).astype(int) for side in grey.shape]
    sums = np.add.reduceat(np.add.reduceat(grey, edges[0][:-1], axis=0), edges[1][:-1], axis=1)
    cells: np.ndarray = sums / np.outer(np.diff(edges[0]), np.diff(edges[1])).astype(np.float32)
    return cells


def is_another(before: np.ndarray | None, after: np.ndarray | None) -> bool:
    """True if two reduced crops at the same place show different faces, as after a cut between similar shots.

    `python benchmarks/cuts.py` measures how often this is right.
    """
    if before is None or after is None or min(before.std(), after.std()) < _FLAT:
        return False  # a crop of one colour correlates with nothing
    return likeness(before, after, _FACE_SHIFTS) < LIKENESS


def _mismatch(first: Box, second: Box) -> float | None:
    """Returns 1 - overlap + distance in sides of two boxes; None if they cannot show the same face."""
    side, second_side = (math.sqrt(max(box[2] * box[3], 1e-9)) for box in (first, second))
    if max(side, second_side) > LARGEST_RATIO * min(side, second_side):
        return None
    (across, down), (second_across, second_down) = _middle(first), _middle(second)
    distance = math.hypot(across - second_across, down - second_down) / ((side + second_side) / 2)
    return None if distance > FARTHEST else 1 - overlap(first, second) + distance


def _middle(box: Box) -> tuple[float, float]:
    return box[0] + box[2] / 2, box[1] + box[3] / 2
