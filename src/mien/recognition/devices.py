"""Names of the devices that a network can run on, and what ONNX Runtime calls them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Literal, Protocol, SupportsIndex, TypeAlias

from mien.errors import MienError

Name = Literal[
    "auto", "cpu", "gpu", "cuda", "cuda:0", "cuda:1", "cuda:2", "cuda:3", "cuda:4", "cuda:5", "cuda:6", "cuda:7", "mps",
    "coreml", "directml", "openvino",
]  # fmt: skip


class TorchDevice(Protocol):
    """The part of ``torch.device`` that is read; torch itself is not needed."""

    @property
    def type(self) -> str: ...

    @property
    def index(self) -> Any: ...


Device: TypeAlias = Name | int | TorchDevice
"""What ``device`` accepts: a name, the number of a CUDA device, or a ``torch.device``."""

KNOWN = (
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
GPU_BY_TORCH = "or pip install 'mien[gpu]' to let PyTorch use the GPU"


def device_name(device: object) -> str:
    """Returns a device in one spelling: auto, cpu, gpu, cuda, cuda:N, mps, coreml, directml or openvino.

    Args:
        device: as ``Device``; the number of a CUDA device may also be a text.

    Raises:
        MienError: it is no such value.
    """
    if isinstance(device, SupportsIndex) and not isinstance(device, bool):
        device = str(operator.index(device))
    kind = getattr(device, "type", None)
    if isinstance(kind, str):  # a torch.device
        index = getattr(device, "index", None)
        device = kind if index is None or kind != "cuda" else f"{kind}:{index}"
    if isinstance(device, str):
        text = device.strip().lower()
        text = f"cuda:{text}" if text.isdecimal() else text
        kind, separator, number = text.partition(":")
        plain = kind in ("auto", "cpu", "gpu", "mps", *_PROVIDERS) and not separator
        if plain or (kind == "cuda" and number.isdecimal()):
            return f"cuda:{int(number)}" if number else kind
    raise MienError(f"device: got {device}, expected {KNOWN}")


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
        else:
            source = "onnxruntime-gpu, in place of onnxruntime, brings CUDA"
        by_torch = f", {GPU_BY_TORCH}" if wanted in ("cuda", "gpu", "mps") else ""
        raise MienError(
            f"device: got {device}, which the installed ONNX Runtime cannot use; use cpu ({source}){by_torch}"
        )
    if kind == "cpu":
        return [_CPU]
    number = device.partition(":")[2]
    provider = _PROVIDERS[kind][0]
    return [(provider, {"device_id": number or "0"}) if kind == "cuda" else provider, _CPU]
