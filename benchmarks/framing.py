"""How FER2013 frames faces, in units of a detector's boxes: the margin that each detector carries.

FER2013's faces fill their pictures, so that a detector has no room for a box around them. Each Training face is
enlarged, its edge is repeated around it, and the detector looks for it there. Where it finds exactly one box, the box
is held against the frame of the face: how long its side is, and how far its centre lies from the frame's. The medians
are told with bootstrap intervals (95 %). The margin is the share of the box's side by which the frame is larger on
every side: half of (frame / box - 1).

    python benchmarks/framing.py --data archive.zip
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from PIL import Image

from mien.data.read import read_faces
from mien.recognition.detection import Detector
from mien.recognition.detectors import detector


def boxes(faces: np.ndarray, finder: Detector, side: int) -> np.ndarray:
    """What a detector finds around faces.

    Args:
        faces: uint8 [N, 48, 48].
        finder: the detector.
        side: height and width in pixels to which each face is enlarged; half of it is added on every side.

    Returns:
        float64 [M, 3] for the M faces around which there is exactly one box: its side, and how far right and how far
        down its centre lies from the frame's, all as shares of the frame's side.
    """
    measures = []
    room = side // 2
    for face in faces:
        large = np.asarray(Image.fromarray(face).resize((side, side), Image.Resampling.BICUBIC))
        detections = finder.detect(np.pad(large, room, mode="edge"))
        if len(detections) == 1:
            left, top, width, height = detections[0].box
            centre = left + width / 2 - room - side / 2, top + height / 2 - room - side / 2
            measures.append((max(width, height) / side, centre[0] / side, centre[1] / side))
    return np.array(measures, np.float64).reshape(-1, 3)


def framing(measures: np.ndarray, seed: int = 0) -> dict[str, list[float]]:
    """Margin and offsets with their intervals, as shares of the box's side.

    Args:
        measures: as ``boxes`` gives it.
        seed: of the bootstrap.

    Returns:
        ``margin``, ``right`` and ``down`` (where the frame's centre lies from the box's), each as median, lower and
        upper end of the interval.
    """
    values = np.stack(
        [(1 / measures[:, 0] - 1) / 2, -measures[:, 1] / measures[:, 0], -measures[:, 2] / measures[:, 0]]
    )
    generator = np.random.default_rng(seed)
    resampled = [np.median(values[:, generator.integers(0, len(measures), len(measures))], axis=1) for _ in range(1000)]
    lower, upper = np.percentile(resampled, [2.5, 97.5], axis=0)
    medians = np.median(values, axis=1)
    return {
        name: [float(medians[row]), float(lower[row]), float(upper[row])]
        for row, name in enumerate(("margin", "right", "down"))
    }


def main() -> None:
    """Prints what was found, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--detector", default="yunet", help="yunet, or yunet:FILE.onnx (yunet)")
    parser.add_argument("--faces", type=int, default=1500, help="how many Training faces, drawn at random (1500)")
    parser.add_argument("--side", type=int, default=120, help="pixels to which a face is enlarged (120)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    faces = read_faces(options.data).part("train").images
    rows = np.random.default_rng(options.seed).permutation(len(faces))[: options.faces]
    measures = boxes(faces[rows], detector(options.detector), options.side)
    if not len(measures):
        raise SystemExit(f"{options.detector} found a face around none of {len(rows)} pictures")
    intervals = framing(measures)
    share = len(measures) / len(rows)
    quarters = np.percentile(measures[:, 0], [25, 50, 75])
    print(f"{options.detector}, {len(rows):,} Training faces at {options.side} px: one box around {share:.1%} of them")
    print(f"side of the box as a share of the frame's, quartiles: {', '.join(f'{value:.3f}' for value in quarters)}")
    for name, (median, lower, upper) in intervals.items():
        print(f"{name:8}{median:+.3f} ({lower:+.3f} to {upper:+.3f}) of the box's side")
    record = {"detector": options.detector, "n": len(rows), "found": len(measures), "side": options.side, **intervals}
    print(json.dumps({"benchmark": "framing", "seed": options.seed, **record}))


if __name__ == "__main__":
    main()
