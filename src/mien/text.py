"""Text from outside (file names, class names, messages of libraries) on its way to a person, a file name or a table."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

# C0, DEL and C1 control terminals; U+2028 and U+2029 break lines; the others turn the direction of what follows.
_CONTROLS = "\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_UNFIT_TO_SHOW = re.compile(f"[{_CONTROLS}\ud800-\udfff]")
_UNFIT_FOR_A_NAME = re.compile(f"[{_CONTROLS}/\\\\]")
_JSON_ESCAPES = re.compile("[\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_LONGEST_STEM = 200
"""Bytes of a name before numbers and an ending are put behind it; file systems allow 255 in all."""


def shown(text: object) -> str:
    """A text that a terminal, a log or a table may show: one line, in which nothing controls anything.

    Control characters, line breaks, marks of direction and bytes that are no UTF-8 become escapes such as ``\\x1b``,
    ``\\n``, ``\\u202e`` and ``\\xff``; all else, letters of any script included, is left as it is.
    """
    return _UNFIT_TO_SHOW.sub(lambda found: _escape(found[0]), str(text))


def shown_lines(text: str) -> str:
    """A text of several lines, each as ``shown``."""
    return "\n".join(shown(line) for line in text.split("\n"))


def encodable(text: str) -> str:
    """A text that UTF-8 can hold: bytes of a file name that are none (surrogates) become ``\\xff`` and the like."""
    return re.sub("[\ud800-\udfff]", lambda found: _escape(found[0]), text)


def json_shown(value: Any, *, ascii_only: bool = False, indent: int | None = None) -> str:
    """JSON in which nothing controls a terminal: what ``json`` leaves raw (DEL, C1, marks of direction) is escaped too.

    Raises:
        ValueError: a number is NaN or infinity.
    """
    text = json.dumps(value, ensure_ascii=ascii_only, allow_nan=False, indent=indent)
    return _JSON_ESCAPES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def is_safe_name(name: str) -> bool:
    """Whether a name may become that of a file or folder: not empty, '.' or '..', no separator, no control character.

    It is looked at as it is and as Unicode's NFKC makes it, where a wide full stop or slash is a plain one.
    """
    forms = (name.strip(), unicodedata.normalize("NFKC", name).strip())
    return all(form not in ("", ".", "..") and not _UNFIT_FOR_A_NAME.search(form) for form in forms)


def safe_stem(name: str) -> str:
    """A name as the stem of a file: what ``is_safe_name`` refuses becomes ``_``, bytes that are no UTF-8 ``%ff``.

    Cut to 200 bytes of UTF-8, so that a number and an ending fit behind it.
    """
    clean = _UNFIT_FOR_A_NAME.sub("_", percent_encoded(name)).strip()
    clean = clean.encode()[:_LONGEST_STEM].decode(errors="ignore").strip()
    return clean if is_safe_name(clean) else "_"


def percent_encoded(name: str) -> str:
    """A name whose bytes that are no UTF-8 are written as ``%ff``."""
    return re.sub("[\ud800-\udfff]", lambda found: f"%{ord(found[0]) & 0xFF:02x}", name)


def csv_text(text: str) -> str:
    """Text as a cell of a CSV file: ``shown``, and with an apostrophe in front if a spreadsheet would compute it.

    Spreadsheets take a cell that begins with ``=``, ``+``, ``-`` or ``@`` (wide forms too), or with a tab or a line
    break before one, for a formula.
    """
    return f"'{shown(text)}" if text.startswith(_FORMULA) else shown(text)


def csv_path(path: str) -> str:
    """A path as a cell of a CSV file: as ``csv_text``, but with ``./`` in front, so that it names the same file."""
    return f"./{shown(path)}" if path.startswith(_FORMULA) else shown(path)


def markdown(text: object) -> str:
    """Text within Markdown, also in a cell of a table, where it is plain text: no HTML, link, code or new cell."""
    return re.sub(r"([\\`*_{}\[\]<>|~#&$])", r"\\\1", shown(text)).replace("\\<", "&lt;").replace("\\>", "&gt;")


def markdown_code(text: object) -> str:
    """Text as code within Markdown, also in a cell of a table; no backtick of its own ends it."""
    return f"`{shown(text).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def _escape(letter: str) -> str:
    number = ord(letter)
    if "\ud800" <= letter <= "\udfff":
        return f"\\x{number & 0xFF:02x}" if 0xDC80 <= number <= 0xDCFF else f"\\u{number:04x}"
    named = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return named.get(letter, f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}")
