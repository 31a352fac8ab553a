"""Runs a command as on Windows: ``python tests/windows_like.py predict photo.jpg``.

Takes away what Windows lacks, and refuses what Windows refuses: opening a folder, and renaming or removing a file that
this process holds open. It is Linux all the same: letters of drives, ``spawn`` and the console are not tried by this.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

MODULES = ("fcntl", "resource", "pwd", "grp", "termios")
FUNCTIONS = ("fork", "forkpty", "geteuid", "getuid", "sched_getaffinity", "O_NOFOLLOW", "O_NONBLOCK",
             "O_DIRECTORY", "mkfifo", "statvfs", "killpg", "getpgid", "setsid")  # fmt: skip
SIGNALS = ("SIGHUP", "SIGALRM", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGPROF", "setitimer", "alarm", "pthread_sigmask")


def open_files() -> set[str]:
    """Paths of the files and folders that this process holds open."""
    return {os.path.realpath(f"/proc/self/fd/{number}") for number in _listdir("/proc/self/fd")}


def refusing_open_ones(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which raises if the path that it would rename or remove, or something in it, is open."""

    def refusing(path: Any, *others: Any, **options: Any) -> Any:
        place = os.path.realpath(os.fsdecode(path))
        if any(name == place or name.startswith(place + os.sep) for name in open_files()):
            raise PermissionError(13, "The process cannot access the file because it is being used", str(path))
        return function(path, *others, **options)

    return refusing


def refusing_folders(path: Any, *others: Any, **options: Any) -> int:
    """``os.open``, which raises for a folder."""
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    return _open(path, *others, **options)


_open, _listdir = os.open, os.listdir


def become_windows() -> None:
    """Changes this process; modules of Mien must be imported after that."""
    assert not any(name.startswith("mien") for name in sys.modules)
    import shutil
    import subprocess  # noqa: F401 - these decide by os and fcntl when they are imported

    shutil._use_fd_functions = False  # type: ignore[attr-defined]
    usage = shutil.disk_usage(os.sep)  # by os.statvfs here; Windows has a function of its own for it
    shutil.disk_usage = lambda path: usage
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for module, names in ((os, FUNCTIONS), (signal, SIGNALS)):
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    for name in ("rename", "replace", "unlink", "remove"):
        setattr(os, name, refusing_open_ones(getattr(os, name)))
    os.open = refusing_folders


if __name__ == "__main__":
    become_windows()
    from mien.cli import main

    sys.exit(main(sys.argv[1:]))
