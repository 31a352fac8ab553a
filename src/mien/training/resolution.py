"""Progressive resizing: small pictures first, full size at the end.

Half the side means a quarter of the patches and of the work, and fewer places to learn. The network is the same; a
ViT's fixed positions are interpolated to the smaller grid. (Tan and Le 2021, arXiv:2104.00298, section 4.2; for ViTs
Touvron et al. 2022, arXiv:2204.07118.)
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from mien.config import TrainConfig
from mien.errors import MienError
from mien.model.networks import Network, reads, sizes


def epoch_size(config: TrainConfig, full_size: int, epoch: int) -> int:
    """Height and width of the pictures in an epoch (the first is 1), in pixels."""
    if config.small_size is None or epoch > config.small_until * config.epochs:
        return full_size
    return config.small_size


def check_small_size(config: TrainConfig, network: Network, full_size: int) -> None:
    """Refuses a size that the network cannot read.

    Raises:
        MienError: ``small_size`` is not below the full size, or no size that the network reads.
    """
    size = config.small_size
    if size is not None and (size >= full_size or not reads(network, size)):
        raise MienError(f"small_size: got {size}, expected {sizes(network)} below {full_size}")


def shrink(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """float32 [B, C, S, S] to float32 [B, C, size, size], bilinear with antialiasing; unchanged where S is ``size``."""
    if pixels.shape[-1] == size:
        return pixels
    return F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
