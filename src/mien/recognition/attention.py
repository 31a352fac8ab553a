"""Explanations from inside a Vision Transformer: attention rollout, and attention weighted by gradients.

They need torch and a model folder with its weights; occlusion (``mien.recognition.explain``) needs neither.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from transformers import ViTForImageClassification

from mien.errors import MienError
from mien.model.classifier import Classifier
from mien.model.networks import num_channels
from mien.model.preprocessing import tensor


def rollout(classifier: Classifier, crop: np.ndarray, label: int) -> np.ndarray:
    """Attention rollout (Abnar and Zuidema 2020, arXiv:2005.00928, section 3), the row of [CLS].

    Args:
        classifier: a ViT.
        crop: uint8 [S, S] (grey) or [S, S, 3] (RGB), a face.
        label: position of the expression; unused, as attention does not depend on it.

    Returns:
        float32 [G, G], the share of the final [CLS] that flows from each patch, in [0, 1].

    Raises:
        MienError: the network is not a ViT.
    """
    with torch.no_grad():
        _, attentions = attend(classifier, crop)
        return grid(rolled_out([block[0] for block in attentions])[0, 1:])


def gradient(classifier: Classifier, crop: np.ndarray, label: int) -> np.ndarray:
    """Attention weighted by the gradient of the label's logit (Chefer et al. 2021, arXiv:2103.15679, section 3.1).

    Arguments and errors are those of ``rollout``; here the label matters.

    Returns:
        float32 [G, G], relevance of each patch for the label, at least 0, without a unit.
    """
    # The caller may be in inference mode, which records no gradients.
    with torch.inference_mode(False), torch.enable_grad():
        logits, attentions = attend(classifier, crop, differentiable=True)
        gradients = torch.autograd.grad(logits[label], attentions)
    with torch.no_grad():
        blocks, slopes = ([block[0] for block in tensors] for tensors in (attentions, gradients))
        return grid(propagated(blocks, slopes)[0, 1:])


ATTENTION: dict[str, Callable[[Classifier, np.ndarray, int], np.ndarray]] = {
    "rollout": rollout,
    "gradient": gradient,
}
"""The methods of this module, by name."""


def rolled_out(attentions: Sequence[torch.Tensor]) -> torch.Tensor:
    """Multiplies the attention of all blocks, each averaged with the identity for the residual path.

    Args:
        attentions: float [H, T, T] for each block, from the first to the last; rows sum to 1.

    Returns:
        float [T, T]; rows sum to 1.
    """
    flow = torch.eye(attentions[0].shape[-1], dtype=attentions[0].dtype, device=attentions[0].device)
    for attention in attentions:
        flow = (attention.mean(0) @ flow + flow) / 2
    return flow


def propagated(attentions: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """Propagates the relevance of every token for every other through the blocks (equations 5 and 6 of the paper).

    Args:
        attentions: float [H, T, T] for each block, from the first to the last.
        gradients: gradients of a logit by these, of the same shapes.

    Returns:
        float [T, T], at least 0; it starts as the identity.
    """
    relevance = torch.eye(attentions[0].shape[-1], dtype=attentions[0].dtype, device=attentions[0].device)
    for attention, slope in zip(attentions, gradients, strict=True):
        relevance = relevance + (attention * slope).clamp(min=0).mean(0) @ relevance
    return relevance


def attend(
    classifier: Classifier, crop: np.ndarray, *, differentiable: bool = False
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Returns the logits [C] of a crop, and the attention [1, H, T, T] of each block; row t shows where token t looks.

    Raises:
        MienError: the network is not a ViT.
    """
    network = classifier.network
    if not isinstance(network, ViTForImageClassification):
        name = getattr(network.config, "architecture", type(network).__name__)
        raise MienError(f"got a network without [CLS] attention ({name}), expected a ViT; use the method occlusion")
    network.eval()
    images = tensor(crop[None]).to(classifier.device)
    pixels = classifier.preprocessing.of_crops(images, num_channels(network)).requires_grad_(differentiable)
    with _eager(network):
        output = network(pixel_values=pixels, interpolate_pos_encoding=True, output_attentions=True)
    return output.logits[0], list(output.attentions)


_SWITCHING = threading.Lock()
"""Held while a network is switched to eager attention. One for all, as classifiers may share a network."""


@contextmanager
def _eager(network: ViTForImageClassification) -> Iterator[None]:
    """Within the block, computes attention without the fused kernels, which do not return the weights.

    Other threads wait for the end of the block: they would switch the network back during it, or leave it eager.
    """
    with _SWITCHING:
        before = network.config._attn_implementation
        network.set_attn_implementation("eager")
        try:
            yield
        finally:
            network.set_attn_implementation(before)


def grid(patches: torch.Tensor) -> np.ndarray:
    """Arranges one number for each patch, [G * G], row by row as float32 [G, G]."""
    side = math.isqrt(len(patches))
    return patches.reshape(side, side).float().cpu().numpy()
