"""The benchmarks: that their counts are right and that they run; no test depends on a time."""

from __future__ import annotations

import csv
import dataclasses
import importlib
import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mien.data.drawn import draw_faces, write_archive
from mien.data.faces import FaceSet
from mien.data.read import read_faces
from mien.errors import MienError
from mien.labels import FER2013
from mien.model.classifier import Classifier
from mien.model.vit import build

FOLDER = Path(__file__).parents[1] / "benchmarks"


# The scripts find one another, as where they are started.
sys.path.insert(0, str(FOLDER))

presets: Any = importlib.import_module("presets")
recipes: Any = importlib.import_module("recipes")
mistakes: Any = importlib.import_module("mistakes")
input_pipeline: Any = importlib.import_module("input_pipeline")
steps: Any = importlib.import_module("steps")
masked_inputs: Any = importlib.import_module("masked_inputs")


def setup() -> Any:
    return presets.Setup("nano", batch_size=2, seconds=0.0, threads=torch.get_num_threads())


def row(preset: str, rate: float) -> dict[str, Any]:
    measured = {name: rate for name in presets.RATES} | {f"{name}_memory": 10.0 for name in presets.RATES}
    return {"preset": preset, "parameters": 1234567, "gflop": 0.5, **measured}


class TestSteps:
    def test_an_operation_counts_once_and_a_view_apart(self) -> None:
        with steps.Operations() as operations:
            (torch.ones(2, 3).T + 1).sum()
        assert dict(operations.counts) == {"ones": 1, "add": 1, "sum": 1} and operations.views == 1

    def test_the_step_of_mini_keeps_its_limit(self, tmp_path: Path) -> None:
        options = Namespace(batch_size=4, precision="bf16", only=["mini"])
        operations = steps.count(steps.steps(tmp_path, options)["mini"])
        assert sum(operations.counts.values()) / 2 < 1200
        assert sum(operations.counts.values()) - operations.recordable < 2 * 150


class TestPresets:
    def test_nano_by_hand(self) -> None:
        tokens, width, pixels = 37, 128, 8 * 8
        patches = 2 * 36 * pixels * width
        # Queries, keys, values and output are four width x width layers, the MLP is eight.
        layers = 2 * tokens * 12 * width**2
        attention = 2 * 2 * tokens**2 * width
        head = 2 * width * 7
        size = presets.size_of("nano")
        assert size["gflop"] * 1e9 == pytest.approx(patches + 4 * (layers + attention) + head, rel=1e-12)
        assert size["parameters"] == 807_431

    def test_base_is_vit_b(self) -> None:
        block = 12 * 768**2 + 13 * 768
        embeddings = (36 + 1) * 768 + 768 + 65 * 768
        assert presets.size_of("base")["parameters"] == 12 * block + embeddings + 2 * 768 + 7 * 768 + 7

    def test_training_and_prediction_run(self) -> None:
        record = presets.training(setup()) | presets.prediction(setup())
        assert set(record) == {"training", "training_memory", "prediction", "prediction_memory"}
        assert record["training"] > 0 and record["prediction"] > 0

    @pytest.mark.slow
    def test_onnx_answers_as_torch_does_or_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("onnxscript")
        monkeypatch.setattr(presets, "PARITY", -1.0)
        with pytest.raises(ValueError, match=r"nano: ONNX Runtime's logits are off by (0\.0e\+00|\d\.\de-0[5-9]),"):
            presets.export(setup(), tmp_path / "nano.onnx")
        monkeypatch.undo()
        assert presets.onnx_prediction(setup(), tmp_path / "nano.onnx")["onnxruntime"] > 0

    def test_ratios_refer_to_tiny(self) -> None:
        rows = presets.with_ratios([row("nano", 30.0), row("tiny", 20.0)])
        assert [record["training_ratio"] for record in rows] == [1.5, 1.0]
        assert "training_ratio" not in presets.with_ratios([row("nano", 30.0)])[0]

    def test_the_table_is_markdown(self) -> None:
        head, line, first, second = presets.table(presets.with_ratios([row("nano", 30.0), row("tiny", 20.0)])).split(
            "\n"
        )
        assert head.count("|") == line.count("|") == first.count("|") == second.count("|") == 10
        assert first.startswith("| nano | 1,234,567 | 0.500 | 30.0 (1.50x) |") and second.endswith("| 10 | 10 | 10 |")


class TestRecipes:
    @pytest.fixture
    def options(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        command = ["recipes.py", "--data", "archive.zip", "--out", str(tmp_path), "--image-size", "24"]
        monkeypatch.setattr(sys, "argv", command)
        parsed = recipes.parse()
        parsed.autoencoder, parsed.teacher = tmp_path / "autoencoder", tmp_path / "teacher"
        parsed.answers = tmp_path / "answers.safetensors"
        parsed.more_teachers, parsed.second_autoencoder = [tmp_path / "other"], tmp_path / "second"
        return parsed

    def test_arms_differ_in_what_they_are_named_for_alone(self, options: Any) -> None:
        configs = {arm: dataclasses.asdict(recipes.settings(arm, options, 1).resolved()) for arm in recipes.TRAINED}
        changed = {
            arm: {name for name in configs["scratch"] if config[name] != configs["scratch"][name]} - {"out"}
            for arm, config in configs.items()
        }
        pretrained = {"backbone", "image_size", "layer_decay"}
        assert changed == {
            "scratch": set(),
            "adamw": {"optimizer", "lr"},
            "pretrained": pretrained,
            "frozen 4": pretrained | {"freeze"},
            "frozen 8": pretrained | {"freeze"},
            "released 4": pretrained | {"freeze"},
            "released 8": pretrained | {"freeze"},
            "masked": pretrained,
            "distilled": {"teacher"},
            "hints": {"teacher", "distill"},
            "both": pretrained | {"teacher", "distill"},
            "no maps": pretrained | {"teacher"},
            **dict.fromkeys(
                ["second teacher", "two teachers", "two teachers, split", "second autoencoder"],
                pretrained | {"teacher", "distill"},
            ),
            "out of fold": pretrained | {"targets", "distill"},
            "both, out of fold": pretrained | {"targets", "teacher", "distill"},
            "prior": pretrained | {"teacher", "distill", "logit_adjustment"},
            "mixed": pretrained | {"teacher", "distill", "augment"},
            "wide": pretrained | {"teacher", "distill", "augment"},
            "preset mini": set(),
            **{f"preset {name}": {"backbone"} for name in ("nano", "tiny", "small", "base")},
        }
        freezes = [configs[arm]["freeze"] for arm in ("frozen 4", "frozen 8", "released 4", "released 8")]
        assert [(freeze["blocks"], freeze["release_epoch"]) for freeze in freezes] == [
            (4, None),
            (8, None),
            (4, 2),
            (8, 2),
        ]
        taught_by = {arm: [Path(folder).name for folder in configs[arm]["teacher"]] for arm in configs}
        assert (taught_by["both"], taught_by["second teacher"]) == (["teacher"], ["other"])
        assert taught_by["two teachers"] == taught_by["two teachers, split"] == ["teacher", "other"]
        assert [configs[arm]["distill"]["split_batch"] for arm in ("two teachers", "two teachers, split")] == [
            False,
            True,
        ]
        assert [Path(configs[arm]["backbone"]).name for arm in ("both", "second autoencoder")] == [
            "autoencoder",
            "second",
        ]
        # The preset of all arms is not trained a second time.
        assert configs["preset mini"]["out"] == configs["scratch"]["out"] != configs["preset nano"]["out"]

    @pytest.mark.parametrize(("epochs", "released"), [(2, 2), (3, 2), (4, 3), (8, 5)])
    def test_blocks_are_released_half_way(self, options: Any, epochs: int, released: int) -> None:
        options.epochs = epochs
        assert recipes.settings("released 4", options, 0).freeze.release_epoch == released

    def test_what_cannot_be_made_is_told_at_once(self, options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(recipes, "make", lambda *_: pytest.fail("something is trained"))
        for changed, message in (
            ({"arms": ["scratch", "released 4"], "epochs": 1}, "--epochs 1: released 4 .* give at least 2"),
            ({"arms": ["scratch", "frozen 8"], "preset": "nano"}, "--preset nano: has 4 blocks, too few for frozen 8"),
            ({"arms": ["masked", "averaged"]}, "--arms averaged: .* give --arms scratch averaged"),
            ({"arms": ["two teachers"], "more_teachers": []}, "--more-teachers: two teachers needs a second teacher"),
            ({"arms": ["out of fold"], "answers": None}, "--answers: out of fold needs a file of `mien folds`"),
            ({"arms": ["second autoencoder"], "second_autoencoder": None}, "--second-autoencoder: .* give its run"),
        ):
            with pytest.raises(MienError, match=message):
                recipes.prepare(Namespace(**{**vars(options), **changed}))

    def test_the_table_gives_means_intervals_and_the_test_over_seeds(self) -> None:
        def run(accuracy: float, **fields: Any) -> dict[str, Any]:
            return {"accuracy": accuracy, "ci95": [accuracy - 0.02, accuracy + 0.01], "clean": 0.3, "macro_f1": 0.4,
                    "ece": 0.05, "images_per_second": 1234.0, "parameters": 3580423, **fields}  # fmt: skip

        unknown = {"clean": None, "ece": None, "images_per_second": None}
        lines = recipes.table([
            {"arm": "scratch", "runs": [run(0.40), run(0.42)], "gain": 0.0, "p": None},
            {"arm": "hints", "runs": [run(0.50), run(0.54)], "gain": 0.11, "p": 0.0012},
            {"arm": "teacher", "runs": [run(0.60, **unknown)], "gain": 0.19, "p": None},
        ]).splitlines()  # fmt: skip
        assert lines[2:] == [
            "| scratch | 41.00% (39.0 to 42.0) ± 1.41% | 30.00% | 0.400 | 0.050 | 1,234 | 3,580,423 | - |",
            "| hints | 52.00% (50.0 to 53.0) ± 2.83% | 30.00% | 0.400 | 0.050 | 1,234 | 3,580,423 | +11.00%, 0.0012 |",
            "| teacher | 60.00% (58.0 to 61.0) | - | 0.400 | - | - | 3,580,423 | +19.00% |",
        ]
        assert {line.count("|") for line in lines} == {9}

    def test_rows_are_tested_over_seeds_from_three_on(self) -> None:
        first = [np.array([True, False, False, False]), np.array([True, True, False, False])]
        better = [np.array([True, True, True, False])] * 2
        assert recipes.compared(first, first) == {"gain": 0.0, "p": None}
        assert recipes.compared(first, better) == {"gain": 0.375, "p": None}, "two seeds say nothing of chance"
        assert recipes.compared(first, better[:1]) == {"gain": 0.375, "p": None}
        # Gains of 1, 2 and 3 of 100: mean .02, deviation .01, t = 2 sqrt(3), two degrees of freedom.
        before = [np.arange(100) < count for count in (40, 50, 60)]
        after = [np.arange(100) < count for count in (41, 52, 63)]
        t = 2 * np.sqrt(3)
        compared = recipes.compared(before, after)
        assert compared["gain"] == pytest.approx(0.02)
        assert compared["p"] == pytest.approx(1 - t / np.sqrt(2 + t**2))

    def test_the_command_of_a_row_names_its_arm_alone(self) -> None:
        arguments = ["benchmarks/recipes.py", "--arms", "scratch", "frozen 4", "--epochs", "2", "--seeds", "0", "1"]
        start = "python benchmarks/recipes.py --epochs 2 --seeds 0 1 --arms"
        assert recipes.command_of(arguments, "frozen 4") == f"{start} 'frozen 4'"
        assert recipes.command_of(arguments, "both\naveraged") == f"{start} both averaged"

    def test_arms_are_made_once_and_with_the_same_settings(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_archive(tmp_path / "drawn.zip", draw_faces(70, 14, 14, seed=0))
        command = ["recipes.py", "--data", str(tmp_path / "drawn.zip"), "--out", str(tmp_path / "out"), "--seeds", "0",
                   "--preset", "nano", "--image-size", "16", "--batch-size", "16", "--teacher-epochs", "1",
                   "--pretrain-epochs", "1", "--device", "cpu", "--arms", "scratch", "hints", "masked", "averaged",
                   "teacher", "preset nano"]  # fmt: skip
        monkeypatch.setattr(sys, "argv", [*command, "--epochs", "1"])
        recipes.main()
        record = json.loads((tmp_path / "out" / "results.json").read_text())
        rows = {row["arm"]: row["runs"][0] for row in record["results"]}
        averaged = next(name for name in rows if name.startswith("averaged"))
        best = max(("scratch", "hints"), key=lambda name: rows[name]["accuracy"])
        assert averaged == f"averaged: {best}"
        assert list(rows) == ["scratch", "hints", "masked", recipes.SEEN_WHOLE, averaged, "teacher", "preset nano"]
        assert rows["preset nano"] == rows["scratch"]
        assert rows[averaged]["images_per_second"] is None and rows[averaged]["parameters"] == rows[best]["parameters"]
        assert all(run["ci95"][0] <= run["accuracy"] <= run["ci95"][1] for run in rows.values())
        assert record["images_seen"] == 64 and record["pretraining"]["epoch"] == 1 and record["machine"]["cores"] > 0
        assert record["results"][0]["p"] is None and record["results"][1]["p"] is None
        assert record["results"][4]["command"].endswith(f"--arms {best} averaged")
        output = capsys.readouterr().out
        assert "epoch   1/1" in output and "nano at 16 px, batch 16, precision auto, 64 images seen by each" in output
        recipes.main()
        assert "epoch   1/1" not in capsys.readouterr().out
        assert json.loads((tmp_path / "out" / "results.json").read_text())["results"] == record["results"]
        monkeypatch.setattr(sys, "argv", [*command, "--epochs", "2"])
        with pytest.raises(MienError, match=r"scratch-0: was made with other settings \(epochs: 1 -> 2"):
            recipes.main()


class TestMistakes:
    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        """Drawn faces; the first three of validation have a twin in training, two of these with another label."""
        drawn = draw_faces(14, 35, 7, seed=0)
        images = drawn.images.copy()
        train, validation = (np.flatnonzero(drawn.splits == split) for split in ("train", "validation"))
        same_label, *other_labels = [
            np.flatnonzero(drawn.labels[train] == label)[0] for label in (drawn.labels[validation[0]], 1, 5)
        ]
        for row, train_row in zip(validation, (same_label, *other_labels), strict=False):
            images[train[train_row]] = images[row]
        write_archive(tmp_path / "drawn.zip", dataclasses.replace(drawn, images=images))
        return tmp_path / "drawn.zip"

    @pytest.fixture
    def model(self, tmp_path: Path) -> Path:
        torch.manual_seed(0)
        network, preprocessing = build("nano", FER2013, grey=True)
        torch.nn.init.normal_(network.get_parameter("classifier.weight"))
        Classifier(network.eval(), preprocessing, FER2013).save(tmp_path / "model", {})
        return tmp_path / "model"

    def test_labels_of_twins_are_told(self, data: Path) -> None:
        faces: FaceSet = read_faces(data, cache=False)
        validation = faces.part("validation")
        labels = mistakes.twin_labels(validation.images, faces.part("train"))
        own_label = faces.names[validation.labels[0]]
        assert labels[:3] == [(own_label,), (faces.names[1],), (faces.names[5],)]
        assert set(labels[3:]) == {()}

    def test_the_surest_are_shown_with_all_that_is_known_of_them(
        self,
        data: Path,
        model: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(mistakes, "PER_SHEET", 6)
        out = tmp_path / "sheet"
        command = ["mistakes.py", str(model), "--data", str(data), "--out", str(out), "--count", "8", "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", command)
        mistakes.main()
        record = json.loads(capsys.readouterr().out.splitlines()[-1])
        with (out / "mistakes.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["number"] for row in rows] == [str(number) for number in range(1, 9)]
        probabilities = [float(row["probability"]) for row in rows]
        assert probabilities == sorted(probabilities, reverse=True)
        faces = read_faces(data).part("validation")
        labels = dict(zip(faces.ids, faces.labels, strict=True))
        assert all(row["label"] == faces.names[labels[row["id"]]] != row["reading"] for row in rows)
        assert all(float(row["p_label"]) < float(row["probability"]) and row["verdict"] == "" for row in rows)
        assert all((row["twin"] == "yes") == bool(row["twin_labels"]) for row in rows)
        assert record["shown"]["mistakes"] == 8 and record["all"]["mistakes"] == round((1 - record["accuracy"]) * 35)
        assert sorted(path.name for path in out.glob("*.png")) == ["mistakes-1.png", "mistakes-2.png"]
        assert "most frequent confusions:" in (out / "classes.txt").read_text()
        with pytest.raises(MienError, match=r"mistakes.csv: is there already, perhaps with verdicts"):
            mistakes.main()

    def test_a_caption_names_the_other_label_of_a_twin(self) -> None:
        mistake = {"number": 3, "id": "test/fear/PublicTest_7.jpg", "label": "fear", "reading": "sad",
                   "probability": 0.876, "p_label": 0.1, "twin": True, "twin_labels": ("fear", "sad")}  # fmt: skip
        assert mistakes.caption(mistake) == "3. fear, read as\nsad, 88%\nPublicTest_7\ntwin: sad"
        with_same_label = {**mistake, "twin_labels": ("fear",)}
        assert mistakes.caption(with_same_label).endswith("twin: same label")
        without_twin = {**mistake, "twin": False, "twin_labels": ()}
        assert mistakes.caption(without_twin).endswith("PublicTest_7")
        assert mistakes.counts([mistake, with_same_label, without_twin]) == {
            "mistakes": 3, "with_twin": 2, "twin_of_other_label": 1, "twin_labelled_as_read": 1
        }  # fmt: skip


def test_the_input_pipeline_is_measured_beside_torchvision(tmp_path: Path) -> None:
    input_pipeline.write_noise(tmp_path, 140)
    record = input_pipeline.measure(tmp_path, read_faces(tmp_path, cache=False), 48, rounds=1)
    assert record["ratio"] == pytest.approx(record["mien"] / record["torchvision"], abs=0.02)


def test_masked_inputs_hide_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    network, preprocessing = build("nano", FER2013, grey=True)
    torch.nn.init.normal_(network.get_parameter("classifier.weight"))
    classifier = Classifier(network.eval(), preprocessing, FER2013)
    classifier.save(tmp_path / "model", {})
    write_archive(tmp_path / "drawn.zip", draw_faces(14, 70, 14, seed=0))
    monkeypatch.setattr(
        sys, "argv", ["masked_inputs.py", str(tmp_path / "model"), "--data", str(tmp_path / "drawn.zip")]
    )
    masked_inputs.main()
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    faces = read_faces(str(tmp_path / "drawn.zip")).part("validation")
    order = torch.tensor([FER2013.index(name) for name in faces.names])
    right = classifier.logits(faces.images, quiet=True).argmax(1) == order[torch.from_numpy(faces.labels)].numpy()
    assert record["visible"] == pytest.approx(right.mean())
    assert record["changed"] > 0 and len(record["masked"]) == 2


def test_patches_are_hidden_for_a_while_in_every_vit() -> None:
    network, _ = build("nano", FER2013, grey=True)
    pixels = torch.zeros(1, 1, 48, 48)

    def tokens() -> int:
        return int(network(pixel_values=pixels, output_hidden_states=True).hidden_states[0].shape[1])

    with masked_inputs.hidden_patches():
        assert tokens() == 1 + 9  # of 36 patches
    assert tokens() == 1 + 36
    with masked_inputs.hidden_patches(0.0):
        assert tokens() == 1 + 36


def test_cls_stays_and_no_patch_is_seen_twice() -> None:
    numbered = torch.arange(17.0).view(1, 17, 1).expand(64, 17, 2)
    visible = masked_inputs.hide(numbered, 0.75)[..., 0]
    assert visible.shape == (64, 5) and (visible[:, 0] == 0).all()
    assert all(len(set(row)) == 5 for row in visible.tolist())
    assert len({tuple(sorted(row)) for row in visible.tolist()}) > 40  # another choice for nearly every picture
