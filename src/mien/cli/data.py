"""``mien data``: inspect, fetch or draw a data set, or cut one out of photos."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mien.cli.output import complain, faces_of, new_file, remark
from mien.cli.parser import Parser, Switch, add_detector_options, add_timeout, pick, whole_number
from mien.cli.signals import without_remarks_of_decoders
from mien.cli.tally import several_line
from mien.errors import MienError
from mien.files import ensure_writable, refuse_folder
from mien.text import counted, json_shown, shown

HELP = """\
Inspects, fetches or draws a data set, or cuts one out of photos.

Examples:
  mien data inspect archive.zip --json
  mien data fetch --out archive.zip
  mien data draw --out drawn.zip --train 4000 --validation 1000 --test 1000
  mien data crop photos/ --out faces

`mien data inspect|fetch|draw|crop --help` lists the options.
"""


def run(arguments: list[str]) -> int:
    """Runs ``mien data``; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    commands = {"inspect": _inspect, "fetch": _fetch, "draw": _draw, "crop": _crop}
    commands[pick(arguments[0], commands, "mien data")](arguments[1:])
    return 0


def inspect_parser() -> Parser:
    """Returns the parser of ``mien data inspect``."""
    parser = Parser("mien data inspect", "Reports what a data set holds, and what is unusual in it.")
    parser.add_argument("source", metavar="SOURCE", help="archive.zip, a folder, or a FER2013 CSV file")
    parser.add_argument("--json", action=Switch, help="print JSON")
    return parser


def _inspect(arguments: list[str]) -> None:
    options = inspect_parser().parse(arguments)

    from mien.data.inspect import describe, inspect
    from mien.data.read import read_faces

    report = inspect(read_faces(options.source))
    plain = (sys.stdout.encoding or "utf-8").lower() not in ("utf-8", "utf8")
    print(json_shown(report, ascii_only=plain, indent=2) if options.json else describe(report))


def fetch_parser() -> Parser:
    """Returns the parser of ``mien data fetch``."""
    parser = Parser("mien data fetch", "Downloads FER2013's archive.zip from Kaggle, or explains how to.")
    parser.add_argument(
        "--out", type=Path, default=Path("archive.zip"), metavar="FILE.zip", help="the file to write (archive.zip)"
    )
    return parser


def _fetch(arguments: list[str]) -> None:
    options = fetch_parser().parse(arguments)

    from mien.data.fetch import fetch

    print(shown(fetch(options.out)))


def draw_parser() -> Parser:
    """Returns the parser of ``mien data draw``."""
    parser = Parser("mien data draw", "Draws faces in seven expressions, laid out like Kaggle's archive of FER2013.")
    parser.add_argument("--out", type=Path, metavar="FILE.zip", help="the archive to write (a new one, drawn.zip)")
    parser.add_argument("--train", type=whole_number(0), default=4000, metavar="N", help="training faces (4000)")
    parser.add_argument("--validation", type=whole_number(0), default=1000, metavar="N", help="validation faces (1000)")
    parser.add_argument("--test", type=whole_number(0), default=1000, metavar="N", help="test faces (1000)")
    parser.add_argument(
        "--seed", type=whole_number(0), default=0, metavar="N", help="the same number draws the same faces (0)"
    )
    parser.add_argument("--force", action=Switch, help="replace FILE.zip if it exists")
    return parser


def _draw(arguments: list[str]) -> None:
    options = draw_parser().parse(arguments)
    out: Path = options.out or new_file(Path("drawn.zip"))
    if out.suffix.lower() != ".zip":
        raise MienError(f"--out: got {out}, expected a name that ends in .zip")
    if out.exists() and not options.force:
        raise MienError(f"{out}: exists; choose another name, or add --force to replace it")
    refuse_folder(out)
    ensure_writable(out.parent)

    from mien.data.drawn import draw_faces, write_archive

    faces = draw_faces(options.train, options.validation, options.test, options.seed)
    write_archive(out, faces)
    print(f"{shown(out)}: {len(faces):,} drawn faces")


def crop_parser() -> Parser:
    """Returns the parser of ``mien data crop``."""
    from mien.data.images import LARGEST_SIDE
    from mien.recognition.training_set import WHICH

    parser = Parser(
        "mien data crop",
        "Cuts the faces out of photos, one folder per class, and writes them as a set that `mien train` reads.",
    )
    parser.add_argument("source", type=Path, metavar="PHOTOS", help="CLASS/FILE or SPLIT/CLASS/FILE, a folder or a zip")
    parser.add_argument(
        "--out", type=Path, metavar="SET", help="the folder to write; it must not exist (a new one, PHOTOS-faces)"
    )
    parser.add_argument(
        "--size", type=whole_number(8, LARGEST_SIDE), default=48, metavar="N", help="pixels a side of a crop (48)"
    )
    parser.add_argument("--colour", action=Switch, help="keep the colours; by default crops are grey")
    parser.add_argument(
        "--faces",
        choices=WHICH,
        default="largest",
        help="faces to take from a photo: the largest, all, or only one, which skips photos with several (largest)",
    )
    add_detector_options(parser, "yunet or yunet:FILE.onnx")
    add_timeout(parser, "a photo")
    return parser


def _crop(arguments: list[str]) -> None:
    options = crop_parser().parse(arguments)

    from mien.data.read import locate
    from mien.recognition.detectors import detector
    from mien.recognition.training_set import crop_set

    if options.out is None:
        locate(options.source)  # before its name is reported
    options.out = options.out or faces_of(options.source)
    ensure_writable(options.out.parent)
    make = partial(detector, options.detector, options.min_face)
    with without_remarks_of_decoders():
        records = crop_set(
            options.source, options.out, make, size=options.size, grey=not options.colour, which=options.faces,
            timeout=options.timeout,
        )  # fmt: skip
    for record in records:
        if record.reason:
            complain(f"left out {record.reason}")
    if several := [record.path for record in records if record.first_of_several]:
        remark(several_line(len(several), several[0]))
    crops, photos = sum(len(record.crops) for record in records), sum(bool(record.crops) for record in records)
    taken = f"{counted(crops, 'face')} of {counted(photos, 'photo')}"
    print(f"{shown(options.out)}: {taken}, {counted(len(records) - photos, 'file')} left out")


PARSERS: dict[str, Callable[[], Parser]] = {
    "inspect": inspect_parser, "fetch": fetch_parser, "draw": draw_parser, "crop": crop_parser,
}  # fmt: skip
"""The parser of each command below ``mien data``."""
