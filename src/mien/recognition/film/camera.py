"""Reading a camera, by FFmpeg's own way to the cameras of each system (through PyAV)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import av
import av.device
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from mien.errors import MienError
from mien.recognition.film.decoder import rate_of
from mien.recognition.film.pixels import Developer
from mien.recognition.film.reader import About, Frame

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
