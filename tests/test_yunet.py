"""YuNet behind the detector's protocol, with a network that answers as OpenCV's does; the real one is not shipped."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from mien.errors import MienError
from mien.recognition.detection import yunet
from mien.recognition.detection.detectors import Detection, detector


class FakeYuNet:
    """Answers as OpenCV's FaceDetectorYN does, for a picture with faces at known places."""

    def __init__(self, rows: np.ndarray | None) -> None:
        self.rows, self.sizes = rows, list[tuple[int, int]]()
        self.seen = np.zeros(0)

    def setInputSize(self, size: tuple[int, int]) -> None:
        self.sizes.append(size)

    def detect(self, picture: np.ndarray) -> tuple[int, np.ndarray | None]:
        self.seen = picture
        return 1, self.rows


def row(*box: float, score: float) -> np.ndarray:
    return np.array([*box, *range(10), score], np.float32)


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[np.ndarray | None], FakeYuNet]:
    def fake(rows: np.ndarray | None) -> FakeYuNet:
        network = FakeYuNet(rows)
        monkeypatch.setattr(cv2.FaceDetectorYN, "create", lambda *_: network)
        return network

    (tmp_path / "model.onnx").write_bytes(b"onnx")
    monkeypatch.chdir(tmp_path)
    return fake


def test_yunet_is_asked_in_its_own_colour_order_at_a_bounded_size(
    faked: Callable[[np.ndarray | None], FakeYuNet],
) -> None:
    network = faked(np.stack([row(100, 50, 40, 60, score=0.75), row(-10, 20, 30, 30, score=0.875)]))
    picture = np.zeros((1024, 2048, 3), np.uint8)
    picture[..., 0] = 200
    found = detector("yunet:model.onnx").detect(picture)
    assert network.sizes == [(1024, 512)]
    assert network.seen.shape == (512, 1024, 3) and network.seen[0, 0].tolist() == [0, 0, 200]
    assert found == [Detection((0, 40, 40, 60), 0.875), Detection((200, 100, 80, 120), 0.75)]


def test_yunet_that_finds_nothing_gives_nothing(faked: Callable[[np.ndarray | None], FakeYuNet]) -> None:
    faked(None)
    assert detector("yunet:model.onnx").detect(np.zeros((20, 30), np.uint8)) == []


def test_yunet_drops_boxes_outside_and_broken_ones(faked: Callable[[np.ndarray | None], FakeYuNet]) -> None:
    faked(np.stack([row(500, 5, 10, 10, score=0.9), row(np.nan, 5, 10, 10, score=0.9), row(5, 5, 9, 9, score=0.8)]))
    found = detector("yunet", model="model.onnx").detect(np.zeros((20, 30, 3), np.uint8))
    assert [one.box for one in found] == [(5, 5, 9, 9)]


def test_yunet_has_a_score_and_a_margin(faked: Callable[[np.ndarray | None], FakeYuNet]) -> None:
    faked(None)
    assert detector("yunet:model.onnx", margin=0.25).margin == 0.25
    with pytest.raises(MienError, match="the score is 0, expected"):
        detector("yunet:model.onnx", score=0)


def test_a_missing_model_of_yunet_is_told() -> None:
    with pytest.raises(MienError, match=r"^nowhere\.onnx: there is no such file, expected YuNet's model; download"):
        detector("yunet:nowhere.onnx")


def test_a_file_that_is_no_model_is_told(tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("not a network")
    with pytest.raises(MienError, match=r"text\.onnx: is not a YuNet model that OpenCV can read") as caught:
        detector(f"yunet:{path}")
    assert "\n" not in str(caught.value)


def test_the_hub_gives_the_model_where_its_client_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def download(*names: str) -> str:
        asked.append(names)
        return str(tmp_path / "m.onnx")

    hub = ModuleType("huggingface_hub")
    vars(hub)["hf_hub_download"] = download
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setattr(yunet, "find_spec", lambda name: object())
    assert yunet.download() == tmp_path / "m.onnx"
    assert asked == [("opencv/face_detection_yunet", yunet.FILE)]


def test_without_the_client_the_model_is_fetched_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    served = tmp_path / "served" / "resolve" / "main" / yunet.FILE
    served.parent.mkdir(parents=True)
    served.write_bytes(b"\x08network")
    monkeypatch.setattr(yunet, "find_spec", lambda name: None)
    monkeypatch.setattr(yunet, "PAGE", (tmp_path / "served").as_uri())
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = yunet.download()
    assert path.read_bytes() == b"\x08network" and path.is_relative_to(tmp_path / "home")
    served.unlink()
    assert yunet.download() == path


def test_the_page_of_a_proxy_is_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    served = tmp_path / "served" / "resolve" / "main" / yunet.FILE
    served.parent.mkdir(parents=True)
    served.write_text("<html>sign in</html>")
    monkeypatch.setattr(yunet, "find_spec", lambda name: None)
    monkeypatch.setattr(yunet, "PAGE", (tmp_path / "served").as_uri())
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(MienError, match="answered with something else than its model; download"):
        yunet.download()
    assert not list(tmp_path.glob("home/**/*.onnx"))


def test_a_download_that_fails_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(yunet, "find_spec", lambda name: None)
    monkeypatch.setattr(yunet, "PAGE", (tmp_path / "nobody").as_uri())
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(MienError, match=r"yunet: its model cannot be downloaded .* or use the detector haar") as caught:
        detector("yunet")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob(".cache/**/*.onnx"))
