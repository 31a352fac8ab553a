"""``mien train``: trains a classifier, or goes on with one."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from mien.cli.quiet import hide_bars
from mien.cli.settings import read_settings, settings_parser
from mien.config import TrainConfig
from mien.text import shown

DESCRIPTION = """\
Trains a classifier of facial expressions; the model lands in OUT/model.
Every field can stand in a YAML file (--config) and be overridden on the command line; dashes and underscores are alike.

Examples:
  mien train --data archive.zip --backbone tiny --out runs/first --epochs 40
  mien train --data archive.zip --backbone tiny --out runs/first --epochs 40 --resume
  mien train --config configs/baseline.yaml --data archive.zip --out runs/baseline --augment.rotation 5
  mien train --data archive.zip --out runs/teacher --backbone timm:resnet18 --augment.mixup 0.2
  mien train --data archive.zip --out runs/taught --backbone runs/mae/model --teacher runs/teacher/model
  mien train --config configs/demo.yaml --print_config
  torchrun --nproc_per_node 2 -m mien train --data archive.zip --out runs/two
"""

FLAGS = {"resume": "go on where the run in OUT stopped; the result is the same as without the stop"}


def run(arguments: list[str]) -> int:
    """Runs ``mien train``; returns the exit code."""
    parser = settings_parser(TrainConfig, "mien train", DESCRIPTION, FLAGS)
    config, flags = read_settings(TrainConfig, parser, arguments)
    if config.is_fresh or Path(config.backbone).is_dir():
        hide_bars()

    from mien.training.finetune import train

    folder = train(config, resume="resume" in flags, command=shlex.join(["mien", "train", *arguments]))
    if os.environ.get("RANK", "0") == "0":
        print(f"model: {shown(folder)}")
    return 0
