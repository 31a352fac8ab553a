"""Copies the sound of a film into its annotated copy, on the clock of the pictures."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
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
from av.video.stream import VideoStream

from mien.recognition.film.decoder import Clock, PacketClock, opened, restarts

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
