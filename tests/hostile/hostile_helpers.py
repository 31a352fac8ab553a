"""What the hostile tests share: running commands, a detector, and a classifier's folder that is made in no time."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mien.cli import main
from mien.recognition.detection import Detection


class Whole:
    """Takes every picture for a face."""

    name, margin = "whole", 0.0

    def detect(self, picture: np.ndarray) -> list[Detection]:
        height, width = picture.shape[:2]
        return [Detection((0.0, 0.0, float(width), float(height)), 1.0)]


class Stuck(Whole):
    """Never answers from the fourth picture on, but for signals."""

    def __init__(self) -> None:
        self.count = 0

    def detect(self, picture: np.ndarray) -> list[Detection]:
        self.count += 1
        if self.count > 3:
            time.sleep(600)
        return super().detect(picture)


def mien(*arguments: object) -> int:
    """The exit code of a command, in this process."""
    return main([str(argument) for argument in arguments])


def error_of(*arguments: object) -> str:
    """The one line on stderr of a command that must end with exit code 2."""
    stderr, stdout = io.StringIO(), io.StringIO()
    with redirect_stderr(stderr), redirect_stdout(stdout):
        code = mien(*arguments)
    lines = [line for line in stderr.getvalue().splitlines() if line.startswith("mien: ")]
    assert code == 2 and len(lines) == 1, (code, stderr.getvalue())
    return lines[0]


def run_mien(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    options.setdefault("env", environment)
    return subprocess.run(
        [sys.executable, "-m", "mien", *map(str, arguments)],
        capture_output=True, text=True, errors="surrogateescape", timeout=120, **options,
    )  # fmt: skip


def write_classifier(folder: Path, names: tuple[str, ...] = ("calm", "glad")) -> Path:
    """A small ViT classifier with random weights, 16 px, as ``mien train`` writes it."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    from mien.model.classifier import Classifier
    from mien.model.preprocessing import Preprocessing

    torch.manual_seed(0)
    config = ViTConfig(
        image_size=16, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        id2label=dict(enumerate(names)), label2id={name: index for index, name in enumerate(names)},
    )  # fmt: skip
    classifier = Classifier(ViTForImageClassification(config).eval(), Preprocessing(16, (0.5,) * 3, (0.25,) * 3), names)
    classifier.save(folder, {"command": "mien train", "config": {}})
    return folder


def endless_gif() -> bytes:
    """35 bytes: a picture of one pixel on a canvas of 134 million."""
    canvas = struct.pack("<HH", 11585, 11585) + b"\x80\0\0" + b"\0\0\0\xff\xff\xff"
    return b"GIF89a" + canvas + b"," + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0\x02\x02\x4c\x01\0\x3b"


def endless_jpeg() -> bytes:
    """A progressive JPEG of 8000x8000 pixels with 600 scans more than it needs, each of 95 bytes."""
    stream = io.BytesIO()
    Image.new("L", (8000, 8000)).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + 600 * last_scan + data[-2:]


def write_endless_network(path: Path) -> Path:
    """An ONNX file, as `mien export` would describe it, with a loop that no crop ever leaves."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    metadata = {"names": ["calm", "glad"], "image_size": 16, "grey": True, "threshold": None, "stated_accuracy": None}
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["again"], ["more"]), helper.make_node("Identity", ["from"], ["to"])],
        "body",
        [value("turn", TensorProto.INT64, []), value("again", TensorProto.BOOL, []), value("from", 1, None)],
        [value("more", TensorProto.BOOL, []), value("to", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("Cast", ["faces"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Loop", ["", "true", "floats"], ["spun"], body=body),
        helper.make_node("ReduceMean", ["spun", "rows"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "last"], ["embedding"]),
        helper.make_node("Concat", ["embedding", "embedding"], ["both"], axis=1),
        helper.make_node("Softmax", ["both"], ["probabilities"]),
    ]
    values = {"true": np.array(True), "rows": np.array([1, 2]), "last": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "endless",
        [value("faces", TensorProto.UINT8, ["N", 16, 16])],
        [value("probabilities", TensorProto.FLOAT, ["N", 2]), value("embedding", TensorProto.FLOAT, ["N", 1])],
        [numpy_helper.from_array(array, name) for name, array in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {name: json.dumps(item) for name, item in metadata.items()})
    onnx.save(model, path)
    return path


def prepare_work(say: Callable[[str], None], *lines: str) -> tuple[str, Callable[[str], Iterator[Any]]]:
    """For ``mien.recognition.time_limit``: work whose tasks are lines of Python that may ``yield``; ``lines`` come
    before."""

    def work(task: str) -> Iterator[Any]:
        scope: dict[str, Any] = {"say": say}
        body = "\n".join(f"    {line}" for line in (*lines, *task.splitlines(), "return", "yield"))
        exec(f"import os, signal, time\nfrom mien.errors import MienError\ndef work():\n{body}\n", scope)
        yield from scope["work"]()

    return "prepared", work
