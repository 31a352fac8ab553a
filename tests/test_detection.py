"""Finding faces: the public-domain portrait of scikit-image, pictures without a face, and what is no picture."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from mien.errors import MienError
from mien.recognition.detection import detectors, haar
from mien.recognition.detection.detectors import Detection, WholePicture, apart, detector, within

data = pytest.importorskip("skimage.data")

FACE = (0.439, 0.222)
"""Centre of the astronaut's face, as shares of her portrait."""


@pytest.fixture(scope="module")
def finder() -> haar.Haar:
    return haar.Haar()


def astronaut(side: int) -> np.ndarray:
    method = cv2.INTER_AREA if side < 512 else cv2.INTER_LINEAR
    return cv2.resize(data.astronaut(), (side, side), interpolation=method)


def turned(side: int, angle: float) -> np.ndarray:
    centre = FACE[0] * side, FACE[1] * side
    turn = cv2.getRotationMatrix2D(centre, angle, 1.0)
    return cv2.warpAffine(astronaut(side), turn, (side, side), borderMode=cv2.BORDER_REFLECT)


def assert_on_face(found: list[Detection], side: int) -> None:
    assert len(found) == 1
    left, top, width, height = found[0].box
    assert (left + width / 2) / side == pytest.approx(FACE[0], abs=0.03)
    assert (top + height / 2) / side == pytest.approx(FACE[1], abs=0.03)
    assert width / side == pytest.approx(0.19, abs=0.03)
    assert (found[0].score or 0) >= haar.THRESHOLD


@pytest.mark.parametrize("side", [160, 256, 512, 1024, 2048])
def test_a_portrait_of_any_size_has_one_face(finder: haar.Haar, side: int) -> None:
    assert_on_face(finder.detect(astronaut(side)), side)


def test_grey_and_colour_are_found_alike(finder: haar.Haar) -> None:
    grey = cv2.cvtColor(astronaut(256), cv2.COLOR_RGB2GRAY)
    assert finder.detect(grey) == finder.detect(astronaut(256))
    assert finder.detect(np.asfortranarray(grey)) == finder.detect(grey)
    mirror = astronaut(256)[:, ::-1]
    assert finder.detect(mirror) == finder.detect(mirror.copy())


def test_a_place_is_looked_at_from_close_by_without_a_shift() -> None:
    columns = np.tile(np.arange(240, dtype=np.uint8), (240, 1))
    for side in (40, 60, 120, 150):
        patch, back = haar._patch(columns, haar._Place(120.0, 120.0, float(side)), 0.0)
        expected = back[0, 0] * np.arange(patch.shape[1]) + back[0, 2]
        assert np.abs(patch[36] - expected).max() <= 1


@pytest.mark.parametrize("angle", [-20, -12, 12, 20])
def test_a_face_that_leans_is_found(finder: haar.Haar, angle: float) -> None:
    assert_on_face(finder.detect(turned(400, angle)), 400)


@pytest.mark.parametrize("side", [200, 256])
def test_a_collage_of_twelve_has_twelve_faces(finder: haar.Haar, side: int) -> None:
    found = finder.detect(np.tile(astronaut(side), (3, 4, 1)))
    cells = {(int(one.box[0] // side), int(one.box[1] // side)) for one in found}
    assert len(found) == len(cells) == 12
    assert [one.box[:2] for one in found] == sorted(one.box[:2] for one in found)


@pytest.mark.parametrize("name", ["cat", "coffee", "rocket", "horse", "brick"])
def test_a_picture_without_a_face_has_none(finder: haar.Haar, name: str) -> None:
    picture = np.asarray(getattr(data, name)())
    picture = picture.astype(np.uint8) * 255 if picture.dtype == bool else picture
    assert finder.detect(picture) == []


def test_a_small_face_in_a_large_picture_is_found_by_the_second_look(finder: haar.Haar) -> None:
    side = 130
    canvas = np.full((1000, 1280, 3), 128, np.uint8)
    canvas[800 : 800 + side, 1000 : 1000 + side] = astronaut(side)
    found = finder.detect(canvas)
    assert len(found) == 1
    assert found[0].box[0] + found[0].box[2] / 2 == pytest.approx(1000 + FACE[0] * side, abs=4)
    assert found[0].box[2] == pytest.approx(0.19 * side, abs=5)


def test_a_face_cut_off_by_the_edge_is_within_the_picture(finder: haar.Haar) -> None:
    side = 400
    left, top = round((FACE[0] - 0.095) * side), round((FACE[1] - 0.095) * side)
    for picture in (astronaut(side)[top + 2 :], astronaut(side)[:, left + 2 :]):
        found = finder.detect(np.ascontiguousarray(picture))
        assert len(found) == 1
        x, y, width, height = found[0].box
        assert x >= 0 and y >= 0 and x + width <= picture.shape[1] and y + height <= picture.shape[0]


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 3), (1, 500), (500, 1, 3), (23, 23), (24, 24), (3000, 2)])
def test_pictures_of_any_shape_are_read(finder: haar.Haar, shape: tuple[int, ...]) -> None:
    assert finder.detect(np.full(shape, 90, np.uint8)) == []


def test_places_beyond_the_edge_of_a_turned_picture_are_passed_over(
    finder: haar.Haar, monkeypatch: pytest.MonkeyPatch
) -> None:
    corner = [(np.array([0.0, 0.0, 20.0, 20.0]), 3)]
    monkeypatch.setattr(haar.Haar, "_proposals", lambda self, seen, largest: corner)
    assert finder._search(np.zeros((100, 300), np.uint8), haar._Search(haar.LEANING, 0, haar.TILT)) == []


def test_a_face_that_is_known_is_not_looked_at_again(finder: haar.Haar, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = cv2.cvtColor(astronaut(256), cv2.COLOR_RGB2GRAY)
    search = haar._Search(haar.LEVELS[1][0])
    found = finder._search(grey, search)
    assert len(found) == 1
    assert finder._search(grey, search, found) == []


def test_one_detector_serves_several_threads(finder: haar.Haar) -> None:
    pictures = [astronaut(256), np.asarray(data.cat()), astronaut(200)] * 3
    expected = [finder.detect(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(finder.detect, pictures)) == expected


def test_a_threshold_that_nothing_reaches_finds_nothing() -> None:
    assert haar.Haar(threshold=1000).detect(astronaut(256)) == []


@pytest.mark.parametrize(
    "picture",
    [
        np.full((8, 8), np.nan),
        np.zeros((8, 8), np.float32),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8), np.uint8),
        np.zeros(8, np.uint8),
        "photo.jpg",
    ],
    ids=["nan", "float", "four channels", "empty", "one axis", "text"],
)
def test_what_is_no_picture_is_told(finder: haar.Haar, picture: np.ndarray) -> None:
    for one in (finder, WholePicture()):
        with pytest.raises(MienError, match=r"^picture: is .*expected") as caught:
            one.detect(picture)
        assert "\n" not in str(caught.value)


def test_clusters_are_means_of_boxes_that_overlap() -> None:
    raw = np.array([[0, 0, 10, 10], [2, 0, 10, 10], [50, 50, 10, 10], [1, 0, 10, 10]], float)
    found = sorted((tuple(box), count) for box, count in haar._clusters(raw))
    assert found == [((1, 0, 10, 10), 3), ((50, 50, 10, 10), 1)]
    assert haar._clusters(np.zeros((0, 4))) == []


def test_boxes_about_one_face_leave_the_surest() -> None:
    sure, shifted = Detection((10, 10, 20, 20), 9.0), Detection((14, 10, 20, 20), 8.0)
    within_it, beside = Detection((12, 12, 8, 8), 7.0), Detection((26, 10, 20, 20), 6.0)
    # Shifted by 4 of 20 they share 2/3 of their union; beside it, 80 of 720 pixels, a fifth of each box.
    assert apart([beside, within_it, shifted, sure]) == [sure, beside]


def test_boxes_go_from_left_to_right() -> None:
    boxes = [Detection((x, y, 5, 5), 1.0) for x, y in ((30, 0), (0, 20), (0, 0), (15, 9))]
    assert [one.box[:2] for one in apart(boxes)] == [(0, 0), (0, 20), (15, 9), (30, 0)]


def test_a_box_is_cut_to_the_picture() -> None:
    assert within((-5, 10, 20, 20), 40, 25) == (0, 10, 15, 15)
    assert within((50, 10, 20, 20), 40, 25)[2] == 0


def test_none_takes_the_whole_picture() -> None:
    whole = detector("none")
    assert (whole.name, whole.margin) == ("none", 0)
    assert whole.detect(np.zeros((30, 40, 3), np.uint8)) == [Detection((0, 0, 40, 30), None)]


def test_detectors_have_names() -> None:
    assert set(detectors.DETECTORS) == {"haar", "yunet", "none"}
    assert detector("haar", threshold=7.0).name == "haar"


@pytest.mark.parametrize("name", ["mtcnn", "", "haar:file.xml", "none:", "yunet:"])
def test_an_unknown_detector_is_told(name: str) -> None:
    with pytest.raises(MienError, match=r"is not known, expected haar, yunet, yunet:FILE\.onnx or none"):
        detector(name)


def test_an_unknown_option_is_told() -> None:
    with pytest.raises(MienError, match="'none': does not take the options size"):
        detector("none", size=3)
