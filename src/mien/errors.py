"""The exception whose message is written for users, and what several messages share."""

from __future__ import annotations

import re

from mien.text import shown

NO_NUMBERS = "NaN or infinity, expected numbers; its weights are damaged: copy the whole folder again, or train anew"
"""End of a message about a model with unusable answers: the cause and the remedy."""


def one_line(text: str) -> str:
    """Joins the lines of a text; other white space stays, as file names may contain it."""
    return re.sub(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*", " ", text).strip()


LONGEST_REASON = 300
"""Letters of an error of a library that a message repeats; some quote thousands of bytes of a damaged file."""


def first_line(error: BaseException) -> str:
    """Returns the first line of an error of a library, shortened, or the name of its kind if it says nothing."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]}..."


class MienError(Exception):
    """An error in the user's input, described on one line.

    The message says what was wrong, where (file, row or field), what was expected and what to do. It is safe for a
    terminal (``mien.text.shown``). The command line prints it without a traceback and exits
    with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shown(one_line(message)))
