"""What the networks that a run builds on have learnt: no picture counts as unseen that one of them was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from mien.config import FoldsConfig, TrainConfig
from mien.data.clean import Sketches, twins_in_training
from mien.data.faces import FaceSet
from mien.errors import MienError
from mien.labels import canonical
from mien.log import warn
from mien.model.classifier import read_sketches
from mien.model.places import model_folder, run_model
from mien.model.vit import classes_of, record_of
from mien.training.run import on_main


def learnt_before(backbone: str, faces: FaceSet) -> list[tuple[dict[str, Any], Sketches | None]]:
    """The data sets other than this one that a backbone was trained on with labels, the latest first.

    Args:
        backbone: as ``TrainConfig.backbone``; only a trained classifier has learnt from labels.
        faces: the data of the run that goes on with it.

    Returns:
        What is recorded of each, as under ``data`` in ``meta.json``, with its ``cut`` (``cut_of``), and its sketches,
        or None if the folder of the backbone has none.
    """
    names, meta = classes_of(backbone), record_of(backbone)
    if not meta:  # made by other tools; of other classes, like those of ImageNet, it has learnt other pictures
        return [({"source": backbone}, None)] if has_any_class(names, faces.names) else []
    own = read_sketches(run_model(Path(backbone)), meta)
    sketches = [] if own is None else [Sketches(own.codes, own.offsets), *own.earlier]
    records = learnt(meta)
    pairs = zip_longest(records, sketches[: len(records)])
    return [(record, part) for record, part in pairs if record.get("fingerprint") != faces.fingerprint]


def learnt(meta: dict[str, Any]) -> list[dict[str, Any]]:
    """The data that a classifier with this ``meta.json`` was trained on, and what it had learnt before."""
    return [{**meta.get("data", {}), "cut": cut_of(meta.get("config") or {})}, *(meta.get("learnt_before") or [])]


def cut_of(config: dict[str, Any]) -> list[Any]:
    """Seed and share of the validation pictures that a run cuts off if its data has none."""
    return [config.get("seed"), config.get("validation_fraction")]


def unseen_by(before: Sequence[tuple[dict[str, Any], Sketches | None]], validation: FaceSet) -> FaceSet:
    """The validation pictures that the backbone has not learnt from; all of them, with a warning, if it has from each.

    Somebody adds photos to a folder and goes on with the model that learnt from the first of them: the validation
    split, cut anew, holds pictures that this model knows by heart, and would keep it whatever training does.

    Args:
        before: of ``learnt_before``.
        validation: the validation split.
    """
    sets = [sketches for _, sketches in before if sketches is not None]
    seen = twins_in_training(validation.images, sets) if sets else None
    if seen is None or not seen.any():
        return validation
    names = ", ".join(sorted({str(record.get("source")) for record, _ in before}))
    share = f"the backbone has learnt from {int(seen.sum()):,} of the {len(seen):,} validation pictures ({names})"
    if on_main():
        warn(f"{share}; {'scores will be too high, give others' if seen.all() else 'the others choose the epoch'}")
    return validation if seen.all() else validation.select(~seen)


def has_any_class(names: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether one of the wanted classes is among others, whatever their spelling."""
    return bool({canonical(name) for name in wanted} & {canonical(name) for name in names})


def has_every_class(names: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether all wanted classes are among others, whatever their spelling."""
    return {canonical(name) for name in wanted} <= {canonical(name) for name in names}


def check_cut(config: TrainConfig, faces: FaceSet) -> None:
    """Checks that the validation pictures to be cut off are those that the backbone, too, was not trained on.

    Raises:
        MienError: the backbone, or one that it began with, was trained on this data and cut off others.
    """
    cut = cut_of(vars(config))
    meta = record_of(config.backbone)
    for record in [] if faces.has("validation") or not meta else learnt(meta):
        former = record.get("cut") or [None, None]
        if record.get("fingerprint") == faces.fingerprint and former != cut:
            seed, fraction = former
            raise MienError(
                f"seed, validation_fraction: got {cut[0]} and {cut[1]}, but {config.backbone} has learnt from this "
                f"data with {seed} and {fraction}, so that the validation pictures would be among those it knows; give "
                f"--seed {seed} --validation-fraction {fraction}, or data with a val/ folder"
            )


def check_unseen(config: FoldsConfig, faces: FaceSet) -> None:
    """Checks that neither the backbone nor a teacher has learnt from the pictures that folds hold back.

    Raises:
        MienError: one of them was trained on this data.
    """
    teachers = [("--teacher", name, str(model_folder(name))) for name in config.teacher]
    for option, name, folder in [("--backbone", config.backbone, config.backbone), *teachers]:
        meta = record_of(folder)
        if any(record.get("fingerprint") == faces.fingerprint for record in (learnt(meta) if meta else [])):
            raise MienError(
                f"{option} {name}: was trained on this data, so that it knows the pictures that are held back; leave "
                "it out, or give one that was trained on other data or without labels"
            )
