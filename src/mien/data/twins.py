"""Finds twins (the same photograph twice in a data set) and keeps them together in a validation split.

A twin may be cropped, tilted or watermarked a little differently. FER2013 holds thousands, within a split and across
splits (``docs/twins.md``). The search has two steps. Candidates: each picture, shifted and zoomed in 13 ways, is
compared with the middle of every other picture at 8x8 pixels; the nearest ``NEAREST`` above ``ALIKE`` go on. Proof: two
pictures are twins if their correlation is above ``THRESHOLD`` after one is laid over the other
(``mien.data.alignment``). Both steps compute with whole numbers, so every machine finds the same twins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mien.data.alignment import SIDE, aligned_correlation
from mien.data.cache import cached_array
from mien.data.faces import FaceSet
from mien.errors import MienError
from mien.machine import cores, threaded_map
from mien.progress import progress
from mien.text import counted

THRESHOLD = 0.96
"""Aligned correlation above which two pictures are twins."""

NEAREST = 6
"""Number of candidates of a picture."""

ALIKE = 0.75
"""Correlation at 8x8 pixels above which a picture is a candidate."""

METHOD = 2
"""Version of the search; raise it if the pairs may change: pairs stored before are then ignored."""

_CELLS = 8
_MIDDLE = (4, 4, 40)
_VIEWS = (
    *((row, column, 40) for row in (0, 4, 8) for column in (0, 4, 8)),
    *((margin, margin, SIDE - 2 * margin) for margin in (0, 2, 6, 8)),
)
"""Top, left and side of the 13 squares of a 48x48 picture that are compared."""

_LENGTH = 4000
"""Length of the descriptors, which are rounded to whole numbers: sums of products stay below 2^24, exact in float32."""

_ROWS, _PAIRS = 256, 1024
_LARGEST_BLOCK = 2**24
"""Numbers in one array of the search, of which each thread holds some: fewer rows are taken if a row is longer."""

_WORTH_STORING = 10_000_000
_LUMA = np.array([19595, 38470, 7471], np.uint32)


def comparable(images: np.ndarray) -> np.ndarray:
    """Converts pictures to the form that the search compares: grey, 48x48, area averages rounded to whole numbers.

    Args:
        images: uint8 [N, S, S], or [N, S, S, 3] (RGB), which is converted to luma as Pillow does.

    Returns:
        uint8 [N, 48, 48].
    """
    result = np.empty((len(images), SIDE, SIDE), np.uint8)
    rows = _rows(images.shape[1] * images.shape[2])
    for start in range(0, len(images), rows):
        block = images[start : start + rows]
        if block.ndim == 4:
            block = ((block @ _LUMA + 0x8000) >> 16).astype(np.uint8)
        if block.shape[1] != SIDE:
            area = block.shape[1] ** 2
            block = ((2 * cell_sums(block, SIDE) + area) // (2 * area)).astype(np.uint8)
        result[start : start + rows] = block
    return result


def twin_pairs(images: np.ndarray, references: np.ndarray | None = None) -> np.ndarray:
    """Finds twins within a set or between two sets.

    Blank pictures (a single grey value) are twins of one another and of nothing else. Large searches take up to some
    minutes; their pairs are stored in the cache (``mien.data.cache``).

    Args:
        images: uint8 [N, S, S] or [N, S, S, 3].
        references: uint8 [M, R, R] or [M, R, R, 3], the pictures to compare with; None compares ``images`` with itself.

    Returns:
        int64 [P, 2], positions in ``images`` and in ``references``, in ascending order. Within a set each pair occurs
        once, the smaller position first. The list is not complete, but every picture with a twin among its ``NEAREST``
        candidates occurs at least once; equal or blank pictures are paired with the first of them.
    """
    pictures = comparable(images)
    library = None if references is None else comparable(references)
    limits = (len(pictures), len(pictures if library is None else library))
    if limits[0] * limits[1] < _WORTH_STORING:
        return _pairs(pictures, library)
    digest = hashlib.sha256(f"{METHOD} {len(pictures)}".encode())
    for part in (pictures, library):
        digest.update(b"" if part is None else part.data)
    return cached_array(
        f"twins-{digest.hexdigest()[:24]}",
        lambda: _pairs(pictures, library),
        lambda pairs: (
            pairs.dtype == np.int64
            and pairs.ndim == 2
            and pairs.shape[1] == 2
            and bool((pairs >= 0).all() and (pairs < limits).all())
        ),
    )


def has_twin(images: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Returns bool [N], for uint8 [N, S, S] or [N, S, S, 3]: True if a picture has a twin in ``references``."""
    result = np.zeros(len(images), bool)
    result[twin_pairs(images, references)[:, 0]] = True
    return result


def groups(images: np.ndarray) -> np.ndarray:
    """Groups pictures with their twins, the twins of these, and so on. Needs SciPy.

    Args:
        images: uint8 [N, S, S] or [N, S, S, 3].

    Returns:
        int64 [N], the group of each picture; groups are numbered from 0 in the order of their first picture.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(images):
        return np.empty(0, np.int64)
    rows, columns = twin_pairs(images).astype(np.int32).T
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(len(images), len(images)))
    components = connected_components(graph, directed=False)[1]
    # SciPy does not promise an order of its components; the cut of a validation split depends on it.
    _, first, component = np.unique(components, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[component]


def candidates(pictures: np.ndarray, references: np.ndarray | None = None) -> np.ndarray:
    """Finds pairs that may be twins: for each picture the pictures that are most like it at 8x8 pixels.

    Args:
        pictures: uint8 [N, 48, 48].
        references: uint8 [M, 48, 48]; None compares ``pictures`` with itself.

    Returns:
        int64 [P, 2], as ``twin_pairs``, without blank pictures.
    """
    library = _descriptors(pictures if references is None else references, _MIDDLE).T
    if not library.size:
        return np.empty((0, 2), np.int64)
    size = _rows(library.shape[1])

    def nearest(start: int) -> np.ndarray:
        block = pictures[start : start + size]
        alike = _descriptors(block, _VIEWS[0]) @ library
        for view in _VIEWS[1:]:
            np.maximum(alike, _descriptors(block, view) @ library, out=alike)
        if references is None:
            alike[np.arange(len(block)), start + np.arange(len(block))] = -1
        bound = np.full(len(block), ALIKE * _LENGTH**2, np.float32)
        if alike.shape[1] > NEAREST:
            # A bound on the value, not a number of ranks: of several equally near pictures all are taken, not a random
            # choice.
            bound = np.maximum(bound, np.partition(alike, -NEAREST, axis=1)[:, -NEAREST])
        rows, columns = np.nonzero(alike >= bound[:, None])
        return np.stack([rows + start, columns], axis=1)

    parts = _by_blocks(nearest, len(pictures), size, "looking for twins", "pictures")
    pairs = np.concatenate([np.empty((0, 2), np.int64), *parts])
    return np.unique(pairs if references is not None else np.sort(pairs, axis=1), axis=0)


def cell_sums(pictures: np.ndarray, cells: int) -> np.ndarray:
    """Returns the area averages of uint8 [N, S, S] in a grid of cells, times S^2: int64 [N, cells, cells]."""
    side = pictures.shape[1]
    # Overlap of each pixel with each cell along one axis, in 1/cells of a pixel: every sum below is a whole number that
    # float64 holds exactly, so the result does not depend on the order of summation.
    pixels, starts = np.arange(side) * cells, np.arange(cells)[:, None] * side
    overlap = np.minimum(pixels + cells, starts + side) - np.maximum(pixels, starts)
    weights = np.maximum(overlap, 0).astype(np.float64)
    result, rows = np.empty((len(pictures), cells, cells), np.int64), _rows(side**2)
    for start in range(0, len(pictures), rows):  # in float64 all pictures at once would take gigabytes
        result[start : start + rows] = weights @ pictures[start : start + rows].astype(np.float64) @ weights.T
    return result


def cut_validation(faces: FaceSet, fraction: float, seed: int) -> FaceSet:
    """Moves a share of the training images to a validation split, groups of twins (``groups``) as a whole.

    A random cut would put one image in four of FER2013 on the other side of its twin. Each class gives its share, as
    nearly as whole groups allow. The fingerprint stays that of the data as read.

    A run that resumes and an evaluation of a saved model cut the data again, and must get the same split: a change of
    this method would move training images of saved models into their validation split.

    Args:
        faces: a set with a training split and without a validation split.
        fraction: share of the training images, in (0, 1).
        seed: seed of the cut; the same seed gives the same split.

    Raises:
        MienError: the set has no training split, has a validation split already, or has too few images: a class would
            have no image on one side.
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
    inside, outside = counts[chosen].sum(0), counts[~chosen].sum(0)
    small = np.flatnonzero((inside + outside > 0) & ((inside == 0) | (outside == 0)))
    if len(small):
        listed = [f"class {faces.names[k]} has {counted(inside[k] + outside[k], 'training image')}" for k in small]
        raise MienError(
            f"{faces.source}: {', '.join(listed)}, too few to cut a validation split with copies of a photograph kept "
            f"together; add images of {'that class' if len(small) == 1 else 'these classes'} or give a val/ folder"
        )
    validation = np.zeros(len(faces), bool)
    validation[np.flatnonzero(faces.splits == "train")] = chosen[group]
    return replace(faces, splits=np.where(validation, "validation", faces.splits))


def _rows(length: int) -> int:
    """Returns how many rows of this length are computed at once."""
    return max(1, min(_ROWS, _LARGEST_BLOCK // max(1, length)))


def _pairs(pictures: np.ndarray, references: np.ndarray | None) -> np.ndarray:
    """Computes the result of ``twin_pairs`` for uint8 [N, 48, 48] and [M, 48, 48]."""
    if references is not None:
        pairs = _aligned(pictures, references, candidates(pictures, references))
        pairs = np.concatenate([pairs, _blank_pairs(pictures, references)])
    else:
        # Equal pictures are paired first: ten copies of a picture would leave no place among its candidates.
        _, first, same = np.unique(
            pictures.reshape(len(pictures), SIDE**2), axis=0, return_index=True, return_inverse=True
        )
        copies = np.stack([first[same.reshape(-1)], np.arange(len(pictures))], axis=1)
        first = np.sort(first)
        different = pictures[first]
        pairs = np.concatenate([_aligned(different, different, candidates(different)), _blank_pairs(different)])
        pairs = np.concatenate([first[pairs], copies[copies[:, 0] < copies[:, 1]]])
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _aligned(pictures: np.ndarray, references: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Returns those of the candidate pairs, int64 [P, 2], that are twins."""

    def compare(start: int) -> np.ndarray:
        first, second = pairs[start : start + _PAIRS].T
        return aligned_correlation(pictures[first], references[second])

    parts = _by_blocks(compare, len(pairs), _PAIRS, "laying pairs over one another", "pairs")
    return pairs[np.concatenate([np.empty(0), *parts]) > THRESHOLD]


def _by_blocks(call: Callable[[int], np.ndarray], count: int, size: int, title: str, unit: str) -> list[np.ndarray]:
    """Calls a function with the first row of each block, on all cores, and shows how far the work is.

    Args:
        call: computes the block that begins at a row.
        count: of the rows.
        size: rows of a block; the last one may have fewer.
        title: name of the work.
        unit: what a row is.

    Returns:
        The results, in the order of the blocks.
    """
    results: list[np.ndarray] = []
    with progress(title, count, unit) as advance:
        for start in range(0, count, 4 * size):
            stop = min(count, start + 4 * size)
            results += threaded_map(cores())(call, range(start, stop, size))
            advance(stop - start)
    return results


def _blank_pairs(pictures: np.ndarray, references: np.ndarray | None = None) -> np.ndarray:
    """Pairs each blank picture with the first blank picture of ``references``, or of the set itself: int64 [P, 2]."""
    blank = np.flatnonzero(np.ptp(pictures, axis=(1, 2)) == 0)
    if references is None:
        return np.stack([np.repeat(blank[:1], len(blank[1:])), blank[1:]], axis=1)
    first = np.flatnonzero(np.ptp(references, axis=(1, 2)) == 0)[:1]  # one or none
    return np.stack([np.repeat(blank, len(first)), np.repeat(first, len(blank))], axis=1)


def _descriptors(pictures: np.ndarray, view: tuple[int, int, int]) -> np.ndarray:
    """Describes a square part of pictures: float32 [N, 64], whose inner products are correlations times ``_LENGTH``^2.

    All values are whole numbers. A part without contrast has a descriptor of zeros.
    """
    top, left, side = view
    sums = cell_sums(pictures[:, top : top + side, left : left + side], _CELLS).reshape(len(pictures), _CELLS**2)
    centred = _CELLS**2 * sums - sums.sum(axis=1, keepdims=True)
    length = np.sqrt((centred.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    scaled = np.divide(_LENGTH * centred, length, out=np.zeros(centred.shape), where=length > 0)
    return np.rint(scaled).astype(np.float32)


def _choose(counts: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Chooses the groups of the validation split: bool [G] from int64 [G, C], the images of each class per group."""
    total = counts.sum(axis=0)
    missing = np.where(total > 0, np.maximum(1, np.rint(fraction * total)), 0).astype(np.int64)
    chosen = np.zeros(len(counts), bool)

    def fits(group: np.ndarray) -> bool:
        return bool((group <= missing).all())

    def brings_nearer(group: np.ndarray) -> bool:
        return bool(np.abs(missing - group).sum() < np.abs(missing).sum())

    # In random order, not the largest first, so that small and large groups come to both sides in the same proportion:
    # first the groups that fit, then those that bring the counts nearer although a class gets too many images.
    order = rng.permutation(len(counts))
    for is_suitable in (fits, brings_nearer):
        for index in order[~chosen[order]]:
            if not missing.any():
                return chosen
            if is_suitable(counts[index]):
                chosen[index] = True
                missing -= counts[index]
    for number in np.flatnonzero(total):
        if not counts[chosen, number].any():
            _choose_smallest(counts, int(number), chosen, order)
    return chosen


def _choose_smallest(counts: np.ndarray, number: int, chosen: np.ndarray, order: np.ndarray) -> None:
    """For a class that has only large groups: adds the smallest group that leaves images of every class, in place."""
    left = counts[~chosen].sum(axis=0)
    suitable = [
        index
        for index in order
        if counts[index, number] and not chosen[index] and not ((counts[index] == left) & (left > 0)).any()
    ]
    if suitable:
        chosen[min(suitable, key=lambda index: counts[index].sum())] = True
