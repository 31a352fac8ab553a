"""What a run and its folders bear: full disks, kills between two writes, weights that break, files that are damaged."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import synthetic_faces
from safetensors import SafetensorError
from safetensors.numpy import save_file
from safetensors.torch import load_file
from test_training import COUNTS, small
from training_helpers import Stop, same, weights
from transformers import PreTrainedModel

from mien.config import FreezeConfig, PretrainConfig, TrainConfig
from mien.data.clean import Sketches
from mien.data.faces import FaceSet
from mien.errors import MienError
from mien.evaluation.evaluate import Evaluation
from mien.evaluation.report import write_report
from mien.model.classifier import Classifier
from mien.model.mae import build_autoencoder, save_autoencoder
from mien.model.places import FINGERPRINTS
from mien.model.preprocessing import Preprocessing
from mien.model.vit import build
from mien.training import finetune
from mien.training.finetune import FineTuning, train
from mien.training.folder import state_path
from mien.training.loop import Loop
from mien.training.run import open_run

CODES, OFFSETS = np.zeros((3, 32), np.uint8), np.zeros(256, np.float32)


@pytest.fixture
def faces(monkeypatch: pytest.MonkeyPatch) -> FaceSet:
    """A small set that every source reads as."""
    face_set = synthetic_faces(COUNTS)
    monkeypatch.setattr(finetune, "read_faces", lambda source: face_set)
    return face_set


@pytest.fixture(scope="module")
def classifier(mae_folder: Path) -> Classifier:
    """An untrained classifier, which the tests only read."""
    network, preprocessing = build(str(mae_folder), ("calm", "glad"), grey=True)
    return Classifier(network, preprocessing, ("calm", "glad"))


@pytest.fixture
def model(classifier: Classifier, tmp_path: Path) -> Path:
    """The folder of a classifier."""
    classifier.save(tmp_path / "model", {"said": "old"}, Sketches(CODES, OFFSETS))
    return tmp_path / "model"


def full(*args: object, **options: object) -> None:
    """What safetensors does on a full disk."""
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def empty_loop(config: TrainConfig) -> Loop[TrainConfig, torch.nn.Module]:
    """A run before its first epoch, with a network that answers nothing."""
    preprocessing, faces = Preprocessing(16, (0.5,) * 3, (0.2,) * 3), synthetic_faces({"train": 12, "validation": 3})
    return Loop(config, torch.nn.Linear(1, 1), preprocessing, 1, faces, Accelerator(cpu=True), None, "")


class TestFullDisk:
    def test_a_classifier_stays_as_it_was(
        self, classifier: Classifier, model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full)
        with pytest.raises(MienError, match=r"model: cannot be written \(No space left on device\); free some space"):
            classifier.save(model, {"said": "new"})
        assert json.loads((model / "meta.json").read_text()) == {"said": "old"}
        assert [entry.name for entry in model.parent.iterdir()] == ["model"]

    def test_so_do_its_fingerprints(self, classifier: Classifier, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("safetensors.numpy.save_file", full)
        with pytest.raises(MienError, match="No space left on device"):
            classifier.save(model, {"said": "new"}, Sketches(CODES + 1, OFFSETS))
        sketches = Classifier.load(model).sketches()
        assert sketches is not None and not sketches.codes.any()

    def test_nothing_is_left_of_an_autoencoder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = PretrainConfig(data="", out="", preset="nano", image_size=16, mask_ratio=0.5, decoder_size=32)
        network, preprocessing = build_autoencoder(config, grey=True)
        monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
        with pytest.raises(MienError, match="No space left on device"):
            save_autoencoder(network, preprocessing, tmp_path / "model", {})
        assert not list(tmp_path.iterdir())


class TestOpening:
    def test_a_model_without_a_state(
        self, faces: FaceSet, mae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def killed(self: FineTuning) -> None:
            raise Stop

        config = small(tmp_path / "run", mae_folder, epochs=1, freeze=FreezeConfig(blocks=0))
        with monkeypatch.context() as patch:
            patch.setattr(FineTuning, "save_state", killed)
            with pytest.raises(Stop):
                train(config)
        assert not (tmp_path / "run" / "model").exists()  # the state comes first
        train(config)
        (tmp_path / "run" / "state.safetensors").unlink()
        for resume in (False, True):
            with pytest.raises(MienError, match=r"a model but no state.safetensors, .* remove the folder, or choose"):
                train(config, resume=resume)

    def test_tensorboard_that_is_missing_is_told_at_once(
        self, mae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "tensorboard", None)
        with pytest.raises(MienError, match=r"--tensorboard: tensorboard is not installed; pip install 'mien\[tensor"):
            open_run(small(tmp_path / "run", mae_folder, tensorboard=True), "fingerprint", resume=False)
        with pytest.raises(MienError, match=r"--track wandb: wandb is not installed; pip install wandb$"):
            open_run(small(tmp_path / "run", mae_folder, track=["wandb"]), "fingerprint", resume=False)
        assert not (tmp_path / "run").exists()

    def test_a_place_that_cannot_be_written_is_told_at_once(self, mae_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "runs").write_text("")
        with pytest.raises(MienError, match=r"runs is in its way and is no folder; choose another place"):
            open_run(small(tmp_path / "runs" / "first", mae_folder), "fingerprint", resume=False)

    @pytest.mark.parametrize(("is_main", "expected_count"), [(True, 1), (False, 3)])
    def test_what_a_kill_left_goes(
        self, is_main: bool, expected_count: int, mae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mien.training.run.on_main", lambda: is_main)
        (tmp_path / ".state.safetensors.123.tmp").write_bytes(b"half")
        (tmp_path / ".model.ab_12xyz.tmp").mkdir()
        (tmp_path / "notes.txt").write_text("mine")
        assert open_run(small(tmp_path, mae_folder), "fingerprint", resume=False) is None
        assert len(list(tmp_path.iterdir())) == expected_count and (tmp_path / "notes.txt").exists()

    def test_a_refused_run_loses_nothing(self, mae_folder: Path, tmp_path: Path) -> None:
        state_path(tmp_path).write_bytes(b"")
        (tmp_path / ".state.safetensors.123.tmp").write_bytes(b"being written by a run under way")
        with pytest.raises(MienError, match="already holds a run"):
            open_run(small(tmp_path, mae_folder), "fingerprint", resume=False)
        assert (tmp_path / ".state.safetensors.123.tmp").exists()

    @pytest.mark.parametrize("header", ["[]", "{}", '{"config": {}, "fingerprint": "", "progress": {"lap": 1}}'])
    def test_a_state_of_another_kind(self, header: str, mae_folder: Path, tmp_path: Path) -> None:
        save_file({"x": np.zeros(1, np.float32)}, state_path(tmp_path), metadata={"mien": header})
        with pytest.raises(MienError, match=r"state.safetensors: is damaged or no state of a run"):
            open_run(small(tmp_path, mae_folder), "fingerprint", resume=True)


class TestBrokenWeights:
    def test_the_last_update_of_an_epoch(
        self, faces: FaceSet, mae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = FineTuning.train_epoch

        def breaking(self: FineTuning, epoch: int) -> None:
            original(self, epoch)
            if epoch == 2:
                next(self.network.parameters()).data.fill_(math.nan)

        config = small(tmp_path / "run", mae_folder, epochs=3, ema=0.0)
        monkeypatch.setattr(FineTuning, "train_epoch", breaking)
        with pytest.raises(MienError, match=r"validation loss became nan in epoch 2, step 4: .* good state is kept"):
            train(config)
        state = load_file(state_path(tmp_path / "run"))
        assert all(value.isfinite().all() for value in state.values())
        assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())

    @pytest.mark.parametrize(
        ("loss", "val_loss", "message"),
        [(math.nan, None, "the loss became nan"), (1.0, math.inf, "the validation loss became inf"), (1.0, None, "")],
    )
    def test_a_row_is_looked_at(
        self, loss: float, val_loss: float | None, message: str, mae_folder: Path, tmp_path: Path
    ) -> None:
        loop = empty_loop(small(tmp_path, mae_folder))
        row = {"epoch": 1, "loss": loss, "val_loss": val_loss}
        if message:
            with pytest.raises(MienError, match=f"{message} in epoch 1, .* no state was saved yet; start anew"):
                loop.finish_row(row)
        else:
            loop.finish_row(row)
        assert len(loop.state.history) == (not message) and loop.state.epoch == 1 + (not message)

    def test_they_are_not_saved(self, mae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = empty_loop(small(tmp_path, mae_folder))
        good_state = {
            "network": {"head.bias": torch.zeros(3), "steps": torch.ones(2, dtype=torch.int64)},
            "moments": {},
        }
        monkeypatch.setattr(loop, "parts", lambda: good_state)
        loop.save_state()
        state_bytes = state_path(tmp_path).read_bytes()
        broken_state = {"network": {"head.bias": torch.tensor([0.0, -math.inf, math.nan])}}
        monkeypatch.setattr(loop, "parts", lambda: broken_state)
        with pytest.raises(MienError, match=r"head.bias became -inf in epoch 1, .* the last good state is kept in"):
            loop.save_state()
        assert state_path(tmp_path).read_bytes() == state_bytes
        assert same(
            load_file(state_path(tmp_path)), {f"network/{name}": t for name, t in good_state["network"].items()}
        )


class TestDamagedModel:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[]", r"config.json: expected a JSON object, got list; copy the whole folder again"),
            ('{"model_type": ["vit"]}', r"is of another architecture \(\['vit'\]\)"),
            ("{}", r"is of another architecture \(no model_type\)"),
        ],
    )
    def test_configuration(self, text: str, message: str, model: Path) -> None:
        (model / "config.json").write_text(text)
        with pytest.raises(MienError, match=message):
            Classifier.load(model)

    def test_meta(self, model: Path) -> None:
        (model / "meta.json").write_text("[]")
        with pytest.raises(MienError, match=r"meta.json: expected a JSON object, got list; copy the whole folder"):
            Classifier.load(model).meta()

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda path: path.write_bytes(path.read_bytes()[:50]), "is damaged"),
            (lambda path: save_file({"other": np.zeros((3, 12, 12), np.uint8)}, path), "is damaged"),
            (
                lambda path: save_file({"codes": CODES[:, :8], "offsets": OFFSETS}, path),
                "expected sketches of 32",
            ),
            (lambda path: save_file({"codes": CODES, "offsets": OFFSETS[:8]}, path), "expected sketches"),
        ],
    )
    def test_fingerprints(self, damage: Callable[[Path], object], message: str, model: Path) -> None:
        damage(model / FINGERPRINTS)
        with pytest.raises(
            MienError, match=f"{FINGERPRINTS}: {message} .*copy the whole folder again, or remove the file"
        ):
            Classifier.load(model).sketches()

    def test_thumbnails_of_an_older_version(self, model: Path) -> None:
        save_file({"thumbnails": np.zeros((3, 12, 12), np.uint8)}, model / FINGERPRINTS)
        with pytest.raises(MienError, match=r"holds thumbnails, as an older Mien wrote them.*remove the file"):
            Classifier.load(model).sketches()


def test_what_a_killed_report_left_goes(tmp_path: Path) -> None:
    (tmp_path / ".report.ab_12xyz.tmp").mkdir()
    (tmp_path / ".report.settings").mkdir()
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "notes.txt").write_text("mine")
    with pytest.raises(MienError, match="holds other files than a report"):
        write_report(tmp_path / "report", cast(Evaluation, None))
    assert {entry.name for entry in tmp_path.iterdir()} == {".report.settings", "report"}
