"""The routes of the service."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import io
import logging
import re
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from mien.errors import MienError
from mien.recognition.explain import METHODS, Explanation, sheet
from mien.recognition.formats import deepface
from mien.recognition.recognizer import BrokenModelError
from mien.recognition.results import Face, Recognition
from mien.text import json_shown
from mien.version import __version__
from mien.web import metrics, reference, schemas
from mien.web.about import NOTICE
from mien.web.problems import Problem
from mien.web.settings import MOST_FACES_EXPLAINED
from mien.web.uploads import Form, media_type, read_body, read_form

if TYPE_CHECKING:
    from mien.web.app import Service

router = APIRouter()
logger = logging.getLogger("mien.web")

JSON_LINES = "application/x-ndjson"
MARKDOWN = "text/markdown; charset=utf-8"

_WITH_PICTURE = (
    "bad-request",
    "api-key",
    "slow",
    "too-large",
    "media-type",
    "picture",
    "value",
    "internal",
    "busy",
    "timeout",
)
_bearer = HTTPBearer(auto_error=False, description="a key of the operator, if the service asks for one")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="the same key in a header of its own")


async def need_key(
    request: Request, bearer: Annotated[Any, Depends(_bearer)], key: Annotated[str | None, Depends(_header)]
) -> None:
    """Lets a request pass if no key is needed, or if it has one; compares in constant time.

    Raises:
        Problem: the key is missing or wrong.
    """
    digests: tuple[bytes, ...] = request.app.state.settings.api_keys
    if not digests:
        return
    sent = key if bearer is None else bearer.credentials
    digest = hashlib.sha256((sent or "").encode("utf-8", "surrogateescape")).digest()
    matches = [hmac.compare_digest(digest, accepted) for accepted in digests]  # all of them, whichever matches
    if sent is None or not any(matches):
        what = "is missing" if sent is None else "is not accepted"
        raise Problem(
            "api-key",
            f"the API key {what}; send `Authorization: Bearer KEY` or `X-API-Key: KEY`",
            headers={"WWW-Authenticate": "Bearer"},
        )


NeedsKey = Depends(need_key)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


@router.post(
    "/v1/recognize",
    summary="Read the faces in pictures",
    dependencies=[NeedsKey],
    openapi_extra={"requestBody": schemas.pictures_body()},
    responses={
        200: {
            "model": schemas.RecordsModel,
            "description": "A record for each picture, in order, as `mien predict --json` prints them; with "
            f"`Accept: {JSON_LINES}` a record a line. If some pictures cannot be read, their records say why.",
            "content": {
                "application/json": {"example": schemas.EXAMPLES["recognize"]},
                JSON_LINES: {"schema": {"type": "string"}},
            },
        },
        **schemas.problems(*_WITH_PICTURE),
    },
)
async def recognize(
    request: Request,
    detector: Annotated[
        Literal["yunet", "none"], Query(description="yunet finds the faces; none takes each picture for a face crop")
    ] = "yunet",
) -> Response:
    """Finds the faces in one picture or several and reads their expressions.

    Send the bytes of a picture, a form with one file or several, or JSON with base64. The answer is a guess about how
    a face looks, not about what the person feels.
    """
    service = _service(request)

    async def answer(form: Form) -> Response:
        records = await _result(request, service.reader.submit(form.pictures, detector))
        _note(request, records)
        _need_readable(records)
        if JSON_LINES in request.headers.get("accept", ""):
            return Response("".join(json_shown(record.record()) + "\n" for record in records), media_type=JSON_LINES)
        return JSONResponse(
            {"records": [record.record() for record in records], "model": service.record.name, "notice": NOTICE}
        )

    return await _with_pictures(request, answer)


@router.post(
    "/v1/explain",
    summary="Show what of a face an answer depends on",
    dependencies=[NeedsKey],
    openapi_extra={"requestBody": schemas.pictures_body("picture", several=False)},
    responses={
        200: {
            "model": schemas.ExplanationsModel,
            "description": "The heat maps as a picture, or as numbers.",
            "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
        },
        **schemas.problems(*_WITH_PICTURE, "no-face"),
    },
)
async def explain(
    request: Request,
    face: Annotated[int | None, Query(ge=0, le=9999, description="number of the face from 0; all by default")] = None,
    label: Annotated[
        str | None, Query(max_length=100, description="the expression to explain; the likeliest by default")
    ] = None,
    method: Annotated[str, Query(description=f"one of {', '.join(METHODS)}")] = "auto",
    format: Annotated[Literal["png", "json"], Query(description="png: a picture; json: numbers")] = "png",
    detector: Annotated[Literal["yunet", "none"], Query(description="none for a face crop")] = "yunet",
) -> Response:
    """Shows which parts of each face speak for (orange) and against (blue) an expression.

    It explains the network's guess about how a face looks; it tells nothing about what the person feels.
    """
    service = _service(request)
    names = service.reader.recognizer.names
    if label is not None and label not in names:
        raise Problem("value", f"label: got {label!r}, expected one of {', '.join(names)}")
    if method not in METHODS:
        raise Problem("value", f"method: got {method!r}, expected one of {', '.join(METHODS)}")

    async def answer(form: Form) -> Response:
        (record,) = await _result(request, service.reader.submit(form.pictures[:1], detector))
        _note(request, [record])
        _need_readable([record])
        faces = _chosen_faces(record, face)
        recognizer = service.reader.recognizer
        explanations = []
        for _, chosen in faces:  # one after the other, so that other requests get their turn in between
            call = service.reader.call(lambda chosen=chosen: recognizer.explain(chosen, method, label))
            explanations.append(await _result(request, call))
        if format == "png":
            return Response(await asyncio.to_thread(_png, explanations), media_type="image/png")
        return JSONResponse({
            "record": record.record(),
            "explanations": [_explanation(*pair) for pair in zip(faces, explanations, strict=True)],
            "model": service.record.name,
            "notice": NOTICE,
        })  # fmt: skip

    return await _with_pictures(request, answer)


@router.post(
    "/analyze",
    summary="Read the faces in a picture, as deepface's service does",
    dependencies=[NeedsKey],
    openapi_extra={
        "requestBody": schemas.pictures_body(
            "img",
            several=False,
            more={
                "actions": {
                    "description": 'only "emotion": a list, or text such as ["emotion"] or emotion',
                    "type": ["array", "string"],
                    "items": {"type": "string"},
                },
                "enforce_detection": {
                    "description": "true: a picture without a face is a mistake; false: it is read as a whole",
                    "type": ["boolean", "string"],
                },
            },
        )
    },
    responses={
        200: {
            "model": schemas.AnalyzedModel,
            "description": "A result for each face; emotions are in percent.",
            "content": {"application/json": {"example": schemas.EXAMPLES["analyze"]}},
        },
        **schemas.problems(*_WITH_PICTURE, "no-face"),
    },
)
async def analyze(request: Request) -> Response:
    """Answers in the shape of deepface's `POST /analyze` with `actions: ["emotion"]`, the only action there is.

    Moving over is a change of address, as long as pictures are sent and not named: URLs and paths are not fetched.
    Options of deepface that have no meaning here are ignored.
    """
    service = _service(request)

    async def answer(form: Form) -> Response:
        _check_actions(form.values.get("actions"))
        (record,) = await _result(request, service.reader.submit(form.pictures[:1]))
        _note(request, [record])
        _need_readable([record])
        if not record.faces:
            if str(form.values.get("enforce_detection", True)).lower() not in ("false", "0"):
                raise Problem("no-face", f"{record.input}: no face was found; send a clearer picture of a face")
            (record,) = await _result(request, service.reader.submit(form.pictures[:1], "none"))
        return JSONResponse({"results": deepface(record)})

    return await _with_pictures(request, answer)


@router.get(
    "/v1/model",
    summary="Describe the loaded model",
    response_model=schemas.ModelModel,
    responses=schemas.problems("internal"),
)
async def model(request: Request) -> Response:
    """Names the model, its labels, its accuracy with the 95 % interval, its hash, and the limits of the service."""
    service = _service(request)
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
        "card": None if service.record.card() is None else "/v1/model/card",
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
    text = _service(request).record.card()
    if text is None:
        raise Problem("not-found", "the model has no card; a folder that `mien pack` wrote has one")
    if format == "html" or (format is None and "text/html" in request.headers.get("accept", "")):
        return HTMLResponse(reference.markdown_page(text, "Model card"))
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
    report = _service(request).settings.report
    if report is None:
        raise Problem("not-found", "the operator named no report; `mien serve --report DIR` does")
    html = await asyncio.to_thread((report / "report.html").read_text, "utf-8")
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
    service = _service(request)
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
    with _service(request).admission.slot("0"):
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


async def _with_pictures(request: Request, answer: Callable[[Form], Awaitable[Response]]) -> Response:
    """Admits a request, reads its body, and answers it within the time limit."""
    service = _service(request)
    media_type(request)
    with service.admission.slot(request.headers.get("content-length")):
        try:
            body = await read_body(request, service.settings)
            request.scope["state"]["notes"]["bytes"] = len(body)
            async with asyncio.timeout(service.settings.timeout_s):
                return await answer(await read_form(request, body, service.settings))
        except TimeoutError as error:
            raise Problem("timeout", f"it took longer than {service.settings.timeout_s:g} s") from error
        except BrokenModelError as error:
            logger.error("the model is broken: %s", error)
            raise Problem("internal", "the model cannot answer; the operator has to replace it") from error
        except MienError as error:
            raise Problem("value", str(error)) from error
        finally:
            service.admission.note_answer()


async def _result(request: Request, future: Future[Any]) -> Any:
    """Waits for a result; if the client goes away or the time is over, what has not begun is left out."""
    gone = asyncio.ensure_future(_disconnected(request))
    result = asyncio.ensure_future(asyncio.wrap_future(future))
    try:
        await asyncio.wait({gone, result}, return_when=asyncio.FIRST_COMPLETED)
        if result.done():
            return result.result()
        raise Problem("bad-request", "the client went away")
    finally:
        gone.cancel()
        result.cancel()
        future.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _note(request: Request, records: list[Recognition]) -> None:
    """Counts pictures and faces."""
    faces = sum(len(record.faces) for record in records)
    request.scope["state"]["notes"].update(pictures=len(records), faces=faces)
    metrics.FACES.inc(faces)
    for record in records:
        metrics.PICTURES.labels(record.status).inc()


def _need_readable(records: list[Recognition]) -> None:
    """Raises a problem if no picture can be read."""
    errors = [str(record.error) for record in records if record.status == "error"]
    if len(errors) == len(records):
        raise Problem("picture", errors[0], errors)


def _chosen_faces(record: Recognition, number: int | None) -> list[tuple[int, Face]]:
    faces = list(enumerate(record.faces))
    if not faces:
        raise Problem("no-face", f"{record.input}: no face was found; for a face crop give detector=none")
    if number is not None:
        if number >= len(faces):
            raise Problem("value", f"face: got {number}, expected less than {len(faces)}, the number of faces")
        return [faces[number]]
    if len(faces) > MOST_FACES_EXPLAINED:
        raise Problem(
            "value",
            f"face: is missing for {len(faces)} faces, of which one request explains {MOST_FACES_EXPLAINED}; name one",
        )
    return faces


def _explanation(numbered: tuple[int, Face], explanation: Explanation) -> dict[str, Any]:
    number, face = numbered
    return {
        "face": number,
        "label": explanation.label,
        "method": explanation.method,
        "box": face.record()["box"],
        "relevance": [[round(float(value), 4) for value in row] for row in explanation.relevance],
    }


def _png(explanations: list[Explanation]) -> bytes:
    buffer = io.BytesIO()
    sheet(explanations).save(buffer, format="PNG")
    return buffer.getvalue()


def _check_actions(actions: Any) -> None:
    """Accepts ``["emotion"]`` as a list, as text of a list, or as words between commas; nothing means the same."""
    words = re.findall(r"\w+", actions) if isinstance(actions, str) else actions
    if words is None or words == []:
        return
    if not isinstance(words, list) or any(word != "emotion" for word in words):
        raise Problem("value", 'actions: expected ["emotion"]: age, gender and race are not read')
