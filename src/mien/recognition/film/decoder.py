"""From a film file to the frames that it shows, as FFmpeg decodes them (through PyAV), with those that are lost.

FFmpeg also takes play lists, addresses and text files for films and follows what they name, and goes by the endings of
names. Here it gets the bytes of one local file, without a name, and reads them as one of the known containers or not.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from mien.data.sources import open_file
from mien.errors import MienError
from mien.recognition.film.pixels import Shown, deinterlaced
from mien.recognition.pictures import MOST_PIXELS

# FFmpeg's own remarks on damage would go to stderr; the rows of the film tell it. This is PyAV's default, but another
# module of the process may have turned it on.
av.logging.set_level(None)

CONTAINERS = (
    "mov,avi,matroska,mpegts,mpeg,mpegvideo,m4v,flv,asf,ogg,gif,h264,hevc,av1,obu,ivf,mxf,dv,rm,wtv,nut,gxf,nsv,"
    "yuv4mpegpipe,amv"
)
"""FFmpeg's names of the containers that are read; none of them names other files."""

USUAL_RATE = 25.0
"""Frames a second of a film that names no rate."""

# No protocol is known: there is nothing but the bytes.
_OPTIONS = {"format_whitelist": CONTAINERS, "protocol_whitelist": "none"}
_BUFFER = 1 << 18
# Of the decoders, which ask for the memory of a frame: a larger one is refused before. Its size is in each packet of
# many kinds of films, whatever the header says. An eighth more, as they round sizes up to multiples of 64.
_LIMITS = {"max_pixels": str(MOST_PIXELS * 9 // 8)}
# The clock of these containers runs on from any time: they are cut out of a broadcast or a disc.
_RUNNING_CLOCKS = ("mpegts", "mpeg")
# These may begin in the middle of a film, with pictures that build on others that are not there.
_PIECES = (*_RUNNING_CLOCKS, "mpegvideo", "m4v", "h264", "hevc", "obu")
# A demuxer that fails so often on end, without a packet between, is given up.
_FAILURES = 100
# A clock that is set back by more than this has started again, as where two recordings are joined.
_RESTART_S = 0.5


class NoPicturesError(MienError):
    """A file of a kind that can hold a film, without pictures that move: sound alone."""


@contextmanager
def opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A film file with the stream of its pictures.

    What FFmpeg, or too little memory, makes of the film within the block becomes a MienError.

    Raises:
        MienError: the file is missing, empty or no film; it has no stream of pictures, one of an unknown kind, or one
            of more than ``MOST_PIXELS`` a frame; it cannot be read on, or there is too little memory for it.
    """
    with open_file(path) as file:
        if not file.read(1):
            raise MienError(f"{path}: is empty; replace or remove the file")
        file.seek(0)
        try:
            container = av.open(_Bytes(file), "r", options=_LIMITS, container_options=_OPTIONS, buffer_size=_BUFFER)
        except MemoryError as error:
            raise _too_large(path) from error
        except (av.FFmpegError, ValueError) as error:
            raise MienError(f"{path}: {_what_is_wrong(path)}") from error
        with container:
            stream = _pictures(container)
            if stream is None:
                raise NoPicturesError(f"{path}: holds sound and no pictures, expected a film; remove it")
            _check_size(path, stream)
            if stream.codec_context is None or not _opens(stream):
                raise MienError(
                    f"{path}: has pictures of a kind that cannot be decoded; convert it, as to H.264 in MP4"
                )
            try:
                yield container, stream
            except MemoryError as error:
                raise _too_large(path) from error
            except (av.FFmpegError, ValueError) as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
                raise MienError(f"{path}: cannot be read on ({reason}); copy it again, or convert it") from error


def _check_size(path: Path, stream: VideoStream) -> None:
    """Refuses frames that are too large, before one is decoded."""
    if stream.codec_context is None:
        return
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MOST_PIXELS:
        raise MienError(
            f"{path}: has frames of {width}x{height} pixels, expected at most {MOST_PIXELS / 1e6:.0f} million; make it "
            "smaller"
        )


def _too_large(path: Path) -> MienError:
    return MienError(f"{path}: needs more memory than there is left; close other programs, or make it smaller")


class _Bytes:
    """What FFmpeg needs of an open file, without its name."""

    def __init__(self, file: IO[bytes]) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def _what_is_wrong(path: Path) -> str:
    """What to say of a file that FFmpeg does not take for a film."""
    if has_index(path):
        return (
            "is not a film that can be read, expected MP4, MOV, AVI, MKV, WebM or the like; replace or remove the file"
        )
    return "is an unfinished film: its index (moov) is missing, which is written last; copy or record it again"


def _opens(stream: VideoStream) -> bool:
    # Threads share the slices of a frame. Threads that decode several frames at once (FFmpeg's other way) would report
    # damage some packets later, and PyAV drops good frames that come with such a report.
    stream.thread_type = "SLICE"
    stream.codec_context.options = {**stream.codec_context.options, **_LIMITS}
    try:
        stream.codec_context.open(strict=False)
    except (av.FFmpegError, ValueError):
        return False
    return True


def _pictures(container: InputContainer) -> VideoStream | None:
    """The stream of the film: the best by FFmpeg, but no cover picture of a piece of music."""
    streams = [stream for stream in container.streams.video if not int(stream.disposition) & _COVER]
    best = container.streams.best("video")
    return best if best in streams else next(iter(streams), None)


_COVER = int(av.stream.Disposition.attached_pic) | int(av.stream.Disposition.timed_thumbnails)


def rate_of(stream: VideoStream) -> float:
    """Frames a second, the mean where they differ, in (0, 1000]; ``USUAL_RATE`` where the film names none."""
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate is not None and 0 < rate <= 1000:
            return float(rate)
    return USUAL_RATE


def origin_of(container: InputContainer) -> Fraction:
    """What is 0 s on the container's clock, in seconds: 0, or the start of a piece of a broadcast or a disc."""
    if container.format.name in _RUNNING_CLOCKS and container.start_time is not None:
        return Fraction(container.start_time, av.time_base)
    return Fraction(0)


def shown(container: InputContainer, stream: VideoStream) -> Iterator[Shown]:
    """The frames of a film in the order in which they are shown, each later than the one before.

    A frame whose packet is damaged comes without a picture, at its place. Packets that are empty, that an edit list
    leaves out, or that come before the first whole picture of a recording that was begun in the middle, show nothing.
    """
    clock = _Clock(1 / rate_of(stream), float(origin_of(container)))
    yield from deinterlaced(Shown(clock.at(time), picture) for time, picture in _decoded(container, stream))


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[tuple[float | None, VideoFrame | None]]:
    """Time by the container and picture of each frame; None for a time that is unknown and a picture that is lost."""
    # AVI has no times but the order of its packets, from which FFmpeg makes wrong ones where pictures are reordered.
    if container.format.name == "avi" and stream.codec_context.has_b_frames:
        yield from _decoded_in_order(container, stream)
        return
    losses = _Losses(whole=container.format.name not in _PIECES)
    guess = _TimeGuess()
    base = stream.time_base or Fraction(1, 1000)
    for packet in _packets(container, stream):
        pictures, failed = _pictures_of(stream, packet)
        if packet is not None and losses.sent(packet, failed):
            yield None, None
        for picture in pictures:
            broken = losses.came(picture.pts)
            ticks = guess.ticks(picture)
            yield from ((float(lost * base), None) for lost in losses.before(ticks))
            yield None if ticks is None else float(ticks * base), None if broken else picture
    yield from ((float(lost * base), None) for lost in losses.before(None))


def _decoded_in_order(
    container: InputContainer, stream: VideoStream
) -> Iterator[tuple[float | None, VideoFrame | None]]:
    """As ``_decoded``: the first picture has the time of the first packet, the second that of the second, and so on."""
    base = stream.time_base or Fraction(1, 1000)
    times: deque[float | None] = deque()
    for packet in _packets(container, stream):
        if packet is not None:
            times.append(None if packet.dts is None else float(packet.dts * base))
        pictures, failed = _pictures_of(stream, packet)
        for picture in [*pictures, *[None] * failed]:
            yield times.popleft() if times else None, picture


def _pictures_of(stream: VideoStream, packet: av.Packet | None) -> tuple[list[VideoFrame], bool]:
    """What the decoder gives for a packet, and whether it refused it."""
    try:
        return stream.decode(packet), False
    except EOFError:
        return [], False
    except MemoryError:
        raise  # nothing is wrong with the packet
    except (av.FFmpegError, ValueError):
        return [], True


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet | None]:
    """The packets of the stream that hold data, then None: the decoder is to give what it still holds."""
    failures = 0
    while failures < _FAILURES:
        try:
            for packet in container.demux(stream):
                if packet.size:
                    failures = 0
                    yield packet
            break
        except MemoryError:
            raise
        except (av.FFmpegError, ValueError):
            failures += 1
    yield None


class _Losses:
    """Which packets gave no picture because they, or those that they build on, are damaged.

    Args:
        whole: whether the film has its beginning; of a piece of one, what comes before the first key frame has nothing
            to build on, and is not shown, which is no damage.
    """

    def __init__(self, whole: bool) -> None:
        self._started = whole
        self._damaged = False
        self._restart: int | None = None
        self._awaited: set[int] = set()
        self._broken: set[int] = set()

    def sent(self, packet: av.Packet, failed: bool) -> bool:
        """Takes a packet into account; returns whether it is lost and has no time to wait for."""
        self._started = self._started or packet.is_keyframe
        if not self._started or packet.is_discard:
            return False
        time = packet.pts if packet.pts is not None else packet.dts
        # After damage a decoder may give nothing, without a word, until the next key frame, and also of the pictures
        # that come after that one in the file and are shown before it.
        if packet.is_keyframe and self._damaged:
            self._restart = time
        self._damaged = failed or (self._damaged and not packet.is_keyframe)
        if time is None:
            return failed
        if self._damaged or (self._restart is not None and time < self._restart):
            self._awaited.add(time)
        if packet.is_corrupt:
            self._broken.add(time)
        return False

    def came(self, time: int | None) -> bool:
        """Takes a picture into account; returns whether its packet was damaged, and the picture with it."""
        self._started = True
        if time is None:
            return False
        self._awaited.discard(time)
        broken = time in self._broken
        self._broken.discard(time)
        return broken

    def before(self, time: int | None) -> list[int]:
        """The times of the lost pictures before that of one that came; of all that are left for None."""
        late = sorted(lost for lost in self._awaited if time is None or lost < time)
        self._awaited.difference_update(late)
        return late


class _TimeGuess:
    """The time of a picture in ticks: of its presentation, or of its decoding where the first is wrong or missing; as
    FFmpeg's ``guess_correct_pts``."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._faults = {"pts": 0, "dts": 0}

    def ticks(self, picture: VideoFrame) -> int | None:
        for name in ("pts", "dts"):
            value = getattr(picture, name)
            if value is not None:
                self._faults[name] += value <= self._last.get(name, value - 1)
                self._last[name] = value
        shown_at, decoded_at = picture.pts, picture.dts
        if shown_at is not None and (decoded_at is None or self._faults["pts"] <= self._faults["dts"]):
            return shown_at
        return decoded_at


class _Clock:
    """Times that grow, from those of a container, some of which are missing, equal, or start again."""

    def __init__(self, period: float, origin: float) -> None:
        self._period, self._shift = period, -origin
        self._last: float | None = None

    def at(self, time_s: float | None) -> float:
        """When a frame is shown, in seconds; ``time_s`` is what the container says."""
        if self._last is None:
            now = 0.0 if time_s is None else time_s + self._shift
        elif time_s is None:
            now = self._last + self._period
        else:
            now = time_s + self._shift
            if now <= self._last - _RESTART_S:
                self._shift += self._last + self._period - now
                now = self._last + self._period
            elif now <= self._last:
                now = self._last + 1e-3
        self._last = now
        return now


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
