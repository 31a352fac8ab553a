"""The table of models: rows by hand, seeds of one recipe, and the files that hold it."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.errors import MienError
from mien.evaluation.compare import average
from mien.evaluation.evaluate import Evaluation, score_parts
from mien.evaluation.table import (
    csv_table,
    latex_table,
    markdown_rows,
    model_row,
    notes,
    recipes,
    seeds_row,
    setting_differences,
    stated_seeds,
    text_table,
)
from mien.text import portable, portable_command

NAMES = ("happy", "sad")


def evaluation(right_count: int, count: int = 10, model: str = "a", **changes: Any) -> Evaluation:
    """An evaluation of ``count`` pictures, the first ``right_count`` of which are read right; the last is a twin."""
    probabilities = np.tile([0.8, 0.2], (count, 1))
    labels = np.array([0] * right_count + [1] * (count - right_count))
    twins = np.arange(count) == count - 1
    whole, clean, reason = score_parts(probabilities, labels, NAMES, twins, 0)
    result = Evaluation(
        split="test", names=NAMES, probabilities=probabilities, labels=labels, images=np.zeros((count, 4, 4), np.uint8),
        ids=np.array([str(number) for number in range(count)]), twins=twins, whole=whole, clean=clean,
        clean_reason=reason, views=1, models=(model,), source="a.zip", fingerprint="f", seed=0, parameters=1000,
        seconds=0.5,
    )  # fmt: skip
    return replace(result, **changes)


def record(seed: int, **changes: Any) -> dict[str, Any]:
    config = {"seed": seed, "lr": 1e-3, "out": f"runs/{seed}", "augment": {"flip": 0.5}, **changes}
    return {"config": config, "data": {"fingerprint": "f"}, "teachers": []}


def test_a_row_by_hand() -> None:
    row = model_row(evaluation(8))
    accuracy, clean_accuracy = row.scores["accuracy"], row.scores["clean_accuracy"]
    assert accuracy is not None and clean_accuracy is not None
    assert (accuracy.value, clean_accuracy.value) == (0.8, pytest.approx(8 / 9))
    assert accuracy.low is not None and accuracy.high is not None and accuracy.low < 0.8 < accuracy.high
    assert row.scores["ece"] is not None and row.scores["ece"].value == pytest.approx(0.0)
    assert (row.pictures, row.clean_pictures, row.parameters, row.pictures_per_second) == (10, 9, 1000, 20)


def test_an_average_sums_parameters_and_seconds() -> None:
    row = model_row(average([evaluation(8), evaluation(8, model="b")]))
    assert (row.kind, row.models, row.parameters, row.pictures_per_second) == ("average", ("a", "b"), 2000, 10)
    unmeasured_row = model_row(average([evaluation(8), evaluation(8, model="b", parameters=None, seconds=None)]))
    assert (unmeasured_row.parameters, unmeasured_row.pictures_per_second) == (None, None)


def test_seeds_have_the_mean_and_the_sample_deviation() -> None:
    row = seeds_row([evaluation(6), evaluation(7, model="b"), evaluation(8, model="c")])
    accuracy = row.scores["accuracy"]
    assert accuracy is not None and (accuracy.value, accuracy.std) == (pytest.approx(0.7), pytest.approx(0.1))
    assert (row.kind, row.name, row.parameters) == ("seeds", "mean of 3 seeds", 1000)
    assert "70.00 ± 10.00" in text_table([row])
    without_clean = seeds_row([evaluation(6), evaluation(7, model="b", clean=None)])
    assert without_clean.scores["clean_accuracy"] is None and without_clean.scores["macro_f1"] is not None
    with pytest.raises(MienError, match="evaluated on different data"):
        seeds_row([evaluation(6), evaluation(6, fingerprint="g")])


def test_seeds_of_one_recipe_are_detected_by_their_settings() -> None:
    first_record, second_record, other_record = record(1), record(2), record(3, lr=2e-3)
    assert recipes([first_record, other_record, second_record]) == [[0, 2]], (
        "the folder of a run is no part of the recipe"
    )
    assert recipes([first_record, record(1)]) == [], "the same seed twice has no deviation"
    assert recipes([first_record, {}, {"config": None}]) == [], "a model without a record is of no recipe"
    assert recipes([first_record, {**second_record, "data": {"fingerprint": "g"}}]) == []
    taught_record = {**second_record, "teachers": [{"folder": "t", "sha256": "s"}]}
    assert recipes([first_record, taught_record]) == []
    with_targets = {**second_record, "targets": {"file": "answers.safetensors", "sha256": "s"}}
    assert recipes([first_record, with_targets]) == []
    assert setting_differences([first_record, with_targets]) == ["targets"]
    newer_record = {**second_record, "config": {**second_record["config"], "start_share": 0.0}}
    assert recipes([first_record, newer_record]) == [[0, 1]], "a setting that there was not yet had its default"
    assert recipes([first_record, second_record, other_record, record(4, lr=2e-3), record(5)]) == [[0, 1, 4], [2, 3]]
    assert recipes([{**first_record, "config": {"seed": 1, "augment": 3}}, second_record]) == []


def test_stated_seeds_say_what_differs_and_are_of_one_size_and_different() -> None:
    evaluations = [evaluation(6), evaluation(8, model="b")]
    row = stated_seeds(evaluations, [record(1), record(2, lr=2e-3)])
    assert row.differences == ("lr",)
    assert any("a, b; they differ in lr too" in note for note in notes([row]))
    assert stated_seeds(evaluations, [{}, {}]).differences == ()
    with pytest.raises(MienError, match=r"--seeds: the networks differ in size \(parameters: a 1,000, b 7\)"):
        stated_seeds([evaluation(6), evaluation(6, model="b", parameters=7)], [{}, {}])
    with pytest.raises(MienError, match=r"--seeds: the runs were trained with the seeds 1, 2, 1, some of them"):
        stated_seeds([*evaluations, evaluation(7, model="c")], [record(1), record(2), record(1, lr=2e-3)])
    assert stated_seeds([*evaluations, evaluation(7, model="c")], [record(1), {}, record(2)]).kind == "seeds"


def test_the_files_hold_the_same_numbers() -> None:
    odd_name = "=1+1_&|"
    rows = [model_row(evaluation(8)), model_row(evaluation(6, model=odd_name, clean=None, approximate=True))]
    rows.append(seeds_row([evaluation(6), evaluation(8, model="b")]))
    text, markdown, latex = text_table(rows), markdown_rows(rows, "test split"), latex_table(rows, "test split")
    for table in (text, markdown, latex):
        assert "80.00 (" in table and "88.89 (" in table and "1,000" in table
    assert markdown.count("\n|") == 5 and r"=1+1\_\&\|" in markdown
    assert r"=1+1\_\&|" in latex and latex.count(r"\\") == 4 and latex.count(r"\midrule") == 2
    assert r"70.00 $\pm$ 14.14" in latex
    csv_rows = list(csv.DictReader(io.StringIO(csv_table(rows))))
    assert [row["accuracy_percent"] for row in csv_rows] == ["80.00", "60.00", "70.00"]
    assert (csv_rows[1]["model"], csv_rows[1]["clean_accuracy_percent"]) == (f"'{odd_name}", ""), "a formula is no name"
    assert (csv_rows[2]["kind"], csv_rows[2]["accuracy_std"], csv_rows[0]["accuracy_std"]) == ("seeds", "14.14", "")


def test_no_name_is_read_as_a_part_of_the_row_before_it() -> None:
    names = ("[2mm] a", "*b")  # LaTeX reads both as belonging to the \\ before them
    table = latex_table([model_row(evaluation(8, model=name)) for name in names], "test split")
    assert "\n  {[}2mm] a & " in table and "\n  {*}b & " in table


def test_intervals_of_all_or_no_pictures_are_called_what_they_are() -> None:
    first_note = notes([model_row(evaluation(8))])[0]
    assert "of the whole split unless a column says clean" in first_note
    assert first_note.endswith("(bootstrap over pictures).")
    for right_count in (0, 9, 10):  # 9: all of the clean part
        rows = [model_row(evaluation(8)), model_row(evaluation(right_count))]
        assert "Clopper-Pearson if all or none are right" in notes(rows)[0]


def test_an_approximate_clean_score_is_marked() -> None:
    row = model_row(evaluation(8, approximate=True))
    assert "~88.89" in text_table([row]) and r"$\approx$88.89" in latex_table([row], "")
    assert any(note.startswith("~:") for note in notes([row]))
    assert not any(note.startswith("~:") for note in notes([model_row(evaluation(8))]))


def test_paths_in_reports_are_portable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert portable(str(tmp_path / "runs" / "first")) == "runs/first"
    assert portable("/somewhere/else/archive.zip") == "archive.zip"
    assert portable("/somewhere/mien/weights/mini") == "weights/mini", "`--backbone mini` would be the preset"
    assert [portable(text) for text in ("drawn faces, seed 3", "../a.zip", "mini")] == [
        "drawn faces, seed 3", "../a.zip", "mini",
    ]  # fmt: skip
    words = ["mien", "evaluate", "/a/b c", "--data=/x/y.zip", "--out", "r"]
    assert portable_command(words) == "mien evaluate 'b c' --data=y.zip --out r"
