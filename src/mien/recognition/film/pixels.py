"""Converts decoded frames to 8-bit, upright pictures with square pixels: rotation, HDR, interlacing."""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction

import av
import av.filter
import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.reformatter import ColorTrc, Interpolation, VideoReformatter
from PIL import Image, ImageFilter

from mien.machine import cores

# A more extreme aspect of the pixels is an error of the file.
_LARGEST_ASPECT = 8
# FFmpeg itself ignores smaller angles.
_SMALLEST_ANGLE = 1.0
_ONE = 1 << 16
# For fewer pixels, starting a second thread takes longer than it saves.
_SMALL = 1_000_000
# ITU-R BT.2408, 2.2: reference white in cd/m2; BT.2100: peak of PQ, and nominal display for HLG.
_WHITE, _BRIGHTEST, _DISPLAY = 203.0, 10_000.0, 1000.0
_GRID = 33
# BT.2087: linear light from BT.2020 primaries to BT.709 primaries.
_TO_709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
_LUMINANCE_2020 = np.array([0.2627, 0.6780, 0.0593])
_HIGH_RANGE = (int(ColorTrc.SMPTE2084), int(ColorTrc.ARIB_STD_B67))


class PixelConverter:
    """Converts the frames of one film to pixels.

    Args:
        aspect: width of a pixel divided by its height; None or 0 if the film has no such value.
    """

    def __init__(self, aspect: Fraction | None) -> None:
        is_plausible = aspect is not None and 1 / _LARGEST_ASPECT <= aspect <= _LARGEST_ASPECT
        self._aspect = aspect if aspect is not None and is_plausible else Fraction(1)
        # One object for all frames: it prepares its tables once for each size and pixel format.
        self._reformatter = VideoReformatter()
        self._tones: dict[int, ImageFilter.Color3DLUT] = {}
        self._rotation: int | None = None
        self._matrix: tuple[float, float, float, float] | None = None

    def pixels(self, picture: VideoFrame) -> np.ndarray:
        """Returns uint8 [H, W, 3], RGB, upright, with square pixels; a frame rotated by an odd angle lies on black.

        Raises:
            av.FFmpegError, ValueError: the pixel format cannot be converted.
        """
        width = self.width(picture)
        threads = min(2, cores()) if width * picture.height > _SMALL else 1
        converted = self._reformatter.reformat(
            picture, width=width, format="rgb24", interpolation=Interpolation.BICUBIC, threads=threads
        )
        pixels = converted.to_ndarray()
        if picture.color_trc in _HIGH_RANGE:
            if picture.color_trc not in self._tones:
                self._tones[picture.color_trc] = tone_table(picture.color_trc)
            pixels = np.asarray(Image.fromarray(pixels).filter(self._tones[picture.color_trc]))
        # Reading side data makes PyAV keep a frame until the next full garbage collection (60 MB of frames), so this
        # reads the matrix only if the rotation changes.
        if picture.rotation != self._rotation:
            self._rotation, self._matrix = picture.rotation, _matrix(picture)
        return pixels if self._matrix is None else np.ascontiguousarray(_turned(pixels, self._matrix))

    def width(self, picture: VideoFrame) -> int:
        """Returns the width with square pixels, before rotation."""
        return max(1, round(picture.width * self._aspect))


def _matrix(picture: VideoFrame) -> tuple[float, float, float, float] | None:
    """Returns the display matrix (a, b, c, d), or None: a point (x, y) is shown at (a x + c y, b x + d y)."""
    data = picture.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]
    if data is None or len(bytes(data)) != 36:
        return None
    a, b, _, c, d = (value / _ONE for value in struct.unpack("=9i", bytes(data))[:5])
    size = math.sqrt(abs(a * d - b * c))
    return None if size == 0 else (a / size, b / size, c / size, d / size)


def _turned(pixels: np.ndarray, matrix: tuple[float, float, float, float]) -> np.ndarray:
    """Applies a display matrix: flips and quarter turns without resampling, other angles with."""
    a, b, c, d = matrix
    small = math.sin(math.radians(_SMALLEST_ANGLE))
    if abs(b) < small and abs(c) < small:
        return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    if abs(a) < small and abs(d) < small:
        return pixels.transpose(1, 0, 2)[:: -1 if b < 0 else 1, :: -1 if c < 0 else 1]
    mirrored = a * d - b * c < 0
    # A matrix with a mirror is a rotation times (-1, 0, 0, 1), so the picture is flipped first.
    angle = math.degrees(math.atan2(-b, -a) if mirrored else math.atan2(b, a))
    image = Image.fromarray(np.ascontiguousarray(pixels[:, ::-1] if mirrored else pixels))
    return np.asarray(image.rotate(-angle, Image.Resampling.BICUBIC, expand=True))


def tone_table(transfer: int) -> ImageFilter.Color3DLUT:
    """Table from high dynamic range (BT.2100 PQ or HLG, BT.2020 primaries) to an ordinary screen.

    Light up to half the reference white (203 cd/m2, ITU-R BT.2408) stays proportional. Brighter light, up to 1,000
    cd/m2, is compressed into the remaining half.
    """
    level = np.linspace(0, 1, _GRID)
    blue, green, red = np.meshgrid(level, level, level, indexing="ij")  # in Pillow's tables red varies fastest
    signal = np.stack([red, green, blue], axis=-1)
    light = (_from_pq(signal) if transfer == int(ColorTrc.SMPTE2084) else _from_hlg(signal)) / _WHITE
    brightest = light.max(axis=-1, keepdims=True)
    light = light * (_shoulder(brightest) / np.maximum(brightest, 1e-9))
    shown = np.clip(light @ _TO_709.T, 0, 1) ** (1 / 2.4)
    return ImageFilter.Color3DLUT(_GRID, shown.reshape(-1, 3).ravel().tolist())


def _shoulder(light: np.ndarray) -> np.ndarray:
    """Tone curve in units of the reference white: linear up to 0.5, then smooth, and 1 at the peak of a display."""
    knee, most = 0.5, _DISPLAY / _WHITE
    over = np.clip((light - knee) / (most - knee), 0, 1)
    # Of the form x (1 + k) / (1 + k x): its slope at 0 is 1 + k, at 1 it is 1.
    bend = (most - knee) / (1 - knee) - 1
    return np.where(light <= knee, light, knee + (1 - knee) * over * (1 + bend) / (1 + bend * over))


def _from_pq(signal: np.ndarray) -> np.ndarray:
    """Converts a PQ signal in [0, 1] to light in cd/m2 (SMPTE ST 2084)."""
    power = signal ** (1 / 78.84375)
    return _BRIGHTEST * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)


def _from_hlg(signal: np.ndarray) -> np.ndarray:
    """Converts an HLG signal in [0, 1] to light in cd/m2 on a 1,000 cd/m2 display (ARIB STD-B67, BT.2100)."""
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    luminance = (scene @ _LUMINANCE_2020)[..., None]
    return _DISPLAY * luminance**0.2 * scene


# The deinterlacing filter rejects smaller frames.
_SMALLEST_SIDE = 4


@dataclass(frozen=True)
class DecodedFrame:
    """A frame of a film before its conversion to pixels.

    Attributes:
        time_s: time at which it is shown, in seconds on the clock of the container.
        picture: the decoded frame; None if it is lost.
    """

    time_s: float
    picture: VideoFrame | None = field(repr=False)


def deinterlaced(frames: Iterator[DecodedFrame]) -> Iterator[DecodedFrame]:
    """Deinterlaces frames from both of their fields and their neighbours (bwdif); other frames pass unchanged.

    The filter starts with the first interlaced frame, so other films take no extra time.
    """
    field_filter: _FieldFilter | None = None
    for frame in frames:
        picture = frame.picture
        if field_filter is not None and picture is not None and not field_filter.takes(picture):
            yield from field_filter.rest()
            field_filter = None
        if field_filter is None and picture is not None and picture.interlaced_frame:
            field_filter = _FieldFilter(picture) if min(picture.width, picture.height) >= _SMALLEST_SIDE else None
        if field_filter is None:
            yield frame
        else:
            yield from field_filter.push(frame)
    if field_filter is not None:
        yield from field_filter.rest()


class _FieldFilter:
    """FFmpeg's filter bwdif: one frame out for each frame in, one frame later, since it also uses the next frame."""

    def __init__(self, picture: VideoFrame) -> None:
        self._kind = _kind(picture)
        self._waiting: deque[DecodedFrame] = deque()
        self._count = 0
        self._graph = av.filter.Graph()
        source = self._graph.add_buffer(
            width=picture.width, height=picture.height, format=picture.format, time_base=Fraction(1, 1000)
        )
        # deint=interlaced: frames that are not marked as interlaced pass unchanged.
        filtered = self._graph.add("bwdif", "mode=send_frame:deint=interlaced")
        self._graph.link_nodes(source, filtered, self._graph.add("buffersink")).configure()

    def takes(self, picture: VideoFrame) -> bool:
        """True if a picture has the size and the pixel format of the first one."""
        return _kind(picture) == self._kind

    def push(self, frame: DecodedFrame) -> Iterator[DecodedFrame]:
        """Adds the next frame; yields the finished ones."""
        self._waiting.append(frame)
        if frame.picture is not None:
            self._count += 1
            frame.picture.pts, frame.picture.time_base = self._count, Fraction(1, 1000)
            self._graph.vpush(frame.picture)
        yield from self._done()

    def rest(self) -> Iterator[DecodedFrame]:
        """Yields the remaining frames at the end of the input."""
        self._graph.vpush(None)
        yield from self._done()
        yield from self._waiting

    def _done(self) -> Iterator[DecodedFrame]:
        """Yields the frames that the filter has finished, with the lost frames between them."""
        while True:
            try:
                picture = self._graph.vpull()
            except (av.BlockingIOError, EOFError):
                break
            while self._waiting[0].picture is None:
                yield self._waiting.popleft()
            frame = self._waiting.popleft()
            yield replace(frame, picture=picture)
        while self._waiting and self._waiting[0].picture is None:
            yield self._waiting.popleft()


def _kind(picture: VideoFrame) -> tuple[int, int, str]:
    return picture.width, picture.height, picture.format.name
