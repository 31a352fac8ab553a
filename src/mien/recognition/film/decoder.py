"""Decodes the frames of a film file with FFmpeg (through PyAV), and finds out which frames are lost.

Left to itself, FFmpeg also opens play lists, addresses and text files, follows what they name, and trusts endings of
names. So it gets only the bytes of one local file, without a name, and a list of the allowed containers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from heapq import heappop, heappush
from pathlib import Path
from typing import IO

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from mien.data.sources import open_file
from mien.errors import NO_MEMORY, MienError, first_line
from mien.recognition.film.pixels import DecodedFrame, deinterlaced
from mien.recognition.film.truncation import has_index
from mien.recognition.pictures import MOST_PIXELS

# FFmpeg would print remarks on damage to stderr, which the records report already. Silence is PyAV's default, but
# another module of the process may have changed it.
av.logging.set_level(None)

CONTAINERS = (
    "mov,avi,matroska,mpegts,mpeg,mpegvideo,m4v,flv,asf,ogg,gif,h264,hevc,av1,obu,ivf,mxf,dv,rm,wtv,nut,gxf,nsv,"
    "yuv4mpegpipe,amv"
)
"""FFmpeg's names of the allowed containers; none of them can refer to other files."""

USUAL_RATE = 25.0
"""Frames a second assumed for a film without a rate."""

# No protocol is allowed, so that a file cannot make FFmpeg open anything else.
_OPTIONS = {"format_whitelist": CONTAINERS, "protocol_whitelist": "none"}
_BUFFER = 1 << 18
# Limit for the decoders: packets of many codecs carry their own frame size, whatever the header says, and a huge one
# must fail before its memory is allocated. An eighth more, since decoders round sizes up to multiples of 64.
_LIMITS = {"max_pixels": str(MOST_PIXELS * 9 // 8)}
# Streams that are one picture, as the cover of music.
_COVER = int(av.stream.Disposition.attached_pic) | int(av.stream.Disposition.timed_thumbnails)
# The clock of these containers starts anywhere: they are cut out of a broadcast or a disc.
_RUNNING_CLOCKS = ("mpegts", "mpeg")
# These may begin in the middle of a film, with pictures that refer to missing ones.
_PIECES = (*_RUNNING_CLOCKS, "mpegvideo", "m4v", "h264", "hevc", "obu")
# Reading ends after this many demuxer errors in a row.
_FAILURES = 100
# Pictures of H.264 and H.265 are shown at most so many packets late.
_MOST_REORDERED = 16
# A clock that jumps back by more than this has restarted, as where two recordings are joined.
_RESTART_S = 0.5
# A running clock has 33 bits of 90 kHz. FFmpeg takes one that has restarted for one that went round, and adds a round.
_ROUND_S = 2**33 / 90_000


@contextmanager
def opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens a film file and gives its container and its video stream.

    Errors of FFmpeg and a lack of memory within the block become a MienError.

    Raises:
        MienError: the file is missing, empty or not a film; it has no video stream, one with an unknown codec, or
            frames of more than ``MOST_PIXELS``; an error occurs within the block.
    """
    with open_file(path) as file:
        if not file.read(1):
            raise MienError(f"{path}: is empty; replace or remove the file")
        file.seek(0)
        try:
            container = av.open(_Bytes(file), "r", options=_LIMITS, container_options=_OPTIONS, buffer_size=_BUFFER)
        except MemoryError as error:
            raise MienError(f"{path}: {NO_MEMORY}") from error
        except (av.FFmpegError, ValueError) as error:
            raise MienError(f"{path}: {_problem(path)}") from error
        with container:
            stream = _pictures(container)
            if stream is None:
                raise MienError(f"{path}: holds sound and no pictures, expected a film; remove it")
            _check_size(path, stream)
            if stream.codec_context is None or not _opens(stream):
                raise MienError(
                    f"{path}: has pictures of a kind that cannot be decoded; convert it, as to H.264 in MP4"
                )
            try:
                yield container, stream
            except MemoryError as error:
                raise MienError(f"{path}: {NO_MEMORY}") from error
            except (av.FFmpegError, ValueError) as error:
                raise MienError(
                    f"{path}: cannot be read on ({first_line(error)}); copy it again, or convert it"
                ) from error


def _check_size(path: Path, stream: VideoStream) -> None:
    """Rejects frames that are too large, before one is decoded."""
    if stream.codec_context is None:
        return
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MOST_PIXELS:
        raise MienError(
            f"{path}: has frames of {width}x{height} pixels, expected at most {MOST_PIXELS / 1e6:.0f} million; make it "
            "smaller"
        )


class _Bytes:
    """The methods of an open file that FFmpeg needs, without its name."""

    def __init__(self, file: IO[bytes]) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def _problem(path: Path) -> str:
    """Describes why FFmpeg does not accept a file as a film."""
    if has_index(path):
        return (
            "is not a film that can be read, expected MP4, MOV, AVI, MKV, WebM or the like; replace or remove the file"
        )
    return "is an unfinished film: its index (moov) is missing, which is written last; copy or record it again"


def _opens(stream: VideoStream) -> bool:
    """Opens the decoder of a stream; returns False if there is none."""
    # Threads share the slices of a frame. Frame threads (FFmpeg's other way) would report damage some packets later,
    # and PyAV would drop the good frames that come with the report.
    stream.thread_type = "SLICE"
    stream.codec_context.options = {**stream.codec_context.options, **_LIMITS}
    try:
        stream.codec_context.open(strict=False)
    except (av.FFmpegError, ValueError):
        return False
    return True


def _pictures(container: InputContainer) -> VideoStream | None:
    """Returns the video stream that FFmpeg prefers, but no cover picture of music; None if there is none."""
    streams = [stream for stream in container.streams.video if not int(stream.disposition) & _COVER]
    best = container.streams.best("video")
    return best if best in streams else next(iter(streams), None)


def rate_of(stream: VideoStream) -> float:
    """Returns the mean number of frames a second, in (0, 1000]; ``USUAL_RATE`` if the film has no rate."""
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate is not None and 0 < rate <= 1000:
            return float(rate)
    return USUAL_RATE


def origin_of(container: InputContainer) -> Fraction:
    """Returns the time of the container's clock that counts as 0 s: 0, or the start of a piece of a broadcast."""
    if container.format.name in _RUNNING_CLOCKS and container.start_time is not None:
        return Fraction(container.start_time, av.time_base)
    return Fraction(0)


def restarts(jump_s: float, is_round: bool) -> bool:
    """True if a step of a container's clock from one frame to the next means that it has restarted.

    Args:
        jump_s: the step in seconds.
        is_round: True if the clock starts anywhere and goes round, as that of a broadcast does.
    """
    return jump_s <= -_RESTART_S or (is_round and jump_s > _ROUND_S / 2)


def decoded_frames(container: InputContainer, stream: VideoStream) -> Iterator[DecodedFrame]:
    """Yields the frames of a film in the order in which they are shown, each later than the one before.

    A frame with a damaged packet has no picture. Three kinds of packets give no frame: empty ones, those that an edit
    list removes, and those before the first key frame of a recording that begins in the middle.
    """
    clock = Clock(container, stream)
    yield from deinterlaced(
        DecodedFrame(clock.at(time), picture) for time, picture in _timed_pictures(container, stream)
    )


def _timed_pictures(container: InputContainer, stream: VideoStream) -> Iterator[tuple[float | None, VideoFrame | None]]:
    """Yields the container's time and the picture of each frame; None for an unknown time or a lost picture."""
    # AVI stores no times; FFmpeg derives them from the order of the packets, which is wrong for reordered pictures.
    if container.format.name == "avi" and stream.codec_context.has_b_frames:
        yield from _timed_by_packets(container, stream)
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


def _timed_by_packets(
    container: InputContainer, stream: VideoStream
) -> Iterator[tuple[float | None, VideoFrame | None]]:
    """Does the same as ``_timed_pictures``, but gives the n-th picture the time of the n-th packet."""
    base = stream.time_base or Fraction(1, 1000)
    times: deque[float | None] = deque()
    for packet in _packets(container, stream):
        if packet is not None:
            times.append(None if packet.dts is None else float(packet.dts * base))
        pictures, failed = _pictures_of(stream, packet)
        for picture in [*pictures, *[None] * failed]:  # a packet that was rejected stands for a lost picture
            yield times.popleft() if times else None, picture


def _pictures_of(stream: VideoStream, packet: av.Packet | None) -> tuple[list[VideoFrame], bool]:
    """Decodes a packet; returns the pictures, and True if the decoder rejected the packet."""
    try:
        return stream.decode(packet), False
    except EOFError:
        return [], False
    except MemoryError:
        raise  # the packet is not damaged
    except (av.FFmpegError, ValueError):
        return [], True


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet | None]:
    """Yields the packets with data, then None, which makes the decoder return its last pictures."""
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
    """Finds the packets that give no picture because they, or packets that they depend on, are damaged.

    A decoder silently drops such pictures. Every frame must have its record, so the times of the missing ones are
    collected here.

    Args:
        whole: False if the film may begin in the middle. Packets before its first key frame then depend on
            missing ones; they give no picture, but that is not damage.
    """

    def __init__(self, whole: bool) -> None:
        self._started = whole
        self._damaged = False
        self._restart: int | None = None
        self._awaited: set[int] = set()
        self._broken: set[int] = set()

    def sent(self, packet: av.Packet, failed: bool) -> bool:
        """Registers a packet; returns True if its picture is lost and has no time for ``before`` to report."""
        self._started = self._started or packet.is_keyframe
        if not self._started or packet.is_discard:
            return False
        time = packet.pts if packet.pts is not None else packet.dts
        # After damage a decoder may silently drop all pictures until the next key frame, and also pictures that follow
        # the key frame in the file but are shown before it.
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
        """Registers a picture; returns True if its packet was damaged, so that the picture is too."""
        self._started = True
        if time is None:
            return False
        self._awaited.discard(time)
        broken = time in self._broken
        self._broken.discard(time)
        return broken

    def before(self, time: int | None) -> list[int]:
        """Returns the times of the lost pictures before a time, or of all remaining ones for None."""
        late = sorted(lost for lost in self._awaited if time is None or lost < time)
        self._awaited.difference_update(late)
        return late


class _TimeGuess:
    """Chooses the time of a picture in ticks: its presentation time, or its decoding time if the former is missing or
    more often out of order; as FFmpeg's ``guess_correct_pts``."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._faults = {"pts": 0, "dts": 0}

    def ticks(self, picture: VideoFrame) -> int | None:
        """Returns the time of the next picture, None if it has no time."""
        for name in ("pts", "dts"):
            value = getattr(picture, name)
            if value is not None:
                self._faults[name] += value <= self._last.get(name, value - 1)
                self._last[name] = value
        shown_at, decoded_at = picture.pts, picture.dts
        if shown_at is not None and (decoded_at is None or self._faults["pts"] <= self._faults["dts"]):
            return shown_at
        return decoded_at


class Clock:
    """Makes increasing times from a container's times, some of which may be missing, equal, or restart.

    Attributes:
        shifts: seconds that are added to the container's times, for each of the recordings that were joined; the clock
            restarts from one to the next.
        begun_s: time at which the last of them begins, in seconds.
        last_s: time of the last frame in seconds; None before the first.
        is_round: True if the container's clock starts anywhere and goes round, as that of a broadcast does.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self.is_round = container.format.name in _RUNNING_CLOCKS
        self.shifts = [-float(origin_of(container))]
        self.begun_s = 0.0
        self.last_s: float | None = None
        self._period = 1 / rate_of(stream)

    def at(self, time_s: float | None) -> float:
        """Returns the time of the next frame in seconds; ``time_s`` is the container's time."""
        if self.last_s is None:
            now = 0.0 if time_s is None else time_s + self.shifts[-1]
        elif time_s is None:
            now = self.last_s + self._period
        else:
            now = time_s + self.shifts[-1]
            if restarts(now - self.last_s, self.is_round):
                self.shifts.append(self.shifts[-1] + self.last_s + self._period - now)
                now = self.begun_s = self.last_s + self._period
            elif now <= self.last_s:
                now = self.last_s + 1e-3  # a tick later: trackers and encoders need times that increase
        self.last_s = now
        return now


class PacketClock:
    """The clock of the pictures by their packets alone, without decoding them: it is a few packets behind.

    Args:
        clock: gets the time of each packet, in the order in which the pictures are shown.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: list[Fraction] = []
        self._decoded: Fraction | None = None

    def sent(self, packet: av.Packet) -> None:
        """Adds the next packet."""
        base = packet.time_base
        decoded_at = None if packet.dts is None else packet.dts * base
        shown_at = decoded_at if packet.pts is None else packet.pts * base
        if decoded_at is not None:
            if self._decoded is not None and decoded_at < self._decoded:
                self._pass(len(self._waiting))  # those of the recording before
            self._decoded = decoded_at
        if shown_at is not None:
            heappush(self._waiting, shown_at)
        # No packet is shown before it is decoded, so no earlier one can come.
        while self._waiting and self._decoded is not None and self._waiting[0] <= self._decoded:
            self._pass(1)
        self._pass(len(self._waiting) - _MOST_REORDERED)

    def _pass(self, count: int) -> None:
        """Passes the earliest times on; none if the count is negative."""
        for _ in range(count):
            self._clock.at(float(heappop(self._waiting)))
