"""Films of every kind that a person may bring, made by PyAV's own encoders from public-domain and drawn pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from skimage import data

WIDTH, HEIGHT, BITS = 96, 64, 12
SOUND_RATE = 48_000


def picture(number: int, seed: int = 0) -> np.ndarray:
    """A frame that holds its number, in black and white squares at its top, and a red square that moves; RGB."""
    pixels = np.random.default_rng(seed + number).integers(60, 100, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for bit in range(BITS):
        pixels[:8, 8 * bit : 8 * bit + 8] = 255 * (number >> bit & 1)
    left = number % 60
    pixels[30:50, left : left + 20] = (255, 0, 0)
    return pixels


def number_of(pixels: np.ndarray) -> int:
    """The number that a frame of ``picture`` holds."""
    return sum(int(pixels[2:6, 8 * bit + 2 : 8 * bit + 6].mean() > 128) << bit for bit in range(BITS))


def portrait(side: int = 256) -> np.ndarray:
    """uint8 [side, side, 3]: scikit-image's astronaut (NASA, public domain)."""
    step = 512 // side
    return np.ascontiguousarray(data.astronaut()[::step, ::step])


def write(
    path: Path,
    pictures: Iterable[np.ndarray],
    codec: str = "libx264",
    *,
    rate: int | Fraction = 25,
    times: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    form: str | None = None,
    sound: str | None = None,
    sound_s: float = 0.0,
    convert: dict[str, Any] | None = None,
    prepare: Callable[[VideoStream], None] | None = None,
) -> Path:
    """Writes a film.

    Args:
        path: where; the ending tells the container, where ``form`` does not.
        pictures: uint8 [H, W, 3], RGB.
        codec: FFmpeg's name of an encoder; empty: there are no pictures, but sound alone.
        rate: frames a second.
        times: of each frame, in units of ``time_base``; by default 0, 1, 2, ...
        time_base: 1 / rate by default.
        pixels: FFmpeg's name of a kind of pixels.
        options: of the encoder.
        container: options of the muxer.
        form: FFmpeg's name of the container.
        sound: an encoder of sound: a tone, from 0 s on.
        sound_s: how long it lasts.
        convert: how RGB becomes the pixels of the film, for ``VideoFrame.reformat``.
        prepare: is given the stream before the first frame.
    """
    base = time_base or 1 / Fraction(rate)
    with av.open(str(path), "w", format=form, container_options=container or {}) as output:
        stream: VideoStream | None = None
        if not codec:
            assert sound is not None
            _tone(output, sound, sound_s)
        for index, picture_pixels in enumerate(pictures):
            if stream is None:
                stream = output.add_stream(codec, rate=rate, options=dict(options or {}))  # type: ignore[assignment]
                assert isinstance(stream, VideoStream)
                stream.height, stream.width = picture_pixels.shape[:2]
                stream.pix_fmt = pixels
                stream.codec_context.time_base = base
                if prepare is not None:
                    prepare(stream)
                if sound is not None:
                    _tone(output, sound, sound_s)
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture_pixels), "rgb24")
            frame = frame.reformat(format=pixels, **(convert or {}))
            frame.pts, frame.time_base = index if times is None else times[index], base
            output.mux(stream.encode(frame))
        if stream is not None:
            output.mux(stream.encode(None))
    return path


def _tone(output: OutputContainer, codec: str, lasting_s: float) -> None:
    stream = output.add_stream(codec, rate=SOUND_RATE)
    assert isinstance(stream, AudioStream)
    stream.codec_context.layout = "mono"
    wave = np.sin(np.arange(int(lasting_s * SOUND_RATE)) * 2 * np.pi * 440 / SOUND_RATE)
    form = stream.codec_context.format.name if stream.codec_context.format else "fltp"
    for start in range(0, len(wave), 1024):
        piece = (wave[None, start : start + 1024] * 8000).astype(np.int16)
        frame = AudioFrame.from_ndarray(piece, "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, start, Fraction(1, SOUND_RATE)
        for sound_frame in av.AudioResampler(form, "mono", SOUND_RATE).resample(frame):
            output.mux(stream.encode(sound_frame))
    output.mux(stream.encode(None))


def numbered(path: Path, count: int, codec: str = "", **options: Any) -> Path:
    """A film of ``picture(0)``, ``picture(1)``, ..., by default MPEG-4 (MP4, MKV) or MJPEG (AVI)."""
    default_codec = {".avi": "mjpeg"}.get(path.suffix.lower(), "mpeg4")
    if not codec and default_codec == "mjpeg":
        options = {"pixels": "yuvj420p", "options": {"qmin": "2", "qmax": "2"}, **options}
    elif not codec:
        options = {"options": {"qmin": "2", "qmax": "2", "g": "12"}, **options}
    return write(path, (picture(number) for number in range(count)), codec or default_codec, **options)


def trimmed(source: Path, path: Path, first: int) -> Path:
    """A copy of a film that begins ``first`` frames later by an edit list: all its packets are there, as phones and
    ``ffmpeg -ss -c copy`` leave them."""
    with av.open(str(source)) as film, av.open(str(path), "w") as output:
        stream = film.streams.video[0]
        copy = output.add_stream_from_template(stream)
        assert stream.time_base is not None and stream.average_rate is not None
        start = round(first / stream.average_rate / stream.time_base)
        for packet in film.demux(stream):
            if packet.size:
                assert packet.pts is not None and packet.dts is not None
                packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, copy
                output.mux(packet)
    return path


def interlaced(pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Frames that hold two fields each: the even lines of one picture, the odd lines of the next."""
    woven = []
    for first, second in zip(pictures[::2], pictures[1::2], strict=True):
        frame = first.copy()
        frame[1::2] = second[1::2]
        woven.append(frame)
    return woven


def without_packets(source: Path, path: Path, leave_out: Callable[[int], bool]) -> Path:
    """A copy of a film without some packets; the container keeps their place in time."""
    with av.open(str(source)) as film, av.open(str(path), "w") as output:
        stream = film.streams.video[0]
        copy = output.add_stream_from_template(stream)
        for index, packet in enumerate(film.demux(stream)):
            if packet.size and not leave_out(index):
                packet.stream = copy
                output.mux(packet)
    return path


def damage(path: Path, first: int, count: int) -> Path:
    """Zeros in the place of some frames of an MPEG-4 film."""
    data = bytearray(path.read_bytes())
    pieces = bytes(data).split(b"\x00\x00\x01\xb6")  # what a frame begins with, ISO 14496-2, 6.2.5
    starts = np.cumsum([len(pieces[0]), *(4 + len(piece) for piece in pieces[1:])])
    end = data.rindex(b"moov") - 4 if first + count == len(pieces) - 1 else starts[first + count]
    data[starts[first] : end] = bytes(end - starts[first])
    path.write_bytes(data)
    return path
