"""The one exception that a user is meant to read, and a sentence that several of them end with."""

from __future__ import annotations

NO_NUMBERS = "NaN or infinity, expected numbers; its weights are damaged: copy the whole folder again, or train anew"
"""What a model answers that cannot be used, and what to do about it."""


class MienError(Exception):
    """A mistake in what Mien was given, told on one line.

    The message names what was wrong, where (file, row or field), what was expected and what to do about it.
    The command line prints it without a traceback and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
