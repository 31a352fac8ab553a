"""``mien evaluate``: scores one or several classifiers on a split, with a report to read."""

from __future__ import annotations

import shlex
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.cli.parser import Parser, whole_number
from mien.cli.signals import hide_bars
from mien.errors import MienError
from mien.files import ensure_writable, refuse_inputs, write_json, write_text
from mien.locks import claim
from mien.text import encodable, shown, shown_lines

if TYPE_CHECKING:
    from mien.data.faces import FaceSet
    from mien.evaluation.evaluate import Evaluation
    from mien.model.classifier import Classifier

DESCRIPTION = """\
Scores a classifier on a split and writes a report. Several classifiers get a report each, one of their average (the
mean of their probabilities, in OUT/average), and a summary: mean, deviation, and McNemar's test of each pair.
Every score is given twice: on the whole split, and on its clean part, the pictures whose photograph is not in the
model's training data too. Where that data is not at hand, the clean part is found roughly, by what the model folder
holds, and called approximate.

Examples:
  mien evaluate runs/first --data archive.zip --split validation --out reports/first
  mien evaluate runs/first --data archive.zip --split validation --out reports/first-tta --tta
  mien evaluate runs/seed0 runs/seed1 runs/seed2 --data archive.zip --split validation --out reports/seeds
"""

SPLITS = ("train", "validation", "test")
AVERAGE = "average"
"""In the folder of several reports: the report of the average, which no model's report is called."""


def run(arguments: list[str]) -> int:
    """Runs ``mien evaluate``; returns the exit code."""
    parser = Parser("mien evaluate", DESCRIPTION)
    parser.add_argument(
        "models",
        nargs="*",
        type=Path,
        metavar="MODEL",
        help="runs, model folders, or names of shipped models (mini)",
    )
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
    given.models = [at_hand(path) for path in given.models or [None]]
    command = shlex.join(["mien", "evaluate", *arguments])

    from mien.evaluation.compare import average, same_pictures
    from mien.evaluation.report import refuse_foreign
    from mien.model.classifier import model_folder

    folders = [model_folder(path) for path in given.models]
    reports = report_folders(given.out, folders)
    several = len(folders) > 1
    refuse_inputs(given.out, [*folders, Path(given.data)])
    with claim(given.out):
        for report in [*reports, *([given.out / AVERAGE] if several else [])]:
            refuse_foreign(report)
            ensure_writable(report.resolve().parent)
        evaluations = read_models(given, folders)
        for folder, report, evaluation in zip(folders, reports, evaluations, strict=True):
            tell(evaluation, report, command, run_history(folder))
        if several:
            together = average(evaluations) if same_pictures(evaluations) else None
            if together is not None:
                tell(together, given.out / AVERAGE, command)
            summarise(given.out, evaluations, together)
    return 0


def at_hand(model: Path | None) -> Path:
    """The folder of a model that comes with this installation, by its name or by default; others as they are.

    Raises:
        MienError: none is named, and none comes with it.
    """
    from mien.recognition.models import find, shipped

    if model is not None and (model.exists() or str(model) not in shipped()):
        return model
    folder = find(model).folder
    if folder is None:
        wrong = "MODEL is missing, and no weights to evaluate" if model is None else f"{model}: nothing but its ONNX"
        raise MienError(f"{wrong} comes with this installation; give a run's folder")
    return folder


def read_models(given: Namespace, folders: list[Path]) -> list[Evaluation]:
    """What each model makes of the split, each read once, one after the other.

    Raises:
        MienError: a model or the data cannot be read, or the models know different classes.
    """
    from mien.data.clean import trained_on
    from mien.data.read import read_faces
    from mien.evaluation.compare import same_classes
    from mien.evaluation.evaluate import evaluate
    from mien.machine import resolve_device
    from mien.model.classifier import Classifier

    device = resolve_device(given.device)
    faces = read_faces(given.data)
    known = read_faces(given.train_data).part("train").images if given.train_data else None
    evaluations: list[Evaluation] = []
    for path, folder in zip(given.models, folders, strict=True):
        classifier = Classifier.load(folder, device)
        if evaluations:
            same_classes(evaluations[0].names, evaluations[0].model, classifier.names, str(path))
        data = as_trained(faces, classifier, given.split)
        evaluations.append(
            evaluate(
                classifier,
                data,
                given.split,
                training=known if known is not None else trained_on(data, classifier),
                tta=given.tta,
                batch_size=given.batch_size,
                model=encodable(str(path)),
            )
        )
    return evaluations


def tell(evaluation: Evaluation, report: Path, command: str, history: list[dict[str, float]] | None = None) -> None:
    """Writes a report and prints its headline."""
    from mien.evaluation.report import PAGE, write_report

    write_report(report, evaluation, command=command, history=history)
    print(shown_lines(headline(evaluation)))
    print(f"  report: {shown(report / PAGE)}")


def summarise(out: Path, evaluations: list[Evaluation], together: Evaluation | None) -> None:
    """Writes ``summary.json`` and ``summary.txt`` over several models and prints the latter."""
    from mien.evaluation.compare import average_scores, compare_runs, comparison_table, paired_tests

    comparison = compare_runs([evaluation.metrics() for evaluation in evaluations])
    comparison["average"] = None if together is None else average_scores(together)
    comparison["pairs"] = None if together is None else paired_tests([*evaluations, together])
    table = comparison_table(comparison)
    if together is None:
        table += "\nno average and no tests of pairs: the models were validated on different pictures"
    write_json(out / "summary.json", comparison)
    write_text(out / "summary.txt", table + "\n")
    print(f"{shown_lines(table)}\nsummary: {shown(out / 'summary.json')}")


def report_folders(out: Path, folders: list[Path]) -> list[Path]:
    """Where each model's report goes: ``out`` itself for one, ``out/NAME`` for several, the names told apart."""
    if len(folders) == 1:
        return [out]
    names = [AVERAGE]
    for folder in folders:
        resolved = folder.resolve()
        name = resolved.parent.name if resolved.name == "model" else resolved.name
        count = sum(taken == name or taken.startswith(f"{name}-again-") for taken in names)
        names.append(f"{name}-again-{count}" if count else name)
    return [out / name for name in names[1:]]


def as_trained(faces: FaceSet, classifier: Classifier, split: str) -> FaceSet:
    """The data, with the validation part that was cut from training when the classifier was trained on this data.

    Data that has a validation split, or that the classifier was not trained on, comes back as it is.
    """
    from mien.data.twins import cut_validation

    if split == "test" or faces.has("validation"):
        return faces
    meta = classifier.meta()
    try:
        if meta.get("data", {}).get("fingerprint") != faces.fingerprint:
            return faces
        fraction, seed = float(meta["config"]["validation_fraction"]), int(meta["config"]["seed"])
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise MienError(
            f"{classifier.folder}/meta.json: its data or config is not as `mien train` wrote it "
            f"({type(error).__name__}: {error}); copy the whole folder again"
        ) from error
    return cut_validation(faces, fraction, seed)


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
        how = "approximate, by sketches: " if evaluation.approximate else ""
        lines.append(f"  clean: {_scores(clean)} ({how}{clean['n']:,} pictures without a twin in training)")
    cross_fitted, of_clean = evaluation.cross_fitted_ece(), evaluation.cross_fitted_ece(clean=True)
    if cross_fitted is not None:
        of_clean_too = "" if of_clean is None else f", clean {of_clean:.4f}"
        lines.append(f"  the temperature was fitted on this split: ECE {cross_fitted:.4f}{of_clean_too} cross-fitted")
    return "\n".join([*lines, *(f"  warning: {warning}" for warning in evaluation.warnings)])


def _scores(scores: dict[str, Any]) -> str:
    return f"accuracy {scores['accuracy']:.2%}, macro-F1 {scores['macro_f1']:.4f}, ECE {scores['ece']:.4f}"
