"""What recipes.py and learning_curve.py have in common: arms, their settings, and how one is made and judged."""

from __future__ import annotations

import argparse
import statistics
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from masked_inputs import hidden_patches

from mien.config import PRESETS, AugmentConfig, DistillConfig, FreezeConfig, PretrainConfig, TrainConfig, differences
from mien.data.clean import trained_on
from mien.data.faces import FaceSet
from mien.errors import MienError
from mien.evaluation.evaluate import evaluate
from mien.files import read_json
from mien.log import to_console
from mien.machine import machine_of, resolve_device
from mien.model.classifier import Classifier
from mien.model.places import run_model
from mien.model.presets import SHAPES
from mien.training.finetune import train
from mien.training.history import read_history
from mien.training.pretrain import pretrain
from mien.training.run import state_path


@dataclass(frozen=True)
class Arm:
    """What sets a run apart from one that trains fresh weights by Muon.

    Attributes:
        optimizer: muon or adamw.
        pretrained: whether it starts from the encoder of the masked autoencoder.
        blocks: how many blocks are frozen, the embeddings with them.
        released: whether these train in the second half of the epochs.
        masked: whether three quarters of the patches are hidden, in training and in evaluation.
        taught: whether it learns from the teacher's answers.
        features: weight of the teachers' feature maps in the loss.
        teachers: which of --teacher and --more-teachers teach; by default the first.
        split: whether several teachers divide each batch among them.
        answers: weight in the loss of the stored answers of --answers.
        prior: how much of the classes' frequency is taken out of what the network learns (``logit_adjustment``).
        mixup: of pictures.
        wide: whether views also zoom out, around the reading crop.
        second_autoencoder: whether it starts from that of --second-autoencoder.
        preset: its own preset, where it does not take that of the others.
    """

    optimizer: str = "muon"
    pretrained: bool = False
    blocks: int = 0
    released: bool = False
    masked: bool = False
    taught: bool = False
    features: float = 0.0
    teachers: tuple[int, ...] = (0,)
    split: bool = False
    answers: float = 0.0
    prior: float = 0.0
    mixup: float = 0.0
    wide: bool = False
    second_autoencoder: bool = False
    preset: str | None = None

    def hiding(self) -> AbstractContextManager[None]:
        """Within it, this arm's networks see what they are to see."""
        return hidden_patches() if self.masked else nullcontext()


BOTH = Arm(pretrained=True, taught=True, features=3.0)
"""From the autoencoder, taught by answers and maps."""

WIDE: dict[str, Any] = {"crop_scale": 0.75, "wide_scale": 1.05}
"""Views that zoom in and out."""

TRAINED: dict[str, Arm] = {
    "scratch": Arm(),
    "adamw": Arm(optimizer="adamw"),
    "pretrained": Arm(pretrained=True),
    "frozen 4": Arm(pretrained=True, blocks=4),
    "frozen 8": Arm(pretrained=True, blocks=8),
    "released 4": Arm(pretrained=True, blocks=4, released=True),
    "released 8": Arm(pretrained=True, blocks=8, released=True),
    "masked": Arm(pretrained=True, masked=True),
    "distilled": Arm(taught=True),
    "hints": Arm(taught=True, features=3.0),
    "both": BOTH,
    "no maps": replace(BOTH, features=0.0),
    "second teacher": replace(BOTH, teachers=(1,)),
    "two teachers": replace(BOTH, teachers=(0, 1)),
    "two teachers, split": replace(BOTH, teachers=(0, 1), split=True),
    "out of fold": Arm(pretrained=True, answers=0.7),
    "both, out of fold": replace(BOTH, answers=0.3),
    "prior": replace(BOTH, prior=0.3),
    "mixed": replace(BOTH, mixup=0.3),
    "wide": replace(BOTH, wide=True),
    "second autoencoder": replace(BOTH, second_autoencoder=True),
    **{f"preset {name}": Arm(preset=name) for name in PRESETS},
}
"""The arms that train a network."""

AVERAGED, TEACHER = "averaged", "teacher"
"""The arms that read with what is there already."""

TEACHER_SETTINGS: dict[str, Any] = {
    "backbone": "timm:face_cnn",
    "optimizer": "muon",
    "network_args": {"drop_rate": 0.3},
    "image_size": 48,
    "lr": 2e-3,
    "weight_decay": 0.1,
}
"""The first teacher of the shipped model, a residual network of 1.2 million parameters."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that decide how every arm is trained."""
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", choices=PRESETS, default="mini", help="of every network but the teacher (mini)")
    parser.add_argument("--image-size", type=int, help="of every network but the teacher (the preset's own)")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3, help="of every arm by Muon (1e-3)")
    parser.add_argument("--ema", type=float, default=0.98, help="decay of the averaged weights (0.98)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of all training (auto)")


def settings(name: str, options: argparse.Namespace, seed: int) -> TrainConfig:
    """The run of an arm.

    Raises:
        MienError: there are too few epochs to release anything, too few blocks to freeze, or no such teacher, answers
            or autoencoder.
    """
    arm, depth = TRAINED[name], SHAPES[options.preset].depth
    if arm.released and options.epochs < 2:
        raise MienError(f"--epochs {options.epochs}: {name} releases blocks half-way; give at least 2")
    if arm.blocks > depth:
        raise MienError(f"--preset {options.preset}: has {depth} blocks, too few for {name}; leave it out of --arms")
    teachers = [options.teacher, *options.more_teachers]
    if arm.taught and max(arm.teachers) >= len(teachers):
        raise MienError(f"--more-teachers: {name} needs a second teacher; give its run")
    if arm.second_autoencoder and options.second_autoencoder is None:
        raise MienError(f"--second-autoencoder: {name} needs one; give its run")
    if arm.answers and options.answers is None:
        raise MienError(f"--answers: {name} needs a file of `mien folds`; give one")
    autoencoder = options.second_autoencoder if arm.second_autoencoder else options.autoencoder
    by_adamw = arm.optimizer == "adamw"
    return TrainConfig(
        data=options.data,
        out=str(folder_of(name, options, seed)),
        backbone=str(run_model(autoencoder)) if arm.pretrained else arm.preset or options.preset,
        image_size=None if arm.pretrained else options.image_size,
        epochs=options.epochs,
        batch_size=options.batch_size,
        optimizer="adamw" if by_adamw else "muon",
        lr=options.adamw_lr if by_adamw else options.lr,
        head_lr=1e-3,
        warmup_epochs=min(1.0, options.epochs / 10),
        layer_decay=options.layer_decay if arm.pretrained else 1.0,
        ema=options.ema,
        logit_adjustment=arm.prior,
        augment=replace(AugmentConfig(mixup=arm.mixup), **WIDE) if arm.wide else AugmentConfig(mixup=arm.mixup),
        teacher=[str(run_model(teachers[number])) for number in arm.teachers] if arm.taught else [],
        targets=str(options.answers) if arm.answers else None,
        distill=DistillConfig(
            features=arm.features,
            split_batch=arm.split,
            targets_weight=arm.answers or DistillConfig().targets_weight,
        ),
        freeze=FreezeConfig(blocks=arm.blocks, release_epoch=options.epochs // 2 + 1 if arm.released else None),
        seed=seed,
        device=options.device,
        precision=options.precision,
    )


def folder_of(name: str, options: argparse.Namespace, seed: int) -> Path:
    """The folder of an arm's run; that of ``scratch`` serves its preset's arm too."""
    place = "scratch" if TRAINED[name].preset == options.preset else name.replace(" ", "-")
    return Path(options.out / f"{place}-{seed}")


def make(config: TrainConfig | PretrainConfig, command: str) -> Path:
    """The model folder of a run, trained, gone on with, or as it lies there.

    Raises:
        MienError: what lies there was made with other settings.
    """
    out = Path(config.out)
    if (out / "done").is_file():
        stored_config = read_json(out / "model" / "meta.json")["config"]
        changes = differences(stored_config, config.resolved())
        if changes:
            raise MienError(f"{out}: was made with other settings ({'; '.join(changes)}); choose another --out")
    else:
        started = state_path(out).is_file()
        with to_console():
            if isinstance(config, TrainConfig):
                train(config, resume=started, command=command)
            else:
                pretrain(config, resume=started, command=command)
        (out / "done").touch()
    return out / "model"


def judge(
    folder: Path,
    faces: FaceSet,
    *,
    device: str = "auto",
    tta: bool = False,
    seed: int = 0,
    training_images: np.ndarray | None = None,
) -> tuple[dict[str, Any], np.ndarray]:
    """What a run's model is worth on validation.

    Args:
        folder: its model folder.
        faces: the data, with its validation split.
        device: where pictures are read.
        tta: average the probabilities of a picture and of its mirror image.
        seed: of what is hidden, where something is.
        training_images: uint8 [M, S, S], among which twins are looked for; by default what the model learnt from.

    Returns:
        ``accuracy`` and its ``ci95``, ``clean`` and ``clean_ci95`` (the same without the pictures that have a twin),
        ``macro_f1``, ``ece`` (cross-fitted), ``images_per_second`` (the median of the run's epochs; null where nothing
        was trained for this), ``parameters`` (as the folder holds them, its patch embedding reading colour); and bool
        [N], which pictures were read right.
    """
    torch.manual_seed(seed)
    classifier = Classifier.load(folder, resolve_device(device))
    training = trained_on(faces, classifier) if training_images is None else training_images
    evaluation = evaluate(classifier, faces, "validation", training=training, tta=tta, quiet=True)
    rate = None if tta else statistics.median(row["images_per_second"] for row in read_history(folder.parent))
    scores = {
        "accuracy": evaluation.whole["accuracy"],
        "ci95": evaluation.whole["ci95"]["accuracy"],
        "clean": evaluation.clean["accuracy"] if evaluation.clean else None,
        "clean_ci95": evaluation.clean["ci95"]["accuracy"] if evaluation.clean else None,
        "macro_f1": evaluation.whole["macro_f1"],
        "ece": evaluation.cross_fitted_ece(),
        "images_per_second": rate,
        "parameters": sum(parameter.numel() for parameter in classifier.network.parameters()),
    }
    return scores, evaluation.right


def head(options: argparse.Namespace, faces: FaceSet) -> dict[str, Any]:
    """Where and on what the arms were made: ``machine``, ``data``, ``preset``, ``image_size``, ``batch_size``,
    ``precision``."""
    machine = {**machine_of(resolve_device(options.device)), "threads": torch.get_num_threads()}
    data = {"source": faces.source, "fingerprint": faces.fingerprint, "training": len(faces.part("train"))}
    return {"machine": machine, "data": data, "preset": options.preset, "image_size": options.image_size,
            "batch_size": options.batch_size, "precision": options.precision}  # fmt: skip


def machine_text(header: dict[str, Any]) -> str:
    """The machine in words."""
    machine = header["machine"]
    place = f"{machine['gpu']}, " if "gpu" in machine else ""
    return f"{place}{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads"


def teacher_config(options: argparse.Namespace) -> TrainConfig:
    """The run of the teacher that is made where none is given."""
    config = TrainConfig(data=options.data, out=str(options.teacher), epochs=options.teacher_epochs,
                         device=options.device, precision=options.precision)  # fmt: skip
    return replace(config, **TEACHER_SETTINGS)
