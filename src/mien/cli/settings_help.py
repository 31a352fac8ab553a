"""The parser of the settings of a run, for ``--help`` and shell completion: every field with its bounds and default."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo

from mien.cli.parser import HelpFormatter, Switch
from mien.cli.recipes import recipes
from mien.config import FoldsConfig, expected, field_types, flat, to_dict

FLAGS: dict[str, str] = {
    "print-config": "print every field as YAML and stop",
    "dry-run": "print the plan (what is frozen and until when, parameters, memory, hours from timed steps), and stop",
}
"""Options without a value, and their help."""


def settings_parser(schema: type, command: str, description: str) -> argparse.ArgumentParser:
    """Returns a parser that prints the help of a command: every field, what it is, its type and its default."""
    parser = argparse.ArgumentParser(
        prog=command,
        usage=f"{command} [--config FILE.yaml | RECIPE] [--FIELD VALUE ...]",
        description=description,
        formatter_class=HelpFormatter,
    )
    names = ", ".join(recipes())
    parser.add_argument(
        "--config",
        metavar="FILE.yaml",
        help=f"read fields from this file, or from a recipe by its name ({names}); the command line wins",
    )
    if not issubclass(schema, FoldsConfig):  # they go on by themselves
        parser.add_argument(
            "--resume",
            nargs="?",
            metavar="RUN",
            help="continue the run in this folder (by default OUT) where it stopped, with the settings that it "
            "recorded; the result is the same as without the stop",
        )
    for name, text in FLAGS.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    defaults, texts = flat(to_dict(schema(data="", out=""))), _documentation(schema)
    for name, kind in field_types(schema).items():
        default = {"data": "required", "out": "default: a new folder in runs/"}.get(
            name, f"default {json.dumps(defaults[name])}"
        )
        text = f"{texts[name]} ({expected(kind)}; {default})".replace("%", "%%")
        option = dashed(name)
        if FieldInfo.from_annotation(kind).annotation is bool:
            parser.add_argument(option, action=Switch, help=text)
            continue
        choices = choices_of(kind)
        metavar = option.rpartition(".")[2].removeprefix("--").upper() + (" ..." if get_origin(kind) is list else "")
        action = parser.add_argument(option, metavar=metavar, help=text)
        action.choices = choices or None
    return parser


def choices_of(kind: Any) -> tuple[str, ...]:
    """Returns the words that a field accepts if it accepts only some; else nothing."""
    kind = FieldInfo.from_annotation(kind).annotation
    return tuple(get_args(kind)) if get_origin(kind) is Literal else ()


def dashed(name: str) -> str:
    """Returns the option of a field: ``--batch-size`` for ``batch_size``."""
    return f"--{name.replace('_', '-')}"


def _documentation(schema: type) -> dict[str, str]:
    """Returns what the docstrings of a class and its groups say of each field; names within a group are dotted."""
    texts: dict[str, str] = {}
    for owner in reversed(schema.__mro__):
        attributes = (owner.__doc__ or "").partition("Attributes:\n")[2]
        for name, text in re.findall(r"^ {8}(\w+): (.+(?:\n {12}.+)*)", attributes, re.MULTILINE):
            texts[name] = " ".join(text.split()).rstrip(".")
    for name, kind in get_type_hints(schema).items():
        if dataclasses.is_dataclass(kind):
            texts |= {f"{name}.{member}": text for member, text in _documentation(kind).items()}  # type: ignore[arg-type]
    return texts
