"""The OpenAPI description, and the page ``/docs`` that shows it: plain HTML, no script, nothing from another host."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markdown_it import MarkdownIt
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from mien.web import schemas
from mien.web.problems import HELP, KINDS

router = APIRouter()

STYLE = (Path(__file__).parent / "reference.css").read_text(encoding="utf-8")
"""The style of these pages."""

_EVERYWHERE = ("bad-request", "slow", "headers", "internal", "busy")
_SHOWN_LENGTH = 3000
_markdown = MarkdownIt("commonmark", {"html": False}).enable("table")


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> Response:
    """The OpenAPI 3.1 description."""
    return JSONResponse(description(request.app))


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """The description as a page, without scripts and parts from elsewhere."""
    return HTMLResponse(page(description(request.app)))


@router.get("/docs.css", include_in_schema=False)
async def docs_style() -> Response:
    """The style of the pages about the service."""
    return Response(STYLE, media_type="text/css", headers={"Cache-Control": "no-cache"})


def description(app: FastAPI) -> dict[str, Any]:
    """Returns the OpenAPI 3.1 description of the service, with the problems that every address may answer with."""
    document: dict[str, Any] = app.openapi()
    components = document["components"]["schemas"]
    if "ProblemModel" not in components:
        components["ProblemModel"] = schemas.ProblemModel.model_json_schema()
        for _, _, operation in _operations(document):
            if not app.state.settings.api_keys:
                operation.pop("security", None)
            answers = operation["responses"]
            for status, answer in schemas.problems(*_EVERYWHERE).items():
                answers.setdefault(str(status), answer)
            operation["responses"] = dict(sorted(answers.items()))
    return document


def page(document: Mapping[str, Any]) -> str:
    """Returns the page that shows an OpenAPI description and explains each kind of problem."""
    info = document["info"]
    return _template().render(
        title="Mien: the service",
        root="./",
        text=f"# {info['title']} {info['version']}\n\n{info['description']}",
        document=document,
        operations=list(_operations(document)),
        curl=_curl,
        kinds=KINDS,
        help=HELP,
    )


def markdown_page(text: str, title: str, root: str) -> str:
    """Returns Markdown as a page; HTML in it is shown as text, and a YAML header is left out.

    Args:
        text: the Markdown.
        title: of the page.
        root: of the service as seen from the page, such as ``../../``, since a proxy may serve it below a path.
    """
    if text.startswith("---\n"):
        text = text.partition("\n---\n")[2]
    return _template().render(title=title, root=root, text=text)


@cache
def _template() -> Template:
    """Returns the template of these pages, which escapes whatever it is given."""
    environment = Environment(
        loader=PackageLoader("mien.web", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "markdown": lambda text: Markup(_markdown.render(text)),
        "type": _type,
        "json": lambda example: json.dumps(example, indent=1)[:_SHOWN_LENGTH],
    }
    return environment.get_template("reference.html")


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields method, path and operation."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield method, path, operation


def _type(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    kinds = [part.get("type", "") for part in schema.get("anyOf", [schema])]
    return " or ".join(kind for kind in kinds if kind != "null")


def _curl(method: str, path: str, operation: Mapping[str, Any]) -> str:
    """Returns a command that calls the operation at the default address."""
    address = f"http://127.0.0.1:8000{path}"
    if method != "post":
        return f"curl {address}"
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    out = " -o heat.png" if "image/png" in operation["responses"]["200"].get("content", {}) else ""
    return f"curl -F {form['required'][0]}=@photo.jpg {address}{out}"
