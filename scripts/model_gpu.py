"""Makes the models on a GPU within some minutes: ``make model-gpu DATA=archive.zip MINUTES=12``.

Phase 1: teachers, out-of-fold answers if asked for, and masked autoencoders. Phase 2: students of these. Runs of a
phase go side by side, each by its own clock, so that all end annealed. After each phase every finished network is
halved and split into a few files; at the end all are scored, and the best of each size is packed, as far as time is
left. Started again with the same OUT, it goes on: finished runs are skipped, interrupted ones resumed.

Everything is in OUT: runs/, logs/, scores.md, results.json, half/ (half precision) and share/ (at most 8 files of at
most 16 MiB: scores, results, and parts of one tar file; `cat weights.tar.* | tar x` unpacks them).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import shlex
import sys
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from model_results import MOST_PARTS, device_name, evaluated, halve, pack, share, table
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "scripts" / "gpu"
CARRIED = ROOT / "gpu"
"""What ``scripts/gpu_wheels.sh`` collects: wheels, and searches for twins."""

TEACHERS: tuple[str, ...] = ("teacher-a", "teacher-b", "teacher-c")
FIRST_PHASE = 0.45
"""Share of the training time that teachers and autoencoders have."""

LONGEST_END = 10.0
"""Seconds that a run has to end once it was stopped."""

LEAST_FREE = 6 * 2**30
"""Bytes of a GPU that must be free for another run to start."""


@dataclass(frozen=True)
class Job:
    """A run.

    Attributes:
        name: of its folder and, unless ``config`` says otherwise, of its settings in ``CONFIGS``.
        command: train, pretrain or folds.
        backbone: the folder that it starts from, if any.
        teachers: folders of models that teach it.
        more_options: further options.
        config: the name of its settings.
        share: of the seconds that the longest runs of its phase have.
    """

    name: str
    command: str = "train"
    backbone: str | None = None
    teachers: tuple[str, ...] = ()
    more_options: tuple[str, ...] = ()
    config: str | None = None
    share: float = 1.0


@dataclass
class Chain:
    """The whole chain: folder, deadline and what was started with which minutes.

    Attributes:
        options: of the command line.
        started: time at which the command began, in seconds of ``time.monotonic``.
        startup: seconds that a run takes before it trains; measured.
        record: by name of a run, its command and whether it ended well; written to OUT/plan.json.
    """

    options: argparse.Namespace
    started: float
    startup: float = 5.0
    record: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        """The folder of everything."""
        return Path(self.options.out)

    def seconds_left(self) -> float:
        """Seconds until the deadline."""
        return float(self.started + 60 * self.options.minutes - time.monotonic())

    def run_of(self, name: str) -> Path:
        """The folder of a run."""
        return self.out / "runs" / name

    def is_made(self, name: str) -> bool:
        """Whether a run has a model."""
        return (self.run_of(name) / "model" / "config.json").is_file()

    def runs_with_model(self) -> list[str]:
        """The names of the runs that have a model."""
        return [path.name for path in sorted((self.out / "runs").glob("*")) if self.is_made(path.name)]

    def classifiers(self) -> list[str]:
        """The names of the runs that have a classifier, not an autoencoder."""
        return [name for name in self.runs_with_model() if not name.endswith("-mae")]

    def save(self) -> None:
        """Writes OUT/plan.json, whole or not at all: a run that goes on is lost without it."""
        from mien.files import write_json

        write_json(self.out / "plan.json", self.record)

    def words(self, job: Job, minutes: float) -> list[str]:
        """The command of a run; a run that began before keeps its minutes, which decide its learning rates."""
        folder = self.run_of(job.name)
        has_state = any(folder.rglob("state.safetensors"))  # folds have theirs in folders of their own
        minutes = self.record.get(job.name, {}).get("minutes", minutes) if has_state else minutes
        self.record[job.name] = {"minutes": minutes, "done": False}
        minutes /= max(1, self.options.folds) if job.command == "folds" else 1
        words = [job.command, "--config", str(self.options.configs / f"{job.config or job.name}.yaml"), "--data",
                 self.options.data, "--out", str(folder), "--minutes", f"{minutes:.4f}",
                 "--device", self.options.device]  # fmt: skip
        words += ["--backbone", job.backbone] if job.backbone else []
        words += ["--teacher", *job.teachers] if job.teachers else []
        words += ["--resume"] if has_state and job.command != "folds" else []
        return [*words, *job.more_options]


def phase(chain: Chain, jobs: Sequence[Job], seconds: float) -> None:
    """Runs jobs side by side, as many as have room; each has its share of the seconds and ends annealed.

    A run that is late is stopped; what it saved stays. One that does not end then is killed, so that the rest can be
    scored.
    """
    waiting = [job for job in jobs if not chain.record.get(job.name, {}).get("done")]
    lanes = max(1, min(chain.options.jobs, len(waiting)))
    waves = -(-len(waiting) // lanes)
    end = time.monotonic() + seconds
    running: dict[str, BaseProcess] = {}
    stopped: dict[str, float] = {}
    while waiting or running:
        for name, process in list(running.items()):
            if process.exitcode is not None:
                running.pop(name)
                chain.record[name] |= {"done": process.exitcode == 0, "code": process.exitcode}
                chain.save()
                outcome = "done" if process.exitcode == 0 else f"failed, see {chain.out / 'logs' / name}.log"
                say(chain, f"{name}: {outcome}")
        if time.monotonic() > end + chain.options.grace:
            waiting = []
            for name, process in running.items():
                if name not in stopped:
                    say(chain, f"{name}: late, stopped; what it saved stays")
                    process.terminate()
                    stopped[name] = time.monotonic()
                elif time.monotonic() > stopped[name] + LONGEST_END and process.exitcode is None:
                    process.kill()
        if waiting and len(running) < lanes and has_room(chain, len(running)):
            job = waiting.pop(0)
            share = min(seconds / waves, end - time.monotonic()) - chain.startup
            if share < 1:
                say(chain, f"{job.name}: left out, no time is left")
                continue
            running[job.name] = start(chain, job, job.share * share / 60)
            continue
        time.sleep(0.05)


def has_room(chain: Chain, running: int) -> bool:
    """Whether the device has memory for another run; runs that have just begun count with what they will take."""
    if not chain.options.device.startswith("cuda"):
        return True
    import torch

    free, total = torch.cuda.mem_get_info()
    return min(free, total - running * LEAST_FREE) > LEAST_FREE


def start(chain: Chain, job: Job, minutes: float) -> BaseProcess:
    """Starts a run; what it prints goes to OUT/logs."""
    words = chain.words(job, minutes)
    chain.save()
    say(chain, f"{job.name}: {60 * chain.record[job.name]['minutes']:.0f} s; mien {shlex.join(words)}")
    log = chain.out / "logs" / f"{job.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    return started(words, log)


def started(words: list[str], log: Path) -> BaseProcess:
    """Starts a command of Mien, forked from a process that has imported everything and has not touched the device."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mien.training.folds", "mien.training.pretrain"])
    process = context.Process(target=child, args=(words, str(log)))
    process.start()
    return process


def child(words: list[str], log: str) -> None:
    """Runs a command of Mien in a process of its own, with its output in a file."""
    with open(log, "ab", buffering=0) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    from mien.cli import main

    code = main(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def set_environment() -> None:
    """Sets what processes inherit that are started from here: the packages of this process, and a few threads each."""
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(ROOT / "src"), *filter(None, sys.path)]))
    os.environ["PYTHONUNBUFFERED"] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", "2")


def first_jobs(chain: Chain) -> list[Job]:
    """Teachers, folds and autoencoders, as far as no folder is given for them."""
    options = chain.options
    jobs = [] if options.teachers else [Job(name) for name in TEACHERS]
    if options.folds:
        folds = Job("folds", "folds", more_options=("--folds", str(options.folds)), config="teacher-a")
        jobs.append(folds)  # its runs follow one another: ``Chain.words`` divides the minutes
    jobs += [] if options.mini else [Job("mini-mae", "pretrain", share=0.4)]
    return [*jobs, *([] if options.nano else [Job("nano-mae", "pretrain", share=0.3)])]


def students(chain: Chain) -> list[Job]:
    """The students of what the first phase made."""
    options = chain.options
    teachers = tuple(options.teachers) or tuple(str(chain.run_of(name)) for name in TEACHERS if chain.is_made(name))
    mini = options.mini or (str(chain.run_of("mini-mae")) if chain.is_made("mini-mae") else "mini")
    nano = options.nano or (str(chain.run_of("nano-mae")) if chain.is_made("nano-mae") else "nano")
    answers = chain.run_of("folds") / "answers.safetensors"
    more_options = ("--targets", str(answers), "--distill.targets_weight", "0.1") if answers.is_file() else ()
    if not teachers:  # nothing to distil from: the settings name a weight, a map and a mirror
        more_options = (*more_options, "--distill.weight", "0.5", "--distill.features", "0", "--distill.mirror",
                        "false")  # fmt: skip
    return [
        Job("mini-1", "train", mini, teachers, more_options),
        Job("mini-2", "train", mini, teachers, more_options),
        Job("nano-1", "train", nano, teachers, more_options, share=0.7),
    ]


def say(chain: Chain, text: str) -> None:
    """Prints a line with the seconds since the start."""
    print(f"[{time.monotonic() - chain.started:6.1f} s] {text}", flush=True)


def prepare(chain: Chain) -> None:
    """Reads the data and finds its twins once for all runs (both are cached), and measures how long a run starts."""
    from mien.data.read import read_faces
    from mien.data.twins import groups, has_twin

    first = started(["--version"], chain.out / "start.log")  # imports, while the data is read
    began = time.monotonic()
    faces = read_faces(chain.options.data)
    if faces.has("validation"):
        validation = faces.part("validation").images
        has_twin(validation, faces.part("train").images)
        groups(validation)
    # The search for twins is not repeated. A GPU, its first kernels and the last validation take some seconds more.
    chain.startup = min(time.monotonic() - began, 3.0) + (8.0 if chain.options.device.startswith("cuda") else 1.0)
    first.join()
    say(chain, f"data read; a run is expected to start and end in {chain.startup:.0f} s")


def finish(chain: Chain) -> int:
    """Scores, halves, shares and packs what was made; returns the exit code: 1 if nothing was."""
    from mien.files import write_text

    networks = chain.classifiers()
    if not chain.runs_with_model():
        say(chain, f"no run made a model; see {chain.out / 'logs'}")
        return 1
    runs = {name: chain.run_of(name) for name in networks}
    rows = evaluated(runs, chain.options.data, chain.options.device) if runs else []
    write_text(chain.out / "scores.md", table(rows) + "\n")
    results = {"minutes": chain.options.minutes, "scores": rows, "runs": chain.record, "device": device_name()}
    write_text(chain.out / "results.json", json.dumps(results, indent=2))
    ranked = [row["name"] for row in rows if row["name"] in networks]
    take_home(chain, ranked)
    print(f"\n{table(rows)}\n", flush=True)
    for kind in ("mini", "nano"):
        best = next((name for name in ranked if name.startswith(f"{kind}-")), None)
        if best and chain.options.pack:
            say(chain, pack(chain.run_of(best), chain.options.data, chain.out / "packed" / kind, chain.seconds_left()))
    say(chain, f"everything is in {chain.out}")
    return 0


def take_home(chain: Chain, ranked: Sequence[str]) -> None:
    """Halves what was made and writes the folder to take home: students, autoencoders, teachers, while there is room.

    Args:
        chain: after a phase.
        ranked: names of classifiers, the best first.
    """
    for name in chain.runs_with_model():
        halve(chain.run_of(name), chain.out / "half" / name)
    students = [name for kind in ("mini-", "nano-") for name in ranked if name.startswith(kind)]
    autoencoders = [name for name in chain.runs_with_model() if name.endswith("-mae")]
    names = [*students, *autoencoders, *[name for name in ranked if name not in students]]
    folder = Path(chain.options.share or chain.out / "share")
    left_out = share(chain.out, folder, names)
    if left_out:
        say(chain, f"left out of {folder}, which holds {MOST_PARTS} parts at most: {', '.join(left_out)}")


def is_installed(wheel: Path) -> bool:
    """Whether this Python has the package of a wheel already, in its version or a later one."""
    name, version, _ = wheel.name.split("-", 2)
    try:
        return Version(importlib.metadata.version(name)) >= Version(version)
    except importlib.metadata.PackageNotFoundError:
        return False


def unpack_wheels() -> None:
    """Puts carried wheels, as far as their packages are missing, on the path of this process and of the runs."""
    site = CARRIED / "site"
    wheels = [wheel for wheel in sorted((CARRIED / "wheels").glob("*.whl")) if not is_installed(wheel)]
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    if wheels:
        sys.path.insert(0, str(site))
    cache = CARRIED / "cache"
    if cache.is_dir() and "MIEN_CACHE" not in os.environ:
        cache.chmod(0o700)
        for path in cache.iterdir():
            path.chmod(0o600)
        os.environ["MIEN_CACHE"] = str(cache)


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the script; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python scripts/model_gpu.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--data", default="archive.zip", help="FER2013 (archive.zip)")
    parser.add_argument("--out", default="runs/gpu", help="folder of everything (runs/gpu)")
    parser.add_argument("--minutes", type=float, default=12.0, help="until the deadline, all told (12)")
    parser.add_argument("--teachers", nargs="*", default=[], help="model folders in place of own teachers")
    parser.add_argument("--mini", help="folder that mini starts from in place of an own autoencoder")
    parser.add_argument("--nano", help="folder that nano starts from in place of an own autoencoder")
    parser.add_argument("--folds", type=int, default=0, help="folds of out-of-fold answers; 0 leaves them out (0)")
    parser.add_argument("--configs", type=Path, default=CONFIGS, help="folder of the settings (scripts/gpu)")
    parser.add_argument("--jobs", type=int, default=0, help="runs side by side at most (8 on a GPU, else 2)")
    parser.add_argument("--share", help="folder for at most 8 files of at most 16 MiB (OUT/share)")
    parser.add_argument("--device", default="", help="(cuda, or cpu where there is none)")
    parser.add_argument("--grace", type=float, default=20.0, help="seconds that a run may be late (20)")
    parser.add_argument("--no-pack", dest="pack", action="store_false", help="do not pack")
    options = parser.parse_args(arguments)
    chain = Chain(options, time.monotonic())
    unpack_wheels()
    if str(ROOT / "src") not in sys.path:
        sys.path.insert(0, str(ROOT / "src"))
    inputs = (options.data, *options.teachers, options.mini, options.nano)
    missing = [path for path in inputs if path and not Path(path).exists()]
    if missing or not options.minutes > 0:
        problem = (
            f"{missing[0]}: no such file or folder" if missing else f"--minutes {options.minutes}: expected above 0"
        )
        print(f"mien: error: {problem}", file=sys.stderr)
        return 2
    set_environment()
    import torch

    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    options.jobs = options.jobs or (8 if options.device.startswith("cuda") else 2)
    options.out = str(Path(options.out))
    (chain.out / "runs").mkdir(parents=True, exist_ok=True)
    if (chain.out / "plan.json").is_file():
        from mien.files import read_json_object

        chain.record = read_json_object(chain.out / "plan.json")
    prepare(chain)
    reserve = max(5.0, min(75.0, 0.12 * 60 * options.minutes))
    jobs = first_jobs(chain)
    training = chain.seconds_left() - reserve
    own_teachers = any(job.command == "train" for job in jobs)
    phase(chain, jobs, training * (FIRST_PHASE if own_teachers else 0.6 * FIRST_PHASE))
    take_home(chain, chain.classifiers())  # in case the machine is lost
    phase(chain, students(chain), chain.seconds_left() - reserve)
    return finish(chain)


if __name__ == "__main__":
    sys.exit(run())
