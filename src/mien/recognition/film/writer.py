"""Writes a film with boxes, with the times and the sound of the original."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter
from av.video.stream import VideoStream
from PIL import Image

from mien.errors import MienError
from mien.files import atomic_file
from mien.machine import cores
from mien.recognition.draw import CopyError, annotated
from mien.recognition.faces import Record
from mien.recognition.film.reader import FilmInfo
from mien.recognition.film.sound import Sound
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

# A file is tried for room each time that it has grown by so many bytes.
_STEP = 1 << 18
_LIMITS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "no file may be larger there",
}

SLOWEST = 0.01
"""Least frame rate of annotated films, in frames a second."""

# MPEG-4 allows at most 65,535 ticks a second; with 90,000 ticks a second, MP4's 32 bits hold half a day.
_MOST_TICKS, _FINEST_TICKS = 65_535, 90_000
# Pictures in AVI that come later than this many seconds are remarked.
_LATE_S = 0.1
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
    info: FilmInfo,
    *,
    every: int = 1,
    sound: Path | int | None = None,
    say: Callable[[str], None] | None = None,
    spare_all: bool = False,
) -> Iterator[Add]:
    """A film with a box around every face, written beside its place and moved there when the block ends.

        with write_annotated(Path("out.mp4"), film_info(source), sound=source) as write:
            for record in FilmRecognition(recognizer, source, keep_pixels=True):
                write(record)

    Every record gives one frame, shown at its ``time_s``. In AVI, which has one rate, that is the nearest tick not yet
    used: where frames follow each other faster than that, they come late, which ``say`` gets a line about. All
    frames get the size of the first one; an odd side loses a pixel, since the codecs need even sides. A frame that
    could not be decoded repeats the one before it. Whatever ends the block, Ctrl-C or an error, the film holds all
    frames until then and can be played. On a disk that gets full it ends while there is room to finish it; so it does
    on Linux before a quota is used up, or the file has the largest size that its disk allows. No file is left, and a
    former one stays, if there is no frame yet or if the film itself cannot be written.

    Args:
        path: path of the film; it ends in .mp4 (H.264 if FFmpeg has an encoder) or .avi (MJPEG).
        info: properties of the original (``mien.recognition.film.reader.film_info``). The copy has its times, to the
            tick, and ends with it, or if ``duration_s`` is not known, when the last frame has lasted as others do.
        every: only every ``every``-th frame will be written.
        sound: the original, whose sound is copied if it is a film, no camera; sound that the container cannot hold is
            re-encoded. None for no sound.
        say: called with a line for each deviation from this description.
        spare_all: leave a file that is at the path already; the film then has a number beside it.

    Raises:
        MienError: the path has another ending, or the film cannot be written.
        CopyError (a MienError): no codec of this container holds such frames.
        NoFrameError (a MienError): no frame was written that could be decoded.
        SparedError (a MienError): a file appeared at the path; the message says where the film is.
    """
    check_film(path)
    ending = Ending()
    with atomic_file(path, spare_newcomer=True, spare_all=spare_all) as temporary:
        sound_of = sound if isinstance(sound, Path) else None
        film = _Film(temporary, path, info, max(info.rate / every, SLOWEST), sound_of, say or (lambda text: None))
        try:
            with ending.held(film.write) as write:

                def add(record: Record) -> None:
                    write(record)
                    limit = film.limit()
                    if limit is not None:  # outside of `write`, as the film itself is whole
                        raise MienError(
                            f"{path}: cannot be written on, as {limit}, and holds the film until "
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


class _Film:
    """A film that is being written to a file; ``path`` is its name in messages."""

    def __init__(
        self,
        file: Path,
        path: Path,
        info: FilmInfo,
        rate: float,
        sound: Path | None,
        say: Callable[[str], None],
    ) -> None:
        self._file, self._path, self._rate, self._end_s, self._say = file, path, rate, info.duration_s, say
        self._sound_of = sound
        self._sound: Sound | None = None
        self._kind = path.suffix.lower()
        self._encoder = next(name for name in _ENCODERS[self._kind] if name in av.codecs_available)
        self._base = self._ticks(info.time_base)
        self._output: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._reformatter = VideoReformatter()
        self._last: np.ndarray | None = None
        self._owed: list[float] = []
        self._ticks_written = -1
        self._is_late = False
        self._packets = self._bytes = self._next_try = 0

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
            raise ValueError(f"frame {record.frame}: has no pixels; ask FilmRecognition for keep_pixels=True")
        if self._last is None:
            self._owed.append(time_s)  # the size of a film that begins with damaged frames is unknown until a good one
            return
        for earlier in self._owed:
            self._put(np.zeros_like(self._last), earlier)
        self._owed.clear()
        self._put(self._last, time_s)

    def limit(self) -> str | None:
        """Returns what leaves hardly more room than it takes to finish the film; None if there is enough."""
        if self.empty:
            return None
        entries = self._packets + _SOUND_PACKETS * float(self._ticks_written * self._base)
        needed = _LEAST_ROOM + _HELD_BACK * self._bytes / max(1, self._packets) + _ENTRY * entries
        disk = shutil.disk_usage(self._file.parent)
        if disk.total and disk.free <= needed:  # some network disks do not know their size
            return _LIMITS[errno.ENOSPC]
        return self._tried(int(needed))

    def _tried(self, needed: int) -> str | None:
        """Tries to make the file so much longer, each time that it has grown by a step; returns what forbids it."""
        size = self._file.stat().st_size
        if size < self._next_try or not hasattr(os, "posix_fallocate"):
            return None
        self._next_try = size + _STEP
        with open(self._file, "r+b", buffering=0) as file:
            try:
                os.posix_fallocate(file.fileno(), size, needed + _STEP)
            except OSError as error:  # another number: this disk cannot be asked
                return _LIMITS.get(error.errno or 0)
            finally:
                file.truncate(size)
        return None

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

    def _ticks(self, time_base: Fraction) -> Fraction:
        """Returns the unit of the written times in seconds: that of the original if the encoder allows it."""
        if self._kind == ".avi":
            return 1 / Fraction(self._rate).limit_denominator(1001)
        most = _MOST_TICKS if self._encoder == "mpeg4" else 10 * _FINEST_TICKS
        if not 1000 <= 1 / time_base <= most or time_base.denominator > most:
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
        if self._kind == ".avi" and not self._is_late and self._ticks_written * self._base - time_s > _LATE_S:
            self._is_late = True
            self._remark(f"AVI has one frame rate, for which pictures from {time_s:.2f} s on come late; choose .mp4")
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
