"""Holds room on the disk in reserve, so that a film can still be finished when the disk is full."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mien.files import FULL
from mien.locks import temporary_file

# What a film still needs when the disk is full: its index, with an entry for each packet of pictures and sound, and the
# frames that the encoder holds back.
_LEAST, _ENTRY, _HELD_BACK = 1 << 20, 32, 64


class Reserve:
    """The file of a film for FFmpeg. If the disk is full, it goes on in the room that a second file has held.

    Attributes:
        full: the error of the full disk; None before.
        packets: number of packets of pictures and sound that were written; the caller counts them.
    """

    def __init__(self, film: IO[bytes], room: IO[bytes]) -> None:
        self.seek, self.tell = film.seek, film.tell
        self.full: OSError | None = None
        self.packets = 0
        self._film, self._room = film, room
        self._written = self._held = 0
        self._may_grow = True

    def write(self, data: bytes) -> int:
        """Writes all bytes at the position of the film.

        Raises:
            OSError: they cannot be written, not even in the reserve.
        """
        left = memoryview(data)
        while left:
            if self.full is None:
                self._grow()
            try:
                left = left[self._film.write(left) :]
            except OSError as error:
                if error.errno not in FULL or self.full is not None:
                    raise
                self.full = error
                self._room.truncate(0)
        self._written += len(data)
        return len(data)

    def _grow(self) -> None:
        """Holds as much room as the film needs by now, unless there is not so much."""
        wanted = _LEAST + _ENTRY * self.packets + _HELD_BACK * self._written // max(1, self.packets)
        if not self._may_grow or wanted <= self._held:
            return
        length = max(wanted - self._held, _LEAST)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._room.fileno(), self._held, length)
            elif self._room.write(bytes(length)) < length:
                raise OSError("only a part fits")
            self._held += length
        except OSError:
            self._may_grow = False
            self._room.truncate(self._held)  # leave what is left to the film


@contextmanager
def reserved(path: Path) -> Iterator[Reserve]:
    """Opens a file for a film, with a reserve in the same folder during the block.

    Raises:
        OSError: a file cannot be opened.
    """
    with (
        temporary_file(path.parent) as room_path,
        path.open("r+b", buffering=0) as film,
        room_path.open("r+b", buffering=0) as room,
    ):
        yield Reserve(film, room)
