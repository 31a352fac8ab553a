"""How alike two pictures are once one is laid over the other: correlation over shift, zoom, stretch, tilt and shear.

The same photograph often comes cropped, tilted or watermarked a little differently, and a plain comparison of pixels
misses it. Here the middle of one picture is first searched for in the other at half resolution, over all shifts and
some zooms at once (Lewis 1995, "Fast normalized cross-correlation"); the best place is then refined at full resolution
by small affine steps.

The answer is the same on every machine. Pixels, weights and positions are integers; sums of products are exact, those
made by Fourier transforms once they are rounded to the nearest integer; what remains is multiplication, square root and
division of float64, which IEEE 754 rounds in one way alone.
"""

from __future__ import annotations

import numpy as np

SIDE = 48
"""Height and width of the pictures that are compared, in pixels."""

WINDOW = 34
"""Height and width of the part that is compared, in pixels: a shift of 7 pixels leaves it inside."""

ZOOMS: tuple[int, ...] = (820, 880, 952, 1024, 1102, 1185)
"""Zooms of the first search, in 1/1024."""

PROMISING = 0.8
"""Correlation of the first search above which a pair is refined."""

_HALF = SIDE // 2
_SMALL = WINDOW // 2
_ONE = 1024
_PAIRS = 128


def _moves(shift: int, turn: int) -> list[list[int]]:
    """Small changes of a placing: two shifts in 1/2048 pixel; zoom, stretch, tilt and shear in 1/1024."""
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
"""Of the refinement: every how manyeth pixel is compared, steps, how often, and the correlation that goes on."""


def aligned_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The correlation of pairs of pictures under the best alignment that is found.

    Args:
        first: uint8 [P, 48, 48].
        second: uint8 [P, 48, 48], the partner of each.

    Returns:
        float64 [P] in [-1, 1]. What the first search calls hopeless (``PROMISING``) is not refined and keeps the
        correlation of that search, or as the pictures lie; without contrast it is -1.
    """
    result = np.empty(len(first))
    for start in range(0, len(first), _PAIRS):
        block = slice(start, start + _PAIRS)
        result[block] = _block(first[block], second[block])
    return result


def _block(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    small_first, small_second = _halved(first), _halved(second)
    forward, place = _search(small_first, small_second)
    backward, other_place = _search(small_second, small_first)
    # The middle of the one that is zoomed out lies within the other, so both ways are tried.
    turned = backward > forward
    best = np.where(turned, backward, forward)
    rows = np.flatnonzero(best > PROMISING)
    if len(rows):
        swap = turned[rows, None, None]
        source = np.where(swap, second[rows], first[rows])
        target = np.where(swap, first[rows], second[rows])
        best[rows] = _refine(source, target, np.where(turned[rows, None], other_place[rows], place[rows]))
    return np.maximum(best, _as_they_lie(first, second))


def _as_they_lie(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float64 [P], the correlation of the middles of uint8 [P, 48, 48], for detail that is too fine to be searched."""
    margin = (SIDE - WINDOW) // 2
    middle = second[:, margin:-margin, margin:-margin].reshape(len(second), -1).astype(np.int32)
    placing = np.tile(np.array([0, 0, _ONE, 0, 0, _ONE], np.int32), (len(first), 1))
    return _correlation(first, middle, placing, 1)


def _halved(pictures: np.ndarray) -> np.ndarray:
    """int32 [P, 24, 24], the rounded means of 2x2 pixels, less 128."""
    wide = pictures.astype(np.int32)
    return ((wide[:, ::2, ::2] + wide[:, ::2, 1::2] + wide[:, 1::2, ::2] + wide[:, 1::2, 1::2] + 2) >> 2) - 128


def _search(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The middle of each source, at several zooms, at all places of its target, both int32 [P, 24, 24] less 128.

    Returns:
        float64 [P], the best correlation, and int64 [P, 3], its zoom, row and column.
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
    above = count * products - totals[:, :, None] * sums[:, None, :]
    under = np.sqrt(spread[:, :, None] * spreads[:, None, :])
    values = np.divide(above, under, out=np.full(above.shape, -1.0), where=under > 0).reshape(pairs, -1)
    at = values.argmax(axis=1)
    zoom, place = np.divmod(at, places**2)
    return np.take_along_axis(values, at[:, None], 1)[:, 0], np.stack(
        [np.array(ZOOMS)[zoom], *np.divmod(place, places)], 1
    )


def _zoomed(pictures: np.ndarray, zoom: int) -> np.ndarray:
    """float32 [P, 17, 17], whole numbers: the middle of int32 [P, 24, 24], ``17 zoom / 1024`` pixels wide, bilinear."""
    along = 2 * np.arange(_SMALL, dtype=np.int32) - _SMALL + 1
    at = ((_HALF - 1) * _ONE + along * zoom).astype(np.int32)  # in 1/2048 pixel
    low, share = at >> 11, ((at & 2047) >> 5).astype(np.int32)
    rows = pictures[:, low] * (64 - share)[:, None] + pictures[:, low + 1] * share[:, None]
    sums = (rows[:, :, low] * (64 - share) + rows[:, :, low + 1] * share).astype(np.int32)
    return ((sums + 2048) >> 12).astype(np.float32)


def _refine(source: np.ndarray, target: np.ndarray, place: np.ndarray) -> np.ndarray:
    """float64 [P], the best correlation of a window of the target with the source below it, by small affine steps.

    Args:
        source: uint8 [P, 48, 48], sampled between its pixels.
        target: uint8 [P, 48, 48], of which a window of whole pixels is taken.
        place: int64 [P, 3], zoom, row and column at half resolution, where the search begins.
    """
    count, inside = len(source), np.arange(WINDOW)
    rows, columns = 2 * place[:, 1, None] + inside, 2 * place[:, 2, None] + inside
    window = target[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]].astype(np.int32)
    placing = np.zeros((count, 6), np.int32)
    placing[:, 2] = placing[:, 5] = place[:, 0]
    result, left = np.empty(count), np.arange(count)
    for stride, steps, sweeps, wanted in _ROUNDS:
        if not len(left):
            break
        part = window[left, ::stride, ::stride].reshape(len(left), -1)
        best, placing = _climb(source[left], part, placing, stride, np.array(steps, np.int32), sweeps)
        result[left] = best
        left, placing = left[best > wanted], placing[best > wanted]
    return result


def _climb(
    source: np.ndarray, part: np.ndarray, placing: np.ndarray, stride: int, steps: np.ndarray, sweeps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Takes each step, there and back, that raises the correlation; float64 [P] and the new int32 [P, 6]."""
    best = _correlation(source, part, placing, stride)
    for step in np.concatenate([np.stack([steps, -steps], axis=1).reshape(-1, 6)] * sweeps):
        value = _correlation(source, part, placing + step, stride)
        better = value > best
        best = np.where(better, value, best)
        placing = np.where(better[:, None], placing + step, placing)
    return best, placing


def _correlation(source: np.ndarray, part: np.ndarray, placing: np.ndarray, stride: int) -> np.ndarray:
    """float64 [P], correlation of the target's pixels with the source at the places that an affine map gives them.

    Args:
        source: uint8 [P, 48, 48].
        part: int32 [P, K], every ``stride``-th pixel of the target's window, both ways.
        placing: int32 [P, 6], shift down and right in 1/2048 pixel, then the matrix, row by row, in 1/1024.
        stride: see ``part``.

    Returns:
        -1 where more of the window than a pixel at its border lies outside of the source, or without contrast.
    """
    below, beside, at = _places(placing, stride)
    flat = source.reshape(-1)
    # Bilinear with weights in 1/64: whole numbers below 2^24, which float32 holds exactly.
    corners = [flat[at + offset].astype(np.float32) for offset in (0, 1, SIDE, SIDE + 1)]
    upper = (corners[1] - corners[0]) * beside + 64 * corners[0]
    lower = (corners[3] - corners[2]) * beside + 64 * corners[2]
    values = (((lower - upper) * below + (64 * upper + 2048)) * np.float32(1 / 4096)).astype(np.int32)
    count, sums, part_sums = part.shape[1], values.sum(axis=1, dtype=np.int64), part.sum(axis=1, dtype=np.int64)
    above = count * np.einsum("pk,pk->p", values, part).astype(np.int64) - sums * part_sums
    spread = count * np.einsum("pk,pk->p", values, values).astype(np.int64) - sums**2
    part_spread = count * np.einsum("pk,pk->p", part, part).astype(np.int64) - part_sums**2
    under = np.sqrt(spread.astype(np.float64) * part_spread.astype(np.float64))
    reach = (WINDOW - 1) * np.abs(placing[:, 2:]).reshape(-1, 2, 2).sum(axis=2)
    valid = (np.abs(placing[:, :2]) + reach <= (SIDE - 1) * _ONE + 2048).all(axis=1)
    return np.divide(above, under, out=np.full(len(source), -1.0), where=(under > 0) & valid)


def _places(placing: np.ndarray, stride: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """float32 [P, K] twice, the weights in 1/64 of the pixel below and beside, and int64 [P, K], the pixel itself."""
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
