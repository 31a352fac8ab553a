"""The linear layers that give the logits, and scaling them: how a temperature becomes part of the weights."""

from __future__ import annotations

import torch
from torch import nn

from mien.errors import MienError


def heads(network: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    """The last layers of a classifier, whose outputs are the logits, or are averaged or added up to them.

    Nearly always there is one. Some networks of timm have one a branch, or one more that learns from a teacher.

    Args:
        network: a transformers ViT with ``classifier``, or a transformers wrapper around a timm network
            (``timm_model``).

    Raises:
        MienError: the network ends in something else than linear layers.
    """
    inner = getattr(network, "timm_model", None)
    ends = getattr(network, "classifier", None) if inner is None else inner.get_classifier()
    modules = [end for end in (ends if isinstance(ends, tuple) else (ends,)) if isinstance(end, nn.Module)]
    found = [
        layer
        for module in modules
        for layer in module.modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and (inner is None or len(layer.weight) == inner.num_classes)
    ]
    if not found:
        raise MienError(
            f"{type(network if inner is None else inner).__name__}: ends in {type(ends).__name__}, expected a linear "
            "head (torch.nn.Linear); choose another --backbone"
        )
    return found


@torch.no_grad()
def scale_head(network: nn.Module, temperature: float) -> None:
    """Divides the logits of a classifier by a temperature, by way of its heads' weights and biases, in place.

    Answers keep their order; a temperature above 1 makes them less sure (Guo et al. 2017, arXiv:1706.04599,
    section 4.2).

    Args:
        network: as ``heads`` takes it.
        temperature: above 0.

    Raises:
        MienError: the network ends in something else than linear layers.
        ValueError: the temperature is not above 0.
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature: got {temperature}, expected a finite number above 0")
    for layer in heads(network):
        for parameter in layer.parameters():
            parameter.div_(temperature)
