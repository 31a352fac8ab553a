"""Fresh encoders at the size of a FER2013 face, and how their weights start."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification, ViTMAEModel, ViTModel

from mien.config import PRESETS

FER2013_MEAN, FER2013_STD = 0.5077, 0.2549
"""Mean and standard deviation of the Training pixels, as shares of white."""


@dataclass(frozen=True)
class Preset:
    """The shape of a plain ViT encoder.

    Attributes:
        patch_size: height and width of a patch, in pixels.
        hidden_size: width of the residual stream.
        depth: number of blocks.
        heads: attention heads a block.
        decoder_size: width of the decoder in pretraining. Small sets want small decoders (MAE-Lite, Wang et al. 2023,
            arXiv:2205.14443).
        decoder_depth: number of its blocks.
        image_size: height and width of the input, in pixels.
    """

    patch_size: int
    hidden_size: int
    depth: int
    heads: int
    decoder_size: int
    decoder_depth: int
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
            Preset(patch_size=8, hidden_size=128, depth=6, heads=2, decoder_size=64, decoder_depth=1),
            Preset(patch_size=6, hidden_size=192, depth=12, heads=3, decoder_size=96, decoder_depth=1),
            Preset(patch_size=4, hidden_size=384, depth=12, heads=6, decoder_size=192, decoder_depth=2),
            Preset(patch_size=6, hidden_size=768, depth=12, heads=12, decoder_size=256, decoder_depth=4),
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
def initialise(network: ViTForImageClassification) -> None:
    """Starts a fresh classifier: the encoder as He et al. 2022 do, a head of zeros."""
    initialise_encoder(network.vit)
    for parameter in network.classifier.parameters():
        parameter.zero_()


@torch.no_grad()
def initialise_encoder(vit: ViTModel | ViTMAEModel) -> None:
    """Xavier weights, fixed sine-cosine positions, a normal [CLS] (He et al. 2022, appendix A.1)."""
    embeddings = vit.embeddings
    xavier(vit.layers)
    projection = embeddings.patch_embeddings.projection
    width = len(projection.weight)
    nn.init.xavier_uniform_(projection.weight.view(width, -1))
    if projection.bias is not None:
        projection.bias.zero_()
    grid = math.isqrt(embeddings.position_embeddings.shape[1] - 1)
    embeddings.position_embeddings.copy_(sincos_positions(grid, width))
    nn.init.trunc_normal_(embeddings.cls_token, std=0.02)


def xavier(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for every linear layer within."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
