"""The caches of decoded sets and of arrays: only this user's own are taken, and only with the content that was kept."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_helpers import encode, noise, write_zip

from mien.data import twins
from mien.data.cache import cache_file, cached_array
from mien.data.faces import FaceSet, fingerprint_of
from mien.data.read import read_faces


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set whose cache has been written, and read once."""
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "cache"))
    members = {f"{name}/{index}.png": encode(noise(index)) for index, name in enumerate(("glad", "sad"))}
    path = write_zip(tmp_path / "set.zip", members)
    read_faces(path)
    assert cache_file(path).is_file()
    return path


@pytest.fixture
def decode_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever a source is decoded rather than taken from the cache."""
    from mien.data import read

    times: list[int] = []
    original = read._read

    def counted(path: Path) -> FaceSet:
        times.append(1)
        return original(path)

    monkeypatch.setattr(read, "_read", counted)
    return times


def test_files_and_folder_are_for_this_user_alone(source: Path, decode_calls: list[int]) -> None:
    assert stat.S_IMODE(cache_file(source).stat().st_mode) == 0o600
    assert stat.S_IMODE(cache_file(source).parent.stat().st_mode) == 0o700
    read_faces(source)
    assert not decode_calls


@pytest.mark.parametrize("mode", [0o1777, 0o770, 0o702])
def test_a_folder_that_others_may_write_to(
    mode: int, source: Path, decode_calls: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    cache_file(source).parent.chmod(mode)
    assert len(read_faces(source)) == 2 and decode_calls
    stderr = capsys.readouterr().err
    assert "others may write to it" in stderr and "chmod go-w" in stderr and stderr.count("\n") == 2


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_may_write_to(mode: int, source: Path, decode_calls: list[int]) -> None:
    cache_file(source).chmod(mode)
    read_faces(source)
    assert decode_calls and stat.S_IMODE(cache_file(source).stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_of_another_owner(kind: str, source: Path, decode_calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    file = cache_file(source)
    if os.geteuid() == 0:
        os.chown(file if kind == "file" else file.parent, 65534, 65534)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 65534)
    read_faces(source)
    assert decode_calls


def test_a_link_or_a_pipe_in_its_place(source: Path, decode_calls: list[int], tmp_path: Path) -> None:
    file = cache_file(source)
    file.rename(tmp_path / "elsewhere.npz")
    file.symlink_to(tmp_path / "elsewhere.npz")
    read_faces(source)
    file.unlink(missing_ok=True)
    os.mkfifo(file)
    read_faces(source)
    assert len(decode_calls) == 2 and file.is_file() and not file.is_symlink()


def forged(source: Path, change: Callable[[dict[str, Any], dict[str, np.ndarray]], None]) -> None:
    """Writes a cache of the right stamp with other content."""
    with np.load(cache_file(source)) as archive:
        metadata = json.loads(str(archive["about"]))
        arrays = {name: archive[name] for name in archive.files if name != "about"}
    change(metadata, arrays)
    with cache_file(source).open("wb") as stream:
        np.savez(stream, about=np.array(json.dumps(metadata)), **arrays)


CHANGES: dict[str, Callable[[dict[str, Any], dict[str, np.ndarray]], object]] = {
    "labels out of range": lambda about, arrays: arrays.update(labels=arrays["labels"] + 7),
    "negative labels": lambda about, arrays: arrays.update(labels=arrays["labels"] - 7),
    "labels of another type": lambda about, arrays: arrays.update(labels=arrays["labels"].astype(float)),
    "labels exchanged": lambda about, arrays: arrays.update(labels=arrays["labels"][::-1]),
    "odd splits": lambda about, arrays: arrays.update(splits=np.array(["train", "exam"])),
    "splits of another type": lambda about, arrays: arrays.update(splits=np.array([1, 2])),
    "images of one dimension": lambda about, arrays: arrays.update(images=np.zeros(2, np.uint8)),
    "images of no pixel": lambda about, arrays: arrays.update(images=np.zeros((2, 0, 0), np.uint8)),
    "images that are no squares": lambda about, arrays: arrays.update(images=np.zeros((2, 3, 4), np.uint8)),
    "images of another type": lambda about, arrays: arrays.update(images=arrays["images"].astype(np.int32)),
    "a pixel": lambda about, arrays: arrays["images"].__setitem__((0, 0, 0), 1 + arrays["images"][0, 0, 0] % 255),
    "too few ids": lambda about, arrays: arrays.update(ids=arrays["ids"][:1]),
    "ids of another type": lambda about, arrays: arrays.update(ids=np.array([1, 2])),
    "names that are numbers": lambda about, arrays: about.update(names=[1, 2]),
    "a name twice": lambda about, arrays: about.update(names=["sad", "sad"]),
    "names that are none": lambda about, arrays: about.update(names=None),
    "warnings of another type": lambda about, arrays: about.update(warnings=[{}]),
    "another fingerprint": lambda about, arrays: about.update(fingerprint="0" * 64),
    "a list": lambda about, arrays: about.clear(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_content_that_is_not_what_was_kept(
    change: Callable[[dict[str, Any], dict[str, np.ndarray]], None],
    source: Path, decode_calls: list[int], capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    original = read_faces(source)
    forged(source, change)
    faces = read_faces(source)
    stderr = capsys.readouterr().err
    assert decode_calls == [1] and stderr.count("\n") == 1 and "cannot be read" in stderr and "made again" in stderr
    assert faces.fingerprint == original.fingerprint and (faces.images == original.images).all()
    assert fingerprint_of(faces.images, faces.labels, faces.splits, faces.names) == faces.fingerprint
    read_faces(source)
    assert decode_calls == [1]


def test_pickles_in_it_are_not_opened(source: Path, decode_calls: list[int], tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "pwned",))

    forged(source, lambda metadata, arrays: arrays.update(ids=np.array([Evil(), Evil()], dtype=object)))
    read_faces(source)
    assert decode_calls and not (tmp_path / "pwned").exists()


PAIRS = np.array([[0, 3], [1, 2]])


class TestArrays:
    """What takes long to compute: the twins of large sets."""

    @pytest.fixture(autouse=True)
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "cache"))
        return tmp_path / "cache"

    @pytest.fixture
    def file(self, cache: Path) -> Path:
        assert self.array()
        return cache / "pairs.npy"

    def array(self) -> bool:
        """Asks for the array; whether it was computed."""
        compute_calls = []

        def compute() -> np.ndarray:
            compute_calls.append(1)
            return PAIRS

        array = cached_array("pairs", compute, lambda array: array.shape == PAIRS.shape and int(array.max()) < 4)
        assert array.tolist() == PAIRS.tolist()
        return bool(compute_calls)

    def write(self, file: Path, array: np.ndarray, **options: Any) -> None:
        content = io.BytesIO()
        np.save(content, array, **options)
        file.write_bytes(content.getvalue() + hashlib.sha256(content.getvalue()).digest())

    def test_it_is_for_this_user_alone(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        assert not self.array() and not capsys.readouterr().err

    @pytest.mark.parametrize("mode", [0o1777, 0o770, 0o702])
    def test_a_folder_that_others_may_write_to(self, mode: int, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file.parent.chmod(mode)
        assert self.array() and "chmod go-w" in capsys.readouterr().err

    @pytest.mark.parametrize("mode", [0o620, 0o602])
    def test_a_file_that_others_may_write_to(self, mode: int, file: Path) -> None:
        file.chmod(mode)
        assert self.array() and stat.S_IMODE(file.stat().st_mode) == 0o600

    @pytest.mark.parametrize("kind", ["file", "folder"])
    def test_of_another_owner(self, kind: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if os.geteuid() == 0:
            os.chown(file if kind == "file" else file.parent, 65534, 65534)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: 65534)
        assert self.array()

    def test_a_link_or_a_pipe_in_its_place(self, file: Path, tmp_path: Path) -> None:
        file.rename(tmp_path / "elsewhere.npy")
        file.symlink_to(tmp_path / "elsewhere.npy")
        assert self.array()
        file.unlink(missing_ok=True)
        os.mkfifo(file)
        assert self.array() and file.is_file() and not file.is_symlink()

    @pytest.mark.parametrize(
        "array",
        [PAIRS + 7, PAIRS.astype(float)[:1], np.zeros(0, np.int64), np.array([["a", "b"], ["c", "d"]])],
        ids=["range", "shape", "empty", "type"],
    )
    def test_an_array_of_another_kind(self, array: np.ndarray, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.write(file, array)
        assert self.array() and "is made again" in capsys.readouterr().err
        assert not self.array()

    def test_a_changed_or_cut_or_empty_file(self, file: Path) -> None:
        original = file.read_bytes()
        for content in (
            original[:140] + bytes([original[140] ^ 1]) + original[141:],
            original[:-1],
            b"",
            original + b"x",
        ):
            file.write_bytes(content)
            assert self.array() and not self.array()

    def test_a_pickle_is_not_opened(self, file: Path, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> tuple[Any, ...]:
                return (Path.touch, (tmp_path / "pwned",))

        self.write(file, np.array([Evil()], dtype=object), allow_pickle=True)
        assert self.array() and not (tmp_path / "pwned").exists()

    @pytest.mark.parametrize("pairs", [[[0, 9]], [[-1, 2]], [[0, 1, 2]], [[0.0, 1.0]]])
    def test_twins_of_pictures_that_there_are_not(
        self, pairs: list[Any], cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(twins, "_WORTH_STORING", 0)
        images = np.stack([np.random.default_rng(n % 3).integers(0, 256, (48, 48), np.uint8) for n in range(6)])
        expected = twins.twin_pairs(images).tolist()
        (file,) = cache.glob("twins-*.npy")
        self.write(file, np.array(pairs))
        assert twins.twin_pairs(images).tolist() == expected
