"""What the routes share in a worker: who is admitted, and the way from a request with pictures to its answer."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.requests import Request
from starlette.responses import Response

from mien.errors import MienError
from mien.recognition.recognizer import BrokenModelError
from mien.recognition.results import Recognition
from mien.web import metrics
from mien.web.assets import Assets
from mien.web.batching import BatchRecognizer, Reader
from mien.web.model import ModelRecord
from mien.web.problems import Problem
from mien.web.settings import ServiceSettings
from mien.web.uploads import Form, Upload, media_type, read_body, read_form

logger = logging.getLogger("mien.web")

_LARGEST_BODIES = 16
"""Bodies of the largest size that fit into the memory that all bodies together may take."""

_SHARE = 0.1
"""Weight of the latest request in the mean time between two answers."""


class Admission:
    """Counts the requests that a worker holds; used by one event loop.

    Args:
        settings: limits.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._most, self._most_bytes = settings.queue, _LARGEST_BODIES * settings.max_bytes
        self._largest = settings.max_bytes
        self._held = self._bytes = 0
        self._seconds = 0.1
        self._latest = 0.0

    @contextmanager
    def slot(self) -> Iterator[Callable[[int], None]]:
        """Holds a place for a request; gives a function to call with the number of bytes of each part of its body.

        Bytes count when they have come, not when a client announces them: who sends nothing keeps nobody out.

        Raises:
            Problem: there is no place, or, later, no memory for a part.
        """
        size = 0

        def grow(count: int) -> None:
            nonlocal size
            if self._bytes + count > self._most_bytes:
                raise self._busy()
            self._bytes += count
            size += count

        if self._held >= self._most or self._bytes + self._largest > self._most_bytes:
            raise self._busy()
        self._change(1)
        try:
            yield grow
        finally:
            self._bytes -= size
            self._change(-1)

    def note_answer(self) -> None:
        """Notes that the pictures of a request were read, for the time after which trying again is worth it."""
        now = time.monotonic()
        if self._latest:
            between = min(now - self._latest, 1.0)
            self._seconds += _SHARE * (between - self._seconds)
        self._latest = now

    def retry_after_s(self) -> int:
        """Returns in how many whole seconds half of the requests in the queue are done."""
        return min(60, max(1, math.ceil(self._held / 2 * self._seconds)))

    def _busy(self) -> Problem:
        wait = self.retry_after_s()
        detail = f"{self._held} requests are being read; try again in {wait} s"
        return Problem("busy", detail, headers={"Retry-After": str(wait)})

    def _change(self, count: int) -> None:
        self._held += count
        if not self._held:
            self._latest = 0.0  # the time until the next request is not one between two answers
        metrics.HELD.set(self._held)


class Service:
    """What the routes share in one worker.

    Attributes:
        settings: settings of the service.
        reader: reads pictures.
        record: the model.
        assets: the page.
        admission: counts the requests that are held.
    """

    def __init__(self, settings: ServiceSettings, recognizer: BatchRecognizer, page: Path) -> None:
        self.settings = settings
        self.reader = Reader(recognizer, settings.threads, settings.batch_wait_s, metrics.BATCH_FACES.observe)
        self.record = ModelRecord(settings.model, recognizer)
        self.assets = Assets(page)
        self.admission = Admission(settings)

    def is_stuck(self) -> bool:
        """True if a thread has ended, or is busy with one call for three time limits."""
        return not self.reader.alive() or self.reader.stuck_s() > 3 * self.settings.timeout_s


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
    sent = [text for text in (key, bearer and bearer.credentials) if text is not None]  # one may be another system's
    hashed = [hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest() for text in sent]
    # All of them, whichever matches.
    matches = [hmac.compare_digest(digest, accepted) for digest in hashed for accepted in digests]
    if not any(matches):
        what = "is not accepted" if sent else "is missing"
        raise Problem(
            "api-key",
            f"the API key {what}; send `Authorization: Bearer KEY` or `X-API-Key: KEY`",
            headers={"WWW-Authenticate": "Bearer"},
        )


NeedsKey = Depends(need_key)


def service_of(request: Request) -> Service:
    """Returns the service of this worker."""
    service: Service = request.app.state.service
    return service


def _is_of_another_origin(request: Request) -> bool:
    """True if a browser sent a request for a page of another origin.

    Browsers say so by Sec-Fetch-Site if the service is on https or on this machine; else Origin is held beside Host, as
    CrossOriginProtection of Go's net/http does. What sends neither is no browser.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        return site in ("cross-site", "same-site")  # another port is same-site
    return origin is not None and origin.partition("://")[2] != request.headers.get("host")


async def with_pictures(request: Request, answer: Callable[[Form], Awaitable[Response]]) -> Response:
    """Admits a request, reads its body, and answers it within the time limit.

    Raises:
        Problem: a page of another origin asks, a parameter is unknown, there is no place, the body is wrong, too large
            or too slow, or the answer takes too long.
    """
    service = service_of(request)
    origin, host = (request.headers.get(name, "none") for name in ("origin", "host"))
    if _is_of_another_origin(request) and origin not in service.settings.cors:
        raise Problem(
            "origin", f"{origin[:100]}: pages of this origin may not call {host[:100]}; --cors names those that may"
        )
    parameters = [field.alias for field in request.scope["route"].dependant.query_params]
    for name in set(request.query_params) - set(parameters):  # a mistyped one would have no effect
        expected = ", ".join(parameters) or "none"
        raise Problem("value", f"{name[:100]!r}: is no parameter of this address, expected {expected}")
    for name in parameters:
        if len(request.query_params.getlist(name)) > 1:
            raise Problem("value", f"{name!r}: is given more than once, of which one would count; keep one")
    media_type(request)
    with service.admission.slot() as grow:
        try:
            body = await read_body(request, service.settings, grow)
            request.scope["state"]["notes"]["bytes"] = len(body)
            async with asyncio.timeout(service.settings.timeout_s):
                form = await read_form(request, body, service.settings)
                del body  # the form has its own copies
                for name in set(parameters) & set(form.values):  # it would have no effect there
                    raise Problem("value", f"{name}: stands in the body, expected in the address: ?{name}=...")
                return await answer(form)
        except TimeoutError as error:
            raise Problem("timeout", f"it took longer than {service.settings.timeout_s:g} s") from error
        except BrokenModelError as error:
            logger.error("the model cannot answer")  # the message may name the picture
            raise Problem("internal", "the model cannot answer; the operator has to replace it") from error
        except MienError as error:
            raise Problem("value", str(error)) from error


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
    """Counts pictures and faces, and the request as one that was read."""
    service_of(request).admission.note_answer()
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
