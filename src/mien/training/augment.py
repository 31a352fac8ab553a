"""Augmentation and batches: the pictures of each step and their changes, as functions of (seed, epoch, image).

Where an epoch draws pictures with repetitions, the draw takes the place of the image. Views are also degraded as
cameras and files do it: light from one side, blur, noise, JPEG. Each image is changed only by its own random numbers,
so that it looks the same in every batch.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn import functional as F

from mien.config import AugmentConfig
from mien.model.preprocessing import Preprocessing, resized, to_luma

SCALE, CROP_X, CROP_Y, FLIP, ANGLE, SHIFT_X, SHIFT_Y, BRIGHTNESS, CONTRAST, ERASE, AREA, ASPECT, ERASE_X, ERASE_Y = (
    range(14)
)
STILL, LIGHT, LIGHT_FROM, BLUR, NOISE, NOISE_SEED, JPEG = range(14, 21)
COLUMNS = 21
LARGEST_SOURCE = 1.5
"""Largest side of the pictures that views are cut from, in sides of the network's input."""

ERASED_AREA = (0.02, 0.2)
ERASED_ASPECT = (0.3, 1 / 0.3)

BLOCK = 8
"""Side of the blocks of JPEG, in pixels."""

QUANTA = torch.tensor([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55], [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62], [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
], dtype=torch.float32)  # fmt: skip
"""Quantisation steps of luma at quality 50 (ITU-T T.81, table K.1)."""

_WORD = 0xFFFFFFFF


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
        undisturbed: return each view twice, the second as it was before it was relit, degraded and erased.
    """

    def __init__(
        self, config: AugmentConfig, preprocessing: Preprocessing, num_channels: int, *, undisturbed: bool = False
    ) -> None:
        self.config = config
        self.preprocessing = preprocessing
        self.num_channels = num_channels
        self.undisturbed = undisturbed

    def __call__(self, images: torch.Tensor, random: torch.Tensor) -> torch.Tensor:
        """Augments a batch.

        Args:
            images: uint8 [B, H, W] (grey) or [B, H, W, 3] (RGB).
            random: float32 [B, 21] in [0, 1), the rows of ``random_table`` for these images, on the same device.

        Returns:
            float32 [B, num_channels, S, S], normalised; with ``undisturbed`` [B, 2 * num_channels, S, S], the
            undisturbed views behind.
        """
        planes = self._reduced(images.unsqueeze(1) if images.ndim == 3 else images.movedim(-1, 1)).float() / 255
        if planes.shape[1] == 3 and self.num_channels == 1:
            planes = to_luma(planes)
        moved = self._move(planes, random)
        views = self._erase(self._normalised(self._degrade(self._relight(moved, random), random)), random)
        # One tensor, so that a CUDA graph has one output and mixing treats both in the same way.
        return torch.cat((views, self._normalised(moved)), dim=1) if self.undisturbed else views

    def _normalised(self, planes: torch.Tensor) -> torch.Tensor:
        return self.preprocessing.normalise(planes.expand(-1, self.num_channels, -1, -1))

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
        """Random erasing (Zhong et al. 2017, arXiv:1708.04896): a rectangle becomes the mean grey of the data.

        The logarithm of its aspect is uniform, where the paper's aspect is: upright and flat ones are as frequent.
        """
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
