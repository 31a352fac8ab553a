"""``mien evaluate``: scores one or several classifiers on a split, with a report to read."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.cli.parser import Parser, whole_number
from mien.cli.quiet import hide_bars
from mien.errors import MienError
from mien.files import write_json, write_text

if TYPE_CHECKING:
    import numpy as np

    from mien.data.faces import FaceSet
    from mien.evaluation.evaluate import Evaluation
    from mien.model.classifier import Classifier

DESCRIPTION = """\
Scores a classifier on a split and writes a report; several classifiers (seeds) also give mean and deviation.
Every score is given twice: on the whole split, and on the pictures that have no near-identical twin in training.

Examples:
  mien evaluate runs/first --data archive.zip --split validation --out reports/first
  mien evaluate runs/first --data archive.zip --split validation --out reports/first-tta --tta
  mien evaluate runs/seed0 runs/seed1 runs/seed2 --data archive.zip --split validation --out reports/seeds
"""

SPLITS = ("train", "validation", "test")


def run(arguments: list[str]) -> int:
    """Runs ``mien evaluate``; returns the exit code."""
    parser = Parser("mien evaluate", DESCRIPTION)
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL", help="a model folder or the folder of a run")
    parser.add_argument("--data", required=True, metavar="SOURCE", help="archive.zip, a folder, or a FER2013 CSV file")
    parser.add_argument("--split", required=True, choices=SPLITS, help="validation to choose, test once at the end")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the report")
    parser.add_argument("--tta", action="store_true", help="average each picture with its mirror image")
    parser.add_argument(
        "--train-data", metavar="SOURCE", help="what the model was trained on, where its folder does not tell"
    )
    parser.add_argument("--batch-size", type=whole_number(1), default=256, metavar="N", help="pictures a pass (256)")
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:N or mps (auto)")
    given = parser.parse(arguments)
    hide_bars()
    if not given.models:
        raise MienError(
            "MODEL is missing: give a model folder or the folder of a run that `mien train` wrote, like runs/first; "
            "no model comes with Mien yet"
        )
    command = shlex.join(["mien", "evaluate", *arguments])

    from mien.data.read import read_faces
    from mien.data.twins import thumbnails
    from mien.evaluation.evaluate import compare_runs, comparison_table, evaluate
    from mien.evaluation.report import PAGE, refuse_foreign, write_report
    from mien.model.classifier import Classifier, model_folder
    from mien.training.device import resolve_device

    folders = [model_folder(path) for path in given.models]
    reports = report_folders(given.out, folders)
    for report in reports:
        refuse_foreign(report)
    device = resolve_device(given.device)
    faces = read_faces(given.data)
    known = thumbnails(read_faces(given.train_data).part("train").images) if given.train_data else None
    runs: list[dict[str, Any]] = []
    for path, folder, report in zip(given.models, folders, reports, strict=True):
        classifier = Classifier.load(folder, device)
        data = as_trained(faces, classifier, given.split)
        evaluation = evaluate(
            classifier,
            data,
            given.split,
            train_thumbnails=known if known is not None else trained_on(data, classifier),
            tta=given.tta,
            batch_size=given.batch_size,
            model=str(path),
        )
        write_report(report, evaluation, command=command, history=run_history(folder))
        runs.append(evaluation.metrics(command))
        print(headline(evaluation))
        print(f"  report: {report / PAGE}")
    if len(runs) > 1:
        comparison = compare_runs(runs)
        table = comparison_table(comparison)
        write_json(given.out / "summary.json", comparison)
        write_text(given.out / "summary.txt", table + "\n")
        print(f"{table}\nsummary: {given.out / 'summary.json'}")
    return 0


def report_folders(out: Path, folders: list[Path]) -> list[Path]:
    """Where each model's report goes: ``out`` itself for one, ``out/NAME`` for several, the names told apart."""
    if len(folders) == 1:
        return [out]
    names: list[str] = []
    for folder in folders:
        resolved = folder.resolve()
        name = resolved.parent.name if resolved.name == "model" else resolved.name
        count = sum(taken == name or taken.startswith(f"{name}-again-") for taken in names)
        names.append(f"{name}-again-{count}" if count else name)
    return [out / name for name in names]


def as_trained(faces: FaceSet, classifier: Classifier, split: str) -> FaceSet:
    """The data, with the validation part that was cut from training when the classifier was trained on this data.

    Data that has a validation split, or that the classifier was not trained on, comes back as it is.
    """
    from mien.data.split import cut_validation

    meta = classifier.meta()
    same = meta.get("data", {}).get("fingerprint") == faces.fingerprint
    if split == "test" or faces.has("validation") or not same:
        return faces
    return cut_validation(faces, meta["config"]["validation_fraction"], meta["config"]["seed"])


def trained_on(faces: FaceSet, classifier: Classifier) -> np.ndarray | None:
    """Thumbnails of what the classifier was trained on: as its folder tells, else the data's own training split."""
    from mien.data.twins import thumbnails

    own = classifier.train_thumbnails()
    if own is None and faces.has("train"):
        return thumbnails(faces.part("train").images)
    return own


def run_history(folder: Path) -> list[dict[str, float]] | None:
    """The epochs of the run that a model folder belongs to, where its ``history.csv`` lies beside it."""
    from mien.training.history import read_history

    run = folder.resolve()
    return read_history(run.parent) if run.name == "model" and (run.parent / "history.csv").is_file() else None


def headline(evaluation: Evaluation) -> str:
    """The scores in a few lines."""
    whole, clean = evaluation.whole, evaluation.clean
    low, high = (100 * bound for bound in whole["ci95"]["accuracy"])
    views = ", picture and mirror image averaged" if evaluation.tta else ""
    lines = [
        f"{evaluation.model} on {evaluation.split} of {evaluation.source}: {whole['n']:,} pictures{views}",
        f"  whole: {_scores(whole)} (accuracy 95 %: {low:.2f} to {high:.2f})",
    ]
    if clean is None:
        lines.append(f"  clean: not known, {evaluation.clean_reason}")
    else:
        lines.append(f"  clean: {_scores(clean)} ({clean['n']:,} pictures without a twin in training)")
    return "\n".join([*lines, *(f"  warning: {warning}" for warning in evaluation.warnings)])


def _scores(scores: dict[str, Any]) -> str:
    return f"accuracy {scores['accuracy']:.2%}, macro-F1 {scores['macro_f1']:.4f}, ECE {scores['ece']:.4f}"
