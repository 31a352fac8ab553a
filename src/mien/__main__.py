"""``mien``, ``python -m mien``, and under ``torchrun -m mien``."""

from __future__ import annotations

import signal
import sys

# Until the command stands, Ctrl-C ends the process without a traceback; mien.cli takes it over from there.
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run() -> int:
    """Runs the command that was typed; returns the exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from mien.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(run())
