"""Distillation: a student learns the probabilities and the feature maps of trained teachers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from transformers import ViTForImageClassification

from mien.config import DistillConfig
from mien.errors import MienError
from mien.files import sha256_of
from mien.labels import positions
from mien.model.classifier import Classifier
from mien.model.networks import Network, as_vit, logits, num_channels
from mien.model.places import model_folder
from mien.model.preprocessing import Preprocessing
from mien.training.folder import Saved


@dataclass(frozen=True)
class Teacher:
    """A trained classifier that the student learns from; its weights are frozen.

    Attributes:
        classifier: in evaluation mode, on the student's device.
        columns: int64 [C], the teacher's class for each class of the student, matched by name; on the device.
        sha256: hexadecimal, of the file with its weights.
    """

    classifier: Classifier
    columns: torch.Tensor
    sha256: str


def load_teachers(
    folders: Sequence[str], names: tuple[str, ...], device: torch.device, saved: Saved | None = None
) -> list[Teacher]:
    """Reads the teachers of a run.

    Args:
        folders: model folders, or folders of runs.
        names: the student's classes, in the order of its logits.
        device: of the student.
        saved: the state of a run that goes on.

    Raises:
        MienError: a folder holds no classifier, a teacher lacks one of the student's classes, or they are not those of
            the saved run.
    """
    teachers = []
    for path in folders:
        folder = model_folder(path)
        classifier = Classifier.load(folder, device)
        classifier.network.requires_grad_(False)
        where = f"--teacher {path}: cannot teach the classes {', '.join(names)}"
        columns = torch.tensor(positions(names, classifier.names, where), device=device)
        teachers.append(Teacher(classifier, columns, sha256_of(folder / "model.safetensors")))
    if saved is not None:
        _check_same(teachers, saved)
    return teachers


class Distillation:
    """The teachers' part of the loss.

    Args:
        config: weight, temperature, and what the teachers read: every second picture mirrored, a part of each batch.
        teachers: at least one.
        student: the student's preprocessing.
        precision: bf16 or fp32, of the teachers' computation; their weights are prepared for it (``prepare``).
    """

    def __init__(
        self, config: DistillConfig, teachers: Sequence[Teacher], student: Preprocessing, precision: str
    ) -> None:
        self.config, self.teachers, self.student, self.precision = config, teachers, student, precision
        for teacher in teachers:
            prepare(teacher.classifier.network, precision)

    def __call__(self, student_logits: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """The divergence from the teachers times their weight in the loss, float32 [].

        Args:
            student_logits: [B, C].
            pixels: float32 [B, 1 or 3, S, S], augmented and mixed, normalised for the student.
        """
        temperature, weight = self.config.temperature, self.config.weight
        return weight * temperature**2 * soft_divergence(self.probabilities(pixels), student_logits, temperature)

    @torch.no_grad()
    def probabilities(self, pixels: torch.Tensor) -> torch.Tensor:
        """The teachers' mean probabilities for the student's pictures, at the temperature: float32 [B, C].

        If they split the batch, each picture has those of one teacher.
        """
        faces = self.student.denormalise(pixels)
        parts = pictures_of_teachers(len(faces), len(self.teachers), split=self.config.split_batch)
        answers = [
            (self._logits(teacher, faces[part]) / self.config.temperature).softmax(1)
            for teacher, part in zip(self.teachers, parts, strict=True)
        ]
        return torch.cat(answers) if self.config.split_batch else torch.stack(answers).mean(0)

    def _logits(self, teacher: Teacher, faces: torch.Tensor) -> torch.Tensor:
        """A teacher's logits for faces in [0, 1], float32 [B, C], in the order of the student's classes."""
        preprocessing, network = teacher.classifier.preprocessing, teacher.classifier.network
        # The whole picture, whatever the teacher's reading crop: the student's views are zoomed in already.
        view = preprocessing.read(preprocessing.resize(faces), num_channels(network))
        view = half_mirrored(view) if self.config.mirror else view
        with torch.autocast(faces.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return logits(network, view).float()[:, teacher.columns]


@torch.no_grad()
def prepare(network: nn.Module, precision: str) -> None:
    """Prepares a frozen network, in place, to answer in fewer operations.

    Batch norms go into the convolutions before them (Jacob et al. 2018, arXiv:1712.05877, section 3.2), and for bf16
    the weights of linear layers and convolutions are cast once instead of at every step. Answers stay the same up to
    rounding.
    """
    for stack in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for name, following in zip(list(stack._modules), list(stack._modules)[1:], strict=False):
            layer, norm = stack._modules[name], stack._modules[following]
            if type(layer) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.track_running_stats:
                fused = fuse_conv_bn_eval(layer.eval(), norm.eval()).requires_grad_(False)
                fused.weight.data = fused.weight.data.contiguous(memory_format=torch.channels_last)
                stack._modules[name], stack._modules[following] = fused, nn.Identity()
    if precision == "bf16":
        for layer in network.modules():
            if type(layer) in (nn.Linear, nn.Conv2d):
                for weight in layer.parameters(recurse=False):
                    weight.data = weight.data.bfloat16()


def pictures_of_teachers(count: int, teachers: int, *, split: bool) -> list[slice]:
    """The pictures of a batch that each teacher reads: all of them, or an equal part if they split the batch.

    Epochs are shuffled, so a picture comes to another teacher each time. The divergence's gradient is linear in the
    teachers' probabilities: on average it is that of the mean answer of all of them.
    """
    edges = [count * k // teachers for k in range(teachers + 1)]  # ``TrainConfig.batch_unit`` makes the parts equal
    return [slice(start, end) if split else slice(None) for start, end in pairwise(edges)]


def half_mirrored(batch: torch.Tensor) -> torch.Tensor:
    """Mirrors every second picture or map, [B, C, H, W]; a second call undoes the first."""
    mirrored = batch.clone()
    mirrored[1::2] = batch[1::2].flip(-1)
    return mirrored


def soft_divergence(probabilities: torch.Tensor, student_logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL(probabilities || softmax(student_logits / temperature)) in nats, the mean over a batch.

    Args:
        probabilities: float32 [B, C], rows sum to 1.
        student_logits: [B, C].
        temperature: above 0.
    """
    return F.kl_div((student_logits.float() / temperature).log_softmax(1), probabilities, reduction="batchmean")


def teacher_state(teachers: Sequence[Teacher]) -> dict[str, torch.Tensor]:
    """The SHA-256 of each teacher as a part of a run's state: uint8 [32] by number."""
    return {
        str(number): torch.tensor(list(bytes.fromhex(teacher.sha256)), dtype=torch.uint8)
        for number, teacher in enumerate(teachers)
    }


def _check_same(teachers: Sequence[Teacher], saved: Saved) -> None:
    """Checks that the teachers are those of the saved run.

    Raises:
        MienError: their number or the weights of a teacher differ.
    """
    expected, hashes = saved.part("teachers"), teacher_state(teachers)
    if len(expected) != len(hashes):
        raise MienError(f"--resume: the run has {len(expected)} teachers, got {len(hashes)}; give the same --teacher")
    for number, teacher in enumerate(teachers):
        if not torch.equal(expected[str(number)], hashes[str(number)]):
            raise MienError(
                f"--resume: the weights of the teacher {teacher.classifier.folder} differ from those that the run "
                "learnt from; give the same --teacher in the same order"
            )


# Hints: the patches of a ViT learn the feature maps of CNN teachers.
#
# A label says one of seven words about a picture; a teacher's map has hundreds of numbers for each place in it. Patches
# that learn these need not discover alone which corners of an eye or a mouth matter. The idea comes from FitNets
# (Romero et al. 2015, arXiv:1412.6550, section 2.2); both sides are normalised as in Wei et al. (2022,
# arXiv:2205.14141, section 3.2). The projection between the two is orthogonal and fixed, so that only the student
# learns.

SMALLEST_MAP = 4
"""The student follows a teacher's deepest map with at least so many places along a side."""


class Hints:
    """The distance between the patches of a student and the maps of its teachers.

    Maps are normalised over the pictures of a process. A fixed projection takes the student's width to the teacher's
    channels.

    Args:
        network: the student, a ViT.
        teachers: on the student's device; ViTs among them give no hints.
        config: whether the teachers read every second picture mirrored, whose maps are mirrored back, and whether they
            split the batch.
        frozen: number of the student's blocks that stay frozen to the end.

    Raises:
        MienError: the student is no ViT, all blocks that could learn are frozen, a teacher has no such map, or all
            teachers are ViTs.
    """

    def __init__(self, network: Network, teachers: Sequence[Teacher], config: DistillConfig, frozen: int = 0) -> None:
        self.block = len(as_vit(network).vit.layers) // 2
        if frozen >= self.block:
            raise MienError(
                f"distill.features: the feature maps teach the first {self.block} blocks, of which freeze.blocks "
                f"{frozen} leaves none; freeze fewer, or give --freeze.release-epoch"
            )
        self.split, self.readers = config.split_batch, len(teachers)
        self.maps = {
            k: TeacherMap(teacher, config.mirror)
            for k, teacher in enumerate(teachers)
            if not isinstance(teacher.classifier.network, ViTForImageClassification)
        }
        if not self.maps:
            raise MienError("distill.features: every --teacher is a ViT; give a CNN (timm:NAME), or distill.features 0")
        width = as_vit(network).config.hidden_size
        self.projections = {
            k: _projection(width, teacher_map.channels, network.device) for k, teacher_map in self.maps.items()
        }

    def __call__(self, states: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """The mean of 1 - cosine over places and teachers, for the last pictures that the teachers read.

        Args:
            states: of the student: float [B, 1 + patches, width], before the first block, after it, and so on.

        Returns:
            float32 [], in [0, 2].
        """
        patches = states[self.block][:, 1:].float()
        patches = F.layer_norm(patches, patches.shape[-1:])
        grid = round(patches.shape[1] ** 0.5)
        parts = pictures_of_teachers(len(patches), self.readers, split=self.split)
        distances = [
            1 - F.cosine_similarity(patches[parts[k]] @ self.projections[k], teacher_map.read(grid), dim=-1).mean()
            for k, teacher_map in self.maps.items()
        ]
        return torch.stack(distances).mean()


class TeacherMap:
    """The feature map of a teacher that a student follows; a hook stores it whenever the teacher reads pictures."""

    def __init__(self, teacher: Teacher, mirror: bool = False) -> None:
        self.mirror = mirror
        where = f"--teacher {teacher.classifier.folder}: has no feature maps for distill.features"
        network, size = teacher.classifier.network, teacher.classifier.preprocessing.image_size
        inner = getattr(network, "timm_model", None)
        stages = [
            stage
            for stage in getattr(inner, "feature_info", None) or []
            if "module" in stage and size // stage["reduction"] >= SMALLEST_MAP
        ]
        if inner is None or not stages:
            raise MienError(f"{where}; give a CNN (timm:NAME), or distill.features 0")
        self.channels = int(stages[-1]["num_chs"])
        self.last = torch.zeros(0)
        inner.get_submodule(stages[-1]["module"]).register_forward_hook(self._store)
        half = any(weight.dtype == torch.bfloat16 for weight in network.parameters())  # by ``prepare``
        with torch.no_grad(), torch.autocast(network.device.type, torch.bfloat16, enabled=half):
            network(pixel_values=torch.zeros(1, num_channels(network), size, size, device=network.device))
        if self.last.ndim != 4 or self.last.shape[1] != self.channels:
            raise MienError(f"{where} [channels, height, width]; give a CNN (timm:NAME), or distill.features 0")

    def _store(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        self.last = output

    def read(self, grid: int) -> torch.Tensor:
        """The map, float32 [B, grid * grid, channels], normalised by channel over the batch and then by place."""
        features = (half_mirrored(self.last) if self.mirror else self.last).float()
        deviation, mean = torch.std_mean(features, dim=(0, 2, 3), keepdim=True)
        features = (features - mean) / (deviation + 1e-3)
        if features.shape[-1] != grid:
            features = F.interpolate(features, size=(grid, grid), mode="bilinear", align_corners=False)
        features = features.flatten(2).mT
        return F.layer_norm(features, features.shape[-1:])


def _projection(width: int, channels: int, device: torch.device) -> torch.Tensor:
    """Orthonormal columns, or rows if there are fewer rows, the same in every run: float32 [width, channels]."""
    projection = torch.empty(width, channels)
    nn.init.orthogonal_(projection, generator=torch.Generator().manual_seed(0))
    return projection.to(device)
