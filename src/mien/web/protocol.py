"""HTTP/1.1 by uvicorn and h11, with limits that uvicorn lacks: slow headers, bodies after an answer, connections."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from mien.web.guard import OTHER, SECURITY_HEADERS, note_request, request_id_of
from mien.web.problems import Problem

HEADERS_S = 10.0
"""Seconds in which the headers of a request have to be complete."""

WRITE_S = 30.0
"""Seconds after which a client that takes nothing of its answer loses the connection."""

MOST_CONNECTIONS = 800
"""Connections that a worker holds at most; many systems allow a process 1,024 open files."""


class GuardedProtocol(H11Protocol):
    """One connection."""

    _timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Accepts a connection, or turns it away if there are too many."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            self._send_problem(Problem("busy", "there are too many connections", headers={"Retry-After": "1"}))
            return
        self._start_timer(HEADERS_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self._stop_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes bytes; the headers of each request have a time limit from their first byte."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer()
        elif self._timer is None and not self.transport.is_closing():
            self._start_timer(HEADERS_S)

    def on_response_complete(self) -> None:
        """Goes on after an answer, unless the body is still coming: ``Guard`` has dropped it for long enough."""
        cycle = self.cycle
        if self.conn.their_state is h11.SEND_BODY:
            self.transport.close()
        super().on_response_complete()
        if self.transport.get_write_buffer_size():  # too little of it for `pause_writing`
            self._start_write_timer(cycle)

    def pause_writing(self) -> None:
        """Waits for a client that does not take its answer, but not for ever."""
        super().pause_writing()
        self._start_write_timer(self.cycle)

    def resume_writing(self) -> None:
        """Goes on with an answer."""
        if self.cycle is None or not self.cycle.response_complete:  # else the client may still leave the end
            self._stop_write_timer()
        super().resume_writing()

    def _should_upgrade(self) -> bool:
        """Offers no other protocol; uvicorn would also log two warnings about WebSockets for each who asks for one."""
        return False

    def send_400_response(self, msg: str) -> None:
        """Answers what is not HTTP, or too large, by a problem document."""
        error = sys.exception()
        if getattr(error, "error_status_hint", 400) == 431:
            self._send_problem(Problem("headers", "the headers have more than 16 KiB; send less"))
        else:
            self._send_problem(Problem("bad-request", f"this is not HTTP/1.1 ({error})"))

    def _send_problem(self, problem: Problem) -> None:
        """Sends a problem document and closes the connection, if nothing of another answer was sent."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            is_request = self.conn.our_state is h11.SEND_RESPONSE  # its headers had come: ``Guard`` counts it
            scope: Any = self.scope if is_request else {"headers": [], "state": {}}
            request_id = scope["state"].setdefault("request_id", request_id_of(scope))
            response = problem.response(request_id)
            response.headers.update({"connection": "close", "x-request-id": request_id, **SECURITY_HEADERS})
            status, reason = response.status_code, problem.title.encode()
            scope["state"]["status"] = status
            if not is_request:
                note_request(OTHER, OTHER, status, None, request_id, {"kind": problem.kind})
            for event in (
                h11.Response(status_code=status, headers=response.raw_headers, reason=reason),
                h11.Data(data=bytes(response.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _abort_stuck(self, cycle: object, left: int) -> None:
        """Ends a connection whose client has taken nothing of what was left of an answer, and asks for no other."""
        size = self.transport.get_write_buffer_size()
        if self.cycle is cycle and size >= left:
            self.transport.abort()
        elif self.cycle is cycle and size:
            self._start_write_timer(cycle)

    def _start_write_timer(self, cycle: object) -> None:
        self._stop_write_timer()
        left = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(WRITE_S, self._abort_stuck, cycle, left)

    def _start_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self._on_timer)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _on_timer(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._send_problem(Problem("slow", f"the headers were not complete within {HEADERS_S:.0f} s"))
        elif self.conn.their_state is h11.IDLE:
            self.transport.close()
