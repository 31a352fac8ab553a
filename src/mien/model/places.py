"""What a path or name of a model means: its files, for recognition, and its folder, for PyTorch.

Every command and ``Recognizer`` resolve models here. Nothing heavy is imported.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mien.errors import MienError
from mien.files import expanded
from mien.model.hub import hub_folder, is_hub_id
from mien.model.presets import SHAPES

SHIPPED = Path(__file__).parents[1] / "weights"
"""Folder of the weights that come with the package; one folder for each model."""

DEFAULT = "mini"
"""Name of the shipped model that is used by default."""

ONNX_FILES: tuple[str, ...] = ("model.onnx", "model.int8.onnx")
"""Files that ``mien export`` writes; of two in one folder, the first is used."""


FINGERPRINTS = "fingerprints.safetensors"
"""In a model folder: sketches of the training images (``mien.data.clean``), which find most twins without the data."""


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model; at least one form is there.

    Attributes:
        onnx: an ONNX file of ``mien export``, or None.
        folder: a folder of ``mien train``, for PyTorch, or None.
    """

    onnx: Path | None
    folder: Path | None

    def version(self) -> tuple[tuple[str, int, int], ...]:
        """Returns what tells the files from those of another version: their paths, sizes and times.

        Calibration, names and preprocessing of a folder are in its JSON files.
        """
        paths = [self.onnx] if self.onnx else []
        paths += [self.folder / "model.safetensors", *sorted(self.folder.glob("*.json"))] if self.folder else []
        return tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths)


def find(path: str | os.PathLike[str] | None) -> ModelFiles:
    """Finds a model.

    Args:
        path: the name of a shipped model (``mini``, ``nano``; ``mini-int8`` and ``nano-int8`` for their int8 form),
            unless a file or folder has this name; an ``.onnx`` file; a folder that holds
            ``model.onnx`` or ``model.int8.onnx``; a folder of ``mien train`` (``config.json`` and
            ``model.safetensors``); a run's folder with one of these in ``model/``; a model of the Hugging Face hub
            (``user/model``), which is read from the hub's cache or downloaded into it; or None for ``DEFAULT``.

    Raises:
        MienError: it is not a path, is empty, does not exist, holds no model, or the hub has no such model or cannot be
            reached.
    """
    shipped_models = shipped()
    if path is None:
        if DEFAULT not in shipped_models:
            raise MienError("no weights are shipped in this installation; give a model: a folder that `mien train` "
                            "or `mien export` wrote")  # fmt: skip
        return shipped_models[DEFAULT]
    if not isinstance(path, str | os.PathLike):
        raise MienError(f"model: got {path!r}, expected the path of a folder or of an .onnx file")
    if not os.fspath(path):
        raise MienError(
            "model: the name is empty, expected the path of a folder or of an .onnx file; check where it comes from, "
            f"or leave it out to use {DEFAULT}"
        )
    place = expanded(path)
    if not place.exists() and str(path) in shipped_models:
        return shipped_models[str(path)]
    if place.is_file():
        if place.suffix.lower() == ".onnx":
            return ModelFiles(place, None)
        raise MienError(
            f"{path}: is a file, expected a folder that `mien train` wrote, or an .onnx file of `mien export`"
        )
    if is_hub_id(path):
        folder = hub_folder(str(path))
        files = _in_folder(folder)
        if files is None:
            raise MienError(
                f"{path}: holds neither model.onnx nor config.json and model.safetensors; give a model that Mien reads"
            )
        return files
    files = _in_folder(place) or _in_folder(place / "model")
    if files is None:
        names = f", and no model of this installation ({', '.join(shipped_models)})" if shipped_models else ""
        problem = f"no such folder{names}"
        if place.is_dir():
            problem = "holds neither model.onnx nor config.json and model.safetensors"
        raise MienError(
            f"{path}: {problem}; give a folder that `mien train` or `mien export` wrote, like runs/first/model"
        )
    return files


def shipped() -> dict[str, ModelFiles]:
    """Returns the models that come with this installation, by name; ``NAME-int8`` is the int8 form of ``NAME``."""
    models: dict[str, ModelFiles] = {}
    for folder in sorted(SHIPPED.iterdir()) if SHIPPED.is_dir() else []:
        files = _in_folder(folder)
        if files is not None:
            models[folder.name] = files
        if (folder / ONNX_FILES[1]).is_file():
            models[f"{folder.name}-int8"] = ModelFiles(folder / ONNX_FILES[1], None)
    return models


def run_model(path: Path) -> Path:
    """Returns the model folder of a run, ``path/model``, if only that holds a ``config.json``; else ``path`` itself."""
    inner = path / "model"
    return inner if (inner / "config.json").is_file() and not (path / "config.json").is_file() else path


def model_folder(path: str | os.PathLike[str] | None) -> Path:
    """Returns the folder of a model for PyTorch, which holds a ``config.json``.

    Args:
        path: a model folder, the folder of a run, the name of a shipped model unless a file or folder has this name,
            or None for ``DEFAULT``.

    Raises:
        MienError: the path is empty, there is no such folder, it holds no ``config.json``, or only an ONNX file is
            there.
    """
    if not path or (not expanded(path).exists() and str(path) in shipped()):
        folder = find(path).folder
        if folder is None:
            name = DEFAULT if path is None else path
            raise MienError(f"{name}: only its ONNX file comes with this installation; give a run's folder")
        return folder
    folder = run_model(expanded(path))
    if (folder / "config.json").is_file():
        return folder
    what = "is a file" if folder.is_file() else "holds no config.json" if folder.is_dir() else "no such folder"
    raise MienError(f"{path}: {what}; give a model folder that `mien train` wrote, like runs/first/model")


def check_source(backbone: str) -> None:
    """Checks that a backbone that is neither a preset nor of timm is a folder with a model, or may be a hub id.

    Raises:
        MienError: it is neither, it is a file, or the folder holds no ``config.json``.
    """
    folder = Path(backbone)
    if folder.is_file():
        raise MienError(
            f"--backbone {backbone}: is a file, expected a folder with config.json and model.safetensors; give the "
            "folder of a run, like runs/first"
        )
    if not folder.exists() and not is_hub_id(backbone):
        presets = ", ".join(SHAPES)
        raise MienError(
            f"--backbone {backbone}: no such folder, and neither a preset ({presets}), nor a hub id like "
            "facebook/vit-mae-base, nor timm:NAME"
        )
    if folder.is_dir() and not (run_model(folder) / "config.json").is_file():
        raise MienError(
            f"--backbone {backbone}: holds no config.json; give a run, like runs/mae or runs/first, or the folder of a "
            "ViTMAE checkpoint"
        )


def is_hub_backbone(backbone: str) -> bool:
    """True if a backbone comes from the Hugging Face hub or its cache."""
    return not (backbone.startswith("timm:") or backbone in SHAPES or Path(backbone).exists())


def _in_folder(folder: Path) -> ModelFiles | None:
    """Returns the model files that a folder holds, None if it holds none."""
    onnx = next((folder / name for name in ONNX_FILES if (folder / name).is_file()), None)
    trained = all((folder / name).is_file() for name in ("config.json", "model.safetensors"))
    return ModelFiles(onnx, folder if trained else None) if onnx or trained else None
