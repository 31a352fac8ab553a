"""Interlaced frames, of two fields taken one after the other, made whole by FFmpeg's filter bwdif (through PyAV)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction

import av
import av.filter
from av.video.frame import VideoFrame

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
