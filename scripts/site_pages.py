"""Hook of MkDocs (mkdocs.yml): pages that lie beside docs/, the notebook, and links that fit the site."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "FER_ViT.ipynb"
PAGES = {
    "README.md": "index.md",
    **{f"{name}.md": f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY", "LOG")},
    **{f"src/mien/weights/{name}/README.md": f"card-{name}.md" for name in ("mini", "nano")},
    "notebooks/FER_ViT.ipynb": "notebook.md",
}
"""Files of the project that become pages, by their path from the root."""

LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_SOURCES = {page: source for source, page in PAGES.items()}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the pages of docs/ that ``nav`` leaves out."""
    listed = set(_listed(config.nav))
    missing = sorted(path.name for path in (ROOT / "docs").glob("*.md") if path.name not in listed)
    if missing and config.nav is not None:
        config.nav.append({"More": missing})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that lie beside docs/, and the pictures of the notebook."""
    for source, page in PAGES.items():
        if source.endswith(".md"):
            text = (ROOT / source).read_text(encoding="utf-8")
            files.append(File.generated(config, page, content=_without_front_matter(text)))
    text, pictures = notebook_page(NOTEBOOK)
    files.append(File.generated(config, PAGES["notebooks/FER_ViT.ipynb"], content=text))
    for name, content in pictures.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Makes links between files of the project links between pages."""
    return with_site_links(markdown, _SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}"))


def with_site_links(markdown: str, source: str) -> str:
    """Returns a page whose relative links fit the site; what is no page of it is named without a link.

    Args:
        markdown: the page.
        source: its path from the root of the project.
    """

    def fitting(match: re.Match[str]) -> str:
        mark, text, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        name, hash_mark, anchor = target.partition("#")
        place = os.path.normpath(PurePosixPath(source).parent / name).replace(os.sep, "/")
        if place in PAGES:
            return f"{mark}[{text}]({PAGES[place]}{hash_mark}{anchor})"
        if place.startswith("docs/"):
            return f"{mark}[{text}]({place.removeprefix('docs/')}{hash_mark}{anchor})"
        return f"`{place}`" if source in PAGES and text.strip("`") == place else f"{text} (`{place}`)"

    return LINK.sub(fitting, markdown)


def notebook_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """Returns a notebook as Markdown, and its pictures by their name.

    Args:
        path: a notebook whose outputs are stored in it.
    """
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            png = output.get("data", {}).get("image/png")
            if png:
                name = f"notebook-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode("".join(png))
                parts.append(f"![output]({name})")
            elif output.get("name") == "stdout":
                parts.append(f"```text\n{''.join(output['text']).rstrip()}\n```")
    return "\n\n".join(parts) + "\n", pictures


def _listed(nav: Any) -> Iterator[str]:
    """Yields the pages that a navigation names, at any depth."""
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        for value in nav.values():
            yield from _listed(value)
    elif isinstance(nav, list):
        for entry in nav:
            yield from _listed(entry)


def _without_front_matter(text: str) -> str:
    """Returns a page without the YAML head that model cards have for the hub."""
    return re.sub(r"\A---\n.*?\n---\n+", "", text, flags=re.DOTALL)
