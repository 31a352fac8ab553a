"""What the service says about its model: scores with intervals, hash, card and report."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from mien.errors import MienError
from mien.export.card import card, trained_on_fer2013
from mien.files import read_json_object
from mien.model.places import DEFAULT, ONNX_FILES, find
from mien.recognition.recognizer import Recognizer
from mien.text import shown

NOTICE = "An answer is a guess about how a face looks, not about what a person feels."

logger = logging.getLogger("mien.web")

_Z95 = 1.959964


class ModelRecord:
    """The loaded model and its record ``meta.json``.

    Args:
        model: as for ``Recognizer``; None for the default model.
        recognizer: the recognizer that loaded it.
    """

    def __init__(self, model: str | None, recognizer: Recognizer) -> None:
        self._recognizer = recognizer
        files = find(model)
        name = DEFAULT if model is None else model
        self.name = shown(name if not Path(name).exists() else Path(name).resolve().name)
        self._file = self._loaded_file(files.onnx, files.folder)
        self._meta: dict[str, Any] = {}
        with suppress(MienError):  # an ONNX file alone has no record
            self._meta = read_json_object(self._file.parent / "meta.json")
        content = self._file.read_bytes()  # now: the file may be replaced while the service runs
        self._bytes, self._sha256 = len(content), hashlib.sha256(content).hexdigest()
        try:  # so that the answers do not fail; NaN is no JSON
            json.dumps(self.as_dict(), allow_nan=False)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            what = f"meta.json is not as `mien pack` wrote it ({type(error).__name__}: {error})"
            logger.warning(f"{what}: scores are left out; pack the run again")
            self._meta = {}

    def _loaded_file(self, onnx: Path | None, folder: Path | None) -> Path:
        """Returns the file of the weights: an ONNX file, or the one in the folder that PyTorch has loaded."""
        loaded = getattr(self._recognizer.engine, "path", None) or onnx or folder
        assert loaded is not None
        loaded = Path(loaded)
        return loaded / "model.safetensors" if loaded.is_dir() else loaded

    @cached_property
    def card(self) -> str | None:
        """The model card in Markdown, that of the folder if it has one; None if the model was not packed."""
        with suppress(OSError, UnicodeDecodeError):
            if "release" in self._meta:
                return (self._file.parent / "README.md").read_text(encoding="utf-8")
        with suppress(MienError, ModuleNotFoundError):  # making a card needs the client of the hub
            return card(self._meta, f"Mien {self.name}")
        return None

    def as_dict(self) -> dict[str, Any]:
        """Returns the members of ``GET /v1/model`` that describe the model."""
        engine, detector = self._recognizer.engine, self._recognizer.detector
        threshold = engine.threshold
        return {
            "name": self.name,
            "labels": list(engine.names),
            "file": self._file.name,
            "bytes": self._bytes,
            "sha256": self._sha256,
            "image_size": engine.image_size,
            "face_size": getattr(engine, "face_size", engine.image_size),
            "grey": engine.grey,
            "threshold": threshold if threshold is None or math.isfinite(threshold) else None,
            "stated_accuracy": engine.stated_accuracy,
            "trained_on_fer2013": self._is_of_fer2013(),
            "accuracy": self._accuracy(),
            "scores": self._scores(),
            "sure": self._sure(),
            "robustness": self._meta.get("release", {}).get("robustness", {}).get("rows"),
            "detector": {"name": detector.name, "margin": detector.margin},
        }

    def _is_of_fer2013(self) -> bool | None:
        """Returns True for a model that was trained on FER2013's Training split; None if its data is not recorded."""
        with suppress(KeyError, TypeError, AttributeError):
            return trained_on_fer2013(self._meta)
        return None

    def _scores(self) -> dict[str, Any] | None:
        """Returns macro-F1, the scores of each class and the confusion matrix of the split that was scored last.

        ``ece`` is that of the answers; on the split that fitted the temperature it is too small, and
        ``cross_fitted_ece`` is not.
        """
        scores = self._split()[1]
        names = ("macro_f1", "balanced_accuracy", "ece", "cross_fitted_ece", "per_class", "names", "confusion")
        return {name: scores[name] for name in names if name in scores} if scores else None

    def _sure(self) -> dict[str, float] | None:
        """Returns the share of answers that are not uncertain, and how many of them are right, on validation."""
        sure = (self._meta.get("calibration") or {}).get("uncertain") or {}
        return {name: sure[name] for name in ("coverage", "accuracy")} if "coverage" in sure else None

    def _accuracy(self) -> dict[str, Any] | None:
        """Returns the accuracy with its 95 % interval; None if the model was not packed."""
        split, scores = self._split()
        if not scores:
            return None
        if self._file.name == ONNX_FILES[1]:
            return self._int8_accuracy()
        clean = scores.get("clean")
        return {"split": split, **_accuracy_of(scores), "clean": clean and _accuracy_of(clean)}

    def _int8_accuracy(self) -> dict[str, Any]:
        """Returns the accuracy of the int8 form on the one split on which packing measured it, with Wilson's interval.

        That may be another split than the one whose scores are shown.
        """
        release = self._meta["release"]
        split, value = release["onnx"]["split"], release["onnx"]["engines"]["ONNX int8"]["accuracy"]
        pictures = release["scores"][split]["n"]
        low, high = wilson(value, pictures)
        return {"split": split, "pictures": pictures, "value": value, "low": low, "high": high, "clean": None}

    def _split(self) -> tuple[str, Mapping[str, Any]]:
        """Returns the test split and its scores if it was scored, else the validation split."""
        scores = self._meta.get("release", {}).get("scores", {})
        name = next((name for name in ("test", "validation") if name in scores), "")
        return name, scores.get(name, {})


def _accuracy_of(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the accuracy on a set of pictures with its 95 % interval."""
    low, high = scores["ci95"]["accuracy"]
    return {"pictures": scores["n"], "value": scores["accuracy"], "low": low, "high": high}


def wilson(share: float, count: int) -> tuple[float, float]:
    """Returns the 95 % interval of a share of ``count`` independent trials (Wilson 1927, JASA 22)."""
    squared = _Z95**2 / count
    centre = (share + squared / 2) / (1 + squared)
    half = _Z95 / (1 + squared) * math.sqrt(share * (1 - share) / count + squared / (4 * count))
    return centre - half, centre + half
