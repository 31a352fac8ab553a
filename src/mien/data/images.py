"""Decoding of the pictures of a data set, and Gaussian blur."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from mien.errors import MienError

SUFFIXES: tuple[str, ...] = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
"""File-name endings that make a file a picture, in lower case."""

LARGEST_SIDE = 2048
"""Largest height and width of a face crop in pixels, checked before anything is decoded."""

LARGEST_PHOTO = 8192
"""Largest height and width in pixels of a photo that is made smaller, checked before anything is decoded."""

_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM")
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})


def decode(data: bytes, where: str, expected: int | None = None) -> np.ndarray:
    """Decodes one square picture.

    Args:
        data: the file's bytes.
        where: how a message names the file.
        expected: height and width in pixels that the picture must have; None accepts any square.

    Returns:
        uint8 [S, S] for a grey picture, also for one saved in colour whose three channels are equal; else uint8
        [S, S, 3], RGB.

    Raises:
        MienError: the file is no picture, cut short, too large, not square, of another size, 16 bits deep, or has
            transparent parts.
    """
    with _opened(data, where, LARGEST_SIDE) as image:
        _check_shape(image.size, where, expected)
        image.load()
        return _pixels(_opaque(_upright(image), where))


def decode_resized(data: bytes, where: str, size: int) -> np.ndarray:
    """Decodes the centred square of a picture of any shape and brings it to one size.

    Args:
        data: the file's bytes.
        where: how a message names the file.
        size: height and width in pixels of the result; bilinear with antialiasing, as ``Preprocessing.resize``.

    Returns:
        uint8 [size, size] for a grey picture, also for one saved in colour whose three channels are equal; else uint8
        [size, size, 3], RGB.

    Raises:
        MienError: the file is no picture, cut short, larger than ``LARGEST_PHOTO``, 16 bits deep, or has transparent
            parts.
    """
    with _opened(data, where, LARGEST_PHOTO) as image:
        # A JPEG is decoded at an eighth, a quarter or a half, where that is still twice as large as what is wanted.
        image.draft(None, (2 * size, 2 * size))
        image.load()
        opaque = _opaque(image, where)
        width, height = opaque.size
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        square = opaque.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
        return _pixels(_upright(square))


def put(images: np.ndarray, row: int, pixels: np.ndarray) -> np.ndarray:
    """Puts a picture into a row of a set; the first one that has colour makes the whole set colour.

    Args:
        images: uint8 [N, S, S] or [N, S, S, 3], changed in place where it can be.
        row: where the picture goes.
        pixels: uint8 [S, S] or [S, S, 3].

    Returns:
        The set to go on with, uint8 [N, S, S] or [N, S, S, 3].
    """
    if pixels.ndim == 3 and images.ndim == 3:
        images = np.repeat(images[..., None], 3, axis=3)
    images[row] = pixels if pixels.ndim == images.ndim - 1 else pixels[..., None]
    return images


@contextmanager
def _opened(data: bytes, where: str, limit: int) -> Iterator[Image.Image]:
    """A picture of at most ``limit`` pixels a side, not yet decoded; what goes wrong within is told as a MienError."""
    if not data:
        raise MienError(f"{where}: is empty; replace or remove the file")
    with failures_told(where, _FORMATS, f"{limit}x{limit}"), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if max(image.size) > limit:
                width, height = image.size
                raise MienError(
                    f"{where}: is {width}x{height} pixels, expected at most {limit}x{limit}; make it smaller"
                )
            yield image


@contextmanager
def failures_told(where: str, formats: Sequence[str], most: str) -> Iterator[None]:
    """What goes wrong in Pillow within, told as a MienError.

    Args:
        where: how a message names the picture.
        formats: Pillow's names of those that are read, two or more.
        most: the size that is allowed, in words.

    Raises:
        MienError: whatever was raised, in one line.
    """
    try:
        yield
    except MienError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MienError(
            f"{where}: has more pixels than can be read, expected at most {most}; make it smaller"
        ) from error
    except Image.UnidentifiedImageError as error:
        raise MienError(
            f"{where}: is not a picture that can be read, expected {', '.join(formats[:-1])} or {formats[-1]}; "
            "replace or remove it, or save it as one of these"
        ) from error
    except MemoryError as error:
        raise MienError(
            f"{where}: needs more memory than there is left to be read; close other programs, or make it smaller"
        ) from error
    except Exception as error:  # Pillow's decoders raise many kinds on broken data: OSError, SyntaxError, struct.error.
        raise MienError(f"{where}: is a truncated or broken picture ({error}); replace or remove it") from error


def _check_shape(size: tuple[int, int], where: str, expected: int | None) -> None:
    width, height = size
    remedy = "`mien data crop PHOTOS --out FACES` cuts the faces out of photos, all in one square size"
    if expected is not None and size != (expected, expected):
        raise MienError(
            f"{where}: is {width}x{height} pixels, expected {expected}x{expected} as the pictures before it; {remedy}"
        )
    if width != height:
        raise MienError(f"{where}: is {width}x{height} pixels, expected a square; {remedy}")


def _upright(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image) if "exif" in image.info else image


def _opaque(image: Image.Image, where: str) -> Image.Image:
    """The picture in mode L or RGB, without a pixel that one can see through."""
    if image.mode == "L" and not image.has_transparency_data:
        return image
    if image.mode not in _MODES:
        raise MienError(f"{where}: has pixels of kind {image.mode}, expected 8-bit grey or colour; save it as such")
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise MienError(f"{where}: has transparent parts, expected an opaque picture; save it without transparency")
    return image.convert("RGB")


def _pixels(image: Image.Image) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3] of a picture in mode L or RGB; equal channels are grey."""
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        return pixels
    red = pixels[..., 0]
    return red if (pixels == red[..., None]).all() else pixels


Border = Literal["reflect", "symmetric"]
"""What lies beyond the edge, as ``numpy.pad`` names it: the picture mirrored without, or with, its edge pixels."""


def gaussian_blur(picture: np.ndarray, deviation: float, border: Border = "reflect") -> np.ndarray:
    """A picture convolved with a Gaussian, rows first, then columns.

    Args:
        picture: [H, W] or [H, W, 3], uint8 or float.
        deviation: standard deviation of the Gaussian in pixels, above 0; it is cut off at 3 deviations.
        border: how the picture goes on beyond its edges.

    Returns:
        The shape and dtype of ``picture``; uint8 is rounded to the nearest, floats are computed in float64.
    """
    radius = math.ceil(3 * deviation)
    weights = [math.exp(-0.5 * (offset / deviation) ** 2) for offset in range(-radius, radius + 1)]
    total = sum(weights)
    blurred = picture.astype(np.float64)
    for axis in (0, 1):
        lines = blurred.swapaxes(0, axis)
        size = len(lines)
        padded = lines[np.pad(np.arange(size), radius, mode=border)]
        # Added tap by tap, not as a matrix product, whose last bits depend on the machine.
        summed = weights[radius] / total * lines
        for offset in range(1, radius + 1):
            near, far = padded[radius - offset :][:size], padded[radius + offset :][:size]
            summed += weights[radius + offset] / total * (near + far)
        blurred = summed.swapaxes(0, axis)
    if picture.dtype == np.uint8:
        return np.rint(blurred).astype(np.uint8)
    return blurred.astype(picture.dtype)
