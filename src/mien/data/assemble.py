"""What every reader ends with: classes in order, splits checked, counts compared, one fingerprint."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mien.data.faces import SPLITS, FaceSet, fingerprint_of
from mien.errors import MienError
from mien.labels import class_order
from mien.text import encodable

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
