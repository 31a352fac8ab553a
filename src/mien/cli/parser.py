"""The argument parser of most commands: one-line errors, guesses of what an unknown option means."""

from __future__ import annotations

import argparse
import difflib
import math
import textwrap
from collections.abc import Callable, Container, Iterable, Sequence
from itertools import groupby
from typing import Any, NoReturn

from mien.errors import MienError
from mien.files import at_home
from mien.model.places import DEFAULT, shipped

LONGEST_TIMEOUT_S = 86_400
"""Seconds that ``--timeout`` takes at most: a day, which timers of every system can count."""

WIDEST = 120
"""Columns of a description at most: longer lines are hard to read."""


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Fits the sentences of a description into the terminal; indented lines, such as commands, stay as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        filled: list[str] = []
        for is_prose, group in groupby(text.splitlines(), lambda line: line[:1] not in ("", " ")):
            lines = list(group)
            filled += textwrap.wrap(" ".join(lines), min(width, WIDEST), break_on_hyphens=False) if is_prose else lines
        return "\n".join(filled)

    def _split_lines(self, text: str, width: int) -> list[str]:
        """Lines of the help of an option; no name is broken at a hyphen."""
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class Parser(argparse.ArgumentParser):
    """``argparse`` that raises ``MienError`` instead of printing its usage and exiting.

    Args:
        prog: the command as it is typed.
        description: what the command does, with examples; a blank line ends a paragraph.
    """

    def __init__(self, prog: str, description: str, **options: Any) -> None:
        options.setdefault("formatter_class", HelpFormatter)
        super().__init__(prog=prog, description=description, allow_abbrev=False, **options)
        self._problems: list[str] = []

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parses the arguments of one command; words without an option may stand anywhere.

        Raises:
            MienError: every option that is unknown or has a wrong value, and what is missing.
        """
        names = self.option_names()
        arguments = self._without_switch_words([_at_home(with_dashes(argument, names)) for argument in arguments])
        options, words, self._problems = self._sorted(arguments)
        namespace, unexpected = self.parse_known_args([*options, *(["--", *words] if words else [])])
        self._problems += [f"unexpected argument {word!r}" for word in unexpected if word != "--"]
        if self._problems:
            raise MienError(f"{'; '.join(self._problems)}; see `{self.prog} --help`")
        return namespace

    def option_names(self) -> list[str]:
        """Returns every long option, such as ``--batch-size``."""
        return [name for name in self._option_string_actions if name.startswith("--")]

    def error(self, message: str) -> NoReturn:
        """Raises MienError with the mistakes so far and the message that ``argparse`` would print."""
        problems = [*self._problems, message.removeprefix("argument ")]
        raise MienError(f"{'; '.join(problems)}; see `{self.prog} --help`")

    def _without_switch_words(self, arguments: Sequence[str]) -> list[str]:
        """Returns the arguments with ``--tta true`` as ``--tta``, and ``--tta=off`` as ``--no-tta``."""
        rest, result = list(arguments), list[str]()
        while rest:
            argument = rest.pop(0)
            name, equals, value = argument.partition("=")
            if argument == "--":
                return [*result, argument, *rest]
            if not isinstance(self._option_string_actions.get(name), Switch):
                result.append(argument)
                continue
            if not equals and rest and rest[0].lower() in SWITCH_WORDS:
                value = rest.pop(0)
            on = SWITCH_WORDS.get(value.lower(), True)
            opposite = f"--{name.removeprefix('--no-')}" if name.startswith("--no-") else f"--no-{name[2:]}"
            result.append(argument if equals and value.lower() not in SWITCH_WORDS else name if on else opposite)
        return result

    def _sorted(self, arguments: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
        """Returns the options with their values, the words without an option, and a problem for each unknown option."""
        options: list[str] = []
        words: list[str] = []
        problems: list[str] = []
        more: Container[str] = ()  # further values that the option in front of it takes
        value_target: list[str] | None = None  # where the next word goes if it may be the value of an option
        for position, argument in enumerate(arguments):
            if argument == "--":
                return options, [*words, *arguments[position + 1 :]], problems
            if self._parse_optional(argument) is None:
                target = value_target if value_target is not None else options if argument in more else words
                target.append(argument)
                more, value_target = more if target is options else (), None
                continue
            name, equals, _ = argument.partition("=")
            action = self._option_string_actions.get(name)
            # An option with choices may take several of them in a row.
            more = tuple(action.choices or ()) if action is not None and action.nargs == "+" else ()
            if action is not None:
                options.append(argument)
                value_target = options if not equals and action.nargs != 0 else None
            else:
                # A word after an unknown option is most likely its value, so it is no second mistake.
                problems.append(_unknown(name, self.option_names()))
                value_target = [] if not equals else None
        return options, words, problems

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Returns the value of an option; notes a wrong value and goes on, so that one error names all mistakes."""
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError as error:
            self._problems.append(str(error).removeprefix("argument "))
            return None

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            self._problems.append(str(error).removeprefix("argument "))


SWITCH_WORDS: dict[str, bool] = {
    "true": True, "yes": True, "on": True, "false": False, "no": False, "off": False,
}  # fmt: skip
"""The values that a switch accepts, such as ``--tta false`` for ``--no-tta``."""


class Switch(argparse.Action):
    """Option that is on or off: ``--tta`` and ``--no-tta``, also ``--tta true`` and ``--tta false``."""

    def __init__(
        self, option_strings: Sequence[str], dest: str, default: bool = False, help: str | None = None
    ) -> None:
        names = [*option_strings, *(f"--no-{name[2:]}" for name in option_strings)]
        super().__init__(names, dest, nargs=0, default=default, help=help)

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        setattr(namespace, self.dest, not (option_string or "").startswith("--no-"))


def with_dashes(argument: str, names: Sequence[str]) -> str:
    """Returns an option spelled with underscores (``--batch_size=8``) with dashes if ``names`` has it so."""
    name, equals, value = argument.partition("=")
    dashed = name.replace("_", "-")
    return f"{dashed}{equals}{value}" if dashed in names else argument


def _at_home(argument: str) -> str:
    """Returns an option such as ``--csv=~/faces.csv`` with the home folder: behind ``=`` most shells leave a tilde."""
    name, _, value = argument.partition("=")
    return f"{name}={at_home(value)}" if name.startswith("--") and value else argument


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Returns an ``argparse`` type that accepts whole numbers from ``least`` to ``most``, if there is a largest."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number {bounds}")
        return value

    return parse


def number(expected: str, accepts: Callable[[float], bool]) -> Callable[[str], float]:
    """Returns an ``argparse`` type of the numbers that ``accepts`` is true for; messages say what is ``expected``."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan  # which is in no range
        if not accepts(value):
            raise argparse.ArgumentTypeError(f"got {text!r}, expected {expected}")
        return value

    return parse


def add_detector_options(parser: argparse.ArgumentParser, names: str) -> None:
    """Adds ``--detector``, whose values ``names`` lists, and ``--min-face``."""
    parser.add_argument("--detector", default="yunet", metavar="D", help=f"{names} (yunet)")
    parser.add_argument(
        "--min-face",
        type=whole_number(8),
        metavar="PIXELS",
        help="side of the smallest face to look for (24); half of it takes four times as long in large pictures",
    )


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Adds ``--model``, ``--detector``, ``--min-face`` and ``--device``."""
    parser.add_argument(
        "--model",  # no Path, since a model of the hub is none
        metavar="MODEL",
        help=f"{', '.join(shipped())}, which come with Mien, a folder of `mien train` or `mien export`, an .onnx file, "
        f"or user/model of the Hugging Face hub ({DEFAULT})",
    )
    add_detector_options(parser, "yunet, yunet:FILE.onnx, or none for face crops")
    parser.add_argument(
        "--device",
        default="auto",
        metavar="D",
        help="auto, cpu, gpu, cuda, cuda:N or the number N, mps, coreml, directml or openvino (auto)",
    )


def add_timeout(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds ``--timeout``, after which ``what`` is broken off."""
    expected = f"a number of seconds above 0, at most {LONGEST_TIMEOUT_S:,}"
    parser.add_argument(
        "--timeout",
        type=number(expected, lambda value: 0 < value <= LONGEST_TIMEOUT_S),
        metavar="SECONDS",
        help=f"break off {what} that takes longer (no limit)",
    )


def pick(word: str, commands: Iterable[str], prog: str) -> str:
    """Returns ``word`` if it is a command.

    Raises:
        MienError: it is none; the message suggests the nearest.
    """
    names = list(commands)
    if word in names:
        return word
    close = difflib.get_close_matches(word, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there is {', '.join(names)};"
    raise MienError(f"no command {word!r}; {hint} see `{prog} --help`")


def _unknown(name: str, names: Sequence[str]) -> str:
    """Describes an unknown option, with the options of the same meaning, or else of the nearest spelling."""
    guess = meant(name, names)
    return f"unknown option {name}" + (f", did you mean {guess}?" if guess else "")


# The names that other tools have for the same thing; of those on the right, a command has some.
_MEANINGS: tuple[tuple[str, str], ...] = (
    ("silent quite no-output", "-q/--quiet"),
    ("debugging traceback trace", "--debug"),
    ("save output out results result dest destination write output-dir outdir save-dir project",
     "--out --csv --annotate"),
    ("excel table export-csv spreadsheet", "--xlsx --csv"),
    ("plot draw boxes overlay visualize visualise show render", "--annotate --timeline"),
    ("gpu cuda cpu mps accelerator use-gpu", "--device"),
    ("weights checkpoint ckpt network models model-path", "--model --backbone"),
    ("pretrained pretrained-weights init encoder arch architecture", "--backbone --preset"),
    ("dataset dataset-path data-dir data-path train-set root", "--data"),
    ("folder dir directory path paths input inputs source", "--data PATH"),
    ("image images img photo photos file files video", "--data PATH"),
    ("webcam cam", "--camera"),
    ("learning-rate learningrate rate", "--lr"),
    ("head-learning-rate", "--head-lr"),
    ("batch bs batchsize per-device-batch-size", "--batch-size"),
    ("num-epochs max-epochs n-epochs", "--epochs"),
    ("iterations max-steps iters", "--steps --epochs"),
    ("imgsz img-size resolution size input-size", "--image-size --min-face --size"),
    ("wd decay", "--weight-decay"),
    ("smoothing label-smooth", "--label-smoothing --smoothing"),
    ("config-file cfg yaml recipe settings", "--config"),
    ("continue resume-from ckpt-path restart", "--resume"),
    ("plan simulate check preview", "--dry-run"),
    ("freeze-layers frozen freeze-blocks", "--freeze.blocks"),
    ("workers num-workers jobs", "--threads"),
    ("stride skip step vid-stride frame-step", "--every"),
    ("limit max-time", "--timeout"),
    ("face-size minsize min-size", "--min-face"),
    ("augment-test flip-test tta-flip", "--tta"),
    ("mute no-sound", "--no-audio"),
    ("overwrite replace", "--force"),
    ("quantize quantise int-8", "--int8"),
    ("logger wandb mlflow report-to", "--track --tensorboard"),
)  # fmt: skip
_BY_NAME: dict[str, list[str]] = {name: options.split() for names, options in _MEANINGS for name in names.split()}


def meant(name: str, options: Iterable[str]) -> str | None:
    """Returns the options that an unknown one may stand for, in words; None if there is no guess.

    Args:
        name: as it was typed, like ``--output`` or ``-o``.
        options: the long options of the command, like ``--out``.
    """
    available = list(options)
    word = {"-o": "out", "-i": "input", "-b": "batch", "-j": "jobs", "-d": "data-dir", "-m": "weights"}.get(
        name, name.lstrip("-").replace("_", "-").lower()
    )
    fitting = [option for option in _BY_NAME.get(word, []) if option in available or not option.startswith("--")]
    # A word without an option stands for the input where no option does.
    fitting = [option for option in fitting if option != "PATH" or len(fitting) == 1]
    if fitting:
        return " or ".join("the path alone, without an option" if option == "PATH" else option for option in fitting)
    close = difflib.get_close_matches(name.replace("_", "-"), available, n=1)
    return close[0] if close else None
