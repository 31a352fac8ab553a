"""The training run: it learns, repeats, resumes, freezes, and stops without losing anything."""

from __future__ import annotations

import csv
import errno
import gc
import json
import math
import os
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import synthetic_faces
from PIL import Image
from safetensors.torch import load_file
from training_helpers import Stop, same, stop_after, weights

from mien.config import AugmentConfig, FreezeConfig, TrainConfig
from mien.data.faces import FaceSet
from mien.errors import MienError
from mien.evaluation.choice import Choice
from mien.files import umask
from mien.model.classifier import Classifier
from mien.model.networks import Network
from mien.model.vit import build
from mien.training import finetune, loop, plan, run
from mien.training.augment import shuffled
from mien.training.finetune import FineTuning, train
from mien.training.history import choice_line
from mien.training.objective import build_mixup, class_weights, soft_targets, weighted_cross_entropy
from mien.training.optim import Budget, WeightAverage, build_optimizer, build_schedule

COUNTS = {"train": 48, "validation": 12, "test": 6}


@pytest.fixture
def faces(monkeypatch: pytest.MonkeyPatch) -> FaceSet:
    """A small set that every source reads as."""
    face_set = synthetic_faces(COUNTS)
    monkeypatch.setattr(finetune, "read_faces", lambda source: face_set)
    return face_set


def small(out: Path, backbone: Path, **changes: object) -> TrainConfig:
    """A run of seconds: three blocks, 32 px, four steps an epoch."""
    values = {
        "epochs": 2,
        "batch_size": 12,
        "freeze": FreezeConfig(blocks=1),
        "lr": 1e-3,
        "warmup_epochs": 0.5,
        "device": "cpu",
        "drop_path": 0.1,
        **changes,
    }
    return TrainConfig(data="synthetic", out=str(out), backbone=str(backbone), **values)  # type: ignore[arg-type]


class Wrapper(torch.nn.Module):
    """Stands for what holds a network for several processes."""

    def __init__(self, module: Network) -> None:
        super().__init__()
        self.module = module

    def forward(self, **inputs: Any) -> Any:
        return self.module(**inputs)


class TestRun:
    def test_learns_and_leaves_everything_that_is_promised(
        self, faces: FaceSet, mae_folder: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "run"
        config = small(out, mae_folder, epochs=6, ema=0.9, freeze=FreezeConfig(blocks=0))
        folder = train(config, command="mien train ...")
        assert folder == out / "model"
        with open(out / "history.csv", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
        assert {"loss", "val_loss", "val_accuracy", "val_macro_f1", "lr"} <= set(rows[0])
        assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
        assert 5e-4 < max(float(row["lr"]) for row in rows) <= 1e-3  # the encoder's: the head has five times that
        best_accuracy = max(float(row["val_accuracy"]) for row in rows)
        assert best_accuracy > 0.6
        meta = json.loads((out / "meta.json").read_text())
        assert meta["metrics"]["accuracy"] == best_accuracy
        assert meta["data"]["fingerprint"] == faces.fingerprint
        assert meta["command"] == "mien train ..." and meta["versions"]["torch"]
        assert meta == json.loads((folder / "meta.json").read_text())
        assert (out / "curves.png").stat().st_size > 5000
        assert {path.stat().st_mode & 0o777 for path in out.rglob("*") if path.is_file()} == {0o666 & ~umask()}
        validation = faces.part("validation")
        loaded = Classifier.load(folder)
        assert (loaded.logits(validation.images).argmax(1) == validation.labels).mean() == pytest.approx(best_accuracy)
        sketches = loaded.sketches()
        assert sketches is not None and sketches.codes.shape == (48, 32)

    def test_repeats_bit_for_bit(self, faces: FaceSet, mae_folder: Path, tmp_path: Path) -> None:
        for name in ("one", "two"):
            train(small(tmp_path / name, mae_folder, augment=AugmentConfig(mixup=0.2)))
        train(small(tmp_path / "three", mae_folder, augment=AugmentConfig(mixup=0.2), seed=1))
        assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))
        assert not same(weights(tmp_path / "one"), weights(tmp_path / "three"))

    def test_an_epoch_that_is_not_validated_saves_its_state_when_it_is_time_to(
        self, faces: FaceSet, mae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its four steps are fewer than lie between two checks of the clock within an epoch."""
        changes = {"epochs": 3, "validate_epochs": 3, "checkpoint_seconds": 1e-6}
        train(small(tmp_path / "whole", mae_folder, **changes))
        stopped = small(tmp_path / "stopped", mae_folder, **changes)
        with monkeypatch.context() as patch, pytest.raises(Stop):
            stop_after(5, patch)
            train(stopped)
        train(stopped, resume=True)
        assert same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))

    def test_the_plan_counts_the_epochs_that_are_validated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(plan, "step_seconds", lambda *_: 1.0)

        def seconds(validate_epochs: int) -> str:
            config = TrainConfig(data="", out="", epochs=4, batch_size=10, validate_epochs=validate_epochs).resolved()
            tuning: Any = SimpleNamespace(
                config=config, steps=2, validation=range(120), accelerator=SimpleNamespace(device=torch.device("cpu"))
            )
            return next(iter(plan.timed_lines(tuning, lambda frozen: None)))

        # Four epochs of two steps; a validation takes as long as four steps.
        assert seconds(1).startswith("time: about 24 s") and seconds(4).startswith("time: about 12 s")

    def test_the_rate_leaves_out_what_is_no_step(
        self, faces: FaceSet, mae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A step of 12 pictures takes a second; scoring and saving, before the first epoch too, take 100."""
        now = [0.0]

        def taking(seconds: float, function: Any) -> Any:
            def slow(*arguments: Any) -> Any:
                now[0] += seconds
                return function(*arguments)

            return slow

        monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0]))
        monkeypatch.setattr(loop, "seed_step", taking(1, loop.seed_step))
        monkeypatch.setattr(FineTuning, "save_state", taking(100, FineTuning.save_state))
        monkeypatch.setattr(finetune.Validator, "scores", taking(100, finetune.Validator.scores))
        train(small(tmp_path / "first", mae_folder, epochs=3, validate_epochs=2))
        train(small(tmp_path / "second", tmp_path / "first"))
        for name in ("first", "second"):
            rows = list(csv.DictReader((tmp_path / name / "history.csv").open()))
            assert [row["images_per_second"] for row in rows] == ["12.0", "12.0"]

    def test_a_release_of_nothing_is_told(self, mae_folder: Path) -> None:
        network, _ = build(str(mae_folder), ("happy", "sad"), grey=True)
        assert plan.frozen_line(network, FreezeConfig(blocks=0), 3) == "nothing"
        line = plan.frozen_line(network, FreezeConfig(blocks=0, release_epoch=2), 3)
        assert line == "nothing, so that freeze.release_epoch changes nothing"

    def test_frozen_tensors_are_bit_identical_after_training(
        self, faces: FaceSet, mae_folder: Path, tmp_path: Path
    ) -> None:
        untrained_network, _ = build(str(mae_folder), faces.names, grey=True)
        train(small(tmp_path / "run", mae_folder, freeze=FreezeConfig(blocks=2)))
        trained_state = load_file(tmp_path / "run" / "state.safetensors")
        moved_names = {
            name
            for name, value in untrained_network.state_dict().items()
            if not torch.equal(value, trained_state[f"average/{name}"])
        }
        assert {name.split(".")[2] for name in moved_names if name.startswith("vit.layers")} == {"2"}
        assert not any(name.startswith("vit.embeddings") for name in moved_names)
        assert not any(
            "vit.layers.0." in name or "vit.embeddings" in name for name in trained_state if name.startswith("moments/")
        )

    def test_gradual_release_trains_more_each_epoch(
        self, faces: FaceSet, mae_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        freezing = FreezeConfig(blocks=2, release_epoch=2, gradual=True)
        train(small(tmp_path / "run", mae_folder, epochs=4, freeze=freezing))
        frozen = [
            sum(line.rstrip().endswith(" -") for line in text.splitlines())
            for text in capsys.readouterr().err.split("part ")
        ]
        assert frozen[1:] == [3, 2, 1, 0]

    def test_minutes_that_are_over_too_soon_say_what_was_not_reached(
        self, faces: FaceSet, mae_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        freezing = FreezeConfig(blocks=2, release_epoch=5)
        train(small(tmp_path / "run", mae_folder, minutes=1e-9, freeze=freezing))
        told = capsys.readouterr().err
        # Two epochs are a setting that minutes replace, and no end that epoch 5 lies behind.
        assert "frozen: embeddings and blocks 0 to 1; released at epoch 5\n" in told
        assert "train, at the end " in told
        ended = "minutes: 1e-09 were over after 1 step, in epoch 1, before"
        assert f"{ended} the warm-up of 2 steps, so that the learning rate never reached its peak" in told
        assert f"{ended} freeze.release_epoch 5, so that what was frozen never trained" in told
        with (tmp_path / "run" / "history.csv").open() as file:
            assert [row["epoch"] for row in csv.DictReader(file)] == ["1"]
        train(small(tmp_path / "run", mae_folder, minutes=1e-9, freeze=freezing), resume=True)
        assert "were over" not in capsys.readouterr().err

    def test_a_stage_may_move_the_weights_in_memory_and_leaves_no_wrapper(
        self, faces: FaceSet, mae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        freezing = FreezeConfig(blocks=2, release_epoch=2, gradual=True)
        train(small(tmp_path / "one", mae_folder, epochs=4, freeze=freezing))
        wrappers: list[weakref.ref[torch.nn.Module]] = []

        def wrapped(accelerator: Any, network: Network) -> torch.nn.Module:
            for parameter in network.parameters():  # as DistributedDataParallel does
                parameter.data = parameter.data.clone()
            accelerator._models.append(Wrapper(network))
            wrappers.append(weakref.ref(accelerator._models[-1]))
            return accelerator._models[-1]

        monkeypatch.setattr(run.Accelerator, "prepare_model", wrapped)
        tuning = finetune.prepared(small(tmp_path / "two", mae_folder, epochs=4, freeze=freezing))
        tuning.fit()
        assert same(*(load_file(tmp_path / name / "state.safetensors") for name in ("one", "two")))
        gc.collect()
        assert [wrapper() is None for wrapper in wrappers] == [True, True, True, False]

    def test_every_option_at_once(self, faces: FaceSet, mae_folder: Path, tmp_path: Path) -> None:
        augment = AugmentConfig(mixup=0.2, cutmix=1.0, mix_probability=0.5, erasing=0.3)
        config = small(tmp_path / "run", mae_folder, augment=augment, class_weights=True, tensorboard=True,
                       layer_decay=0.7, precision="bf16", ema=0.0, clip_grad=0.0)  # fmt: skip
        train(config)
        assert list((tmp_path / "run" / "tensorboard").iterdir())

    def test_no_validation_split_cuts_one(
        self, monkeypatch: pytest.MonkeyPatch, mae_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(finetune, "read_faces", lambda source: synthetic_faces({"train": 60}))
        train(small(tmp_path / "run", mae_folder, epochs=1))
        assert "no validation split" in capsys.readouterr().err

    def test_what_was_left_out_is_told(
        self, monkeypatch: pytest.MonkeyPatch, mae_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        faces = replace(synthetic_faces(COUNTS), warnings=("left out 3 file(s)",))
        monkeypatch.setattr(finetune, "read_faces", lambda source: faces)
        finetune.prepared(small(tmp_path / "run", mae_folder), dry=True)
        assert "left out 3 file(s)" in caplog.messages

    def test_no_training_images(self, monkeypatch: pytest.MonkeyPatch, mae_folder: Path, tmp_path: Path) -> None:
        monkeypatch.setattr(finetune, "read_faces", lambda source: synthetic_faces({"test": 60}))
        with pytest.raises(MienError, match="has no train split"):
            train(small(tmp_path / "run", mae_folder))
        assert not (tmp_path / "run").exists()

    def test_a_run_is_not_overwritten(self, faces: FaceSet, mae_folder: Path, tmp_path: Path) -> None:
        config = small(tmp_path / "run", mae_folder, epochs=1)
        train(config)
        with pytest.raises(MienError, match="already holds a run"):
            train(config)


class TestResume:
    @pytest.mark.parametrize("updates", [2, 4, 6])
    def test_goes_on_as_if_it_had_never_stopped(
        self, updates: int, faces: FaceSet, mae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        freezing = FreezeConfig(blocks=2, release_epoch=2)
        augment = AugmentConfig(mixup=0.2, erasing=0.5)
        options = {
            "checkpoint_seconds": 1e-6,
            "freeze": freezing,
            "augment": augment,
        }
        monkeypatch.setattr(loop, "STEPS_BETWEEN_CHECKS", 1)
        train(small(tmp_path / "whole", mae_folder, **options))
        stopped_config = small(tmp_path / "stopped", mae_folder, **options)
        with monkeypatch.context() as patch:
            stop_after(updates, patch)
            with pytest.raises(Stop):
                train(stopped_config)
        train(stopped_config, resume=True)
        assert same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))
        whole_state, resumed_state = (load_file(tmp_path / name / "state.safetensors") for name in ("whole", "stopped"))
        assert same(whole_state, resumed_state)

    @pytest.mark.parametrize("epoch", [0, 1, 2])
    def test_killed_after_a_state_and_before_its_model(
        self, epoch: int, faces: FaceSet, mae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Without averages, epoch 2 is the best, with them epoch 1.
        config = small(tmp_path / "whole", mae_folder, ema=0.0 if epoch == 2 else 0.9)
        train(config)
        if epoch == 0:  # the best model is the untrained classifier, until an epoch does better
            config = small(tmp_path / "second", tmp_path / "whole", lr=1e-9, freeze=FreezeConfig(blocks=0))
            train(config)
        killed_config, save_model = replace(config, out=str(tmp_path / "killed")), FineTuning.save_model

        def dying(self: FineTuning, network: Network, row: dict[str, float]) -> None:
            if row["epoch"] == epoch:
                raise Stop
            save_model(self, network, row)

        with monkeypatch.context() as patch:
            patch.setattr(FineTuning, "save_model", dying)
            with pytest.raises(Stop):
                train(killed_config)
        train(killed_config, resume=True)
        assert same(weights(Path(config.out)), weights(tmp_path / "killed"))
        whole_meta, resumed_meta = (
            json.loads((Path(out) / "meta.json").read_text()) for out in (config.out, killed_config.out)
        )
        assert (
            resumed_meta["metrics"] == whole_meta["metrics"]
            and resumed_meta["calibration"] == whole_meta["calibration"]
        )
        assert resumed_meta["metrics"]["epoch"] == epoch

    def test_a_changed_configuration_is_refused(self, faces: FaceSet, mae_folder: Path, tmp_path: Path) -> None:
        config = small(tmp_path / "run", mae_folder, epochs=1)
        train(config)
        with pytest.raises(MienError, match=r"seed: 0 -> 5; .*configuration|configuration differs .* seed: 0 -> 5"):
            train(replace(config, seed=5), resume=True)

    def test_other_data_is_refused(
        self, faces: FaceSet, mae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = small(tmp_path / "run", mae_folder, epochs=1)
        train(config)
        monkeypatch.setattr(finetune, "read_faces", lambda source: synthetic_faces(COUNTS, seed=1))
        with pytest.raises(MienError, match="data differs"):
            train(config, resume=True)

    def test_nothing_to_resume(self, faces: FaceSet, mae_folder: Path, tmp_path: Path) -> None:
        with pytest.raises(MienError, match="no state to resume"):
            train(small(tmp_path / "run", mae_folder), resume=True)

    def test_a_damaged_state_is_told(self, faces: FaceSet, mae_folder: Path, tmp_path: Path) -> None:
        config = small(tmp_path / "run", mae_folder, epochs=1)
        train(config)
        state = tmp_path / "run" / "state.safetensors"
        state.write_bytes(state.read_bytes()[:500])
        with pytest.raises(MienError, match="damaged"):
            train(config, resume=True)


class TestTrouble:
    def test_tells_that_the_hub_is_asked(
        self, faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(MienError, match="not in the hub's cache, and HF_HUB_OFFLINE forbids a connection"):
            train(small(tmp_path / "run", Path("nobody/no-such-model")))
        assert capsys.readouterr().err == "reading nobody/no-such-model from the Hugging Face hub or its cache\n"

    def test_nan_stops_and_keeps_the_last_good_state(
        self, faces: FaceSet, mae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = FineTuning.loss

        def broken(
            self: FineTuning, model: torch.nn.Module, pixels: torch.Tensor, labels: torch.Tensor
        ) -> torch.Tensor:
            loss = original(self, model, pixels, labels)
            return loss * float("nan") if self.state.epoch == 2 else loss

        monkeypatch.setattr(FineTuning, "loss", broken)
        with pytest.raises(MienError, match=r"loss became nan in epoch 2, .* last good state is kept"):
            train(small(tmp_path / "run", mae_folder))
        state = load_file(tmp_path / "run" / "state.safetensors")
        assert all(value.isfinite().all() for value in state.values())

    def test_a_full_disk_keeps_what_was_there(
        self, faces: FaceSet, mae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        train(small(tmp_path / "whole", mae_folder, epochs=1))
        state_bytes = (tmp_path / "whole" / "state.safetensors").read_bytes()

        def full(*args: object, **options: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("safetensors.torch.save_file", full)
        with pytest.raises(MienError, match="No space left on device"):
            train(small(tmp_path / "run", mae_folder, epochs=1))
        assert not list((tmp_path / "run").glob("*.tmp")) and not (tmp_path / "run" / "state.safetensors").exists()
        assert (tmp_path / "whole" / "state.safetensors").read_bytes() == state_bytes

    def test_a_device_that_is_not_there(self, faces: FaceSet, mae_folder: Path, tmp_path: Path) -> None:
        with pytest.raises(MienError, match="does not have"):
            train(small(tmp_path / "run", mae_folder, device="cuda:99"))


class TestBaseline:
    def test_the_shipped_recipe_takes_steps(
        self, faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from conftest import write_mae

        from mien.cli.settings import read_settings

        recipe = Path(__file__).parent.parent / "src/mien/recipes/baseline.yaml"
        backbone = write_mae(tmp_path / "mae", depth=5)
        arguments = ["--config", str(recipe), "--data", "synthetic", "--out", str(tmp_path / "run")]
        small_enough = ["--backbone", str(backbone), "--batch-size", "8", "--device", "cpu"]
        config, _ = read_settings(TrainConfig, arguments + small_enough)
        assert (config.lr, config.head_lr, config.freeze.blocks, config.freeze.release_epoch) == (3e-5, 1.5e-4, 4, 11)
        stop_after(8, monkeypatch)
        with pytest.raises(Stop):
            train(config)
        assert "epoch   1/80" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("backbone", "message"),
        [
            ("tinny", "--backbone tinny: no such folder, and neither a preset"),
            ("timm:resnet1", "--backbone timm:resnet1: timm .* has no such network"),
            ("timm:resnet18.", "--backbone timm:resnet18.: timm .* has no weights of the tag ''; there is "),
            (__file__, "test_training.py: is a file, expected a folder with config.json and model.safetensors; give"),
        ],
    )
    def test_a_wrong_backbone_is_told_before_the_data_is_read(
        self, backbone: str, message: str, tmp_path: Path
    ) -> None:
        with pytest.raises(MienError, match=message):
            train(TrainConfig(data=str(tmp_path / "nothing"), out=str(tmp_path / "run"), backbone=backbone))

    def test_the_schedule_by_hand(self, mae_folder: Path) -> None:
        network, _ = build(str(mae_folder), ("a", "b"), grey=True)
        config = TrainConfig(data="", out="", backbone=str(mae_folder), epochs=10, warmup_epochs=2, min_lr=0.0)
        optimizer = build_optimizer(network, config.resolved())
        schedule = build_schedule(optimizer, config.resolved(), 10, Budget(100, None))
        expected = {10: 1.5e-5, 20: 3e-5, 40: 3e-5 * (0.5 + 0.5 * math.cos(math.pi / 4)), 60: 1.5e-5, 100: 0.0}
        for update, rate in expected.items():
            schedule.step_update(update)
            assert optimizer.param_groups[0]["lr"] == pytest.approx(rate, abs=1e-12)

    def test_the_average_does_not_remember_the_random_start(
        self, faces: FaceSet, mae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(loop, "STEPS_BETWEEN_CHECKS", 1)
        stop_after(1, monkeypatch)
        with pytest.raises(Stop):
            train(small(tmp_path / "run", mae_folder, checkpoint_seconds=1e-6, ema=0.999))
        state = load_file(tmp_path / "run" / "state.safetensors")
        for name, value in state.items():
            if name.startswith("network/"):
                assert torch.equal(value, state[f"average/{name.removeprefix('network/')}"])


@pytest.mark.parametrize(
    ("precision", "device", "has", "is_warned"),
    [
        ("bf16", "cpu", {"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}, True),
        ("bf16", "cpu", {"architecture": "x86_64", "avx512_bf16": True}, False),
        ("bf16", "cpu", {"architecture": "aarch64"}, False),
        ("fp32", "cpu", {"architecture": "x86_64"}, False),
        ("bf16", "cuda", {"architecture": "x86_64"}, False),
    ],
)
def test_bf16_on_a_processor_without_it_has_a_warning(
    precision: str,
    device: str,
    has: dict[str, Any],
    is_warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    run.warn_of_slow_bf16(precision, torch.device(device))
    assert ("add --precision fp32" in capsys.readouterr().err) == is_warned


def test_the_last_epoch_is_reported_beside_the_chosen_one() -> None:
    history = [{"epoch": n, "val_accuracy": value} for n, value in ((1, 0.5), (2, 0.6904), (3, 0.688))]
    assert choice_line(history, Choice(2, "accuracy")) == (
        "validation chose epoch 2, 69.04%: a little too high, since it was chosen; the last epoch, 3, has 68.80%"
    )
    assert choice_line(history, Choice(0, "accuracy")) == (
        "validation chose the start: no epoch was enough of a gain; the last epoch, 3, has 68.80%"
    )
    line = choice_line(history, Choice(3, "last"))
    assert line == "the last epoch, 3, is kept: 68.80%, which nothing chose"


@pytest.mark.parametrize(
    ("ema", "updates", "decay"),
    [(0.999, 5376, 0.9967), (0.9999, 5376, 0.9967), (0.999, 31623, 0.999), (0.5, 5376, 0.5)],
)
def test_the_decay_of_the_average_is_what_the_help_says(ema: float, updates: int, decay: float) -> None:
    average = WeightAverage(torch.nn.Linear(1, 1), decay=ema, use_warmup=True)
    assert average.get_decay(updates) == pytest.approx(decay, abs=5e-5)
    assert average.get_decay(updates) == pytest.approx(min(ema, 1 - updates ** (-2 / 3)), abs=1e-9)


class TestTargets:
    def test_label_smoothing_by_hand(self) -> None:
        assert soft_targets(torch.tensor([1]), 4, 0.2).tolist()[0] == pytest.approx([0.05, 0.85, 0.05, 0.05])

    def test_class_weights_by_hand(self) -> None:
        faces = synthetic_faces({"train": 4})
        assert class_weights(faces).tolist() == pytest.approx([4 / 6, 4 / 3, 4 / 3])

    def test_a_weighted_picture_teaches_its_label_alone(self) -> None:
        """By hand: a clear "happy" of FER2013 is to be taught 1.4 % "disgust", and not 18 %."""
        counts = torch.tensor([3995.0, 436, 4097, 7215, 4830, 3171, 4965])
        weights = counts.sum() / (7 * counts)
        targets = soft_targets(torch.tensor([3]), 7, 0.1)
        answers = targets.log().requires_grad_()
        loss = weighted_cross_entropy(answers, targets, weights, 0.1)
        loss.backward()
        assert answers.grad is not None and answers.grad.abs().max() < 1e-6, "the smoothed label is the optimum"
        entropy = -(targets * targets.log()).sum()
        assert loss.item() == pytest.approx(weights[3].item() * entropy.item(), rel=1e-5)
        cells = (weights * targets)[0]
        assert (cells / cells.sum())[1].item() == pytest.approx(0.185, abs=0.001), "what the weight of torch teaches"

    def test_mixed_pictures_have_the_mixed_weight(self) -> None:
        weights, zeros = torch.tensor([0.5, 2.0]), torch.zeros(2, 2)
        labels = torch.tensor([[1.0, 0.0], [0.25, 0.75]])
        for smoothing in (0.0, 0.2):
            targets = labels * (1 - smoothing) + smoothing / 2
            loss = weighted_cross_entropy(zeros, targets, weights, smoothing)
            assert loss.item() == pytest.approx((0.5 + 0.25 * 0.5 + 0.75 * 2) / 2 * math.log(2), rel=1e-5)

    def test_mixup_is_off_unless_asked_for(self) -> None:
        config = TrainConfig(data="", out="")
        assert build_mixup(config, 3) is None
        assert build_mixup(replace(config, augment=AugmentConfig(mixup=0.2)), 3) is not None

    def test_order_visits_every_image_once(self) -> None:
        assert sorted(shuffled(50, 0, 1).tolist()) == list(range(50))
        assert shuffled(50, 0, 1).tolist() != shuffled(50, 0, 2).tolist()


def write_folder(root: Path, faces: FaceSet) -> Path:
    """Writes a set as a folder with train/ and val/, a sub-folder a class."""
    for image, label, split, name in zip(faces.images, faces.labels, faces.splits, faces.ids, strict=True):
        split_folder = {"train": "train", "validation": "val", "test": "test"}[str(split)]
        folder = root / split_folder / faces.names[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(image)).save(folder / f"{name}.png")
    return root


class TestProcesses:
    """Real processes: killed, and side by side."""

    def arguments(self, data: Path, backbone: Path, out: Path, *options: str) -> list[str]:
        return ["-m", "mien", "train", "--data", str(data), "--backbone", str(backbone), "--out", str(out),
                "--epochs=3",
                "--batch-size=8", "--lr=0.001", "--device=cpu", "--warmup-epochs=1", "--freeze.blocks=1",
                *options]  # fmt: skip

    def run(self, command: list[str], tmp_path: Path) -> str:
        completed = subprocess.run(
            command, capture_output=True, text=True, env=self.environment(tmp_path), timeout=300, check=False
        )
        assert completed.returncode == 0, completed.stderr[-3000:]
        return completed.stdout

    def environment(self, tmp_path: Path) -> dict[str, str]:
        return {**os.environ, "MIEN_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}

    def test_kill_9_in_an_epoch_then_resume(self, mae_folder: Path, tmp_path: Path) -> None:
        data = write_folder(tmp_path / "faces", synthetic_faces({"train": 480, "validation": 12}))
        self.run([sys.executable, *self.arguments(data, mae_folder, tmp_path / "whole")], tmp_path)
        arguments = self.arguments(data, mae_folder, tmp_path / "killed", "--checkpoint-seconds", "0.001")
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env=self.environment(tmp_path),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        state = tmp_path / "killed" / "state.safetensors"
        deadline = time.monotonic() + 120
        while not state.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        self.run([sys.executable, *arguments, "--resume"], tmp_path)
        assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
        # The best epoch may come before the kill; the state at the end holds the last weights and moments.
        assert same(*(load_file(tmp_path / name / "state.safetensors") for name in ("whole", "killed")))

    def test_two_processes_reach_the_losses_of_one(self, mae_folder: Path, tmp_path: Path) -> None:
        data = write_folder(tmp_path / "faces", synthetic_faces({"train": 64, "validation": 13}))
        release = ["--freeze.release-epoch=2"]
        self.run([sys.executable, *self.arguments(data, mae_folder, tmp_path / "one", *release)], tmp_path)
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
        output = self.run([*launch, *self.arguments(data, mae_folder, tmp_path / "two", *release)], tmp_path)
        assert output.count("epoch   1/3") == 1
        single_rows, parallel_rows = (
            list(csv.DictReader((tmp_path / name / "history.csv").open())) for name in ("one", "two")
        )
        for row, other_row in zip(single_rows, parallel_rows, strict=True):
            for name in ("loss", "val_loss", "val_accuracy"):
                assert float(other_row[name]) == pytest.approx(float(row[name]), abs=2e-5)
