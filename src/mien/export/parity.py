"""Compares exported files with PyTorch on the same crops, and writes int8 versions of an exported file."""

from __future__ import annotations

import io
import logging
import math
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import torch

from mien.errors import MienError
from mien.export.graph import INPUT
from mien.log import LOGGER
from mien.model.preprocessing import Preprocessing, tensor, to_luma
from mien.recognition.engine import BATCH, Answers, Engine
from mien.text import aligned

TOLERANCE = 1e-4
"""Largest difference of a float32 file's probabilities from PyTorch's."""

MOST_LOST = 0.3
"""Largest loss of an int8 file on the split, in points of accuracy."""

CLOSE = 0.002
"""Mean difference of the probabilities up to which static int8 is near enough that no other kind is tried."""


@dataclass(frozen=True)
class Parity:
    """The answers of an engine compared with those of PyTorch.

    Attributes:
        largest_difference: largest absolute difference of a probability.
        mean_difference: mean absolute difference of the probabilities.
        largest_embedding_difference: largest absolute difference of a component of an embedding.
        agreement: share of the crops with the same label, in [0, 1].
        accuracy: share of the crops with the correct label, in [0, 1]; None if the crops have no labels.
        rate: crops per second.
    """

    largest_difference: float
    mean_difference: float
    largest_embedding_difference: float
    agreement: float
    accuracy: float | None
    rate: float


class Comparison:
    """Runs engines on the same crops and compares each with the first.

    Args:
        engine: the reference.
        crops: input of the engines, N of at least 1.
        labels: int64 [N], positions in the engines' names, or None.
    """

    def __init__(self, engine: Engine, crops: np.ndarray, labels: np.ndarray | None) -> None:
        self._crops, self._labels = crops, labels
        self._reference: Answers | None = None
        self.reference = self.parity(engine)

    def parity(self, engine: Engine) -> Parity:
        """Compares an engine with the reference; a first batch, which sets up memory, is not timed."""
        engine.read(self._crops[:BATCH])
        started = time.perf_counter()
        answers = engine.read(self._crops)
        rate = len(self._crops) / (time.perf_counter() - started)
        self._reference = self._reference or answers
        return _parity(answers, self._reference, self._labels, rate)


def lost(parity: Parity, reference: Parity) -> float:
    """Points of accuracy that an engine loses; below 0 if it gains."""
    if parity.accuracy is None or reference.accuracy is None:
        raise ValueError("expected crops with labels")
    return 100 * (reference.accuracy - parity.accuracy)


def choose(candidates: Mapping[str, Parity], reference: Parity) -> tuple[str, str]:
    """Chooses a kind of int8; returns its name and the reason.

    Of those that lose at most ``MOST_LOST`` points, or of all if none does, the one whose probabilities are nearest to
    the reference's.
    """
    losses = {name: lost(parity, reference) for name, parity in candidates.items()}
    fitting = [name for name, loss in losses.items() if loss <= MOST_LOST] or list(losses)
    lost_by = " and ".join(f"{name} {loss:+.2f}" for name, loss in losses.items())
    differing_by = " and ".join(f"{name} {parity.mean_difference:.4f}" for name, parity in candidates.items())
    nearest = min(fitting, key=lambda name: candidates[name].mean_difference)
    return nearest, f"points lost: {lost_by}; mean difference of a probability: {differing_by}; {nearest} was taken"


def near(parity: Parity, reference: Parity) -> bool:
    """Whether an int8 file loses at most ``MOST_LOST`` points and its probabilities differ by at most ``CLOSE``."""
    return lost(parity, reference) <= MOST_LOST and parity.mean_difference <= CLOSE


def check_float(parity: Parity, tolerance: float, where: str) -> None:
    """Checks a float32 file against its tolerance.

    Raises:
        MienError: its probabilities differ by more.
    """
    if not parity.largest_difference <= tolerance:
        raise MienError(
            f"{where}: ONNX Runtime's probabilities differ from PyTorch's by up to {parity.largest_difference:.1e}, "
            f"expected at most {tolerance:.1e}; nothing was written; `mien export` takes a larger --tolerance"
        )


def check_int8(parity: Parity, reference: Parity, where: str) -> None:
    """Checks an int8 file against ``MOST_LOST``.

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
    """Turns pictures of a data set into crops for an engine.

    Args:
        images: uint8 [N, H, W] or [N, H, W, 3].
        preprocessing: of the network.
        grey: whether the engine reads luma.

    Returns:
        uint8 [N, S, S] if ``grey``, else uint8 [N, S, S, 3].
    """
    crops = []
    for start in range(0, len(images), BATCH):
        batch = tensor(images[start : start + BATCH])
        planes = preprocessing.frame(batch.unsqueeze(1) if batch.ndim == 3 else batch.movedim(-1, 1))
        if grey and planes.shape[1] == 3:
            planes = to_luma(planes.float()).round().to(torch.uint8)
        crops.append((planes[:, 0] if grey else planes.expand(-1, 3, -1, -1).movedim(1, -1)).numpy())
    return np.ascontiguousarray(np.concatenate(crops))


def random_crops(image_size: int, grey: bool, count: int = 256) -> np.ndarray:
    """Random crops without a face, uint8: from flat to noisy, of every brightness."""
    rng = np.random.default_rng(0)
    shape = (count, image_size, image_size) if grey else (count, image_size, image_size, 3)
    level, spread = (rng.uniform(0, most, (count, *[1] * (len(shape) - 1))) for most in (255, 100))
    return np.clip(rng.normal(level, spread, shape), 0, 255).astype(np.uint8)


def table(parities: Mapping[str, Parity], sizes: Mapping[str, int]) -> str:
    """The comparison as text; rates are multiples of the first engine's, ``sizes`` are in bytes."""
    rows = [("", "accuracy", "agreement", "largest difference", "mean difference", "rate", "MiB")]
    first = next(iter(parities.values()))
    for name, parity in parities.items():
        accuracy = "" if parity.accuracy is None else f"{parity.accuracy:.2%}"
        size = f"{sizes[name] / 2**20:.1f}" if name in sizes else ""
        ratio = f"{parity.rate / first.rate:.2f}x"
        differences = (f"{parity.largest_difference:.1e}", f"{parity.mean_difference:.1e}")
        rows.append((name, accuracy, f"{parity.agreement:.2%}", *differences, ratio, size))
    return aligned(rows)


def as_json(parities: Mapping[str, Parity], reference: Parity) -> dict[str, Any]:
    """The comparison for ``parity.json``; ``rate_ratio`` is a multiple of the reference's rate."""
    return {name: {**asdict(parity), "rate_ratio": parity.rate / reference.rate} for name, parity in parities.items()}


def _parity(answers: Answers, reference: Answers, labels: np.ndarray | None, rate: float) -> Parity:
    differences = np.abs(answers.probabilities.astype(np.float64) - reference.probabilities)
    predicted, expected = answers.probabilities.argmax(1), reference.probabilities.argmax(1)
    return Parity(
        largest_difference=float(differences.max()),
        mean_difference=float(differences.mean()),
        largest_embedding_difference=float(np.abs(answers.embeddings - reference.embeddings).max()),
        agreement=float((predicted == expected).mean()),
        accuracy=None if labels is None else float((predicted == labels).mean()),
        rate=rate,
    )


STATIC, PARTLY = "static", "partly static"
CALIBRATION = 512
"""Faces of the training split from which static quantisation measures the range of each activation."""

PERCENTILE = 99.99
"""Percentage of the activations inside the fixed ranges of static quantisation.

A few activations are far larger than all others; a range that holds them too would leave coarse steps for the rest.
"""

_BATCH = 64
_MEMORY = 2 * 2**30
"""Bytes of activations that calibration holds at a time: those of all faces for `mini`, of a batch for larger networks.

ONNX Runtime keeps the activations of all faces until the last; a ViT-Base on 224 pixels would need some 80 GB.
"""

_MULTIPLYING = ("MatMul", "Gemm", "Conv")


def quantised(model: Path, folder: Path, calibration: np.ndarray, *, partly: bool = False) -> Path | None:
    """Writes an int8 version of an exported model, whose answer to a face does not depend on the rest of its batch.

    Products with weights are quantised, with one scale for each output. The first of them (which reads the pixels), the
    last (the head), attention itself and everything else stay float32. Weights use only seven of eight bits: on
    processors without VNNI, ONNX Runtime adds pairs of products in 16 bits, where eight bits would overflow.

    Args:
        model: an ONNX file of ``mien.export.graph``.
        folder: of the new file.
        calibration: uint8 [M, ...], crops that fix the ranges of the activations.
        partly: write ``partly static``, which is for networks whose ``static`` loses too much: the first quarter of the
            products is computed in float32, since their rounding errors go through all others. The weights of that
            quarter are stored in eight bits, too, so the file is as small.

    Returns:
        The file; None if the network has no products to quantise.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, file = folder / "prepared.onnx", folder / f"{PARTLY if partly else STATIC}.onnx"
    with _quiet():
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        network = onnx.load(prepared)
        nodes = _products(network)
        if not nodes:
            return None
        left = len(nodes) // 4 if partly else 0
        faces, in_parts = _faces(calibration, _activations(network, nodes))
        quantize_static(
            str(prepared),
            str(file),
            faces,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=sorted(set(nodes.values())),
            nodes_to_quantize=list(nodes)[left:],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={
                # The next operator uses the output of a matrix product in float32: rounding it would gain nothing.
                "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
                "CalibPercentile": PERCENTILE,
                **({"CalibStridedMinMax": 1} if in_parts else {}),  # for percentiles too, whatever its name
            },
            calibrate_method=CalibrationMethod.Percentile,
        )
        if left:
            _store_in_eight_bits(file, list(nodes)[:left])
    _keep_metadata(model, file)
    return file


def _products(model: onnx.ModelProto) -> dict[str, str]:
    """Names and operators of the products with weights, without the first and the last."""
    weights = {weight.name for weight in model.graph.initializer}
    products = {
        node.name: node.op_type
        for node in model.graph.node
        if node.op_type in _MULTIPLYING and node.input[1] in weights
    }
    return dict(list(products.items())[1:-1])


def _store_in_eight_bits(path: Path, names: Sequence[str]) -> None:
    """Rewrites a file so that some products, which stay float32, keep their weights as int8 with a scale per output.

    The weights are made again by a Cast and a Mul of constants, which ONNX Runtime computes once, when it loads the
    file; a DequantizeLinear it would compute again for every batch. All eight bits are used: nothing adds the integers.
    """
    network = onnx.load(path)
    weights = {weight.name: weight for weight in network.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in network.graph.node:
        weight = weights.pop(node.input[1], None) if node.name in names else None
        if weight is not None:
            values, name = onnx.numpy_helper.to_array(weight), weight.name
            transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            output = 0 if node.op_type == "Conv" or transposed else values.ndim - 1
            others = tuple(axis for axis in range(values.ndim) if axis != output)
            scale = np.abs(values).max(others, keepdims=True) / np.float32(127)
            scale[scale == 0] = 1
            network.graph.initializer.remove(weight)
            for part, content in (("int8", np.round(values / scale).astype(np.int8)), ("scale", scale)):
                network.graph.initializer.append(onnx.numpy_helper.from_array(content, f"{name}.{part}"))
            nodes.append(onnx.helper.make_node("Cast", [f"{name}.int8"], [f"{name}.cast"], to=onnx.TensorProto.FLOAT))
            nodes.append(onnx.helper.make_node("Mul", [f"{name}.cast", f"{name}.scale"], [name]))
        nodes.append(node)
    del network.graph.node[:]
    network.graph.node.extend(nodes)
    onnx.save(network, path)


def _activations(network: onnx.ModelProto, nodes: Mapping[str, str]) -> int:
    """Bytes of the activations before and after some products, for one face."""
    used = {name for node in network.graph.node if node.name in nodes for name in (node.input[0], node.output[0])}
    values = onnx.shape_inference.infer_shapes(network, data_prop=True).graph.value_info
    shapes = {value.name: value.type.tensor_type.shape.dim for value in values}
    # The number of faces is no fixed size, and counts as 1.
    return 4 * sum(math.prod(size.dim_value or 1 for size in shapes[name]) for name in used & shapes.keys())


def _faces(calibration: np.ndarray, activations: int) -> tuple[Any, bool]:
    """The reader of batches that ``quantize_static`` expects, and whether each is to be evaluated for itself.

    All batches have one size, as ONNX Runtime joins the activations of all; a few faces at the end are left out for it.

    Args:
        calibration: uint8 [M, ...], crops.
        activations: bytes that a face takes (``_activations``).
    """
    from onnxruntime.quantization import CalibrationDataReader

    fitting = max(1, _MEMORY // max(1, activations))
    largest = min(_BATCH, fitting)
    size = len(calibration) // -(-len(calibration) // largest)

    class Faces(CalibrationDataReader):
        def __init__(self) -> None:
            starts = range(0, len(calibration) - size + 1, size)
            self.batches = [calibration[start : start + size] for start in starts]
            self.set_range(0, len(self.batches))

        def __len__(self) -> int:
            return len(self.batches)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.rest = iter(self.batches[start_index:end_index])

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.rest, None)
            return None if batch is None else {INPUT: batch}

    return Faces(), fitting < len(calibration)


def _keep_metadata(model: Path, path: Path) -> None:
    """Copies the metadata of an exported file to its quantised version."""
    original, quantised_model = onnx.load(model), onnx.load(path)
    onnx.helper.set_model_props(quantised_model, {entry.key: entry.value for entry in original.metadata_props})
    quantised_model.producer_name, quantised_model.producer_version = original.producer_name, original.producer_version
    onnx.save(quantised_model, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences ONNX Runtime's tools, which print, warn, and log advice on the root logger.

    Their modules get a logger of Mien's in place of the module ``logging``: the root logger belongs to the program, and
    ``logging.info`` would even give it a handler.
    """
    advice = LOGGER.getChild("onnxruntime")
    advice.setLevel(logging.ERROR)
    with ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith("onnxruntime.quantization") and getattr(module, "logging", None) is logging:
                stack.enter_context(patch.object(module, "logging", advice))
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield
