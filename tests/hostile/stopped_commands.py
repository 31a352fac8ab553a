"""Runs commands of Mien, each in a fork of this process, and stops or kills them at a change that they make to files.

A change is an event of Python's audit hooks: a file that is opened for writing, a folder that is made, and whatever is
renamed, linked or removed, below one folder. The fork saves the time in which the libraries are loaded. Jobs come as
lines of JSON on stdin, answers go to stdout; ``Commands`` is the other end.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.chmod"}
WRITING = os.O_WRONLY | os.O_RDWR
Job = tuple[Path, Sequence[object], dict[str, Any]]
"""The box of a command, its words, and what ``Commands.run`` takes besides."""

AT_ONCE = min(2, len(os.sched_getaffinity(0)))
HEAVY = (
    "torch", "timm", "transformers", "accelerate", "onnx", "onnxruntime", "av", "matplotlib.pyplot",
    "sklearn.metrics", "safetensors.torch", "pyarrow.parquet", "mien.cli.evaluate", "mien.cli.predict",
    "mien.cli.explain", "mien.cli.sharing", "mien.cli.data", "mien.training.validation", "mien.training.history",
    "mien.cli.training", "mien.training.finetune", "mien.training.pretrain", "mien.export.pack", "mien.export.export",
    "mien.export.card", "mien.evaluation.evaluate", "mien.evaluation.report",
    "mien.recognition.recognizer", "mien.recognition.film.records", "mien.recognition.film.writer",
    "mien.recognition.explain", "mien.recognition.training_set",
    "mien.data.drawn", "mien.evaluation.robustness",
)  # fmt: skip


class Changes:
    """Counts the changes of files below a folder, and sends this process a signal before one of them."""

    def __init__(self, box: str, stop_at: int, number: int) -> None:
        self.box, self.stop_at, self.number, self.count = box, stop_at, number, 0
        self.events: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        for_writing = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        if event not in CHANGES and not for_writing:
            return
        if not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        place = os.fsdecode(arguments[0])
        if os.path.isabs(place) and not place.startswith(self.box):
            return  # a relative one is removed out of an open folder, as rmtree does
        self.count += 1
        self.events.append(f"{event} {place.removeprefix(self.box)}")
        if self.count == self.stop_at:
            os.kill(os.getpid(), self.number)


def begin(job: dict[str, Any], argv: Sequence[str], stop_at: int, number: int) -> tuple[int, str]:
    """Starts a command; its process and the file that will hold what it printed and counted."""
    path_stem = f"{job['note']}-{begin.count}"  # type: ignore[attr-defined]
    begin.count += 1  # type: ignore[attr-defined]
    pid = os.fork()
    if pid:
        return pid, path_stem
    with open(f"{path_stem}.out", "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if job.get("largest"):
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["largest"], resource.RLIM_INFINITY))
    changes = Changes(job["box"], stop_at, number)
    sys.addaudithook(changes)
    code = 99
    try:
        from mien.cli import main

        code = main(list(argv))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        stop_at, changes.stop_at = changes.stop_at, -1
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        with open(f"{path_stem}.count", "w", encoding="utf-8") as file:
            json.dump(changes.events, file)
        os._exit(code)


begin.count = 0  # type: ignore[attr-defined]


def ended(pid: int, path_stem: str) -> dict[str, Any]:
    """What became of a command."""
    _, status = os.waitpid(pid, 0)
    events = json.loads(Path(f"{path_stem}.count").read_text()) if os.path.exists(f"{path_stem}.count") else []
    output = Path(f"{path_stem}.out").read_text(encoding="utf-8", errors="replace")
    return {"code": os.waitstatus_to_exitcode(status), "events": events, "output": output}


def do(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs a job: ``argv`` killed at change ``kill``, or stopped at change ``stop`` while ``meanwhile`` runs."""
    if not job.get("stop"):
        return [ended(*begin(job, job["argv"], job.get("kill", 0), signal.SIGKILL))]
    pid, path_stem = begin(job, job["argv"], job["stop"], signal.SIGSTOP)
    _, status = os.waitpid(pid, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        raise RuntimeError(f"ended before change {job['stop']}: {status}: {Path(f'{path_stem}.out').read_text()}")
    other_result = ended(*begin(job, job["meanwhile"], 0, 0))
    os.kill(pid, signal.SIGCONT)
    return [ended(pid, path_stem), other_result]


def do_all(jobs: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Runs jobs that stop nothing, ``AT_ONCE`` side by side; otherwise one after the other."""
    if any(job.get("stop") for job in jobs):
        return [do(job) for job in jobs]
    answers = []
    for first in range(0, len(jobs), AT_ONCE):
        processes = [
            begin(job, job["argv"], job.get("kill", 0), signal.SIGKILL) for job in jobs[first : first + AT_ONCE]
        ]
        answers += [[ended(pid, path_stem)] for pid, path_stem in processes]
    return answers


class Commands:
    """The process that runs commands, as a test sees it.

    Args:
        notes: a folder for what the commands print.
        cache: of decoded sets.
    """

    def __init__(self, notes: Path, cache: Path) -> None:
        self.notes = notes
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MIEN_CACHE": str(cache)}
        environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, box: Path, *argv: object, **job: Any) -> list[dict[str, Any]]:
        """Runs a job; see ``do``. ``largest`` kills the command when a file outgrows so many bytes (SIGXFSZ)."""
        return self.run_all([(box, argv, job)])[0]

    def run_all(self, jobs: Sequence[Job]) -> list[list[dict[str, Any]]]:
        """Runs jobs side by side, each with its box, its words and what ``run`` takes besides."""
        assert self.process.stdin and self.process.stdout
        lines = [
            {
                **job,
                "box": str(box),
                "argv": [str(argument) for argument in argv],
                "note": str(self.notes / "note"),
                "meanwhile": [str(argument) for argument in job.get("meanwhile", [])],
            }
            for box, argv, job in jobs
        ]
        self.process.stdin.write(json.dumps(lines) + "\n")
        self.process.stdin.flush()
        answers: list[list[dict[str, Any]]] = json.loads(self.process.stdout.readline())
        return answers

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(60)


def save_blank(figure: Any, target: Any, **_: Any) -> None:
    """Takes the place of ``Figure.savefig``: drawing takes most of the time of a small run, and changes no file."""
    Image.new("RGB", (8, 8)).save(target, format="png")


if __name__ == "__main__":
    for name in HEAVY:
        importlib.import_module(name)
    import matplotlib.figure
    import torch

    matplotlib.figure.Figure.savefig = save_blank  # type: ignore[assignment]

    torch.set_num_threads(1)
    gc.freeze()  # a fork that counts references copies no pages of what is loaded
    for line in sys.stdin:
        print(json.dumps(do_all(json.loads(line))), flush=True)
