"""Initial weights of a new encoder, with which [CLS] attends to the whole face from the first step on.

With the usual initial weights, a small ViT on small data predicts the commonest class for several epochs: [CLS] reads
the mean over all patches, which no longer says which patch was where. Here each head of [CLS] attends to one place of
the face, and passes what it reads there to the residual stream, where a linear model can use it. All weights but the
positions are trained afterwards, and the network stays a plain ViT. LOG.md has the measurements.
"""

from __future__ import annotations

import math
import random
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F
from transformers import ViTForImageClassification, ViTMAEModel, ViTModel

WAVELENGTH = 10.0
"""Base of the frequencies of the positions. With the usual 10,000, chosen for hundreds of patches along a side, nearly
all entries would be the same for the few patches of a small picture."""

POSITION_SCALE = 0.5
"""Root mean square of an entry of the positions."""

PATCH_GAIN = 1.5
"""Gain of the patch embedding over Xavier's."""

SHARPNESS = 3.0
"""Gain of the queries of [CLS]; a higher one concentrates the attention of a head more on its place."""

VALUE_GAIN = 0.7
"""Gain of the orthogonal values and outputs of the attention."""

MLP_GAIN = 0.1
"""Gain of the second layer of each MLP over Xavier's: blocks start near the identity."""


@torch.no_grad()
def initialise(network: ViTForImageClassification) -> None:
    """Sets the initial weights of a classifier from torch's global random state; its head starts at zero."""
    initialise_encoder(network.vit)
    for parameter in network.classifier.parameters():
        parameter.zero_()


@torch.no_grad()
def initialise_encoder(vit: ViTModel | ViTMAEModel) -> None:
    """Sets the initial weights of an encoder from torch's global random state."""
    embeddings = vit.embeddings
    xavier(vit.layers)
    projection = embeddings.patch_embeddings.projection
    width = len(projection.weight)
    nn.init.xavier_uniform_(projection.weight.view(width, -1), PATCH_GAIN)
    if projection.bias is not None:
        projection.bias.zero_()
    grid = math.isqrt(embeddings.position_embeddings.shape[1] - 1)
    embeddings.position_embeddings.copy_(positions(grid, width))
    _look(vit, embeddings.position_embeddings[0, 1:])


def positions(grid: int, width: int) -> torch.Tensor:
    """Fixed two-dimensional sine-cosine positions with a mean of zero over the patches; zero for [CLS].

    Args:
        grid: patches along each side.
        width: width of the encoder, a multiple of 4.

    Returns:
        float32 [1, grid * grid + 1, width]; the first half of the width encodes columns, the second rows.
    """
    frequencies = 1.0 / WAVELENGTH ** (torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")

    def encode(position: torch.Tensor) -> torch.Tensor:
        angles = position.reshape(-1, 1).double() * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    table = torch.cat([encode(columns), encode(rows)], dim=1)
    table -= table.mean(dim=0)
    if grid > 1:
        table *= POSITION_SCALE / table.square().mean().sqrt()
    return torch.cat([torch.zeros(1, width, dtype=table.dtype), table]).float()[None]


def xavier(module: nn.Module) -> None:
    """Sets Xavier-uniform weights and zero biases in every linear layer of a module."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


def _look(vit: ViTModel | ViTMAEModel, table: torch.Tensor) -> None:
    """Makes each head of [CLS] attend to its own place of the face.

    Args:
        vit: the encoder, changed in place.
        table: float32 [patches, width], its positions.
    """
    heads, width = vit.config.num_attention_heads, table.shape[1]
    size = width // heads
    places = _places(table, heads * len(vit.layers))
    # [CLS] gets a direction at right angles to those in which positions differ most. Only this direction makes a query,
    # so at first only [CLS] attends to chosen places.
    cls = torch.randn(width)
    axes = torch.linalg.svd(table, full_matrices=False).Vh[: width // 6]
    cls = F.normalize(cls - axes.T @ (axes @ cls), dim=0)
    vit.embeddings.cls_token.copy_(cls.view(1, 1, -1) * math.sqrt(width))
    # A fixed shuffle, the same for every seed, so that the heads of a layer attend to places far apart.
    order = random.Random(0).sample(range(len(places)), len(places))
    for number, layer in enumerate(vit.layers):
        attention, mlp = cast(Any, layer.attention), cast(Any, layer.mlp)
        attention.v_proj.weight.copy_(VALUE_GAIN * _orthogonal(width, width))
        attention.o_proj.weight.copy_(VALUE_GAIN * _orthogonal(width, width))
        mlp.fc2.weight.mul_(MLP_GAIN)
        for head in range(heads):
            rows = slice(head * size, (head + 1) * size)
            keys = _orthogonal(width, size).T
            place = places[order[(number * heads + head) % len(places)]]
            attention.k_proj.weight[rows] = keys
            attention.q_proj.weight[rows] = SHARPNESS * torch.outer(F.normalize(keys @ place, dim=0), cls)


def _places(table: torch.Tensor, count: int) -> torch.Tensor:
    """Unit position vectors of at most ``count`` places on a square grid over the face, float32 [places, width]."""
    grid, width = math.isqrt(len(table)), table.shape[1]
    side = min(grid, math.isqrt(count))
    planes = table.view(1, grid, grid, width).permute(0, 3, 1, 2)
    places = F.interpolate(planes, size=(side, side), mode="bicubic", align_corners=False)
    return F.normalize(places[0].permute(1, 2, 0).reshape(-1, width), dim=1)


def _orthogonal(rows: int, columns: int) -> torch.Tensor:
    """Random orthonormal columns, float32 [rows, columns]."""
    return nn.init.orthogonal_(torch.empty(rows, columns))
