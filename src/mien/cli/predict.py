"""``mien predict``: reads the faces in pictures, folders, films and camera images."""

from __future__ import annotations

import argparse
import math
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from mien.cli.output import complain, print_converted, print_json, print_lines, remark
from mien.cli.parser import Parser, Switch, add_reading_options, add_timeout, number, whole_number
from mien.cli.signals import held, without_remarks_of_decoders
from mien.cli.tally import Outputs, Tally, table_path
from mien.errors import MienError
from mien.files import ensure_writable
from mien.log import LOGGER, hide_bars
from mien.model.places import DEFAULT
from mien.progress import progress
from mien.text import shown

if TYPE_CHECKING:
    from mien.recognition.formats import Former
    from mien.recognition.paths import Input
    from mien.recognition.pictures import Kind
    from mien.recognition.results import Recognition

DESCRIPTION = """\
Finds the faces in pictures and films and reads their expressions.
The answer is a guess about how a face looks, not about what a person feels.

Examples:
  mien predict photo.jpg
  mien predict photos/ --json > faces.jsonl
  mien predict photos/ --csv faces.csv --annotate marked/
  mien predict photos/ --csv faces.csv --resume       after a stop
  mien predict photos/ --xlsx faces.xlsx
  mien predict 'photos/**/*.jpg' --format deepface
  mien predict crops/ --detector none --model runs/first --json
  mien predict film.mp4 --every 5 --csv film.csv --timeline film.png --video-out marked.mp4
  mien predict --camera 0 --json                      or `mien predict 0`
  curl -L https://example.org/face.jpg | mien predict -
  mien predict uploads/ --timeout 10 --csv faces.csv

Pictures are JPEG, PNG, WebP, AVIF, TIFF, BMP, GIF or PPM files of at most 134 million pixels; films are what FFmpeg
reads. The content of a file decides what it is, not its name. Every picture and every frame gives a record, in order,
with status ok, no_face or error (it cannot be read).

With --timeout, a second process reads. It is killed if a picture, or the next frame of a film, takes longer: the record
then has status error, and a new process reads the next input. With this option nothing shares a batch.

In a CSV file no cell is a formula: a path that begins with =, +, - or @ has ./ in front, other text an apostrophe.

Exit code 0: all inputs were read; 3: some or all could not be read, or not copied with boxes; 2: the command is wrong;
130: Ctrl-C (143: SIGTERM, 129: SIGHUP), and every record printed until then is whole.
"""

SOME_FAILED = 3

ENDINGS: dict[str, str] = {
    "--csv": ".csv", "--xlsx": ".xlsx", "--parquet": ".parquet", "--timeline": ".png", "--video-out": "",
}  # fmt: skip
"""The options that name a file to write, and how its name has to end; there are many endings of films."""


def run(arguments: list[str]) -> int:
    """Runs ``mien predict``; returns the exit code.

    Raises:
        MienError: an argument is wrong, the model cannot be used, or an output cannot be written.
    """
    options = parser().parse(arguments)
    _check(options)
    hide_bars()
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=r"PIL\b")  # the records report what is wrong with a picture

    from mien.recognition.paths import Film, expand, skipped_line

    skipped: Counter[Kind] = Counter()
    inputs = expand(options.paths, options.annotate, skipped)
    inputs += [Film(options.camera)] if options.camera is not None else []
    _check_outputs(inputs, options)
    former = None
    if options.resume:
        from mien.recognition.batch import resume

        inputs, former = resume(options.csv, inputs)
        remark(f"{options.csv}: goes on; {len(inputs):,} {'input is' if len(inputs) == 1 else 'inputs are'} left")
    tally, outputs = Tally(), Outputs(options)
    with without_remarks_of_decoders():
        _read(inputs, options, tally, former)
    table, lines = table_path(options), outputs.lines(tally)
    in_lines = not (options.json or table or options.format)
    if table:
        print("\n".join(shown(line) for line in lines))
    sys.stdout.flush()
    for line in [] if table else lines:
        remark(line)
    for line in tally.failures(options, in_lines):
        complain(line)
    skipped_lines = [skipped_line(skipped)] if skipped else []
    copied = [] if options.annotate is None else inputs
    names = {Path(source if isinstance(source, Path) else source.name).name for source in copied} | {"stdin"}
    for line in [*tally.remarks(options, in_lines), *outputs.doubled(names), *skipped_lines]:
        remark(line)
    return SOME_FAILED if tally.failed or tally.not_copied else 0


def parser() -> Parser:
    """Returns the parser of ``mien predict``."""
    built = Parser("mien predict", DESCRIPTION)
    add = built.add_argument
    add(
        "paths",
        nargs="*",
        metavar="PATH",
        help="pictures, films, folders of them, patterns like '**/*.jpg', - for a piped picture, 0 for a camera",
    )
    add("--camera", type=whole_number(0), metavar="N", help="read camera N until Ctrl-C")
    add_reading_options(built)
    outputs = built.add_mutually_exclusive_group()
    outputs.add_argument("--json", action=Switch, help="print one JSON object per line")
    outputs.add_argument("--csv", type=Path, metavar="FILE.csv", help="write a table, one row for each face")
    outputs.add_argument(
        "--xlsx", type=Path, metavar="FILE.xlsx", help="write an Excel workbook with summaries; needs mien[tables]"
    )
    outputs.add_argument(
        "--parquet", type=Path, metavar="FILE.parquet", help="write the table as Parquet; needs mien[parquet]"
    )
    add("--resume", action="store_true", help="go on with the table of --csv: read only the inputs that it lacks")
    add("--digits", type=whole_number(0), metavar="N", help="round the numbers of --csv to N decimals (all digits)")
    add("--bom", action="store_true", help="begin --csv with a byte order mark, by which Excel recognises UTF-8")
    add("--format", choices=("fer", "deepface", "hf"), help="print each result in the format of that tool")
    add(
        "--annotate",
        type=Path,
        metavar="DIR",
        help="write copies with boxes and labels; never overwrites a file",
    )
    add("--every", type=whole_number(1), default=1, metavar="N", help="read only every Nth frame of a film (1)")
    add(
        "--smoothing",
        type=number("a number of seconds, 0 for none", lambda value: 0 <= value < math.inf),
        metavar="S",
        help="time constant in seconds for smoothing a film's probabilities; 0 for none (0.25)",
    )
    add("--video-out", type=Path, metavar="FILE", help="write the film with boxes and labels, and its sound")
    add("--audio", action=Switch, default=True, help="keep the sound in films with boxes (on)")
    add("--timeline", type=Path, metavar="FILE.png", help="draw the probabilities over the time of the film")
    add_timeout(built, "a picture, or the next frame of a film,")
    add("--engine", default="auto", metavar="E", help="auto, onnx or torch (auto)")
    add("--batch-size", type=whole_number(1), default=64, metavar="N", help="most faces that are read at once (64)")
    return built


def _outputs(options: argparse.Namespace) -> dict[str, Path]:
    """Returns the files to write by the option that names each."""
    paths = {option: getattr(options, option[2:].replace("-", "_")) for option in ENDINGS}
    return {option: path for option, path in paths.items() if path is not None}


def _check(options: argparse.Namespace) -> None:
    """Reports all wrong combinations of options at once, before any work."""
    problems = []
    if not options.paths and options.camera is None:
        problems.append("PATH is missing: give pictures, films or folders, or --camera N")
    # Without the check of endings, `--csv a.jpg b.jpg` would overwrite a picture.
    for option, path in _outputs(options).items():
        ending = path.suffix.lower()
        if option == "--csv" and ending == ".xlsx":
            problems.append(f"--csv: got {path}, a workbook of Excel; use --xlsx {path}")
        elif ENDINGS[option] not in ("", ending):
            problems.append(f"{option}: got {path}, expected a name that ends in {ENDINGS[option]}")
        if path.is_dir():
            problems.append(f"{option}: {path} is a folder, expected the name of a file")
    if options.format and table_path(options):
        problems.append("--format: prints JSON, and goes neither with --csv nor with --xlsx nor with --parquet")
    for option, is_typed in (
        ("--digits", options.digits is not None), ("--bom", options.bom), ("--resume", options.resume),
    ):  # fmt: skip
        if is_typed and options.csv is None:
            problems.append(f"{option}: is for tables by --csv FILE.csv, which is missing")
    if problems:
        raise MienError(f"{'; '.join(problems)}; see `mien predict --help`")
    for path in _outputs(options).values():
        ensure_writable(path.parent)
    if options.annotate is not None:
        ensure_writable(options.annotate)
    if options.parquet is not None:
        from mien.recognition.formats import ensure_pyarrow

        ensure_pyarrow()
    if options.xlsx is not None:
        from mien.recognition.spreadsheet import ensure_openpyxl

        ensure_openpyxl()


def _check_outputs(inputs: Sequence[Input], options: argparse.Namespace) -> None:
    """Reports an output that would overwrite an input, and options that need exactly one film."""
    from mien.recognition.paths import Film

    if options.video_out is not None:
        from mien.recognition.film.writer import check_film

        check_film(options.video_out)
    films = sum(isinstance(source, Film) for source in inputs)
    for option, path in _outputs(options).items():
        if option in ("--video-out", "--timeline") and films != 1:
            raise MienError(f"{option}: needs exactly one film or camera, got {films}; give them one by one")
        if path.exists() and any(_is_same_file(path, source) for source in inputs):
            raise MienError(f"{option}: {path} is one of the inputs, and would be written over; give another name")


def _is_same_file(path: Path, source: Input) -> bool:
    from mien.recognition.paths import Film

    file = source.source if isinstance(source, Film) else source
    return isinstance(file, Path) and os.path.exists(file) and path.samefile(file)


@contextmanager
def _reading(
    inputs: Sequence[Input], options: argparse.Namespace, tally: Tally
) -> Iterator[tuple[Sequence[str], Generator[Recognition, None, None]]]:
    """Loads the model; gives the names of its expressions and an iterator that reads the inputs one by one.

    The tally learns what the model promises.

    Raises:
        MienError: the model or the detector cannot be loaded.
    """
    from mien.recognition.batch import Copies, Settings, TimedReader, read_inputs
    from mien.recognition.film.tracking import SMOOTHING_S
    from mien.recognition.recognizer import Recognizer

    def not_copied(line: str) -> None:
        tally.not_copied.append(line)
        complain(line)

    smoothing = SMOOTHING_S if options.smoothing is None else options.smoothing
    settings = Settings(
        options.every, smoothing, options.video_out, options.timeline,
        audio=options.audio, say=remark, not_copied=not_copied,
    )  # fmt: skip
    names = ("model", "detector", "min_face", "engine", "device", "batch_size")
    arguments = {name: getattr(options, name) for name in names}
    if options.timeout is not None:
        with closing(TimedReader(options.timeout, arguments, settings, options.annotate)) as reader:
            tally.threshold, tally.stated_accuracy = reader.threshold, reader.stated_accuracy
            yield reader.names, reader.read(inputs)
        return
    recognizer = Recognizer(**arguments)
    kind = type(recognizer.engine).__name__
    LOGGER.debug("mien: model %s (%s), detector %s", options.model or DEFAULT, kind, options.detector)
    tally.threshold, tally.stated_accuracy = recognizer.engine.threshold, recognizer.stated_accuracy
    copies = Copies(options.annotate, settings.outputs()) if options.annotate is not None else None
    yield recognizer.names, read_inputs(recognizer, inputs, settings, copies)


def _read(inputs: Sequence[Input], options: argparse.Namespace, tally: Tally, former: Former | None) -> None:
    """Reads all inputs and writes each record immediately, after those of a former table."""
    # If the records appear on the same terminal, they show the progress themselves.
    hidden = not sys.stderr.isatty() or (sys.stdout.isatty() and not table_path(options))
    total = 0 if hidden else sum(_count_records(source, options) for source in inputs)
    with (
        _reading(inputs, options, tally) as (names, reading),
        _output(options, names, former) as write,
        progress("predict", total, "pictures", quiet=hidden) as advance,
        # Closed first, so that after Ctrl-C a film that is being written is finished properly.
        closing(reading) as records,
    ):
        for record in records:
            with held():
                write(record)
                tally.add(record)
            advance(1)


def _count_records(source: Input, options: argparse.Namespace) -> int:
    """Estimates the number of records of an input without reading it."""
    from mien.recognition.paths import Film

    if not isinstance(source, Film) or isinstance(source.source, int) or options.timeout is not None:
        return 1  # with a time limit, this process must not open films: that could take forever
    from mien.recognition.film import reader as frames

    try:
        return max(1, -(-(frames.film_info(source.source).frames or 1) // options.every))
    except MienError:
        return 1


def _output(
    options: argparse.Namespace, names: Sequence[str], former: Former | None
) -> AbstractContextManager[Callable[[Recognition], None]]:
    """Returns a context manager that gives the function that writes a record, and that opens and closes its file."""
    from mien.recognition.formats import FORMATS, csv_table, parquet_table

    if options.csv is not None:
        return csv_table(options.csv, names, digits=options.digits, byte_order_mark=options.bom, former=former)
    if options.xlsx is not None:
        from mien.recognition.spreadsheet import xlsx_table

        return xlsx_table(options.xlsx, names)
    if options.parquet is not None:
        return parquet_table(options.parquet, names)
    if options.format is not None:
        convert = FORMATS[options.format]
        return nullcontext(lambda record: print_converted(record, convert))
    return nullcontext(print_json if options.json else print_lines)
