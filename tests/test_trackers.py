"""Trackers: one event file for a run, no step twice after a resume, and stand-ins for what is not installed."""

from __future__ import annotations

import importlib.machinery
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from conftest import synthetic_faces

from mien.config import TrainConfig
from mien.data.faces import FaceSet
from mien.errors import MienError
from mien.training import finetune
from mien.training.finetune import train
from mien.training.trackers import RECORD, Tracking, settings

COUNTS = {"train": 240, "validation": 12, "test": 6}


def small(out: Path, **changes: Any) -> TrainConfig:
    """A run of two epochs of 40 steps."""
    values = {"epochs": 2, "batch_size": 6, "device": "cpu", "backbone": "nano", "ema": 0.0, **changes}
    return TrainConfig(data="synthetic", out=str(out), **values)


@pytest.fixture
def faces(monkeypatch: pytest.MonkeyPatch) -> FaceSet:
    face_set = synthetic_faces(COUNTS)
    monkeypatch.setattr(finetune, "read_faces", lambda source: face_set)
    return face_set


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of each name, in the order in which they were logged."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder))
    board.Reload()
    return {name: [(event.step, event.value) for event in board.Scalars(name)] for name in board.Tags()["scalars"]}


def test_one_event_file_holds_settings_steps_and_epochs(faces: FaceSet, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    out = tmp_path / "run"
    train(small(out, track=["tensorboard"]))
    files = list((out / "tensorboard").iterdir())
    assert len(files) == 1 and b"_hparams_" in files[0].read_bytes() and b"label_smoothing" in files[0].read_bytes()
    logged = scalars(out / "tensorboard")
    assert [step for step, _ in logged["step/loss"]] == [20, 40, 60, 80]
    assert [step for step, _ in logged["epoch/val_accuracy"]] == [40, 80]
    assert logged["step/loss"][1][1] == pytest.approx(logged["epoch/loss"][0][1]), "the mean of the epoch"


def test_a_resumed_run_goes_on_in_the_file_and_repeats_no_step(
    faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    whole_folder, resumed_folder = tmp_path / "whole", tmp_path / "parts"
    train(small(whole_folder, track=["tensorboard"]))
    original = finetune.FineTuning.save_state

    def save_first_epoch_alone(self: finetune.FineTuning) -> None:
        if self.state.epoch == 2:  # the state after the first epoch
            original(self)
        if len(self.state.history) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(finetune.FineTuning, "save_state", save_first_epoch_alone)
        train(small(resumed_folder, track=["tensorboard"]))
    assert [step for step, _ in scalars(resumed_folder / "tensorboard")["step/loss"]] == [20, 40, 60, 80]
    train(small(resumed_folder, track=["tensorboard"]), resume=True)  # repeats the second epoch
    assert len(list((resumed_folder / "tensorboard").iterdir())) == 1
    whole_scalars, resumed_scalars = scalars(whole_folder / "tensorboard"), scalars(resumed_folder / "tensorboard")
    assert whole_scalars.keys() == resumed_scalars.keys()
    for name in whole_scalars.keys() - {"epoch/seconds", "epoch/images_per_second"}:
        assert resumed_scalars[name] == whole_scalars[name], name


def test_a_new_run_in_the_same_place_begins_a_new_file(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    config = small(tmp_path, track=["tensorboard"])
    for _ in range(2):  # neither came as far as a state
        tracking = Tracking(config, Accelerator(cpu=True), resumed=False)
        tracking.log({"loss": 2.0}, 20, prefix="step")
        tracking.finish()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1
    assert scalars(tmp_path / "tensorboard") == {"step/loss": [(20, 2.0)]}


def test_the_older_name_works_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("tensorboard")
    config = small(tmp_path, tensorboard=True)
    assert config.trackers == ["tensorboard"]
    Tracking(config, Accelerator(cpu=True), resumed=False).finish()
    assert caplog.messages == ["--tensorboard: has a new name, --track tensorboard; the old one works too"]
    assert small(tmp_path, tensorboard=True, track=["wandb", "tensorboard"]).trackers == ["wandb", "tensorboard"]


class Calls:
    """A stand-in for wandb, trackio or mlflow that remembers what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def module(self, name: str) -> types.ModuleType:
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        run = types.SimpleNamespace(
            log=lambda values, step=None, **_: self.calls.append(("log", (step, values))),
            finish=lambda: self.calls.append(("finish", None)),
            info=types.SimpleNamespace(run_id="run-7"),
        )
        config = types.SimpleNamespace(update=lambda values, **_: self.calls.append(("config", values)))

        def init(**options: Any) -> Any:
            self.calls.append(("init", options))
            return run

        def start_run(**options: Any) -> Any:
            self.calls.append(("init", options))
            return run

        limits = types.SimpleNamespace(
            validation=types.SimpleNamespace(MAX_PARAM_VAL_LENGTH=500, MAX_PARAMS_TAGS_PER_BATCH=100)
        )
        vars(module).update(
            init=init, config=config, utils=limits, start_run=start_run,
            search_experiments=lambda **_: [], create_experiment=lambda **_: "1",
            log_params=lambda values: self.calls.append(("config", values)),
            log_metrics=lambda values, step: self.calls.append(("log", (step, values))),
            end_run=lambda: self.calls.append(("finish", None)),
        )  # fmt: skip
        return module

    def values_of(self, kind: str) -> list[Any]:
        return [value for name, value in self.calls if name == kind]


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_other_trackers_get_settings_and_numbers_and_resume_their_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = Calls()
    monkeypatch.setitem(sys.modules, name, stand_in.module(name))
    config = small(tmp_path, track=[name], lr=0.25)
    assert not list(config.missing_trackers())
    tracking = Tracking(config, Accelerator(cpu=True), resumed=False)
    tracking.log({"loss": 1.5, "knn": None}, 20, prefix="step")
    tracking.log({"loss": 1.5}, 20, prefix="epoch")
    tracking.finish()
    (logged_settings,) = stand_in.values_of("config")
    assert logged_settings["lr"] == 0.25 and logged_settings["augment.flip"] == 0.5
    assert stand_in.values_of("log") == [(20, {"step/loss": 1.5}), (20, {"epoch/loss": 1.5})]
    resumed_tracking = Tracking(config, Accelerator(cpu=True), resumed=True)
    resumed_tracking.log({"loss": 1.5}, 20, prefix="step")
    resumed_tracking.log({"loss": 1.25}, 40, prefix="step")
    assert stand_in.values_of("log")[2:] == [(40, {"step/loss": 1.25})], "no step twice"
    assert len(stand_in.values_of("config")) == 1
    first_options, second_options = stand_in.values_of("init")
    if name == "mlflow":
        assert (first_options["run_id"], second_options["run_id"]) == (None, "run-7")
    else:
        assert (
            first_options == second_options
            and first_options["resume"] == "allow"
            and first_options["name"].startswith(tmp_path.name)
        )
    assert json.loads((tmp_path / RECORD).read_text())["last_step"] == 40


def test_a_tracker_that_fails_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in = Calls()
    module = stand_in.module("wandb")
    monkeypatch.setitem(sys.modules, "wandb", module)
    tracking = Tracking(small(tmp_path, track=["wandb"]), Accelerator(cpu=True), resumed=False)

    def fail(*arguments: Any, **options: Any) -> None:
        raise ConnectionError("no route\nto host")

    tracking.accelerator.trackers[0].tracker.log = fail
    tracking.log({"loss": 1.0}, 20, prefix="step")
    tracking.log({"loss": 1.0}, 40, prefix="step")
    assert caplog.messages == ["--track wandb: stopped working (no route to host); training goes on without it"]
    vars(module)["init"] = fail
    with pytest.raises(
        MienError, match=r"--track wandb: cannot start \(no route to host\); set it up, or leave it out"
    ):
        Tracking(small(tmp_path, track=["wandb"]), Accelerator(cpu=True), resumed=False)


def test_settings_are_flat_and_plain() -> None:
    values = settings(small(Path("run"), teacher=["a"]))
    assert values["teacher"] == '["a"]' and values["freeze.blocks"] == "null" and values["class_weights"] is False
    assert all(isinstance(value, bool | int | float | str) for value in values.values())


def test_without_trackers_nothing_is_written(tmp_path: Path) -> None:
    tracking = Tracking(small(tmp_path), Accelerator(cpu=True), resumed=False)
    tracking.log({"loss": 1.0}, 20, prefix="step")
    tracking.finish()
    assert list(tmp_path.iterdir()) == []
