"""Spoils pictures, films, archives, tables, model folders and settings at random, and hands them to Mien.

Every input is made here from a seed, one or several of its bytes (or of its JSON's values) are changed, and the public
API, or a command, reads it in a process of its own. A fault is: an exception other than MienError, an input that takes
more than ``--limit`` seconds of processor time (or three times that and a minute on the clock), a file that comes to
be outside the scratch folder, a process that dies, or memory above ``--memory`` MiB. The spoilt input of each fault is
kept under ``--out``, with the seed that makes it again.

Examples:
  python benchmarks/fuzz.py --minutes 1
  python benchmarks/fuzz.py --minutes 60 --workers 2 --seed 7 --out fuzz
  python benchmarks/fuzz.py --again 1234567 --kind archive
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_inputs import sound_archive, sound_film, sound_picture, sound_settings, sound_table, spoil, spoil_json

from mien.errors import MienError

ROUND = 50
"""Inputs that a process reads before a new one takes its place."""


class Slow(BaseException):
    """An input took longer than it may; no handler of exceptions may swallow it."""


# --- targets: each gets a scratch folder and a random source, and reads what it spoilt there --------------------------


@lru_cache(maxsize=1)
def _recognizer() -> Any:
    from mien import Recognizer

    return Recognizer("nano", detector="none")


def read_picture(folder: Path, rng: random.Random) -> None:
    """A picture, as a path and as bytes."""
    path = folder / "photo.png"
    path.write_bytes(spoil(sound_picture(rng), rng))
    records = _recognizer().recognize([path, path.read_bytes()])
    assert all(record.status in ("ok", "no_face", "error") for record in records)


def read_film(folder: Path, rng: random.Random) -> None:
    """A film, by the public API."""
    path = folder / "film.mp4"
    path.write_bytes(spoil(sound_film(), rng))
    for count, _ in enumerate(_recognizer().recognize_film(path)):
        if count > 10_000:
            raise AssertionError("a film of 12 frames gives more than 10,000")


def read_archive(folder: Path, rng: random.Random) -> None:
    """An archive as a set, and as photos to be cropped."""
    from mien.data.read import read_faces
    from mien.recognition.detectors import detector
    from mien.recognition.training_set import crop_set

    path = folder / "set.zip"
    path.write_bytes(spoil(sound_archive(rng), rng))
    if rng.random() < 0.5:
        read_faces(path, cache=False)
    else:
        crop_set(path, folder / "crops", detector("none"), size=16)


def read_table(folder: Path, rng: random.Random) -> None:
    """A table."""
    from mien.data.read import read_faces

    path = folder / "fer2013.csv"
    path.write_bytes(spoil(sound_table(rng), rng))
    read_faces(path, cache=False)


@lru_cache(maxsize=1)
def _shipped() -> dict[str, bytes]:
    from mien.model.places import SHIPPED

    return {path.name: path.read_bytes() for path in (SHIPPED / "nano").iterdir()}


def read_model(folder: Path, rng: random.Random) -> None:
    """A model folder by torch: one of its files spoilt, JSON by its values or by its bytes."""
    from mien.recognition.torch_engine import TorchEngine

    name = rng.choice(("config.json", "config.json", "preprocessor_config.json", "meta.json", "model.safetensors"))
    files = {key: data for key, data in _shipped().items() if not key.endswith(".onnx")}
    if name.endswith(".json") and rng.random() < 0.7:
        files[name] = json.dumps(spoil_json(json.loads(files[name]), rng)).encode()
    else:
        files[name] = spoil(files[name], rng)
    for key, data in files.items():
        (folder / key).write_bytes(data)
    engine = TorchEngine.load(folder, "cpu")
    engine.read(np.zeros((2, engine.image_size, engine.image_size), np.uint8))


def read_onnx(folder: Path, rng: random.Random) -> None:
    """An ONNX file by ONNX Runtime, spoilt in its metadata or anywhere."""
    from mien.recognition.engine import OnnxEngine

    data = _shipped()["model.onnx"]
    tail = 20_000 if rng.random() < 0.5 else len(data)
    path = folder / "model.onnx"
    path.write_bytes(data[:-tail] + spoil(data[-tail:], rng))
    engine = OnnxEngine(path, "cpu", 1)
    engine.read(np.zeros((2, engine.image_size, engine.image_size), np.uint8))


def read_settings(folder: Path, rng: random.Random) -> None:
    """Settings of a run, which is refused before it begins, as its data is not there."""
    from mien.cli.settings import read_settings as read
    from mien.config import TrainConfig

    path = folder / "run.yaml"
    path.write_bytes(spoil(sound_settings(rng), rng))
    read(TrainConfig, ["--config", str(path), "--data", "nosuch.zip", "--out", str(folder / "out")])


TARGETS: dict[str, Callable[[Path, random.Random], None]] = {
    read.__name__.removeprefix("read_"): read
    for read in (read_picture, read_film, read_archive, read_table, read_model, read_onnx, read_settings)
}


# --- running ----------------------------------------------------------------------------------------------------------


def attempt(kind: str, seed: int, box: Path, limit: int) -> str | None:
    """Reads one spoilt input in a folder of its own; what was wrong, or None.

    Args:
        kind: one of ``TARGETS``.
        seed: decides the input.
        box: an empty folder around the scratch folder, in which nothing may come to be.
        limit: seconds of processor time that it may take; 0 for any number.
    """
    scratch = box / "a" / "b" / "scratch"
    scratch.mkdir(parents=True)
    outside = set(box.rglob("*"))
    signal.setitimer(signal.ITIMER_PROF, limit)  # a busy machine makes no input slow
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            TARGETS[kind](scratch, random.Random(seed))
    except MienError as error:
        if "\n" in str(error) or len(str(error)) > 3000:
            return f"an error of {len(str(error)):,} letters: {str(error)[:200]!r}"
    except Slow:
        return f"took over {limit} s"
    except BaseException:
        return traceback.format_exc(limit=-4)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    strange = [path for path in box.rglob("*") if path not in outside and scratch not in path.parents]
    return f"made {strange[0].relative_to(box)}, outside its folder" if strange else None


FIRST_SEED = 0
"""Of the first input of every process."""


def work(kind: str, seeds: list[int], fault_folder: Path, memory: int, limit: int, queue: Any) -> None:
    """Reads the inputs of some seeds in this process, and tells of each before and after it."""

    def slow(number: int, frame: object) -> None:
        raise Slow

    import resource  # not on Windows

    signal.signal(signal.SIGPROF, slow)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what C libraries say of damaged data
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The first input loads what is needed, which takes its own time.
    for number, seed in enumerate([FIRST_SEED, *seeds]):
        queue.put((kind, seed, "begins", ""))
        with tempfile.TemporaryDirectory(prefix="mien-fuzz-") as box:
            fault = attempt(kind, seed, Path(box), limit if number else 0)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            if fault is None and peak > memory:
                fault = f"took {peak:,} MiB, expected at most {memory:,}"
            if fault is not None:
                _keep(Path(box) / "a" / "b" / "scratch", fault_folder / f"{kind}-{seed}")
        queue.put((kind, seed, "ends" if fault is None else "fault", fault or str(peak)))
        if peak > memory:
            return  # the peak of a process never falls


def _keep(scratch: Path, place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for path in scratch.iterdir():
        if path.is_file():
            (place / path.name).write_bytes(path.read_bytes())


def main() -> int:
    """Runs the fuzzer; returns 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (1)")
    parser.add_argument("--seed", type=int, default=0, help="decides every input (0)")
    parser.add_argument("--workers", type=int, default=2, help="processes at once (2)")
    parser.add_argument("--kind", choices=TARGETS, action="append", help="these kinds alone")
    parser.add_argument("--memory", type=int, default=4096, metavar="MIB", help="peak of a process (4096)")
    parser.add_argument("--limit", type=int, default=30, metavar="S", help="processor time of an input (30)")
    parser.add_argument("--out", type=Path, default=Path("fuzz"), help="where inputs with faults are kept (fuzz)")
    parser.add_argument("--again", type=int, metavar="SEED", help="the input of one seed alone; needs one --kind")
    options = parser.parse_args()
    os.environ["MIEN_CACHE"] = tempfile.mkdtemp(prefix="mien-fuzz-cache-")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    kinds = options.kind or list(TARGETS)
    if options.again is not None:
        signal.signal(signal.SIGPROF, lambda number, frame: (_ for _ in ()).throw(Slow()))
        with tempfile.TemporaryDirectory() as box:
            fault = attempt(kinds[0], options.again, Path(box), options.limit)
        print(fault or "no fault")
        return int(fault is not None)
    return fuzz(kinds, options)


def fuzz(kinds: list[str], options: argparse.Namespace) -> int:
    """Spoils inputs until the time is over; returns 1 if there was a fault."""
    context = multiprocessing.get_context("spawn")
    seeds = random.Random(options.seed)
    counts: Counter[str] = Counter()
    faults: dict[str, str] = {}
    began = time.monotonic()
    peak, until, turn, minute = 0, began + 60 * options.minutes, 0, 0
    running: list[tuple[Any, Any, str, float, int | None]] = []

    def fault(kind: str, seed: int, text: str) -> None:
        faults[f"{kind} {seed}"] = text
        print(f"{kind} {seed}: {text}", flush=True)

    while time.monotonic() < until or running:
        while len(running) < options.workers and time.monotonic() < until:
            kind = kinds[turn % len(kinds)]
            turn += 1
            queue = context.Queue()
            batch = [seeds.randrange(2**31) for _ in range(ROUND)]
            process = context.Process(
                target=work, args=(kind, batch, options.out, options.memory, options.limit, queue)
            )
            process.start()
            running.append((process, queue, kind, time.monotonic(), None))
        time.sleep(0.05)
        still_running = []
        for process, queue, kind, since, current_seed in running:
            alive = process.is_alive()  # asked before the queue is emptied, so that no word of a dead one is lost
            while not queue.empty():
                _, seed, event, text = queue.get()
                since, current_seed = time.monotonic(), seed if event == "begins" else None
                if event == "ends":
                    counts[kind] += 1
                    peak = max(peak, int(text))
                elif event == "fault":
                    counts[kind] += 1
                    fault(kind, seed, text)
            if not alive:
                if current_seed is None and process.exitcode:
                    current_seed = -1  # between two inputs, or before the first
                if current_seed is not None:
                    fault(kind, current_seed, f"the process died with {process.exitcode}")
                process.join()
            elif current_seed is not None and time.monotonic() - since > 3 * options.limit + 60:
                fault(kind, current_seed, "hangs")  # where no signal is looked at
                process.kill()
                process.join()
            elif time.monotonic() > until + options.limit and current_seed is None:
                process.terminate()
                process.join()
            else:
                still_running.append((process, queue, kind, since, current_seed))
        running = still_running
        if time.monotonic() - began > 60 * (minute + 1):
            minute += 1
            print(f"minute {minute}: {sum(counts.values()):,} inputs, {len(faults)} faults, {peak:,} MiB", flush=True)
    print(f"{sum(counts.values()):,} inputs: {', '.join(f'{kind} {counts[kind]:,}' for kind in kinds)}")
    print(f"{len(faults)} faults; peak of a process {peak:,} MiB")
    unread = [kind for kind in kinds[:turn] if not counts[kind]]
    if unread:
        print(f"nothing was read of {', '.join(unread)}")
    return int(bool(faults or unread))


if __name__ == "__main__":
    sys.exit(main())
