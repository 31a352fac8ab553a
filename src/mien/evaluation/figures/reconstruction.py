"""The figure of a masked autoencoder at work: faces, what its encoder saw, and what its decoder made of that."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from mien.evaluation.figures.style import LIGHT, TEXT_SIZE, Theme, blank_figure

ROWS: tuple[str, ...] = ("face", "what the\nencoder saw", "what the\ndecoder made")
HIDDEN_SHADE = 0.82
"""Brightness of a hidden patch, as a share of white."""


def reconstructions(originals: np.ndarray, hidden: np.ndarray, merged: np.ndarray, *, theme: Theme = LIGHT) -> Figure:
    """Three rows of pictures, one column a face.

    Args:
        originals: uint8 [N, S, S] (grey) or [N, S, S, 3] (RGB).
        hidden: bool [N, S, S], true where the encoder saw nothing.
        merged: as ``originals``: visible patches as they are, hidden ones as predicted.
        theme: the colours.
    """
    veil = np.uint8(round(255 * HIDDEN_SHADE))
    masked = np.where(hidden if originals.ndim == 3 else hidden[..., None], veil, originals)
    figure = blank_figure((1.15 * len(originals) + 1.2, 3.75), theme)
    grid = figure.subplots(3, len(originals), squeeze=False)
    for row, (title, images) in enumerate(zip(ROWS, (originals, masked, merged), strict=True)):
        for axes, image in zip(grid[row], images, strict=True):
            axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_frame_on(False)
        grid[row, 0].set_ylabel(title, rotation=0, ha="right", va="center", color=theme.ink, fontsize=TEXT_SIZE)
    return figure
