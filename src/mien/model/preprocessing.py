"""Preprocessing: turns uint8 faces into the input of a network; its settings are saved beside the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms
from transformers import ViTImageProcessor

from mien.errors import MienError
from mien.files import read_json
from mien.limits import LARGEST_IMAGE
from mien.log import warn

LUMA: tuple[float, float, float] = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in luma (ITU-R BT.601), as Pillow's mode L uses them."""

IMAGENET_MEAN: tuple[float, float, float] = (0.485, 0.456, 0.406)
IMAGENET_STD: tuple[float, float, float] = (0.229, 0.224, 0.225)

FER2013_MEAN, FER2013_STD = 0.5077, 0.2549
"""Mean and standard deviation of the Training pixels, as shares of white."""

_BILINEAR = 2
"""Pillow's number of bilinear resizing, in ``preprocessor_config.json``."""

SMALLEST_CROP = 0.5
"""Smallest reading crop, as a share of a face's side; a smaller one leaves out the mouth."""


@dataclass(frozen=True)
class Preprocessing:
    """Size, reading crop and normalisation of the input.

    Training views are zoomed in at random (``mien.training.augment``), so a network learns faces that are larger than
    those of the data. The reading crop shows it faces of the size that it learnt (Touvron et al. 2019,
    arXiv:1906.06423).

    Attributes:
        image_size: height and width S of the network's input, in pixels.
        mean: mean of red, green and blue, as shares of white.
        std: standard deviation of red, green and blue, as shares of white.
        crop: the share of a face's side that is read, in [0.5, 1]; 1 reads all of it. ``face_size`` rounds it.
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop: float = 1.0

    @property
    def face_size(self) -> int:
        """Height and width to which a whole face is resized, in pixels; the network reads the S x S in its middle.

        It is S / crop, rounded so that it exceeds S by an even number and the middle begins at a whole pixel.
        """
        return self.image_size + 2 * round((self.image_size / self.crop - self.image_size) / 2)

    @property
    def grey_mean(self) -> float:
        """The mean that a one-channel network subtracts: the luma of ``mean``."""
        return sum(weight * value for weight, value in zip(LUMA, self.mean, strict=True))

    @property
    def grey_std(self) -> float:
        """The deviation that a one-channel network divides by: the luma of ``std``."""
        return sum(weight * value for weight, value in zip(LUMA, self.std, strict=True))

    def frame(self, faces: torch.Tensor) -> torch.Tensor:
        """Resizes whole faces to ``face_size`` and crops the middle, as the saved image processor does.

        Args:
            faces: uint8 or float32 [B, C, H, W].

        Returns:
            [B, C, S, S] of the same type.
        """
        edge = (self.face_size - self.image_size) // 2
        faces = resized(faces, self.face_size)
        return faces[..., edge : edge + self.image_size, edge : edge + self.image_size]

    def resize(self, views: torch.Tensor) -> torch.Tensor:
        """Resizes whole pictures without a crop, [B, C, H, W] to [B, C, S, S], uint8 or float32.

        For training views, which are zoomed in already.
        """
        return resized(views, self.image_size)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Normalises pictures with one or three channels: float32 [B, C, S, S] in [0, 1] to the same shape."""
        # In place as far as that is safe: at 224 px, a second copy of a batch costs as much time as the arithmetic.
        if images.shape[1] == 1:
            return (images - self.grey_mean).div_(self.grey_std)
        return (images - constant(self.mean, images.device)).div_(constant(self.std, images.device))

    def __call__(self, images: torch.Tensor, num_channels: int) -> torch.Tensor:
        """Turns whole faces into the input of a network, float32 [B, num_channels, S, S].

        Grey images are repeated over three channels; colour images become luma if the network reads one channel.

        Args:
            images: uint8 [B, H, W] (grey) or [B, H, W, 3] (RGB).
            num_channels: 1 or 3.
        """
        return self.read(self.frame(_planes(images)).float() / 255, num_channels)

    def of_crops(self, crops: torch.Tensor, num_channels: int) -> torch.Tensor:
        """Does the same for the crops of an engine, uint8 [B, S, S] or [B, S, S, 3], which are framed already."""
        return self.read(_planes(crops).float() / 255, num_channels)

    def read(self, floats: torch.Tensor, num_channels: int) -> torch.Tensor:
        """Sets the channels and normalises: float32 [B, 1 or 3, S, S] in [0, 1] to float32 [B, num_channels, S, S]."""
        if num_channels == 3:
            return self.normalise(floats.expand(-1, 3, -1, -1))
        return self.normalise(floats if floats.shape[1] == 1 else to_luma(floats))

    def denormalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Undoes ``normalise``: float32 [B, C, S, S] to the same shape, in [0, 1]."""
        if pixels.shape[1] == 1:
            return pixels * self.grey_std + self.grey_mean
        return pixels * constant(self.std, pixels.device) + constant(self.mean, pixels.device)

    def to_images(self, pixels: torch.Tensor) -> np.ndarray:
        """Turns normalised pixels back into images: float32 [B, C, S, S] to uint8 [B, S, S] (grey) or [B, S, S, 3]."""
        images = (self.denormalise(pixels) * 255).round().clamp(0, 255).byte().movedim(1, -1).cpu().numpy()
        return images[..., 0] if images.shape[-1] == 1 else images

    def processor(self) -> ViTImageProcessor:
        """The same preprocessing as transformers' image processor, for three-channel input."""
        crop: dict[str, Any] = {}
        if self.face_size != self.image_size:
            crop = {"do_center_crop": True, "crop_size": {"height": self.image_size, "width": self.image_size}}
        return ViTImageProcessor(
            size={"height": self.face_size, "width": self.face_size},
            image_mean=list(self.mean),
            image_std=list(self.std),
            **crop,
        )

    @classmethod
    def load(cls, folder: Path) -> Preprocessing:
        """Reads ``preprocessor_config.json``.

        Raises:
            MienError: the file is missing, or asks for steps that Mien does not support.
        """
        path = folder / "preprocessor_config.json"
        if folder.is_dir() and not path.exists():
            raise MienError(
                f"{path}: is missing, so that size and normalisation of the pictures are not known; copy it from where "
                "the model is from"
            )
        saved = read_json(path)
        try:
            height, width = _height_and_width(saved["size"])
            cropped = bool(saved.get("do_center_crop"))
            rows, columns = _height_and_width(saved["crop_size"]) if cropped else (height, width)
            mean, std = _normalisation(saved)
            is_valid = all(math.isfinite(value) for value in (*mean, *std)) and min(std) > 0
            if not is_valid or any(type(side) is not int for side in (height, width, rows, columns)):
                raise ValueError("sizes are whole numbers, deviations above 0")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise MienError(
                f"{path}: expected size (height, width), image_mean, image_std, and crop_size beside do_center_crop; "
                "give a folder that `mien train` wrote"
            ) from error
        if height != width or len(mean) != 3 or len(std) != 3:
            raise MienError(f"{path}: expected a square size and three channels, got {height}x{width}, {len(mean)}")
        largest = round(LARGEST_IMAGE / SMALLEST_CROP) if cropped else LARGEST_IMAGE
        if not 1 <= height <= largest:
            raise MienError(f"{path}: size: got {height}, expected 1 to {largest} pixels; copy the folder again")
        if rows != columns or not height * SMALLEST_CROP <= rows <= height or (height - rows) % 2:
            raise MienError(
                f"{path}: crop_size: got {rows}x{columns}, expected a square of {math.ceil(height * SMALLEST_CROP)} to "
                f"{height} pixels that leaves as many on the left as on the right; copy the folder again"
            )
        if saved.get("resample") not in (None, _BILINEAR):
            _warn_once(
                f"{path}: resample: got {str(saved['resample'])[:40]}, but Mien resizes bilinearly ({_BILINEAR}), in "
                "photos too, so that its answers may differ from those of transformers"
            )
        return cls(rows, mean, std, rows / height)


def _normalisation(saved: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation, as shares of white, of the steps that ``preprocessor_config.json`` asks for.

    A network of others may read pixels from 0 to 255, from 0 to 2, or without normalisation.
    """
    mean: tuple[float, ...] = (0.0,) * 3
    std: tuple[float, ...] = (1.0,) * 3
    if saved.get("do_normalize") is not False:
        mean, std = tuple(map(float, saved["image_mean"])), tuple(map(float, saved["image_std"]))
    factor = float(saved.get("rescale_factor", 1 / 255)) if saved.get("do_rescale") is not False else 1.0
    white = 255 * factor  # what the network reads for white before normalisation
    if not white > 0:
        raise ValueError("rescale_factor is above 0")
    return tuple(value / white for value in mean), tuple(value / white for value in std)


@lru_cache
def _warn_once(text: str) -> None:
    """Warns of a folder once in a process, since commands load a model several times."""
    warn(text)


def _planes(images: torch.Tensor) -> torch.Tensor:
    """uint8 [B, H, W] or [B, H, W, 3] to [B, 1 or 3, H, W]."""
    return images.unsqueeze(1) if images.ndim == 3 else images.movedim(-1, 1)


def resized(images: torch.Tensor, side: int) -> torch.Tensor:
    """[B, C, H, W] to [B, C, side, side], bilinear with antialiasing, as the saved image processor resizes."""
    if images.shape[-2:] == (side, side):
        return images
    return transforms.resize(images, [side, side], interpolation=InterpolationMode.BILINEAR, antialias=True)


def _height_and_width(size: Any) -> tuple[Any, Any]:
    """Height and width in ``preprocessor_config.json``: ``{"height": .., "width": ..}``, or one number for both."""
    return (size["height"], size["width"]) if isinstance(size, dict) else (size, size)


def to_luma(images: torch.Tensor) -> torch.Tensor:
    """float32 [B, 3, H, W] to its luma, float32 [B, 1, H, W], unrounded."""
    return (images * constant(LUMA, images.device)).sum(1, keepdim=True)


@lru_cache
def constant(values: tuple[float, float, float], device: torch.device) -> torch.Tensor:
    """A constant per channel, float32 [1, 3, 1, 1]; copied to a device once, since each copy makes a GPU wait."""
    with torch.inference_mode(False):  # a tensor made in inference mode could not be used in training later
        return torch.tensor(values, device=device).view(1, 3, 1, 1)


def tensor(images: np.ndarray) -> torch.Tensor:
    """A uint8 array as a tensor that owns its memory (an array read from a cache may be read-only)."""
    return torch.from_numpy(np.array(images, dtype=np.uint8))
