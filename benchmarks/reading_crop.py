"""How much of a face a network should read: the reading crop and the resampling, chosen on one half of PublicTest.

Training views are zoomed in at random, so a network reads best what is as large as they were (Touvron et al. 2019,
arXiv:1906.06423). Each model reads PublicTest at several crops, brought to its size by bilinear or bicubic resampling.
The choice is cross-fitted: PublicTest is halved fifty times, near-identical pictures in one half; the reading with the
smallest mean negative log-likelihood (NLL) on the clean pictures of one half is scored on the other half. Clean are the
pictures without a twin in Training. Probabilities are taken as the model answers; its temperature stays.

    python benchmarks/reading_crop.py --data archive.zip --models mini nano
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from mien.data.faces import FaceSet
from mien.data.read import read_faces
from mien.data.twins import groups, has_twin
from mien.evaluation.metrics import mcnemar
from mien.model.preprocessing import Preprocessing
from mien.recognition.engine import Engine
from mien.recognition.engines import engine

SHARES = (1.0, 0.96, 0.92, 0.89, 0.86, 0.83, 0.8)
"""Of the side of a face; at 48 px these are faces of 48 to 60 px, two pixels apart."""

WAYS = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
WHOLE = "whole"
REPEATS = 50


def readings(image_size: int) -> dict[str, tuple[int, str]]:
    """Name, pixels a side of the whole face, and resampling of each way to read; the first reads faces whole."""
    sizes = [Preprocessing(image_size, (0.5,) * 3, (0.25,) * 3, share).face_size for share in SHARES]
    ways = {f"{image_size / size:.3f} {way}": (size, way) for way in WAYS for size in sizes if size > image_size}
    return {WHOLE: (image_size, "bilinear"), **ways}


def framed(images: np.ndarray, size: int, way: str, image_size: int) -> np.ndarray:
    """The middle of faces that were brought to another size.

    Args:
        images: uint8 [N, H, W], grey.
        size: pixels a side of the whole faces.
        way: one of ``WAYS``.
        image_size: S, pixels a side of the middle.

    Returns:
        uint8 [N, S, S].
    """
    faces = torch.from_numpy(images.copy())[:, None]
    if faces.shape[-2:] != (size, size):
        faces = transforms.resize(faces, [size, size], interpolation=WAYS[way], antialias=True)
    edge = (size - image_size) // 2
    return faces[:, 0, edge : edge + image_size, edge : edge + image_size].contiguous().numpy()


def answers(network: Engine, faces: FaceSet, size: int, way: str) -> np.ndarray:
    """float64 [N, C], probabilities in the order of the data's classes."""
    crops = framed(faces.images, size, way, network.image_size)
    probabilities = network.read(crops).probabilities.astype(np.float64)
    return probabilities[:, [network.names.index(name) for name in faces.names]]


def nll(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float64 [N], in nats, of each picture."""
    values: np.ndarray = -np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12))
    return values


def cross_fitted(
    losses: dict[str, np.ndarray], labels: np.ndarray, clean: np.ndarray, group: np.ndarray, repeats: int
) -> tuple[list[dict[str, np.ndarray]], Counter[str]]:
    """Chooses a reading on each half and applies it to the other.

    Args:
        losses: for each reading float64 [N], the NLL of each picture.
        labels: int64 [N].
        clean: bool [N], the pictures on which is chosen.
        group: int64 [N]; pictures of one group stay in one half.
        repeats: how many times the pictures are halved, with the seeds 0, 1, ...

    Returns:
        For each halving ``name`` -> bool [N], the pictures that are scored by that reading; and how often each was
        chosen.
    """
    choice_counts: Counter[str] = Counter()
    halvings = []
    for seed in range(repeats):
        scored: dict[str, np.ndarray] = {}
        halves = StratifiedGroupKFold(2, shuffle=True, random_state=seed)
        for choosing, scoring in halves.split(labels, labels, group):
            rows = choosing[clean[choosing]]
            best = min(losses, key=lambda name: float(losses[name][rows].mean()))
            choice_counts[best] += 1
            scored.setdefault(best, np.zeros(len(labels), bool))[scoring] = True
        halvings.append(scored)
    return halvings, choice_counts


def measured(
    network: Engine, faces: FaceSet, clean: np.ndarray, group: np.ndarray, repeats: int = REPEATS
) -> dict[str, Any]:
    """Scores of each reading of some faces, and of the choice by ``cross_fitted``, which explains the others."""
    ways = readings(network.image_size)
    probabilities = {name: answers(network, faces, size, way) for name, (size, way) in ways.items()}
    losses = {name: nll(values, faces.labels) for name, values in probabilities.items()}
    right = {name: values.argmax(axis=1) == faces.labels for name, values in probabilities.items()}
    table: dict[str, Any] = {}
    for name, (size, way) in ways.items():
        gain = losses[name][clean] - losses[WHOLE][clean]
        table[name] = {
            "face_size": size,
            "resampling": way,
            "accuracy": float(right[name].mean()),
            "nll": float(losses[name].mean()),
            "clean_accuracy": float(right[name][clean].mean()),
            "clean_nll": float(losses[name][clean].mean()),
            "clean_nll_change": float(gain.mean()),
            "clean_nll_change_error": float(gain.std(ddof=1) / np.sqrt(len(gain))),
            "p": mcnemar(right[name], right[WHOLE])["p"],
            "clean_p": mcnemar(right[name][clean], right[WHOLE][clean])["p"],
        }
    halvings, choice_counts = cross_fitted(losses, faces.labels, clean, group, repeats)
    mixed_right = np.stack([sum(right[name] & rows for name, rows in scored.items()) for scored in halvings])
    mixed_loss = np.stack([sum(losses[name] * rows for name, rows in scored.items()) for scored in halvings])
    choice = {
        "accuracy": float(mixed_right.mean()),
        "nll": float(mixed_loss.mean()),
        "clean_accuracy": float(mixed_right[:, clean].mean()),
        "clean_nll": float(mixed_loss[:, clean].mean()),
        "chosen": dict(choice_counts.most_common()),
    }
    return {"readings": table, "cross_fitted": choice}


def report(name: str, record: dict[str, Any]) -> str:
    """The scores of a model as Markdown."""
    lines = [
        f"| {name}: share read, resampling | face, px | accuracy | NLL | clean: accuracy | NLL | change (s.e.) "
        "| p: whole, clean |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for reading, row in record["readings"].items():
        change = f"{row['clean_nll_change']:+.4f} ({row['clean_nll_change_error']:.4f})" if reading != WHOLE else ""
        p = f"{row['p']:.2g}, {row['clean_p']:.2g}" if reading != WHOLE else ""
        scores = f"{row['accuracy']:.2%} | {row['nll']:.4f} | {row['clean_accuracy']:.2%} | {row['clean_nll']:.4f}"
        lines.append(f"| {reading} | {row['face_size']} | {scores} | {change} | {p} |")
    choice = record["cross_fitted"]
    counts = ", ".join(f"{reading} {count}" for reading, count in choice["chosen"].items())
    scores = f"{choice['accuracy']:.2%} | {choice['nll']:.4f} | {choice['clean_accuracy']:.2%} | "
    return "\n".join([*lines, f"| chosen on the other half ({counts}) | | {scores}{choice['clean_nll']:.4f} | | |"])


def main() -> None:
    """Prints a table a model, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="FER2013")
    parser.add_argument("--models", nargs="+", default=["mini", "nano"], help="names or paths")
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"how many times to halve ({REPEATS})")
    options = parser.parse_args()
    data = read_faces(options.data)
    faces = data.part("validation")
    clean, group = ~has_twin(faces.images, data.part("train").images), groups(faces.images)
    print(f"validation: {len(faces):,} pictures, {int(clean.sum()):,} of them clean\n")
    models = {}
    for name in options.models:
        models[name] = measured(engine(name), faces, clean, group, options.repeats)
        print(report(name, models[name]), "\n", flush=True)
    record = {"n": len(faces), "clean": int(clean.sum()), "repeats": options.repeats, "models": models}
    print(json.dumps({"benchmark": "reading_crop", **record}))


if __name__ == "__main__":
    main()
