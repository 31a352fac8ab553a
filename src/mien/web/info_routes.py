"""The routes about the model, the state of the service, and the service itself."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from mien.version import __version__
from mien.web import metrics, reference, schemas
from mien.web.about import NOTICE
from mien.web.access import NeedsKey
from mien.web.answering import service_of
from mien.web.problems import Problem

router = APIRouter()

MARKDOWN = "text/markdown; charset=utf-8"


@router.get(
    "/v1/model",
    summary="Describe the loaded model",
    response_model=schemas.ModelModel,
    responses=schemas.problems("internal"),
)
async def model(request: Request) -> Response:
    """Names the model, its labels, its accuracy with the 95 % interval, its hash, and the limits of the service."""
    service = service_of(request)
    settings = service.settings
    return JSONResponse({
        **service.record.as_dict(),
        "limits": {
            "max_bytes": settings.max_bytes, "max_pixels": settings.max_pixels,
            "max_pictures": settings.max_pictures, "timeout_s": settings.timeout_s,
        },
        "page": {
            "built": service.assets.is_built,
            "models": [path for path in service.assets.paths if path.startswith("/models/")],
        },
        "card": None if service.record.card is None else "/v1/model/card",
        "report": None if settings.report is None else "/v1/model/report",
        "api_key_needed": bool(settings.api_keys),
        "mien": __version__,
        "notice": NOTICE,
    })  # fmt: skip


@router.get(
    "/v1/model/card",
    summary="Show the model card",
    responses={
        200: {
            "description": "The card as Markdown, or as a page.",
            "content": {"text/markdown": {"schema": {"type": "string"}}, "text/html": {"schema": {"type": "string"}}},
        },
        **schemas.problems("not-found", "value", "internal"),
    },
)
async def model_card(
    request: Request,
    format: Annotated[Literal["markdown", "html"] | None, Query(description="by `Accept` if it is left out")] = None,
) -> Response:
    """Shows scores with intervals, uses, limits and data of the loaded model."""
    text = service_of(request).record.card
    if text is None:
        raise Problem("not-found", "the model has no card; a folder that `mien pack` wrote has one")
    if format == "html" or (format is None and "text/html" in request.headers.get("accept", "")):
        return HTMLResponse(reference.markdown_page(text, "Model card", root="../../"))
    return Response(text, media_type=MARKDOWN)


@router.get(
    "/v1/model/report",
    summary="Show the report of the model's evaluation",
    responses={
        200: {
            "description": "The page that `mien evaluate` wrote.",
            "content": {"text/html": {"schema": {"type": "string"}}},
        },
        **schemas.problems("not-found", "internal"),
    },
)
async def model_report(request: Request) -> Response:
    """Shows the report of the folder that the operator named by `--report`; it is a page of its own."""
    report = service_of(request).settings.report
    if report is None:
        raise Problem("not-found", "the operator named no report; `mien serve --report DIR` does")
    try:
        html = await asyncio.to_thread((report / "report.html").read_text, "utf-8")
    except (OSError, UnicodeDecodeError) as error:  # it was there and was found when the service started
        raise Problem("not-found", "the report that the operator named cannot be read any more") from error
    # The page holds its style and its figures inside; nothing else is allowed to it.
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'; sandbox"
    return HTMLResponse(html, headers={"Content-Security-Policy": policy, "X-Frame-Options": "SAMEORIGIN"})


@router.get(
    "/healthz",
    summary="Tell whether the worker lives",
    response_model=schemas.StateModel,
    responses=schemas.problems("busy"),
)
async def healthz(request: Request) -> Response:
    """Fails if a thread has ended, or is stuck in one picture for three time limits: restart the service then."""
    service = service_of(request)
    if not service.reader.alive() or service.reader.stuck_s() > 3 * service.settings.timeout_s:
        raise Problem("busy", "a thread does not answer any more; restart the service", headers={"Retry-After": "1"})
    return JSONResponse({"status": "ok"})


@router.get(
    "/readyz",
    summary="Tell whether the worker takes requests",
    response_model=schemas.StateModel,
    responses=schemas.problems("busy"),
)
async def readyz(request: Request) -> Response:
    """Fails while the queue is full; before the model is loaded, no connection is accepted."""
    with service_of(request).admission.slot("0"):
        return JSONResponse({"status": "ready"})


@router.get(
    "/metrics",
    summary="Count requests, faces and batches",
    dependencies=[NeedsKey],
    responses={
        200: {"description": "Prometheus's text format.", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **schemas.problems("api-key", "internal"),
    },
)
async def prometheus() -> Response:
    """Shows the counts of all workers."""
    return Response(await asyncio.to_thread(metrics.exposition), headers={"Content-Type": metrics.MEDIA_TYPE})


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> Response:
    """The OpenAPI 3.1 description."""
    return JSONResponse(reference.description(request.app))


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """The description as a page, without scripts and parts from elsewhere."""
    return HTMLResponse(reference.page(reference.description(request.app)))


@router.get("/docs.css", include_in_schema=False)
async def docs_style() -> Response:
    """The style of the pages about the service."""
    return Response(reference.STYLE, media_type="text/css", headers={"Cache-Control": "no-cache"})
