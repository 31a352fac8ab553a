"""The cache of decoded sets: when a source is read again, and what a broken cache does."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from data_helpers import encode, kaggle_members, noise, start_python, write_folder, write_zip

from mien.data import cache as caches
from mien.data import read as reading
from mien.data.read import read_faces
from mien.errors import MienError
from mien.labels import FER2013


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("MIEN_CACHE", str(folder))
    return folder


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Collects every source that is read, not taken from the cache."""
    paths: list[Path] = []
    original = reading._read

    def counted(path: Path) -> object:
        paths.append(path)
        return original(path)

    monkeypatch.setattr(reading, "_read", counted)
    return paths


def test_the_second_read_comes_from_the_cache(tmp_path: Path, cache: Path, decodes: list[Path]) -> None:
    source = write_zip(tmp_path / "archive.zip", kaggle_members(6))
    first, second = read_faces(source), read_faces(str(source))
    assert len(decodes) == 1 and len(list(cache.iterdir())) == 1
    for name in ("images", "labels", "splits", "ids"):
        decoded_array, cached_array = getattr(first, name), getattr(second, name)
        assert decoded_array.dtype == cached_array.dtype and (decoded_array == cached_array).all()
    assert (second.names, second.fingerprint, second.warnings) == (first.names, first.fingerprint, first.warnings)
    assert second.source == str(source)


def test_the_cache_can_be_left_alone(tmp_path: Path, cache: Path, decodes: list[Path]) -> None:
    source = write_zip(tmp_path / "archive.zip", kaggle_members(6))
    read_faces(source, cache=False)
    read_faces(source, cache=False)
    assert len(decodes) == 2 and not cache.exists()


def test_a_changed_archive_is_read_anew(tmp_path: Path, decodes: list[Path]) -> None:
    source = write_zip(tmp_path / "archive.zip", kaggle_members(6))
    first = read_faces(source)
    write_zip(source, kaggle_members(7))
    assert read_faces(source).image_size == 7 and first.image_size == 6
    state = source.stat()
    os.utime(source, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    read_faces(source)
    assert len(decodes) == 3


@pytest.mark.parametrize("change", ["add", "remove", "touch", "rename", "empty class"])
def test_a_changed_folder_is_read_anew(tmp_path: Path, decodes: list[Path], change: str) -> None:
    source = write_folder(tmp_path / "faces", {f"{name}/{i}.png": encode(noise(i)) for name in "ab" for i in range(2)})
    read_faces(source)
    read_faces(source)
    assert len(decodes) == 1
    if change == "add":
        (source / "a" / "9.png").write_bytes(encode(noise(9)))
    elif change == "remove":
        (source / "a" / "1.png").unlink()
    elif change == "touch":
        os.utime(source / "a" / "1.png", ns=(1, 1))
    elif change == "rename":
        (source / "a" / "1.png").rename(source / "a" / "7.png")
    else:
        (source / "c").mkdir()
        with pytest.raises(MienError, match="class c holds no picture"):
            read_faces(source)
        return
    read_faces(source)
    assert len(decodes) == 2


def test_two_pictures_that_change_places_are_read_anew(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "faces", {f"{name}/1.bmp": encode(noise(i), "BMP") for i, name in enumerate("ab")})
    first, second = source / "a" / "1.bmp", source / "b" / "1.bmp"
    for path in (first, second):
        os.utime(path, ns=(1, 1))  # as an archive gives all its files one time
    before = read_faces(source)
    first.rename(tmp_path / "1.bmp")
    second.rename(first)
    (tmp_path / "1.bmp").rename(second)
    assert (read_faces(source).images == before.images[::-1]).all()


def test_another_format_version_is_read_anew(
    tmp_path: Path, decodes: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_zip(tmp_path / "archive.zip", kaggle_members(6))
    read_faces(source)
    monkeypatch.setattr(caches, "FORMAT", caches.FORMAT + 1)
    read_faces(source)
    read_faces(source)
    assert len(decodes) == 2 and "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["cut", "flip", "text", "pickle"])
def test_a_broken_cache_gives_a_warning_and_is_made_again(
    tmp_path: Path, cache: Path, decodes: list[Path], capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    source = write_zip(tmp_path / "archive.zip", kaggle_members(6))
    first = read_faces(source)
    (file,) = cache.iterdir()
    data = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        data[data.index(first.images.tobytes()[:64])] ^= 1
        file.write_bytes(data)
    elif damage == "text":
        file.write_text("hello")
    else:
        np.savez(file, about=np.array([{}], dtype=object))
    second = read_faces(source)
    assert (second.images == first.images).all()
    assert "warning: the cache of" in capsys.readouterr().err
    read_faces(source)
    assert len(decodes) == 2


def test_a_cache_that_cannot_be_written_gives_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    monkeypatch.setenv("MIEN_CACHE", str(file / "below"))
    assert len(read_faces(write_zip(tmp_path / "archive.zip", kaggle_members(6)))) == 21
    warning = capsys.readouterr().err
    assert "its cache was not stored" in warning and "MIEN_CACHE" in warning


def test_a_full_disk_leaves_no_half_cache(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(stream: object, **arrays: object) -> None:
        stream.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caches.np, "savez", full)
    assert len(read_faces(write_zip(tmp_path / "archive.zip", kaggle_members(6)))) == 21
    assert "No space left on device" in capsys.readouterr().err and list(cache.iterdir()) == []


def test_processes_may_read_at_once(tmp_path: Path, cache: Path) -> None:
    source = write_zip(tmp_path / "archive.zip", kaggle_members(6))
    code = "import sys; from mien.data.read import read_faces; print(read_faces(sys.argv[1]).fingerprint)"
    running = [start_python(code, str(source)) for _ in range(3)]
    answers = [process.communicate(timeout=60) for process in running]
    assert {out.strip() for out, _ in answers} == {read_faces(source).fingerprint}
    assert [err for _, err in answers] == ["", "", ""] and len(list(cache.iterdir())) == 1


def test_the_real_archive(fer2013: Path, decodes: list[Path]) -> None:
    faces = read_faces(fer2013)
    assert faces.images.shape[1:] == (48, 48) and faces.names == FER2013
    train = faces.part("train").class_counts()
    assert train == dict(zip(FER2013, (3995, 436, 4097, 7215, 4830, 3171, 4965), strict=True))
    assert len(faces.part("validation")) == 3589 and faces.warnings == ()
    assert read_faces(fer2013).fingerprint == faces.fingerprint and len(decodes) == 1


def test_files_without_an_owner_are_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o777)  # as Windows says of every folder
    assert not caches._is_own(tmp_path.stat())
    monkeypatch.delattr(os, "geteuid")
    assert caches._is_own(tmp_path.stat())
