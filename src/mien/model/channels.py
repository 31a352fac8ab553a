"""Changes the number of channels that a network reads without changing its answers to grey pictures."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from transformers import ViTForImageClassification

from mien.model.networks import Network, first_convolutions, num_channels, set_channels
from mien.model.preprocessing import LUMA, Preprocessing


@torch.no_grad()
def to_grey(network: ViTForImageClassification, preprocessing: Preprocessing) -> None:
    """Gives a three-channel ViT one channel, in place; its answers to grey pictures stay.

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
    """Gives a one-channel network three channels, in place, of which it reads the luma.

    Zero padding stays exact: what is zero in every channel is zero in the luma.

    Args:
        network: ``mien.model.networks.channels_can_change`` is true of it.
        preprocessing: of the network.
    """
    share = luma_shares(preprocessing)
    for layer in first_convolutions(network):
        convolution = cast(nn.Conv2d, layer)
        _replace(convolution, convolution.weight.double().cpu() * share.view(1, 3, 1, 1))
    set_channels(network, 3)


@torch.no_grad()
def undo_colour(network: Network, preprocessing: Preprocessing) -> None:
    """Undoes ``to_colour``, in place; a network that sees colour stays as it is."""
    weights = grey_weights(network, preprocessing)
    if weights is not None and num_channels(network) == 3:
        for layer, weight in zip(first_convolutions(network), weights, strict=True):
            _replace(cast(nn.Conv2d, layer), weight)
        set_channels(network, 1)


def luma_shares(preprocessing: Preprocessing) -> torch.Tensor:
    """The factors of a grey weight for red, green and blue in ``to_colour``, float64 [3]."""
    # Computed in float32, as for every saved model; the shares sum to 1.
    return (torch.tensor(LUMA) * torch.tensor(preprocessing.std) / preprocessing.grey_std).double()


def _replace(convolution: nn.Conv2d, weight: torch.Tensor) -> None:
    old = convolution.weight
    convolution.weight = nn.Parameter(weight.to(old), requires_grad=old.requires_grad)
    convolution.in_channels = weight.shape[1]


_ROUNDING = 2.0**-22
"""Largest relative error of a float32 product and its sum over three channels: four roundings."""


@torch.no_grad()
def grey_weights(network: Network, preprocessing: Preprocessing) -> list[torch.Tensor] | None:
    """The weights that a network had before ``to_colour``.

    Args:
        network: of one or three channels.
        preprocessing: of the network.

    Returns:
        The one-channel weights of each first convolution, float64 [out, 1, height, width]; None if the network sees
        colour. It does not if it has one channel, or if the weights of its three channels are one weight times the luma
        shares, up to rounding: it then answers the same to a colour picture and to its luma.
    """
    layers = [cast(nn.Conv2d, layer) for layer in first_convolutions(network)]
    weights = [layer.weight.detach().double().cpu() for layer in layers]
    if num_channels(network) == 1:
        return weights
    shares = luma_shares(preprocessing).view(1, 3, 1, 1)
    summed = []
    for weight in weights:
        if weight.ndim != 4 or weight.shape[1] != 3:
            return None
        grey = weight.sum(1, keepdim=True) / shares.sum()
        if ((weight - grey * shares).abs() > _ROUNDING * (grey * shares).abs()).any():
            return None
        summed.append(grey)
    return summed or None


def reads_luma(network: Network, preprocessing: Preprocessing) -> bool:
    """Whether the network needs only the luma of a picture."""
    return num_channels(network) == 1 or grey_weights(network, preprocessing) is not None
