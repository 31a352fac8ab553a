"""The pages of the site: links between files of the project fit it, and nothing comes from another host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")
pytest.importorskip("mkdocstrings")

import nbformat
from site_pages import PAGES, notebook_page, with_site_links

import mien
import mien.lab

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("source", "link", "expected"),
    [
        ("README.md", "[films](docs/films.md)", "[films](films.md)"),
        ("README.md", "![face](docs/picture.jpg)", "![face](picture.jpg)"),
        ("README.md", "[own](docs/training.md#your-own-faces)", "[own](training.md#your-own-faces)"),
        ("docs/photos.md", "[safe](../SECURITY.md)", "[safe](SECURITY.md)"),
        ("docs/photos.md", "[first](../README.md#install)", "[first](index.md#install)"),
        ("docs/photos.md", "[films](films.md)", "[films](films.md)"),
        ("docs/training.md", "[notebook](../notebooks/FER_ViT.ipynb)", "[notebook](notebook.md)"),
        ("docs/training.md", "[terms](../LICENSE)", "terms (`LICENSE`)"),
        ("docs/training.md", "[paper](https://arxiv.org/abs/1)", "[paper](https://arxiv.org/abs/1)"),
        ("docs/training.md", "[here](#install)", "[here](#install)"),
    ],
)
def test_a_link_fits_the_site(source: str, link: str, expected: str) -> None:
    assert with_site_links(f"See {link}.", source) == f"See {expected}."


def test_a_notebook_becomes_a_page_with_its_outputs(tmp_path: Path) -> None:
    cell = nbformat.v4.new_code_cell("print(1)")
    cell.outputs = [
        nbformat.v4.new_output("stream", name="stdout", text="1\n"),
        nbformat.v4.new_output("stream", name="stderr", text="a warning\n"),
        nbformat.v4.new_output("display_data", data={"image/png": "AAEC"}),
    ]
    path = tmp_path / "a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title"), cell]), path)
    text, pictures = notebook_page(path)
    assert text == "# Title\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\n![output](notebook-1.png)\n"
    assert pictures == {"notebook-1.png": b"\x00\x01\x02"}


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_without_other_hosts(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "NO_MKDOCS_2_WARNING": "1"}
    completed = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert completed.returncode == 0, completed.stderr
    pages = {page.name: page.read_text(encoding="utf-8") for page in tmp_path.glob("*.html")}
    sources = [*PAGES.values(), *(path.name for path in (ROOT / "docs").glob("*.md"))]
    assert {Path(source).with_suffix(".html").name for source in sources} <= set(pages)
    for name, page in pages.items():
        loaded = re.findall(r"<(?:script|img|iframe|link)[^>]+(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)", page)
        assert not loaded, f"{name} loads {loaded}"
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"(@import|url\()[\"' ]*(https?:)?//", style.read_text(encoding="utf-8")), style.name
    for name in (
        *(f"{getattr(mien, name).__module__}.{name}" for name in mien.__all__ if name != "__version__"),
        *(f"mien.lab.{name}" for name in mien.lab.__all__),
    ):
        assert f'id="{name}"' in pages["api.html"], name
