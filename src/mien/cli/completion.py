"""``mien completion``: prints the completion of a shell, made by shtab from the parsers of the commands themselves."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec

from mien.cli import COMMANDS
from mien.cli.data import PARSERS as DATA_PARSERS
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
    parsers = _parsers()
    for name, (_, _, about) in COMMANDS.items():
        parent = parsers.get(name)
        command = commands.add_parser(name, parents=[parent] if parent else [], add_help=not parent, help=about)
        if name != "data":
            _add_common(command)
            continue
        below = command.add_subparsers(parser_class=argparse.ArgumentParser)
        for part_name, build in DATA_PARSERS.items():
            part = build()
            _add_common(below.add_parser(part_name, parents=[part], add_help=False, help=part.description))
    return whole


def _parsers() -> dict[str, argparse.ArgumentParser]:
    """Returns the parser of each command; those of training only if their settings can be read."""
    from mien.cli import environment, evaluate, explain, predict, serve, sharing

    parsers: dict[str, argparse.ArgumentParser] = {
        "evaluate": evaluate.parser(), "predict": predict.parser(), "explain": explain.parser(),
        "serve": serve.parser(), "export": sharing.export_parser(), "pack": sharing.pack_parser(),
        "card": sharing.card_parser(), "env": environment.parser(), "completion": parser(),
    }  # fmt: skip
    if find_spec("pydantic") is not None and find_spec("yaml") is not None:
        from mien.cli.training import PARSERS

        parsers |= {name: build() for name, build in PARSERS.items()}
    else:
        print("mien: the options of train, pretrain and folds need mien[train], and are left out", file=sys.stderr)
    return parsers


def _add_common(parser: argparse.ArgumentParser) -> None:
    """Adds the options of every command."""
    parser.add_argument("-q", "--quiet", action="store_true", help="print only results and errors")
    parser.add_argument("-v", "--verbose", action="store_true", help="print more")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
