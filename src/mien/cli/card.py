"""``mien card``: the model card of a packed classifier."""

from __future__ import annotations

from pathlib import Path

from mien.cli.parser import Parser
from mien.export.card import card
from mien.files import read_json_object, refuse_inputs, write_text
from mien.recognition.engines.models import ONNX_FILES
from mien.text import shown

PACKED = ("meta.json", "config.json", "preprocessor_config.json", "model.safetensors", *ONNX_FILES)
"""What a packed folder is made of, over which no card is written."""

DESCRIPTION = """\
Writes the model card of a folder that `mien pack` wrote, from its meta.json: scores with intervals, uses, limits, data.

Examples:
  mien card packed                         print it
  mien card packed --out MODEL_CARD.md
"""


def run(arguments: list[str]) -> int:
    """Runs ``mien card``; returns the exit code."""
    parser = Parser("mien card", DESCRIPTION)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what `mien pack` wrote")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the file to write; by default it is printed")
    parser.add_argument("--name", default="Mien", help="of the model, for the title (Mien)")
    given = parser.parse(arguments)
    if given.out is not None:
        refuse_inputs(given.out, [given.folder / name for name in PACKED])
    text = card(read_json_object(given.folder / "meta.json"), given.name)
    if given.out is None:
        print(text, end="")
    else:
        write_text(given.out, text)
        print(f"card: {shown(given.out)}")
    return 0
