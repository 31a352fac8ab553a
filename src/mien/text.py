"""Makes foreign text (file names, class names, messages of libraries) safe for terminals, file names and tables."""

from __future__ import annotations

import json
import re
import shlex
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

# C0, DEL and C1 control terminals; U+2028 and U+2029 break lines; the others change the direction of writing.
_CONTROLS = "\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_UNFIT_TO_SHOW = re.compile(f"[{_CONTROLS}\ud800-\udfff]")
_UNFIT_FOR_A_NAME = re.compile(f"[{_CONTROLS}/\\\\]")
_JSON_ESCAPES = re.compile("[\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_LONGEST_STEM = 200
"""Bytes of a stem, which leaves room for a number and an ending; file systems allow 255 in all."""


def shown(text: object) -> str:
    """Escapes a text for a terminal, a log or a table: one line without control characters.

    Control characters, line breaks, marks of direction and bytes that are not UTF-8 become escapes such as ``\\x1b``,
    ``\\n``, ``\\u202e`` and ``\\xff``; letters of any script stay.
    """
    return _UNFIT_TO_SHOW.sub(lambda match: _escape(match[0]), str(text))


def shown_lines(text: str) -> str:
    """Escapes each line of a text as ``shown`` does."""
    return "\n".join(shown(line) for line in text.split("\n"))


def encodable(text: str) -> str:
    """Escapes what UTF-8 cannot hold: bytes of file names (surrogates) become ``\\xff`` and the like."""
    return re.sub("[\ud800-\udfff]", lambda match: _escape(match[0]), text)


def json_shown(value: Any, *, ascii_only: bool = False, indent: int | None = None) -> str:
    """Encodes JSON that is safe for a terminal: DEL, C1 and marks of direction, which ``json`` leaves, are escaped.

    Raises:
        ValueError: a number is NaN or infinity.
    """
    text = json.dumps(value, ensure_ascii=ascii_only, allow_nan=False, indent=indent)
    return _JSON_ESCAPES.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def is_safe_name(name: str) -> bool:
    """True if a name is safe for a file or folder: not empty, '.' or '..', without separators and control characters.

    Its NFKC form is checked too, in which a wide full stop or slash is a plain one.
    """
    forms = (name.strip(), unicodedata.normalize("NFKC", name).strip())
    return all(form not in ("", ".", "..") and not _UNFIT_FOR_A_NAME.search(form) for form in forms)


def safe_stem(name: str) -> str:
    """Makes a safe stem of a file name: unsafe characters become ``_``, bytes that are not UTF-8 ``%ff``.

    It has at most 200 bytes of UTF-8, so that a number and an ending can follow.
    """
    clean = _UNFIT_FOR_A_NAME.sub("_", percent_encoded(name)).strip()
    clean = clean.encode()[:_LONGEST_STEM].decode(errors="ignore").strip()
    return clean if is_safe_name(clean) else "_"


def percent_encoded(name: str) -> str:
    """Writes the bytes of a name that are not UTF-8 as ``%ff``."""
    return re.sub("[\ud800-\udfff]", lambda match: f"%{ord(match[0]) & 0xFF:02x}", name)


def csv_text(text: str) -> str:
    """Escapes a text for a cell of a CSV file; an apostrophe in front keeps spreadsheets from computing it.

    Spreadsheets treat a cell as a formula if it begins with ``=``, ``+``, ``-`` or ``@`` (also wide forms), or with a
    tab or a line break before these.
    """
    return f"'{shown(text)}" if text.startswith(_FORMULA) else shown(text)


def csv_path(path: str) -> str:
    """Escapes a path for a cell of a CSV file; ``./`` in front, instead of an apostrophe, keeps its meaning."""
    return f"./{shown(path)}" if path.startswith(_FORMULA) else shown(path)


def portable(path: str) -> str:
    """Shortens an absolute path for files that are passed on: relative to the working folder, else its name alone.

    A model folder keeps the name of its run, ``first/model``, and shipped weights keep their folder, ``weights/mini``,
    as ``mini`` alone is a preset.

    Other texts stay as they are. A report with the home folder of its writer would tell more than its readers need.
    """
    place = Path(path)
    if not place.is_absolute():
        return path
    try:
        return place.relative_to(Path.cwd()).as_posix()
    except (OSError, ValueError):  # the working folder may be gone
        with_parent = place.name == "model" or place.parent.name == "weights"
        return "/".join(place.parts[-2 if with_parent else -1 :])


def portable_command(words: Iterable[str]) -> str:
    """Joins the words of a command as a shell reads them, with ``portable`` paths, also in ``--option=PATH``."""
    short = []
    for word in words:
        option, equals, value = word.partition("=")
        short.append(f"{option}={portable(value)}" if equals and option.startswith("-") else portable(word))
    return shlex.join(short)


def markdown(text: object) -> str:
    """Escapes a text for Markdown and its tables, so that it is plain text: no HTML, link, code or new cell."""
    return re.sub(r"([\\`*_{}\[\]<>|~#&$])", r"\\\1", shown(text)).replace("\\<", "&lt;").replace("\\>", "&gt;")


def markdown_code(text: object) -> str:
    """Formats a text as code for Markdown and its tables; backticks in it are replaced."""
    return "`" + shown(text).replace("`", "'").replace("|", "\\|") + "`"


def counted(count: int, noun: str) -> str:
    """Returns a count with its noun, such as ``1 face`` and ``1,204 faces``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Formats a table as lines of text: the first column begins at the left, the others end at the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        for row in rows
    ]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def _escape(letter: str) -> str:
    """Returns the escape sequence of a character that is not a plain letter; of a byte that is not UTF-8, ``\\xff``."""
    if "\udc80" <= letter <= "\udcff":
        return f"\\x{ord(letter) & 0xFF:02x}"
    return letter.encode("unicode_escape").decode()
