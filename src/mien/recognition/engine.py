"""From face crops to probabilities: ONNX Runtime, or torch where it is installed; both answer the same."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mien.errors import NO_NUMBERS, MienError
from mien.machine import cores, side_by_side

BATCH = 64
"""Crops a forward pass; from about eight on, a larger batch is no faster and takes more memory."""

_ROUNDING = 1e-3
"""By how much probabilities may miss 0, 1 and a sum of 1: float32 by a ten-thousandth of it, bfloat16 by about that."""

_LARGEST_IMAGE = 1024
"""As ``mien.config.LARGEST_IMAGE``, whose package takes time to load."""

INPUT, OUTPUTS = "faces", ["probabilities", "embedding"]
"""The names in an exported file."""


@dataclass(frozen=True)
class Answers:
    """What a network made of N crops.

    Attributes:
        probabilities: float32 [N, C], calibrated; rows sum to 1.
        embeddings: float32 [N, D], the [CLS] vectors after the last norm.
    """

    probabilities: np.ndarray
    embeddings: np.ndarray


class Engine(Protocol):
    """A network that reads face crops.

    An engine may have ``face_size`` too (see the function of that name); without it, faces are read whole.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """The expressions, in the order of the columns."""
        ...

    @property
    def image_size(self) -> int:
        """Height and width S of the crops, in pixels."""
        ...

    @property
    def grey(self) -> bool:
        """Whether crops are uint8 [N, S, S] luma; else uint8 [N, S, S, 3] RGB."""
        ...

    @property
    def threshold(self) -> float | None:
        """The probability below which an answer is uncertain; infinity if every answer is (``sure_from``), None if the
        model was not calibrated."""
        ...

    @property
    def stated_accuracy(self) -> float | None:
        """The share in [0, 1] of the answers at or above ``threshold`` that is promised to be right."""
        ...

    def read(self, crops: np.ndarray) -> Answers:
        """Reads crops, uint8 [N, S, S] or [N, S, S, 3]; N may be 0."""
        ...


def face_size(engine: Engine) -> int:
    """Pixels a side to which a whole face is brought, of which the engine reads the ``image_size`` in the middle.

    A network that learnt from views that were zoomed in reads faces best as large as those were.
    """
    size: int = getattr(engine, "face_size", engine.image_size)
    return size


def sure_from(threshold: float | None, stated_accuracy: float | None) -> float | None:
    """The probability below which an answer is uncertain.

    Args:
        threshold: that of the model; None if it has none.
        stated_accuracy: what was asked for; None if the model was not calibrated.

    Returns:
        The threshold; infinity if it was asked for and no threshold keeps it, so that every answer is uncertain.
    """
    return math.inf if threshold is None and stated_accuracy is not None else threshold


class OnnxEngine:
    """ONNX Runtime on a file of ``mien export``; needs the base install alone.

    Args:
        path: the file.
        device: auto (a GPU where this ONNX Runtime can use one), cpu, cuda or cuda:N.
        threads: that share the crops of a call on a processor; None takes one a core, at most 8.

    Raises:
        MienError: the file is damaged or was not written by ``mien export``, or there is no such device.
    """

    def __init__(self, path: str | Path, device: str = "auto", threads: int | None = None) -> None:
        self.path = Path(path)
        self._session = _session(self.path, device)
        on_processor = self._session.get_providers()[0] == "CPUExecutionProvider"
        self._threads = (threads or cores()) if on_processor else 1
        self.metadata = _metadata(self.path, self._session)
        self.names: tuple[str, ...] = tuple(self.metadata["names"])
        self.image_size: int = self.metadata["image_size"]
        self.face_size: int = self.metadata.get("face_size", self.image_size)  # none in files of Mien 0.1.0
        self.grey: bool = self.metadata["grey"]
        self.stated_accuracy: float | None = self.metadata["stated_accuracy"]
        self.threshold = sure_from(self.metadata["threshold"], self.stated_accuracy)

    def read(self, crops: np.ndarray) -> Answers:
        """Reads crops; see ``Engine``.

        Raises:
            MienError: the crops are of another kind or size, or an answer is NaN or infinity.
        """
        crops = check_crops(crops, self.image_size, self.grey)
        parts = side_by_side(self._read, batches(crops, self._threads), self._threads)
        return joined(parts, len(crops), self.path, len(self.names))

    def _read(self, batch: np.ndarray) -> list[np.ndarray]:
        try:
            found: list[np.ndarray] = self._session.run(OUTPUTS, {INPUT: batch})
        except Exception as error:  # as above, ONNX Runtime's own classes are not public
            if "allocat" in str(error).lower():
                raise MemoryError(str(error)) from error
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise MienError(f"{self.path}: fails when it reads faces ({reason}); export the model again") from error
        if any(len(values) != len(batch) for values in found):
            raise MienError(
                f"{self.path}: answers {len(batch)} crops with {len(found[0])} rows; export the model again"
            )
        return found


def check_crops(crops: np.ndarray, image_size: int, grey: bool) -> np.ndarray:
    """The crops as a network reads them, contiguous; grey ones are repeated for a network that sees colour.

    Raises:
        MienError: they are of another type or shape.
    """
    shape = (image_size, image_size)
    if crops.dtype == np.uint8 and not grey and crops.shape[1:] == shape:
        crops = np.repeat(crops[..., None], 3, axis=3)
    wanted = shape if grey else (*shape, 3)
    if crops.dtype != np.uint8 or crops.shape[1:] != wanted:
        expected = f"uint8 [N, {', '.join(map(str, wanted))}]"
        raise MienError(
            f"the crops are {crops.dtype} {list(crops.shape)}, expected {expected}; convert and resize them first"
        )
    return np.ascontiguousarray(crops)


def batches(crops: np.ndarray, threads: int = 1) -> list[np.ndarray]:
    """The crops in parts of at most ``BATCH``, one a thread at least where there are as many crops.

    Where there are none, it is one black crop, as not every network reads nothing.
    """
    if not len(crops):
        return [np.zeros((1, *crops.shape[1:]), crops.dtype)]
    size = min(BATCH, -(-len(crops) // threads))
    return [crops[start : start + size] for start in range(0, len(crops), size)]


def joined(parts: list[Any], count: int, where: str | Path, classes: int) -> Answers:
    """The answers to ``batches`` of ``count`` crops, each probabilities and embeddings, as one.

    Args:
        parts: the answers, a pair a batch.
        count: crops in all; 0 was asked as one black crop.
        where: how messages name the model.
        classes: columns of the probabilities.

    Raises:
        MienError: one is NaN or infinity, rows are no probabilities, or there are more or fewer of them than crops.
    """
    probabilities, embeddings = (np.concatenate(values) for values in zip(*parts, strict=True))
    if not (np.isfinite(probabilities).all() and np.isfinite(embeddings).all()):
        raise MienError(f"{where}: answers with {NO_NUMBERS}")
    if probabilities.shape != (max(count, 1), classes) or len(embeddings) != len(probabilities):
        raise MienError(
            f"{where}: answers {max(count, 1)} crops with probabilities {list(probabilities.shape)} and embeddings "
            f"{list(embeddings.shape)}, expected a row of {classes} and one of embeddings for each; export the model "
            "again"
        )
    sums = probabilities.sum(axis=1)
    if probabilities.min() < -_ROUNDING or np.abs(sums - 1).max() > _ROUNDING:
        raise MienError(
            f"{where}: answers with probabilities from {probabilities.min():.3g} to {probabilities.max():.3g} that add "
            f"up to {sums.min():.3g} to {sums.max():.3g}, expected 0 to 1 and 1; export the model again"
        )
    return Answers(probabilities[:count], embeddings[:count])


def _session(path: Path, device: str) -> Any:
    import onnxruntime

    providers = _providers(device, onnxruntime.get_available_providers())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong is told by the exception
    # Its own threads would share out every layer, and turn in wait for the next one: that takes the cores from the
    # search for the next face. Several crops are shared out whole instead.
    options.intra_op_num_threads = 1
    if not path.is_file():
        raise MienError(f"{path}: no such file; give a file that `mien export` wrote")
    try:
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=providers)
    except OSError as error:
        raise MienError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    except Exception as error:  # ONNX Runtime has a class of its own for each of its codes, none of them public
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MienError(
            f"{path}: is no ONNX file that can be read ({reason}); copy it again, or write it with `mien export`"
        ) from error
    wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if session.get_providers()[0] != wanted and device != "auto":
        raise MienError(f"device: got {device}, which ONNX Runtime could not start; use cpu, or check the driver")
    return session


def _providers(device: str, available: list[str]) -> list[Any]:
    """What ONNX Runtime is to run on, in its words."""
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and (kind != "cuda" or not number.isdecimal())):
        raise MienError(f"device: got {device}, expected auto, cpu, cuda or cuda:N for a model in ONNX")
    cuda = "CUDAExecutionProvider"
    if kind == "cuda" and cuda not in available:
        raise MienError(
            f"device: got {device}, which the installed ONNX Runtime cannot use; use cpu, or install onnxruntime-gpu "
            "in place of onnxruntime"
        )
    if kind == "cpu" or cuda not in available:
        return ["CPUExecutionProvider"]
    return [(cuda, {"device_id": number or "0"}), "CPUExecutionProvider"]


def _metadata(path: Path, session: Any) -> dict[str, Any]:
    """What ``mien export`` noted in the file, held to the shapes of its input and outputs."""
    try:
        found = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
        (faces,), outputs = session.get_inputs(), {output.name: output for output in session.get_outputs()}
        size, colours = found["image_size"], [] if found["grey"] else [3]
        fits = (faces.name, faces.type, faces.shape[1:]) == (INPUT, "tensor(uint8)", [size, size, *colours])
        fits &= outputs["probabilities"].shape[1:] == [len(found["names"])] and "embedding" in outputs
        fits &= all(outputs[name].type == "tensor(float)" for name in OUTPUTS)
        fits &= type(size) is int and 1 <= size <= _LARGEST_IMAGE and type(found["grey"]) is bool
        fits &= _is_face_size(found.get("face_size", size), size)
        fits &= all(_is_share(found[name]) for name in ("threshold", "stated_accuracy"))
        names = found["names"]
        fits &= isinstance(names, list) and all(isinstance(name, str) and name.strip() for name in names)
        fits &= len(set(names)) == len(names) > 1
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise _foreign(path) from error
    if not fits:
        raise _foreign(path)
    return found


def _is_face_size(value: Any, image_size: int) -> bool:
    return type(value) is int and image_size <= value <= 2 * image_size and (value - image_size) % 2 == 0


def _is_share(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 0 <= value <= 1)


def _foreign(path: Path) -> MienError:
    return MienError(f"{path}: is an ONNX file of another kind, expected one that `mien export` wrote; export the "
                     "model with it")  # fmt: skip
