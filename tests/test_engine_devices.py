"""Names of devices: one spelling for each, ONNX Runtime's providers, and a line where there is none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mien.errors import MienError
from mien.recognition import engines
from mien.recognition.engine import device_name, provider_of, providers

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("auto", "auto"), ("CPU", "cpu"), (0, "cuda:0"), (np.int64(3), "cuda:3"), ("1", "cuda:1"),
        ("cuda:07", "cuda:7"),
        ("gpu", "gpu"), ("mps", "mps"), ("directml", "directml"), (SimpleNamespace(type="cuda", index=1), "cuda:1"),
        (SimpleNamespace(type="cuda", index=None), "cuda"), (SimpleNamespace(type="mps", index=0), "mps"),
    ],
)  # fmt: skip
def test_a_device_has_one_spelling(device: Any, name: str) -> None:
    assert device_name(device) == name


def test_a_torch_device_is_one() -> None:
    torch = pytest.importorskip("torch")
    assert [device_name(torch.device(name)) for name in ("cpu", "cuda", "cuda:2")] == ["cpu", "cuda", "cuda:2"]


@pytest.mark.parametrize(
    "device", ["tpu", "", "cpu:1", "cuda:x", "cuda:-1", -1, True, None, 1.5, "gpu:0", [], np.zeros(2, int)]
)
def test_other_devices_are_refused_with_those_that_there_are(device: Any) -> None:
    with pytest.raises(MienError, match=r"device: got .*, expected auto, cpu, gpu, cuda, cuda:N, mps, coreml"):
        device_name(device)


def test_each_device_has_its_provider_where_onnx_runtime_has_it() -> None:
    assert providers("cpu", [CUDA, CPU]) == [CPU]
    assert providers("auto", [CPU]) == [CPU]
    assert providers("auto", [CUDA, CPU]) == [(CUDA, {"device_id": "0"}), CPU] == providers("gpu", [CUDA, CPU])
    assert providers("cuda:1", [CUDA, CPU])[0] == (CUDA, {"device_id": "1"})
    for device, provider in (
        ("coreml", "CoreMLExecutionProvider"),
        ("directml", "DmlExecutionProvider"),
        ("openvino", "OpenVINOExecutionProvider"),
    ):
        assert providers(device, [provider, CPU]) == [provider, CPU]
        assert providers("auto", [provider, CPU]) == [CPU]
    assert provider_of("gpu", ["DmlExecutionProvider", "CoreMLExecutionProvider", CPU]) == "coreml"
    assert provider_of("gpu", ["OpenVINOExecutionProvider", CPU]) is None


@pytest.mark.parametrize(
    ("device", "remedy"),
    [
        ("cuda:1", r"onnxruntime-gpu, in place of onnxruntime, brings it.*pip install 'mien\[gpu\]' to let PyTorch"),
        ("gpu", r"onnxruntime-gpu, in place of onnxruntime, brings CUDA"),
        ("mps", r"use cpu \(only PyTorch uses MPS, on a Mac\), or pip install 'mien\[gpu\]'"),
        ("coreml", "onnxruntime brings it on macOS only"),
        ("directml", "onnxruntime-directml, in place of onnxruntime, brings it on Windows"),
        ("openvino", "onnxruntime-openvino, in place of onnxruntime, brings it"),
    ],
)
def test_a_provider_that_is_not_there_is_a_line_that_says_what_brings_it(device: str, remedy: str) -> None:
    with pytest.raises(MienError, match=f"device: got {device}, which the installed ONNX Runtime cannot use.*{remedy}"):
        providers(device, [CPU])


def test_torch_takes_over_only_for_gpus_that_onnx_runtime_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(engines, "find_spec", lambda name: object())
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    assert [engines._needs_torch(name) for name in ("gpu", "cuda:0", "mps", "cpu", "auto", "coreml")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    assert not engines._needs_torch("cuda:0") and engines._needs_torch("mps")
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    assert not engines._needs_torch("mps")
