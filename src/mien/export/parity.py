"""Holding exported files to PyTorch: what each engine answers to the same crops, and how fast."""

from __future__ import annotations

import io
import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from mien.errors import MienError
from mien.export.graph import INPUT
from mien.model.preprocessing import Preprocessing, tensor, to_luma
from mien.recognition.engine import BATCH, Answers, Engine

TOLERANCE = 1e-4
"""Largest difference of a float32 file's probabilities from PyTorch's."""

MOST_LOST = 0.3
"""Points of accuracy that an int8 file may lose on the split."""


@dataclass(frozen=True)
class Parity:
    """What an engine made of crops, beside what PyTorch made of them.

    Attributes:
        largest_difference: of any probability.
        mean_difference: of the probabilities, their absolute values averaged.
        largest_embedding_difference: of any component of an embedding.
        agreement: share of the crops to which it gives the same label, in [0, 1].
        accuracy: share of the crops that it labels as the data does; None where the crops have no labels.
        rate: crops a second.
    """

    largest_difference: float
    mean_difference: float
    largest_embedding_difference: float
    agreement: float
    accuracy: float | None
    rate: float


class Comparison:
    """Lets engines read the same crops, and holds each to the first.

    Args:
        engine: what the others are held against.
        crops: as the engines read them, N of at least 1.
        labels: int64 [N], positions in the engines' names, or None.
    """

    def __init__(self, engine: Engine, crops: np.ndarray, labels: np.ndarray | None) -> None:
        self._crops, self._labels = crops, labels
        self._reference: Answers | None = None
        self.reference = self.parity(engine)

    def parity(self, engine: Engine) -> Parity:
        """Reads the crops, and a batch of them before, in which memory is set up and which no clock sees."""
        engine.read(self._crops[:BATCH])
        started = time.perf_counter()
        answers = engine.read(self._crops)
        rate = len(self._crops) / (time.perf_counter() - started)
        self._reference = self._reference or answers
        return _parity(answers, self._reference, self._labels, rate)


def lost(parity: Parity, reference: Parity) -> float:
    """Points of accuracy that an engine loses; below 0 where it gains some."""
    if parity.accuracy is None or reference.accuracy is None:
        raise ValueError("expected crops with labels")
    return 100 * (reference.accuracy - parity.accuracy)


def choose(candidates: Mapping[str, Parity], reference: Parity) -> tuple[str, str]:
    """Chooses static or dynamic int8, and says why.

    Static, unless it loses more than ``MOST_LOST`` and dynamic loses less: with dynamic ranges the answer to a face
    depends on the other faces of its batch, and so on the number of threads.
    """
    losses = {name: lost(parity, reference) for name, parity in candidates.items()}
    best = min(losses, key=lambda name: losses[name])
    told = " and ".join(f"{name} {loss:+.2f}" for name, loss in losses.items())
    if len(losses) == 1:
        return best, f"points lost: {told}; the only way open to this network and data"
    if losses.get(STATIC, np.inf) <= MOST_LOST:
        return STATIC, f"points lost: {told}; static, as its answers do not depend on the batch"
    return best, f"points lost: {told}"


def check_float(parity: Parity, tolerance: float, where: str) -> None:
    """Holds a float32 file to its tolerance.

    Raises:
        MienError: its probabilities differ by more.
    """
    if not parity.largest_difference <= tolerance:
        raise MienError(
            f"{where}: ONNX Runtime's probabilities differ from PyTorch's by up to {parity.largest_difference:.1e}, "
            f"expected at most {tolerance:.1e}; nothing was written; give a larger --tolerance if that will do"
        )


def check_int8(parity: Parity, reference: Parity, where: str) -> None:
    """Holds an int8 file to ``MOST_LOST``.

    Raises:
        MienError: it loses more accuracy.
    """
    loss = lost(parity, reference)
    if not loss <= MOST_LOST:
        raise MienError(
            f"{where}: int8 loses {loss:.2f} points of accuracy and agrees with PyTorch in {parity.agreement:.1%}, "
            f"expected a loss of at most {MOST_LOST}; nothing was written; leave out --int8"
        )


def crops_of(images: np.ndarray, preprocessing: Preprocessing, grey: bool) -> np.ndarray:
    """Pictures of a data set as an engine reads them.

    Args:
        images: uint8 [N, H, W] or [N, H, W, 3].
        preprocessing: how they are framed, and to what size.
        grey: whether the engine reads luma.

    Returns:
        uint8 [N, S, S] where ``grey``, else uint8 [N, S, S, 3].
    """
    found = []
    for start in range(0, len(images), BATCH):
        batch = tensor(images[start : start + BATCH])
        planes = preprocessing.frame(batch.unsqueeze(1) if batch.ndim == 3 else batch.movedim(-1, 1))
        if grey and planes.shape[1] == 3:
            planes = to_luma(planes.float()).round().to(torch.uint8)
        found.append((planes[:, 0] if grey else planes.expand(-1, 3, -1, -1).movedim(1, -1)).numpy())
    return np.ascontiguousarray(np.concatenate(found))


def random_crops(image_size: int, grey: bool, count: int = 256) -> np.ndarray:
    """Crops without a face, uint8: from flat to noisy, of every brightness."""
    rng = np.random.default_rng(0)
    shape = (count, image_size, image_size) if grey else (count, image_size, image_size, 3)
    level, spread = (rng.uniform(0, most, (count, *[1] * (len(shape) - 1))) for most in (255, 100))
    return np.clip(rng.normal(level, spread, shape), 0, 255).astype(np.uint8)


def table(parities: Mapping[str, Parity], sizes: Mapping[str, int]) -> str:
    """The comparison for a person; rates as multiples of the first engine's, sizes in bytes as MiB."""
    heads = ("", "accuracy", "agreement", "largest difference", "mean difference", "rate", "MiB")
    rows: list[tuple[str, ...]] = [heads]
    first = next(iter(parities.values()))
    for name, parity in parities.items():
        accuracy = "" if parity.accuracy is None else f"{parity.accuracy:.2%}"
        size = f"{sizes[name] / 2**20:.1f}" if name in sizes else ""
        ratio = f"{parity.rate / first.rate:.2f}x"
        differences = (f"{parity.largest_difference:.1e}", f"{parity.mean_difference:.1e}")
        rows.append((name, accuracy, f"{parity.agreement:.2%}", *differences, ratio, size))
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def as_json(parities: Mapping[str, Parity], reference: Parity) -> dict[str, Any]:
    """The comparison for ``parity.json``, each rate also as a multiple of the reference's."""
    return {name: {**asdict(parity), "rate_ratio": parity.rate / reference.rate} for name, parity in parities.items()}


def _parity(answers: Answers, reference: Answers, labels: np.ndarray | None, rate: float) -> Parity:
    differences = np.abs(answers.probabilities.astype(np.float64) - reference.probabilities)
    found, expected = answers.probabilities.argmax(1), reference.probabilities.argmax(1)
    return Parity(
        largest_difference=float(differences.max()),
        mean_difference=float(differences.mean()),
        largest_embedding_difference=float(np.abs(answers.embeddings - reference.embeddings).max()),
        agreement=float((found == expected).mean()),
        accuracy=None if labels is None else float((found == labels).mean()),
        rate=rate,
    )


STATIC, DYNAMIC = "static", "dynamic"
CALIBRATION = 512
"""Faces of the training split by which static quantisation finds the range of each activation."""

PERCENTILE = 99.99
"""Share of the activations, in percent, that the fixed ranges of static quantisation hold.

A few are far larger than all others, and a range for them too would leave coarse steps to the rest.
"""

_BATCH = 64
_MULTIPLYING = ("MatMul", "Gemm", "Conv")


def quantised(model: Path, folder: Path, calibration: np.ndarray | None) -> dict[str, Path]:
    """Writes int8 versions of an exported model.

    The products with weights are quantised, one scale for each output; all else, the first of them (which reads the
    pixels), the last (the head) and attention itself stay float32. Weights keep to seven of their eight bits: on
    processors without VNNI, ONNX Runtime adds pairs of products in 16 bits, and eight would overflow there.

    Args:
        model: an ONNX file of ``mien.export.graph``.
        folder: where to write.
        calibration: uint8 [M, ...], faces as the model reads them, for static quantisation.

    Returns:
        The file of each way: ``static``, where there are faces to calibrate with (the range of each activation is
        fixed, and a face is read the same whatever else is in its batch), and ``dynamic``, where the network has
        matrix products (the range is that of the batch at hand).
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = folder / "prepared.onnx"
    found: dict[str, Path] = {}
    with _quiet():
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        nodes = _products(onnx.load(prepared))
        kinds = sorted(set(nodes.values()))
        options = {"per_channel": True, "reduce_range": True, "weight_type": QuantType.QInt8}
        if calibration is not None and nodes:
            found[STATIC] = folder / "static.onnx"
            quantize_static(
                str(prepared),
                str(found[STATIC]),
                _faces(calibration),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=kinds,
                nodes_to_quantize=list(nodes),
                activation_type=QuantType.QUInt8,
                # What leaves a matrix product is added to, normalised or bent at once: rounding it would gain nothing.
                extra_options={
                    "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
                    "CalibPercentile": PERCENTILE,
                },
                calibrate_method=CalibrationMethod.Percentile,
                **options,
            )
        matrices = [name for name, kind in nodes.items() if kind != "Conv"]
        if matrices:
            found[DYNAMIC] = folder / "dynamic.onnx"
            quantize_dynamic(
                str(prepared),
                str(found[DYNAMIC]),
                op_types_to_quantize=[kind for kind in kinds if kind != "Conv"],
                nodes_to_quantize=matrices,
                **options,
            )
    for path in found.values():
        _keep_metadata(model, path)
    return found


def _products(model: onnx.ModelProto) -> dict[str, str]:
    """Name and kind of the products with weights, without the first and the last."""
    weights = {weight.name for weight in model.graph.initializer}
    found = {
        node.name: node.op_type
        for node in model.graph.node
        if node.op_type in _MULTIPLYING and node.input[1] in weights
    }
    return dict(list(found.items())[1:-1])


def _faces(calibration: np.ndarray) -> object:
    """What ``quantize_static`` reads faces from."""
    from onnxruntime.quantization import CalibrationDataReader

    class Faces(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[np.ndarray] = iter(
                [calibration[start : start + _BATCH] for start in range(0, len(calibration), _BATCH)]
            )

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch}

    return Faces()


def _keep_metadata(model: Path, path: Path) -> None:
    """Gives a quantised file what the file it came from says of itself."""
    original, quantised_model = onnx.load(model), onnx.load(path)
    onnx.helper.set_model_props(quantised_model, {entry.key: entry.value for entry in original.metadata_props})
    quantised_model.producer_name, quantised_model.producer_version = original.producer_name, original.producer_version
    onnx.save(quantised_model, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what ONNX Runtime's tools print, and the advice that they log on the root logger, off the terminal."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
