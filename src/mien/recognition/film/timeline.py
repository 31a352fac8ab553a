"""A figure for people: what the look of each followed face was read as, over the time of a film."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mien.errors import MienError
from mien.files import atomic_file
from mien.recognition.draw import colour_of, font
from mien.recognition.results import Face, Recognition

LARGEST_BINS = 4096
"""Into how many stretches of time a film is divided at most, so that memory does not grow with its length."""

LARGEST_PANELS = 6
"""How many faces are drawn: those that are seen longest."""

_FINEST_S = 0.005
_MOST_TRACKS = 200
_WIDTH, _PANEL, _GAP = 1600, 190, 56
_LEFT, _RIGHT, _TOP, _BOTTOM = 190, 200, 118, 96
_THUMB = 104
_INK, _SOFT, _FAINT, _PAPER, _EMPTY = (28, 30, 34), (105, 110, 116), (205, 208, 212), (255, 255, 255), (243, 244, 245)
_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)


@dataclass
class _Bin:
    """What was read from a face in a stretch of time: sums over its frames."""

    probabilities: np.ndarray
    frames: int
    unsure: int


@dataclass
class _Seen:
    """A face of the film; ``bins`` by their number, ``area`` of the box that ``crop`` shows, in pixels."""

    bins: dict[int, _Bin] = field(default_factory=dict)
    frames: int = 0
    crop: np.ndarray | None = None
    area: float = 0.0


class Timeline:
    """Collects the records of a film, in their order, and draws them.

    A face has a panel of its own, in which the probabilities of the expressions are stacked to 100 %; it is blank where
    the face is not seen, and a grey strip beneath marks where answers are uncertain.

    Args:
        title: what the figure is of: the name of the film.
        smoothing: by which time constant the probabilities were smoothed, in seconds; the figure tells it.
    """

    def __init__(self, title: str, smoothing: float) -> None:
        self.title, self.smoothing = title, smoothing
        self._width = _FINEST_S
        self._looks: dict[int, int] = {}
        self._faces: dict[int, _Seen] = {}
        self._names: tuple[str, ...] = ()
        self._end = 0.0
        self._left_out = self._damaged = 0

    def add(self, record: Recognition) -> None:
        """Takes the next record of the film into the figure.

        Raises:
            ValueError: the record has no time, as those of pictures.
        """
        if record.time_s is None:
            raise ValueError(f"{record.input}: the record has no time; a timeline is of a film")
        while record.time_s / self._width >= LARGEST_BINS:
            self._halve()
        place = int(record.time_s / self._width)
        self._end = max(self._end, record.time_s)
        self._looks[place] = self._looks.get(place, 0) + 1
        self._damaged += record.status == "error"
        for face in record.faces:
            self._take(face, place)
        if len(self._faces) > _MOST_TRACKS:
            self._forget()

    def save(self, path: Path) -> None:
        """Writes the figure, 1600 pixels wide, as the ending of the name says (.png is best).

        Raises:
            MienError: the ending is no picture's, or the file cannot be written.
        """
        kind = Image.registered_extensions().get(path.suffix.lower())
        if kind is None or kind not in Image.SAVE:
            raise MienError(f"{path}: is no name for a picture, expected one that ends in .png; change it")
        image = self.draw()
        with atomic_file(path, spare_newcomer=True) as temporary:
            image.save(temporary, format=kind)

    def draw(self) -> Image.Image:
        """The figure, mode RGB, 1600 pixels wide."""
        shown = sorted(sorted(self._faces, key=lambda one: -self._faces[one].frames)[:LARGEST_PANELS])
        panels = max(1, len(shown))
        image = Image.new("RGB", (_WIDTH, _TOP + panels * (_PANEL + _GAP) - _GAP + _BOTTOM), _PAPER)
        pen = ImageDraw.Draw(image)
        pen.text((36, 26), f"How faces look in {_shortened(self.title)}", fill=_INK, font=font(32))
        smoothed = f", smoothed over {self.smoothing:g} s" if self.smoothing else ""
        said = f"Probability of each expression{smoothed}. Guesses about how a face looks, not what a person feels."
        pen.text((36, 70), said, fill=_SOFT, font=font(20))
        places = np.array(sorted(self._looks), int)
        columns, until = self._columns(places)
        for row, one in enumerate(shown):
            self._panel(image, one, _TOP + row * (_PANEL + _GAP), places, columns, until)
        if not shown:
            pen.rectangle((_LEFT, _TOP, _WIDTH - _RIGHT, _TOP + _PANEL), fill=_EMPTY)
            pen.text(((_LEFT + _WIDTH - _RIGHT) / 2, _TOP + _PANEL / 2), "No face was seen.", fill=_SOFT, font=font(24),
                     anchor="mm")  # fmt: skip
        _axis(pen, until, image.height - _BOTTOM + 16, [_TOP + row * (_PANEL + _GAP) for row in range(panels)])
        pen.text((36, image.height - 34), self._remarks(len(shown)), fill=_SOFT, font=font(17))
        return image

    def _take(self, face: Face, place: int) -> None:
        seen = self._faces.setdefault(-1 if face.id is None else face.id, _Seen())
        self._names = self._names or tuple(face.probabilities)
        read = np.array([face.probabilities[name] for name in self._names])
        found = seen.bins.setdefault(place, _Bin(np.zeros(len(self._names)), 0, 0))
        found.probabilities += read
        found.frames += 1
        found.unsure += bool(face.uncertain)
        seen.frames += 1
        area = face.box[2] * face.box[3]
        if face.crop is not None and area > 1.2 * seen.area:
            seen.crop, seen.area = face.crop.copy(), area

    def _halve(self) -> None:
        """Makes every two stretches one."""
        self._width *= 2
        looks: dict[int, int] = {}
        for place, count in self._looks.items():
            looks[place // 2] = looks.get(place // 2, 0) + count
        self._looks = looks
        for seen in self._faces.values():
            bins: dict[int, _Bin] = {}
            for place, found in seen.bins.items():
                kept = bins.setdefault(place // 2, _Bin(np.zeros(len(self._names)), 0, 0))
                kept.probabilities += found.probabilities
                kept.frames += found.frames
                kept.unsure += found.unsure
            seen.bins = bins

    def _forget(self) -> None:
        """Leaves out the faces that were seen for the shortest time, half of all; the newest may still grow."""
        newest = max(self._faces)
        ranked = sorted(self._faces, key=lambda one: (one > newest - 20, self._faces[one].frames))
        for one in ranked[: len(ranked) // 2]:
            del self._faces[one]
            self._left_out += 1

    def _columns(self, places: np.ndarray) -> tuple[np.ndarray, float]:
        """The rows of ``places`` that each column of pixels shows, int [2, W]: first, and one after the last; and where
        the axis ends, in s.
        """
        wide = _WIDTH - _RIGHT - _LEFT
        if not len(places):
            return np.zeros((2, wide), int), 1.0
        step = float(np.median(np.diff(places))) * self._width if len(places) > 1 else 0.04
        until = self._end + step
        edges = np.arange(wide + 1) / wide * until
        # A stretch lasts until the next one begins.
        first = np.clip(np.searchsorted(places * self._width, edges, side="right") - 1, 0, None)
        return np.stack([first[:-1], np.maximum(first[1:], first[:-1] + 1)]), until

    def _panel(
        self, image: Image.Image, one: int, top: int, places: np.ndarray, columns: np.ndarray, until: float
    ) -> None:
        seen, pen = self._faces[one], ImageDraw.Draw(image)
        shares = np.full((len(places), len(self._names)), np.nan)
        unsure = np.full((len(places), 1), np.nan)
        for row, place in enumerate(places.tolist()):
            found = seen.bins.get(place)
            if found is not None and 2 * found.frames >= self._looks[place]:
                shares[row] = found.probabilities / found.frames
                unsure[row] = found.unsure / found.frames
        bands = _averaged(shares, columns)
        image.paste(Image.fromarray(_stacked(bands, self._names)), (_LEFT, top))
        dark = np.nan_to_num(_averaged(unsure, columns))
        strip = (dark * np.array(_SOFT) + (1 - dark) * np.array(_EMPTY)).astype(np.uint8)
        image.paste(Image.fromarray(np.repeat(strip[None], 7, axis=0)), (_LEFT, top + _PANEL + 4))
        for share in (0.0, 0.5, 1.0):
            y = top + round((1 - share) * (_PANEL - 1))
            pen.line((_LEFT, y, _WIDTH - _RIGHT, y), fill=_FAINT)
            pen.text((_LEFT - 8, y), f"{share:.0%}", fill=_SOFT, font=font(15), anchor="rm")
        pen.text((36, top - 2), "Faces" if one == -1 else f"Face {one}", fill=_INK, font=font(22))
        if seen.crop is not None:
            image.paste(Image.fromarray(seen.crop).convert("RGB").resize((_THUMB, _THUMB), Image.Resampling.BICUBIC),
                        (36, top + 30))  # fmt: skip
        times = [place * self._width for place in seen.bins]
        said = f"{_clock(min(times), until)} to {_clock(max(times), until)}"
        pen.text((36, top + 142), said, fill=_SOFT, font=font(16))
        if dark.any():
            said = f"unsure {sum(found.unsure for found in seen.bins.values()) / seen.frames:.0%}"
            pen.text((_WIDTH - _RIGHT + 20, top + _PANEL + 9), said, fill=_SOFT, font=font(16), anchor="lm")
        mean = sum((found.probabilities for found in seen.bins.values()), np.zeros(len(self._names))) / seen.frames
        _labels(pen, self._names, mean, bands[-1], top)

    def _remarks(self, shown: int) -> str:
        remarks = ["Numbers at the right: means over the time in which the face is seen."] if shown else []
        more = len(self._faces) - shown + self._left_out
        if more:
            remarks.append(f"{more} more {'face was' if more == 1 else 'faces were'} seen for a shorter time.")
        if self._damaged:
            remarks.append(f"{self._damaged} frame{'s' if self._damaged > 1 else ''} could not be read.")
        return "  ".join(remarks)


def _averaged(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Means of float [N, C] over the rows that each column shows, float [W, C]; NaN where most of them are."""
    known = ~np.isnan(rows[:, :1])
    sums = np.concatenate([np.zeros((1, rows.shape[1])), np.cumsum(np.nan_to_num(rows), axis=0)])
    counts = np.concatenate([np.zeros((1, 1)), np.cumsum(known, axis=0)])
    first, beyond = columns
    held, all_of_them = counts[beyond] - counts[first], (beyond - first)[:, None]
    means = (sums[beyond] - sums[first]) / np.maximum(held, 1)
    return np.where(2 * held >= all_of_them, means, np.nan)


def _stacked(shares: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Shares that add up to 1, float [W, C], as bands of colour, the first on top; uint8 [H, W, 3]; blank for NaN."""
    fine = 4
    heights = (np.arange(_PANEL * fine) + 0.5) / (_PANEL * fine)
    bands = np.cumsum(np.nan_to_num(shares), axis=1)
    band = (heights[:, None, None] > bands[None, :, :-1]).sum(axis=2)
    palette = np.array([colour_of(name) for name in names], np.float64).reshape(-1, 3)
    picture = palette[band]
    picture[:, np.isnan(shares[:, 0])] = _EMPTY
    return picture.reshape(_PANEL, fine, len(shares), 3).mean(axis=1).round().astype(np.uint8)


def _labels(pen: ImageDraw.ImageDraw, names: Sequence[str], mean: np.ndarray, last: np.ndarray, top: int) -> None:
    """Names and means at the right end, each as near to its band as the others let it, tied to it by a line."""
    ends = not np.isnan(last).any()
    shares = last if ends else mean
    wanted = top + (np.cumsum(shares) - shares / 2) * _PANEL
    space = min(25.0, _PANEL / len(names))
    placed = wanted.copy()
    for row in range(1, len(names)):
        placed[row] = max(placed[row], placed[row - 1] + space)
    placed[-1] = min(placed[-1], top + _PANEL - space / 2)
    for row in range(len(names) - 2, -1, -1):
        placed[row] = min(placed[row], placed[row + 1] - space)
    right = _WIDTH - _RIGHT
    for name, share, y, band in zip(names, mean, placed, wanted, strict=True):
        if ends:
            pen.line([(right + 2, band), (right + 16, y)], fill=colour_of(name), width=2)
        pen.rectangle((right + 20, y - 7, right + 34, y + 7), fill=colour_of(name))
        ink = _INK if share >= 0.05 else _SOFT
        pen.text((right + 42, y), f"{name} {share:.0%}", fill=ink, font=font(18), anchor="lm")


def _axis(pen: ImageDraw.ImageDraw, until: float, y: int, tops: Sequence[int]) -> None:
    """Ticks of time beneath the last panel, with short ones at every panel."""
    wide = _WIDTH - _RIGHT - _LEFT
    step = next((step for step in _STEPS_S if until / step <= 10), 3600 * -(-until // 36000))
    for index in range(int(until / step + 1e-9) + 1):
        x = _LEFT + index * step / until * wide
        for top in tops:
            pen.line((x, top + _PANEL + 11, x, top + _PANEL + 17), fill=_SOFT)
        pen.text((x, y + 6), _clock(index * step, until), fill=_SOFT, font=font(17), anchor="mt")
    unit = "" if until < 60 else "min:s" if until < 3600 else "h:min:s"
    pen.text((36, y + 7), unit, fill=_SOFT, font=font(15), anchor="lt")


def _clock(seconds: float, until: float) -> str:
    """A time in a film that lasts ``until`` seconds, as people write it: 1.2 s, 12 s, 1:05 or 1:02:30."""
    if until < 60:
        return f"{seconds:.1f} s" if until < 5 else f"{round(seconds)} s"
    whole = round(seconds)
    if until < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _shortened(title: str) -> str:
    return title if len(title) <= 70 else f"...{title[-67:]}"
