"""Writes a film with boxes, with the times and the sound of the original."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from fractions import Fraction
from functools import partial
from math import floor
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter
from av.video.stream import VideoStream
from PIL import Image

from mien.errors import MienError
from mien.files import atomic_file
from mien.machine import cores
from mien.recognition.draw import CopyError, annotated
from mien.recognition.faces import Record
from mien.recognition.film.decoder import Clock, PacketClock, opened, restarts
from mien.recognition.film.reader import About
from mien.recognition.formats import Add, Ending

# Encoders for each container, with settings of high quality and speed; the first one that this FFmpeg has is used.
_ENCODERS: dict[str, dict[str, dict[str, str]]] = {
    ".mp4": {
        # Without B frames the last frame is written last, so that MP4 stores its duration.
        "libx264": {"preset": "veryfast", "crf": "20", "bf": "0"},
        "libopenh264": {"rc_mode": "quality"},
        "mpeg4": {"qmin": "3", "qmax": "3"},
    },
    ".avi": {"mjpeg": {"qmin": "3", "qmax": "3"}},
}

ENDINGS: tuple[str, ...] = tuple(_ENCODERS)
"""Endings of annotated films: H.264 in MP4, or MJPEG in AVI."""

# Bytes that a film may still need to be finished: at least these, so many of its packets, which encoder and muxer hold
# back, and its index, with an entry for each packet of the pictures and for up to so many of the sound in a second.
_LEAST_ROOM, _HELD_BACK, _ENTRY, _SOUND_PACKETS = 1 << 18, 256, 32, 100

SLOWEST, FASTEST = 0.01, 1000.0
"""Range of the frame rate of annotated films, in frames a second."""

# MPEG-4 allows at most 65,535 ticks a second; with 90,000 ticks a second, MP4's 32 bits hold half a day.
_MOST_TICKS, _FINEST_TICKS = 65_535, 90_000
_NOT_H264 = "is written as MPEG-4 part 2, as this installation has no H.264 encoder; some players do not know it"


class NoFrameError(MienError):
    """No frame of a film could be decoded."""


def check_film(path: Path) -> None:
    """Checks the ending of the path of an annotated film, before any work.

    Raises:
        MienError: the ending is neither .mp4 nor .avi.
    """
    if path.suffix.lower() not in ENDINGS:
        raise MienError(f"{path}: cannot be written as a film, expected a name that ends in .mp4 or .avi; change it")


@contextmanager
def write_annotated(
    path: Path,
    rate: float,
    *,
    time_base: Fraction | None = None,
    end_s: float | None = None,
    sound: Path | None = None,
    say: Callable[[str], None] | None = None,
    spare_all: bool = False,
) -> Iterator[Add]:
    """A film with a box around every face, written beside its place and moved there when the block ends.

        about = frames.about(source)
        with write_annotated(Path("out.mp4"), about.rate, time_base=about.time_base, sound=source) as write:
            for record in recognize_film(recognizer, source, keep_pixels=True):
                write(record)

    Every record gives one frame, shown at its ``time_s`` (in AVI at the nearest tick of the rate). All frames get the
    size of the first one; an odd side loses a pixel, since the codecs need even sides. A frame that could not be
    decoded repeats the one before it. Whatever ends the block, Ctrl-C or an error, the film holds all frames until then
    and can be played; on a disk that gets full it ends while there is room to finish it. No file is left, and a former
    one stays, if there is no frame yet or if the film itself cannot be written.

    Args:
        path: path of the film; it ends in .mp4 (H.264 if FFmpeg has an encoder) or .avi (MJPEG).
        rate: mean number of frames a second, in [0.01, 1000].
        end_s: end of the last frame in seconds; by default the frame lasts 1 / rate.
        time_base: unit of the original's times in seconds, so that the copy has the same times to the tick.
        sound: a film whose sound is copied; sound that the container cannot hold is re-encoded.
        say: called with a line for each deviation from this description.
        spare_all: leave a file that is at the path already; the film then has a number beside it.

    Raises:
        MienError: the path has another ending, the rate is out of range, or the film cannot be written.
        CopyError (a MienError): no codec of this container holds such frames.
        NoFrameError (a MienError): no frame was written that could be decoded.
        SparedError (a MienError): something came to be at the path; the message says where the film is.
    """
    check_film(path)
    if not SLOWEST <= rate <= FASTEST:
        raise MienError(
            f"{path}: cannot be written as a film of {rate:g} frames a second, expected {SLOWEST:g} to "
            f"{FASTEST:g}; leave out fewer frames"
        )
    ending = Ending()
    with atomic_file(path, spare_newcomer=True, spare_all=spare_all) as temporary:
        film = _Film(temporary, path, rate, time_base, end_s, sound, say or (lambda text: None))
        try:
            with ending.held(film.write) as write:

                def add(record: Record) -> None:
                    write(record)
                    if not film.has_room():  # outside of `write`, as the film itself is whole
                        raise MienError(
                            f"{path}: cannot be written on, as the disk is full, and holds the film until "
                            f"{record.time_s or 0.0:.2f} s; free some space or choose another place"
                        )

                yield add
            if film.empty:
                ending.raise_again()
            film.finish(whole=not ending.is_early)
        except av.FFmpegError as error:
            if isinstance(error, OSError):  # a full disk, said as for any other file
                raise
            other = ".avi" if path.suffix.lower() == ".mp4" else ".mp4"
            raise CopyError(
                f"{path}: cannot be written as a film ({error.strerror}), expected a size and times that its format "
                f"holds; choose {other}"
            ) from error
        finally:
            film.release()
    ending.raise_again()


def write_copy(
    path: Path,
    source: Path | int,
    about: About,
    *,
    every: int = 1,
    audio: bool = True,
    say: Callable[[str], None] | None = None,
    spare_all: bool = False,
) -> AbstractContextManager[Add]:
    """Opens a copy with boxes of a film or a camera for writing; see ``write_annotated``.

    Args:
        path: path of the copy.
        source: the film, or the number of the camera.
        about: its properties (``mien.recognition.film.reader.about``).
        every: only every ``every``-th frame will be written.
        audio: copy the sound of a film.
        say: called with a line for each deviation.
        spare_all: as in ``write_annotated``.
    """
    return write_annotated(
        path,
        min(max(about.rate / every, SLOWEST), FASTEST),
        time_base=about.time_base,
        end_s=about.duration_s,
        sound=source if audio and isinstance(source, Path) else None,
        say=say,
        spare_all=spare_all,
    )


class _Film:
    """A film that is being written to a file; ``path`` is its name in messages."""

    def __init__(
        self,
        file: Path,
        path: Path,
        rate: float,
        time_base: Fraction | None,
        end_s: float | None,
        sound: Path | None,
        say: Callable[[str], None],
    ) -> None:
        self._file, self._path, self._rate, self._end_s, self._say = file, path, rate, end_s, say
        self._sound_of = sound
        self._sound: Sound | None = None
        self._kind = path.suffix.lower()
        self._encoder = next(name for name in _ENCODERS[self._kind] if name in av.codecs_available)
        self._base = self._ticks(time_base)
        self._output: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._reformatter = VideoReformatter()
        self._last: np.ndarray | None = None
        self._owed: list[float] = []
        self._ticks_written = -1
        self._packets = self._bytes = 0

    @property
    def empty(self) -> bool:
        """True if no frame has been written."""
        return self._output is None

    def write(self, record: Record) -> None:
        """Appends the frame of a record; one that could not be decoded repeats the frame before it."""
        time_s = record.time_s or 0.0
        if record.pixels is not None:
            self._last = self._fitted(annotated(record.pixels, record.faces))
        elif record.status != "error":
            raise ValueError(f"frame {record.frame}: has no pixels; ask recognize_film for keep_pixels=True")
        if self._last is None:
            self._owed.append(time_s)  # the size of a film that begins with damaged frames is unknown until a good one
            return
        for earlier in self._owed:
            self._put(np.zeros_like(self._last), earlier)
        self._owed.clear()
        self._put(self._last, time_s)

    def has_room(self) -> bool:
        """False if the disk has hardly more room than it takes to finish the film."""
        entries = self._packets + _SOUND_PACKETS * float(self._ticks_written * self._base)
        needed = _LEAST_ROOM + _HELD_BACK * self._bytes / max(1, self._packets) + _ENTRY * entries
        disk = shutil.disk_usage(self._file.parent)
        return self.empty or not disk.total or disk.free > needed  # some network disks do not know their size

    def finish(self, whole: bool) -> None:
        """Finishes the film.

        Args:
            whole: True if all frames were written, so that the rest of the sound belongs to the film.

        Raises:
            NoFrameError: no frame was written.
        """
        if self._output is None or self._stream is None:
            raise NoFrameError(f"{self._path}: was not written, as no frame could be decoded")
        last_s, duration_s = float(self._ticks_written * self._base), 1 / self._rate
        if whole and self._end_s is not None and 0 < self._end_s - last_s < 2 * duration_s:
            duration_s = self._end_s - last_s
        self._mux(self._stream.encode(None), duration_s)
        if self._sound is not None:
            self._sound.finish(None if whole else last_s + duration_s)
        output, self._output = self._output, None
        output.close()

    def release(self) -> None:
        """Closes the files, also after an error."""
        if self._sound is not None:
            self._sound.close()
        if self._output is not None:
            output, self._output = self._output, None
            with suppress(av.FFmpegError, OSError):  # an earlier error is the one to report
                output.close()

    def _ticks(self, time_base: Fraction | None) -> Fraction:
        """Returns the unit of the written times in seconds: that of the original if the encoder allows it."""
        if self._kind == ".avi":
            return 1 / Fraction(self._rate).limit_denominator(1001)
        most = _MOST_TICKS if self._encoder == "mpeg4" else 10 * _FINEST_TICKS
        if time_base is None or not 1000 <= 1 / time_base <= most or time_base.denominator > most:
            return Fraction(1, min(most // 1000 * 1000, _FINEST_TICKS))
        return time_base

    def _open(self, pixels: np.ndarray) -> VideoStream:
        """Opens the output for frames of the size of the first one."""
        height, width = pixels.shape[:2]
        self._output = av.open(str(self._file.absolute()), "w", format=self._kind[1:])
        settings = _ENCODERS[self._kind][self._encoder]
        rate = Fraction(self._rate).limit_denominator(1001)
        stream = self._output.add_stream(self._encoder, rate=rate, options=dict(settings))
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuvj420p" if self._encoder == "mjpeg" else "yuv420p"
        context = stream.codec_context
        context.time_base = self._base
        context.thread_count = cores()
        if self._encoder != "mjpeg":
            context.colorspace, context.color_range = 1, int(ColorRange.MPEG)  # BT.709, as in nearly all films
            context.color_primaries, context.color_trc = int(ColorPrimaries.BT709), int(ColorTrc.BT709)
        if self._encoder == "mpeg4":
            self._remark(_NOT_H264)
        if self._sound_of is not None:
            self._sound = Sound(self._sound_of, self._output, self._kind, self._remark)
        return stream

    def _remark(self, text: str) -> None:
        self._say(f"{self._path}: {text}")

    def _put(self, pixels: np.ndarray, time_s: float) -> None:
        """Encodes a frame, and the sound up to its time."""
        if self._stream is None:
            self._stream = self._open(pixels)
        self._ticks_written = max(round(time_s / self._base), self._ticks_written + 1)
        picture = VideoFrame.from_ndarray(pixels, "rgb24")
        if self._encoder == "mjpeg":
            picture = self._reformatter.reformat(picture, format="yuvj420p", dst_color_range=ColorRange.JPEG)
        else:
            picture = self._reformatter.reformat(
                picture, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
        picture.pts, picture.time_base = self._ticks_written, self._base
        self._mux(self._stream.encode(picture), 1 / self._rate)
        if self._sound is not None:
            self._sound.until(time_s)

    def _mux(self, packets: list[av.Packet], duration_s: float) -> None:
        assert self._output is not None
        for packet in packets:
            packet.duration = max(1, round(duration_s / self._base))  # MP4 uses only the last packet's
            self._packets, self._bytes = self._packets + 1, self._bytes + packet.size
            self._output.mux(packet)

    def _fitted(self, pixels: np.ndarray) -> np.ndarray:
        """Brings a frame to the size of the first one: the largest scale that fits, centred on black."""
        height, width = pixels.shape[:2]
        even = np.ascontiguousarray(pixels[: max(2, height - height % 2), : max(2, width - width % 2)])
        if self._last is None or even.shape == self._last.shape:
            return even
        high, wide = self._last.shape[:2]
        scale = min(wide / width, high / height)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        canvas = Image.new("RGB", (wide, high))
        image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
        canvas.paste(image, ((wide - size[0]) // 2, (high - size[1]) // 2))
        return np.asarray(canvas)


# Sound codecs, by FFmpeg's names, that players expect in these containers; other sound is re-encoded.
_COPIED = {
    ".mp4": ("aac", "mp3", "mp2", "ac3", "eac3", "alac", "flac", "opus"),
    ".avi": ("mp3", "mp2", "ac3", "pcm_s16le", "pcm_u8"),
}
_ENCODED = {".mp4": ("aac", "fltp"), ".avi": ("pcm_s16le", "s16")}
_USUAL_RATE, _RATES = 48_000, (48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000)
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
# Sound and pictures of a moment are at most this far apart in a file: in seconds, and in packets of sound.
_LATE_S, _MOST_WAITING = 1.0, 500
# AVI stores no times of sound: gaps between these lengths in seconds are filled with silence.
_SHORTEST_GAP_S, _LONGEST_GAP_S = 0.1, 600.0
_HALF = Fraction(1, 2)


class Sound:
    """Copies the sound of a film, on the clock of its pictures (``mien.recognition.film.reader.Frame.time_s``).

    Args:
        source: the film.
        output: container that gets the sound; nothing may be muxed into it yet.
        kind: .mp4 or .avi.
        say: called with a line for sound that is re-encoded or left out.
    """

    def __init__(self, source: Path, output: OutputContainer, kind: str, say: Callable[[str], None]) -> None:
        self._output, self._kind, self._say = output, kind, say
        self._files = ExitStack()
        # A second reader of the file, since pictures and sound are read at different paces.
        container, pictures = self._files.enter_context(opened(source))
        self._tracks: dict[int, _Track] = {}
        for stream in container.streams.audio:
            try:
                self._tracks[stream.index] = _track(stream, output, kind, say)
            except (av.FFmpegError, ValueError, AttributeError):
                say(f"a track of sound ({_name(stream)}) cannot be written and is left out")
        self._packets = self._timed(self._read(container, pictures), Clock(container, pictures))
        self._next: tuple[float, av.Packet] | None = None
        self._end_s = 0.0
        self._has_gone_back = False

    def until(self, time_s: float | None) -> None:
        """Writes the sound up to a time in seconds, or all of it for None."""
        while self._tracks:
            if self._next is None:
                self._next = next(self._packets, None)
            if self._next is None or (time_s is not None and self._next[0] > time_s):
                return
            (now, packet), self._next = self._next, None
            self._mux(partial(self._tracks[packet.stream_index].packets, packet))
            self._end_s = max(self._end_s, now)

    def finish(self, end_s: float | None) -> None:
        """Writes the sound up to the end of the film in seconds, or all of it for None, and closes the source."""
        self.until(end_s)
        for track in list(self._tracks.values()):
            self._mux(track.rest)
        self.close()

    def close(self) -> None:
        """Closes the source."""
        self._tracks.clear()
        self._files.close()

    def _mux(self, packets: Callable[[], Iterator[av.Packet]]) -> None:
        """Writes packets. If the format refuses them, as where their times overlap, the sound ends here."""
        try:
            for packet in packets():
                self._output.mux(packet)
        except (av.FFmpegError, ValueError) as error:
            if isinstance(error, OSError):  # a full disk
                raise
            reason = getattr(error, "strerror", None) or error  # the text of some names the temporary file
            self._say(f"the sound cannot be written beyond {self._end_s:.2f} s and ends there ({reason})")
            self._tracks.clear()

    def _timed(self, packets: Iterator[av.Packet], clock: Clock) -> Iterator[tuple[float, av.Packet]]:
        """Yields the packets of the tracks with their times in seconds on the clock of the pictures.

        Where recordings are joined, the clocks of pictures and sound restart; the sound is then shifted as the pictures
        are. It is known by how much only when pictures of the new recording come, so packets of sound wait for them.
        """
        by_pictures = PacketClock(clock)
        parts: dict[int, int] = dict.fromkeys(self._tracks, 0)
        former: dict[int, float] = {}
        waiting: deque[tuple[int, float, av.Packet]] = deque()
        for packet in packets:
            index, time = packet.stream_index, packet.pts
            if index not in self._tracks:
                by_pictures.sent(packet)
            else:
                now_s = former.get(index, 0.0) if time is None else float(time * packet.time_base)
                if restarts(now_s - former.get(index, now_s), clock.is_round):
                    parts[index] += 1
                elif parts[index] < len(clock.shifts) - 1 and clock.last_s is not None:
                    behind_s = clock.last_s - max(clock.begun_s, now_s + clock.shifts[parts[index]])
                    if behind_s > _LATE_S:  # it had a gap at the join, so that its clock did not go back
                        parts[index] = len(clock.shifts) - 1
                former[index] = now_s
                waiting.append((parts[index], now_s, packet))
            if len(waiting) > _MOST_WAITING:  # the clock of the pictures has not restarted
                parts = {track: min(part, len(clock.shifts) - 1) for track, part in parts.items()}
                waiting = deque((min(part, len(clock.shifts) - 1), now, held) for part, now, held in waiting)
            while waiting and waiting[0][0] < len(clock.shifts):
                part, now_s, held = waiting.popleft()
                yield from self._shifted(held, now_s, clock.shifts[part])
        for _, now_s, held in waiting:
            yield from self._shifted(held, now_s, clock.shifts[-1])

    def _shifted(self, packet: av.Packet, time_s: float, shift_s: float) -> Iterator[tuple[float, av.Packet]]:
        """Yields a packet with its time, moved to the clock of the pictures, unless sound is there already."""
        ticks = round(shift_s / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts + ticks
        packet.dts = None if packet.dts is None else packet.dts + ticks
        now_s, length_s = time_s + shift_s, float((packet.duration or 0) * packet.time_base)
        # An edit list removes this packet, unless its end is audible.
        if packet.pts is not None and now_s + length_s < 0:
            return
        track = self._tracks.get(packet.stream_index)
        if track is not None and not track.follows(packet):
            if not self._has_gone_back:
                self._has_gone_back = True
                self._say(f"the clock of its sound goes back after {self._end_s:.2f} s; what overlaps is left out")
            return
        if track is not None and self._kind == ".avi" and type(track) is _Track:
            self._remark_gap(track, now_s, length_s)
        yield now_s, packet

    def _remark_gap(self, track: _Track, now_s: float, length_s: float) -> None:
        """Says once that AVI does not hold a gap in sound that is copied."""
        gap_s = now_s - track.length_s
        track.length_s += length_s
        if gap_s > _SHORTEST_GAP_S and not track.has_gap:
            track.has_gap = True
            self._say(
                f"AVI does not hold the gap in its sound before {now_s:.2f} s, after which it is {gap_s:.2f} s early; "
                "choose .mp4"
            )

    def _read(self, container: InputContainer, pictures: VideoStream) -> Iterator[av.Packet]:
        """Yields the packets of the tracks and of the pictures, in the order of the file."""
        streams = [stream for stream in container.streams.audio if stream.index in self._tracks]
        try:
            for packet in container.demux(pictures, *streams) if streams else ():
                if packet.size:
                    yield packet
        except (av.FFmpegError, ValueError, OSError) as error:
            self._say(f"the sound is damaged and ends at {self._end_s:.2f} s ({error})")


class _Track:
    """A sound stream that is copied."""

    def __init__(self, output: AudioStream) -> None:
        self.output = output
        self.length_s, self.has_gap = 0.0, False
        self._last: Fraction | None = None
        self._ticks: int | None = None

    def follows(self, packet: av.Packet) -> bool:
        """True if no sound before the packet overlaps it by half or more; it then counts as written."""
        ticks = packet.dts if packet.dts is not None else packet.pts
        if ticks is None:
            return True
        time, length = ticks * packet.time_base, (packet.duration or 0) * packet.time_base
        if self._last is not None and time <= self._last + length / 2:
            return False
        self._last = time
        return True

    def packets(self, packet: av.Packet) -> Iterator[av.Packet]:
        """Yields the packets to write for a packet of the source."""
        packet.stream = self.output
        if self.output.time_base and packet.dts is not None:
            # In AVI a tick is as long as a packet, so that times with jitter may be rounded to the same one.
            unit = self.output.time_base / packet.time_base
            ticks = floor(packet.dts / unit + _HALF)
            if self._ticks is not None and ticks <= self._ticks:
                late = round((self._ticks + 1 - ticks) * unit)
                packet.pts, packet.dts = None if packet.pts is None else packet.pts + late, packet.dts + late
            self._ticks = floor(packet.dts / unit + _HALF)
        yield packet

    def rest(self) -> Iterator[av.Packet]:
        """Yields the packets to write at the end."""
        yield from ()


class _NewTrack(_Track):
    """A sound stream that is decoded and re-encoded.

    Args:
        source: the stream.
        output: gets the packets.
        form: FFmpeg's name of the encoder's sample format.
        fills: write silence in gaps, for a container that stores no times.
    """

    def __init__(self, source: AudioStream, output: AudioStream, form: str, fills: bool) -> None:
        super().__init__(output)
        self._source, self._form, self._fills = source, form, fills
        self._rate = output.codec_context.sample_rate
        self._resampler: AudioResampler | None = None
        self._kind: tuple[str, str, int] | None = None
        self._samples = 0

    def packets(self, packet: av.Packet) -> Iterator[av.Packet]:
        try:
            frames = self._source.decode(packet)
        except (av.FFmpegError, ValueError):
            return  # damaged: silence for a moment
        for frame in frames:
            kind = (frame.format.name, frame.layout.name, frame.sample_rate)
            if kind != self._kind:  # it changes from one programme of a broadcast to the next
                yield from self._resampled(None)
                self._resampler = AudioResampler(self._form, self.output.codec_context.layout, self._rate)
                self._kind = kind
            if self._fills and frame.time is not None:
                yield from self._silence(round(frame.time * self._rate) - self._samples)
            yield from self._resampled(frame)

    def rest(self) -> Iterator[av.Packet]:
        yield from self._resampled(None)
        yield from self.output.encode(None)

    def _resampled(self, frame: AudioFrame | None) -> Iterator[av.Packet]:
        for piece in [] if self._resampler is None else self._resampler.resample(frame):
            self._samples += piece.samples
            yield from self.output.encode(piece)

    def _silence(self, samples: int) -> Iterator[av.Packet]:
        """Yields silence for a gap of so many samples, in pieces of a second."""
        if not _SHORTEST_GAP_S < samples / self._rate < _LONGEST_GAP_S:
            return
        layout = self.output.codec_context.layout
        for start in range(0, samples, self._rate):
            count = min(self._rate, samples - start)
            zeros = np.zeros((1, count * layout.nb_channels), np.int16)
            piece = AudioFrame.from_ndarray(zeros, self._form, layout.name)
            piece.sample_rate, piece.pts, piece.time_base = self._rate, self._samples, Fraction(1, self._rate)
            self._samples += count
            yield from self.output.encode(piece)


def _track(stream: AudioStream, output: OutputContainer, kind: str, say: Callable[[str], None]) -> _Track:
    """Adds a sound stream to the output: copied if the container holds its codec well, else re-encoded."""
    if _name(stream) in _COPIED[kind]:
        return _Track(output.add_stream_from_template(stream, opaque=True))
    name, form = _ENCODED[kind]
    rate = stream.codec_context.sample_rate
    new = output.add_stream(name, rate=rate if rate in _RATES else _USUAL_RATE)
    assert isinstance(new, AudioStream)
    # AVI and others store only the number of channels.
    new.codec_context.layout = _LAYOUTS.get(stream.codec_context.layout.nb_channels, "stereo")
    new.codec_context.time_base = Fraction(1, new.codec_context.sample_rate)
    say(f"its sound ({_name(stream)}) was encoded anew as {name}, as {kind[1:].upper()} does not hold it well")
    return _NewTrack(stream, new, form, fills=kind == ".avi")


def _name(stream: AudioStream) -> str:
    """Returns FFmpeg's name of the codec of a stream."""
    return "an unknown kind" if stream.codec_context is None else stream.codec_context.codec.canonical_name
