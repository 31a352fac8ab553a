"""Reads the body of a request, and takes the pictures out of it; nothing is written to disk."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import json
import re
import string
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from mien.recognition.pictures import formats_of
from mien.text import shown
from mien.web.problems import Problem
from mien.web.settings import MOST_SCANS, ServiceSettings

BODY_GRACE_S = 10.0
"""Seconds in which a body may come at any speed."""

SLOWEST_BYTES_S = 32_768
"""Bytes a second that have to come on average after that."""

MOST_FIELDS = 16
"""Fields of a form, besides pictures, at most."""

MOST_COMMAS, COMMAS_OF_A_PICTURE = 2048, 64
"""Commas of a JSON body at most, and how many more for each picture that it may hold. Every value of a list or of an
object but the first has one before it, and base64 has none, so that this bounds the number of values."""

_LONGEST_FIELD = 4096
_LONGEST_NAME = 255
_IN_THREAD = 65_536
"""Bytes from which on a body is not looked into by the event loop, which has to answer others meanwhile."""

# What was matched is not given back (*+, ++): else the time grows with the square of the text's length.
_DATA_URL = re.compile(r"data:[\w.+-]*+(?:/[\w.+-]*+)?+(?:;[\w.+=-]++)*?;base64,", re.ASCII)
_WHITE_SPACE = string.whitespace.encode()
_BINARY = "application/octet-stream"


@dataclass(frozen=True)
class Upload:
    """A picture of a request: its name, shown in the record, and the bytes of its file."""

    name: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Form:
    """What a body holds.

    Attributes:
        pictures: the pictures, in order.
        values: everything else, by name: texts of a form, or any JSON.
    """

    pictures: list[Upload]
    values: dict[str, Any]


class _MemoryParser(MultiPartParser):
    """Starlette's parser of forms without its temporary files: pictures are never stored."""

    spool_max_size = 2**62


def media_type(request: Request) -> str:
    """Returns the content type of a request in lower case, without parameters.

    Raises:
        Problem: it is none that the service takes.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("multipart/form-data", "application/json", _BINARY) or re.fullmatch(r"image/[\w.+-]+", kind):
        return kind
    what = f"got {kind!r}" if kind else "there is no content type"
    raise Problem(
        "media-type",
        f"{what}, expected multipart/form-data, image/*, {_BINARY} (the bytes of a picture) or application/json",
        headers={"Accept": f"multipart/form-data, image/*, {_BINARY}, application/json"},
    )


async def read_body(request: Request, settings: ServiceSettings, grow: Callable[[int], None]) -> bytes:
    """Reads a body within the limits of size and time; calls ``grow`` with the number of bytes of each part.

    Raises:
        Problem: it is too large, comes too slowly, or ``grow`` has refused a part.
        starlette.requests.ClientDisconnect: the client went away.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > settings.max_bytes:
        raise _too_many_bytes(settings)
    parts: list[bytes] = []
    size, started = 0, time.monotonic()
    stream = request.stream()
    while True:
        allowed_s = min(BODY_GRACE_S + size / SLOWEST_BYTES_S, settings.timeout_s)
        try:
            async with asyncio.timeout(max(0.0, started + allowed_s - time.monotonic())):
                part = await anext(stream)
        except StopAsyncIteration:
            return b"".join(parts)
        except TimeoutError as error:
            raise Problem(
                "slow", f"{size:,} bytes of the body came in {time.monotonic() - started:.0f} s; send it faster"
            ) from error
        size += len(part)
        if size > settings.max_bytes:
            raise _too_many_bytes(settings)
        grow(len(part))
        parts.append(part)


async def read_form(request: Request, body: bytes, settings: ServiceSettings) -> Form:
    """Takes the pictures and values out of a body, checks their number and size, and decodes none of them.

    Raises:
        Problem: the body is not what its content type says, holds no picture, or too many or too large ones.
    """
    if len(body) > _IN_THREAD:
        return await asyncio.to_thread(lambda: asyncio.run(_form(request, body, settings)))
    return await _form(request, body, settings)


async def _form(request: Request, body: bytes, settings: ServiceSettings) -> Form:
    kind = media_type(request)
    if kind == "multipart/form-data":
        form = await _from_multipart(request.headers, body, settings)
    elif kind == "application/json":
        form = _from_json(body, settings)
    else:
        form = Form([Upload("picture 0", body)], {})
    if not any(upload.data for upload in form.pictures):
        raise Problem("picture", "the body holds no picture; send at least one")
    _check_pictures(form.pictures, settings)
    return form


def _check_pictures(uploads: list[Upload], settings: ServiceSettings) -> None:
    """Checks the pixels of pictures by their headers, and the scans of JPEG files; damage is left to the reader.

    Raises:
        Problem: a picture has too many.
    """
    most = f"expected at most {settings.max_pixels:,} pixels; make it smaller"
    for upload in uploads:
        try:
            with Image.open(io.BytesIO(upload.data), formats=formats_of(upload.data, upload.name)) as image:
                (width, height), kind = image.size, image.format
        except Image.DecompressionBombError as error:
            raise Problem("too-large", f"{upload.name}: is huge, {most}") from error
        except Exception:  # Pillow raises many kinds; the reader, which opens the same formats, reports what is wrong.
            continue
        if width * height > settings.max_pixels:
            raise Problem("too-large", f"{upload.name}: is {width}x{height} pixels, {most}")
        # In JPEG data the bytes FF DA occur as the marker of a scan only: FF is always stuffed inside of scans.
        if kind in ("JPEG", "MPO") and upload.data.count(b"\xff\xda") > MOST_SCANS:
            raise Problem(
                "too-large", f"{upload.name}: has more than {MOST_SCANS} scans, which take long; save it anew"
            )


async def _from_multipart(headers: Headers, body: bytes, settings: ServiceSettings) -> Form:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = _MemoryParser(
        headers, stream(), max_files=settings.max_pictures, max_fields=MOST_FIELDS, max_part_size=_LONGEST_FIELD
    )
    try:
        data = await parser.parse()
    except MultiPartException as error:
        if "Too many files" in error.message:
            raise _too_many_pictures(settings) from error
        raise Problem("bad-request", f"the form cannot be read ({error.message}); send multipart/form-data") from error
    except Exception as error:  # python-multipart raises further kinds on hostile boundaries and headers
        raise Problem("bad-request", f"the form cannot be read ({error}); send multipart/form-data") from error
    pictures: list[Upload] = []
    values: dict[str, Any] = {}
    for name, value in data.multi_items():
        if isinstance(value, UploadFile):
            pictures.append(Upload(_name(value.filename, len(pictures)), await value.read()))
            await value.close()
        else:
            values[name] = value
    return Form(pictures, values)


def _from_json(body: bytes, settings: ServiceSettings) -> Form:
    """Reads ``{"pictures": [BASE64 or {"name": ..., "data": BASE64}, ...], ...}``; ``picture`` or ``img`` is one.

    Nobody can break this off, and meanwhile no other thread runs. So what is made of a body is bounded by its bytes:
    commas and pictures are counted before a value is made of them, and a text is never split into a list.
    """
    most_commas = MOST_COMMAS + COMMAS_OF_A_PICTURE * settings.max_pictures
    if body.count(b",") > most_commas:
        raise Problem("too-large", f"the body has more than {most_commas:,} commas; send pictures and short names only")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = "too deep" if isinstance(error, RecursionError) else str(error)[:100]
        raise Problem("bad-request", f"the body is not JSON ({reason}); expected an object") from error
    if not isinstance(document, dict):
        raise Problem("value", 'the body is JSON, but no object; expected {"pictures": [BASE64, ...]}')
    key = next((key for key in ("pictures", "picture", "img", "img_path") if key in document), None)
    if key is None:
        raise Problem("value", 'the body has no member "pictures"; expected {"pictures": [BASE64, ...]}')
    values = document.pop(key)
    items = values if isinstance(values, list) else [values]
    if len(items) > settings.max_pictures:
        raise _too_many_pictures(settings)
    return Form([_from_item(item, index) for index, item in enumerate(items)], document)


def _from_item(item: Any, index: int) -> Upload:
    name, text = (item.get("name"), item.get("data")) if isinstance(item, dict) else (None, item)
    where = f"picture {index}"
    if not isinstance(text, str) or not isinstance(name, str | None):
        raise Problem("value", f'{where}: expected base64 text, or {{"name": TEXT, "data": BASE64}}')
    prefix = _DATA_URL.match(text)
    text = text[prefix.end() :] if prefix else text
    try:
        data = base64.b64decode(text.encode("ascii").translate(None, _WHITE_SPACE), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Problem(
            "value", f"{where}: is not base64; send the bytes of the picture: URLs and paths are not fetched"
        ) from error
    return Upload(_name(name, index), data)


def _name(name: str | None, index: int) -> str:
    """Returns the name of a picture for its record: the last part of a client's path, safe to print."""
    last = (name or "").replace("\\", "/").rpartition("/")[2].strip()
    return shown(last[:_LONGEST_NAME]) or f"picture {index}"


def _too_many_bytes(settings: ServiceSettings) -> Problem:
    return Problem("too-large", f"the body has more than {settings.max_bytes:,} bytes; send fewer or smaller pictures")


def _too_many_pictures(settings: ServiceSettings) -> Problem:
    return Problem("too-large", f"expected at most {settings.max_pictures} pictures; send several requests")
