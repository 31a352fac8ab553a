"""Fresh encoders at the size of a FER2013 face, and how their weights start."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from mien.config import PRESETS

FER2013_MEAN, FER2013_STD = 0.5077, 0.2549
"""Mean and standard deviation of the Training pixels, as shares of white."""


@dataclass(frozen=True)
class Preset:
    """The shape of a plain ViT encoder.

    Attributes:
        image_size: height and width of the input, in pixels.
        patch_size: height and width of a patch, in pixels.
        hidden_size: width of the residual stream.
        depth: number of blocks.
        heads: attention heads a block.
    """

    patch_size: int
    hidden_size: int
    depth: int
    heads: int
    image_size: int = 48

    def config(self, num_channels: int) -> ViTConfig:
        """The configuration of transformers, with an MLP four times as wide as the stream (Dosovitskiy et al. 2020)."""
        return ViTConfig(
            image_size=self.image_size,
            patch_size=self.patch_size,
            num_channels=num_channels,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.depth,
            num_attention_heads=self.heads,
            intermediate_size=4 * self.hidden_size,
        )


SHAPES: dict[str, Preset] = dict(
    zip(
        PRESETS,
        (
            Preset(patch_size=8, hidden_size=128, depth=6, heads=2),
            Preset(patch_size=6, hidden_size=192, depth=12, heads=3),
            Preset(patch_size=4, hidden_size=384, depth=12, heads=6),
            Preset(patch_size=6, hidden_size=768, depth=12, heads=12),
        ),
        strict=True,
    )
)


def sincos_positions(grid: int, width: int) -> torch.Tensor:
    """Fixed two-dimensional sine-cosine positions, zero for [CLS] (He et al. 2022, appendix A.1).

    Args:
        grid: patches along each side.
        width: width of the encoder, a multiple of 4.

    Returns:
        float32 [1, grid * grid + 1, width]; the first half of the width encodes columns, the second rows.
    """
    frequencies = 1.0 / 10000 ** (torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")

    def encode(position: torch.Tensor) -> torch.Tensor:
        angles = position.reshape(-1, 1).double() * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    table = torch.cat([encode(columns), encode(rows)], dim=1)
    return torch.cat([torch.zeros(1, width, dtype=table.dtype), table]).float()[None]


@torch.no_grad()
def initialise(network: ViTForImageClassification, preset: Preset) -> None:
    """Starts a fresh classifier as He et al. 2022 do: Xavier weights, fixed sine-cosine positions; a head of zeros."""
    vit = network.vit
    for module in vit.layers.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            module.bias.zero_()
    projection = vit.embeddings.patch_embeddings.projection
    nn.init.xavier_uniform_(projection.weight.view(preset.hidden_size, -1))
    for parameter in projection.parameters():
        if parameter.ndim == 1:
            parameter.zero_()
    grid = preset.image_size // preset.patch_size
    vit.embeddings.position_embeddings.copy_(sincos_positions(grid, preset.hidden_size))
    nn.init.trunc_normal_(vit.embeddings.cls_token, std=0.02)
    for parameter in network.classifier.parameters():
        parameter.zero_()
