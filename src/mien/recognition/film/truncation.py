"""Finds out from the structure of a film file whether its end or its index is missing, without decoding it."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import IO

from mien.data.sources import open_file

_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
# Matroska's header, segment, the parts of a segment, and those of a cluster (RFC 9559, 5).
_MATROSKA_PARTS = (
    0x1A45DFA3, _SEGMENT, 0x114D9B74, 0x1549A966, 0x1654AE6B, _CLUSTER, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367,
    0xEC, 0xBF, 0xE7, 0xA7, 0xAB, 0xA3, 0xA0, 0x5854, 0xAF,
)  # fmt: skip
_MP4_PARTS = (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"wide", b"free", b"skip", b"pnot", b"sidx", b"uuid")
_EBML, _RIFF, _OGG, _ASF = b"\x1a\x45\xdf\xa3", b"RIFF", b"OggS", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_LARGEST_PAGE = 65_307
# What a recorder that writes an AVI file to a pipe leaves as its length.
_UNKNOWN = 0xFFFF_FFFF
# Films have some dozens of parts, fragmented recordings one or two a second; more is an attack on readers.
_MOST_PARTS = 200_000


def missing_end(path: Path) -> str | None:
    """Describes what is missing at the end of a truncated film; None if nothing is, or if the container cannot show it.

    AVI, MP4, MOV, MKV, WebM and ASF store the length of their parts, and Ogg marks its last page. Raw streams and
    those of broadcasts and discs (MPEG-TS, MPEG-PS) store neither.
    """
    with open_file(path) as stream:
        head = stream.read(16)
        size = os.fstat(stream.fileno()).st_size
        if head[:4] == _OGG:
            return None if _ends_properly(stream, size) else "its last part is"
        if head[:4] == _RIFF:
            end = _riff_end(stream)
        elif head[4:8] in _MP4_PARTS:
            # What other programs and cameras append to a film is no part of it: only known names count.
            end = max((end for name, end in _mp4_parts(stream, size) if name in _MP4_PARTS), default=0)
        elif head[:4] == _EBML:
            end = _ebml_end(stream, size)
        elif head[:8] == _ASF:
            end = _asf_end(stream)
        else:
            return None
    return f"{end - size:,} bytes are" if end > size else None


def has_index(path: Path) -> bool:
    """Returns False for an unfinished MP4 or MOV file, which lacks its index (``moov``); True for any other file."""
    with open_file(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        parts = _mp4_parts(stream, size)
    return not parts or parts[0][0] not in _MP4_PARTS or any(name == b"moov" for name, _ in parts)


def _riff_end(stream: IO[bytes]) -> int:
    """Returns the end of the last of an AVI file's parts of at most 4 GB each (OpenDML 1.02); 0 if it is unknown."""
    end = start = 0
    for _ in range(_MOST_PARTS):
        stream.seek(start)
        head = stream.read(8)
        if len(head) < 8 or head[:4] != _RIFF:
            break
        length = struct.unpack("<I", head[4:])[0]
        if length == _UNKNOWN:
            return 0
        end = start + 8 + length
        start = end + (length & 1)
    return end


def _mp4_parts(stream: IO[bytes], size: int) -> list[tuple[bytes, int]]:
    """Returns name and end of each top-level box (ISO/IEC 14496-12, 4.2), up to one of unknown length."""
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


def _ebml_end(stream: IO[bytes], size: int) -> int:
    """Returns the end of Matroska's segment, or of its last part of known length (RFC 8794, 6.2; RFC 9559)."""
    start = end = 0
    for _ in range(_MOST_PARTS):
        if start >= size:
            break
        stream.seek(start)
        data = stream.read(12)
        name, used = _number(data, keep_marker=True)
        length, more = _number(data[used:])
        if not more or name not in _MATROSKA_PARTS:
            break
        start += used + more
        if length == (1 << 7 * more) - 1:  # unknown length, as in live recordings: look inside
            if name not in (_SEGMENT, _CLUSTER):
                break
            continue
        end = max(end, start + length)
        start += length  # a part of known length need not be searched
    return end


def _number(data: bytes, keep_marker: bool = False) -> tuple[int, int]:
    """Decodes an EBML number; returns it and its length in bytes by its leading zero bits (0 if invalid)."""
    used = 9 - data[0].bit_length() if data and data[0] else 0
    if not used or len(data) < used:
        return 0, 0
    value = int.from_bytes(data[:used], "big")
    return (value if keep_marker else value & ((1 << 7 * used) - 1)), used


def _asf_end(stream: IO[bytes]) -> int:
    """Returns the file size by the file properties (ASF specification, 3.2); 0 for a broadcast, which has none."""
    stream.seek(0)
    data = stream.read(4096)
    place = data.find(_ASF_PROPERTIES)
    if place < 0 or len(data) < place + 92 or data[place + 88] & 1:
        return 0
    return int(struct.unpack("<Q", data[place + 40 : place + 48])[0])


def _ends_properly(stream: IO[bytes], size: int) -> bool:
    """True if an Ogg file ends with a whole page that is marked as the last (RFC 3533, 6)."""
    start = max(0, size - _LARGEST_PAGE)
    stream.seek(start)
    data = stream.read()
    place = data.rfind(_OGG)
    if place < 0 or len(data) < place + 27:
        return False
    table = data[place + 27 : place + 27 + data[place + 26]]
    whole = len(table) == data[place + 26] and place + 27 + len(table) + sum(table) <= len(data)
    return whole and bool(data[place + 5] & 4)
