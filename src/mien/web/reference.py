"""The OpenAPI description, and the page ``/docs`` that shows it: plain HTML, no script, nothing from another host."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from markdown_it import MarkdownIt
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
    operations = list(_operations(document))
    entries = "".join(
        f'<li><a href="#{_anchor(method, path)}"><b>{method.upper()}</b> {escape(path)}</a> '
        f"{escape(operation['summary'])}</li>"
        for method, path, operation in operations
    )
    problems = "".join(
        f'<section id="{kind}"><h3>{status} {escape(title)}</h3><p><code>/docs#{kind}</code></p>'
        f"{_markdown.render(HELP[kind])}</section>"
        for kind, (status, title) in KINDS.items()
    )
    body = (
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>{_markdown.render(info['description'])}"
        f'<p>The same as <a href="openapi.json">OpenAPI {escape(document["openapi"])}</a>; '
        f'<a href="./">the page</a>.</p>'
        f"<nav><ul>{entries}</ul></nav>{''.join(_section(*parts) for parts in operations)}<h2>Problems</h2>{problems}"
    )
    return _whole("Mien: the service", body)


def markdown_page(text: str, title: str, root: str) -> str:
    """Returns Markdown as a page; HTML in it is shown as text, and a YAML header is left out.

    Args:
        text: the Markdown.
        title: of the page.
        root: of the service as seen from the page, such as ``../../``, since a proxy may serve it below a path.
    """
    if text.startswith("---\n"):
        text = text.partition("\n---\n")[2]
    return _whole(title, _markdown.render(text), root)


def _whole(title: str, body: str, root: str = "./") -> str:
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="{root}icon.svg" type="image/svg+xml"><link rel="stylesheet" href="{root}docs.css">'
        f"</head><body><main>{body}</main></body></html>\n"
    )


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields method, path and operation."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield method, path, operation


def _anchor(method: str, path: str) -> str:
    return f"{method}{path.replace('/', '-')}"


def _section(method: str, path: str, operation: Mapping[str, Any]) -> str:
    """Describes one operation: parameters, body, answers, and a line for curl."""
    rows = "".join(
        f"<tr><td><code>{escape(parameter['name'])}</code></td><td>{escape(_type(parameter['schema']))}</td>"
        f"<td>{escape(parameter.get('description', ''))}</td></tr>"
        for parameter in operation.get("parameters", [])
    )
    table = f"<table><tr><th>query</th><th>type</th><th></th></tr>{rows}</table>" if rows else ""
    kinds = ", ".join(f"<code>{escape(kind)}</code>" for kind in operation.get("requestBody", {}).get("content", {}))
    answers = "".join(_answer(status, answer) for status, answer in operation["responses"].items())
    return (
        f'<section id="{_anchor(method, path)}"><h2>{method.upper()} <code>{escape(path)}</code></h2>'
        f"{_markdown.render(operation.get('description') or operation['summary'])}{table}"
        f"{f'<p>Body: {kinds}</p>' if kinds else ''}<pre>{escape(_curl(method, path, operation))}</pre>"
        f"<dl>{answers}</dl></section>"
    )


def _answer(status: str, answer: Mapping[str, Any]) -> str:
    kinds = answer.get("content", {})
    named = ", ".join(f"<code>{escape(kind)}</code>" for kind in kinds)
    examples = [content["example"] for content in kinds.values() if "example" in content]
    shown = "".join(
        "<details><summary>Example</summary>"
        f"<pre>{escape(json.dumps(example, indent=1)[:_SHOWN_LENGTH])}</pre></details>"
        for example in examples
    )
    links = "".join(
        f' <a href="#{name}">{name}</a>' for content in kinds.values() for name in content.get("examples", {})
    )
    return f"<dt>{escape(status)}{links} {named}</dt><dd>{_markdown.render(answer['description'])}{shown}</dd>"


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
