"""What a run begins with: whether its backbone can be had, and what it has learnt if it is a trained classifier.

No picture counts as unseen that a backbone was trained on.
"""

from __future__ import annotations

from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

from mien.config import TIMM
from mien.data.clean import Sketches
from mien.data.faces import FaceSet
from mien.files import read_json_object
from mien.labels import has_any_class
from mien.model.classifier import read_sketches
from mien.model.configuration import check_record, read_config
from mien.model.networks import MODEL_TYPES
from mien.model.places import check_source, run_model
from mien.model.preprocessing import Preprocessing
from mien.model.presets import SHAPES
from mien.model.timm_backbone import check_name


class Backbone:
    """A backbone by its name. What its folder says is read when it is asked for, and read once.

    Attributes:
        name: as ``TrainConfig.backbone``.
        folder: of its model, that of a run in OUT/model; nothing lies there if it is a preset, of timm or of the hub.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = run_model(Path(name))

    def check(self) -> None:
        """Checks the name before anything is read; ``mien.model.vit.build`` checks the content.

        Raises:
            MienError: timm has no such network, or it is no preset, no folder with a model and no hub id.
        """
        if self.name.startswith(TIMM):
            check_name(self.name)
        elif self.name not in SHAPES:
            check_source(self.name)

    @cached_property
    def model_type(self) -> Any:
        """The kind of network that its folder names; None without a folder."""
        path = self.folder / "config.json"
        if self.name.startswith(TIMM) or self.name in SHAPES or not path.is_file():
            return None
        return read_json_object(path).get("model_type")

    @property
    def is_classifier(self) -> bool:
        """Whether it is a trained classifier of ``mien train`` or of its kind."""
        return self.model_type in MODEL_TYPES

    @property
    def is_timm_classifier(self) -> bool:
        """Whether it is a trained classifier of timm, whose parts cannot be frozen."""
        return self.model_type == "timm_wrapper"

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The classes of a trained classifier, whose rows of the head stay; empty for other backbones."""
        names = (read_config(self.folder).id2label or {}) if self.is_classifier else {}
        return tuple(str(name) for name in names.values())  # in order, by read_config

    @cached_property
    def record(self) -> dict[str, Any]:
        """``meta.json`` of a trained classifier; empty without the file and for other backbones.

        Raises:
            MienError: the file is damaged.
        """
        path = self.folder / "meta.json"
        return check_record(read_json_object(path), path) if self.names and path.is_file() else {}

    @property
    def crop(self) -> float | None:
        """The reading crop of a trained classifier; None for other backbones."""
        return Preprocessing.load(self.folder).crop if self.names else None

    @property
    def learnt(self) -> list[dict[str, Any]]:
        """The data that a trained classifier has learnt with labels, the latest first; empty for other backbones.

        Each is recorded as under ``data`` in ``meta.json``, with ``cut``: seed and share of the validation pictures
        that its run cut off if the data had none.
        """
        config, before = self.record.get("config") or {}, self.record.get("learnt_before") or []
        cut = [config.get("seed"), config.get("validation_fraction")]
        return [{**self.record.get("data", {}), "cut": cut}, *before] if self.record else []

    def learnt_before(self, faces: FaceSet) -> list[tuple[dict[str, Any], Sketches | None]]:
        """The data sets other than this one that it has learnt with labels, the latest first.

        Args:
            faces: the data of the run that goes on with it.

        Returns:
            The entry of ``learnt`` and the sketches of each, or None if its folder has none. What other tools trained
            has one entry, its name, if it has a class of the data; of other classes, like those of ImageNet, it has
            learnt other pictures.

        Raises:
            MienError: the file of the sketches is damaged.
        """
        if not self.record:
            return [({"source": self.name}, None)] if has_any_class(self.names, faces.names) else []
        own, records = read_sketches(self.folder, self.record), self.learnt
        sketches = [] if own is None else [Sketches(own.codes, own.offsets), *own.earlier]
        pairs = zip_longest(records, sketches[: len(records)])
        return [(record, part) for record, part in pairs if record.get("fingerprint") != faces.fingerprint]

    def other_cut(self, faces: FaceSet, seed: int, fraction: float) -> tuple[Any, Any] | None:
        """Seed and share of another cut of the same data, with which it was trained; None without such a one.

        It knows most of the pictures that this cut holds back for validation, then.

        Args:
            faces: the data of a run.
            seed: of the cut.
            fraction: share of the training pictures that are cut off if the data has no validation split.
        """
        for record in [] if faces.has("validation") else self.learnt:
            former_seed, former_fraction = record.get("cut") or [None, None]
            is_same = [former_seed, former_fraction] == [seed, fraction]
            if record.get("fingerprint") == faces.fingerprint and not is_same:
                return former_seed, former_fraction
        return None
