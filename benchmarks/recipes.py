"""What pretraining, teachers and freezing are worth: the same small budget for each, on the same data, seed by seed.

Every arm trains one preset for the same number of epochs, so that it sees the same number of images:

    scratch      fresh weights, by Muon
    adamw        fresh weights, by AdamW at its own rate
    pretrained   the encoder of a masked autoencoder, nothing frozen (k = 0)
    frozen 4     the same, with the embeddings and blocks 0-3 frozen to the end
    frozen 8     the same, with the embeddings and blocks 0-7
    distilled    fresh weights, taught by the answers of a small convolutional network as well
    hints        fresh weights, taught by its answers and by its feature maps
    both         pretrained, and taught by answers and maps

The autoencoder and the teacher are made first, once for all seeds, unless folders are given. All scores are single
view, on the validation split, which also chose the best epoch; ECE is cross-fitted. Differences to the first arm are
tested on the same pictures (McNemar 1947), over all seeds together. What is there already is not made again, and what
was interrupted goes on, so that arms may be made side by side (their rates are then those of a shared machine), and a
last call makes the table.

    python benchmarks/recipes.py --data archive.zip --out runs/recipes --image-size 24 --epochs 1 --seeds 0 1
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mien.config import PRESETS, DistillConfig, FreezeConfig, PretrainConfig, TrainConfig, differences, to_dict
from mien.data.faces import FaceSet
from mien.data.read import read_faces
from mien.data.split import cut_validation
from mien.errors import MienError
from mien.evaluation.calibration import softmax
from mien.evaluation.metrics import mcnemar, score
from mien.files import read_json, write_json
from mien.model.classifier import Classifier
from mien.model.presets import SHAPES
from mien.training.finetune import train
from mien.training.history import read_history
from mien.training.pretrain import pretrain
from mien.training.state import state_path
from mien.versions import versions

ARMS: tuple[str, ...] = ("scratch", "adamw", "pretrained", "frozen 4", "frozen 8", "distilled", "hints", "both")
PRETRAINED: frozenset[str] = frozenset({"pretrained", "frozen 4", "frozen 8", "both"})
TAUGHT: frozenset[str] = frozenset({"distilled", "hints", "both"})
HINTS: frozenset[str] = frozenset({"hints", "both"})
TEACHER: dict[str, Any] = {
    "backbone": "timm:resnet18",
    "network_args": {"channels": [48, 96, 192, 384], "layers": [1, 1, 1, 1]},
    "lr": 2e-3,
}
"""A residual network of 2.8 million parameters."""


def settings(arm: str, given: argparse.Namespace, seed: int) -> TrainConfig:
    """The run of an arm."""
    pretrained, by_adamw = arm in PRETRAINED, arm == "adamw"
    blocks = int(arm.removeprefix("frozen ")) if arm.startswith("frozen") else 0
    return TrainConfig(
        data=given.data,
        out=str(given.out / f"{arm.replace(' ', '-')}-{seed}"),
        backbone=str(given.autoencoder / "model") if pretrained else given.preset,
        image_size=None if pretrained else given.image_size,
        epochs=given.epochs,
        batch_size=given.batch_size,
        optimizer="adamw" if by_adamw else "muon",
        lr=given.adamw_lr if by_adamw else given.lr,
        head_lr=1e-3,
        warmup_epochs=min(1.0, given.epochs / 10),
        layer_decay=given.layer_decay if pretrained else 1.0,
        ema=given.ema,
        teacher=[str(given.teacher / "model")] if arm in TAUGHT else [],
        distill=DistillConfig(features=3.0 if arm in HINTS else 0.0),
        freeze=FreezeConfig(blocks=blocks),
        seed=seed,
        device=given.device,
    )


def make(config: TrainConfig | PretrainConfig, command: str) -> Path:
    """The model folder of a run, trained, gone on with, or as it lies there.

    Raises:
        MienError: what lies there was made with other settings.
    """
    out = Path(config.out)
    if (out / "done").is_file():
        made = read_json(out / "model" / "meta.json")["config"]
        told = differences(made, to_dict(config.resolved()))
        if told:
            raise MienError(f"{out}: was made with other settings ({'; '.join(told)}); choose another --out")
    else:
        started = state_path(out).is_file()
        if isinstance(config, TrainConfig):
            train(config, resume=started, command=command)
        else:
            pretrain(config, resume=started, command=command)
        (out / "done").touch()
    return out / "model"


def judge(folder: Path, validation: FaceSet) -> tuple[dict[str, Any], np.ndarray]:
    """Scores of a model, and bool [N], which pictures it read right."""
    classifier = Classifier.load(folder)
    probabilities = softmax(classifier.logits(validation.images, quiet=True))
    scores = score(probabilities, validation.labels, validation.names)
    rate = statistics.median(row["images_per_second"] for row in read_history(folder.parent))
    found = {name: scores[name] for name in ("accuracy", "macro_f1")}
    found |= {"ece": classifier.meta()["calibration"]["ece_after"], "images_per_second": rate}
    return found, probabilities.argmax(1) == validation.labels


def check_size(given: argparse.Namespace) -> None:
    """Holds an autoencoder to the size of the other arms.

    Raises:
        MienError: it reads pictures of another size.
    """
    own, wanted = read_json(given.autoencoder / "model" / "config.json")["image_size"], given.image_size
    wanted = wanted or SHAPES[given.preset].image_size
    if own != wanted:
        raise MienError(f"--autoencoder {given.autoencoder}: reads {own} px, expected {wanted}, as the other arms")


def table(results: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown: means over the seeds, deviation of the accuracy, and the paired test."""
    lines = ["| arm | accuracy | macro-F1 | ECE | images/s | against the first: gain, p |", "|---|---|---|---|---|---|"]
    for row in results:
        runs = row["runs"]
        mean = {name: statistics.fmean(run[name] for run in runs) for name in runs[0]}
        values = [run["accuracy"] for run in runs]
        spread = f" ± {statistics.stdev(values):.2%}" if len(values) > 1 else ""
        test = row["test"]
        against = f"{row['gain']:+.2%}, {test['p']:.2g}" if test else "-"
        lines.append(
            f"| {row['arm']} | {mean['accuracy']:.2%}{spread} | {mean['macro_f1']:.3f} | {mean['ece']:.3f} "
            f"| {mean['images_per_second']:.0f} | {against} |"
        )
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--epochs", type=int, default=2, help="of every arm (2)")
    parser.add_argument("--image-size", type=int, help="of every network but the teacher (the preset's own)")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3, help="of every arm but adamw (1e-3)")
    parser.add_argument("--adamw-lr", type=float, default=4e-4, help="of the arm adamw (4e-4)")
    parser.add_argument("--layer-decay", type=float, default=0.8, help="of pretrained arms (0.8)")
    parser.add_argument("--ema", type=float, default=0.98, help="decay of the averaged weights (0.98)")
    parser.add_argument("--autoencoder", type=Path, help="the run of an autoencoder in place of one made here")
    parser.add_argument("--pretrain-epochs", type=int, default=10)
    parser.add_argument("--teacher", type=Path, help="the run of a teacher in place of one made here")
    parser.add_argument("--teacher-epochs", type=int, default=12)
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def main() -> None:
    """Makes what is missing, then prints the table and one line of JSON, which also lands in OUT/results.json."""
    given = parse()
    command = shlex.join(["python", *sys.argv])
    arms = set(given.arms)
    if given.autoencoder is None:
        given.autoencoder = given.out / "autoencoder"
        if arms & PRETRAINED:
            make(
                PretrainConfig(
                    data=given.data, out=str(given.autoencoder), preset=given.preset, image_size=given.image_size,
                    epochs=given.pretrain_epochs, batch_size=given.batch_size, optimizer="muon", lr=given.lr,
                    device=given.device,
                ),
                command,
            )  # fmt: skip
    if given.teacher is None:
        given.teacher = given.out / "teacher"
        if arms & TAUGHT:
            config = TrainConfig(data=given.data, out=str(given.teacher), epochs=given.teacher_epochs, image_size=64,
                                 device=given.device, **TEACHER)  # fmt: skip
            make(config, command)
    if arms & PRETRAINED:
        check_size(given)
    faces = read_faces(given.data)
    results: list[dict[str, Any]] = []
    first: list[np.ndarray] = []
    for arm in given.arms:
        runs, right = [], []
        for seed in given.seeds:
            config = settings(arm, given, seed)
            folder = make(config, command)
            parted = faces if faces.has("validation") else cut_validation(faces, config.validation_fraction, seed)
            scores, hits = judge(folder, parted.part("validation"))
            runs.append(scores)
            right.append(hits)
        together = np.concatenate(right)
        test = mcnemar(np.concatenate(first), together) if first else None
        gain = float(together.mean() - np.concatenate(first).mean()) if first else 0.0
        first = first or right
        results.append({"arm": arm, "runs": runs, "gain": gain, "test": test})
        print(table(results), flush=True)
    about = {"command": command, "preset": given.preset, "image_size": given.image_size, "epochs": given.epochs,
             "seeds": given.seeds, "threads": torch.get_num_threads()}  # fmt: skip
    images = given.epochs * (len(faces.part("train")) // given.batch_size) * given.batch_size
    pretraining = read_json(given.autoencoder / "model" / "meta.json")["training"] if arms & PRETRAINED else {}
    record = {**about, "images_seen": images, "pretraining": pretraining, "results": results, "versions": versions()}
    example = dataclasses.asdict(settings(given.arms[0], given, given.seeds[0]))
    write_json(given.out / "results.json", {**record, "config_of_the_first": example})
    print(json.dumps({"benchmark": "recipes", **record}))


if __name__ == "__main__":
    try:
        main()
    except MienError as error:
        print(f"recipes: {error}", file=sys.stderr)
        sys.exit(2)
