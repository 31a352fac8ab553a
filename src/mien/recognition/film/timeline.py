"""A figure of the probabilities of each tracked face over the time of a film."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mien.files import refuse_folder
from mien.fonts import write
from mien.locks import ensure_writable
from mien.recognition.draw import colour_of, picture_format, write_picture
from mien.recognition.faces import Face, Record
from mien.recognition.formats import Add, Ending

LARGEST_BINS = 4096
"""Most time intervals (bins) of a film, so that memory does not grow with its length."""

LARGEST_PANELS = 6
"""Most faces that are drawn: those that are visible longest."""

_FINEST_S = 0.005
_MOST_TRACKS = 200
_WIDTH, _PANEL, _GAP = 1600, 190, 56
_LEFT, _RIGHT, _TOP, _BOTTOM = 190, 200, 118, 96
_THUMB = 104
_INK, _SOFT, _FAINT, _PAPER, _EMPTY = (28, 30, 34), (105, 110, 116), (205, 208, 212), (255, 255, 255), (243, 244, 245)
_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)


@dataclass
class _TimelineFace:
    """A face of the film.

    Attributes:
        sums: float64 [LARGEST_BINS, C + 2]: for each bin the sums of its probabilities, the number of frames in which
            it is visible, and the number of those in which the answer is uncertain.
        frames: number of frames in all.
        crop: its largest crop.
        area: of the box of that crop, in pixels.
    """

    sums: np.ndarray
    frames: int = 0
    crop: np.ndarray | None = None
    area: float = 0.0


class Timeline:
    """Collects the records of a film, in order, and draws them.

    Each face has a panel in which the probabilities of the expressions are stacked to 100 %. The panel is blank while
    the face is not visible; a grey strip below it marks uncertain answers.

    Args:
        title: name of the film.
        smoothing: time constant in seconds by which the probabilities were smoothed; the figure states it.
    """

    def __init__(self, title: str, smoothing: float) -> None:
        self.title, self.smoothing = title, smoothing
        self._bin_s = _FINEST_S
        self._frame_counts = np.zeros(LARGEST_BINS, np.int64)
        self._faces: dict[int, _TimelineFace] = {}
        self._names: tuple[str, ...] = ()
        self._end = 0.0
        self._dropped_faces = self._damaged = 0

    def add(self, record: Record) -> None:
        """Adds the next record of the film.

        Raises:
            ValueError: the record has no time, as it is of a picture.
        """
        if record.time_s is None:
            raise ValueError(f"{record.input}: the record has no time; a timeline is of a film")
        while record.time_s / self._bin_s >= LARGEST_BINS:
            self._merge_bins()
        place = int(record.time_s / self._bin_s)
        self._end = max(self._end, record.time_s)
        self._frame_counts[place] += 1
        self._damaged += record.status == "error"
        for face in record.faces:
            self._add_face(face, place)
        if len(self._faces) > _MOST_TRACKS:
            self._drop_short_faces()

    def save(self, path: Path) -> None:
        """Writes the figure, 1600 pixels wide, in the format of the file's ending (.png is best).

        Raises:
            MienError: no picture format has this ending, or the file cannot be written.
        """
        picture_format(path, ".png")
        write_picture(self.draw(), path)

    def draw(self) -> Image.Image:
        """Draws the figure, mode RGB, 1600 pixels wide."""
        shown = sorted(sorted(self._faces, key=lambda face_id: -self._faces[face_id].frames)[:LARGEST_PANELS])
        panels = max(1, len(shown))
        image = Image.new("RGB", (_WIDTH, _TOP + panels * (_PANEL + _GAP) - _GAP + _BOTTOM), _PAPER)
        pen = ImageDraw.Draw(image)
        title = self.title if len(self.title) <= 70 else f"...{self.title[-67:]}"
        write(pen, (36, 26), f"How faces look in {title}", 32, _INK)
        smoothed = f", smoothed over {self.smoothing:g} s" if self.smoothing else ""
        subtitle = f"Probability of each expression{smoothed}. Guesses about how a face looks, not what a person feels."
        write(pen, (36, 70), subtitle, 20, _SOFT)
        places = np.flatnonzero(self._frame_counts)
        columns, until = self._columns(places)
        for row, face_id in enumerate(shown):
            self._panel(image, face_id, _TOP + row * (_PANEL + _GAP), places, columns, until)
        if not shown:
            pen.rectangle((_LEFT, _TOP, _WIDTH - _RIGHT, _TOP + _PANEL), fill=_EMPTY)
            centre = ((_LEFT + _WIDTH - _RIGHT) / 2, _TOP + _PANEL / 2)
            write(pen, centre, "No face was seen.", 24, _SOFT, "mm")
        _axis(pen, until, image.height - _BOTTOM + 16, [_TOP + row * (_PANEL + _GAP) for row in range(panels)])
        write(pen, (36, image.height - 34), self._remarks(shown), 17, _SOFT)
        return image

    def _add_face(self, face: Face, place: int) -> None:
        """Adds a face to its bin, and keeps its largest crop."""
        self._names = self._names or tuple(face.probabilities)
        face_id = -1 if face.id is None else face.id
        if face_id not in self._faces:
            self._faces[face_id] = _TimelineFace(np.zeros((LARGEST_BINS, len(self._names) + 2)))
        collected = self._faces[face_id]
        collected.sums[place] += [*(face.probabilities[name] for name in self._names), 1, bool(face.uncertain)]
        collected.frames += 1
        area = face.box[2] * face.box[3]
        if face.crop is not None and area > 1.2 * collected.area:
            collected.crop, collected.area = face.crop.copy(), area

    def _merge_bins(self) -> None:
        """Doubles the length of the time intervals: every two bins become one."""
        self._bin_s *= 2
        for sums in (self._frame_counts, *(face.sums for face in self._faces.values())):
            merged = sums[::2] + sums[1::2]
            sums[: len(merged)], sums[len(merged) :] = merged, 0

    def _drop_short_faces(self) -> None:
        """Drops the half of the faces that were visible shortest; the newest are spared."""
        newest = max(self._faces)
        ranked = sorted(self._faces, key=lambda face_id: (face_id > newest - 20, self._faces[face_id].frames))
        for face_id in ranked[: len(ranked) // 2]:
            del self._faces[face_id]
            self._dropped_faces += 1

    def _columns(self, places: np.ndarray) -> tuple[np.ndarray, float]:
        """Returns the rows of ``places`` in each pixel column, int [2, W] (first, one after last), and the end in s."""
        wide = _WIDTH - _RIGHT - _LEFT
        if not len(places):
            return np.zeros((2, wide), int), 1.0
        step = float(np.median(np.diff(places))) * self._bin_s if len(places) > 1 else 0.04
        until = self._end + step
        edges = np.arange(wide + 1) / wide * until
        # A bin lasts until the next one with frames begins: reading every Nth frame leaves no gaps.
        first = np.clip(np.searchsorted(places * self._bin_s, edges, side="right") - 1, 0, None)
        return np.stack([first[:-1], np.maximum(first[1:], first[:-1] + 1)]), until

    def _panel(
        self, image: Image.Image, face_id: int, top: int, places: np.ndarray, columns: np.ndarray, until: float
    ) -> None:
        """Draws the panel of one face: bands, strip, axis, crop, times and labels."""
        face, pen = self._faces[face_id], ImageDraw.Draw(image)
        sums, frame_counts = face.sums[places], face.sums[places, -2:-1]
        is_visible = 2 * frame_counts >= self._frame_counts[places, None]
        means = np.where(is_visible, sums / np.maximum(frame_counts, 1), np.nan)
        bands = _averaged(means[:, :-2], columns)
        image.paste(Image.fromarray(_stacked(bands, self._names)), (_LEFT, top))
        dark = np.nan_to_num(_averaged(means[:, -1:], columns))
        strip = (dark * np.array(_SOFT) + (1 - dark) * np.array(_EMPTY)).astype(np.uint8)
        image.paste(Image.fromarray(np.repeat(strip[None], 7, axis=0)), (_LEFT, top + _PANEL + 4))
        for share in (0.0, 0.5, 1.0):
            y = top + round((1 - share) * (_PANEL - 1))
            pen.line((_LEFT, y, _WIDTH - _RIGHT, y), fill=_FAINT)
            write(pen, (_LEFT - 8, y), f"{share:.0%}", 15, _SOFT, "rm")
        write(pen, (36, top - 2), "Faces" if face_id == -1 else f"Face {face_id}", 22, _INK)
        if face.crop is not None:
            image.paste(Image.fromarray(face.crop).convert("RGB").resize((_THUMB, _THUMB), Image.Resampling.BICUBIC),
                        (36, top + 30))  # fmt: skip
        times = np.flatnonzero(face.sums[:, -2])[[0, -1]] * self._bin_s
        first, last = (_clock(time, until, fine=True) for time in times.tolist())
        period = f"at {first}" if first == last else f"{first} to {last}"
        write(pen, (36, top + 142), period, 16, _SOFT)
        if dark.any():
            share_unsure = f"unsure {face.sums[:, -1].sum() / face.frames:.0%}"
            write(pen, (_WIDTH - _RIGHT + 20, top + _PANEL + 9), share_unsure, 16, _SOFT, "lm")
        mean = face.sums[:, :-2].sum(axis=0) / face.frames
        _labels(pen, self._names, mean, bands[-1], top)

    def _remarks(self, shown: Sequence[int]) -> str:
        """Returns the line below the figure: how to read it, and what it does not show."""
        remarks = ["Numbers at the right: means over the frames in which the face is seen."] if shown else []
        if any(self._faces[face_id].sums[:, -1].any() for face_id in shown):
            remarks.append("Dark strip: unsure, below the model's threshold.")
        more = len(self._faces) - len(shown) + self._dropped_faces
        if more:
            remarks.append(f"{more} more {'face was' if more == 1 else 'faces were'} seen for a shorter time.")
        if self._damaged:
            remarks.append(f"{self._damaged} frame{'s' if self._damaged > 1 else ''} could not be read.")
        return "  ".join(remarks)


@contextmanager
def timeline_file(path: Path, title: str, smoothing: float) -> Iterator[Add]:
    """Collects the records of a film and draws them when the block ends, whatever ends it (``Ending``).

    Args:
        path: as for ``Timeline.save``; without any frame, no file is written.
        title: name of the film.
        smoothing: time constant in seconds by which the probabilities were smoothed.

    Raises:
        MienError: as ``Timeline.save``; before any work if the name or its folder is at fault.
    """
    picture_format(path, ".png")
    ensure_writable(path.parent)
    refuse_folder(path)
    collected = Timeline(title, smoothing)
    ending = Ending()
    frames_read = 0

    def add(record: Record) -> None:
        nonlocal frames_read
        if record.time_s is not None:
            collected.add(record)
            frames_read += 1

    with ending.held(add) as noted:
        yield noted
    if frames_read:
        collected.save(path)
    ending.raise_again()


def _averaged(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Averages float [N, C] over the rows that each column shows, float [W, C]; NaN if most of these rows are NaN."""
    valid = ~np.isnan(rows[:, :1])
    sums = np.concatenate([np.zeros((1, rows.shape[1])), np.cumsum(np.nan_to_num(rows), axis=0)])
    counts = np.concatenate([np.zeros((1, 1)), np.cumsum(valid, axis=0)])
    first, beyond = columns
    valid_rows, all_rows = counts[beyond] - counts[first], (beyond - first)[:, None]
    means = (sums[beyond] - sums[first]) / np.maximum(valid_rows, 1)
    return np.where(2 * valid_rows >= all_rows, means, np.nan)


def _stacked(shares: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Draws shares that sum to 1, float [W, C], as bands of colour, uint8 [H, W, 3]; the first on top, NaN blank."""
    fine = 4
    heights = (np.arange(_PANEL * fine) + 0.5) / (_PANEL * fine)
    bands = np.cumsum(np.nan_to_num(shares), axis=1)
    band = (heights[:, None, None] > bands[None, :, :-1]).sum(axis=2)
    palette = np.array([colour_of(name, names) for name in names], np.float64).reshape(-1, 3)
    picture = palette[band]
    picture[:, np.isnan(shares[:, 0])] = _EMPTY
    return picture.reshape(_PANEL, fine, len(shares), 3).mean(axis=1).round().astype(np.uint8)


def _labels(pen: ImageDraw.ImageDraw, names: Sequence[str], mean: np.ndarray, last: np.ndarray, top: int) -> None:
    """Writes names and means at the right end, each as near to its band as possible, with a line to it."""
    ends = not np.isnan(last).any()
    shares = last if ends else mean
    band_centres = top + (np.cumsum(shares) - shares / 2) * _PANEL
    space = min(25.0, _PANEL / len(names))
    placed = band_centres.copy()
    for row in range(1, len(names)):
        placed[row] = max(placed[row], placed[row - 1] + space)
    placed[-1] = min(placed[-1], top + _PANEL - space / 2)
    for row in range(len(names) - 2, -1, -1):
        placed[row] = min(placed[row], placed[row + 1] - space)
    right = _WIDTH - _RIGHT
    for name, share, y, band in zip(names, mean, placed, band_centres, strict=True):
        if ends:
            pen.line([(right + 2, band), (right + 16, y)], fill=colour_of(name, names), width=2)
        pen.rectangle((right + 20, y - 7, right + 34, y + 7), fill=colour_of(name, names))
        ink = _INK if share >= 0.05 else _SOFT
        write(pen, (right + 42, y), f"{name} {share:.0%}", 18, ink, "lm")


def _axis(pen: ImageDraw.ImageDraw, until: float, y: int, tops: Sequence[int]) -> None:
    """Draws the time axis below the last panel, and short ticks at every panel."""
    wide = _WIDTH - _RIGHT - _LEFT
    step = next((step for step in _STEPS_S if until / step <= 10), 3600 * -(-until // 36000))
    for index in range(int(until / step + 1e-9) + 1):
        x = _LEFT + index * step / until * wide
        for top in tops:
            pen.line((x, top + _PANEL + 11, x, top + _PANEL + 17), fill=_SOFT)
        write(pen, (x, y + 6), _clock(index * step, until), 17, _SOFT, "mt")
    unit = "" if until < 60 else "min:s" if until < 3600 else "h:min:s"
    write(pen, (36, y + 7), unit, 15, _SOFT, "lt")


def _clock(seconds: float, until: float, fine: bool = False) -> str:
    """Formats a time of a film of ``until`` seconds: 1.2 s, 12 s (``fine``: 12.3 s), 1:05 or 1:02:30."""
    if until < 60:
        return f"{seconds:.1f} s" if fine or until < 5 else f"{round(seconds)} s"
    whole = round(seconds)
    if until < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
