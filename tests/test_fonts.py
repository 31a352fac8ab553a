"""Text on pictures: accents, Greek and Cyrillic by the package's font, other scripts by the system's, never boxes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mien import fonts

CHINESE = "高兴"


@pytest.fixture(autouse=True)
def no_memory() -> Iterator[None]:
    """Forgets which fonts were found, before and after a test that changes them."""
    for function in (fonts._split, fonts._runs):
        function.cache_clear()
    yield
    for function in (fonts._split, fonts._runs):
        function.cache_clear()


def made_font(path: Path, letters: str) -> Path:
    """Writes a font that has only these letters, each a bar of another width, and a box for all else."""
    builder_of = pytest.importorskip("fontTools.fontBuilder")
    pen_of = pytest.importorskip("fontTools.pens.ttGlyphPen")

    def bar(width: int) -> object:
        pen = pen_of.TTGlyphPen(None)
        pen.moveTo((50, 0))
        for corner in ((50, 700), (width, 700), (width, 0)):
            pen.lineTo(corner)
        pen.closePath()
        return pen.glyph()

    names = [".notdef", *(f"u{ord(letter):04x}" for letter in letters)]
    builder = builder_of.FontBuilder(1000)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): name for letter, name in zip(letters, names[1:], strict=True)})
    builder.setupGlyf({name: bar(900 - 60 * index) for index, name in enumerate(names)})
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 50)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    builder.setupPost()
    builder.save(str(path))
    return path


def pixels_of(text: str, anchor: str = "la", size: int = 20) -> np.ndarray:
    """A text in white on black at the middle of a picture, uint8 [100, 400]."""
    image = Image.new("RGB", (400, 100))
    fonts.write(ImageDraw.Draw(image), (200, 50), text, size, (255, 255, 255), anchor)
    return np.asarray(image.convert("L"))


@pytest.mark.parametrize(
    "text", ["ÄÖÜäöüß éèêëçñåøæœ łšžč ığş őű", "Ελληνικά ΑΒΓΔΩ έκπληξη", "Русский Україна ђљњ", "tiếng Việt"]
)
def test_the_font_of_the_package_has_latin_greek_and_cyrillic(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "system_fonts", lambda: pytest.fail("looked for a font of the system"))
    assert fonts._split(text) == [(text, None)]
    assert fonts.package_font() is not None and pixels_of("радостный").max() == 255


def test_the_package_brings_the_licence_of_its_font() -> None:
    file = fonts.package_font()
    assert file is not None and "SIL OPEN FONT LICENSE Version 1.1" in (file.parent / "LICENSE.txt").read_text("utf-8")


def test_another_script_is_written_in_a_font_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unfit_font, fit_font = made_font(tmp_path / "Unfit.ttf", "ab"), made_font(tmp_path / "Fit.ttf", CHINESE)
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    monkeypatch.setattr(fonts, "system_fonts", lambda: (tmp_path / "broken.ttf", unfit_font, fit_font))
    assert fonts._split(f"{CHINESE} 93%") == [(CHINESE, fit_font), (" 93%", None)]
    first, second = (np.flatnonzero(pixels_of(letter).max(axis=0)) for letter in CHINESE)
    assert len(first) and len(second) and first[-1] > second[-1]  # the bars of the made font, which differ in width
    assert fonts.width(f"{CHINESE} 93%", 20) == pytest.approx(fonts.width(CHINESE, 20) + fonts.width(" 93%", 20))


def test_one_font_is_preferred_for_the_whole_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = made_font(tmp_path / "Fit.ttf", f"{CHINESE}93%")
    monkeypatch.setattr(fonts, "system_fonts", lambda: (fit,))
    assert fonts._split(f"{CHINESE}93%") == [(f"{CHINESE}93%", fit)]


def test_a_letter_that_no_font_has_is_an_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "system_fonts", lambda: ())
    assert fonts._split("高 x") == [(r"\u9ad8 x", None)]
    assert fonts._split("\U0001f600") == [(r"\U0001f600", None)]
    assert fonts._split("a\u202eb\nc") == [(r"a\u202eb\nc", None)]
    assert fonts._split("e\u0301") == [("é", None)]  # composed
    assert fonts.drawable("a\n高") == ("a\n\\u9ad8", [])
    assert np.array_equal(pixels_of("高"), pixels_of(r"\u9ad8"))
    assert fonts._split("") == [] and pixels_of("").max() == 0


@pytest.mark.parametrize("anchor", ["la", "lm", "rm", "ra", "mm", "mt", "lt", "ls"])
def test_runs_of_several_fonts_stand_where_one_would(
    anchor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fonts, "system_fonts", lambda: (made_font(tmp_path / "Fit.ttf", "高"),))
    mixed_text, plain_text = pixels_of("HH高HH", anchor), pixels_of("HHHHHH", anchor)
    box = [np.flatnonzero(pixels.max(axis=axis) > 100) for axis in (0, 1) for pixels in (mixed_text, plain_text)]
    middle = [(columns[0] + columns[-1]) / 2 for columns in box[:2]]
    expected = {"l": min(box[0][0], box[1][0]) >= 200, "r": max(box[0][-1], box[1][-1]) <= 200,
                "m": max(abs(middle[0] - 200), abs(middle[1] - 200)) < 3}  # fmt: skip
    assert expected[anchor[0]]
    edge = 0 if anchor[1] == "t" else -1  # the top, or the base line
    assert abs(int(box[2][edge]) - int(box[3][edge])) <= 1


def test_without_the_package_pillow_s_own_font_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "package_font", lambda: None)
    monkeypatch.setattr(fonts, "system_fonts", lambda: ())
    for function in (fonts.font, fonts._probe, fonts._has, fonts._drawn):
        function.cache_clear()
    try:
        assert pixels_of("happy 93%").max() > 200
        assert fonts._split("高") == [(r"\u9ad8", None)]
    finally:
        for function in (fonts.font, fonts._probe, fonts._has, fonts._drawn):
            function.cache_clear()


def test_fonts_of_the_system_come_best_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "fonts" / "deep"
    folder.mkdir(parents=True)
    for name in ("Zapf.ttf", "NotoSansCJK-Bold.otf", "DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "readme.txt"):
        (folder / name).write_bytes(b"")
    monkeypatch.setattr(fonts, "_font_folders", lambda: [tmp_path / "fonts", tmp_path / "missing"])
    names = [file.name for file in fonts.system_fonts.__wrapped__()]
    assert names == ["NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "Zapf.ttf", "NotoSansCJK-Bold.otf"]
