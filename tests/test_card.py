"""The model card: every number in it stands in the record."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mien
from mien.cli import main
from mien.errors import MienError
from mien.evaluation.metrics import score
from mien.export.card import card, recipe_name
from mien.model.places import FINGERPRINTS, SHIPPED

CARDS = ("mini", "nano")
NAMES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def record() -> dict[str, Any]:
    """A ``meta.json`` as ``mien pack`` writes it, of a model that reads 6 of 7 pictures right."""
    labels = np.arange(7)
    probabilities = np.full((7, 7), 0.05)
    probabilities[labels, labels] = 0.7
    probabilities[0, [0, 1]] = 0.05, 0.7
    scores = score(probabilities, labels, NAMES)
    validation = {
        **scores,
        "clean": score(probabilities[1:], labels[1:], NAMES),
        "calibration": {"before": {"ece": 0.123}, "after": {"ece": 0.02}},
        "cross_fitted_ece": 0.019,
        "cross_fitted_ece_clean": 0.021,
        "tta": {
            "accuracy": 0.9,
            "macro_f1": 0.88,
            "ci95": {"accuracy": [0.8, 1.0]},
            "clean": {"accuracy": 0.89, "macro_f1": 0.87, "ci95": {"accuracy": [0.7, 0.9]}},
        },
    }
    return {
        "names": list(NAMES),
        "calibration": {
            "temperature": 1.25, "n": 2594, "twins_left_out": 995,
            "uncertain": {"stated_accuracy": 0.8, "confidence": 0.95, "threshold": 0.61, "coverage": 0.5,
                          "accuracy": 0.83, "ci95": [0.805, 0.851]},
        },
        "data": {"source": "archive.zip", "fingerprint": "ab" * 32, "images": {"train": 28709, "validation": 3589}},
        "release": {
            "mien": "1.2.3",
            "command": "mien pack runs/a --data archive.zip --out packed",
            "architecture": {"model_type": "vit", "image_size": 48, "patch_size": 8, "hidden_size": 192,
                             "num_hidden_layers": 8, "num_attention_heads": 3, "parameters": 3580423},
            "files": {"model.safetensors": 7160846, "model.onnx": 14400000, "model.int8.onnx": 3700000},
            "onnx": {"split": "validation", "int8": {"points_lost": 0.08},
                     "engines": {"ONNX": {"largest_difference": 1.8e-6}, "ONNX int8": {"accuracy": 0.8492}}},
            "sha256": "c0ffee",
            "scores": {"validation": validation},
            "robustness": {"split": "validation", "rows": [
                {"change": "none", "how": "as they are", "accuracy": 0.85, "macro_f1": 0.8},
                {"change": "dark", "how": "at half the brightness", "accuracy": 0.80, "macro_f1": 0.7},
            ]},
            "origin": [
                {"role": "pretraining", "command": "mien pretrain --data archive.zip", "epochs": 20, "seconds": 1200.0,
                 "metrics": {"linear_accuracy": 0.35}, "weights_from": None,
                 "machine": {"processor": "EPYC", "cores": 2}},
                {"role": "fine-tuning", "command": None, "epochs": None, "seconds": None, "metrics": None,
                 "weights_from": None, "machine": None},
            ],
        },
    }  # fmt: skip


def test_the_onnx_files_come_with_the_accuracy_they_lose() -> None:
    text = card(record())
    assert "| ONNX | 14.4 MB; a probability differs from PyTorch's by at most 1.8e-06 (validation) |" in text
    assert "| ONNX in int8 | 3.7 MB; accuracy 84.92% (validation), 0.08 points lost |" in text
    measured = record()
    for difference, bound in ((2.1457672119140625e-06, "2.2e-06"), (9.91e-7, "1.0e-06"), (0.0, "0.0e+00")):
        measured["release"]["onnx"]["engines"]["ONNX"]["largest_difference"] = difference
        assert f"by at most {bound} (validation) |" in card(measured), "not less than what was measured"
    without_int8 = record()
    without_int8["release"]["onnx"]["int8"] = None
    assert "int8" not in card(without_int8)


def test_scores_come_with_split_interval_and_clean_part() -> None:
    text = card(record())
    assert "which chose epoch, temperature and settings: 7 pictures, one view each" in text
    last_kept = {**record(), "metrics": {"epoch": 2}, "config": {"select": "last"}}
    assert "which chose temperature and settings: 7 pictures" in card(last_kept)
    low, high = record()["release"]["scores"]["validation"]["ci95"]["accuracy"]
    assert f"| whole split | 85.71% ({low:.2%} to {high:.2%}) |" in text
    assert "| clean part (6 without a twin in training) | 100.00% (54.07% to 100.00%) |" in text
    assert "With the mirror image averaged in: 90.00% (80.00% to 100.00%), macro-F1 88.00%; on the clean" in text
    assert "on the clean part 89.00%, 87.00%." in text
    assert "87.00%. Without it, ECE is 12.30% before temperature scaling and 1.90% after, cross-fitted (clean" in text
    assert "No test split was scored for this card." in text


def test_each_class_and_each_change_has_its_row() -> None:
    measured = record()
    text = card(measured)
    assert "| angry | - | 0.0% (0.0% to 97.5%) | 0.0% (0.0% to 97.5%) | 1 |" in text
    all_right = "100.0% (2.5% to 100.0%)"
    assert f"| happy | {all_right} | {all_right} | {all_right} | 1 |" in text
    assert "| none | as they are | 85.00% | +0.0 |" in text
    assert "| dark | at half the brightness | 80.00% | -5.0 |" in text, "a record of before has no intervals"
    for row in measured["release"]["robustness"]["rows"]:
        row |= {"difference": row["accuracy"] - 0.85, "difference_ci95": [-0.061, -0.039]}
    text = card(measured)
    assert "| none | as they are | 85.00% | +0.0 |" in text
    assert "| dark | at half the brightness | 80.00% | -5.0 (-6.1 to -3.9) |" in text


def test_each_run_has_its_row_and_gaps_are_marked() -> None:
    text = card(record())
    assert (
        "| pretraining | `mien pretrain --data archive.zip` | 20 | 20 | EPYC, 2 cores | 35.00% (linear probe) |" in text
    )
    assert "| fine-tuning | `not recorded` | ? | ? | not recorded |  |" in text


def test_a_note_of_the_record_is_shown_below_the_runs() -> None:
    noted = record() | {"note": "Two of *these* were averaged by a script."}
    assert "Two of \\*these\\* were averaged by a script." in card(noted).split("## How it was made")[1]


def test_the_row_of_a_run_whose_start_was_kept_says_so() -> None:
    kept = record()
    kept["release"]["origin"][-1]["metrics"] = {"accuracy": 0.75, "epoch": 0}
    assert "| 75.00% (of the start, which was kept) |" in card(kept)


def test_the_row_of_a_run_that_was_scored_on_a_part_of_validation_says_so() -> None:
    partial = record()
    whole_split, otherwise = "on the whole validation split. ", "on the whole validation split, unless a row says other"
    assert whole_split in card(partial) and otherwise not in card(partial)
    first, last = partial["release"]["origin"]
    first["metrics"] |= {"n": 4000, "split_n": 4000}
    last["metrics"] = {"accuracy": 0.75, "epoch": 2, "n": 9, "split_n": 9}
    assert whole_split in card(partial) and "| 75.00% |" in card(partial)
    first["metrics"] |= {"split_n": 5000}
    last["metrics"] |= {"n": 6, "epoch": 0}
    text = card(partial)
    assert "| 35.00% (linear probe; on 4,000 of 5,000 pictures) |" in text and otherwise in text
    assert "75.00% (of the start, which was kept; on the 6 of 9 pictures that it had not learnt before) |" in text


def test_uses_limits_and_licences_are_stated() -> None:
    text = card(record(), "Face")
    assert text.startswith("---\n") and "\nlicense: mit\n" in text and "# Face: facial expressions, 7 classes" in text
    for phrase in (
        "Out-of-scope uses",
        "2024/1689",
        "FER2013 (Goodfellow et al. 2013",
        "none are Meta's ViTMAE",
    ):
        assert phrase in text
    assert "3,580,423" in text and "7.2 MB, half precision" in text and "`c0ffee`" in text


def test_other_data_is_not_called_fer2013s_splits() -> None:
    with_other_names = record()
    with_other_names["names"] = ["calm", "glad"]
    assert "PublicTest selects" in card(record()) and "PublicTest selects" not in card(with_other_names)
    with_other_counts = record()
    with_other_counts["data"]["images"] = {"train": 700, "validation": 70}
    assert "PublicTest selects" not in card(with_other_counts)


def other_record() -> dict[str, Any]:
    """A record of a model from other data, with too few validation pictures for a temperature."""
    meta = record()
    meta["data"] = {"source": "faces", "fingerprint": "cd" * 32, "images": {"train": 600, "validation": 90}}
    meta["calibration"] = {"temperature": 1.0, "n": 90, "twins_left_out": 0, "ece_after": None, "uncertain": None}
    meta["release"]["scores"]["test"] = meta["release"]["scores"]["validation"]
    return meta


def test_nothing_of_fer2013_is_said_of_other_data() -> None:
    text = card(other_record(), "Mine")
    for phrase in ("FER2013", "fer2013", "PublicTest", "PrivateTest", "license: mit", "weights: MIT", "scored once"):
        assert phrase not in text, phrase
    assert "On the test split: 7 pictures" in text
    assert "On the validation split, which chose epoch and settings: 7 pictures" in text
    assert "This card states no licence of the weights" in text and "who labelled them and how" in text
    with_test_split = record()
    with_test_split["release"]["scores"]["test"] = with_test_split["release"]["scores"]["validation"]
    assert "On the test split (FER2013: PrivateTest): 7 pictures" in card(with_test_split)
    foreign_record = other_record()
    foreign_record["release"]["origin"][0]["weights_from"] = "facebook/vit-mae-base"
    assert "license: other" in card(foreign_record)


def test_scores_on_another_set_are_not_called_those_of_training() -> None:
    from huggingface_hub import ModelCard, ModelCardData

    meta = record()
    meta["release"]["scores"]["validation"]["data"] = {"source": "/mine/other-faces.zip", "fingerprint": "ef" * 32}
    text = card(meta)
    assert (
        "validation split of other-faces.zip, which is another set than that of training and chose nothing, unless "
        "both sets share pictures: 7 pictures, one view each."
    ) in text
    assert "The whole validation split of other-faces.zip with changed pictures" in text
    assert "1 of the 7 pictures of the validation split of other-faces.zip (14.3%) have a twin" in text
    assert "ECE, 15 bins, temperature fitted on the set of training |" in text
    assert "/mine" not in text and "PublicTest)" not in text and "which chose" not in text
    data = ModelCard(text).data
    assert isinstance(data, ModelCardData) and data.eval_results and data.datasets == ["fer2013"]
    assert {result.dataset_type for result in data.eval_results} == {"other-faces.zip"}
    meta["release"]["scores"]["validation"]["data"] = {"source": "renamed.zip", "fingerprint": "ab" * 32}
    assert card(meta) == card(record()), "the same pictures under another name"


def test_sets_from_which_earlier_stages_learnt_are_named() -> None:
    meta = other_record()
    earlier_data = {"source": "/mine/archive.zip", "fingerprint": "ef" * 32, "images": {"train": 28709, "test": 3589}}
    meta["learnt_before"] = [earlier_data, {"source": "/mine/foreign_one"}]
    text = card(meta)
    assert "An earlier stage learnt from archive.zip (FER2013), fingerprint `efefefefefefefef`: train 28,709, " in text
    assert r"An earlier stage was foreign\_one; which pictures it learnt from is not recorded." in text
    assert r"other pictures, whose terms apply too: archive.zip (FER2013), foreign\_one." in text
    assert "datasets:\n- fer2013\n" in text and "/mine" not in text and "another set" not in text
    for part in meta["release"]["scores"].values():
        part["data"] = earlier_data
    text = card(meta)
    assert "validation split of archive.zip, which chose epoch or settings of an earlier stage: 7 pictures" in text
    assert "test split of archive.zip, from whose other splits an earlier stage learnt: 7 pictures" in text
    assert "another set" not in text
    on_fer2013 = record()
    on_fer2013["learnt_before"] = [{"source": "faces", "fingerprint": "cd" * 32, "images": {"train": 600}}]
    text = card(on_fer2013)
    assert "license: mit" not in text and "Mien's code: MIT. FER2013" in text
    assert "from faces, fingerprint `cdcdcdcdcdcdcdcd`: train 600." in text


def test_no_temperature_is_claimed_that_was_not_fitted() -> None:
    text = card(other_record())
    assert "calibrated" not in text and "temperature scaling" not in text and "temperature fitted on" not in text
    assert text.count("| ECE, 15 bins, no temperature fitted |") == 2
    assert "for a cropped face; no temperature was fitted to its probabilities." in text
    never_calibrated = other_record()
    del never_calibrated["calibration"]
    assert "no temperature was fitted" in card(never_calibrated)
    fitted_record = other_record()
    fitted_record["calibration"] |= {"n": 100, "temperature": 1.1}
    text = card(fitted_record)
    assert "with calibrated probabilities" in text and "which chose epoch, temperature and settings" in text
    assert text.count("temperature fitted on validation |") == 2
    fitted_record["calibration"]["twins_left_out"] = 5
    text = card(fitted_record)
    assert text.count("temperature fitted on the clean part |") == text.count("temperature fitted on validation |") == 1


@pytest.mark.parametrize(("grey", "word"), [(True, "grey"), (False, "colour"), (None, "")])
def test_the_card_says_whether_colour_is_read(grey: bool | None, word: str) -> None:
    meta = other_record()
    meta["release"]["reading"] = {"image_size": 48, "face_size": None}
    if grey is not None:
        meta["release"]["reading"]["grey"] = grey
    assert f"48x48 pixels{word and f', {word}'} |" in card(meta)
    meta["release"]["reading"]["face_size"] = 56
    assert f"in the middle are read{word and f'; {word}'} |" in card(meta)
    assert "48x48 pixels, grey |" in card(record())  # FER2013's networks from before this was recorded


def test_the_size_of_a_timm_network_is_that_of_its_pictures() -> None:
    meta = record()
    meta["release"]["architecture"] = {"model_type": "timm_wrapper", "architecture": "resnet18", "parameters": 5}
    meta["release"]["reading"] = {"image_size": 32, "face_size": 32, "grey": False}
    assert "| input | one upright face, 32x32 pixels, colour |" in card(meta)


def test_twins_are_counted() -> None:
    assert "1 of the 7 pictures of the validation split (14.3%) have a twin in the training split" in card(record())
    approximate = record()
    approximate["release"]["scores"]["validation"]["clean_is_approximate"] = True
    assert "(6 without a twin in training, approximate)" in card(approximate)
    assert "About 1 of the 7 pictures of the validation split" in card(approximate)


def test_what_a_sure_answer_promises_comes_with_its_interval() -> None:
    text = card(record())
    assert "(1.250) and threshold of a sure answer were fitted on 2,594 validation pictures without a twin in" in text
    assert "Answers with a confidence of at least 0.61 count as sure: 50% of these pictures, of which 83.0%" in text
    assert "83.0% are right (95 %: 80.5% to 85.1%); the promise is 80%, kept with 95% confidence." in text
    without_threshold = record()
    without_threshold["calibration"]["uncertain"] = {"stated_accuracy": 0.8, "threshold": None}
    assert "No threshold promises an accuracy of 80%: every answer is called uncertain." in card(without_threshold)
    older_record = record()
    older_record["calibration"] = {"temperature": 1.1, "n": 7, "uncertain": {
        "stated_accuracy": 0.8, "threshold": 0.5, "coverage": 0.9, "accuracy": 0.8}}  # fmt: skip
    assert "fitted on 7 validation pictures. Answers with a confidence of at least 0.50 count as sure: 90% of" in card(
        older_record
    )


def test_the_card_says_where_sketches_are() -> None:
    assert "and no sketch of a face" in card(record()) and "It holds a sketch" not in card(record())
    with_sketches = record()
    with_sketches["release"]["files"][FINGERPRINTS] = 32 * 28709
    assert "It holds a sketch (256 bits) of each training picture" in card(with_sketches)


def test_weights_of_others_are_named() -> None:
    foreign_record = record()
    assert "license: mit" in card(foreign_record) and "none are Meta's ViTMAE" in card(foreign_record)
    foreign_record["release"]["origin"][0]["weights_from"] = "facebook/vit-mae-base"
    text = card(foreign_record)
    assert "license: other" in text and "none are Meta's" not in text
    assert "Code and weights: MIT" not in text and "Mien's code: MIT. FER2013" in text
    assert "trained from weights of others, whose terms apply too: facebook/vit-mae-base." in text


def test_a_model_that_was_not_packed_has_no_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MienError, match=r"has no `release`.*`mien pack`"):
        card({"names": list(NAMES)})
    (tmp_path / "meta.json").write_text(json.dumps(record()), encoding="utf-8")
    assert main(["card", str(tmp_path), "--out", str(tmp_path / "CARD.md")]) == 0
    assert (tmp_path / "CARD.md").read_text(encoding="utf-8") == card(record())
    for name, message in (("missing", "no such folder, and no model"), ("empty", "holds no meta.json")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert main(["card", str(tmp_path / name)]) == 2
        assert f"{message}" in (error := capsys.readouterr().err) and "give a folder that `mien pack` wrote" in error


def test_a_card_replaces_no_other_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "meta.json").write_text(json.dumps(record()), encoding="utf-8")
    out = tmp_path / "thesis.md"
    out.write_text("# My thesis\n", encoding="utf-8")
    assert main(["card", str(tmp_path), "--out", str(out)]) == 2
    assert "thesis.md: is no model card of Mien, and would be lost" in capsys.readouterr().err
    assert out.read_text(encoding="utf-8") == "# My thesis\n"
    out.unlink()
    assert [main(["card", str(tmp_path), "--out", str(out)]) for _ in range(2)] == [0, 0], "an earlier card"


@pytest.mark.parametrize("name", CARDS)
def test_the_cards_of_the_shipped_models_are_up_to_date(name: str) -> None:
    meta = json.loads((SHIPPED / name / "meta.json").read_text(encoding="utf-8"))
    path = SHIPPED / name / "README.md"
    assert card(meta, f"Mien {name}") == path.read_text(encoding="utf-8"), f"write {path.name} again by `mien card`"


def test_a_class_name_runs_nothing_in_the_card() -> None:
    hostile_record = record()
    hostile_record["names"] = ["{{ 7 * 7 }}", "{% raw %}", "<b>"]
    text = card(hostile_record, "{{ 7 * 7 }}")
    assert "49" not in text.split("## Intended uses")[0].split("| network |")[0]
    assert "<b>" not in text and r"\{\{ 7 \* 7 \}\}, \{% raw %\} or &lt;b&gt; for a cropped face" in text


def test_the_model_index_has_the_cross_fitted_calibration_error() -> None:
    from huggingface_hub import ModelCard, ModelCardData

    def errors(meta: dict[str, Any]) -> list[tuple[str | None, Any]]:
        data = ModelCard(card(meta, "Mien mini")).data
        assert isinstance(data, ModelCardData) and data.eval_results
        return [
            (result.metric_name, result.metric_value) for result in data.eval_results if result.metric_type == "ece"
        ]

    meta = record()
    scores = meta["release"]["scores"]["validation"]
    assert errors(meta) == [("calibration error, cross-fitted", 0.019), ("calibration error, cross-fitted", 0.021)]
    scores["cross_fitted_ece_clean"] = None
    assert errors(meta) == [("calibration error, cross-fitted", 0.019)]
    scores["cross_fitted_ece"] = None
    assert errors(meta) == [("calibration error", round(part["ece"], 4)) for part in (scores, scores["clean"])]


def test_the_name_of_another_set_is_plain_text_in_the_card() -> None:
    meta = record()
    meta["release"]["scores"]["validation"]["data"] = {"source": "faces\n# <b>x.zip", "fingerprint": "ef" * 32}
    text = card(meta).rpartition("---\n")[2]
    assert "<b>" not in text and "\n# &lt;b" not in text and r"of faces\\n\# &lt;b&gt;x.zip, which" in text


def test_the_front_matter_is_what_the_hub_reads() -> None:
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCard(card(record(), "Mien mini")).data
    assert isinstance(data, ModelCardData) and data.eval_results and data.tags
    assert (data.license, data.library_name, data.pipeline_tag) == ("mit", "transformers", "image-classification")
    assert data.datasets == ["fer2013"] and data.metrics == ["accuracy", "f1"] and "mien" in data.tags
    results = {(result.dataset_name, result.metric_type): result for result in data.eval_results}
    assert len(results) == 6
    overall_result = results["FER2013", "accuracy"]
    clean_result = results["FER2013, without twins in training", "accuracy"]
    assert (overall_result.metric_value, clean_result.metric_value) == (pytest.approx(6 / 7, abs=1e-4), 1.0)
    assert overall_result.metric_args is not None
    low, high = overall_result.metric_args["interval"]
    assert low < 6 / 7 < high and overall_result.dataset_split == "validation"
    hostile_record = record()
    hostile_record["names"], hostile_record["data"]["source"] = ["a", "b"], "/somewhere/my: 'faces'\n.zip"
    data = ModelCard(card(hostile_record, "x: [y]")).data
    assert isinstance(data, ModelCardData) and data.eval_results
    assert data.model_name == "x: [y]" and data.datasets is None
    assert {result.dataset_type for result in data.eval_results} == {"my: 'faces'\n.zip"}


def test_no_folder_of_the_packer_stands_in_a_card() -> None:
    packed = record()
    packed["data"]["source"] = "/somewhere/of/mine/archive.zip"
    packed["release"]["command"] = "mien pack /somewhere/of/mine/run --data=/somewhere/archive.zip"
    packed["release"]["origin"][0]["command"] = "mien pretrain --data /somewhere/archive.zip"
    text = card(packed)
    assert "somewhere" not in text and "`mien pack run --data=archive.zip`" in text


def test_a_shipped_card_is_printed_without_the_train_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.chdir(tmp_path)
    assert main(["card", "mini"]) == 0
    assert capsys.readouterr().out == (SHIPPED / "mini" / "README.md").read_text(encoding="utf-8")


def test_licences_travel_with_the_package() -> None:
    root = Path(mien.__file__).parent
    text = (root / "LICENSES.md").read_text(encoding="utf-8")
    licence = (Path(__file__).parents[1] / "LICENSE").read_text(encoding="utf-8").strip()
    assert licence in text and "Copyright (c) 2020 Shiqi Yu" in text
    assert text.count(licence[licence.index("Permission is hereby granted") :]) == 2


def test_recipes_have_the_names_of_today() -> None:
    old_record = record()
    old_record["release"]["origin"][0]["command"] = "mien train --config configs/model/mini.yaml --data archive.zip"
    text = card(old_record)
    assert "`mien train --config mini --data archive.zip`" in text and "configs/" not in text
    assert "recipe that comes with Mien; it may have changed since" in text
    assert "it may have changed since" not in card(record())
    assert recipe_name("--config=configs/baseline.yaml") == "--config=baseline"
    for argument in ("configs/other.yaml", "configs/model/mini.yml", "runs/model/mini", "--config"):
        assert recipe_name(argument) == argument


@pytest.mark.parametrize("name", ["mini", "nano"])
def test_the_cards_of_the_package_are_those_that_the_command_writes(name: str) -> None:
    folder = SHIPPED / name
    text = card(json.loads((folder / "meta.json").read_text("utf-8")), f"Mien {name}")
    assert (folder / "README.md").read_text("utf-8") == text and "configs/" not in text
