"""Cutting a validation split from training images, copies of a photograph kept on one side."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mien.data.faces import FaceSet
from mien.data.twins import groups
from mien.errors import MienError


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
