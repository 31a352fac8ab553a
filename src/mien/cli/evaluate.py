"""``mien evaluate``: scores one or several classifiers on a split and writes a report."""

from __future__ import annotations

import shlex
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.cli.names import out_for
from mien.cli.parser import Parser, Switch, whole_number
from mien.cli.signals import hide_bars
from mien.errors import MienError
from mien.files import ensure_writable, refuse_inputs, write_json, write_text
from mien.locks import claim
from mien.model.places import DEFAULT, model_folder
from mien.text import encodable, shown, shown_lines

if TYPE_CHECKING:
    from mien.data.faces import FaceSet
    from mien.evaluation.evaluate import Evaluation
    from mien.model.classifier import Classifier

DESCRIPTION = """\
Scores a classifier on a split and writes a report. With several classifiers, writes a report of each, a report of their
average (the mean of their probabilities, in OUT/average), and a summary: mean, standard deviation, and McNemar's test
of each pair.
Each score has two values: on the whole split, and on its clean part, which leaves out the pictures whose photograph is
also in the model's training data. Without that data, the clean part is estimated from the sketches in the model folder
and called approximate.

Examples:
  mien evaluate mini --data archive.zip --split validation              the report goes to reports/mini
  mien evaluate runs/first --data archive.zip --split validation --out reports/first
  mien evaluate runs/first --data archive.zip --split validation --out reports/first-tta --tta
  mien evaluate runs/seed0 runs/seed1 runs/seed2 --data archive.zip --split validation --out reports/seeds
"""

SPLITS = ("train", "validation", "test")
AVERAGE = "average"
"""Folder of the average's report among several reports; no report of a model has this name."""


def parser() -> Parser:
    """Returns the parser of ``mien evaluate``."""
    built = Parser("mien evaluate", DESCRIPTION)
    built.add_argument(
        "models",
        nargs="*",
        type=Path,
        metavar="MODEL",
        help="runs, model folders, or names of shipped models (mini)",
    )
    built.add_argument(
        "--model",
        action="append",
        default=[],
        type=Path,
        metavar="MODEL",
        help="a model as above, by the option that `mien predict` has",
    )
    built.add_argument("--data", required=True, metavar="SOURCE", help="archive.zip, a folder, or a FER2013 CSV file")
    built.add_argument(
        "--split", required=True, choices=SPLITS, help="validation to compare settings; test once, at the end"
    )
    built.add_argument("--out", type=Path, metavar="DIR", help="folder of the report (a new one, reports/NAME)")
    built.add_argument("--tta", action=Switch, help="average each picture with its mirror image")
    built.add_argument(
        "--train-data", metavar="SOURCE", help="the data of the model's training, if its folder does not hold sketches"
    )
    built.add_argument(
        "--batch-size", type=whole_number(1), default=256, metavar="N", help="pictures per forward pass (256)"
    )
    built.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:N or mps (auto)")
    return built


def run(arguments: list[str]) -> int:
    """Runs ``mien evaluate``; returns the exit code."""
    options = parser().parse(arguments)
    hide_bars()
    models = [*options.models, *options.model] or [None]
    command = shlex.join(["mien", "evaluate", *arguments])

    from mien.evaluation.compare import average, same_pictures
    from mien.evaluation.report import refuse_foreign

    folders = [model_folder(path) for path in models]
    options.models = [Path(DEFAULT) if path is None else path for path in models]
    options.out = options.out or out_for("reports", folders)
    reports = report_folders(options.out, folders)
    several = len(folders) > 1
    refuse_inputs(options.out, [*folders, Path(options.data)])
    with claim(options.out):
        for report in [*reports, *([options.out / AVERAGE] if several else [])]:
            refuse_foreign(report)
            ensure_writable(report.resolve().parent)
        evaluations = evaluate_models(options, folders)
        for folder, report, evaluation in zip(folders, reports, evaluations, strict=True):
            write_and_print(evaluation, report, command, run_history(folder))
        if several:
            together = average(evaluations) if same_pictures(evaluations) else None
            if together is not None:
                write_and_print(together, options.out / AVERAGE, command)
            summarise(options.out, evaluations, together)
    return 0


def evaluate_models(options: Namespace, folders: list[Path]) -> list[Evaluation]:
    """Evaluates the models on the split, one after the other; the data is read once.

    Raises:
        MienError: a model or the data cannot be read, or the models have different classes.
    """
    from mien.data.clean import trained_on
    from mien.data.read import read_faces
    from mien.evaluation.compare import same_classes
    from mien.evaluation.evaluate import evaluate
    from mien.machine import resolve_device
    from mien.model.classifier import Classifier

    device = resolve_device(options.device)
    faces = read_faces(options.data)
    training_images = read_faces(options.train_data).part("train").images if options.train_data else None
    evaluations: list[Evaluation] = []
    for path, folder in zip(options.models, folders, strict=True):
        classifier = Classifier.load(folder, device)
        if evaluations:
            same_classes(evaluations[0].names, evaluations[0].model, classifier.names, str(path))
        data = as_trained(faces, classifier, options.split)
        evaluations.append(
            evaluate(
                classifier,
                data,
                options.split,
                training=training_images if training_images is not None else trained_on(data, classifier),
                tta=options.tta,
                batch_size=options.batch_size,
                model=encodable(str(path)),
            )
        )
    return evaluations


def write_and_print(
    evaluation: Evaluation, report: Path, command: str, history: list[dict[str, float]] | None = None
) -> None:
    """Writes a report and prints its main scores."""
    from mien.evaluation.report import PAGE, write_report

    write_report(report, evaluation, command=command, history=history)
    print(shown_lines(headline(evaluation)))
    others = sorted(path.name for path in report.iterdir() if path.name != PAGE and not path.name.startswith("."))
    print(f"  report: {shown(report / PAGE)}\n  beside it: {shown(', '.join(others))}")


def summarise(out: Path, evaluations: list[Evaluation], together: Evaluation | None) -> None:
    """Writes ``summary.json`` and ``summary.txt`` of several models and prints the summary."""
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
    """The folder of each model's report: ``out`` for one model, ``out/NAME`` for several, with distinct names."""
    if len(folders) == 1:
        return [out]
    names = [AVERAGE]
    for folder in folders:
        resolved = folder.resolve()
        name = resolved.parent.name if resolved.name == "model" else resolved.name
        count = sum(used == name or used.startswith(f"{name}-again-") for used in names)
        names.append(f"{name}-again-{count}" if count else name)
    return [out / name for name in names[1:]]


def as_trained(faces: FaceSet, classifier: Classifier, split: str) -> FaceSet:
    """The data with the validation split that was cut from training when the classifier was trained on it.

    Data with a validation split, or that the classifier was not trained on, is returned unchanged.
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
    """The epochs of the run of a model folder, from the ``history.csv`` beside it; None without that file."""
    from mien.training.history import read_history

    run = folder.resolve()
    return read_history(run.parent) if run.name == "model" and (run.parent / "history.csv").is_file() else None


def headline(evaluation: Evaluation) -> str:
    """The main scores as lines of text."""
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
    cross_fitted, clean_ece = evaluation.cross_fitted_ece(), evaluation.cross_fitted_ece(clean=True)
    if cross_fitted is not None:
        clean_part = "" if clean_ece is None else f", clean {clean_ece:.4f}"
        lines.append(f"  the temperature was fitted on this split: ECE {cross_fitted:.4f}{clean_part} cross-fitted")
    return "\n".join([*lines, *(f"  warning: {warning}" for warning in evaluation.warnings)])


def _scores(scores: dict[str, Any]) -> str:
    return f"accuracy {scores['accuracy']:.2%}, macro-F1 {scores['macro_f1']:.4f}, ECE {scores['ece']:.4f}"
