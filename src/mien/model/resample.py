"""A ViT at another input size: its positions and patches resampled."""

from __future__ import annotations

import copy

import torch
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from transformers import ViTForImageClassification

from mien.errors import MienError

POSITIONS = "vit.embeddings.position_embeddings"
PATCHES = "vit.embeddings.patch_embeddings.projection.weight"


@torch.no_grad()
def resample(network: ViTForImageClassification, image_size: int, patch_size: int) -> ViTForImageClassification:
    """The same network for pictures and patches of other sizes.

    Positions are interpolated bicubically to the new grid; the patch embedding becomes the one whose answer on enlarged
    patches is nearest to the old one's on the patches themselves (Beyer et al. 2023, FlexiViT, arXiv:2212.08013,
    section 3.4).

    Args:
        network: for square pictures.
        image_size: height and width of the pictures, in pixels.
        patch_size: height and width of a patch, in pixels.

    Returns:
        A new network, or ``network`` itself where both sizes are its own.

    Raises:
        MienError: no whole number of patches fits.
    """
    check_sizes(image_size, patch_size)
    if (network.config.image_size, network.config.patch_size) == (image_size, patch_size):
        return network
    config = copy.deepcopy(network.config)
    config.image_size, config.patch_size = image_size, patch_size
    grid = image_size // patch_size
    weights = network.state_dict()
    weights[POSITIONS] = resample_abs_pos_embed(weights[POSITIONS], [grid, grid])
    weights[PATCHES] = resample_patch_embed(weights[PATCHES], [patch_size, patch_size])
    resampled = ViTForImageClassification(config)
    resampled.load_state_dict(weights)
    return resampled


def check_sizes(image_size: int, patch_size: int) -> None:
    """Refuses a picture that patches do not fill.

    Raises:
        MienError: ``image_size`` is no multiple of ``patch_size``.
    """
    if image_size % patch_size:
        raise MienError(
            f"image_size: got {image_size}, expected a multiple of {patch_size} (a patch of this backbone); give "
            "another --image-size or --patch-size"
        )
