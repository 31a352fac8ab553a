"""Near-identical pictures ("twins"): FER2013 holds thousands, within a split and across splits.

Two pictures are twins where their 12x12 thumbnails, mean removed, correlate above .999.
"""

from __future__ import annotations

import numpy as np

SIDE = 12
"""Height and width of a thumbnail, in pixels."""

THRESHOLD = 0.999
"""Correlation above which two pictures are twins."""

_CHUNK = 1024
_LUMA = np.array([19595, 38470, 7471], np.uint32)


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Area averages of pictures, rounded, so that stored thumbnails decide exactly as fresh ones do.

    Args:
        images: uint8 [N, S, S], or [N, S, S, 3] (RGB), of which the luma is taken as Pillow does.

    Returns:
        uint8 [N, 12, 12].
    """
    count, side = images.shape[:2]
    # Overlap of each pixel with each thumbnail cell along one axis, in twelfths of a pixel: every sum below is a whole
    # number that float64 holds exactly, so the result does not depend on the order of summation.
    pixels, cells = np.arange(side) * SIDE, np.arange(SIDE)[:, None] * side
    overlap = np.minimum(pixels + SIDE, cells + side) - np.maximum(pixels, cells)
    weights = np.maximum(overlap, 0).astype(np.float64)
    result = np.empty((count, SIDE, SIDE), np.uint8)
    for start in range(0, count, _CHUNK):
        block = images[start : start + _CHUNK]
        sums = (weights @ _grey(block).astype(np.float64) @ weights.T).astype(np.int64)
        result[start : start + _CHUNK] = (2 * sums + side**2) // (2 * side**2)
    return result


def has_twin(thumbs: np.ndarray, others: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """For each thumbnail whether any of the others is its twin.

    Args:
        thumbs: uint8 [N, 12, 12].
        others: uint8 [M, 12, 12], of other pictures.
        threshold: correlation above which two pictures are twins.

    Returns:
        bool [N].
    """
    ours, theirs = _unit_vectors(thumbs), _unit_vectors(others)
    found = np.zeros(len(ours), bool)
    for start in range(0, len(ours) if len(theirs) else 0, _CHUNK):
        found[start : start + _CHUNK] = (ours[start : start + _CHUNK] @ theirs.T).max(axis=1) > threshold
    return found


def twin_pairs(thumbs: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """All pairs of twins within a set.

    Args:
        thumbs: uint8 [N, 12, 12].
        threshold: correlation above which two pictures are twins.

    Returns:
        int64 [P, 2], each pair once, the smaller position first, in ascending order.
    """
    vectors = _unit_vectors(thumbs)
    pairs = [np.empty((0, 2), np.int64)]
    for start in range(0, len(vectors), _CHUNK):
        above = vectors[start : start + _CHUNK] @ vectors[start:].T > threshold
        rows, columns = np.divmod(np.flatnonzero(above), above.shape[1])
        later = columns > rows
        pairs.append(np.stack([rows[later], columns[later]], axis=1) + start)
    return np.concatenate(pairs)


def groups(thumbs: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """Groups of pictures that belong together: twins, twins of twins, and so on.

    Args:
        thumbs: uint8 [N, 12, 12].
        threshold: correlation above which two pictures are twins.

    Returns:
        int64 [N], the group of each picture, numbered from 0 in order of the first member.
    """
    # Equal thumbnails are set aside first: a thousand blank pictures would make half a million pairs.
    _, first, same = np.unique(thumbs.reshape(-1, SIDE * SIDE), axis=0, return_index=True, return_inverse=True)
    same = same.reshape(-1)
    joined = _components(len(first), twin_pairs(thumbs[first], threshold))[same]
    _, begins, group = np.unique(joined, return_index=True, return_inverse=True)
    rank = np.empty(len(begins), np.int64)
    rank[np.argsort(begins)] = np.arange(len(begins))
    return rank[group]


def _components(count: int, pairs: np.ndarray) -> np.ndarray:
    """int64 [count]: the smallest member of each element's connected component."""
    root = np.arange(count)
    while True:
        left, right = root[pairs[:, 0]], root[pairs[:, 1]]
        if (left == right).all():
            return root
        np.minimum.at(root, np.maximum(left, right), np.minimum(left, right))
        while (root[root] != root).any():
            root = root[root]


def _grey(images: np.ndarray) -> np.ndarray:
    """uint8 [N, S, S] from grey or RGB pictures."""
    if images.ndim == 3:
        return images
    return ((images @ _LUMA + 0x8000) >> 16).astype(np.uint8)


def _unit_vectors(thumbs: np.ndarray) -> np.ndarray:
    """float32 [N, 144] whose inner products are correlations.

    A blank picture has no direction of its own; it gets the constant one, which is at right angles to all mean-free
    ones: blank pictures are twins of one another and of nothing else.
    """
    flat = thumbs.reshape(len(thumbs), SIDE * SIDE).astype(np.float64)
    flat -= flat.mean(axis=1, keepdims=True)
    blank = np.ptp(thumbs.reshape(len(thumbs), SIDE * SIDE), axis=1) == 0
    flat[blank] = 1.0
    return (flat / np.linalg.norm(flat, axis=1, keepdims=True)).astype(np.float32)
