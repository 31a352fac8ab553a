"""The half of ``beside_fer.py`` that runs where ``fer`` is installed: it knows nothing of Mien.

    python benchmarks/fer_side.py FOLDER

FOLDER holds ``NAME.npy``, uint8 [H, W, 3] in BGR, and ``crops.npy``, uint8 [N, S, S]; the answer is one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

CLOCK = "BESIDE_FER_CLOCK"
"""Environment variable; ``processor`` counts the time of all processors in place of the clock's."""

SIDE = 64
"""Height and width that ``fer``'s network reads, in pixels."""


LIST = 16
"""Pictures of a list that is read as a whole; ``fer`` has no call for that, so that it reads them in a loop."""


def median_seconds(call: Any, rounds: int) -> float:
    """Median time of a call after one that warms up: by the clock, or of the processors (``CLOCK``)."""
    clock = time.process_time if os.environ.get(CLOCK) == "processor" else time.perf_counter
    call()
    times = []
    for _ in range(rounds):
        started = clock()
        call()
        times.append(clock() - started)
    return float(np.median(times))


def inputs(crops: np.ndarray) -> np.ndarray:
    """float32 [N, 64, 64] as ``detect_emotions`` prepares faces, from uint8 [N, S, S]."""
    import cv2

    resized = np.array([cv2.resize(crop, (SIDE, SIDE)) for crop in crops], dtype="float32")
    return (resized / 255.0 - 0.5) * 2.0


def main(folder: Path, rounds: int) -> dict[str, Any]:
    """Times and counts of every picture, times a crop, and probabilities of the crops."""
    import cv2
    from fer.fer import FER

    detector = FER()
    record: dict[str, Any] = {"pictures": {}, "opencv": cv2.__version__}
    for path in sorted(folder.glob("picture-*.npy")):
        picture = np.load(path)
        faces = detector.detect_emotions(picture)
        seconds = median_seconds(lambda picture=picture: detector.detect_emotions(picture), rounds)
        photos = [picture] * LIST
        list_seconds = median_seconds(lambda photos=photos: list(map(detector.detect_emotions, photos)), 1) / LIST
        record["pictures"][path.stem] = {"seconds": seconds, "list_seconds": list_seconds, "faces": len(faces)}
    crops = inputs(np.load(folder / "crops.npy"))
    record["crops"] = {
        str(count): median_seconds(lambda count=count: detector._classify_emotions(crops[:count]), 5 * rounds) / count
        for count in (1, 64)
    }
    if (folder / "labelled.npy").is_file():
        probabilities = np.asarray(detector._classify_emotions(inputs(np.load(folder / "labelled.npy"))))
        np.save(folder / "fer-probabilities.npy", probabilities.astype(np.float64))
    return record


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 5)))
