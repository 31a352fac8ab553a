"""The small residual network for 48 px: its shapes, timm's doors to it, its folder, and its maps as hints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import synthetic_faces

from mien.errors import MienError
from mien.model.classifier import Classifier
from mien.model.face_cnn import FaceCNN
from mien.model.vit import build
from mien.training.teachers import TeacherMap, half_mirrored, load_teachers

NAMES = ("calm", "glad", "sour")
SMALL = {"stem_width": 4, "channels": [4, 8, 12], "layers": [1, 2, 1]}


def saved(folder: Path, **arguments: Any) -> Classifier:
    torch.manual_seed(0)
    network, preprocessing = build("timm:face_cnn", NAMES, grey=True, image_size=48, network_args=SMALL | arguments)
    classifier = Classifier(network.eval(), preprocessing, NAMES)
    classifier.save(folder, {})
    return classifier


class TestNetwork:
    def test_a_stage_halves_the_map_of_the_one_before(self) -> None:
        network = timm.create_model("face_cnn", num_classes=7, in_chans=1)
        assert isinstance(network, FaceCNN)
        assert sum(parameter.numel() for parameter in network.parameters()) == 1_209_063
        pixels = torch.randn(2, 1, 48, 48)
        assert network(pixels).shape == (2, 7)
        assert network.forward_features(pixels).shape == (2, 256, 6, 6)
        assert network.forward_head(network.forward_features(pixels), pre_logits=True).shape == (2, 256)
        for stage, side in zip(network.feature_info, (24, 12, 6), strict=True):
            maps: list[torch.Tensor] = []
            hook = network.get_submodule(stage["module"]).register_forward_hook(
                lambda m, i, o, maps=maps: maps.append(o)
            )
            network(pixels)
            hook.remove()
            assert maps[0].shape == (2, stage["num_chs"], side, side)
            assert 48 // stage["reduction"] == side

    def test_it_reads_colour_too(self, tmp_path: Path) -> None:
        network, preprocessing = build("timm:face_cnn", NAMES, grey=False, image_size=48, network_args=SMALL)
        faces = synthetic_faces({"train": 4}, size=48, colour=True).images
        logits = Classifier(network.eval(), preprocessing, NAMES).logits(faces, quiet=True)
        Classifier(network, preprocessing, NAMES).save(tmp_path / "model", {})
        assert Classifier.load(tmp_path / "model").logits(faces, quiet=True) == pytest.approx(logits, abs=1e-4)

    def test_a_block_adds_to_its_input(self) -> None:
        network = FaceCNN(channels=[32, 8], layers=[2, 1]).eval()
        block = network.get_submodule("stages.0.1")
        torch.nn.init.zeros_(block.get_parameter("second.1.weight"))  # what is added is nothing now
        x = torch.rand(1, 32, 6, 6)
        assert torch.equal(block(x), x)

    def test_stages_must_be_as_many_in_both(self) -> None:
        with pytest.raises(MienError, match=r"channels, layers: got 2 and 3 stages, expected as many of each"):
            build("timm:face_cnn", NAMES, grey=True, image_size=48, network_args={"channels": [4, 8]})


class TestFolder:
    def test_opens_again_with_the_same_answers(self, tmp_path: Path) -> None:
        classifier = saved(tmp_path / "m")
        images = synthetic_faces({"train": 5}, size=48).images
        logits = Classifier.load(tmp_path / "m").logits(images)
        assert np.allclose(logits, classifier.logits(images), atol=1e-5)
        assert np.ptp(logits, axis=0).max() > 1e-3

    def test_its_last_stage_gives_hints_at_the_patches_of_mini(self, tmp_path: Path) -> None:
        saved(tmp_path / "m")
        (teacher,) = load_teachers([str(tmp_path / "m")], NAMES, torch.device("cpu"))
        teacher_map = TeacherMap(teacher)
        teacher.classifier.logits(synthetic_faces({"train": 5}, size=48).images)
        assert teacher_map.last.shape == (5, 12, 6, 6)
        assert teacher_map.read(6).shape == (5, 36, 12)

    def test_the_map_of_a_mirrored_picture_is_turned_back(self, tmp_path: Path) -> None:
        saved(tmp_path / "m")
        (teacher,) = load_teachers([str(tmp_path / "m")], NAMES, torch.device("cpu"))
        teacher_map, mirrored_map = TeacherMap(teacher), TeacherMap(teacher, mirror=True)
        teacher_map.last = torch.randn(5, 12, 6, 6)
        mirrored_map.last = half_mirrored(teacher_map.last)
        assert torch.equal(mirrored_map.read(6), teacher_map.read(6))
        assert not torch.equal(mirrored_map.last, teacher_map.last)
