"""How fast a film is read, and that memory does not grow with its length.

The film is generated: 640x480 at 25 frames/s, a portrait (scikit-image's, in the public domain) that moves over a
textured ground, one face of about 105 px in every frame. Reading its frames alone, without looking for faces, is the
baseline: the ratio is how much longer the whole takes. Beside it stand the parts by themselves, so that one sees what
bounds the whole: detection of every frame, the network on one face a frame, and drawing the boxes and writing the film.
Rates are those of the fastest of some rounds, after a warm-up; the processor time of all threads beside them depends
less on what else the machine does. Memory is the peak of a fresh process over what it holds after its first hundred
frames, for films of several lengths.

With ``--beside`` the same film is read by the code of another checkout too, in turns, each time in a fresh process, by
``Recognizer.recognize_film``; believe the ratios.

    python benchmarks/video.py --model runs/first
    git worktree add old v0.5 && python benchmarks/video.py --beside old --rounds 5
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
from av.video.stream import VideoStream
from PIL import Image
from process import in_fresh_process, resident

from mien.errors import MienError
from mien.machine import machine, versions
from mien.recognition.film.reader import frames
from mien.recognition.film.records import BATCH, FilmRecognition
from mien.recognition.recognizer import Recognizer

WIDTH, HEIGHT, RATE = 640, 480, 25.0
TARGET = 25.0
"""Frames a second that are to be reached."""

_WARM = 100


def write_film(path: Path, count: int) -> None:
    """Writes the film: a portrait that sways over a textured ground."""
    from skimage import data

    portrait = data.astronaut()[:330, 40:420]
    generator = np.random.default_rng(0)
    ground = np.zeros((HEIGHT, WIDTH, 3))
    for cell in (4, 16, 64):
        noise = generator.uniform(-40, 40, (HEIGHT // cell, WIDTH // cell, 3)).astype(np.float32)
        planes = [Image.fromarray(noise[..., channel]).resize((WIDTH, HEIGHT)) for channel in range(3)]
        ground += np.dstack([np.asarray(plane) for plane in planes])
    still = np.clip(128 + ground, 0, 255).astype(np.uint8)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg4", rate=Fraction(RATE), options={"qmin": "4", "qmax": "4"})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(count):
            angle = 2 * np.pi * index / 200
            left, top = round(130 + 125 * np.sin(angle)), round(75 + 70 * np.cos(1.7 * angle))
            frame = still.copy()
            frame[top : top + portrait.shape[0], left : left + portrait.shape[1]] = portrait
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        output.mux(stream.encode(None))


_TURN = """
import sys, time
from mien import Recognizer

film, recognizer, best = sys.argv[1], Recognizer(sys.argv[2] or None, threads=int(sys.argv[3])), 0.0
for turn in range(3):
    started = time.perf_counter()
    count = sum(1 for _ in recognizer.recognize_film(film))
    if turn:
        best = max(best, count / (time.perf_counter() - started))
print(best)
"""
"""Prints frames a second, the faster of two rounds after a warm-up; by the public interface, which checkouts share."""


def beside(film: Path, checkout: Path, model: str | None, threads: int, rounds: int) -> dict[str, Any]:
    """Frames a second by the code of this checkout and of another one, in turns, each in a fresh process; ``ratio``:
    the median of the ratios of the turns."""
    places = {"here": Path(__file__).parents[1], "beside": checkout}
    rates: dict[str, list[float]] = {side: [] for side in places}
    for _ in range(rounds):
        for side, place in places.items():
            completed = subprocess.run(
                [sys.executable, "-c", _TURN, str(film), model or "", str(threads)],
                env={**os.environ, "PYTHONPATH": str(place.absolute() / "src")},
                stdout=subprocess.PIPE,
                check=True,
            )
            rates[side].append(float(completed.stdout))
    return {**rates, "ratio": median(ours / other for ours, other in zip(rates["here"], rates["beside"], strict=True))}


def speed(recognizer: Any, film: Path, count: int, rounds: int, scratch: Path) -> dict[str, float]:
    """Frames a second of the whole and of its parts, and how well the face was followed."""
    from mien.recognition.detection import Detection, face_crop
    from mien.recognition.film.reader import FilmInfo
    from mien.recognition.film.writer import write_annotated

    records = list(FilmRecognition(recognizer, film))
    face_counts = [len(record.faces) for record in records]
    pictures = [frame.pixels for frame in frames(film) if frame.pixels is not None][:_WARM]
    face = next(face for record in records for face in record.faces)
    crop = face_crop(pictures[0], Detection(face.box, 1.0), recognizer.detector.margin, recognizer.engine)
    crops = np.stack([crop] * BATCH)

    def written() -> None:
        with write_annotated(scratch / "annotated.mp4", FilmInfo(RATE)) as write:
            for record in FilmRecognition(recognizer, film, keep_pixels=True):
                write(record)

    parts: dict[str, tuple[Callable[[], object], int]] = {
        "reading": (lambda: _drain(frames(film)), count),
        "recognition": (lambda: _drain(FilmRecognition(recognizer, film)), count),
        "with_film": (written, count),
        "detection": (lambda: [recognizer.detector.detect(pixels) for pixels in pictures], len(pictures)),
        "network": (lambda: [recognizer.engine.read(crops) for _ in range(8)], 8 * BATCH),
    }
    times: dict[str, list[float]] = {name: [] for name in parts}
    busy: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(rounds):
        for name, (work, _) in parts.items():  # in turns, so that all of them see the same machine
            started, before = time.perf_counter(), time.process_time()
            work()
            times[name].append(time.perf_counter() - started)
            busy[name].append(time.process_time() - before)
    rates = {name: units / min(times[name]) for name, (_, units) in parts.items()}
    return {
        **rates,
        **{f"{name}_cpu_ms": 1000 * min(busy[name]) / units for name, (_, units) in parts.items()},
        "ratio": rates["reading"] / rates["recognition"],
        "target": TARGET,
        "frames": count,
        "frames_with_one_face": sum(number == 1 for number in face_counts) / len(face_counts),
        "ids": len({face.id for record in records for face in record.faces}),
    }


def memory(model: str | None, threads: int, film: Path) -> float:
    """By how many MiB the peak of this process from the first frames of a film to its end is over what it held then.

    The peak of its start, when libraries and networks are loaded, does not count: a leak could hide below it.

    Raises:
        MienError: the film is too short.
    """
    before = math.nan
    for record in Recognizer(model, threads=threads).recognize_film(film):
        if record.frame == _WARM:
            before = resident("VmRSS")
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets VmHWM to what is held now
    if math.isnan(before):
        raise MienError(f"{film}: growth is measured from frame {_WARM} on; give a longer film")
    return resident("VmHWM") - before


def table(rates: dict[str, float], growth: dict[int, float]) -> str:
    """What was measured, as Markdown."""
    lines = ["| part | frames/s | ms a frame | processor time, ms |", "|---|---:|---:|---:|"]
    names = {
        "reading": "reading the film alone (baseline)",
        "recognition": f"**reading, finding, following, recognising** (target {rates['target']:.0f})",
        "with_film": "the same, with boxes, written as a film",
        "detection": "detection by itself",
        "network": f"the network by itself, {BATCH} faces at once",
    }
    lines += [
        f"| {name} | {rates[key]:,.1f} | {1000 / rates[key]:.1f} | {rates[f'{key}_cpu_ms']:.1f} |"
        for key, name in names.items()
    ]
    lines += ["", "| frames | minutes of film | growth of peak memory, MiB |", "|---:|---:|---:|"]
    lines += [f"| {count:,} | {count / RATE / 60:.1f} | {mebibytes:.1f} |" for count, mebibytes in growth.items()]
    return "\n".join(lines)


def _drain(records: Any) -> None:
    for _ in records:
        pass


def main() -> int:
    """Prints two Markdown tables and one line of JSON; with --beside the JSON alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model folder or an .onnx file (the shipped weights)")
    parser.add_argument("--threads", type=int, default=2, help="threads of the network (2)")
    parser.add_argument("--frames", type=int, default=500, help="frames of the film whose speed is measured (500)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each part is measured (3)")
    parser.add_argument("--lengths", type=int, nargs="*", default=[500, 2000, 8000], help="frames, for memory")
    parser.add_argument(
        "--beside", type=Path, metavar="CHECKOUT", help="read by its code too, and measure nothing else"
    )
    options = parser.parse_args()
    if not Path("/proc/self/status").exists():
        parser.error("needs Linux")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        write_film(scratch / "film.mp4", options.frames)
        print(f"command: {shlex.join(['python', *sys.argv])}\nhardware: {machine()}")
        if options.beside is not None:
            rates_beside = beside(scratch / "film.mp4", options.beside, options.model, options.threads, options.rounds)
            print(json.dumps({"benchmark": "video, beside", "frames": options.frames, **rates_beside}))
            return 0
        recognizer = Recognizer(options.model, threads=options.threads)
        rates = speed(recognizer, scratch / "film.mp4", options.frames, options.rounds, scratch)
        growth = {}
        for count in options.lengths:
            write_film(scratch / "long.mp4", count)
            growth[count] = in_fresh_process(memory, options.model, options.threads, scratch / "long.mp4")
    print(f"one face in {rates['frames_with_one_face']:.1%} of the frames, {rates['ids']:.0f} ids")
    print(f"\n{table(rates, growth)}\n")
    record = {"model": options.model, "threads": options.threads, **rates, "memory": growth, "versions": versions()}
    print(json.dumps({"benchmark": "video", **record}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
