"""How much is missing at the end of a film file that was cut short, as its own parts tell."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import IO

from mien.data.archive import open_file

_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_MP4_PARTS = (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"wide", b"free", b"skip", b"pnot", b"sidx", b"uuid")
_EBML, _RIFF, _OGG, _ASF = b"\x1a\x45\xdf\xa3", b"RIFF", b"OggS", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_LARGEST_PAGE = 65_307
# Whole films have some dozens, recordings in pieces one or two a second: a file of more was made to keep readers busy.
_MOST_PARTS = 200_000


def lacking(path: Path) -> str | None:
    """What is missing at the end of a film, in words; None where nothing is, or where its kind does not tell.

    AVI, MP4, MOV, MKV, WebM and ASF say how long their parts are, Ogg marks its last page. Raw streams and those of
    broadcasts and discs (MPEG-TS, MPEG-PS) say nothing.
    """
    with open_file(path) as stream:
        head = stream.read(16)
        size = os.fstat(stream.fileno()).st_size
        if head[:4] == _OGG:
            return None if _ends_properly(stream, size) else "its last part is"
        if head[:4] == _RIFF:
            end = 8 + struct.unpack("<I", head[4:8])[0]
        elif head[4:8] in _MP4_PARTS:
            end = _mp4_end(stream, size)
        elif head[:4] == _EBML:
            end = _ebml_end(stream, size)
        elif head[:8] == _ASF:
            end = _asf_end(stream)
        else:
            return None
    return f"{end - size:,} bytes are" if end > size else None


def has_index(path: Path) -> bool:
    """Whether an MP4 or MOV file has its index (``moov``): an unfinished one has not; true for any other file."""
    with open_file(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        parts = list(_mp4_parts(stream, size))
    return not parts or parts[0][0] not in _MP4_PARTS or any(name == b"moov" for name, _ in parts)


def _mp4_parts(stream: IO[bytes], size: int) -> list[tuple[bytes, int]]:
    """Name and end of each box of the outermost level (ISO/IEC 14496-12, 4.2), until one of no known length."""
    parts: list[tuple[bytes, int]] = []
    start = 0
    while start + 8 <= size and len(parts) < _MOST_PARTS:
        stream.seek(start)
        head = stream.read(16)
        length = struct.unpack(">I", head[:4])[0]
        if length == 1 and len(head) == 16:
            length = struct.unpack(">Q", head[8:])[0]
        if length == 0:  # up to the end of the file
            length = size - start
        if length < 8:
            break
        start += length
        parts.append((head[4:8], start))
    return parts


def _mp4_end(stream: IO[bytes], size: int) -> int:
    parts = _mp4_parts(stream, size)
    return parts[-1][1] if parts else 0


def _ebml_end(stream: IO[bytes], size: int) -> int:
    """Where Matroska's segment ends, or the last of its parts whose length is known (RFC 8794, 6.2; RFC 9559)."""
    start = end = 0
    for _ in range(_MOST_PARTS):
        if start >= size:
            break
        stream.seek(start)
        data = stream.read(12)
        name, used = _number(data, keep_marker=True)
        length, more = _number(data[used:])
        if not used or not more:
            break
        start += used + more
        if length == (1 << 7 * more) - 1:  # not known: a recording that was written as it came
            if name not in (_SEGMENT, _CLUSTER):
                break
            continue
        end = max(end, start + length)
        # Within a segment that is whole there is nothing to look for.
        start += length
    return end


def _number(data: bytes, keep_marker: bool = False) -> tuple[int, int]:
    """A number of EBML and how many bytes it takes (0: there is none); its leading zeros tell its length."""
    used = 9 - data[0].bit_length() if data and data[0] else 0
    if not used or len(data) < used:
        return 0, 0
    value = int.from_bytes(data[:used], "big")
    return (value if keep_marker else value & ((1 << 7 * used) - 1)), used


def _asf_end(stream: IO[bytes]) -> int:
    """The size of the file by its properties (ASF specification, 3.2); 0 where a broadcast could not know it."""
    stream.seek(0)
    data = stream.read(4096)
    place = data.find(_ASF_PROPERTIES)
    if place < 0 or len(data) < place + 92 or data[place + 88] & 1:
        return 0
    return int(struct.unpack("<Q", data[place + 40 : place + 48])[0])


def _ends_properly(stream: IO[bytes], size: int) -> bool:
    """Whether an Ogg file ends with a page that is marked as the last and is whole (RFC 3533, 6)."""
    start = max(0, size - _LARGEST_PAGE)
    stream.seek(start)
    data = stream.read()
    place = data.rfind(_OGG)
    if place < 0 or len(data) < place + 27:
        return False
    table = data[place + 27 : place + 27 + data[place + 26]]
    whole = len(table) == data[place + 26] and place + 27 + len(table) + sum(table) <= len(data)
    return whole and bool(data[place + 5] & 4)
