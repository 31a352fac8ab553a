"""Learning from what a CNN sees at each place: the patches of a ViT follow the feature maps of teachers.

A label is one of seven words a picture; a teacher's map has hundreds of numbers at each place of it. Patches that learn
these early need not find by themselves which corners of an eye or mouth matter. The idea is that of FitNets (Romero et
al. 2015, arXiv:1412.6550, section 2.2), both sides normalised as by Wei et al. (2022, arXiv:2205.14141, section 3.2).
The projection between the two is orthogonal and fixed, so that nothing but the student itself learns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import ViTForImageClassification

from mien.errors import MienError
from mien.model.networks import Network, as_vit, num_channels
from mien.training.distil import Teacher, half_mirrored

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
