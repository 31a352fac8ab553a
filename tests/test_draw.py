"""Boxes on pictures: where they are, what they look like, and what has no room."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mien.recognition import draw
from mien.recognition.draw import COLOURS, annotated, colour_of
from mien.recognition.results import Box, Face


def face(box: Box, label: str = "happy", score: float = 0.93, uncertain: bool | None = False) -> Face:
    return Face(box, label, score, {label: score}, uncertain)


def has(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Where a picture has a colour, bool [H, W]."""
    return (pixels == np.array(colour, np.uint8)).all(axis=2)


@pytest.mark.parametrize("ground", [0, 128, 255])
def test_the_box_has_the_colour_of_the_expression_and_a_dark_rim(ground: int) -> None:
    photo = np.full((200, 300), ground, np.uint8)
    annotated_photo = annotated(photo, [face((100, 80, 60, 50), "sad")])
    assert annotated_photo.shape == (200, 300, 3) and annotated_photo.dtype == np.uint8 and (photo == ground).all()
    assert (annotated_photo[80, 100:160] == COLOURS["sad"]).all()
    assert (annotated_photo[129, 100:160] == COLOURS["sad"]).all()
    assert (annotated_photo[80:130, 100] == COLOURS["sad"]).all() and (
        annotated_photo[80:130, 159] == COLOURS["sad"]
    ).all()
    assert (annotated_photo[130, 100:160] < 40).all() and (annotated_photo[82:128, 102:158] == ground).all()


def test_an_uncertain_face_has_a_dashed_box_and_a_question_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    labels: list[str] = []
    pen_text = draw.ImageDraw.ImageDraw.text

    def text(self: object, position: object, label: str, **options: object) -> None:
        labels.append(label)
        pen_text(self, position, label, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(draw.ImageDraw.ImageDraw, "text", text)
    ground = np.zeros((200, 300, 3), np.uint8)
    certain_photo = annotated(ground, [face((100, 80, 60, 60))])
    uncertain_photo = annotated(ground, [face((100, 80, 60, 60), uncertain=True, score=0.412)])
    unknown_photo = annotated(ground, [face((100, 80, 60, 60), uncertain=None)])
    assert labels == ["happy 93%", "happy? 41%", "happy 93%"]
    assert (
        has(certain_photo, COLOURS["happy"])[80, 100:160].all()
        and has(unknown_photo, COLOURS["happy"])[80, 100:160].all()
    )
    assert 20 <= has(uncertain_photo, COLOURS["happy"])[80, 100:160].sum() <= 40


def test_nothing_to_draw_is_a_copy() -> None:
    photo = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    copy = annotated(photo, [])
    assert (copy == photo).all() and not np.shares_memory(copy, photo)
    assert (annotated(photo[..., 0], []) == photo[..., :1]).all()


@pytest.mark.parametrize("side", [1, 2, 3, 8, 24, 48, 96])
@pytest.mark.parametrize("label", ["surprise", "a very long name of an expression"])
def test_any_size_is_drawn_and_most_of_the_picture_stays_visible(side: int, label: str) -> None:
    annotated_photo = annotated(np.full((side, side), 200, np.uint8), [face((0, 0, side, side), label, uncertain=True)])
    assert annotated_photo.shape == (side, side, 3)
    if side >= 24:
        assert (annotated_photo == 200).all(axis=2).mean() > 0.4


@pytest.mark.parametrize("uncertain", [False, True])
def test_a_small_face_in_a_large_photo_stays_visible(uncertain: bool) -> None:
    annotated_photo = annotated(
        np.full((3000, 4000), 200, np.uint8), [face((1000, 1000, 96, 120), uncertain=uncertain)]
    )
    inside = annotated_photo[1000:1120, 1000:1096]
    assert (inside == 200).all(axis=2).mean() > 0.75 and has(inside, COLOURS["happy"])[:3, :3].all()


@pytest.mark.parametrize(
    "box", [(0, 0, 50, 50), (250, 0, 50, 50), (0, 150, 50, 50), (250, 150, 50, 50), (140, 90, 2, 2), (0, 0, 300, 200),
            (299, 199, 1, 1), (0.4, 0.4, 0.2, 0.2)]
)  # fmt: skip
def test_plates_stay_in_the_picture(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    plates = plates_of([face(box)], (200, 300), monkeypatch)
    ((left, top, right, bottom),) = plates
    assert 0 <= left < right < 300 and 0 <= top < bottom < 200


def plates_of(faces: list[Face], shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Returns the areas of the plates of faces."""
    plates: list[tuple[int, ...]] = []
    plate = draw._plate

    def noting(
        pen: object, face: Face, area: object, other_areas: object, taken_areas: list[tuple[int, ...]], size: object
    ) -> None:
        plate(pen, face, area, other_areas, taken_areas, size)  # type: ignore[arg-type]
        plates[:] = taken_areas

    monkeypatch.setattr(draw, "_plate", noting)
    annotated(np.zeros(shape, np.uint8), faces)
    return plates


def test_plates_of_many_faces_do_not_cover_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    faces = [face((40 + 150 * column, 30 + 110 * row, 50, 50)) for column in range(4) for row in range(4)]
    faces += [face((60 + 150 * column, 40 + 110 * row, 50, 50), "surprise") for column in range(4) for row in range(4)]
    plates = plates_of(faces, (480, 640), monkeypatch)
    assert len(plates) == 32
    for first, second in itertools.combinations(plates, 2):
        assert first[0] > second[2] or second[0] > first[2] or first[1] > second[3] or second[1] > first[3]


def test_colours_are_distinct_and_the_same_each_time() -> None:
    assert len(set(COLOURS.values())) == 7
    assert colour_of("contempt") == colour_of("contempt") and len(colour_of("glad")) == 3


@pytest.mark.parametrize("count", [1, 8, 30, 200])
def test_any_number_of_expressions_have_colours_of_their_own(count: int) -> None:
    names = tuple(sorted([f"class {index}" for index in range(count)] + list(COLOURS)))
    colours = [colour_of(name, names) for name in names]
    assert len(set(colours)) == count + 7
    assert all(colour_of(name, names) == COLOURS[name] for name in COLOURS)
    assert colour_of(names[0], names) == colour_of(names[0], names[::-1])
    if count <= 30:
        pairs = itertools.combinations(colours, 2)
        assert min(sum((a - b) ** 2 for a, b in zip(*pair, strict=True)) for pair in pairs) > 40**2


def test_faces_of_further_expressions_are_told_apart_by_the_colours_of_their_boxes() -> None:
    names = [f"class {index}" for index in range(30)]
    shares = dict.fromkeys(names, 1 / 30)
    faces = [Face((10 + 70 * i % 700, 40 + 90 * (i // 10), 40, 40), name, 0.5, shares) for i, name in enumerate(names)]
    pixels = annotated(np.zeros((360, 760, 3), np.uint8), faces)
    edges = {tuple(pixels[round(face.box[1] + 20), round(face.box[0])]) for face in faces}
    assert len(edges) == 30


def test_a_label_of_another_script_is_no_box(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mien.fonts.system_fonts", lambda: ())
    ground, box = np.zeros((200, 300, 3), np.uint8), (100.0, 80.0, 60.0, 60.0)
    letter, escape = annotated(ground, [face(box, "高")]), annotated(ground, [face(box, r"\u9ad8")])
    assert (letter[:78, 104:] == escape[:78, 104:]).all() and letter[:78, 104:].any()


def test_the_portrait_is_boxed_and_otherwise_as_it_was() -> None:
    portrait = pytest.importorskip("skimage.data").astronaut()
    annotated_portrait = annotated(portrait, [face((175, 60, 105, 105))])
    changed = (annotated_portrait != portrait).any(axis=2)
    assert changed[60:165, 175].all() and not changed[200:].any() and not changed[:, 300:].any()
    assert 0.004 < changed.mean() < 0.02
