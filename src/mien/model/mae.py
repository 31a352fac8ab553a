"""The masked autoencoder (He et al. 2022, arXiv:2111.06377): an encoder of a preset's shape with a small decoder.

It is transformers' ``ViTMAEForPreTraining``, so that its folder opens there and serves ``mien train`` as a backbone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from mien.config import PretrainConfig
from mien.files import atomic_folder, write_json
from mien.model.preprocessing import FER2013_MEAN, FER2013_STD, Preprocessing
from mien.model.presets import SHAPES
from mien.model.start import initialise_encoder, positions, xavier

DECODER_HEAD = 32
"""Width of an attention head of the decoder."""


def build_autoencoder(config: PretrainConfig, *, grey: bool) -> tuple[ViTMAEForPreTraining, Preprocessing]:
    """Builds an autoencoder with random weights from torch's global state; the encoder starts as a classifier's does.

    Args:
        config: preset, size, mask ratio, decoder; they fit each other, as ``PretrainConfig`` checks.
        grey: whether the pictures have one channel; the network then reads one channel too.
    """
    shape = SHAPES[config.preset]
    size = config.image_size or shape.image_size
    width = config.decoder_size or shape.decoder_size
    network = ViTMAEForPreTraining(
        ViTMAEConfig(
            image_size=size,
            patch_size=shape.patch_size,
            num_channels=1 if grey else 3,
            hidden_size=shape.hidden_size,
            num_hidden_layers=shape.depth,
            num_attention_heads=shape.heads,
            intermediate_size=4 * shape.hidden_size,
            decoder_hidden_size=width,
            decoder_num_hidden_layers=config.decoder_depth or shape.decoder_depth,
            decoder_num_attention_heads=width // DECODER_HEAD,
            decoder_intermediate_size=4 * width,
            mask_ratio=config.mask_ratio,
            norm_pix_loss=config.norm_pix,
        )
    )
    initialise_encoder(network.vit)
    _initialise_decoder(network)
    return network, Preprocessing(size, (FER2013_MEAN,) * 3, (FER2013_STD,) * 3)


def count_patches(network: ViTMAEForPreTraining) -> int:
    """Number of patches of a picture."""
    return int(network.vit.embeddings.patch_embeddings.num_patches)


@contextmanager
def every_patch_visible(network: ViTMAEForPreTraining) -> Iterator[None]:
    """Turns masking off inside a ``with`` block; transformers reads the ratio in every forward pass."""
    ratio = network.config.mask_ratio
    network.config.mask_ratio = 0.0
    try:
        yield
    finally:
        network.config.mask_ratio = ratio


@torch.inference_mode()
def reconstruct(
    network: ViTMAEForPreTraining, pixels: torch.Tensor, noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Reconstructs the hidden patches of pictures.

    If the network predicts normalised patches, each prediction gets the mean and deviation of the true patch, which the
    network does not know: its contrast and brightness are then those of the picture.

    Args:
        network: in evaluation mode.
        pixels: float32 [B, C, S, S], normalised.
        noise: float32 [B, patches]; the patches with the lowest values stay visible.

    Returns:
        float32 [B, C, S, S], visible patches unchanged and hidden ones predicted; and float32 [B, 1, S, S], 1 for
        hidden pixels.
    """
    output = network(pixel_values=pixels, noise=noise)
    patches, predicted, hidden = network.patchify(pixels), output.logits.float(), output.mask.unsqueeze(-1)
    if network.config.norm_pix_loss:
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        predicted = predicted * (variance + 1e-6).sqrt() + mean
    size = (pixels.shape[-2], pixels.shape[-1])
    merged = network.unpatchify(torch.where(hidden > 0, predicted, patches), size)
    mask = network.unpatchify(hidden.expand_as(patches), size)[:, :1]
    return merged, mask


def save_autoencoder(
    network: ViTMAEForPreTraining, preprocessing: Preprocessing, folder: Path, meta: dict[str, Any]
) -> None:
    """Writes a folder for ``ViTMAEForPreTraining.from_pretrained`` and ``mien train --backbone``, atomically.

    Args:
        network: on any device.
        preprocessing: size and normalisation of its input.
        folder: replaced as a whole.
        meta: the record of how the network was trained; JSON-ready.
    """
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    with atomic_folder(folder) as temporary:
        network.save_pretrained(temporary, state_dict=weights)
        preprocessing.processor().save_pretrained(temporary)
        write_json(temporary / "meta.json", meta)


@torch.no_grad()
def _initialise_decoder(network: ViTMAEForPreTraining) -> None:
    decoder = network.decoder
    xavier(decoder)
    nn.init.normal_(decoder.mask_token, std=0.02)
    # transformers 5 leaves zeros here in a new network, with which the decoder cannot distinguish hidden patches.
    grid = round(count_patches(network) ** 0.5)
    decoder.decoder_pos_embed.copy_(positions(grid, decoder.decoder_pos_embed.shape[-1]))
