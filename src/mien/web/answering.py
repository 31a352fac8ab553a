"""From a request with pictures to its answer: admission, body, time limit, and a client that goes away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from mien.errors import MienError
from mien.recognition.recognizer import BrokenModelError
from mien.recognition.results import Recognition
from mien.web import metrics
from mien.web.problems import Problem
from mien.web.service import Service
from mien.web.uploads import Form, Upload, media_type, read_body, read_form

logger = logging.getLogger("mien.web")


def service_of(request: Request) -> Service:
    """Returns what the routes of this worker share."""
    service: Service = request.app.state.service
    return service


async def with_pictures(request: Request, answer: Callable[[Form], Awaitable[Response]]) -> Response:
    """Admits a request, reads its body, and answers it within the time limit.

    Raises:
        Problem: there is no place, the body is wrong, too large or too slow, or the answer takes too long.
    """
    service = service_of(request)
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
            logger.error("the model cannot answer")  # the message may name the picture
            raise Problem("internal", "the model cannot answer; the operator has to replace it") from error
        except MienError as error:
            raise Problem("value", str(error)) from error
        finally:
            service.admission.note_answer()


async def result(request: Request, future: Future[Any]) -> Any:
    """Waits for a result; if the client goes away or the time is over, what has not begun is left out."""
    gone = asyncio.ensure_future(_disconnected(request))
    result = asyncio.ensure_future(asyncio.wrap_future(future))
    try:
        await asyncio.wait({gone, result}, return_when=asyncio.FIRST_COMPLETED)
        if result.done():
            return result.result()
        raise Problem("bad-request", "the client went away", status=499)
    finally:
        gone.cancel()
        result.cancel()
        future.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def single(form: Form) -> list[Upload]:
    """Returns the picture of a request that takes only one, as a list.

    Raises:
        Problem: there are several.
    """
    if len(form.pictures) > 1:
        raise Problem("value", f"{len(form.pictures)} pictures came, expected one; send a request for each")
    return form.pictures


def note(request: Request, records: list[Recognition]) -> None:
    """Counts pictures and faces."""
    faces = sum(len(record.faces) for record in records)
    request.scope["state"]["notes"].update(pictures=len(records), faces=faces)
    metrics.FACES.inc(faces)
    for record in records:
        metrics.PICTURES.labels(record.status).inc()


def need_readable(records: list[Recognition]) -> None:
    """Raises a problem if no picture can be read."""
    errors = [str(record.error) for record in records if record.status == "error"]
    if len(errors) == len(records):
        raise Problem("picture", errors[0], errors)
