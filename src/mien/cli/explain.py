"""``mien explain``: shows which parts of each face in a photo an answer depends on."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mien.cli.parser import Parser, add_reading_options
from mien.cli.signals import hide_bars
from mien.errors import MienError
from mien.files import ensure_writable
from mien.text import shown

if TYPE_CHECKING:
    from mien.recognition.recognizer import Recognizer
    from mien.recognition.results import Face

DESCRIPTION = """\
Shows which parts of each face in a photo the answer depends on: orange speaks for the expression, blue against it.
It explains the network's guess about how a face looks; it says nothing about what the person feels.

Examples:
  mien explain photo.jpg --out heat.png
  mien explain photo.jpg --out heat.png --label sad
  mien explain crop.png --out heat.png --detector none --model runs/first --method gradient

The picture that is written holds each face, from left to right and in rows of three, as the network read it beside its
heat map. Colours are scaled to the strongest part of each face: they show where, not how much. Methods: occlusion hides
squares of the face and reads it again each time; rollout and gradient look into a Vision Transformer, and need torch
and a model folder that `mien train` wrote; auto is occlusion, which came out best under benchmarks/explanations.py.
Exit code 0: written; 2: the photo cannot be read, holds no face, or the command is wrong.
"""


def run(arguments: list[str]) -> int:
    """Runs ``mien explain``; returns the exit code.

    Raises:
        MienError: an argument is wrong, the model cannot be used, the photo cannot be read or holds no face, or the
            picture cannot be written.
    """
    options = _parser().parse(arguments)
    _check(options)
    hide_bars()

    from mien.recognition.explain import TORCH_METHODS, save
    from mien.recognition.models import find
    from mien.recognition.recognizer import Recognizer

    engine = "torch" if options.method in TORCH_METHODS else "auto"
    if engine == "torch" and find(options.model).folder is None:
        raise MienError(
            f"--method {options.method}: looks into the network, for which ONNX is not enough; give --model a folder "
            "that `mien train` wrote, or choose --method occlusion"
        )
    if engine == "torch" and find_spec("torch") is None:
        raise MienError(
            f"--method {options.method}: needs torch, which is not installed; pip install 'mien[train]' brings it, or "
            "choose --method occlusion"
        )
    recognizer = Recognizer(
        options.model, detector=options.detector, min_face=options.min_face, engine=engine, device=options.device
    )
    if options.label is not None and options.label not in recognizer.names:
        raise MienError(f"--label: got {options.label!r}, expected one of {', '.join(recognizer.names)}")
    faces = _faces(recognizer, options.photo)
    save([recognizer.explain(face, options.method, options.label) for face in faces], options.out)
    labels = ", ".join(f"{shown(face.label)} {face.score:.0%}" for face in faces)
    print(f"{shown(options.out)}: {len(faces)} {'face' if len(faces) == 1 else 'faces'} ({labels})")
    return 0


def _parser() -> Parser:
    parser = Parser("mien explain", DESCRIPTION)
    add = parser.add_argument
    add("photo", type=Path, metavar="PHOTO", help="a picture with one face or several")
    add("--out", type=Path, required=True, metavar="FILE.png", help="where to write the heat maps, .png or .jpg")
    add_reading_options(parser)
    add("--method", default="auto", choices=("auto", "occlusion", "rollout", "gradient"), help="the method (auto)")
    add("--label", metavar="L", help="the expression to explain, such as sad (the most probable of each face)")
    return parser


def _check(options: argparse.Namespace) -> None:
    from mien.recognition.explain import check_name

    check_name(options.out)
    ensure_writable(options.out.parent)
    if options.out.exists() and options.photo.exists() and options.out.samefile(options.photo):
        raise MienError(f"--out: {options.out} is the photo itself; give another name")


def _faces(recognizer: Recognizer, photo: Path) -> tuple[Face, ...]:
    record = recognizer.recognize(photo)
    if record.status == "error":
        raise MienError(str(record.error))
    if not record.faces:
        raise MienError(f"{photo}: no face was found, expected one; for a face crop give --detector none")
    return record.faces
