"""Reads any number of pictures and films and yields their records in order, with memory for one batch."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mien.errors import MienError
from mien.files import atomic_file
from mien.recognition.film.timeline import Timeline
from mien.recognition.film.tracking import SMOOTHING_S
from mien.recognition.paths import Film, Input, Nothing, Piped
from mien.recognition.recognizer import BrokenModelError, Recognizer
from mien.recognition.results import Recognition
from mien.text import safe_stem

if TYPE_CHECKING:
    from mien.recognition.film.reader import About
    from mien.recognition.film.writer import Write


@dataclass(frozen=True)
class FilmSettings:
    """Options for reading films.

    Attributes:
        every: read only every ``every``-th frame.
        smoothing: time constant in seconds for smoothing probabilities; 0 for none.
        video_out: path of the film with boxes, if there is exactly one film.
        timeline: path of the picture of its timeline, if there is exactly one film.
        audio: copy the sound into films with boxes.
        say: called with a line for each deviation in a written film: another codec, or sound that was re-encoded.
    """

    every: int = 1
    smoothing: float = SMOOTHING_S
    video_out: Path | None = None
    timeline: Path | None = None
    audio: bool = True
    say: Callable[[str], None] | None = None


def read_inputs(
    recognizer: Recognizer, inputs: Sequence[Input], films: FilmSettings, copies: Copies | None = None
) -> Generator[Recognition, None, None]:
    """Reads inputs one after the other; consecutive pictures share batches.

    Args:
        recognizer: reads the pictures.
        inputs: pictures, films, cameras and arguments that name neither.
        films: options for films.
        copies: writes annotated copies of pictures and films; None for no copies.

    Yields:
        A record for every picture and every frame, in order, without pixels; status ``error`` if it cannot be read.

    Raises:
        MienError: an output cannot be written, or the model answers with NaN.
    """
    for kind, group in itertools.groupby(inputs, type):
        if issubclass(kind, Path):
            yield from _of_pictures(recognizer, group, copies)
            continue
        for source in group:
            if isinstance(source, Nothing):
                yield Recognition(source.word, "error", source.reason)
            elif isinstance(source, Piped):
                yield _of_piped(recognizer, source, copies)
            elif isinstance(source, Film):
                yield from _of_film(recognizer, source, films, copies)


def _of_pictures(recognizer: Recognizer, paths: Iterator[Input], copies: Copies | None) -> Iterator[Recognition]:
    """Yields the records of pictures, and writes their copies on the way."""
    for record in recognizer.stream(paths, keep_pixels=copies is not None):
        if copies is not None and record.pixels is not None:
            copies.add(record)
        yield replace(record, pixels=None)


def _of_piped(recognizer: Recognizer, source: Piped, copies: Copies | None) -> Recognition:
    """Returns the record of a picture from standard input, and writes its copy."""
    (record,) = recognizer.stream([source.data], keep_pixels=copies is not None)
    if copies is not None and record.pixels is not None:
        copies.add(replace(record, input="stdin"))
    error = record.error if record.error is None else record.error.replace(record.input, source.name, 1)
    return replace(record, input=source.name, error=error, pixels=None)


def _of_film(
    recognizer: Recognizer, film: Film, settings: FilmSettings, copies: Copies | None
) -> Iterator[Recognition]:
    """Yields the records of a film or a camera, and writes its copies and its timeline on the way."""
    # Imported here, so that reading pictures does not wait for FFmpeg.
    from mien.recognition.film import reader as frames
    from mien.recognition.film.records import recognize_film
    from mien.recognition.film.writer import ENDINGS, NoFrameError

    places = [] if settings.video_out is None else [settings.video_out]
    if copies is not None:
        places.append(copies.place(Path(film.name).name, ENDINGS, ".mp4", not_at=settings.video_out))
    try:
        about = frames.about(film.source) if places else None
    except MienError as error:
        yield Recognition(film.name, "error", str(error))
        return
    records = recognize_film(
        recognizer, film.source, every=settings.every, smoothing=settings.smoothing, keep_pixels=bool(places)
    )
    try:
        with ExitStack() as stack:
            writers: list[Callable[[Recognition], None]] = []
            if settings.timeline is not None:
                writers.append(stack.enter_context(_timeline(settings.timeline, film, settings.smoothing)))
            if about is not None:
                writers += [stack.enter_context(_annotated(place, film, about, settings)) for place in places]
            for record in _to_the_end(records, film):
                for write in writers:
                    write(record)
                yield replace(record, pixels=None)
    except NoFrameError:
        pass  # the records already say that no frame could be decoded


def _annotated(place: Path, film: Film, about: About, settings: FilmSettings) -> AbstractContextManager[Write]:
    """Opens a copy of a film with boxes for writing."""
    from mien.recognition.film.writer import FASTEST, SLOWEST, write_annotated

    return write_annotated(
        place,
        min(max(about.rate / settings.every, SLOWEST), FASTEST),
        time_base=about.time_base,
        end_s=about.duration_s,
        sound=film.source if settings.audio and isinstance(film.source, Path) else None,
        say=settings.say,
    )


@contextmanager
def _timeline(path: Path, film: Film, smoothing: float) -> Iterator[Callable[[Recognition], None]]:
    """Collects the records of a film and draws them when the block ends, even if Ctrl-C ends it."""
    collected = Timeline(Path(film.name).name, smoothing)
    interruption: BaseException | None = None
    frames_read = 0

    def add(record: Recognition) -> None:
        nonlocal frames_read
        if record.time_s is not None:
            collected.add(record)
            frames_read += 1

    try:
        yield add
    except (KeyboardInterrupt, GeneratorExit) as error:
        interruption = error
    if frames_read:
        collected.save(path)
    if interruption is not None:
        raise interruption


def _to_the_end(records: Iterator[Recognition], film: Film) -> Iterator[Recognition]:
    """Yields the records of a film; if reading fails, the last one gives the reason."""
    try:
        yield from records
    except BrokenModelError:
        raise
    except MienError as error:
        yield Recognition(film.name, "error", str(error))
    except MemoryError:  # only this film is too large: the next input may be smaller
        reason = f"{film.name}: needs more memory than there is left; close other programs, or make it smaller"
        yield Recognition(film.name, "error", reason)


_KINDS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".bmp": "BMP",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}


_QUALITY = 95


_LONGEST_NAME = 255
"""Bytes of the longest file name that file systems allow."""


def numbered(stem: str, count: int, suffix: str) -> str:
    """Returns a file name with a number before its ending; a stem that is too long is shortened."""
    name = f"{stem}-{count}{suffix}"
    return name if len(os.fsencode(name)) <= _LONGEST_NAME else f"{safe_stem(stem)}-{count}{suffix}"


class Copies:
    """Writes annotated copies under the names of the pictures.

    If a name is in use, a number is added: ``face-2.jpg``. Formats that cannot be written (GIF, PPM) become
    ``face.gif.png``.

    Args:
        folder: folder of the copies; it is created if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._counts: dict[str, int] = {}

    def add(self, record: Recognition) -> Path:
        """Writes the copy of a picture and returns its path.

        Raises:
            MienError: the record has no pixels, or the folder cannot be written to.
        """
        path = self.place(Path(record.input).name)
        with atomic_file(path, spare_newcomer=True) as temporary:
            record.annotated().save(temporary, format=_KINDS[path.suffix.lower()], quality=_QUALITY)
        return path

    def place(
        self, name: str, kinds: tuple[str, ...] = tuple(_KINDS), otherwise: str = ".png", not_at: Path | None = None
    ) -> Path:
        """Returns a free path in the folder for a copy.

        Args:
            name: file name of the original.
            kinds: endings that can be written.
            otherwise: ending that is appended to a name with another ending.
            not_at: a path that is reserved, though nothing is there yet.
        """
        name = name if Path(name).suffix.lower() in kinds else name + otherwise
        stem, suffix = Path(name).stem, Path(name).suffix
        if len(os.fsencode(name)) > _LONGEST_NAME:
            name = f"{safe_stem(stem)}{suffix}"
        count = self._counts.get(name, 0) + 1
        path = self.folder / (name if count == 1 else numbered(stem, count, suffix))
        reserved = None if not_at is None else not_at.absolute()
        while os.path.lexists(path) or path.absolute() == reserved:
            count += 1
            path = self.folder / numbered(stem, count, suffix)
        self._counts[name] = count
        return path
