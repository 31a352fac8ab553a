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
import struct
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mien.errors import MienError

KINDS = ("picture", "film", "archive", "table", "model", "onnx", "settings")
MEMORY_MIB = 4096
LIMIT_S = 30
ROUND = 50
"""Inputs that a process reads before a new one takes its place."""


class Slow(BaseException):
    """An input took longer than it may; no handler of exceptions may swallow it."""


# --- sound inputs -----------------------------------------------------------------------------------------------------


def _encoded(kind: str, rng: random.Random, **options: Any) -> bytes:
    side = rng.choice((1, 8, 48, 64))
    pixels = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (side, side, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def sound_picture(rng: random.Random) -> bytes:
    """A small picture of any kind that is read."""
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True, "exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}), ("GIF", {}),
        ("WEBP", {}), ("WEBP", {"lossless": True}), ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {}), ("BMP", {}),
        ("PPM", {}), ("AVIF", {}),
    ]  # fmt: skip
    kind, options = rng.choice(kinds)
    return _encoded(kind, rng, **options)


@lru_cache(maxsize=1)
def _film() -> bytes:
    from mien.recognition.film.writer import write_annotated
    from mien.recognition.results import Recognition

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        frame = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        with write_annotated(path, 25.0) as write:
            for index in range(12):
                write(Recognition("x", "no_face", None, 64, 48, (), index, index / 25, pixels=np.roll(frame, index, 1)))
        return path.read_bytes()


def sound_archive(rng: random.Random) -> bytes:
    """A set of four pictures, a folder a class."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for split in ("train", "val"):
            for name in ("happy", "sad"):
                archive.writestr(f"{split}/{name}/{rng.randrange(9)}.png", _encoded("PNG", random.Random(1)))
    return stream.getvalue()


def sound_table(rng: random.Random) -> bytes:
    """Three rows of FER2013's CSV."""
    rows = [f"{rng.randrange(7)},{' '.join(str(rng.randrange(256)) for _ in range(2304))},Training" for _ in range(3)]
    return "\n".join(["emotion,pixels,Usage", *rows, ""]).encode()


def sound_settings(rng: random.Random) -> bytes:
    """Settings of a run as YAML."""
    return b"epochs: 3\nlr: 1.0e-3\naugment:\n  rotation: 5\n  mixup: 0.2\nteacher: [a, b]\nbackbone: tiny\nseed: 1\n"


# --- spoiling ---------------------------------------------------------------------------------------------------------


def spoil(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to eight changes: bits, numbers at their limits, pieces cut, doubled, moved or made noise."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(found) + 1)
        length = min(len(found) - at, rng.choice((1, 2, 4, 16, 256, len(found))))
        change = rng.randrange(7)
        if change == 0 and at < len(found):
            found[at] ^= 1 << rng.randrange(8)
        elif change == 1:
            number = rng.choice((0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1))
            found[at : at + 4] = struct.pack(rng.choice(("<Q", ">Q")), number)[:4]
        elif change == 2:
            del found[at : at + length]
        elif change == 3:
            found[at:at] = found[at : at + length] * rng.choice((1, 2, 50))
        elif change == 4:
            found[at : at + length] = rng.randbytes(length)
        elif change == 5:
            del found[at:]
        else:
            found[at:at] = rng.choice(
                (b"\0" * 64, b"../../../evil", b"\x1b[2J", b"[" * 3000, b"9" * 5000, b"&a *a", b"\n")
            )
        del found[2**22 :]
    return bytes(found)


def spoil_json(value: Any, rng: random.Random) -> Any:
    """A JSON value with one of its parts, at any depth, replaced, removed or added."""
    odd: list[Any] = [
        None, True, -1, 0, 1e308, 2**70, "", "../../evil", "\x1b[2J", "x" * 5000, [], {}, [[]] * 3, "hf-hub:a/b",
        {"a": 1}, float("nan"),
    ]  # fmt: skip
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(sorted(value))
        if rng.random() < 0.15:
            return {key: part for key, part in value.items() if key != name}
        if rng.random() < 0.15:
            extra = rng.choice(("auto_map", "transformers_weights", "attn_implementation", "quantization_config"))
            return {**value, extra: rng.choice(odd)}
        return {**value, name: spoil_json(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.6:
        at = rng.randrange(len(value))
        return [*value[:at], spoil_json(value[at], rng), *value[at + 1 :]]
    return rng.choice(odd)


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
    path.write_bytes(spoil(_film(), rng))
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
    "picture": read_picture,
    "film": read_film,
    "archive": read_archive,
    "table": read_table,
    "model": read_model,
    "onnx": read_onnx,
    "settings": read_settings,
}


# --- running ----------------------------------------------------------------------------------------------------------


def attempt(kind: str, seed: int, box: Path, limit: int) -> str | None:
    """Reads one spoilt input in a folder of its own; what was wrong, or None.

    Args:
        kind: one of ``KINDS``.
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


def work(kind: str, seeds: list[int], keep: Path, memory: int, limit: int, told: Any) -> None:
    """Reads the inputs of some seeds in this process, and tells of each before and after it."""

    def slow(number: int, frame: object) -> None:
        raise Slow

    import resource  # not on Windows

    signal.signal(signal.SIGPROF, slow)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what C libraries say of damaged data
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory(prefix="mien-fuzz-") as box:
        attempt(kind, 0, Path(box), 0)  # loads what is needed, which takes its own time
    for seed in seeds:
        told.put((kind, seed, "begins", ""))
        with tempfile.TemporaryDirectory(prefix="mien-fuzz-") as box:
            wrong = attempt(kind, seed, Path(box), limit)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            if wrong is None and peak > memory:
                wrong = f"took {peak:,} MiB, expected at most {memory:,}"
            if wrong is not None:
                _keep(Path(box) / "a" / "b" / "scratch", keep / f"{kind}-{seed}")
        told.put((kind, seed, "ends" if wrong is None else "fault", wrong or str(peak)))
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
    parser.add_argument("--kind", choices=KINDS, action="append", help="these kinds alone")
    parser.add_argument(
        "--memory", type=int, default=MEMORY_MIB, metavar="MIB", help=f"peak of a process ({MEMORY_MIB})"
    )
    parser.add_argument(
        "--limit", type=int, default=LIMIT_S, metavar="S", help=f"processor time of an input ({LIMIT_S})"
    )
    parser.add_argument("--out", type=Path, default=Path("fuzz"), help="where inputs with faults are kept (fuzz)")
    parser.add_argument("--again", type=int, metavar="SEED", help="the input of one seed alone; needs one --kind")
    given = parser.parse_args()
    os.environ["MIEN_CACHE"] = tempfile.mkdtemp(prefix="mien-fuzz-cache-")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    kinds = given.kind or list(KINDS)
    if given.again is not None:
        signal.signal(signal.SIGPROF, lambda number, frame: (_ for _ in ()).throw(Slow()))
        with tempfile.TemporaryDirectory() as box:
            wrong = attempt(kinds[0], given.again, Path(box), given.limit)
        print(wrong or "no fault")
        return int(wrong is not None)
    return fuzz(kinds, given)


def fuzz(kinds: list[str], given: argparse.Namespace) -> int:
    """Spoils inputs until the time is over; returns 1 if there was a fault."""
    context = multiprocessing.get_context("spawn")
    seeds = random.Random(given.seed)
    counts: Counter[str] = Counter()
    faults: dict[str, str] = {}
    began = time.monotonic()
    peak, until, turn, minute = 0, began + 60 * given.minutes, 0, 0
    running: list[tuple[Any, Any, str, float, int | None]] = []
    while time.monotonic() < until or running:
        while len(running) < given.workers and time.monotonic() < until:
            kind = kinds[turn % len(kinds)]
            turn += 1
            told = context.Queue()
            chosen = [seeds.randrange(2**31) for _ in range(ROUND)]
            process = context.Process(target=work, args=(kind, chosen, given.out, given.memory, given.limit, told))
            process.start()
            running.append((process, told, kind, time.monotonic(), None))
        time.sleep(0.05)
        still = []
        for process, told, kind, since, at in running:
            alive = process.is_alive()  # asked before the queue is emptied, so that no word of a dead one is lost
            while not told.empty():
                _, seed, what, text = told.get()
                since, at = time.monotonic(), seed if what == "begins" else None
                if what == "ends":
                    counts[kind] += 1
                    peak = max(peak, int(text))
                elif what == "fault":
                    counts[kind] += 1
                    faults[f"{kind} {seed}"] = text
                    print(f"{kind} {seed}: {text}", flush=True)
            if not alive:
                if at is not None:
                    faults[f"{kind} {at}"] = f"the process died with {process.exitcode}"
                    print(f"{kind} {at}: {faults[f'{kind} {at}']}", flush=True)
                process.join()
            elif at is not None and time.monotonic() - since > 3 * given.limit + 60:  # where no signal is looked at
                faults[f"{kind} {at}"] = "hangs"
                print(f"{kind} {at}: hangs", flush=True)
                process.kill()
                process.join()
            elif time.monotonic() > until + given.limit and at is None:
                process.terminate()
                process.join()
            else:
                still.append((process, told, kind, since, at))
        running = still
        if time.monotonic() - began > 60 * (minute + 1):
            minute += 1
            print(f"minute {minute}: {sum(counts.values()):,} inputs, {len(faults)} faults, {peak:,} MiB", flush=True)
    print(f"{sum(counts.values()):,} inputs: {', '.join(f'{kind} {counts[kind]:,}' for kind in kinds)}")
    print(f"{len(faults)} faults; peak of a process {peak:,} MiB")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
