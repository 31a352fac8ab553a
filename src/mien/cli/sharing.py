"""``mien export``, ``mien pack`` and ``mien card``: prepare a trained classifier for other people and programs."""

from __future__ import annotations

from pathlib import Path

from mien.cli.output import out_for
from mien.cli.parser import Parser, Switch, number, whole_number
from mien.errors import MienError
from mien.export.card import card
from mien.files import read_json_object, refuse_inputs, refuse_others, write_text
from mien.locks import claim
from mien.log import hide_bars
from mien.model.places import DEFAULT, ONNX_FILES, SHIPPED, model_folder, run_model, shipped
from mien.text import counted, portable_command, shown

EXPORT = """\
Writes a classifier as ONNX: uint8 face crops in, calibrated probabilities and an embedding out, with the normalisation
and the names of the expressions inside. `mien predict` reads faces with it, without PyTorch.

Examples:
  mien export runs/first --out exported/first --data archive.zip
  mien export runs/first --out exported/first --data archive.zip --int8

DIR gets model.onnx, model.int8.onnx with --int8, and parity.json: how far the answers to a split of the data are
from PyTorch's, and the accuracy and speed of each file. Without --data, random crops are compared. Nothing is
written if float32 is off by more than --tolerance, or if int8 loses more than 0.3 points of accuracy.
"""


def export_parser() -> Parser:
    """Returns the parser of ``mien export``."""
    parser = Parser("mien export", EXPORT)
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="a run, a model folder, or the name of a shipped model"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder to write (a new one, exported/NAME)")
    parser.add_argument("--int8", action=Switch, help="write an int8 file too; needs --data with a training split")
    parser.add_argument("--data", metavar="DATA", help="archive.zip, a folder, or a FER2013 CSV file")
    parser.add_argument(
        "--split",
        choices=("validation", "test", "train"),
        default="validation",
        help="split of the data on which answers are compared (validation)",
    )
    parser.add_argument(
        "--tolerance",
        type=number("a number above 0 and at most 1", lambda value: 0 < value <= 1),
        default=1e-4,
        metavar="X",
        help="largest difference of a probability (1e-4)",
    )
    parser.add_argument("--threads", type=whole_number(1), metavar="N", help="threads of each engine (all cores)")
    return parser


def run_export(arguments: list[str]) -> int:
    """Runs ``mien export``; returns the exit code.

    Raises:
        MienError: an argument is wrong, the model or the data cannot be used, or a file does not hold its tolerance.
    """
    options = export_parser().parse(arguments)
    hide_bars()

    from mien.data.read import locate, read_faces

    model = model_folder(options.model)
    if options.data is not None:
        locate(options.data)  # before PyTorch is loaded, and before the name of the output is reported

    from mien.export.export import FILES, export
    from mien.model.classifier import Classifier

    options.out = options.out or out_for("exported", [model])
    refuse_inputs(options.out, [model, None if options.data is None else Path(options.data)])
    with claim(options.out):  # refuse before the data is read
        refuse_others(options.out, FILES, "export")
        Classifier.load(model)
        done = export(
            model,
            options.out,
            faces=None if options.data is None else read_faces(options.data),
            split=options.split,
            int8=options.int8,
            tolerance=options.tolerance,
            threads=options.threads,
            command=portable_command(["mien", "export", *arguments]),
        )
    about = done.report["pictures"]
    split = f"{about['split']} split of {shown(about['source'])}" if about["split"] else about["source"]
    print(f"{done.table}\n\n{counted(about['n'], 'picture')} ({split}), against PyTorch")
    if done.report["int8"]:
        print(f"int8 is {done.report['int8']['way']}: {done.report['int8']['reason']}")
    print(f"{shown(options.out)}: {', '.join(done.report['files'])}, parity.json")
    return 0


PACK = """\
Makes a folder to share from a trained classifier: weights in half precision, their ONNX, and a meta.json with the
scores of the halved weights, the data, and the runs that the weights came from.

README.md is the model card. With --push the folder is uploaded to the Hugging Face Hub (after `hf auth login`).

Examples:
  mien pack runs/first --data archive.zip --out packed
  mien pack runs/first --data archive.zip --out packed --push user/model
  mien pack runs/first --data archive.zip --out packed --splits validation test --int8
"""


def pack_parser() -> Parser:
    """Returns the parser of ``mien pack``."""
    parser = Parser("mien pack", PACK)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run, a model folder, or the name of a shipped model")
    parser.add_argument("--data", required=True, metavar="SOURCE", help="archive.zip, a folder, or a FER2013 CSV file")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder to write (a new one, packed/NAME)")
    parser.add_argument(
        "--splits", nargs="+", action="extend", choices=("validation", "test"), help="splits to score (validation)"
    )
    parser.add_argument("--int8", action=Switch, help="pack an int8 form too, if it loses 0.3 points at most")
    parser.add_argument(
        "--calibrate",
        action=Switch,
        help="fit temperature and threshold again, on validation pictures without a twin in training",
    )
    parser.add_argument(
        "--reading-crop",
        type=float,
        metavar="SHARE",
        help="share of a face's side that the packed model reads, 0.5 to 1; needs --calibrate (as before)",
    )
    parser.add_argument(
        "--balance",
        type=float,
        metavar="TAU",
        help="divide the shares of the classes in training to this power out of the answers, 0 to 1.5, so that rare "
        "expressions are answered more often; needs --calibrate (as before)",
    )
    parser.add_argument("--push", metavar="USER/MODEL", help="upload the folder to this repository of the Hub")
    parser.add_argument("--private", action=Switch, help="make a new repository of --push private")
    return parser


def run_pack(arguments: list[str]) -> int:
    """Runs ``mien pack``; returns the exit code."""
    options = pack_parser().parse(arguments)
    hide_bars()

    command = portable_command(["mien", "pack", *arguments])
    if options.private and options.push is None:
        raise MienError("--private: is for --push USER/MODEL, which is missing")
    token = None
    if options.push is not None:
        from mien.export.push import check_push, push

        token = check_push(options.push)

    from mien.data.read import locate, read_faces

    run_folder = model_folder(options.run)
    if options.out is not None:
        refuse_inputs(options.out, [run_folder, Path(options.data)])
    locate(options.data)  # before PyTorch is loaded, and before the name of the output is reported

    from mien.export.pack import pack, packable

    options.out = options.out or out_for("packed", [run_folder])
    with claim(options.out):  # refuse before the data is read
        changes = {name: getattr(options, name) for name in ("calibrate", "reading_crop", "balance")}
        packable(options.run, options.out, **changes)
        faces = read_faces(options.data)
        pack(
            options.run,
            options.out,
            faces,
            splits=list(dict.fromkeys(options.splits or ["validation"])),
            int8=options.int8,
            command=command,
            **changes,
        )
        files = ", ".join(sorted(path.name for path in options.out.iterdir()))
        print(f"packed: {shown(options.out)} ({files})", flush=True)
        if token is not None:
            print(f"uploaded: {push(options.out, options.push, token=token, private=options.private)}")
    return 0


PACKED = ("meta.json", "config.json", "preprocessor_config.json", "model.safetensors", *ONNX_FILES)
"""The files of a packed folder; a card never replaces one of them."""

CARD = """\
Writes the model card of a folder that `mien pack` wrote, from its meta.json: scores with intervals, uses, limits, data.

Examples:
  mien card packed                         print it
  mien card mini                           the card of a model that comes with Mien
  mien card packed --out MODEL_CARD.md
"""


def card_parser() -> Parser:
    """Returns the parser of ``mien card``."""
    parser = Parser("mien card", CARD)
    parser.add_argument(
        "folder",
        type=Path,
        metavar="MODEL",
        help="a folder that `mien pack` wrote, or the name of a model that comes with Mien",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the file to write; by default it is printed")
    parser.add_argument("--name", help="the name of the model in the title (Mien, or the model that was named)")
    return parser


def run_card(arguments: list[str]) -> int:
    """Runs ``mien card``; returns the exit code."""
    options = card_parser().parse(arguments)
    name = str(options.folder)
    written = SHIPPED / options.folder / "README.md"
    is_named = not options.folder.exists() and name in shipped()
    folder = model_folder(options.folder) if is_named else run_model(options.folder)
    if not (folder / "meta.json").is_file():
        what = "holds no meta.json" if folder.is_dir() else "no such folder, and no model that comes with Mien"
        raise MienError(f"{name}: {what}; give a folder that `mien pack` wrote, or {DEFAULT}")
    if options.out is not None:
        refuse_inputs(options.out, [folder / file for file in PACKED])
        _refuse_other_file(options.out)
    if is_named and options.name is None and written.is_file():  # as a file, so that a base install can print it
        text = written.read_text(encoding="utf-8")
    else:
        text = card(read_json_object(folder / "meta.json"), options.name or "Mien")
    if options.out is None:
        print(text, end="")
    else:
        write_text(options.out, text)
        print(f"card: {shown(options.out)}")
    return 0


def _refuse_other_file(out: Path) -> None:
    """Raises MienError if a file is no model card of Mien, which its tags tell."""
    if out.is_file():
        with out.open("rb") as file:
            if b"\n- mien\n" not in file.read(4096).replace(b"\r\n", b"\n"):
                raise MienError(f"--out {out}: is no model card of Mien, and would be lost; choose another place")
