"""Connections: whether a server answers, and that no address takes longer or ends in an exception of Python."""

from __future__ import annotations

import socket

import pytest

from mien import connection


def test_a_server_that_listens_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert connection.answers(address)
    assert not connection.answers(address)


@pytest.mark.parametrize("endpoint", ["https://example.org:port", "http://[::1", "", "example.org"])
def test_no_connection_to_a_faulty_address(endpoint: str) -> None:
    assert not connection.answers(endpoint)


def test_no_connection_by_a_faulty_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "getproxies", lambda: {"http": "http://proxy:80x"})
    monkeypatch.setattr(connection, "proxy_bypass", lambda host: False)
    assert not connection.answers("http://127.0.0.1")
