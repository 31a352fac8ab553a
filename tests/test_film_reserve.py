"""A film on a full disk: what was read is kept, as room for its end was held in reserve."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import IO

import pytest
from film_helpers import number_of, numbered
from test_film_writer import records, tone

from mien.errors import MienError
from mien.recognition.film import reserve
from mien.recognition.film.reader import frames
from mien.recognition.film.writer import write_annotated


class Disk:
    """A disk with room for so many bytes; ``file`` gives a file on it that behaves as those of the system do."""

    def __init__(self, room: int) -> None:
        self.room = room

    def take(self, length: int) -> None:
        if length > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= length

    def file(self, file: IO[bytes]) -> OnDisk:
        return OnDisk(self, file)


class OnDisk:
    def __init__(self, disk: Disk, file: IO[bytes]) -> None:
        self._disk, self._file = disk, file
        self.seek, self.tell = file.seek, file.tell

    def size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def write(self, data: memoryview) -> int:
        grows = self.tell() + len(data) - self.size()
        if grows > self._disk.room:
            data = data[: max(0, len(data) - grows + self._disk.room)] or data
        self._disk.take(max(0, self.tell() + len(data) - self.size()))
        return self._file.write(data)

    def truncate(self, size: int) -> None:
        self._disk.room += self.size() - size
        self._file.truncate(size)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """A disk of 1.5 MiB for the films of this test."""
    disk = Disk(3 << 19)
    plain = reserve.Reserve
    monkeypatch.setattr(reserve, "Reserve", lambda film, room: plain(disk.file(film), disk.file(room)))  # type: ignore[arg-type]
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    return disk


@pytest.mark.parametrize("name", ["out.mp4", "out.avi"])
def test_a_full_disk_keeps_the_film_until_then(name: str, disk: Disk, tmp_path: Path) -> None:
    source = numbered(tmp_path / "film.mp4", 10, sound="aac", sound_s=60.0)
    path = tmp_path / name
    path.write_text("the former one")
    written = 0
    with (
        pytest.raises(MienError, match=re.escape(f"{path}: cannot be written on (No space left on device)")) as raised,
        write_annotated(path, 25, sound=source) as write,
    ):
        for record in records(1500):
            written += 1
            write(record)
    numbers = [number_of(row.pixels) for row in frames(path) if row.pixels is not None]
    assert numbers == list(range(written)) and 20 < written < 1500
    assert f"holds the film until {(written - 1) / 25:.2f} s; free some space or choose" in str(raised.value)
    assert tone(path)[1] == pytest.approx(written / 25, abs=0.06)
    assert {entry.name for entry in tmp_path.iterdir()} == {"film.mp4", name}


def test_a_film_for_which_there_is_room_but_for_no_reserve_is_written(disk: Disk, tmp_path: Path) -> None:
    disk.room = 1 << 18
    with write_annotated(tmp_path / "out.mp4", 25) as write:
        for record in records(20):
            write(record)
    assert len(list(frames(tmp_path / "out.mp4"))) == 20


def test_if_another_program_takes_the_reserve_nothing_is_left(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnDisk, "truncate", lambda self, size: None)
    with (
        pytest.raises(MienError, match=r"out\.avi: cannot be written \(No space"),
        write_annotated(tmp_path / "out.avi", 25) as write,
    ):
        for record in records(1500):
            write(record)
    assert list(tmp_path.iterdir()) == []
