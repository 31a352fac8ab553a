"""The notebook runs from top to bottom, on a tiny drawn set, and is kept without outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

import mien
from mien.data.drawn import draw_faces, write_archive

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "FER_ViT.ipynb"


def test_outputs_are_stripped() -> None:
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells and all(not cell.outputs and cell.execution_count is None for cell in cells)


@pytest.mark.slow
def test_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    archive = tmp_path / "drawn.zip"
    write_archive(archive, draw_faces(70, 21, 21, seed=0))
    monkeypatch.setenv("PYTHONPATH", str(Path(mien.__file__).parents[1]))
    monkeypatch.setenv("MIEN_DATA", str(archive))
    monkeypatch.setenv("MIEN_OUT", str(tmp_path / "run"))
    monkeypatch.setenv("MIEN_EPOCHS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    text = "".join(output.get("text", "") for output in outputs)
    assert len(figures) == 5, "two batches, curves, confusion matrix, reliability"
    assert "macro avg" in text and "embeddings" in text
    assert "epoch   1/1" in text
    assert (tmp_path / "run/model/model.safetensors").is_file()
    assert (tmp_path / "run/report/report.html").is_file()
