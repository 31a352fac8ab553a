"""What of a face an answer depends on: hide a part, read again, and see how much surer or less sure the answer becomes.

Occlusion (Zeiler and Fergus 2014, arXiv:1311.2901, section 4.2) needs nothing but the network's answers, so it works
with every engine. What looks into the network itself is in ``mien.recognition.explanation.attention`` and needs torch.
``benchmarks/explanations.py`` measures which of them tells the truth best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mien.data.blur import gaussian_blur
from mien.errors import NO_NUMBERS, MienError
from mien.evaluation.calibration import softmax
from mien.files import atomic_file
from mien.recognition.engines.engines import BATCH, Engine
from mien.recognition.results import Face

if TYPE_CHECKING:
    from mien.model.classifier import Classifier

Reader = Callable[[np.ndarray], np.ndarray]
"""Face crops, uint8 [N, S, S] or [N, S, S, 3], to probabilities [N, C]."""

TORCH_METHODS: tuple[str, ...] = ("rollout", "gradient")
"""The methods that look into a Vision Transformer, for which they need torch."""

METHODS: tuple[str, ...] = ("auto", "occlusion", *TORCH_METHODS)
"""What ``explain`` takes; ``auto`` is occlusion, which wins in ``benchmarks/explanations.py``."""

WINDOWS: tuple[float, ...] = (1 / 4,)
"""Sides of the squares that are hidden, as shares of the crop's side; the maps of all are averaged.

None of 1/6, 1/3 and averages with them measured better in ``benchmarks/explanations.py``, and most took longer.
"""

FILLS: tuple[str, ...] = ("blur", "grey")
"""What a hidden square shows: the crop, blurred beyond recognition, or the crop's mean grey (or colour)."""

_LEAST = 1e-6
_KINDS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


@dataclass(frozen=True)
class Explanation:
    """What of a face an answer depends on; it tells about the network, and nothing about what the person feels.

    Attributes:
        relevance: float32 [S, S], a number a pixel of the crop; more means that the answer depends on it more. Of
            ``occlusion``, by how many nats the log-odds of the label fall when a square around the pixel is hidden, on
            average: above 0 speaks for the label, below 0 against it, and there is no bound. Of ``rollout``, the share
            of a patch in what [CLS] holds at the end, in [0, 1]. Of ``gradient``, a number of no unit, at least 0.
        label: the expression whose answer is explained.
        method: occlusion, rollout or gradient.
        crop: uint8 [S, S] (grey) or [S, S, 3] (RGB), what the network read.
    """

    relevance: np.ndarray = field(repr=False, compare=False)
    label: str
    method: str
    crop: np.ndarray = field(repr=False, compare=False)

    def overlay(self) -> Image.Image:
        """The enlarged crop with the relevance as colour, a legend and a caption; mode RGB."""
        from mien.recognition.explanation.heat import overlay

        return overlay(self)

    def save(self, path: str | Path) -> None:
        """Writes the crop beside ``overlay()`` as a picture.

        Raises:
            MienError: the name does not end in .png, .jpg or .jpeg, or the file cannot be written.
        """
        save([self], Path(path))


def explain(face: Face, engine: Engine | Classifier, method: str = "auto", label: str | None = None) -> Explanation:
    """Tells what of a face an answer depends on.

    Args:
        face: as the engine read it, with its crop.
        engine: the network that read it. ``rollout`` and ``gradient`` need a ViT in torch: an engine that has it as
            ``classifier``, or the classifier itself.
        method: one of ``METHODS``.
        label: the expression to explain; by default the face's own.

    Raises:
        MienError: it is no face, it has no crop, the method or the label is unknown, the method needs what the engine
            does not have, or the network answers with NaN.
    """
    if not isinstance(face, Face):
        raise MienError(f"face: is a {type(face).__name__}, expected a Face, such as result.faces[0]")
    if method not in METHODS:
        raise MienError(f"method: got {method!r}, expected one of {', '.join(METHODS)}")
    if face.crop is None:
        raise MienError("the face keeps no crop, expected what the network read; take one from Recognizer.recognize")
    label = face.label if label is None else label
    if label not in engine.names:
        raise MienError(f"label: got {label!r}, expected one that the model knows: {', '.join(engine.names)}")
    position = engine.names.index(label)
    if method in ("auto", "occlusion"):
        return Explanation(occlusion(face.crop, reader(engine), position), label, "occlusion", face.crop)
    return Explanation(_by_attention(face.crop, engine, method, position), label, method, face.crop)


def save(explanations: Sequence[Explanation], path: Path) -> None:
    """Writes the crops of several faces, each beside its heat map, into one picture.

    Raises:
        MienError: as ``Explanation.save``.
    """
    from mien.recognition.explanation.heat import sheet

    check_name(path)
    with atomic_file(path, spare_newcomer=True) as temporary:
        sheet(explanations).save(temporary, format=_KINDS[path.suffix.lower()], quality=95)


def check_name(path: Path) -> None:
    """Checks that a file name is one of a picture that ``save`` writes.

    Raises:
        MienError: it is not.
    """
    if path.suffix.lower() not in _KINDS:
        raise MienError(f"{path}: has another ending than {', '.join(_KINDS)}; give the picture such a name")


def reader(engine: Engine | Classifier) -> Reader:
    """How an engine, or a classifier that is given in its place, reads crops."""
    read = getattr(engine, "read", None)
    if read is not None:
        return lambda crops: np.asarray(read(crops).probabilities)
    return lambda crops: softmax(engine.logits(crops, batch_size=BATCH, quiet=True))  # type: ignore[union-attr]


def occlusion(
    crop: np.ndarray, read: Reader, label: int, *, windows: Sequence[float] = WINDOWS, fill: str = FILLS[0]
) -> np.ndarray:
    """How far the log-odds of a label fall where the crop is hidden (Zeiler and Fergus 2014, section 4.2).

    Squares move over the crop in steps of half their side, and beyond its edges by as much, so that every pixel lies
    under as many. A pixel's relevance is the mean over the squares that hide it, and over the sizes of squares.
    Log-odds rather than probabilities, since a sure answer stays near 1 whatever is hidden; probabilities closer to 0
    or 1 than 1e-6 count as that far away.

    Args:
        crop: uint8 [S, S] (grey) or [S, S, 3] (RGB).
        read: the network.
        label: position of the label in its answers.
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
    """The mean over the squares that hide each pixel, float64 [size, size].

    Args:
        drops: float64 [K, K], a number a square.
        starts: the K first rows (and columns) of the squares.
        side: of a square, in pixels.
        size: of the crop, in pixels.
    """
    pixels, first = np.arange(size)[:, None], np.array(starts)
    hides = ((first <= pixels) & (pixels < first + side)).astype(np.float64)
    hides /= hides.sum(axis=1, keepdims=True)
    found: np.ndarray = hides @ drops @ hides.T
    return found


def filled(crop: np.ndarray, fill: str) -> np.ndarray:
    """What stands in for hidden parts of a crop: uint8 of the same shape."""
    if fill == "grey":
        return np.broadcast_to(crop.mean(axis=(0, 1)).round().astype(np.uint8), crop.shape)
    return gaussian_blur(crop, len(crop) / 8, "symmetric")


def enlarged(grid: np.ndarray, size: int) -> np.ndarray:
    """A number a patch, [G, G], as a number a pixel, float32 [size, size]; all pixels of a patch have its number."""
    patches = np.arange(size) * len(grid) // size
    return grid.astype(np.float32)[np.ix_(patches, patches)]


def _read_hidden(
    crop: np.ndarray, hidden: np.ndarray, places: Sequence[tuple[slice, slice]], read: Reader, label: int
) -> np.ndarray:
    """float64 [len(places)], the label's log-odds with each place hidden."""
    found = []
    for start in range(0, len(places), BATCH):
        batch = places[start : start + BATCH]
        crops = np.repeat(crop[None], len(batch), axis=0)
        for row, place in enumerate(batch):
            crops[row][place] = hidden[place]
        found.append(_log_odds(read(crops), label))
    return np.concatenate(found)


def _log_odds(probabilities: np.ndarray, label: int) -> np.ndarray:
    if not np.isfinite(probabilities).all():
        raise MienError(f"the model answers with {NO_NUMBERS}")
    clipped = probabilities[:, label].astype(np.float64).clip(_LEAST, 1 - _LEAST)
    found: np.ndarray = np.log(clipped) - np.log1p(-clipped)
    return found


def _by_attention(crop: np.ndarray, engine: Engine | Classifier, method: str, label: int) -> np.ndarray:
    """float32 [S, S] of a method that looks into the network."""
    classifier: Any = getattr(engine, "classifier", engine if hasattr(engine, "network") else None)
    if classifier is None:
        raise MienError(
            f"method {method}: needs torch and a model folder with model.safetensors, got an engine without "
            "(Recognizer(FOLDER, engine='torch') has both); or take the method occlusion"
        )
    from mien.recognition.explanation.attention import ATTENTION

    return enlarged(ATTENTION[method](classifier, crop, label), len(crop))
