"""Makes the README's picture again, docs/picture.jpg: ``python scripts/picture.py``.

docs/astronaut.jpg, as ``mien predict --annotate`` draws it, beside what ``mien explain`` draws of it. The photo is
NASA's, of Eileen Collins, in the public domain; scikit-image has it as ``skimage.data.astronaut``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

from mien.cli import main as mien

ROOT = Path(__file__).parents[1]
PHOTO = ROOT / "docs" / "astronaut.jpg"
PICTURE = ROOT / "docs" / "picture.jpg"
HEIGHT = 512
GAP = 24


def picture(photo: Path) -> Image.Image:
    """Returns the annotated photo and its explanation, side by side on white; RGB, ``HEIGHT`` pixels high.

    Raises:
        RuntimeError: a command failed.
    """
    with tempfile.TemporaryDirectory(prefix="mien-picture-") as name:
        folder = Path(name)
        commands = [
            ["predict", str(photo), "--annotate", str(folder / "marked")],
            ["explain", str(photo), "--out", str(folder / "heat.png")],
        ]
        for command in commands:
            if mien(command):
                raise RuntimeError(f"failed: mien {' '.join(command)}")
        panels = [_scaled(path) for path in (folder / "marked" / photo.name, folder / "heat.png")]
    canvas = Image.new("RGB", (sum(panel.width for panel in panels) + GAP, HEIGHT), "white")
    canvas.paste(panels[0], (0, 0))
    canvas.paste(panels[1], (panels[0].width + GAP, 0))
    return canvas


def _scaled(path: Path) -> Image.Image:
    """Reads a picture and scales it to ``HEIGHT``."""
    with Image.open(path) as image:
        size = (round(image.width * HEIGHT / image.height), HEIGHT)
        return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def main() -> int:
    """Writes the picture; returns 0."""
    picture(PHOTO).save(PICTURE, quality=88, optimize=True)
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
