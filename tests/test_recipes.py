"""The shipped recipes do not only parse: they train, here on a miniature of what they are meant for."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from mien.cli import main
from mien.data.drawn import draw_faces, write_archive
from mien.training.history import read_history

CONFIGS = Path(__file__).parents[1] / "src/mien/recipes"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 training, 14 validation and 14 test faces."""
    path = tmp_path_factory.mktemp("drawn") / "drawn.zip"
    write_archive(path, draw_faces(70, 14, 14, seed=0))
    return path


def test_baseline_takes_steps_and_releases_what_was_frozen(
    archive: Path, mae_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--backbone", str(mae_folder), "--epochs", "2", "--batch-size", "16", "--warmup-epochs", "1"]
    options += ["--freeze.blocks", "2", "--freeze.release-epoch", "2", "--device", "cpu"]
    run = tmp_path / "run"
    arguments = ["train", "--config", str(CONFIGS / "baseline.yaml"), "--data", str(archive), "--out", str(run)]
    assert main([*arguments, *options]) == 0
    tables = capsys.readouterr().err.split("\npart ")[1:]
    frozen = [[line.split()[0] for line in table.splitlines() if " frozen " in line] for table in tables]
    assert frozen == [["embeddings", "block", "block"], []]
    history = read_history(run)
    assert [row["epoch"] for row in history] == [1, 2]
    assert all(math.isfinite(row["loss"]) for row in history)


def test_demo_pretrains_and_goes_on_from_there(archive: Path, tmp_path: Path) -> None:
    run, source = tmp_path / "run", ["--data", str(archive), "--device", "cpu"]
    options = ["--epochs", "1", "--batch-size", "32"]
    recipe = ["--config", str(CONFIGS / "pretrain-demo.yaml"), "--out", str(run / "mae"), *options]
    assert main(["pretrain", *recipe, *source]) == 0
    assert (run / "mae" / "reconstructions.png").is_file()
    recipe = ["--config", str(CONFIGS / "demo.yaml"), "--out", str(run), *options, "--warmup-epochs", "0"]
    assert main(["train", *recipe, "--backbone", str(run / "mae" / "model"), *source]) == 0
    assert (run / "model" / "model.safetensors").is_file()
