"""Twins: the same photograph twice in a data set, perhaps cropped, tilted or watermarked a little differently.

FER2013 holds thousands, within a split and across splits (``docs/twins.md``). They are found in two steps. Candidates:
each picture, moved and zoomed in 13 ways, is compared with the middle of every other at 8x8 pixels, and the nearest
``NEAREST`` above ``ALIKE`` go on. Proof: two pictures are twins if their correlation is above ``THRESHOLD`` once one is
laid over the other (``mien.data.alignment``). Both steps compute with whole numbers, so that every machine finds the
same twins.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from mien.data.alignment import SIDE, aligned_correlation
from mien.data.cache import cached_array
from mien.data.faces import FaceSet
from mien.errors import MienError
from mien.machine import cores, side_by_side
from mien.progress import progress

THRESHOLD = 0.96
"""Aligned correlation above which two pictures are twins."""

NEAREST = 6
"""Candidates of a picture."""

ALIKE = 0.75
"""Correlation at 8x8 pixels above which a picture is a candidate."""

METHOD = 2
"""Raise it when pairs may come out differently: pairs that were stored before are then ignored."""

_CELLS = 8
_MIDDLE = (4, 4, 40)
_VIEWS = (
    *((row, column, 40) for row in (0, 4, 8) for column in (0, 4, 8)),
    *((margin, margin, SIDE - 2 * margin) for margin in (0, 2, 6, 8)),
)
"""Top, left and side of the squares of 48x48 pixels in which a picture is looked at."""

_LENGTH = 4000
"""Of descriptors, which are rounded to whole numbers: products add up to less than 2^24, exact in float32."""

_ROWS, _PAIRS = 256, 1024
_WORTH_STORING = 10_000_000
_LUMA = np.array([19595, 38470, 7471], np.uint32)


def comparable(images: np.ndarray) -> np.ndarray:
    """Pictures as twins are looked for: grey, 48x48, by area averages rounded to whole numbers.

    Args:
        images: uint8 [N, S, S], or [N, S, S, 3] (RGB), of which the luma is taken as Pillow does.

    Returns:
        uint8 [N, 48, 48].
    """
    result = np.empty((len(images), SIDE, SIDE), np.uint8)
    for start in range(0, len(images), _ROWS):
        block = _grey(images[start : start + _ROWS])
        result[start : start + _ROWS] = block if block.shape[1] == SIDE else _averaged(block, SIDE)
    return result


def twin_pairs(images: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """Twins within a set, or between two sets.

    Blank pictures, of one grey, are twins of one another and of nothing else. Large searches take up to some minutes
    and are stored in the cache (``mien.data.cache``).

    Args:
        images: uint8 [N, S, S] or [N, S, S, 3].
        others: uint8 [M, R, R] or [M, R, R, 3]; None looks within ``images``.

    Returns:
        int64 [P, 2], positions in ``images`` and in ``others``, in ascending order. Within a set each pair is given
        once, the smaller position first. Not every pair is given, but at least one of each picture that has a twin
        among its ``NEAREST`` candidates: of equal or blank pictures, those with the first of them.
    """
    pictures = comparable(images)
    partners = None if others is None else comparable(others)
    if len(images) * len(images if others is None else others) < _WORTH_STORING:
        return _pairs(pictures, partners)
    digest = hashlib.sha256(f"{METHOD} {len(pictures)}".encode())
    for part in (pictures, partners):
        digest.update(b"" if part is None else part.data)
    limits = (len(pictures), len(pictures if partners is None else partners))
    return cached_array(
        f"twins-{digest.hexdigest()[:24]}",
        lambda: _pairs(pictures, partners),
        lambda pairs: (
            pairs.dtype == np.int64
            and pairs.ndim == 2
            and pairs.shape[1] == 2
            and bool((pairs >= 0).all() and (pairs < limits).all())
        ),
    )


def has_twin(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """bool [N]: for each picture, uint8 [N, S, S] or [N, S, S, 3], whether any of the others is its twin."""
    result = np.zeros(len(images), bool)
    result[twin_pairs(images, others)[:, 0]] = True
    return result


def groups(images: np.ndarray) -> np.ndarray:
    """Groups of pictures that belong together: twins, twins of twins, and so on.

    Args:
        images: uint8 [N, S, S] or [N, S, S, 3].

    Returns:
        int64 [N], the group of each picture, numbered from 0 in order of the first member.
    """
    # The smallest member of a component is its first, so its rank numbers the group.
    return np.unique(_components(len(images), twin_pairs(images)), return_inverse=True)[1].reshape(-1)


def candidates(pictures: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """Pairs that may be twins: for each picture those others that are most like it at 8x8 pixels.

    Args:
        pictures: uint8 [N, 48, 48].
        others: uint8 [M, 48, 48]; None looks within ``pictures``.

    Returns:
        int64 [P, 2], as ``twin_pairs``, without blank pictures.
    """
    library = _descriptors(pictures if others is None else others, _MIDDLE).T
    if not library.size:  # no others
        return np.empty((0, 2), np.int64)

    def nearest(start: int) -> np.ndarray:
        block = pictures[start : start + _ROWS]
        alike = _descriptors(block, _VIEWS[0]) @ library
        for view in _VIEWS[1:]:
            np.maximum(alike, _descriptors(block, view) @ library, out=alike)
        if others is None:
            alike[np.arange(len(block)), start + np.arange(len(block))] = -1
        bound = np.full(len(block), ALIKE * _LENGTH**2, np.float32)
        if alike.shape[1] > NEAREST:
            # By value and not by rank, so that which of several equally near ones come is not left to chance.
            bound = np.maximum(bound, np.partition(alike, -NEAREST, axis=1)[:, -NEAREST])
        rows, columns = np.nonzero(alike >= bound[:, None])
        return np.stack([rows + start, columns], axis=1)

    pairs = np.empty((0, 2), np.int64)
    with progress("looking for twins", len(pictures), "pictures") as advance:
        for start in range(0, len(pictures), 4 * _ROWS):
            stop = min(len(pictures), start + 4 * _ROWS)
            pairs = np.concatenate([pairs, *side_by_side(nearest, range(start, stop, _ROWS), cores())])
            advance(stop - start)
    return np.unique(pairs if others is not None else np.sort(pairs, axis=1), axis=0)


def _pairs(pictures: np.ndarray, others: np.ndarray | None) -> np.ndarray:
    """What ``twin_pairs`` gives, of uint8 [N, 48, 48] and [M, 48, 48]."""
    if others is not None:
        pairs = _aligned(pictures, others, candidates(pictures, others))
        pairs = np.concatenate([pairs, _blank_pairs(pictures, others)])
    else:
        # Equal pictures are set aside first: ten copies of one would fill its candidates.
        _, first, same = np.unique(
            pictures.reshape(len(pictures), SIDE**2), axis=0, return_index=True, return_inverse=True
        )
        copies = np.stack([first[same.reshape(-1)], np.arange(len(pictures))], axis=1)
        first = np.sort(first)
        different = pictures[first]
        pairs = np.concatenate([_aligned(different, different, candidates(different)), _blank_pairs(different)])
        pairs = np.concatenate([first[pairs], copies[copies[:, 0] < copies[:, 1]]])
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _aligned(pictures: np.ndarray, others: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Those of the candidate pairs, int64 [P, 2], that are twins."""

    def compare(start: int) -> np.ndarray:
        first, second = pairs[start : start + _PAIRS].T
        return aligned_correlation(pictures[first], others[second])

    correlation = np.empty(len(pairs))
    with progress("laying pairs over one another", len(pairs), "pairs") as advance:
        for start in range(0, len(pairs), 4 * _PAIRS):
            stop = min(len(pairs), start + 4 * _PAIRS)
            correlation[start:stop] = np.concatenate(side_by_side(compare, range(start, stop, _PAIRS), cores()))
            advance(stop - start)
    return pairs[correlation > THRESHOLD]


def _blank_pairs(pictures: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """int64 [P, 2]: blank pictures, each with the first blank one of the others, or of the set itself."""
    blank, partners = (
        np.empty(0, np.int64) if part is None else np.flatnonzero(np.ptp(part, axis=(1, 2)) == 0)
        for part in (pictures, others)
    )
    if others is None:
        return np.stack([np.repeat(blank[:1], max(0, len(blank) - 1)), blank[1:]], axis=1)
    return np.stack([blank, np.full(len(blank), partners[0])], axis=1) if len(partners) else np.empty((0, 2), np.int64)


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


def _averaged(pictures: np.ndarray, cells: int) -> np.ndarray:
    """uint8 [N, cells, cells], the rounded area averages of uint8 [N, S, S]."""
    area = pictures.shape[1] ** 2
    return ((2 * cell_sums(pictures, cells) + area) // (2 * area)).astype(np.uint8)


def cell_sums(pictures: np.ndarray, cells: int) -> np.ndarray:
    """int64 [N, cells, cells]: area averages of uint8 [N, S, S], times S^2."""
    side = pictures.shape[1]
    # Overlap of each pixel with each cell along one axis, in 1/cells of a pixel: every sum below is a whole number that
    # float64 holds exactly, so the result does not depend on the order of summation.
    pixels, starts = np.arange(side) * cells, np.arange(cells)[:, None] * side
    overlap = np.minimum(pixels + cells, starts + side) - np.maximum(pixels, starts)
    weights = np.maximum(overlap, 0).astype(np.float64)
    return (weights @ pictures.astype(np.float64) @ weights.T).astype(np.int64)


def _descriptors(pictures: np.ndarray, view: tuple[int, int, int]) -> np.ndarray:
    """float32 [N, 64] of whole numbers, whose inner products are correlations times ``_LENGTH`` squared.

    A part without contrast has a descriptor of zeros.
    """
    top, left, side = view
    sums = cell_sums(pictures[:, top : top + side, left : left + side], _CELLS).reshape(len(pictures), _CELLS**2)
    centred = _CELLS**2 * sums - sums.sum(axis=1, keepdims=True)
    length = np.sqrt((centred.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    scaled = np.divide(_LENGTH * centred, length, out=np.zeros(centred.shape), where=length > 0)
    return np.rint(scaled).astype(np.float32)


def cut_validation(faces: FaceSet, fraction: float, seed: int) -> FaceSet:
    """Makes a share of the training images the validation split.

    Twins (``mien.data.twins``) stay together: a random cut would leave one image in four of FER2013 with its twin on
    the other side. Each class gives its share, as nearly as whole groups allow. The fingerprint stays that of the data
    as it was read.

    Args:
        faces: a set with a training split and without a validation split.
        fraction: share of the training images, in (0, 1).
        seed: the same seed gives the same cut.

    Raises:
        MienError: the set has no training split, or a validation split already, or too few images: a class would have
            none on one side.
    """
    if not 0 < fraction < 1:
        raise MienError(f"validation_fraction: got {fraction}, expected a share between 0 and 1")
    if faces.has("validation"):
        raise MienError(f"{faces.source}: has a validation split already; use it, or give data without one")
    train = faces.part("train")
    group = groups(train.images)
    counts = np.zeros((group.max() + 1, len(faces.names)), np.int64)
    np.add.at(counts, (group, train.labels), 1)
    chosen = _choose(counts, fraction, np.random.default_rng(seed))
    _check_both_sides(faces, counts, chosen)
    validation = np.zeros(len(faces), bool)
    validation[np.flatnonzero(faces.splits == "train")] = chosen[group]
    return replace(faces, splits=np.where(validation, "validation", faces.splits))


def _choose(counts: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """bool [G]: which groups validate, from int64 [G, C] images of each class in each group."""
    total = counts.sum(axis=0)
    missing = np.where(total > 0, np.maximum(1, np.rint(fraction * total)), 0).astype(np.int64)
    chosen = np.zeros(len(counts), bool)
    order = rng.permutation(len(counts))
    # In random order, not the largest first, so that groups come to both sides in the same proportion: first those
    # that fit, then those that bring the counts nearer although they give a class too many.
    for suits in (_fits, _brings_nearer):
        for index in order[~chosen[order]]:
            if not missing.any():
                return chosen
            if suits(counts[index], missing):
                chosen[index] = True
                missing -= counts[index]
    for number in np.flatnonzero(total):
        if not counts[chosen, number].any():
            _choose_smallest(counts, int(number), chosen, order)
    return chosen


def _fits(group: np.ndarray, missing: np.ndarray) -> bool:
    return bool((group <= missing).all())


def _brings_nearer(group: np.ndarray, missing: np.ndarray) -> bool:
    return bool(np.abs(missing - group).sum() < np.abs(missing).sum())


def _choose_smallest(counts: np.ndarray, number: int, chosen: np.ndarray, order: np.ndarray) -> None:
    """For a class that has only large groups: adds the smallest that leaves some of each class, in place."""
    left = counts[~chosen].sum(axis=0)
    candidates = [
        index
        for index in order
        if counts[index, number] and not chosen[index] and not ((counts[index] == left) & (left > 0)).any()
    ]
    if candidates:
        chosen[min(candidates, key=lambda index: counts[index].sum())] = True


def _check_both_sides(faces: FaceSet, counts: np.ndarray, chosen: np.ndarray) -> None:
    for number, name in enumerate(faces.names):
        inside, outside = int(counts[chosen, number].sum()), int(counts[~chosen, number].sum())
        if inside + outside and not (inside and outside):
            raise MienError(
                f"{faces.source}: class {name} has {inside + outside:,} training image(s), too few to cut a validation "
                "split with copies of a photograph kept together; add images of that class or give a val/ folder"
            )
