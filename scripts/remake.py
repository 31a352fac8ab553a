"""Trains the shipped models again from ``archive.zip``: ``python scripts/remake.py``.

The stages are commands that a person could type, each with a recipe of the package. One teacher lies in the
checkout and is not made again. A run that was stopped is resumed. A finished run is scored and packed again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mien.cli import run_all
from mien.training.folder import state_path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Stage:
    """A run that leads to the shipped models.

    Attributes:
        command: train or pretrain.
        name: the name of its folder in OUT and of its recipe.
        backbone: the run whose encoder it starts from, if any.
        teachers: the runs whose models teach it; ``WIDE`` lies in the checkout.
    """

    command: str
    name: str
    backbone: str | None = None
    teachers: tuple[str, ...] = ()


WIDE = "teachers/wide_cnn"
"""A teacher that a GPU trained and the checkout holds; docs/results.md has its SHA-256 and its recipe."""

STAGES: tuple[Stage, ...] = (
    Stage("train", "teacher"),
    Stage("train", "second-teacher", teachers=("teacher",)),
    Stage("pretrain", "mae"),
    Stage("train", "student", backbone="mae", teachers=("second-teacher",)),
    Stage("train", "third-teacher", teachers=("student", "second-teacher")),
    Stage("train", "second-student", backbone="student", teachers=("third-teacher",)),
    Stage("train", "mini", backbone="second-student", teachers=("second-student",)),
    Stage("pretrain", "nano-mae"),
    Stage("train", "nano-student", backbone="nano-mae", teachers=("second-teacher",)),
    Stage("train", "nano-second-student", backbone="nano-student", teachers=("third-teacher", "second-student")),
    Stage("train", "nano-third-student", backbone="nano-second-student", teachers=(WIDE, "third-teacher")),
    Stage("train", "nano", backbone="nano-third-student", teachers=("mini", "nano-third-student")),
)
"""The runs in order: each needs only those before it."""

SHIPPED: dict[str, tuple[str, ...]] = {"mini": ("--calibrate", "--balance", "0.1"), "nano": ("--calibrate",)}
"""The runs whose models are packed, and how; the package holds them in ``src/mien/weights``."""


def commands(data: str, out: Path) -> list[list[str]]:
    """Returns the commands from training to the model cards; a run with a saved state is resumed."""
    lines = [run_of(stage, data, out) for stage in STAGES]
    for name, options in SHIPPED.items():
        run, packed, report = str(out / name), out / "packed" / name, str(out / "reports" / name)
        lines += [
            ["evaluate", run, "--data", data, "--split", "validation", "--out", report],
            ["pack", run, "--data", data, "--out", str(packed), "--int8", *options],
            ["card", str(packed), "--name", f"Mien {name}", "--out", str(out / f"MODEL_CARD-{name}.md")],
        ]
    return lines


def run_of(stage: Stage, data: str, out: Path) -> list[str]:
    """Returns the command that trains a run."""
    folder = out / stage.name
    command = [stage.command, "--config", stage.name, "--data", data, "--out", str(folder)]
    if stage.backbone:
        command += ["--backbone", str(out / stage.backbone / "model")]
    if stage.teachers:
        command += ["--teacher", *(str(ROOT / name if name == WIDE else out / name) for name in stage.teachers)]
    return [*command, *(["--resume"] if state_path(folder).exists() else [])]


def remake(data: str, out: Path) -> int:
    """Trains, scores and packs the models; returns the exit code of the first command that failed, or 0."""
    started = time.monotonic()
    code = run_all(commands(data, out))
    if code:
        return code
    print(f"\nDone in {time.monotonic() - started:.0f} s; the models are in {out / 'packed'}.")
    return 0


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the script; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python scripts/remake.py", description="Makes the shipped models again.")
    parser.add_argument("--data", default="archive.zip", help="FER2013 (archive.zip)")
    parser.add_argument("--out", type=Path, default=Path("runs/model"), help="folder of the runs (runs/model)")
    options = parser.parse_args(arguments)
    return remake(options.data, options.out)


if __name__ == "__main__":
    sys.exit(run())
