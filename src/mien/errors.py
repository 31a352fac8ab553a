"""The one exception that a user is meant to read, and a sentence that several of them end with."""

from __future__ import annotations

import re

from mien.text import shown

NO_NUMBERS = "NaN or infinity, expected numbers; its weights are damaged: copy the whole folder again, or train anew"
"""What a model answers that cannot be used, and what to do about it."""


def one_line(text: str) -> str:
    """A text without its line breaks; other space is left as it is, as names of files may hold it."""
    return re.sub(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*", " ", text).strip()


class MienError(Exception):
    """A mistake in what Mien was given, told on one line.

    The message names what was wrong, where (file, row or field), what was expected and what to do about it.
    Nothing in it controls a terminal (``mien.text.shown``). The command line prints it without a traceback and exits
    with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shown(one_line(message)))
