"""The timeline: what its columns show, gaps, and that it holds no more for a longer film."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mien.errors import MienError
from mien.recognition.draw import COLOURS
from mien.recognition.film import timeline
from mien.recognition.film.timeline import LARGEST_BINS, Timeline, timeline_file
from mien.recognition.results import Face, Recognition

NAMES = tuple(COLOURS)
LEFT, RIGHT = timeline._LEFT, timeline._WIDTH - timeline._RIGHT


def face(number: int, label: str, share: float = 1.0, uncertain: bool = False) -> Face:
    """A face that looks like one expression, and otherwise neutral."""
    probabilities = dict.fromkeys(NAMES, 0.0)
    probabilities["neutral"] = 1 - share
    probabilities[label] += share
    crop = np.full((48, 48), 40 * number % 256, np.uint8)
    return Face((0.0, 0.0, 50.0, 50.0), label, share, probabilities, uncertain, 1.0, crop, None, number)


def record(time_s: float, *faces: Face, is_lost: bool = False) -> Recognition:
    status = "error" if is_lost else "ok" if faces else "no_face"
    return Recognition("film.mp4", status, faces=faces, frame=0, time_s=time_s)  # type: ignore[arg-type]


def panel(figure: Image.Image, row: int = 0) -> np.ndarray:
    """The pixels of a panel, uint8 [H, W, 3]."""
    top = timeline._TOP + row * (timeline._PANEL + timeline._GAP)
    return np.asarray(figure)[top : top + timeline._PANEL, LEFT:RIGHT]


def shares(column: np.ndarray) -> dict[str, float]:
    """How much of a column each expression takes."""
    return {name: float((column == colour).all(axis=1).mean()) for name, colour in COLOURS.items()}


def test_a_column_stacks_the_probabilities_of_its_time() -> None:
    film_timeline = Timeline("film.mp4", 0.25)
    for frame in range(100):
        film_timeline.add(record(frame / 25, face(0, "happy", 0.75) if frame < 50 else face(0, "sad")))
    pixels = panel(film_timeline.draw())
    quarter, end = shares(pixels[:, pixels.shape[1] // 4]), shares(pixels[:, -1])
    assert quarter["happy"] == pytest.approx(0.75, abs=0.02) and quarter["neutral"] == pytest.approx(0.25, abs=0.02)
    assert end["sad"] == pytest.approx(1, abs=0.03)
    # The change is in the middle: 2 s of 4.
    sad = np.array([shares(pixels[:, x])["sad"] > 0.5 for x in range(pixels.shape[1])])
    assert not sad[: len(sad) // 2 - 1].any() and sad[len(sad) // 2 + 1 :].all()


def test_each_face_has_a_panel_which_is_blank_where_it_is_not_seen() -> None:
    film_timeline = Timeline("film.mp4", 0.25)
    for frame in range(100):
        seen_faces = [face(0, "happy")] if not 40 <= frame < 60 else []
        seen_faces += [face(1, "fear")] if frame >= 90 else []
        film_timeline.add(record(frame / 25, *seen_faces))
    figure = film_timeline.draw()
    width = RIGHT - LEFT
    for row, expected in ((0, [True, False, True]), (1, [False, False, True])):
        pixels = panel(figure, row)
        is_filled = [max(shares(pixels[:, int(position * width)]).values()) > 0.9 for position in (0.2, 0.5, 0.95)]
        assert is_filled == expected
    assert (panel(figure)[10, width // 2] == timeline._EMPTY).all()


def test_a_single_frame_without_the_face_is_no_gap_in_a_long_film() -> None:
    film_timeline = Timeline("film.mp4", 0)
    for frame in range(4000):
        film_timeline.add(record(frame / 25, *([] if frame % 50 == 25 else [face(0, "happy")])))
    pixels = panel(film_timeline.draw())
    is_filled = [shares(pixels[:, x])["happy"] > 0.9 for x in range(pixels.shape[1])]
    assert np.mean(is_filled) > 0.99


def test_uncertain_time_is_marked() -> None:
    film_timeline = Timeline("film.mp4", 0.25)
    for frame in range(100):
        film_timeline.add(record(frame / 25, face(0, "happy", 0.5, uncertain=frame >= 75)))
    strip = np.asarray(film_timeline.draw())[timeline._TOP + timeline._PANEL + 6, LEFT:RIGHT]
    is_dark = np.asarray((strip < 128).all(axis=1))
    assert is_dark.mean() == pytest.approx(0.25, abs=0.01) and is_dark[-100:].all()
    assert "Dark strip: unsure, below the model's threshold." in film_timeline._remarks([0])
    assert "means over the frames in which the face is seen" in film_timeline._remarks([0])
    assert "Dark strip" not in film_timeline._remarks([])


def test_a_face_of_one_frame_has_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(timeline, "write", lambda pen, place, text, *rest: written.append(text))
    film_timeline = Timeline("film.mp4", 0.25)
    for time_s in (0.0, 0.8, 1.6):
        film_timeline.add(record(time_s, *([face(0, "happy")] if time_s == 0.8 else [face(1, "sad")])))
    film_timeline.draw()
    assert "at 0.8 s" in written and "0.0 s to 1.6 s" in written
    film_timeline.add(record(8.4, face(1, "sad")))  # whole seconds of a short film would make faces follow or overlap
    film_timeline.draw()
    assert "0.0 s to 8.4 s" in written and "8 s" in written


def test_it_holds_no_more_for_a_longer_film() -> None:
    film_timeline = Timeline("film.mp4", 0.25)
    for minute in range(121):
        for frame in range(60):
            film_timeline.add(record(60 * minute + frame, face(0, "happy")))
    assert len(film_timeline._frame_counts) == len(film_timeline._faces[0].sums) == LARGEST_BINS
    assert film_timeline._frame_counts.sum() == film_timeline._faces[0].sums[:, -2].sum() == 121 * 60
    assert shares(panel(film_timeline.draw())[:, 700])["happy"] > 0.95


def test_faces_that_flash_by_are_counted_and_those_seen_longest_drawn() -> None:
    film_timeline = Timeline("film.mp4", 0.25)
    for frame in range(600):
        film_timeline.add(record(frame / 25, face(0, "happy"), face(1 + frame, "sad")))
    assert len(film_timeline._faces) <= timeline._MOST_TRACKS + 1 and 0 in film_timeline._faces
    figure = film_timeline.draw()
    assert shares(panel(figure)[:, 700])["happy"] > 0.9
    assert f"{601 - timeline.LARGEST_PANELS} more faces were seen for a shorter time." in film_timeline._remarks(
        sorted(film_timeline._faces)[: timeline.LARGEST_PANELS]
    )


def test_a_film_without_faces_and_with_damage_is_drawn_too(tmp_path: Path) -> None:
    film_timeline = Timeline("film.mp4", 0)
    assert film_timeline.draw().size[0] == 1600
    film_timeline.add(record(0.0))
    film_timeline.add(record(0.04, is_lost=True))
    film_timeline.save(tmp_path / "new" / "timeline.png")
    with Image.open(tmp_path / "new" / "timeline.png") as figure:
        assert figure.format == "PNG" and figure.size[0] == 1600
    assert "1 frame could not be read." in film_timeline._remarks([])
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["timeline.png"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MienError, RuntimeError, MemoryError, GeneratorExit])
def test_the_figure_holds_what_was_read_whatever_ends_it(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "film.png"
    path.write_text("the former one")
    with pytest.raises(error), timeline_file(path, "film.mp4", 0):
        raise error("stop")
    assert path.read_text() == "the former one", "no frame was read"
    with pytest.raises(error), timeline_file(path, "film.mp4", 0) as add:
        add(record(0.0, face(0, "happy")))
        raise error("stop")
    with Image.open(path) as figure:
        assert shares(panel(figure)[:, 0])["happy"] > 0.95


def test_a_name_that_is_no_picture_and_a_record_without_time(tmp_path: Path) -> None:
    with pytest.raises(MienError, match=r"timeline\.txt: is not a name for a picture, expected one that ends in \.png"):
        Timeline("film.mp4", 0).save(tmp_path / "timeline.txt")
    with pytest.raises(ValueError, match="the record has no time"):
        Timeline("film.mp4", 0).add(Recognition("photo.jpg", "no_face"))


@pytest.mark.parametrize(
    ("seconds", "until", "expected"),
    [(1.25, 4, "1.2 s"), (12, 20, "12 s"), (65, 100, "1:05"), (0, 100, "0:00"), (3725, 7200, "1:02:05")],
)
def test_times_are_written_as_people_do(seconds: float, until: float, expected: str) -> None:
    assert timeline._clock(seconds, until) == expected
