"""The history of a run: where it is read from."""

from __future__ import annotations

from pathlib import Path

import pytest

from mien.errors import MienError
from mien.training.history import run_history


def test_history_is_read_beside_the_model_of_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    assert run_history(folder) is None
    (tmp_path / "history.csv").write_text("epoch,loss\n1,1.5\n2,0.25\n")
    assert run_history(folder) == [{"epoch": 1.0, "loss": 1.5}, {"epoch": 2.0, "loss": 0.25}]
    assert run_history(tmp_path) is None
    (tmp_path / "history.csv").write_text("epoch,loss\n1,x\n")
    with pytest.raises(MienError, match=r"history\.csv: is not the history of a run"):
        run_history(folder)
