"""Distillation: a student learns the answers and the feature maps of trained teachers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import ViTForImageClassification

from mien.config import DistillConfig
from mien.errors import MienError
from mien.files import sha256_of
from mien.labels import positions
from mien.model.classifier import Classifier, model_folder
from mien.model.networks import Network, as_vit, logits, num_channels
from mien.model.preprocessing import Preprocessing
from mien.training.run import Saved


@dataclass(frozen=True)
class Teacher:
    """A trained classifier to learn from, frozen.

    Attributes:
        classifier: in evaluation mode, on the student's device.
        columns: int64 [C], for each of the student's classes the teacher's, matched by name; on the device.
        sha256: hexadecimal, of the file of its weights.
    """

    classifier: Classifier
    columns: torch.Tensor
    sha256: str


def load_teachers(folders: Sequence[str], names: tuple[str, ...], device: torch.device) -> list[Teacher]:
    """Reads the teachers of a run.

    Args:
        folders: model folders, or folders of runs.
        names: the student's classes, in the order of its logits.
        device: where the student trains.

    Raises:
        MienError: a folder is no classifier, or one of the student's classes is not among a teacher's.
    """
    teachers = []
    for given in folders:
        folder = model_folder(Path(given))
        classifier = Classifier.load(folder, device)
        classifier.network.requires_grad_(False)
        where = f"--teacher {given}: cannot teach the classes {', '.join(names)}"
        columns = torch.tensor(positions(names, classifier.names, where), device=device)
        teachers.append(Teacher(classifier, columns, sha256_of(folder / "model.safetensors")))
    return teachers


class Distillation:
    """The teachers' part of the loss.

    Args:
        config: weight and temperature, and whether every second picture is read mirrored.
        teachers: at least one.
        student: by which the pictures that the student sees are normalised.
        precision: bf16 or fp32, in which the teachers compute.
    """

    def __init__(
        self, config: DistillConfig, teachers: Sequence[Teacher], student: Preprocessing, precision: str
    ) -> None:
        self.config, self.teachers, self.student, self.precision = config, teachers, student, precision

    def __call__(self, loss: torch.Tensor, student_logits: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """Blends the loss against the labels with the divergence from the teachers.

        Args:
            loss: float32 [], against the labels.
            student_logits: [B, C].
            pixels: float32 [B, 1 or 3, S, S], augmented and mixed, normalised for the student.

        Returns:
            float32 [].
        """
        temperature, weight = self.config.temperature, self.config.weight
        divergence = soft_divergence(self.probabilities(pixels), student_logits, temperature)
        return (1 - weight) * loss + weight * temperature**2 * divergence

    @torch.no_grad()
    def probabilities(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the teachers make of the student's pictures, float32 [B, C] at the temperature, averaged."""
        faces = self.student.denormalise(pixels)
        found = [self._logits(teacher, faces) for teacher in self.teachers]
        return torch.stack([(values / self.config.temperature).softmax(1) for values in found]).mean(0)

    def _logits(self, teacher: Teacher, faces: torch.Tensor) -> torch.Tensor:
        preprocessing, network = teacher.classifier.preprocessing, teacher.classifier.network
        # Read whole, whatever the teacher's reading crop: the student's views are zoomed in already.
        view = preprocessing.read(preprocessing.resize(faces), num_channels(network))
        view = half_mirrored(view) if self.config.mirror else view
        with torch.autocast(faces.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return logits(network, view).float()[:, teacher.columns]


def half_mirrored(batch: torch.Tensor) -> torch.Tensor:
    """Every second picture, or map, [B, C, H, W], turned left to right; once more, and all are as they were."""
    found = batch.clone()
    found[1::2] = batch[1::2].flip(-1)
    return found


def soft_divergence(probabilities: torch.Tensor, student_logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL(probabilities || softmax(student_logits / temperature)) in nats, the mean over a batch.

    Args:
        probabilities: float32 [B, C], rows sum to 1.
        student_logits: [B, C].
        temperature: above 0.
    """
    return F.kl_div((student_logits.float() / temperature).log_softmax(1), probabilities, reduction="batchmean")


def teacher_state(teachers: Sequence[Teacher]) -> dict[str, torch.Tensor]:
    """The teachers' fingerprints as a part of a run's state: uint8 [32] by number."""
    return {
        str(number): torch.tensor(list(bytes.fromhex(teacher.sha256)), dtype=torch.uint8)
        for number, teacher in enumerate(teachers)
    }


def check_teachers(teachers: Sequence[Teacher], saved: Saved) -> None:
    """Holds the teachers to those that a saved run learnt from.

    Raises:
        MienError: there are more or fewer, or the weights of one differ.
    """
    known, found = saved.part("teachers"), teacher_state(teachers)
    if len(known) != len(found):
        raise MienError(f"--resume: the run has {len(known)} teachers, got {len(found)}; give the same --teacher")
    for number, teacher in enumerate(teachers):
        if not torch.equal(known[str(number)], found[str(number)]):
            raise MienError(
                f"--resume: the weights of the teacher {teacher.classifier.folder} differ from those that the run "
                "learnt from; give the same --teacher in the same order"
            )


# Learning from what a CNN sees at each place: the patches of a ViT follow the feature maps of teachers.
#
# A label is one of seven words a picture; a teacher's map has hundreds of numbers at each place of it. Patches that
# learn these early need not find by themselves which corners of an eye or mouth matter. The idea is that of FitNets
# (Romero et al. 2015, arXiv:1412.6550, section 2.2), both sides normalised as by Wei et al. (2022, arXiv:2205.14141,
# section 3.2). The projection between the two is orthogonal and fixed, so that nothing but the student itself learns.


SMALLEST_MAP = 4
"""A teacher's deepest map with at least so many places along a side is followed."""


class Hints:
    """The distance between the patches of a student and the maps of its teachers.

    Maps are normalised over the pictures of a process. Where a teacher has more channels than the student is wide, the
    student follows a projection of them.

    Args:
        network: the student, a ViT.
        teachers: on the student's device; those that are ViTs give no hints.
        frozen: how many blocks of the student are frozen to the end.
        mirror: whether the teachers read every second picture mirrored (``DistillConfig.mirror``); its map is turned
            back.

    Raises:
        MienError: the student is no ViT, all that could learn is frozen, a teacher has no such map, or all are ViTs.
    """

    def __init__(self, network: Network, teachers: Sequence[Teacher], frozen: int = 0, *, mirror: bool = False) -> None:
        self.block = len(as_vit(network).vit.layers) // 2
        if frozen >= self.block:
            raise MienError(
                f"distill.features: the feature maps teach the first {self.block} blocks, of which freeze.blocks "
                f"{frozen} leaves none; freeze fewer, or give --freeze.release-epoch"
            )
        convolutional = [one for one in teachers if not isinstance(one.classifier.network, ViTForImageClassification)]
        if not convolutional:
            raise MienError("distill.features: every --teacher is a ViT; give a CNN (timm:NAME), or distill.features 0")
        self.maps = [TeacherMap(teacher, mirror) for teacher in convolutional]
        width = as_vit(network).config.hidden_size
        self.projections = [_projection(width, taught.channels, network.device) for taught in self.maps]

    def __call__(self, states: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """The mean of 1 - cosine over places and teachers, for the pictures that the teachers read last.

        Args:
            states: of the student: float [B, 1 + patches, width], before the first block, after it, and so on.

        Returns:
            float32 [], in [0, 2].
        """
        patches = states[self.block][:, 1:].float()
        patches = F.layer_norm(patches, patches.shape[-1:])
        grid = round(patches.shape[1] ** 0.5)
        distances = [
            1 - F.cosine_similarity(patches @ projection, taught.read(grid), dim=-1).mean()
            for taught, projection in zip(self.maps, self.projections, strict=True)
        ]
        return torch.stack(distances).mean()


class TeacherMap:
    """The feature map of a teacher that a student follows, taken down whenever the teacher reads pictures."""

    def __init__(self, teacher: Teacher, mirror: bool = False) -> None:
        self.mirror = mirror
        where = f"--teacher {teacher.classifier.folder}: has no feature maps for distill.features"
        network, size = teacher.classifier.network, teacher.classifier.preprocessing.image_size
        inner = getattr(network, "timm_model", None)
        found = [
            stage
            for stage in getattr(inner, "feature_info", None) or []
            if "module" in stage and size // stage["reduction"] >= SMALLEST_MAP
        ]
        if inner is None or not found:
            raise MienError(f"{where}; give a CNN (timm:NAME), or distill.features 0")
        self.channels = int(found[-1]["num_chs"])
        self.last = torch.zeros(0)
        inner.get_submodule(found[-1]["module"]).register_forward_hook(self._take)
        with torch.no_grad():
            network(pixel_values=torch.zeros(1, num_channels(network), size, size, device=network.device))
        if self.last.ndim != 4 or self.last.shape[1] != self.channels:
            raise MienError(f"{where} [channels, height, width]; give a CNN (timm:NAME), or distill.features 0")

    def _take(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        self.last = output

    def read(self, grid: int) -> torch.Tensor:
        """The map, float32 [B, grid * grid, channels], normalised by channel over the batch and then by place."""
        found = (half_mirrored(self.last) if self.mirror else self.last).float()
        deviation, mean = torch.std_mean(found, dim=(0, 2, 3), keepdim=True)
        found = (found - mean) / (deviation + 1e-3)
        if found.shape[-1] != grid:
            found = F.interpolate(found, size=(grid, grid), mode="bilinear", align_corners=False)
        found = found.flatten(2).mT
        return F.layer_norm(found, found.shape[-1:])


def _projection(width: int, channels: int, device: torch.device) -> torch.Tensor:
    """Orthonormal columns, or rows where these are fewer, the same in every run: float32 [width, channels]."""
    found = torch.empty(width, channels)
    nn.init.orthogonal_(found, generator=torch.Generator().manual_seed(0))
    return found.to(device)
