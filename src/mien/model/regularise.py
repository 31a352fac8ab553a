"""Stochastic depth, put into the network without touching its weights or their names."""

from __future__ import annotations

import numpy as np
from timm.layers import DropPath
from transformers import ViTForImageClassification


def add_drop_path(network: ViTForImageClassification, rate: float) -> None:
    """Stochastic depth, from 0 in the first block to ``rate`` in the last (Huang et al. 2016, arXiv:1603.09382)."""
    for layer, layer_rate in zip(network.vit.layers, np.linspace(0, rate, len(network.vit.layers)), strict=True):
        if layer_rate > 0:
            # transformers applies this module to both residual branches just before they are added.
            layer.dropout = DropPath(float(layer_rate))
