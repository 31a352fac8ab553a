"""Errors as RFC 9457 problem documents: every answer above 399 has the same body."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from mien.errors import one_line
from mien.text import shown

MEDIA_TYPE = "application/problem+json"

KINDS: dict[str, tuple[int, str]] = {
    "bad-request": (400, "The request cannot be understood"),
    "no-face": (400, "No face was found"),
    "api-key": (401, "An API key is needed"),
    "origin": (403, "Another page may not call"),
    "not-found": (404, "There is no such page"),
    "method": (405, "This address takes another method"),
    "slow": (408, "The request came too slowly"),
    "too-large": (413, "The request is too large"),
    "media-type": (415, "The content type is not accepted"),
    "picture": (422, "No picture can be read"),
    "value": (422, "A value is not accepted"),
    "headers": (431, "The headers are too large"),
    "internal": (500, "A fault of the service"),
    "busy": (503, "The service is busy"),
    "timeout": (504, "Reading took too long"),
}
"""Status and title of each kind of problem; ``/docs`` has a paragraph about each."""

HELP: dict[str, str] = {
    "bad-request": "The body is cut off, or is not what its content type says.",
    "no-face": "The picture can be read, but holds no face. For a face crop give `detector=none`.",
    "api-key": "Send `Authorization: Bearer KEY` or `X-API-Key: KEY`, with a key of the operator.",
    "origin": "A browser sent this for a page of another origin. The operator can allow that origin by `--cors`.",
    "not-found": "Check the address; this page lists all.",
    "method": "The header `Allow` names the methods.",
    "slow": "Headers have to come within 10 seconds, and a body with at least 32 KiB a second after 10 seconds.",
    "too-large": "The body has too many bytes, too many pictures, or a picture has too many pixels. `GET /v1/model` "
    "tells the limits. They are checked before anything is decoded.",
    "media-type": "Send multipart/form-data, the bytes of a picture as image/*, or JSON with base64.",
    "picture": "`detail` tells what is wrong, `errors` of each picture if any came. URLs and paths are not fetched.",
    "value": "`detail` names the value and what was expected.",
    "headers": "Send less than 16 KiB of headers.",
    "internal": "Please report it with the request id; no part of your picture was kept.",
    "busy": "The queue is full. Try again after the seconds in the header `Retry-After`.",
    "timeout": "The picture took longer than the time limit. Send a smaller one, or try again later.",
}
"""What each kind of problem means, and what to do; Markdown."""


@dataclass(eq=False)
class Problem(Exception):
    """An error that ends a request.

    Attributes:
        kind: a key of ``KINDS``.
        detail: one line: what was wrong, what was expected, what to do.
        errors: the single mistakes, if there are several.
        headers: further headers of the answer.
        status: status of the answer; None for that of the kind.
    """

    kind: str
    detail: str
    errors: list[str] = field(default_factory=list)
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int | None = None

    @property
    def title(self) -> str:
        """The title of the kind."""
        return KINDS[self.kind][1]

    def body(self, request_id: str) -> dict[str, Any]:
        """Returns the members of the problem document."""
        document: dict[str, Any] = {
            "type": f"/docs#{self.kind}",
            "title": self.title,
            "status": self.status or KINDS[self.kind][0],
            "detail": shown(one_line(self.detail)),
            "instance": f"urn:request:{request_id}",
        }
        if self.errors:
            document["errors"] = [shown(one_line(error)) for error in self.errors]
        return document

    def response(self, request_id: str) -> Response:
        """Returns the answer."""
        body = self.body(request_id)
        return Response(json.dumps(body, ensure_ascii=False), body["status"], dict(self.headers), media_type=MEDIA_TYPE)
