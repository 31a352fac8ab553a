"""``mien pack``: makes a folder for others of a trained classifier: half precision, ONNX, scores, and no faces."""

from __future__ import annotations

import shlex
from pathlib import Path

from mien.cli.parser import Parser
from mien.cli.quiet import hide_bars
from mien.files import refuse_inputs, refuse_others
from mien.locks import claim
from mien.text import shown

DESCRIPTION = """\
Makes of a trained classifier a folder for others: weights in half precision, their ONNX, and a meta.json with how the
halved weights score, on what data, and which runs they came from.
`mien card OUT` writes the model card from it.

Examples:
  mien pack runs/first --data archive.zip --out packed
  mien pack runs/first --data archive.zip --out packed --splits validation test --int8
"""


def run(arguments: list[str]) -> int:
    """Runs ``mien pack``; returns the exit code."""
    parser = Parser("mien pack", DESCRIPTION)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run, or a model folder, that `mien train` wrote")
    parser.add_argument("--data", required=True, metavar="SOURCE", help="archive.zip, a folder, or a FER2013 CSV file")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder to write")
    parser.add_argument(
        "--splits", nargs="+", choices=("validation", "test"), default=["validation"], help="scored (validation)"
    )
    parser.add_argument("--int8", action="store_true", help="pack an int8 form too, if it loses 0.3 points at most")
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="fit temperature and threshold again, on validation pictures without a twin in training",
    )
    given = parser.parse(arguments)
    hide_bars()

    from mien.data.read import read_faces
    from mien.export.pack import FILES, pack
    from mien.model.classifier import model_folder

    command = shlex.join(["mien", "pack", *arguments])
    refuse_inputs(given.out, [model_folder(given.run), Path(given.data)])
    with claim(given.out):  # and refused before the data is read
        refuse_others(given.out, FILES, "pack")
        faces = read_faces(given.data)
        pack(
            given.run,
            given.out,
            faces,
            splits=given.splits,
            int8=given.int8,
            calibrate=given.calibrate,
            command=command,
        )
        print(f"packed: {shown(given.out)}")
    return 0
