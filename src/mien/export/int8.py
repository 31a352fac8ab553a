"""Eight-bit weights and activations: two ways to get there, between which the parity report decides."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx

from mien.export.vit_graph import INPUT

STATIC, DYNAMIC = "static", "dynamic"
CALIBRATION = 512
"""Faces of the training split by which static quantisation finds the range of each activation."""

_BATCH = 64
_MULTIPLYING = ("MatMul", "Gemm", "Conv")


def quantised(model: Path, folder: Path, calibration: np.ndarray | None) -> dict[str, Path]:
    """Writes int8 versions of an exported model.

    The products with weights are quantised, one scale for each output; all else, the first of them (which reads the
    pixels), the last (the head) and attention itself stay float32. Weights keep to seven of their eight bits: on
    processors without VNNI, ONNX Runtime adds pairs of products in 16 bits, and eight would overflow there.

    Args:
        model: an ONNX file of ``mien.export.onnx_model``.
        folder: where to write.
        calibration: uint8 [M, ...], faces as the model reads them, for static quantisation.

    Returns:
        The file of each way: ``static``, where there are faces to calibrate with (the range of each activation is
        fixed, and a face is read the same whatever else is in its batch), and ``dynamic``, where the network has
        matrix products (the range is that of the batch at hand).
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
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
                extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
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
    """Keeps the advice that ONNX Runtime's tools log on the root logger off the terminal."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
