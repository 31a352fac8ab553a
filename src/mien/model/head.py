"""The linear layer that gives the logits, and scaling it: how a temperature becomes part of the weights."""

from __future__ import annotations

import torch
from torch import nn

from mien.errors import MienError


def head(network: nn.Module) -> nn.Linear:
    """The last layer of a classifier, whose outputs are the logits.

    Args:
        network: a transformers ViT with ``classifier``, or a transformers wrapper around a timm network
            (``timm_model``).

    Raises:
        MienError: the network ends in something else than a linear layer.
    """
    inner = getattr(network, "timm_model", None)
    found = getattr(network, "classifier", None) if inner is None else inner.get_classifier()
    if not isinstance(found, nn.Linear):
        raise MienError(
            f"{type(network if inner is None else inner).__name__}: ends in {type(found).__name__}, expected a linear "
            "head (torch.nn.Linear); choose another --backbone"
        )
    return found


@torch.no_grad()
def scale_head(network: nn.Module, temperature: float) -> None:
    """Divides the logits of a classifier by a temperature, by way of its head's weights and bias, in place.

    Answers keep their order; a temperature above 1 makes them less sure (Guo et al. 2017, arXiv:1706.04599,
    section 4.2).

    Args:
        network: as ``head`` takes it.
        temperature: above 0.

    Raises:
        MienError: the network ends in something else than a linear layer.
        ValueError: the temperature is not above 0.
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature: got {temperature}, expected a finite number above 0")
    for parameter in head(network).parameters():
        parameter.div_(temperature)
