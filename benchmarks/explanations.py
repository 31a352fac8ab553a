"""Which explanation tells the truth: deletion and insertion (Petsiuk et al. 2018, arXiv:1806.07421, section 4.3).

Deletion hides the pixels of a face in mean grey, those that an explanation holds for the most relevant first, and
follows the probability of the expression that was read: the faster it falls, the better. Insertion starts from the face
blurred beyond recognition and brings the pixels back in the same order: the faster it rises, the better. Each gives the
area under the curve, and ``gain`` is insertion less deletion. Compared are

    random       a random number a patch
    attention    what [CLS] attends to in the last block
    rollout      attention rollout (Abnar and Zuidema 2020)
    gradient     attention weighted by gradients (Chefer et al. 2021)
    occlusion    what `mien explain` does, and variants of it: grey in place of blur, other sizes of squares

In all of these but the last, the pixels of a patch go together. Intervals are bootstrapped over faces; each method is
compared with random, with raw attention and with occlusion on the same faces (a sign test on the gain).

    python benchmarks/explanations.py runs/first --data archive.zip --faces 200
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from scipy.stats import binomtest

from mien.data.read import read_faces
from mien.export.parity import crops_of
from mien.model.classifier import Classifier
from mien.model.networks import as_vit
from mien.progress import progress
from mien.recognition.explain import Reader, enlarged, filled, occlusion, reader
from mien.recognition.torch_engine import ATTENTION, TorchEngine, attend, grid

Map = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
"""A face, uint8 [S, S] or [S, S, 3], the position of a label, and a source of chance, to relevance [S, S]."""

SCORES: tuple[str, ...] = ("deletion", "insertion", "gain")
AGAINST: tuple[str, ...] = ("random", "attention", "occlusion")
DEFAULT: tuple[str, ...] = ("random", "attention", "rollout", "gradient", "occlusion")


def raw_attention(classifier: Classifier, crop: np.ndarray, label: int) -> np.ndarray:
    """Attention of [CLS] to each patch in the last block, mean over heads: the baseline for other methods.

    Args:
        classifier: a ViT.
        crop: uint8 [S, S] (grey) or [S, S, 3] (RGB), a face.
        label: position of the expression; unused, as attention does not depend on it.

    Returns:
        float32 [G, G], one number for each patch, in [0, 1].
    """
    with torch.no_grad():
        _, attentions = attend(classifier, crop)
    return grid(attentions[-1][0].mean(0)[0, 1:])


def methods(classifier: Classifier) -> dict[str, Map]:
    """Every method by name; the variants of occlusion say in what they differ from the first."""
    read, patch_size = reader(TorchEngine(classifier)), cast(int, as_vit(classifier.network).config.patch_size)
    patches = classifier.preprocessing.image_size // patch_size

    in_network = {"attention": raw_attention, **ATTENTION}

    def attention(name: str) -> Map:
        return lambda face, label, _: enlarged(in_network[name](classifier, face, label), len(face))

    def hidden(**options: Any) -> Map:
        return lambda face, label, _: occlusion(face, read, label, **options)

    return {
        "random": lambda face, _, chance: enlarged(chance.random((patches, patches)), len(face)),
        **{name: attention(name) for name in in_network},
        "occlusion": hidden(),
        "occlusion, grey": hidden(fill="grey"),
        "occlusion, 1/6": hidden(windows=(1 / 6,)),
        "occlusion, 1/3": hidden(windows=(1 / 3,)),
        "occlusion, 1/6 and 1/4": hidden(windows=(1 / 6, 1 / 4)),
    }


def curves(face: np.ndarray, relevance: np.ndarray, read: Reader, label: int, steps: int) -> np.ndarray:
    """Probability of a label while a face is hidden, and while it comes back.

    Args:
        face: uint8 [S, S] or [S, S, 3].
        relevance: [S, S]; pixels with more go (and come) first, equal ones row by row.
        read: the network.
        label: position of the label.
        steps: into how many equal shares the pixels are divided.

    Returns:
        float64 [2, steps + 1]: deletion, insertion.
    """
    order = np.argsort(-relevance.ravel(), kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    masks = [(rank < round(step * len(order) / steps)).reshape(relevance.shape) for step in range(steps + 1)]
    deleted, inserted = ([face.copy() for _ in masks] for _ in SCORES[:2])
    grey, blurred = filled(face, "grey"), filled(face, "blur")
    for step, mask in enumerate(masks):
        deleted[step][mask] = grey[mask]
        inserted[step][~mask] = blurred[~mask]
    probabilities: np.ndarray = read(np.stack(deleted + inserted))[:, label].astype(np.float64).reshape(2, steps + 1)
    return probabilities


def areas(probabilities: np.ndarray) -> np.ndarray:
    """Areas under curves [..., 2, steps + 1] as [..., 3], in the order of ``SCORES``; the first two lie in [0, 1]."""
    area = ((probabilities[..., 1:] + probabilities[..., :-1]) / 2).mean(axis=-1)
    return np.concatenate([area, area[..., 1:] - area[..., :1]], axis=-1)


def interval(values: np.ndarray, seed: int, resamples: int = 2000) -> list[float]:
    """The 95 % percentile bootstrap of a mean (Efron 1979), over faces."""
    drawn = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    return [float(value) for value in np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])]


def sign_test(differences: np.ndarray) -> float:
    """The two-sided probability of as many differences of one sign, if both were equally likely; 0 is left out."""
    above, below = int((differences > 0).sum()), int((differences < 0).sum())
    return float(binomtest(above, above + below).pvalue) if above + below else 1.0


def summary(curves_by_method: dict[str, np.ndarray], seed: int) -> list[dict[str, Any]]:
    """A row a method: means with intervals, and the paired comparison with those of ``AGAINST`` that were run.

    Args:
        curves_by_method: for each method float64 [N, 2, steps + 1].
        seed: of the bootstrap.
    """
    scored = {name: areas(values) for name, values in curves_by_method.items()}
    rows = []
    for name, values in scored.items():
        row: dict[str, Any] = {"method": name}
        for column, score in enumerate(SCORES):
            row[score] = {"mean": float(values[:, column].mean()), "ci95": interval(values[:, column], seed)}
        for baseline in AGAINST:
            if baseline in scored and baseline != name:
                differences = values[:, 2] - scored[baseline][:, 2]
                better = float((differences > 0).mean())
                row[f"against {baseline}"] = {
                    "mean": float(differences.mean()), "ci95": interval(differences, seed), "better": better,
                    "p": sign_test(differences),
                }  # fmt: skip
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    heads = ["method", "deletion (lower is better)", "insertion (higher)", "gain"]
    heads += [f"over {baseline}, p" for baseline in AGAINST]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = [_cell(row[score]) for score in SCORES]
        pairs = [row.get(f"against {baseline}") for baseline in AGAINST]
        cells += [f"{pair['mean']:+.3f}, {pair['p']:.1g}" if pair else "" for pair in pairs]
        lines.append(f"| {row['method']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(score: dict[str, Any]) -> str:
    low, high = score["ci95"]
    return f"{score['mean']:.3f} ({low:.3f} to {high:.3f})"


def measure(
    classifier: Classifier, faces: np.ndarray, names: list[str], steps: int, seed: int
) -> dict[str, np.ndarray]:
    """For each method the curves of all faces, float64 [N, 2, steps + 1]."""
    maps, read, chance = methods(classifier), reader(TorchEngine(classifier)), np.random.default_rng(seed)
    curves_by_method: dict[str, list[np.ndarray]] = {name: [] for name in names}
    with progress("explaining", len(faces), "faces") as advance:
        for face in faces:
            label = int(read(face[None])[0].argmax())
            for name in names:
                curves_by_method[name].append(curves(face, maps[name](face, label, chance), read, label, steps))
            advance()
    return {name: np.stack(values) for name, values in curves_by_method.items()}


def main() -> None:
    """Prints the table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a folder with a ViT, or the folder of a run")
    parser.add_argument("--data", required=True)
    parser.add_argument("--faces", type=int, default=200, help="how many, drawn at random")
    parser.add_argument("--steps", type=int, default=16, help="shares in which the pixels go and come")
    parser.add_argument("--methods", nargs="+", default=list(DEFAULT), help="names as above, or all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    classifier = Classifier.load(options.model)
    available = methods(classifier)
    names = list(available) if options.methods == ["all"] else options.methods
    unknown = [name for name in names if name not in available]
    if unknown:
        parser.error(f"--methods: no {', '.join(unknown)}; there is {'; '.join(available)}")
    part = read_faces(options.data).part("validation")
    rows = np.random.default_rng(options.seed).permutation(len(part))[: options.faces]
    faces = crops_of(part.images[rows], classifier.preprocessing, part.is_grey)  # as the network reads them
    curves_by_method = measure(classifier, faces, names, options.steps, options.seed)
    results = summary(curves_by_method, options.seed)
    print(f"{len(rows):,} faces of validation, {options.model}, {options.steps} steps\n{table(results)}")
    report = {"model": str(options.model), "split": "validation", "n": len(rows), "steps": options.steps,
              "seed": options.seed}  # fmt: skip
    print(json.dumps({"benchmark": "explanations", **report, "results": results}))


if __name__ == "__main__":
    main()
