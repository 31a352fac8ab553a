"""Decodes picture files with one guarded opener; strict for data sets. Blurs pictures with a Gaussian."""

from __future__ import annotations

import io
import math
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
from PIL import ExifTags, Image

from mien.errors import MienError, first_line

SUFFIXES: tuple[str, ...] = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
"""Endings of picture files in a data set, in lower case."""

LARGEST_SIDE = 2048
"""Largest height and width of a face crop in pixels; checked before the pixels are decoded."""

LARGEST_PHOTO = 8192
"""Largest height and width in pixels of a photo that is scaled down; checked before the pixels are decoded."""

_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WARNING_FILTERS = threading.Lock()  # they belong to the process, not to a thread
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})

Border = Literal["reflect", "symmetric"]
"""How a picture continues beyond its edge, in ``numpy.pad``'s words: mirrored without or with its edge pixels."""


def decode(data: bytes, where: str, like: tuple[str, int] | None = None) -> np.ndarray:
    """Decodes a square picture of a data set.

    Args:
        data: content of the file.
        where: name of the file in error messages.
        like: path of another picture, and its height and width in pixels, which this one must have; None accepts any
            square.

    Returns:
        uint8 [S, S] if the picture is grey or its three channels are equal, else uint8 [S, S, 3] (RGB).

    Raises:
        MienError: the file is no picture, is cut short, too large, not square, of another size, has 16 bits a value, or
            has transparent pixels.
    """
    with _open_limited(data, where, LARGEST_SIDE) as image:
        _check_square(image.size, where, like)
        image.load()
        return grey_if_equal(np.asarray(_opaque(_upright(image), where)))


def decode_resized(data: bytes, where: str, size: int) -> np.ndarray:
    """Decodes the central square of a picture of any shape and scales it to one size.

    Args:
        data: content of the file.
        where: name of the file in error messages.
        size: height and width of the result in pixels; scaled bilinearly with antialiasing, as
            ``Preprocessing.resize``.

    Returns:
        uint8 [size, size] if the picture is grey or its three channels are equal, else uint8 [size, size, 3] (RGB).

    Raises:
        MienError: the file is no picture, is cut short, larger than ``LARGEST_PHOTO``, has 16 bits a value, or has
            transparent pixels.
    """
    with _open_limited(data, where, LARGEST_PHOTO) as image:
        # Pillow decodes a large JPEG at an eighth, a quarter or a half of its size: much faster, and with twice the
        # wanted size there is enough detail left for the antialiasing below.
        image.draft(None, (2 * size, 2 * size))
        image.load()
        opaque = _opaque(image, where)
        width, height = opaque.size
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        square = opaque.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
        return grey_if_equal(np.asarray(_upright(square)))


def put(images: np.ndarray, row: int, pixels: np.ndarray) -> np.ndarray:
    """Writes a picture into a row of a set; the first colour picture turns a grey set into a colour set.

    Args:
        images: uint8 [N, S, S] or [N, S, S, 3], changed in place if its shape allows it.
        row: index of the row.
        pixels: uint8 [S, S] or [S, S, 3].

    Returns:
        uint8 [N, S, S] or [N, S, S, 3], to be used in place of ``images``.
    """
    if pixels.ndim == 3 and images.ndim == 3:
        images = np.repeat(images[..., None], 3, axis=3)
    images[row] = pixels if pixels.ndim == images.ndim - 1 else pixels[..., None]
    return images


@contextmanager
def open_picture(data: bytes, where: str, formats: tuple[str, ...], largest: str) -> Iterator[Image.Image]:
    """Opens a picture without decoding its pixels, so that the caller can check its size first.

    Args:
        data: content of the file.
        where: name of the file in error messages.
        formats: Pillow's names of the accepted formats, two or more.
        largest: the largest size that the caller accepts, in words.

    Raises:
        MienError: the file is empty, of another format or broken, or the body of the ``with`` raised any exception.
    """
    if not data:
        raise MienError(f"{where}: is empty; replace or remove the file")
    with pillow_errors(where, formats, largest):
        with _WARNING_FILTERS, warnings.catch_warnings():
            # Pillow warns about large pictures; our callers refuse them.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=formats)
        with image:
            yield image


def upright(image: Image.Image) -> Image.Image:
    """Returns the picture turned as its EXIF orientation says; unchanged if there is none or if EXIF is damaged.

    ``PIL.ImageOps.exif_transpose`` also writes all of EXIF anew, which fails for a tag of an unusual type.
    """
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Damaged EXIF data raises many kinds of exceptions; the pixels can be read anyway.
        return image
    return image if turn is None else image.transpose(turn)


@contextmanager
def pillow_errors(where: str, formats: Sequence[str], largest: str) -> Iterator[None]:
    """Turns every error of Pillow into a MienError of one line.

    Args:
        where: name of the picture in error messages.
        formats: Pillow's names of the accepted formats, two or more.
        largest: the largest size allowed, in words.

    Raises:
        MienError: the body of the ``with`` raised any exception.
    """
    try:
        yield
    except MienError:
        raise
    except Image.DecompressionBombError as error:
        raise MienError(
            f"{where}: has more pixels than can be read, expected at most {largest}; make it smaller"
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
        raise MienError(
            f"{where}: is a truncated or broken picture ({first_line(error)}); replace or remove it"
        ) from error


def grey_if_equal(pixels: np.ndarray) -> np.ndarray:
    """Returns uint8 [H, W] if ``pixels`` [H, W, 3] has three equal channels, or has no channels; else ``pixels``."""
    if pixels.ndim == 2:
        return pixels
    # A colour picture shows itself in a few pixels; a picture that may be grey is compared as a whole.
    for part in (pixels[::16, ::16], pixels):
        if (part != part[..., :1]).any():
            return pixels
    return np.ascontiguousarray(pixels[..., 0])


def gaussian_blur(picture: np.ndarray, deviation: float, border: Border = "reflect") -> np.ndarray:
    """Blurs a picture with a Gaussian, first along the columns, then along the rows.

    Args:
        picture: [H, W] or [H, W, 3], uint8 or float.
        deviation: standard deviation of the Gaussian in pixels, above 0; the Gaussian ends at 3 deviations.
        border: how the picture continues beyond its edges.

    Returns:
        Shape and dtype of ``picture``. Computed in float64; uint8 is rounded to the nearest value.
    """
    radius = math.ceil(3 * deviation)
    weights = [math.exp(-0.5 * (offset / deviation) ** 2) for offset in range(-radius, radius + 1)]
    total = sum(weights)
    blurred = picture.astype(np.float64)
    for axis in (0, 1):
        lines = blurred.swapaxes(0, axis)
        size = len(lines)
        padded = lines[np.pad(np.arange(size), radius, mode=border)]
        # Weight after weight, not as a matrix product, whose last bits depend on the machine.
        summed = weights[radius] / total * lines
        for offset in range(1, radius + 1):
            near, far = padded[radius - offset :][:size], padded[radius + offset :][:size]
            summed += weights[radius + offset] / total * (near + far)
        blurred = summed.swapaxes(0, axis)
    if picture.dtype == np.uint8:
        return np.rint(blurred).astype(np.uint8)
    return blurred.astype(picture.dtype)


@contextmanager
def _open_limited(data: bytes, where: str, largest_side: int) -> Iterator[Image.Image]:
    limit = f"{largest_side}x{largest_side}"
    with open_picture(data, where, _FORMATS, limit) as image:
        if max(image.size) > largest_side:
            width, height = image.size
            raise MienError(f"{where}: is {width}x{height} pixels, expected at most {limit}; make it smaller")
        # Pillow opens 16-bit colours as RGB and keeps their upper bytes, which are near 0 if 12 bits are in use.
        kinds = [str(tile[-1]) for tile in getattr(image, "tile", ()) if ";16" in str(tile[-1])]
        if kinds:
            raise _wrong_pixels(where, kinds[0])
        yield image


def _wrong_pixels(where: str, kind: str) -> MienError:
    return MienError(f"{where}: has pixels of kind {kind}, expected 8-bit grey or colour; save it as such")


def _check_square(size: tuple[int, int], where: str, like: tuple[str, int] | None) -> None:
    width, height = size
    remedy = "`mien data crop PHOTOS --out FACES` cuts the faces out of photos, all in one square size"
    if like is not None and size != (like[1], like[1]):
        raise MienError(f"{where}: is {width}x{height} pixels, expected {like[1]}x{like[1]} as {like[0]} has; {remedy}")
    if width != height:
        raise MienError(f"{where}: is {width}x{height} pixels, expected a square; {remedy}")


def _upright(image: Image.Image) -> Image.Image:
    return upright(image) if "exif" in image.info else image


def _opaque(image: Image.Image, where: str) -> Image.Image:
    """Returns the picture in mode L or RGB; refuses pixels of 16 bits and transparent pixels."""
    if image.mode == "L" and not image.has_transparency_data:
        return image
    if image.mode not in _MODES:
        raise _wrong_pixels(where, image.mode)
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise MienError(f"{where}: has transparent parts, expected an opaque picture; save it without transparency")
    return image.convert("RGB")
