"""``mien predict``: reads the expression of face crops."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from mien.cli.parser import Parser
from mien.cli.quiet import hide_bars
from mien.errors import MienError

DESCRIPTION = """\
Reads the expression of each picture; for now, a picture is one cropped face.
The answer is a guess about how a face looks, not about what a person feels.

Examples:
  mien predict face.jpg --model runs/first
  mien predict faces/*.png --model runs/first/model --json > answers.jsonl

Pictures are JPEG, PNG, BMP, WebP, TIFF or PPM files, 8 bits deep and opaque, of at most 8192 pixels a side.
Exit code 0: every picture was read; 3: some could not be; 2: none could be. The output tells why for each of them,
stderr for the first.
"""

SOME_FAILED = 3


def run(arguments: list[str]) -> int:
    """Runs ``mien predict``; returns the exit code.

    Raises:
        MienError: an argument is wrong, the model cannot be used, or no picture could be read.
    """
    parser = Parser("mien predict", DESCRIPTION)
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE", help="a cropped face: JPEG, PNG, ...")
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="what `mien train` wrote")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line, in the order given")
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:N or mps (auto)")
    given = parser.parse(arguments)
    hide_bars()

    from mien.model.classifier import Classifier
    from mien.recognition.predict import predict
    from mien.training.device import resolve_device

    records = predict(given.pictures, Classifier.load(given.model, resolve_device(given.device)))
    for record in records:
        print(json.dumps(record, ensure_ascii=False) if given.json else _line(record))
    reasons = [record["error"] for record in records if record["status"] != "ok"]
    if not reasons:
        return 0
    sys.stdout.flush()
    told = f"{len(reasons)} of {len(records)} pictures could not be read, the first is {reasons[0]}"
    if len(reasons) == len(records):
        raise MienError(told if len(records) > 1 else reasons[0])
    print(f"mien: {told}", file=sys.stderr)
    return SOME_FAILED


def _line(record: dict[str, Any]) -> str:
    """A record for a person: the surest expression, and what else it might be."""
    if record["status"] != "ok":
        return f"{record['status']}: {record['error']}"
    ranked = sorted(record["emotions"].items(), key=lambda item: -item[1])
    others = ", ".join(f"{name} {share:.0%}" for name, share in ranked[1:3])
    return f"{record['input']}: {record['label']} {record['score']:.0%} ({others})"
