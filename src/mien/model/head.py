"""The linear layers that give the logits: their rows a class, and scaling them by a temperature."""

from __future__ import annotations

import torch
from torch import nn

from mien.errors import MienError
from mien.labels import canonical

FRESH_DEVIATION = 0.02
"""Standard deviation of the weights of a new row, as in every ViT of transformers."""


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


@torch.no_grad()
def carry_rows(network: nn.Module, own: tuple[str, ...], names: tuple[str, ...]) -> None:
    """Gives a classifier the classes ``names``, in place: those it has keep their rows of the heads, others start new.

    For two classes that it has, the difference of their logits stays as it was, so that a subset answers as the whole
    does when the other classes are ruled out.

    Args:
        network: as ``heads`` takes it.
        own: its classes, in the order of its logits.
        names: the classes that it gets, in the order that the logits will have; matched by ``labels.canonical``.

    Raises:
        MienError: the network ends in something else than linear layers.
    """
    order = {canonical(name): row for row, name in enumerate(own)}
    rows = [order.get(canonical(name)) for name in names]
    for layer in heads(network):
        weight = nn.init.trunc_normal_(layer.weight.new_empty(len(names), *layer.weight.shape[1:]), std=FRESH_DEVIATION)
        bias = None if layer.bias is None else layer.bias.new_zeros(len(names))
        for row, former in enumerate(rows):
            if former is not None:
                weight[row] = layer.weight[former]
                if bias is not None and layer.bias is not None:
                    bias[row] = layer.bias[former]
        layer.weight = nn.Parameter(weight)
        layer.bias = None if bias is None else nn.Parameter(bias)
        if isinstance(layer, nn.Conv2d):
            layer.out_channels = len(names)
        else:
            layer.out_features = len(names)


def rows_line(own: tuple[str, ...], names: tuple[str, ...]) -> str:
    """What ``carry_rows`` does with each class, in one line."""
    ours, theirs = {canonical(name) for name in own}, {canonical(name) for name in names}
    parts = {
        "kept": [name for name in names if canonical(name) in ours],
        "new": [name for name in names if canonical(name) not in ours],
        "left out": [name for name in own if canonical(name) not in theirs],
    }
    return "head: " + "; ".join(f"{what}: {', '.join(group)}" for what, group in parts.items() if group)
