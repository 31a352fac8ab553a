"""What a run reports: a line per epoch, ``history.csv``, curves and figures."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mien.errors import MienError, first_line
from mien.evaluation.choice import LAST, Choice
from mien.files import atomic_file, write_text
from mien.model.preprocessing import Preprocessing


def epoch_line(row: dict[str, Any], epochs: int | None, best: bool) -> str:
    """The result of an epoch of fine-tuning in one line; ``epochs`` is None if minutes end the run."""
    return (
        f"epoch {row['epoch']:>3}{f'/{epochs}' if epochs else ''}  loss {row['loss']:.4f}  "
        f"validation: accuracy {row['val_accuracy']:.2%}, "
        f"macro-F1 {row['val_macro_f1']:.2%}, loss {row['val_loss']:.4f}  lr {row['lr']:.2e}  "
        f"{row['images_per_second']:,.0f} images/s{'  best so far' if best else ''}"
    )


def choice_line(history: Sequence[Mapping[str, Any]], choice: Choice) -> str:
    """The epoch that was kept and the last one, which nothing chose, in one line.

    Args:
        history: a row per epoch with ``epoch`` and ``val_accuracy``, in [0, 1].
        choice: the kept one.
    """
    last = history[-1]
    if choice.select == LAST:
        return f"the last epoch, {last['epoch']}, is kept: {last['val_accuracy']:.2%}, which nothing chose"
    chosen = next((row for row in history if row["epoch"] == choice.epoch), None)
    last_score = f"the last epoch, {last['epoch']}, has {last['val_accuracy']:.2%}"
    if chosen is None:
        return f"validation chose the start: no epoch was enough of a gain; {last_score}"
    return (
        f"validation chose epoch {choice.epoch}, {chosen['val_accuracy']:.2%}: a little too high, since it was chosen; "
        f"{last_score}"
    )


def pretraining_line(row: dict[str, Any], epochs: int | None) -> str:
    """The result of an epoch of pretraining in one line; ``epochs`` is None if steps or minutes end the run."""
    formats = {"val_loss": "validation loss {:.4f}", "knn_accuracy": "k-NN {:.1%}", "linear_accuracy": "linear {:.1%}"}
    scores = [text.format(row[name]) for name, text in formats.items() if row[name] is not None]
    return (
        f"epoch {row['epoch']:>3}{f'/{epochs}' if epochs else ''}  loss {row['loss']:.4f}  "
        f"{', '.join(scores)}{'  ' if scores else ''}lr {row['lr']:.2e}  {row['images_per_second']:,.0f} images/s"
    )


def write_history(out: Path, history: list[dict[str, Any]]) -> None:
    """Writes ``history.csv``, a row per epoch."""
    text = io.StringIO()
    names = dict.fromkeys(name for row in history for name in row)  # a row of an older version lacks the new columns
    writer = csv.DictWriter(text, fieldnames=list(names), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(out / "history.csv", text.getvalue())


def read_history(out: Path) -> list[dict[str, float]]:
    """Reads ``history.csv``.

    Raises:
        MienError: the file is missing or is not the history of a run.
    """
    path = out / "history.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [{name: float(value or "nan") for name, value in row.items()} for row in csv.DictReader(file)]
    except FileNotFoundError as error:
        raise MienError(f"{path}: no such file; give the folder of a run") from error
    except (TypeError, ValueError) as error:
        raise MienError(f"{path}: is not the history of a run ({first_line(error)}); copy the run again") from error


def run_history(folder: Path) -> list[dict[str, float]] | None:
    """The epochs of the run of a model folder, from the ``history.csv`` beside it; None without that file."""
    run = folder.resolve().parent
    return read_history(run) if folder.resolve().name == "model" and (run / "history.csv").is_file() else None


def write_curves(
    out: Path, history: list[dict[str, Any]], *, choice: Choice | None = None, pretraining: bool = False
) -> None:
    """Draws loss and validation scores over the epochs as ``curves.png``, ``curves.pdf`` and ``curves.svg``.

    Args:
        out: the folder of the run.
        history: as ``mien.evaluation.figures.curves`` takes it.
        choice: what validation kept.
        pretraining: the run has probes in place of scores.
    """
    from mien.evaluation.figures import PROBES, SCORES, curves
    from mien.evaluation.style import files

    scores = PROBES if pretraining else SCORES
    for suffix, content in files(curves(history, scores=scores, choice=choice)).items():
        with atomic_file(out / f"curves.{suffix}") as temporary:
            temporary.write_bytes(content)


def write_reconstructions(
    out: Path,
    preprocessing: Preprocessing,
    pixels: torch.Tensor,
    merged: torch.Tensor,
    hidden: torch.Tensor,
    *,
    lent: bool,
) -> None:
    """Draws faces, their visible patches and the reconstructions as ``reconstructions.png``.

    Args:
        out: the folder of the run.
        preprocessing: of the network.
        pixels: float32 [B, C, S, S], normalised faces.
        merged: float32 [B, C, S, S], the reconstructions, with the visible patches unchanged.
        hidden: float32 [B, 1, S, S], 1 for hidden pixels.
        lent: whether the predicted patches have the mean and contrast of the true ones.
    """
    from mien.evaluation.figures import reconstructions
    from mien.evaluation.style import png

    originals, results = (preprocessing.to_images(batch) for batch in (pixels, merged))
    figure = reconstructions(originals, hidden[:, 0].cpu().numpy() > 0, results, lent=lent)
    with atomic_file(out / "reconstructions.png") as temporary:
        temporary.write_bytes(png(figure))
