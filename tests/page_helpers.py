"""Runs the page in headless Chromium: a server for it, pictures, films and a camera, and a log of its requests."""

from __future__ import annotations

import functools
import http.server
import importlib
import io
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from mien.web.guard import SECURITY_HEADERS

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
browser: Any = importlib.import_module("browser")
CHROMIUM: Path = browser.CHROMIUM
PAGE = ROOT / "src/mien/web/page"
AXE = ROOT / "node_modules/axe-core/axe.min.js"
LONG_MS = 240_000
"""Milliseconds that a test waits for the page at most: the machine may be busy."""

READY = "body[data-ready]"
DONE = "#tools:not([hidden])"


def need_browser() -> None:
    """Skips the test where Chromium or playwright is missing."""
    pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright; pip install 'mien[dev]'")
    if not CHROMIUM.exists():
        pytest.skip(f"the page is tested in Debian's Chromium ({CHROMIUM}), which is not installed")


def need_built() -> None:
    """Skips the test in a checkout without the built parts."""
    if not (PAGE / "built/models.json").is_file():
        pytest.skip("the page is not built; make page")


class Log:
    """The requests of a page: method, address and body of each."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, bytes | None]] = []

    def note(self, request: Any) -> None:
        self.requests.append((request.method, request.url, request.post_data_buffer))

    def sent(self) -> list[str]:
        """Addresses of the requests that could have carried a picture."""
        return [url for method, url, body in self.requests if method != "GET" or body]

    def hosts(self) -> set[str]:
        """Hosts and ports that were asked; pictures in memory have none."""
        inner = ("blob:", "data:", "about:")
        return {url.split("/")[2] for _, url, _ in self.requests if not url.startswith(inner)}


class _Handler(http.server.SimpleHTTPRequestHandler):
    def guess_type(self, path: Any) -> str:
        """The types are those of nginx, whatever the machine: it knows no .mjs, which browsers then do not run."""
        kinds = {".mjs": "application/octet-stream", ".js": "text/javascript", ".wasm": "application/wasm"}
        return kinds.get(Path(path).suffix) or super().guess_type(path)

    def end_headers(self) -> None:
        for name, value in SECURITY_HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps the output of the tests clean."""


@contextmanager
def folder_served(folder: Path) -> Iterator[str]:
    """Serves a folder as any static web server does, with the headers of the service, and gives its address."""
    handler = functools.partial(_Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def file(name: str, content: bytes, kind: str = "") -> Any:
    """A file as playwright chooses it."""
    return {"name": name, "mimeType": kind, "buffer": content}


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def encoded(images: Sequence[Image.Image], kind: str) -> bytes:
    """A file of Pillow's format ``kind`` that holds all of the pictures."""
    buffer = io.BytesIO()
    if len(images) == 1:
        images[0].save(buffer, format=kind)
    else:
        images[0].save(buffer, format=kind, save_all=True, append_images=images[1:])
    return buffer.getvalue()


def choose(page: Any, *files: Any) -> None:
    """Chooses files and waits until the first of them was read."""
    number = page.locator("#strip li").count() + 1
    page.set_input_files("#files", list(files))
    page.wait_for_selector(f"#strip li:nth-child({number})[data-done=true]", timeout=LONG_MS)


def wait_until(page: Any, condition: Callable[[], Any]) -> None:
    """Waits until a condition holds while the page and its routes go on; fails if it does not in time."""
    deadline = time.monotonic() + LONG_MS / 1000
    while not condition():
        assert time.monotonic() < deadline, f"it took too long; the page says: {page.inner_text('#problem')!r}"
        page.wait_for_timeout(20)


def download(page: Any, button: str) -> bytes:
    """Returns the file that a button of the page saves."""
    with page.expect_download(timeout=LONG_MS) as event:
        page.click(button)
    return Path(event.value.path()).read_bytes()


def records(page: Any) -> list[dict[str, Any]]:
    """The records of all that was read in this visit."""
    saved_records: list[dict[str, Any]] = json.loads(download(page, "#save-all-json"))
    return saved_records


def film(frames: Sequence[np.ndarray], path: Path, rate: int = 10) -> bytes:
    """A film in VP8 (WebM), which every Chromium plays."""
    with av.open(str(path), "w", format="webm") as container:
        stream: Any = container.add_stream("libvpx", rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 2_000_000
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode(None))
    return path.read_bytes()
