"""What the library says beside its results, through the logger ``mien``: silent unless a program wants to hear it.

What other libraries say meanwhile can be hidden.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from mien.text import shown, shown_lines

LOGGER = logging.getLogger("mien")
"""The logger of the whole package; ``logging.basicConfig(level="INFO")`` shows what it says, warnings included."""

_RESULT = "mien_result"


def say(text: str) -> None:
    """Logs what happens, as information."""
    LOGGER.info("%s", text)


def warn(text: str) -> None:
    """Logs what a user should know, as a warning of one line."""
    LOGGER.warning("%s", " ".join(text.split()))


def report(text: str) -> None:
    """Logs a result of long work, such as the scores of an epoch; the command line prints it on stdout."""
    LOGGER.info("%s", text, extra={_RESULT: True})


class _Console(logging.Handler):
    """Prints results on stdout, all else on stderr, as the command line does."""

    def emit(self, record: logging.LogRecord) -> None:
        is_result = getattr(record, _RESULT, False)
        text = record.getMessage()
        line = f"warning: {shown(text)}" if record.levelno >= logging.WARNING else shown_lines(text)
        # As with print, an error (a closed pipe) reaches the caller: it ends the command.
        print(line, file=sys.stdout if is_result else sys.stderr, flush=True)


def show() -> None:
    """Prints from now on what the logger says, as the command line does; for notebooks and scripts."""
    if not any(isinstance(handler, _Console) for handler in LOGGER.handlers):
        LOGGER.addHandler(_Console())
    LOGGER.setLevel(logging.INFO)


@contextmanager
def to_console() -> Iterator[None]:
    """Prints what the logger says while a block runs, as ``show`` does; a block within another changes nothing."""
    handlers, level = list(LOGGER.handlers), LOGGER.level
    show()
    try:
        yield
    finally:
        LOGGER.handlers[:] = handlers
        LOGGER.setLevel(level)


LIBRARIES: tuple[str, ...] = ("torch", "transformers", "timm", "accelerate", "huggingface_hub", "tqdm", "matplotlib")
"""Packages whose advice and warnings are for programmers."""


def hide_remarks() -> None:
    """Hides advice and warnings of libraries; call it before they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # no line for each failed connection to the hub
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for library in LIBRARIES:  # a logger without any handler prints its warnings on stderr
        logging.getLogger(library).addHandler(logging.NullHandler())
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=rf"({'|'.join(LIBRARIES)})\b")


def hide_bars() -> None:
    """Hides the progress bars of transformers for local files; do not call it before a download."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
