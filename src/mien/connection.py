"""Asks whether a server can be reached, within seconds: libraries try one that is silent for minutes."""

from __future__ import annotations

import socket
import threading
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

PATIENCE_S = 2.5
"""Longest time in seconds to wait for a connection."""


def answers(endpoint: str) -> bool:
    """True if a connection to a server, or to the proxy in front of it, can be opened within ``PATIENCE_S``.

    Args:
        endpoint: its address, such as ``https://huggingface.co``.
    """
    address = urlsplit(endpoint)
    proxy = getproxies().get(address.scheme) if address.hostname and not proxy_bypass(address.hostname) else None
    if proxy:
        address = urlsplit(proxy if "//" in proxy else f"//{proxy}", scheme="http")
    port = address.port or (443 if address.scheme == "https" else 80)
    answered = threading.Event()

    def connect() -> None:
        try:
            with socket.create_connection((address.hostname or "", port), timeout=PATIENCE_S):
                answered.set()
        except OSError:
            pass

    # In a thread, since looking up a name has no time limit of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    return answered.is_set()
