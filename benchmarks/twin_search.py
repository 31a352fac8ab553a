"""How the search for twins does on FER2013: counts by class, its control, the pairs about its threshold, its sketches.

The control is the same search for mirror images of PublicTest: hardly any photograph stands in Training the other way
round, so what is found there is chance, or one of the few that do. ``--sheets DIR`` writes pairs about the threshold,
in random order and without their correlation, to be judged by eye, and ``pairs.csv``, which tells it afterwards. They
are faces of the data: they belong into no repository.

    python benchmarks/twin_search.py --data archive.zip
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from mien.data.alignment import SIDE, aligned_correlation
from mien.data.clean import has_sketched_twin, sketch
from mien.data.faces import FaceSet
from mien.data.read import read_faces
from mien.data.twins import THRESHOLD, candidates, comparable, groups, has_twin
from mien.files import ensure_writable

BANDS = ((0.93, 0.945), (0.945, 0.96), (0.96, 0.97), (0.97, 0.98), (0.98, 1.01))
"""Of the correlation, from each of which as many pairs are shown."""

PER_BAND, PER_SHEET, COLUMNS, ZOOM = 20, 20, 5, 4


def nearest(pictures: np.ndarray, other_pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best candidate of each picture, int64 [N], and its correlation, float64 [N] (-1 without a candidate)."""
    pairs = candidates(pictures, other_pictures)
    values = aligned_correlation(pictures[pairs[:, 0]], other_pictures[pairs[:, 1]])
    partner, best = np.zeros(len(pictures), np.int64), np.full(len(pictures), -1.0)
    order = np.argsort(values)
    partner[pairs[order, 0]], best[pairs[order, 0]] = pairs[order, 1], values[order]
    return partner, best


def by_class(mask: np.ndarray, faces: FaceSet) -> dict[str, str]:
    """For each class how many of how many pictures."""
    return {
        name: f"{int(mask[faces.labels == label].sum()):,} of {count:,} ({mask[faces.labels == label].mean():.1%})"
        for label, (name, count) in enumerate(faces.class_counts().items())
    }


def sheets(
    folder: Path, pictures: np.ndarray, other_pictures: np.ndarray, partner: np.ndarray, best: np.ndarray
) -> None:
    """Writes the pairs about the threshold, shuffled, and ``pairs.csv``."""
    generator = np.random.default_rng(0)
    rows: list[int] = []
    for low, high in BANDS:
        rows += generator.permutation(np.flatnonzero((best > low) & (best <= high)))[:PER_BAND].tolist()
    rows = generator.permutation(rows).tolist()
    side, line = SIDE * ZOOM, 16
    for start in range(0, len(rows), PER_SHEET):
        sheet_rows = rows[start : start + PER_SHEET]
        sheet = Image.new("L", (COLUMNS * (2 * side + 8), -(-len(sheet_rows) // COLUMNS) * (side + line)), 255)
        pen = ImageDraw.Draw(sheet)
        for place, row in enumerate(sheet_rows):
            left, top = place % COLUMNS * (2 * side + 8), place // COLUMNS * (side + line)
            pen.text((left, top), str(start + place), fill=0)
            for column, pixels in enumerate((pictures[row], other_pictures[partner[row]])):
                picture = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
                sheet.paste(picture, (left + column * side, top + line))
        sheet.save(folder / f"pairs-{start // PER_SHEET + 1}.png")
    with (folder / "pairs.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["number", "correlation", "same"])
        writer.writerows([number, f"{best[row]:.4f}", ""] for number, row in enumerate(rows))


def main() -> None:
    """Prints the figures and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="FER2013")
    parser.add_argument("--sheets", type=Path, metavar="DIR", help="write pairs about the threshold, to look at")
    parser.add_argument("--within", action="store_true", help="count within Training too, which takes minutes")
    parser.add_argument("--sketches", action="store_true", help="hold sketches against the exact search")
    options = parser.parse_args()
    data = read_faces(options.data)
    validation, training = data.part("validation"), data.part("train")
    pictures, other_pictures = comparable(validation.images), comparable(training.images)
    started = time.perf_counter()
    partner, best = nearest(pictures, other_pictures)
    seconds = time.perf_counter() - started
    twins = has_twin(pictures, other_pictures)
    _, mirrored = nearest(np.ascontiguousarray(pictures[:, :, ::-1]), other_pictures)
    agree = float((training.labels[partner] == validation.labels)[best > THRESHOLD].mean())
    bins = [(low / 100, (low + 1) / 100) for low in range(85, 100)]
    record: dict[str, Any] = {
        "twins": int(twins.sum()),
        "n": len(validation),
        "by_class": by_class(twins, validation),
        "labels_agree": agree,
        "seconds": seconds,
        "histogram": {f"{low:.2f}": [int(((values > low) & (values <= high)).sum()) for values in (best, mirrored)]
                      for low, high in bins},
        "control": int((mirrored > THRESHOLD).sum()),
        "margin": float(min(np.abs(values - THRESHOLD).min() for values in (best, mirrored))),
    }  # fmt: skip
    if options.sketches:
        sketched = has_sketched_twin(pictures, sketch(other_pictures))
        shared = int((sketched & twins).sum())
        record["sketches"] = {"recall": shared / int(twins.sum()), "precision": shared / int(sketched.sum())}
    if options.within:
        group = groups(training.images)
        sizes = np.bincount(group)
        record["within"] = {"pictures": int((sizes[group] > 1).sum()), "groups": int((sizes > 1).sum()),
                            "largest": np.sort(sizes)[::-1][:5].tolist(),
                            "by_class": by_class(sizes[group] > 1, training)}  # fmt: skip
    if options.sheets:
        ensure_writable(options.sheets)
        options.sheets.mkdir(exist_ok=True)
        sheets(options.sheets, pictures, other_pictures, partner, best)
    print(json.dumps({"benchmark": "twin_search", **record}, indent=2))


if __name__ == "__main__":
    main()
