"""``mien evaluate``: scores one or several classifiers on a split and writes a report."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator, Sequence
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.cli.output import out_for, short_name
from mien.cli.parser import Parser, Switch, whole_number
from mien.errors import MienError
from mien.files import ensure_writable, read_json_object, refuse_inputs, write_json, write_text
from mien.locks import claim
from mien.log import hide_bars
from mien.model.places import DEFAULT, model_folder
from mien.text import counted, encodable, portable_command, shown, shown_lines

if TYPE_CHECKING:
    from mien.evaluation.evaluate import Evaluation

DESCRIPTION = """\
Scores a classifier on a split and writes a report. With several classifiers, writes a report of each, a table with a
row for each (models.md, models.tex, models.csv), and a summary with the table and McNemar's test of each pair.

Runs of one recipe, whose settings differ in the seed alone, also get a row with mean and standard deviation.

Each score has two values: on the whole split, and on its clean part, which leaves out the pictures whose photograph is
also in the model's training data. Without that data, the clean part is estimated from the sketches in the model folder
and called approximate.

Examples:
  mien evaluate mini --data archive.zip --split validation              the report goes to reports/mini
  mien evaluate runs/first --data archive.zip --split validation --out reports/first
  mien evaluate runs/first --data archive.zip --split validation --out reports/first-tta --tta
  mien evaluate mini nano --data archive.zip --split validation --out reports/both
  mien evaluate runs/seed0 runs/seed1 runs/seed2 --data archive.zip --split validation --out reports/seeds
  mien evaluate runs/seed0 runs/seed1 --data archive.zip --split validation --out reports/both --average
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
        help="a model as above; `mien predict` has the same option",
    )
    built.add_argument("--data", required=True, metavar="SOURCE", help="archive.zip, a folder, or a FER2013 CSV file")
    built.add_argument(
        "--split", required=True, choices=SPLITS, help="validation to compare settings; test once, at the end"
    )
    built.add_argument("--out", type=Path, metavar="DIR", help="folder of the report (a new one, reports/NAME)")
    built.add_argument(
        "--average", action=Switch, help="also report the mean of the models' probabilities, in OUT/average"
    )
    built.add_argument(
        "--seeds", action=Switch, help="the models are seeds of one recipe: report their mean and deviation"
    )
    built.add_argument("--tta", action=Switch, help="average each picture with its mirror image")
    built.add_argument(
        "--train-data",
        metavar="SOURCE",
        help="the data of the model's training, for an exact clean part (the sketches in its folder)",
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
    command = portable_command(["mien", "evaluate", *arguments])

    from mien.data.read import locate
    from mien.evaluation.compare import average, same_pictures
    from mien.evaluation.report import refuse_foreign
    from mien.training.history import run_history

    folders = [model_folder(path) for path in models]
    several = len(folders) > 1
    if not several and (options.average or options.seeds):
        raise MienError(f"--{'average' if options.average else 'seeds'}: got one model, expected two or more")
    if options.out is None:
        locate(options.data)  # before its name is reported
    options.models = [Path(DEFAULT) if path is None else path for path in models]
    options.out = options.out or out_for("reports", folders)
    reports = report_folders(options.out, folders)
    refuse_inputs(options.out, [*folders, Path(options.data)])
    with claim(options.out):
        if several:
            refuse_foreign_summary(options.out)
        for report in [*reports, *([options.out / AVERAGE] if options.average else [])]:
            refuse_foreign(report)
            ensure_writable(report.resolve().parent)
        for source in filter(None, (options.data, options.train_data)):
            locate(source)  # before any model is loaded
        names = [report.name for report in reports] if several else [short_name(folders[0])]
        evaluations: list[Evaluation] = []
        records: list[dict[str, Any]] = []
        for folder, report, (evaluation, record) in zip(
            folders, reports, evaluate_models(options, folders, names), strict=True
        ):
            write_and_print(evaluation, report, command, run_history(folder), [record])
            evaluations.append(evaluation)
            records.append(record)
        if several:
            together = average(evaluations) if options.average and same_pictures(evaluations) else None
            if together is not None:
                write_and_print(together, options.out / AVERAGE, command, records=records)
            summarise(options.out, evaluations, records, together, seeds=options.seeds)
    return 0


def evaluate_models(
    options: Namespace, folders: list[Path], names: list[str]
) -> Iterator[tuple[Evaluation, dict[str, Any]]]:
    """Evaluates the models on the split, one after the other; the data is read once.

    The caller writes each report at once, so that a model that cannot be read costs none of those before it.

    Args:
        options: of the command.
        folders: the model folders.
        names: short names of the models.

    Yields:
        The evaluation and the ``meta.json`` of each model.

    Raises:
        MienError: a model or the data cannot be read, or the models have different classes.
    """
    from mien.data.clean import as_trained, trained_on
    from mien.data.read import read_faces
    from mien.evaluation.compare import same_classes
    from mien.evaluation.evaluate import evaluate
    from mien.machine import resolve_device
    from mien.model.classifier import Classifier
    from mien.model.configuration import read_config

    device = resolve_device(options.device)
    classes = [tuple((read_config(folder).id2label or {}).values()) for folder in folders]
    for path, own_classes in zip(options.models, classes, strict=True):
        same_classes(classes[0], encodable(names[0]), own_classes, str(path))
    classifiers = (Classifier.load(folder, device) for folder in folders)
    first = next(classifiers)  # before the data is read
    first.meta()
    faces = read_faces(options.data)
    stated = read_faces(options.train_data) if options.train_data else None
    if stated is not None:
        stated.part("train")  # before any score
    for classifier, name in zip(chain([first], classifiers), names, strict=True):
        data = faces if options.split == "test" else as_trained(faces, classifier)
        evaluation = evaluate(
            classifier,
            data,
            options.split,
            training=trained_on(data, classifier, None if stated is None else as_trained(stated, classifier)),
            tta=options.tta,
            batch_size=options.batch_size,
            model=encodable(name),
            parameters=sum(parameter.numel() for parameter in classifier.network.parameters()),
        )
        yield evaluation, classifier.meta()


def write_and_print(
    evaluation: Evaluation,
    report: Path,
    command: str,
    history: list[dict[str, float]] | None = None,
    records: Sequence[dict[str, Any]] = (),
) -> None:
    """Writes a report and prints its main scores; ``records`` are the ``meta.json`` of the models."""
    from mien.evaluation.choice import choice_of
    from mien.evaluation.report import PAGE, write_report

    choices = [choice_of(record) for record in records]
    is_same = len({choice and choice.select for choice in choices}) == 1
    choice = choices[-1] if is_same else None
    write_report(report, evaluation, command=command, history=history, choice=choice)
    print(shown_lines(headline(evaluation)))
    others = sorted(path.name for path in report.iterdir() if path.name != PAGE and not path.name.startswith("."))
    print(f"  report: {shown(report / PAGE)}\n  beside it: {shown(', '.join(others))}")


def summarise(
    out: Path,
    evaluations: list[Evaluation],
    records: list[dict[str, Any]],
    together: Evaluation | None,
    *,
    seeds: bool,
) -> None:
    """Writes the table of several models, ``summary.json`` and ``summary.txt``, and prints the summary.

    Args:
        out: the folder of the reports.
        evaluations: of the models.
        records: their ``meta.json``.
        together: their average; None if it was not asked for or cannot be made.
        seeds: the user says that all models are seeds of one recipe; else such models are detected by their settings.
    """
    from mien.evaluation.compare import paired_tests, pairs_text, same_pictures
    from mien.evaluation.table import (
        SUMMARY,
        WRITERS,
        model_row,
        notes,
        recipes,
        seeds_row,
        stated_seeds,
        text_table,
    )

    with_average = [*evaluations, *([together] if together else [])]
    rows = [model_row(evaluation) for evaluation in with_average]
    seeds_error: MienError | None = None
    if seeds:
        try:
            rows.append(stated_seeds(evaluations, records))
        except MienError as error:  # raised at the end, so that the table is written all the same
            seeds_error = error
    else:
        rows += [seeds_row([evaluations[member] for member in group]) for group in recipes(records)]
    first, comparable = evaluations[0], same_pictures(evaluations)
    pairs = paired_tests(with_average) if comparable else None
    views = ", picture and mirror image averaged" if first.tta else ""
    title = f"{first.split} split of {shown(first.source)}, {counted(first.whole['n'], 'picture')}{views}"
    tests = (
        pairs_text(pairs) if pairs else "no average, no tests of pairs: the models were validated on different pictures"
    )
    text = "\n".join([title, "", text_table(rows), "", *notes(rows), "", tests])
    write_json(
        out / SUMMARY[0],
        {"split": first.split, "tta": first.tta, "rows": [row.record() for row in rows], "pairs": pairs},
    )
    write_text(out / SUMMARY[1], text + "\n")
    for suffix, write in WRITERS.items():
        write_text(out / f"models.{suffix}", write(rows, title))
    print(shown_lines(text))
    print("written: " + ", ".join(shown(out / name) for name in SUMMARY))
    if seeds_error is not None:
        raise seeds_error


def refuse_foreign_summary(out: Path) -> None:
    """Checks that no file of ``SUMMARY`` in a folder is anybody else's.

    Raises:
        MienError: there is one, and no ``summary.json`` as ``summarise`` writes it.
    """
    from mien.evaluation.table import SUMMARY

    present = [name for name in SUMMARY if os.path.lexists(out / name)]
    try:
        is_own = not present or {"split", "rows", "pairs"} <= read_json_object(out / SUMMARY[0]).keys()
    except MienError:
        is_own = False
    if not is_own:
        raise MienError(
            f"{out}: holds {', '.join(present)}, which no evaluation of several models wrote and which would be lost; "
            "choose another --out"
        )


def report_folders(out: Path, folders: list[Path]) -> list[Path]:
    """The folder of each model's report: ``out`` for one model, ``out/NAME`` for several, with distinct names."""
    if len(folders) == 1:
        return [out]
    names = [AVERAGE]
    for folder in folders:
        name = short_name(folder)
        numbered = chain([name], (f"{name}-again-{number}" for number in count(1)))
        taken = {used.lower() for used in names}  # on Windows and macOS, Mini and mini are one folder
        names.append(next(free for free in numbered if free.lower() not in taken))
    return [out / name for name in names[1:]]


def headline(evaluation: Evaluation) -> str:
    """The main scores as lines of text."""
    whole, clean = evaluation.whole, evaluation.clean
    views = ", picture and mirror image averaged" if evaluation.tta else ""
    lines = [
        f"{evaluation.model} on {evaluation.split} of {evaluation.source}: {counted(whole['n'], 'picture')}{views}",
        f"  whole: {_scores(whole)}",
    ]
    if clean is None:
        what = "not known" if evaluation.twins is None else "empty"
        lines.append(f"  clean: {what}, {evaluation.clean_reason}")
    else:
        how = "approximate, by sketches: " if evaluation.approximate else ""
        lines.append(f"  clean: {_scores(clean)} ({how}{counted(clean['n'], 'picture')} without a twin in training)")
    cross_fitted, clean_ece = evaluation.cross_fitted_ece(), evaluation.cross_fitted_ece(clean=True)
    if cross_fitted is not None:
        clean_part = "" if clean_ece is None else f", clean {clean_ece:.2%}"
        lines.append(f"  the temperature was fitted on this split: ECE {cross_fitted:.2%}{clean_part} cross-fitted")
    return "\n".join([*lines, *(f"  warning: {warning}" for warning in evaluation.warnings)])


def _scores(scores: dict[str, Any]) -> str:
    low, high = (100 * bound for bound in scores["ci95"]["accuracy"])
    accuracy = f"accuracy {scores['accuracy']:.2%} (95 %: {low:.2f} to {high:.2f})"
    return f"{accuracy}, macro-F1 {scores['macro_f1']:.2%}, ECE {scores['ece']:.2%}"
