"""Composites with faces at known places, for the benchmarks of detection: made in memory, never written anywhere.

Faces of FER2013 are pasted, tilted and feathered, into pictures that hold no face: textures, objects and animals of
scikit-image, and noise. Portraits are the public-domain astronaut of scikit-image, at any size, mirrored or tilted.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from mien.recognition.results import Box

FACELESS: tuple[str, ...] = (
    "brick", "chelsea", "clock", "coffee", "colorwheel", "grass", "gravel", "horse", "hubble_deep_field",
    "immunohistochemistry", "moon", "page", "retina", "rocket", "stereo_motorcycle", "text",
)  # fmt: skip
"""Pictures in scikit-image's package that show no human face: `camera` has a man, `coins` have portraits."""

ASTRONAUT: tuple[float, float, float] = (0.439, 0.222, 0.19)
"""Her face in the square portrait, as FER2013 would frame it: centre across, centre down and side, as shares of it."""


@dataclass(frozen=True)
class Truth:
    """A face that is there.

    Attributes:
        box: FER2013's frame around it before it was tilted, in pixels.
        tilt: by how much it leans, in degrees, anticlockwise.
    """

    box: Box
    tilt: float


@dataclass(frozen=True)
class Scene:
    """A picture, uint8 [H, W, 3] (RGB), and the faces in it."""

    pixels: np.ndarray
    faces: tuple[Truth, ...]
    kind: str


def backgrounds() -> list[np.ndarray]:
    """Pictures without a face, uint8 [H, W, 3]."""
    import skimage.data

    pictures = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in FACELESS:
            picture = getattr(skimage.data, name)()
            picture = np.asarray(picture[0] if isinstance(picture, tuple) else picture)
            picture = picture.astype(np.uint8) * 255 if picture.dtype == bool else picture
            pictures.append(picture[..., :3].copy() if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2))
    return pictures


def noise(height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """Noise as textures have it, whose amplitude falls with frequency: uint8 [height, width, 3], grey."""
    across, down = np.fft.rfftfreq(width), np.fft.fftfreq(height)
    frequency = np.hypot(down[:, None], across[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(generator.normal(size=(height, width))) / frequency ** generator.uniform(0.3, 1.4)
    field = np.fft.irfft2(spectrum, s=(height, width))
    grey = np.clip(127 + 50 * field / field.std(), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def portrait(side: int, tilt: float = 0.0, mirrored: bool = False) -> Scene:
    """The astronaut at a size in pixels, leaning by ``tilt`` degrees around her face."""
    import skimage.data

    pixels = skimage.data.astronaut()
    across, down, share = ASTRONAUT
    if mirrored:
        pixels, across = np.ascontiguousarray(pixels[:, ::-1]), 1 - across
    pixels = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA if side < 512 else cv2.INTER_LINEAR)
    if tilt:
        turn = cv2.getRotationMatrix2D((across * side, down * side), tilt, 1.0)
        pixels = cv2.warpAffine(pixels, turn, (side, side), borderMode=cv2.BORDER_REFLECT)
    box = ((across - share / 2) * side, (down - share / 2) * side, share * side, share * side)
    return Scene(pixels, (Truth(box, tilt),), "portrait")


def collage(side: int, columns: int = 4, rows: int = 3) -> Scene:
    """The astronaut of a size in pixels, as often as there are columns and rows."""
    scene = portrait(side)
    left, top, width, height = scene.faces[0].box
    faces = tuple(
        Truth((left + column * side, top + row * side, width, height), 0.0)
        for row in range(rows)
        for column in range(columns)
    )
    return Scene(np.tile(scene.pixels, (rows, columns, 1)), faces, "collage")


def composite(faces: Sequence[np.ndarray], background: np.ndarray, generator: np.random.Generator) -> Scene:
    """Pastes faces into a picture, at places that do not overlap, from 40 to 400 px, tilted up to 20 degrees.

    Args:
        faces: uint8 [48, 48] each. Those for which no room is left are left out.
        background: uint8 [H, W, 3], not changed.
        generator: draws sizes (evenly on a logarithmic scale), tilts and places.
    """
    pixels = background.copy()
    height, width = pixels.shape[:2]
    occupied = np.zeros((height, width), bool)
    placed = []
    largest = min(400.0, 0.9 * min(height, width))
    for face in faces:
        side = round(float(np.exp(generator.uniform(np.log(40), np.log(largest)))))
        tilt = float(generator.uniform(-20, 20))
        for _ in range(20):
            left, top = int(generator.integers(0, width - side + 1)), int(generator.integers(0, height - side + 1))
            window = (slice(top, top + side), slice(left, left + side))
            if not occupied[window].any():
                _paste(face, pixels[window], tilt)
                occupied[window] = True
                placed.append(Truth((left, top, side, side), tilt))
                break
    return Scene(pixels, tuple(placed), "composite")


def scenes(faces: np.ndarray, count: int, seed: int) -> list[Scene]:
    """Composites of none to four faces each, and portraits: three to one.

    Args:
        faces: uint8 [N, 48, 48], drawn from without return as long as there are enough.
        count: how many scenes.
        seed: of all draws.
    """
    generator = np.random.default_rng(seed)
    order = iter(np.tile(generator.permutation(len(faces)), 1 + 4 * count // len(faces)))
    empty = backgrounds()
    scene_list = []
    for number in range(count):
        if number % 4 == 3:
            side, tilt = int(np.exp(generator.uniform(np.log(220), np.log(1600)))), float(generator.uniform(-20, 20))
            scene_list.append(portrait(side, tilt, mirrored=bool(generator.integers(2))))
            continue
        height, width = int(generator.integers(300, 700)), int(generator.integers(400, 900))
        kind = int(generator.integers(len(empty) + 3))
        picture = noise(height, width, generator) if kind >= len(empty) else _cut(empty[kind], height, width, generator)
        chosen_faces = [faces[next(order)] for _ in range(int(generator.integers(0, 5)))]
        scene_list.append(composite(chosen_faces, picture, generator))
    return scene_list


def _cut(picture: np.ndarray, height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """A window of a picture, as large as can be had, brought to a size, half of the time mirrored."""
    scale = float(generator.uniform(1.0, 1.6)) * max(height / picture.shape[0], width / picture.shape[1])
    rows, columns = int(height / scale), int(width / scale)
    top = int(generator.integers(0, picture.shape[0] - rows + 1))
    left = int(generator.integers(0, picture.shape[1] - columns + 1))
    window = picture[top : top + rows, left : left + columns]
    window = window[:, ::-1] if generator.integers(2) else window
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(window), (width, height), interpolation=method)


def _paste(face: np.ndarray, target: np.ndarray, tilt: float) -> None:
    """Puts a face into ``target``, uint8 [S, S, 3], changed in place, leaning, with edges that fade."""
    side = target.shape[0]
    across = np.abs((np.arange(side) + 0.5) / side * 2 - 1)
    radius = (across[:, None] ** 4 + across[None] ** 4) ** 0.25
    alpha = np.clip((1 - radius) / 0.15, 0, 1).astype(np.float32)
    large = cv2.resize(face, (side, side), interpolation=cv2.INTER_CUBIC)
    turn = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), tilt, 1.0)
    leaning = cv2.warpAffine(large, turn, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(alpha, turn, (side, side))[..., None]
    target[:] = np.rint(alpha * leaning[..., None] + (1 - alpha) * target).astype(np.uint8)
