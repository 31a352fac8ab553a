"""From uint8 faces to what the network reads: one preprocessing, saved beside the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms
from transformers import ViTImageProcessor

from mien.config import LARGEST_IMAGE
from mien.errors import MienError
from mien.files import read_json

LUMA: tuple[float, float, float] = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in luma (ITU-R BT.601), as Pillow's mode L uses them."""

IMAGENET_MEAN: tuple[float, float, float] = (0.485, 0.456, 0.406)
IMAGENET_STD: tuple[float, float, float] = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Size and normalisation of the input.

    Attributes:
        image_size: height and width that the network reads, in pixels.
        mean: mean of red, green and blue, as shares of white.
        std: standard deviation of red, green and blue, as shares of white.
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def grey_mean(self) -> float:
        """The mean that a one-channel network subtracts: the luma of ``mean``."""
        return sum(weight * value for weight, value in zip(LUMA, self.mean, strict=True))

    @property
    def grey_std(self) -> float:
        """The deviation that a one-channel network divides by: the luma of ``std``."""
        return sum(weight * value for weight, value in zip(LUMA, self.std, strict=True))

    def resize(self, images: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W], uint8 or float32, to [B, C, S, S], bilinear with antialiasing, as the saved image processor."""
        if images.shape[-2:] == (self.image_size, self.image_size):
            return images
        size = [self.image_size, self.image_size]
        return transforms.resize(images, size, interpolation=InterpolationMode.BILINEAR, antialias=True)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """float32 [B, C, S, S] in [0, 1] with one or three channels to the same, normalised."""
        # In place where that is safe: at 224 px, a second copy of a batch costs as much time as the arithmetic.
        if images.shape[1] == 1:
            return (images - self.grey_mean).div_(self.grey_std)
        return (images - constant(self.mean, images.device)).div_(constant(self.std, images.device))

    def __call__(self, images: torch.Tensor, num_channels: int) -> torch.Tensor:
        """uint8 [B, H, W] (grey) or [B, H, W, 3] (RGB) to the float32 [B, num_channels, S, S] that a network reads.

        Grey images are repeated over three channels; colour images become luma where the network reads one.
        """
        planes = images.unsqueeze(1) if images.ndim == 3 else images.movedim(-1, 1)
        return self.read(self.resize(planes).float() / 255, num_channels)

    def read(self, floats: torch.Tensor, num_channels: int) -> torch.Tensor:
        """float32 [B, 1 or 3, S, S] in [0, 1] to float32 [B, num_channels, S, S], normalised."""
        if num_channels == 3:
            return self.normalise(floats.expand(-1, 3, -1, -1))
        return self.normalise(floats if floats.shape[1] == 1 else to_luma(floats))

    def denormalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """What ``normalise`` gave, turned back: float32 [B, C, S, S], in [0, 1] where it came from there."""
        if pixels.shape[1] == 1:
            return pixels * self.grey_std + self.grey_mean
        return pixels * constant(self.std, pixels.device) + constant(self.mean, pixels.device)

    def to_images(self, pixels: torch.Tensor) -> np.ndarray:
        """What ``normalise`` gives, turned back: float32 [B, C, S, S] to uint8 [B, S, S] (grey) or [B, S, S, 3]."""
        images = (self.denormalise(pixels) * 255).round().clamp(0, 255).byte().movedim(1, -1).cpu().numpy()
        return images[..., 0] if images.shape[-1] == 1 else images

    def processor(self) -> ViTImageProcessor:
        """The same preprocessing as transformers' image processor, for three-channel input."""
        return ViTImageProcessor(
            size={"height": self.image_size, "width": self.image_size},
            image_mean=list(self.mean),
            image_std=list(self.std),
        )

    @classmethod
    def load(cls, folder: Path) -> Preprocessing:
        """Reads ``preprocessor_config.json``.

        Raises:
            MienError: the file is missing, or describes steps that Mien does not do.
        """
        path = folder / "preprocessor_config.json"
        saved = read_json(path)
        try:
            size = saved["size"]
            height, width = (size["height"], size["width"]) if isinstance(size, dict) else (size, size)
            mean, std = tuple(map(float, saved["image_mean"])), tuple(map(float, saved["image_std"]))
            fits = all(math.isfinite(value) for value in (*mean, *std)) and min(std) > 0
            if type(height) is not int or type(width) is not int or not fits:
                raise ValueError("sizes are whole numbers, deviations above 0")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise MienError(
                f"{path}: expected size (height, width), image_mean and image_std; give a folder that `mien train` "
                "wrote"
            ) from error
        if height != width or len(mean) != 3 or len(std) != 3:
            raise MienError(f"{path}: expected a square size and three channels, got {height}x{width}, {len(mean)}")
        if not 1 <= height <= LARGEST_IMAGE:
            raise MienError(f"{path}: size: got {height}, expected 1 to {LARGEST_IMAGE} pixels; copy the folder again")
        return cls(int(height), mean, std)


def to_luma(images: torch.Tensor) -> torch.Tensor:
    """float32 [B, 3, H, W] to its luma, float32 [B, 1, H, W], unrounded."""
    return (images * constant(LUMA, images.device)).sum(1, keepdim=True)


@lru_cache
def constant(values: tuple[float, float, float], device: torch.device) -> torch.Tensor:
    """A constant a channel, float32 [1, 3, 1, 1], brought to a device once: each time it would wait for the host."""
    with torch.inference_mode(False):  # the first to ask may be reading, the next training
        return torch.tensor(values, device=device).view(1, 3, 1, 1)


def tensor(images: np.ndarray) -> torch.Tensor:
    """A uint8 array as a tensor that owns its memory (an array read from a cache may be read-only)."""
    return torch.from_numpy(np.array(images, dtype=np.uint8))


FER2013_MEAN, FER2013_STD = 0.5077, 0.2549
"""Mean and standard deviation of the Training pixels, as shares of white."""
