"""Asks whether a server can be reached, within seconds: libraries try one that is silent for minutes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

T = TypeVar("T")

PATIENCE_S = 2.4
"""Longest time in seconds to wait for a server: without a connection, an error comes within three seconds."""


def within(seconds: float, call: Callable[[], T]) -> T | Exception | None:
    """Calls a function on a thread of its own, as looking up a server's name has no time limit.

    Args:
        seconds: longest wait; the thread is then left to itself.
        call: the function.

    Returns:
        What it returns, the exception that it raised, or None if it was not done in time.
    """
    answers: list[T | Exception] = []

    def work() -> None:
        try:
            answers.append(call())
        except Exception as error:  # HTTP clients raise many kinds
            answers.append(error)

    thread = threading.Thread(target=work, daemon=True, name="mien connection")
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else None


def answers(endpoint: str) -> bool:
    """True if a connection to a server, or to the proxy in front of it, can be opened within ``PATIENCE_S``.

    Args:
        endpoint: its address, such as ``https://huggingface.co``; no connection can be opened to a faulty one.
    """

    def connect() -> bool:
        address = urlsplit(endpoint)
        proxy = getproxies().get(address.scheme) if address.hostname and not proxy_bypass(address.hostname) else None
        if proxy:
            address = urlsplit(proxy if "//" in proxy else f"//{proxy}", scheme="http")
        port = address.port or (443 if address.scheme == "https" else 80)
        with socket.create_connection((address.hostname or "", port), timeout=PATIENCE_S):
            return True

    return within(PATIENCE_S, connect) is True
