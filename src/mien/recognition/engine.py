"""The interface of an engine, which turns face crops into probabilities; the engine on ONNX Runtime and its devices."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from mien.data.sources import open_file
from mien.errors import NO_NUMBERS, MienError, first_line
from mien.limits import LARGEST_IMAGE
from mien.machine import cores, threaded_map
from mien.model.places import find
from mien.recognition.arguments import whole_number

BATCH = 64
"""Most crops in a forward pass; above about eight, a larger batch is no faster and takes more memory."""

_ROUNDING = 1e-3
"""Tolerance for probabilities outside [0, 1] and sums other than 1: about the error of bfloat16."""

INPUT, OUTPUTS = "faces", ["probabilities", "embedding"]
"""Names of the input and the outputs in an exported file."""


@dataclass(frozen=True)
class Answers:
    """A network's answers to N crops.

    Attributes:
        probabilities: float32 [N, C], calibrated; rows sum to 1.
        embeddings: float32 [N, D], the [CLS] vectors after the last norm.
    """

    probabilities: np.ndarray
    embeddings: np.ndarray


class Engine(Protocol):
    """A network that reads face crops.

    An engine may also have the attribute ``face_size`` (see the function of that name); else it reads whole faces.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """The expressions, in the order of the columns of the probabilities."""

    @property
    def image_size(self) -> int:
        """Height and width S of the crops, in pixels."""

    @property
    def grey(self) -> bool:
        """True if crops are uint8 [N, S, S] luma, False if they are uint8 [N, S, S, 3] RGB."""

    @property
    def threshold(self) -> float | None:
        """The probability below which an answer is uncertain; infinity if every answer is (``sure_from``), None if the
        model was not calibrated."""

    @property
    def stated_accuracy(self) -> float | None:
        """The accuracy in [0, 1] that the model promises for answers at or above ``threshold``; None if it was not
        calibrated."""

    def read(self, crops: np.ndarray, /) -> Answers:
        """Reads crops, uint8 [N, S, S] or [N, S, S, 3]; N may be 0."""


def face_size(engine: Engine) -> int:
    """Returns the side in pixels to which a whole face is resized; the engine reads the middle ``image_size`` of it.

    A network that was trained on enlarged views reads a face best at the same enlargement.
    """
    size: int = getattr(engine, "face_size", engine.image_size)
    return size


def sure_from(threshold: float | None, stated_accuracy: float | None) -> float | None:
    """Returns the probability below which an answer is uncertain.

    Args:
        threshold: the model's threshold; None if it has none.
        stated_accuracy: accuracy that calibration aimed at; None if the model was not calibrated.

    Returns:
        The threshold, or infinity if no threshold reached the accuracy, so that every answer is uncertain; None if the
        model was not calibrated.
    """
    return math.inf if threshold is None and stated_accuracy is not None else threshold


# Devices: their names, and what ONNX Runtime calls them.

DeviceName = Literal[
    "auto", "cpu", "gpu", "cuda", "cuda:0", "cuda:1", "cuda:2", "cuda:3", "cuda:4", "cuda:5", "cuda:6", "cuda:7", "mps",
    "coreml", "directml", "openvino",
]  # fmt: skip


class TorchDevice(Protocol):
    """The part of ``torch.device`` that is read; torch itself is not needed."""

    @property
    def type(self) -> str: ...

    @property
    def index(self) -> Any: ...


Device: TypeAlias = DeviceName | int | TorchDevice
"""What ``device`` accepts: a name, the number of a CUDA device, or a ``torch.device``."""

DEVICES = (
    "auto, cpu, gpu, cuda, cuda:N, mps, coreml, directml or openvino, the number of a CUDA device, or a torch.device"
)
"""The values that ``device`` accepts, as messages list them."""

# ONNX Runtime's name of each provider, and where it comes from; the packages replace onnxruntime.
_PROVIDERS: dict[str, tuple[str, str]] = {
    "cuda": ("CUDAExecutionProvider", "onnxruntime-gpu, in place of onnxruntime, brings it"),
    "coreml": ("CoreMLExecutionProvider", "onnxruntime brings it on macOS only"),
    "directml": ("DmlExecutionProvider", "onnxruntime-directml, in place of onnxruntime, brings it on Windows"),
    "openvino": ("OpenVINOExecutionProvider", "onnxruntime-openvino, in place of onnxruntime, brings it"),
}
_CPU = "CPUExecutionProvider"


def device_name(device: object) -> str:
    """Returns a device in one spelling: auto, cpu, gpu, cuda, cuda:N, mps, coreml, directml or openvino.

    Args:
        device: as ``Device``; the number of a CUDA device may also be a text.

    Raises:
        MienError: it is no such value.
    """
    number = whole_number(device)
    if number is not None:
        device = str(number)
    kind = getattr(device, "type", None)
    if isinstance(kind, str):  # a torch.device
        index = getattr(device, "index", None)
        device = kind if index is None or kind != "cuda" else f"{kind}:{index}"
    if isinstance(device, str):
        text = device.strip().lower()
        text = f"cuda:{text}" if text.isdecimal() else text
        kind, separator, digits = text.partition(":")
        plain = kind in ("auto", "cpu", "gpu", "mps", *_PROVIDERS) and not separator
        if plain or (kind == "cuda" and digits.isdecimal()):
            return f"cuda:{int(digits)}" if digits else kind
    raise MienError(f"device: got {device}, expected {DEVICES}")


def provider_of(device: str, available: Sequence[str]) -> str | None:
    """Returns the kind of provider that ONNX Runtime uses for a device: cpu, cuda, coreml, directml or openvino.

    ``auto`` is CUDA or else the processor; ``gpu`` the first of CUDA, Core ML and DirectML.

    Args:
        device: as ``device_name`` returns it.
        available: ONNX Runtime's names of the providers of this installation.

    Returns:
        None if the installed ONNX Runtime cannot use the device.
    """
    kind = device.partition(":")[0]
    usable = [name for name, (provider, _) in _PROVIDERS.items() if provider in available]
    if kind == "auto":
        return "cuda" if "cuda" in usable else "cpu"
    if kind == "gpu":
        return next((name for name in ("cuda", "coreml", "directml") if name in usable), None)
    return kind if kind in ("cpu", *usable) else None


def providers(device: str, available: Sequence[str]) -> list[Any]:
    """Translates a device to ONNX Runtime's providers, the processor last.

    Raises:
        MienError: the installed ONNX Runtime cannot use the device; the message says what would.
    """
    kind = provider_of(device, available)
    if kind is None:
        wanted = device.partition(":")[0]
        if wanted in _PROVIDERS:
            source = _PROVIDERS[wanted][1]
        elif wanted == "mps":
            source = "only PyTorch uses MPS, on a Mac"
        else:
            source = "onnxruntime-gpu, in place of onnxruntime, brings CUDA"
        by_torch = ", or pip install 'mien[gpu]' to let PyTorch use the GPU" if wanted in ("cuda", "gpu", "mps") else ""
        raise MienError(
            f"device: got {device}, which the installed ONNX Runtime cannot use; use cpu ({source}){by_torch}"
        )
    if kind == "cpu":
        return [_CPU]
    number = device.partition(":")[2]
    provider = _PROVIDERS[kind][0]
    return [(provider, {"device_id": number or "0"}) if kind == "cuda" else provider, _CPU]


class OnnxEngine:
    """Reads crops with ONNX Runtime and a file of ``mien export``; the base install is enough.

    Args:
        path: the file.
        device: as ``Device``; auto is CUDA if this ONNX Runtime has it, else the processor.
        threads: processor threads that share the crops of a call; None for one a core, at most 8.

    Raises:
        MienError: the file is damaged or was not written by ``mien export``, or there is no such device.
    """

    def __init__(self, path: str | Path, device: object = "auto", threads: int | None = None) -> None:
        self.path = Path(path)
        device = device_name(device)
        self._arguments = (str(self.path.absolute()), device, threads)
        self._session = _session(self.path, device)
        self.provider: str = self._session.get_providers()[0]
        self._threads = (threads or cores()) if self.provider == "CPUExecutionProvider" else 1
        self._map = threaded_map(self._threads)
        # DirectML allows one run of a session at a time.
        self._turn = threading.Lock() if self.provider == "DmlExecutionProvider" else nullcontext()
        self.metadata = _metadata(self.path, self._session)
        self.names: tuple[str, ...] = tuple(self.metadata["names"])
        self.image_size: int = self.metadata["image_size"]
        self.face_size: int = self.metadata.get("face_size", self.image_size)  # files of Mien 0.1.0 lack it
        self.grey: bool = self.metadata["grey"]
        self.stated_accuracy: float | None = self.metadata["stated_accuracy"]
        self.threshold = sure_from(self.metadata["threshold"], self.stated_accuracy)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are loaded from the file again, as sessions cannot be copied."""
        return loaded_again, (OnnxEngine, *self._arguments)

    def __repr__(self) -> str:
        return f"OnnxEngine({str(self.path)!r}, provider={self.provider!r}, threads={self._threads})"

    def read(self, crops: np.ndarray, /) -> Answers:
        """Reads crops; see ``Engine``.

        Raises:
            MienError: the crops have another type or size, or an answer is NaN or infinity.
        """
        crops = check_crops(crops, self.image_size, self.grey)
        parts = batches(crops, self._threads)
        answers = [*(self._map if len(parts) > 1 else map)(self._read, parts)]
        return joined(answers, len(crops), self.path, len(self.names))

    def _read(self, batch: np.ndarray) -> list[np.ndarray]:
        try:
            with self._turn:
                outputs: list[np.ndarray] = self._session.run(OUTPUTS, {INPUT: batch})
        except Exception as error:
            raise runtime_error(error, f"{self.path}: fails when it reads faces", "export the model again") from error
        if any(len(values) != len(batch) for values in outputs):
            raise MienError(
                f"{self.path}: answers {len(batch)} crops with {len(outputs[0])} rows; export the model again"
            )
        return outputs


def loaded_again(load: Callable[[str, str, int | None], Engine], path: str, device: str, threads: int | None) -> Engine:
    """Loads the engine of a copy or a pickle; one that this process has loaded so far only if its files changed.

    A pool of processes gets a recognizer with every task, and loading its model takes longer than most tasks.

    Args:
        load: function that loads the model for a device and a number of threads.
        path: the whole path of the model, as the copy may be loaded in another folder.
        device: as ``device_name`` returns it.
        threads: processor threads; None for the engine's default.

    Raises:
        MienError: the model is no longer there, or cannot be loaded.
    """
    return _of_version(find(path).version(), load, path, device, threads)


@lru_cache(maxsize=4)
def _of_version(
    version: object, load: Callable[[str, str, int | None], Engine], path: str, device: str, threads: int | None
) -> Engine:
    return load(path, device, threads)


def check_crops(crops: np.ndarray, image_size: int, grey: bool) -> np.ndarray:
    """Returns the crops as a contiguous array that fits the network; grey crops become RGB for a colour network.

    Raises:
        MienError: the crops have another type or shape.
    """
    shape = (image_size, image_size)
    if crops.dtype == np.uint8 and not grey and crops.shape[1:] == shape:
        crops = np.repeat(crops[..., None], 3, axis=3)
    expected_shape = shape if grey else (*shape, 3)
    if crops.dtype != np.uint8 or crops.shape[1:] != expected_shape:
        expected = f"uint8 [N, {', '.join(map(str, expected_shape))}]"
        raise MienError(
            f"the crops are {crops.dtype} {list(crops.shape)}, expected {expected}; convert and resize them first"
        )
    return np.ascontiguousarray(crops)


def batches(crops: np.ndarray, threads: int = 1) -> list[np.ndarray]:
    """Splits crops into batches of at most ``BATCH``, and into at least one for each thread if there are enough crops.

    No crops become one black crop, since not every network accepts an empty batch; ``joined`` drops its answer.
    """
    if not len(crops):
        return [np.zeros((1, *crops.shape[1:]), crops.dtype)]
    size = min(BATCH, -(-len(crops) // threads))
    return [crops[start : start + size] for start in range(0, len(crops), size)]


def joined(parts: list[Any], count: int, where: str | Path, classes: int) -> Answers:
    """Joins and checks the answers to the ``batches`` of ``count`` crops.

    Args:
        parts: a pair of probabilities and embeddings for each batch.
        count: number of crops in all; for 0 there is the answer to one black crop.
        where: name of the model in messages.
        classes: expected number of columns of the probabilities.

    Raises:
        MienError: a value is NaN or infinity, a row is not a distribution, or the number of rows or columns is wrong.
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


def runtime_error(error: Exception, problem: str, remedy: str) -> Exception:
    """Returns the MemoryError or MienError to raise for an error of ONNX Runtime, whose own classes are not public."""
    if "alloc" in str(error).lower():  # also std::bad_alloc
        return MemoryError(str(error))
    return MienError(f"{problem} ({first_line(error)}); {remedy}")


def _session(path: Path, device: str) -> Any:
    """Loads an ONNX file in ONNX Runtime."""
    import onnxruntime

    chosen = providers(device, onnxruntime.get_available_providers())
    first_choice = chosen[0] if isinstance(chosen[0], str) else chosen[0][0]
    options = onnxruntime.SessionOptions()
    options.enable_mem_pattern = first_choice != "DmlExecutionProvider"  # which DirectML does not support
    options.log_severity_level = 4  # no messages on stderr: the exception reports what is wrong
    # ONNX Runtime's own threads would split every layer, and spin while they wait for the next one, which takes cores
    # from the detector. Instead, each thread gets whole crops.
    options.intra_op_num_threads = 1
    if not path.is_file():
        raise MienError(f"{path}: no such file; give a file that `mien export` wrote")
    with open_file(path) as stream:
        content = stream.read()
    try:
        session = onnxruntime.InferenceSession(content, options, providers=chosen)
    except Exception as error:  # ONNX Runtime raises its own classes, none of them public
        raise runtime_error(
            error, f"{path}: is not an ONNX file that can be read", "copy it again, or write it with `mien export`"
        ) from error
    if session.get_providers()[0] != first_choice and device != "auto":
        raise MienError(f"device: got {device}, which ONNX Runtime could not start; use cpu, or check the driver")
    return session


def _metadata(path: Path, session: Any) -> dict[str, Any]:
    """Reads what ``mien export`` noted in the file, and checks it against the shapes of the input and the outputs."""
    try:
        metadata = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
        (faces,), outputs = session.get_inputs(), {output.name: output for output in session.get_outputs()}
        size, colours = metadata["image_size"], [] if metadata["grey"] else [3]
        fits = (faces.name, faces.type, faces.shape[1:]) == (INPUT, "tensor(uint8)", [size, size, *colours])
        fits &= outputs["probabilities"].shape[1:] == [len(metadata["names"])] and "embedding" in outputs
        fits &= all(outputs[name].type == "tensor(float)" for name in OUTPUTS)
        fits &= type(size) is int and 1 <= size <= LARGEST_IMAGE and type(metadata["grey"]) is bool
        face_size = metadata.get("face_size", size)
        fits &= type(face_size) is int and size <= face_size <= 2 * size and (face_size - size) % 2 == 0
        shares = [metadata[name] for name in ("threshold", "stated_accuracy") if metadata[name] is not None]
        fits &= all(type(share) in (int, float) and 0 <= share <= 1 for share in shares)
        names = metadata["names"]
        fits &= isinstance(names, list) and all(isinstance(name, str) and name.strip() for name in names)
        fits &= len(set(names)) == len(names) > 1
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise _foreign(path) from error
    if not fits:
        raise _foreign(path)
    return metadata


def _foreign(path: Path) -> MienError:
    return MienError(f"{path}: is an ONNX file of another kind, expected one that `mien export` wrote; export the "
                     "model with it")  # fmt: skip
