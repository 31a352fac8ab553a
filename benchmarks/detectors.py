"""How well and how fast faces are found, beside the detector of `fer` 25.10.3 on the same pictures.

`fer` (MIT licence) asks OpenCV's cascade frontalface_default at full resolution, with a scale factor of 1.1, five
neighbours and a smallest face of 50 px (`FER.__init__` and `FER.find_faces`); the same call is made here. The pictures
are composites (``scenes.py``): faces of FER2013's validation split at known places, 40 to 400 px, tilted up to 20
degrees, in textures, objects and noise, some without any face; and portraits of 220 to 1600 px, tilted as well. A face
counts as found where a box, squared as FER2013 frames faces, and its frame have an intersection over union of at least
0.4; every other box is wrong.
Not every picture of FER2013 is a face seen from the front, so that nobody finds all. Thresholds were set on composites
of Training faces with other seeds; the textures are the same. ``beside_fer.py`` compares speed.

    python benchmarks/detectors.py --data archive.zip
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scenes import Scene, scenes

from mien.data.read import read_faces
from mien.recognition.detection import overlap, square
from mien.recognition.detectors import detector
from mien.recognition.results import Box

Finder = Callable[[np.ndarray], list[Box]]
"""From a picture, uint8 [H, W, 3] (RGB), to the boxes of its faces."""

SIZES: tuple[tuple[int, int], ...] = ((40, 64), (64, 100), (100, 160), (160, 250), (250, 1000))
TILTS: tuple[tuple[int, int], ...] = ((0, 7), (7, 14), (14, 21))


def fer_finder() -> Finder:
    """The detector of `fer` with its own defaults; needs OpenCV 4, as 5 has no cascades."""
    import cv2
    from cv2.data import haarcascades

    cascade = cv2.CascadeClassifier(haarcascades + "haarcascade_frontalface_default.xml")

    def find(picture: np.ndarray) -> list[Box]:
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        boxes = cascade.detectMultiScale(
            grey, scaleFactor=1.1, minNeighbors=5, flags=cv2.CASCADE_SCALE_IMAGE, minSize=(50, 50)
        )
        return [tuple(map(float, box)) for box in boxes]  # type: ignore[misc]

    return find


def mien_finder(name: str) -> Finder:
    """A detector of ours: the squares that the network is given."""
    mien_detector = detector(name)

    def find(picture: np.ndarray) -> list[Box]:
        height, width = picture.shape[:2]
        squares = [
            square(detection.framed, mien_detector.margin, width, height) for detection in mien_detector.detect(picture)
        ]
        return [(left, top, side, side) for left, top, side in squares]

    return find


def matches(scene: Scene, boxes: Sequence[Box], least_overlap: float = 0.4) -> tuple[list[bool], int]:
    """Which faces were found, and how many boxes are wrong; a face takes one box, the best first."""
    pairs = sorted(
        ((overlap(box, face.box), row, column) for row, box in enumerate(boxes) for column, face in
         enumerate(scene.faces)),
        reverse=True,
    )  # fmt: skip
    used_boxes: set[int] = set()
    hits = [False] * len(scene.faces)
    for value, row, column in pairs:
        if value >= least_overlap and row not in used_boxes and not hits[column]:
            used_boxes.add(row)
            hits[column] = True
    return hits, len(boxes) - len(used_boxes)


def score(pictures: Sequence[Scene], find: Finder) -> dict[str, Any]:
    """Precision, recall by kind, size and tilt (each as found and all), wrong boxes, and milliseconds a picture."""
    sizes: dict[str, list[int]] = {f"{low}-{high}": [0, 0] for low, high in SIZES}
    tilts: dict[str, list[int]] = {f"{low}-{high}": [0, 0] for low, high in TILTS}
    kinds: dict[str, list[int]] = {}
    wrong, seconds = 0, 0.0
    for scene in pictures:
        started = time.perf_counter()
        boxes = find(scene.pixels)
        seconds += time.perf_counter() - started
        hits, wrong_boxes = matches(scene, boxes)
        wrong += wrong_boxes
        for face, hit in zip(scene.faces, hits, strict=True):
            counts = [kinds.setdefault(scene.kind, [0, 0])]
            counts += [sizes[f"{low}-{high}"] for low, high in SIZES if low <= face.box[2] < high]
            counts += [tilts[f"{low}-{high}"] for low, high in TILTS if low <= abs(face.tilt) < high]
            for count in counts:
                count[0] += hit
                count[1] += 1
    right = sum(count[0] for count in kinds.values())
    precision = right / (right + wrong) if right + wrong else None
    record = {"right": right, "wrong": wrong, "precision": precision, "kinds": kinds, "sizes": sizes, "tilts": tilts}
    return {**record, "ms": 1000 * seconds / max(len(pictures), 1)}


def show(results: dict[str, dict[str, Any]]) -> None:
    """Prints the table."""
    names = list(results)
    print(f"{'':34}" + "".join(f"{name:>22}" for name in names))
    precisions = [result["precision"] for result in results.values()]
    print(
        f"{'precision':34}"
        + "".join(f"{'no box' if precision is None else f'{precision:.1%}':>22}" for precision in precisions)
    )
    print(f"{'wrong boxes':34}" + "".join(f"{result['wrong']:22}" for result in results.values()))
    for part, unit in (("kinds", ""), ("sizes", " px"), ("tilts", " degrees")):
        for band in results[names[0]][part]:
            cells = ""
            for result in results.values():
                hit, count = result[part][band]
                cells += f"{f'{hit}/{count} = {hit / count:.1%}' if count else 'none':>22}"
            print(f"{f'recall, {band}{unit}':34}{cells}")
    print(f"{'ms a picture':34}" + "".join(f"{result['ms']:22.1f}" for result in results.values()))


def main() -> None:
    """Prints the table, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--detector", default="yunet", help="yunet, or yunet:FILE.onnx (yunet)")
    parser.add_argument("--scenes", type=int, default=200, help="how many composites and portraits (200)")
    parser.add_argument("--without-fer", action="store_true", help="leave out fer's detector, which needs OpenCV 4")
    parser.add_argument("--split", default="validation", choices=("train", "validation"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pictures = scenes(read_faces(options.data).part(options.split).images, options.scenes, options.seed)
    finders = {options.detector: mien_finder(options.detector)} | ({} if options.without_fer else {"fer": fer_finder()})
    results = {name: score(pictures, find) for name, find in finders.items()}
    print(f"{len(pictures)} pictures with {sum(len(scene.faces) for scene in pictures)} faces")
    show(results)
    record = {"seed": options.seed, "scenes": len(pictures), "split": options.split}
    print(json.dumps({"benchmark": "detectors", **record, "results": results}))


if __name__ == "__main__":
    main()
