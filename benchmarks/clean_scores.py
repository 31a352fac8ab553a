"""Scores on the whole of PublicTest, its clean part and its twins: models of Mien, and ``fer``'s CNN beside them.

Clean are the pictures whose photograph is not in Training too (``mien.data.twins``); all of these networks were trained
on Training. "Class mix of the whole": the accuracies by class, weighted as the whole split has the classes, since twins
are not spread evenly over them. ECE is of the answers as they are, and cross-fitted: each half is scaled by the
temperature that the clean pictures of the other half ask for, twins on one side. "Sure" are the answers above the
model's threshold. Tests are paired (McNemar 1947), on the clean part, against ``fer`` (the JSON has them on the whole
too); they tell of pictures, not of other trainings.

``fer`` lives in an environment of its own (``beside_fer.py`` says how to make it).

    python benchmarks/clean_scores.py --data archive.zip --fer fer/bin/python
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from beside_fer import fitted, measure_fer

from mien.data.faces import FaceSet
from mien.data.read import read_faces
from mien.data.twins import groups, has_twin
from mien.evaluation.calibration import accuracy_interval, apply_threshold, cross_fitted, quality, softmax
from mien.evaluation.metrics import mcnemar, score
from mien.labels import FER2013
from mien.recognition.recognizer import Recognizer

MODELS = ("mini", "mini-int8", "nano", "nano-int8", "teachers/face_cnn", "teachers/wide_cnn")
MIRRORED = "{} with the mirror image"


def answers(recognizer: Recognizer, faces: FaceSet, *, mirrored: bool = False) -> np.ndarray:
    """float64 [N, C], probabilities in the order of the data's classes; the mean with the mirror images' if asked."""
    crops = fitted(faces.images, recognizer)
    views = [crops, np.ascontiguousarray(crops[:, :, ::-1])] if mirrored else [crops]
    probabilities = np.mean([recognizer.engine.read(view).probabilities.astype(np.float64) for view in views], axis=0)
    return probabilities[:, [recognizer.names.index(name) for name in faces.names]]


def of_fer(python: Path, faces: FaceSet) -> np.ndarray:
    """float64 [N, C], what fer's CNN answers to the same crops."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "crops.npy", faces.images[:64])
        np.save(folder / "labelled.npy", faces.images)
        measure_fer(python, folder, 1)
        probabilities = np.load(folder / "fer-probabilities.npy")
    # fer's classes come in FER2013's own order.
    return probabilities[:, [FER2013.index(name) for name in faces.names]]


def measured(probabilities: np.ndarray, faces: FaceSet, twins: np.ndarray, group: np.ndarray) -> dict[str, Any]:
    """``whole``, ``clean`` and ``twins``: scores of the parts; ``class_mix``: accuracy on clean at the whole's mix."""
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    logits = np.log(np.maximum(probabilities, 1e-12))
    temperatures = cross_fitted(logits, faces.labels, group, fitted_on=~twins)
    scaled = probabilities if temperatures is None else softmax(logits / temperatures[:, None])
    record: dict[str, Any] = {}
    for name, rows in (("whole", np.ones(len(faces), bool)), ("clean", ~twins), ("twins", twins)):
        scores = score(probabilities[rows], faces.labels[rows], faces.names)
        record[name] = {key: scores[key] for key in ("n", "accuracy", "macro_f1", "ece", "ci95", "per_class")}
        record[name]["ece_cross_fitted"] = quality(scaled[rows], faces.labels[rows])["ece"]
        confidence = probabilities[rows].max(axis=1)
        record[name]["confidence_less_accuracy"] = float(confidence.mean()) - scores["accuracy"]
    right = probabilities.argmax(axis=1) == faces.labels
    shares = np.bincount(faces.labels, minlength=len(faces.names)) / len(faces)
    by_class = [right[~twins & (faces.labels == label)].mean() for label in range(len(faces.names))]
    record["class_mix"] = float(np.dot(shares, by_class))
    return record


def promise(probabilities: np.ndarray, faces: FaceSet, rows: np.ndarray, threshold: float) -> dict[str, Any]:
    """``coverage``, ``accuracy`` and its ``ci95`` of the answers at or above a threshold, among some pictures."""
    sure = apply_threshold(probabilities[rows], faces.labels[rows], threshold)
    count = round(sure.coverage * int(rows.sum()))
    interval = list(accuracy_interval(round((sure.accuracy or 0.0) * count), count)) if count else None
    return {**asdict(sure), "ci95": interval}


def table(models: dict[str, dict[str, Any]]) -> str:
    """The scores as Markdown."""
    lines = [
        "| model | whole (95 %) | clean (95 %) | class mix of the whole | twins | macro-F1: whole, clean | ECE: whole, "
        "clean | cross-fitted | sure, clean: coverage, right (95 %) | clean, against fer |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, record in models.items():
        whole, clean, sure = record["whole"], record["clean"], record.get("sure")
        cells = [name, *(_accuracy(part) for part in (whole, clean)), f"{record['class_mix']:.2%}"]
        cells += [f"{record['twins']['accuracy']:.2%}", f"{whole['macro_f1']:.3f}, {clean['macro_f1']:.3f}"]
        cells += [f"{whole[key]:.3f}, {clean[key]:.3f}" for key in ("ece", "ece_cross_fitted")]
        promised = "-"
        if sure and sure["accuracy"] is not None:
            low, high = (100 * end for end in sure["ci95"])
            promised = f"{sure['coverage']:.0%}, {sure['accuracy']:.1%} ({low:.1f} to {high:.1f})"
        test = record.get("against_fer")
        against = "-" if test is None else f"{100 * test['gain']:+.2f}, p {test['p']:.2g}"
        lines.append(f"| {' | '.join([*cells, promised, against])} |")
    return "\n".join(lines)


def _accuracy(part: dict[str, Any]) -> str:
    low, high = (100 * end for end in part["ci95"]["accuracy"])
    return f"{part['accuracy']:.2%} ({low:.2f} to {high:.2f})"


def main() -> None:
    """Prints the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="FER2013")
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="names or paths")
    parser.add_argument("--fer", type=Path, help="the Python interpreter where fer is installed")
    options = parser.parse_args()
    data = read_faces(options.data)
    faces = data.part("validation")
    twins, group = has_twin(faces.images, data.part("train").images), groups(faces.images)
    answers_by_model = {"fer": of_fer(options.fer, faces)} if options.fer else {}
    thresholds = {}
    for name in options.models:
        recognizer = Recognizer(name, detector="none")
        answers_by_model[name] = answers(recognizer, faces)
        thresholds[name] = recognizer.engine.threshold
        if name in ("mini", "nano"):
            answers_by_model[MIRRORED.format(name)] = answers(recognizer, faces, mirrored=True)
    models = {}
    for name, probabilities in answers_by_model.items():
        models[name] = measured(probabilities, faces, twins, group)
        threshold = thresholds.get(name)
        if threshold is not None:
            models[name]["sure"] = promise(probabilities, faces, ~twins, threshold)
        if options.fer and name != "fer":
            right, base = (values.argmax(axis=1) == faces.labels for values in (probabilities, answers_by_model["fer"]))
            for part, rows in (("against_fer", ~twins), ("against_fer_whole", np.ones(len(faces), bool))):
                gain = float(right[rows].mean() - base[rows].mean())
                models[name][part] = {"gain": gain, **mcnemar(right[rows], base[rows])}
    print(f"validation: {len(faces):,} pictures, {int(twins.sum()):,} twins, {int((~twins).sum()):,} clean\n")
    print(table(models))
    print(json.dumps({"benchmark": "clean_scores", "n": len(faces), "twins": int(twins.sum()), "models": models}))


if __name__ == "__main__":
    main()
