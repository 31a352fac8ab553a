"""Archives are read in place, and distrusted."""

from __future__ import annotations

import os
import struct
import tarfile
import tracemalloc
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from data_helpers import encode, noise, write_folder, write_zip

from mien.data import sources as archives
from mien.data.cache import stamp
from mien.data.read import read_faces, read_unlabelled
from mien.data.sources import open_entries
from mien.errors import MienError

GOOD = {"happy/1.png": encode(noise(1)), "sad/2.png": encode(noise(2))}


def refused(path: Path, *parts: str) -> str:
    """The one line with which a source is refused; it must hold every part."""
    with pytest.raises(MienError) as error:
        read_faces(path, cache=False)
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message
    return message


def test_a_zip_and_a_folder_tell_the_same_files(tmp_path: Path) -> None:
    members = GOOD | {"__MACOSX/happy/._1.png": b"x", "happy/Thumbs.db": b"x", ".DS_Store": b"x", "notes.txt": b"hello"}
    expected = ["happy/1.png", "notes.txt", "sad/2.png"]
    for source in (write_zip(tmp_path / "a.zip", members), write_folder(tmp_path / "a", members)):
        with open_entries(source) as entries:
            assert entries.files() == expected
            assert entries.folders() == ["happy", "sad"]
            assert entries.read("sad/2.png") == GOOD["sad/2.png"]
            assert entries.size("notes.txt") == 5


def test_folders_of_the_system_are_not_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_folder(tmp_path / "a", GOOD | {f"{name}/1.png": b"x" for name in (".Trash-1000", "lost+found")})
    before, original_scandir = stamp(source), os.scandir

    def guarded(path: Any) -> Any:
        if os.path.basename(path) in (".Trash-1000", "lost+found"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return original_scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    (source / ".DS_Store").write_bytes(b"x")
    with open_entries(source) as entries:
        assert entries.files() == sorted(GOOD) and stamp(source) == before


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "real", GOOD)
    folder = write_folder(tmp_path / "linked", {"sad/2.png": GOOD["sad/2.png"]})
    (folder / "happy").symlink_to(source / "happy")
    (folder / "sad" / "round").symlink_to(folder)
    with open_entries(folder) as entries:
        assert entries.files() == ["happy/1.png", "sad/2.png"]


def test_a_split_that_is_a_link_to_another_is_read(tmp_path: Path) -> None:
    """Its name comes after that of the folder it is a link to, which was once enough to lose it."""
    source = write_folder(
        tmp_path, {f"{split}/{name}": data for split in ("train", "test") for name, data in GOOD.items()}
    )
    assert not read_faces(source).has("validation")
    (source / "val").symlink_to("test")
    faces = read_faces(source)  # the link is a change to the cache too
    assert faces.ids[faces.splits == "validation"].tolist() == ["val/happy/1.png", "val/sad/2.png"]
    assert sorted(faces.splits.tolist()) == ["test", "test", "train", "train", "validation", "validation"]


def test_a_class_that_two_splits_link_to_is_in_both(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "a", {"train/sad/2.png": GOOD["sad/2.png"], "test/sad/3.png": encode(noise(3))})
    shared = write_folder(tmp_path / "shared", {"1.png": GOOD["happy/1.png"]})
    for split in ("train", "test"):
        (source / split / "happy").symlink_to(shared)
    with open_entries(source) as entries:
        assert entries.files() == ["test/happy/1.png", "test/sad/3.png", "train/happy/1.png", "train/sad/2.png"]
    assert len(read_unlabelled(source, image_size=48)) == 3  # where no folder has a meaning, each picture counts once


@pytest.mark.parametrize("ways", [("a", "b"), ("a", "b", "c", "d")])
def test_links_back_and_forth_end(tmp_path: Path, ways: tuple[str, ...]) -> None:
    """Between two folders each shows the other once; with many, the ways through them would be without end."""
    source = write_folder(tmp_path, {f"{name}/1.png": GOOD["happy/1.png"] for name in ways})
    for name in ways:
        for other in ways:
            (source / name / f"to {other}").symlink_to(source / other)
    with open_entries(source) as entries:
        files = entries.files()
    assert {"a/1.png", "a/to b/1.png", "b/1.png", "b/to a/1.png"} <= set(files)
    assert not any("to a/to b/to a" in path or path.startswith("a/to b/to a") for path in files)


def test_links_that_multiply_are_refused(tmp_path: Path) -> None:
    folders = [tmp_path / f"{number:02d}" for number in range(60)]
    for folder in folders:
        folder.mkdir()
    for folder, following in pairwise(folders):
        for name in ("x", "y"):
            (folder / name).symlink_to(following)
    (folders[-1] / "1.png").write_bytes(GOOD["happy/1.png"])
    refused(tmp_path, "again, by links; expected at most 100 places of one folder", "remove links")


def test_windows_separators_are_understood(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {name.replace("/", "\\"): data for name, data in GOOD.items()})
    assert read_faces(path, cache=False).ids.tolist() == ["happy/1.png", "sad/2.png"]


def test_not_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "archive.zip"
    path.write_text("<html>Please sign in</html>")
    refused(path, str(path), "is not a zip archive", "expected FER2013's archive.zip", "download it again")


def test_a_tar_is_not_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "fer2013.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(__file__, "test.py")
    refused(path, "packed with gzip", "unpack it")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_truncated_zip(tmp_path: Path, share: float) -> None:
    path = write_zip(tmp_path / "archive.zip", GOOD)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refused(path, str(path), "truncated or damaged zip", "download or copy it again")


def test_damaged_member(tmp_path: Path) -> None:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in GOOD.items():
            archive.writestr(name, data)
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 8] ^= 0xFF
    path.write_bytes(content)
    refused(path, "happy/1.png", "cannot be read from the archive", "CRC", "download or make the archive again")


@pytest.mark.parametrize(
    "name", ["../happy/1.png", "happy/../../1.png", "/happy/1.png", "C:/happy/1.png", "..\\x\\1.png"]
)
def test_an_entry_that_climbs_out(tmp_path: Path, name: str) -> None:
    path = write_zip(tmp_path / "archive.zip", GOOD | {name: GOOD["happy/1.png"]})
    refused(path, "climbs out", "do not trust")


def test_an_entry_that_climbs_out_is_not_hidden_as_junk(tmp_path: Path) -> None:
    refused(write_zip(tmp_path / "archive.zip", GOOD | {"__MACOSX/../../x": b""}), "climbs out")


def test_an_entry_twice(tmp_path: Path) -> None:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("happy/1.png", GOOD["happy/1.png"])
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("happy/1.png", GOOD["sad/2.png"])
    refused(path, "happy/1.png twice", "make the archive again")


def test_a_declared_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "archive.zip", GOOD | {"sad/3.png": bytes(archives.LARGEST_FILE + 1)})
    assert path.stat().st_size < 100_000
    refused(path, "sad/3.png", "33,554,433 bytes", "at most 33,554,432", "decompression bomb", "remove the file")


def test_a_bomb_that_lies_about_its_size_is_not_unpacked(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "archive.zip", {"happy/1.png": bytes(64 * 2**20)})
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = struct.pack("<I", 1000)
    path.write_bytes(data)
    tracemalloc.start()
    refused(path, "happy/1.png", "cannot be read from the archive")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20


def test_a_large_file_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "LARGEST_FILE", 10)
    refused(write_folder(tmp_path / "faces", GOOD), "happy/1.png", "at most 10")


def test_other_compression_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("happy/1.png", GOOD["happy/1.png"])
    refused(path, "happy/1.png", "method 12", "stored or deflated", "make the archive again")


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "archive.zip", {"happy/1.png": GOOD["happy/1.png"]})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    refused(path, "happy/1.png", "encrypted", "make the archive again")


@pytest.mark.parametrize(("flags", "message"), [(0x20, "patched"), (0x40, "encryption")])
def test_flags_that_zipfile_does_not_know_are_refused(tmp_path: Path, flags: int, message: str) -> None:
    path = write_zip(tmp_path / "archive.zip", GOOD)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= flags
    path.write_bytes(data)
    refused(path, "happy/1.png", message, "make the archive again")


def test_a_damaged_name_before_a_member_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "archive.zip", {"fröhlich/1.png": GOOD["happy/1.png"]})
    data = bytearray(path.read_bytes())
    data[30] = 0xFF  # the first letter of the name in front of the content, which says that it is UTF-8
    path.write_bytes(data)
    refused(path, "fröhlich/1.png", "cannot be read from the archive", "make the archive again")


def test_an_error_does_not_quote_the_file(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "archive.zip", {"happy/1.png": noise(1, 64).tobytes()})
    data = bytearray(path.read_bytes())
    data[26:28] = struct.pack("<H", 3000)  # length of the name in front of the content: zipfile quotes all of it
    path.write_bytes(data)
    assert len(refused(path, "happy/1.png", "cannot be read from the archive", "make the archive again")) < 800


def test_names_in_utf_8_without_its_flag_are_understood(tmp_path: Path) -> None:
    """As macOS writes them; without that a class had another name in the zip than in the same folder, unpacked."""
    path = write_zip(tmp_path / "archive.zip", {"fröhlich/1.png": GOOD["happy/1.png"]})
    data = bytearray(path.read_bytes())
    for start, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(start) + flags + 1] &= ~0x08
    path.write_bytes(data)
    assert read_faces(path, cache=False).names == ("fröhlich",)
    path.write_bytes(data.replace("fröhlich".encode(), b"fr\x94hlich "))  # cp437, as old programs on Windows write
    assert read_faces(path, cache=False).names == ("fröhlich",)


def test_an_empty_zip(tmp_path: Path) -> None:
    refused(write_zip(tmp_path / "archive.zip", {}), "holds no picture", "expected train/")


def test_a_zip_whose_paths_begin_with_a_dot(tmp_path: Path) -> None:
    members = {"./": b"", "./happy/1.png": encode(noise(0)), "./sad//1.png": encode(noise(1)), "./.git/a.png": b""}
    faces = read_faces(write_zip(tmp_path / "tar.zip", members), cache=False)
    assert faces.ids.tolist() == ["happy/1.png", "sad/1.png"]
    twice = write_zip(tmp_path / "twice.zip", {"./happy/1.png": b"", "happy/1.png": b""})
    with pytest.raises(MienError, match=r"holds happy/1\.png twice"):
        read_faces(twice, cache=False)
