"""``mien predict``: reads the faces in pictures, folders, films and what a camera sees."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.cli.parser import Parser, add_reading_options, add_timeout, whole_number
from mien.cli.signals import Interrupts, hide_bars, without_remarks_of_decoders
from mien.errors import MienError, one_line
from mien.files import ensure_writable
from mien.progress import progress
from mien.text import json_shown, shown

if TYPE_CHECKING:
    from mien.recognition.paths import Input
    from mien.recognition.pictures import Kind
    from mien.recognition.results import Face, Recognition

DESCRIPTION = """\
Finds the faces in pictures and films and reads their expressions.
The answer is a guess about how a face looks, not about what a person feels.

Examples:
  mien predict photo.jpg
  mien predict photos/ --json > faces.jsonl
  mien predict photos/ --csv faces.csv --annotate marked/
  mien predict 'photos/**/*.jpg' --format deepface
  mien predict crops/ --detector none --model runs/first --json
  mien predict film.mp4 --every 5 --csv film.csv --timeline film.png --video-out marked.mp4
  mien predict --camera 0 --json
  mien predict uploads/ --timeout 10 --csv faces.csv

Pictures are JPEG, PNG, WebP, AVIF, TIFF, BMP, GIF or PPM files of at most 134 million pixels, films what FFmpeg reads;
what a file is, its content tells, not its name. A record is told for every picture and every frame, in order, also for
one that cannot be read: its status is ok, no_face or error.
With --timeout, a second process reads: it is killed if a picture, or the next frame of a film, takes longer. That is a
record with status error, and a new process reads the next input. Pictures then do not share batches.
In a CSV file no cell is a formula: a path that begins with =, +, - or @ has ./ in front, other text an apostrophe.
Exit code 0: all were read; 3: some, or all, could not be; 2: the command itself is wrong; 130: Ctrl-C (143: SIGTERM,
129: SIGHUP), with every record whole that was told until then.
"""

SOME_FAILED = 3


def run(arguments: list[str]) -> int:
    """Runs ``mien predict``; returns the exit code.

    Raises:
        MienError: an argument is wrong, the model cannot be used, or an output cannot be written.
    """
    given = _parser().parse(arguments)
    _check(given)
    hide_bars()
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=r"PIL\b")  # the records tell what is wrong with a picture

    from mien.recognition.paths import Film, counted, expand

    neither: Counter[Kind] = Counter()
    inputs = expand(given.paths, given.annotate, neither)
    inputs += [Film(given.camera)] if given.camera is not None else []
    _check_outputs(inputs, given)
    tally = _Tally()
    with without_remarks_of_decoders():
        _read(inputs, given, tally)
    if given.csv or given.parquet:
        print(f"{shown(given.csv or given.parquet)}: {tally.records:,} records, {tally.faces:,} faces")
    sys.stdout.flush()
    if tally.failed:
        _say(f"{tally.failed} of {tally.records} could not be read, the first is {tally.reason}")
    if neither:
        files = "1 file that holds" if neither.total() == 1 else f"{neither.total():,} files that hold"
        _say(f"left out {files} neither a picture nor a film: {counted(neither)}")
    return SOME_FAILED if tally.failed else 0


def _say(text: str) -> None:
    """Tells the person, beside what goes to stdout."""
    print(f"mien: {shown(text)}", file=sys.stderr)


def _parser() -> Parser:
    parser = Parser("mien predict", DESCRIPTION)
    add = parser.add_argument
    add("paths", nargs="*", metavar="PATH", help="pictures, films, folders of them, or patterns such as '**/*.jpg'")
    add("--camera", type=whole_number(0), metavar="N", help="read what camera N sees, until Ctrl-C")
    add_reading_options(parser)
    outputs = parser.add_mutually_exclusive_group()
    outputs.add_argument("--json", action="store_true", help="print one JSON object a line")
    outputs.add_argument("--csv", type=Path, metavar="FILE.csv", help="write a row a face")
    outputs.add_argument(
        "--parquet", type=Path, metavar="FILE.parquet", help="the same as Parquet; needs mien[parquet]"
    )
    add("--format", choices=("fer", "deepface", "hf"), help="print, a line an input, what that tool would give")
    add(
        "--annotate",
        type=Path,
        metavar="DIR",
        help="write copies with boxes and labels, never over a file that is there",
    )
    add("--every", type=whole_number(1), default=1, metavar="N", help="read every Nth frame of a film (1)")
    add(
        "--smoothing",
        type=_seconds,
        metavar="S",
        help="seconds over which a film's answers are smoothed, 0: not (0.25)",
    )
    add("--video-out", type=Path, metavar="FILE", help="write the film with boxes and labels, and its sound")
    add("--no-audio", action="store_true", help="leave the sound out of films with boxes")
    add("--timeline", type=Path, metavar="FILE.png", help="draw how the probabilities go through the film")
    add_timeout(parser, "a picture, or the next frame of a film,")
    add("--engine", default="auto", metavar="E", help="auto, onnx or torch (auto)")
    add("--batch-size", type=whole_number(1), default=64, metavar="N", help="faces read at once, at most (64)")
    return parser


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number of seconds, 0 for none")
    return value


def _check(given: argparse.Namespace) -> None:
    """Tells every wrong combination before anything is read."""
    problems = []
    if not given.paths and given.camera is None:
        problems.append("PATH is missing: give pictures, films or folders, or --camera N")
    # Without this, `--csv a.jpg b.jpg` would write over a picture.
    named = [
        ("--csv", given.csv, ".csv"),
        ("--parquet", given.parquet, ".parquet"),
        ("--timeline", given.timeline, ".png"),
    ]
    for option, path, suffix in named:
        if path is not None and path.suffix.lower() != suffix:
            problems.append(f"{option}: got {path}, expected a name that ends in {suffix}")
        if path is not None and path.is_dir():
            problems.append(f"{option}: {path} is a folder, expected the name of a file")
    if given.format and (given.csv or given.parquet):
        problems.append("--format: prints JSON, and goes neither with --csv nor with --parquet")
    if problems:
        raise MienError(f"{'; '.join(problems)}; see `mien predict --help`")
    for path in (given.csv, given.parquet, given.video_out, given.timeline):
        if path is not None:
            ensure_writable(path.parent)
    if given.annotate is not None:
        ensure_writable(given.annotate)
    if given.parquet is not None:
        from mien.recognition.formats import ensure_pyarrow

        ensure_pyarrow()


def _check_outputs(inputs: Sequence[Input], given: argparse.Namespace) -> None:
    """Tells what would be written over an input, and what needs one film."""
    from mien.recognition.paths import Film

    if given.video_out is not None:
        from mien.recognition.film.writer import check_film

        check_film(given.video_out)
    films = sum(isinstance(found, Film) for found in inputs)
    for option in ("video_out", "timeline", "csv", "parquet"):
        path, name = getattr(given, option), f"--{option.replace('_', '-')}"
        if path is not None and option in ("video_out", "timeline") and films != 1:
            raise MienError(f"{name}: needs exactly one film or camera, got {films}; give them one by one")
        if path is not None and path.exists() and any(_is_same(path, found) for found in inputs):
            raise MienError(f"{name}: {path} is one of the inputs, and would be written over; give another name")


def _is_same(path: Path, found: Input) -> bool:
    from mien.recognition.paths import Film

    source = found.source if isinstance(found, Film) else found
    return isinstance(source, Path) and source.exists() and path.samefile(source)


@dataclass
class _Tally:
    """What has been told so far."""

    records: int = 0
    faces: int = 0
    failed: int = 0
    reason: str = ""

    def add(self, record: Recognition) -> None:
        self.records += 1
        self.faces += len(record.faces)
        if record.status == "error":
            self.failed += 1
            self.reason = self.reason or _reason(record)


@contextmanager
def _reading(
    inputs: Sequence[Input], given: argparse.Namespace
) -> Iterator[tuple[Sequence[str], Generator[Recognition, None, None]]]:
    """The expressions that the model tells apart, and the records of all inputs, which are read as they are asked for.

    Raises:
        MienError: the model or the detector cannot be loaded.
    """
    from mien.recognition.batch import FilmSettings, read_inputs
    from mien.recognition.draw import Copies
    from mien.recognition.film.tracking import SMOOTHING_S
    from mien.recognition.recognizer import Recognizer

    smoothing = SMOOTHING_S if given.smoothing is None else given.smoothing
    settings = FilmSettings(given.every, smoothing, given.video_out, given.timeline, audio=not given.no_audio, say=_say)
    names = ("model", "detector", "min_face", "engine", "device", "batch_size")
    options = {name: getattr(given, name) for name in names}
    if given.timeout is not None:
        from mien.recognition.time_limit import TimedReader

        with closing(TimedReader(given.timeout, options, settings, given.annotate)) as reader:
            yield reader.names, reader.read(inputs)
        return
    recognizer = Recognizer(**options)
    copies = Copies(given.annotate) if given.annotate is not None else None
    yield recognizer.names, read_inputs(recognizer, inputs, settings, copies)


def _read(inputs: Sequence[Input], given: argparse.Namespace, tally: _Tally) -> None:
    """Reads all inputs and tells every record as soon as it is there."""
    interrupts = Interrupts()
    # Lines on the same terminal show by themselves how far it is.
    hidden = not sys.stderr.isatty() or (sys.stdout.isatty() and not (given.csv or given.parquet))
    total = 0 if hidden else sum(_length(found, given) for found in inputs)
    with (
        _reading(inputs, given) as (names, reading),
        interrupts.watched(),
        _output(given, names) as tell,
        progress("predict", total, "pictures", quiet=hidden) as advance,
        # Closed before the rest: a film that is being written is ended properly after Ctrl-C.
        closing(reading) as records,
    ):
        for record in records:
            with interrupts.held():
                tell(record)
                tally.add(record)
            advance(1)


def _length(found: Input, given: argparse.Namespace) -> int:
    """How many records an input will have, as far as can be known before it is read."""
    from mien.recognition.paths import Film

    if not isinstance(found, Film) or isinstance(found.source, int) or given.timeout is not None:
        return 1  # with a limit on its time, no film is opened in this process
    from mien.recognition.film import reader as frames

    try:
        return max(1, -(-(frames.about(found.source).frames or 1) // given.every))
    except MienError:
        return 1


def _output(given: argparse.Namespace, names: Sequence[str]) -> AbstractContextManager[Callable[[Recognition], None]]:
    """What is done with every record, as a block that opens and closes the file where there is one."""
    from mien.recognition.formats import FORMATS, csv_table, parquet_table

    if given.csv is not None:
        return csv_table(given.csv, names)
    if given.parquet is not None:
        return parquet_table(given.parquet, names)
    if given.format is not None:
        shape = FORMATS[given.format]
        return nullcontext(lambda record: _print_shaped(record, shape))
    return nullcontext(_print_json if given.json else _print_lines)


def _reason(record: Recognition) -> str:
    """Why an input, or a frame of a film, could not be read, with its name."""
    reason = str(record.error)
    where = shown(one_line(record.input))
    if record.frame is not None:
        return f"{where} frame {record.frame}: {reason}"
    return reason if where in reason else f"{where}: {reason}"


def _print_json(record: Recognition) -> None:
    _print(json_shown(record.record(), ascii_only=not _fits(record.input)))


def _print_shaped(record: Recognition, shape: Callable[[Recognition], list[Any]]) -> None:
    """A line in the shape of another tool; these have none for what cannot be read, so it is null, and told aside."""
    if record.status == "error":
        print(f"mien: {shown(_reason(record))}", file=sys.stderr)
    found = None if record.status == "error" else shape(record)
    _print(json_shown(found, ascii_only=not _fits(str(found))))


def _print_lines(record: Recognition) -> None:
    """A line a face, for a person."""
    name = shown(record.input)
    where = name if record.frame is None else f"{name} frame {record.frame} ({record.time_s:.2f} s)"
    if record.status == "error":
        lines = [f"error: {shown(record.error)}"]
        if record.frame is not None:
            lines = [f"{where}: {lines[0]}"]
    else:
        lines = [f"{where}: {shown(_told(face))}" for face in record.faces] or [f"{where}: no face"]
    encoding = sys.stdout.encoding or "utf-8"
    _print("\n".join(lines).encode(encoding, "backslashreplace").decode(encoding))


def _told(face: Face) -> str:
    """The surest expression, what else it might be, and where the face is."""
    ranked = sorted(face.probabilities.items(), key=lambda item: -item[1])
    others = ", ".join(f"{name} {share:.0%}" for name, share in ranked[1:3])
    left, top, width, height = (round(value) for value in face.box)
    number = "" if face.id is None else f"face {face.id}, "
    doubt = ", uncertain" if face.uncertain else ""
    return f"{number}{face.label} {face.score:.0%}{doubt} ({others}), {width}x{height} px at {left},{top}"


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _fits(text: str) -> bool:
    """Whether stdout can show a text; a file name may hold bytes that are no UTF-8, a terminal may know few letters."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
