"""``mien pretrain``: makes a masked autoencoder from faces, or goes on with one."""

from __future__ import annotations

import os
import shlex

from mien.cli.quiet import hide_bars
from mien.cli.settings import read_settings, settings_parser
from mien.config import PretrainConfig
from mien.text import shown

DESCRIPTION = """\
Makes a masked autoencoder (ViTMAE) from training faces, without their labels; it lands in OUT/model.
`mien train --backbone OUT/model` goes on from it. Every field can stand in a YAML file (--config) and be overridden on
the command line; dashes and underscores are alike.

Examples:
  mien pretrain --data archive.zip --preset tiny --out runs/mae --epochs 100
  mien pretrain --data archive.zip --preset tiny --out runs/mae --epochs 100 --resume
  mien pretrain --data photos/ --preset small --out runs/photos --minutes 60 --skip-broken
  torchrun --nproc_per_node 2 -m mien pretrain --data archive.zip --out runs/two
"""

FLAGS = {"resume": "go on where the run in OUT stopped; by epochs or steps, the result is the same as without the stop"}


def run(arguments: list[str]) -> int:
    """Runs ``mien pretrain``; returns the exit code."""
    parser = settings_parser(PretrainConfig, "mien pretrain", DESCRIPTION, FLAGS)
    config, flags = read_settings(PretrainConfig, parser, arguments)
    hide_bars()

    from mien.training.pretrain import pretrain

    folder = pretrain(config, resume="resume" in flags, command=shlex.join(["mien", "pretrain", *arguments]))
    if os.environ.get("RANK", "0") == "0":
        print(f"model: {shown(folder)}")
    return 0
