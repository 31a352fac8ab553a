"""Fixtures that several test files share."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mien.data.faces import FaceSet
from mien.log import to_console

# They end processes by POSIX signals and limit them, which Windows cannot.
collect_ignore_glob = ["hostile/*"] if sys.platform == "win32" else []


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps tests out of the user's cache of decoded data."""
    if "MIEN_CACHE" not in os.environ:
        monkeypatch.setenv("MIEN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def on_the_console() -> Iterator[None]:
    """Prints what the library logs, as the command line does; ``tests/test_log.py`` tests it without."""
    with to_console():
        yield


@pytest.fixture(scope="session")
def fer2013() -> Path:
    """The real FER2013 archive, where the machine has it."""
    path = os.environ.get("MIEN_FER2013")
    if not path:
        pytest.skip("set MIEN_FER2013 to the path of FER2013's archive.zip to run the tests on real data")
    if not Path(path).exists():
        pytest.fail(f"MIEN_FER2013 names {path}, which does not exist")
    return Path(path)


def synthetic_faces(
    counts: dict[str, int],
    *,
    names: tuple[str, ...] = ("calm", "glad", "sour"),
    size: int = 16,
    seed: int = 0,
    colour: bool = False,
) -> FaceSet:
    """Noise pictures whose mean brightness tells the class, so that a small network learns them."""
    generator = np.random.default_rng(seed)
    splits = np.concatenate([np.full(count, split) for split, count in counts.items()])
    labels = np.arange(len(splits)) % len(names)
    shape = (len(splits), size, size, 3) if colour else (len(splits), size, size)
    level = (60 + 60 * labels).reshape(-1, *[1] * (len(shape) - 1))
    images = np.clip(level + generator.normal(0, 25, shape), 0, 255).astype(np.uint8)
    ids = np.array([f"face {index}" for index in range(len(splits))])
    fingerprint = hashlib.sha256(images.tobytes()).hexdigest()
    return FaceSet(images, labels.astype(np.int64), splits, ids, names, "synthetic", fingerprint)


def write_mae(folder: Path, depth: int = 3) -> Path:
    """Writes a folder of the shape that a hub ViTMAE has: three channels, 32 px, ImageNet statistics."""
    import torch
    from transformers import ViTImageProcessor, ViTMAEConfig, ViTMAEForPreTraining

    torch.manual_seed(0)
    config = ViTMAEConfig(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=depth, num_attention_heads=2,
        intermediate_size=64, decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
    )  # fmt: skip
    network = ViTMAEForPreTraining(config)
    with torch.no_grad():
        # Biases and [CLS] start at zero; a trained checkpoint has none such.
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    network.save_pretrained(folder)
    ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def mae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ViTMAE with three blocks, shared by the tests, which only read it."""
    return write_mae(tmp_path_factory.mktemp("hub") / "vit-mae-mini")
