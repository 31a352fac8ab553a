"""Which images a step sees, and what is asked of them: functions of the seed and the step."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from timm.data import Mixup
from torch.nn import functional as F

from mien.config import TrainConfig
from mien.data.faces import FaceSet


def shuffled(count: int, seed: int, epoch: int) -> torch.Tensor:
    """The order of an epoch, int64 [count]."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch, 0x0D3))))
    return torch.from_numpy(generator.permutation(count))


def local_rows(order: torch.Tensor, step: int, accelerator: Accelerator, batch_size: int) -> torch.Tensor:
    """This process's share of a step's images, int64 [batch_size / processes]."""
    share = batch_size // accelerator.num_processes
    start = step * batch_size + accelerator.process_index * share
    return order[start : start + share]


def seed_step(seed: int, update: int, process: int) -> None:
    """Seeds drop path and mixing for one step of one process."""
    value = int(np.random.SeedSequence((seed, update, process)).generate_state(1)[0])
    torch.manual_seed(value)
    np.random.seed(value)


def build_mixup(config: TrainConfig, classes: int) -> Mixup | None:
    """timm's mixup and cutmix, or None where both are off."""
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


def class_weights(train: FaceSet) -> torch.Tensor:
    """float32 [C]: N / (C n_c), so that the weights of the training images average to 1."""
    counts = np.bincount(train.labels, minlength=len(train.names))
    return torch.tensor(len(train) / (len(train.names) * np.maximum(counts, 1)), dtype=torch.float32)
