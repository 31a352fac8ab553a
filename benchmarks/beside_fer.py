"""Mien beside ``fer``, on the same pictures in one run: speed, faces found, first answer, size on disk.

``fer`` lives in an environment of its own, as its TensorFlow and our libraries do not go together; its interpreter is
given. A fresh install of fer 25.10.3 does not start, as it does not keep OpenCV below 5 nor setuptools below 82:

    python -m venv fer && fer/bin/pip install fer==25.10.3 "setuptools<80"
    fer/bin/pip uninstall -y opencv-contrib-python && fer/bin/pip install "opencv-python-headless>=4.14,<5"
    python benchmarks/beside_fer.py --fer fer/bin/python --models mini mini-int8 nano nano-int8

Pictures are read by the first of our models, face crops (of noise) by each. Both sides get decoded pictures in the
channel order they ask for. The two take turns, round by round; times are medians after warm-up. A list is one call of
ours, and a loop of theirs, as fer has no such call. "Whole pictures" are scikit-image's portrait (one face, public
domain) and a collage of twelve of it. The first answer is a fresh process from its start to the faces of a portrait,
always by the clock. Believe the ratios before the numbers. ``clean_scores.py`` compares accuracy.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fer_side import CLOCK, LIST, median_seconds
from scenes import collage, portrait

from mien.machine import machine, versions
from mien.recognition.detection import Detection, face_crop
from mien.recognition.recognizer import Recognizer

SIZES: tuple[int, ...] = (256, 512, 1024, 2048)
FIRST = {
    "fer": "from fer.fer import FER\nfaces = FER().detect_emotions(picture[..., ::-1].copy())",
    "mien": "from mien import Recognizer\nfaces = Recognizer({model!r}).recognize(picture, color='rgb').faces",
}
"""What a fresh process runs on a picture in RGB; fer takes BGR."""


def pictures(sizes: Sequence[int] = SIZES) -> dict[str, np.ndarray]:
    """Portraits of the given sizes and a collage of twelve, uint8 [H, W, 3], RGB; their names tell how many faces."""
    portraits = {f"picture-1-{side}": portrait(side).pixels for side in sizes}
    return {**portraits, "picture-12-collage": collage(512).pixels}


def measure_mien(recognizer: Recognizer, folder: Path, rounds: int, *, whole: bool = True) -> dict[str, Any]:
    """As ``fer_side.main``, by Mien; ``whole``: whole pictures too, not crops alone."""
    record: dict[str, Any] = {"pictures": {}}
    for path in sorted(folder.glob("picture-*.npy")) if whole else []:
        picture = np.load(path)
        faces = recognizer.recognize(picture, color="bgr").faces
        seconds = median_seconds(lambda picture=picture: recognizer.recognize(picture, color="bgr"), rounds)
        photos = [picture] * LIST
        list_seconds = median_seconds(lambda photos=photos: recognizer.recognize(photos, color="bgr"), 1) / LIST
        record["pictures"][path.stem] = {"seconds": seconds, "list_seconds": list_seconds, "faces": len(faces)}
    crops = fitted(np.load(folder / "crops.npy"), recognizer)
    record["crops"] = {
        str(count): median_seconds(lambda count=count: recognizer.engine.read(crops[:count]), 5 * rounds) / count
        for count in (1, 64)
    }
    return record


def fitted(crops: np.ndarray, recognizer: Recognizer) -> np.ndarray:
    """Grey crops, uint8 [N, S, S], as the recognizer's network takes them."""
    whole = Detection((0.0, 0.0, float(crops.shape[2]), float(crops.shape[1])), None)
    return np.stack([face_crop(crop, whole, 0.0, recognizer.engine) for crop in crops])


def measure_fer(python: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """What ``fer_side.py`` says in the other environment."""
    script = Path(__file__).with_name("fer_side.py")
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": ""}
    completed = subprocess.run(
        [python, script, folder, str(rounds)], capture_output=True, text=True, env=environment, check=False
    )
    if completed.returncode:
        raise SystemExit(f"beside_fer: {python} could not run fer: {completed.stderr.strip().splitlines()[-1]}")
    record: dict[str, Any] = json.loads(completed.stdout.strip().splitlines()[-1])
    return record


def first_answer(python: str | Path, code: str, folder: Path, runs: int) -> float:
    """Median seconds from the start of a process to the faces of a portrait."""
    program = f"import numpy\npicture = numpy.load({str(folder / 'first.npy')!r})\n{code}\nassert len(faces)"
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        subprocess.run(
            [python, "-c", program], check=True, capture_output=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        )
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def megabytes(python: str | Path) -> float:
    """Size on disk of the environment that an interpreter belongs to."""
    root = Path(python).absolute().parent.parent
    return sum(path.lstat().st_size for path in root.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6


def table(record: dict[str, Any]) -> str:
    """The comparison as Markdown."""
    lines = ["| | fer | Mien | ratio |", "|---|---:|---:|---:|"]
    for name, pair in record["pictures"].items():
        _, expected, size = name.split("-")
        fer, mien = pair["fer"], pair["mien"]
        counts = f"({fer['faces']} and {mien['faces']} faces, {expected} there)"
        first, second = fer["seconds"], mien["seconds"]
        lines.append(f"| {size} {counts} | {1000 * first:.1f} ms | {1000 * second:.1f} ms | {first / second:.2f} |")
        first, second = fer["list_seconds"], mien["list_seconds"]
        lines.append(f"| {size}, a list of {LIST} | {1 / first:.1f}/s | {1 / second:.1f}/s | {first / second:.2f} |")
    for model, counts in record["crops"].items():
        for count, pair in counts.items():
            fer, mien = pair["fer"], pair["mien"]
            lines.append(
                f"| a crop, {count} at once, {model} | {1000 * fer:.3f} ms | {1000 * mien:.3f} ms | {fer / mien:.2f} |"
            )
    fer, mien = (record["first_answer"][name] for name in ("fer", "mien"))
    lines.append(f"| first answer | {fer:.2f} s | {mien:.2f} s | {fer / mien:.2f} |")
    if sizes := record["megabytes"]:
        fer, mien = sizes["fer"], sizes["mien"]
        lines.append(f"| install | {fer:,.0f} MB | {mien:,.0f} MB | {fer / mien:.1f} |")
    return "\n".join(lines)


def merged(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The rounds of one side: the median over them of every time, the counts of the first."""

    def median(*keys: str) -> float:
        values: list[Any] = rounds
        for key in keys:
            values = [value[key] for value in values]
        return statistics.median(values)

    pictures = {
        name: {**picture, **{key: median("pictures", name, key) for key in ("seconds", "list_seconds")}}
        for name, picture in rounds[0]["pictures"].items()
    }
    return {"pictures": pictures, "crops": {count: median("crops", count) for count in rounds[0]["crops"]}}


def main() -> None:
    """Prints the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fer", type=Path, required=True, help="the Python interpreter where fer is installed")
    parser.add_argument("--models", nargs="+", default=["mini"], help="what Mien reads with, names or paths (mini)")
    parser.add_argument("--wheel", type=Path, help="the interpreter of an environment with Mien's base install alone")
    parser.add_argument("--rounds", type=int, default=3, help="how often the two take turns (3)")
    parser.add_argument("--calls", type=int, default=5, help="timed calls a picture and round (5)")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="sides of the portraits (all)")
    parser.add_argument(
        "--processor-time", action="store_true",
        help="measure the time of all processors in place of the clock's, on a machine that does other things as well",
    )  # fmt: skip
    options = parser.parse_args()
    if options.processor_time:
        os.environ[CLOCK] = "processor"  # of this process, and of fer's
    recognizers = {name: Recognizer(name) for name in options.models}
    main_model = options.models[0]
    sides: dict[str, list[dict[str, Any]]] = {name: [] for name in ("fer", *recognizers)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for stem, picture in pictures(options.sizes).items():
            np.save(folder / f"{stem}.npy", picture[..., ::-1])
        np.save(folder / "first.npy", portrait(512).pixels)
        np.save(folder / "crops.npy", np.random.default_rng(0).integers(0, 256, (64, 48, 48), dtype=np.uint8))
        for _ in range(options.rounds):
            sides["fer"].append(measure_fer(options.fer, folder, options.calls))
            for model, recognizer in recognizers.items():
                sides[model].append(measure_mien(recognizer, folder, options.calls, whole=model == main_model))
        by_side = {side: merged(rounds) for side, rounds in sides.items()}
        interpreter = options.wheel or sys.executable
        first = {"fer": FIRST["fer"], "mien": FIRST["mien"].format(model=main_model)}
        base = by_side["fer"]
        record = {
            "command": shlex.join(["python", *sys.argv]),
            "pictures": {name: {"fer": result, "mien": by_side[main_model]["pictures"][name]}
                         for name, result in base["pictures"].items()},
            "crops": {model: {count: {"fer": seconds, "mien": by_side[model]["crops"][count]}
                              for count, seconds in base["crops"].items()} for model in recognizers},
            "first_answer": {"fer": first_answer(options.fer, first["fer"], folder, options.rounds),
                             "mien": first_answer(interpreter, first["mien"], folder, options.rounds)},
            "megabytes": {"fer": megabytes(options.fer), "mien": megabytes(options.wheel)} if options.wheel else None,
            "clock": "processor" if options.processor_time else "wall",
            "machine": machine(),
            "versions": versions(),
        }  # fmt: skip
    print(table(record))
    print(json.dumps({"benchmark": "beside_fer", **record}))


if __name__ == "__main__":
    main()
