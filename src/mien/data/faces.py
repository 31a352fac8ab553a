"""A set of labelled face crops in memory, its fingerprint, and the checks after reading."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mien.errors import Faults, MienError
from mien.labels import class_order, positions
from mien.limits import LONGEST_CLASS_NAME, MOST_CLASSES
from mien.text import encodable

SPLITS: tuple[str, ...] = ("train", "validation", "test")

OFFICIAL_SPLITS: dict[str, str] = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}
"""FER2013's own split names, as its file names and its column ``Usage`` have them."""

OFFICIAL_COUNTS: dict[str, int] = {"train": 28_709, "validation": 3_589, "test": 3_589}
"""Images of each split as FER2013 was published (Goodfellow et al. 2013, arXiv:1307.0414)."""


@dataclass(frozen=True)
class FaceSet:
    """Labelled face crops of one size in memory (the whole of FER2013 takes 83 MB).

    Attributes:
        images: uint8 [N, S, S] if the set is grey, uint8 [N, S, S, 3] (RGB) if it has colour.
        labels: int64 [N], positions in ``names``.
        splits: str [N], values of ``SPLITS``.
        ids: str [N], unique; the path inside the archive or folder, or ``row 17`` of a CSV file.
        names: the class names in the order of the labels.
        source: path of the set, as the user wrote it.
        fingerprint: hexadecimal SHA-256 of images, labels, names and splits.
        warnings: facts that the user should know, for example counts that differ from the official ones.
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
        """Returns height and width of the images in pixels."""
        return int(self.images.shape[1])

    @property
    def is_grey(self) -> bool:
        """True if the images have one channel, False if they have three."""
        return self.images.ndim == 3

    def select(self, indices: np.ndarray) -> FaceSet:
        """Returns the rows at ``indices`` (int64 [M] or bool [N]), with the fingerprint of the whole set."""
        return replace(
            self,
            images=self.images[indices],
            labels=self.labels[indices],
            splits=self.splits[indices],
            ids=self.ids[indices],
        )

    def has(self, split: str) -> bool:
        """True if at least one image belongs to ``split``."""
        return bool((self.splits == split).any())

    def part(self, split: str) -> FaceSet:
        """Returns the images of one split.

        Raises:
            MienError: there is no split of this name, or it has no image.
        """
        if split not in SPLITS:
            raise MienError(f"split: got {split!r}, expected one of {', '.join(SPLITS)}")
        if not self.has(split):
            present = ", ".join(name for name in SPLITS if self.has(name))
            raise MienError(
                f"{self.source}: has no {split} split (it holds: {present}); give data with a {split} split"
            )
        return self.select(self.splits == split)

    def labels_in(self, names: Sequence[str]) -> np.ndarray:
        """Returns the labels as positions in a model's class names, int64 [N]; classes are matched by name.

        Raises:
            MienError: the model lacks a class of the set.
        """
        order = positions(self.names, names, f"{self.source}: the model cannot score this data")
        return np.array(order, np.int64)[self.labels]

    def class_counts(self) -> dict[str, int]:
        """Counts the images of each class, in the order of ``names``."""
        counts = np.bincount(self.labels, minlength=len(self.names))
        return {name: int(count) for name, count in zip(self.names, counts, strict=True)}


def fingerprint_of(images: np.ndarray, labels: np.ndarray, splits: Iterable[str], names: Iterable[str]) -> str:
    """Returns the fingerprint of a set: hexadecimal SHA-256 of images (shape and pixels), labels, splits and names."""
    digest = hashlib.sha256(repr(images.shape).encode())
    digest.update(np.ascontiguousarray(images).data)
    digest.update(np.ascontiguousarray(labels, "<i8").data)
    digest.update("\n".join(["", *splits, "", *names]).encode())
    return digest.hexdigest()


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
    """Builds the set from the rows that a reader produced: numbers the classes, checks them, adds the fingerprint.

    Args:
        images: uint8 [N, S, S] or [N, S, S, 3].
        classes: class of each image, by its canonical name.
        splits: split of each image.
        ids: path or row of each image.
        source: path of the set, as the user wrote it.
        official: True if the source names its splits as FER2013 does; its counts are then compared with FER2013's.
        warnings: warnings of the reader.

    Raises:
        MienError: there is a training split, and a class has no image in it.
    """
    names = class_order(sorted(set(classes)))
    _check_trained(classes, splits, ids, source)
    number = {name: index for index, name in enumerate(names)}
    labels = np.array([number[name] for name in classes], np.int64)
    return FaceSet(
        images=images,
        labels=labels,
        splits=np.array(splits, f"<U{max(map(len, SPLITS))}"),
        ids=np.array([encodable(name) for name in ids]),
        names=names,
        source=encodable(source),
        fingerprint=fingerprint_of(images, labels, splits, names),
        warnings=(*warnings, *(_count_warnings(splits) if official else ())),
    )


def _check_trained(classes: Sequence[str], splits: Sequence[str], ids: Sequence[str], source: str) -> None:
    """Refuses a class without training images, which no model can learn."""
    trained = {name for name, split in zip(classes, splits, strict=True) if split == "train"}
    if not trained:
        return
    faults, seen = Faults(source, "classes"), set(trained)
    for name, split, where in zip(classes, splits, ids, strict=True):
        if name not in seen:
            seen.add(name)
            problem = (
                f"unknown label {name} in the {split} split: no training image has it, expected one of "
                f"{', '.join(sorted(trained))}; correct the label or add training images of that class"
            )
            faults.add(f"{source}: {where}", MienError(f"{source}: {where}: {problem}"))
    faults.check(len(seen))


def _count_warnings(splits: Sequence[str]) -> list[str]:
    counts = Counter(splits)
    differences = [
        f"{split} {counts[split]:,} instead of {official:,}"
        for split, official in OFFICIAL_COUNTS.items()
        if counts[split] not in (0, official)
    ]
    if not differences:
        return []
    return [
        f"named as in FER2013, but with other counts: {', '.join(differences)}; expected of another set or a part of "
        "FER2013, else get it again"
    ]


def require_classes(faces: FaceSet) -> None:
    """Checks that a set has 2 to ``MOST_CLASSES`` classes, of names that a model may have.

    Raises:
        MienError: it has fewer or more, or a name of more than ``LONGEST_CLASS_NAME`` letters.
    """
    if len(faces.names) < 2:
        raise MienError(
            f"{faces.source}: has one class alone, {faces.names[0]}, expected two or more; give each expression its "
            "own folder, like faces/happy and faces/neutral (a table of labels beside the pictures is not read)"
        )
    if len(faces.names) > MOST_CLASSES:
        raise MienError(
            f"{faces.source}: has {len(faces.names):,} classes, expected at most {MOST_CLASSES:,}; "
            "give each expression a folder, not each person or picture"
        )
    for name in faces.names:
        if len(name) > LONGEST_CLASS_NAME:
            raise MienError(
                f"{faces.source}: the class {name[:40]}... has a name of {len(name)} letters, expected at most "
                f"{LONGEST_CLASS_NAME}; rename its folder"
            )
