"""Runs every stage on drawn faces, with the commands that a person would type: ``python scripts/demo.py``."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
import zipfile
from pathlib import Path

from mien.cli import run_all

RUN = Path("runs/demo")
PRETRAINING = RUN / "mae"
REPORT = Path("reports/demo")


def demo() -> int:
    """Draws faces, pretrains, fine-tunes, evaluates, reads one picture, and prints where the results are.

    Removes what an earlier demo left in ``runs/demo`` and ``reports/demo`` first.

    Returns:
        The exit code of the first command that failed, or 0.
    """
    started = time.monotonic()
    for folder in (RUN, REPORT):
        shutil.rmtree(folder, ignore_errors=True)
    archive = RUN.parent / "demo-faces.zip"
    picture = RUN / "face.png"
    source = ["--data", str(archive)]
    backbone = ["--backbone", str(PRETRAINING / "model")]
    stages: list[list[str]] = [
        ["data", "draw", "--out", str(archive), "--force"],
        ["data", "inspect", str(archive)],
        ["pretrain", "--config", "pretrain-demo", *source, "--out", str(PRETRAINING)],
        ["train", "--config", "demo", *backbone, *source, "--out", str(RUN)],
        ["evaluate", str(RUN), *source, "--split", "test", "--out", str(REPORT)],
    ]
    code = run_all(stages)
    if code:
        return code
    _take_picture(archive, picture)
    code = run_all([["predict", str(picture), "--model", str(RUN / "model"), "--detector", "none", "--json"]])
    if code:
        return code
    metrics = json.loads((REPORT / "metrics.json").read_text(encoding="utf-8"))
    print(f"\nThe faces are drawn, not real; done in {time.monotonic() - started:.0f} s.")
    print(
        f"accuracy  {metrics['accuracy']:.2%} of {metrics['n']:,} test faces (chance: {1 / len(metrics['names']):.0%})"
    )
    print(f"pictures  {PRETRAINING / 'reconstructions.png'}: what the autoencoder saw, and its reconstructions")
    print(f"report    {REPORT / 'report.html'}")
    print(f"model     {RUN / 'model'}")
    return 0


def _take_picture(archive: Path, picture: Path) -> None:
    """Copies the first happy test face out of the archive."""
    with zipfile.ZipFile(archive) as faces:
        member = next(name for name in sorted(faces.namelist()) if name.startswith("test/happy/PrivateTest"))
        picture.write_bytes(faces.read(member))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    sys.exit(demo())
