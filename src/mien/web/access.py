"""Checks API keys."""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated, Any

from fastapi import Depends
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.requests import Request

from mien.web.problems import Problem

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
