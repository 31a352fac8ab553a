"""Explanations that look into a Vision Transformer: attention, attention rollout, and attention weighted by gradients.

They need torch and a model folder with its weights; ``mien.recognition.explanation.explain`` works without either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from transformers import ViTForImageClassification

from mien.errors import MienError
from mien.model.classifier import Classifier
from mien.model.networks import num_channels
from mien.model.preprocessing import tensor


def raw_attention(classifier: Classifier, crop: np.ndarray, label: int) -> np.ndarray:
    """How much the [CLS] token of the last block attends to each patch, mean over heads: what others must beat.

    Args:
        classifier: a ViT.
        crop: uint8 [S, S] (grey) or [S, S, 3] (RGB), a face.
        label: position of the expression; of no influence, as attention asks for none.

    Returns:
        float32 [G, G], a number a patch, in [0, 1].

    Raises:
        MienError: the network is no ViT.
    """
    with torch.no_grad():
        _, attentions = _attend(classifier, crop)
    return _grid(attentions[-1][0].mean(0)[0, 1:])


def rollout(classifier: Classifier, crop: np.ndarray, label: int) -> np.ndarray:
    """Attention rollout (Abnar and Zuidema 2020, arXiv:2005.00928, section 3), the row of [CLS].

    Arguments and errors are those of ``raw_attention``; the label is of no influence here either.

    Returns:
        float32 [G, G], the share of the last [CLS] that flows from each patch, in [0, 1].
    """
    with torch.no_grad():
        _, attentions = _attend(classifier, crop)
        return _grid(rolled_out([block[0] for block in attentions])[0, 1:])


def gradient(classifier: Classifier, crop: np.ndarray, label: int) -> np.ndarray:
    """Attention weighted by the gradient of the label's logit (Chefer et al. 2021, arXiv:2103.15679, section 3.1).

    Arguments and errors are those of ``raw_attention``; here the label matters.

    Returns:
        float32 [G, G], relevance of each patch for the label, at least 0, of no unit.
    """
    # A caller may be reading in inference mode, in which no gradient can be taken.
    with torch.inference_mode(False), torch.enable_grad():
        logits, attentions = _attend(classifier, crop, differentiable=True)
        gradients = torch.autograd.grad(logits[label], attentions)
    with torch.no_grad():
        blocks, slopes = ([block[0] for block in found] for found in (attentions, gradients))
        return _grid(propagated(blocks, slopes)[0, 1:])


ATTENTION: dict[str, Callable[[Classifier, np.ndarray, int], np.ndarray]] = {
    "attention": raw_attention,
    "rollout": rollout,
    "gradient": gradient,
}
"""The methods of this module, by name."""


def rolled_out(attentions: Sequence[torch.Tensor]) -> torch.Tensor:
    """The product of all blocks' attention, each mixed half and half with the residual path.

    Args:
        attentions: float [H, T, T] a block, from the first to the last; rows sum to 1.

    Returns:
        float [T, T]; rows sum to 1.
    """
    flow = torch.eye(attentions[0].shape[-1], dtype=attentions[0].dtype, device=attentions[0].device)
    for attention in attentions:
        flow = (attention.mean(0) @ flow + flow) / 2
    return flow


def propagated(attentions: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """Relevance of every token for every other, carried through the blocks (equations 5 and 6 of the paper).

    Args:
        attentions: float [H, T, T] a block, from the first to the last.
        gradients: of a logit by each, of the same shapes.

    Returns:
        float [T, T], at least 0; what no block adds to is the identity.
    """
    relevance = torch.eye(attentions[0].shape[-1], dtype=attentions[0].dtype, device=attentions[0].device)
    for attention, slope in zip(attentions, gradients, strict=True):
        relevance = relevance + (attention * slope).clamp(min=0).mean(0) @ relevance
    return relevance


def _attend(
    classifier: Classifier, crop: np.ndarray, *, differentiable: bool = False
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits [C] of a crop, and the attention [1, H, T, T] of each block; row t is where token t looks."""
    network = classifier.network
    if not isinstance(network, ViTForImageClassification):
        name = getattr(network.config, "architecture", type(network).__name__)
        raise MienError(f"got a network without [CLS] attention ({name}), expected a ViT; use the method occlusion")
    network.eval()
    images = tensor(crop[None]).to(classifier.device)
    pixels = classifier.preprocessing.of_crops(images, num_channels(network)).requires_grad_(differentiable)
    with _eager(network):
        found = network(pixel_values=pixels, interpolate_pos_encoding=True, output_attentions=True)
    return found.logits[0], list(found.attentions)


@contextmanager
def _eager(network: ViTForImageClassification) -> Iterator[None]:
    """Computes attention step by step within the block: the fused kernels give no weights."""
    before = network.config._attn_implementation
    network.set_attn_implementation("eager")
    try:
        yield
    finally:
        network.set_attn_implementation(before)


def _grid(patches: torch.Tensor) -> np.ndarray:
    """float32 [G, G] of a number a patch, [G * G], row by row."""
    side = math.isqrt(len(patches))
    return patches.reshape(side, side).float().cpu().numpy()
