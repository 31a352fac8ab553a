"""The classifier: masking off, exact channels, freezing, model folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import synthetic_faces
from safetensors.torch import load_file, save_file
from transformers import ViTForImageClassification, ViTImageProcessor, ViTMAEModel, pipeline

from mien.config import FreezeConfig, TrainConfig
from mien.errors import MienError
from mien.model.channels import to_colour, to_grey
from mien.model.classifier import Classifier
from mien.model.configuration import read_config
from mien.model.freezing import check_freezing, freeze, frozen_units, table, training_mode, units
from mien.model.networks import as_vit, heads, lay_out, logits
from mien.model.preprocessing import LUMA, Preprocessing
from mien.model.vit import build
from mien.training.optim import build_optimizer

NAMES = ("calm", "glad", "sour")


def build_vit(backbone: str, names: tuple[str, ...], *, grey: bool) -> tuple[ViTForImageClassification, Preprocessing]:
    network, preprocessing = build(backbone, names, grey=grey)
    return as_vit(network), preprocessing


def saved(folder: Path, backbone: str, grey: bool = True) -> Classifier:
    torch.manual_seed(1)
    network, preprocessing = build(backbone, NAMES, grey=grey)
    torch.nn.init.normal_(heads(network)[0].weight)
    classifier = Classifier(network.eval(), preprocessing, NAMES)
    classifier.save(folder, {"command": "test"})
    return classifier


class TestMasking:
    def test_cls_equals_the_masked_autoencoders_with_masking_off(self, mae_folder: Path) -> None:
        network, _ = build_vit(str(mae_folder), NAMES, grey=False)
        mae = ViTMAEModel.from_pretrained(mae_folder, mask_ratio=0.0).eval()
        pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            cls_token = network.eval().vit(pixels).last_hidden_state[:, 0]
            mae_cls_token = mae(pixels, noise=torch.arange(16.0).expand(4, -1)).last_hidden_state[:, 0]
        assert torch.allclose(cls_token, mae_cls_token, atol=1e-5)

    def test_masking_as_it_comes_would_change_the_answer(self, mae_folder: Path) -> None:
        mae = ViTMAEModel.from_pretrained(mae_folder).eval()
        pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            first, second = (mae(pixels).last_hidden_state[:, 0] for _ in range(2))
        assert not torch.allclose(first, second, atol=1e-5)

    def test_two_calls_agree_bit_for_bit(self, mae_folder: Path) -> None:
        network, preprocessing = build_vit(str(mae_folder), NAMES, grey=True)
        classifier = Classifier(network.eval(), preprocessing, NAMES)
        images = synthetic_faces({"train": 6}).images
        assert np.array_equal(classifier.logits(images), classifier.logits(images))


class TestBackbone:
    @pytest.mark.parametrize(
        ("preset", "parameters"),
        [("nano", 807_431), ("mini", 3_580_423), ("tiny", 5_359_879), ("small", 21_359_623), ("base", 85_140_487)],
    )
    def test_presets(self, preset: str, parameters: int) -> None:
        network, preprocessing = build_vit(preset, tuple("abcdefg"), grey=True)
        assert preprocessing.image_size == 48
        assert sum(p.numel() for p in network.parameters()) == parameters

    def test_positions_are_fixed(self, mae_folder: Path) -> None:
        for backbone in ("nano", str(mae_folder)):
            network, _ = build_vit(backbone, NAMES, grey=True)
            assert not network.vit.embeddings.position_embeddings.requires_grad

    @pytest.mark.parametrize("of_the_run", [False, True])
    def test_a_classifier_goes_on_with_its_head(self, tmp_path: Path, of_the_run: bool) -> None:
        original = saved(tmp_path / "run" / "model", "nano")
        network, preprocessing = build_vit(str(tmp_path / ("run" if of_the_run else "run/model")), NAMES, grey=True)
        classifier = Classifier(network.eval(), preprocessing, NAMES)
        images = synthetic_faces({"train": 5}).images
        assert np.allclose(original.logits(images), classifier.logits(images), atol=1e-4)
        assert not network.vit.embeddings.position_embeddings.requires_grad

    def test_its_head_follows_the_order_of_the_classes(self, tmp_path: Path) -> None:
        original = saved(tmp_path / "model", "nano")
        names = ("sour", "calm", "glad")
        network, preprocessing = build_vit(str(tmp_path / "model"), names, grey=True)
        images = synthetic_faces({"train": 5}).images
        answers = Classifier(network.eval(), preprocessing, names).logits(images)
        assert np.allclose(original.logits(images)[:, [2, 0, 1]], answers, atol=1e-4)
        assert network.config.id2label == {0: "sour", 1: "calm", 2: "glad"}

    def test_other_classes_get_a_new_head(self, tmp_path: Path) -> None:
        original = as_vit(saved(tmp_path / "model", "nano").network)
        network, _ = build_vit(str(tmp_path / "model"), ("bored", "tired"), grey=True)
        assert heads(network)[0].weight.shape == (2, original.config.hidden_size) and network.num_labels == 2
        assert heads(network)[0].weight.std() < 0.1 < heads(original)[0].weight.std()
        assert torch.equal(network.vit.layernorm.weight, original.vit.layernorm.weight)

    def test_a_classifier_at_another_size(self, tmp_path: Path) -> None:
        saved(tmp_path / "model", "nano")
        network, preprocessing = build(str(tmp_path / "model"), NAMES, grey=True, image_size=24)
        assert preprocessing.image_size == as_vit(network).config.image_size == 24

    def test_missing_encoder_weights(self, mae_folder: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(mae_folder, tmp_path / "mae")
        weights = load_file(folder / "model.safetensors")
        weights.pop(
            next(
                name
                for name in weights
                if (name.startswith("vit.") and "query.weight" in name) or "q_proj.weight" in name
            )
        )
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(MienError, match="1 weights missing"):
            build(str(folder), NAMES, grey=True)

    def test_a_head_is_foreign(self, mae_folder: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(mae_folder, tmp_path / "mae")
        weights = load_file(folder / "model.safetensors")
        width = json.loads((folder / "config.json").read_text())["hidden_size"]
        weights["classifier.weight"], weights["classifier.bias"] = torch.ones(len(NAMES), width), torch.ones(len(NAMES))
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(MienError, match=r"2 foreign weights \(first: classifier.bias\)"):
            build(str(folder), NAMES, grey=True)

    def test_foreign_weights(self, mae_folder: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(mae_folder, tmp_path / "mae")
        weights = load_file(folder / "model.safetensors")
        weights["vit.extra.weight"] = torch.zeros(2)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(MienError, match=r"foreign weights \(first: vit.extra.weight\)"):
            build(str(folder), NAMES, grey=True)

    def test_another_architecture(self, mae_folder: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(mae_folder, tmp_path / "mae")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "resnet"}))
        with pytest.raises(MienError, match=r"another architecture \(resnet\)"):
            build(str(folder), NAMES, grey=True)

    def test_no_such_folder(self, tmp_path: Path) -> None:
        with pytest.raises(MienError, match="no such folder"):
            build(str(tmp_path / "nothing"), NAMES, grey=True)

    def test_hub_out_of_reach_says_what_to_download(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(MienError, match="run `hf download nobody/no-such-vit-mae`"):
            build("nobody/no-such-vit-mae", NAMES, grey=True)


class TestChannels:
    def test_grey_network_answers_as_the_colour_one_on_grey_pictures(self, mae_folder: Path) -> None:
        colour, preprocessing = build_vit(str(mae_folder), NAMES, grey=False)
        grey, _ = build_vit(str(mae_folder), NAMES, grey=True)
        grey.load_state_dict(
            {name: value for name, value in colour.state_dict().items() if "projection" not in name}, strict=False
        )
        assert grey.config.num_channels == 1
        images = torch.from_numpy(synthetic_faces({"train": 3}, size=32).images)
        with torch.no_grad():
            grey_logits = grey.eval()(pixel_values=preprocessing(images, 1)).logits
            colour_logits = colour.eval()(pixel_values=preprocessing(images, 3)).logits
        assert torch.allclose(grey_logits, colour_logits, atol=1e-5)

    def test_there_and_back_again(self, mae_folder: Path) -> None:
        network, preprocessing = build_vit(str(mae_folder), NAMES, grey=True)
        weight_before = network.vit.embeddings.patch_embeddings.projection.weight.clone()
        to_colour(network, preprocessing)
        to_grey(network, preprocessing)
        assert torch.allclose(network.vit.embeddings.patch_embeddings.projection.weight, weight_before, atol=1e-6)

    def test_colour_pictures_count_as_their_luma(self) -> None:
        preprocessing = Preprocessing(16, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
        pixels = preprocessing(torch.tensor([255, 0, 0], dtype=torch.uint8).expand(1, 16, 16, 3), 1)
        expected = (LUMA[0] - preprocessing.grey_mean) / preprocessing.grey_std
        assert pixels.shape == (1, 1, 16, 16)
        assert torch.allclose(pixels, torch.full_like(pixels, expected), atol=1e-6)


class TestFreezing:
    @pytest.mark.parametrize(
        ("config", "expected"),
        [
            (FreezeConfig(blocks=0), [0, 0, 0]),
            (FreezeConfig(blocks=2), [3, 3, 3]),
            (FreezeConfig(blocks=2, release_epoch=2), [3, 0, 0]),
            (FreezeConfig(blocks=2, release_epoch=2, gradual=True), [3, 2, 1]),
        ],
    )
    def test_frozen_units_by_epoch(self, config: FreezeConfig, expected: list[int]) -> None:
        assert [frozen_units(config, epoch) for epoch in (1, 2, 3)] == expected

    def test_frozen_is_in_no_optimizer_and_stores_no_activations(self, mae_folder: Path) -> None:
        network, _ = build_vit(str(mae_folder), NAMES, grey=True)
        freeze(network, 3)
        training_mode(network, 3)
        optimizer = build_optimizer(network, TrainConfig(data="", out="", backbone=str(mae_folder)).resolved())
        optimized = {id(p) for group in optimizer.param_groups for p in group["params"]}
        frozen_parameters = [p for _, unit in units(network)[:3] for p in unit.parameters()]
        assert not optimized & {id(p) for p in frozen_parameters}
        assert optimized == {id(p) for p in network.parameters() if p.requires_grad}
        needs_graph: list[bool] = []
        network.vit.layers[1].register_forward_hook(
            lambda module, args, output: needs_graph.append(output.requires_grad)
        )
        network(pixel_values=torch.randn(2, 1, 32, 32)).logits.sum().backward()
        assert needs_graph == [False]
        assert all(p.grad is None for p in frozen_parameters)

    def test_random_weights_are_not_frozen_unasked(self) -> None:
        network, _ = build_vit("nano", NAMES, grey=True)
        with pytest.raises(MienError, match="weights are random"):
            check_freezing(FreezeConfig(blocks=2), network, fresh=True)
        check_freezing(FreezeConfig(blocks=2, random_weights=True), network, fresh=True)

    def test_not_all_of_it_unasked(self) -> None:
        network, _ = build_vit("nano", NAMES, grey=True)
        with pytest.raises(
            MienError, match=r"would freeze all 4 blocks of this backbone; say --freeze\.blocks 2, or 0"
        ):
            check_freezing(FreezeConfig(blocks=4), network, fresh=False, by_default=True)
        check_freezing(FreezeConfig(blocks=4), network, fresh=False)

    def test_more_blocks_than_there_are(self) -> None:
        network, _ = build_vit("nano", NAMES, grey=True)
        with pytest.raises(MienError, match="expected at most 4"):
            check_freezing(FreezeConfig(blocks=7), network, fresh=False)

    def test_rates(self, mae_folder: Path) -> None:
        config = TrainConfig(data="", out="", backbone=str(mae_folder), layer_decay=0.5).resolved()
        network: Any = build_vit(str(mae_folder), NAMES, grey=True)[0]
        freeze(network, 2)
        groups = build_optimizer(network, config).param_groups
        text = table(network, groups)
        assert "embeddings" in text and "frozen" in text
        rates = {id(p): group["lr"] * group["lr_scale"] for group in groups for p in group["params"]}
        assert rates[id(network.classifier.weight)] == pytest.approx(1.5e-4)
        assert rates[id(network.vit.layernorm.weight)] == pytest.approx(3e-5 * 0.5)
        assert rates[id(network.vit.layers[2].mlp.fc1.weight)] == pytest.approx(3e-5 * 0.5)
        decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
        assert decays[id(network.vit.layers[2].mlp.fc1.weight)] == 0.05
        assert decays[id(network.vit.layers[2].mlp.fc1.bias)] == 0
        assert decays[id(network.vit.layers[2].layernorm_before.weight)] == 0


class TestLayOut:
    def test_a_vit_answers_the_same_and_its_file_says_nothing_of_it(self, tmp_path: Path) -> None:
        network = as_vit(saved(tmp_path / "as-built", "nano").network)
        pixels = torch.randn(3, 1, 48, 48)
        with torch.no_grad():
            logits_before = logits(network, pixels)
            assert lay_out(network).config._attn_implementation == "eager"
            assert torch.allclose(logits(network, pixels), logits_before, atol=1e-4)
        network.save_pretrained(tmp_path / "laid-out")
        configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("as-built", "laid-out")]
        assert configs[0].keys() == configs[1].keys()

    def test_a_convolution_keeps_the_channels_side_by_side(self) -> None:
        network, _ = build("timm:resnet10t", NAMES, grey=True, image_size=32)
        filters = next(weight for weight in lay_out(network).parameters() if weight.ndim == 4 and weight.shape[1] > 1)
        assert filters.is_contiguous(memory_format=torch.channels_last)


class TestFolder:
    @pytest.mark.parametrize(("backbone", "size"), [("nano", 48), ("nano", 61), ("mae", 20), ("mae", 48)])
    def test_pipeline_gives_the_same_answers_also_as_rgb(
        self, tmp_path: Path, mae_folder: Path, backbone: str, size: int
    ) -> None:
        from PIL import Image

        saved(tmp_path / "model", str(mae_folder) if backbone == "mae" else backbone)
        classifier = Classifier.load(tmp_path / "model")
        images = synthetic_faces({"train": 3}, size=size).images
        logits = classifier.logits(images)
        expected = torch.from_numpy(logits).softmax(1).numpy()
        reader = pipeline("image-classification", model=str(tmp_path / "model"))
        for mode in ("L", "RGB"):
            answers = reader([Image.fromarray(image).convert(mode) for image in images], top_k=3)
            for row, answer in zip(expected, answers, strict=True):
                scores = {item["label"]: item["score"] for item in answer}
                assert [scores[name] for name in NAMES] == pytest.approx(list(row), abs=1e-4)

    def test_loaded_equals_trained(self, tmp_path: Path, mae_folder: Path) -> None:
        original = saved(tmp_path / "model", str(mae_folder))
        images = synthetic_faces({"train": 5}).images
        classifier = Classifier.load(tmp_path / "model")
        assert classifier.names == NAMES
        assert np.allclose(classifier.logits(images), original.logits(images), atol=1e-4)

    def test_colour_photo_reads_as_its_luma(self, tmp_path: Path) -> None:
        original = saved(tmp_path / "model", "nano")
        images = synthetic_faces({"train": 4}, size=48, colour=True).images
        assert np.allclose(Classifier.load(tmp_path / "model").logits(images), original.logits(images), atol=1e-4)

    def test_missing_weights(self, tmp_path: Path) -> None:
        saved(tmp_path / "model", "nano")
        weights = load_file(tmp_path / "model" / "model.safetensors")
        weights.pop("classifier.bias")
        save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(MienError, match=r"1 weights are missing \(first: classifier.bias\)"):
            Classifier.load(tmp_path / "model")

    def test_foreign_weights(self, tmp_path: Path) -> None:
        saved(tmp_path / "model", "nano")
        weights = load_file(tmp_path / "model" / "model.safetensors")
        save_file(
            {**weights, "odd": torch.zeros(1)}, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"}
        )
        with pytest.raises(MienError, match="foreign"):
            Classifier.load(tmp_path / "model")

    def test_weights_of_another_shape(self, tmp_path: Path) -> None:
        saved(tmp_path / "model", "nano")
        weights = load_file(tmp_path / "model" / "model.safetensors")
        weights["classifier.weight"] = torch.zeros(5, 128)
        save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
        expected = r"1 weights are of another shape \(first: classifier.weight, \[5, 128\] instead of \[3, 128\]\)"
        with pytest.raises(MienError, match=expected):
            Classifier.load(tmp_path / "model")

    @pytest.mark.parametrize("count", [2, 4])
    def test_channels_that_no_picture_has(self, count: int, tmp_path: Path) -> None:
        saved(tmp_path / "model", "nano")
        config = tmp_path / "model" / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "num_channels": count}))
        with pytest.raises(MienError, match=f"num_channels: got {count}, expected 1 or 3"):
            Classifier.load(tmp_path / "model")

    def test_real_numbers_may_be_written_as_whole_ones(self, tmp_path: Path) -> None:
        saved(tmp_path / "model", "nano")
        config = tmp_path / "model" / "config.json"
        whole = {"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0, "initializer_range": 0}
        config.write_text(json.dumps({**json.loads(config.read_text()), **whole}))
        assert read_config(tmp_path / "model").hidden_dropout_prob == 0.0
        Classifier.load(tmp_path / "model")

    def test_channels_of_a_timm_network_that_no_picture_has(self, tmp_path: Path) -> None:
        arguments = {"architecture": "face_cnn", "model_args": {"in_chans": 4}, "id2label": {"0": "a", "1": "b"}}
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "timm_wrapper", **arguments}))
        with pytest.raises(MienError, match="in_chans: got 4, expected 1 or 3"):
            read_config(tmp_path)

    @pytest.mark.parametrize(
        "steps",
        [
            {"do_normalize": False},
            {"do_rescale": False},
            {"do_rescale": False, "do_normalize": False},
            {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
        ],
    )
    def test_the_steps_of_a_foreign_preprocessor_are_taken(self, steps: dict[str, Any], tmp_path: Path) -> None:
        classifier = saved(tmp_path / "model", "nano")
        record = tmp_path / "model" / "preprocessor_config.json"
        record.write_text(json.dumps({**json.loads(record.read_text()), **steps}))
        images = synthetic_faces({"train": 2}, size=48, colour=True).images
        loaded = Classifier.load(tmp_path / "model")
        processor = ViTImageProcessor.from_pretrained(tmp_path / "model")
        expected = processor(list(images), return_tensors="pt")["pixel_values"].float()
        assert torch.allclose(loaded.preprocessing(torch.from_numpy(images), 3), expected, rtol=1e-5, atol=1e-5)
        assert loaded.preprocessing != classifier.preprocessing

    @pytest.mark.parametrize(("resample", "is_told"), [(3, True), (0, True), (2, False), (None, False)])
    def test_resizing_that_is_not_bilinear_is_told_once(
        self, resample: int | None, is_told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        saved(tmp_path / "model", "nano")
        record = tmp_path / "model" / "preprocessor_config.json"
        record.write_text(json.dumps({**json.loads(record.read_text()), "resample": resample}))
        for _ in range(2):
            Classifier.load(tmp_path / "model")
        told = [line.getMessage() for line in caplog.records if "resizes bilinearly" in line.getMessage()]
        assert len(told) == is_told
        assert all(f"preprocessor_config.json: resample: got {resample}," in line for line in told)

    def test_a_foreign_folder_without_a_preprocessor(self, tmp_path: Path) -> None:
        saved(tmp_path / "model", "nano")
        (tmp_path / "model" / "preprocessor_config.json").unlink()
        with pytest.raises(MienError, match=r"preprocessor_config\.json: is missing, .* copy it from where the model"):
            Classifier.load(tmp_path / "model")

    def test_classes_that_do_not_exclude_each_other_are_refused(self, tmp_path: Path) -> None:
        saved(tmp_path / "model", "nano")
        config = tmp_path / "model" / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "problem_type": "multi_label_classification"}))
        with pytest.raises(MienError, match=r"problem_type: got multi_label_classification, .* give another model"):
            Classifier.load(tmp_path / "model")

    def test_a_factor_that_blackens_is_refused(self, tmp_path: Path) -> None:
        saved(tmp_path / "model", "nano")
        record = tmp_path / "model" / "preprocessor_config.json"
        record.write_text(json.dumps({**json.loads(record.read_text()), "rescale_factor": 0}))
        with pytest.raises(MienError, match=r"preprocessor_config\.json: expected"):
            Classifier.load(tmp_path / "model")

    def test_truncated_weights(self, tmp_path: Path) -> None:
        saved(tmp_path / "model", "nano")
        path = tmp_path / "model" / "model.safetensors"
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(MienError, match="cannot be read"):
            Classifier.load(tmp_path / "model")

    def test_no_weights_and_no_folder(self, tmp_path: Path) -> None:
        saved(tmp_path / "model", "nano")
        (tmp_path / "model" / "model.safetensors").unlink()
        with pytest.raises(MienError, match="weights are missing"):
            Classifier.load(tmp_path / "model")
        with pytest.raises(MienError, match="no such folder"):
            Classifier.load(tmp_path / "nothing")

    def test_another_architecture(self, mae_folder: Path) -> None:
        with pytest.raises(MienError, match=r"another architecture \(vit_mae\)"):
            Classifier.load(mae_folder)
