"""What a step of fine-tuning minimises: cross-entropy against labels, teachers and stored answers, balanced or not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from timm.data.mixup import mixup_target
from torch import nn
from torch.nn import functional as F

from mien.config import TrainConfig
from mien.data.faces import FaceSet
from mien.model.classifier import Classifier
from mien.model.networks import logits, logits_and_states
from mien.training.augment import build_mixup, class_weights, soft_targets, weighted_cross_entropy
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
        frozen = (config.freeze.blocks or 0) if config.freeze.release_epoch is None else 0
        self.hints: Hints | None = None
        if config.distill.features:
            self.hints = Hints(classifier.network, teachers, frozen, mirror=config.distill.mirror)

    def batch(self, pixels: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Mixes a batch, if mixup or cutmix is on, and looks up its targets.

        Args:
            pixels: float32 [B, C, S, S], augmented; changed in place.
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
        distill, share = self.config.distill, self.config.distill.targets_weight
        if self.teachers or stored is not None:
            taught = distill.weight if self.teachers else 0.0
            loss = (1 - taught - (share if stored is not None else 0.0)) * loss
        if self.teachers:
            loss = loss + self.distil(answers, pixels)
        if stored is not None:
            softer = stored.clamp(min=1e-8).log().div(distill.temperature).softmax(1)
            loss = loss + share * distill.temperature**2 * soft_divergence(softer, answers, distill.temperature)
        return loss if self.hints is None else loss + distill.features * self.hints(states)


def shares_of_classes(faces: FaceSet, config: TrainConfig) -> np.ndarray:
    """The share of each class among the pictures of an epoch, float64 [C]: as often as ``config.resample`` draws it."""
    counts = np.maximum(np.bincount(faces.labels, minlength=len(faces.names)), 1).astype(np.float64)
    drawn = counts ** (1 - config.resample)
    return drawn / drawn.sum()


def adjustment(faces: FaceSet, config: TrainConfig) -> torch.Tensor:
    """What is added to the logits in training: tau times the logarithm of each class's share, float32 [C].

    The network then learns logits in which a rare class is not held back for being rare (Menon et al. 2021,
    arXiv:2007.07314, section 4.2).
    """
    return torch.from_numpy(config.logit_adjustment * np.log(shares_of_classes(faces, config))).float()
