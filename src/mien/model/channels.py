"""One channel for grey faces, three for everybody else: exact conversions of the patch embedding.

FER2013 is grey. A network trained on it reads one channel; saved, it reads three, with the luma weights folded into
its patch embedding, so that tools that feed RGB get the answer of the grey picture, and a colour photo counts as its
luma.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import ViTForImageClassification

from mien.model.preprocessing import LUMA, Preprocessing


@torch.no_grad()
def to_grey(network: ViTForImageClassification, preprocessing: Preprocessing) -> None:
    """Turns a three-channel patch embedding into the one-channel one that answers the same on grey pictures, in place.

    With grey ``x`` in every channel, channel c reads (x - m_c) / s_c = (s / s_c) (x - m) / s + (m - m_c) / s_c, where
    m and s are the luma of the means and deviations; the second term is constant and moves into the bias.
    """
    old = network.vit.embeddings.patch_embeddings.projection
    mean, std = preprocessing.grey_mean, preprocessing.grey_std
    channel_mean, channel_std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
    weight = old.weight.double().cpu()
    grey = (weight * (std / channel_std).view(1, 3, 1, 1)).sum(1, keepdim=True)
    constant = (weight.sum((2, 3)) * ((mean - channel_mean) / channel_std)).sum(1)
    _replace(network, grey, _bias(old) + constant)


@torch.no_grad()
def to_colour(network: ViTForImageClassification, preprocessing: Preprocessing) -> None:
    """Turns a one-channel patch embedding into the three-channel one that reads the luma of RGB, in place."""
    old = network.vit.embeddings.patch_embeddings.projection
    share = torch.tensor(LUMA) * torch.tensor(preprocessing.std) / preprocessing.grey_std
    _replace(network, old.weight.double().cpu() * share.view(1, 3, 1, 1), _bias(old))


def _bias(projection: nn.Conv2d) -> torch.Tensor:
    if projection.bias is None:
        raise ValueError("expected a patch embedding with a bias, as every ViT of transformers has")
    return projection.bias.double().cpu()


def _replace(network: ViTForImageClassification, weight: torch.Tensor, bias: torch.Tensor) -> None:
    patches = network.vit.embeddings.patch_embeddings
    old: nn.Conv2d = patches.projection
    width, channels, height, breadth = weight.shape
    new = nn.Conv2d(channels, width, kernel_size=(height, breadth), stride=(height, breadth))
    new.load_state_dict({"weight": weight.float(), "bias": bias.float()})
    patches.projection = new.to(old.weight.device)
    patches.num_channels = network.config.num_channels = channels
