"""Finding faces: the public-domain portrait of scikit-image, pictures without a face, and what is no picture."""

from __future__ import annotations

import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from detection_helpers import FACE, astronaut, lefts, panorama, picture

from mien.errors import MienError
from mien.recognition import detectors
from mien.recognition.detection import Detection, overlap, square, within, without_duplicates
from mien.recognition.detectors import MARGIN, WholePicture, YuNet, detector

pytest.importorskip("skimage.data")

PEOPLELESS = (
    "brick", "cat", "chelsea", "clock", "coffee", "coins", "colorwheel", "grass", "gravel", "horse",
    "hubble_deep_field", "immunohistochemistry", "logo", "moon", "page", "retina", "rocket", "stereo_motorcycle",
    "text",
)  # fmt: skip


@pytest.fixture(scope="module")
def finder() -> YuNet:
    return YuNet()


def assert_on_face(detections: list[Detection], side: int, left: int = 0, top: int = 0) -> None:
    """One face, whose frame is the astronaut's in a portrait of a size that begins at a place."""
    assert len(detections) == 1
    x, y, frame = square(detections[0].framed, MARGIN, 1 << 20, 1 << 20)
    assert (x + frame / 2 - left) / side == pytest.approx(FACE[0], abs=0.03)
    assert (y + frame / 2 - top) / side == pytest.approx(FACE[1], abs=0.03)
    assert frame / side == pytest.approx(FACE[2], abs=0.06)


@pytest.mark.parametrize("side", [160, 256, 512, 1024, 2048, 4096])
def test_a_portrait_of_any_size_has_one_face(finder: YuNet, side: int) -> None:
    assert_on_face(finder.detect(astronaut(side)), side)


def test_boxes_are_higher_than_wide_as_a_person_would_draw_them(finder: YuNet) -> None:
    (face,) = finder.detect(astronaut(512))
    assert 1.1 < face.box[3] / face.box[2] < 1.5
    assert 0.6 < (face.score or 0) <= 1


def test_grey_and_colour_are_found_alike(finder: YuNet) -> None:
    grey = astronaut(256) @ np.array([0.299, 0.587, 0.114])
    grey = np.rint(grey).astype(np.uint8)
    assert_on_face(finder.detect(grey), 256)
    assert finder.detect(np.asfortranarray(grey)) == finder.detect(grey)
    mirror = astronaut(256)[:, ::-1]
    assert finder.detect(mirror) == finder.detect(mirror.copy())


@pytest.mark.parametrize("angle", [-30, -15, 15, 30])
def test_a_face_that_leans_is_found(finder: YuNet, angle: float) -> None:
    assert_on_face(finder.detect(astronaut(400, angle)), 400)


@pytest.mark.parametrize("side", [200, 256, 512])
def test_a_collage_of_twelve_has_twelve_faces(finder: YuNet, side: int) -> None:
    faces = finder.detect(np.tile(astronaut(side), (3, 4, 1)))
    cells = {(int(face.box[0] // side), int(face.box[1] // side)) for face in faces}
    assert len(faces) == len(cells) == 12
    assert [face.box[:2] for face in faces] == sorted(face.box[:2] for face in faces)


@pytest.mark.parametrize("name", PEOPLELESS)
def test_a_picture_without_a_person_has_no_face(finder: YuNet, name: str) -> None:
    assert finder.detect(picture(name)) == []


@pytest.mark.parametrize("name", ["cat", "logo", "coffee", "rocket"])
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_nor_has_it_in_another_size(finder: YuNet, name: str, scale: float) -> None:
    assert finder.detect(picture(name, scale)) == []


@pytest.mark.parametrize("vertical", [False, True])
def test_a_panorama_has_every_face(finder: YuNet, vertical: bool) -> None:
    pixels = panorama()
    places = [(left, 0) for left in lefts(16000, 512, 6)]
    if vertical:  # the same portraits one above the other
        pixels = np.full((16000, 512, 3), 120, np.uint8)
        for top in lefts(16000, 512, 6):
            pixels[top : top + 512] = astronaut(512)
        places = [(0, top) for top in lefts(16000, 512, 6)]
    faces = sorted(finder.detect(pixels), key=lambda detection: detection.box[0] + detection.box[1])
    assert len(faces) == 6
    for face, (left, top) in zip(faces, places, strict=True):
        assert_on_face([face], 512, left, top)


@pytest.mark.parametrize("shape", [(480, 640), (3000, 4000), (300, 12000), (12000, 300)])
def test_a_face_of_24_pixels_is_found_in_a_picture_of_any_size(finder: YuNet, shape: tuple[int, int]) -> None:
    side = round(24 / FACE[2])
    pixels = np.full((*shape, 3), 120, np.uint8)
    top, left = shape[0] - side - 37, shape[1] - side - 53
    pixels[top : top + side, left : left + side] = astronaut(side)
    assert_on_face(finder.detect(pixels), side, left, top)


def test_every_face_of_24_pixels_is_found_wherever_it_lies_and_however_it_leans(finder: YuNet) -> None:
    generator = np.random.default_rng(0)
    side = round(24 / FACE[2])
    pixels = np.full((1536, 2048, 3), 120, np.uint8)
    for column in range(6):
        for row in range(4):
            left, top = 340 * column + int(generator.integers(10, 190)), 380 * row + int(generator.integers(10, 190))
            pixels[top : top + side, left : left + side] = astronaut(side, float(generator.uniform(-10, 10)))
    assert len(finder.detect(pixels)) == 24


def test_min_face_says_what_is_looked_for() -> None:
    pixels = np.full((2000, 3000, 3), 120, np.uint8)
    for side, left in ((round(16 / FACE[2]), 100), (round(150 / FACE[2]), 1000)):
        pixels[500 : 500 + side, left : left + side] = astronaut(side)
    widths = {size: [face.box[2] for face in YuNet(min_face=size).detect(pixels)] for size in (12, 24, 60, 300)}
    assert [len(widths[size]) for size in (12, 24, 60, 300)] == [2, 1, 1, 0]
    assert min(widths[12]) < 24 and widths[24][0] > 100


def test_the_largest_picture_is_searched_with_little_memory(finder: YuNet) -> None:
    pixels = np.full((8000, 16000), 120, np.uint8)
    side = round(24 / FACE[2])
    pixels[7000 : 7000 + side, 15000 : 15000 + side] = astronaut(side)[..., 1]
    tracemalloc.start()
    detections = finder.detect(pixels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert_on_face(detections, side, 15000, 7000)
    assert peak < 100 * 2**20


def test_a_picture_without_a_face_is_searched_as_one_with_a_face(
    finder: YuNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels: list[int] = []
    read = finder._network.read

    def counted(pictures: list[np.ndarray], threshold: float) -> list[np.ndarray]:
        pixels.append(sum(array.shape[0] * array.shape[1] for array in pictures))
        return read(pictures, threshold)

    monkeypatch.setattr(finder._network, "read", counted)
    finder.detect(astronaut(640))
    with_face = sum(pixels)
    pixels.clear()
    assert finder.detect(np.full((640, 640, 3), 120, np.uint8)) == []
    assert sum(pixels) <= with_face


def test_a_face_cut_off_by_the_edge_is_within_the_picture_and_framed_beyond_it(finder: YuNet) -> None:
    side = 400
    left, top, frame = (round(share * side) for share in (FACE[0] - FACE[2] / 2, FACE[1] - FACE[2] / 2, FACE[2]))
    cut_off = round(0.25 * frame)
    portrait = astronaut(side)
    for pixels, x, y in ((portrait[top + cut_off :], left, -cut_off), (portrait[:, left + cut_off :], -cut_off, top)):
        (face,) = finder.detect(np.ascontiguousarray(pixels))
        x_box, y_box, width, height = face.box
        assert x_box >= 0 and y_box >= 0
        assert x_box + width <= pixels.shape[1] and y_box + height <= pixels.shape[0]
        frame_square = square(face.framed, finder.margin, pixels.shape[1], pixels.shape[0])
        assert overlap((*frame_square, frame_square[2]), (x, y, frame, frame)) > 0.6


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 3), (1, 500), (500, 1, 3), (23, 23), (24, 24), (3000, 2)])
def test_pictures_of_any_shape_are_read(finder: YuNet, shape: tuple[int, ...]) -> None:
    assert finder.detect(np.full(shape, 90, np.uint8)) == []


def test_one_detector_serves_several_threads(finder: YuNet) -> None:
    pictures = [astronaut(256), picture("cat"), astronaut(200)] * 3
    expected = [finder.detect(pixels) for pixels in pictures]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(finder.detect, pictures)) == expected


def test_the_number_of_threads_changes_nothing() -> None:
    pixels = np.tile(astronaut(256), (2, 3, 1))
    assert YuNet(threads=1).detect(pixels) == YuNet(threads=3).detect(pixels) == YuNet().detect_alone(pixels)


@pytest.mark.parametrize(
    "pixels",
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
def test_what_is_no_picture_is_told(finder: YuNet, pixels: np.ndarray) -> None:
    for each_detector in (finder, WholePicture()):
        with pytest.raises(MienError, match=r"^picture: is .*expected") as error:
            each_detector.detect(pixels)
        assert "\n" not in str(error.value)


def test_boxes_about_one_face_leave_the_surest() -> None:
    surest, shifted = Detection((10, 10, 20, 20), 9.0), Detection((14, 10, 20, 20), 8.0)
    within_it, beside = Detection((12, 12, 8, 8), 7.0), Detection((26, 10, 20, 20), 6.0)
    # Shifted by 4 of 20 they share 2/3 of their union; beside it, 80 of 720 pixels, a fifth of each box.
    assert without_duplicates([beside, within_it, shifted, surest]) == [surest, beside]


def test_thousands_of_boxes_are_compared_quickly() -> None:
    apart = [Detection((30.0 * number, 0, 20, 20), 1.0) for number in range(3000)]
    started = time.monotonic()
    assert without_duplicates(apart) == apart and without_duplicates([]) == []
    assert time.monotonic() - started < 2.0


def test_boxes_go_from_left_to_right() -> None:
    boxes = [Detection((x, y, 5, 5), 1.0) for x, y in ((30, 0), (0, 20), (0, 0), (15, 9))]
    assert [detection.box[:2] for detection in without_duplicates(boxes)] == [(0, 0), (0, 20), (15, 9), (30, 0)]


def test_a_box_is_cut_to_the_picture() -> None:
    assert within((-5, 10, 20, 20), 40, 25) == (0, 10, 15, 15)
    assert within((50, 10, 20, 20), 40, 25)[2] == 0


def test_none_takes_the_whole_picture() -> None:
    whole_picture = detector("none")
    assert (whole_picture.name, whole_picture.margin) == ("none", 0)
    assert whole_picture.detect(np.zeros((30, 40, 3), np.uint8)) == [Detection((0, 0, 40, 30), None)]


def test_detectors_have_names() -> None:
    assert set(detectors.DETECTORS) == {"yunet", "none"}
    assert detector("yunet", 40).name == "yunet"


@pytest.mark.parametrize("name", ["mtcnn", "", "none:", "yunet:"])
def test_an_unknown_detector_is_told(name: str) -> None:
    with pytest.raises(MienError, match=r"is not known, expected yunet, yunet:FILE\.onnx or none"):
        detector(name)


@pytest.mark.parametrize("name", ["haar", "haar:file.xml"])
def test_haar_is_told_to_be_gone(name: str) -> None:
    with pytest.raises(MienError, match="'haar': is no part of Mien any more, yunet replaced it") as error:
        detector(name)
    assert "\n" not in str(error.value)
