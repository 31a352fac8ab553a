"""Runs the notebook on drawn faces and stores its outputs in it: ``python scripts/run_notebook.py``.

Takes 12 minutes on two cores that other work used as well. What was written to stderr, the progress, is not stored.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "FER_ViT.ipynb"


def executed(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Returns the notebook with its outputs.

    Args:
        path: the notebook.
        folder: where it runs and writes.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised an exception.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    NotebookClient(
        notebook,
        timeout=3600,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = without_stderr(cell.outputs)
    # The versions of one machine's kernel change at every run.
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def without_stderr(outputs: Sequence[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Returns the outputs of a cell without stderr; pieces of stdout that then meet are joined."""
    cleaned: list[nbformat.NotebookNode] = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        if cleaned and output.get("name") == "stdout" and cleaned[-1].get("name") == "stdout":
            cleaned[-1].text += output.text
        else:
            cleaned.append(output)
    return cleaned


def main() -> int:
    """Runs the notebook in a temporary folder, without the environment's settings for it; returns 0."""
    for name in ("MIEN_DATA", "MIEN_EPOCHS", "MIEN_BACKBONE", "MIEN_SPLIT"):
        os.environ.pop(name, None)
    os.environ["MIEN_OUT"] = "runs/notebook"
    with tempfile.TemporaryDirectory(prefix="mien-notebook-") as name:
        os.environ["MIEN_CACHE"] = str(Path(name) / "cache")
        notebook = executed(NOTEBOOK, Path(name))
    nbformat.write(notebook, NOTEBOOK)
    print(f"{NOTEBOOK.relative_to(ROOT)}: {NOTEBOOK.stat().st_size / 1000:,.0f} kB with its outputs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
