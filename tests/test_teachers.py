"""Distillation: the loss by hand, what a teacher sees, classes matched by name, resumption with the same teachers."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import synthetic_faces
from safetensors.torch import load_file
from training_helpers import Stop, stop_after

from mien.config import AugmentConfig, DistillConfig, FreezeConfig, TrainConfig
from mien.data.faces import FaceSet
from mien.errors import MienError
from mien.model.classifier import Classifier
from mien.model.networks import heads, logits
from mien.model.preprocessing import Preprocessing, tensor
from mien.model.vit import build
from mien.training import finetune, loop, objective
from mien.training.augment import Augment
from mien.training.finetune import FineTuning, train
from mien.training.teachers import (
    Distillation,
    Teacher,
    half_mirrored,
    load_teachers,
    pictures_of_teachers,
    soft_divergence,
)

NAMES = ("calm", "glad", "sour")
CPU = torch.device("cpu")
STUDENT = Preprocessing(16, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


def write_teacher(folder: Path, names: tuple[str, ...] = NAMES, seed: int = 0, image_size: int = 16) -> Path:
    """A model folder with one block and a head that gives answers far from even."""
    torch.manual_seed(seed)
    network, preprocessing = build("nano", names, grey=True, image_size=image_size)
    torch.nn.init.normal_(heads(network)[0].weight)
    Classifier(network.eval(), preprocessing, names).save(folder, {})
    return folder


def distillation(*teachers: Teacher, temperature: float = 2.0, weight: float = 0.5) -> Distillation:
    return Distillation(DistillConfig(weight, temperature), teachers, STUDENT, "fp32")


def softmax(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).softmax(1).numpy()


class TestLoss:
    def test_divergence_by_hand(self) -> None:
        # 3/4 ln(3/4 : 1/2) + 1/4 ln(1/4 : 1/2)
        expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
        probabilities = torch.tensor([[0.75, 0.25], [0.75, 0.25]])
        assert soft_divergence(probabilities, torch.zeros(2, 2), 2.0).item() == pytest.approx(expected)
        # At temperature 2, logits 2 ln 3 and 0 are probabilities of 3/4 and 1/4.
        same_logits = torch.tensor([[2 * math.log(3), 0.0]] * 2)
        assert soft_divergence(probabilities, same_logits, 2.0).item() == pytest.approx(0.0, abs=1e-6)
        assert soft_divergence(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2), 1.0).item() == pytest.approx(math.log(2))

    def test_blend_by_hand(self, monkeypatch: pytest.MonkeyPatch) -> None:
        divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
        monkeypatch.setattr(Distillation, "probabilities", lambda self, pixels: torch.tensor([[0.75, 0.25]]))
        for weight, expected in ((0.0, 0.0), (1.0, 9 * divergence), (0.25, 0.25 * 9 * divergence)):
            blend = distillation(temperature=3.0, weight=weight)
            loss = blend(torch.zeros(1, 2), torch.zeros(1, 1, 4, 4))
            assert loss.item() == pytest.approx(expected)

    def test_gradient_keeps_its_size_at_any_temperature(self) -> None:
        # T^2 KL has the gradient T (softmax(z / T) - p) / B, which is (z - v) / C for small logits z, v of C classes.
        teacher, sizes = torch.tensor([[0.02, -0.01, -0.01]]), []
        for temperature in (1.0, 10.0):
            student = torch.zeros(1, 3, requires_grad=True)
            probabilities = (teacher / temperature).softmax(1)
            (temperature**2 * soft_divergence(probabilities, student, temperature)).backward()
            assert student.grad is not None
            sizes.append(student.grad)
        assert torch.allclose(sizes[0], sizes[1], atol=1e-4)
        assert torch.allclose(sizes[1], -teacher / 3, atol=1e-4)


class TestTeachers:
    def test_the_teacher_sees_the_students_picture_its_own_way(self, tmp_path: Path) -> None:
        images = synthetic_faces({"train": 4}, size=16).images
        (teacher,) = load_teachers([str(write_teacher(tmp_path / "t"))], NAMES, CPU)
        expected = softmax(teacher.classifier.logits(images) / 2.0)
        for channels in (1, 3):
            pixels = STUDENT(tensor(images), channels)
            assert np.allclose(distillation(teacher).probabilities(pixels).numpy(), expected, atol=1e-5)

    def test_and_at_its_own_size(self, tmp_path: Path) -> None:
        images = synthetic_faces({"train": 4}, size=16).images
        (teacher,) = load_teachers([str(write_teacher(tmp_path / "t", image_size=48))], NAMES, CPU)
        seen_shapes: list[torch.Size] = []
        teacher.classifier.network.register_forward_pre_hook(
            lambda module, args, options: seen_shapes.append(options["pixel_values"].shape), with_kwargs=True
        )
        probabilities = distillation(teacher).probabilities(STUDENT(tensor(images), 1)).numpy()
        assert seen_shapes == [torch.Size([4, 3, 48, 48])]
        # The classifier rounds resized pictures to whole grey levels, the student's are not rounded.
        assert np.allclose(probabilities, softmax(teacher.classifier.logits(images) / 2.0), atol=0.02)

    def test_several_are_averaged(self, tmp_path: Path) -> None:
        folders = [str(write_teacher(tmp_path / str(seed), seed=seed)) for seed in (0, 1)]
        teachers = load_teachers(folders, NAMES, CPU)
        pixels = STUDENT(tensor(synthetic_faces({"train": 4}, size=16).images), 1)
        first_probabilities, second_probabilities = (
            distillation(teacher).probabilities(pixels) for teacher in teachers
        )
        assert not torch.allclose(first_probabilities, second_probabilities, atol=0.01)
        assert torch.allclose(
            distillation(*teachers).probabilities(pixels), (first_probabilities + second_probabilities) / 2
        )

    @pytest.mark.parametrize("count", [2, 5])
    def test_or_each_reads_a_part_of_the_batch(self, count: int, tmp_path: Path) -> None:
        folders = [str(write_teacher(tmp_path / str(seed), seed=seed)) for seed in (0, 1)]
        teachers = load_teachers(folders, NAMES, CPU)
        pixels = STUDENT(tensor(synthetic_faces({"train": count}, size=16).images), 1)
        first, second = (distillation(teacher).probabilities(pixels) for teacher in teachers)
        split = Distillation(DistillConfig(split_batch=True), teachers, STUDENT, "fp32").probabilities(pixels)
        assert torch.allclose(split, torch.cat([first[: count // 2], second[count // 2 :]]), atol=1e-6)

    def test_parts_teach_the_average(self) -> None:
        """Over the orders of a batch, the mean gradient of split answers is that of the averaged answers."""
        torch.manual_seed(0)
        first, second, student = torch.rand(4, 3).softmax(1), torch.rand(4, 3).softmax(1), torch.randn(4, 3)

        def gradient(probabilities: torch.Tensor) -> torch.Tensor:
            logits = student.clone().requires_grad_(True)
            soft_divergence(probabilities, logits, 2.0).backward()
            assert logits.grad is not None
            return logits.grad

        parts = pictures_of_teachers(4, 2, split=True)
        assert parts == [slice(0, 2), slice(2, 4)]
        split = []
        for order in itertools.permutations(range(4)):
            answers = torch.empty(4, 3)
            for part, teacher in zip(parts, (first, second), strict=True):
                answers[list(order[part])] = teacher[list(order[part])]
            split.append(gradient(answers))
        assert torch.allclose(torch.stack(split).mean(0), gradient((first + second) / 2), atol=1e-6)

    def test_every_second_picture_is_read_mirrored(self, tmp_path: Path) -> None:
        (teacher,) = load_teachers([str(write_teacher(tmp_path / "t"))], NAMES, CPU)
        pixels = STUDENT(tensor(synthetic_faces({"train": 5}, size=16).images), 1)
        plain_distillation = distillation(teacher)
        straight_probabilities, mirrored_probabilities = (
            plain_distillation.probabilities(pixels),
            plain_distillation.probabilities(pixels.flip(-1)),
        )
        assert not torch.allclose(straight_probabilities, mirrored_probabilities, atol=1e-4)
        probabilities = Distillation(DistillConfig(mirror=True), [teacher], STUDENT, "fp32").probabilities(pixels)
        expected = torch.where(
            torch.tensor([[False], [True], [False], [True], [False]]), mirrored_probabilities, straight_probabilities
        )
        assert torch.allclose(probabilities, expected, atol=1e-6)
        assert torch.equal(half_mirrored(half_mirrored(pixels)), pixels)

    def test_classes_are_matched_by_name(self, tmp_path: Path) -> None:
        folder = write_teacher(tmp_path / "t", ("sour", "odd", "calm", "glad"))
        (teacher,) = load_teachers([str(folder)], NAMES, CPU)
        assert teacher.columns.tolist() == [2, 3, 0]
        images = synthetic_faces({"train": 4}, size=16).images
        expected = softmax(teacher.classifier.logits(images)[:, [2, 3, 0]] / 2.0)
        probabilities = distillation(teacher).probabilities(STUDENT(tensor(images), 1)).numpy()
        assert np.allclose(probabilities, expected, atol=1e-5)

    def test_other_classes_are_refused(self, tmp_path: Path) -> None:
        folder = write_teacher(tmp_path / "t", ("calm", "glad", "angry"))
        message = (
            rf"--teacher {folder}: cannot teach the classes calm, glad, sour: no class named sour; there is calm, gla"
        )
        with pytest.raises(MienError, match=message):
            load_teachers([str(folder)], NAMES, CPU)

    def test_no_such_teacher(self, tmp_path: Path) -> None:
        with pytest.raises(MienError, match="no such folder"):
            load_teachers([str(tmp_path / "nothing")], NAMES, CPU)


@pytest.fixture
def faces(monkeypatch: pytest.MonkeyPatch) -> FaceSet:
    """A small set that every source reads as."""
    face_set = synthetic_faces({"train": 48, "validation": 12})
    monkeypatch.setattr(finetune, "read_faces", lambda source: face_set)
    return face_set


def small(out: Path, backbone: Path, *teachers: Path, **changes: Any) -> TrainConfig:
    """A run of seconds: three blocks, 32 px, four steps an epoch."""
    values = {"epochs": 2, "batch_size": 12, "freeze": FreezeConfig(blocks=0), "lr": 1e-3, "warmup_epochs": 0.5,
              "device": "cpu", "teacher": [str(teacher) for teacher in teachers], **changes}  # fmt: skip
    return TrainConfig(data="synthetic", out=str(out), backbone=str(backbone), **values)


class TestTraining:
    def test_a_student_learns_what_nobody_but_the_teacher_knows(
        self, faces: FaceSet, mae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = {"epochs": 8, "ema": 0.8, "augment": AugmentConfig(brightness=0.0, contrast=0.0)}
        train(small(tmp_path / "teacher", mae_folder, **options))
        mislabelled = replace(faces, labels=(faces.labels + 1) % 3)
        monkeypatch.setattr(finetune, "read_faces", lambda source: mislabelled)
        student_config = small(
            tmp_path / "student", mae_folder, tmp_path / "teacher", distill=DistillConfig(weight=1.0), **options
        )
        accuracies: dict[str, float] = {}
        finish_epoch = FineTuning.finish_epoch

        def noting(self: FineTuning, epoch: int) -> None:
            finish_epoch(self, epoch)
            accuracies["wrong labels"] = self.state.history[-1]["val_accuracy"]

        monkeypatch.setattr(FineTuning, "finish_epoch", noting)
        train(student_config)
        assert accuracies["wrong labels"] < 0.2

    def test_the_record_names_the_teachers_which_stay_as_they_are(
        self, faces: FaceSet, mae_folder: Path, tmp_path: Path
    ) -> None:
        teacher = write_teacher(tmp_path / "teacher")
        weights_before = (teacher / "model.safetensors").read_bytes()
        (loaded,) = load_teachers([str(teacher)], NAMES, CPU)
        assert not any(parameter.requires_grad for parameter in loaded.classifier.network.parameters())
        assert not loaded.classifier.network.training
        train(small(tmp_path / "run", mae_folder, teacher, distill=DistillConfig(0.3, 4.0), epochs=1))
        assert (teacher / "model.safetensors").read_bytes() == weights_before
        meta = json.loads((tmp_path / "run" / "model" / "meta.json").read_text())
        assert meta["teachers"] == [{"folder": str(teacher), "sha256": loaded.sha256}] and len(loaded.sha256) == 64
        assert meta["config"]["distill"] == {
            "weight": 0.3, "temperature": 4.0, "features": 0.0, "mirror": False, "undisturbed": False,
            "split_batch": False, "targets_weight": 0.3,
        }  # fmt: skip

    def test_teachers_change_the_weights(self, faces: FaceSet, mae_folder: Path, tmp_path: Path) -> None:
        teacher = write_teacher(tmp_path / "teacher")
        for name, teachers in (("alone", ()), ("taught", (teacher,)), ("again", (teacher,))):
            train(small(tmp_path / name, mae_folder, *teachers, epochs=1))
        weights_alone, weights_taught, weights_again = (
            load_file(tmp_path / n / "state.safetensors") for n in ("alone", "taught", "again")
        )
        key = next(name for name in weights_alone if name.startswith("network/vit.layers"))
        assert not torch.equal(weights_alone[key], weights_taught[key])
        assert torch.equal(weights_taught[key], weights_again[key])

    @pytest.mark.parametrize("undisturbed", [False, True])
    def test_resumes_bit_for_bit_also_where_the_teacher_has_moved(
        self, undisturbed: bool, faces: FaceSet, mae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        teacher = write_teacher(tmp_path / "teacher")
        augment, distill = AugmentConfig(mixup=0.2, noise=0.1), DistillConfig(undisturbed=undisturbed)
        options = {"checkpoint_seconds": 1e-6, "augment": augment, "distill": distill}
        monkeypatch.setattr(loop, "STEPS_BETWEEN_CHECKS", 1)
        train(small(tmp_path / "whole", mae_folder, teacher, **options))
        with monkeypatch.context() as patch:
            stop_after(3, patch)
            with pytest.raises(Stop):
                train(small(tmp_path / "stopped", mae_folder, teacher, **options))
        moved_teacher = shutil.copytree(teacher, tmp_path / "moved")
        train(small(tmp_path / "stopped", mae_folder, moved_teacher, **options), resume=True)
        whole_state, stopped_state = (load_file(tmp_path / name / "state.safetensors") for name in ("whole", "stopped"))
        assert whole_state.keys() == stopped_state.keys()
        assert all(torch.equal(whole_state[name], stopped_state[name]) for name in whole_state)

    def test_teachers_read_undisturbed_what_the_student_reads_disturbed(
        self, faces: FaceSet, mae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By covered pictures alone, the student learns what only an uncovered face shows."""
        teacher, seen, learnt = write_teacher(tmp_path / "teacher"), [], []
        probabilities = Distillation.probabilities

        def noting(self: Distillation, pixels: torch.Tensor) -> torch.Tensor:
            seen.append(pixels.clone())
            return probabilities(self, pixels)

        def disturbed(self: Augment, planes: torch.Tensor, random: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(planes)

        def answered(network: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
            learnt.append(pixels.clone())
            return logits(network, pixels)

        monkeypatch.setattr(Distillation, "probabilities", noting)
        monkeypatch.setattr(Augment, "_degrade", disturbed)
        monkeypatch.setattr(objective, "logits", answered)
        config = small(tmp_path / "run", mae_folder, teacher, epochs=1, distill=DistillConfig(undisturbed=True))
        train(replace(config, augment=AugmentConfig(mixup=0.4)))
        assert len(seen) == len(learnt) == 4 and all(a.shape == b.shape for a, b in zip(seen, learnt, strict=True))
        assert all(pixels.flatten(2).std(2).max() == 0 for pixels in learnt)
        assert all(pixels.flatten(2).std(2).min() > 0.05 for pixels in seen)

    def test_without_a_disturbance_that_changes_nothing(self, faces: FaceSet, mae_folder: Path, tmp_path: Path) -> None:
        teacher = write_teacher(tmp_path / "teacher")
        moving = AugmentConfig(brightness=0.0, contrast=0.0, mixup=0.4, cutmix=0.4)
        options = {"epochs": 1, "augment": moving}
        for undisturbed in (False, True):
            out, distill = tmp_path / str(undisturbed), DistillConfig(undisturbed=undisturbed)
            train(small(out, mae_folder, teacher, distill=distill, **options))
        one, other = (load_file(tmp_path / name / "state.safetensors") for name in ("False", "True"))
        assert all(torch.equal(one[name], other[name]) for name in one)

    def test_other_teachers_are_not_resumed_with(self, faces: FaceSet, mae_folder: Path, tmp_path: Path) -> None:
        teacher, other_teacher = (write_teacher(tmp_path / str(seed), seed=seed) for seed in (0, 1))
        train(small(tmp_path / "run", mae_folder, teacher, epochs=1))
        with pytest.raises(
            MienError, match=rf"weights of the teacher {other_teacher} differ from those that the run learnt"
        ):
            train(small(tmp_path / "run", mae_folder, other_teacher, epochs=1), resume=True)
        with pytest.raises(MienError, match="the run has 1 teachers, got 2"):
            train(small(tmp_path / "run", mae_folder, teacher, other_teacher, epochs=1), resume=True)
        with pytest.raises(MienError, match=r"distill\.weight: 0\.5 -> 0\.9"):
            train(small(tmp_path / "run", mae_folder, teacher, epochs=1, distill=DistillConfig(0.9)), resume=True)

    def test_a_refused_teacher_leaves_nothing_behind(self, faces: FaceSet, mae_folder: Path, tmp_path: Path) -> None:
        teacher = write_teacher(tmp_path / "teacher", ("calm", "glad"))
        with pytest.raises(MienError, match="no class named sour"):
            train(small(tmp_path / "run", mae_folder, teacher))
        assert not (tmp_path / "run").exists()

    def test_a_timm_teacher(self, faces: FaceSet, mae_folder: Path, tmp_path: Path) -> None:
        shape = {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]}
        train(small(tmp_path / "teacher", Path("timm:resnet10t"), network_args=shape, epochs=1))
        train(small(tmp_path / "run", mae_folder, tmp_path / "teacher", epochs=1, precision="bf16"))
        (taught_by,) = json.loads((tmp_path / "run" / "meta.json").read_text())["teachers"]
        assert taught_by["folder"] == str(tmp_path / "teacher" / "model")
