"""The engine that reads faces with a model: ONNX Runtime, or torch if it is installed."""

from __future__ import annotations

import os

from mien.errors import MienError
from mien.recognition.engine import Engine, OnnxEngine
from mien.recognition.models import find

KINDS: tuple[str, ...] = ("auto", "onnx", "torch")


def engine(
    model: str | os.PathLike[str] | None, kind: str = "auto", device: str = "auto", threads: int | None = None
) -> Engine:
    """The engine for a model.

    Args:
        model: as ``mien.recognition.models.find`` takes it; None means the shipped weights.
        kind: onnx, torch, or auto: ONNX Runtime where the model is there as ONNX, else torch.
        device: auto, cpu, cuda or cuda:N; mps too for torch.
        threads: within an operation; None leaves it to the library.

    Raises:
        MienError: there is no such model, it is not there in the form that was asked for, torch is needed and not
            installed, or there is no such device.
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
