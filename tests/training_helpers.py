"""What the tests of both kinds of run need: their weights, and runs that end without a word."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mien.training import loop


def weights(out: Path) -> dict[str, torch.Tensor]:
    """The weights of the model that a run left."""
    return load_file(out / "model" / "model.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of tensors agree bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class Stop(Exception):
    """Stands for a process that ends without a word."""


def stop_after(updates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends training just before the update after ``updates``."""
    original = loop.seed_step

    def stopping(seed: int, update: int, process: int) -> None:
        if update > updates:
            raise Stop
        original(seed, update, process)

    monkeypatch.setattr(loop, "seed_step", stopping)
