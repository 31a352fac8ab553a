"""From the bytes of a picture file to its pixels, with distrust."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

from mien.errors import MienError

SUFFIXES: tuple[str, ...] = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
"""File-name endings that make a file a picture, in lower case."""

LARGEST_SIDE = 2048
"""Largest height and width in pixels, checked before anything is decoded."""

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
    if not data:
        raise MienError(f"{where}: is empty; replace or remove the file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                _check_size(image.size, where, expected)
                image.load()
                return _pixels(ImageOps.exif_transpose(image) if "exif" in image.info else image, where)
    except MienError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MienError(
            f"{where}: has more pixels than any face crop, expected at most {LARGEST_SIDE}x{LARGEST_SIDE}; "
            "remove the file"
        ) from error
    except Image.UnidentifiedImageError as error:
        raise MienError(f"{where}: is not a picture that can be read; replace or remove the file") from error
    except Exception as error:  # Pillow's decoders raise many kinds on broken data: OSError, SyntaxError, struct.error.
        raise MienError(f"{where}: is a truncated or broken picture ({error}); replace or remove the file") from error


def _check_size(size: tuple[int, int], where: str, expected: int | None) -> None:
    width, height = size
    remedy = "crop or resize all pictures to one square size"
    if max(size) > LARGEST_SIDE:
        raise MienError(
            f"{where}: is {width}x{height} pixels, expected at most {LARGEST_SIDE}x{LARGEST_SIDE}; {remedy}"
        )
    if expected is not None and size != (expected, expected):
        raise MienError(
            f"{where}: is {width}x{height} pixels, expected {expected}x{expected} as the pictures before it; {remedy}"
        )
    if width != height:
        raise MienError(f"{where}: is {width}x{height} pixels, expected a square; {remedy}")


def _pixels(image: Image.Image, where: str) -> np.ndarray:
    if image.mode == "L" and not image.has_transparency_data:
        return np.asarray(image)
    if image.mode not in _MODES:
        raise MienError(f"{where}: has pixels of kind {image.mode}, expected 8-bit grey or colour; save it as such")
    if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
        raise MienError(f"{where}: has transparent parts, expected an opaque picture; save it without transparency")
    colour = np.asarray(image.convert("RGB"))
    red = colour[..., 0]
    return red if (colour == red[..., None]).all() else colour
