"""The command line: imports the module of one command and runs it; an error becomes one line.

Nothing heavier than the standard library is imported before a command needs it, so that ``mien --help`` answers at
once, also in a base install.
"""

from __future__ import annotations

import errno
import importlib
import io
import logging
import os
import shlex
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from contextlib import nullcontext, redirect_stderr, suppress
from itertools import pairwise

from mien.cli.parser import pick
from mien.cli.signals import Ended, Silence, ended_by_signals
from mien.errors import MienError
from mien.log import LOGGER, hide_remarks, to_console
from mien.text import shown
from mien.version import __version__

COMMANDS: dict[str, tuple[str, str, str]] = {
    "data": ("data", "run", "inspect, fetch or draw a data set, or make one of your own photos"),
    "pretrain": ("training", "run_pretrain", "make a masked autoencoder from faces, without labels"),
    "train": ("training", "run_train", "train a classifier, or go on with one (--resume)"),
    "folds": ("training", "run_folds", "answer training pictures by networks that have not seen them"),
    "evaluate": ("evaluate", "run", "score one or several classifiers on a split, with a report to read"),
    "predict": ("predict", "run", "read the expressions of faces in photos, films or from a camera"),
    "explain": ("explain", "run", "show which parts of a face an answer depends on"),
    "serve": ("serve", "run", "serve a page and a REST service that read faces"),
    "export": ("sharing", "run_export", "write a classifier as ONNX, and prove that it answers the same"),
    "pack": ("sharing", "run_pack", "make a folder to share from a classifier: ONNX, scores, no faces"),
    "card": ("sharing", "run_card", "write the model card of a packed classifier"),
    "env": ("environment", "run", "report versions, processor, models and settings for a bug report"),
    "completion": ("completion", "run", "print the completion of commands and options for bash, zsh or fish"),
}
"""The module below ``mien.cli`` and the function in it that run a command, and what the command does."""

_COMMAND_LINES = "\n".join(f"  {name:<11} {about}" for name, (_, _, about) in COMMANDS.items())

HELP = f"""\
Mien: facial expression recognition, and numbers that anybody can check.

Examples:
  mien predict photo.jpg                      read the faces in a photo
  mien data draw --out drawn.zip              draw faces to try things with
  mien data inspect archive.zip               report what a data set holds
  mien pretrain --data archive.zip --preset tiny --out runs/mae
  mien train --data archive.zip --backbone runs/mae/model --out runs/first
  mien train --config baseline --data archive.zip --dry-run
  mien evaluate runs/first --data archive.zip --split validation
  mien predict photo.jpg --model runs/first --json

Commands:
{_COMMAND_LINES}

Every command:
  -h, --help     list the options of a command: `mien COMMAND --help`
  -q, --quiet    print only results and errors: no progress, no remarks
  -v, --verbose  print more: what is used, time taken, warnings of libraries
  --debug        show the traceback of an error
  -V, --version  print the version

Exit codes: 0 done, 1 a fault in Mien, 2 a mistake in the command or its
input, 3 some pictures could not be read, 130 Ctrl-C.
MIEN_CACHE names the folder of decoded data (by default ~/.cache/mien).
An answer is a guess about how a face looks, not about what a person feels.
"""

EXTRAS: dict[str, str] = {
    **dict.fromkeys(["torch", "torchvision", "transformers", "timm", "accelerate", "safetensors"], "train"),
    **dict.fromkeys(["jinja2", "pydantic", "yaml", "sklearn", "scipy", "matplotlib"], "train"),
    "huggingface_hub": "hub",
    "kagglehub": "kaggle",
    "onnx": "train,export",
    "onnxscript": "train,export",
    "pyarrow": "parquet",
    "shtab": "completion",
    "tensorboard": "tensorboard",
    **dict.fromkeys(
        ["fastapi", "markdown_it", "prometheus_client", "python_multipart", "starlette", "uvicorn"], "serve"
    ),
}
"""The extras that install each optional module."""

INTERRUPTED = 130
FAILED = 2
UNEXPECTED = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: the arguments after the program's name; by default the process's own.

    Returns:
        The exit code: 0 done, 1 an error of Mien itself, 2 a mistake in the command or its input, 3 some pictures
        could not be read, 130 interrupted, 143 and 129 ended by SIGTERM and SIGHUP.
    """
    arguments, common = _without_common(list(sys.argv[1:] if argv is None else argv))
    debug, quiet, verbose = "--debug" in common, "--quiet" in common, "--verbose" in common
    if not (debug or verbose):
        hide_remarks()
    _prepare_streams()
    started = time.monotonic()
    try:
        with ended_by_signals(), to_console(), redirect_stderr(Silence(sys.stderr)) if quiet else nullcontext():
            if verbose:
                LOGGER.setLevel(logging.DEBUG)  # until ``to_console`` ends
            code = _run(arguments)
            sys.stdout.flush()  # here, where an error is reported; at its end Python would print a traceback
            LOGGER.debug("mien: done in %.1f s", time.monotonic() - started)
            return code
    except BrokenPipeError:
        _drop_unwritable()  # the reader of our output has closed it
        return UNEXPECTED
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        line, code = _described(error)
        with suppress(OSError):  # a terminal that was closed (SIGHUP)
            print(f"mien: {shown(line)}", file=sys.stderr)
        _drop_unwritable()
        return code


def _drop_unwritable() -> None:
    """Drops what stdout holds if it cannot be written: Python would complain again when it flushes at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_COMMON = {"--debug": "--debug", "-q": "--quiet", "--quiet": "--quiet", "-v": "--verbose", "--verbose": "--verbose"}
"""The options of every command, which stand anywhere before ``--``."""


def _without_common(arguments: list[str]) -> tuple[list[str], set[str]]:
    """Returns the arguments without the options of every command, and those options."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    common = {_COMMON[argument] for argument in arguments[:end] if argument in _COMMON}
    return [argument for argument in arguments[:end] if argument not in _COMMON] + arguments[end:], common


def _prepare_streams() -> None:
    """Makes printing safe: nothing is lost, and a closed stdout or stderr (``>&-``, services) is the null device.

    If a program left a pipe or terminal non-blocking, or with PYTHONUNBUFFERED on a full disk, Python would drop what
    does not fit at once, without an error.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open until the process ends
        if isinstance(getattr(stream, "buffer", None), io.RawIOBase):
            stream = open(stream.fileno(), "w", buffering=1, encoding=stream.encoding, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        with suppress(AttributeError, OSError, ValueError):  # no file of the system's, or pipes of Windows
            os.set_blocking(stream.fileno(), True)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # letters that the terminal cannot show


def run_all(commands: Iterable[Sequence[str]]) -> int:
    """Prints and runs commands one after the other; returns the exit code of the first that failed, or 0."""
    for command in commands:
        print(f"\n$ mien {shlex.join(command)}", flush=True)
        code = main(command)
        if code:
            return code
    return 0


def _run(arguments: list[str]) -> int:
    for before, argument in pairwise(["mien", *arguments]):
        if not argument or (argument.startswith("--") and argument.partition("=")[1:] == ("=", "")):
            where = argument.removesuffix("=") or before
            raise MienError(f"{where}: got an empty value, which names nothing; check the variable that it comes from")
    if arguments[:1] == ["help"] and len(arguments) > 1:
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    command, rest = arguments[0], arguments[1:]
    if {command, *rest[:1]} & {"-V", "--version"}:
        print(f"mien {__version__}")
        return 0
    module, function, _ = COMMANDS[pick(command, COMMANDS, "mien")]
    return int(getattr(importlib.import_module(f"mien.cli.{module}"), function)(rest))


def _described(error: BaseException) -> tuple[str, int]:
    """Returns one line for an exception, and the exit code."""
    if isinstance(error, MienError):
        return f"error: {error}", FAILED
    if isinstance(error, Ended):
        return f"ended by {error}", 128 + error.number
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", INTERRUPTED
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in EXTRAS:
        package = (error.name or "").split(".")[0]
        return f"error: {package} is not installed; pip install 'mien[{EXTRAS[package]}]' brings it", FAILED
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return (
            "error: not enough memory; give a smaller --batch-size (if the command has one), or close other programs",
            FAILED,
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        where = f" at {error.filename}" if error.filename else ""
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        return f"error: {reason}{where}; free some space or choose another place", FAILED
    if isinstance(error, FileNotFoundError) and error.errno and error.filename is None:  # of os.getcwd()
        return "error: the working folder is gone; change to one that exists", FAILED
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        return "error: no thread can be started; allow more processes or memory (`ulimit -u`, `ulimit -v`)", FAILED
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return "error: too many files are open; allow more (`ulimit -n`)", FAILED
    if isinstance(error, OSError) and error.filename is not None:
        return f"error: {error.filename}: {error.strerror}", FAILED
    reason = " ".join(str(error).split())
    name = type(error).__name__
    return f"error: unexpected {name}: {reason}; this is a fault of Mien's: --debug shows where it arose", UNEXPECTED
