"""Serves the page and the models for the browser: a fixed list of files, so that no path leads out of it."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from starlette.types import Receive, Scope, Send

from mien.model.places import shipped
from mien.recognition.detectors import installed
from mien.recognition.onnx_sizes import any_size
from mien.web.problems import Problem

PAGE = Path(__file__).parent / "page"
"""Folder of the page: plain HTML, CSS and modules, and in ``built/`` what ``make page`` makes."""

TYPES: dict[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
"""Content types by ending; files of other endings are not served."""

_PIECE = 262_144


@dataclass(frozen=True)
class Content:
    """A file as it is sent.

    Attributes:
        etag: quoted hash of the content.
        plain: its bytes.
        packed: its bytes by gzip, or None if that is no smaller.
    """

    etag: str
    plain: bytes
    packed: bytes | None


class Assets:
    """An ASGI application with the files of the page at ``/`` and the models at ``/models/``.

    Args:
        folder: folder of the page; it is listed once.
    """

    def __init__(self, folder: Path = PAGE) -> None:
        self._files: dict[str, tuple[str, Callable[[], Content]]] = {}
        for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
            if path.suffix in TYPES and path.is_file() and not path.is_symlink():
                self._add(f"/{path.relative_to(folder).as_posix()}", path)
        if "/index.html" in self._files:
            self._files["/"] = self._files["/index.html"]
        for name, model in browser_models().items():
            self._add(f"/models/{name}", model)
        self._files["/models/yunet.onnx"] = (TYPES[".onnx"], _yunet)

    @property
    def paths(self) -> list[str]:
        """The paths that are served."""
        return sorted(self._files)

    @property
    def is_built(self) -> bool:
        """True if the parts that ``make page`` makes are there, so that the browser can read faces itself."""
        return any(path.startswith("/built/") and path.endswith(".wasm") for path in self._files)

    def _add(self, path: str, file: Path) -> None:
        self._files[path] = (TYPES[file.suffix], lambda: _load(file, *_version(file)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request.

        Raises:
            Problem: there is no such file, or the method is another than GET, as which ``Guard`` passes HEAD on.
        """
        scope.setdefault("state", {})["route"] = "page"
        entry = self._files.get(scope["path"])
        if entry is None:
            raise Problem("not-found", "there is nothing at this address; /docs lists what there is")
        if scope["method"] != "GET":
            raise Problem("method", "a file can only be read; use GET", headers={"Allow": "GET, HEAD"})
        kind, load = entry
        content = await asyncio.to_thread(load)  # reading and packing take long the first time
        requested = {name: value.decode("latin-1") for name, value in scope["headers"]}
        await _send(scope, send, kind, content, requested)


async def _send(scope: Scope, send: Send, kind: str, content: Content, requested: Mapping[bytes, str]) -> None:
    packed = content.packed if _takes_gzip(requested.get(b"accept-encoding", "")) else None
    body = content.plain if packed is None else packed
    etag = content.etag if packed is None else f'{content.etag[:-1]}-gz"'
    headers = {"etag": etag, "cache-control": "no-cache", "vary": "accept-encoding"}
    is_same = any(part.strip().removeprefix("W/") == etag for part in requested.get(b"if-none-match", "").split(","))
    if not is_same:
        headers |= {"content-type": kind, "content-length": str(len(body))}
        headers |= {} if packed is None else {"content-encoding": "gzip"}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 304 if is_same else 200, "headers": raw})
    if is_same:
        body = b""
    for start in range(0, len(body), _PIECE):  # in pieces: a slow receiver must not make the server hold all of it
        await send({"type": "http.response.body", "body": body[start : start + _PIECE], "more_body": True})
        await asyncio.sleep(0)  # the loop can notice that the client has gone
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def browser_models() -> dict[str, Path]:
    """Returns the ONNX files for the browser by name: the shipped models in int8."""
    return {
        f"{name}.onnx": files.onnx
        for name, files in shipped().items()
        if name.endswith("-int8") and files.onnx is not None
    }


def _takes_gzip(accepted: str) -> bool:
    codings = [part.strip().replace(" ", "").lower() for part in accepted.split(",")]
    return any(coding.partition(";")[0] == "gzip" and not coding.endswith(";q=0") for coding in codings)


def _version(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=256)
def _load(file: Path, changed_ns: int, size: int) -> Content:
    """Reads and packs a file; it is cached until the file changes."""
    return _content(file.read_bytes())


@lru_cache(maxsize=1)
def _yunet() -> Content:
    """The detector for the browser, in the form that takes pictures of any size."""
    return _content(any_size(installed()))


def _content(plain: bytes) -> Content:
    packed = gzip.compress(plain, 6, mtime=0)
    etag = f'"{hashlib.sha256(plain).hexdigest()[:32]}"'
    return Content(etag, plain, packed if len(packed) <= 0.95 * len(plain) else None)
