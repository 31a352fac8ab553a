"""Counts a data set and reports what would spoil a measurement on it."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from mien.data.faces import SPLITS, FaceSet
from mien.data.twins import twin_pairs
from mien.text import shown


def inspect(faces: FaceSet) -> dict[str, Any]:
    """Counts the pictures of a set and looks for twins, conflicting labels and blank pictures.

    Returns:
        ``{"splits": {"train": {"total": 28709, "classes": {"angry": 3995, ...}}, ...}, "twins": [...], "warnings":
        [...]}`` with the splits of the set. A row of ``twins`` (``mien.data.twins``) counts the pictures of split
        ``of`` that are the same photograph as another picture of split ``among`` (the same or an earlier split):
        ``total``, and ``classes`` by label. Warnings: those of the reader, twins, identical pictures with different
        labels, blank pictures, and grey pictures among coloured ones.
    """
    present = [split for split in SPLITS if faces.has(split)]
    parts = {split: faces.part(split) for split in present}
    twins = _twins(parts)
    return {
        "splits": {split: {"total": len(part), "classes": part.class_counts()} for split, part in parts.items()},
        "twins": twins,
        "warnings": [
            *faces.warnings,
            *_twin_warnings(twins, parts),
            *_conflict_warnings(faces),
            *_blank_warnings(faces),
            *_colour_warnings(faces),
        ],
    }


def describe(report: dict[str, Any]) -> str:
    """Formats the report of ``inspect`` as a table: a row a class, a column a split, warnings below."""
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


def _twins(parts: dict[str, FaceSet]) -> list[dict[str, Any]]:
    rows = []
    for place, (split, part) in enumerate(parts.items()):
        for among in list(parts)[: place + 1]:
            pairs = twin_pairs(part.images, None if among == split else parts[among].images)
            members = np.unique(pairs if among == split else pairs[:, 0])
            counts = part.select(members).class_counts()
            rows.append({"of": split, "among": among, "total": len(members), "classes": counts})
    return rows


def _twin_warnings(twins: list[dict[str, Any]], parts: dict[str, FaceSet]) -> list[str]:
    warnings = []
    for row in twins:
        if row["total"]:
            part = parts[row["of"]]
            sizes = part.class_counts()
            where = "another image of the split" if row["among"] == row["of"] else f"an image in {row['among']}"
            shares = ", ".join(
                f"{name} {100 * row['classes'][name] / sizes[name]:.0f} %" for name in sizes if sizes[name]
            )
            warnings.append(
                f"{row['total']:,} of {len(part):,} {row['of']} images ({100 * row['total'] / len(part):.1f} %) are "
                f"the same photograph as {where}; by class: {shares}"
            )
    return warnings


def _conflict_warnings(faces: FaceSet) -> list[str]:
    """Warns of pictures that are equal in every pixel but have different labels."""
    copies: dict[bytes, list[int]] = {}
    for row, image in enumerate(faces.images):
        copies.setdefault(hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest(), []).append(row)
    conflicts = [rows for rows in copies.values() if len(set(faces.labels[rows].tolist())) > 1]
    if not conflicts:
        return []
    rows = np.array(conflicts[0])
    # The first picture of each label: the first few pictures might all have the same label.
    examples = rows[np.sort(np.unique(faces.labels[rows], return_index=True)[1])]
    example = ", ".join(f"{faces.ids[row]} {faces.names[faces.labels[row]]}" for row in examples)
    return [f"{len(conflicts):,} picture(s) occur more than once with different labels, the first: {example}"]


def _blank_warnings(faces: FaceSet) -> list[str]:
    flat = faces.images.reshape(len(faces), -1)
    blank = np.flatnonzero(flat.max(axis=1) == flat.min(axis=1))
    if not len(blank):
        return []
    return [f"{len(blank):,} picture(s) are blank, the first is {faces.ids[blank[0]]}"]


def _colour_warnings(faces: FaceSet) -> list[str]:
    """Warns of a set in which some pictures are grey; if their share differs by class, colour gives labels away."""
    if faces.is_grey:
        return []
    is_grey = np.array([not (image != image[..., :1]).any() for image in faces.images])
    if not is_grey.any():
        return []
    sizes, grey = faces.class_counts(), faces.select(is_grey).class_counts()
    shares = ", ".join(f"{name} {100 * grey[name] / sizes[name]:.0f} %" for name in sizes if sizes[name])
    return [
        f"{is_grey.sum():,} of {len(faces):,} pictures are grey and the others have colour, which a network may learn "
        f"in place of the face; grey by class: {shares}"
    ]
