"""Settings of the service, and the limits that hold for every request."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from mien.errors import MienError
from mien.machine import cores
from mien.recognition.pictures import MOST_PIXELS

MOST_FACES_EXPLAINED = 12
"""Faces that one request explains at most; each takes about as long as 81 readings."""

MOST_SCANS = 100
"""Scans of a JPEG file at most. A progressive photo has about ten; hundreds are an attack on the decoder's time."""

SHORTEST_KEY = 16
"""Characters of the shortest API key that is accepted."""

_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:\d{1,5})?")
_NEVER_SENT = re.compile(r"http://.*:80|https://.*:443")  # browsers leave these ports out, so that nothing would match


@dataclass(frozen=True)
class ServiceSettings:
    """Settings of ``mien serve``. They travel to the worker processes, so every value can be pickled.

    Attributes:
        host: address to listen on.
        port: TCP port, 0 to 65535; 0 for a free one.
        workers: number of processes that serve.
        model: as for ``mien.Recognizer``; None for the default model.
        api_keys: SHA-256 digests of the accepted API keys; empty if no key is needed.
        cors: origins whose pages may call the service, such as ``https://example.org``.
        queue: requests that a worker holds at most, in transfer, waiting and being read.
        timeout_s: longest time in seconds in which a body comes, and then in which it is answered.
        max_pixels: pixels of the largest picture.
        max_bytes: bytes of the largest request body.
        max_pictures: number of pictures in one request, at most.
        batch_wait_s: longest time in seconds that a face waits, while other pictures wait to be searched, to be read
            together with their faces, plus the search in progress; 0 reads the faces of every request alone.
        report: folder that ``mien evaluate`` wrote for this model, or None.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    model: str | None = None
    api_keys: tuple[bytes, ...] = ()
    cors: tuple[str, ...] = ()
    queue: int = 64
    timeout_s: float = 30.0
    max_pixels: int = 25_000_000
    max_bytes: int = 20_000_000
    max_pictures: int = 16
    batch_wait_s: float = 0.1
    report: Path | None = None

    @property
    def threads(self) -> int:
        """Threads of one worker that search pictures: the cores are shared among the workers."""
        return max(1, cores() // self.workers)

    def check(self) -> None:
        """Checks the values that the command line does not check.

        Raises:
            MienError: a picture of so many pixels is never read, or an origin or the report is not usable.
        """
        if self.max_pixels > MOST_PIXELS:
            raise MienError(f"--max-pixels: got {self.max_pixels}, expected at most {MOST_PIXELS}, which can be read")
        for origin in self.cors:
            if not _ORIGIN.fullmatch(origin) or _NEVER_SENT.fullmatch(origin):
                raise MienError(
                    f"--cors: got {origin!r}, expected an origin as browsers send it, such as https://example.org, in "
                    "lower case, without a path, without port 80 of http and 443 of https; a wildcard is not accepted, "
                    "as every page of the web could then use this service"
                )
        if self.report is not None and not (self.report / "report.html").is_file():
            raise MienError(f"--report: {self.report} holds no report.html; write one with `mien evaluate --out DIR`")


def read_api_keys(path: Path) -> tuple[bytes, ...]:
    """Reads API keys, one a line; empty lines and lines that begin with ``#`` are skipped.

    Returns:
        The SHA-256 digest of each key.

    Raises:
        MienError: the file cannot be read, holds no key, or a key that is short or not plain ASCII.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise MienError(f"--api-key-file: {path} cannot be read ({reason}); expected a key a line") from error
    keys = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    keys = [(number, key) for number, key in keys if key and not key.startswith("#")]
    if not keys:
        raise MienError(f"--api-key-file: {path} holds no key; write one a line, such as `openssl rand -hex 32` prints")
    for number, key in keys:
        if len(key) < SHORTEST_KEY or not (key.isascii() and key.isprintable() and " " not in key):
            raise MienError(
                f"--api-key-file: {path} line {number}: expected at least {SHORTEST_KEY} letters, digits or signs of "
                "ASCII without spaces; `openssl rand -hex 32` makes a good key"
            )
    return tuple(hashlib.sha256(key.encode()).digest() for _, key in keys)
