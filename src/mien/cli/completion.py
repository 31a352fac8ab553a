"""``mien completion``: prints the completion of a shell, made by shtab from the parsers of the commands themselves."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec

from mien.cli.parser import Parser
from mien.errors import MienError

DESCRIPTION = """\
Prints the completion of commands, options and their values for a shell.

Examples:
  mien completion bash > ~/.local/share/bash-completion/completions/mien
  mien completion zsh > ~/.zfunc/_mien                      with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc
  mien completion fish > ~/.config/fish/completions/mien.fish
"""

SHELLS = ("bash", "zsh", "fish")


def parser() -> Parser:
    """Returns the parser of ``mien completion``."""
    built = Parser("mien completion", DESCRIPTION)
    built.add_argument("shell", choices=SHELLS, help="the shell that shall complete")
    return built


def run(arguments: list[str]) -> int:
    """Runs ``mien completion``; returns the exit code.

    Raises:
        MienError: the shell is unknown, or this version of shtab does not write for it.
    """
    options = parser().parse(arguments)

    import shtab

    if options.shell not in shtab.SUPPORTED_SHELLS:
        raise MienError(f"{options.shell}: shtab {shtab.__version__} does not write for it; pip install -U shtab")
    print(shtab.complete(whole_parser(), shell=options.shell))
    return 0


def whole_parser() -> argparse.ArgumentParser:
    """Returns one parser with every command below it; without pydantic, those of training have no options."""
    whole = argparse.ArgumentParser(prog="mien", description="Facial expression recognition.")
    _add_common(whole)
    commands = whole.add_subparsers(parser_class=argparse.ArgumentParser)
    for name, (parent, about) in _parsers().items():
        command = commands.add_parser(name, parents=[parent] if parent else [], add_help=not parent, help=about)
        _add_common(command)
    data = commands.add_parser("data", help="inspect, fetch or draw a data set, or make one of photos")
    from mien.cli.data import PARSERS

    below = data.add_subparsers(parser_class=argparse.ArgumentParser)
    for name, build in PARSERS.items():
        part = build()
        _add_common(below.add_parser(name, parents=[part], add_help=False, help=part.description))
    return whole


def _parsers() -> dict[str, tuple[argparse.ArgumentParser | None, str]]:
    """Returns the parser of each command but ``data``, and what the command does."""
    from mien.cli import environment, evaluate, explain, predict, serve, sharing

    training: dict[str, argparse.ArgumentParser] = {}
    if find_spec("pydantic") is not None and find_spec("yaml") is not None:
        from mien.cli.training import PARSERS

        training = {name: build() for name, build in PARSERS.items()}
    else:
        print("mien: the options of train, pretrain and folds need mien[train], and are left out", file=sys.stderr)
    return {
        "train": (training.get("train"), "train a classifier"),
        "pretrain": (training.get("pretrain"), "make a masked autoencoder from faces"),
        "folds": (training.get("folds"), "answer each training picture by networks that have not seen it"),
        "predict": (predict.parser(), "read the faces in photos and films"),
        "evaluate": (evaluate.parser(), "score classifiers on a split"),
        "explain": (explain.parser(), "show what an answer depends on"),
        "serve": (serve.parser(), "serve a page and a REST service"),
        "export": (sharing.export_parser(), "write a classifier as ONNX"),
        "pack": (sharing.pack_parser(), "make a folder to share"),
        "card": (sharing.card_parser(), "write a model card"),
        "env": (environment.parser(), "report versions and settings"),
        "completion": (parser(), "print the completion of a shell"),
    }


def _add_common(parser: argparse.ArgumentParser) -> None:
    """Adds the options of every command."""
    parser.add_argument("-q", "--quiet", action="store_true", help="print only results and errors")
    parser.add_argument("-v", "--verbose", action="store_true", help="print more")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
