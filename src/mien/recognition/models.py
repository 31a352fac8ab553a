"""What the path of a model means: an ONNX file, an exported folder, a folder of training, or the shipped weights."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mien.errors import MienError
from mien.files import expanded

SHIPPED = Path(__file__).parents[1] / "weights"
"""Where an installation carries weights, if it does: a folder a model."""

DEFAULT = "mini"
"""The one of them that reads where none is named."""

ONNX_FILES: tuple[str, ...] = ("model.onnx", "model.int8.onnx")
"""What ``mien export`` writes, in the order in which a folder's are preferred."""


@dataclass(frozen=True)
class ModelFiles:
    """The forms in which a model is there; at least one.

    Attributes:
        onnx: an ONNX file of ``mien export``.
        folder: a folder of ``mien train``, for PyTorch.
    """

    onnx: Path | None
    folder: Path | None


def find(path: str | os.PathLike[str] | None) -> ModelFiles:
    """Finds a model.

    Args:
        path: the name of a model that this installation carries (``mini``, ``nano``; ``mini-int8`` and ``nano-int8``
            for their int8 form), where no file or folder is called so; an ``.onnx`` file; a folder that holds
            ``model.onnx`` or ``model.int8.onnx``; a folder of ``mien train`` (``config.json`` and
            ``model.safetensors``); a run's folder with one of these in ``model/``; or None for ``DEFAULT``.

    Raises:
        MienError: it is no path, there is none such, or it holds no model.
    """
    known = shipped()
    if path is None:
        if DEFAULT not in known:
            raise MienError("no weights are shipped in this installation; give a model: a folder that `mien train` "
                            "or `mien export` wrote")  # fmt: skip
        return known[DEFAULT]
    if not isinstance(path, str | os.PathLike):
        raise MienError(f"model: got {path!r}, expected the path of a folder or of an .onnx file")
    given = expanded(path)
    if not given.exists() and str(path) in known:
        return known[str(path)]
    if given.is_file():
        if given.suffix.lower() == ".onnx":
            return ModelFiles(given, None)
        raise MienError(
            f"{path}: is a file, expected a folder that `mien train` wrote, or an .onnx file of `mien export`"
        )
    found = _in_folder(given) or _in_folder(given / "model")
    if found is None:
        what = "no such folder" + (f", and no model of this installation ({', '.join(known)})" if known else "")
        if given.is_dir():
            what = "holds neither model.onnx nor config.json and model.safetensors"
        raise MienError(
            f"{path}: {what}; give a folder that `mien train` or `mien export` wrote, like runs/first/model"
        )
    return found


def shipped() -> dict[str, ModelFiles]:
    """The models that this installation carries, by name; ``NAME-int8`` is the int8 form of ``NAME``."""
    found: dict[str, ModelFiles] = {}
    for folder in sorted(SHIPPED.iterdir()) if SHIPPED.is_dir() else []:
        files = _in_folder(folder)
        if files is not None:
            found[folder.name] = files
        if (folder / ONNX_FILES[1]).is_file():
            found[f"{folder.name}-int8"] = ModelFiles(folder / ONNX_FILES[1], None)
    return found


def _in_folder(folder: Path) -> ModelFiles | None:
    onnx = next((folder / name for name in ONNX_FILES if (folder / name).is_file()), None)
    trained = all((folder / name).is_file() for name in ("config.json", "model.safetensors"))
    return ModelFiles(onnx, folder if trained else None) if onnx or trained else None
