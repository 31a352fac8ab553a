"""Changes how many colour channels a network reads, without changing its answers to grey pictures."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from transformers import ViTForImageClassification

from mien.model.networks import Network, first_convolutions, num_channels, set_channels
from mien.model.preprocessing import LUMA, Preprocessing


@torch.no_grad()
def to_grey(network: ViTForImageClassification, preprocessing: Preprocessing) -> None:
    """Turns a three-channel patch embedding into the one-channel one that answers the same on grey pictures, in place.

    With grey ``x`` in every channel, channel c reads (x - m_c) / s_c = (s / s_c) (x - m) / s + (m - m_c) / s_c, where
    m and s are the luma of the means and deviations; the second term is constant and moves into the bias.
    """
    projection = network.vit.embeddings.patch_embeddings.projection
    if projection.bias is None:
        raise ValueError("expected a patch embedding with a bias, as every ViT of transformers has")
    mean, std = preprocessing.grey_mean, preprocessing.grey_std
    channel_mean, channel_std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
    weight = projection.weight.double().cpu()
    constant = (weight.sum((2, 3)) * ((mean - channel_mean) / channel_std)).sum(1)
    projection.bias.add_(constant.to(projection.bias))
    _replace(projection, (weight * (std / channel_std).view(1, 3, 1, 1)).sum(1, keepdim=True))
    set_channels(network, 1)


@torch.no_grad()
def to_colour(network: Network, preprocessing: Preprocessing) -> None:
    """Turns one-channel first convolutions into the three-channel ones that read the luma of RGB, in place.

    Padding stays exact: what is zero in every channel is zero in the luma.

    Args:
        network: one for which ``mien.model.networks.channels_can_change``.
        preprocessing: by which its pictures are normalised.
    """
    share = luma_shares(preprocessing)
    for layer in first_convolutions(network):
        convolution = cast(nn.Conv2d, layer)
        _replace(convolution, convolution.weight.double().cpu() * share.view(1, 3, 1, 1))
    set_channels(network, 3)


def luma_shares(preprocessing: Preprocessing) -> torch.Tensor:
    """float64 [3], by what ``to_colour`` multiplies a grey weight for red, green and blue."""
    # In float32, as in every model that was saved; the shares sum to 1.
    return (torch.tensor(LUMA) * torch.tensor(preprocessing.std) / preprocessing.grey_std).double()


def _replace(convolution: nn.Conv2d, weight: torch.Tensor) -> None:
    old = convolution.weight
    convolution.weight = nn.Parameter(weight.to(old), requires_grad=old.requires_grad)
    convolution.in_channels = weight.shape[1]


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
