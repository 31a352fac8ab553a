"""Following faces: ids that stay, and smoothing that does not depend on the frame rate."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mien.recognition.detection import overlap
from mien.recognition.film.tracking import LOOKS_S, PATIENCE_S, Tracker
from mien.recognition.results import Box, Face


def face(left: float, top: float = 0.0, side: float = 40.0, happy: float = 0.75) -> Face:
    """A face that is happy or sad."""
    probabilities = {"happy": happy, "sad": 1 - happy}
    label = max(probabilities, key=lambda name: probabilities[name])
    return Face((left, top, side, side), label, probabilities[label], probabilities, False, 1.0)


def ids(faces: tuple[Face, ...]) -> list[int | None]:
    return [tracked_face.id for tracked_face in faces]


@pytest.mark.parametrize(
    ("box", "other_box", "expected"),
    [
        ((0, 0, 4, 4), (0, 0, 4, 4), 1.0),
        ((0, 0, 4, 4), (2, 0, 4, 4), 8 / 24),
        ((0, 0, 4, 4), (4, 0, 4, 4), 0.0),
        ((0, 0, 4, 4), (1, 1, 2, 2), 4 / 16),
    ],
)
def test_overlap_by_hand(box: Box, other_box: Box, expected: float) -> None:
    assert overlap(box, other_box) == overlap(other_box, box) == pytest.approx(expected)


def test_two_faces_keep_their_ids_in_whatever_order_they_come() -> None:
    tracker = Tracker(0)
    assert ids(tracker.update([face(0), face(100)], 0.0)) == [0, 1]
    assert ids(tracker.update([face(98), face(2)], 0.04)) == [1, 0]
    assert ids(tracker.update([face(96)], 0.08)) == [1]
    assert ids(tracker.update([face(6), face(300), face(94)], 0.12)) == [0, 2, 1]


def test_faces_that_cross_go_on_where_their_speed_takes_them() -> None:
    tracker = Tracker(0)
    for frame in range(20):
        # They pass each other at frame 10, 12 pixels above and below; one alone is seen there.
        right_face, left_face = face(10 * frame, 0), face(200 - 10 * frame, 12)
        seen_faces = [right_face] if frame == 10 else [right_face, left_face]
        tracked_faces = tracker.update(seen_faces, frame / 25)
        assert ids(tracked_faces) == ([0] if frame == 10 else [0, 1]), frame


def test_a_face_out_of_sight_comes_back_where_it_would_be() -> None:
    tracker = Tracker(0)
    for frame in range(10):
        tracker.update([face(20 * frame)], frame / 25)
    for frame in range(10, 20):
        assert tracker.update([], frame / 25) == ()
    # 11 frames on it is 220 pixels further, which no still box would be joined with.
    assert ids(tracker.update([face(20 * 20)], 20 / 25)) == [0]


@pytest.mark.parametrize("rate", [5, 30])
def test_two_frames_at_nearly_the_same_time_keep_the_id_of_a_face_that_jitters(rate: int) -> None:
    tracker = Tracker(0)
    for frame, time_s in enumerate([0.0, 0.001, *(frame / rate for frame in range(1, 6))]):
        assert ids(tracker.update([face(3 * (frame % 2), side=60)], time_s)) == [0], frame


@pytest.mark.parametrize("rate", [25, 30])
def test_a_fast_face_that_was_seen_twice_comes_back_where_it_would_be(rate: int) -> None:
    tracker = Tracker(0)
    for frame in (0, 1):
        tracker.update([face(20 * frame)], frame / rate)
    for frame in (2, 3, 4):
        tracker.update([], frame / rate)
    assert ids(tracker.update([face(20 * 5)], 5 / rate)) == [0]  # two sides further than where it was last seen


def test_patience_ends_and_an_id_is_given_once() -> None:
    tracker = Tracker(0)
    times = [0.0, 0.1, 0.2, 0.3, 0.4]
    for time_s in times:
        tracker.update([face(0)], time_s)
    for step in range(1, 8):
        tracker.update([], 0.4 + 0.1 * step)  # 0.7 s
    assert ids(tracker.update([face(0)], 1.2)) == [1]
    assert PATIENCE_S == 0.5


def test_looks_that_are_far_apart_have_patience_too() -> None:
    tracker = Tracker(0)
    tracker.update([face(0)], 0)
    for time_s in (10, 20):
        tracker.update([], time_s)
    assert ids(tracker.update([face(1)], 30)) == [0]
    for time_s in (40, 50, 60):
        tracker.update([], time_s)
    assert ids(tracker.update([face(1)], 70)) == [1]


def test_a_box_of_another_size_or_place_is_another_face() -> None:
    tracker = Tracker(0)
    tracker.update([face(0, side=40)], 0)
    assert ids(tracker.update([face(-25, -25, side=90)], 0.04)) == [1]
    assert ids(tracker.update([face(60, side=40)], 0.08)) == [2]


@pytest.mark.parametrize("rate", [5, 25, 100])
def test_smoothing_is_of_time_and_not_of_frames(rate: int) -> None:
    tracker = Tracker(0.25, threshold=0.6)
    tracker.update([face(0, happy=1.0)], 0)
    for frame in range(1, rate + 1):
        (tracked_face,) = tracker.update([face(0, happy=0.0)], frame / rate)
    # After a second, or four time constants, e^-4 of what was before is left.
    assert tracked_face.probabilities["happy"] == pytest.approx(math.exp(-4))
    assert sum(tracked_face.probabilities.values()) == pytest.approx(1)


def test_label_score_and_uncertain_follow_from_the_smoothed_ones() -> None:
    tracker = Tracker(0.25, threshold=0.6)
    tracker.update([face(0, happy=1.0)], 0)
    (tracked_face,) = tracker.update([face(0, happy=0.2)], 0.25 * math.log(2))
    # Half of the way from 1.0 to 0.2; by itself the frame is sad, 0.8, and certain.
    assert tracked_face.probabilities == pytest.approx({"happy": 0.6, "sad": 0.4})
    assert (tracked_face.label, tracked_face.score) == ("happy", pytest.approx(0.6))
    (tracked_face,) = tracker.update([face(0, happy=0.3)], 0.5 * math.log(2))
    assert (tracked_face.label, tracked_face.score, tracked_face.uncertain) == ("sad", pytest.approx(0.55), True)
    assert tracked_face.detector_score == 1.0


def test_without_smoothing_or_threshold_nothing_is_changed() -> None:
    tracker = Tracker(0, threshold=0.99)
    tracker.update([face(0, happy=1.0)], 0)
    (tracked_face,) = tracker.update([face(0, happy=0.2)], 0.04)
    assert tracked_face.probabilities == {"happy": 0.2, "sad": 0.8} and tracked_face.uncertain is False
    tracker = Tracker()
    assert tracker.update([face(0)], 0)[0].uncertain is None


@pytest.mark.parametrize("smoothing", [-0.1, math.inf, math.nan])
def test_a_time_that_is_none_is_refused(smoothing: float) -> None:
    with pytest.raises(ValueError, match="expected seconds, 0 or more"):
        Tracker(smoothing)


def looking(pattern: int, left: float = 0.0, happy: float = 0.75, brightness: float = 1.0) -> Face:
    """A face with a crop of its own."""
    crop = np.random.default_rng(pattern).integers(0, 200, (6, 6)).repeat(8, axis=0).repeat(8, axis=1)
    return replace(face(left, happy=happy), crop=(crop * brightness).astype(np.uint8))


def test_another_face_in_the_same_place_gets_a_new_id_and_starts_unsmoothed() -> None:
    tracker = Tracker(0.25)
    for frame in range(5):
        assert ids(tracker.update([looking(1, happy=1.0)], frame / 25)) == [0]
    (new_face,) = tracker.update([looking(2, happy=0.0)], 5 / 25)
    assert new_face.id == 1 and new_face.probabilities["happy"] == 0
    assert ids(tracker.update([looking(2, left=2.0)], 6 / 25)) == [1]
    # The first one comes back, as after a flash: it is known again.
    assert ids(tracker.update([looking(1)], 7 / 25)) == [0]


def test_light_and_long_gaps_make_no_other_face() -> None:
    tracker = Tracker(0)
    tracker.update([looking(1)], 0.0)
    assert ids(tracker.update([looking(1, brightness=0.3)], 0.04)) == [0]
    # A head that was turned away for long may look different; where it is tells more.
    assert ids(tracker.update([looking(2)], 0.04 + LOOKS_S + 0.01)) == [0]
    flat_face = replace(face(0), crop=np.full((48, 48), 90, np.uint8))
    assert ids(tracker.update([flat_face], 0.4)) == [0]


def test_a_cut_forgets_everything() -> None:
    tracker = Tracker(0.25)
    tracker.update([face(0, happy=1.0)], 0.0)
    tracker.forget()
    (new_face,) = tracker.update([face(0, happy=0.0)], 0.04)
    assert new_face.id == 1 and new_face.probabilities["happy"] == 0


def test_what_is_gone_is_forgotten() -> None:
    tracker = Tracker(0)
    for frame in range(1000):
        tracker.update([face(100 * frame)], frame / 25)
    assert len(tracker._tracks) <= PATIENCE_S * 25 + 2
