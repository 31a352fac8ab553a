"""Makes the engine for a model: ONNX Runtime or PyTorch."""

from __future__ import annotations

import os

from mien.errors import MienError
from mien.model.places import find
from mien.recognition.engine import Engine, OnnxEngine

KINDS: tuple[str, ...] = ("auto", "onnx", "torch")


def engine(
    model: str | os.PathLike[str] | None, kind: str = "auto", device: str = "auto", threads: int | None = None
) -> Engine:
    """Loads a model in the engine that fits it.

    Args:
        model: as for ``mien.model.places.find``; None for the shipped weights.
        kind: onnx, torch, or auto: ONNX Runtime if the model has an ONNX file, else torch.
        device: auto, cpu, cuda or cuda:N; for torch also mps.
        threads: processor threads; None for the engine's default.

    Raises:
        MienError: there is no such model or device, the model lacks the form that ``kind`` needs, or torch is needed
            and not installed.
    """
    if kind not in KINDS:
        raise MienError(f"engine: got {kind}, expected {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    files = find(model)
    if files.onnx is not None and kind != "torch":
        return OnnxEngine(files.onnx, device, threads)
    if files.folder is None:
        raise MienError(f"{files.onnx}: is ONNX, which torch does not read; leave out the engine torch, or give "
                        "the folder that `mien train` wrote")  # fmt: skip
    if kind == "onnx":
        raise MienError(f"{files.folder}: holds no model.onnx; write one with `mien export {files.folder} --out DIR`, "
                        "and give DIR")  # fmt: skip
    try:
        from mien.recognition.torch_engine import TorchEngine
    except ModuleNotFoundError as error:
        raise MienError(
            f"{files.folder}: needs {error.name}, which is not installed; pip install 'mien[train]' brings it, or "
            "give a folder that `mien export` wrote"
        ) from error
    return TorchEngine.load(files.folder, device, threads)
