"""The one exception that a user is meant to read."""

from __future__ import annotations


class MienError(Exception):
    """A mistake in what Mien was given, told on one line.

    The message names what was wrong, where (file, row or field), what was expected and what to do about it.
    The command line prints it without a traceback and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
