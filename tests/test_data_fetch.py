"""Fetching FER2013, against a stand-in for kagglehub."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from data_helpers import encode, noise, write_folder

from mien import connection
from mien.data.fetch import fetch
from mien.data.read import read_faces
from mien.errors import MienError

FILES = {"train/sad/Training_1.png": encode(noise(1)), "test/sad/PublicTest_2.png": encode(noise(2))}


class KaggleHub(ModuleType):
    """Gives a folder, or fails."""

    def __init__(self, folder: Path, error: Exception | None = None) -> None:
        super().__init__("kagglehub")
        self.folder, self.error, self.handles = folder, error, list[str]()

    def dataset_download(self, handle: str) -> str:
        self.handles.append(handle)
        if self.error:
            raise self.error
        return str(self.folder)


def test_the_download_becomes_one_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = KaggleHub(write_folder(tmp_path / "hub", FILES | {"notes.txt": b"x"}))
    monkeypatch.setitem(sys.modules, "kagglehub", hub)
    archive = fetch(tmp_path / "new" / "fer2013.zip")
    assert archive == tmp_path / "new" / "fer2013.zip" and hub.handles == ["msambare/fer2013"]
    faces = read_faces(archive, cache=False)
    assert faces.ids.tolist() == sorted(FILES) and faces.splits.tolist() == ["validation", "train"]


def test_a_folder_gets_an_archive_zip_and_none_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = KaggleHub(write_folder(tmp_path / "hub", FILES))
    monkeypatch.setitem(sys.modules, "kagglehub", hub)
    assert fetch(tmp_path) == tmp_path / "archive.zip"
    with pytest.raises(MienError, match=r"archive\.zip: exists already; use it with `mien data inspect"):
        fetch(tmp_path)
    assert len(hub.handles) == 1


def test_a_place_that_cannot_be_written_is_said_before_the_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = KaggleHub(write_folder(tmp_path / "hub", FILES))
    monkeypatch.setitem(sys.modules, "kagglehub", hub)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MienError, match="is in its way"):
        fetch(tmp_path / "file" / "archive.zip")
    assert hub.handles == []


@pytest.fixture(autouse=True)
def connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kaggle can be reached."""
    monkeypatch.setattr("mien.data.fetch.answers", lambda endpoint: True)


def test_without_a_connection_a_plain_reason_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = KaggleHub(write_folder(tmp_path / "hub", FILES))
    monkeypatch.setitem(sys.modules, "kagglehub", hub)
    monkeypatch.setattr("mien.data.fetch.answers", connection.answers)
    monkeypatch.setattr(connection, "PATIENCE_S", 0.3)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:  # the queue of the second is full: it is silent
        address = server.getsockname()
        with socket.create_connection(address), socket.socket() as second:
            second.setblocking(False)
            second.connect_ex(address)
            monkeypatch.setattr("mien.data.fetch.API", f"http://{address[0]}:{address[1]}")
            monkeypatch.setattr(connection, "getproxies", dict)
            started = time.monotonic()
            with pytest.raises(
                MienError, match=r"^msambare/fer2013: no connection to 127\.0\.0\.1; connect to the net"
            ):
                fetch(tmp_path / "a.zip")
            assert time.monotonic() - started < 2 and hub.handles == []
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    assert fetch(tmp_path / "a.zip").is_file()


def test_what_http_clients_say_of_connections_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error_class = type("ConnectionError", (OSError,), {})  # as that of requests, which is none of Python's
    http_error = error_class("HTTPSConnectionPool(host='api.kaggle.com', port=443): Max retries")
    monkeypatch.setitem(sys.modules, "kagglehub", KaggleHub(tmp_path, http_error))
    with pytest.raises(
        MienError, match=r"no connection to api\.kaggle\.com, or it broke off; or by hand: open"
    ) as error:
        fetch(tmp_path / "a.zip")
    assert "HTTPS" not in str(error.value)


@pytest.mark.parametrize("error", [RuntimeError("403\nForbidden"), ValueError("x")])
def test_what_kaggle_refuses_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", KaggleHub(tmp_path, error))
    target = tmp_path / "archive.zip"
    with pytest.raises(MienError) as error_info:
        fetch(target)
    message = str(error_info.value)
    assert "\n" not in message and str(error).split()[0] in message
    assert "open https://www.kaggle.com/datasets/msambare/fer2013" in message
    assert f"save the file as {target}" in message and f"run `mien data inspect {target}`" in message
    assert list(tmp_path.iterdir()) == []


def test_a_missing_kagglehub_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(MienError, match=r'kagglehub is not installed \(pip install "mien\[kaggle\]"\).*by hand: open'):
        fetch(tmp_path / "archive.zip")


def test_an_empty_download_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", KaggleHub(write_folder(tmp_path / "hub", {})))
    with pytest.raises(MienError, match="holds no picture"):
        fetch(tmp_path / "archive.zip")
    assert not (tmp_path / "archive.zip").exists()
