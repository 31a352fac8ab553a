"""Reading films and cameras: every frame has its number and its time, also one that cannot be decoded."""

from __future__ import annotations

import math
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

# FFmpeg writes to stderr by itself what it thinks of a damaged film; the rows tell it. Read when OpenCV first uses it.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2

from mien.errors import MienError

SUFFIXES: tuple[str, ...] = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".flv", ".wmv",
                             ".3gp", ".ogv")  # fmt: skip
"""File-name endings that make a file a film, in lower case."""

USUAL_RATE = 25.0
"""Frames a second where a film or a camera names none that can be."""

_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
# Without this list, FFmpeg makes a film of a text file, and follows the files and addresses that a play list names.
_CONTAINERS = "mov,avi,matroska,mpegts,mpeg,mpegvideo,m4v,flv,asf,ogg,gif,h264,hevc,ivf,mxf,dv"
# By how many places at most the orders in which frames are stored and shown differ (H.264 and H.265 allow 16).
_REORDERED = 16
# After so many failures on end a file is taken to be at its end.
_FAILURES = 1000
_TRIES = 50
_PAUSE_S = 0.02
# The clocks of containers tick in milliseconds or finer, frames are further apart.
_TICK_MS = 0.5


@dataclass(frozen=True)
class Frame:
    """A frame of a film or of a camera.

    Attributes:
        index: its number, from 0; frames that cannot be decoded count too.
        time_s: when it is shown, in seconds from the start, as the container tells it; of a camera, when it came.
        pixels: uint8 [H, W, 3], RGB, upright; None where it could not be decoded.
        reason: why not, in a line; None otherwise.
    """

    index: int
    time_s: float
    pixels: np.ndarray | None = field(repr=False)
    reason: str | None = None


@dataclass(frozen=True)
class About:
    """What a film or a camera says of itself.

    Attributes:
        rate: frames a second, the mean where they differ.
        frames: how many there are, by the container's header: often an estimate; None for a camera.
        width: of the upright frames, in pixels.
        height: the same.
    """

    rate: float
    frames: int | None
    width: int
    height: int


def about(source: str | Path | int) -> About:
    """What a film, or a camera by its number, says of itself.

    Raises:
        MienError: as ``frames``.
    """
    capture = _camera(source) if isinstance(source, int) else _film(Path(source))
    try:
        width, height = (capture.get(name) for name in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        known = not isinstance(source, int) and 0 < count < 2**31
        return About(_rate(capture), int(count) if known else None, int(width), int(height))
    finally:
        capture.release()


def frames(source: str | Path | int, every: int = 1) -> Iterator[Frame]:
    """The frames of a film or of a camera, in order.

    A frame that is damaged has its row, with the reason, and those after it keep their numbers. Of a container that is
    itself damaged, whole stretches may be lost; there times stay right, and numbers count what is left. A file that
    ends too early (AVI, MP4, MOV) has a last row that says so.

    Args:
        source: a film file that FFmpeg reads, or the number of a camera.
        every: give each ``every``-th frame alone, those whose number it divides; the others are not converted.

    Raises:
        MienError: the file is missing, empty, no film, or holds no frame; there is no such camera.
        ValueError: ``every`` is below 1.
    """
    if every < 1:
        raise ValueError(f"every: expected at least 1, got {every}")
    return _of_camera(source, every) if isinstance(source, int) else _of_film(Path(source), every)


def _of_film(path: Path, every: int) -> Iterator[Frame]:
    capture = _film(path)
    try:
        index = 0
        for milliseconds, good in _steps(capture, path):
            if index % every == 0:
                found, pixels = capture.retrieve() if good else (False, None)
                yield _frame(index, milliseconds / 1000, pixels if found else None)
            index += 1
            seconds = milliseconds / 1000
        if index == 0:
            raise MienError(f"{path}: holds no frame, expected a film; replace or remove the file")
        lacking = _lacking(path)
        if lacking:
            reason = f"the film is cut short: {lacking:,} bytes are missing at the end of the file; copy it again"
            yield Frame(index, seconds + 1 / _rate(capture), None, reason)
    finally:
        capture.release()


def _steps(capture: cv2.VideoCapture, path: Path) -> Iterator[tuple[float, bool]]:
    """For every frame when it is shown, in ms, and whether it could be decoded; the capture then holds it.

    A decoder answers alike at a damaged frame and at the end. The packets of the file, which are listed without being
    decoded once the first answer fails, tell which it was and which frames are lost.
    """
    last, period = -math.inf, 1000 / _rate(capture)
    packets = np.empty(0)
    listed, lost = False, 0
    while True:
        tries = 0
        while not capture.grab():
            if not listed:
                packets, listed = _packet_times(path), True
            waiting = packets[packets > last + _TICK_MS]
            tries += 1
            if tries > 2 * len(waiting) + _REORDERED * (len(waiting) > 0):
                yield from ((float(shown), False) for shown in waiting)
                return
        lost += tries
        now = capture.get(cv2.CAP_PROP_POS_MSEC)
        if not (math.isfinite(now) and now > last):
            now = last + period if math.isfinite(last) else 0.0
        if lost:
            # Frames are shown in another order than they are stored, so a frame is missed some frames later.
            missed = packets[(packets > last + _TICK_MS) & (packets < now - _TICK_MS)][:lost]
            yield from ((float(shown), False) for shown in missed)
            lost -= len(missed)
        yield now, True
        last = now


def _packet_times(path: Path) -> np.ndarray:
    """When the packets of a film are shown, float64 [N], in ms, in order; one for every frame.

    Of packets that are too damaged for that, the number is known; they are put into the widest gap close by.
    """
    capture = _opened(path, [cv2.CAP_PROP_FORMAT, -1])
    times: list[float] = []
    gaps: list[tuple[int, int]] = []
    failed = 0
    while failed < _FAILURES:
        if not capture.grab():
            failed += 1
            continue
        if failed:
            gaps.append((len(times), failed))
        failed = 0
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC))
    capture.release()
    # Where a container gives no time, the number is a huge negative one.
    known = [shown for shown in times if math.isfinite(shown) and shown > -1e9]
    for place, count in gaps if len(known) == len(times) else []:
        near = np.sort(times[max(0, place - _REORDERED) : place + _REORDERED])
        if len(near) > 1:
            widest = int(np.diff(near).argmax())
            known += np.linspace(near[widest], near[widest + 1], count + 2)[1:-1].tolist()
    return np.unique(known)


def _of_camera(number: int, every: int) -> Iterator[Frame]:
    capture = _camera(number)
    index = failed = 0
    started = time.monotonic()
    try:
        while failed < _TRIES:
            if not capture.grab():
                failed += 1
                time.sleep(_PAUSE_S)  # one that has just been switched on may need a second
                continue
            failed = 0
            now = time.monotonic()
            started = now if index == 0 else started
            if index % every == 0:
                found, pixels = capture.retrieve()
                yield _frame(index, now - started, pixels if found else None)
            index += 1
        if index == 0:
            raise MienError(f"camera {number}: gives no picture; check that no other program uses it")
        yield Frame(index, time.monotonic() - started, None, "the camera gives no more pictures")
    finally:
        capture.release()


def _frame(index: int, time_s: float, pixels: np.ndarray | None) -> Frame:
    if pixels is None:
        return Frame(index, time_s, None, "the frame could not be decoded: the film is damaged here")
    colour = cv2.COLOR_GRAY2RGB if pixels.ndim == 2 else cv2.COLOR_BGR2RGB
    return Frame(index, time_s, cv2.cvtColor(pixels, colour))


def _film(path: Path) -> cv2.VideoCapture:
    try:
        with path.open("rb") as stream:
            empty = not stream.read(1)
    except OSError as error:
        raise MienError(f"{path}: cannot be read ({error.strerror})") from error
    if empty:
        raise MienError(f"{path}: is empty; replace or remove the file")
    capture = _opened(path, [])
    if not capture.isOpened():
        raise MienError(
            f"{path}: is not a film that can be read, expected MP4, MOV, AVI, MKV, WebM or the like; replace or remove "
            "the file"
        )
    return capture


def _opened(path: Path, settings: list[int]) -> cv2.VideoCapture:
    former = os.environ.get(_OPTIONS)
    os.environ[_OPTIONS] = f"format_whitelist;{_CONTAINERS}"
    try:
        with silence():
            # FFmpeg would take a relative name with a colon for a protocol.
            return cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG, settings)
    finally:
        del os.environ[_OPTIONS]
        os.environ.update({} if former is None else {_OPTIONS: former})


def _camera(number: int) -> cv2.VideoCapture:
    # OpenCV takes larger numbers for kinds of drivers, and crashes at -1.
    with silence():
        capture = cv2.VideoCapture(number) if 0 <= number < 100 else None
    if capture is None or not capture.isOpened():
        raise MienError(
            f"camera {number}: cannot be opened; check that it is there and that no other program uses it, or give "
            "another number"
        )
    return capture


@contextmanager
def silence() -> Iterator[None]:
    """Keeps OpenCV's remarks on what cannot be opened off stderr; our errors tell it on one line."""
    logging = cv2.utils.logging
    former = logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(former)


def _rate(capture: cv2.VideoCapture) -> float:
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    return rate if math.isfinite(rate) and 0 < rate <= 1000 else USUAL_RATE


def _lacking(path: Path) -> int:
    """How many bytes the parts of an AVI, MP4 or MOV file promise beyond its end; 0 for other files."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(16)
        if head[:4] == b"RIFF":
            return max(0, 8 + struct.unpack("<I", head[4:8])[0] - size)
        if head[4:8] not in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return 0
        end = 0
        while end + 8 <= size:
            stream.seek(end)
            head = stream.read(16)
            length = struct.unpack(">I", head[:4])[0]
            if length == 1 and len(head) == 16:
                length = struct.unpack(">Q", head[8:])[0]
            if length < 8:  # 0 says "up to the end"
                return 0
            end += length
        return max(0, end - size)
