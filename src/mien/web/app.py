"""The application: routes, error handlers, and what starts and ends with a worker."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from mien.version import __version__
from mien.web import reference, routes
from mien.web.assets import PAGE
from mien.web.batching import BatchRecognizer
from mien.web.guard import Guard
from mien.web.model import NOTICE
from mien.web.problems import Problem
from mien.web.service import Service
from mien.web.settings import ServiceSettings

DESCRIPTION = f"""\
Finds the faces in pictures and reads their expressions. {NOTICE}
In the European Union, inferring emotions at the workplace and in education is prohibited (Regulation 2024/1689,
article 5). Pictures are neither stored nor logged, and no other host is asked.

Every answer above 399 is a problem document (RFC 9457); every answer has the header `X-Request-ID`.
"""

_KIND_OF_STATUS = {404: "not-found", 405: "method"}

logger = logging.getLogger("mien.web")


def create_app(
    settings: ServiceSettings, make_recognizer: Callable[[], BatchRecognizer] | None = None, page: Path = PAGE
) -> Guard:
    """Makes the application of one worker.

    Args:
        settings: settings of the service.
        make_recognizer: called when the worker starts; None to load ``settings.model``.
        page: folder of the page.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        recognizer = await asyncio.to_thread(make_recognizer or (lambda: load(settings)))
        app.state.service = service = Service(settings, recognizer, page)
        app.router.default = service.assets
        watching = asyncio.create_task(_end_useless_worker(service))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")  # about damaged pictures; the records tell
            yield
        watching.cancel()
        await asyncio.to_thread(service.reader.close)

    app = FastAPI(
        title="Mien",
        summary="Facial expressions in pictures",
        description=DESCRIPTION,
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.settings = settings
    app.include_router(routes.router)
    app.include_router(reference.router)
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_fault)
    if not settings.cors:
        return Guard(app)
    # Around the whole application: the answer to an unforeseen fault is made outside of what `add_middleware` adds.
    open_app = _Cors(
        app,
        allow_origins=list(settings.cors),
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-ID"],
        expose_headers=["Retry-After", "X-Request-ID"],
        max_age=600,
    )
    return Guard(open_app, cross_origin=True)


class _Cors(CORSMiddleware):
    """Answers questions of browsers about other origins; a refusal is a problem document."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """Returns the answer to a question.

        Raises:
            Problem: the page may not do that; ``Guard`` answers with it.
        """
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        raise Problem("bad-request", f"{bytes(response.body).decode()}; --cors names the origins")


def load(settings: ServiceSettings) -> BatchRecognizer:
    """Loads the model of the settings.

    Raises:
        MienError: it cannot be loaded.
    """
    return BatchRecognizer(settings.model, threads=settings.threads)


async def _end_useless_worker(service: Service) -> None:
    """Ends a worker that is stuck, so that it is replaced, or whose supervisor was killed: it would hold the port."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        while parent.is_alive() and not service.is_stuck():
            await asyncio.sleep(1)
        logger.error("this worker ends: its supervisor has ended, or one of its threads is stuck")
        os.kill(os.getpid(), signal.SIGTERM)


def _respond(request: Request, problem: Problem) -> Response:
    state = request.scope["state"]
    state["notes"]["kind"] = problem.kind
    return problem.response(state["request_id"])


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return _respond(request, error)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [f"{'.'.join(map(str, mistake['loc'][1:]))}: {mistake['msg']}" for mistake in error.errors()]
    return _respond(request, Problem("value", "; ".join(errors), errors))


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = _KIND_OF_STATUS.get(error.status_code, "bad-request")
    detail = f"{error.detail}; /docs lists the addresses and their methods"
    headers = dict(error.headers or {})
    if headers.get("Allow") == "GET":
        headers["Allow"] = "GET, HEAD"  # ``Guard`` passes HEAD on as GET
    return _respond(request, Problem(kind, detail, headers=headers, status=error.status_code))


async def _on_fault(request: Request, error: Exception) -> Response:
    """An unforeseen exception; it goes on to ``Guard``, which logs it."""
    return _respond(request, Problem("internal", "an unexpected fault; report it with the request id"))


async def _on_disconnect(request: Request, error: Exception) -> Response:
    """The client went away in the middle of its body: nobody reads this answer."""
    return _respond(request, Problem("bad-request", "the client went away before the body was complete", status=499))
