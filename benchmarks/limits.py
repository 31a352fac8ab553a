"""How small, tilted or cut off a face may be and still be found: the limits of detection, for docs/photos.md.

The face is the public-domain astronaut's of scikit-image, the only one that comes with a licence for it, mirrored or
not, at places and sizes drawn at random; what holds for her holds for a well-lit face from the front. Sizes are the
side of FER2013's frame in pixels. Beside her, scikit-image's `camera` shows one man from the side. A face counts as
found where a box has an intersection over union of at least 0.4 with its frame (with the whole frame, where a part of
it lies outside the picture).

    python benchmarks/limits.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image

from mien.recognition.detection import Detector, overlap, square
from mien.recognition.detectors import detector
from mien.recognition.results import Box

FACE: tuple[float, float, float] = (0.439, 0.222, 0.19)
"""Centre across, centre down and side of her face's frame, as shares of the portrait."""

SIZES = (12, 16, 20, 24, 28, 32, 48)
TILTS = (0, 15, 30, 45, 60, 75, 90, 180)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


def portrait(face: float, tilt: float, mirrored: bool) -> tuple[np.ndarray, Box]:
    """Her portrait with a face of so many pixels, leaning by so many degrees around it, and the frame of the face."""
    import skimage.data

    across, down, share = FACE
    pixels = skimage.data.astronaut()
    if mirrored:
        pixels, across = pixels[:, ::-1], 1 - across
    room = 256
    image = Image.fromarray(np.pad(pixels, ((room, room), (room, room), (0, 0)), mode="reflect"))
    image = image.rotate(tilt, Image.Resampling.BICUBIC, center=(across * 512 + room, down * 512 + room))
    side = round(face / share)
    image = image.crop((room, room, room + 512, room + 512)).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(image), ((across - share / 2) * side, (down - share / 2) * side, share * side, share * side)


def hit(finder: Detector, pixels: np.ndarray, frame: Box) -> bool:
    """Whether one of the boxes, squared as for the network, is about a frame."""
    height, width = pixels.shape[:2]
    for detection in finder.detect(pixels):
        left, top, side = square(detection.framed, finder.margin, width, height)
        if overlap((left, top, side, side), frame) >= 0.4:
            return True
    return False


def small(finder: Detector, face: int, shape: tuple[int, int], grey: bool, generator: np.random.Generator) -> bool:
    """Whether a face of a size is found somewhere in an empty picture of a shape, with its colours or without."""
    pixels, frame = portrait(face * generator.uniform(0.98, 1.02), generator.uniform(-10, 10), generator.random() < 0.5)
    canvas = np.full((*shape, 3), 120, np.uint8)
    side = min(pixels.shape[0], *shape)
    top, left = (int(generator.integers(0, length - side + 1)) for length in shape)
    canvas[top : top + side, left : left + side] = pixels[:side, :side]
    canvas = np.asarray(Image.fromarray(canvas).convert("L")) if grey else canvas
    return hit(finder, canvas, (frame[0] + left, frame[1] + top, frame[2], frame[3]))


def tilted(finder: Detector, tilt: int, generator: np.random.Generator) -> bool:
    """Whether a face that leans by so many degrees, to either side, is found."""
    sign = 1 if generator.random() < 0.5 else -1
    return hit(finder, *portrait(generator.uniform(60, 160), sign * tilt, generator.random() < 0.5))


def cut(finder: Detector, share: float, generator: np.random.Generator) -> bool:
    """Whether a face is found of whose frame a share lies beyond one edge of the picture."""
    pixels, (left, top, side, _) = portrait(generator.uniform(60, 160), 0, generator.random() < 0.5)
    beyond = round(share * side)
    edge = int(generator.integers(3))
    if edge == 0:
        first = round(left) + beyond
        return hit(finder, np.ascontiguousarray(pixels[:, first:]), (left - first, top, side, side))
    if edge == 1:
        return hit(finder, np.ascontiguousarray(pixels[:, : round(left + side) - beyond]), (left, top, side, side))
    first = round(top) + beyond
    return hit(finder, np.ascontiguousarray(pixels[first:]), (left, top - first, side, side))


def sideways(finder: Detector) -> tuple[int, int]:
    """In how many sizes of the picture `camera` the man is found, and in how many there is anything else."""
    import skimage.data

    image, right, wrong = Image.fromarray(skimage.data.camera()), 0, 0
    for side in (256, 384, 512, 768, 1024, 1536):
        boxes = [
            detection.box
            for detection in finder.detect(np.asarray(image.resize((side, side), Image.Resampling.BILINEAR)))
        ]
        matches = [overlap(box, (0.376 * side, 0.2 * side, 0.16 * side, 0.19 * side)) > 0.3 for box in boxes]
        right, wrong = right + any(matches), wrong + matches.count(False)
    return right, wrong


def share(is_found: Callable[[np.random.Generator], bool], draws: int, seed: int) -> float:
    """The share of some draws in which a face is found."""
    generator = np.random.default_rng(seed)
    return sum(is_found(generator) for _ in range(draws)) / draws


def main() -> None:
    """Prints the limits, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", default="yunet", help="yunet, or yunet:FILE.onnx (yunet)")
    parser.add_argument("--min-face", type=int, default=None, help="side of the smallest face that is looked for")
    parser.add_argument("--draws", type=int, default=20, help="faces a row (20)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    finder = detector(options.detector, options.min_face)
    shapes = {"640x480": (480, 640), "2048x1536": (1536, 2048), "16000x512": (512, 16000)}
    rows: dict[str, dict[float, float]] = {}
    for name, shape in shapes.items():
        for grey in (False, True):
            rows[f"{name}{', grey' if grey else ''}, face in px"] = {
                face: share(partial(small, finder, face, shape, grey), options.draws, options.seed) for face in SIZES
            }
    rows["tilt in degrees"] = {
        tilt: share(partial(tilted, finder, tilt), options.draws, options.seed) for tilt in TILTS
    }
    rows["share beyond an edge"] = {
        part: share(partial(cut, finder, part), options.draws, options.seed) for part in SHARES
    }
    for name, row in rows.items():
        print(f"{name:28}" + "".join(f"{key:>6} {value:4.0%}" for key, value in row.items()))
    right, wrong = sideways(finder)
    print(f"a man from the side: found in {right} of 6 sizes of one picture, {wrong} wrong boxes")
    print(json.dumps({"benchmark": "limits", "seed": options.seed, "draws": options.draws, "sideways": right, **rows}))


if __name__ == "__main__":
    main()
