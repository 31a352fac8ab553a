"""Heat maps of the parts of a face that an answer depends on.

Occlusion (Zeiler and Fergus 2014, arXiv:1311.2901, section 4.2) hides a part of the face, reads it again and compares
the answers. It needs only the network's answers, so it works with every engine. The methods of
``mien.recognition.torch_engine`` use the network's inside. ``benchmarks/explanations.py`` compares all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from mien.data.images import gaussian_blur
from mien.errors import NO_NUMBERS, MienError
from mien.files import expanded
from mien.fonts import write
from mien.recognition.arguments import type_of
from mien.recognition.draw import write_picture
from mien.recognition.engine import BATCH, Engine
from mien.recognition.results import Face

Reader = Callable[[np.ndarray], np.ndarray]
"""Function from face crops, uint8 [N, S, S] or [N, S, S, 3], to probabilities [N, C]."""

TORCH_METHODS: tuple[str, ...] = ("rollout", "gradient")
"""Methods that use the attention of a Vision Transformer and need torch."""

METHODS: tuple[str, ...] = ("auto", "occlusion", *TORCH_METHODS)
"""Methods that ``explain`` accepts; ``auto`` is occlusion, the best one in ``benchmarks/explanations.py``."""

WINDOWS: tuple[float, ...] = (1 / 4,)
"""Sides of the hidden squares, as shares of the crop's side; the maps of all sizes are averaged.

In ``benchmarks/explanations.py``, 1/6, 1/3 and averages with them were not better, and most took longer.
"""

FILLS: tuple[str, ...] = ("blur", "grey")
"""Contents of a hidden square: the crop blurred beyond recognition, or the crop's mean grey (or colour)."""

SAME_NETWORK = 0.9
"""Cosine of two embeddings of one crop from which on they count as of one network. Between a shipped model and its form
in eight bits it was at least .993 for 150 faces; another network has other directions."""

_LEAST = 1e-6
_ENDINGS = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Explanation:
    """The parts of a face that an answer depends on; this is about the network, not about what the person feels.

    Attributes:
        relevance: float32 [S, S], one number for each pixel of the crop; higher means that the answer depends on it
            more. ``occlusion``: mean fall of the label's log-odds in nats if a square around the pixel is hidden; above
            0 the pixel speaks for the label, below 0 against it; unbounded. ``rollout``: share of the patch in the
            final [CLS], in [0, 1]. ``gradient``: at least 0, without a unit.
        label: the explained expression.
        method: occlusion, rollout or gradient.
        crop: uint8 [S, S] (grey) or [S, S, 3] (RGB), the network's input.
        probability: of the label for this face, in [0, 1]; None if it is not known.
        uncertain: true if the label is the face's answer, and uncertain (``mien.Face``).
    """

    relevance: np.ndarray = field(repr=False, compare=False)
    label: str
    method: str
    crop: np.ndarray = field(repr=False, compare=False)
    probability: float | None = field(default=None, repr=False)
    uncertain: bool = field(default=False, repr=False)

    def overlay(self) -> Image.Image:
        """Returns the enlarged crop with the relevance as colour, a legend and a caption; mode RGB."""
        return _panel(self, beside=False)

    def save(self, path: str | Path) -> None:
        """Writes a picture of the crop beside its heat map.

        Raises:
            MienError: the name does not end in .png, .jpg or .jpeg, or the file cannot be written.
        """
        save([self], expanded(path))


def explain(face: Face, engine: Engine, method: str = "auto", label: str | None = None) -> Explanation:
    """Shows which parts of a face an answer depends on.

    Args:
        face: a face with its crop, as the engine read it.
        engine: the engine that read it. ``rollout`` and ``gradient`` need a ViT in torch as its attribute
            ``classifier``, which ``mien.recognition.torch_engine.TorchEngine`` has.
        method: one of ``METHODS``.
        label: the expression to explain; by default the face's own.

    Raises:
        MienError: ``face`` is not a Face, has no crop or one of another model's size, or was read by another network,
            as its embedding shows (``SAME_NETWORK``; a face without one is not checked); the method or the label is
            unknown, the engine lacks what the method needs, or the network answers with NaN.
    """
    if not isinstance(face, Face):
        raise MienError(f"face: is {type_of(face)}, expected a Face, such as result.faces[0]")
    if method not in METHODS:
        raise MienError(f"method: got {method!r}, expected one of {', '.join(METHODS)}")
    if face.crop is None:
        raise MienError("the face keeps no crop, expected what the network read; take one from Recognizer.recognize")
    size = engine.image_size
    if face.crop.shape[:2] != (size, size):
        raise MienError(
            f"face: its crop is {list(face.crop.shape)}, and this model reads {size}x{size} pixels; give it to the "
            "recognizer that read it"
        )
    label = face.label if label is None else label
    if label not in engine.names:
        raise MienError(f"label: got {label!r}, expected one that the model knows: {', '.join(engine.names)}")
    _check_network(face.crop, face.embedding, engine)
    position = engine.names.index(label)
    if method in ("auto", "occlusion"):
        relevance, method = occlusion(face.crop, reader(engine), position), "occlusion"
    else:
        relevance = _by_attention(face.crop, engine, method, position)
    uncertain = bool(face.uncertain) and label == face.label
    return Explanation(relevance, label, method, face.crop, face.probabilities.get(label), uncertain)


def _check_network(crop: np.ndarray, embedding: np.ndarray | None, engine: Engine) -> None:
    """Refuses a face that another network read, as the answer beside the map would not be the one that it explains.

    Probabilities cannot tell that: in a film they are smoothed.
    """
    if embedding is None or not embedding.any():
        return
    own = np.asarray(engine.read(crop[None]).embeddings)[0]
    is_other = own.shape != embedding.shape
    if not is_other:
        cosine = float(own @ embedding) / max(float(np.linalg.norm(own) * np.linalg.norm(embedding)), _LEAST)
        is_other = bool(own.any()) and cosine < SAME_NETWORK
    if is_other:
        raise MienError("face: was read by another model; give it to the recognizer that read it")


def save(explanations: Sequence[Explanation], path: Path, *, spare_all: bool = False) -> None:
    """Writes the crops of several faces, each beside its heat map, into one picture.

    Args:
        explanations: of the faces.
        path: the picture; an earlier file is replaced.
        spare_all: leave an earlier file; the picture then has a number beside it, and SparedError says where it is.

    Raises:
        MienError: as ``Explanation.save``.
    """
    check_name(path)
    write_picture(sheet(explanations), path, spare_all=spare_all)


def check_name(path: Path) -> None:
    """Checks that a path has the ending of a picture that ``save`` can write.

    Raises:
        MienError: it has another ending.
    """
    if not is_picture_name(path):
        raise MienError(f"{path}: has another ending than {', '.join(_ENDINGS)}; give the picture such a name")


def is_picture_name(path: Path) -> bool:
    """True if a path has the ending of a picture that ``save`` can write."""
    return path.suffix.lower() in _ENDINGS


def reader(engine: Engine) -> Reader:
    """Returns the function from crops to an engine's probabilities."""
    return lambda crops: np.asarray(engine.read(crops).probabilities)


def occlusion(
    crop: np.ndarray, read: Reader, label: int, *, windows: Sequence[float] = WINDOWS, fill: str = FILLS[0]
) -> np.ndarray:
    """Measures the fall of a label's log-odds if parts of a crop are hidden (Zeiler and Fergus 2014, section 4.2).

    Squares move over the crop in steps of half their side, and beyond its edges by as much, so that the same number of
    squares covers every pixel. A pixel's relevance is the mean over the squares that hide it, and over their sizes.
    Log-odds are used because the probability of a sure answer stays near 1 whatever is hidden; probabilities are
    clipped to 1e-6 from 0 and 1.

    Args:
        crop: uint8 [S, S] (grey) or [S, S, 3] (RGB).
        read: the network.
        label: position of the label in the answers.
        windows: sides of the squares, as shares of S.
        fill: one of ``FILLS``.

    Returns:
        float32 [S, S], in nats; above 0 speaks for the label, below 0 against it.

    Raises:
        MienError: the network answers with NaN or infinity.
    """
    size, hidden = len(crop), filled(crop, fill)
    whole = _log_odds(read(crop[None]), label)[0]
    maps = []
    for side in (max(2, round(share * size)) for share in windows):
        step = side // 2
        starts = range(step - side, size, step)
        spans = [slice(max(start, 0), start + side) for start in starts]
        places = [(rows, columns) for rows in spans for columns in spans]
        drops = whole - _read_hidden(crop, hidden, places, read, label)
        maps.append(_spread(drops.reshape(len(starts), len(starts)), starts, side, size))
    return np.mean(maps, axis=0).astype(np.float32)


def _spread(drops: np.ndarray, starts: Sequence[int], side: int, size: int) -> np.ndarray:
    """Averages for each pixel the drops of the squares that hide it, float64 [size, size].

    Args:
        drops: float64 [K, K], one number for each square.
        starts: first rows (and columns) of the squares.
        side: side of a square, in pixels.
        size: side of the crop, in pixels.
    """
    pixels, first = np.arange(size)[:, None], np.array(starts)
    hides = ((first <= pixels) & (pixels < first + side)).astype(np.float64)
    hides /= hides.sum(axis=1, keepdims=True)
    means: np.ndarray = hides @ drops @ hides.T
    return means


def filled(crop: np.ndarray, fill: str) -> np.ndarray:
    """Returns the content of the hidden parts of a crop, uint8 of the same shape."""
    if fill == "grey":
        return np.broadcast_to(crop.mean(axis=(0, 1)).round().astype(np.uint8), crop.shape)
    return gaussian_blur(crop, len(crop) / 8, "symmetric")


def enlarged(grid: np.ndarray, size: int) -> np.ndarray:
    """Repeats the number of each patch, [G, G], for all of its pixels, float32 [size, size]."""
    patches = np.arange(size) * len(grid) // size
    return grid.astype(np.float32)[np.ix_(patches, patches)]


def _read_hidden(
    crop: np.ndarray, hidden: np.ndarray, places: Sequence[tuple[slice, slice]], read: Reader, label: int
) -> np.ndarray:
    """Returns the label's log-odds with each place hidden, float64 [len(places)]."""
    log_odds = []
    for start in range(0, len(places), BATCH):
        batch = places[start : start + BATCH]
        crops = np.repeat(crop[None], len(batch), axis=0)
        for row, place in enumerate(batch):
            crops[row][place] = hidden[place]
        log_odds.append(_log_odds(read(crops), label))
    return np.concatenate(log_odds)


def _log_odds(probabilities: np.ndarray, label: int) -> np.ndarray:
    if not np.isfinite(probabilities).all():
        raise MienError(f"the model answers with {NO_NUMBERS}")
    clipped = probabilities[:, label].astype(np.float64).clip(_LEAST, 1 - _LEAST)
    log_odds: np.ndarray = np.log(clipped) - np.log1p(-clipped)
    return log_odds


def _by_attention(crop: np.ndarray, engine: Engine, method: str, label: int) -> np.ndarray:
    """Returns the relevance, float32 [S, S], by a method that uses the attention of the network."""
    classifier: Any = getattr(engine, "classifier", None)
    if classifier is None:
        raise MienError(
            f"method {method}: needs torch and a model folder with model.safetensors, got an engine without "
            "(Recognizer(FOLDER, engine='torch') has both); or take the method occlusion"
        )
    from mien.recognition.torch_engine import ATTENTION

    return enlarged(ATTENTION[method](classifier, crop, label), len(crop))


# The drawings: the crop stays grey and only the relevance has colour. Colours are mixed in OKLab (Ottosson 2020), where
# equal distances look equally large. Orange and blue differ in the three common kinds of colour blindness, and the
# outlines of the strongest parts are visible in grey print too.

SIDE = 384
"""Side of an enlarged crop in pixels; small crops get the nearest whole multiple of their side."""

CAPTION = ("Shows what the answer depends on,", "not what the person feels.")
"""Lines below every map."""

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


def sheet(explanations: Sequence[Explanation]) -> Image.Image:
    """Draws several faces in rows of at most three, each crop beside its heat map, legend and caption; mode RGB."""
    several = len(explanations) > 1
    panels = [
        _panel(explanation, beside=True, title=f"face {number}: " if several else "")
        for number, explanation in enumerate(explanations)  # from 0, as the tables and the service number them
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
    """Enlarges a crop to uint8 [side, side, 3]."""
    method = Image.Resampling.BICUBIC if len(crop) < side else Image.Resampling.BOX
    return np.asarray(Image.fromarray(crop).resize((side, side), method).convert("RGB"))


def _heat(explanation: Explanation) -> np.ndarray:
    """Draws the crop in grey, the relevance in colour, outlines around the strongest parts, uint8 [side, side, 3]."""
    side = _side(explanation)
    relevance = Image.fromarray(_scaled(explanation.relevance))
    values = np.asarray(relevance.resize((side, side), Image.Resampling.BICUBIC)).clip(-1, 1)
    # The range of lightness is narrowed, so that colour is visible in shadows and lights.
    grey = Image.fromarray(_enlarged(explanation.crop, side)).convert("L")
    picture = colours(values, 0.3 + 0.6 * np.asarray(grey) / 255)
    line = np.maximum(_outline(values), _outline(-values))[..., None]
    return np.rint(picture + line * (255.0 - picture)).astype(np.uint8)


def _outline(values: np.ndarray) -> np.ndarray:
    """Opacity of a smooth line around values of ``_OUTLINED`` or more, float [S, S] in [0, 1].

    Args:
        values: float [S, S] in [-1, 1].
    """
    down, right = (np.gradient(values, axis=axis) if len(values) > 1 else np.zeros_like(values) for axis in (0, 1))
    # Distance to the edge in pixels, to first order; where the gradient is 0 there is no edge near.
    distance = np.abs(values - _OUTLINED) / np.maximum(np.hypot(down, right), 1e-6)
    opacity: np.ndarray = np.clip(_LINE / 2 + 0.5 - distance, 0, 1)
    inside = np.zeros(values.shape, bool)
    edge = _LINE // 2
    inside[edge:-edge, edge:-edge] = True
    opacity[~inside & (values >= _OUTLINED)] = 1  # closes the line along the border of the picture
    return opacity


def _scaled(relevance: np.ndarray) -> np.ndarray:
    """Smooths the edges of the squares and scales the strongest value to 1 or -1: float32 [S, S]."""
    smooth = gaussian_blur(relevance.astype(np.float32), _SMOOTHING * len(relevance))
    top = float(np.abs(smooth).max())
    return smooth / top if top > 0 else smooth


def _panel(explanation: Explanation, *, beside: bool, title: str = "") -> Image.Image:
    """Draws one heat map with legend and caption; ``beside`` puts the plain crop at its left, above the caption."""
    side, line = _side(explanation), round(1.4 * _TEXT)
    answer = f"{explanation.label}{'?' if explanation.uncertain else ''}"
    if explanation.probability is not None:
        answer += f" {explanation.probability:.0%}"
    lines = [f"{title}{answer}, by {explanation.method}", *CAPTION]
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
        write(pen, (_GAP, top + index * line), text, _TEXT, _FAINT if index else _INK)
    return panel


def _legend(panel: Image.Image, pen: ImageDraw.ImageDraw, corner: tuple[int, int], explanation: Explanation) -> None:
    """Draws a bar of the colours (those against the label if there are any), and labels its ends and the outline."""
    (left, top), width = corner, _side(explanation)
    signed = bool(explanation.relevance.min() < 0)
    values = np.linspace(-1.0 if signed else 0.0, 1.0, width)
    bar = np.broadcast_to(colours(values, np.full(width, 0.7)), (_BAR, width, 3))
    panel.paste(Image.fromarray(np.ascontiguousarray(bar)), (left, top))
    label, below = explanation.label, top + _BAR + 3
    ends = (f"against {label}", f"for {label}") if signed else ("little", "much")
    write(pen, (left, below), ends[0], _TEXT, _INK)
    write(pen, (left + width, below), ends[1], _TEXT, _INK, "ra")
    write(pen, (left, below + round(1.4 * _TEXT)), OUTLINED, _TEXT, _FAINT)


def _to_lab(rgb: np.ndarray) -> np.ndarray:
    """Converts sRGB in 0 to 255, [..., 3], to OKLab, float64 [..., 3]."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    lab: np.ndarray = np.cbrt(linear @ _TO_CONE.T) @ _TO_LAB.T
    return lab


def _to_rgb(lab: np.ndarray) -> np.ndarray:
    """Converts OKLab, float64 [..., 3], to sRGB, uint8 [..., 3]; colours outside sRGB are clipped."""
    linear = ((lab @ np.linalg.inv(_TO_LAB).T) ** 3 @ np.linalg.inv(_TO_CONE).T).clip(0, 1)
    share = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (255 * share).round().astype(np.uint8)
