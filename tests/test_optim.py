"""Muon: what moves how, how large a step is, and that it goes on where it stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import synthetic_faces
from torch import nn
from training_helpers import Stop, same, stop_after, weights

from mien.config import FreezeConfig, PretrainConfig, TrainConfig
from mien.data.faces import FaceSet
from mien.errors import MienError
from mien.model.vit import build
from mien.training import finetune, loop, pretrain
from mien.training.optim import Muon, build_optimizer, start_optimizer

NAMES = ("calm", "glad", "sour")


def settings(out: Path, **changes: object) -> TrainConfig:
    defaults = {"data": "faces", "out": str(out), "backbone": "nano", "epochs": 2, "batch_size": 8, "optimizer": "muon"}
    return TrainConfig(**{**defaults, "device": "cpu", "warmup_epochs": 0.0, **changes})  # type: ignore[arg-type]


def in_muon(optimizer: torch.optim.Optimizer, network: nn.Module) -> set[str]:
    """Names of the parameters in groups marked ``muon``."""
    muon_ids = {id(p) for group in optimizer.param_groups if group.get("muon") for p in group["params"]}
    return {name for name, parameter in network.named_parameters() if id(parameter) in muon_ids}


class TestStep:
    @pytest.mark.parametrize("shape", [(24, 24), (64, 16), (16, 64)])
    def test_a_matrix_moves_along_the_orthogonalised_gradient(self, shape: tuple[int, int]) -> None:
        torch.manual_seed(0)
        start = torch.randn(shape)
        parameter = nn.Parameter(start.clone())
        u, s, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
        # Singular values a thousandfold apart: the step of AdamW or SGD would follow the largest alone.
        parameter.grad = u @ torch.diag(torch.logspace(0, -3, len(s))) @ v
        Muon([{"params": [parameter], "muon": True}], lr=0.01, weight_decay=0.0).step()
        step = (start - parameter.detach()) / (0.01 * max(shape) ** 0.5)
        step_lengths = (u.T @ step @ v.T).diagonal()
        assert step_lengths[: len(s) // 2].min() > 0.6
        assert step_lengths.max() < 1.3
        assert (step - u @ torch.diag(step_lengths) @ v).abs().max() < 1e-3

    def test_the_rate_is_the_root_mean_square_of_a_step(self) -> None:
        torch.manual_seed(0)
        for shape in ((96, 96), (192, 48), (48, 192)):
            parameter = nn.Parameter(torch.zeros(shape))
            parameter.grad = torch.randn(shape)
            Muon([{"params": [parameter], "muon": True}], lr=0.01).step()
            assert parameter.detach().square().mean().sqrt().item() == pytest.approx(0.01, rel=0.2)

    def test_a_convolution_counts_as_a_matrix(self) -> None:
        torch.manual_seed(0)
        gradient = torch.randn(8, 4, 3, 3)
        filters, matrix = nn.Parameter(torch.zeros(8, 4, 3, 3)), nn.Parameter(torch.zeros(8, 36))
        filters.grad, matrix.grad = gradient.clone(), gradient.flatten(1).clone()
        Muon([{"params": [filters], "muon": True}], lr=0.01).step()
        Muon([{"params": [matrix], "muon": True}], lr=0.01).step()
        assert torch.allclose(filters.detach().flatten(1), matrix.detach(), atol=1e-5)

    def test_what_is_not_marked_moves_as_by_adamw(self) -> None:
        torch.manual_seed(0)
        start, gradient = torch.randn(5, 3), torch.randn(5, 3)
        unmarked_parameter, adamw_parameter, marked_parameter = (nn.Parameter(start.clone()) for _ in range(3))
        muon = Muon(
            [{"params": [marked_parameter], "muon": True}, {"params": [unmarked_parameter], "muon": False}],
            lr=0.01,
            weight_decay=0.1,
        )
        adamw = torch.optim.AdamW([adamw_parameter], lr=0.01, weight_decay=0.1)
        for _ in range(3):
            for parameter in (unmarked_parameter, adamw_parameter, marked_parameter):
                parameter.grad = gradient.clone()
            muon.step()
            adamw.step()
        assert torch.allclose(unmarked_parameter, adamw_parameter, atol=1e-7)
        assert not torch.allclose(marked_parameter, adamw_parameter, atol=1e-3)

    def test_a_step_in_bfloat16_is_nearly_the_same(self) -> None:
        torch.manual_seed(0)
        gradient = torch.randn(48, 96)
        steps = []
        for dtype in (torch.float32, torch.bfloat16):
            parameter = nn.Parameter(torch.zeros(48, 96))
            parameter.grad = gradient.clone()
            Muon([{"params": [parameter], "muon": True}], dtype=dtype, lr=0.01).step()
            steps.append(parameter.detach())
        float32_step, bfloat16_step = steps
        assert torch.cosine_similarity(float32_step.flatten(), bfloat16_step.flatten(), dim=0) > 0.99
        assert not torch.equal(float32_step, bfloat16_step)

    def test_weight_decay_is_decoupled(self) -> None:
        parameter = nn.Parameter(torch.ones(4, 4))
        parameter.grad = torch.zeros(4, 4)
        Muon([{"params": [parameter], "muon": True}], lr=0.1, weight_decay=0.5).step()
        assert torch.allclose(parameter.detach(), torch.full((4, 4), 0.95), atol=1e-6)


class TestWhatMovesHow:
    def test_the_matrices_of_the_blocks(self) -> None:
        network, _ = build("nano", NAMES, grey=True)
        config = settings(Path("unused")).resolved()
        muon_names = in_muon(build_optimizer(network, config), network)
        expected = {name for name, p in network.named_parameters() if name.startswith("vit.layers") and p.ndim == 2}
        assert muon_names == expected
        assert len(muon_names) == 4 * 6

    def test_a_layers_rate_and_decay_are_kept(self) -> None:
        network, _ = build("nano", NAMES, grey=True)
        config = settings(Path("unused"), layer_decay=0.5, weight_decay=0.2, lr=1e-3).resolved()
        optimizer = build_optimizer(network, config)
        groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        scales = [groups[id(layer.mlp.fc1.weight)]["lr_scale"] for layer in network.vit.layers]  # type: ignore[union-attr]
        assert scales == pytest.approx([0.5**k for k in range(4, 0, -1)])
        assert all(group["weight_decay"] == 0.2 for group in optimizer.param_groups if group["muon"])

    def test_of_a_convolutional_network_all_but_its_ends(self) -> None:
        network, _ = build("timm:mobilenetv3_small_050", NAMES, grey=True, image_size=32)
        config = settings(Path("unused"), backbone="timm:mobilenetv3_small_050").resolved()
        muon_names = in_muon(build_optimizer(network, config), network)
        assert "timm_model.conv_stem.weight" not in muon_names
        assert "timm_model.classifier.weight" not in muon_names
        assert "timm_model.blocks.1.0.conv_pw.weight" in muon_names
        assert "timm_model.blocks.1.0.conv_dw.weight" not in muon_names  # a filter a channel is no matrix

    @pytest.mark.parametrize(("precision", "dtype"), [("auto", torch.float32), ("bf16", torch.bfloat16)])
    def test_steps_are_computed_in_the_precision_of_the_run(self, precision: str, dtype: torch.dtype) -> None:
        network, _ = build("nano", NAMES, grey=True)
        optimizer = build_optimizer(network, settings(Path("unused"), precision=precision).resolved())
        assert isinstance(optimizer, Muon) and optimizer.dtype is dtype

    def test_adamw_stays_adamw(self) -> None:
        layer = nn.Linear(3, 3)
        groups = [{"params": list(layer.parameters())}]
        assert type(start_optimizer("adamw", layer, groups, [], 1e-3)) is torch.optim.AdamW

    def test_rates_by_default(self) -> None:
        assert settings(Path("o")).resolved().lr == 1e-3
        assert settings(Path("o"), optimizer="adamw").resolved().lr == 3e-4
        assert settings(Path("o"), lr=5e-4).resolved().lr == 5e-4
        assert PretrainConfig(data="d", out="o", optimizer="muon", batch_size=64).resolved().lr == 1e-3

    def test_another_name_is_refused(self) -> None:
        with pytest.raises(MienError, match=r"optimizer: got 'sgd', expected adamw or muon"):
            settings(Path("o"), optimizer="sgd")


class TestRuns:
    @pytest.fixture
    def faces(self, monkeypatch: pytest.MonkeyPatch) -> FaceSet:
        face_set = synthetic_faces({"train": 24, "validation": 8}, size=16)
        monkeypatch.setattr(loop, "STEPS_BETWEEN_CHECKS", 1)
        monkeypatch.setattr(finetune, "read_faces", lambda data: face_set)
        monkeypatch.setattr(pretrain, "read_for_pretraining", lambda data, size, skip: face_set)
        return face_set

    def test_fine_tuning_resumes_bit_for_bit(
        self, faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Epoch 2 has a stage of its own, to which momenta are carried over.
        frozen = FreezeConfig(blocks=1, release_epoch=2, random_weights=True)
        sizes = {"image_size": 16, "checkpoint_seconds": 1e-6, "freeze": frozen}
        finetune.train(settings(tmp_path / "whole", **sizes))
        with monkeypatch.context() as patch:
            stop_after(4, patch)
            with pytest.raises(Stop):
                finetune.train(settings(tmp_path / "parts", **sizes))
        finetune.train(settings(tmp_path / "parts", **sizes), resume=True)
        assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))

    def test_pretraining_resumes_bit_for_bit(
        self, faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def pretraining(out: Path, *, resume: bool = False) -> None:
            config = PretrainConfig(
                data="faces", out=str(out), preset="nano", image_size=16, epochs=2, batch_size=8, optimizer="muon",
                probe_epochs=0, checkpoint_seconds=1e-6, device="cpu",
            )  # fmt: skip
            pretrain.pretrain(config, resume=resume)

        pretraining(tmp_path / "whole")
        with monkeypatch.context() as patch:
            stop_after(4, patch)
            with pytest.raises(Stop):
                pretraining(tmp_path / "parts")
        pretraining(tmp_path / "parts", resume=True)
        assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
