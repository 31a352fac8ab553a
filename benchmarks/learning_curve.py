"""What more training images would bring: accuracy on validation over the number of training images.

The same fresh preset is trained on an eighth, a quarter, a half and all of Training. A smaller share lies within each
larger one, has every class in its proportion, and keeps copies of a photograph (``mien.data.twins``) together: drawn
one by one, twins would meet only in the large shares, whose pictures would then be worth less than their number says.

Every share is trained for the same number of steps, the small ones for more epochs: arms of the same number of epochs
would differ in how far they are trained as well, and the curve would mix up images with time. A small share is the
sooner learnt by heart; as the best epoch on validation is kept, it is judged before that, and has more epochs to choose
from, which flatters it a little. Give epochs enough for the whole to be nearly trained out.

All scores are single view, with every patch visible. Clean leaves out the pictures with a twin anywhere in Training,
the same for every share: the larger the share, the more of the others it has seen already, which is no learning.

Where a power law, accuracy = a - b n^-c, describes the clean accuracies (they rise, the best c lies within its bounds,
a is at most 1, and what is left over is no more than chance), it is fitted, and says what twice the images would bring;
the range is a bootstrap over validation pictures and knows nothing of other seeds.

The shares lie as archives under OUT/shares: where the data are faces of people, keep that folder to yourself. What is
there already is not made again, and what was interrupted goes on.

    python benchmarks/learning_curve.py --data archive.zip --out runs/learning --epochs 6
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from arms import add_options, head, judge, machine_text, make
from power_law import figure_of, fit, in_words

from mien.config import TrainConfig
from mien.data.drawn import write_archive
from mien.data.faces import OFFICIAL_SPLITS, FaceSet, fingerprint_of
from mien.data.read import read_faces
from mien.data.twins import cut_validation, groups, has_twin
from mien.errors import MienError
from mien.evaluation.style import png
from mien.files import atomic_file, read_json, write_json
from mien.machine import versions


def places(labels: np.ndarray, group: np.ndarray, seed: int) -> np.ndarray:
    """Where each picture stands in its class: a share holds the pictures whose place is below it.

    Groups stay together; a group of several labels counts as of the class of its first picture.

    Args:
        labels: int64 [N], classes.
        group: int64 [N], pictures that belong together share a number, numbered from 0.
        seed: the same seed gives the same shares.

    Returns:
        float64 [N] in [0, 1); each class has a picture at 0.
    """
    generator = np.random.default_rng(seed)
    _, first, sizes = np.unique(group, return_index=True, return_counts=True)
    starts = np.empty(len(sizes))
    for label in np.unique(labels[first]):
        members = generator.permutation(np.flatnonzero(labels[first] == label))
        ends = np.cumsum(sizes[members])
        starts[members] = (ends - sizes[members]) / ends[-1]
    return starts[group]


def share_of(faces: FaceSet, share: float, seed: int) -> FaceSet:
    """A share of the training images with the whole validation split, and without the test split.

    Pictures are named and ordered as ``write_archive`` writes and a reader finds them.
    """
    train = np.flatnonzero(faces.splits == "train")
    part = faces.select(train)
    train_rows = train[places(part.labels, groups(part.images), seed) < share]
    rows = np.concatenate([train_rows, np.flatnonzero(faces.splits == "validation")])
    prefix = {split: name for name, split in OFFICIAL_SPLITS.items()}
    ids = np.array([
        f"{'train' if faces.splits[row] == 'train' else 'test'}/{faces.names[faces.labels[row]]}"
        f"/{prefix[faces.splits[row]]}_{row + 1:07d}.png"
        for row in rows
    ])  # fmt: skip
    order = np.argsort(ids)
    selection = replace(faces.select(rows[order]), ids=ids[order])
    return replace(
        selection, fingerprint=fingerprint_of(selection.images, selection.labels, selection.splits, selection.names)
    )


def written(path: Path, faces: FaceSet) -> Path:
    """The archive of a share, written unless it is there."""
    if not path.is_file() or read_faces(path).fingerprint != faces.fingerprint:
        write_archive(path, faces)
    return path


def settings(options: argparse.Namespace, share: float, images: int, all_images: int) -> TrainConfig:
    """The run of a share of so many images: as many steps as ``--epochs`` over all images have, within one epoch."""
    steps, steps_per_epoch = options.epochs * (all_images // options.batch_size), images // options.batch_size
    if not steps_per_epoch:
        raise MienError(f"--shares {share:g}: gives {images} images, fewer than --batch-size {options.batch_size}")
    epochs = max(1, round(steps / steps_per_epoch))
    return TrainConfig(
        data=str(options.out / "shares" / f"{share:g}.zip"),
        out=str(options.out / f"share-{share:g}"),
        backbone=options.preset,
        image_size=options.image_size,
        epochs=epochs,
        batch_size=options.batch_size,
        optimizer="muon",
        lr=options.lr,
        head_lr=1e-3,
        warmup_epochs=epochs / 10,
        ema=options.ema,
        teacher=[str(options.teacher / "model")] if options.teacher else [],
        seed=options.seed,
        device=options.device,
        precision=options.precision,
    )


def table(points: Sequence[dict[str, Any]]) -> str:
    """The points as Markdown."""
    lines = [
        "| share | images | accuracy (95 %) | clean (95 %) | macro-F1 | ECE | epochs | best | images seen | images/s |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|---|---|")
    for point in points:
        low, high = (100 * end for end in point["ci95"])
        clean_low, clean_high = (100 * end for end in point["clean_ci95"])
        ece = "-" if point["ece"] is None else f"{point['ece']:.3f}"
        lines.append(
            f"| {point['share']:g} | {point['images']:,} | {point['accuracy']:.2%} ({low:.1f} to {high:.1f}) "
            f"| {point['clean']:.2%} ({clean_low:.1f} to {clean_high:.1f}) | {point['macro_f1']:.3f} | {ece} "
            f"| {point['epochs']} | {point['best_epoch']} "
            f"| {point['images_seen']:,} | {point['images_per_second']:,.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Makes what is missing; prints the table; writes OUT/learning_curve.json and OUT/learning_curve.png."""
    options = parse()
    command = shlex.join(["python", *sys.argv])
    faces = read_faces(options.data)
    if not faces.has("validation"):
        faces = cut_validation(faces, 0.1, options.seed)
    train, total = faces.part("train").images, len(faces.part("train"))
    clean = ~has_twin(faces.part("validation").images, train)
    if not clean.any():
        raise MienError(f"{options.data}: every picture of validation has a twin in training; give other data")
    points: list[dict[str, Any]] = []
    right: list[np.ndarray] = []
    for share in sorted(options.shares):
        part = share_of(faces, share, options.seed)
        images = len(part.part("train"))
        config = settings(options, share, images, total)
        written(Path(config.data), part)
        folder = make(config, command)
        meta = read_json(folder / "meta.json")
        if meta["data"]["fingerprint"] != part.fingerprint:
            raise MienError(f"{config.out}: was trained on other pictures; choose another --out")
        scores, hits = judge(folder, part, device=options.device, training_images=train)
        images_seen = config.epochs * (images // options.batch_size) * options.batch_size
        point = {"share": share, "images": images, "classes": part.part("train").class_counts(),
                 "images_seen": images_seen}  # fmt: skip
        points.append({**point, "epochs": config.epochs, "best_epoch": meta["metrics"]["epoch"], **scores})
        right.append(hits[clean])
        print(table(points), flush=True)
    law = fit(np.array([point["images"] for point in points], float), np.stack(right))
    header = {**head(options, faces), "command": command, "epochs": options.epochs, "seed": options.seed,
              "teacher": str(options.teacher) if options.teacher else None, "versions": versions()}  # fmt: skip
    record = {**header, "points": points, "law": law}
    write_json(options.out / "learning_curve.json", record)
    with atomic_file(options.out / "learning_curve.png") as temporary:
        temporary.write_bytes(png(figure_of(points, law)))
    teacher_text = f"; taught by {options.teacher}, which knows all of Training" if options.teacher else ""
    print(f"\n{machine_text(header)}; {options.preset}, validation, single view{teacher_text}")
    print(f"\n{table(points)}\n\n{in_words(points, law)}\n")
    print(json.dumps({"benchmark": "learning_curve", **record}))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--shares", nargs="+", type=float, default=[0.125, 0.25, 0.5, 1.0], help="of Training")
    parser.add_argument("--epochs", type=int, default=6, help="of the whole, whose steps every share takes (6)")
    parser.add_argument("--teacher", type=Path, help="the run of a teacher to learn from as well")
    parser.add_argument("--seed", type=int, default=0, help="of the shares and of the training")
    options = parser.parse_args()
    if wrong := [share for share in options.shares if not 0 < share <= 1]:
        parser.error(f"--shares: got {wrong[0]:g}, expected shares in (0, 1]")
    return options


if __name__ == "__main__":
    try:
        main()
    except MienError as error:
        print(f"learning_curve: {error}", file=sys.stderr)
        sys.exit(2)
