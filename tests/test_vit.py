"""A ViTMAE at other input sizes: positions and patches resampled, presets built at a size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import synthetic_faces
from torch.nn import functional as F
from transformers import ViTForImageClassification

from mien.errors import MienError
from mien.model.classifier import Classifier
from mien.model.networks import as_vit, heads
from mien.model.start import positions
from mien.model.vit import build, resample

NAMES = ("calm", "glad", "sour")


def vit(
    backbone: str | Path, image_size: int | None = None, patch_size: int | None = None
) -> ViTForImageClassification:
    network, preprocessing = build(str(backbone), NAMES, grey=True, image_size=image_size, patch_size=patch_size)
    assert preprocessing.image_size == as_vit(network).config.image_size
    return as_vit(network).eval()


def cls(network: ViTForImageClassification, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        states: torch.Tensor = network.vit(pixels).last_hidden_state[:, 0]
    return states


def smooth_pictures() -> torch.Tensor:
    """float32 [2, 1, 32, 32], waves that no resampling loses."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 32), torch.linspace(0, 1, 32), indexing="ij")
    return torch.stack([(3 * x + 2 * y).sin(), (2 * x - 5 * y).cos()])[:, None]


class TestSizes:
    def test_the_same_size_is_the_identity(self, mae_folder: Path) -> None:
        own_network, same_network = vit(mae_folder), vit(mae_folder, 32, 8)
        for name, value in own_network.vit.state_dict().items():
            assert torch.equal(value, same_network.vit.state_dict()[name])
        assert resample(own_network, 32, 8) is own_network

    def test_twice_the_size_in_twice_the_patches_reads_the_same(self, mae_folder: Path) -> None:
        own_network, doubled_network = vit(mae_folder), vit(mae_folder, 64, 16)
        pixels = smooth_pictures()
        large_pixels = F.interpolate(pixels, size=(64, 64), mode="bicubic", antialias=True)
        own_states, doubled_states = cls(own_network, pixels), cls(doubled_network, large_pixels)
        assert (doubled_states - own_states).norm() < 0.02 * own_states.norm()
        mirrored_states = cls(own_network, pixels.flip(-1))
        assert (mirrored_states - own_states).norm() > 0.05 * own_states.norm()

    def test_patches_by_hand(self, mae_folder: Path) -> None:
        # A patch of one colour stays one when it is enlarged, so its embedding stays too.
        own_embeddings, doubled_embeddings = (
            vit(mae_folder, *size).vit.embeddings.patch_embeddings for size in ((32, 8), (64, 16))
        )
        grey = own_embeddings(torch.full((1, 1, 32, 32), 0.7))
        assert torch.allclose(doubled_embeddings(torch.full((1, 1, 64, 64), 0.7)), grey, atol=1e-4)

    def test_positions_have_the_new_grid(self, mae_folder: Path) -> None:
        own_positions, wide_positions = (
            vit(mae_folder, size).vit.embeddings.position_embeddings for size in (None, 64)
        )
        assert (own_positions.shape, wide_positions.shape) == ((1, 1 + 4 * 4, 32), (1, 1 + 8 * 8, 32))
        assert torch.equal(wide_positions[:, 0], own_positions[:, 0])
        assert not wide_positions.requires_grad
        # Rows of the grid stay rows: a table that grows downwards alone is as before from left to right.
        network = vit(mae_folder)
        grid = torch.arange(4.0)[:, None, None].expand(4, 4, 32).reshape(1, 16, 32)
        with torch.no_grad():
            network.vit.embeddings.position_embeddings[:, 1:] = grid
        table = resample(network, 64, 8).vit.embeddings.position_embeddings[0, 1:].reshape(8, 8, 32)
        assert torch.allclose(table, table[:, :1].expand(8, 8, 32), atol=1e-5)
        assert (table[1:, 0, 0] > table[:-1, 0, 0]).all()

    def test_smaller_patches_mean_more_of_them(self, mae_folder: Path) -> None:
        embeddings = vit(mae_folder, patch_size=4).vit.embeddings
        assert embeddings.patch_embeddings.num_patches == 64
        assert embeddings.patch_embeddings.projection.weight.shape == (32, 1, 4, 4)

    def test_presets_are_built_at_the_size(self) -> None:
        network = vit("nano", 40, 10)
        assert torch.equal(network.vit.embeddings.position_embeddings, positions(4, 128))

    @pytest.mark.parametrize("backbone", ["nano", "mae"])
    def test_a_size_that_patches_do_not_fill(self, backbone: str, mae_folder: Path) -> None:
        source = mae_folder if backbone == "mae" else backbone
        with pytest.raises(MienError, match="image_size: got 36, expected a multiple of 8"):
            vit(source, 36)
        with pytest.raises(MienError, match="expected a multiple of 7 "):
            vit(source, patch_size=7)


def test_the_folder_opens_at_the_new_size(mae_folder: Path, tmp_path: Path) -> None:
    network, preprocessing = build(str(mae_folder), NAMES, grey=True, image_size=48, patch_size=12)
    torch.nn.init.normal_(heads(network)[0].weight)
    trained = Classifier(network.eval(), preprocessing, NAMES)
    trained.save(tmp_path / "model", {})
    loaded = Classifier.load(tmp_path / "model")
    assert loaded.preprocessing.image_size == 48
    images = synthetic_faces({"train": 3}).images
    assert np.allclose(loaded.logits(images), trained.logits(images), atol=1e-4)
