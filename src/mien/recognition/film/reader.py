"""Reading a film file: every frame that it shows has its number and its time, also one that is lost."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import av.device
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from mien.errors import MienError
from mien.recognition.film.decoder import lacking, opened, origin_of, rate_of, shown
from mien.recognition.film.pixels import Developer, Shown
from mien.recognition.film.tracking import marked
from mien.recognition.pictures import MOST_PIXELS

LOST = "the frame could not be decoded: the film is damaged here"
"""The reason of a frame whose packet is damaged."""

LOST_OR_LARGE = f"{LOST}, or its frames have more than {MOST_PIXELS / 1e6:.0f} million pixels"
"""The same if FFmpeg knows no size of the frames: so it is too if it has just refused one."""


@dataclass(frozen=True)
class Frame:
    """A frame of a film or of a camera.

    Attributes:
        index: its number, from 0; frames that cannot be decoded count too.
        time_s: when it is shown, in seconds, as the clock of the container says, so that it meets the sound; of a
            piece of a broadcast or a disc (MPEG-TS, MPEG-PS), whose clock runs on from any time, since the piece
            begins; of a camera, when it came.
        pixels: uint8 [H, W, 3], RGB, upright, with square pixels; None where it could not be decoded.
        reason: why not, in a line; None otherwise.
        cut: whether another shot begins with it, or with a frame that was left out before it.
    """

    index: int
    time_s: float
    pixels: np.ndarray | None = field(repr=False)
    reason: str | None = None
    cut: bool = False


@dataclass(frozen=True)
class About:
    """What a film or a camera says of itself.

    Attributes:
        rate: frames a second, the mean where they differ.
        frames: how many there are, by the container's header: often an estimate; None where it does not tell.
        width: of the upright frames, in pixels.
        height: the same.
        time_base: the unit of the times, in seconds.
        duration_s: until when the last frame is shown, in seconds by the clock of ``Frame.time_s``; None where the
            header does not tell.
    """

    rate: float
    frames: int | None
    width: int
    height: int
    time_base: Fraction = Fraction(1, 90_000)
    duration_s: float | None = None


def about_film(path: Path) -> About:
    """What a film says of itself.

    Raises:
        MienError: as ``read_film``.
    """
    with opened(path) as (container, stream):
        rate = rate_of(stream)
        base = stream.time_base or Fraction(1, 90_000)
        end = _end(container, stream)
        start = float((stream.start_time or 0) * base - origin_of(container))
        lasting = None if end is None else round((end - start) * rate)
        count = min((number for number in (stream.frames, lasting) if number), default=None)
        width, height = stream.codec_context.width, stream.codec_context.height
        developer = Developer(stream.sample_aspect_ratio)
        for frame in shown(container, stream):
            found = None if frame.picture is None else _developed(developer, 0, frame, False).pixels
            if found is not None:
                height, width = found.shape[:2]
                break
        return About(rate, count, width, height, base, end)


def _end(container: InputContainer, stream: VideoStream) -> float | None:
    """Until when the pictures last, in seconds by the clock of ``Frame.time_s``, as the header says."""
    origin = float(origin_of(container))
    if stream.duration and stream.time_base:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - origin
    if container.duration:
        return ((container.start_time or 0) + container.duration) / av.time_base - origin
    return None


def read_film(path: Path, every: int = 1) -> Iterator[Frame]:
    """The frames of a film in the order in which they are shown, with memory for a few.

    A frame whose packet is damaged has its row, with the reason, and those after it keep their numbers. A film that
    was cut short has a last row that says so, where its kind lets that be known (``missing.lacking``).

    Args:
        path: a film file.
        every: give each ``every``-th frame alone, those whose number it divides; the others are not converted.

    Raises:
        MienError: the file is missing, empty, no film, or holds no frame.
    """
    with opened(path) as (container, stream):
        developer = Developer(stream.sample_aspect_ratio)
        index, time_s, cut = 0, 0.0, False
        for frame, begins in marked(shown(container, stream)):
            cut = cut or begins
            time_s = frame.time_s
            if index % every == 0:
                yield _developed(developer, index, frame, cut, LOST if stream.codec_context.width else LOST_OR_LARGE)
                cut = False
            index += 1
        if index == 0:
            raise MienError(f"{path}: holds no frame, expected a film; replace or remove the file")
        missing = lacking(path)
        if missing:
            reason = f"the film is cut short: {missing} missing at the end of the file; copy it again"
            yield Frame(index, time_s + 1 / rate_of(stream), None, reason)


def _developed(developer: Developer, index: int, frame: Shown, cut: bool, lost: str = LOST) -> Frame:
    if frame.picture is None:
        return Frame(index, frame.time_s, None, lost, cut)
    width, height = developer.width(frame.picture), frame.picture.height
    if width * height > MOST_PIXELS:
        most = f"{MOST_PIXELS / 1e6:.0f} million"
        reason = f"the frame is to be shown at {width}x{height} pixels, expected at most {most}"
        return Frame(index, frame.time_s, None, reason, cut)
    try:
        return Frame(index, frame.time_s, developer.pixels(frame.picture), None, cut)
    except MemoryError:
        raise
    except (av.FFmpegError, ValueError):
        reason = f"the frame has pixels of a kind ({frame.picture.format.name}) that cannot be converted"
        return Frame(index, frame.time_s, None, reason, cut)


_TRIES = 50
_PAUSE_S = 0.02
_MOST = 100


def about_camera(number: int) -> About:
    """What a camera says of itself.

    Raises:
        MienError: there is no such camera.
    """
    with _opened(number) as (_, stream):
        return About(rate_of(stream), None, stream.codec_context.width, stream.codec_context.height)


def read_camera(number: int, every: int = 1) -> Iterator[Frame]:
    """What a camera sees, frame by frame; a last row says that it gives no more.

    Args:
        number: of the camera, from 0.
        every: give each ``every``-th frame alone.

    Raises:
        MienError: there is no such camera, or it gives no picture.
    """
    with _opened(number) as (container, stream):
        developer = Developer(stream.sample_aspect_ratio)
        index, started = 0, time.monotonic()
        for picture in _pictures(container, stream):
            now = time.monotonic()
            started = now if index == 0 else started
            if index % every == 0:
                yield Frame(index, now - started, developer.pixels(picture))
            index += 1
        if index == 0:
            raise MienError(f"camera {number}: gives no picture; check that no other program uses it")
        yield Frame(index, time.monotonic() - started, None, "the camera gives no more pictures")


def _pictures(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """The pictures of a camera until it fails ``_TRIES`` times on end: one that was just switched on needs a moment."""
    failures = 0
    while failures < _TRIES:
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
            time.sleep(_PAUSE_S)


@contextmanager
def _opened(number: int) -> Iterator[tuple[InputContainer, VideoStream]]:
    device = _device(number) if 0 <= number < _MOST else None
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
    """FFmpeg's name of a camera, the kind of device and what it is to be told; None: there is none of this number."""
    if sys.platform == "darwin":
        return str(number), "avfoundation", {"framerate": "30"}  # without a rate many cameras refuse
    if sys.platform == "win32":
        cameras = [each for each in av.device.enumerate_input_devices("dshow") if "video" in each.media_types]
        return (f"video={cameras[number].name}", "dshow", {}) if number < len(cameras) else None
    return f"/dev/video{number}", "v4l2", {}


__all__ = ["About", "Frame", "about", "frames"]


def about(source: str | Path | int) -> About:
    """What a film, or a camera by its number, says of itself.

    Raises:
        MienError: as ``frames``.
    """
    return about_camera(source) if isinstance(source, int) else about_film(Path(source))


def frames(source: str | Path | int, every: int = 1) -> Iterator[Frame]:
    """The frames of a film or of a camera, in order; see ``read_film`` and ``read_camera``.

    Args:
        source: a film file that FFmpeg reads, or the number of a camera.
        every: give each ``every``-th frame alone, those whose number it divides; the others are not converted.

    Raises:
        MienError: the file is missing, empty, no film, or holds no frame; there is no such camera.
        ValueError: ``every`` is below 1.
    """
    if every < 1:
        raise ValueError(f"every: expected at least 1, got {every}")
    return read_camera(source, every) if isinstance(source, int) else read_film(Path(source), every)
