"""``mien explain``: shows what of each face in photos an answer depends on."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mien.cli.output import remark
from mien.cli.parser import Parser, add_reading_options, add_timeout
from mien.cli.signals import without_remarks_of_decoders
from mien.cli.tally import CROP_HINT, doubts
from mien.errors import MienError
from mien.files import SparedError, ensure_writable, free_path
from mien.log import hide_bars
from mien.text import safe_stem, shown

if TYPE_CHECKING:
    from mien.recognition.explain import Explanation
    from mien.recognition.faces import Face
    from mien.recognition.paths import Input, Piped
    from mien.recognition.pictures import Kind
    from mien.recognition.recognizer import Recognizer

DESCRIPTION = """\
Shows on which parts of each face in photos the answer depends: orange speaks for the expression, blue against it.
It explains the network's guess about how a face looks; it tells nothing about what the person feels.

Examples:
  mien explain photo.jpg                                  writes photo-explained.png
  mien explain photo.jpg --out heat.png --label sad
  mien explain photos/ more.jpg --out explained           a picture for each photo, in a folder
  mien explain crop.png --out heat.png --detector none --model runs/first --method gradient

The picture that is written holds each face, from left to right and in rows of three, as the network read it beside its
heat map. Colours are scaled to the strongest part of each face: they show where, not how much. Methods: occlusion hides
squares of the face and reads it again each time; rollout and gradient look into a Vision Transformer, and need torch
and a model folder that `mien train` wrote; auto is occlusion, which came out best under benchmarks/explanations.py.

With --timeout, a second process reads the photos: it is killed if reading one, or explaining a face, takes longer.

If a photo cannot be read, a line says so, and the others are explained. Files in a folder are never written over.

Exit code 0: written; 3: some photos could not be read; 2: the command is wrong, or its only photo cannot be read or
holds no face.
"""

SOME_FAILED = 3

Answer: TypeAlias = "list[tuple[Face, Explanation]]"
"""The faces of a photo, each with what its answer depends on."""

Promise: TypeAlias = "tuple[float | None, float | None]"
"""Threshold and stated accuracy of a model (``mien.recognition.engine.Engine``)."""


def run(arguments: list[str]) -> int:
    """Runs ``mien explain``; returns the exit code.

    Raises:
        MienError: an argument is wrong, the model cannot be used, the picture cannot be written, or the only photo
            cannot be read or holds no face.
    """
    options = parser().parse(arguments)
    hide_bars()

    from mien.recognition.paths import Nothing, expand, skipped_line

    skipped: Counter[Kind] = Counter()
    sources = expand(options.photos, options.out, skipped)
    is_single = len(options.photos) == len(sources) == 1
    is_single &= isinstance(sources[0], Nothing) or not os.path.isdir(options.photos[0])
    if is_single and (options.out is None or not options.out.is_dir()):
        options.out = options.out or free_path(Path(_name(sources[0])))
        _check_file(options.out, sources[0])
    else:
        options.out = options.out or free_path(Path("explained"))
        _check_folder(options.out)
    with without_remarks_of_decoders(), _explaining(options, _settings(options)) as (explain, promise):
        failed, faces = (_one if is_single else _several)(sources, options.out, explain)
    for line in doubts(len(faces), sum(bool(face.uncertain) for face in faces), *promise):
        remark(line)
    if skipped:
        remark(skipped_line(skipped))
    return SOME_FAILED if failed else 0


def parser() -> Parser:
    """Returns the parser of ``mien explain``."""
    built = Parser("mien explain", DESCRIPTION)
    add = built.add_argument
    add("photos", nargs="+", metavar="PHOTO", help="pictures, folders of them, patterns, - for a piped picture")
    add(
        "--out",
        type=Path,
        metavar="PATH",
        help="of one photo the .png or .jpg to write (PHOTO-explained.png, a new file in this folder); of several, or "
        "if it is there, a folder (explained, a new one)",
    )
    add_reading_options(built)
    add("--method", default="auto", choices=("auto", "occlusion", "rollout", "gradient"), help="as above (auto)")
    add_timeout(built, "a photo")
    add("--label", metavar="L", help="the expression to explain, such as sad (the likeliest of each face)")
    return built


def _name(source: Input) -> str:
    """Returns the name of the picture that explains a photo."""
    stem = source.stem if isinstance(source, Path) else "picture"
    return f"{safe_stem(stem)}-explained.png"


def _title(source: Input) -> str:
    return str(source) if isinstance(source, Path) else source.name


def _check_file(out: Path, source: Input) -> None:
    from mien.recognition.explain import check_name

    check_name(out)
    ensure_writable(out.parent)
    if isinstance(source, Path) and out.exists() and os.path.exists(source) and out.samefile(source):
        raise MienError(f"--out: {out} is the photo itself; give another name")


def _check_folder(out: Path) -> None:
    from mien.recognition.explain import is_picture_name

    if not out.is_dir() and (out.exists() or is_picture_name(out)):
        raise MienError(f"--out: {out} is the name of a file, expected a folder, as there are several photos")
    ensure_writable(out)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings of the recognizer, after checking that they suit the method."""
    from mien.model.places import find
    from mien.recognition.explain import TORCH_METHODS

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
    return {"engine": engine, **{name: getattr(options, name) for name in names}}


Explain: TypeAlias = "Callable[[Input], Answer | str]"
"""Function from a photo to the answer, or to the reason why there is none, in one line."""


@contextmanager
def _explaining(options: argparse.Namespace, settings: dict[str, Any]) -> Iterator[tuple[Explain, Promise]]:
    """Loads the model; gives the function that explains a photo, and what the model promises."""
    arguments = (settings, options.method, options.label)
    if options.timeout is None:
        promise, work = prepare(remark, *arguments)
        yield lambda source: _collected(source, work), promise
        return

    from mien.recognition.time_limit import OverdueError, TimedProcess

    def explain(source: Input) -> Answer | str:
        try:
            return _collected(source, lambda task: process.answers(task, _title(source)))
        except OverdueError as error:
            return str(error)

    with closing(TimedProcess(options.timeout, prepare, *arguments, say=remark)) as process:
        yield explain, process.greeting


def _collected(source: Input, work: Callable[[Path | Piped], Iterator[Any]]) -> Answer | str:
    """Explains the faces of a photo; returns the reason if there is no answer."""
    from mien.recognition.paths import Nothing, Piped

    if isinstance(source, Nothing):
        return source.reason
    if not isinstance(source, Path | Piped):
        return f"{source.name}: is a film, expected a photo; save a frame of it as a picture"
    pieces = list(work(source))
    return pieces[0] if pieces and isinstance(pieces[0], str) else pieces


def _one(sources: Sequence[Input], out: Path, explain: Explain) -> tuple[int, list[Face]]:
    """Explains one photo; returns the number of failures, which is 0, and its faces."""
    (source,) = sources
    answer = explain(source)
    if isinstance(answer, str):
        raise MienError(answer)
    if not answer:
        raise MienError(f"{_title(source)}: no face was found, expected one; for a face crop give --detector none")
    if out.is_dir():
        out = free_path(out / _name(source))
    elif out.exists():
        remark(f"{out}: replaces an earlier file of this name")
    return 0, _write(answer, out)


def _several(sources: Sequence[Input], out: Path, explain: Explain) -> tuple[int, list[Face]]:
    """Explains photos one by one into a folder; returns the number of failures, and the faces."""
    failed, faces = 0, []
    for source in sources:
        answer = explain(source)
        if isinstance(answer, str):
            failed += 1
            print(f"error: {shown(answer)}", flush=True)
        elif not answer:
            print(f"{shown(_title(source))}: no face", flush=True)
        else:
            faces += _write(answer, free_path(out / _name(source)), may_move=True)
    if failed:
        remark(f"{failed:,} of {len(sources):,} could not be read")
    elif not faces:
        remark(CROP_HINT)
    return failed, faces


def _write(answer: Answer, out: Path, *, may_move: bool = False) -> list[Face]:
    """Writes the picture of a photo, and a line about it; returns the faces.

    If another command takes the name meanwhile, the picture has a number beside it; that is an error unless
    ``may_move``.
    """
    from mien.recognition.explain import save

    try:
        save([explanation for _, explanation in answer], out, spare_all=may_move)
    except SparedError as error:
        if not may_move:
            raise
        out = error.place
    faces = [face for face, _ in answer]
    labels = ", ".join(
        f"{shown(face.label)} {face.score:.0%}{' uncertain' if face.uncertain else ''}" for face in faces
    )
    print(f"{shown(out)}: {len(faces)} {'face' if len(faces) == 1 else 'faces'} ({labels})", flush=True)
    return faces


def prepare(
    say: Callable[[str], None], settings: dict[str, Any], method: str, label: str | None
) -> tuple[Promise, Callable[[Path | Piped], Iterator[tuple[Face, Explanation] | str]]]:
    """Loads the model; returns what it promises and a function that explains faces (``mien.recognition.time_limit``).

    The function explains the faces of a photo one by one; of a photo that cannot be read it gives the reason instead.

    Raises:
        MienError: the model or the detector cannot be loaded, or the model knows no such expression.
    """
    from mien.recognition.recognizer import Recognizer

    recognizer: Recognizer = Recognizer(**settings)
    if label is not None and label not in recognizer.names:
        raise MienError(f"--label: got {label!r}, expected one of {', '.join(recognizer.names)}")

    def work(photo: Path | Piped) -> Iterator[tuple[Face, Explanation] | str]:
        record = recognizer.recognize(photo)
        if record.status == "error":
            yield str(record.error)
        if record.first_of_several:
            say(f"{record.input}: holds several pictures, of which only the first is explained")
        for face in record:
            yield face, recognizer.explain(face, method, label)

    return (recognizer.engine.threshold, recognizer.stated_accuracy), work
