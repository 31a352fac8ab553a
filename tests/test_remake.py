"""The shipped model made again, in miniature: every stage, and once more over what is done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import remake
import torch
from safetensors.torch import load_file

from mien.cli.recipes import recipes
from mien.data.drawn import draw_faces, write_archive
from mien.data.read import read_faces
from mien.model.classifier import Classifier
from mien.model.places import FINGERPRINTS

TEACHER = (
    "backbone: timm:resnet18\nnetwork_args: {channels: [8, 8, 8, 8], layers: [1, 1, 1, 1]}\n"
    "image_size: 32\nepochs: 1\nbatch_size: 32\nwarmup_epochs: 0\ndevice: cpu\n"
)
AUTOENCODER = "preset: nano\nepochs: 1\nbatch_size: 32\nprobe_epochs: 0\ndevice: cpu\n"
STUDENT = "epochs: 1\nbatch_size: 32\nwarmup_epochs: 0\nfreeze: {blocks: 0}\ndevice: cpu\n"
MINIATURE = {
    **dict.fromkeys(("teacher", "second-teacher", "third-teacher"), TEACHER),
    **dict.fromkeys(("mae", "nano-mae"), AUTOENCODER),
    **dict.fromkeys(("student", "second-student", "mini", "nano"), STUDENT),
    **dict.fromkeys(
        ("nano-student", "nano-second-student", "nano-third-student"), STUDENT + "distill: {features: 1}\n"
    ),
}


def test_each_run_goes_on_from_those_before_it(tmp_path: Path) -> None:
    (tmp_path / "mae").mkdir()
    (tmp_path / "mae" / "state.safetensors").touch()
    commands = remake.commands("archive.zip", tmp_path)
    runs, later_commands = dict(zip([stage.name for stage in remake.STAGES], commands, strict=False)), commands[12:]
    assert [command[0] for command in runs.values()] == [
        "train", "train", "pretrain", "train", "train", "train", "train", "pretrain", "train", "train", "train",
        "train",
    ]  # fmt: skip
    assert [command[0] for command in later_commands] == ["evaluate", "pack", "card"] * 2
    assert "--resume" in runs["mae"] and "--resume" not in runs["teacher"]

    def paths_after(name: str, option: str) -> list[str]:
        arguments = runs[name][runs[name].index(option) + 1 :]
        return [str(Path(path).relative_to(tmp_path)) for path in arguments if path.startswith(str(tmp_path))]

    assert paths_after("student", "--backbone") == ["mae/model", "second-teacher"]
    assert paths_after("second-student", "--backbone") == ["student/model", "third-teacher"]
    assert paths_after("mini", "--backbone") == ["second-student/model", "second-student"]
    assert paths_after("nano-student", "--backbone") == ["nano-mae/model", "second-teacher"]
    assert paths_after("nano-second-student", "--backbone") == ["nano-student/model", "third-teacher", "second-student"]
    assert paths_after("nano-third-student", "--backbone") == ["nano-second-student/model", "third-teacher"]
    assert paths_after("nano", "--backbone") == ["nano-third-student/model", "mini", "nano-third-student"]
    third = runs["nano-third-student"]
    wide = Path(third[third.index("--teacher") + 1])  # a teacher of the checkout
    assert wide.parts[-2:] == ("teachers", "wide_cnn") and (wide / "meta.json").is_file()
    assert paths_after("second-teacher", "--teacher") == ["teacher"]
    assert paths_after("third-teacher", "--teacher") == ["student", "second-teacher"]
    assert later_commands[0][later_commands[0].index("--split") + 1] == "validation"


def test_the_recipe_is_there() -> None:
    assert {stage.name for stage in remake.STAGES} <= set(recipes())


@pytest.mark.slow
def test_the_whole_path_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out = tmp_path / "drawn.zip", tmp_path / "model"
    write_archive(data, draw_faces(70, 35, 14, seed=0))
    configs = tmp_path / "configs"
    configs.mkdir()
    for name, text in MINIATURE.items():
        (configs / f"{name}.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setattr("mien.cli.recipes.RECIPES", configs)
    assert remake.remake(str(data), out) == 0
    assert {path.name for path in (out / "packed").iterdir()} == set(remake.SHIPPED)
    packed = out / "packed" / "mini"
    weights = load_file(packed / "model.safetensors")
    names_not_halved = {name for name, tensor in weights.items() if tensor.dtype != torch.float16}
    assert names_not_halved == {
        name for name in weights if "patch_embeddings.projection" in name or name.startswith("classifier.")
    }
    assert json.loads((packed / "config.json").read_text(encoding="utf-8"))["dtype"] == "float32"
    assert (packed / "model.int8.onnx").is_file() and (packed / FINGERPRINTS).is_file()
    classifier = Classifier.load(packed)
    assert {parameter.dtype.is_floating_point for parameter in classifier.network.parameters()} == {True}
    assert str(next(classifier.network.parameters()).dtype) == "torch.float32"
    release = classifier.meta()["release"]
    roles = [stage["role"] for stage in release["origin"]]
    further = "earlier fine-tuning"
    assert roles == ["pretraining", "teacher", "teacher", further, "teacher", further, "fine-tuning"]
    faces = read_faces(str(data)).part("validation")
    order = [classifier.names.index(name) for name in faces.names]
    is_right = classifier.logits(faces.images, quiet=True)[:, order].argmax(1) == faces.labels
    assert release["scores"]["validation"]["accuracy"] == pytest.approx(float(is_right.mean()))
    assert f"{is_right.mean():.2%}" in (out / "MODEL_CARD-mini.md").read_text(encoding="utf-8")
    weights_before = (out / "mini" / "model" / "model.safetensors").read_bytes()
    assert remake.remake(str(data), out) == 0
    assert (out / "mini" / "model" / "model.safetensors").read_bytes() == weights_before
