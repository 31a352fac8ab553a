"""``mien explain``: shows what of each face in a photo an answer depends on."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.cli.names import picture_for
from mien.cli.parser import Parser, add_reading_options, add_timeout
from mien.cli.signals import hide_bars, without_remarks_of_decoders
from mien.errors import MienError
from mien.files import ensure_writable
from mien.text import shown

if TYPE_CHECKING:
    from mien.recognition.explain import Explanation
    from mien.recognition.recognizer import Recognizer
    from mien.recognition.results import Face

DESCRIPTION = """\
Shows what of each face in a photo the answer depends on: orange speaks for the expression, blue against it.
It explains the network's guess about how a face looks; it tells nothing about what the person feels.

Examples:
  mien explain photo.jpg                                  writes photo-explained.png
  mien explain photo.jpg --out heat.png --label sad
  mien explain crop.png --out heat.png --detector none --model runs/first --method gradient

The picture that is written holds each face, from left to right and in rows of three, as the network read it beside its
heat map. Colours are scaled to the strongest part of each face: they show where, not how much. Methods: occlusion hides
squares of the face and reads it again each time; rollout and gradient look into a Vision Transformer, and need torch
and a model folder that `mien train` wrote; auto is occlusion, which came out best under benchmarks/explanations.py.
With --timeout, a second process reads the photo: it is killed if reading it, or explaining a face, takes longer.
Exit code 0: written; 2: the photo cannot be read, holds no face, or the command is wrong.
"""


def run(arguments: list[str]) -> int:
    """Runs ``mien explain``; returns the exit code.

    Raises:
        MienError: an argument is wrong, the model cannot be used, the photo cannot be read or holds no face, or the
            picture cannot be written.
    """
    options = parser().parse(arguments)
    options.out = options.out or picture_for(options.photo, "explained")
    _check(options)
    hide_bars()

    from mien.model.places import find
    from mien.recognition.explain import TORCH_METHODS, save

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
    names = ("model", "detector", "min_face", "device")
    settings = {"engine": engine, **{name: getattr(options, name) for name in names}}
    with without_remarks_of_decoders():
        faces = _explained(options, settings)
    save([explanation for _, explanation in faces], options.out)
    labels = ", ".join(f"{shown(face.label)} {face.score:.0%}" for face, _ in faces)
    print(f"{shown(options.out)}: {len(faces)} {'face' if len(faces) == 1 else 'faces'} ({labels})")
    return 0


def parser() -> Parser:
    """Returns the parser of ``mien explain``."""
    built = Parser("mien explain", DESCRIPTION)
    add = built.add_argument
    add("photo", type=Path, metavar="PHOTO", help="a picture with one face or several")
    add(
        "--out",
        type=Path,
        metavar="FILE.png",
        help="where to write the heat maps, .png or .jpg (a new file in this folder, PHOTO-explained.png)",
    )
    add_reading_options(built)
    add("--method", default="auto", choices=("auto", "occlusion", "rollout", "gradient"), help="how (auto)")
    add_timeout(built, "a photo")
    add("--label", metavar="L", help="the expression to explain, such as sad (the likeliest of each face)")
    return built


def _check(options: argparse.Namespace) -> None:
    from mien.recognition.explain import check_name

    check_name(options.out)
    ensure_writable(options.out.parent)
    if options.out.exists() and options.photo.exists() and options.out.samefile(options.photo):
        raise MienError(f"--out: {options.out} is the photo itself; give another name")


def _explained(options: argparse.Namespace, settings: dict[str, Any]) -> list[tuple[Face, Explanation]]:
    """The faces of the photo, each with what its answer depends on."""
    arguments = (settings, options.method, options.label)
    if options.timeout is None:
        _, work = prepare(print, *arguments)
        return list(work(options.photo))

    from mien.recognition.time_limit import TimedProcess

    with closing(TimedProcess(options.timeout, prepare, *arguments)) as process:
        return list(process.answers(options.photo, str(options.photo)))


def prepare(
    say: Callable[[str], None], settings: dict[str, Any], method: str, label: str | None
) -> tuple[None, Callable[[Path], Iterator[tuple[Face, Explanation]]]]:
    """Loads the model, and gives what explains the faces of a photo one by one (``mien.recognition.time_limit``).

    Raises:
        MienError: the model or the detector cannot be loaded, or the model knows no such expression.
    """
    from mien.recognition.recognizer import Recognizer

    recognizer = Recognizer(**settings)
    if label is not None and label not in recognizer.names:
        raise MienError(f"--label: got {label!r}, expected one of {', '.join(recognizer.names)}")

    def work(photo: Path) -> Iterator[tuple[Face, Explanation]]:
        for face in _faces(recognizer, photo):
            yield face, recognizer.explain(face, method, label)

    return None, work


def _faces(recognizer: Recognizer, photo: Path) -> tuple[Face, ...]:
    record = recognizer.recognize(photo)
    if record.status == "error":
        raise MienError(str(record.error))
    if not record.faces:
        raise MienError(f"{photo}: no face was found, expected one; for a face crop give --detector none")
    return record.faces
