"""The benchmarks: that their counts are right and that they run; no test depends on a time."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from mien.data.drawn import draw_faces, write_archive
from mien.data.read import read_faces
from mien.errors import MienError
from mien.labels import FER2013
from mien.model.backbone import build
from mien.model.classifier import Classifier

FOLDER = Path(__file__).parents[1] / "benchmarks"


def load(name: str) -> ModuleType:
    """A script of benchmarks/ as a module."""
    specification = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # where dataclasses look for it
    specification.loader.exec_module(module)
    return module


presets: Any = load("presets")
recipes: Any = load("recipes")
input_pipeline: Any = load("input_pipeline")
masked_inputs: Any = load("masked_inputs")


def setup() -> Any:
    return presets.Setup("nano", batch_size=2, seconds=0.0, threads=torch.get_num_threads(), device="cpu")


def row(preset: str, rate: float) -> dict[str, Any]:
    measured = {name: rate for name in presets.RATES} | {f"{name}_memory": 10.0 for name in presets.RATES}
    return {"preset": preset, "parameters": 1234567, "gflop": 0.5, **measured}


class TestPresets:
    def test_nano_by_hand(self) -> None:
        tokens, width, pixels = 37, 128, 8 * 8
        patches = 2 * 36 * pixels * width
        # Queries, keys, values and output are four width x width layers, the MLP is eight.
        layers = 2 * tokens * 12 * width**2
        attention = 2 * 2 * tokens**2 * width
        head = 2 * width * 7
        size = presets.size_of("nano")
        assert size["gflop"] * 1e9 == pytest.approx(patches + 6 * (layers + attention) + head, rel=1e-12)
        assert size["parameters"] == 1_203_975

    def test_base_is_vit_b(self) -> None:
        block = 12 * 768**2 + 13 * 768
        embeddings = (36 + 1) * 768 + 768 + 65 * 768
        assert presets.size_of("base")["parameters"] == 12 * block + embeddings + 2 * 768 + 7 * 768 + 7

    def test_training_and_prediction_run(self) -> None:
        found = presets.training(setup()) | presets.prediction(setup())
        assert set(found) == {"training", "training_memory", "prediction", "prediction_memory"}
        assert found["training"] > 0 and found["prediction"] > 0

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
        assert [found["training_ratio"] for found in rows] == [1.5, 1.0]
        assert "training_ratio" not in presets.with_ratios([row("nano", 30.0)])[0]

    def test_the_table_is_markdown(self) -> None:
        head, line, first, second = presets.table(presets.with_ratios([row("nano", 30.0), row("tiny", 20.0)])).split(
            "\n"
        )
        assert head.count("|") == line.count("|") == first.count("|") == second.count("|") == 10
        assert first.startswith("| nano | 1,234,567 | 0.500 | 30.0 (1.50x) |") and second.endswith("| 10 | 10 | 10 |")


class TestRecipes:
    @pytest.fixture
    def given(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        command = ["recipes.py", "--data", "archive.zip", "--out", str(tmp_path), "--image-size", "24"]
        monkeypatch.setattr(sys, "argv", command)
        parsed = recipes.parse()
        parsed.autoencoder, parsed.teacher = tmp_path / "autoencoder", tmp_path / "teacher"
        return parsed

    def test_arms_differ_in_what_they_are_named_for_alone(self, given: Any) -> None:
        arms = {arm: dataclasses.asdict(recipes.settings(arm, given, 1).resolved()) for arm in recipes.ARMS}
        changed = {
            arm: {name for name in arms["scratch"] if config[name] != arms["scratch"][name]} - {"out"}
            for arm, config in arms.items()
        }
        pretrained = {"backbone", "image_size", "layer_decay"}
        assert changed == {
            "scratch": set(),
            "adamw": {"optimizer", "lr"},
            "pretrained": pretrained,
            "frozen 4": pretrained | {"freeze"},
            "frozen 8": pretrained | {"freeze"},
            "distilled": {"teacher"},
            "hints": {"teacher", "distill"},
            "both": pretrained | {"teacher", "distill"},
        }
        assert [arms[f"frozen {k}"]["freeze"]["blocks"] for k in (4, 8)] == [4, 8]

    def test_the_table_gives_means_and_the_paired_test(self) -> None:
        def run(accuracy: float) -> dict[str, float]:
            return {"accuracy": accuracy, "macro_f1": 0.4, "ece": 0.05, "images_per_second": 100.0}

        found = recipes.table([
            {"arm": "scratch", "runs": [run(0.40), run(0.42)], "gain": 0.0, "test": None},
            {"arm": "hints", "runs": [run(0.50), run(0.54)], "gain": 0.11, "test": {"p": 0.0012}},
        ]).splitlines()  # fmt: skip
        assert found[2] == "| scratch | 41.00% ± 1.41% | 0.400 | 0.050 | 100 | - |"
        assert found[3] == "| hints | 52.00% ± 2.83% | 0.400 | 0.050 | 100 | +11.00%, 0.0012 |"

    def test_arms_are_made_once_and_with_the_same_settings(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_archive(tmp_path / "drawn.zip", draw_faces(70, 14, 14, seed=0))
        command = ["recipes.py", "--data", str(tmp_path / "drawn.zip"), "--out", str(tmp_path / "out"), "--seeds", "0",
                   "--preset", "nano", "--image-size", "16", "--batch-size", "16", "--teacher-epochs", "1",
                   "--pretrain-epochs", "1", "--device", "cpu", "--arms", "scratch", "hints", "frozen 4"]  # fmt: skip
        monkeypatch.setattr(sys, "argv", [*command, "--epochs", "1"])
        recipes.main()
        record = json.loads((tmp_path / "out" / "results.json").read_text())
        assert [row["arm"] for row in record["results"]] == ["scratch", "hints", "frozen 4"]
        assert record["images_seen"] == 64 and record["pretraining"]["epoch"] == 1
        assert record["results"][0]["test"] is None and record["results"][1]["test"]["p"] <= 1
        assert "epoch   1/1" in capsys.readouterr().out
        recipes.main()
        assert "epoch   1/1" not in capsys.readouterr().out
        assert json.loads((tmp_path / "out" / "results.json").read_text())["results"] == record["results"]
        monkeypatch.setattr(sys, "argv", [*command, "--epochs", "2"])
        with pytest.raises(MienError, match=r"scratch-0: was made with other settings \(epochs: 1 -> 2"):
            recipes.main()


def test_the_input_pipeline_is_measured_beside_torchvision(tmp_path: Path) -> None:
    input_pipeline.write_noise(tmp_path, 140)
    found = input_pipeline.measure(tmp_path, read_faces(tmp_path, cache=False), 48, rounds=1)
    assert found["ratio"] == pytest.approx(found["mien"] / found["torchvision"], abs=0.02)
    assert found["target"] == 5


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
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    faces = read_faces(str(tmp_path / "drawn.zip")).part("validation")
    order = torch.tensor([FER2013.index(name) for name in faces.names])
    right = classifier.logits(faces.images, quiet=True).argmax(1) == order[torch.from_numpy(faces.labels)].numpy()
    assert told["visible"] == pytest.approx(right.mean())
    assert told["changed"] > 0 and len(told["masked"]) == 2
    mask = masked_inputs.Mask(classifier)
    mask.ratio = 0.75
    states = classifier.network(pixel_values=torch.zeros(1, 1, 48, 48), output_hidden_states=True).hidden_states
    assert states[0].shape[1] == 1 + 9  # of 36 patches
