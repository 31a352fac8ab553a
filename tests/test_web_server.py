"""The service on a real socket: slow and hostile clients, clients that go away, signals, workers that die."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import re
import shlex
import signal
import socket
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from detection_helpers import astronaut
from recognition_helpers import encoded
from web_helpers import LONG_S, ROOT, Gate, children, client, face, process, running, wait_until

from mien.cli import main
from mien.model.places import SHIPPED
from mien.recognition.recognizer import Recognizer
from mien.web import app, guard, metrics, protocol, server, uploads
from mien.web.settings import ServiceSettings

PNG = {"content-type": "image/png"}


def connect(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=LONG_S)


def answer(connection: socket.socket) -> bytes:
    """Everything until the other side closes."""
    chunks = []
    while chunk := connection.recv(65_536):
        chunks.append(chunk)
    return b"".join(chunks)


def single_answer(connection: socket.socket) -> bytes:
    """One answer, of a connection that stays open."""
    data = b""
    while (head := re.match(rb"(?is)(.*content-length: (\d+).*?)\r\n\r\n", data)) is None:
        chunk = connection.recv(65_536)
        assert chunk, data
        data += chunk
    while len(data) < head.end() + int(head[2]):
        data += connection.recv(65_536)
    return data


def assert_problem(response: bytes, status: int) -> None:
    head, _, body = response.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), response[:300]
    assert b"content-type: application/problem+json" in head.lower()
    assert json.loads(body)["status"] == status and b"x-content-type-options: nosniff" in head.lower()


def test_slow_headers_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEADERS_S", 0.3)
    with running() as address:
        for request_start in (b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"):
            with connect(address) as connection:
                connection.sendall(request_start)
                start = time.monotonic()
                response = answer(connection)
                assert time.monotonic() - start < 20
                if request_start:
                    assert_problem(response, 408)
                else:
                    assert not response


def test_a_drip_of_headers_does_not_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEADERS_S", 0.5)
    with running() as address, connect(address) as connection:
        start = time.monotonic()
        with pytest.raises(OSError):
            connection.sendall(b"GET / HTTP/1.1\r\n")
            while time.monotonic() - start < 20:
                connection.sendall(b"X-A: b\r\n")
                time.sleep(0.05)
        assert time.monotonic() - start < 10


def test_the_second_request_of_a_connection_has_the_same_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEADERS_S", 1.5)
    with running() as address, connect(address) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert single_answer(connection).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert_problem(answer(connection), 408)


def test_a_connection_stays_open_longer_than_proxies_keep_theirs() -> None:
    """Else nginx, which keeps it for 60 seconds, sends a request into one that is just being closed."""
    config = server._config(ServiceSettings(), lambda: None)  # type: ignore[arg-type,return-value]
    assert config.timeout_keep_alive > 60


def test_stopping_waits_for_a_body_and_its_answer() -> None:
    config = server._config(ServiceSettings(timeout_s=40.0), lambda: None)  # type: ignore[arg-type,return-value]
    assert (config.timeout_graceful_shutdown or 0) >= 2 * 40, "each has the whole time limit"


def test_an_answer_does_not_wait_for_an_acknowledgement_of_its_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    delays: list[int] = []
    original = protocol.GuardedProtocol.connection_made

    def noted(self: protocol.GuardedProtocol, transport: Any) -> None:
        original(self, transport)
        delays.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(protocol.GuardedProtocol, "connection_made", noted)
    with running() as address:
        assert httpx.get(f"{address}/healthz").status_code == 200
    assert delays and all(delays)


def test_a_burst_of_connections_is_left_to_other_workers() -> None:
    loop = server.FairLoop()
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as clients:
        listener.setblocking(False)
        service = loop.run_until_complete(loop.create_server(asyncio.Protocol, sock=listener, backlog=100))
        for _ in range(8):
            clients.enter_context(socket.create_connection(listener.getsockname()))
        loop.call_soon(loop.stop)
        loop.run_forever()  # one turn
        waiting = 0
        with suppress(BlockingIOError):
            while True:
                listener.accept()[0].close()
                waiting += 1
        service.close()
        loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    assert waiting >= 6


def test_a_worker_without_free_files_tries_again_after_a_pause() -> None:
    class Full(socket.socket):
        tries = 0

        def accept(self) -> tuple[socket.socket, Any]:
            self.tries += 1
            raise OSError(errno.EMFILE, "too many open files")

    loop = server.FairLoop()
    loop.set_exception_handler(lambda *_: None)
    with Full() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.setblocking(False)
        service = loop.run_until_complete(loop.create_server(asyncio.Protocol, sock=listener))
        with socket.create_connection(listener.getsockname()):
            loop.run_until_complete(asyncio.sleep(0.2))
        service.close()
    loop.close()
    assert listener.tries == 1


def test_slow_bodies_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "BODY_GRACE_S", 0.3)
    monkeypatch.setattr(guard, "LINGER_S", 0.3)
    head = b"POST /v1/recognize HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\nabc"
    with running(queue=1) as address, connect(address) as connection:
        connection.sendall(head)
        assert_problem(answer(connection), 408)
        assert httpx.get(f"{address}/readyz").status_code == 200, "its place is free again"


@pytest.mark.parametrize("length", [b"Content-Length: 20000000", b"Transfer-Encoding: chunked"])
def test_bodies_that_do_not_come_keep_nobody_out(length: bytes) -> None:
    head = b"POST /v1/recognize HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n%s\r\n\r\n" % length
    with running() as address, ExitStack() as idle:
        for _ in range(20):
            idle.enter_context(connect(address)).sendall(head)
        wait_until(lambda: "held 20.0" in httpx.get(f"{address}/metrics").text)
        assert httpx.post(f"{address}/v1/recognize", content=face(), headers=PNG).status_code == 200
        assert httpx.get(f"{address}/readyz").status_code == 200


@pytest.mark.parametrize(
    ("sent_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000, 431),
        (b"GET /" + b"a" * 100_000, 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", 400),
        (b"POST /analyze HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
        (b"GET / HTTP/1.1\r\nA b: c\r\n\r\n", 400),
    ],
)
def test_what_is_not_http_is_a_problem(sent_bytes: bytes, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEADERS_S", 3.0)
    with running() as address:
        with connect(address) as connection:
            connection.sendall(sent_bytes)
            assert_problem(answer(connection), status)
        assert httpx.get(f"{address}/healthz").status_code == 200


def test_what_never_becomes_a_request_is_counted_and_logged_with_its_id(capsys: pytest.CaptureFixture[str]) -> None:
    with running() as address:
        with connect(address) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000)
            response = answer(connection)
        row = 'mien_requests_total{method="other",route="other",status="431"}'
        assert row in httpx.get(f"{address}/metrics").text
    logged = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (line,) = [line for line in logged if line.get("status") == 431]
    assert line["kind"] == "headers" and line["request_id"].encode() in response


def test_a_broken_chunk_is_counted_once_as_it_was_answered(capsys: pytest.CaptureFixture[str]) -> None:
    head = b"POST /v1/recognize HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    with running() as address:
        with connect(address) as connection:
            connection.sendall(head + b"5\r\nhello\r\n")
            wait_until(lambda: "held 1.0" in httpx.get(f"{address}/metrics").text)
            connection.sendall(b"no length\r\n")
            early_response = answer(connection)
        with connect(address) as connection:
            connection.sendall(head + b"no length\r\n")  # all at once: the application has not begun
            responses = [early_response, answer(connection)]
    logged = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    lines = [line for line in logged if line.get("status", 200) >= 400]
    for line, response in zip(lines, responses, strict=True):
        assert_problem(response, 400)
        assert (line["route"], line["status"]) == ("/v1/recognize", 400) and line["request_id"].encode() in response


def test_a_client_that_leaves_its_answer_is_not_counted_as_served(capsys: pytest.CaptureFixture[str]) -> None:
    with running() as address, connect(address) as connection:
        connection.sendall(b"GET /models/mini-int8.onnx HTTP/1.1\r\nHost: x\r\n\r\n" * 20)  # more than buffers hold
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if '"page"' in line]
    assert len(lines) < 20 and lines[-1]["status"] == 499


def test_what_asyncio_reports_is_a_line_of_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    with running():
        logging.getLogger("asyncio").warning("socket.send() raised exception.")
    logged = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert "socket.send() raised exception." in [line["message"] for line in logged if line["logger"] == "asyncio"]


def test_an_answer_is_counted_before_the_client_has_the_whole_of_it() -> None:
    """The process may be killed as soon as it has sent the last byte."""
    counter = metrics.REQUESTS.labels(guard.OTHER, "GET", "200")
    before, sent = counter._value.get(), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for more_body in (True, False):
            await send({"type": "http.response.body", "body": b"x", "more_body": more_body})

    async def send(message: Any) -> None:
        sent.append(counter._value.get() - before)

    async def receive() -> Any:
        return {"type": "http.request"}

    asyncio.run(guard.Guard(app)({"type": "http", "method": "GET", "headers": []}, receive, send))
    assert sent == [0, 0, 1] and counter._value.get() - before == 1


def test_who_asks_for_another_protocol_gets_this_one_without_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    """Java's client, for one, asks for HTTP/2 with each request."""
    with running() as address, connect(address) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        assert single_answer(connection).startswith(b"HTTP/1.1 200 ")
    logged = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert logged and not [line["message"] for line in logged if line["level"] == "warning"]


def test_a_body_that_is_too_large_is_refused_before_it_has_come() -> None:
    with running(max_bytes=10_000) as address, connect(address) as connection:
        connection.sendall(
            b"POST /v1/recognize HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 9000000000\r\n\r\n"
        )
        assert connection.recv(65_536).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_expects_to_be_told_sends_no_body_that_is_too_large() -> None:
    head = b"POST /v1/recognize HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nExpect: 100-continue\r\n"
    with running(max_bytes=10_000) as address:
        with connect(address) as connection:
            connection.sendall(head + b"Content-Length: 90000\r\n\r\n")
            assert connection.recv(65_536).startswith(b"HTTP/1.1 413 ")
        with connect(address) as connection:
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(face()))
            assert connection.recv(65_536).startswith(b"HTTP/1.1 100 ")
            connection.sendall(face())
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")


def test_a_large_body_gets_its_answer_although_nobody_reads_it() -> None:
    with running(max_bytes=10_000) as address:
        assert httpx.post(f"{address}/v1/recognize", content=bytes(3_000_000), headers=PNG).status_code == 413


@pytest.mark.parametrize("start", [b"POST / HTTP/1.0\r\n", b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"])
def test_so_does_one_whose_connection_closes_after_it(start: bytes) -> None:
    with running() as address, connect(address) as connection:
        connection.sendall(start + b"Content-Length: 3000000\r\n\r\n")
        for _ in range(30):
            time.sleep(0.02)
            connection.sendall(bytes(100_000))
        assert_problem(answer(connection), 405)


def test_a_connection_serves_again_after_a_body_that_nobody_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "LINGER_S", 1.0)
    head = b"POST /v1/recognize HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\n"
    with running() as address, connect(address) as connection:
        connection.sendall(head)
        assert single_answer(connection).startswith(b"HTTP/1.1 415 ")
        connection.sendall(b"hello")
        time.sleep(1.5)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert single_answer(connection).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_takes_nothing_loses_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "WRITE_S", 0.3)
    with running() as address, connect(address) as connection:
        connection.sendall(b"GET /models/mini-int8.onnx HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
        time.sleep(3)
        with pytest.raises((ConnectionError, AssertionError)):
            assert len(answer(connection)) > 20 * 3_000_000


def test_a_client_that_takes_its_answer_slowly_gets_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "WRITE_S", 0.5)
    original = protocol.GuardedProtocol.connection_made

    def narrow(self: protocol.GuardedProtocol, transport: Any) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        original(self, transport)

    with running() as address, socket.socket() as connection:
        monkeypatch.setattr(protocol.GuardedProtocol, "connection_made", narrow)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        host, port = address.removeprefix("http://").split(":")
        connection.connect((host, int(port)))
        connection.sendall(b"GET /models/nano-int8.onnx HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        size, started = 0, time.monotonic()
        with suppress(ConnectionResetError):
            while chunk := connection.recv(65_536):
                size += len(chunk)
                time.sleep(len(chunk) / 500_000)
        assert time.monotonic() - started > 1.0 and size > (SHIPPED / "nano" / "model.int8.onnx").stat().st_size


@pytest.mark.parametrize("end", [b"", b"Connection: close\r\n"])
def test_so_does_one_that_leaves_the_end_of_a_small_answer(end: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left is too little for asyncio to pause the writing, and would wait in a closing connection for ever."""
    monkeypatch.setattr(protocol, "WRITE_S", 0.5)
    connections: list[protocol.GuardedProtocol] = []
    original = protocol.GuardedProtocol.connection_made

    def narrow(self: protocol.GuardedProtocol, transport: Any) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        original(self, transport)
        connections.append(self)

    with running() as address, socket.socket() as connection:
        monkeypatch.setattr(protocol.GuardedProtocol, "connection_made", narrow)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        host, port = address.removeprefix("http://").split(":")
        connection.connect((host, int(port)))
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n" + end + b"\r\n")
        wait_until(lambda: connections and connections[0].cycle and connections[0].cycle.response_complete)
        assert 0 < connections[0].transport.get_write_buffer_size() < 65_536
        wait_until(lambda: connections[0] not in connections[0].connections, seconds=10.0)


def test_there_are_no_more_connections_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MOST_CONNECTIONS", 3)
    with running() as address:
        open_connections = [connect(address) for _ in range(3)]
        time.sleep(0.2)
        with connect(address) as connection:
            assert_problem(answer(connection), 503)
        for connection in open_connections:
            connection.close()
        wait_until(lambda: httpx.get(f"{address}/healthz").status_code == 200)


def test_the_work_for_a_client_that_went_away_is_left_out() -> None:
    detector = Gate()
    body = face()
    head = b"POST /v1/recognize HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )
    with running(detector=detector, workers=8) as address:  # eight workers share the cores: one thread
        with connect(address) as first_connection:
            first_connection.sendall(head + body)
            wait_until(lambda: detector.searches == 1)
            for _ in range(3):
                with connect(address) as closed_connection:
                    closed_connection.sendall(head + body)
                    wait_until(lambda: "held 2.0" in httpx.get(f"{address}/metrics").text)
                wait_until(lambda: "held 1.0" in httpx.get(f"{address}/metrics").text)
            detector.gate.set()
            assert first_connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
        assert detector.searches == 1


def test_stopping_finishes_what_is_in_flight() -> None:
    detector = Gate()
    statuses: list[int] = []
    with running(detector=detector) as address:
        thread = threading.Thread(
            target=lambda: statuses.append(
                httpx.post(f"{address}/v1/recognize", content=face(), headers=PNG, timeout=LONG_S).status_code
            )
        )
        thread.start()
        wait_until(lambda: detector.searches == 1)
        threading.Timer(0.5, detector.gate.set).start()
    thread.join()
    assert statuses == [200]


@pytest.mark.slow
def test_the_command_answers_as_predict_does_and_ends_with_zero(tmp_path: Path) -> None:
    photo = encoded(astronaut(512))
    with process() as (_, address):
        records = httpx.post(f"{address}/v1/recognize", content=photo, headers=PNG, timeout=LONG_S).json()["records"]
    expected = Recognizer("nano-int8").recognize(photo).to_dict()
    assert records == [json.loads(json.dumps(expected))]


@pytest.mark.slow
def test_sigterm_finishes_the_requests_of_a_process() -> None:
    photo = encoded(astronaut(256))
    head = b"POST /v1/recognize HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n" % len(
        photo
    )

    def is_refused(address: str) -> bool:
        try:
            connect(address).close()
        except ConnectionRefusedError:
            return True
        return False

    with process() as (service, address), ExitStack() as stack:
        connections = [stack.enter_context(connect(address)) for _ in range(6)]
        for connection in connections:
            connection.sendall(head + photo[:-1])
        wait_until(lambda: "held 6.0" in httpx.get(f"{address}/metrics", timeout=LONG_S).text)
        service.send_signal(signal.SIGTERM)
        wait_until(lambda: is_refused(address))
        for connection in connections:
            connection.sendall(photo[-1:])
        for connection in connections:
            assert answer(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_loses_only_its_requests() -> None:
    photo = encoded(astronaut(256))
    failure_times, statuses = [], []

    def send(address: str, stop_event: threading.Event) -> None:
        while not stop_event.is_set():
            try:
                response = httpx.post(f"{address}/v1/recognize", content=photo, headers=PNG, timeout=LONG_S)
                statuses.append(response.status_code)
            except httpx.TransportError:
                failure_times.append(time.monotonic())

    with process("--workers", "2") as (service, address):
        wait_until(lambda: len(children(service.pid)) == 2)
        stop = threading.Event()
        threads = [threading.Thread(target=send, args=(address, stop)) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(statuses) > 10)
        victim = children(service.pid)[0]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(children(service.pid)) == 2 and victim not in children(service.pid))
        count_before = len(statuses)
        wait_until(lambda: len(statuses) > count_before + 10)
        stop.set()
        for thread in threads:
            thread.join()
        assert set(statuses) == {200} and len(failure_times) <= 4
        text = httpx.get(f"{address}/metrics", timeout=LONG_S).text
        counts = re.findall(r'mien_requests_total\{method="POST",route="/v1/recognize",status="200"\} (\d+)', text)
        # The counts of all workers, the dead one too: every answer, and perhaps one that the dead one did not get out.
        assert len(counts) == 1 and len(statuses) <= int(counts[0]) <= len(statuses) + len(failure_times)
    assert not children(service.pid)


@pytest.mark.slow
def test_a_worker_that_is_killed_while_it_is_asked_is_replaced_at_once() -> None:
    with process("--workers", "2") as (service, _):
        wait_until(lambda: len(children(service.pid)) == 2)
        victim = children(service.pid)[0]
        os.kill(victim, signal.SIGSTOP)
        time.sleep(2)  # the supervisor now waits for its answer, up to 30 seconds
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(children(service.pid)) == 2 and victim not in children(service.pid), 15)


def test_a_worker_with_a_stuck_thread_ends_so_that_it_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, ended = Gate(), threading.Event()
    parent = SimpleNamespace(is_alive=lambda: True)
    monkeypatch.setattr(app, "multiprocessing", SimpleNamespace(parent_process=lambda: parent))
    monkeypatch.setattr(app.os, "kill", lambda pid, number: ended.set())
    with client(timeout_s=0.1, detector=detector) as test_client:
        assert test_client.get("/healthz").status_code == 200 and not ended.is_set()
        assert test_client.post("/v1/recognize", content=face(), headers=PNG).status_code == 504
        assert ended.wait(10.0)
        assert test_client.get("/healthz").status_code == 503
        detector.gate.set()


@pytest.mark.slow
def test_workers_end_with_their_supervisor() -> None:
    with process("--workers", "2", code=None) as (service, _):
        workers = children(service.pid)
        assert len(workers) == 2
        service.kill()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "99999"], "--port"),
        (["--workers", "0"], "--workers"),
        (["--workers", "100000"], "--workers"),
        (["--max-pixels", "134217729"], "--max-pixels"),
        (["--timeout", "0"], "--timeout"),
        (["--batch-wait", "-1"], "--batch-wait"),
        (["--model", "nothing-there"], "nothing-there"),
        (["--cors", "*"], "--cors"),
        (["--api-key-file", "no-such-file"], "no-such-file"),
        (["--report", "no-such-folder"], "--report"),
        (["--host", "no such host"], "--host an address of this machine"),
        (["--host", "a" * 64], "--host an address of this machine"),
    ],
)
def test_mistakes_in_the_command_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_workers_without_a_folder_for_their_counts_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nothing"))
    assert main(["serve", "--model", "nano-int8", "--port", "0", "--workers", "2"]) == 2
    assert "--tmpfs /tmp" in capsys.readouterr().err


def test_an_open_address_without_keys_is_warned_about(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_run", lambda config, listener: 0)
    monkeypatch.setattr(server.logging.config, "dictConfig", lambda config: None)
    for host, warnings in (("0.0.0.0", 1), ("127.0.0.1", 0)):
        caplog.clear()
        assert server.serve(ServiceSettings(host=host, port=0, model="nano-int8")) == 0
        assert len(caplog.records) == warnings


def test_a_port_in_use_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert main(["serve", "--model", "nano-int8", "--port", str(listener.getsockname()[1])]) == 2
    assert "choose another port" in capsys.readouterr().err


@pytest.mark.parametrize(("platform", "option"), [("win32", "SO_EXCLUSIVEADDRUSE"), ("linux", "SO_REUSEADDR")])
def test_no_second_service_listens_on_the_port(platform: str, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows, where it would start with SO_REUSEADDR: a fake, as only Windows has the other option."""
    options: list[tuple[int, int, int]] = []

    class Listener(socket.socket):
        def setsockopt(self, *arguments: Any) -> None:
            assert self.getsockname()[1] == 0, "it is bound already"
            options.append(arguments)

    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", ~socket.SO_REUSEADDR, raising=False)
    monkeypatch.setattr(socket, "socket", Listener)
    with monkeypatch.context() as patch:
        patch.setattr("sys.platform", platform)
        server._listener(ServiceSettings(port=0)).close()
    assert options == [(socket.SOL_SOCKET, getattr(socket, option), 1)]


def test_without_the_extra_one_line_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] == "uvicorn" or name == "mien.web.server"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve"]) == 2
    assert "mien[serve]" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):  # the help needs none of it
        main(["serve", "--help"])


def docker_instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, without comments, lines joined."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def test_the_dockerfile_copies_what_exists_and_runs_as_nobody_special() -> None:
    instructions = docker_instructions()
    ignored_paths = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for name, arguments in instructions:
        if name == "COPY" and "--from=" not in arguments:
            for source in arguments.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert source.rstrip("/") not in ignored_paths
    users = [arguments for name, arguments in instructions if name == "USER"]
    assert re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", users[-1]), "a number, so that Kubernetes can check runAsNonRoot"
    instruction_names = [name for name, _ in instructions]
    assert instruction_names.index("USER") < instruction_names.index(
        "CMD" if "CMD" in instruction_names else "ENTRYPOINT"
    )
    assert "HEALTHCHECK" in instruction_names


def test_the_commands_of_the_dockerfile_work(capsys: pytest.CaptureFixture[str]) -> None:
    commands: dict[str, Any] = {
        name: arguments for name, arguments in docker_instructions() if name in ("ENTRYPOINT", "CMD", "HEALTHCHECK")
    }
    words = json.loads(commands["ENTRYPOINT"]) + json.loads(commands["CMD"])
    assert words[:2] == ["mien", "serve"]
    with pytest.raises(SystemExit, match="0"):
        main([*words[1:], "--help"])
    check = json.loads(commands["HEALTHCHECK"].partition("CMD ")[2])
    assert check[:2] == ["python", "-c"]
    with running() as address:
        exec(compile(check[2].replace("http://127.0.0.1:8000", address), "check", "exec"), {})
    with pytest.raises(OSError):
        exec(compile(check[2].replace(":8000", ":9"), "check", "exec"), {})
    assert shlex.join(check)
