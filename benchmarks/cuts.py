"""How often a cut in a film is noticed, and how often something else is taken for one.

Shots are cut out of scikit-image's pictures (640x480, with a little noise): a cut goes from one to another; pans,
zooms, shakes, flashes, fades, dissolves and what passes by stay in one, by so much from one frame to the next. Faces
are those of scikit-image (a hundred of 25x25 pixels, LFW): another one in the same place, and the same one after the
box trembled, the head tilted, the light changed or a hand came up, all of it within one frame.

    python benchmarks/cuts.py
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import sys
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image
from skimage import data

from mien.recognition.film import cuts, tracking

WIDTH, HEIGHT = 640, 480
NAMES = ("astronaut", "camera", "chelsea", "coffee", "coins", "rocket", "retina", "hubble_deep_field", "brick", "grass",
         "gravel", "page", "text", "clock", "moon", "horse", "logo", "colorwheel", "cell")  # fmt: skip
_NOISE = 3.0

Pair = tuple[np.ndarray, np.ndarray]


def pictures() -> list[np.ndarray]:
    """uint8 [H, W] each, grey, larger than a frame."""
    enlarged = []
    for name in NAMES:
        pixels = np.asarray(getattr(data, name)())
        pixels = pixels.astype(np.uint8) * (255 if pixels.dtype == bool else 1)
        image = Image.fromarray(pixels[..., :3] if pixels.ndim == 3 else pixels).convert("L")
        scale = max(1.5 * WIDTH / image.width, 1.5 * HEIGHT / image.height)
        enlarged.append(np.asarray(image.resize((round(image.width * scale), round(image.height * scale)))))
    return enlarged


def view(picture: np.ndarray, across: float = 0, down: float = 0, zoom: float = 1, angle: float = 0) -> np.ndarray:
    """float32 [HEIGHT, WIDTH]: what is seen of a picture, moved by pixels, nearer by a factor, turned by radians."""
    cosine, sine = np.cos(angle) / zoom, np.sin(angle) / zoom
    left, top = picture.shape[1] / 2 + across, picture.shape[0] / 2 + down
    turn = (cosine, -sine, left - WIDTH / 2 * cosine + HEIGHT / 2 * sine,
            sine, cosine, top - WIDTH / 2 * sine - HEIGHT / 2 * cosine)  # fmt: skip
    image = Image.fromarray(picture).transform((WIDTH, HEIGHT), Image.Transform.AFFINE, turn, Image.Resampling.BILINEAR)
    return np.asarray(image, np.float32)


def shots(picture: np.ndarray, next_view: np.ndarray) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Name and frames, float32 [HEIGHT, WIDTH], of what is no cut: the first two frames are compared, those after them
    show whether what was before comes back."""
    still = view(picture)
    for share in (0.02, 0.06, 0.12, 0.2, 0.3):
        step = share * WIDTH
        yield f"pan by {share:.0%} of the width a frame", [view(picture, across=step * (n - 1)) for n in range(3)]
    for zoom in (1.05, 1.15):
        yield f"zoom by {zoom - 1:.0%} a frame", [view(picture, zoom=zoom**n) for n in range(3)]
    shaken = [(12, 9, 0.02), (-12, -9, -0.02), (10, -8, 0.02)]
    yield "shake", [view(picture, across, down, angle=angle) for across, down, angle in shaken]
    for gain in (1.5, 2.5, 4.0):
        yield f"flash, {gain:g} times as bright, one frame", [still, still * gain + 40, still]
    yield "flash, white, one frame", [still, np.full_like(still, 250), still]
    yield "flash, white, three frames", [still, *[np.full_like(still, 250)] * 3, still]
    for share in (0.9, 0.8):
        yield f"fade to {share:.0%} a frame", [still, still * share, still * share**2]
    yield "fade, the last frame before black", [still * 0.06, still * 0, still * 0]
    for steps in (8, 25):
        mixed = [still + (next_view - still) * (0.5 + n / steps) for n in range(3)]
        yield f"dissolve in {steps} frames", mixed
    passing = [still.copy() for _ in range(3)]
    for number, frame in enumerate(passing):
        frame[:, 100 + 80 * number : 350 + 80 * number] = 60
    yield "something passes, 39 % of the width", passing
    yield (
        "something comes in at once, 40 % of the width",
        [still, *[np.hstack([still[:, :256] * 0 + 60, still[:, 256:]])] * 2],
    )


def noticed(frames: list[np.ndarray], noise: np.random.Generator) -> bool:
    """Whether a cut is seen before the second of some frames, as in a film."""
    noisy = [np.clip(frame + noise.normal(0, _NOISE, frame.shape), 0, 255).astype(np.uint8) for frame in frames]
    small = [cuts.reduced(frame) for frame in noisy]
    if not cuts.differs(small[0], small[1]):
        return False
    return not any(not cuts.differs(small[0], later_frame) for later_frame in small[2 : 2 + cuts.AHEAD])


def of_shots(seed: int) -> dict[str, tuple[int, int]]:
    """For each kind how many cuts were seen, and of how many pairs."""
    noise = np.random.default_rng(seed)
    sources = pictures()
    counts: dict[str, tuple[int, int]] = {}

    def count(name: str, seen: bool) -> None:
        former = counts.get(name, (0, 0))
        counts[name] = (former[0] + seen, former[1] + 1)

    for first, second in itertools.permutations(sources, 2):
        count("cut", noticed([view(first), view(second), view(second)], noise))
    for index, picture in enumerate(sources):
        for name, frames in shots(picture, view(sources[(index + 3) % len(sources)])):
            count(name, noticed(frames, noise))
    return counts


def of_faces(seed: int) -> dict[str, tuple[int, int]]:
    """For each kind how often a face was taken for another one, and of how many."""
    random = np.random.default_rng(seed)
    faces = [(255 * face).astype(np.uint8) for face in data.lfw_subset()[:100]]
    changes: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "the same, still": lambda face: crop(face),
        "box moved by 3 % (standard deviation)": lambda face: crop(face, *random.normal(0, 0.03, 2)),
        "box moved by 6 %": lambda face: crop(face, *random.normal(0, 0.06, 2)),
        "box 10 % larger": lambda face: crop(face, scale=1.1),
        "head tilted by 10 degrees": lambda face: crop(face, angle=np.radians(10)),
        "twice as bright": lambda face: crop(face) * 2,
        "light from one side": lambda face: crop(face) * np.linspace(0.6, 1.3, 48, dtype=np.float32),
        "mouth covered by a hand": lambda face: np.vstack([crop(face)[:32], np.full((16, 48), 150, np.float32)]),
    }
    counts: dict[str, tuple[int, int]] = {}
    pairs = [(crop(first), crop(second)) for first, second in itertools.combinations(faces, 2)]
    counts["another face"] = (sum(another(*pair, random) for pair in pairs), len(pairs))
    for name, change in changes.items():
        mistaken = [another(crop(face), change(face), random) for face in faces for _ in range(5)]
        counts[name] = (sum(mistaken), len(mistaken))
    return counts


def crop(face: np.ndarray, across: float = 0, down: float = 0, scale: float = 1, angle: float = 0) -> np.ndarray:
    """float32 [48, 48]: a face as a box frames it that is moved by shares of its side, larger, and turned."""
    side = len(face)
    padded = np.pad(face, side // 2, mode="edge")
    step = side / 48 * scale
    cosine, sine = np.cos(angle) * step, np.sin(angle) * step
    left, top = len(padded) / 2 + across * side, len(padded) / 2 + down * side
    turn = (cosine, -sine, left - 24 * cosine + 24 * sine, sine, cosine, top - 24 * sine - 24 * cosine)
    image = Image.fromarray(padded).transform((48, 48), Image.Transform.AFFINE, turn, Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32)


def another(before: np.ndarray, after: np.ndarray, noise: np.random.Generator) -> bool:
    """Whether the follower of faces takes the second crop for another face."""
    looks = [
        tracking.look(np.clip(pixels + noise.normal(0, _NOISE, pixels.shape), 0, 255).astype(np.uint8))
        for pixels in (before, after)
    ]
    return tracking.is_another(*looks)


def main() -> int:
    """Prints two Markdown tables and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the noise (0)")
    seed = parser.parse_args().seed
    tables = {"between frames": of_shots(seed), "between crops of a face": of_faces(seed)}
    print(f"command: {shlex.join(['python', *sys.argv])}")
    for title, counts in tables.items():
        print(f"\n| {title} | taken for a cut |\n|---|---:|")
        print(
            "\n".join(
                f"| {name} | {seen:,} of {total:,} ({seen / total:.1%}) |" for name, (seen, total) in counts.items()
            )
        )
    print(f"\n{json.dumps({'benchmark': 'cuts', 'seed': seed, **tables})}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
