"""What the hostile tests share: running commands, a detector, and a classifier's folder that is made in no time."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from mien.cli import main
from mien.recognition.detection import Detection


class Whole:
    """Takes every picture for a face."""

    name, margin = "whole", 0.0

    def detect(self, picture: np.ndarray) -> list[Detection]:
        height, width = picture.shape[:2]
        return [Detection((0.0, 0.0, float(width), float(height)), 1.0)]


def mien(*arguments: object) -> int:
    """The exit code of a command, in this process."""
    return main([str(argument) for argument in arguments])


def error_of(*arguments: object) -> str:
    """The one line on stderr of a command that must end with exit code 2."""
    told, said = io.StringIO(), io.StringIO()
    with redirect_stderr(told), redirect_stdout(said):
        code = mien(*arguments)
    lines = [line for line in told.getvalue().splitlines() if line.startswith("mien: ")]
    assert code == 2 and len(lines) == 1, (code, told.getvalue())
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
