"""What a data set holds and what a careful person should know about it."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from mien.data.faces import SPLITS, FaceSet
from mien.data.twins import has_twin, thumbnails
from mien.text import shown


def inspect(faces: FaceSet) -> dict[str, Any]:
    """Counts a set and looks for what spoils a measurement.

    Returns:
        ``{"splits": {"train": {"total": 28709, "classes": {"angry": 3995, ...}}, ...}, "warnings": [...]}`` with the
        splits that are there. Warnings: what the reader noticed, pictures of one split with a near-identical one in
        another, identical pictures with different labels, and blank pictures.
    """
    present = [split for split in SPLITS if faces.has(split)]
    parts = {split: faces.part(split) for split in present}
    return {
        "splits": {split: {"total": len(part), "classes": part.class_counts()} for split, part in parts.items()},
        "warnings": [*faces.warnings, *_twin_warnings(parts), *_conflict_warnings(faces), *_blank_warnings(faces)],
    }


def describe(report: dict[str, Any]) -> str:
    """The report of ``inspect`` as a table with a row a class and a column a split, the warnings below."""
    splits: dict[str, dict[str, Any]] = report["splits"]
    names = list(next(iter(splits.values()))["classes"])
    labels = {name: shown(name) for name in names}
    width = max(len("total"), *map(len, labels.values()))
    lines = ["".ljust(width) + "".join(split.rjust(13) for split in splits)]
    lines += [
        labels[name].ljust(width) + "".join(f"{part['classes'][name]:13,}" for part in splits.values())
        for name in names
    ]
    lines.append("total".ljust(width) + "".join(f"{part['total']:13,}" for part in splits.values()))
    lines += [f"warning: {shown(warning)}" for warning in report["warnings"]]
    return "\n".join(lines)


def _twin_warnings(parts: dict[str, FaceSet]) -> list[str]:
    thumbs = {split: thumbnails(part.images) for split, part in parts.items()}
    told = []
    for split in parts:
        for earlier in list(parts)[: list(parts).index(split)]:
            count = int(has_twin(thumbs[split], thumbs[earlier]).sum())
            if count:
                share = 100 * count / len(thumbs[split])
                told.append(
                    f"{count:,} of {len(thumbs[split]):,} {split} images ({share:.1f} %) have a near-identical image "
                    f"in {earlier}"
                )
    return told


def _conflict_warnings(faces: FaceSet) -> list[str]:
    """Pictures that are equal in every pixel, but not in their label."""
    same: dict[bytes, list[int]] = {}
    for row, image in enumerate(faces.images):
        same.setdefault(hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest(), []).append(row)
    conflicts = [rows for rows in same.values() if len(set(faces.labels[rows].tolist())) > 1]
    if not conflicts:
        return []
    rows = conflicts[0]
    example = ", ".join(f"{faces.ids[row]} {faces.names[faces.labels[row]]}" for row in rows[:3])
    return [f"{len(conflicts):,} picture(s) occur more than once with different labels, the first: {example}"]


def _blank_warnings(faces: FaceSet) -> list[str]:
    flat = faces.images.reshape(len(faces), -1)
    blank = np.flatnonzero(flat.max(axis=1) == flat.min(axis=1))
    if not len(blank):
        return []
    return [f"{len(blank):,} picture(s) are blank, the first is {faces.ids[blank[0]]}"]
