"""A table of models, a row each: as text, Markdown, LaTeX and CSV. All scores are in percent, rounded to 0.01."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mien.config import WITHOUT_EFFECT_ON_WEIGHTS, TrainConfig, completed
from mien.errors import MienError
from mien.evaluation.evaluate import Evaluation
from mien.text import aligned, csv_text, markdown, shown

SCORES: dict[str, str] = {
    "accuracy": "accuracy %",
    "clean_accuracy": "strictly clean %",
    "macro_f1": "macro-F1 %",
    "ece": "ECE %",
}
"""The scores of a row, and the titles of their columns."""


@dataclass(frozen=True)
class Estimate:
    """A score as a share in [0, 1].

    Attributes:
        value: of one model, or the mean over seeds.
        low: lower end of its 95 % interval (bootstrap over pictures); None if there is none.
        high: upper end of it.
        std: sample standard deviation over seeds (n - 1); None for one model.
    """

    value: float
    low: float | None = None
    high: float | None = None
    std: float | None = None


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        kind: ``model``, ``average`` (of the probabilities of several models) or ``seeds`` (mean over runs of a recipe).
        name: short name.
        models: short names of the models behind it.
        pictures: number of pictures in the split.
        clean_pictures: number of them without a twin in training; None if unknown.
        approximate: true if twins were detected by sketches.
        scores: by the names of ``SCORES``; None if unknown.
        parameters: numbers in the network, summed for an average; None if unknown.
        pictures_per_second: pictures that were classified in a second in this evaluation; None if it was not measured.
        differences: settings other than the seed that differ between the runs of ``seeds``.
    """

    kind: str
    name: str
    models: tuple[str, ...]
    pictures: int
    clean_pictures: int | None
    approximate: bool
    scores: Mapping[str, Estimate | None]
    parameters: int | None = None
    pictures_per_second: float | None = None
    differences: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """The row for JSON; scores are shares in [0, 1]."""
        return asdict(self)


def model_row(evaluation: Evaluation) -> Row:
    """The row of a model or of an average.

    The calibration error is cross-fitted if the temperature was fitted on this split.
    """
    whole, clean, cross_fitted = evaluation.whole, evaluation.clean, evaluation.cross_fitted_ece()
    several, seconds = len(evaluation.models) > 1, evaluation.seconds
    return Row(
        kind="average" if several else "model",
        name=evaluation.model,
        models=evaluation.models,
        pictures=whole["n"],
        clean_pictures=clean["n"] if clean else None,
        approximate=evaluation.approximate,
        scores={
            "accuracy": Estimate(whole["accuracy"], *whole["ci95"]["accuracy"]),
            "clean_accuracy": Estimate(clean["accuracy"], *clean["ci95"]["accuracy"]) if clean else None,
            "macro_f1": Estimate(whole["macro_f1"], *whole["ci95"]["macro_f1"]),
            "ece": Estimate(whole["ece"] if cross_fitted is None else cross_fitted),
        },
        parameters=evaluation.parameters,
        pictures_per_second=whole["n"] / seconds if seconds else None,
    )


def seeds_row(evaluations: Sequence[Evaluation], differences: Sequence[str] = ()) -> Row:
    """The row of the mean and the sample standard deviation over runs of one recipe.

    Raises:
        MienError: the runs were evaluated on different data.
    """
    if len({evaluation.fingerprint for evaluation in evaluations}) > 1:
        raise MienError("the runs were evaluated on different data; compare runs evaluated on the same data")
    rows = [model_row(evaluation) for evaluation in evaluations]
    sizes = {row.parameters for row in rows}
    clean_sizes = {row.clean_pictures for row in rows}
    return Row(
        kind="seeds",
        name=f"mean of {len(rows)} seeds",
        models=tuple(row.name for row in rows),
        pictures=rows[0].pictures,
        clean_pictures=clean_sizes.pop() if len(clean_sizes) == 1 else None,
        approximate=any(row.approximate for row in rows),
        scores={name: _over_seeds([row.scores[name] for row in rows]) for name in SCORES},
        parameters=sizes.pop() if len(sizes) == 1 else None,
        differences=tuple(differences),
    )


def recipes(records: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Groups runs of one recipe: equal settings, data and teachers, and different seeds.

    Args:
        records: the ``meta.json`` of each model.

    Returns:
        The positions of the runs of each recipe that has two or more.
    """
    groups: list[list[int]] = []
    settings = [_settings(record) for record in records]
    for position, own in enumerate(settings):
        if own is None:
            continue
        group = next((group for group in groups if settings[group[0]] == own), None)
        if group is None:
            groups.append([position])
        elif _seed(records[position]) not in {_seed(records[member]) for member in group}:
            group.append(position)
    return [group for group in groups if len(group) > 1]


def stated_seeds(evaluations: Sequence[Evaluation], records: Sequence[Mapping[str, Any]]) -> Row:
    """The row of runs that the user calls seeds of one recipe (``--seeds``).

    Raises:
        MienError: their networks differ in size, so that they cannot be of one recipe, or two were trained with the
            same seed, so that their deviation is not one over seeds.
    """
    sizes = {evaluation.model: evaluation.parameters for evaluation in evaluations}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {count:,}" for name, count in sizes.items() if count is not None)
        raise MienError(
            f"--seeds: the networks differ in size (parameters: {listed}); leave it out, or give runs of one recipe"
        )
    seeds = [_seed(record) for record in records if _settings(record) is not None]
    if len(set(seeds)) < len(seeds):
        raise MienError(
            f"--seeds: the runs were trained with the seeds {', '.join(map(str, seeds))}, some of them the same; leave "
            "it out, or give runs with different --seed"
        )
    return seeds_row(evaluations, setting_differences(records))


def setting_differences(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the settings other than the seed that differ between runs; unknown settings are not compared."""
    recorded = [settings for record in records if (settings := _settings(record)) is not None]
    names = {name for settings in recorded for name in settings}
    return sorted(name for name in names if any(settings.get(name) != recorded[0].get(name) for settings in recorded))


def _settings(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """What decides the weights, except the seed: settings, data, teachers, stored answers; None if not recorded."""
    config, data = record.get("config"), record.get("data")
    if not isinstance(config, Mapping) or not isinstance(data, Mapping) or "seed" not in config:
        return None
    try:
        settings = completed(config, TrainConfig)
    except (AttributeError, TypeError, ValueError):
        return None
    settings = {name: value for name, value in settings.items() if name not in {*WITHOUT_EFFECT_ON_WEIGHTS, "seed"}}
    teachers = record.get("teachers") or []
    marks = [teacher.get("sha256") if isinstance(teacher, Mapping) else teacher for teacher in teachers]
    targets = record.get("targets")
    target_mark = targets.get("sha256") if isinstance(targets, Mapping) else targets
    return {**settings, "data": data.get("fingerprint"), "teachers": marks, "targets": target_mark}


def _seed(record: Mapping[str, Any]) -> Any:
    return record["config"]["seed"]


def _over_seeds(estimates: Sequence[Estimate | None]) -> Estimate | None:
    """The mean and the sample standard deviation (n - 1) of a score; None if a run lacks it."""
    values = [estimate.value for estimate in estimates if estimate is not None]
    return None if len(values) < len(estimates) else Estimate(statistics.fmean(values), std=statistics.stdev(values))


HEADS: tuple[str, ...] = ("", *SCORES.values(), "parameters", "pictures/s")


def cells(row: Row, *, to: str = " to ", about: str = "~", plus_minus: str = " ± ", dash: str = "-") -> list[str]:
    """The cells of a row after its name: the value with its interval or deviation in percent, sizes, speed.

    Args:
        row: the row.
        to: stands between the ends of an interval.
        about: stands before an approximate clean score.
        plus_minus: stands before a deviation.
        dash: stands for an unknown number.
    """
    texts = []
    for name, estimate in row.scores.items():
        if estimate is None:
            texts.append(dash)
            continue
        text = f"{100 * estimate.value:.2f}"
        if estimate.std is not None:
            text += f"{plus_minus}{100 * estimate.std:.2f}"
        elif estimate.low is not None and estimate.high is not None:
            text += f" ({100 * estimate.low:.2f}{to}{100 * estimate.high:.2f})"
        texts.append(about + text if name == "clean_accuracy" and row.approximate else text)
    speed = row.pictures_per_second
    return [
        *texts,
        dash if row.parameters is None else f"{row.parameters:,}",
        dash if speed is None else f"{speed:,.0f}",
    ]


def notes(rows: Sequence[Row]) -> list[str]:
    """What the columns mean, in sentences."""
    shares = [row.scores[name] for row in rows for name in ("accuracy", "clean_accuracy")]
    is_exact = any(share is not None and share.low is not None and share.value in (0, 1) for share in shares)
    exact = "; Clopper-Pearson if all or none are right" if is_exact else ""
    lines = [
        "Scores are in percent, of the whole split unless a column says clean; brackets are 95 % intervals (bootstrap "
        f"over pictures{exact}).",
        "Strictly clean: without the pictures whose photograph is in training too, perhaps shifted, scaled or tilted.",
        "ECE: calibration error, 15 bins; cross-fitted if the temperature was fitted on this split.",
        "Pictures/s: measured in this evaluation, on this machine.",
    ]
    if any(row.approximate for row in rows):
        lines.append("~: twins were found by sketches of the training pictures, which is approximate.")
    for row in rows:
        if row.kind == "seeds":
            but = f"; they differ in {', '.join(row.differences)} too" if row.differences else ""
            lines.append(f"{row.name}: {', '.join(row.models)}{but}; ± is the sample standard deviation over seeds.")
    return lines


def text_table(rows: Sequence[Row]) -> str:
    """The table as aligned text."""
    return aligned([HEADS, *([shown(row.name), *cells(row)] for row in rows)])


def markdown_rows(rows: Sequence[Row], title: str) -> str:
    """The table in Markdown, with its title before and its notes after it."""
    lines = [f"| {' | '.join(HEADS)} |", f"|---|{'---:|' * (len(HEADS) - 1)}"]
    lines += [f"| {markdown(row.name)} | {' | '.join(cells(row))} |" for row in rows]
    return "\n".join([f"{markdown(title)}:", "", *lines, "", *notes(rows)]) + "\n"


def latex_table(rows: Sequence[Row], title: str) -> str:
    """The table as a LaTeX ``tabular`` with the rules of the package booktabs; notes are comments."""

    def line(texts: Sequence[str]) -> str:
        return f"  {' & '.join(texts)} \\\\"

    body = []
    for before, row in zip([None, *rows], rows, strict=False):
        if before is not None and before.kind != row.kind:
            body.append(r"  \midrule")
        body.append(line([latex(row.name), *cells(row, to="--", about=r"$\approx$", plus_minus=r" $\pm$ ", dash="--")]))
    comments = [f"% {shown(text)}" for text in [f"{title}; needs \\usepackage{{booktabs}}.", *notes(rows)]]
    return "\n".join(
        [
            *comments,
            f"\\begin{{tabular}}{{l{'r' * (len(HEADS) - 1)}}}",
            r"  \toprule",
            line([latex(head) for head in HEADS]),
            r"  \midrule",
            *body,
            r"  \bottomrule",
            r"\end{tabular}",
        ]
    ) + "\n"  # fmt: skip


def latex(text: str) -> str:
    """Escapes a text for LaTeX; the end of a row before it would read ``[`` and ``*`` as its own."""
    named = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "[": "{[}", "*": "{*}"}
    return "".join(named.get(letter, f"\\{letter}" if letter in "#$%&_{}" else letter) for letter in shown(text))


def csv_table(rows: Sequence[Row]) -> str:
    """The table as CSV, a number a column, scores in percent; unknown numbers are empty."""
    text = io.StringIO()
    of_scores = [f"{name}_{part}" for name in SCORES for part in ("percent", "low", "high", "std")]
    before = ["model", "kind", "pictures", "clean_pictures", "clean_is_approximate"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*before, *of_scores, "parameters", "pictures_per_second"])
    for row in rows:
        numbers: list[str] = []
        for estimate in row.scores.values():
            parts = (None,) * 4 if estimate is None else (estimate.value, estimate.low, estimate.high, estimate.std)
            numbers += ["" if part is None else f"{100 * part:.2f}" for part in parts]
        speed = "" if row.pictures_per_second is None else f"{row.pictures_per_second:.1f}"
        about = [csv_text(row.name), row.kind, row.pictures, row.clean_pictures, "yes" if row.approximate else "no"]
        writer.writerow([*about, *numbers, row.parameters, speed])  # None becomes an empty cell
    return text.getvalue()


WRITERS: dict[str, Callable[[Sequence[Row], str], str]] = {
    "md": markdown_rows,
    "tex": latex_table,
    "csv": lambda rows, _: csv_table(rows),
}
"""Functions that write the table, by the ending of the file."""

SUMMARY: tuple[str, ...] = ("summary.json", "summary.txt", *(f"models.{suffix}" for suffix in WRITERS))
"""The files beside the reports of several models; the first is written first, and marks the others as of Mien."""
