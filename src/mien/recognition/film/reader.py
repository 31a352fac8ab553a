"""Reads the frames of films and cameras; each has its number and its time, also a frame that cannot be decoded."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av
import av.device
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from mien.errors import MienError
from mien.recognition.film.cuts import with_cuts
from mien.recognition.film.decoder import decoded_frames, opened, origin_of, rate_of
from mien.recognition.film.pixels import DecodedFrame, PixelConverter
from mien.recognition.film.truncation import missing_end
from mien.recognition.pictures import MOST_PIXELS

_Item = TypeVar("_Item")

LOST = "the frame could not be decoded: the film is damaged here"
"""Reason for a frame whose packet is damaged."""

LOST_OR_LARGE = f"{LOST}, or its frames have more than {MOST_PIXELS / 1e6:.0f} million pixels"
"""Reason if FFmpeg knows no size of the frames, as after it has rejected a frame for its size."""


@dataclass(frozen=True)
class Frame:
    """A frame of a film or of a camera.

    Attributes:
        index: its number, from 0; frames that cannot be decoded count too.
        time_s: time at which it is shown, in seconds on the clock of the container, in sync with the sound. For pieces
            of broadcasts and discs (MPEG-TS, MPEG-PS), whose clock starts anywhere, the time since their start; for a
            camera, the time since the first frame.
        pixels: uint8 [H, W, 3], RGB, upright, with square pixels; None if the frame cannot be decoded.
        reason: the reason if it cannot be decoded, in a line; else None.
        cut: True if a new shot begins with it, or with a skipped frame before it.
    """

    index: int
    time_s: float
    pixels: np.ndarray | None = field(repr=False)
    reason: str | None = None
    cut: bool = False


@dataclass(frozen=True)
class FilmInfo:
    """Properties of a film or a camera.

    Attributes:
        rate: frames a second, on average.
        frames: number of frames by the container's header, often an estimate; None if the header lacks it.
        time_base: unit of the times, in seconds.
        duration_s: end of the last frame, in seconds on the clock of ``Frame.time_s``; None if the header lacks it.
    """

    rate: float
    frames: int | None = None
    time_base: Fraction = Fraction(1, 90_000)
    duration_s: float | None = None


def film_info(source: str | Path | int) -> FilmInfo:
    """Returns the properties of a film, or of a camera by its number, without decoding a frame.

    Raises:
        MienError: the file is missing, empty or not a film, or there is no such camera.
    """
    return _info_of_camera(source) if isinstance(source, int) else _info_of_film(Path(source))


def frames(source: str | Path | int, every: int = 1, decoded: Callable[[], None] | None = None) -> Iterator[Frame]:
    """Yields the frames of a film in the order in which they are shown, or those of a camera, with memory for a few.

    A frame with a damaged packet is yielded with the reason, so that later frames keep their numbers. A truncated film
    ends with a frame that says so, if its container shows that (``mien.recognition.film.truncation``); a camera ends
    with a frame that says that it has stopped.

    Args:
        source: a film file that FFmpeg reads, or the number of a camera.
        every: yield only frames whose number is a multiple of it; the others are not converted.
        decoded: called after each frame that was decoded, or lost, whether it is yielded or not.

    Raises:
        MienError: the file is missing, empty, not a film, or holds no frame; there is no such camera, or it gives no
            picture.
        ValueError: ``every`` is below 1.
    """
    if every < 1:
        raise ValueError(f"every: expected at least 1, got {every}")
    if isinstance(source, int):
        return _camera_frames(source, every, decoded)
    return _film_frames(Path(source), every, decoded)


def _info_of_film(path: Path) -> FilmInfo:
    with opened(path) as (container, stream):
        rate = rate_of(stream)
        base = stream.time_base or Fraction(1, 90_000)
        end = _end(container, stream)
        start = float((stream.start_time or 0) * base - origin_of(container))
        by_duration = None if end is None else round((end - start) * rate)
        count = min((number for number in (stream.frames, by_duration) if number), default=None)
        return FilmInfo(rate, count, base, end)


def _end(container: InputContainer, stream: VideoStream) -> float | None:
    """Returns the end of the last frame by the header, in seconds on the clock of ``Frame.time_s``."""
    origin = float(origin_of(container))
    if stream.duration and stream.time_base:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - origin
    if container.duration:
        return ((container.start_time or 0) + container.duration) / av.time_base - origin
    return None


def _film_frames(path: Path, every: int, decoded: Callable[[], None] | None) -> Iterator[Frame]:
    with opened(path) as (container, stream):
        converter = PixelConverter(stream.sample_aspect_ratio)
        index, time_s, cut = 0, 0.0, False
        # Announced as they are decoded: `with_cuts` holds each frame back until it has seen the next ones.
        for frame, begins in with_cuts(_announced(decoded_frames(container, stream), decoded)):
            cut = cut or begins
            time_s = frame.time_s
            if index % every == 0:
                yield _converted(converter, index, frame, cut, LOST if stream.codec_context.width else LOST_OR_LARGE)
                cut = False
            index += 1
        missing = missing_end(path)
        if index == 0 and missing:
            raise MienError(f"{path}: holds no frame, as {missing} missing at the end of the file; copy it again")
        if index == 0:
            raise MienError(f"{path}: holds no frame, expected a film; replace or remove the file")
        if missing:
            reason = f"the film is cut short: {missing} missing at the end of the file; copy it again"
            yield Frame(index, time_s + 1 / rate_of(stream), None, reason)


def _converted(converter: PixelConverter, index: int, frame: DecodedFrame, cut: bool, lost: str = LOST) -> Frame:
    """Converts the pixels of a frame, or gives the reason why that is impossible."""
    if frame.picture is None:
        return Frame(index, frame.time_s, None, lost, cut)
    width, height = converter.width(frame.picture), frame.picture.height
    if width * height > MOST_PIXELS:
        most = f"{MOST_PIXELS / 1e6:.0f} million"
        reason = f"the frame is to be shown at {width}x{height} pixels, expected at most {most}"
        return Frame(index, frame.time_s, None, reason, cut)
    try:
        return Frame(index, frame.time_s, converter.pixels(frame.picture), None, cut)
    except MemoryError:
        raise
    except (av.FFmpegError, ValueError):
        reason = f"the frame has pixels of a kind ({frame.picture.format.name}) that cannot be converted"
        return Frame(index, frame.time_s, None, reason, cut)


_CAMERA_TRIES = 50
_CAMERA_PAUSE_S = 0.02
_MOST_CAMERAS = 100


def _info_of_camera(number: int) -> FilmInfo:
    with _opened(number) as (_, stream):
        return FilmInfo(rate_of(stream))


def _camera_frames(number: int, every: int, decoded: Callable[[], None] | None) -> Iterator[Frame]:
    with _opened(number) as (container, stream):
        converter = PixelConverter(stream.sample_aspect_ratio)
        index, started = 0, time.monotonic()
        for picture in _announced(_pictures(container, stream), decoded):
            now = time.monotonic()
            started = now if index == 0 else started
            if index % every == 0:
                yield _converted(converter, index, DecodedFrame(now - started, picture), False)
            index += 1
        if index == 0:
            raise MienError(f"camera {number}: gives no picture; check that no other program uses it")
        yield Frame(index, time.monotonic() - started, None, "the camera gives no more pictures")


def _announced(items: Iterator[_Item], announce: Callable[[], None] | None) -> Iterator[_Item]:
    """Yields items, and calls a function before each."""
    for item in items:
        if announce is not None:
            announce()
        yield item


def _pictures(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Yields the pictures of a camera until it fails ``_CAMERA_TRIES`` times in a row: a camera may start slowly."""
    failures = 0
    while failures < _CAMERA_TRIES:
        try:
            for packet in container.demux(stream):
                pictures = stream.decode(packet) if packet.size else []
                failures = 0 if pictures else failures
                yield from pictures
            return
        except EOFError:
            return
        except (av.FFmpegError, ValueError):
            failures += 1
            time.sleep(_CAMERA_PAUSE_S)


@contextmanager
def _opened(number: int) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens a camera."""
    device = _device(number) if 0 <= number < _MOST_CAMERAS else None
    try:
        if device is None:
            raise ValueError("there is no such camera")
        name, kind, options = device
        container = av.open(name, format=kind, options=options)
    except (av.FFmpegError, ValueError, OSError) as error:
        raise MienError(
            f"camera {number}: cannot be opened; check that it is there and that no other program uses it, or give "
            "another number"
        ) from error
    with container:
        yield container, container.streams.video[0]


def _device(number: int) -> tuple[str, str, dict[str, str]] | None:
    """Returns FFmpeg's name of a camera, the kind of device and its options; None if there is no such camera."""
    if sys.platform == "darwin":
        return str(number), "avfoundation", {"framerate": "30"}  # many cameras do not start without a rate
    if sys.platform == "win32":
        cameras = [camera for camera in av.device.enumerate_input_devices("dshow") if "video" in camera.media_types]
        return (f"video={cameras[number].name}", "dshow", {}) if number < len(cameras) else None
    return f"/dev/video{number}", "v4l2", {}
