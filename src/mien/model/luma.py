"""Whether a network that reads three channels reads their luma alone, and its grey weights where it does."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from mien.model.channels import luma_shares
from mien.model.networks import Network, first_convolutions, num_channels
from mien.model.preprocessing import Preprocessing

_ROUNDING = 2.0**-22
"""Four roundings of a float32: what a product and its sum over three channels may be off by, as a share."""


@torch.no_grad()
def grey_weights(network: Network, preprocessing: Preprocessing) -> list[torch.Tensor] | None:
    """Undoes ``mien.model.channels.to_colour``.

    Args:
        network: of one or three channels.
        preprocessing: by which its pictures are normalised.

    Returns:
        float64 [out, 1, height, width] of each first convolution, where the network has one channel, or where the
        weights of its three are one weight times the luma shares, up to rounding: it then answers the same to a
        colour picture and to its luma. None where it sees colour.
    """
    layers = [cast(nn.Conv2d, layer) for layer in first_convolutions(network)]
    weights = [layer.weight.detach().double().cpu() for layer in layers]
    if num_channels(network) == 1:
        return weights
    shares = luma_shares(preprocessing).view(1, 3, 1, 1)
    found = []
    for weight in weights:
        if weight.ndim != 4 or weight.shape[1] != 3:
            return None
        grey = weight.sum(1, keepdim=True) / shares.sum()
        if ((weight - grey * shares).abs() > _ROUNDING * (grey * shares).abs()).any():
            return None
        found.append(grey)
    return found or None


def reads_luma(network: Network, preprocessing: Preprocessing) -> bool:
    """Whether the network needs the luma of a picture alone."""
    return num_channels(network) == 1 or grey_weights(network, preprocessing) is not None
