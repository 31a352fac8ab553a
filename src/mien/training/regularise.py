"""What makes training noisier on purpose, attached to the network without touching its weights or their names."""

from __future__ import annotations

import numpy as np
import torch
from timm.layers import DropPath
from torch import nn
from transformers import ViTForImageClassification


def add_drop_path(network: ViTForImageClassification, rate: float) -> None:
    """Stochastic depth, from 0 in the first block to ``rate`` in the last (Huang et al. 2016, arXiv:1603.09382)."""
    for layer, layer_rate in zip(network.vit.layers, np.linspace(0, rate, len(network.vit.layers)), strict=True):
        if layer_rate > 0:
            # transformers applies this module to both residual branches just before they are added.
            layer.dropout = DropPath(float(layer_rate))


class TokenDrop:
    """Leaves out a random share of the patch tokens in training (PatchDropout, Liu et al. 2022, arXiv:2208.07220).

    Attributes:
        rate: share of the patches left out from now on, in [0, 1). In evaluation every patch is visible.
    """

    def __init__(self, network: ViTForImageClassification) -> None:
        self.rate = 0.0
        self.network = network
        network.vit.embeddings.register_forward_hook(self._hook)

    def _hook(self, module: nn.Module, inputs: object, tokens: torch.Tensor) -> torch.Tensor:
        # The embeddings may be frozen and in evaluation mode while the head trains: the head's mode decides.
        if self.rate == 0 or not self.network.classifier.training:
            return tokens
        return random_tokens(tokens, 1 - self.rate)


def random_tokens(tokens: torch.Tensor, share: float) -> torch.Tensor:
    """[CLS] and a random share of the patches of each image.

    Args:
        tokens: [B, 1 + N, D], [CLS] first.
        share: how many of the patches stay, in (0, 1]; at least one does.

    Returns:
        [B, 1 + round(share * N), D]; which patches stay is drawn from torch's global generator.
    """
    batch, count, width = tokens.shape
    kept = max(1, round((count - 1) * share))
    order = torch.rand(batch, count - 1, device=tokens.device).argsort(dim=1)[:, :kept]
    index = torch.cat([order.new_zeros(batch, 1), order + 1], dim=1)
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, width))
