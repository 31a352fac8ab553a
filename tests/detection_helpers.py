"""Pictures for the tests of detection, made of what comes inside scikit-image: the public-domain astronaut, a cat."""

from __future__ import annotations

import warnings

import numpy as np
from PIL import Image

FACE = (0.439, 0.222, 0.19)
"""Centre across, centre down and side of the astronaut's face, as FER2013 frames faces, as shares of her portrait."""


def picture(name: str, scale: float = 1.0) -> np.ndarray:
    """A picture of scikit-image, uint8 [H, W] or [H, W, 3], without its transparency, in another scale."""
    import skimage.data

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pixels = getattr(skimage.data, name)()
    pixels = np.asarray(pixels[0] if isinstance(pixels, tuple) else pixels)
    pixels = pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels
    image = Image.fromarray(pixels[..., :3].copy() if pixels.ndim == 3 else pixels)
    size = round(image.width * scale), round(image.height * scale)
    return np.asarray(image if size == image.size else image.resize(size, Image.Resampling.BICUBIC))


def astronaut(side: int, tilt: float = 0.0) -> np.ndarray:
    """Her portrait, uint8 [side, side, 3], leaning by so many degrees around her face, anticlockwise."""
    image = Image.fromarray(np.pad(picture("astronaut"), ((256, 256), (256, 256), (0, 0)), mode="reflect"))
    centre = FACE[0] * 512 + 256, FACE[1] * 512 + 256
    image = image.rotate(tilt, Image.Resampling.BICUBIC, center=centre).crop((256, 256, 768, 768))
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def panorama(width: int = 16000, height: int = 512, count: int = 6) -> np.ndarray:
    """A wide picture, uint8 [height, width, 3], grey but for portraits of its height at equal distances."""
    pixels = np.full((height, width, 3), 120, np.uint8)
    portrait = astronaut(height)
    for left in lefts(width, height, count):
        pixels[:, left : left + height] = portrait
    return pixels


def lefts(width: int, side: int, count: int) -> list[int]:
    """Where the portraits of ``panorama`` begin."""
    return [round(place) for place in np.linspace(0.02 * width, 0.98 * width - side, count)]
