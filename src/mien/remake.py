"""The shipped model, made again from ``archive.zip``: ``python -m mien.remake``.

The stages are commands that a person could type, each with a file of ``configs/model``. One that was stopped goes on
where it stopped; one that is done passes by at once.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mien.cli import main
from mien.training.state import state_path

CONFIGS = Path("configs/model")
STAGES: tuple[tuple[str, str, str], ...] = (
    ("train", "teacher", "teacher.yaml"),
    ("pretrain", "mae", "mae.yaml"),
    ("train", "student", "student.yaml"),
)
"""Command, folder below OUT, and settings of each run, in order."""


def stages(data: str, out: Path) -> list[list[str]]:
    """The commands, from the data to the card; a run that has a state is resumed."""
    commands = []
    for command, name, settings in STAGES:
        run = out / name
        arguments = ["--config", str(CONFIGS / settings), "--data", data, "--out", str(run)]
        if name == "student":
            arguments += ["--backbone", str(out / "mae" / "model"), "--teacher", str(out / "teacher")]
        commands.append([command, *arguments, *(["--resume"] if state_path(run).exists() else [])])
    student, packed, report = out / "student", out / "packed", out / "report"
    return [
        *commands,
        ["evaluate", str(student), "--data", data, "--split", "validation", "--out", str(report)],
        ["pack", str(student), "--data", data, "--out", str(packed)],
        ["card", str(packed), "--out", str(out / "MODEL_CARD.md")],
    ]


def remake(data: str, out: Path) -> int:
    """Runs the stages; returns the exit code of the first that failed, or 0."""
    started = time.monotonic()
    for stage in stages(data, out):
        print(f"\n$ mien {shlex.join(stage)}", flush=True)
        code = main(stage)
        if code:
            return code
    print(f"\nDone in {time.monotonic() - started:.0f} s; the model is in {out / 'packed'}.")
    return 0


def run(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m mien.remake", description="Makes the shipped model again.")
    parser.add_argument("--data", default="archive.zip", help="FER2013 (archive.zip)")
    parser.add_argument("--out", type=Path, default=Path("runs/model"), help="folder of the runs (runs/model)")
    given = parser.parse_args(arguments)
    if not CONFIGS.is_dir():
        print(f"mien: error: {CONFIGS}: no such folder; run this from the folder of the project", file=sys.stderr)
        return 2
    return remake(given.data, given.out)


if __name__ == "__main__":
    sys.exit(run())
