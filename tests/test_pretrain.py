"""Pretraining: it learns to fill in what is hidden, repeats, resumes, and leaves a backbone behind."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import synthetic_faces
from PIL import Image
from safetensors.torch import load_file
from training_helpers import Stop, same, stop_after, weights
from transformers import ViTMAEForPreTraining

from mien.cli import main
from mien.config import FreezeConfig, PretrainConfig, TrainConfig
from mien.data.drawn import draw_faces, write_archive
from mien.data.faces import FaceSet
from mien.errors import MienError
from mien.evaluation.figures import reconstructions
from mien.evaluation.probe import features, probe, vote_weights
from mien.model.mae import build_autoencoder, reconstruct
from mien.model.start import positions
from mien.model.vit import build
from mien.training import finetune, loop
from mien.training import pretrain as pretraining
from mien.training.optim import TICKS, Budget
from mien.training.pretrain import mask_noise, pretrain

COUNTS = {"train": 48, "validation": 12, "test": 6}


@pytest.fixture
def faces(monkeypatch: pytest.MonkeyPatch) -> FaceSet:
    """A small set that every source reads as."""
    face_set = synthetic_faces(COUNTS)
    monkeypatch.setattr(pretraining, "read_for_pretraining", lambda source, size, skip_broken: face_set)
    monkeypatch.setattr(finetune, "read_faces", lambda source: face_set)
    return face_set


def short(out: Path, **changes: object) -> PretrainConfig:
    """A run of seconds: nano at 16 px has four patches, of which two stay visible; four steps an epoch."""
    values = {
        "preset": "nano",
        "image_size": 16,
        "mask_ratio": 0.5,
        "decoder_size": 32,
        "epochs": 2,
        "batch_size": 12,
        "lr": 1e-3,
        "device": "cpu",
        "probe_epochs": 1,
        **changes,
    }
    return PretrainConfig(data="synthetic", out=str(out), **values)  # type: ignore[arg-type]


def history(out: Path) -> list[dict[str, str]]:
    with (out / "history.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def steady_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock by which every step takes half a second, saved states included."""
    monkeypatch.setattr(
        loop.Loop, "seconds", property(lambda self: 0.5 * ((self.state.epoch - 1) * 4 + self.state.step))
    )


class TestAutoencoder:
    def test_starts_with_positions_for_encoder_and_decoder(self) -> None:
        network, _ = build_autoencoder(PretrainConfig(data="", out="", preset="nano"), grey=True)
        assert torch.equal(network.vit.embeddings.position_embeddings, positions(6, 128))
        assert torch.equal(network.decoder.decoder_pos_embed, positions(6, 64))
        assert not network.vit.embeddings.position_embeddings.requires_grad
        assert not network.decoder.decoder_pos_embed.requires_grad
        assert network.decoder.mask_token.std() > 0

    @pytest.mark.parametrize("norm_pix", [True, False])
    def test_reconstruction_keeps_what_was_visible(self, norm_pix: bool) -> None:
        torch.manual_seed(0)
        config = PretrainConfig(data="", out="", preset="nano", norm_pix=norm_pix)
        network, _ = build_autoencoder(config, grey=False)
        pixels = torch.randn(2, 3, 48, 48)
        # The patch in the corner has the lowest noise and stays visible; the last one is hidden.
        noise = torch.arange(36.0).expand(2, -1)
        merged, hidden = reconstruct(network.eval(), pixels, noise)
        assert merged.shape == pixels.shape and hidden.shape == (2, 1, 48, 48)
        assert hidden.mean() == 0.75
        assert hidden[:, :, :8, :8].sum() == 0 and hidden[:, :, -8:, -8:].min() == 1
        assert torch.equal(merged[:, :, :8, :8], pixels[:, :, :8, :8])
        assert not torch.allclose(merged[:, :, -8:, -8:], pixels[:, :, -8:, -8:])

    def test_a_size_that_patches_do_not_fill_is_refused(self) -> None:
        with pytest.raises(MienError, match="image_size: got 50, expected a multiple of 8"):
            build_autoencoder(PretrainConfig(data="", out="", preset="nano", image_size=50), grey=True)

    def test_a_mask_that_hides_everything_is_refused(self) -> None:
        with pytest.raises(MienError, match=r"mask_ratio: got 0\.75, expected some of the 1 patches to stay visible"):
            build_autoencoder(PretrainConfig(data="", out="", preset="nano", image_size=8), grey=True)

    def test_masks_differ_by_epoch_and_image_and_repeat(self) -> None:
        noise = mask_noise(3, 4, seed=0, epoch=1)
        assert torch.equal(noise, mask_noise(3, 4, seed=0, epoch=1))
        assert not torch.equal(noise, mask_noise(3, 4, seed=0, epoch=2))
        assert not torch.equal(noise[0], noise[1])


class TestConfig:
    def test_everything_wrong_is_told_at_once(self) -> None:
        with pytest.raises(MienError) as error:
            PretrainConfig(data="", out="", mask_ratio=1.0, steps=3, minutes=2.0, decoder_size=40,
                           preset="huge")  # type: ignore[arg-type]  # fmt: skip
        assert str(error.value).split("; ") == [
            "preset: got 'huge', expected nano or mini or tiny or small or base",
            "mask_ratio: got 1.0, expected a share in (0, 1)",
            "decoder_size: got 40, expected a multiple of 32, at most 8192 or null",
            "steps: got 3 beside minutes 2.0, expected one of the two",
        ]

    def test_the_rate_follows_the_root_of_the_batch(self) -> None:
        assert PretrainConfig(data="", out="", batch_size=256).resolved().lr == pytest.approx(5e-4)


class TestBudget:
    def test_steps_by_hand(self) -> None:
        budget = Budget(10, None)
        assert [budget.spent(updates) for updates in (0, 5, 10, 12)] == [0.0, 0.5, 1.0, 1.0]
        assert budget.ticks(5) == TICKS // 2

    def test_minutes_go_by_the_clock_and_guess_in_between(self) -> None:
        budget, accelerator = Budget(None, 1.0), Accelerator(cpu=True)
        budget.look(1, 3.0, accelerator)
        assert budget.spent(1) == pytest.approx(0.05) and budget.spent(2) == pytest.approx(0.10)
        budget.look(2, 9.0, accelerator)
        assert budget.spent(2) == pytest.approx(0.15) and budget.spent(3) == pytest.approx(0.25)
        assert budget.spent(1000) == 1.0

    def test_a_pause_says_nothing_of_the_pace(self) -> None:
        budget, accelerator = Budget(None, 10.0), Accelerator(cpu=True)
        for update in range(1, 101):
            budget.look(update, 1.0 * update, accelerator)
        share_before = budget.spent(100)
        budget.look(100, 160.0, accelerator, after_a_pause=True)  # a minute of probing
        assert budget.spent(100) == pytest.approx(share_before + 0.1)
        shares = []
        for update in range(101, 150):
            budget.look(update, 60.0 + update, accelerator)
            shares.append(budget.spent(update))
        steps = np.diff(shares)
        assert steps.min() >= 0 and steps.max() < 0.0025

    def test_one_of_the_two(self) -> None:
        with pytest.raises(ValueError, match="either"):
            Budget(3, 2.0)


class TestProbe:
    def test_features_see_every_patch_and_repeat(self) -> None:
        network, preprocessing = build_autoencoder(short(Path()), grey=True)
        images = synthetic_faces({"train": 4}).images
        first_features, second_features = (features(network.eval(), preprocessing, images) for _ in range(2))
        assert first_features.shape == (4, 128) and np.array_equal(first_features, second_features)
        assert network.config.mask_ratio == 0.5

    def test_a_copy_has_no_infinite_vote(self) -> None:
        """By hand: a copy votes exp(1 / 0.07), two pictures of cosine 0.98 vote 0.7515 times that each."""
        votes = vote_weights(np.array([[0.0, 0.02, 0.02]]))[0]
        assert votes / votes[0] == pytest.approx([1, 0.7515, 0.7515], abs=1e-4)
        assert votes[1] + votes[2] > votes[0] and np.isfinite(votes).all()

    def test_readers_tell_bright_from_dark(self) -> None:
        torch.manual_seed(0)
        network, preprocessing = build_autoencoder(short(Path()), grey=True)
        faces = synthetic_faces({"train": 300, "validation": 60})
        scores = probe(network.eval(), preprocessing, faces.part("train"), faces.part("validation"))
        assert scores.knn > 0.8 and scores.linear > 0.8


def test_the_figure_has_three_rows() -> None:
    images = np.full((5, 16, 16), 100, np.uint8)
    figure = reconstructions(images, np.zeros((5, 16, 16), bool), images, lent=True)
    assert len(figure.axes) == 15
    assert "true patch, which are not predicted." in " ".join(figure.get_supxlabel().split())
    as_predicted = reconstructions(images, np.zeros((5, 16, 16), bool), images, lent=False)
    assert as_predicted.get_supxlabel().split()[-1] == "predicted."
    assert [axes.get_ylabel().split("\n")[-1] for axes in figure.axes if axes.get_ylabel()] == [
        "face", "encoder saw", "the decoder",
    ]  # fmt: skip


class TestRun:
    def test_learns_and_leaves_everything_that_is_promised(self, faces: FaceSet, tmp_path: Path) -> None:
        folder = pretrain(short(tmp_path / "run", epochs=12, lr=3e-3, probe_epochs=6), command="mien pretrain ...")
        rows = history(tmp_path / "run")
        assert float(rows[-1]["loss"]) < 0.9 * float(rows[0]["loss"])
        assert [row["epoch"] for row in rows if row["linear_accuracy"]] == ["6", "12"]
        assert rows[-1]["images"] == str(12 * 48)
        for figure in ("curves.png", "reconstructions.png"):
            assert (tmp_path / "run" / figure).stat().st_size > 5000
        meta = json.loads((folder / "meta.json").read_text())
        assert meta["command"] == "mien pretrain ..." and meta["data"]["fingerprint"] == faces.fingerprint
        assert meta["metrics"]["linear_accuracy"] == float(rows[-1]["linear_accuracy"])
        assert (meta["metrics"]["n"], meta["metrics"]["split_n"]) == (12, 12)
        network, loading_info = cast(Any, ViTMAEForPreTraining.from_pretrained(folder, output_loading_info=True))
        assert not loading_info["missing_keys"] and not loading_info["unexpected_keys"]
        assert torch.equal(network.decoder.decoder_pos_embed, positions(2, 32))

    def test_fine_tuning_goes_on_from_it(self, faces: FaceSet, tmp_path: Path) -> None:
        folder = pretrain(short(tmp_path / "mae", epochs=1, probe_epochs=0))
        network, preprocessing = build(str(folder), faces.names, grey=True)
        autoencoder = ViTMAEForPreTraining.from_pretrained(folder)
        classifier_weights, autoencoder_weights = network.state_dict(), autoencoder.state_dict()
        assert all(
            torch.equal(classifier_weights[name], autoencoder_weights[name])
            for name in classifier_weights
            if not name.startswith("classifier.")
        )
        assert preprocessing.image_size == 16 and network.config.num_channels == 1
        config = TrainConfig(data="synthetic", out=str(tmp_path / "run"), backbone=str(folder), epochs=1, batch_size=12,
                             device="cpu")  # fmt: skip
        with pytest.raises(
            MienError, match=r"would freeze all 4 blocks of this backbone; say --freeze\.blocks 2, or 0"
        ):
            finetune.train(config)
        config = replace(config, freeze=FreezeConfig(blocks=2))
        assert (finetune.train(config) / "model.safetensors").is_file()

    def test_labels_are_not_used(self, faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pretrain(short(tmp_path / "one", epochs=1))
        other_faces = replace(faces, labels=faces.labels[::-1].copy())
        monkeypatch.setattr(pretraining, "read_for_pretraining", lambda source, size, skip_broken: other_faces)
        pretrain(short(tmp_path / "two", epochs=1))
        assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))

    def test_without_labels_there_is_no_probe(
        self, faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        unlabelled = replace(faces, labels=np.zeros_like(faces.labels), names=("face",))
        monkeypatch.setattr(pretraining, "read_for_pretraining", lambda source, size, skip_broken: unlabelled)
        pretrain(short(tmp_path / "run", epochs=1))
        (row,) = history(tmp_path / "run")
        assert row["val_loss"] and not row["knn_accuracy"]

    def test_steps_may_end_within_an_epoch(self, faces: FaceSet, tmp_path: Path) -> None:
        pretrain(short(tmp_path / "run", steps=6))
        rows = history(tmp_path / "run")
        assert [row["images"] for row in rows] == ["48", "72"]
        assert float(rows[-1]["lr"]) == 0.0

    def test_minutes_end_annealed(self, faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        steady_clock(monkeypatch)
        pretrain(short(tmp_path / "run", minutes=0.05, probe_epochs=0))
        rows = history(tmp_path / "run")
        # Three seconds are six steps of half a second; an epoch has four.
        assert [row["images"] for row in rows] == ["48", "72"]
        assert float(rows[0]["lr"]) > 2e-4 and float(rows[-1]["lr"]) == 0.0

    def test_the_last_weights_are_measured_if_the_time_runs_out_while_they_are_saved(
        self, faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Four steps take two seconds and what follows an epoch two more, of three."""
        seconds = property(lambda self: 0.5 * ((self.state.epoch - 1) * 8 + self.state.step))
        monkeypatch.setattr(loop.Loop, "seconds", seconds)
        config = short(tmp_path / "run", minutes=0.05, probe_epochs=5)
        folder = pretrain(config)
        rows = history(tmp_path / "run")
        assert [(row["images"], bool(row["val_loss"])) for row in rows] == [("48", False), ("60", True)]
        metrics = json.loads((folder / "meta.json").read_text())["metrics"]
        assert metrics["val_loss"] == float(rows[-1]["val_loss"]) and float(rows[-1]["lr"]) == 0.0
        pretrain(config, resume=True)
        assert history(tmp_path / "run") == rows
        stopped = replace(config, out=str(tmp_path / "stopped"))
        with monkeypatch.context() as patch:
            stop_after(4, patch)
            with pytest.raises(Stop):
                pretrain(stopped)
        assert [bool(row["val_loss"]) for row in history(tmp_path / "stopped")] == [False]
        pretrain(stopped, resume=True)
        assert [bool(row["val_loss"]) for row in history(tmp_path / "stopped")] == [False, True]

    def test_a_moment_is_one_step(self, faces: FaceSet, tmp_path: Path) -> None:
        pretrain(short(tmp_path / "run", minutes=1e-9, probe_epochs=0))
        assert [row["images"] for row in history(tmp_path / "run")] == ["12"]

    def test_seeds_differ_and_repeat(self, faces: FaceSet, tmp_path: Path) -> None:
        for name, seed in (("one", 0), ("two", 0), ("three", 1)):
            pretrain(short(tmp_path / name, epochs=1, seed=seed, probe_epochs=0))
        assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))
        assert not same(weights(tmp_path / "one"), weights(tmp_path / "three"))


class TestResume:
    @pytest.mark.parametrize("updates", [2, 4, 6])
    def test_goes_on_as_if_it_had_never_stopped(
        self, updates: int, faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(loop, "STEPS_BETWEEN_CHECKS", 1)
        config = short(tmp_path / "stopped", checkpoint_seconds=1e-6, probe_epochs=2)
        pretrain(replace(config, out=str(tmp_path / "whole")))
        with monkeypatch.context() as patch:
            stop_after(updates, patch)
            with pytest.raises(Stop):
                pretrain(config)
        pretrain(config, resume=True)
        assert same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))
        states = [load_file(tmp_path / name / "state.safetensors") for name in ("whole", "stopped")]
        assert same(*states)
        losses = [[row["loss"] for row in history(tmp_path / name)] for name in ("whole", "stopped")]
        assert losses[0] == losses[1]

    def test_minutes_resume_too(self, faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        steady_clock(monkeypatch)
        config = short(tmp_path / "run", minutes=0.05, probe_epochs=0)
        with monkeypatch.context() as patch:
            stop_after(5, patch)
            with pytest.raises(Stop):
                pretrain(config)
        pretrain(config, resume=True)
        assert [row["images"] for row in history(tmp_path / "run")] == ["48", "72"]

    @pytest.mark.parametrize("steps", [2, 6])
    def test_an_epoch_that_the_budget_cut_short_is_finished(
        self, steps: int, faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(loop, "STEPS_BETWEEN_CHECKS", 1)
        config = short(tmp_path / "stopped", steps=steps, checkpoint_seconds=1e-6)
        pretrain(replace(config, out=str(tmp_path / "whole")))
        finish_epoch = pretraining.Pretraining.finish_epoch

        def stopping(self: pretraining.Pretraining, epoch: int) -> None:
            if self.is_over:
                raise Stop
            finish_epoch(self, epoch)

        with monkeypatch.context() as patch:
            patch.setattr(pretraining.Pretraining, "finish_epoch", stopping)
            with pytest.raises(Stop):
                pretrain(config)
        pretrain(config, resume=True)
        assert same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))
        stopped_rows = [[row["images"], row["val_loss"]] for row in history(tmp_path / "stopped")]
        assert stopped_rows == [[row["images"], row["val_loss"]] for row in history(tmp_path / "whole")]

    def test_other_data_or_settings_are_refused(
        self, faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = short(tmp_path / "run", epochs=1, probe_epochs=0)
        pretrain(config)
        with pytest.raises(MienError, match=r"mask_ratio: 0.5 -> 0.25"):
            pretrain(replace(config, mask_ratio=0.25), resume=True)
        other_faces = synthetic_faces(COUNTS, seed=1)
        monkeypatch.setattr(pretraining, "read_for_pretraining", lambda source, size, skip_broken: other_faces)
        with pytest.raises(MienError, match="data differs"):
            pretrain(config, resume=True)

    def test_the_state_of_a_training_run_is_refused(self, faces: FaceSet, mae_folder: Path, tmp_path: Path) -> None:
        config = TrainConfig(data="synthetic", out=str(tmp_path / "run"), backbone=str(mae_folder), epochs=1,
                             batch_size=12, device="cpu", freeze=FreezeConfig(blocks=1))  # fmt: skip
        finetune.train(config)
        with pytest.raises(MienError, match="configuration differs"):
            pretrain(short(tmp_path / "run"), resume=True)

    def test_nan_stops_and_keeps_the_last_good_state(
        self, faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = pretraining.Pretraining.loss

        def broken(self: pretraining.Pretraining, pixels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
            return original(self, pixels, noise) * (float("nan") if self.state.epoch == 2 else 1.0)

        monkeypatch.setattr(pretraining.Pretraining, "loss", broken)
        with pytest.raises(MienError, match=r"loss became nan in epoch 2, .* last good state is kept"):
            pretrain(short(tmp_path / "run"))
        assert all(value.isfinite().all() for value in load_file(tmp_path / "run/state.safetensors").values())


class TestFolder:
    """Any folder of faces, with broken pictures among them."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "photos"
        for index, image in enumerate(synthetic_faces({"train": 24}, size=20).images):
            (folder / f"person{index % 3}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"person{index % 3}" / f"{index}.png")
        (folder / "person0" / "broken.jpg").write_bytes(b"no picture")
        return folder

    def arguments(self, folder: Path, out: Path) -> list[str]:
        return ["pretrain", "--data", str(folder), "--out", str(out), "--preset=nano", "--image-size=16", "--steps=2",
                "--mask-ratio=0.5", "--batch-size=8", "--validation-fraction=0.2", "--device=cpu"]  # fmt: skip

    def test_a_broken_picture_is_named(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(self.arguments(folder, tmp_path / "run")) == 2
        message = capsys.readouterr().err.splitlines()[-1]
        assert "broken.jpg" in message and "--skip-broken" in message
        assert not (tmp_path / "run").exists()

    def test_broken_pictures_are_left_out_and_counted_on_request(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([*self.arguments(folder, tmp_path / "run"), "--skip-broken"]) == 0
        assert "warning: left out 1 of 25 pictures" in capsys.readouterr().err
        meta = json.loads((tmp_path / "run" / "model" / "meta.json").read_text())
        assert sum(meta["data"]["images"].values()) == 24 and "left out 1 of 25" in meta["data"]["warnings"][0]
        assert (tmp_path / "run" / "reconstructions.png").is_file()


class TestProcesses:
    """Real processes: killed, and side by side."""

    def arguments(self, data: Path, out: Path, *options: str) -> list[str]:
        return ["-m", "mien", "pretrain", "--data", str(data), "--out", str(out), "--preset=nano", "--epochs=2",
                "--batch-size=8", "--lr=0.001", "--device=cpu", "--probe-epochs=2", *options]  # fmt: skip

    def environment(self, tmp_path: Path) -> dict[str, str]:
        return {**os.environ, "MIEN_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}

    def run(self, command: list[str], tmp_path: Path) -> str:
        environment = self.environment(tmp_path)
        completed = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
        assert completed.returncode == 0, completed.stderr[-3000:]
        return completed.stdout

    @pytest.fixture
    def archive(self, tmp_path: Path) -> Path:
        write_archive(tmp_path / "drawn.zip", draw_faces(240, 14, 14, seed=0))
        return tmp_path / "drawn.zip"

    def test_kill_9_in_an_epoch_then_resume(self, archive: Path, tmp_path: Path) -> None:
        self.run([sys.executable, *self.arguments(archive, tmp_path / "whole")], tmp_path)
        arguments = self.arguments(archive, tmp_path / "killed", "--checkpoint-seconds", "0.001")
        process = subprocess.Popen([sys.executable, *arguments], env=self.environment(tmp_path),
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        state = tmp_path / "killed" / "state.safetensors"
        deadline = time.monotonic() + 120
        while not state.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        self.run([sys.executable, *arguments, "--resume"], tmp_path)
        assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))

    @pytest.mark.parametrize(("optimizer", "rounding"), [("adamw", 2e-5), ("muon", 5e-4)])
    def test_two_processes_reach_the_losses_of_one(
        self, optimizer: str, rounding: float, archive: Path, tmp_path: Path
    ) -> None:
        # Orthogonalising makes small differences between gradients as large as the others.
        options = ("--optimizer", optimizer)
        self.run([sys.executable, *self.arguments(archive, tmp_path / "one", *options)], tmp_path)
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
        output = self.run([*launch, *self.arguments(archive, tmp_path / "two", *options)], tmp_path)
        assert output.count("epoch   1/2") == 1
        for row, other_row in zip(history(tmp_path / "one"), history(tmp_path / "two"), strict=True):
            for name in ("loss", "val_loss"):
                if row[name]:
                    assert float(other_row[name]) == pytest.approx(float(row[name]), abs=rounding)
