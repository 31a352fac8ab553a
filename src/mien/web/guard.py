"""The outermost layer: request ids, security headers, counts, log lines, and the last handler of errors."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mien.web import metrics
from mien.web.problems import Problem

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Request ids that are taken from a client; for any other a new one is made."""

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'wasm-unsafe-eval'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "font-src 'self'",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "media-src 'self' blob:",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

SECURITY_HEADERS: dict[str, str] = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "cross-origin-opener-policy": "same-origin",  # this and the next make the page cross-origin isolated: threads
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=(), payment=(), usb=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""Headers of every answer that does not set them itself."""

OTHER = "other"
"""Route and method, in counts and logs, of what has no route or an unusual method."""

LINGER_S = 2.0
"""Seconds for which the rest of a body is read and dropped after its answer, so that the client can read the answer."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})

logger = logging.getLogger("mien.web")


class Guard:
    """Wraps an ASGI application.

    Args:
        app: the application.
        cross_origin: True if pages of other origins may read answers.
    """

    def __init__(self, app: ASGIApp, *, cross_origin: bool = False) -> None:
        self.app = app
        headers = dict(SECURITY_HEADERS)
        if cross_origin:
            headers["cross-origin-resource-policy"] = "cross-origin"
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.monotonic()
        notes: dict[str, int | str] = {}
        method = scope["method"]
        # HEAD, which load balancers and monitors send, is answered as GET; the server leaves the body out.
        scope = {**scope, "method": "GET" if method == "HEAD" else method}
        state = scope.setdefault("state", {})
        request_id: str = state.setdefault("request_id", request_id_of(scope))
        state["notes"] = notes
        status, is_noted, body_comes = 0, False, True

        def note() -> None:
            nonlocal is_noted
            if not is_noted:
                is_noted = True
                route = getattr(scope.get("route"), "path", None) or state.get("route", OTHER)
                seconds = time.monotonic() - started
                note_request(route, method, state.get("status", status), seconds, request_id, notes)

        async def receive_guarded() -> Message:
            nonlocal body_comes
            message = await receive()
            body_comes = message.get("more_body", False)
            return message

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name.lower() for name, _ in message["headers"]}
                extra = [(b"x-request-id", request_id.encode()), (b"cache-control", b"no-store"), *self._headers]
                message["headers"] = [*message["headers"], *(pair for pair in extra if pair[0] not in present)]
            elif not message.get("more_body"):
                if await Request(scope, receive_guarded).is_disconnected():
                    state.setdefault("status", 499)  # it is there if the protocol has answered a broken body
                note()  # before the client has the whole answer: what it got is counted, even if this process is killed
                if body_comes:  # closing the connection now would take the answer from a client that still sends
                    await send({**message, "more_body": True})
                    message = {"type": "http.response.body"}
                    with suppress(TimeoutError):
                        async with asyncio.timeout(LINGER_S):
                            while body_comes:
                                await receive_guarded()
            await send(message)

        try:
            await self.app(scope, receive_guarded, send_guarded)
        except Problem as error:  # of what stands around the application
            notes["kind"] = error.kind
            await error.response(request_id)(scope, receive, send_guarded)
        except Exception:
            logger.exception("a request failed", extra={"request_id": request_id})
            if not status:
                problem = Problem("internal", "an unexpected fault; report it with the request id")
                await problem.response(request_id)(scope, receive, send_guarded)
        finally:
            note()


def request_id_of(scope: Scope) -> str:
    """Returns the id that the client gave a request, or a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(text := value.decode("latin-1")):
            return text
    return uuid.uuid4().hex


def note_request(
    route: str, method: str, status: int, seconds: float | None, request_id: str, notes: Mapping[str, int | str]
) -> None:
    """Counts and logs a request; the route is logged, not the path, which may hold anything.

    Args:
        route: the route, or ``OTHER``.
        method: its method.
        status: status of the answer; 0 if there was none.
        seconds: time that it took; None for what never became a request.
        request_id: its id.
        notes: further fields of the log line.
    """
    method = method if method in _METHODS else OTHER
    metrics.REQUESTS.labels(route, method, str(status or 499)).inc()
    extra: dict[str, object] = {"request_id": request_id, "method": method, "route": route, "status": status or 499}
    if seconds is not None:
        metrics.SECONDS.labels(route).observe(seconds)
        extra["seconds"] = round(seconds, 4)
    logger.info("request", extra={**extra, **notes})
