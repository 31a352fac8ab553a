"""Writes text on pictures in a font that has its letters, never as boxes.

Source Sans Pro (package font-source-sans-pro, SIL Open Font License) has Latin with accents, Greek and Cyrillic.
Other scripts are written in a font of the system that has them; a letter that no font has becomes an escape.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

from PIL import ImageDraw, ImageFont

from mien.text import shown

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Colour = tuple[int, int, int]

_MOST_FONTS = 2000
_PROBE_SIZE = 20
_ENDINGS = (".ttf", ".otf", ".ttc", ".otc")
# Words in the names of fonts that read well at small sizes and have many scripts, the best first; and those to avoid.
_GOOD = (
    "notosans", "dejavusans", "arialunicode", "arial", "segoeui", "msyh", "yugoth", "malgun", "pingfang", "hiragino",
    "applegothic", "nirmala", "leelawui", "droidsans", "liberationsans", "freesans",
)  # fmt: skip
_POOR = (
    "bold", "black", "heavy", "italic", "oblique", "light", "thin", "mono", "serif", "condensed", "narrow", "symbol",
)  # fmt: skip
_NO_CHARACTER = "\uffff"
"""A code point that no font may assign: it is drawn as the font draws what it lacks."""


def write(
    pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, fill: Colour, anchor: str = "la"
) -> None:
    """Writes a line of text.

    Args:
        pen: draws on the picture.
        at: position of the anchor, in pixels.
        text: letters of any script; those that no font here has, and control characters, become escapes.
        size: size of the font in pixels.
        fill: the colour.
        anchor: Pillow's anchor, of ``l``, ``m`` or ``r`` and ``a``, ``t``, ``m`` or ``s``.
    """
    runs = _runs(text, size)
    if len(runs) == 1:
        pen.text(at, runs[0][0], fill=fill, font=runs[0][1], anchor=anchor)
        return
    x = at[0] - {"l": 0.0, "m": 0.5, "r": 1.0}[anchor[0]] * width(text, size)
    ascent, descent = _metrics(font(size))
    # Runs of several fonts share a base line: that of the first font for this anchor.
    top = -min(part_font.getbbox(part, anchor="ls")[1] for part, part_font in runs) if anchor[1] == "t" else 0.0
    base = at[1] + {"a": ascent, "t": top, "m": (ascent - descent) / 2, "s": 0.0}[anchor[1]]
    for part, part_font in runs:
        pen.text((x, base), part, fill=fill, font=part_font, anchor="ls")
        x += part_font.getlength(part)


def width(text: str, size: int) -> float:
    """Returns the width in pixels of a text as ``write`` writes it."""
    return sum(part_font.getlength(part) for part, part_font in _runs(text, size))


def drawable(text: str, first: Path | None = None) -> tuple[str, list[Path]]:
    """Prepares a text for a program that draws it by itself, such as matplotlib.

    Args:
        text: some lines.
        first: the font in which the program draws what that font has; None for the package's.

    Returns:
        The text, in which letters that no font here has are escapes, and the fonts that it needs beside the first.
    """
    lines = [_split(line, first) for line in text.split("\n")]
    files = dict.fromkeys(file for line in lines for _, file in line if file is not None)
    return "\n".join("".join(part for part, _ in line) for line in lines), list(files)


@lru_cache(maxsize=256)
def font(size: int, file: Path | None = None) -> Font:
    """Returns a font in a size in pixels: that of the package, or another file.

    Pillow's built-in font, which has only Latin, serves if the package was removed.
    """
    file = file or package_font()
    return ImageFont.load_default(size) if file is None else ImageFont.truetype(file, size)


@cache
def package_font() -> Path | None:
    """Returns Source Sans Pro, Regular; None if the package is not there."""
    package = find_spec("font_source_sans_pro")
    places = list(package.submodule_search_locations or ()) if package is not None else []
    files = [Path(place) / "files" / "SourceSansPro-Regular.ttf" for place in places]
    return next((file for file in files if file.is_file()), None)


@lru_cache(maxsize=1024)
def _runs(text: str, size: int) -> list[tuple[str, Font]]:
    """Splits a text into parts that one font has, with that font."""
    return [(part, font(size, file)) for part, file in _split(text)] or [("", font(size))]


@lru_cache(maxsize=1024)
def _split(text: str, first: Path | None = None) -> list[tuple[str, Path | None]]:
    """Splits a text into parts with the file of a font that has them; None for the font ``first``.

    One font for the whole text is preferred, so that text from right to left keeps its order.
    """
    text = unicodedata.normalize("NFC", shown(text))
    lacking = [letter for letter in dict.fromkeys(text) if not _has(first, letter)]
    if not lacking:
        return [(text, None)] if text else []
    homes = _homes(tuple(lacking))
    text = "".join(_escaped(letter) if letter in lacking and letter not in homes else letter for letter in text)
    for file in dict.fromkeys(homes.values()):
        if all(_has(file, letter) for letter in dict.fromkeys(text)):
            return [(text, file)]
    return [("".join(part), file) for file, part in groupby(text, homes.get)]


def _homes(letters: Sequence[str]) -> dict[str, Path]:
    """Returns a font of the system for each letter, as few fonts as possible; letters that are in none are left out."""
    homes: dict[str, Path] = {}
    for file in system_fonts():
        rest = [letter for letter in letters if letter not in homes]
        if not rest:
            break
        homes |= {letter: file for letter in rest if _has(file, letter)}
    return homes


@lru_cache(maxsize=65_536)
def _has(file: Path | None, letter: str) -> bool:
    """True if a font has a letter: it draws something, and something else than for a code point that none has."""
    drawn = _drawn(file, letter)
    if drawn is None:
        return False
    blank = not any(drawn[1])
    return letter.isspace() if blank else drawn != _drawn(file, _NO_CHARACTER)


@lru_cache(maxsize=4096)
def _drawn(file: Path | None, letter: str) -> tuple[tuple[int, int], bytes] | None:
    """Returns the size and the pixels of a letter; None if the font cannot be read."""
    try:
        mask = _probe(file).getmask(letter)
        return mask.size, bytes(mask)
    except (OSError, ValueError, MemoryError):
        return None


@lru_cache(maxsize=64)
def _probe(file: Path | None) -> Font:
    file = file or package_font()
    if file is None:
        return ImageFont.load_default(_PROBE_SIZE)
    return ImageFont.truetype(file, _PROBE_SIZE, layout_engine=ImageFont.Layout.BASIC)


@cache
def system_fonts() -> tuple[Path, ...]:
    """Returns the files of the system's fonts, those that suit labels best first; at most ``_MOST_FONTS``."""
    files: list[Path] = []
    for folder in _font_folders():
        for place, _, names in os.walk(folder):
            files += [Path(place) / name for name in sorted(names) if name.lower().endswith(_ENDINGS)]
            if len(files) >= _MOST_FONTS:
                break
    return tuple(sorted(files[:_MOST_FONTS], key=_suits))


def _suits(file: Path) -> tuple[int, int, str]:
    name = file.stem.lower().replace("-", "").replace(" ", "").replace("_", "")
    good = next((place for place, word in enumerate(_GOOD) if name.startswith(word)), len(_GOOD))
    return sum(word in name for word in _POOR), good, str(file)


def _font_folders() -> list[Path]:
    """Returns the folders in which the system keeps fonts."""
    home = Path(os.path.expanduser("~"))
    if sys.platform == "win32":
        windows, local = os.environ.get("WINDIR", r"C:\Windows"), os.environ.get("LOCALAPPDATA", "")
        return [Path(windows) / "Fonts", Path(local) / "Microsoft" / "Windows" / "Fonts"]
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library" / "Fonts"]
    shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    own = os.environ.get("XDG_DATA_HOME") or str(home / ".local" / "share")
    return [Path(folder) / "fonts" for folder in (*shared.split(":"), own) if folder]


def _metrics(some_font: Font) -> tuple[float, float]:
    """Returns how far a font reaches above and below its base line, in pixels."""
    if isinstance(some_font, ImageFont.FreeTypeFont):
        ascent, descent = some_font.getmetrics()
        return float(ascent), float(descent)
    return float(some_font.getbbox("Ag")[3]), 0.0


def _escaped(letter: str) -> str:
    """Returns the escape of a letter; what only chooses the form of its neighbour (joiners, variants) is left out."""
    number = ord(letter)
    if unicodedata.category(letter) == "Cf" or 0xFE00 <= number <= 0xFE0F:
        return ""
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
