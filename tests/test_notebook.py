"""The notebook runs from top to bottom, on a tiny drawn set, and holds the outputs of a run on a larger one."""

from __future__ import annotations

from pathlib import Path

import pytest

import mien
from mien.data.drawn import draw_faces, write_archive

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "FER_ViT.ipynb"


FIGURES = 5
"""Two sheets of pictures, curves, confusion matrix, reliability."""


def test_outputs_are_stored() -> None:
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), (
        "run python scripts/run_notebook.py"
    )
    outputs = [output for cell in cells for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == FIGURES
    assert all(output.output_type != "error" and output.get("name") != "stderr" for output in outputs)
    text = "".join(output.get("text", "") for output in outputs)
    assert "epoch  12/12" in text and "without twins" in text
    assert NOTEBOOK.stat().st_size < 1_000_000


def test_progress_is_not_stored() -> None:
    nbformat = pytest.importorskip("nbformat")
    from run_notebook import without_stderr

    pieces = [("stdout", "a\n"), ("stderr", "half\r"), ("stdout", "b\n")]
    outputs = [nbformat.v4.new_output("stream", name=name, text=text) for name, text in pieces]
    assert [output.text for output in without_stderr(outputs)] == ["a\nb\n"]


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
    assert len(figures) == FIGURES
    assert "macro avg" in text and "embeddings" in text
    assert "epoch   1/1" in text
    assert (tmp_path / "run/model/model.safetensors").is_file()
    assert (tmp_path / "run/report/report.html").is_file()
