"""The shapes of the fresh encoders, without torch, so that settings can be checked before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """The shape of a plain ViT encoder.

    Attributes:
        patch_size: height and width of a patch, in pixels.
        hidden_size: width of the residual stream.
        depth: number of blocks.
        heads: attention heads a block.
        decoder_size: width of the decoder in pretraining. Small data needs small decoders (MAE-Lite, Wang et al. 2023,
            arXiv:2205.14443).
        decoder_depth: number of the decoder's blocks.
        image_size: height and width of the input, in pixels.
    """

    patch_size: int
    hidden_size: int
    depth: int
    heads: int
    decoder_size: int
    decoder_depth: int
    image_size: int = 48


SHAPES: dict[str, Preset] = {
    "nano": Preset(patch_size=8, hidden_size=128, depth=4, heads=2, decoder_size=64, decoder_depth=1),
    "mini": Preset(patch_size=8, hidden_size=192, depth=8, heads=3, decoder_size=96, decoder_depth=1),
    "tiny": Preset(patch_size=6, hidden_size=192, depth=12, heads=3, decoder_size=96, decoder_depth=1),
    "small": Preset(patch_size=4, hidden_size=384, depth=12, heads=6, decoder_size=192, decoder_depth=2),
    "base": Preset(patch_size=6, hidden_size=768, depth=12, heads=12, decoder_size=256, decoder_depth=4),
}
"""The presets by name, from the smallest to the largest."""


def size_problem(image_size: int, patch_size: int) -> str | None:
    """Returns in words why no whole number of patches fits along a side; None if it does."""
    if image_size % patch_size == 0:
        return None
    return (
        f"got {image_size}, expected a multiple of {patch_size} (a patch of this backbone); give another --image-size "
        "or --patch-size"
    )


def mask_problem(image_size: int, patch_size: int, mask_ratio: float) -> str | None:
    """Returns in words why a mask would hide every patch or none; None if some stay visible and some do not."""
    patches = (image_size // patch_size) ** 2
    if 0 < int(patches * (1 - mask_ratio)) < patches:
        return None
    return f"got {mask_ratio}, expected some of the {patches} patches to stay visible"
