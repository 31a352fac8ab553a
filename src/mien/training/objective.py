"""What a step of fine-tuning minimises: cross-entropy against labels, teachers and stored answers, balanced or not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from timm.data.mixup import Mixup, mixup_target
from torch import nn
from torch.nn import functional as F

from mien.config import TrainConfig
from mien.data.faces import FaceSet, fingerprint_of
from mien.errors import MienError, first_line
from mien.evaluation.balance import class_shares
from mien.files import atomic_file, sha256_of
from mien.labels import positions
from mien.model.classifier import Classifier
from mien.model.freezing import frozen_for_good
from mien.model.networks import logits, logits_and_states
from mien.training.folder import Saved
from mien.training.teachers import Distillation, Hints, Teacher, soft_divergence


class Objective:
    """The loss of a run.

    Args:
        config: with every default resolved.
        classifier: the student, on the device.
        train_set: the training faces; their labels decide weights and priors.
        teachers: on the device.
        stored: float32 [N, C], answers for the training faces from ``config.targets``, on the device; None without.
        precision: bf16 or fp32.
    """

    def __init__(
        self,
        config: TrainConfig,
        classifier: Classifier,
        train_set: FaceSet,
        teachers: Sequence[Teacher] = (),
        stored: torch.Tensor | None = None,
        precision: str = "fp32",
    ) -> None:
        self.config, self.teachers, self.stored, self.precision = config, teachers, stored, precision
        self.classes = len(classifier.names)
        self.mix = build_mixup(config, self.classes)
        device = classifier.device
        self.weights = class_weights(train_set).to(device) if config.class_weights else None
        self.adjustment = adjustment(train_set, config).to(device) if config.logit_adjustment else None
        self.distil = Distillation(config.distill, teachers, classifier.preprocessing, precision)
        self.hints: Hints | None = None
        if config.distill.features:
            self.hints = Hints(classifier.network, teachers, config.distill, frozen_for_good(config.freeze))

    def batch(self, pixels: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Mixes a batch, if mixup or cutmix is on, and looks up its targets.

        Args:
            pixels: float32 [B, C, S, S], augmented; changed in place. With ``distill.undisturbed``, [B, 2C, S, S]: the
                views of the student and those of the teachers.
            labels: int64 [B].
            rows: int64 [B], of the pictures in the training split.

        Returns:
            The arguments of ``loss`` after the model: pixels, float32 [B, classes] targets, and as many stored answers
            if there are any.
        """
        smoothing = self.config.label_smoothing
        if self.mix is None:
            targets = soft_targets(labels, self.classes, smoothing)
            return (pixels, targets) if self.stored is None else (pixels, targets, self.stored[rows])
        share = self.mix._mix_batch(pixels)
        targets = mixup_target(labels, self.classes, share, smoothing)
        if self.stored is None:
            return pixels, targets
        answers = self.stored[rows]
        return pixels, targets, share * answers + (1 - share) * answers.flip(0)

    def loss(
        self, model: nn.Module, pixels: torch.Tensor, targets: torch.Tensor, stored: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss of a batch that ``batch`` made, float32 []."""
        distill, share = self.config.distill, self.config.distill.targets_weight
        pixels, seen = pixels.chunk(2, dim=1) if distill.undisturbed else (pixels, pixels)
        states: tuple[torch.Tensor, ...] = ()
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            if self.hints is None:
                answers = logits(model, pixels)
            else:
                answers, states = logits_and_states(model, pixels)
        answers = answers.float()
        if self.adjustment is not None:
            answers = answers + self.adjustment
        if self.weights is None:
            loss = F.cross_entropy(answers, targets)
        else:
            loss = weighted_cross_entropy(answers, targets, self.weights, self.config.label_smoothing)
        if self.teachers or stored is not None:
            taught = distill.weight if self.teachers else 0.0
            loss = (1 - taught - (share if stored is not None else 0.0)) * loss
        if self.teachers:
            loss = loss + self.distil(answers, seen)
        if stored is not None:
            softer = stored.clamp(min=1e-8).log().div(distill.temperature).softmax(1)
            loss = loss + share * distill.temperature**2 * soft_divergence(softer, answers, distill.temperature)
        return loss if self.hints is None else loss + distill.features * self.hints(states)


def adjustment(faces: FaceSet, config: TrainConfig) -> torch.Tensor:
    """What is added to the logits in training: tau times the logarithm of each class's share in an epoch, float32 [C].

    The network then learns logits in which a rare class is not held back for being rare (Menon et al. 2021,
    arXiv:2007.07314, section 5).
    """
    return torch.from_numpy(config.logit_adjustment * np.log(class_shares(faces, faces.names, config.resample))).float()


def build_mixup(config: TrainConfig, classes: int) -> Mixup | None:
    """timm's mixup and cutmix, or None if both are off."""
    if not config.augment.mixes:
        return None
    return Mixup(
        mixup_alpha=config.augment.mixup,
        cutmix_alpha=config.augment.cutmix,
        prob=config.augment.mix_probability,
        label_smoothing=config.label_smoothing,
        num_classes=classes,
    )


def soft_targets(labels: torch.Tensor, classes: int, smoothing: float) -> torch.Tensor:
    """int64 [B] to float32 [B, classes]: ``smoothing`` spread over all classes (Szegedy et al. 2016, section 7)."""
    return F.one_hot(labels, classes).float() * (1 - smoothing) + smoothing / classes


def weighted_cross_entropy(
    answers: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, smoothing: float
) -> torch.Tensor:
    """Cross-entropy in which each picture counts by the weight of its class, or of its two mixed classes.

    The ``weight`` of ``F.cross_entropy`` multiplies every cell of a soft target instead. A rare class then draws
    probability from every picture through its share of the smoothing: a clear "happy" of FER2013 would be taught 18 %
    "disgust" by a smoothing of 0.1.

    Args:
        answers: float32 [B, C], logits.
        targets: float32 [B, C], smoothed, of one class a row or of two that were mixed.
        weights: float32 [C], of the classes.
        smoothing: share of the targets that is spread over all classes, in [0, 1).

    Returns:
        float32 [], the mean over the batch.
    """
    # The targets are (1 - s) * labels + s / C, so their mean weight holds the labels' mean weight.
    of_pictures = (targets @ weights - smoothing * weights.mean()) / (1 - smoothing)
    return (of_pictures * F.cross_entropy(answers, targets, reduction="none")).mean()


def class_weights(train: FaceSet) -> torch.Tensor:
    """float32 [C]: N / (C n_c), so that the weights of the training images average to 1."""
    counts = np.bincount(train.labels, minlength=len(train.names))
    return torch.tensor(len(train) / (len(train.names) * np.maximum(counts, 1)), dtype=torch.float32)


KEY = "mien-folds"
"""Name of the record in the header of the file."""


@dataclass(frozen=True)
class StoredAnswers:
    """Answers for the pictures of a training split.

    Attributes:
        path: of the file.
        probabilities: float32 [N, C], rows sum to 1, in the order of the training split.
        names: the classes of the columns.
        training: fingerprint of the training split (``training_fingerprint``).
        sha256: hexadecimal, of the file.
    """

    path: Path
    probabilities: np.ndarray
    names: tuple[str, ...]
    training: str
    sha256: str

    @classmethod
    def load(cls, path: Path, faces: FaceSet) -> StoredAnswers:
        """Reads a file of ``mien folds`` and checks that it belongs to the training split.

        Raises:
            MienError: the file is missing or damaged, or was made from other pictures or labels.
        """
        probabilities, record = read_answers(path)
        names, training, train = tuple(map(str, record["names"])), str(record["training"]), faces.part("train")
        if training != training_fingerprint(train):
            raise MienError(
                f"--targets {path}: was made from other training pictures or labels than those of {faces.source}; "
                "give the file that `mien folds` made from this data or, if it has no validation split, its --seed and "
                "--validation-fraction"
            )
        fits = probabilities.dtype == np.float32 and probabilities.shape == (len(train), len(names))
        if not (fits and np.isfinite(probabilities).all() and np.allclose(probabilities.sum(1), 1, atol=1e-3)):
            raise MienError(
                f"--targets {path}: expected float32 probabilities [{len(train)}, {len(names)}], got "
                f"{probabilities.dtype} {list(probabilities.shape)}, or values that are none; make it again"
            )
        return cls(path, probabilities, names, training, sha256_of(path))

    def rows(self, train: FaceSet) -> torch.Tensor:
        """The answers with a column for each class of the training split: float32 [N, C]."""
        columns = positions(train.names, self.names, f"--targets {self.path}: lacks classes")
        return torch.from_numpy(self.probabilities[:, columns])

    def state(self) -> dict[str, torch.Tensor]:
        """The file's SHA-256 as a part of a run's state: uint8 [32]."""
        return {"sha256": torch.tensor(list(bytes.fromhex(self.sha256)), dtype=torch.uint8)}


def read_answers(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Reads a file of ``mien folds``.

    Returns:
        The probabilities as they are in the file, and its record (``folds.json``) with at least ``names``, a list of
        the classes, and ``training``, the fingerprint of the training split.

    Raises:
        MienError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="np") as file:
            record = json.loads((file.metadata() or {})[KEY])
            probabilities = file.get_tensor("probabilities")
        return probabilities, {**record, "names": list(record["names"]), "training": record["training"]}
    except FileNotFoundError as error:
        raise MienError(f"--targets {path}: no such file; give one that `mien folds` wrote") from error
    except (SafetensorError, KeyError, TypeError, OSError, ValueError, RecursionError) as error:
        raise MienError(
            f"--targets {path}: is damaged or no file of `mien folds` ({first_line(error)}); make it again"
        ) from error


def check_targets(stored: StoredAnswers | None, saved: Saved) -> None:
    """Checks that the stored answers are those of the saved run.

    Raises:
        MienError: the run has others, or the one has some and the other has none.
    """
    expected, current = saved.part("targets"), {} if stored is None else stored.state()
    if expected.keys() != current.keys():
        raise MienError(
            f"--resume: the run learns {'from' if expected else 'without'} stored answers; give the same --targets"
        )
    if stored is not None and not torch.equal(expected["sha256"], current["sha256"]):
        raise MienError(
            f"--resume: {stored.path} differs from the stored answers that the run learnt from; give the same --targets"
        )


def training_fingerprint(train: FaceSet) -> str:
    """Hexadecimal SHA-256 of the pictures, labels and class names of a training split."""
    return fingerprint_of(train.images, train.labels, (), train.names)


def write_answers(path: Path, probabilities: np.ndarray, fold: np.ndarray, record: dict[str, Any]) -> None:
    """Writes a file that ``StoredAnswers.load`` reads, atomically.

    Args:
        path: the file.
        probabilities: float32 [N, C].
        fold: int64 [N], the fold of each picture.
        record: JSON-ready, with ``names`` and ``training``.
    """
    tensors: dict[str, np.ndarray] = {
        "probabilities": np.ascontiguousarray(probabilities, np.float32),
        "fold": fold.astype(np.int64),
    }
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata={KEY: json.dumps(record)})
