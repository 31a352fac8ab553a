"""Gaussian blur in plain NumPy: the same pixels on every machine, and no library for it."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

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
