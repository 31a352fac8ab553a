"""A labelled set of face crops in memory, and the checks that every reader ends with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mien.errors import MienError
from mien.labels import class_order, positions
from mien.text import encodable

SPLITS: tuple[str, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class FaceSet:
    """Labelled face crops, all of one size, in memory (FER2013 whole is 83 MB).

    Attributes:
        images: uint8 [N, S, S] for grey sets, uint8 [N, S, S, 3] (RGB) for colour sets.
        labels: int64 [N], positions in ``names``.
        splits: str [N], each one of ``SPLITS``.
        ids: str [N], unique; the path inside the archive or folder, or ``row 17`` of a CSV file.
        names: the class names, in the order that ``labels`` counts them.
        source: where the set came from, as the user gave it.
        fingerprint: hexadecimal SHA-256 over images, labels, names and splits.
        warnings: what a careful person would want to know (counts that differ from the official ones, say).
    """

    images: np.ndarray
    labels: np.ndarray
    splits: np.ndarray
    ids: np.ndarray
    names: tuple[str, ...]
    source: str
    fingerprint: str
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_size(self) -> int:
        """Height and width of every image, in pixels."""
        return int(self.images.shape[1])

    @property
    def is_grey(self) -> bool:
        """Whether images carry one channel rather than three."""
        return self.images.ndim == 3

    def select(self, indices: np.ndarray) -> FaceSet:
        """The rows at ``indices`` (int64 [M] or bool [N]); the fingerprint stays that of the whole set."""
        return replace(
            self,
            images=self.images[indices],
            labels=self.labels[indices],
            splits=self.splits[indices],
            ids=self.ids[indices],
        )

    def has(self, split: str) -> bool:
        """Whether any image belongs to ``split``."""
        return bool((self.splits == split).any())

    def part(self, split: str) -> FaceSet:
        """The images of one split.

        Raises:
            MienError: the set has none.
        """
        if not self.has(split):
            present = ", ".join(name for name in SPLITS if self.has(name))
            raise MienError(f"{self.source}: has no {split} split (it holds: {present}); give data that has one")
        return self.select(self.splits == split)

    def labels_in(self, names: Sequence[str]) -> np.ndarray:
        """The labels as positions in a model's classes, int64 [N]; classes are matched by name.

        Raises:
            MienError: the model lacks a class of the set.
        """
        order = positions(self.names, names, f"{self.source}: the model cannot score this data")
        return np.array(order, np.int64)[self.labels]

    def class_counts(self) -> dict[str, int]:
        """Images of each class, in the order of ``names``."""
        counts = np.bincount(self.labels, minlength=len(self.names))
        return {name: int(count) for name, count in zip(self.names, counts, strict=True)}


def fingerprint_of(images: np.ndarray, labels: np.ndarray, splits: Iterable[str], names: Iterable[str]) -> str:
    """The fingerprint of a set: hexadecimal SHA-256 over its images (shape and pixels), labels, splits and names."""
    digest = hashlib.sha256(repr(images.shape).encode())
    digest.update(np.ascontiguousarray(images).data)
    digest.update(np.ascontiguousarray(labels, "<i8").data)
    digest.update("\n".join(["", *splits, "", *names]).encode())
    return digest.hexdigest()


OFFICIAL_SPLITS: dict[str, str] = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}
"""FER2013's own names of its splits, in file names and in the column Usage."""

OFFICIAL_COUNTS: dict[str, int] = {"train": 28_709, "validation": 3_589, "test": 3_589}
"""Images of each split as FER2013 was published (Goodfellow et al. 2013, arXiv:1307.0414)."""


_SPLIT_TYPE = f"<U{max(map(len, SPLITS))}"


def assemble(
    images: np.ndarray,
    classes: Sequence[str],
    splits: Sequence[str],
    ids: Sequence[str],
    source: str,
    *,
    official: bool,
    warnings: Sequence[str] = (),
) -> FaceSet:
    """Makes the set from what a reader found.

    Args:
        images: uint8 [N, S, S] or [N, S, S, 3].
        classes: the class of each image, by its canonical name.
        splits: the split of each image.
        ids: where each image came from.
        source: where the set came from, as the user gave it.
        official: whether the source names its splits as FER2013 does, so that its counts can be compared.
        warnings: what the reader found already.

    Raises:
        MienError: there is a training split, and a class has no image in it.
    """
    names = class_order(sorted(set(classes)))
    _check_trained(classes, splits, ids, source)
    number = {name: index for index, name in enumerate(names)}
    labels = np.array([number[name] for name in classes], np.int64)
    told = [*warnings, *(_count_warnings(splits) if official else ())]
    return FaceSet(
        images=images,
        labels=labels,
        splits=np.array(splits, _SPLIT_TYPE),
        ids=np.array([encodable(name) for name in ids]),
        names=names,
        source=encodable(source),
        fingerprint=fingerprint_of(images, labels, splits, names),
        warnings=tuple(told),
    )


def _check_trained(classes: Sequence[str], splits: Sequence[str], ids: Sequence[str], source: str) -> None:
    """Nobody can learn a class that has no training image."""
    trained = {name for name, split in zip(classes, splits, strict=True) if split == "train"}
    if not trained:
        return
    for name, split, where in zip(classes, splits, ids, strict=True):
        if name not in trained:
            raise MienError(
                f"{source}: {where}: unknown label {name} in the {split} split: no training image has it, "
                f"expected one of {', '.join(sorted(trained))}; correct the label or add training images of that class"
            )


def _count_warnings(splits: Sequence[str]) -> list[str]:
    counts = {split: sum(given == split for given in splits) for split in SPLITS}
    differing = [
        f"{split} {count:,} instead of {OFFICIAL_COUNTS[split]:,}"
        for split, count in counts.items()
        if count and count != OFFICIAL_COUNTS[split]
    ]
    return [f"the counts differ from FER2013's official ones: {', '.join(differing)}"] if differing else []
