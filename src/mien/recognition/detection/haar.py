"""The default detector: OpenCV's cascades of Haar features (Viola and Jones 2001), which come with its package.

Where one cascade sees something, three of them look again at that place, and only what they agree on is told: a single
cascade takes folds of cloth and foliage for faces. The picture is searched at a bounded size, so that the time does not
grow with the megapixels of a camera; smaller faces, and faces that lean, are sought where that is worth the time.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from mien.recognition.detection.detectors import Detection, apart, check, overlap, within
from mien.recognition.results import Box
from mien.threads import side_by_side

MARGIN = 0.022
"""By what share of a box's side FER2013's frame is larger on every side.

Measured by ``python benchmarks/framing.py --data archive.zip --faces 700`` on Training faces: 0.022 (0.018 to 0.027);
the centres agree within 0.005 of the side."""

LEVELS: tuple[tuple[int, int], ...] = ((128, 0), (256, 400), (512, 1400), (1024, 1 << 30))
"""The searches, each for faces half as large as the one before: the longer side in pixels to which the picture is
brought, and from which longer side of the picture on the search is made in any case. Otherwise it is made where those
before it found nobody, or somebody small, who is often not alone."""

SMALLEST = 20
"""Side in pixels of the smallest face that a search is for; it is the size that the quick cascade was trained at."""

CLOSE = 1.1
"""How many times the smallest face of a search a face may measure and still count as small."""

TINIEST = 22
"""Side in pixels of the picture's own below which nothing is told: so few pixels look like a face too easily."""

STEP, FINE_STEP = 1.15, 1.175
"""By what factor the sizes that are sought follow each other, and where only small faces are sought."""

LEANING = 240
"""Longer side in pixels to which a picture is brought to find faces that lean."""

TILT = 25.0
"""By how many degrees it is turned, to either side."""

THRESHOLD = 3.5
"""The lowest score of a face that is told: set on composites of Training faces, see ``benchmarks/detectors.py``."""

_BORDER = 4
_PATCH, _CONTEXT = 60, 1.2
_WINDOWS = ((48, 48), (72, 72))


@dataclass(frozen=True)
class _Search:
    """One pass over a picture.

    Attributes:
        limit: longer side in pixels to which the picture is brought.
        largest: side in pixels of the largest face that is sought at that size; 0 sets no bound.
        angle: by how many degrees the picture is turned first, anticlockwise.
    """

    limit: int
    largest: int = 0
    angle: float = 0.0


class _Place(NamedTuple):
    """Centre and side of a face in pixels of the picture."""

    x: float
    y: float
    side: float


class _Look(NamedTuple):
    """What came of looking at a place again: the score, and where the face is."""

    score: float
    place: _Place


class Haar:
    """Finds upright faces, and such as lean by up to about 20 degrees, seen from the front.

    The score grows with the number of times that the cascades agree on a face: the geometric mean of their counts, from
    3.5 (just told) to about 20. One detector may be used from several threads; they take turns, as OpenCV's cascades
    keep a state and use all cores as they are.
    """

    name = "haar"
    margin = MARGIN

    def __init__(self, threshold: float = THRESHOLD) -> None:
        """Loads the cascades.

        Args:
            threshold: the lowest score of a face that is told.
        """
        self.threshold = threshold
        self._lock = threading.Lock()
        self._quick, self._second, self._third = (
            _cascade(f"haarcascade_frontalface_{name}.xml") for name in ("alt2", "alt", "default")
        )

    def detect(self, picture: np.ndarray) -> list[Detection]:
        """The faces of a picture, uint8 [H, W] (grey) or [H, W, 3] (RGB), from left to right.

        Boxes are the cascades': square, brow to chin, cut off where they leave the picture.

        Raises:
            MienError: the array is no picture.
        """
        import cv2

        check(picture)
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) if picture.ndim == 3 else np.ascontiguousarray(picture)
        with self._lock:
            found = self._upright(grey)
            if not found:
                found = [one for angle in (-TILT, TILT) for one in self._search(grey, _Search(LEANING, 0, angle))]
        return apart(found)

    def _upright(self, grey: np.ndarray) -> list[Detection]:
        longer = max(grey.shape)
        found = self._search(grey, _Search(LEVELS[0][0]))
        for (coarser, _), (limit, always) in pairwise(LEVELS):
            # A little more detail is not worth another search: faces from 30 pixels on are seen already.
            if longer <= 1.5 * coarser:
                break
            small = CLOSE * SMALLEST * longer / coarser
            if not found or longer >= always or min(max(one.box[2:]) for one in found) < small:
                # The upper bound overlaps the faces of the search before by a tenth.
                found += self._search(grey, _Search(limit, largest=int(2.2 * SMALLEST)), found)
        return found

    def _search(self, grey: np.ndarray, search: _Search, known: Sequence[Detection] = ()) -> list[Detection]:
        """What one pass finds beside what is known; the same face may be found more than once."""
        height, width = grey.shape
        seen, to_picture = _prepared(grey, search)
        found: list[Detection] = []
        for (left, top, side, _), count in self._proposals(seen, search.largest):
            x, y = to_picture @ (left + side / 2, top + side / 2, 1.0)
            place = _Place(float(x), float(y), side * float(np.hypot(*to_picture[:, 0])))
            # What a turned picture has beyond its edges is no part of the picture.
            inside = 0 <= x < width and 0 <= y < height
            if not inside or any(overlap(_around(place), one.box) > 0.5 for one in (*known, *found)):
                continue
            look = self._look(grey, place, count, search.angle)
            box = within(_around(look.place), width, height)
            if look.score >= self.threshold and min(box[2:]) >= max(0.6 * look.place.side, TINIEST):
                found.append(Detection(box, look.score))
        return found

    def _proposals(self, seen: np.ndarray, largest: int) -> list[tuple[Any, int]]:
        """Places where the quick cascade sees a face, left, top, width and height, and how many times it does."""
        if min(seen.shape) < SMALLEST:
            return []
        step, bound = (FINE_STEP, (largest, largest)) if largest else (STEP, (0, 0))
        raw = self._quick.detectMultiScale(seen, step, 0, 0, (SMALLEST, SMALLEST), bound)
        return _clusters(np.asarray(raw, np.float64).reshape(-1, 4))

    def _look(self, grey: np.ndarray, place: _Place, count: int, angle: float) -> _Look:
        """Looks again at a place from close by, where ``count`` windows of the search saw a face."""
        look = self._agreement(grey, place, count, angle)
        if look.score >= 2 * self.threshold or angle or (count == 1 and look.score == 0):
            return look
        # A face that leans is found by chance, and well seen once it is turned upright. As three looks
        # find more by chance than one, they count for less.
        turned = max((self._agreement(grey, place, count, turn) for turn in (-15.0, 15.0)), key=lambda one: one.score)
        return max(look, _Look(0.6 * turned.score, turned.place), key=lambda one: one.score)

    def _agreement(self, grey: np.ndarray, place: _Place, count: int, angle: float) -> _Look:
        """How much the cascades agree on a place, and where they see the face, on average."""
        patch, back = _patch(grey, place, angle)

        def hits(cascade: Any) -> list[Any]:
            return list(cascade.detectMultiScale(patch, 1.1, 0, 0, *_WINDOWS))

        boxes = hits(self._second)
        if not boxes:
            return _Look(0.0, place)
        # A patch is too small for OpenCV to share it out among the cores, so the last two cascades look side by side.
        quick, third = side_by_side(hits, (self._quick, self._third), 2)
        agreed = (count + 0.5) * (len(boxes) + 0.5) * (len(quick) + 0.5)
        product = agreed * (0.5 * len(third) + 0.5)
        if min(agreed, product) < 1:
            return _Look(0.0, place)
        boxes += quick + third
        left, top, side, _ = np.mean(boxes, axis=0)
        x, y = back @ (left + side / 2, top + side / 2, 1.0)
        return _Look(float(product**0.25), _Place(float(x), float(y), float(side * np.hypot(*back[:, 0]))))


def _around(place: _Place) -> Box:
    """The box around a place."""
    return place.x - place.side / 2, place.y - place.side / 2, place.side, place.side


def _prepared(grey: np.ndarray, search: _Search) -> tuple[np.ndarray, np.ndarray]:
    """A picture as one pass sees it, with a border, and the map from there back, float64 [2, 3]."""
    import cv2

    height, width = grey.shape
    # Only the coarsest search makes a small picture larger: nothing is gained beyond that.
    scale = min(search.limit / max(height, width), 2.0 if search.limit == LEVELS[0][0] else 1.0)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    seen = grey
    if size != (width, height):
        seen = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    # Faces that touch the edge are found with some room around them.
    seen = cv2.copyMakeBorder(seen, _BORDER, _BORDER, _BORDER, _BORDER, cv2.BORDER_REPLICATE)
    back = np.array(
        [[width / size[0], 0, -_BORDER * width / size[0]], [0, height / size[1], -_BORDER * height / size[1]]]
    )
    if not search.angle:
        return seen, back
    rows, columns = seen.shape
    turn = cv2.getRotationMatrix2D((columns / 2, rows / 2), search.angle, 1.0)
    reach = math.sin(math.radians(abs(search.angle)))
    room = int(rows * reach / 2), int(columns * reach / 2)
    turn[:, 2] += np.array(room)
    whole = columns + 2 * room[0], rows + 2 * room[1]
    seen = cv2.warpAffine(seen, turn, whole, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    square = np.vstack([back, [0, 0, 1]]) @ np.vstack([cv2.invertAffineTransform(turn), [0, 0, 1]])
    return seen, square[:2]


def _patch(grey: np.ndarray, place: _Place, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """A place and a little around it, turned, as the cascades look at it again, and the map back, float64 [2, 3]."""
    import cv2

    x, y, side = place
    across = round(_PATCH * _CONTEXT)
    scale = _PATCH / side
    turn = cv2.getRotationMatrix2D((x, y), angle, scale)
    turn[:, 2] += np.array([across / 2 - x, across / 2 - y])
    back = cv2.invertAffineTransform(turn)
    # Where a large face is made small, whole blocks of pixels are averaged first, or fine patterns would alias.
    blocks = max(1, int(1 / scale))
    reach = 0.75 * side * _CONTEXT + blocks
    left, top = max(0, int(x - reach)), max(0, int(y - reach))
    region = grey[top : int(y + reach) + 1, left : int(x + reach) + 1]
    blocks = min(blocks, *region.shape)
    if blocks > 1:
        size = region.shape[1] // blocks, region.shape[0] // blocks
        region = cv2.resize(region[: size[1] * blocks, : size[0] * blocks], size, interpolation=cv2.INTER_AREA)
    # The centre of a block's first pixel lies that far from the centre of the block.
    shift = (blocks - 1) / 2
    to_region = (back - ((0, 0, left + shift), (0, 0, top + shift))) / blocks
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(region, to_region, (across, across), flags=flags, borderMode=cv2.BORDER_REPLICATE), back


def _clusters(raw: np.ndarray, least: float = 0.4) -> list[tuple[np.ndarray, int]]:
    """Boxes that are about one place, float64 [N, 4], as their mean and number, the most first.

    OpenCV groups only boxes of nearly the same size, and drops those that stand alone.
    """
    found: list[tuple[np.ndarray, int]] = []
    left = raw
    while len(left):
        first = left[0]
        for _ in range(2):  # the second time around the mean of the first
            common = (
                np.minimum(left[:, :2] + left[:, 2:], first[:2] + first[2:]) - np.maximum(left[:, :2], first[:2])
            ).clip(0)
            shared = common.prod(axis=1)
            near = shared > least * (left[:, 2:].prod(axis=1) + first[2:].prod() - shared)
            if not near.any():
                near[0] = True
            first = left[near].mean(axis=0)
        found.append((first, int(near.sum())))
        left = left[~near]
    return sorted(found, key=lambda one: -one[1])


def _cascade(name: str) -> Any:
    import cv2
    from cv2.data import haarcascades

    return cv2.CascadeClassifier(haarcascades + name)
