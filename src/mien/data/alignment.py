"""Correlation of two pictures after one is laid over the other: over shift, zoom, stretch, tilt and shear.

The same photograph is often cropped, tilted or watermarked a little differently; a plain comparison of pixels misses
it. Here the middle of one picture is first searched in the other at half resolution, over all shifts and some zooms at
once (Lewis 1995, "Fast normalized cross-correlation"). The best place is then refined at full resolution by small
affine steps.

The result is the same on every machine. Pixels, weights and positions are integers, and sums of products are exact; the
rest is multiplication, square root and division of float64, for which IEEE 754 allows a single result.
"""

from __future__ import annotations

import numpy as np

SIDE = 48
"""Height and width of the compared pictures, in pixels."""

WINDOW = 34
"""Height and width of the compared part, in pixels; after a shift of 7 pixels it still lies inside."""

ZOOMS: tuple[int, ...] = (820, 880, 952, 1024, 1102, 1185)
"""Zooms of the first search, in units of 1/1024."""

PROMISING = 0.8
"""Correlation of the first search above which a pair is refined."""

_HALF = SIDE // 2
_SMALL = WINDOW // 2
_ONE = 1024
_PAIRS = 128


def _moves(shift: int, turn: int) -> list[list[int]]:
    """Returns small changes of a placing: two shifts in 1/2048 pixel; zoom, stretch, tilt and shear in 1/1024."""
    return [
        [shift, 0, 0, 0, 0, 0],
        [0, shift, 0, 0, 0, 0],
        [0, 0, turn, 0, 0, turn],
        [0, 0, turn, 0, 0, -turn],
        [0, 0, 0, -turn, turn, 0],
        [0, 0, 0, turn, turn, 0],
    ]


_ROUNDS: tuple[tuple[int, list[list[int]], int, float], ...] = (
    (2, _moves(2048, 40), 2, 0.85),
    (2, _moves(1024, 20), 2, 0.90),
    (1, _moves(512, 10), 2, 0.90),
)
"""Rounds of the refinement: stride of the compared pixels, steps, number of sweeps, correlation to go on."""


def aligned_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the correlation of pairs of pictures under the best alignment that the search finds.

    Args:
        first: uint8 [P, 48, 48].
        second: uint8 [P, 48, 48], the second picture of each pair.

    Returns:
        float64 [P] in [-1, 1]; -1 without contrast. A pair that stays below ``PROMISING`` in the first search is not
        refined; its value is the correlation of that search, or of the pictures without alignment.
    """
    result = np.empty(len(first))
    for start in range(0, len(first), _PAIRS):
        block = slice(start, start + _PAIRS)
        result[block] = _block(first[block], second[block])
    return result


def _block(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    small_first, small_second = _halved(first), _halved(second)
    # The middle of either picture may be the one that lies within the other picture, so both ways are tried.
    forward, forward_place = _search(small_first, small_second)
    backward, backward_place = _search(small_second, small_first)
    is_backward = backward > forward
    best = np.where(is_backward, backward, forward)
    rows = np.flatnonzero(best > PROMISING)
    if len(rows):
        swap = is_backward[rows, None, None]
        source = np.where(swap, second[rows], first[rows])
        target = np.where(swap, first[rows], second[rows])
        place = np.where(is_backward[rows, None], backward_place[rows], forward_place[rows])
        best[rows] = _refine(source, target, place)
    return np.maximum(best, _unaligned_correlation(first, second))


def _unaligned_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the correlation of the middles without alignment, float64 [P]; finds equal detail too fine to search."""
    margin = (SIDE - WINDOW) // 2
    middle = second[:, margin:-margin, margin:-margin].reshape(len(second), -1).astype(np.int32)
    placing = np.tile(np.array([0, 0, _ONE, 0, 0, _ONE], np.int32), (len(first), 1))
    return _correlation(first, middle, placing, 1)


def _halved(pictures: np.ndarray) -> np.ndarray:
    """Returns the rounded means of 2x2 pixels minus 128, int32 [P, 24, 24]."""
    wide = pictures.astype(np.int32)
    return ((wide[:, ::2, ::2] + wide[:, ::2, 1::2] + wide[:, 1::2, ::2] + wide[:, 1::2, 1::2] + 2) >> 2) - 128


def _search(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compares the middle of each source, at several zooms, with all places of its target.

    Args:
        source: int32 [P, 24, 24], as ``_halved``.
        target: int32 [P, 24, 24], as ``_halved``.

    Returns:
        The best correlation, float64 [P], and its zoom, row and column, int64 [P, 3].
    """
    count, pairs, places = _SMALL**2, len(source), _HALF - _SMALL + 1
    # Whole numbers of at most 128, 289 products a sum: below 2^24, so float32 adds them exactly in any order.
    windows = np.stack([_zoomed(source, zoom) for zoom in ZOOMS], axis=1).reshape(pairs, len(ZOOMS), count)
    parts = np.lib.stride_tricks.sliding_window_view(target.astype(np.float32), (_SMALL, _SMALL), axis=(1, 2))
    parts = parts.reshape(pairs, places**2, count)
    products = np.matmul(windows, parts.transpose(0, 2, 1)).astype(np.float64)
    sums, totals = parts.sum(axis=2, dtype=np.float64), windows.sum(axis=2, dtype=np.float64)
    spreads = count * np.einsum("pwk,pwk->pw", parts, parts).astype(np.float64) - sums**2
    spread = count * np.einsum("pzk,pzk->pz", windows, windows).astype(np.float64) - totals**2
    numerator = count * products - totals[:, :, None] * sums[:, None, :]
    denominator = np.sqrt(spread[:, :, None] * spreads[:, None, :])
    values = np.divide(numerator, denominator, out=np.full_like(numerator, -1.0), where=denominator > 0)
    values = values.reshape(pairs, -1)
    at = values.argmax(axis=1)
    zoom, place = np.divmod(at, places**2)
    return np.take_along_axis(values, at[:, None], 1)[:, 0], np.stack(
        [np.array(ZOOMS)[zoom], *np.divmod(place, places)], 1
    )


def _zoomed(pictures: np.ndarray, zoom: int) -> np.ndarray:
    """Scales the middle, ``17 zoom / 1024`` pixels wide, of int32 [P, 24, 24]: float32 [P, 17, 17], whole numbers."""
    along = 2 * np.arange(_SMALL, dtype=np.int32) - _SMALL + 1
    at = ((_HALF - 1) * _ONE + along * zoom).astype(np.int32)  # in 1/2048 pixel
    low, share = at >> 11, ((at & 2047) >> 5).astype(np.int32)
    rows = pictures[:, low] * (64 - share)[:, None] + pictures[:, low + 1] * share[:, None]
    sums = (rows[:, :, low] * (64 - share) + rows[:, :, low + 1] * share).astype(np.int32)
    return ((sums + 2048) >> 12).astype(np.float32)


def _refine(source: np.ndarray, target: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Improves the correlation of a window of the target with the source below it, by small affine steps.

    Args:
        source: uint8 [P, 48, 48], sampled between its pixels.
        target: uint8 [P, 48, 48]; the window consists of whole pixels of it.
        place: int64 [P, 3], the start: zoom, row and column at half resolution.

    Returns:
        float64 [P], the best correlation.
    """
    count, inside = len(source), np.arange(WINDOW)
    rows, columns = 2 * place[:, 1, None] + inside, 2 * place[:, 2, None] + inside
    window = target[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]].astype(np.int32)
    placing = np.zeros((count, 6), np.int32)
    placing[:, 2] = placing[:, 5] = place[:, 0]
    result, left = np.empty(count), np.arange(count)
    for stride, steps, sweeps, bound in _ROUNDS:
        if not len(left):
            break
        part = window[left, ::stride, ::stride].reshape(len(left), -1)
        best, placing = _climb(source[left], part, placing, stride, np.array(steps, np.int32), sweeps)
        result[left] = best
        left, placing = left[best > bound], placing[best > bound]
    return result


def _climb(
    source: np.ndarray, part: np.ndarray, placing: np.ndarray, stride: int, steps: np.ndarray, sweeps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Takes each step, forwards or backwards, that raises the correlation.

    Returns:
        The correlation, float64 [P], and the new placing, int32 [P, 6].
    """
    best = _correlation(source, part, placing, stride)
    for step in np.concatenate([np.stack([steps, -steps], axis=1).reshape(-1, 6)] * sweeps):
        value = _correlation(source, part, placing + step, stride)
        better = value > best
        best = np.where(better, value, best)
        placing = np.where(better[:, None], placing + step, placing)
    return best, placing


def _correlation(source: np.ndarray, part: np.ndarray, placing: np.ndarray, stride: int) -> np.ndarray:
    """Correlates the pixels of a target's window with the source at the places of an affine map.

    Args:
        source: uint8 [P, 48, 48].
        part: int32 [P, K], every ``stride``-th row and column of the target's window.
        placing: int32 [P, 6], shift down and right in 1/2048 pixel, then the matrix, row by row, in 1/1024.
        stride: see ``part``.

    Returns:
        float64 [P]; -1 if the window reaches more than a pixel beyond the source, or without contrast.
    """
    below, beside, at = _places(placing, stride)
    flat = source.reshape(-1)
    # Bilinear with weights in 1/64: whole numbers below 2^24, which float32 holds exactly.
    corners = [flat[at + offset].astype(np.float32) for offset in (0, 1, SIDE, SIDE + 1)]
    upper = (corners[1] - corners[0]) * beside + 64 * corners[0]
    lower = (corners[3] - corners[2]) * beside + 64 * corners[2]
    values = (((lower - upper) * below + (64 * upper + 2048)) * np.float32(1 / 4096)).astype(np.int32)
    count, sums, part_sums = part.shape[1], values.sum(axis=1, dtype=np.int64), part.sum(axis=1, dtype=np.int64)
    numerator = count * np.einsum("pk,pk->p", values, part).astype(np.int64) - sums * part_sums
    spread = count * np.einsum("pk,pk->p", values, values).astype(np.int64) - sums**2
    part_spread = count * np.einsum("pk,pk->p", part, part).astype(np.int64) - part_sums**2
    denominator = np.sqrt(spread.astype(np.float64) * part_spread.astype(np.float64))
    reach = (WINDOW - 1) * np.abs(placing[:, 2:]).reshape(-1, 2, 2).sum(axis=2)
    valid = (np.abs(placing[:, :2]) + reach <= (SIDE - 1) * _ONE + 2048).all(axis=1)
    return np.divide(numerator, denominator, out=np.full(len(source), -1.0), where=(denominator > 0) & valid)


def _places(placing: np.ndarray, stride: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the source pixel of each window pixel, and the weights of its neighbours.

    Returns:
        The weights of the pixels below and to the right in 1/64, float32 [P, K] each, and the position of the pixel in
        the flattened source, int64 [P, K].
    """
    along = (2 * np.arange(0, WINDOW, stride) - WINDOW + 1).astype(np.int32)  # in half pixels from the middle
    row, column = np.repeat(along, len(along)), np.tile(along, len(along))
    middle, last = (SIDE - 1) * _ONE, (SIDE - 1) * 2048 - 1
    down, right = (
        np.clip(middle + placing[:, axis, None] + placing[:, entry, None] * row + placing[:, entry + 1, None] * column,
                0, last).astype(np.int32)
        for axis, entry in ((0, 2), (1, 4))
    )  # fmt: skip
    begin = SIDE**2 * np.arange(len(placing))[:, None]
    return (
        ((down & 2047) >> 5).astype(np.float32),
        ((right & 2047) >> 5).astype(np.float32),
        begin + ((down >> 11) * SIDE + (right >> 11)),
    )
