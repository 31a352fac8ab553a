"""Degrades faces as cameras and files do, a batch at a time on the device: light from one side, blur, noise, JPEG.

Each image is changed only by its own random numbers, so that it looks the same in every batch.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch.nn import functional as F

from mien.model.preprocessing import to_luma

BLOCK = 8
"""Side of the blocks of JPEG, in pixels."""

QUANTA = torch.tensor([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55], [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62], [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
], dtype=torch.float32)  # fmt: skip
"""Quantisation steps of luma at quality 50 (ITU-T T.81, table K.1)."""

_WORD = 0xFFFFFFFF


def lit(planes: torch.Tensor, strength: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """Adds light from one side, which falls off evenly across the image.

    Args:
        planes: float32 [B, C, H, W] in [0, 1].
        strength: float32 [B] in [0, 1]; the edge towards the light becomes brighter by this share, the opposite edge
            darker.
        direction: float32 [B], of the light source, in radians clockwise from the right.

    Returns:
        float32 [B, C, H, W] in [0, 1].
    """
    across, down = (centres(size, planes.device) for size in (planes.shape[-1], planes.shape[-2]))
    columns = (direction.cos() * strength)[:, None] * across
    rows = (direction.sin() * strength)[:, None] * down
    return (planes * (1 + rows[:, None, :, None] + columns[:, None, None, :])).clamp(0, 1)


def blurred(planes: torch.Tensor, deviation: torch.Tensor, largest: float) -> torch.Tensor:
    """Convolves each image with its own Gaussian; pixels beyond the edges are mirrored.

    Args:
        planes: float32 [B, C, H, W].
        deviation: float32 [B], as shares of the side; 0 leaves an image exactly as it is.
        largest: upper bound of the deviations, above 0; kernels reach 3 times as far.

    Returns:
        float32 [B, C, H, W].
    """
    for axis in (-1, -2):
        size = planes.shape[axis]
        radius = min(math.ceil(3 * largest * size), size - 1)
        offsets = torch.arange(-radius, radius + 1, device=planes.device)
        pixels = (deviation * size).clamp(min=1e-3)[:, None]  # at 1e-3, all weight is on the pixel itself
        weights = (-0.5 * (offsets / pixels) ** 2).exp()
        weights = weights / weights.sum(1, keepdim=True)
        mirrored = (torch.arange(-radius, size + radius, device=planes.device)).abs()
        mirrored = torch.where(mirrored >= size, 2 * (size - 1) - mirrored, mirrored)
        wide = planes.index_select(axis, mirrored)
        # Tap by tap, since a batched convolution would sum in an order that depends on the batch.
        taps = (weights[:, tap].view(-1, 1, 1, 1) * wide.narrow(axis, tap, size) for tap in range(2 * radius + 1))
        planes = sum(taps, torch.zeros_like(planes))
    return planes


def noisy(planes: torch.Tensor, deviation: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
    """Adds Gaussian noise, the same in all channels.

    Args:
        planes: float32 [B, C, H, W] in [0, 1].
        deviation: float32 [B], as shares of the white level.
        seed: float32 [B] in [0, 1), which decides the noise of an image.

    Returns:
        float32 [B, C, H, W] in [0, 1].
    """
    height, width = planes.shape[-2:]
    places = torch.arange(height * width, device=planes.device)
    seeds = (seed * 2**24).long()[:, None]
    first, second = (_hashed(seeds * 2 + half, places) for half in (0, 1))
    normal = (-2 * first.log()).sqrt() * (2 * math.pi * second).cos()  # Box and Muller 1958
    return (planes + deviation.view(-1, 1, 1, 1) * normal.view(-1, 1, height, width)).clamp(0, 1)


def compressed(planes: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """Loses detail as JPEG does: the cosine transform of each 8x8 block of luma is rounded to the steps of a quality.

    Only the brightness of colour images changes; JPEG's loss of colour is left out.

    Args:
        planes: float32 [B, 1 or 3, H, W] in [0, 1].
        quality: float32 [B], 1 to 100, on libjpeg's scale.

    Returns:
        float32 [B, 1 or 3, H, W] in [0, 1].
    """
    height, width = planes.shape[-2:]
    luma = to_luma(planes) if planes.shape[1] == 3 else planes
    # Blocks that reach beyond the image repeat its edge pixels.
    grid = F.pad(255 * luma - 128, (0, -width % BLOCK, 0, -height % BLOCK), mode="replicate")
    rows, columns = grid.shape[-2] // BLOCK, grid.shape[-1] // BLOCK
    blocks = grid.view(-1, rows, BLOCK, columns, BLOCK).permute(0, 1, 3, 2, 4)
    cosines = _cosines(planes.device)
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)
    steps = ((_quanta(planes.device) * scale.view(-1, 1, 1) + 50) / 100).floor().clamp(1, 255)[:, None, None]
    rounded = ((cosines @ blocks @ cosines.T) / steps).round() * steps
    restored = (cosines.T @ rounded @ cosines).permute(0, 1, 3, 2, 4).reshape(grid.shape)
    change = (restored + 128).clamp(0, 255)[..., :height, :width] / 255 - luma
    return (planes + change).clamp(0, 1)


@lru_cache(maxsize=8)
def centres(size: int, device: torch.device) -> torch.Tensor:
    """Centres of the pixels along a side, float32 [size], from -1 at the first edge to 1 at the last."""
    return (2 * torch.arange(size, device=device) + 1) / size - 1


def _hashed(seeds: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Uniform numbers in (0, 1], float32 [B, places], from an integer hash that is the same on every device.

    Args:
        seeds: int64 [B, 1], below 2^25.
        places: int64 [places].
    """
    # Rounds of a multiply-xorshift hash of 32 bits (Steele et al. 2014, section 5); factors below 2^31 keep the
    # products within int64.
    word = (seeds * 0x2C1B3C6D + places * 0x297A2D39) & _WORD
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        word = ((word ^ (word >> shift)) * factor) & _WORD
    word = word ^ (word >> 15)
    return ((word >> 8) + 1).float() / 2**24


@lru_cache
def _quanta(device: torch.device) -> torch.Tensor:
    """``QUANTA`` on a device; copied once, since each copy makes a GPU wait."""
    with torch.inference_mode(False):
        return QUANTA.to(device)


@lru_cache
def _cosines(device: torch.device) -> torch.Tensor:
    """The orthonormal cosine transform of 8 numbers (DCT-II), float32 [8, 8]; its transpose undoes it."""
    with torch.inference_mode(False):  # a tensor made in inference mode could not be used in training later
        order, place = torch.arange(BLOCK).view(-1, 1), torch.arange(BLOCK)
        matrix = (math.pi * order * (2 * place + 1) / (2 * BLOCK)).cos() * math.sqrt(2 / BLOCK)
        matrix[0] /= math.sqrt(2)
        return matrix.to(device)
