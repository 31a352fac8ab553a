"""The pass of a step: bf16 copies give what autocast gives, teachers are prepared without a change of their answers,
minutes end a run annealed, losses that answer rare classes do, and what is kept follows the criterion."""

from __future__ import annotations

import csv
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import synthetic_faces
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from training_helpers import Stop, stop_after

from mien.config import AugmentConfig, DistillConfig, FreezeConfig, PretrainConfig, TrainConfig
from mien.data.faces import FaceSet
from mien.errors import MienError
from mien.evaluation.balance import class_shares
from mien.model.classifier import Classifier
from mien.model.networks import logits
from mien.model.vit import build
from mien.training import finetune, loop, pretrain
from mien.training.augment import resampled
from mien.training.finetune import FineTuning, train
from mien.training.objective import Objective, adjustment
from mien.training.optim import Budget, Muon, build_schedule
from mien.training.step import HalfCopies, Pass, Recorded, first_cause, joints, method_of
from mien.training.teachers import prepare
from mien.training.validation import score_of

NAMES = ("calm", "glad", "sour")
CNN = {"channels": [8, 12, 16], "layers": [1, 2, 1], "stem_width": 8}
COMMON = {"data": "synthetic", "backbone": "nano", "image_size": 16, "batch_size": 8, "device": "cpu",
          "warmup_epochs": 0.0}  # fmt: skip


def settings(out: Path | str, **changes: object) -> TrainConfig:
    return TrainConfig(**{**COMMON, "out": str(out), **changes})  # type: ignore[arg-type]


@pytest.fixture
def faces(monkeypatch: pytest.MonkeyPatch) -> FaceSet:
    data = synthetic_faces({"train": 24, "validation": 9})
    monkeypatch.setattr(finetune, "read_faces", lambda source: data)
    return data


class Operations(TorchDispatchMode):
    """Counts operations, without views."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


class TestPass:
    def networks(self, backbone: str = "nano") -> list[nn.Module]:
        networks = []
        for _ in range(2):
            torch.manual_seed(0)
            arguments = CNN if backbone.startswith("timm") else None
            network, _ = build(backbone, NAMES, grey=True, image_size=16, network_args=arguments)
            for parameter in network.parameters():
                parameter.data.add_(0.05 * torch.randn_like(parameter))
            networks.append(network.train())
        return networks

    def pass_of(self, network: nn.Module, *, autocast: bool, half: bool) -> tuple[torch.Tensor, dict[str, Any]]:
        """Loss and gradients of a batch."""
        pixels = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        labels = torch.tensor([0, 1, 2, 1])

        def loss(pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                answers = logits(network, pixels)
            return nn.functional.cross_entropy(answers.float(), labels)

        step = Pass(loss, network, Accelerator(cpu=True), "off", half=half)
        assert (step.copies is not None) is half
        value = step(pixels, labels)
        gradients = {name: p.grad for name, p in network.named_parameters() if p.requires_grad}
        for name, gradient in gradients.items():
            assert gradient is not None and gradient.dtype == torch.float32, name
        return value, gradients

    @pytest.mark.parametrize("backbone", ["nano", "timm:face_cnn"])
    def test_copies_give_the_loss_and_the_gradients_of_autocast(
        self, backbone: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mien.training.step.PROJECTIONS", ())
        (copied_loss, gradients), (autocast_loss, expected) = [
            self.pass_of(network, autocast=True, half=half)
            for network, half in zip(self.networks(backbone), (True, False), strict=True)
        ]
        assert torch.equal(copied_loss, autocast_loss)
        for name, gradient in expected.items():
            assert torch.equal(gradients[name], gradient), name

    def test_query_key_and_value_as_one_product_round_no_more_than_three(self, monkeypatch: pytest.MonkeyPatch) -> None:
        exact_network, joined_network = self.networks()
        (separate_network,) = self.networks()[:1]
        _, expected = self.pass_of(exact_network, autocast=False, half=False)
        joined_loss, joined_gradients = self.pass_of(joined_network, autocast=True, half=True)
        monkeypatch.setattr("mien.training.step.PROJECTIONS", ())
        separate_loss, separate_gradients = self.pass_of(separate_network, autocast=True, half=True)
        assert joined_loss == pytest.approx(float(separate_loss), abs=2e-3)

        def error(gradients: dict[str, Any]) -> float:
            return math.sqrt(sum(float((gradients[name] - value).square().sum()) for name, value in expected.items()))

        size = math.sqrt(sum(float(value.square().sum()) for value in expected.values()))
        assert 0 < error(joined_gradients) < 1.1 * error(separate_gradients) < 0.1 * size

    def test_a_pass_calls_one_product_an_attention_and_leaves_the_layers_as_they_were(self) -> None:
        network = self.networks()[0]
        network_joints = joints(network)
        assert (
            len(network_joints)
            == sum(hasattr(module, "q_proj") or hasattr(module, "query") for module in network.modules())
            > 0
        )
        layers = [layer for joint in network_joints for layer in joint.layers]
        copies = HalfCopies(network)
        copies.stand_in()
        values = torch.randn(2, 3, layers[0].in_features).bfloat16()
        outputs = [layer(values) for layer in copies.joints[0].layers]
        assert len({output.untyped_storage().data_ptr() for output in outputs}) == 1
        assert copies.joints[0].input is None, "an input that all layers have read takes no memory"
        again = [copies.joints[0].layers[1](values) for _ in range(2)]
        assert all(torch.equal(output, outputs[1]) for output in again)
        copies.step_back()
        assert all("forward" not in layer.__dict__ for layer in layers)
        assert all(joint.input is None and not joint.outputs for joint in copies.joints)
        for layer, output in zip(copies.joints[0].layers, outputs, strict=True):
            assert torch.allclose(layer(values.float()), output.float(), atol=0.05, rtol=0.05)

    def test_layers_that_share_weights_or_are_partly_frozen_stay_alone(self) -> None:
        network = self.networks()[0]
        first_layers, second_layers = (joint.layers for joint in joints(network)[:2])
        first_layers[0].weight = first_layers[1].weight
        second_layers[2].bias.requires_grad_(False)
        joined_layers = [joint.layers for joint in joints(network)]
        assert len(joined_layers) == len(joints(self.networks()[0])) - 2
        assert first_layers not in joined_layers and second_layers not in joined_layers

    def test_weights_are_back_in_their_places_and_fresh_ones_are_copied(self) -> None:
        layer = nn.Linear(3, 3)
        copies, weight = HalfCopies(layer), layer.weight
        with torch.no_grad():
            weight.fill_(2.0)
        copies.stand_in()
        assert layer.weight.dtype == torch.bfloat16 and (layer.weight == 2).all()
        copies.step_back()
        assert layer.weight is weight

    def test_a_step_of_bf16_casts_no_weight(self) -> None:
        network = self.networks()[0]
        pixels = torch.randn(4, 1, 16, 16)

        def loss(pixels: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return logits(network, pixels).float().square().mean()

        counts = []
        for half in (True, False):
            step = Pass(loss, network, Accelerator(cpu=True), "off", half=half)
            step(pixels)
            with Operations() as operations:
                step(pixels)
            counts.append(operations.count)
        weights = sum(isinstance(layer, nn.Linear | nn.Conv2d) for layer in network.modules())
        assert counts[0] + 3 * weights < counts[1]

    def trained(self, method: str, device: str) -> tuple[list[float], dict[str, torch.Tensor]]:
        """Losses of four steps of a CNN with batch norm, and the weights after them."""
        network = self.networks("timm:face_cnn")[0].to(device)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)

        def loss(pixels: torch.Tensor) -> torch.Tensor:
            with torch.autocast(device, torch.bfloat16):
                return logits(network, pixels).float().square().mean()

        step = Pass(loss, network, Accelerator(cpu=device == "cpu"), method, half=True)
        losses = []
        for seed in range(4):
            pixels = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(seed)).to(device)
            losses.append(float(step(pixels)))
            optimizer.step()
            optimizer.zero_grad()
        return losses, {name: value.float().cpu() for name, value in network.state_dict().items()}

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there a graph can be recorded")
    def test_what_cannot_be_recorded_runs_all_the_same(self, capsys: pytest.CaptureFixture[str]) -> None:
        recorded_result, plain_result = self.trained("graph", "cpu"), self.trained("off", "cpu")
        assert "warning: no CUDA graph of training step (" in capsys.readouterr().err
        assert recorded_result[0] == plain_result[0]
        assert all(torch.equal(recorded_result[1][name], plain_result[1][name]) for name in plain_result[1])

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_a_graph_trains_as_single_operations_do(self, capsys: pytest.CaptureFixture[str]) -> None:
        recorded_result, plain_result = self.trained("graph", "cuda"), self.trained("off", "cuda")
        assert "training step recorded as a CUDA graph" in capsys.readouterr().err
        assert recorded_result[0] == pytest.approx(plain_result[0], rel=1e-2)
        for name, value in plain_result[1].items():
            assert torch.allclose(recorded_result[1][name], value, rtol=0.05, atol=0.01), name

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_whole_runs_are_recorded(
        self, faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        gpu: dict[str, Any] = {"device": "cuda", "precision": "bf16", "optimizer": "muon", "epochs": 2}
        mixing = AugmentConfig(blur=0.02, noise=0.02, jpeg=50, erasing=0.2, mixup=0.2)
        teacher = tmp_path / "teacher"
        train(settings(teacher, backbone="timm:face_cnn", network_args={**CNN, "drop_rate": 0.3}, drop_path=0.1,
                       ema=0.9, augment=mixing, **gpu))  # fmt: skip
        hints = DistillConfig(weight=0.8, features=1.0, mirror=True)
        train(settings(tmp_path / "student", image_size=48, teacher=[str(teacher)], distill=hints, drop_path=0.1,
                       freeze=FreezeConfig(blocks=0), augment=mixing, **gpu))  # fmt: skip
        monkeypatch.setattr(pretrain, "read_for_pretraining", lambda *arguments: faces)
        pretrain.pretrain(PretrainConfig(data="synthetic", out=str(tmp_path / "mae"), preset="nano", image_size=48,
                                         batch_size=8, **gpu))  # fmt: skip
        output = capsys.readouterr().err
        assert "warning" not in output
        assert output.count("training step recorded as a CUDA graph") == 3

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_a_failed_recording_leaves_the_device_as_it_was(self, capsys: pytest.CaptureFixture[str]) -> None:
        stream, pixels = torch.cuda.current_stream(), torch.ones(64, device="cuda")

        def call(values: torch.Tensor) -> torch.Tensor:
            return nn.functional.dropout(values) * values.sum().item()  # reading a value breaks a recording

        assert Recorded(call, "dropout")(pixels).shape == pixels.shape
        assert torch.cuda.current_stream() == stream
        first_output, second_output = nn.functional.dropout(pixels), nn.functional.dropout(pixels)
        assert not torch.equal(first_output, second_output)
        stderr = capsys.readouterr().err
        assert "no CUDA graph of dropout (" in stderr and "previous error" not in stderr

    def test_no_pass_is_left_where_a_run_begins(
        self, faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is left of a pass on another stream forbids a recording; on a CPU nothing else shows it."""
        original, counts = Pass.__call__, []

        def counted(step: Pass, *batch: torch.Tensor) -> torch.Tensor:
            counts.append(sum(is_held(parameter) for parameter in step.network.parameters() if parameter.requires_grad))
            return original(step, *batch)

        def is_held(parameter: nn.Parameter) -> bool:
            """Whether something keeps the node that adds up the parameter's gradient: a new one has no mark."""
            node = accumulator(parameter)
            node.metadata["marked"] = True
            del node
            return "marked" in accumulator(parameter).metadata

        def accumulator(parameter: nn.Parameter) -> Any:
            function = parameter.view_as(parameter).grad_fn
            assert function is not None
            return function.next_functions[0][0]

        monkeypatch.setattr(Pass, "__call__", counted)
        train(settings(tmp_path / "run", freeze=FreezeConfig(blocks=0), epochs=1))
        monkeypatch.setattr(pretrain, "read_for_pretraining", lambda *arguments: faces)
        pretrain.pretrain(PretrainConfig(data="synthetic", out=str(tmp_path / "mae"), preset="nano", image_size=16,
                                         batch_size=8, epochs=1, device="cpu"))  # fmt: skip
        assert len(counts) == 6 and not any(counts)

    def test_the_first_of_several_errors_is_named(self) -> None:
        with pytest.raises(ValueError) as error:
            try:
                raise RuntimeError("first")
            finally:
                raise ValueError("second")
        assert str(first_cause(error.value)) == "first"

    def test_graphs_are_for_one_process_on_a_gpu(self) -> None:
        accelerator = Accelerator(cpu=True)
        assert [method_of(setting, accelerator) for setting in ("auto", "graph", "on", "off")] == [
            "off", "off", "on", "off",
        ]  # fmt: skip


class TestTeachers:
    @pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.1)])
    def test_answers_stay(self, precision: str, tolerance: float) -> None:
        torch.manual_seed(0)
        network, _ = build("timm:face_cnn", NAMES, grey=True, image_size=48, network_args=CNN)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None and module.running_var is not None
                nn.init.normal_(module.running_mean, std=0.3)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
                nn.init.uniform_(module.weight, 0.5, 1.5)
        network.eval()
        pixels = torch.randn(4, 1, 48, 48)
        with torch.no_grad():
            logits_before = logits(network, pixels)
            prepare(network, precision)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                logits_after = logits(network, pixels).float()
        assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
        assert (logits_after - logits_before).abs().max() < tolerance * logits_before.abs().max()


class TestMuon:
    def test_padded_matrices_move_as_alone(self) -> None:
        torch.manual_seed(0)
        shapes = [(8, 24), (8, 36), (24, 8), (8, 4, 3, 3), (6, 6)]
        starts, gradients = [torch.randn(shape) for shape in shapes], [torch.randn(shape) for shape in shapes]
        moved_parameters = []
        for pads in (True, False):
            parameters = [nn.Parameter(start.clone()) for start in starts]
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.clone()
            optimizer = Muon([{"params": parameters, "muon": True}], lr=0.1)
            optimizer.pads = pads
            optimizer.step()
            moved_parameters.append(parameters)
            rows = [(min(len(u), u[0].numel()), max(len(u), u[0].numel())) for u in starts]
            assert len(optimizer._stacks(rows)) == (2 if pads else 3)
        for padded_parameter, plain_parameter in zip(*moved_parameters, strict=True):
            assert torch.allclose(padded_parameter, plain_parameter, atol=1e-5)


class TestMinutes:
    def test_the_clock_ends_the_run_annealed(self, faces: FaceSet, tmp_path: Path) -> None:
        began = time.monotonic()
        train(settings(tmp_path / "run", minutes=0.2, epochs=1, min_lr=0.01, lr=1e-3))
        assert time.monotonic() - began < 60
        with open(tmp_path / "run" / "history.csv", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) > 1
        assert float(rows[-1]["lr"]) < 2e-4
        assert float(rows[-1]["seconds"]) >= 9.6

    def test_it_goes_on_where_it_stopped(
        self, faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(loop, "STEPS_BETWEEN_CHECKS", 1)
        config = settings(tmp_path / "run", minutes=0.2, checkpoint_seconds=1e-6)
        with monkeypatch.context() as patch:
            stop_after(5, patch)
            with pytest.raises(Stop):
                train(config)
        train(config, resume=True)
        assert "epoch   2  loss" in capsys.readouterr().out
        train(config, resume=True)
        assert "images/s" not in capsys.readouterr().out  # no line of an epoch: nothing is trained again
        with pytest.raises(MienError, match=r"minutes: 0.2 -> 0.1"):
            train(replace(config, minutes=0.1), resume=True)

    def test_rates_by_hand(self) -> None:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
        config = settings(Path("run"), minutes=1.0, warmup_epochs=0.5, min_lr=0.0, lr=2.0)
        schedule = build_schedule(optimizer, config, 8, Budget(100, None))
        rates = []
        for update in (1, 2, 50, 100):
            schedule.step_update(update)
            rates.append(optimizer.param_groups[0]["lr"])
        cosine = [1 + math.cos(math.pi * update / 100) for update in (1, 2, 50, 100)]
        assert rates == pytest.approx([0.25 * cosine[0], 0.5 * cosine[1], cosine[2], 0.0], abs=1e-6)


class TestBalance:
    def uneven(self) -> FaceSet:
        data = synthetic_faces({"train": 60})
        return data.select(np.flatnonzero((data.labels != 2) | (np.arange(60) < 6)))

    def test_shares_and_adjustment_by_hand(self) -> None:
        data = self.uneven()
        assert np.bincount(data.labels).tolist() == [20, 20, 2]
        assert class_shares(data, data.names).tolist() == pytest.approx([20 / 42, 20 / 42, 2 / 42])
        assert class_shares(data, data.names, 1.0).tolist() == pytest.approx([1 / 3] * 3)
        assert adjustment(data, settings("o", logit_adjustment=1.0, resample=1.0)).tolist() == pytest.approx(
            [math.log(1 / 3)] * 3
        )
        offsets = adjustment(data, settings("o", logit_adjustment=0.5))
        assert offsets.tolist() == pytest.approx([0.5 * math.log(20 / 42)] * 2 + [0.5 * math.log(2 / 42)])

    def test_rare_classes_are_drawn_as_often(self) -> None:
        labels = self.uneven().labels.repeat(50)
        drawn_shares = np.bincount(labels[resampled(labels, 0, 1, 1.0)]) / len(labels)
        assert np.abs(drawn_shares - 1 / 3).max() < 0.04
        drawn_shares = np.bincount(labels[resampled(labels, 0, 1, 0.0)]) / len(labels)
        assert np.abs(drawn_shares - np.array([20, 20, 2]) / 42).max() < 0.04
        assert not torch.equal(resampled(labels, 0, 1, 1.0), resampled(labels, 0, 2, 1.0))

    @pytest.mark.parametrize("resample", [0.0, 1.0])
    def test_a_picture_that_is_drawn_again_has_another_view(
        self, resample: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = synthetic_faces({"train": 24, "validation": 9})
        data = data.select(np.flatnonzero((data.labels != 2) | (data.splits != "train") | (np.arange(33) < 6)))
        monkeypatch.setattr(finetune, "read_faces", lambda source: data)
        seen = list[tuple[int, float]]()
        original = FineTuning.update

        def update(self: FineTuning, rows: torch.Tensor, random: torch.Tensor) -> torch.Tensor:
            seen.extend(zip(rows.tolist(), random[:, 0].tolist(), strict=True))
            return original(self, rows, random)

        monkeypatch.setattr(FineTuning, "update", update)
        train(settings(tmp_path / "run", epochs=1, resample=resample, batch_size=6))
        assert len(seen) == 18 and len({number for _, number in seen}) == 18
        assert (len({row for row, _ in seen}) < 18) == bool(resample), "pictures are drawn again by resample alone"

    def test_the_least_loss_is_at_logits_without_the_prior(self) -> None:
        # Two pictures alike, nine in ten of class 0: adjusted by tau = 1, the best logits no longer prefer class 0.
        data = synthetic_faces({"train": 10}, names=("a", "b"))
        data = replace(data, labels=np.array([0] * 9 + [1]))
        network, preprocessing = build("nano", data.names, grey=True, image_size=16)
        objective = Objective(
            settings("o", logit_adjustment=1.0, label_smoothing=0.0),
            Classifier(network, preprocessing, data.names),
            data,
        )
        bias = nn.Parameter(torch.zeros(2))
        optimizer = torch.optim.LBFGS([bias], max_iter=50)

        class Constant(nn.Module):
            def forward(self, pixel_values: torch.Tensor) -> object:
                return type("Output", (), {"logits": bias.expand(len(pixel_values), 2)})

        pixels = torch.zeros(10, 1, 16, 16)
        batch = objective.batch(pixels, torch.from_numpy(data.labels), torch.arange(10))

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = objective.loss(Constant(), *batch)
            loss.backward()
            return loss

        optimizer.step(closure)
        assert (bias[0] - bias[1]).item() == pytest.approx(0.0, abs=1e-3)

    def test_history_and_criterion(self, faces: FaceSet, tmp_path: Path) -> None:
        train(
            settings(tmp_path / "run", epochs=5, validate_epochs=2, select="clean_loss", resample=0.5, optimizer="muon")
        )
        with open(tmp_path / "run" / "history.csv", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [row["epoch"] for row in rows] == ["2", "4", "5"]
        assert {"val_balanced_accuracy", "val_clean_loss"} <= set(rows[0])
        best_row = min(rows, key=lambda row: float(row["val_clean_loss"]))
        assert Classifier.load(tmp_path / "run").meta()["metrics"]["epoch"] == int(best_row["epoch"])
        assert score_of({"val_loss": 2.0}, "loss") == pytest.approx(math.exp(-2))

    def test_the_last_epoch_is_kept_whatever_it_scores(
        self, faces: FaceSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        train(settings(tmp_path / "first", epochs=1))
        further = settings(tmp_path / "run", epochs=2, select="last", lr=10.0, freeze=FreezeConfig(blocks=0))
        train(replace(further, backbone=str(tmp_path / "first")))
        meta, start = Classifier.load(tmp_path / "run").meta(), Classifier.load(tmp_path / "first").meta()
        assert meta["metrics"]["epoch"] == 2 and meta["metrics"]["loss"] > start["metrics"]["loss"]
        output = "".join(capsys.readouterr())
        assert "; the last epoch is kept\n" in output and "the last epoch, 2, is kept: " in output

    def test_a_validation_split_of_twins_alone_has_no_clean_loss(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = synthetic_faces({"train": 24, "validation": 6})
        images = data.images.copy()
        images[data.splits == "validation"] = images[data.splits == "train"][:6]
        monkeypatch.setattr(finetune, "read_faces", lambda source: replace(data, images=images))
        train(settings(tmp_path / "run", epochs=1, select="clean_loss"))
        assert "has a twin in training, so that clean_loss is the loss on all of them" in capsys.readouterr().err


def test_teachers_weigh_as_their_setting_says(faces: FaceSet, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, preprocessing = build("nano", faces.names, grey=True, image_size=16)
    classifier = Classifier(network, preprocessing, faces.names)
    uniform_targets = torch.full((24, 3), 1 / 3)
    pixels, rows = torch.randn(6, 1, 16, 16), torch.arange(6)
    labels = torch.from_numpy(faces.part("train").labels)[rows]
    losses = []
    for weight, targets in ((0.0, None), (0.4, uniform_targets), (1.0, uniform_targets)):
        config = settings("o", targets="f", distill=DistillConfig(targets_weight=weight, temperature=2.0))
        objective = Objective(config, classifier, faces.part("train"), stored=targets)
        losses.append(objective.loss(network, *objective.batch(pixels, labels, rows)).item())
    assert losses[1] == pytest.approx(0.6 * losses[0] + 0.4 * losses[2], rel=1e-5)


def test_steps_are_those_of_the_run(faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    updates: list[int] = []
    original = FineTuning.loss

    def noting(self: FineTuning, model: nn.Module, *batch: torch.Tensor) -> torch.Tensor:
        updates.append(self.updates)
        return original(self, model, *batch)

    monkeypatch.setattr(FineTuning, "loss", noting)
    train(settings(tmp_path / "run", epochs=2))
    assert updates == list(range(6))
