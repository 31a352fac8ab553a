"""Settings and saved states: bombs and nonsense are one line; loops of records end."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_helpers import error_of
from safetensors.numpy import save_file

from mien.config import TrainConfig
from mien.data.clean import as_trained
from mien.errors import MienError
from mien.export.pack import origin
from mien.training.folder import load_state, state_path

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 10)
)
DEEP = 3_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "line 2 column 10: is not YAML (aliases (*name) are not taken)"),
        ("epochs: &e 3\nseed: *e\n", "aliases (*name) are not taken"),
        ("augment: &a {rotation: 5}\nx:\n  <<: *a\n", "aliases (*name) are not taken"),
        ("[" * DEEP, "nested too deeply"),
        ("{a: " * DEEP, "nested too deeply"),
        ("- " * DEEP + "x", "nested too deeply"),
        ("a: !!python/object/apply:os.system ['touch pwned']\n", ""),
        ("seed: !!binary x\n", ""),
        ("\0", "is not YAML"),
        ("lr: [" + "9, " * 4000 + "]\n", "expected a number"),
        ("".join(f"nosuch{number}: 1\n" for number in range(500)), "and 480 more"),
        ("x" * 1000 + ": 1\n", "no such field"),
    ],
    ids=["bomb", "alias", "merge", "lists", "mappings", "dashes", "object", "binary", "NUL", "long", "many", "key"],
)
def test_yaml(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bomb.yaml").write_text(text)
    started = time.monotonic()
    line = error_of("train", "--config", "bomb.yaml", "--data", "x.zip", "--out", "out")
    assert message in line and len(line) < 2500 and time.monotonic() - started < 20
    assert not (tmp_path / "pwned").exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "header",
    ["[]", "null", "[" * 200_000, '{"config": [], "fingerprint": "", "progress": {}}',
     '{"config": {"augment": [1]}, "fingerprint": "", "progress": {}}',
     '{"config": {}, "fingerprint": "", "progress": {"history": {}}}',
     '{"config": {}, "fingerprint": "", "progress": {"epoch": "1"}}',
     '{"config": {}, "fingerprint": "", "progress": {"step": ' + "9" * 5000 + "}}",
     '{"config": {}, "fingerprint": "", "progress": []}'],
    ids=range(9),
)  # fmt: skip
def test_states(header: str, tmp_path: Path) -> None:
    save_file({"x": np.zeros(1, np.float32)}, state_path(tmp_path), metadata={"mien": header})
    with pytest.raises(MienError) as error:
        load_state(tmp_path, TrainConfig(data="", out=str(tmp_path)), "")
    assert "\n" not in str(error.value) and "state.safetensors: " in str(error.value)


def model(folder: Path, config: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    (folder / "meta.json").write_text(json.dumps({"command": str(folder), "config": config}))
    return folder


def test_a_loop_of_runs_ends(tmp_path: Path) -> None:
    a, b = tmp_path / "a" / "model", tmp_path / "b" / "model"
    model(a, {"backbone": str(b), "teacher": [str(a)]})
    model(b, {"backbone": str(a)})
    stages = origin(a)
    assert [stage["command"] for stage in stages] == [str(b), str(a)]


@pytest.mark.parametrize("config", [[], "x", 7, {"teacher": "x"}, {"teacher": {"a": 1}}])
def test_an_odd_record_of_a_run(config: Any, tmp_path: Path) -> None:
    with pytest.raises(MienError, match=r"meta.json: its config is not as `mien train` wrote it"):
        origin(model(tmp_path / "model", config))


@pytest.mark.parametrize(
    "meta",
    [{"data": []}, {"data": {"fingerprint": "same"}}, {"data": {"fingerprint": "same"}, "config": []},
     {"data": {"fingerprint": "same"}, "config": {"validation_fraction": "x", "seed": 0}}],
)  # fmt: skip
def test_what_a_classifier_says_of_its_data(meta: dict[str, Any], tmp_path: Path) -> None:
    class Classifier:
        folder = tmp_path

        def meta(self) -> dict[str, Any]:
            return meta

    class Faces:
        fingerprint = "same"

        def has(self, split: str) -> bool:
            return False

    with pytest.raises(MienError, match=r"meta.json: its data or config is not as `mien train` wrote it"):
        as_trained(Faces(), Classifier())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("train", ["--image-size", "20000"], "--image-size: got '20000', expected a whole number in [1, 1024]"),
        ("train", ["--small-size", "20000"], "--small-size: is gone"),
        ("train", ["--backbone", "timm:resnet18", "--network-args", '{"layers": [100000, 1, 1, 1]}'], "at most 256"),
        ("train", ["--backbone", "timm:vit_tiny_patch16_224", "--network-args", '{"depth": 100000}'], "at most 256"),
        ("train", ["--backbone", "timm:resnet18", "--network-args", '{"channels": [1e9]}'], "up to 65,536"),
        ("train", ["--backbone", "timm:resnet18", "--network-args", '{"layers": [1' + ", 1" * 100 + "]}"], "most 64"),
        (
            "pretrain",
            ["--decoder-depth", "100000"],
            "--decoder-depth: got '100000', expected a whole number in [1, 256]",
        ),
        ("pretrain", ["--decoder-size", "3200000"], "--decoder-size: got '3200000'"),
        ("pretrain", ["--image-size", "20000"], "--image-size: got '20000'"),
    ],
)
def test_networks_that_are_too_large_are_told_at_once(
    command: str, options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    started = time.monotonic()
    line = error_of(command, "--data", "nosuch.zip", "--out", "out", *options)
    assert message in line and time.monotonic() - started < 5
    assert not (tmp_path / "out").exists()
