"""The head: found in both kinds of network, and scaled so that the logits are."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from mien.errors import MienError
from mien.model.networks import heads, scale_head, shift_head

CHANNELS = [8, 8, 16, 16]


class Wrapper(nn.Module):
    """The shape of transformers' wrapper around a timm network."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.timm_model = model


def vit() -> ViTForImageClassification:
    config = ViTConfig(
        image_size=16, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    config.id2label = {0: "a", 1: "b", 2: "c"}
    return ViTForImageClassification(config).eval()


def test_the_logits_are_divided_bias_included() -> None:
    torch.manual_seed(0)
    network, pixels = vit(), torch.randn(2, 3, 16, 16)
    nn.init.normal_(network.get_parameter("classifier.bias"))
    with torch.no_grad():
        logits_before = network(pixel_values=pixels).logits
        scale_head(network, 2.5)
        logits_after = network(pixel_values=pixels).logits
    assert torch.allclose(logits_after, logits_before / 2.5, atol=1e-6)
    assert not torch.allclose(logits_after, logits_before, atol=1e-2)


def test_logits_are_shifted_by_one_bias() -> None:
    torch.manual_seed(0)
    network, pixels, offsets = vit(), torch.randn(2, 3, 16, 16), torch.tensor([0.5, -1.0, 2.0])
    with torch.no_grad():
        logits_before = network(pixel_values=pixels).logits
        shift_head(network, offsets)
        assert torch.allclose(network(pixel_values=pixels).logits, logits_before + offsets, atol=1e-6)
    network.classifier = nn.Linear(16, 3, bias=False)
    with pytest.raises(MienError, match="a head without a bias, expected one linear head"):
        shift_head(network, offsets)
    two_heads: dict[str, Any] = {"embed_dim": [16, 16, 32, 32], "depth": [1, 1, 1, 1], "distillation": True}
    with pytest.raises(MienError, match="ends in 2 heads"):
        shift_head(Wrapper(timm.create_model("repvit_m0_9", num_classes=3, **two_heads)), offsets)


def test_the_head_of_a_timm_network_is_found() -> None:
    network = Wrapper(timm.create_model("resnet18", num_classes=3, channels=CHANNELS))
    assert heads(network) == [network.timm_model.fc]


@pytest.mark.parametrize(
    ("name", "arguments", "count"),
    [
        ("resnetv2_18", {"channels": CHANNELS}, 1),  # a convolution
        ("repvit_m0_9", {"embed_dim": [16, 16, 32, 32], "depth": [1, 1, 1, 1], "distillation": True}, 2),
        ("efficientformer_l1", {"embed_dims": [16, 16, 32, 32], "depths": [1, 1, 1, 2]}, 2),
        ("caformer_s18", {}, 1),  # an MLP
    ],
)
def test_heads_of_other_kinds(name: str, arguments: dict[str, Any], count: int) -> None:
    torch.manual_seed(0)
    size = 224 if name == "efficientformer_l1" else 64
    network, pixels = Wrapper(timm.create_model(name, num_classes=3, **arguments)).eval(), torch.randn(2, 3, size, size)
    assert len(heads(network)) == count
    with torch.no_grad():
        for layer in heads(network):
            nn.init.normal_(layer.weight)
        logits_before = network.timm_model(pixels)
        scale_head(network, 2.5)
        assert torch.allclose(network.timm_model(pixels), logits_before / 2.5, atol=1e-5)
    assert logits_before.shape == (2, 3)
    assert logits_before.abs().max() > 0.1


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            Wrapper(timm.create_model("resnet18", num_classes=0, channels=CHANNELS)),
            "ResNet: ends in Identity, expected a linear head",
        ),
        (nn.ReLU(), "ReLU: ends in NoneType, expected a linear head"),
    ],
)
def test_other_heads_are_refused(network: nn.Module, message: str) -> None:
    with pytest.raises(MienError, match=message):
        heads(network)[0]


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_is_above_zero(temperature: float) -> None:
    with pytest.raises(ValueError, match="expected a finite number above 0"):
        scale_head(vit(), temperature)
