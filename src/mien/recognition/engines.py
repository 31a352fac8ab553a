"""Makes the engine for a model: ONNX Runtime or PyTorch."""

from __future__ import annotations

import os
from importlib.util import find_spec

from mien.errors import MienError
from mien.model.places import find
from mien.recognition.engine import Engine, OnnxEngine, device_name, provider_of

KINDS: tuple[str, ...] = ("auto", "onnx", "torch")


def engine(
    model: str | os.PathLike[str] | None, kind: str = "auto", device: object = "auto", threads: int | None = None
) -> Engine:
    """Loads a model in the engine that fits it.

    Args:
        model: as for ``mien.model.places.find``; None for the shipped weights.
        kind: onnx, torch, or auto: ONNX Runtime if the model has an ONNX file, else torch; torch too if the device is
            a GPU that only torch can use.
        device: as ``mien.recognition.engine.Device``; for torch auto, cpu, gpu, cuda, cuda:N or mps.
        threads: processor threads; None for the engine's default.

    Raises:
        MienError: there is no such model or device, the model lacks the form that ``kind`` needs, or torch is needed
            and not installed.
    """
    if kind not in KINDS:
        raise MienError(f"engine: got {kind}, expected {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    name = device_name(device)
    files = find(model)
    by_torch = kind == "torch" or (kind == "auto" and files.folder is not None and _needs_torch(name))
    if files.onnx is not None and not by_torch:
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
    return TorchEngine.load(files.folder, name, threads)


def _needs_torch(device: str) -> bool:
    """True if torch is installed and the device is a GPU that the installed ONNX Runtime cannot use."""
    if device.partition(":")[0] not in ("gpu", "cuda", "mps") or find_spec("torch") is None:
        return False
    import onnxruntime

    return provider_of(device, onnxruntime.get_available_providers()) is None
