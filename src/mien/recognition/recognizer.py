"""The one class that most users need: from a photo, however it is handed over, to the faces in it."""

from __future__ import annotations

import math
import operator
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias, overload

import numpy as np
from PIL import Image

from mien.errors import NO_NUMBERS, MienError
from mien.machine import side_by_side
from mien.recognition import detectors, engines
from mien.recognition.crop import face_crop
from mien.recognition.detection import Detection, Detector, SideBySide
from mien.recognition.engine import Engine
from mien.recognition.pictures import check_color, read
from mien.recognition.results import Face, Recognition
from mien.text import shown

if TYPE_CHECKING:
    from mien.recognition.explain import Explanation

Picture: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | np.ndarray
"""What may be handed over as one picture."""

_MOST_BYTES = 64 * 2**20


class BrokenModelError(MienError):
    """The model cannot answer, or answers with NaN or infinity: no input is to blame, and none can be read."""


class Recognizer:
    """Finds faces in pictures and reads how they look.

    What comes out is a guess about how a face looks in a picture, not about what the person feels.

    Args:
        model: the name of a model that comes with the package (``mini``, or ``mini-int8`` for its int8 form), a folder
            that `mien train` or `mien export` wrote, or an .onnx file; by default ``mini``.
        detector: ``yunet``, or ``yunet:FILE.onnx`` with a model of one's own, ``none`` for pictures that are face crops
            already, or an object with the interface of ``mien.recognition.detection.Detector``.
        min_face: side in pixels of the smallest face that is looked for; by default
            ``mien.recognition.yunet.MIN_FACE``. Only yunet takes it.
        engine: ``auto``, ``onnx``, ``torch``, or an object with the interface of
            ``mien.recognition.engine.Engine``, beside which ``model``, ``device`` and ``threads`` are of no
            use.
        device: where the network runs: ``auto``, ``cpu``, ``cuda``, ``cuda:N``.
        threads: processor threads that share the faces of a batch; by default one a core, at most 8.
        batch_size: how many faces the network reads at once, at most.

    Raises:
        MienError: an option has a value that does not exist, or the model or the detector cannot be loaded.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        detector: str | Detector = "yunet",
        min_face: float | None = None,
        engine: str | Engine = "auto",
        device: str = "auto",
        threads: int | None = None,
        batch_size: int = 64,
    ) -> None:
        _check_count("batch_size", batch_size)
        if threads is not None:
            _check_count("threads", threads)
        if not isinstance(device, str):
            raise MienError(f"device: got {device!r}, expected auto, cpu, cuda or cuda:N, as text")
        self.batch_size = batch_size
        if min_face is not None and not isinstance(detector, str):
            raise MienError("min_face: is for the detector yunet; an object with detect() has settings of its own")
        options = {} if min_face is None else {"min_face": min_face}
        self.detector: Detector = detectors.detector(detector, **options) if isinstance(detector, str) else detector
        if not callable(getattr(self.detector, "detect", None)):
            raise MienError(f"detector: got {detector!r}, expected {detectors.KNOWN}, or an object with detect()")
        self.engine: Engine = engines.engine(model, engine, device, threads) if isinstance(engine, str) else engine
        if not callable(getattr(self.engine, "read", None)):
            raise MienError(f"engine: got {engine!r}, expected auto, onnx, torch, or an object with read()")

    @property
    def names(self) -> tuple[str, ...]:
        """The expressions that the model tells apart."""
        return self.engine.names

    @property
    def stated_accuracy(self) -> float | None:
        """The share in [0, 1] of the answers that are not ``uncertain`` that is promised to be right; None if the model
        was not calibrated."""
        return self.engine.stated_accuracy

    @overload
    def recognize(self, given: Picture, color: str | None = None) -> Recognition: ...

    @overload
    def recognize(self, given: list[Any] | tuple[Any, ...], color: str | None = None) -> list[Recognition]: ...

    def recognize(self, given: Any, color: str | None = None) -> Recognition | list[Recognition]:
        """Reads a picture, or a list of them, whose faces then go through the network together.

        Args:
            given: a path, the bytes of a file, a PIL image, a uint8 array [H, W] (grey) or [H, W, 3] (colour), or a
                list or tuple of such. See ``mien.recognition.pictures.read`` for what becomes of EXIF
                orientation, transparency, 16 bits, CMYK, palettes and animated files.
            color: ``rgb``, ``bgr`` or ``gray``: the channels of arrays. Colour arrays need it; files and PIL images
                know their own.

        Returns:
            A record for a picture; for a list, a list of the same length and order. A picture that cannot be read is a
            record with status ``error``, never an exception. The pixels are kept, for ``annotated()``: read many large
            files with ``stream``.

        Raises:
            MienError: ``color`` is no such word, or is missing for a colour array.
            BrokenModelError (a MienError): the model answers with NaN.
        """
        if isinstance(given, list | tuple):
            for one in given:  # all before the first is read, as it is the call that is wrong, and not a picture
                check_color(one, color)
            return list(self.stream(given, color, keep_pixels=True, patience=math.inf))
        (record,) = self.stream([given], color, keep_pixels=True)
        return record

    def recognize_film(
        self,
        source: str | os.PathLike[str] | int,
        *,
        every: int = 1,
        smoothing: float | None = None,
        keep_pixels: bool = False,
    ) -> Iterator[Recognition]:
        """Reads a film or a camera, with memory for a few frames, however long it is.

        Args:
            source: a film file, or the number of a camera.
            every: give each ``every``-th frame alone.
            smoothing: time constant in seconds over which probabilities are smoothed; 0 gives every frame as it was
                read by itself; by default ``mien.recognition.film.tracking.SMOOTHING_S``.
            keep_pixels: whether the records keep their picture, for ``annotated()``.

        Yields:
            A record for every frame, in order, with ``frame`` and ``time_s``; ``Face.id`` follows a face from frame to
            frame. See ``mien.recognition.film.records.recognize_film``.

        Raises:
            MienError: the film or the camera cannot be read at all.
            BrokenModelError (a MienError): the model answers with NaN.
            ValueError: ``every`` is below 1, or ``smoothing`` below 0.
        """
        from mien.recognition.film.records import recognize_film
        from mien.recognition.film.tracking import SMOOTHING_S

        if not isinstance(source, str | os.PathLike | SupportsIndex):
            raise MienError(f"source: is a {type(source).__name__}, expected a film file or the number of a camera")
        place = operator.index(source) if isinstance(source, SupportsIndex) else Path(source)
        constant = SMOOTHING_S if smoothing is None else smoothing
        return recognize_film(self, place, every=operator.index(every), smoothing=constant, keep_pixels=keep_pixels)

    def explain(self, face: Face, method: str = "auto", label: str | None = None) -> Explanation:
        """What of a face the answer depends on; see ``mien.recognition.explain.explain``.

        Raises:
            MienError: the face has no crop, the method or the label is unknown, or the method needs torch and a ViT.
        """
        from mien.recognition.explain import explain

        return explain(face, self.engine, method, label)

    def stream(
        self,
        pictures: Iterable[Any],
        color: str | None = None,
        *,
        keep_pixels: bool = False,
        patience: float = 1.0,
    ) -> Iterator[Recognition]:
        """Reads any number of pictures in batches, with memory for one batch.

        Args:
            pictures: as ``recognize`` takes them; a generator is asked for the next one only when it is its turn.
            color: as in ``recognize``.
            keep_pixels: whether the records keep the pixels, for ``annotated()``.
            patience: how long a record may wait for others that are read together with it, in seconds; where it is
                infinite, all wait until there are faces for a batch, however much memory their pixels take.

        Yields:
            A record for every picture, in order.

        Raises:
            MienError: as ``recognize``.
        """
        waiting: list[_Found] = []
        crops = size = 0
        started = time.monotonic()
        for found in self._searched(pictures, color, keep_pixels, patience):
            waiting.append(found)
            crops += len(found.crops)
            size += found.size
            full = crops >= self.batch_size
            if patience < math.inf:
                full = full or len(waiting) >= self.batch_size or size >= _MOST_BYTES
            if full or time.monotonic() - started >= patience:
                yield from self._read(waiting)
                waiting, crops, size, started = [], 0, 0, time.monotonic()
        yield from self._read(waiting)

    def _searched(
        self, pictures: Iterable[Any], color: str | None, keep_pixels: bool, patience: float
    ) -> Iterator[_Found]:
        """The faces of each picture, cut out, in order: as many pictures side by side as the detector has threads."""
        most = self.detector.threads if isinstance(self.detector, SideBySide) else 1
        group: list[_Decoded] = []
        started = time.monotonic()
        for index, given in enumerate(pictures):
            check_color(given, color)
            where = os.fsdecode(given) if isinstance(given, str | os.PathLike) else f"picture {index}"
            group.append(_decoded(given, where, color))
            size = sum(picture.pixels.nbytes for picture in group if isinstance(picture.pixels, np.ndarray))
            if len(group) >= most or size >= _MOST_BYTES or time.monotonic() - started >= patience:
                yield from self._search(group, keep_pixels)
                group, started = [], time.monotonic()
        yield from self._search(group, keep_pixels)

    def _search(self, group: Sequence[_Decoded], keep_pixels: bool) -> list[_Found]:
        detector = self.detector
        if len(group) > 1 and isinstance(detector, SideBySide):
            detect = detector.detect_alone
            return side_by_side(lambda picture: self._find(picture, detect, keep_pixels), group, detector.threads)
        return [self._find(picture, detector.detect, keep_pixels) for picture in group]

    def _find(self, picture: _Decoded, detect: Callable[[np.ndarray], list[Detection]], keep_pixels: bool) -> _Found:
        """The faces of a picture, cut out, not yet read."""
        where, pixels = picture.where, picture.pixels
        if isinstance(pixels, str):
            return _Found(Recognition(where, "error", pixels), [], [])
        try:
            detections = detect(pixels)
        except MienError as error:
            return _Found(Recognition(where, "error", str(error)), [], [])
        except MemoryError:
            return _Found(Recognition(where, "error", _too_large(where)), [], [])
        height, width = pixels.shape[:2]
        record = Recognition(
            where,
            "ok" if detections else "no_face",
            width=width,
            height=height,
            pixels=pixels if keep_pixels else None,
        )
        crops = [face_crop(pixels, found, self.detector.margin, self.engine) for found in detections]
        return _Found(record, detections, crops)

    def _read(self, waiting: Sequence[_Found]) -> Iterator[Recognition]:
        """What the network makes of the faces of several pictures, all in one go."""
        crops = [crop for found in waiting for crop in found.crops]
        probabilities: list[np.ndarray] = []
        embeddings: list[np.ndarray] = []
        for start in range(0, len(crops), self.batch_size):
            try:
                answers = self.engine.read(np.stack(crops[start : start + self.batch_size]))
            except MienError as error:
                raise BrokenModelError(str(error)) from error
            probabilities += list(answers.probabilities.astype(np.float64))
            embeddings += list(answers.embeddings)
        first = 0
        for found in waiting:
            rows = range(first, first + len(found.crops))
            first = rows.stop
            faces = tuple(
                self._face(found.record.input, detection, crop, probabilities[row], embeddings[row])
                for row, detection, crop in zip(rows, found.detections, found.crops, strict=True)
            )
            yield replace(found.record, faces=faces)

    def _face(
        self, where: str, detection: Detection, crop: np.ndarray, probabilities: np.ndarray, embedding: np.ndarray
    ) -> Face:
        if not np.isfinite(probabilities).all():
            raise BrokenModelError(f"the model answers {where} with {NO_NUMBERS}")
        best = int(probabilities.argmax())
        score, threshold = float(probabilities[best]), self.engine.threshold
        return Face(
            box=detection.box,
            label=self.names[best],
            score=score,
            probabilities=dict(zip(self.names, probabilities.tolist(), strict=True)),
            uncertain=None if threshold is None else score < threshold,
            detector_score=detection.score,
            crop=crop,
            embedding=embedding,
        )


@dataclass(frozen=True)
class _Decoded:
    """A picture before it is searched: uint8 [H, W] or [H, W, 3], or the reason why it cannot be read."""

    where: str
    pixels: np.ndarray | str


@dataclass(frozen=True)
class _Found:
    """A picture whose faces were found and wait to be read.

    Attributes:
        record: the record to be, still without faces.
        detections: where they are.
        crops: uint8 [S, S] or [S, S, 3] each.
    """

    record: Recognition
    detections: Sequence[Detection]
    crops: Sequence[np.ndarray]

    @property
    def size(self) -> int:
        """Bytes that it holds while it waits."""
        pixels = self.record.pixels
        return sum(crop.nbytes for crop in self.crops) + (0 if pixels is None else pixels.nbytes)


def _decoded(given: Any, where: str, color: str | None) -> _Decoded:
    try:
        return _Decoded(where, read(given, where, color))
    except MienError as error:
        return _Decoded(where, str(error))
    except MemoryError:  # of this picture alone: the next one may be smaller
        return _Decoded(where, _too_large(where))


def _too_large(where: str) -> str:
    return shown(f"{where}: needs more memory than there is left; close other programs, or make it smaller")


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise MienError(f"{name}: got {value!r}, expected a whole number of at least 1")
