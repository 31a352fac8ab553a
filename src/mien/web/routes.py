"""The routes: those that read pictures, and those about the model and the state of the service."""

from __future__ import annotations

import asyncio
import functools
import io
import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from mien.recognition.explain import METHODS, Explanation, sheet
from mien.recognition.formats import deepface
from mien.recognition.results import Face, Recognition
from mien.text import json_shown
from mien.version import __version__
from mien.web import metrics, schemas
from mien.web.model import NOTICE
from mien.web.problems import Problem
from mien.web.reference import markdown_page
from mien.web.service import NeedsKey, need_readable, note, result, service_of, single, with_pictures
from mien.web.settings import MOST_FACES_EXPLAINED
from mien.web.uploads import Form

router = APIRouter()

JSON_LINES = "application/x-ndjson"

_LONGEST_ACTIONS = 1000

_PROBLEMS = ("bad-request", "api-key", "origin", "too-large", "media-type", "picture", "value", "timeout")


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
        **schemas.problems(*_PROBLEMS),
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
    service = service_of(request)

    async def answer(form: Form) -> Response:
        records = await result(request, service.reader.submit(form.pictures, detector))
        note(request, records)
        need_readable(records)
        if JSON_LINES in request.headers.get("accept", ""):
            return Response("".join(json_shown(record.to_dict()) + "\n" for record in records), media_type=JSON_LINES)
        return JSONResponse(
            {"records": [record.to_dict() for record in records], "model": service.record.name, "notice": NOTICE}
        )

    return await with_pictures(request, answer)


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
        **schemas.problems(*_PROBLEMS, "no-face"),
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
    service = service_of(request)
    recognizer = service.reader.recognizer
    names = recognizer.names
    if label is not None and label not in names:
        raise Problem("value", f"label: got {label!r}, expected one of {', '.join(names)}")
    if method not in METHODS:
        raise Problem("value", f"method: got {method!r}, expected one of {', '.join(METHODS)}")

    async def answer(form: Form) -> Response:
        (record,) = await result(request, service.reader.submit(single(form), detector))
        note(request, [record])
        need_readable([record])
        faces = _chosen_faces(record, face)
        explanations = []
        for _, chosen in faces:  # one after the other, so that other requests get their turn in between
            call = service.reader.call(functools.partial(recognizer.explain, chosen, method, label))
            explanations.append(await result(request, call))
        if format == "png":
            return Response(await asyncio.to_thread(_png, explanations), media_type="image/png")
        return JSONResponse({
            "record": record.to_dict(),
            "explanations": [_explanation(*pair) for pair in zip(faces, explanations, strict=True)],
            "model": service.record.name,
            "notice": NOTICE,
        })  # fmt: skip

    return await with_pictures(request, answer)


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
                "detector_backend": {
                    "description": "skip: the picture is a face crop; any other: the faces are searched by yunet",
                    "type": "string",
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
        **schemas.problems(*_PROBLEMS, "no-face"),
    },
)
async def analyze(request: Request) -> Response:
    """Answers in the shape of deepface's `POST /analyze` with `actions: ["emotion"]`, the only action there is.

    Moving over is a change of address, as long as pictures are sent and not named: URLs and paths are not fetched.
    Options of deepface that have no meaning here are ignored.
    """
    service = service_of(request)

    async def answer(form: Form) -> Response:
        _check_actions(form.values.get("actions"))
        detector = "none" if form.values.get("detector_backend") == "skip" else "yunet"
        (record,) = await result(request, service.reader.submit(single(form), detector))
        needs_face = str(form.values.get("enforce_detection", True)).lower() not in ("false", "0")
        if record.status == "no_face" and not needs_face:
            (record,) = await result(request, service.reader.submit(form.pictures, "none"))
        note(request, [record])
        need_readable([record])
        if not record.faces:
            raise Problem("no-face", f"{record.input}: no face was found; send a clearer picture of a face")
        return JSONResponse({"results": deepface(record)})

    return await with_pictures(request, answer)


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
        "box": face.to_dict()["box"],
        "crop": explanation.crop.tolist(),
        "relevance": [[round(float(value), 4) for value in row] for row in explanation.relevance],
    }


def _png(explanations: list[Explanation]) -> bytes:
    buffer = io.BytesIO()
    sheet(explanations).save(buffer, format="PNG")
    return buffer.getvalue()


def _check_actions(actions: Any) -> None:
    """Accepts ``["emotion"]`` as a list, as text of a list, or as words between commas; nothing means the same."""
    is_text = isinstance(actions, str) and len(actions) <= _LONGEST_ACTIONS  # a longer one is not split into words
    words = re.findall(r"\w+", actions) if is_text else actions
    if words is None or words == []:
        return
    if not isinstance(words, list) or any(word != "emotion" for word in words):
        raise Problem("value", 'actions: expected ["emotion"]: age, gender and race are not read')


@router.get(
    "/v1/model",
    summary="Describe the loaded model",
    response_model=schemas.ModelModel,
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
        **schemas.problems("not-found", "value"),
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
        return HTMLResponse(markdown_page(text, "Model card", root="../../"))
    return Response(text, media_type="text/markdown; charset=utf-8")


@router.get(
    "/v1/model/report",
    summary="Show the report of the model's evaluation",
    responses={
        200: {
            "description": "The page that `mien evaluate` wrote.",
            "content": {"text/html": {"schema": {"type": "string"}}},
        },
        **schemas.problems("not-found"),
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
)
async def healthz(request: Request) -> Response:
    """Fails if a thread has ended, or is stuck in one picture for three time limits: restart the service then."""
    if service_of(request).is_stuck():
        raise Problem("busy", "a thread does not answer any more; restart the service", headers={"Retry-After": "1"})
    return JSONResponse({"status": "ok"})


@router.get(
    "/readyz",
    summary="Tell whether the worker takes requests",
    response_model=schemas.StateModel,
)
async def readyz(request: Request) -> Response:
    """Fails while the queue or the memory for bodies is full; before the model is loaded, no connection is accepted."""
    with service_of(request).admission.slot():
        return JSONResponse({"status": "ready"})


@router.get(
    "/metrics",
    summary="Count requests, faces and batches",
    dependencies=[NeedsKey],
    responses={
        200: {"description": "Prometheus's text format.", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **schemas.problems("api-key"),
    },
)
async def prometheus() -> Response:
    """Shows the counts of all workers."""
    return Response(await asyncio.to_thread(metrics.exposition), headers={"Content-Type": metrics.MEDIA_TYPE})
