"""The command line: help, exit codes, one-line errors, and what each command passes on and prints."""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import types
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mien
from mien.cli import COMMANDS, main
from mien.cli.data import PARSERS as DATA_PARSERS
from mien.cli.evaluate import report_folders
from mien.cli.parser import Parser, with_dashes
from mien.errors import MienError

HEAVY = ("torch", "transformers", "timm", "accelerate", "onnxruntime", "pydantic", "yaml", "numpy", "cv2", "av")
ONLY_WITH_TRAIN = ("torch", "torchvision", "transformers", "timm", "accelerate", "pydantic", "sklearn")
ALSO_ONLY_WITH_TRAIN = ("matplotlib", "safetensors", "yaml")


@pytest.fixture
def drawn_archive(tmp_path: Path) -> Path:
    """An archive of 42 training, 14 validation and 14 test faces."""
    path = tmp_path / "drawn.zip"
    assert main(["data", "draw", "--out", str(path), "--train", "42", "--validation", "14", "--test", "14"]) == 0
    return path


def python(code: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a process of its own, with this checkout's package."""
    environment = {**os.environ, "PYTHONPATH": str(Path(mien.__file__).parents[1])}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=60)


def one_line(text: str) -> str:
    """The only line of what was told on stderr."""
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    return lines[0]


def test_help_starts_with_examples_and_loads_nothing_heavy() -> None:
    resource = pytest.importorskip("resource", reason="Windows has no limits")
    usage_before = resource.getrusage(resource.RUSAGE_CHILDREN)
    completed = python(
        "import sys, mien, mien.cli\n"
        "code = mien.cli.main(['--help'])\n"
        f"print('loaded:', sorted(set({HEAVY!r}) & set(sys.modules)), 'code:', code)"
    )
    usage_after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert completed.stdout.splitlines()[2] == "Examples:"
    assert completed.stdout.splitlines()[-1] == "loaded: [] code: 0", completed.stdout + completed.stderr
    seconds = (usage_after.ru_utime + usage_after.ru_stime) - (usage_before.ru_utime + usage_before.ru_stime)
    assert seconds < 0.3, f"mien --help took {seconds:.2f} s of processor time"


@pytest.mark.parametrize("command", ["data", "evaluate", "predict"])
def test_help_of_a_command_needs_the_base_install_alone(command: str) -> None:
    blocked_modules = (*ONLY_WITH_TRAIN, *ALSO_ONLY_WITH_TRAIN)
    completed = python(
        f"import sys; sys.modules.update(dict.fromkeys({blocked_modules!r})); import mien.cli\n"
        f"sys.exit(mien.cli.main([{command!r}, '--help']))"
    )
    assert completed.returncode == 0, completed.stderr
    assert "Examples:" in completed.stdout


def test_base_install_handles_data_and_says_what_training_needs(tmp_path: Path) -> None:
    blocked_modules = (*ONLY_WITH_TRAIN, *ALSO_ONLY_WITH_TRAIN)
    (tmp_path / "run").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "run" / name).write_text("{}")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked_modules!r})); import mien.cli\n"
        "print(mien.cli.main(['data', 'draw', '--out', 'd.zip', '--train', '7', '--validation', '7', '--test', '7']))\n"
        "print(mien.cli.main(['data', 'inspect', 'd.zip']))\n"
        "print(mien.cli.main(['train', '--data', 'd.zip', '--out', 'run']))\n"
        "print(mien.cli.main(['predict', 'face.png', '--model', 'run']))"
    )
    completed = python(code, cwd=tmp_path)
    codes = [line for line in completed.stdout.splitlines() if line.isdigit()]
    assert codes == ["0", "0", "2", "2"], completed.stdout + completed.stderr
    errors = completed.stderr.splitlines()
    assert len(errors) == 2
    assert all("is not installed; pip install 'mien[train]' brings it" in line for line in errors)


def test_module_runs_the_command_line() -> None:
    completed = python(
        "import runpy, sys; sys.argv = ['mien', '--version']; runpy.run_module('mien', run_name='__main__')"
    )
    assert (completed.returncode, completed.stdout) == (0, f"mien {mien.__version__}\n")


def test_help_and_version_stand_on_both_sides_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["help", "card"], ["card", "--help"], ["help", "data"], ["data", "--help"]):
        with suppress(SystemExit):
            main(arguments)
    first, second, third, fourth = re.split(r"(?=^usage: |^Inspects)", capsys.readouterr().out, flags=re.MULTILINE)[1:]
    assert first == second and "mien card" in first and third == fourth
    for arguments in (["-V"], ["predict", "--version"], ["train", "-V"]):
        assert main(arguments) == 0
        assert capsys.readouterr().out == f"mien {mien.__version__}\n"


@pytest.mark.parametrize("command", ["export", "pack"])
def test_a_mistyped_data_set_is_told_before_torch_is_loaded(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for module in ("export", "pack"):
        monkeypatch.setitem(sys.modules, f"mien.export.{module}", None)
    for out in ([], ["--out", "there"]):
        assert main([command, "mini", "--data", "archiv.zip", *out]) == 2
        error = capsys.readouterr().err
        assert error.startswith("mien: error: archiv.zip: ") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_without_the_client_of_the_hub_a_card_names_the_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # the extra serve brings jinja2, and not the client
    assert main(["card", "mini", "--name", "another"]) == 2
    assert "huggingface_hub is not installed; pip install 'mien[hub]' brings it" in capsys.readouterr().err


def test_without_a_command_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "Examples:" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["", "data", *(command for command in COMMANDS if command != "data")])
def test_help_fits_a_terminal_of_80_columns(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lines_of_help(columns: int) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        with suppress(SystemExit):
            main([*command.split(), "--help"])
        return capsys.readouterr().out.splitlines()

    lines = lines_of_help(80)
    long = [line for line in lines if len(line) > 80]
    assert [line for line in long if not line.strip().startswith(("mien ", "[", "curl "))] == [], "commands stay whole"
    assert [line for line in lines if re.search(r"\S-$", line)] == [], "no name is broken at a hyphen"
    assert " ".join(lines_of_help(122)).split() == " ".join(lines).split(), "the words are the same at any width"


BY_SETTINGS = ("data", "pretrain", "train", "folds")
WITH_PARSERS = [*(name for name in COMMANDS if name not in BY_SETTINGS), *(f"data {name}" for name in DATA_PARSERS)]


@pytest.mark.parametrize("command", WITH_PARSERS)
def test_help_of_an_option_ends_with_its_default(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parsers: list[Parser] = []

    def note(parser: Parser, arguments: Sequence[str]) -> Any:
        parsers.append(parser)
        raise SystemExit

    monkeypatch.setattr(Parser, "parse", note)
    with pytest.raises(SystemExit):
        main(command.split())
    (parser,) = parsers
    for action in parser._actions:
        default = action.default
        if action.option_strings and isinstance(default, str | int) and default not in (True, False, argparse.SUPPRESS):
            assert str(action.help).endswith(f"({default})"), action.option_strings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "mien: error: no command 'trian'; did you mean train?"),
        (
            ["zzz"],
            "mien: error: no command 'zzz'; there is data, pretrain, train, folds, evaluate, predict, explain, ",
        ),
        (["data", "darw"], "mien: error: no command 'darw'; did you mean draw?"),
        (["data", "draw", "--trian", "3", "--out", "x.zip"], "unknown option --trian, did you mean --train?"),
        (["data", "draw", "--out", "x.zip", "--train", "many"], "--train: got 'many', expected a whole number"),
        (["data", "draw", "--out", "x.txt"], "--out: got x.txt, expected a name that ends in .zip"),
        (["data", "inspect"], "the following arguments are required: SOURCE"),
        (["data", "inspect", "nowhere.zip"], "nowhere.zip"),
        (["evaluate", "m", "--data", "x", "--split", "all", "--out", "y"], "--split: invalid choice: 'all'"),
        (["evaluate", "m", "--split", "test", "--out", "y"], "required: --data"),
        (["predict"], "PATH is missing: give pictures, films or folders, or --camera N"),
        (["predict", "a.png", "--model", "m", "b.png", "--wxyzwxyz", "x"], "error: unknown option --wxyzwxyz; see"),
        (["data", "draw", "stray", "--out", "x.zip"], "error: unexpected argument 'stray'; see"),
        (["data", "draw", "--train", "-5", "--out", "x.zip"], "--train: got '-5', expected a whole number"),
        (
            ["data", "draw", "--train", "many", "--validaton", "7", "--test", "few", "--seed=x"],
            "error: unknown option --validaton, did you mean --validation?; "
            "--train: got 'many', expected a whole number of at least 0; "
            "--test: got 'few', expected a whole number of at least 0; "
            "--seed: got 'x', expected a whole number of at least 0; see `mien data draw --help`",
        ),
        (
            ["evaluate", "m", "--split", "all", "--batch-size", "0", "--data", "x", "--out", "y"],
            "(choose from 'train', 'validation', 'test'); --batch-size: got '0', expected a whole number of at least 1",
        ),
    ],
)
def test_mistakes_are_told_on_one_line(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in one_line(captured.err)
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (["evaluate", "", "--data", "a.zip", "--split", "test"], "evaluate"),
        (["predict", ""], "predict"),
        (["data", "crop", "", "--out", "faces"], "crop"),
        (["data", "draw", "--out", ""], "--out"),
        (["train", "--data", "a.zip", "--out="], "--out"),
        ([""], "mien"),
    ],
)
def test_an_empty_argument_is_not_the_current_folder(
    arguments: list[str], where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"mien: error: {where}: got an empty value, which names nothing; ")


def test_words_may_stand_on_both_sides_of_options() -> None:
    parser = Parser("mien x", "x")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--model")
    parser.add_argument("--json", action="store_true")
    for arguments, words in (
        (["a", "--model", "m", "b", "--json", "c"], ["a", "b", "c"]),
        (["--json", "a", "--model=m", "b"], ["a", "b"]),
        (["a", "--model", "m", "--", "-b", "--json"], ["a", "-b", "--json"]),
        (["--model", "m"], []),
    ):
        options = parser.parse(arguments)
        assert (options.words, options.model) == (words, "m")


def raising(error: BaseException) -> types.SimpleNamespace:
    """A command that fails."""

    def run(arguments: Sequence[str]) -> int:
        raise error

    return types.SimpleNamespace(run=run)


class OutOfMemoryError(RuntimeError):
    """Stands in for the error of that name in torch."""


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (MienError("faces.csv row 3:\n wrong"), 2, "mien: error: faces.csv row 3: wrong"),
        (ModuleNotFoundError("no", name="torch"), 2, "mien: error: torch is not installed; pip install 'mien[train]'"),
        (ModuleNotFoundError("no", name="sklearn.metrics"), 2, "sklearn is not installed; pip install 'mien[train]'"),
        (ModuleNotFoundError("no", name="kagglehub"), 2, "kagglehub is not installed; pip install 'mien[kaggle]'"),
        (KeyboardInterrupt(), 130, "mien: interrupted"),
        (MemoryError(), 2, "not enough memory; give a smaller --batch-size"),
        (OutOfMemoryError("CUDA out of memory.\nTried ..."), 2, "not enough memory; give a smaller --batch-size"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), 2, "the disk is full at runs/x; free some space"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "the disk is full; free some space"),
        (OSError(errno.EFBIG, "File too large"), 2, "mien: error: File too large; free some space or choose another"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 2, "mien: error: Disk quota exceeded; free some space or"),
        (OSError(errno.EMFILE, "Too many open files"), 2, "mien: error: too many files are open; allow more (`ulimit"),
        (RuntimeError("can't start new thread"), 2, "mien: error: no thread can be started; allow more processes or"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), 2, "mien: error: the working folder is gone"),
        (PermissionError(errno.EACCES, "Permission denied", "a.zip"), 2, "mien: error: a.zip: Permission denied"),
        (ValueError("two\nlines"), 1, "mien: error: unexpected ValueError: two lines; this is a fault of Mien's"),
    ],
)
def test_errors_have_one_line_and_an_exit_code(
    error: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "mien.cli.predict", raising(error))
    assert main(["predict"]) == code
    assert message in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("arguments", [["--debug", "predict"], ["predict", "--debug"]])
def test_debug_shows_the_traceback_anywhere(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mien.cli.predict", raising(MienError("wrong")))
    assert main(arguments) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("Traceback (most recent call last)")
    assert stderr.endswith("mien: error: wrong\n")


def test_a_closed_pipe_is_no_error(drawn_archive: Path) -> None:
    code = f"import sys, mien.cli; sys.exit(mien.cli.main(['data', 'inspect', {str(drawn_archive)!r}, '--json']))"
    environment = {**os.environ, "PYTHONPATH": str(Path(mien.__file__).parents[1]), "PYTHONUNBUFFERED": "1"}
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as pipe:
        completed = subprocess.run(
            [sys.executable, "-c", code], stdout=pipe, stderr=subprocess.PIPE, text=True, env=environment, timeout=60
        )
    assert (completed.returncode, completed.stderr) == (1, "")


def test_inspect_prints_counts_as_json(drawn_archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["data", "inspect", str(drawn_archive), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {split: part["total"] for split, part in report["splits"].items()} == {
        "train": 42,
        "validation": 14,
        "test": 14,
    }
    assert report["splits"]["train"]["classes"] == dict.fromkeys(
        ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"], 6
    )
    assert main(["data", "inspect", str(drawn_archive)]) == 0
    assert "total" in capsys.readouterr().out


def test_draw_replaces_a_file_only_when_asked_to(drawn_archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bytes_before = drawn_archive.read_bytes()
    counts = ["--train", "7", "--validation", "7", "--test", "7"]
    assert main(["data", "draw", "--out", str(drawn_archive), *counts]) == 2
    assert "--force" in capsys.readouterr().err
    assert drawn_archive.read_bytes() == bytes_before
    assert main(["data", "draw", "--out", str(drawn_archive), *counts, "--force"]) == 0
    with zipfile.ZipFile(drawn_archive) as archive:
        assert len(archive.namelist()) == 21


def test_draw_refuses_a_folder_before_it_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mien.data.drawn.draw_faces", lambda *_: pytest.fail("faces were drawn"))
    (tmp_path / "faces.zip").mkdir()
    assert main(["data", "draw", "--out", str(tmp_path / "faces.zip"), "--force"]) == 2
    assert "is a folder, expected the name of a file" in capsys.readouterr().err


@pytest.mark.parametrize("hide", [True, False])
def test_remarks_of_libraries_stay_hidden(hide: bool) -> None:
    code = f"""
import torch
from mien.log import hide_remarks
if {hide}: hide_remarks()
from timm.scheduler import CosineLRScheduler
CosineLRScheduler(torch.optim.SGD([torch.zeros(1)], 1.0), t_initial=1)
import logging
for name in ("transformers.x", "accelerate.y", "huggingface_hub.z", "matplotlib"): logging.getLogger(name).warning("no")
"""
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert completed.returncode == 0 and completed.stdout == "" and ("Cosine annealing" in completed.stderr) != hide
    assert not hide or completed.stderr == ""


LONG_OUTPUT = """
import sys, types, mien.cli
sys.modules["mien.cli.predict"] = types.SimpleNamespace(run=lambda _: print("x" * 300_000) or 0)
sys.exit(mien.cli.main(["predict"]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither such pipes nor limits of files")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_no_output_is_lost_in_silence(unbuffered: str, tmp_path: Path) -> None:
    """Not in a pipe that takes 64 KiB at once, and not by a disk that takes 100,000 bytes."""
    environment = {**os.environ, "PYTHONPATH": str(Path(mien.__file__).parents[1]), "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-c", LONG_OUTPUT]
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with subprocess.Popen(command, stdout=write_end, env=environment) as process, open(read_end, "rb") as pipe:
        os.close(write_end)
        assert (len(pipe.read()), process.wait(60)) == (300_001, 0)
    limit = ["sh", "-c", 'ulimit -f 100 && exec "$@"', "sh", *command]
    with (tmp_path / "output").open("wb") as file:
        completed = subprocess.run(limit, stdout=file, stderr=subprocess.PIPE, text=True, env=environment, timeout=60)
    assert completed.returncode == 2
    assert one_line(completed.stderr) == "mien: error: File too large; free some space or choose another place"


def test_draw_without_a_name_takes_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    counts = ["--train", "7", "--validation", "7", "--test", "7"]
    for name in ("drawn.zip", "drawn-2.zip"):
        assert main(["data", "draw", *counts]) == 0
        captured = capsys.readouterr()
        assert captured.out == f"{name}: 21 drawn faces\n" and f"writing to {name}; --out chooses" in captured.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drawn-2.zip", "drawn.zip"]


def test_fetch_prints_where_the_archive_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in = types.SimpleNamespace(fetch=lambda destination: destination)
    monkeypatch.setitem(sys.modules, "mien.data.fetch", stand_in)
    assert main(["data", "fetch", "--out", str(tmp_path / "a.zip")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'a.zip'}\n"


def test_train_passes_on_configuration_command_and_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[Any, bool, str]] = []

    def train(config: Any, *, resume: bool, command: str) -> Path:
        calls.append((config, resume, command))
        return Path(config.out) / "model"

    monkeypatch.setitem(sys.modules, "mien.training.finetune", types.SimpleNamespace(train=train))
    monkeypatch.chdir(tmp_path)
    for name in ("my faces.zip", "d"):
        (tmp_path / name).touch()
    arguments = ["train", "--data", "my faces.zip", "--out=runs/a", "--batch-size", "32", "--resume"]
    assert main(arguments) == 0
    config, resume, command = calls[0]
    assert (config.data, config.out, config.batch_size, resume) == ("my faces.zip", "runs/a", 32, True)
    assert command == "mien train --data 'my faces.zip' --out=runs/a --batch-size 32 --resume"
    assert capsys.readouterr().out == "model: runs/a/model\n"
    monkeypatch.setenv("RANK", "1")
    assert main(["train", "--data", "d", "--out", "o"]) == 0
    assert calls[1][1] is False
    assert capsys.readouterr().out == "", "only the first process prints"


def test_reports_of_several_models_have_names_of_their_own() -> None:
    out = Path("reports")
    assert report_folders(out, [Path("runs/a/model")]) == [out]
    folders = [Path("runs/a/model"), Path("runs/b"), Path("other/a/model"), Path("a")]
    assert report_folders(out, folders) == [out / "a", out / "b", out / "a-again-1", out / "a-again-2"]
    folders = [Path("a-again-1"), Path("a"), Path("x/a"), Path("x/A")]
    assert report_folders(out, folders) == [out / "a-again-1", out / "a", out / "a-again-2", out / "A-again-3"]
    average_folders = report_folders(out, [Path("average"), Path("runs/average/model")])
    assert average_folders == [out / "average-again-1", out / "average-again-2"], "average is the report of the average"


def test_options_may_be_spelled_with_underscores() -> None:
    assert with_dashes("--batch_size=8", ["--batch-size"]) == "--batch-size=8"
    assert with_dashes("my_file", ["--batch-size"]) == "my_file"
    parser = Parser("mien x", "x")
    parser.add_argument("--batch-size", type=int)
    assert parser.parse(["--batch_size", "8"]).batch_size == 8
    with pytest.raises(MienError, match="unknown option --batch, did you mean"):
        parser.parse(["--batch", "8"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with an untrained nano classifier; its folder knows no training pictures."""
    import torch

    from mien.labels import FER2013
    from mien.model.classifier import Classifier
    from mien.model.vit import build

    run = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    network, preprocessing = build("nano", FER2013, grey=True)
    torch.nn.init.normal_(dict(network.named_parameters())["classifier.weight"])
    Classifier(network, preprocessing, FER2013).save(run / "model", {"command": "none"})
    return run


def test_evaluate_writes_a_report(
    drawn_archive: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    capsys.readouterr()
    assert (
        main(["evaluate", str(model), "--data", str(drawn_archive), "--split", "test", "--out", str(out), "--tta"]) == 0
    )
    output = capsys.readouterr().out
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["split"], metrics["n"], metrics["tta"]) == ("test", 14, True)
    assert metrics["clean"] is None, "nothing says that it was trained on this data"
    assert "clean: not known, the pictures that the model was trained on are not at hand" in output
    assert f"whole: accuracy {metrics['accuracy']:.2%}" in output
    assert f"report: {out / 'report.html'}" in output
    assert "averaged" in output
    assert not (out / "summary.json").exists()


def test_evaluate_knows_what_the_model_was_trained_on(
    drawn_archive: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def evaluated(meta: dict[str, Any], sketches: Any, split: str, *options: str) -> dict[str, Any]:
        folder, out = tmp_path / "model", tmp_path / "report"
        Classifier.load(model).save(folder, meta, sketches)
        data = ["--data", str(drawn_archive), "--split", split, "--out", str(out), *options]
        assert main(["evaluate", str(folder), *data]) == 0
        metrics: dict[str, Any] = json.loads((out / "metrics.json").read_text())
        return metrics

    from mien.data.clean import sketch
    from mien.data.read import read_faces
    from mien.model.classifier import Classifier

    faces = read_faces(drawn_archive)
    this_data = {"data": {"fingerprint": faces.fingerprint}}
    exact_metrics = evaluated(this_data, None, "test")
    assert exact_metrics["clean"]["n"] + exact_metrics["twins"]["n"] == 14 and not exact_metrics["clean_is_approximate"]
    training_metrics = evaluated(this_data, None, "train")
    assert (training_metrics["clean"], training_metrics["clean_reason"]) == (
        None,
        "the model was trained on these very pictures",
    )
    other_data = {"data": {"fingerprint": "f" * 64}}
    assert evaluated(other_data, None, "train")["twins"] is None, "the training split of other data says nothing"
    named_data_metrics = evaluated(other_data, None, "train", "--train-data", str(drawn_archive))
    assert named_data_metrics["clean_reason"] == "the model was trained on these very pictures"
    # Its sketches are of all pictures of this data, so that each is found again.
    capsys.readouterr()
    sketch_metrics = evaluated(other_data, sketch(faces.images), "train")
    assert sketch_metrics["clean_is_approximate"] and sketch_metrics["twins"]["n"] == sketch_metrics["n"]
    partial_metrics = evaluated(other_data, sketch(faces.part("train").images[:3]), "train")
    assert partial_metrics["clean_is_approximate"] and 3 <= partial_metrics["twins"]["n"] < partial_metrics["n"]
    assert "(approximate, by sketches: " in capsys.readouterr().out


def test_evaluate_takes_a_table_with_a_test_split_alone(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(0)
    rows = [f"{row % 7},{' '.join(map(str, generator.integers(0, 256, 48 * 48)))},PrivateTest" for row in range(14)]
    table = tmp_path / "private.csv"
    table.write_text("\n".join(["emotion,pixels,Usage", *rows]) + "\n")
    out = tmp_path / "report"
    assert main(["evaluate", str(model), "--data", str(table), "--split", "test", "--out", str(out)]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["split"], metrics["n"], metrics["clean"]) == ("test", 14, None)
    assert "clean: not known" in capsys.readouterr().out
    assert main(["evaluate", str(model), "--data", str(table), "--split", "train", "--out", str(out)]) == 2
    assert "has no train split" in one_line(capsys.readouterr().err)


def test_evaluate_over_several_models_gives_a_table(
    drawn_archive: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "both"
    models = [str(model), str(model / "model")]
    arguments = ["evaluate", *models, "--data", str(drawn_archive), "--split", "validation", "--out", str(out)]
    assert main([*arguments, "--train-data", str(drawn_archive), "--batch_size", "5"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    names = [model.name, f"{model.name}-again-1"]
    first = json.loads((out / names[0] / "metrics.json").read_text())
    assert [(row["kind"], row["name"]) for row in summary["rows"]] == [("model", name) for name in names]
    assert [row["scores"]["accuracy"]["value"] for row in summary["rows"]] == [first["accuracy"]] * 2
    assert not (out / "average").exists(), "an average takes --average"
    output = capsys.readouterr().out
    assert (out / "summary.txt").read_text() in output and "mean of" not in output and "average" not in output
    for suffix in ("md", "tex", "csv"):
        assert f"{100 * first['accuracy']:.2f}" in (out / f"models.{suffix}").read_text()
        assert str(out / f"models.{suffix}") in output
    texts = [path.read_text(errors="replace") for path in out.rglob("*.*") if path.suffix != ".png"]
    assert len(texts) > 10 and not any(str(tmp_path.parent) in text for text in texts), "an absolute path"
    assert [pair["models"] for pair in summary["pairs"]] == [names]
    assert {(pair["b"], pair["c"], pair["p"]) for pair in summary["pairs"]} == {(0, 0, 1.0)}

    assert main([*arguments, "--average", "--seeds"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    average = json.loads((out / "average" / "metrics.json").read_text())
    assert (average["averaged"], average["models"]) == (2, names)
    assert average["nll"] == pytest.approx(first["nll"])
    assert [row["kind"] for row in summary["rows"]] == ["model", "model", "average", "seeds"]
    assert summary["rows"][3]["scores"]["accuracy"] == {
        "value": first["accuracy"], "low": None, "high": None, "std": 0,
    }  # fmt: skip
    assert [pair["models"] for pair in summary["pairs"]] == [
        names, [names[0], "average of 2 models"], [names[1], "average of 2 models"],
    ]  # fmt: skip
    assert "mean of 2 seeds" in capsys.readouterr().out
    assert (average["calibration"]["cross_fitted"], average["calibration"]["temperatures"]) == (True, [None, None])


@pytest.mark.parametrize("option", ["--average", "--seeds"])
def test_one_model_has_neither_average_nor_seeds(option: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(model), "--data", "no.zip", "--split", "test", "--out", "no", option]) == 2
    assert f"{option}: got one model, expected two or more" in one_line(capsys.readouterr().err)


def save_untrained(run: Path, names: tuple[str, ...], meta: dict[str, Any]) -> Path:
    """A run folder with an untrained nano classifier of these classes."""
    from mien.model.classifier import Classifier
    from mien.model.vit import build

    network, preprocessing = build("nano", names, grey=True)
    Classifier(network, preprocessing, names).save(run / "model", meta)
    return run


def test_models_of_other_classes_are_not_evaluated_together(
    drawn_archive: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mien.labels import FER2013

    other_model = save_untrained(tmp_path / "other", (*FER2013, "contempt"), {})
    capsys.readouterr()
    arguments = ["--data", str(drawn_archive), "--split", "test", "--out", str(tmp_path / "out")]
    assert main(["evaluate", str(model), str(other_model), *arguments]) == 2
    assert "neutral, contempt, unlike" in one_line(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_damaged_model_costs_no_report_of_another(
    drawn_archive: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = shutil.copytree(model / "model", tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"cut")
    out = tmp_path / "out"
    capsys.readouterr()
    arguments = ["--data", str(drawn_archive), "--split", "test", "--out", str(out)]
    assert main(["evaluate", str(model), str(damaged), *arguments]) == 2
    assert "damaged: the weights cannot be read" in capsys.readouterr().err
    assert (out / model.name / "report.html").is_file() and not (out / "damaged").exists()


def test_models_that_validated_on_different_pictures_have_no_average(
    drawn_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mien.data.read import read_faces
    from mien.labels import FER2013

    folder = tmp_path / "faces"
    with zipfile.ZipFile(drawn_archive) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith("train/")])
    models = []
    for seed in (1, 2):
        meta = {
            "config": {"validation_fraction": 0.2, "seed": seed},
            "data": {"fingerprint": read_faces(folder).fingerprint},
        }
        models.append(str(save_untrained(tmp_path / str(seed), FER2013, meta)))
    out = tmp_path / "out"
    assert main(["evaluate", *models, "--data", str(folder), "--split", "validation", "--out", str(out)]) == 0
    assert "no average, no tests of pairs: the models were validated on different pictures" in capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    assert [row["kind"] for row in summary["rows"]] == ["model", "model", "seeds"]
    assert summary["pairs"] is None
    assert {entry.name for entry in out.iterdir()} == {
        "1", "2", "summary.json", "summary.txt", "models.md", "models.tex", "models.csv",
    }  # fmt: skip


def test_evaluate_finds_the_validation_part_that_training_cut(
    drawn_archive: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mien.data.read import read_faces
    from mien.data.twins import cut_validation
    from mien.model.classifier import Classifier

    folder = tmp_path / "faces"
    with zipfile.ZipFile(drawn_archive) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith("train/")])
    faces = read_faces(folder)
    arguments = ["--data", str(folder), "--split", "validation", "--out", str(tmp_path / "report")]
    assert main(["evaluate", str(model), *arguments]) == 2
    assert "has no validation split" in capsys.readouterr().err
    meta = {
        "config": {"validation_fraction": 0.2, "seed": 3},
        "data": {"fingerprint": faces.fingerprint, "source": "faces", "images": {"train": 14}},
        "names": list(Classifier.load(model).names),
    }
    Classifier.load(model).save(tmp_path / "run" / "model", meta)
    assert main(["evaluate", str(tmp_path / "run"), *arguments]) == 0
    expected = set(cut_validation(faces, 0.2, 3).part("validation").ids)
    rows = (tmp_path / "report" / "predictions.csv").read_text().splitlines()[1:]
    assert {row.split(",")[0] for row in rows} == expected
    # So do the other commands that score what was trained on a flat folder.
    assert main(["export", str(tmp_path / "run"), "--data", str(folder), "--out", str(tmp_path / "exported")]) == 0
    parity = json.loads((tmp_path / "exported" / "parity.json").read_text())
    assert (parity["pictures"]["split"], parity["pictures"]["n"]) == ("validation", len(expected))
    assert main(["pack", str(tmp_path / "run"), "--data", str(folder), "--out", str(tmp_path / "packed")]) == 0
    packed = json.loads((tmp_path / "packed" / "meta.json").read_text())
    assert packed["release"]["scores"]["validation"]["n"] == len(expected)


def test_an_unwritable_place_is_told_before_any_work(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read_faces(source: str) -> None:
        raise AssertionError("the data is read first")

    monkeypatch.setattr("mien.data.read.read_faces", read_faces)
    monkeypatch.setattr("mien.data.drawn.draw_faces", lambda *_: read_faces(""))
    file = tmp_path / "taken"
    file.write_text("mine")
    arguments = ["evaluate", "--data", "d.zip", "--split", "test", "--out"]
    for command in (
        ["data", "draw", "--out", str(file / "drawn.zip")],
        [*arguments, str(file / "report"), str(model)],
        [*arguments, str(file), str(model), str(model)],
    ):
        assert main(command) == 2
        assert f"{file}: cannot be made, as {file} is in its way" in one_line(capsys.readouterr().err)
    assert file.read_text() == "mine"


def test_evaluate_never_replaces_what_is_no_report(
    drawn_archive: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    arguments = ["--data", str(drawn_archive), "--split", "test", "--out", str(tmp_path / "mine")]
    assert main(["evaluate", str(model), *arguments]) == 2
    assert "thesis.txt" in one_line(capsys.readouterr().err)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_evaluate_of_several_models_replaces_no_file_of_others(
    drawn_archive: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("models.csv", "summary.json"):
        out = tmp_path / name.replace(".", "-")
        out.mkdir()
        (out / name).write_text("{}")
        arguments = ["--data", str(drawn_archive), "--split", "test", "--out", str(out)]
        capsys.readouterr()
        assert main(["evaluate", str(model), str(model), *arguments]) == 2
        assert f"{out}: holds {name}, which no evaluation of several" in one_line(capsys.readouterr().err)
        assert [path.name for path in out.iterdir()] == [name] and (out / name).read_text() == "{}"


def test_seeds_of_other_sizes_lose_no_table(
    drawn_archive: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mien.labels import FER2013
    from mien.model.classifier import Classifier
    from mien.model.vit import build

    network, preprocessing = build("mini", FER2013, grey=True)
    Classifier(network, preprocessing, FER2013).save(tmp_path / "larger" / "model", {})
    capsys.readouterr()
    arguments = ["--data", str(drawn_archive), "--split", "test", "--out", str(tmp_path / "out"), "--seeds"]
    assert main(["evaluate", str(model), str(tmp_path / "larger"), *arguments]) == 2
    assert "--seeds: the networks differ in size" in capsys.readouterr().err
    rows = json.loads((tmp_path / "out" / "summary.json").read_text())["rows"]
    assert [row["kind"] for row in rows] == ["model", "model"] and (tmp_path / "out" / "models.tex").is_file()


def test_predict_gives_a_record_for_every_picture(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    photo, broken_photo = tmp_path / "face.png", tmp_path / "broken.png"
    Image.fromarray(np.arange(48 * 48, dtype=np.uint32).astype(np.uint8).reshape(48, 48)).save(photo)
    broken_photo.write_bytes(photo.read_bytes()[:60])
    options = ["--model", str(model), "--detector", "none"]
    assert main(["predict", str(broken_photo), str(photo), *options, "--json"]) == 3
    captured = capsys.readouterr()
    records = [json.loads(line) for line in captured.out.splitlines()]
    assert [(record["input"], record["status"]) for record in records] == [
        (str(broken_photo), "error"),
        (str(photo), "ok"),
    ]
    (face,) = records[1]["faces"]
    assert face["box"] == [0, 0, 48, 48] and face["detector_score"] is None
    assert sum(face["probabilities"].values()) == pytest.approx(1)
    error_line, remark = captured.err.splitlines()
    assert error_line == f"mien: 1 of 2 could not be read, the first is {records[0]['error']}"
    assert remark.startswith("mien: this model has no threshold for sure answers") and face["uncertain"] is None
    assert "broken picture" in error_line
    assert main(["predict", str(photo), *options]) == 0
    assert capsys.readouterr().out.startswith(f"{photo}: {face['label']} {face['score']:.0%}")
    assert main(["predict", str(photo), *options, str(photo), "--json"]) == 0
    assert capsys.readouterr().out.count("\n") == 2


def test_predict_answers_as_the_classifier(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from PIL import Image

    from mien.model.classifier import Classifier

    pixels = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "face.png")
    classifier = Classifier.load(model)
    expected = torch.from_numpy(classifier.logits(pixels[None])[0]).softmax(0).tolist()
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "face.png"), "--model", str(model), "--detector", "none", "--json"]) == 0
    (face,) = json.loads(capsys.readouterr().out)["faces"]
    assert face["probabilities"] == pytest.approx(dict(zip(classifier.names, expected, strict=True)), abs=1e-5)


def test_predict_refuses_damaged_weights(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from PIL import Image

    from mien.model.classifier import Classifier

    classifier = Classifier.load(model)
    with torch.no_grad():
        next(classifier.network.parameters()).fill_(float("nan"))
    classifier.save(tmp_path / "damaged", {})
    Image.new("L", (48, 48), 90).save(tmp_path / "face.png")
    capsys.readouterr()
    options = ["--model", str(tmp_path / "damaged"), "--detector", "none", "--json"]
    assert main(["predict", str(tmp_path / "face.png"), *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "weights are damaged" in one_line(captured.err)


def test_evaluate_without_a_model_takes_the_shipped_weights_where_there_are_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "--data", "missing.zip", "--split", "validation", "--out", str(tmp_path / "report")]
    monkeypatch.setattr("mien.model.places.SHIPPED", tmp_path / "weights")
    assert main(arguments) == 2
    assert "no weights are shipped in this installation" in capsys.readouterr().err
    shipped_folder = tmp_path / "weights" / "mini"
    shipped_folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (shipped_folder / name).write_text("{}", encoding="utf-8")
    assert main(arguments) == 2
    assert "missing.zip" in capsys.readouterr().err


def test_an_option_of_several_words_takes_those_that_it_knows() -> None:
    parser = Parser("mien test", "")
    parser.add_argument("run")
    parser.add_argument("--splits", nargs="+", choices=("validation", "test"))
    for arguments in (["a", "--splits", "validation", "test"], ["--splits", "validation", "test", "a"]):
        options = parser.parse(arguments)
        assert (options.run, options.splits) == ("a", ["validation", "test"])
