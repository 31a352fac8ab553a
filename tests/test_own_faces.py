"""Going on with a classifier on a person's own faces: other classes, small sets, odd names."""

from __future__ import annotations

import copy
import json
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import synthetic_faces
from data_helpers import encode, noise, write_folder, write_zip
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_training import small
from training_helpers import Stop, same, stop_after, weights

from mien.config import AugmentConfig, DistillConfig, FreezeConfig, PretrainConfig, TrainConfig
from mien.data.faces import FaceSet, require_classes
from mien.data.read import read_faces
from mien.errors import MienError
from mien.labels import canonical, class_order, positions
from mien.model.backbone import Backbone
from mien.model.channels import reads_luma
from mien.model.classifier import Classifier
from mien.model.networks import heads, num_channels, rows_line, scale_head
from mien.model.vit import build
from mien.training import finetune, validation
from mien.training.finetune import train
from mien.training.run import fit_batch

NAMES = ("calm", "glad", "sour")
TIMM: tuple[tuple[str, dict[str, Any] | None], ...] = (
    ("timm:resnetv2_18", {"channels": [16, 16, 32, 32]}),  # a convolution answers
    ("timm:repvit_m0_9", {"embed_dim": [16, 16, 32, 32], "depth": [1, 1, 1, 1], "distillation": True}),  # two heads
    ("timm:face_cnn", None),
)
IMAGES = synthetic_faces({"train": 6}, size=32).images
CAFE = unicodedata.normalize("NFC", "é")
DECOMPOSED = unicodedata.normalize("NFD", "é")


def classifier(folder: Path, backbone: str, arguments: dict[str, Any] | None = None) -> Classifier:
    """A folder with an untrained classifier of calm, glad and sour, whose temperature is folded in."""
    torch.manual_seed(1)
    size = None if backbone == "nano" else 32
    network, preprocessing = build(backbone, NAMES, grey=True, image_size=size, network_args=arguments)
    for layer in heads(network):
        torch.nn.init.normal_(layer.weight)
        if layer.bias is not None:
            torch.nn.init.normal_(layer.bias)
    scale_head(network, 2.5)
    Classifier(network.eval(), preprocessing, NAMES).save(folder, {})
    return Classifier.load(folder)


def gone_on(folder: Path, names: tuple[str, ...]) -> Classifier:
    """The classifier of a folder as it starts on other classes, written and read once more."""
    network, preprocessing = build(str(folder), names, grey=True)
    Classifier(network.eval(), preprocessing, names).save(folder.parent / "next", {})
    return Classifier.load(folder.parent / "next")


def with_a_new_class(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a classifier, and data of which it knows calm."""
    classifier(folder, "nano")
    faces = synthetic_faces({"train": 24, "validation": 8}, names=("calm", "new"))
    monkeypatch.setattr(finetune, "read_faces", lambda source: faces)


class TestHead:
    @pytest.mark.parametrize(("backbone", "arguments"), [("nano", None), *TIMM])
    @pytest.mark.parametrize(
        "names", [("calm", "sour"), ("sour", "glad", "calm"), ("Glad", "puzzled", "calm"), ("other", "puzzled")]
    )
    def test_classes_of_the_same_name_keep_their_rows(
        self, backbone: str, arguments: dict[str, Any] | None, names: tuple[str, ...], tmp_path: Path
    ) -> None:
        logits_before = classifier(tmp_path / "model", backbone, arguments).logits(IMAGES, quiet=True)
        new_classifier = gone_on(tmp_path / "model", names)
        assert new_classifier.names == names
        new_logits = new_classifier.logits(IMAGES, quiet=True)
        assert new_logits.shape == (6, len(names))
        for column, name in enumerate(names):
            if name.lower() in NAMES:
                assert new_logits[:, column] == pytest.approx(logits_before[:, NAMES.index(name.lower())], abs=2e-3)
        new_rows = [layer.weight[index] for layer in heads(new_classifier.network) for index, name in enumerate(names)
                    if name.lower() not in NAMES]  # fmt: skip
        assert all(0 < row.std() < 0.05 for row in new_rows)

    def test_what_becomes_of_each_class_is_said(self) -> None:
        line = rows_line(("angry", "happy", "sad"), ("happy", "Sadness", "contempt"))
        assert line == "head: kept: happy, Sadness; new: contempt; left out: angry"
        assert rows_line(NAMES, NAMES) == "head: kept: calm, glad, sour"

    def test_only_a_classifier_has_classes(self, mae_folder: Path, tmp_path: Path) -> None:
        classifier(tmp_path / "model", "nano")
        assert Backbone(str(tmp_path / "model")).names == Backbone(str(tmp_path)).names == NAMES
        assert Backbone("nano").names == Backbone(str(mae_folder)).names == Backbone("timm:resnet18").names == ()


class TestTimm:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        classifier(tmp_path / "run" / "model", "timm:face_cnn")
        return tmp_path / "run"

    def test_a_trained_network_of_timm_goes_on(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        faces = synthetic_faces({"train": 24, "validation": 6}, names=("glad", "new"), size=32)
        monkeypatch.setattr(finetune, "read_faces", lambda source: faces)
        config = TrainConfig(data="x", out=str(tmp_path / "own"), backbone=str(folder), epochs=1, device="cpu")
        train(config)
        assert "head: kept: glad; new: new; left out: calm, sour" in capsys.readouterr().err
        assert Classifier.load(tmp_path / "own").names == ("glad", "new")
        train(config, resume=True)

    def test_what_read_luma_still_does(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        faces = synthetic_faces({"train": 24, "validation": 6}, names=("glad", "new"), size=32)
        monkeypatch.setattr(finetune, "read_faces", lambda source: faces)
        train(TrainConfig(data="x", out=str(tmp_path / "own"), backbone=str(folder), epochs=1, device="cpu"))
        before, after = Classifier.load(folder), Classifier.load(tmp_path / "own")
        assert reads_luma(before.network, before.preprocessing) and reads_luma(after.network, after.preprocessing)
        assert num_channels(build(str(folder), NAMES, grey=False)[0]) == 3
        network, preprocessing = build("timm:face_cnn", NAMES, grey=False, image_size=32)
        Classifier(network.eval(), preprocessing, NAMES).save(tmp_path / "colour", {})
        assert num_channels(build(str(tmp_path / "colour"), NAMES, grey=True)[0]) == 3, "sees colour, so it stays"

    def test_what_it_does_not_take(self, folder: Path) -> None:
        assert Backbone(str(folder)).is_timm_classifier and not Backbone("timm:face_cnn").is_timm_classifier
        for options, message in (
            ({"drop_path": 0.1}, "drop_path: got 0.1 for .*holds a network of timm; leave it out"),
            ({"patch_size": 8}, "patch_size: got 8 for"),
            ({"image_size": 1}, "image_size: got 1, expected a size that face_cnn reads"),
        ):
            with pytest.raises(MienError, match=message):
                build(str(folder), NAMES, grey=True, **options)
        network, preprocessing = build(str(folder), NAMES, grey=True, image_size=40)
        assert preprocessing.image_size == 40 and network.config.pretrained_cfg["input_size"] == [3, 40, 40]


class TestStart:
    """The classifier as it came is a candidate too."""

    def faces(
        self, monkeypatch: pytest.MonkeyPatch, folder: Path, names: tuple[str, ...] = ("sour", "calm")
    ) -> FaceSet:
        """Pictures with the labels that the classifier of a folder gives them, so that nothing can be better."""
        face_set = synthetic_faces({"train": 24, "validation": 8}, names=names)
        model = Classifier.load(folder)
        predictions = model.logits(face_set.images, quiet=True)[:, positions(names, model.names, "")].argmax(axis=1)
        faces = replace(face_set, labels=predictions.astype(np.int64))
        monkeypatch.setattr(finetune, "read_faces", lambda source: faces)
        return faces

    def test_it_is_kept_until_an_epoch_does_better(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        classifier(tmp_path / "model", "nano")
        faces = self.faces(monkeypatch, tmp_path / "model")
        config = small(tmp_path / "run", tmp_path / "model", lr=0.1, epochs=1)
        train(config)
        output = capsys.readouterr()
        assert "before training  validation: accuracy 100.00%" in output.out
        assert "kept unless an epoch reads at least 2 more pictures right" in output.out
        assert "validation chose the start: no epoch was enough of a gain; the last epoch, 1, has " in output.out
        assert "head: kept: sour, calm; left out: glad" in output.err
        meta = json.loads((tmp_path / "run" / "meta.json").read_text())
        assert meta["metrics"]["epoch"] == 0 and meta["metrics"]["accuracy"] == 1
        logits = Classifier.load(tmp_path / "run").logits(faces.images, quiet=True)
        expected = Classifier.load(tmp_path / "model").logits(faces.images, quiet=True)[:, [2, 0]]
        assert logits == pytest.approx(expected, abs=1e-3)
        weights_before = weights(tmp_path / "run")
        train(config, resume=True)
        assert same(weights_before, weights(tmp_path / "run"))

    @pytest.mark.parametrize(
        ("right_counts", "epoch"), [([6, 7, 7], 0), ([6, 8, 7], 1), ([6, 7, 8], 2), ([6, 8, 9], 2)]
    )
    def test_one_picture_more_is_not_enough(
        self, right_counts: list[int], epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        classifier(tmp_path / "model", "nano")
        faces = synthetic_faces({"train": 24, "validation": 9}, names=("sour", "calm"))
        monkeypatch.setattr(finetune, "read_faces", lambda source: faces)
        scores = iter(right_counts)
        monkeypatch.setattr(
            validation.Validator,
            "scores",
            lambda *_: {"val_loss": 1.0, "val_accuracy": next(scores) / 9, "val_macro_f1": 0.5},
        )
        train(small(tmp_path / "run", tmp_path / "model", epochs=2))
        assert json.loads((tmp_path / "run" / "meta.json").read_text())["metrics"]["epoch"] == epoch

    def test_a_run_that_ends_in_its_first_epoch_can_be_resumed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        classifier(tmp_path / "model", "nano")
        self.faces(monkeypatch, tmp_path / "model")

        def stopped(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(finetune.FineTuning, "train_epoch", stopped)
            with pytest.raises(KeyboardInterrupt):
                train(small(tmp_path / "run", tmp_path / "model"))
        train(small(tmp_path / "run", tmp_path / "model"), resume=True)
        train(small(tmp_path / "whole", tmp_path / "model"))
        assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))
        # The run that was stopped, the same resumed, and the one that was not stopped: each scores the start.
        assert capsys.readouterr().out.count("before training") == 3

    @pytest.mark.parametrize("linear_probe", [None, True, False])
    def test_a_new_class_is_answered_from_the_start_after_a_linear_probe_alone(
        self,
        linear_probe: bool | None,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        with_a_new_class(tmp_path / "model", monkeypatch)
        train(small(tmp_path / "run", tmp_path / "model", epochs=1, linear_probe=linear_probe))
        output = capsys.readouterr()
        assert ("before training  validation: accuracy 100.00%" in output.out) == (linear_probe is not False)
        assert ("head: rows of new classes fitted" in output.err) == (linear_probe is not False)
        settings = json.loads((tmp_path / "run" / "meta.json").read_text())["config"]
        assert settings["linear_probe"] is linear_probe

    def test_nothing_to_fit_is_said(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        classifier(tmp_path / "model", "nano")
        faces = synthetic_faces({"train": 24, "validation": 8}, names=("calm", "sour"))
        monkeypatch.setattr(finetune, "read_faces", lambda source: faces)
        with pytest.raises(MienError, match=r"linear_probe: got true, but .*model knows all classes .*\(calm, sour\)"):
            train(small(tmp_path / "run", tmp_path / "model", linear_probe=True))
        assert not (tmp_path / "run").exists()

    def test_a_run_from_before_the_linear_probe_goes_on_without(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with_a_new_class(tmp_path / "model", monkeypatch)
        whole, older = (small(tmp_path / name, tmp_path / "model", linear_probe=False) for name in ("whole", "older"))
        train(whole)
        with monkeypatch.context() as patch:
            stop_after(3, patch)
            with pytest.raises(Stop):
                train(older)
        path = tmp_path / "older" / "state.safetensors"
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["mien"])
        del header["config"]["linear_probe"]
        save_file(load_file(path), path, metadata={"mien": json.dumps(header)})
        train(small(tmp_path / "older", tmp_path / "model"), resume=True)
        assert same(weights(tmp_path / "whole"), weights(tmp_path / "older"))

    def test_a_run_with_a_linear_probe_resumes_bit_for_bit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with_a_new_class(tmp_path / "model", monkeypatch)
        whole, stopped = (small(tmp_path / name, tmp_path / "model") for name in ("whole", "stopped"))
        train(whole)
        with monkeypatch.context() as patch:
            stop_after(3, patch)
            with pytest.raises(Stop):
                train(stopped)
        with monkeypatch.context() as patch:
            patch.setattr(finetune, "fit_head", None)  # the state has what it fitted
            train(stopped, resume=True)
        assert same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))


class TestShareOfTheStart:
    """``start_share``: what is evaluated and kept lies between the weights before training and after."""

    def faces(self, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...] = ("sour", "calm")) -> None:
        faces = synthetic_faces({"train": 24, "validation": 8}, names=names)
        monkeypatch.setattr(finetune, "read_faces", lambda source: faces)

    @pytest.mark.parametrize("ema", [0.0, 0.5])
    def test_kept_weights_lie_between(self, ema: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        classifier(tmp_path / "model", "nano")
        self.faces(monkeypatch)
        ends = {}
        for share in (0.0, 0.25):
            config = small(tmp_path / f"run-{share}", tmp_path / "model", lr=0.01, ema=ema, start_share=share)
            tuning = finetune.prepared(config)
            start = copy.deepcopy(tuning.network)
            tuning.fit(calibrate=False)
            ends[share] = tuning.averaged.state_dict()
        for name, weight in start.state_dict().items():
            assert torch.allclose(ends[0.25][name], 0.25 * weight + 0.75 * ends[0.0][name], atol=1e-6), name
        assert not torch.allclose(ends[0.25]["vit.layernorm.weight"], ends[0.0]["vit.layernorm.weight"], atol=1e-4)

    def test_resumes_bit_for_bit_without_the_start(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        classifier(tmp_path / "model", "nano")
        self.faces(monkeypatch)
        whole, stopped = (
            small(tmp_path / name, tmp_path / "model", lr=0.01, epochs=2, start_share=0.5)
            for name in ("whole", "stopped")
        )
        train(whole)
        with monkeypatch.context() as patch:
            stop_after(1, patch)
            with pytest.raises(Stop):
                train(stopped)
        moved = Classifier.load(tmp_path / "model")
        heads(moved.network)[0].weight.data.mul_(3)
        moved.save(tmp_path / "model", {})
        train(stopped, resume=True)
        assert same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))

    def test_another_network_in_its_place_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        classifier(tmp_path / "model", "nano")
        self.faces(monkeypatch)
        config = small(tmp_path / "run", tmp_path / "model")
        with monkeypatch.context() as patch:
            stop_after(1, patch)
            with pytest.raises(Stop):
                train(config)
        network, preprocessing = build("nano", NAMES, grey=True, image_size=24)
        Classifier(network.eval(), preprocessing, NAMES).save(tmp_path / "model", {})
        with pytest.raises(MienError, match=r"--resume: the run in .*run has another network than --backbone .*model"):
            train(config, resume=True)

    def test_a_new_head_has_no_start(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        classifier(tmp_path / "model", "nano")
        self.faces(monkeypatch, ("calm", "new"))
        message = (
            r"start_share: got 0\.5, but .*model is no trained classifier with all classes of the data \(calm, new\), "
            "so its head starts anew; train without it first, and go on from that run with it"
        )
        with pytest.raises(MienError, match=message):
            train(small(tmp_path / "run", tmp_path / "model", start_share=0.5))
        assert not (tmp_path / "run").exists()


class TestSmallSets:
    @pytest.mark.parametrize("count", [4, 11])
    def test_fewer_pictures_than_a_batch_train(
        self, count: int, mae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        faces = synthetic_faces({"train": count, "validation": 4}, names=("calm", "glad"))
        monkeypatch.setattr(finetune, "read_faces", lambda source: faces)
        config = small(tmp_path / "run", mae_folder, batch_size=64, augment=AugmentConfig(mixup=0.2))
        train(config)
        seen = "them all" if count == 4 else "10 of them, as many as can be shared evenly"
        assert f"{count} training images, fewer than --batch-size 64: every step sees {seen}" in capsys.readouterr().err
        meta = json.loads((tmp_path / "run" / "meta.json").read_text())
        assert meta["config"]["batch_size"] == count - count % 2, "mixup takes pairs"
        assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 3
        train(config, resume=True)

    def test_pretraining_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from mien.training import pretrain

        faces = synthetic_faces({"train": 5, "validation": 2}, names=("face",), size=48)
        monkeypatch.setattr(pretrain, "read_for_pretraining", lambda *_: faces)
        out = tmp_path / "mae"
        pretrain.pretrain(
            PretrainConfig(data="x", out=str(out), preset="nano", epochs=2, device="cpu", decoder_size=32)
        )
        rows = (out / "history.csv").read_text().splitlines()
        assert len(rows) == 3 and rows[0].split(",")[0] == "epoch"
        assert json.loads((out / "model" / "meta.json").read_text())["config"]["batch_size"] == 5

    def test_processes_share_evenly(self) -> None:
        faces = synthetic_faces({"train": 11})
        config = TrainConfig(data="x", out="x", batch_size=64)
        mixed_config = replace(config, augment=AugmentConfig(cutmix=1.0))
        assert [fit_batch(config, faces, processes).batch_size for processes in (1, 2, 4)] == [11, 10, 8]
        assert [fit_batch(mixed_config, faces, processes).batch_size for processes in (1, 2, 4)] == [10, 8, 8]
        assert fit_batch(replace(config, batch_size=8), faces, 2).batch_size == 8
        taught = replace(config, teacher=["a", "b", "c"], distill=DistillConfig(split_batch=True), batch_size=63)
        assert [fit_batch(taught, faces, processes).batch_size for processes in (1, 2, 3)] == [9, 6, 9]
        with pytest.raises(MienError, match=r"expected at least 12, so that .* one for each teacher that reads a part"):
            fit_batch(taught, faces, 4)
        with pytest.raises(MienError, match="has 11 training images, expected at least 16"):
            fit_batch(mixed_config, faces, 8)

    def test_one_class_alone(self, mae_folder: Path, tmp_path: Path) -> None:
        source = write_folder(tmp_path / "photos", {f"images/{n}.png": encode(noise(n, 48)) for n in range(9)})
        (source / "labels.csv").write_text("images/1.png,happy\n")
        with pytest.raises(
            MienError, match=r"has one class alone, images, expected two or more; give each .* table of"
        ):
            train(replace(small(tmp_path / "run", mae_folder), data=str(source)))
        assert not (tmp_path / "run").exists()

    def test_more_classes_or_a_longer_name_than_a_model_may_have(self) -> None:
        many = tuple(f"person {n}" for n in range(1001))
        for names, message in (
            (many, "has 1,001 classes, expected at most 1,000; give each expression a folder"),
            (("a", "b" * 101), r"the class b{40}\.\.\. has a name of 101 letters, expected at most 100; rename"),
        ):
            faces = replace(synthetic_faces({"train": 4}), names=names)
            with pytest.raises(MienError, match=message):
                require_classes(faces)

    def test_a_class_of_one_picture_says_what_to_do(self, mae_folder: Path, tmp_path: Path) -> None:
        members = {f"glad/{n}.png": encode(noise(n, 48)) for n in range(9)} | {"calm/a.png": encode(noise(20, 48))}
        source = write_folder(tmp_path / "photos", members)
        with pytest.raises(MienError, match=r"class calm has 1 training image, too few to cut .*; add images"):
            train(replace(small(tmp_path / "run", mae_folder), data=str(source)))

    def test_sizes_that_differ_point_to_the_command_that_crops(self, tmp_path: Path) -> None:
        members = {"a/1.png": encode(noise(1, 40)), "b/2.png": encode(noise(2, 48))}
        with pytest.raises(MienError, match=r"b/2.png: is 48x48 .*`mien data crop PHOTOS --out FACES`"):
            read_faces(write_folder(tmp_path / "faces", members), cache=False)


class TestNames:
    @pytest.mark.parametrize("name", [DECOMPOSED, CAFE, f" {DECOMPOSED.upper()} "])
    def test_composed_and_decomposed_letters_are_one(self, name: str) -> None:
        assert canonical(name) == CAFE and class_order([name, "a"]) == ("a", CAFE)
        assert positions([name], [unicodedata.normalize("NFD", CAFE)], "x") == [0]

    @pytest.mark.parametrize("write", [write_folder, write_zip])
    def test_splits_may_spell_a_class_differently(self, write: Any, tmp_path: Path) -> None:
        members = {
            f"Train /{DECOMPOSED}/1.png": encode(noise(1)),
            f"VAL/{CAFE.upper()} /2.png": encode(noise(2)),
            "Train /Happy /3.png": encode(noise(3)),
            "VAL/happiness/4.png": encode(noise(4)),
            "Train /.DS_Store": b"x",
            "__MACOSX/Train/._3.png": b"x",
            "VAL/@eaDir/4.png": b"x",
            "VAL/.thumbs/4.png": b"x",
        }
        faces = read_faces(write(tmp_path / "faces.zip", members), cache=False)
        assert faces.names == ("happy", CAFE) and len(faces) == 4 and faces.warnings == ()
        assert sorted(faces.splits) == ["train", "train", "validation", "validation"]

    def test_two_spellings_side_by_side_are_shown_apart(self, tmp_path: Path) -> None:
        members = {f"{CAFE}/1.png": encode(noise(1)), f"{DECOMPOSED}/2.png": encode(noise(2))}
        with pytest.raises(MienError, match=r"two spellings of the same class: é \('e\\u0301', '\\xe9'\); keep one"):
            read_faces(write_zip(tmp_path / "faces.zip", members), cache=False)


def test_freezing_by_default_still_holds_for_a_vit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier(tmp_path / "model", "nano")
    monkeypatch.setattr(finetune, "read_faces", lambda source: synthetic_faces({"train": 9, "validation": 3}))
    with pytest.raises(MienError, match="4 by default would freeze all"):
        train(small(tmp_path / "run", tmp_path / "model", freeze=FreezeConfig()))
