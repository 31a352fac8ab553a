"""From a decoded frame to pixels as a person sees them: 8 bits, square, upright, high dynamic range toned down."""

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

# Pixels that are wider or higher than this are a fault of the file.
_MOST_STRETCHED = 8
# A smaller angle is none: FFmpeg's own limit.
_SMALLEST_ANGLE = 1.0
_ONE = 1 << 16
# To start a second thread for so few pixels takes longer than it saves.
_SMALL = 1_000_000
# ITU-R BT.2408, 2.2: white of a page, in cd/m2; BT.2100: brightest value of PQ, and a usual display for HLG.
_WHITE, _BRIGHTEST, _DISPLAY = 203.0, 10_000.0, 1000.0
_GRID = 33
# BT.2087: from the primaries of BT.2020 to those of BT.709, in linear light.
_TO_709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
_LUMINANCE_2020 = np.array([0.2627, 0.6780, 0.0593])
_HIGH_RANGE = (int(ColorTrc.SMPTE2084), int(ColorTrc.ARIB_STD_B67))


class Developer:
    """Makes the pixels of the frames of one film.

    Args:
        aspect: width of a pixel over its height, as the film says; None or 0 where it does not.
    """

    def __init__(self, aspect: Fraction | None) -> None:
        sound = aspect is not None and 1 / _MOST_STRETCHED <= aspect <= _MOST_STRETCHED
        self._aspect = aspect if aspect is not None and sound else Fraction(1)
        # Kept from frame to frame: it prepares its tables once for each size and kind of pixels.
        self._reformatter = VideoReformatter()
        self._tones: dict[int, ImageFilter.Color3DLUT] = {}
        self._rotation: int | None = None
        self._matrix: tuple[float, float, float, float] | None = None

    def pixels(self, picture: VideoFrame) -> np.ndarray:
        """uint8 [H, W, 3], RGB, upright, with square pixels; frames that stand askew are on black.

        Raises:
            av.FFmpegError, ValueError: the kind of pixels cannot be converted.
        """
        width = self.width(picture)
        threads = min(2, cores()) if width * picture.height > _SMALL else 1
        converted = self._reformatter.reformat(
            picture, width=width, format="rgb24", interpolation=Interpolation.BICUBIC, threads=threads
        )
        pixels = converted.to_ndarray()
        if picture.color_trc in _HIGH_RANGE:
            pixels = np.asarray(Image.fromarray(pixels).filter(self._toned(picture.color_trc)))
        # PyAV holds a frame whose side data was asked for until Python's next great clean-up: 60 MB of frames.
        if picture.rotation != self._rotation:
            self._rotation, self._matrix = picture.rotation, _matrix(picture)
        return pixels if self._matrix is None else np.ascontiguousarray(_turned(pixels, self._matrix))

    def width(self, picture: VideoFrame) -> int:
        """Of a picture with square pixels, before it is turned."""
        return max(1, round(picture.width * self._aspect))

    def _toned(self, transfer: int) -> ImageFilter.Color3DLUT:
        if transfer not in self._tones:
            self._tones[transfer] = tone_table(transfer)
        return self._tones[transfer]


def _matrix(picture: VideoFrame) -> tuple[float, float, float, float] | None:
    """(a, b, c, d): a point (x, y) of the frame is to be shown at (a x + c y, b x + d y); None: as it is."""
    data = picture.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]
    if data is None or len(bytes(data)) != 36:
        return None
    a, b, _, c, d = (value / _ONE for value in struct.unpack("=9i", bytes(data))[:5])
    size = math.sqrt(abs(a * d - b * c))
    return None if size == 0 else (a / size, b / size, c / size, d / size)


def _turned(pixels: np.ndarray, matrix: tuple[float, float, float, float]) -> np.ndarray:
    a, b, c, d = matrix
    small = math.sin(math.radians(_SMALLEST_ANGLE))
    if abs(b) < small and abs(c) < small:
        return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    if abs(a) < small and abs(d) < small:
        return pixels.transpose(1, 0, 2)[:: -1 if b < 0 else 1, :: -1 if c < 0 else 1]
    mirrored = a * d - b * c < 0
    # A mirror image is turned over first: its matrix is that of a turn times (-1, 0, 0, 1).
    angle = math.degrees(math.atan2(-b, -a) if mirrored else math.atan2(b, a))
    image = Image.fromarray(np.ascontiguousarray(pixels[:, ::-1] if mirrored else pixels))
    return np.asarray(image.rotate(-angle, Image.Resampling.BICUBIC, expand=True))


def tone_table(transfer: int) -> ImageFilter.Color3DLUT:
    """What pixels of a high dynamic range (BT.2100 PQ or HLG, BT.2020 primaries) become on an ordinary screen.

    What is up to half as bright as the white of a page (203 cd/m2, ITU-R BT.2408) is shown as bright as it is, in
    proportion to that white; what is brighter, up to 1,000 cd/m2, is pressed into the rest.
    """
    level = np.linspace(0, 1, _GRID)
    blue, green, red = np.meshgrid(level, level, level, indexing="ij")  # Pillow's tables count red fastest
    signal = np.stack([red, green, blue], axis=-1)
    light = (_from_pq(signal) if transfer == int(ColorTrc.SMPTE2084) else _from_hlg(signal)) / _WHITE
    brightest = light.max(axis=-1, keepdims=True)
    light = light * (_shoulder(brightest) / np.maximum(brightest, 1e-9))
    shown = np.clip(light @ _TO_709.T, 0, 1) ** (1 / 2.4)
    return ImageFilter.Color3DLUT(_GRID, shown.reshape(-1, 3).ravel().tolist())


def _shoulder(light: np.ndarray) -> np.ndarray:
    """1 is the white of a page; straight up to 0.5, then a smooth curve that reaches 1 at the end of a display."""
    knee, most = 0.5, _DISPLAY / _WHITE
    over = np.clip((light - knee) / (most - knee), 0, 1)
    # Of the form x (1 + k) / (1 + k x): its slope at 0 is 1 + k, at 1 it is 1.
    bend = (most - knee) / (1 - knee) - 1
    return np.where(light <= knee, light, knee + (1 - knee) * over * (1 + bend) / (1 + bend * over))


def _from_pq(signal: np.ndarray) -> np.ndarray:
    """Light in cd/m2 of a PQ signal in [0, 1] (SMPTE ST 2084)."""
    power = signal ** (1 / 78.84375)
    return _BRIGHTEST * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)


def _from_hlg(signal: np.ndarray) -> np.ndarray:
    """Light in cd/m2 that a display of 1,000 cd/m2 gives for an HLG signal in [0, 1] (ARIB STD-B67, BT.2100)."""
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    luminance = (scene @ _LUMINANCE_2020)[..., None]
    return _DISPLAY * luminance**0.2 * scene


# The filter takes no smaller frames.
_SMALLEST = 4


@dataclass(frozen=True)
class Shown:
    """A frame that a film shows.

    Attributes:
        time_s: when it is shown, in seconds by the clock of the container.
        picture: as it was decoded; None where it is lost.
    """

    time_s: float
    picture: VideoFrame | None = field(repr=False)


def deinterlaced(frames: Iterator[Shown]) -> Iterator[Shown]:
    """The same frames, those that are interlaced made whole from both of their fields and their neighbours (bwdif).

    A film without such frames takes no part in it: the filter is made when the first one comes.
    """
    field_filter: _FieldFilter | None = None
    for frame in frames:
        picture = frame.picture
        if field_filter is not None and picture is not None and not field_filter.takes(picture):
            yield from field_filter.rest()
            field_filter = None
        if field_filter is None and picture is not None and picture.interlaced_frame:
            field_filter = _FieldFilter(picture) if min(picture.width, picture.height) >= _SMALLEST else None
        if field_filter is None:
            yield frame
        else:
            yield from field_filter.push(frame)
    if field_filter is not None:
        yield from field_filter.rest()


class _FieldFilter:
    """FFmpeg's bwdif: one frame out for each one in, a frame later, as it looks at the next."""

    def __init__(self, picture: VideoFrame) -> None:
        self._kind = _kind(picture)
        self._waiting: deque[Shown] = deque()
        self._count = 0
        self._graph = av.filter.Graph()
        source = self._graph.add_buffer(
            width=picture.width, height=picture.height, format=picture.format, time_base=Fraction(1, 1000)
        )
        # Only frames that are marked as interlaced are changed; the others pass.
        filtered = self._graph.add("bwdif", "mode=send_frame:deint=interlaced")
        self._graph.link_nodes(source, filtered, self._graph.add("buffersink")).configure()

    def takes(self, picture: VideoFrame) -> bool:
        """Whether a picture has the size and the kind of pixels of the first."""
        return _kind(picture) == self._kind

    def push(self, frame: Shown) -> Iterator[Shown]:
        """Takes the next frame; gives those that are done."""
        self._waiting.append(frame)
        if frame.picture is not None:
            self._count += 1
            frame.picture.pts, frame.picture.time_base = self._count, Fraction(1, 1000)
            self._graph.vpush(frame.picture)
        yield from self._done()

    def rest(self) -> Iterator[Shown]:
        """Gives the frames that wait for a next one that does not come."""
        self._graph.vpush(None)
        yield from self._done()
        yield from self._waiting

    def _done(self) -> Iterator[Shown]:
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
