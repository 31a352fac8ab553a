"""``mien train`` and ``mien pretrain``."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from mien.cli.settings import read_settings
from mien.cli.signals import hide_bars
from mien.config import FoldsConfig, PretrainConfig, TrainConfig
from mien.text import shown

TRAIN = """\
Trains a classifier of facial expressions and writes it to OUT/model.
Every field can stand in a YAML file (--config); the command line wins over it. Dashes and underscores are alike.

Examples:
  mien train --data archive.zip --backbone tiny --out runs/first --epochs 40
  mien train --data archive.zip --backbone tiny --out runs/first --epochs 40 --resume
  mien train --config configs/baseline.yaml --data archive.zip --out runs/baseline --augment.rotation 5
  mien train --data archive.zip --out runs/teacher --backbone timm:resnet18 --augment.mixup 0.2
  mien train --data archive.zip --out runs/taught --backbone runs/mae/model --teacher runs/teacher/model
  mien train --config configs/demo.yaml --print_config
  torchrun --nproc_per_node 2 -m mien train --data archive.zip --out runs/two
"""

TRAIN_FLAGS = {"resume": "continue the run in OUT where it stopped; the result is the same as without the stop"}


def run_train(arguments: list[str]) -> int:
    """Runs ``mien train``; returns the exit code."""
    config, flags = read_settings(TrainConfig, arguments, "mien train", TRAIN, TRAIN_FLAGS)
    if config.is_fresh or Path(config.backbone).is_dir():
        hide_bars()

    from mien.training.finetune import train

    folder = train(config, resume="resume" in flags, command=shlex.join(["mien", "train", *arguments]))
    if os.environ.get("RANK", "0") == "0":
        print(f"model: {shown(folder)}")
    return 0


PRETRAIN = """\
Trains a masked autoencoder (ViTMAE) on faces, without their labels, and writes it to OUT/model.
`mien train --backbone OUT/model` goes on from it. Every field can stand in a YAML file (--config); the command line
wins over it. Dashes and underscores are alike.

Examples:
  mien pretrain --data archive.zip --preset tiny --out runs/mae --epochs 100
  mien pretrain --data archive.zip --preset tiny --out runs/mae --epochs 100 --resume
  mien pretrain --data photos/ --preset small --out runs/photos --minutes 60 --skip-broken
  torchrun --nproc_per_node 2 -m mien pretrain --data archive.zip --out runs/two
"""

PRETRAIN_FLAGS = {
    "resume": "continue the run in OUT where it stopped; without --minutes, the result is the same as without a stop",
}


def run_pretrain(arguments: list[str]) -> int:
    """Runs ``mien pretrain``; returns the exit code."""
    config, flags = read_settings(PretrainConfig, arguments, "mien pretrain", PRETRAIN, PRETRAIN_FLAGS)
    hide_bars()

    from mien.training.pretrain import pretrain

    folder = pretrain(config, resume="resume" in flags, command=shlex.join(["mien", "pretrain", *arguments]))
    if os.environ.get("RANK", "0") == "0":
        print(f"model: {shown(folder)}")
    return 0


FOLDS = """\
Trains networks each without a part of the training pictures, and writes to OUT/answers.safetensors, for every training
picture, the probabilities of those that have not seen it. Copies of a photograph stay in one part. The settings are
those of `mien train`, with --folds and --seeds. Interrupted, the same command goes on where it stopped.
`mien train --targets OUT/answers.safetensors` learns from the answers.

Examples:
  mien folds --data archive.zip --backbone timm:face_cnn --image-size 48 --out runs/folds --folds 5 --seeds 0 1
  mien train --data archive.zip --backbone tiny --out runs/first --targets runs/folds/answers.safetensors
"""


def run_folds(arguments: list[str]) -> int:
    """Runs ``mien folds``; returns the exit code."""
    config, _ = read_settings(FoldsConfig, arguments, "mien folds", FOLDS)
    if config.is_fresh or Path(config.backbone).is_dir():
        hide_bars()

    from mien.training.folds import answer_folds

    path = answer_folds(config, command=shlex.join(["mien", "folds", *arguments]))
    print(f"answers: {shown(path)}")
    return 0
