"""What comes back from a run of all models on a GPU."""

from __future__ import annotations

import tarfile
from pathlib import Path

import model_results
import pytest


def test_what_comes_back_is_cut_into_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_results, "PART", 30_000)
    for name in ("first", "second", "third"):
        folder = tmp_path / "half" / name
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(bytes(35_000))
    assert model_results.share(tmp_path, tmp_path / "share", ["second", "first", "third"]) == ["third"]
    parts = sorted((tmp_path / "share").glob("weights.tar.*"))
    assert 1 < len(parts) <= model_results.MOST_PARTS and all(part.stat().st_size <= 30_000 for part in parts)
    joined_path = tmp_path / "whole.tar"
    joined_path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with tarfile.open(joined_path) as archive:
        assert {name.partition("/")[0] for name in archive.getnames()} == {"second", "first"}
