"""ONNX files that are rewritten for pictures of any size."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from mien.recognition.detectors import installed
from mien.recognition.onnx_sizes import any_size


def test_the_network_takes_any_size_and_answers_the_same_at_its_own() -> None:
    ort = pytest.importorskip("onnxruntime")
    model = installed()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    fixed_session, free_session = (ort.InferenceSession(content, options) for content in (model, any_size(model)))
    assert fixed_session.get_inputs()[0].shape == [1, 3, 640, 640]
    assert free_session.get_inputs()[0].shape == ["n", 3, "h", "w"]
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 3, 640, 640)).astype(np.float32)
    for fixed_output, free_output in zip(
        fixed_session.run(None, {"input": pixels}), free_session.run(None, {"input": pixels}), strict=True
    ):
        assert np.array_equal(fixed_output, free_output)
    names = [output.name for output in free_session.get_outputs()]
    small_outputs = free_session.run(names, {"input": pixels[:, :, :96, :64]})
    assert small_outputs[names.index("cls_8")].shape[1] == 12 * 8


def test_onnx_itself_reads_what_was_written() -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(any_size(installed()))
    original = onnx.load_from_string(installed())
    onnx.checker.check_model(model)
    assert list(model.graph.node) == list(original.graph.node)
    assert list(model.graph.initializer) == list(original.graph.initializer)
    assert [output.name for output in model.graph.output] == [output.name for output in original.graph.output]


def test_freeing_a_file_twice_changes_nothing() -> None:
    free_model = any_size(installed())
    assert hashlib.sha256(any_size(free_model)).digest() == hashlib.sha256(free_model).digest()


@pytest.mark.parametrize("content", [b"\x0a\xff", b"\xff" * 11, b"\x0b", b"\x3a\x05\x08"])
def test_what_is_no_protocol_buffer_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"it (ends in the middle|has a field)"):
        any_size(content)
