"""What int8 costs a shipped model, each face read alone and 64 at once: points of accuracy, with intervals.

With static ranges an answer does not depend on the other faces of its batch, so both readings are the same. The
loss is that of the int8 form against the float32 form of the same model on the same pictures; the interval (95 %) is
that for matched pairs (``mien.evaluation.metrics.paired_difference``).

    python benchmarks/int8_alone.py --data archive.zip
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np

from mien.data.faces import FaceSet
from mien.data.read import read_faces
from mien.evaluation.metrics import paired_difference
from mien.export.parity import crops_of
from mien.model.classifier import Classifier
from mien.model.places import find
from mien.recognition.engine import Engine
from mien.recognition.engines import engine

AT_ONCE = (1, 64)


def read(network: Engine, crops: np.ndarray, at_once: int) -> np.ndarray:
    """float32 [N, C], probabilities; so many crops a call."""
    parts = [network.read(crops[start : start + at_once]).probabilities for start in range(0, len(crops), at_once)]
    return np.concatenate(parts)


def measured(name: str, faces: FaceSet) -> dict[str, Any]:
    """``float32``: accuracy; for 1 and 64 at once the int8 form's accuracy and loss; and how far the two differ."""
    floating, small = engine(name, "onnx", "cpu", 1), engine(f"{name}-int8", "onnx", "cpu", 1)
    folder = find(name).folder
    assert folder is not None
    crops = crops_of(faces.images, Classifier.load(folder).preprocessing, small.grey)
    labels = faces.labels_in(floating.names)
    right = read(floating, crops, max(AT_ONCE)).argmax(axis=1) == labels
    answers = {at_once: read(small, crops, at_once) for at_once in AT_ONCE}
    record: dict[str, Any] = {"n": len(labels), "float32": float(right.mean())}
    for at_once, probabilities in answers.items():
        right_int8 = probabilities.argmax(axis=1) == labels
        record[str(at_once)] = {"accuracy": float(right_int8.mean()), **paired_difference(right, right_int8)}
    first, last = (answers[at_once] for at_once in AT_ONCE)
    record["largest_difference"] = float(np.abs(first - last).max())
    record["other_labels"] = int((first.argmax(axis=1) != last.argmax(axis=1)).sum())
    return record


def table(models: dict[str, dict[str, Any]]) -> str:
    """The losses as Markdown."""
    lines = [
        "| model | float32 | int8, alone | points lost (95 %) | int8, 64 at once | points lost (95 %) | other labels |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, record in models.items():
        cells = [name, f"{record['float32']:.2%}"]
        for at_once in AT_ONCE:
            row = record[str(at_once)]
            points, low, high = (100 * value for value in (row["difference"], *row["ci95"]))
            cells += [f"{row['accuracy']:.2%}", f"{points:+.2f} ({low:+.2f} to {high:+.2f})"]
        lines.append(f"| {' | '.join([*cells, str(record['other_labels'])])} |")
    return "\n".join(lines)


def main() -> None:
    """Prints the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="FER2013")
    parser.add_argument("--models", nargs="+", default=["mini", "nano"], help="shipped models")
    options = parser.parse_args()
    faces = read_faces(options.data).part("validation")
    models = {name: measured(name, faces) for name in options.models}
    print(table(models))
    print(json.dumps({"benchmark": "int8_alone", "models": models}))


if __name__ == "__main__":
    main()
