"""What ``model_gpu.py`` makes of finished networks: their scores, halved weights, and a few files to take home."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PART = 31 * 2**19
MOST_PARTS = 4
"""Parts of the weights, of 15.5 MiB; with scores and results they stay below 8 files and 64 MiB."""


def evaluated(runs: Mapping[str, Path], data: str, device: str) -> list[dict[str, Any]]:
    """Scores networks on the validation split, and teachers averaged; best first.

    Args:
        runs: the folders of their runs by name.
        data: FER2013, or another set with a train and a validation split.
        device: that computes.
    """
    import numpy as np

    from mien.data.read import read_faces
    from mien.data.twins import has_twin
    from mien.evaluation.calibration import softmax
    from mien.model.classifier import Classifier

    faces = read_faces(data)
    validation = faces.part("validation")
    clean = ~has_twin(validation.images, faces.part("train").images)
    answers: dict[str, Any] = {}
    for name, run in runs.items():
        classifier = Classifier.load(run, device)
        order = [classifier.names.index(label) for label in validation.names]
        views = [classifier.logits(validation.images, flip=flip, quiet=True)[:, order] for flip in (False, True)]
        answers[name] = softmax(views[0])
        answers[f"{name} and its mirror"] = (softmax(views[0]) + softmax(views[1])) / 2
    teacher_answers = [answers[name] for name in runs if name.startswith("teacher")]
    if len(teacher_answers) > 1:
        answers["teachers averaged"] = np.mean(teacher_answers, axis=0)
    rows = [{"name": name, **scored(values, validation.labels, clean, validation.names)}
            for name, values in answers.items()]  # fmt: skip
    return sorted(rows, key=lambda row: -row["accuracy"])


def scored(answers: Any, labels: Any, clean: Any, names: Sequence[str]) -> dict[str, Any]:
    """Accuracy, also of the pictures without a twin, macro-F1, loss, and recall of the rare classes."""
    from mien.evaluation.metrics import negative_log_likelihood, quick_scores

    predicted = answers.argmax(1)
    means = quick_scores(predicted, labels, len(names))
    row = {"accuracy": means["accuracy"], "clean": None, "macro_f1": means["macro_f1"], "clean_macro_f1": None,
           "balanced": means["balanced_accuracy"],
           "loss": negative_log_likelihood(answers.astype("float64"), labels)}  # fmt: skip
    if clean.any():
        of_clean = quick_scores(predicted[clean], labels[clean], len(names))
        row["clean"], row["clean_macro_f1"] = of_clean["accuracy"], of_clean["macro_f1"]
    for name in ("disgust", "fear"):
        if name in names and (labels == names.index(name)).any():
            row[name] = float((predicted == labels)[labels == names.index(name)].mean())
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The scores as Markdown."""
    columns = ("accuracy", "clean", "macro_f1", "clean_macro_f1", "balanced", "loss", "disgust", "fear")
    lines = [
        f"| network | {' | '.join(name.replace('_', ' ') for name in columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for row in rows:
        cells = ["-" if row.get(name) is None else f"{row[name]:.4f}" for name in columns]
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def halve(source: Path, target: Path) -> None:
    """Writes a model folder in half precision: what can be packed, or gone on with, elsewhere."""
    from safetensors.torch import load_file, save_file

    from mien.files import read_json_object
    from mien.model.classifier import Classifier, model_folder

    folder = model_folder(source)
    target.mkdir(parents=True, exist_ok=True)
    if read_json_object(folder / "config.json").get("model_type") == "vit_mae":
        weights = {name: value.half() for name, value in load_file(folder / "model.safetensors").items()}
        save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
        for name in ("config.json", "preprocessor_config.json", "meta.json"):
            shutil.copyfile(folder / name, target / name)
    else:
        classifier = Classifier.load(folder)
        classifier.write(target, classifier.meta(), half=True)
    if (source / "history.csv").is_file():
        shutil.copyfile(source / "history.csv", target / "history.csv")


def share(out: Path, folder: Path, names: Sequence[str]) -> list[str]:
    """Writes a folder to take home anew: scores, results, and halved networks in parts of 16 MiB.

    Args:
        out: the folder of everything, with ``half``, ``scores.md`` and ``results.json``.
        folder: the folder to write.
        names: of the networks, the most wanted first.

    Returns:
        The names of those that had no room.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old_part in folder.glob("weights.tar.*"):
        old_part.unlink()
    packed, size = out / "weights.tar", 10240
    left_out = []
    with tarfile.open(packed, "w") as archive:
        for name in names:
            half = out / "half" / name
            if not half.is_dir():
                continue
            needed = sum(path.stat().st_size + 1024 for path in half.iterdir()) + 1024
            if size + needed > MOST_PARTS * PART:
                left_out.append(name)
                continue
            archive.add(half, arcname=name)
            size += needed
    with packed.open("rb") as file:
        number = 0
        while block := file.read(PART):
            (folder / f"weights.tar.{number}").write_bytes(block)
            number += 1
    packed.unlink()
    for name in ("scores.md", "results.json"):
        if (out / name).is_file() and (out / name).resolve() != (folder / name).resolve():
            shutil.copyfile(out / name, folder / name)
    return left_out


def device_name() -> str:
    """The GPU, or cpu."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def pack(run: Path, data: str, out: Path, seconds: float) -> str:
    """Packs a network as int8 too, if there is time and onnxruntime; it can be done later from the halved weights.

    Args:
        run: the folder of its run.
        data: what it was trained on.
        out: the folder to write.
        seconds: longest wait.

    Returns:
        What became of it, in one line.
    """
    words = ["pack", str(run), "--data", data, "--out", str(out), "--int8"]
    advice = f"later: mien {shlex.join(words)}"
    lacking = [module for module in ("onnx", "onnxruntime") if importlib.util.find_spec(module) is None]
    if lacking or seconds < 5:
        return f"{run.name} is not packed ({f'{lacking[0]} is not installed' if lacking else 'no time'}); {advice}"
    try:
        completed = subprocess.run([sys.executable, "-m", "mien", *words], timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"{run.name} is not packed (no time); {advice}"
    return f"{run.name}: packed" if completed.returncode == 0 else f"{run.name} is not packed; {advice}"
