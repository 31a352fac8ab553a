"""A small residual network for pictures of 48 px, registered with timm: ``timm:face_cnn``.

timm's networks halve a picture four or five times, which suits 224 px; on FER2013 they need enlarged pictures and learn
slowly. This network reads 48 px directly, in three stages with 24, 12 and 6 places along a side. It serves as a
teacher, not as the model that reads faces. Other tools can open its folder after ``mien.model.face_cnn`` is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import DropPath
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

NAME = "face_cnn"
"""Name of the network in timm."""

default_cfgs = generate_default_cfgs(
    {
        NAME: {
            "input_size": (3, 48, 48),  # as of every network of timm: three channels unless fewer are asked for
            "num_classes": 7,
            "first_conv": "stem.0",
            "classifier": "head",
            "interpolation": "bilinear",
        }
    }
)


class FaceCNN(nn.Module):
    """A convolution and a pooling, then stages of residual blocks with poolings between them (He et al. 2016).

    Args:
        num_classes: number of logits.
        in_chans: channels of the pictures.
        stem_width: channels of the first convolution.
        channels: of each stage.
        layers: residual blocks of each stage.
        drop_rate: dropout before the head, in [0, 1).
        drop_path_rate: stochastic depth of the last block, in [0, 1), rising linearly from 0 (Huang et al. 2016).

    Raises:
        ValueError: ``channels`` and ``layers`` differ in length.
    """

    pretrained_cfg: dict[str, Any]

    def __init__(
        self,
        num_classes: int = 7,
        in_chans: int = 3,
        stem_width: int = 32,
        channels: Sequence[int] = (64, 128, 256),
        layers: Sequence[int] = (1, 1, 1),
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if len(channels) != len(layers):
            raise ValueError(
                f"channels, layers: got {len(channels)} and {len(layers)} stages, expected as many of each"
            )
        self.num_classes = num_classes
        self.num_features = channels[-1]
        self.stem = nn.Sequential(*_convolution(in_chans, stem_width, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        stages: list[nn.Module] = []
        self.feature_info: list[dict[str, Any]] = []
        width = stem_width
        rates = iter([drop_path_rate * block / max(1, sum(layers) - 1) for block in range(sum(layers))])
        for index, (wider, depth) in enumerate(zip(channels, layers, strict=True)):
            pooling = [nn.MaxPool2d(2)] if index else []
            blocks = [Residual(width if first == 0 else wider, wider, next(rates)) for first in range(depth)]
            stages.append(nn.Sequential(*pooling, *blocks))
            self.feature_info.append({"num_chs": wider, "reduction": 2 ** (index + 1), "module": f"stages.{index}"})
            width = wider
        self.stages = nn.Sequential(*stages)
        self.drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(width, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")

    def get_classifier(self) -> nn.Module:
        """The head, under the name that timm's networks use."""
        return self.head

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The layer of each parameter, for timm's layer decay."""
        return {"stem": r"^stem", "blocks": [(r"^stages\.(\d+)", None)]}

    def forward_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """The last feature map: float [B, C, S, S] to [B, channels of the last stage, S / 8, S / 8]."""
        features: torch.Tensor = self.stages(self.stem(pixels))
        return features

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """The logits [B, classes] of a feature map, or with ``pre_logits`` its mean over places [B, channels]."""
        pooled = self.drop(features.mean((2, 3)))
        return pooled if pre_logits else self.head(pooled)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """float [B, C, S, S], normalised, to logits [B, classes]."""
        return self.forward_head(self.forward_features(pixels))


class Residual(nn.Module):
    """Adds two 3x3 convolutions to the input, or to a 1x1 convolution of it if the width changes.

    Args:
        width: channels of the input.
        wider: channels of the output.
        drop_path: share of the pictures for which training leaves the two convolutions out.
    """

    def __init__(self, width: int, wider: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Sequential(*_convolution(width, wider, 3))
        self.second = nn.Sequential(*_convolution(wider, wider, 3))
        self.beside = nn.Identity() if width == wider else nn.Sequential(*_convolution(width, wider, 1))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, width, S, S] to [B, wider, S, S]."""
        output: torch.Tensor = self.activation(
            self.beside(x) + self.drop_path(self.second(self.activation(self.first(x))))
        )
        return output


def _convolution(width: int, wider: int, side: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(width, wider, side, padding=side // 2, bias=False), nn.BatchNorm2d(wider)


@register_model
def face_cnn(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Builds a ``FaceCNN`` for ``timm.create_model``; there are no pretrained weights."""
    network: nn.Module = build_model_with_cfg(FaceCNN, NAME, pretrained, **arguments)
    return network
