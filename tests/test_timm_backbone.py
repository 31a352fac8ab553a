"""Networks of timm as backbones: built, saved, read by other tools, trained and resumed as ViTs are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import synthetic_faces
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import TimmWrapperForImageClassification, pipeline

from mien.cli import main
from mien.config import AugmentConfig, FreezeConfig, TrainConfig
from mien.data.faces import FaceSet
from mien.errors import MienError
from mien.model import timm_backbone
from mien.model.classifier import Classifier
from mien.model.freezing import freeze, table
from mien.model.networks import as_vit, heads, num_channels
from mien.model.preprocessing import LUMA, Preprocessing
from mien.model.timm_backbone import resize_timm
from mien.model.vit import build
from mien.training import finetune, loop
from mien.training.finetune import prepared, train
from mien.training.optim import build_optimizer

NAMES = ("calm", "glad", "sour")
RESNET: dict[str, Any] = {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]}
CNN = ("timm:resnet10t", RESNET)
VIT = ("timm:test_vit", {"patch_size": 8})
HYBRID = ("timm:mobilevit_xxs", None)
REARRANGED = ("timm:test_nfnet", None)
"""Normalises the weights of its first convolution in each pass."""


def built(
    backbone: str, arguments: dict[str, Any] | None = None, *, grey: bool = True, size: int | None = 32
) -> tuple[TimmWrapperForImageClassification, Preprocessing]:
    torch.manual_seed(0)
    network, preprocessing = build(backbone, NAMES, grey=grey, image_size=size, network_args=arguments)
    assert isinstance(network, TimmWrapperForImageClassification)
    return network, preprocessing


def saved(folder: Path, backbone: str, arguments: dict[str, Any] | None = None) -> Classifier:
    network, preprocessing = built(backbone, arguments)
    torch.nn.init.normal_(heads(network)[0].weight, std=3.0)
    with torch.no_grad():
        # Running statistics as training leaves them, so that a tool which lost them would be noticed.
        for seed in range(10):
            faces = torch.from_numpy(synthetic_faces({"train": 6}, size=32, seed=seed).images)
            network.train()(preprocessing(faces, num_channels(network)))
    classifier = Classifier(network.eval(), preprocessing, NAMES)
    classifier.save(folder, {"command": "test"})
    return classifier


def test_the_trial_before_the_data_is_read_takes_the_networks_own_size() -> None:
    config = TrainConfig(data="faces", out="run", backbone="timm:inception_v3", device="cpu")
    finetune.start(config)
    with pytest.raises(MienError, match="image_size: got 48, which inception_v3 does not read"):
        finetune.start(replace(config, image_size=48))


def test_batch_norm_needs_two_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune, "read_faces", lambda source: synthetic_faces({"train": 6, "validation": 3}))
    config = TrainConfig(data="faces", out=str(tmp_path / "run"), backbone=CNN[0], network_args=RESNET, batch_size=1,
                         image_size=32, device="cpu")  # fmt: skip
    with pytest.raises(MienError, match=r"batch_size: got 1 picture in a step of a process, expected at least 2"):
        train(config)
    assert finetune.prepared(replace(config, batch_size=2), dry=True).steps == 3


class TestBuild:
    def test_starts_as_timm_starts_it(self) -> None:
        network, preprocessing = built(*CNN)
        torch.manual_seed(0)
        timm_network = timm.create_model("resnet10t", in_chans=1, num_classes=3, **RESNET)
        for name, value in timm_network.state_dict().items():
            assert torch.equal(value, network.timm_model.state_dict()[name])
        assert (num_channels(network), preprocessing.image_size) == (1, 32)

    def test_colour_sets_are_read_in_colour(self) -> None:
        assert num_channels(built(*CNN, grey=False)[0]) == 3

    def test_the_size_of_the_data_reaches_networks_that_are_built_for_one(self) -> None:
        network, _ = built(*VIT)
        assert network.timm_model.pos_embed.shape[1] == 4 * 4 + 1
        assert built("timm:test_vit", size=None)[1].image_size == 160

    def test_drop_path_is_timms(self) -> None:
        network, _ = build("timm:test_vit", NAMES, grey=True, image_size=32, drop_path=0.3)
        assert isinstance(network, TimmWrapperForImageClassification)
        rates = [block.drop_path1.drop_prob for block in network.timm_model.blocks[1:]]
        assert rates[-1] == pytest.approx(0.3) and rates == sorted(rates)
        assert "drop_path_rate" not in (network.config.model_args or {})

    def test_pretrained_weights_turn_grey(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        colour = timm.create_model("test_resnet")
        save_file(colour.state_dict(), tmp_path / "weights.safetensors")
        create = timm.create_model

        def from_disk(name: str, pretrained: bool = False, **arguments: Any) -> torch.nn.Module:
            overlay = {"file": str(tmp_path / "weights.safetensors"), "hf_hub_id": None, "url": ""}
            return create(name, pretrained, pretrained_cfg_overlay=overlay if pretrained else None, **arguments)

        monkeypatch.setattr(timm_backbone.timm, "create_model", from_disk)
        network, preprocessing = built("timm:test_resnet.r160_in1k")
        weight_name = "conv1.weight" if "conv1.weight" in colour.state_dict() else "conv1.0.weight"
        assert torch.allclose(
            network.timm_model.state_dict()[weight_name], colour.state_dict()[weight_name].sum(1, keepdim=True)
        )
        colour_means = network.timm_model.pretrained_cfg["mean"]
        assert preprocessing.mean == pytest.approx([sum(w * m for w, m in zip(LUMA, colour_means, strict=True))] * 3)
        assert built("timm:test_resnet.r160_in1k", grey=False)[1].mean == pytest.approx(colour_means)

    @pytest.mark.parametrize(
        ("backbone", "arguments", "message"),
        [
            ("timm:resnet1", None, r"timm [\d.]+ has no such network; did you mean timm:resnet18\?"),
            ("timm:test_resnet.best", None, "no weights of the tag best; there is r160_in1k"),
            ("timm:resnet10t", {"chanels": 3}, "cannot be built .*chanels.*change --network-args"),
            ("timm:test_vit", {"patch_size": 5}, "image_size: got 32, which test_vit does not read"),
        ],
    )
    def test_what_cannot_be_built(self, backbone: str, arguments: dict[str, Any] | None, message: str) -> None:
        with pytest.raises(MienError, match=message):
            built(backbone, arguments)

    def test_weights_out_of_reach(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(MienError, match=r"could not be fetched.*give timm:test_resnet, whose weights are random"):
            built("timm:test_resnet.r160_in1k")

    def test_what_needs_a_vit_says_so(self) -> None:
        with pytest.raises(MienError, match="expected a ViT"):
            as_vit(built(*CNN)[0])


class TestOptimizer:
    @pytest.mark.parametrize("kind", [CNN, VIT, ("timm:test_convnext", None)], ids=["cnn", "vit", "convnext"])
    def test_every_parameter_once_and_the_head_at_its_own_rate(self, kind: tuple[str, dict[str, Any] | None]) -> None:
        network, _ = built(*kind)
        config = TrainConfig(data="", out="", backbone=kind[0], lr=1e-3, head_lr=5e-3, layer_decay=0.5).resolved()
        freeze(network, 0)
        groups = build_optimizer(network, config).param_groups
        parameter_ids = [id(p) for group in groups for p in group["params"]]
        assert sorted(parameter_ids) == sorted(id(p) for p in network.parameters())
        for group in groups:
            is_head = {id(p) in {id(q) for q in heads(network)[0].parameters()} for p in group["params"]}
            assert is_head == {group["lr"] == 5e-3}
        rates = table(network, groups).splitlines()
        assert rates[-2].startswith("head") and rates[-2].endswith("5.00e-03")
        assert "frozen" not in "".join(rates)

    def test_layers_decay_by_timms_own_groups(self) -> None:
        network, _ = built(*CNN)
        config = TrainConfig(data="", out="", backbone=CNN[0], lr=1.0, layer_decay=0.5).resolved()
        groups = build_optimizer(network, config).param_groups
        scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
        parameters = dict(network.timm_model.named_parameters())
        names = ("conv1.0.weight", "layer1.0.conv1.weight", "layer2.0.conv1.weight", "layer3.0.conv1.weight",
                 "layer4.0.conv1.weight", "fc.weight")  # fmt: skip
        assert [scale[id(parameters[name])] for name in names] == [0.5**5, 0.5**4, 0.5**3, 0.5**2, 0.5, 1.0]


class TestFolder:
    @pytest.mark.parametrize("size", [32, 45])
    @pytest.mark.parametrize("kind", [CNN, VIT, HYBRID, REARRANGED], ids=["cnn", "vit", "hybrid", "rearranged"])
    def test_pipeline_gives_the_same_answers_also_as_rgb(
        self, kind: tuple[str, dict[str, Any] | None], size: int, tmp_path: Path
    ) -> None:
        trained = saved(tmp_path / "model", *kind)
        images = synthetic_faces({"train": 3}, size=size).images
        loaded = Classifier.load(tmp_path / "model")
        logits = loaded.logits(images)
        assert np.allclose(logits, trained.logits(images), atol=1e-4)
        assert np.ptp(logits, axis=0).max() > 1e-3
        expected = torch.from_numpy(logits).softmax(1).numpy()
        reader = pipeline("image-classification", model=str(tmp_path / "model"))
        for mode in ("L", "RGB"):
            answers = reader([Image.fromarray(image).convert(mode) for image in images], top_k=3)
            for row, answer in zip(expected, answers, strict=True):
                scores = {entry["label"]: entry["score"] for entry in answer}
                assert [scores[name] for name in NAMES] == pytest.approx(list(row), abs=1e-4)

    @pytest.mark.parametrize("kind", [CNN, VIT], ids=["cnn", "vit"])
    def test_a_colour_photo_reads_as_its_luma(self, kind: tuple[str, dict[str, Any] | None], tmp_path: Path) -> None:
        trained = saved(tmp_path / "model", *kind)
        loaded = Classifier.load(tmp_path / "model")
        assert (num_channels(trained.network), num_channels(loaded.network)) == (1, 3)
        images = synthetic_faces({"train": 4}, size=32, colour=True).images
        assert np.allclose(loaded.logits(images), trained.logits(images), atol=1e-4)

    def test_weights_are_held_to_the_network(self, tmp_path: Path) -> None:
        saved(tmp_path / "model", *CNN)
        path = tmp_path / "model" / "model.safetensors"
        weights = load_file(path)
        missing_name = sorted(name for name in weights if name.endswith("layer4.0.bn1.running_mean"))[0]
        for changed_weights, message in (
            (
                {name: value for name, value in weights.items() if name != missing_name},
                "1 weights are missing .*running_mean",
            ),
            ({**weights, "odd": torch.zeros(1)}, "1 weights are foreign"),
            (
                {**weights, missing_name: torch.zeros(3)},
                r"1 weights are of another shape .*running_mean, \[3\] instead of \[16\]",
            ),
        ):
            save_file(changed_weights, path, metadata={"format": "pt"})
            with pytest.raises(MienError, match=message):
                Classifier.load(tmp_path / "model")


@pytest.fixture
def faces(monkeypatch: pytest.MonkeyPatch) -> FaceSet:
    """A small set that every source reads as."""
    face_set = synthetic_faces({"train": 48, "validation": 12}, size=32)
    monkeypatch.setattr(finetune, "read_faces", lambda source: face_set)
    return face_set


def small(out: Path, **changes: Any) -> TrainConfig:
    """A run of seconds: four steps an epoch."""
    values = {"backbone": CNN[0], "network_args": RESNET, "epochs": 2, "batch_size": 12, "device": "cpu",
              "warmup_epochs": 0.5, **changes}  # fmt: skip
    return TrainConfig(data="synthetic", out=str(out), **values)


class TestTraining:
    def test_learns_and_leaves_what_a_vit_leaves(self, faces: FaceSet, tmp_path: Path) -> None:
        folder = train(small(tmp_path / "run", epochs=8, lr=3e-3, ema=0.8, drop_path=0.1))
        meta = json.loads((folder / "meta.json").read_text())
        assert meta["metrics"]["accuracy"] > 0.6
        assert meta["config"]["network_args"] == RESNET
        loaded = Classifier.load(folder)
        validation = faces.part("validation")
        assert (loaded.logits(validation.images).argmax(1) == validation.labels).mean() == meta["metrics"]["accuracy"]
        sketches = loaded.sketches()
        assert sketches is not None and len(sketches) == 48

    @pytest.mark.parametrize(("kind", "is_told"), [(REARRANGED, True), (CNN, False)])
    def test_three_channels_for_grey_pictures_are_told(
        self, kind: tuple[str, dict[str, Any] | None], is_told: bool, faces: FaceSet, tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        prepared(small(tmp_path / "run", backbone=kind[0], network_args=kind[1]), dry=True)
        assert (f"{kind[0]}: keeps three channels, which read the grey" in capsys.readouterr().err) is is_told

    @pytest.mark.parametrize("updates", [2, 4, 6])
    def test_goes_on_as_if_it_had_never_stopped(
        self, updates: int, faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = {"checkpoint_seconds": 1e-6, "augment": AugmentConfig(mixup=0.2, cutmix=0.5),
                   "drop_path": 0.2}  # fmt: skip
        monkeypatch.setattr(loop, "STEPS_BETWEEN_CHECKS", 1)
        train(small(tmp_path / "whole", **options))
        original = loop.seed_step

        def stopping(seed: int, update: int, process: int) -> None:
            if update > updates:
                raise KeyboardInterrupt
            original(seed, update, process)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "seed_step", stopping)
            with pytest.raises(KeyboardInterrupt):
                train(small(tmp_path / "stopped", **options))
        train(small(tmp_path / "stopped", **options), resume=True)
        for name in ("state.safetensors", "model/model.safetensors"):
            whole_state, stopped_state = (load_file(tmp_path / folder / name) for folder in ("whole", "stopped"))
            assert whole_state.keys() == stopped_state.keys()
            assert all(torch.equal(whole_state[key], stopped_state[key]) for key in whole_state)

    def test_a_size_that_a_trained_network_does_not_read(self) -> None:
        shape = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
        backbone = "timm:vit_tiny_patch16_224"
        network, preprocessing = build(backbone, NAMES, grey=True, image_size=32, network_args=shape)
        assert isinstance(network, TimmWrapperForImageClassification)
        with pytest.raises(
            MienError, match=r"image_size: got 16, expected a size that vit_tiny.* reads .*dynamic_img_"
        ):
            resize_timm(network, preprocessing, 16)
        shape["dynamic_img_size"] = True
        network, preprocessing = build(backbone, NAMES, grey=True, image_size=32, network_args=shape)
        assert isinstance(network, TimmWrapperForImageClassification)
        assert resize_timm(network, preprocessing, 16).image_size == 16

    def test_what_timm_does_not_take(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(MienError, match=r"freeze\.blocks: got 2 for timm:resnet18, expected 0"):
            TrainConfig(data="d", out="o", backbone="timm:resnet18", freeze=FreezeConfig(blocks=2))
        arguments = ["train", "--data", "d", "--out", "o", "--backbone"]
        assert main([*arguments, "timm:test_vit", "--patch-size", "8", "--network-args", '{"in_chans": 1}']) == 2
        stderr = capsys.readouterr().err
        assert "--patch-size: got 8 for timm:test_vit, expected it in network_args" in stderr
        assert "--network-args: got in_chans, which data decides" in stderr
        assert main([*arguments, "tiny", "--network-args", '{"depth": 1}']) == 2
        assert "--network-args: got {'depth': 1} for tiny, expected a backbone timm:NAME" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_keep_the_statistics_that_were_judged(tmp_path: Path) -> None:
    data = tmp_path / "faces"
    faces = synthetic_faces({"train": 64, "validation": 13}, size=32)
    for image, label, split, name in zip(faces.images, faces.labels, faces.splits, faces.ids, strict=True):
        folder = data / {"train": "train", "validation": "val"}[str(split)] / NAMES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{name}.png")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "mien", "train",
               "--data", str(data), "--out", str(tmp_path / "run"), "--backbone", CNN[0], "--network-args",
               json.dumps(RESNET), "--epochs=1", "--batch-size=8", "--ema=0", "--device=cpu"]  # fmt: skip
    environment = {**os.environ, "MIEN_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    completed = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200, check=False)
    assert completed.returncode == 0, completed.stderr[-3000:]
    loaded = Classifier.load(tmp_path / "run")
    temperature = loaded.meta().get("calibration", {}).get("temperature", 1.0)
    validation = faces.part("validation")
    logits = temperature * torch.from_numpy(loaded.logits(validation.images))
    loss = F.cross_entropy(logits, torch.from_numpy(validation.labels)).item()
    assert loaded.meta()["metrics"]["loss"] == pytest.approx(loss, abs=1e-5)
