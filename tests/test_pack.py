"""A packed model: what it holds, what it may not overwrite, and that its ONNX answers as its weights do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import synthetic_faces
from safetensors.numpy import load_file

from mien.cli import main
from mien.data.clean import sketch
from mien.data.drawn import draw_faces, write_archive
from mien.data.faces import FaceSet
from mien.errors import MienError
from mien.export import export as exporting
from mien.export.card import card
from mien.export.pack import FILES, origin, pack
from mien.files import read_json_object, umask, write_json
from mien.labels import FER2013
from mien.model.classifier import Classifier
from mien.model.places import FINGERPRINTS
from mien.model.vit import build
from mien.recognition.engine import OnnxEngine
from mien.training.objective import write_answers


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of a classifier of drawn faces with random weights, and sketches in it."""
    torch.manual_seed(0)
    network, preprocessing = build("nano", FER2013, grey=True)
    torch.nn.init.normal_(network.get_parameter("classifier.weight"), std=0.1)
    folder = tmp_path_factory.mktemp("run") / "model"
    meta = {"names": list(FER2013), "command": "mien train", "metrics": None, "config": {},
            "data": {"source": "drawn.zip", "fingerprint": "0" * 64, "images": {"train": 7}}}  # fmt: skip
    Classifier(network.eval(), preprocessing, FER2013).save(folder, meta, sketch(draw_faces(7, 0, 0, seed=1).images))
    return folder


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drawn") / "drawn.zip"
    write_archive(path, draw_faces(14, 14, 14, seed=0))
    return path


def test_what_is_packed_is_what_is_scored_and_holds_no_face(run: Path, archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "packed"
    command = ["pack", str(run), "--data", str(archive), "--out", str(out), "--splits", "validation", "test", "--int8"]
    assert main(command) == 0
    assert {path.name for path in out.iterdir()} == FILES
    expected = 0o666 & ~umask()
    assert {path.stat().st_mode & 0o777 for path in [*out.iterdir(), *run.iterdir()]} == {expected}, "others may read"
    assert out.stat().st_mode & 0o777 == 0o777 & ~umask()
    assert (out / "README.md").read_text(encoding="utf-8") == card(read_json_object(out / "meta.json"), "packed")
    assert load_file(out / FINGERPRINTS)["codes"].shape == (7, 32)
    release = read_json_object(out / "meta.json")["release"]
    for name in ("model.onnx", "model.int8.onnx"):
        hashes = {key: value for key, value in OnnxEngine(out / name, "cpu", 1).metadata.items() if "sha256" in key}
        assert hashes == {"weights_sha256": release["sha256"]}, "no hash of a file that packing changes afterwards"
    assert release["files"] == {
        name: (out / name).stat().st_size for name in sorted(FILES - {"meta.json", "README.md"})
    }, "meta.json grows by this list, and README.md is made from it"
    assert list(release["scores"]) == ["validation", "test"]
    assert release["onnx"]["split"] == "validation" and release["onnx"]["engines"]["ONNX"]["largest_difference"] <= 1e-4
    faces = draw_faces(14, 14, 14, seed=0).part("test")
    predictions = OnnxEngine(out / "model.onnx", "cpu", 1).read(faces.images).probabilities.argmax(axis=1)
    order = [FER2013.index(name) for name in faces.names]
    is_right = predictions == np.array(order)[faces.labels]
    assert release["scores"]["test"]["accuracy"] == pytest.approx(float(is_right.mean()))
    assert main(command) == 0  # over an earlier one
    assert main(["card", str(out), "--out", str(tmp_path / "CARD.md")]) == 0
    assert f"{is_right.mean():.2%}" in (tmp_path / "CARD.md").read_text(encoding="utf-8")


def test_a_model_of_other_tools_is_refused_before_any_work(
    run: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = shutil.copytree(run, tmp_path / "foreign")
    (foreign / "meta.json").unlink()
    monkeypatch.setattr("mien.export.pack.evaluate", lambda *args, **options: pytest.fail("scored the model"))
    assert main(["pack", str(foreign), "--data", str(archive), "--out", str(tmp_path / "packed")]) == 2
    error = capsys.readouterr().err
    assert "foreign: its meta.json does not say what it was trained on" in error and "`mien export`" in error
    assert not (tmp_path / "packed").exists()


def test_no_folder_of_the_packer_is_passed_on(run: Path, archive: Path, tmp_path: Path) -> None:
    own = shutil.copytree(run, tmp_path / "first" / "model")
    meta = read_json_object(own / "meta.json")
    backbone = str(tmp_path / "mae" / "model")
    meta |= {"command": f"mien train --data {archive} --backbone {backbone}", "config": {"backbone": backbone}}
    meta["data"]["source"] = str(archive)
    write_json(own / "meta.json", meta)
    out = tmp_path / "packed"
    splits = ["--splits", "validation", "--splits", "test", "validation"]
    assert main(["pack", str(own), "--data", str(archive), "--out", str(out), *splits]) == 0
    for name in ("meta.json", "README.md"):
        text = (out / name).read_text(encoding="utf-8")
        assert str(tmp_path.parent) not in text and str(archive.parent) not in text, name
    packed = read_json_object(out / "meta.json")
    assert packed["config"] == {"backbone": "mae/model"} and packed["data"]["source"] == "drawn.zip"
    assert packed["command"] == "mien train --data drawn.zip --backbone mae/model"
    assert list(packed["release"]["scores"]) == ["validation", "test"], "no list loses its first values"


def test_a_damaged_record_of_a_teacher_costs_no_scores(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mien.export.pack.evaluate", lambda *args, **options: pytest.fail("scored the model"))
    for folder in ("teacher", "first"):
        shutil.copytree(run, tmp_path / folder / "model")
    (tmp_path / "teacher" / "model" / "meta.json").write_text("{", encoding="utf-8")
    meta = read_json_object(run / "meta.json")
    config = {"backbone": "nano", "teacher": [str(tmp_path / "teacher")]}
    write_json(tmp_path / "first" / "model" / "meta.json", {**meta, "config": config})
    with pytest.raises(MienError, match=r"teacher/model/meta\.json: is not readable JSON"):
        pack(tmp_path / "first", tmp_path / "packed", draw_faces(14, 14, 14, seed=0))
    del meta["data"]["source"]
    write_json(tmp_path / "first" / "model" / "meta.json", meta)
    with pytest.raises(MienError, match="does not say what it was trained on"):
        pack(tmp_path / "first", tmp_path / "packed", draw_faces(14, 14, 14, seed=0))


def test_robustness_is_that_of_the_set_at_hand(run: Path, tmp_path: Path) -> None:
    first, second = draw_faces(14, 14, 14, seed=0), draw_faces(14, 14, 14, seed=2)

    def rows(model: Path, name: str, faces: FaceSet) -> list[dict[str, Any]]:
        return read_json_object(pack(model, tmp_path / name, faces) / "meta.json")["release"]["robustness"]["rows"]

    expected = rows(run, "first", first)
    assert rows(run, "second", second) != expected
    assert rows(tmp_path / "second", "again", first) == expected, "not what the other set gave"


def test_nothing_else_is_lost(run: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    assert main(["pack", str(run), "--data", str(archive), "--out", str(tmp_path)]) == 2
    assert "holds photos, which no pack wrote" in capsys.readouterr().err and (tmp_path / "photos").is_dir()


def test_an_onnx_file_that_answers_otherwise_is_not_packed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces = draw_faces(14, 14, 14, seed=0)
    original = exporting.onnx_model

    def other(classifier: Classifier) -> object:
        with torch.no_grad():
            classifier.network.get_parameter("classifier.bias")[0] += 0.5
        return original(classifier)

    monkeypatch.setattr(exporting, "onnx_model", other)
    with pytest.raises(MienError, match="probabilities differ from PyTorch's") as caught:
        pack(run, tmp_path / "packed", faces)
    assert str(caught.value).startswith(f"{run}: "), "names no temporary folder"
    assert "`mien export` takes a larger --tolerance" in str(caught.value), "this command has no such option"
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_too_large_is_refused_before_the_data_is_read(
    run: Path, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mien.export.pack.LARGEST_WEIGHTS", 2**20)
    monkeypatch.setattr("mien.data.read.read_faces", lambda *_: pytest.fail("read the data"))
    assert main(["pack", str(run), "--data", str(archive), "--out", str(tmp_path / "packed")]) == 2
    error = capsys.readouterr().err
    assert f"{run}: its weights take 1.6 MiB in half precision, expected at most 1; distil" in error
    assert not (tmp_path / "packed").exists()


def test_a_split_that_is_missing_is_told_first(run: Path, tmp_path: Path) -> None:
    with pytest.raises(MienError, match="test"):
        pack(run, tmp_path / "packed", synthetic_faces({"train": 6, "validation": 6}), splits=("test",))


def test_the_runs_behind_a_model_are_told_once_each(tmp_path: Path) -> None:
    runs: dict[str, tuple[str, dict[str, Any]]] = {
        "mae": ("vit_mae", {"backbone": "nano"}),
        "cnn": ("timm_wrapper", {"backbone": "timm:face_cnn", "teacher": []}),
        "first": ("vit", {"backbone": "mae/model", "teacher": ["cnn"]}),
        "second": ("vit", {"backbone": "first", "teacher": ["cnn", "first/model", "gone"]}),
    }
    for name, (kind, config) in runs.items():
        config = {
            key: [str(tmp_path / entry) for entry in value] if isinstance(value, list) else str(tmp_path / value)
            for key, value in config.items()
        }
        write_json(tmp_path / name / "model" / "config.json", {"model_type": kind})
        write_json(tmp_path / name / "model" / "meta.json", {"command": name, "config": config})
    records = origin(tmp_path / "second" / "model")
    stages = [(stage["role"], stage["command"]) for stage in records]
    assert stages == [
        ("pretraining", "mae"),
        ("teacher", "cnn"),
        ("earlier fine-tuning", "first"),
        ("teacher", None),
        ("fine-tuning", "second"),
    ]
    assert records[3]["weights_from"] == str(tmp_path / "gone")
    # "nano" and "timm:face_cnn" stand in the configuration of these as paths that are not there.
    assert [stage["weights_from"] is None for stage in records] == [False, False, True, False, True]


def test_networks_whose_answers_taught_are_told(tmp_path: Path) -> None:
    answers = tmp_path / "folds" / "answers.safetensors"
    answers.parent.mkdir()
    teacher = str(tmp_path / "cnn")
    for name, kind, config in (
        ("cnn", "timm_wrapper", {"backbone": "timm:face_cnn"}),
        ("run", "vit", {"backbone": "nano", "teacher": [teacher], "targets": str(answers)}),
    ):
        write_json(tmp_path / name / "model" / "config.json", {"model_type": kind})
        write_json(tmp_path / name / "model" / "meta.json", {"command": name, "config": config})

    def stages() -> list[tuple[str, str | None, str | None]]:
        found = origin(tmp_path / "run" / "model")
        assert all({"metrics", "machine", "seconds", "epochs"} <= stage.keys() for stage in found)
        return [(stage["role"], stage["command"], stage["weights_from"]) for stage in found]

    cnn, own = ("teacher", "cnn", None), ("fine-tuning", "run", None)
    assert stages() == [cnn, ("answers of other networks", None, str(answers)), own], "a file that is gone"
    record = {"names": ["a"], "training": "0", "command": "mien folds"}
    for config, weights_from in (
        ({"backbone": "facebook/vit-mae-base", "teacher": [teacher]}, "facebook/vit-mae-base"),
        ({"backbone": "mini"}, None),
    ):
        write_answers(answers, np.ones((1, 1)), np.zeros(1, np.int64), {**record, "config": config})
        assert stages() == [cnn, ("answers of other networks", "mien folds", weights_from), own]
    write_answers(answers, np.ones((1, 1)), np.zeros(1, np.int64), {**record, "config": {"teacher": "cnn"}})
    with pytest.raises(MienError, match=r"answers\.safetensors: its config is not as `mien train` wrote it"):
        stages()


def test_a_copy_of_a_run_is_listed_once(tmp_path: Path) -> None:
    """The backbone was packed with its teacher, of which only the model folder was kept; it teaches again."""
    scores = {"accuracy": 0.5}
    cnn = {"role": "teacher", "command": "cnn", "metrics": scores, "epochs": 20, "seconds": 60.0}
    start = {"role": "fine-tuning", "command": "start", "weights_from": None}
    for name, meta in (
        ("start", {"release": {"origin": [cnn, start]}}),
        ("kept", {"command": "cnn", "metrics": scores, "config": {"backbone": "timm:face_cnn"}}),
        ("other", {"command": "cnn", "metrics": {"accuracy": 0.6}, "config": {"backbone": "timm:face_cnn"}}),
        ("run", {"command": "run", "config": {
            "backbone": str(tmp_path / "start"), "teacher": [str(tmp_path / name) for name in ("kept", "other")],
        }}),
    ):  # fmt: skip
        write_json(tmp_path / name / "config.json", {"model_type": "vit"})
        write_json(tmp_path / name / "meta.json", meta)
    stages = origin(tmp_path / "run")
    assert [stage["command"] for stage in stages] == ["cnn", "start", "cnn", "run"]
    assert stages[0] == cnn and stages[2]["metrics"] == {"accuracy": 0.6}


def test_a_packed_model_brings_its_runs(tmp_path: Path) -> None:
    """Both the backbone and a teacher were packed after the same autoencoder, which is listed once."""
    mae = {"role": "pretraining", "command": "mae", "weights_from": None}
    for name in ("start", "teacher"):
        stages = [mae, {"role": "fine-tuning", "command": name, "weights_from": None}]
        write_json(tmp_path / name / "config.json", {"model_type": "vit"})
        write_json(tmp_path / name / "meta.json", {"command": name, "release": {"origin": stages}})
    config = {"backbone": str(tmp_path / "start"), "teacher": [str(tmp_path / "teacher")]}
    write_json(tmp_path / "run" / "model" / "config.json", {"model_type": "vit"})
    write_json(tmp_path / "run" / "model" / "meta.json", {"command": "run", "config": config})
    assert [(stage["role"], stage["command"]) for stage in origin(tmp_path / "run" / "model")] == [
        ("pretraining", "mae"),
        ("earlier fine-tuning", "start"),
        ("teacher", "teacher"),
        ("fine-tuning", "run"),
    ]
    assert origin(tmp_path / "start") == [mae, {"role": "fine-tuning", "command": "start", "weights_from": None}]
    write_json(tmp_path / "start" / "meta.json", {"release": {"origin": ["mae"]}})
    with pytest.raises(MienError, match="its release is not as `mien pack` wrote it"):
        origin(tmp_path / "run" / "model")


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [("nano", None), ("timm:face_cnn", None), ("timm:resnet18.a1_in1k", "timm:resnet18.a1_in1k"),
     ("facebook/vit-mae-base", "facebook/vit-mae-base")],
)  # fmt: skip
def test_weights_that_no_run_made_are_told(tmp_path: Path, backbone: str, expected: str | None) -> None:
    write_json(tmp_path / "a" / "model" / "config.json", {"model_type": "vit"})
    write_json(tmp_path / "a" / "model" / "meta.json", {"command": "a", "config": {"backbone": backbone}})
    (stage,) = origin(tmp_path / "a" / "model")
    assert stage["weights_from"] == expected


@pytest.mark.parametrize("name", ["vit-mae-base", "nano"])  # the second is also the name of a fresh preset
def test_a_folder_without_a_record_is_of_others(tmp_path: Path, name: str) -> None:
    write_json(tmp_path / name / "config.json", {"model_type": "vit_mae"})
    write_json(tmp_path / "a" / "model" / "config.json", {"model_type": "vit"})
    config = {"backbone": str(tmp_path / name)}
    write_json(tmp_path / "a" / "model" / "meta.json", {"command": "a", "config": config})
    assert [stage["weights_from"] for stage in origin(tmp_path / "a" / "model")] == [name, None]
