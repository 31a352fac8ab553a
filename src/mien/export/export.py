"""A model folder to ONNX files, written only where they answer as PyTorch does."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mien.data.faces import FaceSet
from mien.errors import MienError
from mien.export import parity
from mien.export.graph import metadata, onnx_model
from mien.export.parity import CALIBRATION, quantised
from mien.files import atomic_folder, refuse_others, refuse_unknown, write_json
from mien.machine import versions
from mien.model.classifier import Classifier
from mien.recognition.engine import OnnxEngine
from mien.recognition.models import ONNX_FILES
from mien.recognition.torch_engine import TorchEngine

MODEL, MODEL_INT8 = ONNX_FILES
REPORT = "parity.json"
FILES: frozenset[str] = frozenset({*ONNX_FILES, REPORT})
"""Everything that an export holds."""

TORCH, FLOAT, INT8 = "PyTorch", "ONNX", "ONNX int8"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        report: the content of ``parity.json``.
        table: the comparison, for a person.
    """

    report: dict[str, Any]
    table: str


@dataclass(frozen=True)
class _Pictures:
    """By what the files are held to PyTorch."""

    crops: np.ndarray
    labels: np.ndarray | None
    calibration: np.ndarray | None
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
) -> Exported:
    """Writes ``model.onnx``, ``model.int8.onnx`` where asked for, and ``parity.json``.

    Args:
        model: a folder that ``mien train`` wrote.
        out: the folder to write, replaced as a whole where an earlier export is there.
        faces: data by which the files are held to PyTorch, and its training split by which int8 is calibrated;
            random crops where there is none.
        split: of ``faces``.
        int8: write an int8 file too; needs ``faces``.
        tolerance: largest difference of a probability in float32.
        threads: of each engine; None leaves it to the libraries.
        command: how it was called, for the report.

    Raises:
        MienError: the model cannot be read, the data does not fit it, ``out`` holds something else or cannot be
            written, or a file does not hold its tolerance; nothing is written then.
    """
    if int8 and faces is None:
        raise MienError("--int8: needs --data, on which its loss of accuracy is measured; give the data set")
    refuse_others(out, FILES, "export")
    engine = TorchEngine.load(model, "cpu", threads)
    pictures = _pictures(engine, faces, split)
    with atomic_folder(out, check=lambda former: refuse_unknown(former, FILES, "export")) as temporary:
        file = temporary / MODEL
        onnx.save(onnx_model(Classifier.load(model)), file)
        comparison = parity.Comparison(engine, pictures.crops, pictures.labels)
        found = {TORCH: comparison.reference, FLOAT: comparison.parity(OnnxEngine(file, "cpu", threads))}
        parity.check_float(found[FLOAT], tolerance, str(model))
        report: dict[str, Any] = {
            "model": metadata(engine.classifier),
            "pictures": pictures.about,
            "tolerance": tolerance,
            "int8": _int8(temporary, comparison, pictures.calibration, found, threads, str(model)) if int8 else None,
            "engines": parity.as_json(found, comparison.reference),
            "files": {path.name: path.stat().st_size for path in sorted(temporary.glob("*.onnx"))},
            "threads": threads,
            "command": command,
            "versions": versions(),
        }
        write_json(temporary / REPORT, report)
    files = report["files"]
    sizes = {FLOAT: files[MODEL]} | ({INT8: files[MODEL_INT8]} if int8 else {})
    return Exported(report, parity.table(found, sizes))


def _pictures(engine: TorchEngine, faces: FaceSet | None, split: str) -> _Pictures:
    preprocessing, grey = engine.classifier.preprocessing, engine.grey
    if faces is None:
        crops = parity.random_crops(engine.image_size, grey)
        return _Pictures(crops, None, None, {"source": "random crops, no faces", "split": None, "n": len(crops)})
    part = faces.part(split)
    about = {"source": faces.source, "fingerprint": faces.fingerprint, "split": split, "n": len(part)}
    crops, calibration = parity.crops_of(part.images, preprocessing, grey), None
    if faces.has("train"):
        train = np.flatnonzero(faces.splits == "train")
        chosen = np.sort(np.random.default_rng(0).permutation(train)[:CALIBRATION])
        calibration = parity.crops_of(faces.images[chosen], preprocessing, grey)
    return _Pictures(crops, part.labels_in(engine.names), calibration, about)


def _int8(
    folder: Path,
    comparison: parity.Comparison,
    calibration: np.ndarray | None,
    found: dict[str, parity.Parity],
    threads: int | None,
    where: str,
) -> dict[str, Any]:
    """Writes the int8 file and adds it to ``found``; returns which it is and what the others were like."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        files = quantised(folder / MODEL, Path(scratch), calibration)
        if not files:
            raise MienError(
                f"{where}: has no products that can be quantised with this data; leave out --int8, or give data with a "
                "training split"
            )
        compared = {way: comparison.parity(OnnxEngine(path, "cpu", threads)) for way, path in files.items()}
        way, reason = parity.choose(compared, comparison.reference)
        parity.check_int8(compared[way], comparison.reference, where)
        found[INT8] = compared[way]
        shutil.copyfile(files[way], folder / MODEL_INT8)
    return {
        "way": way,
        "reason": reason,
        "most_points_lost": parity.MOST_LOST,
        "points_lost": parity.lost(found[INT8], comparison.reference),
        "calibrated_on": None if calibration is None else len(calibration),
        "candidates": parity.as_json(compared, comparison.reference),
    }
