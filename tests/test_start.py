"""How a fresh encoder starts: positions that differ, and [CLS] that sees the whole face, place by place."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mien.model.networks import as_vit
from mien.model.start import POSITION_SCALE, positions
from mien.model.vit import build


def test_positions_by_hand() -> None:
    table = positions(2, 4)[0]
    # Before centring, columns 0 and 1 are (sin 0, cos 0) and (sin 1, cos 1); centred, they lie opposite each other.
    sine, cosine = np.sin(1.0) / 2, (1 - np.cos(1.0)) / 2
    scale = POSITION_SCALE / np.sqrt((sine**2 + cosine**2) / 2)
    assert torch.equal(table[0], torch.zeros(4))
    expected = torch.tensor([-sine, cosine, sine, -cosine], dtype=torch.float32) * scale
    assert torch.allclose(table[3], expected, atol=1e-6), "patch (row 1, column 0)"


def test_positions_have_no_mean_and_the_stated_size() -> None:
    table = positions(8, 192)[0, 1:]
    assert table.mean(0).abs().max() < 1e-6
    assert table.square().mean().sqrt() == pytest.approx(POSITION_SCALE)
    far_similarity, near_similarity = torch.nn.functional.cosine_similarity(table[[0, 0]], table[[63, 1]])
    assert near_similarity > 0.5 > far_similarity


def test_heads_of_cls_look_at_different_places() -> None:
    torch.manual_seed(0)
    network = as_vit(build("nano", ("a", "b"), grey=True)[0]).eval()
    network.set_attn_implementation("eager")
    pixels = torch.randn(16, 1, 48, 48)
    with torch.no_grad():
        attentions = network.vit(pixel_values=pixels, output_attentions=True).attentions
    mean_attentions = torch.stack([layer[:, :, 0, 1:].mean(0) for layer in attentions]).flatten(0, 1)
    assert len(set(mean_attentions.argmax(1).tolist())) >= 8, "twelve heads, nine places"
    assert mean_attentions.max(1).values.mean() > 4 / 36, "four times what an even look would give a patch"
