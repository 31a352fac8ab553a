"""Augmentation and batches: the pictures of each step and their changes, as functions of (seed, epoch, image).

Where an epoch draws pictures with repetitions, the draw takes the place of the image.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn import functional as F

from mien.config import AugmentConfig
from mien.model.preprocessing import Preprocessing, resized, to_luma
from mien.training.degrade import blurred, centres, compressed, lit, noisy

SCALE, CROP_X, CROP_Y, FLIP, ANGLE, SHIFT_X, SHIFT_Y, BRIGHTNESS, CONTRAST, ERASE, AREA, ASPECT, ERASE_X, ERASE_Y = (
    range(14)
)
STILL, LIGHT, LIGHT_FROM, BLUR, NOISE, NOISE_SEED, JPEG = range(14, 21)
COLUMNS = 21
LARGEST_SOURCE = 1.5
"""Largest side of the pictures that views are cut from, in sides of the network's input."""

ERASED_AREA = (0.02, 0.2)
ERASED_ASPECT = (0.3, 1 / 0.3)


def random_table(count: int, seed: int, epoch: int) -> torch.Tensor:
    """Uniform numbers in [0, 1) for every image, or draw, of an epoch, float32 [count, 21]."""
    # Columns that were added later have their own generator, so that older runs resume with the same numbers.
    parts = [
        np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch, key)))).random(
            (count, columns), dtype=np.float32
        )
        for columns, key in ((STILL, 0xA06), (COLUMNS - STILL, 0xDE6))
    ]
    return torch.from_numpy(np.concatenate(parts, axis=1))


class Augment:
    """Turns uint8 faces into training views: cropped, moved, relit, degraded, normalised, erased.

    Args:
        config: the strength of each change.
        preprocessing: size and normalisation of the network's input.
        num_channels: 1 or 3, of the network's input.
    """

    def __init__(self, config: AugmentConfig, preprocessing: Preprocessing, num_channels: int) -> None:
        self.config = config
        self.preprocessing = preprocessing
        self.num_channels = num_channels

    def __call__(self, images: torch.Tensor, random: torch.Tensor) -> torch.Tensor:
        """Augments a batch.

        Args:
            images: uint8 [B, H, W] (grey) or [B, H, W, 3] (RGB).
            random: float32 [B, 21] in [0, 1), the rows of ``random_table`` for these images, on the same device.

        Returns:
            float32 [B, num_channels, S, S], normalised.
        """
        planes = self._reduced(images.unsqueeze(1) if images.ndim == 3 else images.movedim(-1, 1)).float() / 255
        if planes.shape[1] == 3 and self.num_channels == 1:
            planes = to_luma(planes)
        planes = self._degrade(self._relight(self._move(planes, random), random), random)
        pixels = self.preprocessing.normalise(planes.expand(-1, self.num_channels, -1, -1))
        return self._erase(pixels, random)

    def reduced(self, images: torch.Tensor) -> torch.Tensor:
        """Makes large pictures smaller by an antialiased resize, once and before training.

        Views are cut by bilinear resampling, which reads four pixels for each of its own: in much larger pictures it
        would skip the others (aliasing), unlike the resize of validation and inference.

        Args:
            images: uint8 [N, H, W] (grey) or [N, H, W, 3] (RGB).

        Returns:
            uint8 of the same layout: the tightest crop still has as many pixels as the network's input, as long as that
            takes at most ``LARGEST_SOURCE`` of its sides. Smaller pictures are returned unchanged.
        """
        if max(images.shape[1:3]) <= self._source_size:
            return images
        parts = []
        for part in images.split(256):  # the resize computes in float32
            planes = self._reduced(part.unsqueeze(1) if part.ndim == 3 else part.movedim(-1, 1))
            parts.append(planes[:, 0] if part.ndim == 3 else planes.movedim(1, -1))
        return torch.cat(parts).contiguous()

    @property
    def _source_size(self) -> int:
        return math.ceil(self.preprocessing.image_size * min(1 / self.config.crop_scale, LARGEST_SOURCE))

    def _reduced(self, planes: torch.Tensor) -> torch.Tensor:
        """uint8 [B, C, H, W], with H and W of at most ``_source_size``."""
        size = self._source_size
        return resized(planes, size) if max(planes.shape[-2:]) > size else planes

    def _move(self, planes: torch.Tensor, random: torch.Tensor) -> torch.Tensor:
        """Crop, flip, rotation, shift and resize in one bilinear resampling; pixels beyond the edges are mirrored."""
        c, signed = self.config, _signed(random)
        side = c.wide_scale - (c.wide_scale - c.crop_scale) * random[:, SCALE]
        angle = math.radians(c.rotation) * signed[:, ANGLE]
        shift = 2 * c.shift * signed[:, SHIFT_X : SHIFT_Y + 1]
        if c.still:
            # At these values each pixel falls on a pixel of the image, which bilinear resampling leaves unchanged.
            still = random[:, STILL] < c.still
            side, angle = side.masked_fill(still, 1.0), angle.masked_fill(still, 0.0)
            shift = shift.masked_fill(still[:, None], 0.0)
        mirror = torch.where(random[:, FLIP] < c.flip, -1.0, 1.0)
        cosine, sine = side * angle.cos(), side * angle.sin()
        middle = (1 - side)[:, None] * signed[:, CROP_X : CROP_Y + 1] + shift
        # Five times as fast as F.affine_grid, which multiplies matrices: here a column's and a row's share are added.
        along = centres(self.preprocessing.image_size, planes.device)[:, None]
        columns = along * (torch.stack((cosine, sine), 1) * mirror[:, None])[:, None]
        rows = along * torch.stack((-sine, cosine), 1)[:, None] + middle[:, None]
        grid = columns[:, None] + rows[:, :, None]
        return F.grid_sample(planes, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

    def _relight(self, planes: torch.Tensor, random: torch.Tensor) -> torch.Tensor:
        """Light from one side, contrast around each image's own mean, then brightness; the result is in [0, 1]."""
        c = self.config
        if c.light:
            planes = lit(planes, c.light * random[:, LIGHT], 2 * math.pi * random[:, LIGHT_FROM])
        if c.brightness == 0 and c.contrast == 0:
            return planes
        gain = (1 + c.contrast * _signed(random[:, CONTRAST])).view(-1, 1, 1, 1)
        offset = (c.brightness * _signed(random[:, BRIGHTNESS])).view(-1, 1, 1, 1)
        mean = planes.mean((1, 2, 3), keepdim=True)
        return (planes - mean).mul_(gain).add_(mean).add_(offset).clamp_(0, 1)

    def _degrade(self, planes: torch.Tensor, random: torch.Tensor) -> torch.Tensor:
        """Blur, noise and JPEG compression, in the order in which a camera adds them."""
        c = self.config
        if c.blur:
            planes = blurred(planes, c.blur * _upper_half(random[:, BLUR]), c.blur)
        if c.noise:
            planes = noisy(planes, c.noise * _upper_half(random[:, NOISE]), random[:, NOISE_SEED])
        if c.jpeg:
            is_compressed = random[:, JPEG] < 0.5
            quality = c.jpeg + (100 - c.jpeg) * 2 * random[:, JPEG]
            planes = torch.where(is_compressed.view(-1, 1, 1, 1), compressed(planes, quality), planes)
        return planes

    def _erase(self, pixels: torch.Tensor, random: torch.Tensor) -> torch.Tensor:
        """Random erasing (Zhong et al. 2017, arXiv:1708.04896): a rectangle becomes the mean grey of the data."""
        if self.config.erasing == 0:
            return pixels
        size = pixels.shape[-1]
        area = _between(ERASED_AREA, random[:, AREA])
        aspect = _between((math.log(ERASED_ASPECT[0]), math.log(ERASED_ASPECT[1])), random[:, ASPECT]).exp()
        height, width = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
        top, left = (1 - height) * random[:, ERASE_Y], (1 - width) * random[:, ERASE_X]
        centre = (torch.arange(size, device=pixels.device) + 0.5) / size
        rows = (centre >= top[:, None]) & (centre < (top + height)[:, None])
        columns = (centre >= left[:, None]) & (centre < (left + width)[:, None])
        is_erased = (random[:, ERASE] < self.config.erasing)[:, None, None]
        erased = is_erased & rows[:, :, None] & columns[:, None, :]
        return pixels.masked_fill(erased[:, None], 0.0)


def _signed(uniform: torch.Tensor) -> torch.Tensor:
    """[0, 1) to [-1, 1)."""
    return 2 * uniform - 1


def _upper_half(uniform: torch.Tensor) -> torch.Tensor:
    """[0, 1) to [0, 1): the lower half becomes 0, the upper half uniform."""
    return (2 * uniform - 1).clamp(min=0)


def _between(bounds: tuple[float, float], uniform: torch.Tensor) -> torch.Tensor:
    """[0, 1) to [low, high)."""
    low, high = bounds
    return low + (high - low) * uniform


def shuffled(count: int, seed: int, epoch: int) -> torch.Tensor:
    """The order of the images in an epoch, int64 [count]."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch, 0x0D3))))
    return torch.from_numpy(generator.permutation(count))


def resampled(labels: np.ndarray, seed: int, epoch: int, power: float) -> torch.Tensor:
    """Rows of an epoch drawn with repetitions, a class in proportion to its images ** (1 - power): int64 [N].

    Args:
        labels: int64 [N].
        seed: of the run.
        epoch: the first is 1.
        power: 0 draws every row as often as any other, 1 every class.
    """
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch, 0xBA1))))
    weights = np.bincount(labels)[labels].astype(np.float64) ** -power
    return torch.from_numpy(generator.choice(len(labels), len(labels), p=weights / weights.sum()))


def local_rows(order: torch.Tensor, step: int, accelerator: Accelerator, batch_size: int) -> torch.Tensor:
    """This process's share of a step, [batch_size / processes, ...], of values in the order of an epoch, [N, ...]."""
    share = batch_size // accelerator.num_processes
    start = step * batch_size + accelerator.process_index * share
    return order[start : start + share]


def seed_step(seed: int, update: int, process: int) -> None:
    """Seeds drop path and mixing for a step of a process."""
    value = int(np.random.SeedSequence((seed, update, process)).generate_state(1)[0])
    torch.manual_seed(value)
    np.random.seed(value)
