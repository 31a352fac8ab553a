"""What a file holds, by its first bytes and not by its name: a picture, a film, or neither."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path

from mien.data.archive import open_file
from mien.errors import MienError

HEAD = 4096
"""Bytes of a file that are looked at."""


FILM_SUFFIXES: tuple[str, ...] = (
    ".mp4", ".m4v", ".mov", ".qt", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mpe", ".m2v", ".ts", ".mts", ".m2ts",
    ".vob", ".flv", ".f4v", ".wmv", ".asf", ".3gp", ".3g2", ".ogv", ".mxf", ".dv", ".rm", ".rmvb", ".h264", ".264",
    ".h265", ".265", ".hevc", ".ivf", ".wtv",
)  # fmt: skip
"""Usual endings of films, in lower case. What is a film is decided by its content: an ending alone makes one of a file
that holds nothing, or nothing that is known, so that the error tells what is wrong with the film."""


class Kind(Enum):
    """What a file holds; the value is how a count of files that are left out names it."""

    PICTURE = "picture"
    FILM = "film"
    SOUND = "sound"
    TEXT = "text"
    ARCHIVE = "archive"
    DOCUMENT = "document"
    EMPTY = "empty"
    UNREADABLE = "unreadable"
    OTHER = "other"
    UNKNOWN = "unknown"


# The brands of ISO base media files that are pictures, or sound alone (MP4RA).
_PICTURE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"crx ")
_SOUND_BRANDS = (b"M4A ", b"M4B ", b"M4P ", b"F4A ", b"F4B ", b"aax ", b"aaxc")

# What files begin with. Those that come first are asked first.
_BEGINNINGS: tuple[tuple[Kind, tuple[bytes, ...]], ...] = (
    (
        Kind.PICTURE,
        (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+",
         b"\0\0\0\x0cjP  \r\n", b"\xff\x4f\xff\x51", b"\xff\x0a", b"\0\0\0\x0cJXL \r\n"),
    ),
    (
        Kind.FILM,
        (b"\x1a\x45\xdf\xa3", b"FLV\x01", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b".RMF", b"DKIF", b"YUV4MPEG2",
         b"\x06\x0e\x2b\x34\x02\x05\x01\x01", b"nut/multimedia container", b"NSVf", b"NSVs",
         b"\xb7\xd8\x00\x20\x37\x49\xda\x11", b"\0\0\0\0\x01\xbc", b"\x1f\x07\x00", b"\x12\x00\x0a"),
    ),
    (
        Kind.SOUND,
        (b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"\xff\xf1", b"\xff\xf9", b"fLaC", b"FORM", b"MThd", b"#!AMR",
         b"\x0b\x77", b"MAC ", b"wvpk"),
    ),
    (
        Kind.ARCHIVE,
        (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"7z\xbc\xaf\x27\x1c", b"Rar!",
         b"\x28\xb5\x2f\xfd"),
    ),
    (Kind.DOCUMENT, (b"%PDF", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"{\\rtf")),
    (
        Kind.OTHER,
        (b"\x7fELF", b"MZ", b"SQLite format 3\0", b"\x93NUMPY", b"PAR1", b"\x89HDF", b"OTTO", b"wOFF", b"\0\x01\0\0\0"),
    ),
)  # fmt: skip
_RIFFS = {b"AVI ": Kind.FILM, b"CDXA": Kind.FILM, b"AMV ": Kind.FILM, b"WEBP": Kind.PICTURE, b"WAVE": Kind.SOUND}
_BOXES = (b"moov", b"moof", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp", b"sidx")
# Netpbm: P1 to P6, then white space or a remark. A text may begin so too, hence the number after it.
_NETPBM = re.compile(rb"P[1-6](\s+(#[^\n]*\n)?)+\d")
# Start codes of MPEG-1, -2 and -4 (a pack of a program stream, a sequence, an object).
_MPEG = re.compile(rb"\0\0\0*\x01([\xba\xb3\xb0\xb5]|[\x00\x20][\x00\x01]\0\0\x01)")
# H.264: a delimiter or a set of parameters; H.265: the same (VPS, SPS or delimiter of layer 0).
_NAL = re.compile(rb"\0\0\0?\x01([\x09\x27\x47\x67]|[\x40\x42\x46]\x01)")
# Transport streams: a byte 0x47 every 188 bytes, 192 (Blu-ray, AVCHD) or 204 (with error correction).
_PACKETS, _SYNC, _IN_A_ROW = (188, 192, 204), 0x47, 5


def kind_of(path: Path) -> Kind:
    """What a file holds, by its first ``HEAD`` bytes; EMPTY or UNREADABLE where there are none."""
    try:
        with open_file(path) as stream:
            return kind_of_bytes(stream.read(HEAD))
    except (MienError, ValueError):  # a name that holds a NUL
        return Kind.UNREADABLE


def kind_of_bytes(head: bytes) -> Kind:
    """What a file holds that begins with these bytes; a container that may hold sound alone is a film."""
    if not head:
        return Kind.EMPTY
    if head[4:8] == b"ftyp":
        return _by_brand(head[8:12])
    if head[:4] in (b"RIFF", b"RIFX"):
        return _RIFFS.get(head[8:12], Kind.OTHER)
    if head[:4] == b"OggS":
        return Kind.FILM if re.search(rb"theora|OVP80|BBCD|video/", head) else Kind.SOUND
    if head[4:8] in _BOXES or _MPEG.match(head) or _NAL.match(head) or _is_transport(head):
        return Kind.FILM
    if _NETPBM.match(head) or (head[:2] == b"BM" and head[6:10] == bytes(4)):
        return Kind.PICTURE
    for kind, beginnings in _BEGINNINGS:
        if head.startswith(beginnings):
            return kind
    return Kind.TEXT if _is_text(head) else Kind.UNKNOWN


def _by_brand(brand: bytes) -> Kind:
    if brand in _PICTURE_BRANDS:
        return Kind.PICTURE
    return Kind.SOUND if brand in _SOUND_BRANDS else Kind.FILM


def _is_transport(head: bytes) -> bool:
    """Whether a piece of a broadcast begins within the first packet's length."""
    for length in _PACKETS:
        for start in range(min(length, len(head))):
            marks = head[start::length][:_IN_A_ROW]
            if len(marks) == _IN_A_ROW and marks == bytes([_SYNC]) * _IN_A_ROW:
                return True
    return False


def _is_text(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16 with its mark
        return True
    # Text of any other encoding has no control characters but tabs, line ends and the like.
    return not re.search(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f]", head)
