"""The class that most users need: it finds the faces in a picture, a list or a film, and reads their expressions."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any, Literal, SupportsFloat, TypeAlias, overload

import numpy as np
from PIL import Image

from mien.errors import NO_MEMORY, NO_NUMBERS, MienError
from mien.machine import threaded_map
from mien.model.places import DEFAULT
from mien.recognition import detectors, engines
from mien.recognition.arguments import WrongTypeError, type_of, whole_number
from mien.recognition.detection import Detection, Detector, SideBySide, face_crop, fitted
from mien.recognition.engine import Device, Engine, device_name
from mien.recognition.pictures import Color, Photo, check_color, check_several, check_type, read_photo, until_error
from mien.recognition.results import Face, Recognition, Recognitions
from mien.text import shown

if TYPE_CHECKING:
    from mien.recognition.explain import Explanation
    from mien.recognition.film.records import FilmRecognition

Picture: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | np.ndarray
"""What ``recognize`` accepts as one picture."""

_OF_ENGINES = ("read", "names", "image_size", "grey", "threshold", "stated_accuracy")
"""What an ``Engine`` has."""

_ROUNDING = 0.01
"""Most by which the sum of an engine's probabilities differs from 1; in half precision it does by some thousandths."""

_MOST_WAITING_BYTES = 64 * 2**20
"""Bytes of crops and kept pixels from which on the waiting pictures are read, even if the batch is not full."""


class BrokenModelError(MienError):
    """The model cannot answer, or not with probabilities. No picture is to blame, and none can be read."""


class Recognizer:
    """Finds faces in pictures and reads their expressions.

    The answer is a guess about how a face looks in a picture, not about what the person feels. Several threads may use
    one recognizer. It can be copied and pickled, for process pools; a process loads each model once. With PyTorch the
    pool needs the start method ``spawn``.

    Args:
        model: the name of a model that comes with the package (``mini``, or ``mini-int8`` for its int8 form), a folder
            that `mien train` or `mien export` wrote, an .onnx file, or a model of the Hugging Face hub
            (``user/model``, see ``mien.model.hub``); by default ``mini``.
        detector: ``yunet``; the path of another YuNet file (as text, ``yunet:FILE.onnx``); ``none`` for pictures that
            are face crops already; or an object with the interface of ``mien.recognition.detection.Detector``.
        min_face: side in pixels of the smallest face to look for; by default ``mien.recognition.detectors.MIN_FACE``.
            Only yunet has this option.
        color: the channels of all arrays, ``rgb``, ``bgr`` (as OpenCV has them) or ``gray``, where a call says nothing
            else.
        engine: ``auto``, ``onnx``, ``torch``, or an object with the interface of ``mien.recognition.engine.Engine``;
            such an object replaces ``model``, ``device`` and ``threads``.
        device: where the network runs: ``auto`` (CUDA if ONNX Runtime has it, else the processor), ``cpu``, ``gpu``,
            ``cuda``, ``cuda:N`` or the number N, ``mps``, ``coreml``, ``directml``, ``openvino``, or a
            ``torch.device``.
        threads: processor threads that share the faces of a batch; by default one a core, at most 8. With PyTorch it
            sets those of torch in the whole process, and by default leaves them as they are.
        batch_size: number of faces that the network reads at once, at most.

    Raises:
        MienError: an option has an unknown value, or the model or the detector cannot be loaded.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        detector: Literal["yunet", "none"] | os.PathLike[str] | Detector = "yunet",
        min_face: float | None = None,
        color: Color | None = None,
        engine: Literal["auto", "onnx", "torch"] | Engine = "auto",
        device: Device = "auto",
        threads: int | None = None,
        batch_size: int = 64,
    ) -> None:
        batch_size = _count("batch_size", batch_size)
        threads = None if threads is None else _count("threads", threads)
        check_color(None, color)
        self.batch_size, self.color = batch_size, color
        name_or_object = f"yunet:{os.fspath(detector)}" if isinstance(detector, os.PathLike) else detector
        if min_face is not None and not isinstance(name_or_object, str):
            raise MienError("min_face: is for the detector yunet; an object with detect() has settings of its own")
        place = device_name(device)
        self.detector: Detector = _detector(name_or_object, min_face)
        self.engine: Engine = engines.engine(model, engine, place, threads) if isinstance(engine, str) else engine
        lacking = [name for name in _OF_ENGINES if not hasattr(self.engine, name)]
        if lacking or not callable(self.engine.read):
            raise MienError(
                f"engine: got {engine!r}, expected auto, onnx, torch, or an object with read() and "
                f"{', '.join(_OF_ENGINES[1:])}{f'; it lacks {lacking[0]}' if lacking else ''}"
            )
        self._model = DEFAULT if model is None else os.fspath(model)
        self._engine_of_model = self.engine if isinstance(engine, str) else None

    def __repr__(self) -> str:
        detector = getattr(self.detector, "name", type(self.detector).__name__)
        engine = type(self.engine).__name__
        kind = {"OnnxEngine": "onnx", "TorchEngine": "torch"}.get(engine, engine)
        words = [repr(self._model_name()), f"engine={kind!r}"]
        provider = getattr(self.engine, "provider", None)
        words += [] if provider is None else [f"provider={provider!r}"]
        return f"Recognizer({', '.join([*words, f'detector={detector!r}'])})"

    def _model_name(self) -> str:
        """Returns the name of a shipped model, the path or hub id of another, or the class of an engine."""
        if self.engine is self._engine_of_model:
            return self._model
        return str(getattr(self.engine, "path", None) or type(self.engine).__name__)

    @property
    def names(self) -> tuple[str, ...]:
        """The expressions that the model distinguishes."""
        return self.engine.names

    @property
    def stated_accuracy(self) -> float | None:
        """The accuracy in [0, 1] that the model promises for answers that are not ``uncertain``; None if the model was
        not calibrated."""
        return self.engine.stated_accuracy

    @overload
    def recognize(self, picture: Picture, color: Color | None = None) -> Recognition: ...

    @overload
    def recognize(self, picture: list[Any] | tuple[Any, ...], color: Color | None = None) -> Recognitions: ...

    def recognize(self, picture: Any, color: Color | None = None) -> Recognition | Recognitions:
        """Reads a picture, or a list of pictures whose faces share batches.

        Args:
            picture: a path, the bytes of a file, an open binary file, a PIL image, a uint8 array [H, W] (grey) or
                [H, W, 3] (colour), or a list or tuple of these. ``mien.recognition.pictures.read_photo`` describes the
                handling of EXIF orientation, transparency, 16 bits, CMYK, palettes and animated files.
            color: the channels of arrays: ``rgb``, ``bgr`` or ``gray``; by default the recognizer's ``color``. Colour
                arrays need one of them; files and PIL images do not.

        Returns:
            A record for a picture; for a list, a list of the same length and order. A picture that cannot be read gives
            a record with status ``error``, never an exception. The records keep the pixels for ``annotated()``; use
            ``stream`` for many large files.

        Raises:
            MienError: ``color`` has another value, or is missing for a colour array.
            WrongTypeError (a MienError and a TypeError): a value is no picture (a set, a generator, a dict, a tensor),
                or an array of several.
            BrokenModelError (a MienError): the model answers with NaN.
        """
        pictures = picture if isinstance(picture, list | tuple) else [picture]
        for item in pictures:  # before any is read: these are mistakes of the call, not of a picture
            check_type(item)
            check_color(item, color or self.color)
        if isinstance(picture, list | tuple):
            return Recognitions(self.stream(picture, color, keep_pixels=True, patience=math.inf))
        (record,) = self.stream([picture], color, keep_pixels=True)
        return record

    @overload
    def __call__(self, picture: Picture, color: Color | None = None) -> Recognition: ...

    @overload
    def __call__(self, picture: list[Any] | tuple[Any, ...], color: Color | None = None) -> Recognitions: ...

    def __call__(self, picture: Any, color: Color | None = None) -> Recognition | Recognitions:
        """Does the same as ``recognize``."""
        return self.recognize(picture, color)

    def recognize_film(
        self,
        source: str | os.PathLike[str] | int,
        *,
        every: int = 1,
        smoothing: float | None = None,
        keep_pixels: bool = False,
    ) -> FilmRecognition:
        """Reads a film or a camera frame by frame; the memory does not grow with the length.

            for record in recognizer.recognize_film("film.mp4"):
                print(record.time_s, list(record))
            recognizer.recognize_film("film.mp4").write("marked.mp4")

        Args:
            source: a film file, or the number of a camera.
            every: read only every ``every``-th frame.
            smoothing: time constant in seconds over which probabilities are smoothed; 0 for no smoothing; by
                default ``mien.recognition.film.tracking.SMOOTHING_S``.
            keep_pixels: keep the frame in its record, for ``annotated()``.

        Returns:
            An iterator over a record for every frame, in order, with ``frame`` and ``time_s``; ``Face.id`` is the same
            for one face in all frames. It also has ``write`` for the film with boxes, ``to_df``, ``to_csv`` and
            ``to_json``. See ``mien.recognition.film.records``.

        Raises:
            MienError: ``source`` is neither a file's name nor a number, ``every`` no whole number of at least 1, or
                ``smoothing`` no finite number of at least 0. The iteration raises it if the film or the camera cannot
                be read at all.
            BrokenModelError (a MienError): the model answers with NaN; raised by the iteration.
        """
        from mien.recognition.film.records import FilmRecognition, film_source
        from mien.recognition.film.tracking import SMOOTHING_S

        film = film_source(source)
        smoothing = SMOOTHING_S if smoothing is None else smoothing
        every = _count("every", every)
        seconds = _seconds("smoothing", smoothing)
        if seconds == math.inf:
            raise MienError(f"smoothing: got {smoothing!r}, expected a finite number of seconds")
        return FilmRecognition(self, film, every=every, smoothing=seconds, keep_pixels=keep_pixels)

    def explain(self, face: Face, method: str = "auto", label: str | None = None) -> Explanation:
        """Shows which parts of a face the answer depends on; see ``mien.recognition.explain.explain``.

        Raises:
            MienError: the face has no crop, the method or the label is unknown, or the method needs torch and a ViT.
        """
        from mien.recognition.explain import explain

        return explain(face, self.engine, method, label)

    def stream(
        self,
        pictures: Iterable[Any],
        color: Color | None = None,
        *,
        keep_pixels: bool = False,
        patience: float = 1.0,
    ) -> Iterator[Recognition]:
        """Reads any number of pictures in batches, with memory for one batch.

        Args:
            pictures: as for ``recognize``; a generator is read one batch ahead at most.
            color: as in ``recognize``.
            keep_pixels: keep the pixels in the records, for ``annotated()``.
            patience: time in seconds after which a record no longer waits for others to share a batch with. The time is
                checked when the next picture arrives: give 0 if that may take long or depends on the answer. If it is
                infinite, records wait until a batch is full, whatever memory their pixels take.

        Yields:
            A record for every picture, in order. If the iterable raises an exception, the records of the pictures
            before it come first.

        Raises:
            WrongTypeError (a MienError and a TypeError): ``pictures`` is one picture itself, or is not iterable.
            MienError: as ``recognize``, or ``patience`` is no number of at least 0.
        """
        check_several(pictures)
        patience = _seconds("patience", patience)
        color = color or self.color
        errors: list[Exception] = []

        def checked() -> Iterator[Any]:
            for picture in pictures:
                check_color(picture, color)
                yield picture

        waiting: list[SearchedPicture] = []
        crop_count = byte_count = 0
        started = time.monotonic()
        for picture in search_pictures(
            until_error(checked(), errors),
            self.detector,
            self.engine,
            color,
            keep_pixels=keep_pixels,
            patience=patience,
        ):
            waiting.append(picture)
            crop_count += len(picture.crops)
            byte_count += picture.nbytes
            is_full = crop_count >= self.batch_size
            if patience < math.inf:
                is_full = is_full or len(waiting) >= self.batch_size or byte_count >= _MOST_WAITING_BYTES
            if is_full or time.monotonic() - started >= patience:
                yield from self._read(waiting)
                waiting, crop_count, byte_count, started = [], 0, 0, time.monotonic()
        yield from self._read(waiting)
        if errors:
            raise errors[0]

    def _read(self, pictures: Sequence[SearchedPicture]) -> Iterator[Recognition]:
        """Reads the faces of several pictures in batches that they share, and completes their records."""
        crops = [crop for picture in pictures for crop in picture.crops]
        probabilities: list[np.ndarray] = []
        embeddings: list[np.ndarray] = []
        for start in range(0, len(crops), self.batch_size):
            batch = np.stack(crops[start : start + self.batch_size])
            try:
                answers = self.engine.read(batch)
            except MienError as error:
                raise BrokenModelError(str(error)) from error
            shapes = [np.shape(getattr(answers, name, ())) for name in ("probabilities", "embeddings")]
            if shapes[0] != (len(batch), len(self.names)) or shapes[1][:1] != (len(batch),):
                raise BrokenModelError(
                    f"engine: read() answers {len(batch)} crops with probabilities {list(shapes[0])} and embeddings "
                    f"{list(shapes[1])}, expected Answers with [{len(batch)}, {len(self.names)}] and [{len(batch)}, D]"
                )
            probabilities += list(np.asarray(answers.probabilities, np.float64))
            embeddings += list(answers.embeddings)
        first = 0
        for picture in pictures:
            rows = range(first, first + len(picture.crops))
            first = rows.stop
            faces = tuple(
                self._face(picture.record.input, detection, crop, probabilities[row], embeddings[row])
                for row, detection, crop in zip(rows, picture.detections, picture.crops, strict=True)
            )
            yield replace(picture.record, faces=faces, names=self.names)

    def _face(
        self, name: str, detection: Detection, crop: np.ndarray, probabilities: np.ndarray, embedding: np.ndarray
    ) -> Face:
        """Joins a detection and the network's answer about it."""
        if not np.isfinite(probabilities).all():
            raise BrokenModelError(f"the model answers {name} with {NO_NUMBERS}")
        if probabilities.min() < 0 or abs(probabilities.sum() - 1) > _ROUNDING:
            raise BrokenModelError(
                f"engine: read() answers {name} with values from {probabilities.min():.4g} to "
                f"{probabilities.max():.4g} and a sum of {probabilities.sum():.4g}, expected probabilities, which are "
                "at least 0 and sum to 1; apply softmax to logits"
            )
        best = int(probabilities.argmax())
        score, threshold = float(probabilities[best]), self.engine.threshold
        # Detectors of others give numbers of NumPy, which JSON does not know.
        left, top, width, height = (float(value) for value in detection.box)
        detector_score = math.nan if detection.score is None else float(detection.score)
        return Face(
            box=(left, top, width, height),
            label=self.names[best],
            score=score,
            probabilities=dict(zip(self.names, probabilities.tolist(), strict=True)),
            uncertain=None if threshold is None else score < threshold,
            detector_score=detector_score if math.isfinite(detector_score) else None,
            crop=crop,
            embedding=embedding,
        )


def _count(name: str, value: object) -> int:
    """Returns a whole number of at least 1, also of NumPy, as Python's.

    Raises:
        MienError: it is none.
    """
    number = whole_number(value)
    if number is None or number < 1:
        raise MienError(f"{name}: got {value!r}, expected a whole number of at least 1")
    return number


def _seconds(name: str, value: Any) -> float:
    """Returns a number of at least 0, also of NumPy, as a float.

    Raises:
        MienError: it is none.
    """
    try:
        seconds = math.nan if isinstance(value, str | bytes | bytearray) else float(value)
    except (TypeError, ValueError, OverflowError):  # an array of several has the method, too
        seconds = math.nan
    if not seconds >= 0:
        raise MienError(f"{name}: got {value!r}, expected seconds, 0 or more")
    return seconds


def _detector(detector: object, min_face: float | None) -> Any:
    """Makes the detector of a name, or checks an object.

    Raises:
        MienError: the name is unknown, the detector cannot be loaded, or the object lacks ``detect`` or ``margin``.
    """
    made = detectors.detector(detector, min_face) if isinstance(detector, str) else detector
    if not (callable(getattr(made, "detect", None)) and isinstance(getattr(made, "margin", None), SupportsFloat)):
        raise MienError(
            f"detector: got {detector!r}, expected {detectors.KNOWN}, or an object with detect() and margin"
        )
    return made


_MOST_DECODED_BYTES = 64 * 2**20
"""Bytes of decoded pixels from which on a group of pictures is searched, even if some threads stay idle."""


@dataclass(frozen=True)
class SearchedPicture:
    """A picture whose faces are cut out and not read yet.

    Attributes:
        record: the result so far, without faces.
        detections: the faces in the picture; empty if there are none, or if the picture cannot be read.
        crops: uint8 [S, S] or [S, S, 3], one for each detection.
    """

    record: Recognition
    detections: Sequence[Detection] = ()
    crops: Sequence[np.ndarray] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        pixels = self.record.pixels
        return sum(crop.nbytes for crop in self.crops) + (0 if pixels is None else pixels.nbytes)


def search_pictures(
    pictures: Iterable[Any],
    detector: Detector,
    engine: Engine,
    color: str | None = None,
    *,
    keep_pixels: bool = False,
    patience: float = math.inf,
) -> Iterator[SearchedPicture]:
    """Decodes pictures, detects their faces and cuts these out, as many pictures at once as the detector has threads.

    Args:
        pictures: as ``mien.recognition.pictures.read_photo`` takes them; read one group ahead at most.
        detector: finds the faces.
        engine: the network that will read them; it decides the size and the channels of the crops.
        color: the order of the channels of arrays, which fits all of them (``mien.recognition.pictures.check_color``).
        keep_pixels: keep the pixels in the record.
        patience: seconds after which a group is searched, even if it is not full.

    Yields:
        One item for each picture, in order; its record has status ``error`` if the picture cannot be read.
    """
    group_size = detector.threads if isinstance(detector, SideBySide) else 1
    group: list[_Decoded] = []
    started = time.monotonic()
    for index, picture in enumerate(pictures):
        group.append(_decode(picture, _name_of(picture, index), color))
        decoded_bytes = sum(photo.pixels.nbytes for _, photo in group if isinstance(photo, Photo))
        is_full = len(group) >= group_size or decoded_bytes >= _MOST_DECODED_BYTES
        if is_full or time.monotonic() - started >= patience:
            yield from _search_group(group, detector, engine, keep_pixels)
            group, started = [], time.monotonic()
    yield from _search_group(group, detector, engine, keep_pixels)


def _name_of(picture: Any, index: int) -> str:
    """Returns the name of a picture in its record: the path, also that of an open file, or its number."""
    if isinstance(picture, str | os.PathLike):
        return str(os.fsdecode(picture))  # of NumPy, texts show themselves as np.str_('...')
    name = getattr(picture, "name", None) if callable(getattr(picture, "read", None)) else None
    return name if isinstance(name, str) and name else f"picture {index}"


_Decoded: TypeAlias = tuple[str, Photo | Recognition]
"""The name of a picture, and what was read of it, or the record that says why it cannot be read."""


def _decode(picture: Any, name: str, color: str | None) -> _Decoded:
    try:
        return name, read_photo(picture, name, color)
    except (MienError, MemoryError) as error:
        return name, _unreadable(name, error)


def _unreadable(name: str, error: MienError | MemoryError) -> Recognition:
    """Returns the record of a picture that cannot be read; if it needs too much memory, the next one may not."""
    reason = str(error) if isinstance(error, MienError) else shown(f"{name}: {NO_MEMORY}")
    return Recognition(name, "error", reason)


def _search_group(
    group: Sequence[_Decoded], detector: Detector, engine: Engine, keep_pixels: bool
) -> list[SearchedPicture]:
    """Searches some pictures: side by side with one thread each if the detector can, else one after the other."""
    if len(group) > 1 and isinstance(detector, SideBySide):
        detect = detector.detect_alone
        search = threaded_map(detector.threads)
        return [*search(lambda picture: _search(picture, detect, detector.margin, engine, keep_pixels), group)]
    return [_search(picture, detector.detect, detector.margin, engine, keep_pixels) for picture in group]


def _search(
    picture: _Decoded,
    detect: Callable[[np.ndarray], list[Detection]],
    margin: float,
    engine: Engine,
    keep_pixels: bool,
) -> SearchedPicture:
    """Detects the faces of one picture and cuts them out."""
    name, photo = picture
    if isinstance(photo, Recognition):
        return SearchedPicture(photo)
    pixels = photo.pixels
    height, width = pixels.shape[:2]
    try:
        answer: object = detect(pixels)
        if not isinstance(answer, Iterable):
            raise WrongTypeError(f"detector: detect() gives {type_of(answer)}, expected a list of Detection")
        detections = [fitted(detection, width, height) for detection in answer]
        crops = [face_crop(pixels, detection, margin, engine) for detection in detections]
    except WrongTypeError:
        raise
    except (MienError, MemoryError) as error:
        return SearchedPicture(_unreadable(name, error))
    record = Recognition(
        name, "ok" if detections else "no_face", width=width, height=height, pixels=pixels if keep_pixels else None,
        first_of_several=photo.first_of_several,
    )  # fmt: skip
    return SearchedPicture(record, detections, crops)
