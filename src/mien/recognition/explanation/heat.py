"""Heat maps over faces: the picture keeps its light and shade, the relevance is what has colour.

Colours are mixed in OKLab (Ottosson 2020), where equal distances look equally large; orange and blue stay apart in the
three common kinds of colour blindness, and the lines around the strongest parts show in grey print as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from mien.data.blur import gaussian_blur
from mien.recognition.explanation.explain import Explanation
from mien.recognition.output.draw import font

SIDE = 384
"""Height and width of an enlarged crop, in pixels, as near as a whole multiple comes for small crops."""

CAPTION = ("Shows what the answer depends on,", "not what the person feels.")
"""The lines below every map."""

OUTLINED = "outlined: at least half as strong as the strongest"

_PAPER, _INK, _FAINT = (255, 255, 255), (29, 39, 51), (92, 104, 115)
_GAP, _TEXT, _BAR = 16, 14, 12
_FOR, _AGAINST = (230, 97, 0), (38, 84, 190)
_STRONGEST = 0.85
_OUTLINED = 0.5
_LINE = 3
"""Width of an outline in pixels."""
_MOST_COLUMNS = 3
_SMOOTHING = 1 / 24

_TO_CONE = np.array([
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
])  # fmt: skip
_TO_LAB = np.array([
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
])  # fmt: skip


def overlay(explanation: Explanation) -> Image.Image:
    """The enlarged crop with the relevance as colour, a legend and a caption; mode RGB."""
    return _panel(explanation, beside=False)


def sheet(explanations: Sequence[Explanation]) -> Image.Image:
    """Several faces in rows of at most three, each crop beside its heat map, with legend and caption; mode RGB."""
    several = len(explanations) > 1
    panels = [
        _panel(one, beside=True, title=f"face {number}: " if several else "")
        for number, one in enumerate(explanations, 1)
    ]
    columns = min(len(panels), _MOST_COLUMNS)
    width, height = max(panel.width for panel in panels), max(panel.height for panel in panels)
    whole = Image.new("RGB", (columns * width, -(-len(panels) // columns) * height), _PAPER)
    for index, panel in enumerate(panels):
        whole.paste(panel, (index % columns * width, index // columns * height))
    return whole


def colours(values: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Mixes a grey ground with orange (above 0) or blue (below 0), the more the further from 0.

    Args:
        values: float [...] in [-1, 1].
        light: float [...], lightness of the ground in OKLab, in [0, 1].

    Returns:
        uint8 [..., 3], RGB.
    """
    share = _STRONGEST * np.abs(values)[..., None]
    tint = np.where(values[..., None] >= 0, _to_lab(np.array(_FOR)), _to_lab(np.array(_AGAINST)))
    ground = np.stack([light, np.zeros_like(light), np.zeros_like(light)], axis=-1)
    return _to_rgb((1 - share) * ground + share * tint)


def _side(explanation: Explanation) -> int:
    size = len(explanation.crop)
    return max(1, round(SIDE / size)) * size if size <= SIDE else SIDE


def _enlarged(crop: np.ndarray, side: int) -> np.ndarray:
    """uint8 [side, side, 3] of a crop."""
    method = Image.Resampling.BICUBIC if len(crop) < side else Image.Resampling.BOX
    return np.asarray(Image.fromarray(crop).resize((side, side), method).convert("RGB"))


def _heat(explanation: Explanation) -> np.ndarray:
    """uint8 [side, side, 3], the crop in grey with the relevance in colour, the strongest parts outlined."""
    side = _side(explanation)
    relevance = Image.fromarray(_scaled(explanation.relevance))
    values = np.asarray(relevance.resize((side, side), Image.Resampling.BICUBIC)).clip(-1, 1)
    # Shadows and lights are drawn in, so that colour shows on both.
    grey = Image.fromarray(_enlarged(explanation.crop, side)).convert("L")
    picture = colours(values, 0.3 + 0.6 * np.asarray(grey) / 255)
    line = np.maximum(_outline(values), _outline(-values))[..., None]
    return np.rint(picture + line * (255.0 - picture)).astype(np.uint8)


def _outline(values: np.ndarray) -> np.ndarray:
    """A smooth line around what is ``_OUTLINED`` or stronger, as opacity, float [S, S] in [0, 1].

    Args:
        values: float [S, S] in [-1, 1].
    """
    down, right = (np.gradient(values, axis=axis) if len(values) > 1 else np.zeros_like(values) for axis in (0, 1))
    # To first order the edge lies this many pixels away; where nothing changes there is none near.
    distance = np.abs(values - _OUTLINED) / np.maximum(np.hypot(down, right), 1e-6)
    opacity: np.ndarray = np.clip(_LINE / 2 + 0.5 - distance, 0, 1)
    inside = np.zeros(values.shape, bool)
    edge = _LINE // 2
    inside[edge:-edge, edge:-edge] = True
    opacity[~inside & (values >= _OUTLINED)] = 1  # closes the line along the border of the picture
    return opacity


def _scaled(relevance: np.ndarray) -> np.ndarray:
    """float32 [S, S] in [-1, 1], the edges of squares smoothed, the strongest at 1 or -1; all 0 where there is none."""
    smooth = gaussian_blur(relevance.astype(np.float32), _SMOOTHING * len(relevance))
    top = float(np.abs(smooth).max())
    return smooth / top if top > 0 else smooth


def _panel(explanation: Explanation, *, beside: bool, title: str = "") -> Image.Image:
    """The heat map above its legend; the caption below, or below the plain crop where that stands beside."""
    side, line = _side(explanation), round(1.4 * _TEXT)
    lines = [f"{title}{explanation.label}, by {explanation.method}", *CAPTION]
    below = side + 2 * _GAP
    legend = _BAR + 2 * line
    height = below + _GAP + (max(legend, len(lines) * line) if beside else legend + _GAP + len(lines) * line)
    panel = Image.new("RGB", (side + 2 * _GAP + (side + _GAP if beside else 0), height), _PAPER)
    pen = ImageDraw.Draw(panel)
    left = panel.width - _GAP - side
    panel.paste(Image.fromarray(_heat(explanation)), (left, _GAP))
    _legend(panel, pen, (left, below), explanation)
    if beside:
        panel.paste(Image.fromarray(_enlarged(explanation.crop, side)), (_GAP, _GAP))
    top = below - _GAP // 4 + (0 if beside else legend + _GAP)
    for index, text in enumerate(lines):
        pen.text((_GAP, top + index * line), text, fill=_FAINT if index else _INK, font=font(_TEXT))
    return panel


def _legend(panel: Image.Image, pen: ImageDraw.ImageDraw, corner: tuple[int, int], explanation: Explanation) -> None:
    """A bar of the colours, from against to for where there are both, and what its ends and the outline mean."""
    (left, top), width = corner, _side(explanation)
    signed = bool(explanation.relevance.min() < 0)
    values = np.linspace(-1.0 if signed else 0.0, 1.0, width)
    bar = np.broadcast_to(colours(values, np.full(width, 0.7)), (_BAR, width, 3))
    panel.paste(Image.fromarray(np.ascontiguousarray(bar)), (left, top))
    small, label, below = font(_TEXT), explanation.label, top + _BAR + 3
    ends = (f"against {label}", f"for {label}") if signed else ("little", "much")
    pen.text((left, below), ends[0], fill=_INK, font=small)
    pen.text((left + width, below), ends[1], fill=_INK, font=small, anchor="ra")
    pen.text(
        (left, below + round(1.4 * _TEXT)),
        OUTLINED,
        fill=_FAINT,
        font=small,
    )


def _to_lab(rgb: np.ndarray) -> np.ndarray:
    """uint8-ranged [..., 3] in sRGB to float64 [..., 3] in OKLab."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    found: np.ndarray = np.cbrt(linear @ _TO_CONE.T) @ _TO_LAB.T
    return found


def _to_rgb(lab: np.ndarray) -> np.ndarray:
    """float64 [..., 3] in OKLab to uint8 [..., 3] in sRGB; what sRGB cannot show is clipped."""
    linear = ((lab @ np.linalg.inv(_TO_LAB).T) ** 3 @ np.linalg.inv(_TO_CONE).T).clip(0, 1)
    share = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (255 * share).round().astype(np.uint8)
