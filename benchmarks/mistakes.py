"""The surest mistakes of a classifier, to be looked at one by one: which of them are mistakes of the label?

OUT/mistakes-1.png, and so on, hold the wrongly read pictures of which the classifier was surest, numbered, and
OUT/mistakes.csv a line for each: label, reading, probability, id, whether the same photograph stands in Training too
(its "twins") and which labels it has there, and an empty column ``verdict`` to fill in. A twin that is labelled as the
picture was read speaks for a wrong label without any looking. OUT/classes.txt has the scores by class and the most
frequent confusions.

The sheets show the very faces of the data: they are for looking at, stay under --out, and belong neither into a
repository nor into a report that goes to others. A label says how a face looked to somebody, and so does a verdict.

    python benchmarks/mistakes.py runs/first --data archive.zip --out runs/mistakes
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mien.data.clean import as_trained, trained_on
from mien.data.faces import FaceSet
from mien.data.read import read_faces
from mien.data.twins import twin_pairs
from mien.errors import MienError
from mien.evaluation.evaluate import Evaluation, evaluate
from mien.evaluation.figures import picture_sheet
from mien.evaluation.metrics import classification_report_text, most_confused, surest_mistakes
from mien.evaluation.style import png
from mien.files import atomic_file, ensure_writable, write_text
from mien.machine import resolve_device
from mien.model.classifier import Classifier

PER_SHEET, COLUMNS = 30, 6
SHOWN_SIZE = 192
"""Pictures are enlarged to so many pixels: smooth, a small face is easier to read than by its squares."""

SHEET_DPI = 110
CONFUSIONS = 12


Mistake = dict[str, Any]
"""A picture that was read otherwise than it is labelled: the columns of OUT/mistakes.csv but ``verdict``. ``p_label``
is the probability of its label, ``twin`` tells whether Training holds the same photograph (None where Training is not
known), ``twin_labels`` are the labels of these."""


def mistakes_of(evaluation: Evaluation, train: FaceSet | None) -> list[Mistake]:
    """The mistakes of an evaluation, surest first.

    Args:
        evaluation: of the pictures, with ``twins``.
        train: the labelled pictures among which twins are looked for; None where they are not at hand.
    """
    rows = surest_mistakes(evaluation.probabilities, evaluation.labels, len(evaluation.labels))
    labels = twin_labels(evaluation.images[rows], train) if train is not None else [()] * len(rows)
    mistakes = []
    for number, (row, names) in enumerate(zip(rows, labels, strict=True), 1):
        values, label = evaluation.probabilities[row], int(evaluation.labels[row])
        mistakes.append({
            "number": number, "id": str(evaluation.ids[row]), "label": evaluation.names[label],
            "reading": evaluation.names[int(values.argmax())], "probability": float(values.max()),
            "p_label": float(values[label]), "twin": None if evaluation.twins is None else bool(evaluation.twins[row]),
            "twin_labels": names,
        })  # fmt: skip
    return mistakes


def other_labels(mistake: Mistake) -> list[str]:
    """The labels of its twins that differ from its own."""
    return [name for name in mistake["twin_labels"] if name != mistake["label"]]


def caption(mistake: Mistake) -> str:
    """What stands below a mistake on a sheet."""
    text = f"{mistake['number']}. {mistake['label']}, read as\n{mistake['reading']}, {mistake['probability']:.0%}"
    twin = f"\ntwin: {', '.join(other_labels(mistake)) or 'same label'}" if mistake["twin"] else ""
    return f"{text}\n{Path(mistake['id']).stem}{twin}"


def twin_labels(images: np.ndarray, train: FaceSet) -> list[tuple[str, ...]]:
    """For each picture, uint8 [N, S, S] or [N, S, S, 3], the labels of its twins in a set, each once."""
    labels: list[set[int]] = [set() for _ in images]
    for row, train_row in twin_pairs(images, train.images):
        labels[row].add(int(train.labels[train_row]))
    return [tuple(train.names[label] for label in sorted(row)) for row in labels]


def sheets(images: np.ndarray, mistakes: Sequence[Mistake]) -> list[bytes]:
    """PNG files of ``PER_SHEET`` mistakes each, whose pictures are uint8 [N, S, S] or [N, S, S, 3]."""
    size = (SHOWN_SIZE, SHOWN_SIZE)
    enlarged = [np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) for image in images]
    files = []
    for start in range(0, len(mistakes), PER_SHEET):
        captions = [caption(mistake) for mistake in mistakes[start : start + PER_SHEET]]
        figure = picture_sheet(np.stack(enlarged[start : start + PER_SHEET]), captions, columns=COLUMNS)
        files.append(png(figure, dpi=SHEET_DPI))
    return files


def as_csv(mistakes: Sequence[Mistake]) -> str:
    """A line for each mistake, and an empty column for what the eye says."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [*mistakes[0], "verdict"], restval="", lineterminator="\n")
    writer.writeheader()
    for mistake in mistakes:
        numbers = {name: f"{mistake[name]:.4f}" for name in ("probability", "p_label")}
        twin = {None: "", True: "yes", False: "no"}[mistake["twin"]]
        writer.writerow({**mistake, **numbers, "twin": twin, "twin_labels": " ".join(mistake["twin_labels"])})
    return text.getvalue()


def classes(evaluation: Evaluation) -> str:
    """Scores by class, and the most frequent confusions."""
    lines = most_confused(evaluation.whole["confusion"], evaluation.names, CONFUSIONS)
    report = classification_report_text(evaluation.probabilities, evaluation.labels, evaluation.names)
    return "\n".join([report, "most frequent confusions:", *(f"  {line}" for line in lines)]) + "\n"


def counts(mistakes: Sequence[Mistake]) -> dict[str, int]:
    """How many mistakes there are, with twins, with a twin of another label, with a twin labelled as was read."""
    return {
        "mistakes": len(mistakes),
        "with_twin": sum(bool(mistake["twin"]) for mistake in mistakes),
        "twin_of_other_label": sum(bool(other_labels(mistake)) for mistake in mistakes),
        "twin_labelled_as_read": sum(mistake["reading"] in mistake["twin_labels"] for mistake in mistakes),
    }


def look(options: argparse.Namespace) -> dict[str, Any]:
    """Writes sheets and tables into ``--out``, prints the tables, and returns the figures."""
    table = options.out / "mistakes.csv"
    if table.exists():
        raise MienError(f"{table}: is there already, perhaps with verdicts; choose another --out, or remove it")
    ensure_writable(options.out)
    classifier = Classifier.load(options.model, resolve_device(options.device))
    faces = as_trained(read_faces(options.data), classifier)
    training = trained_on(faces, classifier)
    evaluation = evaluate(classifier, faces, "validation", training=training, model=str(options.model))
    train = faces.part("train") if faces.has("train") else None
    mistakes = mistakes_of(evaluation, train)
    if not mistakes:
        raise MienError(f"{options.model}: makes no mistake on {options.data}; there is nothing to look at")
    surest = mistakes[: options.count]
    rows = surest_mistakes(evaluation.probabilities, evaluation.labels, options.count)
    for number, page in enumerate(sheets(evaluation.images[rows], surest), 1):
        with atomic_file(options.out / f"mistakes-{number}.png") as temporary:
            temporary.write_bytes(page)
    write_text(table, as_csv(surest))
    write_text(options.out / "classes.txt", classes(evaluation))
    print(classes(evaluation))
    numbers = {"all": counts(mistakes), "shown": counts(surest)}
    for name, of_mistakes in numbers.items():
        print(f"{name}: {', '.join(f'{count:,} {kind}' for kind, count in of_mistakes.items())}")
    print(f"sheets and table: {options.out}")
    return {"model": str(options.model), "n": len(evaluation.labels), "accuracy": evaluation.whole["accuracy"],
            **numbers, "per_class": evaluation.whole["per_class"]}  # fmt: skip


def main() -> None:
    """Looks for mistakes on validation, and prints one line of JSON at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a model folder or the folder of a run")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True, help="a folder that nobody else reads")
    parser.add_argument("--count", type=int, default=60, help="mistakes to show (60)")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    if options.count < 1:
        parser.error(f"--count: got {options.count}, expected at least 1")
    print(json.dumps({"benchmark": "mistakes", **look(options)}))


if __name__ == "__main__":
    try:
        main()
    except MienError as error:
        print(f"mistakes: {error}", file=sys.stderr)
        sys.exit(2)
