"""Exports a model folder to ONNX files, and writes them only if they answer as PyTorch does."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mien.data.clean import as_trained
from mien.data.faces import FaceSet
from mien.errors import MienError
from mien.export import parity
from mien.export.graph import metadata, onnx_model
from mien.export.parity import CALIBRATION, PARTLY, STATIC, quantised
from mien.files import atomic_folder, refuse_others, refuse_unknown, write_json
from mien.machine import versions
from mien.model.classifier import Classifier
from mien.model.places import ONNX_FILES
from mien.recognition.engine import OnnxEngine
from mien.recognition.torch_engine import TorchEngine
from mien.text import portable

MODEL, MODEL_INT8 = ONNX_FILES
REPORT = "parity.json"
FILES: frozenset[str] = frozenset({*ONNX_FILES, REPORT})
"""Everything that an export holds."""

TORCH, FLOAT, INT8 = "PyTorch", "ONNX", "ONNX int8"


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        report: the content of ``parity.json``.
        table: the comparison as text.
    """

    report: dict[str, Any]
    table: str


@dataclass(frozen=True)
class _Pictures:
    """The pictures on which the files are compared with PyTorch."""

    crops: np.ndarray
    labels: np.ndarray | None
    about: dict[str, Any]


def export(
    model: Path,
    out: Path,
    *,
    faces: FaceSet | None = None,
    split: str = "validation",
    int8: bool = False,
    tolerance: float = parity.TOLERANCE,
    threads: int | None = None,
    command: str = "",
    name: str | None = None,
) -> Exported:
    """Writes ``model.onnx``, ``parity.json`` and, with ``int8``, ``model.int8.onnx``.

    Args:
        model: a folder that ``mien train`` wrote.
        out: the new folder; replaces an earlier export as a whole.
        faces: data for the comparison with PyTorch, whose training split calibrates int8; None compares random crops.
        split: the split of ``faces`` for the comparison.
        int8: write an int8 file too; needs ``faces`` with a training split.
        tolerance: largest difference of a probability in float32.
        threads: of each engine; None leaves it to the libraries.
        command: the command line, for the report.
        name: of the model in messages; by default ``model``.

    Raises:
        MienError: the model cannot be read, the data does not fit it, ``out`` holds something else or cannot be
            written, or a file exceeds its tolerance; nothing is written then.
    """
    if int8:
        check_int8_data(faces)
    refuse_others(out, FILES, "export")
    name = name or str(model)
    engine = TorchEngine.load(model, "cpu", threads)
    faces = None if faces is None else as_trained(faces, engine.classifier)
    pictures = _pictures(engine, faces, split)
    calibration = _calibration(engine, faces) if int8 and faces is not None else None
    with atomic_folder(out, check=lambda former: refuse_unknown(former, FILES, "export")) as temporary:
        file = temporary / MODEL
        onnx.save(onnx_model(Classifier.load(model)), file)
        comparison = parity.Comparison(engine, pictures.crops, pictures.labels)
        results = {TORCH: comparison.reference, FLOAT: comparison.parity(OnnxEngine(file, "cpu", threads))}
        parity.check_float(results[FLOAT], tolerance, name)
        report: dict[str, Any] = {
            "model": metadata(engine.classifier),
            "pictures": pictures.about,
            "tolerance": tolerance,
            "int8": None if calibration is None else _int8(temporary, comparison, calibration, results, threads, name),
            "engines": parity.as_json(results, comparison.reference),
            "files": {path.name: path.stat().st_size for path in sorted(temporary.glob("*.onnx"))},
            "threads": threads,
            "command": command,
            "versions": versions(),
        }
        write_json(temporary / REPORT, report)
    files = report["files"]
    sizes = {FLOAT: files[MODEL]} | ({INT8: files[MODEL_INT8]} if int8 else {})
    return Exported(report, parity.table(results, sizes))


def check_int8_data(faces: FaceSet | None) -> None:
    """Checks that there is data for an int8 file.

    Raises:
        MienError: there is none, or it has no training split.
    """
    if faces is None:
        raise MienError("--int8: needs --data, on which its loss of accuracy is measured; give the data set")
    if not faces.has("train"):
        raise MienError(
            f"{portable(faces.source)}: has no training split, from which the ranges of --int8 are taken; leave out "
            "--int8, or give data with a training split"
        )


def _pictures(engine: TorchEngine, faces: FaceSet | None, split: str) -> _Pictures:
    """The crops of a split; random crops without ``faces``."""
    preprocessing, grey = engine.classifier.preprocessing, engine.grey
    if faces is None:
        crops = parity.random_crops(engine.image_size, grey)
        return _Pictures(crops, None, {"source": "random crops, no faces", "split": None, "n": len(crops)})
    part = faces.part(split)
    about = {"source": portable(faces.source), "fingerprint": faces.fingerprint, "split": split, "n": len(part)}
    return _Pictures(parity.crops_of(part.images, preprocessing, grey), part.labels_in(engine.names), about)


def _calibration(engine: TorchEngine, faces: FaceSet) -> np.ndarray:
    """The crops of a sample of the training split."""
    train = np.flatnonzero(faces.splits == "train")
    sample = np.sort(np.random.default_rng(0).permutation(train)[:CALIBRATION])
    return parity.crops_of(faces.images[sample], engine.classifier.preprocessing, engine.grey)


def _int8(
    folder: Path,
    comparison: parity.Comparison,
    calibration: np.ndarray,
    results: dict[str, parity.Parity],
    threads: int | None,
    name: str,
) -> dict[str, Any]:
    """Writes the int8 file that answers nearest and adds it to ``results``; returns its part of the report."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        files: dict[str, Path] = {}
        compared: dict[str, parity.Parity] = {}
        for way in (STATIC, PARTLY):
            file = quantised(folder / MODEL, Path(scratch), calibration, partly=way == PARTLY)
            if file is None:
                raise MienError(f"{name}: has no products that can be quantised; leave out --int8")
            files[way], compared[way] = file, comparison.parity(OnnxEngine(file, "cpu", threads))
            if parity.near(compared[way], comparison.reference):
                break
        way, reason = parity.choose(compared, comparison.reference)
        parity.check_int8(compared[way], comparison.reference, name)
        results[INT8] = compared[way]
        shutil.copyfile(files[way], folder / MODEL_INT8)
    return {
        "way": way,
        "reason": reason,
        "most_points_lost": parity.MOST_LOST,
        "points_lost": parity.lost(results[INT8], comparison.reference),
        "calibrated_on": len(calibration),
        "candidates": parity.as_json(compared, comparison.reference),
    }
