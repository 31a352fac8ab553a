"""``mien train``, ``mien pretrain`` and ``mien folds``: read the settings, check what takes no torch, and run."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mien.cli.settings import read_settings, settings_parser
from mien.config import FoldsConfig, PretrainConfig, RunConfig, TrainConfig
from mien.data.read import locate
from mien.errors import MienError
from mien.files import refuse_inputs
from mien.log import hide_bars
from mien.model.hub import ensure_at_hand
from mien.model.places import check_source, is_hub_backbone, model_folder, run_model
from mien.text import shown
from mien.training.folder import check_new

TRAIN = """\
Trains a classifier of facial expressions and writes it to OUT/model.

Every field can stand in a YAML file (--config); the command line wins over it. Recipes that come with Mien have names.

Examples:
  mien train --data archive.zip --backbone tiny --out runs/first --epochs 40
  mien train --resume runs/first
  mien train --config baseline --data archive.zip --dry-run
  mien train --config baseline --data archive.zip --epochs 1
  mien train --data archive.zip --out runs/teacher --backbone timm:resnet18 --augment.mixup 0.2
  mien train --data archive.zip --out runs/taught --backbone runs/mae/model --teacher runs/teacher/model
  mien train --config runs/first/config.yaml --out runs/second --seed 2
  mien train --config demo --print-config
  torchrun --nproc_per_node 2 -m mien train --data archive.zip --out runs/two

--dry-run reads the data and the backbone, times a few steps and prints the plan of the run; no run is written.

A switch is on with --tensorboard and off with --no-tensorboard; true and false are taken as well.
"""


def run_train(arguments: list[str]) -> int:
    """Runs ``mien train``; returns the exit code."""
    config, flags = read_settings(TrainConfig, arguments, "mien train", TRAIN)
    _check_before_torch(config, flags)

    if "dry-run" in flags:
        return _print_plan_of_training(config)

    from mien.training.finetune import train

    _say_out(config, arguments, flags)
    folder = train(config, resume="resume" in flags, command=shlex.join(["mien", "train", *arguments]))
    _list_files(folder)
    return 0


PRETRAIN = """\
Trains a masked autoencoder (ViTMAE) on faces, without their labels, and writes it to OUT/model.
`mien train --backbone OUT/model` goes on from it. Every field can stand in a YAML file (--config); the command line
wins over it. Recipes that come with Mien have names.

Examples:
  mien pretrain --data archive.zip --preset tiny --out runs/mae --epochs 100
  mien pretrain --resume runs/mae
  mien pretrain --config mae --data archive.zip --dry-run
  mien pretrain --data photos/ --preset small --out runs/photos --minutes 60 --skip-broken
  torchrun --nproc_per_node 2 -m mien pretrain --data archive.zip --out runs/two

--dry-run reads the data, times a few steps and prints the plan of the run; no run is written.

With --minutes, a resumed run does not repeat the same bits.
"""


def run_pretrain(arguments: list[str]) -> int:
    """Runs ``mien pretrain``; returns the exit code."""
    config, flags = read_settings(PretrainConfig, arguments, "mien pretrain", PRETRAIN)
    _check_before_torch(config, flags)

    if "dry-run" in flags:
        return _print_plan_of_pretraining(config)

    from mien.training.pretrain import pretrain

    _say_out(config, arguments, flags)
    folder = pretrain(config, resume="resume" in flags, command=shlex.join(["mien", "pretrain", *arguments]))
    _list_files(folder)
    return 0


FOLDS = """\
Trains networks each without a part of the training pictures, and writes to OUT/answers.safetensors, for every training
picture, the probabilities of those that have not seen it. Copies of a photograph stay in one part. The settings are
those of `mien train`, with --folds and --seeds. Interrupted, the same command goes on where it stopped, if --out names
the folder.

`mien train --targets OUT/answers.safetensors` learns from the answers.

Examples:
  mien folds --data archive.zip --backbone timm:face_cnn --image-size 48 --out runs/folds --folds 5 --seeds 0 1
  mien train --data archive.zip --backbone tiny --out runs/first --targets runs/folds/answers.safetensors
"""


def run_folds(arguments: list[str]) -> int:
    """Runs ``mien folds``; returns the exit code."""
    config, flags = read_settings(FoldsConfig, arguments, "mien folds", FOLDS)
    _check_before_torch(config, flags)
    if "dry-run" in flags:
        return _print_plan_of_folds(config)
    _say_out(config, arguments, flags)

    from mien.training.folds import answer_folds

    path = answer_folds(config, command=shlex.join(["mien", "folds", *arguments]))
    if _is_first():
        print(f"answers: {shown(path)}")
    return 0


PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "train": partial(settings_parser, TrainConfig, "mien train", TRAIN),
    "pretrain": partial(settings_parser, PretrainConfig, "mien pretrain", PRETRAIN),
    "folds": partial(settings_parser, FoldsConfig, "mien folds", FOLDS),
}
"""The parser of each command, for its help and for shell completion."""


def _is_first() -> bool:
    """True in the only or the first process of a run, which alone prints."""
    return os.environ.get("RANK", "0") == "0"


def _print_plan_of_training(config: TrainConfig) -> int:
    """Prints the plan of a run with its time; returns the exit code."""
    from mien.training.finetune import prepared
    from mien.training.plan import plan_lines, timed_lines

    tuning = prepared(config, dry=True)
    return _print([*plan_lines(tuning), *timed_lines(tuning, tuning.enter_stage)])


def _print_plan_of_folds(config: FoldsConfig) -> int:
    """Prints the plan of the first run with its time, and how many such runs there are; returns the exit code."""
    from mien.training.finetune import prepared
    from mien.training.folds import first_run
    from mien.training.plan import plan_lines, timed_lines

    settings, faces = first_run(config)
    tuning = prepared(settings, faces=faces, dry=True)
    runs = config.folds * len(config.seeds)
    lines = [f"folds: {runs} runs, one after the other, each like this one:"]
    return _print([*lines, *plan_lines(tuning), *timed_lines(tuning, tuning.enter_stage)])


def _print_plan_of_pretraining(config: PretrainConfig) -> int:
    """Prints the plan of a run with its time; returns the exit code."""
    from mien.training.plan import pretraining_lines, timed_pretraining_lines
    from mien.training.pretrain import prepared

    pretraining = prepared(config, dry=True)
    return _print([*pretraining_lines(pretraining), *timed_pretraining_lines(pretraining)])


def _print(lines: Sequence[str]) -> int:
    if _is_first():
        print("\n".join(shown(line) for line in lines))
    return 0


def _say_out(config: RunConfig, arguments: Sequence[str], flags: set[str]) -> None:
    """Reports the folder of the run if nobody typed one."""
    typed = any(argument.partition("=")[0] == "--out" for argument in arguments)
    if _is_first() and not typed and "resume" not in flags:
        print(f"mien: the run goes to {shown(config.out)}; --out chooses another folder", file=sys.stderr)


def _list_files(model: Path) -> None:
    """Prints what a run has written."""
    if not _is_first():
        return
    others = sorted(path.name for path in model.parent.glob("*") if path != model and not path.name.startswith("."))
    print(f"model: {shown(model)}")
    if others:
        print(f"beside it: {shown(', '.join(others))}")


def _check_before_torch(config: RunConfig, flags: set[str]) -> None:
    """Checks the places that the settings of a run name, which takes no torch, and hides bars if nothing is downloaded.

    Args:
        config: the settings; each is right for itself, and they fit each other.
        flags: ``resume`` if a run shall go on, and ``dry-run`` if nothing is written, so that ``out`` does not matter.

    Raises:
        MienError: everything that is wrong, in one line.
    """
    problems = list(_problems(config, flags))
    if problems:
        raise MienError("; ".join(problems))
    if not isinstance(config, TrainConfig) or config.is_fresh or Path(config.backbone).is_dir():
        hide_bars()


def _problems(config: RunConfig, flags: set[str]) -> Iterator[str]:
    try:
        locate(config.data)
    except MienError as error:
        yield f"--data {error}"
    if "dry-run" not in flags:
        try:
            check_new(Path(config.out), "resume" in flags)
            if Path(config.data).is_dir():
                refuse_inputs(Path(config.out), [Path(config.data)], may_hold=True)
        except MienError as error:
            yield str(error)
    yield from config.missing_trackers()
    if isinstance(config, TrainConfig):
        for teacher in config.teacher:
            try:
                model_folder(teacher)
            except MienError as error:
                yield f"--teacher {error}"
        if config.targets is not None and not Path(config.targets).is_file():
            yield f"--targets {config.targets}: no such file; give one that `mien folds` wrote"
        yield from _of_backbone(config)


def _of_backbone(config: TrainConfig) -> Iterator[str]:
    """Yields what is wrong with the place of a backbone, and with the number of blocks that shall be frozen."""
    if config.is_timm or config.is_fresh:
        return
    try:
        check_source(config.backbone)
        if is_hub_backbone(config.backbone):
            ensure_at_hand(config.backbone, "--backbone")
    except MienError as error:
        yield str(error)
        return
    architecture, blocks = _architecture(Path(config.backbone)), config.freeze.blocks
    depth = architecture.get("num_hidden_layers")
    if blocks and architecture.get("model_type") == "timm_wrapper":
        yield f"--freeze.blocks: got {blocks} for {config.backbone}, which holds a network of timm, expected 0"
    elif blocks and isinstance(depth, int) and blocks > depth:
        yield f"--freeze.blocks: got {blocks}, expected at most {depth}, the blocks of {config.backbone}"


def _architecture(folder: Path) -> dict[str, Any]:
    """Returns ``config.json`` of a backbone as it stands; empty if there is none that can be read."""
    try:
        values = json.loads((run_model(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
