"""Learning from the feature maps of teachers: the distance by hand, what it moves, and who can teach."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from conftest import synthetic_faces
from torch.nn import functional as F
from training_helpers import Stop, same, stop_after, weights

from mien.config import DistillConfig, FreezeConfig, TrainConfig
from mien.data.faces import FaceSet
from mien.errors import MienError
from mien.model.classifier import Classifier
from mien.model.networks import logits_and_states
from mien.model.vit import build
from mien.training import finetune
from mien.training.finetune import train
from mien.training.teachers import Distillation, Hints, Teacher, load_teachers

NAMES = ("calm", "glad", "sour")
CPU = torch.device("cpu")
SHAPE = {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]}


def write_teacher(folder: Path, backbone: str = "timm:resnet10t", **changes: Any) -> Path:
    torch.manual_seed(0)
    arguments = {"image_size": 32, "network_args": SHAPE, **changes}
    network, preprocessing = build(backbone, NAMES, grey=True, **arguments)
    Classifier(network.eval(), preprocessing, NAMES).save(folder, {})
    return folder


@pytest.fixture
def teacher(tmp_path: Path) -> Teacher:
    (loaded_teacher,) = load_teachers([str(write_teacher(tmp_path / "teacher"))], NAMES, CPU)
    return loaded_teacher


@pytest.fixture
def faces(monkeypatch: pytest.MonkeyPatch) -> FaceSet:
    face_set = synthetic_faces({"train": 24, "validation": 9}, size=32)
    monkeypatch.setattr(finetune, "read_faces", lambda source: face_set)
    return face_set


def settings(out: Path, *teachers: Path, **changes: Any) -> TrainConfig:
    options = {
        "backbone": "nano", "image_size": 32, "epochs": 2, "batch_size": 8, "warmup_epochs": 0.0, "device": "cpu",
        "distill": DistillConfig(features=2.0),
    }  # fmt: skip
    return TrainConfig(data="faces", out=str(out), teacher=[str(t) for t in teachers], **{**options, **changes})


class TestDistance:
    def student(self) -> Any:
        torch.manual_seed(1)
        return build("nano", NAMES, grey=True, image_size=32)[0]

    def test_by_hand(self, teacher: Teacher) -> None:
        student = self.student()
        hints = Hints(student, [teacher], DistillConfig())
        maps: list[torch.Tensor] = []
        inner_network = cast(Any, teacher.classifier.network).timm_model
        # Of maps with 8, 8, 4, 2 and 1 places a side at 32 px, the deepest of at least 4.
        inner_network.layer2.register_forward_hook(lambda module, inputs, output: maps.append(output))
        pixels = torch.randn(6, 3, 32, 32)
        with torch.no_grad():
            teacher.classifier.network(pixel_values=pixels)
            states = logits_and_states(student, pixels[:, :1])[1]
            distance = hints(states)
        assert len(states) == 5 and hints.block == 2
        target = (maps[0] - maps[0].mean((0, 2, 3), keepdim=True)) / (maps[0].std((0, 2, 3), keepdim=True) + 1e-3)
        target = target.flatten(2).mT  # 4 x 4 places, as the student has patches
        target = F.layer_norm(target, target.shape[-1:])
        projected_patches = F.layer_norm(states[2][:, 1:], (128,)) @ hints.projections[0]
        cosine = (projected_patches * target).sum(-1) / projected_patches.norm(dim=-1) / target.norm(dim=-1)
        assert distance.item() == pytest.approx(1 - cosine.mean().item(), abs=1e-5)

    def test_maps_come_to_the_students_grid(self, teacher: Teacher) -> None:
        student = self.student()
        hints = Hints(student, [teacher], DistillConfig())
        with torch.no_grad():
            teacher.classifier.network(pixel_values=torch.randn(2, 3, 32, 32))
            for size, place_count in ((16, 4), (48, 36)):
                states = logits_and_states(student, torch.randn(2, 1, size, size))[1]
                assert states[0].shape[1] == 1 + place_count
                assert 0 < hints(states).item() < 2

    def test_teachers_that_split_the_batch_teach_their_own_pictures(self, tmp_path: Path) -> None:
        """A ViT between two CNNs reads its third of the pictures, and gives no map."""
        folders = [write_teacher(tmp_path / "a"), write_teacher(tmp_path / "v", "nano", network_args=None),
                   write_teacher(tmp_path / "b")]  # fmt: skip
        teachers = load_teachers([str(folder) for folder in folders], NAMES, CPU)
        config = DistillConfig(split_batch=True, mirror=True)
        student, pixels = self.student(), torch.randn(9, 1, 32, 32)
        whole, split = Hints(student, teachers, DistillConfig(mirror=True)), Hints(student, teachers, config)
        preprocessing = teachers[1].classifier.preprocessing
        with torch.no_grad():
            states = logits_and_states(student, pixels)[1]
            Distillation(config, teachers, preprocessing, "fp32").probabilities(pixels)
            distance = split(states).item()
            expected = []
            for teacher, part in ((teachers[0], slice(0, 3)), (teachers[2], slice(6, 9))):
                alone = Distillation(DistillConfig(mirror=True), [teacher], preprocessing, "fp32")
                hints = Hints(student, [teacher], DistillConfig(mirror=True))
                alone.probabilities(pixels[part])
                expected.append(hints(tuple(state[part] for state in states)).item())
        assert distance == pytest.approx(sum(expected) / 2, abs=1e-6)
        assert [len(teacher_map.last) for teacher_map in split.maps.values()] == [3, 3]
        assert sorted(whole.maps) == sorted(split.maps) == [0, 2]

    def test_the_projection_is_orthonormal_and_the_same_each_time(self, teacher: Teacher) -> None:
        projection, other_projection = (
            Hints(self.student(), [teacher], DistillConfig()).projections[0] for _ in range(2)
        )
        assert torch.equal(projection, other_projection)
        assert torch.allclose(projection.T @ projection, torch.eye(projection.shape[1]), atol=1e-5)

    def test_it_moves_the_blocks_up_to_the_middle_alone(self, teacher: Teacher) -> None:
        student = self.student()
        hints = Hints(student, [teacher], DistillConfig())
        pixels = torch.randn(2, 3, 32, 32)
        teacher.classifier.network(pixel_values=pixels)
        hints(logits_and_states(student, pixels[:, :1])[1]).backward()
        has_gradient = [layer.mlp.fc1.weight.grad is not None for layer in student.vit.layers]
        assert has_gradient == [True] * 2 + [False] * 2
        assert all(p.grad is None for p in teacher.classifier.network.parameters())

    def test_a_network_that_bf16_was_prepared_for_has_maps(self, tmp_path: Path) -> None:
        """ConvNeXt's first layer takes pictures as they come; only autocast brings them to its precision."""
        shape = {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}
        folder = write_teacher(tmp_path / "convnext", "timm:convnext_atto", network_args=shape)
        teachers = load_teachers([str(folder)], NAMES, CPU)
        distillation = Distillation(DistillConfig(), teachers, teachers[0].classifier.preprocessing, "bf16")
        hints, student, pixels = (
            Hints(self.student(), teachers, DistillConfig()),
            self.student(),
            torch.randn(2, 1, 32, 32),
        )
        with torch.no_grad():
            distillation.probabilities(pixels)
            assert 0 < hints(logits_and_states(student, pixels)[1]).item() < 2


class TestWhoTeaches:
    def test_a_vit_has_no_maps(self, tmp_path: Path, faces: FaceSet) -> None:
        folder = write_teacher(tmp_path / "vit", "nano", network_args=None)
        with pytest.raises(MienError, match=r"distill\.features: every --teacher is a ViT; give a CNN"):
            train(settings(tmp_path / "run", folder))
        assert not (tmp_path / "run").exists()

    def test_nor_has_a_vit_of_timm(self, tmp_path: Path, faces: FaceSet) -> None:
        shape = {"depth": 1, "embed_dim": 32, "num_heads": 2, "patch_size": 8}
        folder = write_teacher(tmp_path / "vit", "timm:vit_tiny_patch16_224", network_args=shape)
        with pytest.raises(MienError, match=r"has no feature maps for distill\.features"):
            train(settings(tmp_path / "run", folder))

    def test_what_is_frozen_cannot_learn(self, tmp_path: Path, faces: FaceSet) -> None:
        folder = write_teacher(tmp_path / "teacher")
        freezing = FreezeConfig(blocks=2, random_weights=True)
        with pytest.raises(MienError, match=r"the first 2 blocks, of which freeze\.blocks 2 leaves none; freeze fewer"):
            train(settings(tmp_path / "run", folder, freeze=freezing))
        freezing_at_first = FreezeConfig(blocks=2, release_epoch=2, random_weights=True)
        train(settings(tmp_path / "run", folder, freeze=freezing_at_first))

    def test_nobody_is_refused(self) -> None:
        with pytest.raises(MienError, match=r"teacher: got \[\], expected the folder of one beside distill\.features"):
            settings(Path("run"))
        with pytest.raises(MienError, match=r"distill\.features: got -1\.0, expected a number of at least 0"):
            settings(Path("run"), Path("t"), distill=DistillConfig(features=-1.0))

    def test_a_batch_holds_a_picture_for_each_teacher(self) -> None:
        split = DistillConfig(split_batch=True)
        settings(Path("run"), Path("t"), Path("u"), distill=split, batch_size=2)
        with pytest.raises(MienError, match=r"batch_size: got 2 for 3 teachers, expected equal parts for them"):
            settings(Path("run"), Path("t"), Path("u"), Path("v"), distill=split, batch_size=2)

    def test_only_vits_learn_from_maps(self) -> None:
        with pytest.raises(MienError, match=r"distill\.features: got 2\.0 for timm:resnet18, expected 0: only ViTs"):
            settings(Path("run"), Path("t"), backbone="timm:resnet18")


class TestRuns:
    def test_patches_come_closer_to_the_maps(self, tmp_path: Path, faces: FaceSet) -> None:
        folder = write_teacher(tmp_path / "teacher")
        losses: dict[float, float] = {}
        for weight in (0.0, 5.0):
            distances: list[float] = []
            measure = Hints.__call__

            def noting(self: Hints, states: tuple[torch.Tensor, ...]) -> torch.Tensor:
                distance = measure(self, states)  # noqa: B023
                distances.append(distance.item())  # noqa: B023
                return distance if weight else 0 * distance  # noqa: B023

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Hints, "__call__", noting)
                distill = DistillConfig(weight=0.0, features=weight or 1.0)
                train(settings(tmp_path / str(weight), folder, epochs=4, optimizer="muon", distill=distill))
            losses[weight] = sum(distances[-3:]) / 3
        assert losses[5.0] < 0.8 * losses[0.0]

    def test_resumes_bit_for_bit(self, tmp_path: Path, faces: FaceSet, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = write_teacher(tmp_path / "teacher")
        train(settings(tmp_path / "whole", folder))
        with monkeypatch.context() as patch:
            stop_after(4, patch)
            with pytest.raises(Stop):
                train(settings(tmp_path / "parts", folder))
        train(settings(tmp_path / "parts", folder), resume=True)
        assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))

    def test_the_model_is_a_plain_vit(self, tmp_path: Path, faces: FaceSet) -> None:
        train(settings(tmp_path / "run", write_teacher(tmp_path / "teacher"), epochs=1))
        train(settings(tmp_path / "plain", epochs=1, distill=DistillConfig()))
        assert weights(tmp_path / "run").keys() == weights(tmp_path / "plain").keys()
