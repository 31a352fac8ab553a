"""The shapes of fresh encoders, at the size of a FER2013 face."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import ViTConfig

from mien.config import PRESETS

FER2013_MEAN, FER2013_STD = 0.5077, 0.2549
"""Mean and standard deviation of the Training pixels, as shares of white."""


@dataclass(frozen=True)
class Preset:
    """The shape of a plain ViT encoder.

    Attributes:
        patch_size: height and width of a patch, in pixels.
        hidden_size: width of the residual stream.
        depth: number of blocks.
        heads: attention heads a block.
        decoder_size: width of the decoder in pretraining. Small sets want small decoders (MAE-Lite, Wang et al. 2023,
            arXiv:2205.14443).
        decoder_depth: number of its blocks.
        image_size: height and width of the input, in pixels.
    """

    patch_size: int
    hidden_size: int
    depth: int
    heads: int
    decoder_size: int
    decoder_depth: int
    image_size: int = 48

    def config(self, num_channels: int) -> ViTConfig:
        """The configuration of transformers, with an MLP four times as wide as the stream (Dosovitskiy et al. 2020)."""
        return ViTConfig(
            image_size=self.image_size,
            patch_size=self.patch_size,
            num_channels=num_channels,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.depth,
            num_attention_heads=self.heads,
            intermediate_size=4 * self.hidden_size,
        )


SHAPES: dict[str, Preset] = dict(
    zip(
        PRESETS,
        (
            Preset(patch_size=8, hidden_size=128, depth=4, heads=2, decoder_size=64, decoder_depth=1),
            Preset(patch_size=8, hidden_size=192, depth=8, heads=3, decoder_size=96, decoder_depth=1),
            Preset(patch_size=6, hidden_size=192, depth=12, heads=3, decoder_size=96, decoder_depth=1),
            Preset(patch_size=4, hidden_size=384, depth=12, heads=6, decoder_size=192, decoder_depth=2),
            Preset(patch_size=6, hidden_size=768, depth=12, heads=12, decoder_size=256, decoder_depth=4),
        ),
        strict=True,
    )
)
