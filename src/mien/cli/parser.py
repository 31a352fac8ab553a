"""The argument parser of the smaller commands: one-line errors, close matches, dashes and underscores alike."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from mien.errors import MienError


class Parser(argparse.ArgumentParser):
    """``argparse`` that raises ``MienError`` in place of printing its usage and leaving.

    Args:
        prog: the command as it is typed.
        description: what it does, with examples; line breaks are kept.
    """

    def __init__(self, prog: str, description: str, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(prog=prog, description=description, allow_abbrev=False, **options)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parses the arguments of one command.

        Raises:
            MienError: an option is unknown, is missing or has a wrong value.
        """
        known = self.option_names()
        spelled = [with_dashes(argument, known) for argument in arguments]
        namespace, unknown = self.parse_known_args(spelled)
        if unknown:
            # A word after an unknown option is most likely its value, and needs no remark of its own.
            formers = [None, *unknown[:-1]]
            pairs = zip(unknown, formers, strict=True)
            told = [_unknown(word, known) for word, former in pairs if not _is_value(word, former)]
            raise MienError(f"{'; '.join(told)}; see `{self.prog} --help`")
        return namespace

    def option_names(self) -> list[str]:
        """Every long option, as it is written."""
        return [name for name in self._option_string_actions if name.startswith("--")]

    def error(self, message: str) -> NoReturn:
        """Raises the one-line error that ``argparse`` would print after its usage."""
        raise MienError(f"{message.removeprefix('argument ')}; see `{self.prog} --help`")


def with_dashes(argument: str, known: Sequence[str]) -> str:
    """An option spelled with underscores (``--batch_size=8``) as the one with dashes, where that exists."""
    name, equals, value = argument.partition("=")
    dashed = name.replace("_", "-")
    return f"{dashed}{equals}{value}" if dashed in known else argument


def whole_number(least: int) -> Any:
    """An ``argparse`` type: a whole number of at least ``least``."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number of at least {least}")
        return value

    return parse


def pick(word: str, commands: Iterable[str], prog: str) -> str:
    """The command that ``word`` names.

    Raises:
        MienError: there is none; the nearest is suggested.
    """
    names = list(commands)
    if word in names:
        return word
    close = difflib.get_close_matches(word, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there is {', '.join(names)};"
    raise MienError(f"no command {word!r}; {hint} see `{prog} --help`")


def _is_value(word: str, former: str | None) -> bool:
    return former is not None and former.startswith("-") and "=" not in former and not word.startswith("-")


def _unknown(argument: str, known: Sequence[str]) -> str:
    if not argument.startswith("-"):
        return f"unexpected argument {argument!r}"
    name = argument.partition("=")[0]
    close = difflib.get_close_matches(name, known, n=1)
    return f"unknown option {name}" + (f", did you mean {close[0]}?" if close else "")
