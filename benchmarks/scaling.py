"""How recognition scales: faces/s over the batch, pictures/s over their size, memory over the length of a film.

Faces are crops of noise, read by the engine alone. Pictures are scikit-image's portrait (public domain), 128 to 4096
pixels a side, one face each, found and read one at a time. Films are those of ``video.py``; memory is how far the peak
of a fresh process rises after its first hundred frames. Rates are medians after a warm-up.

    python benchmarks/scaling.py --model runs/first --out scaling
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from fer_side import median_seconds
from matplotlib.figure import Figure
from scenes import portrait
from video import RATE, add_options, load, options_of, peak_of, write_film

from mien.evaluation.style import LIGHT, TEXT_SIZE, blank_figure, png, style_axes
from mien.files import write_json
from mien.machine import machine, versions

BATCHES: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SIDES: tuple[int, ...] = (128, 256, 512, 1024, 2048, 4096)
LENGTHS: tuple[int, ...] = (500, 2000, 8000)


def over_batch(recognizer: Any, calls: int) -> dict[int, float]:
    """Faces a second by the number of faces read at once."""
    engine, random = recognizer.engine, np.random.default_rng(0)
    shape = (max(BATCHES), engine.image_size, engine.image_size, *(() if engine.grey else (3,)))
    faces = random.integers(0, 256, shape, dtype=np.uint8)
    return {count: count / median_seconds(lambda n=count: engine.read(faces[:n]), calls) for count in BATCHES}


def over_size(recognizer: Any, calls: int) -> dict[int, float]:
    """Pictures a second by the side of the picture in pixels.

    Raises:
        ValueError: not exactly one face was found in one of them.
    """
    rates = {}
    for side in SIDES:
        picture = portrait(side).pixels
        faces = len(recognizer.recognize(picture, color="rgb").faces)
        if faces != 1:
            raise ValueError(f"{side} px: {faces} faces were found, expected 1")
        rates[side] = 1 / median_seconds(lambda p=picture: recognizer.recognize(p, color="rgb"), calls)
    return rates


def over_length(options: Mapping[str, Any], lengths: list[int]) -> dict[float, float]:
    """MiB by which memory grows, by the minutes of the film."""
    growth = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in lengths:
            film = Path(folder) / "film.mp4"
            write_film(film, count)
            growth[count / RATE / 60] = peak_of(options, film)
    return growth


def draw(faces: Mapping[int, float], pictures: Mapping[int, float], memory: Mapping[float, float]) -> Figure:
    """The three curves side by side."""
    figure = blank_figure((9.6, 3.2), LIGHT)
    panels: tuple[tuple[Mapping[Any, float], str, str, bool], ...] = (
        (faces, "faces read at once", "faces a second", True),
        (pictures, "side of the picture, pixels", "pictures a second", True),
        (memory, "length of the film, minutes", "growth of memory, MiB", False),
    )
    for number, (values, across, up, logarithmic) in enumerate(panels, 1):
        axes = style_axes(figure.add_subplot(1, 3, number), LIGHT)
        axes.plot(list(values), list(values.values()), marker="o", markersize=4, color=LIGHT.first)
        axes.set_xlabel(across, fontsize=TEXT_SIZE)
        axes.set_title(up, fontsize=TEXT_SIZE, loc="left", color=LIGHT.ink)
        if logarithmic:
            axes.set_xscale("log", base=2)
            axes.set_xticks(list(values)[::2], [f"{value:,}" for value in list(values)[::2]])
        axes.set_ylim(bottom=0, top=max(1.1 * max(values.values()), 8.0 if not logarithmic else 0.0))
    return figure


def main() -> None:
    """Prints three tables and one line of JSON, and draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--calls", type=int, default=7, help="timed calls of each (7)")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS), help="frames of the films")
    parser.add_argument("--out", type=Path, required=True, help="folder for scaling.json and scaling.png")
    options = parser.parse_args()
    reader_options = options_of(options)
    recognizer = load(reader_options)
    faces, pictures = over_batch(recognizer, options.calls), over_size(recognizer, options.calls)
    memory = over_length(reader_options, options.lengths)
    for title, values in (("faces at once | faces/s", faces), ("side, px | pictures/s", pictures),
                          ("minutes of film | MiB more", memory)):  # fmt: skip
        print(f"\n| {title} |\n|---:|---:|")
        print("\n".join(f"| {key:,.4g} | {value:,.1f} |" for key, value in values.items()))
    record = {"benchmark": "scaling", "command": shlex.join(["python", *sys.argv]), **reader_options, "faces": faces,
              "pictures": pictures, "memory": memory, "machine": machine(), "versions": versions()}  # fmt: skip
    write_json(options.out / "scaling.json", record)
    (options.out / "scaling.png").write_bytes(png(draw(faces, pictures, memory)))
    print(json.dumps(record))


if __name__ == "__main__":
    main()
