"""The sound of a film, copied into an annotated film as it is, or encoded anew where the container cannot hold it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import av
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer

from mien.recognition.film.decoder import opened, origin_of

# What players expect in these containers, by FFmpeg's names.
_COPIED = {
    ".mp4": ("aac", "mp3", "mp2", "ac3", "eac3", "alac", "flac", "opus"),
    ".avi": ("mp3", "mp2", "ac3", "pcm_s16le", "pcm_u8"),
}
_ENCODED = {".mp4": ("aac", "fltp"), ".avi": ("pcm_s16le", "s16")}
_USUAL_RATE, _RATES = 48_000, (48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000)
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}


class Sound:
    """All the sound of a film, on the clock of its pictures (``mien.recognition.film.reader.Frame.time_s``).

    Args:
        source: the film.
        output: where it goes; must be new, nothing muxed yet.
        kind: .mp4 or .avi.
        say: is told in a line of sound that is encoded anew or left out.
    """

    def __init__(self, source: Path, output: OutputContainer, kind: str, say: Callable[[str], None]) -> None:
        self._output, self._say = output, say
        self._files = ExitStack()
        # Another reader than the pictures': each goes through the file at its own pace.
        container, _ = self._files.enter_context(opened(source))
        self._tracks: dict[int, _Track] = {}
        for stream in container.streams.audio:
            try:
                self._tracks[stream.index] = _track(stream, output, kind, say)
            except (av.FFmpegError, ValueError, AttributeError):
                say(f"a track of sound ({_name(stream)}) cannot be written and is left out")
        self._origin = origin_of(container)
        self._packets = self._read(container)
        self._next: tuple[float, av.Packet] | None = None

    def until(self, time_s: float | None) -> None:
        """Writes the sound up to a time in seconds, or all that is left."""
        while self._tracks:
            if self._next is None:
                self._next = next(self._packets, None)
            if self._next is None or (time_s is not None and self._next[0] > time_s):
                return
            packet, self._next = self._next[1], None
            self._output.mux(self._tracks[packet.stream_index].packets(packet))

    def finish(self, end_s: float | None) -> None:
        """Writes the sound up to the end of a film in seconds, or all that is left, and closes the source."""
        self.until(end_s)
        for track in self._tracks.values():
            self._output.mux(track.rest())
        self.close()

    def close(self) -> None:
        """Closes the source."""
        self._tracks.clear()
        self._files.close()

    def _read(self, container: InputContainer) -> Iterator[tuple[float, av.Packet]]:
        """The packets of the tracks with their times in seconds on the clock of the pictures."""
        streams = [stream for stream in container.streams.audio if stream.index in self._tracks]
        now = 0.0
        try:
            for packet in container.demux(streams) if streams else ():
                if not packet.size:
                    continue
                base = packet.time_base
                if packet.pts is not None:
                    packet.pts -= round(self._origin / base)
                    now = float(packet.pts * base)
                    # What an edit list leaves out, but for the beginning of the first sound that is heard.
                    if now + float((packet.duration or 0) * base) < 0:
                        continue
                if packet.dts is not None:
                    packet.dts -= round(self._origin / base)
                yield now, packet
        except (av.FFmpegError, ValueError) as error:
            self._say(f"the sound is damaged and ends at {now:.2f} s ({error})")


class _Track:
    """A stream of sound that is copied."""

    def __init__(self, output: AudioStream) -> None:
        self.output = output

    def packets(self, packet: av.Packet) -> list[av.Packet]:
        """What is to be written for a packet of the source."""
        packet.stream = self.output
        return [packet]

    def rest(self) -> list[av.Packet]:
        """What is left to be written at the end."""
        return []


class _NewTrack(_Track):
    """A stream of sound that is decoded and encoded anew."""

    def __init__(self, source: AudioStream, output: AudioStream, form: str) -> None:
        super().__init__(output)
        self._source = source
        self._resampler = AudioResampler(form, output.codec_context.layout, output.codec_context.sample_rate)

    def packets(self, packet: av.Packet) -> list[av.Packet]:
        try:
            frames = self._source.decode(packet)
        except (av.FFmpegError, ValueError):
            return []  # damaged: silence for a moment
        return [
            new for frame in frames for piece in self._resampler.resample(frame) for new in self.output.encode(piece)
        ]

    def rest(self) -> list[av.Packet]:
        pieces = self._resampler.resample(None)
        return [new for piece in pieces for new in self.output.encode(piece)] + self.output.encode(None)


def _track(stream: AudioStream, output: OutputContainer, kind: str, say: Callable[[str], None]) -> _Track:
    if _name(stream) in _COPIED[kind]:
        return _Track(output.add_stream_from_template(stream, opaque=True))
    name, form = _ENCODED[kind]
    rate = stream.codec_context.sample_rate
    new = output.add_stream(name, rate=rate if rate in _RATES else _USUAL_RATE)
    assert isinstance(new, AudioStream)
    # AVI and others tell the number of channels alone.
    new.codec_context.layout = _LAYOUTS.get(stream.codec_context.layout.nb_channels, "stereo")
    new.codec_context.time_base = Fraction(1, new.codec_context.sample_rate)
    say(f"its sound ({_name(stream)}) was encoded anew as {name}, as {kind[1:].upper()} does not hold it well")
    return _NewTrack(stream, new, form)


def _name(stream: AudioStream) -> str:
    return "an unknown kind" if stream.codec_context is None else stream.codec_context.codec.canonical_name
