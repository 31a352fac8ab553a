"""What the networks that a run builds on have learnt: no picture counts as unseen that one of them was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from mien.config import FoldsConfig, TrainConfig
from mien.data.clean import Sketches
from mien.data.faces import FaceSet
from mien.errors import MienError
from mien.labels import canonical
from mien.model.classifier import read_sketches
from mien.model.places import model_folder, run_model
from mien.model.vit import classes_of, record_of


def learnt_before(backbone: str, faces: FaceSet) -> list[tuple[dict[str, Any], Sketches | None]]:
    """The data sets other than this one that a backbone was trained on with labels, the latest first.

    Args:
        backbone: as ``TrainConfig.backbone``; only a trained classifier has learnt from labels.
        faces: the data of the run that goes on with it.

    Returns:
        The source, fingerprint and counts of each, as ``meta.json`` has them under ``data``, and its sketches, or None
        if the folder of the backbone has none.
    """
    names, meta = classes_of(backbone), record_of(backbone)
    if not meta:  # made by other tools; of other classes, like those of ImageNet, it has learnt other pictures
        return [({"source": backbone}, None)] if has_any_class(names, faces.names) else []
    own = read_sketches(run_model(Path(backbone)), meta)
    sketches = [] if own is None else [Sketches(own.codes, own.offsets), *own.earlier]
    data = [meta.get("data", {}), *(meta.get("learnt_before") or [])]
    pairs = zip_longest(data, sketches[: len(data)])
    return [(record, part) for record, part in pairs if record.get("fingerprint") != faces.fingerprint]


def has_any_class(names: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether one of the wanted classes is among others, whatever their spelling."""
    return bool({canonical(name) for name in wanted} & {canonical(name) for name in names})


def has_every_class(names: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether all wanted classes are among others, whatever their spelling."""
    return {canonical(name) for name in wanted} <= {canonical(name) for name in names}


def check_cut(config: TrainConfig, faces: FaceSet) -> None:
    """Checks that the validation pictures to be cut off are those that the backbone, too, was not trained on.

    Raises:
        MienError: the backbone was trained on this data and cut off others.
    """
    meta = record_of(config.backbone)
    if faces.has("validation") or meta.get("data", {}).get("fingerprint") != faces.fingerprint:
        return
    former = meta.get("config") or {}
    seed, fraction = former.get("seed", config.seed), former.get("validation_fraction", config.validation_fraction)
    if (seed, fraction) != (config.seed, config.validation_fraction):
        raise MienError(
            f"seed, validation_fraction: got {config.seed} and {config.validation_fraction}, but {config.backbone} was "
            f"trained on this data with {seed} and {fraction}, so that the validation pictures would be among those it "
            f"learnt from; give --seed {seed} --validation-fraction {fraction}, or data with a val/ folder"
        )


def check_unseen(config: FoldsConfig, faces: FaceSet) -> None:
    """Checks that neither the backbone nor a teacher has learnt from the pictures that folds hold back.

    Raises:
        MienError: one of them was trained on this data.
    """
    teachers = [("--teacher", name, str(model_folder(name))) for name in config.teacher]
    for option, name, folder in [("--backbone", config.backbone, config.backbone), *teachers]:
        meta = record_of(folder)
        learnt = [meta.get("data", {}), *(meta.get("learnt_before") or [])]
        if any(data.get("fingerprint") == faces.fingerprint for data in learnt):
            raise MienError(
                f"{option} {name}: was trained on this data, so that it knows the pictures that are held back; leave "
                "it out, or give one that was trained on other data or without labels"
            )
