"""``mien export``: a classifier as ONNX, held to what PyTorch answers."""

from __future__ import annotations

import argparse
import math
import shlex
from pathlib import Path

from mien.cli.parser import Parser, whole_number
from mien.cli.quiet import hide_bars
from mien.files import refuse_inputs, refuse_others
from mien.locks import claim
from mien.text import shown

DESCRIPTION = """\
Writes a classifier as ONNX: uint8 face crops in, calibrated probabilities and an embedding out, with the preprocessing
and the names of the expressions inside. `mien predict` reads faces with it, without PyTorch.

Examples:
  mien export runs/first --out exported/first --data archive.zip
  mien export runs/first --out exported/first --data archive.zip --int8

DIR gets model.onnx, model.int8.onnx where asked for, and parity.json: how far the answers to a split of the data are
from PyTorch's, the accuracy of each, and how fast each is. Without --data, random crops are compared. Nothing is
written where float32 is off by more than --tolerance, or where int8 loses more than 0.3 points of accuracy.
"""


def run(arguments: list[str]) -> int:
    """Runs ``mien export``; returns the exit code.

    Raises:
        MienError: an argument is wrong, the model or the data cannot be used, or a file does not hold its tolerance.
    """
    parser = Parser("mien export", DESCRIPTION)
    parser.add_argument("model", type=Path, metavar="MODEL", help="a run, or the name of a shipped model")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write")
    parser.add_argument("--int8", action="store_true", help="write an int8 file too; needs --data")
    parser.add_argument("--data", metavar="DATA", help="archive.zip, a folder, or a FER2013 CSV file")
    parser.add_argument("--split", choices=("validation", "test", "train"), default="validation", help="(validation)")
    parser.add_argument(
        "--tolerance", type=_tolerance, default=1e-4, metavar="X", help="most that a probability may be off (1e-4)"
    )
    parser.add_argument("--threads", type=whole_number(1), metavar="N", help="of each engine (all cores)")
    given = parser.parse(arguments)
    hide_bars()

    from mien.cli.evaluate import at_hand
    from mien.data.read import read_faces
    from mien.export.export import FILES, export
    from mien.model.classifier import model_folder

    model = model_folder(at_hand(given.model))
    refuse_inputs(given.out, [model, None if given.data is None else Path(given.data)])
    with claim(given.out):  # and refused before the data is read
        refuse_others(given.out, FILES, "export")
        done = export(
            model,
            given.out,
            faces=None if given.data is None else read_faces(given.data),
            split=given.split,
            int8=given.int8,
            tolerance=given.tolerance,
            threads=given.threads,
            command=shlex.join(["mien", "export", *arguments]),
        )
    about = done.report["pictures"]
    split = f"{about['split']} split of {shown(about['source'])}" if about["split"] else about["source"]
    print(f"{done.table}\n\n{about['n']:,} pictures ({split}), against PyTorch")
    if done.report["int8"]:
        print(f"int8 is {done.report['int8']['way']}: {done.report['int8']['reason']}")
    print(f"{shown(given.out)}: {', '.join(done.report['files'])}, parity.json")
    return 0


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number above 0 and at most 1")
    return value
