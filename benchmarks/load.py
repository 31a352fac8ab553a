"""The service under load, on loopback: requests a second, latency, overload, a killed worker, memory.

    python benchmarks/load.py --seconds 10
    python benchmarks/load.py --seconds 10 --fer fer/bin/python --fer-packages fer-web
    python benchmarks/load.py --soak 10

The services that are compared run side by side and are loaded in turns. Photos are JPEG files of scikit-image's
portrait (public domain) of 512 pixels; crops are PNG files of 48 pixels, read by `?detector=none`, so that the network
is most of the work. Each client sends one request after the other on a connection that stays open; the clients are a
bare loop in this process, which takes part of the same cores. "Shared" is the default, in which faces of several
requests share batches; "alone" is `--batch-wait 0`; "fer" is `fer`'s network and detector in a FastAPI application of a
few lines (``fer_service.py``). Requests that were sent in the time and
answered after it are late: they count in no rate and no percentile, and are told beside them. Overload sends requests
at twice the rate that 16 clients reached, as many as the queue holds, at random times (Poisson), whatever the answers.
Only ratios between rows of one run say anything about another machine.

`fer` lives in an environment of its own (see ``beside_fer.py``); FastAPI is installed beside it:

    fer/bin/pip install --target fer-web fastapi uvicorn
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scenes import portrait

from mien.machine import machine

CLIENTS: tuple[int, ...] = (1, 8, 64)
HOST = "127.0.0.1"
QUEUE = 16
"""Requests that the service holds under overload."""

TURNS = 3
"""Turns in which the services of one comparison are loaded."""

WARM_S = 2.0
"""Seconds of load that are not counted."""

_TIMEOUT_S = 60.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Load:
    """What the clients saw.

    Attributes:
        seconds: duration of the load.
        latencies: seconds of each answer, by status; ``lost`` for connections that broke.
        late: seconds of each answer that came after the end of the load, by status.
    """

    seconds: float = 0.0
    latencies: dict[str, list[float]] = field(default_factory=dict)
    late: dict[str, list[float]] = field(default_factory=dict)

    def note(self, status: str, seconds: float, *, late: bool = False) -> None:
        """Adds an answer."""
        (self.late if late else self.latencies).setdefault(status, []).append(seconds)

    def add(self, load: Load) -> None:
        """Adds another load to this one."""
        self.seconds += load.seconds
        for own, others in ((self.latencies, load.latencies), (self.late, load.late)):
            for status, seconds in others.items():
                own.setdefault(status, []).extend(seconds)

    def summary(self) -> dict[str, Any]:
        """Returns the rate and the percentiles of answers with status 200, and the number of answers by status.

        Late answers stand apart, with the longest wait among them, which no percentile knows.
        """
        served = self.latencies.get("200", [])
        percentiles = np.percentile(served, [50, 99]) * 1000 if served else [float("nan")] * 2
        return {
            "rate": len(served) / self.seconds,
            "p50_ms": float(percentiles[0]),
            "p99_ms": float(percentiles[1]),
            "statuses": {status: len(times) for status, times in self.latencies.items()},
            "late": {status: len(times) for status, times in self.late.items()},
            "late_longest_ms": 1000 * max((max(times) for times in self.late.values()), default=0.0),
        }


def photo(side: int) -> bytes:
    """The portrait as a JPEG file of ``side`` x ``side`` pixels."""
    return encoded(portrait(side).pixels, "JPEG")


def crop() -> bytes:
    """A face crop of 48 x 48 pixels as a PNG file."""
    face = Image.fromarray(portrait(512).pixels).crop((170, 60, 280, 170)).convert("L").resize((48, 48))
    return encoded(np.asarray(face), "PNG")


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    """Pixels as a picture file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=90)
    return buffer.getvalue()


def request(path: str, body: bytes) -> bytes:
    """A whole HTTP request with a picture."""
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: image/png\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Connection:
    """A connection that stays open between requests; a bare client, so that it takes little of the cores."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, data: bytes, load: Load, window: tuple[float, float] = (0.0, math.inf)) -> None:
        """Sends a request and notes status and seconds; one before the window of time is dropped, one after it late."""
        started = time.perf_counter()
        try:
            status = await asyncio.wait_for(self._exchange(data), _TIMEOUT_S)
        except (OSError, EOFError, asyncio.IncompleteReadError, TimeoutError):
            status = "lost"
            self.close()
        ended = time.perf_counter()
        if ended >= window[0]:
            load.note(status, ended - started, late=ended > window[1])

    async def _exchange(self, data: bytes) -> str:
        if self._streams is None:
            self._streams = await asyncio.open_connection(HOST, self._port)
        reader, writer = self._streams
        writer.write(data)
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        if re.search(rb"(?i)connection: close", head):
            self.close()
        return head[9:12].decode()

    def close(self) -> None:
        """Closes the connection; the next request opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def closed_loop(port: int, data: bytes, clients: int, seconds: float, warm_s: float = WARM_S) -> Load:
    """Sends requests from a number of clients, each as soon as its last one was answered."""
    load, begin = Load(seconds), time.perf_counter() + warm_s

    async def run() -> None:
        connection = Connection(port)
        while time.perf_counter() < begin + seconds:
            await connection.send(data, load, (begin, begin + seconds))
        connection.close()

    await asyncio.gather(*(run() for _ in range(clients)))
    return load


async def open_loop(port: int, data: bytes, rate: float, seconds: float) -> Load:
    """Sends requests at random times with a mean rate, whatever the answers."""
    load, generator = Load(), random.Random(0)
    idle: list[Connection] = []
    tasks: set[asyncio.Task[None]] = set()

    async def run() -> None:
        connection = idle.pop() if idle else Connection(port)
        await connection.send(data, load)
        idle.append(connection)

    started = due = time.perf_counter()
    while due < started + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(run())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        due += generator.expovariate(rate)
    await asyncio.gather(*tasks)
    load.seconds = time.perf_counter() - started
    return load


@contextmanager
def service(
    command: Sequence[str], environment: dict[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Starts a server that prints its address first; gives its process and its port; ends it by SIGTERM."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, **(environment or {})}
    ) as process:
        assert process.stdout is not None
        try:
            address = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
            if address is None:
                raise SystemExit(f"{command[0]}: the service did not start")
            yield process, int(address[1])
        finally:
            process.terminate()
            if process.wait(60) and "serve" in command:
                print(f"exit code {process.returncode}", file=sys.stderr)


def mien(model: str, *options: str) -> list[str]:
    """The command of our service on a free port."""
    return [sys.executable, "-m", "mien", "serve", "--port", "0", "--model", model, *options]


def family(pid: int) -> list[int]:
    """A process and its children."""
    children = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                children.append(int(entry.name))
    return [pid, *children]


def memory(pid: int) -> float:
    """Resident memory of a process and its children, in MB."""
    pages = 0
    for member in family(pid):
        with suppress(OSError):
            pages += int(Path(f"/proc/{member}/statm").read_text().split()[1])
    return pages * _PAGE_BYTES / 1e6


def compare(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Rates and latencies of each kind of picture, number of clients and way to read; the ways take turns."""
    ways: dict[str, list[str]] = {"shared": mien(arguments.model), "alone": mien(arguments.model, "--batch-wait", "0")}
    environments: dict[str, dict[str, str]] = {}
    if arguments.fer:
        ways["fer"] = [arguments.fer, str(Path(__file__).with_name("fer_service.py"))]
        environments["fer"] = {"PYTHONPATH": str(Path(arguments.fer_packages).absolute()), "TF_CPP_MIN_LOG_LEVEL": "3"}
    pictures = {"photo": request("/v1/recognize", photo(512)), "crop": request("/v1/recognize?detector=none", crop())}
    rows = []
    with ExitStack() as stack:
        services = {way: stack.enter_context(service(command, environments.get(way))) for way, command in ways.items()}
        for picture, data in pictures.items():
            # fer's application has no option to leave the detector out.
            ports = {way: port for way, (_, port) in services.items() if picture == "photo" or way != "fer"}
            for clients in arguments.clients:
                for way, load in take_turns(ports, data, clients, arguments.seconds).items():
                    rows.append({"picture": picture, "way": way, "clients": clients, **load.summary()})
                    print(row_text(rows[-1]), flush=True)
    return rows


def take_turns(ports: Mapping[str, int], data: bytes, clients: int, seconds: float) -> dict[str, Load]:
    """Loads several services in turns, so that a busy machine is as busy for each."""
    loads = {way: Load() for way in ports}
    for _ in range(TURNS):
        for way, port in ports.items():
            load = asyncio.run(closed_loop(port, data, clients, seconds / TURNS))
            loads[way].add(load)
    return loads


def row_text(row: dict[str, Any]) -> str:
    """A row of the table, as Markdown."""
    statuses, late = (
        ", ".join(f"{count} x {status}" for status, count in sorted(row[name].items())) for name in ("statuses", "late")
    )
    late = f"{late}, {row['late_longest_ms']:.0f} ms at most" if late else "none"
    return (
        f"| {row['picture']} | {row['way']} | {row['clients']} | {row['rate']:.1f} | {row['p50_ms']:.0f} | "
        f"{row['p99_ms']:.0f} | {statuses} | {late} |"
    )


def overload(arguments: argparse.Namespace) -> dict[str, Any]:
    """Twice the capacity: statuses, p99 of the served and of the refused ones beside that at capacity, and memory.

    The queue holds ``QUEUE`` requests, so that it is soon full; as many clients give the capacity.
    """
    data = request("/v1/recognize", photo(512))
    with service(mien(arguments.model, "--queue", str(QUEUE))) as (process, port):
        capacity = asyncio.run(closed_loop(port, data, QUEUE, arguments.seconds)).summary()
        before = memory(process.pid)
        loads = [asyncio.run(open_loop(port, data, 2 * capacity["rate"], arguments.seconds)) for _ in range(2)]
        after = memory(process.pid)
    refused = [seconds for load in loads for seconds in load.latencies.get("503", [])]
    return {
        "capacity": capacity,
        "twice": [load.summary() for load in loads],
        "refused_p99_ms": 1000 * float(np.percentile(refused, 99)) if refused else None,
        "memory_mb": [before, after],
        "p99_ratio": max(load.summary()["p99_ms"] for load in loads) / capacity["p99_ms"],
    }


def kill(arguments: argparse.Namespace) -> dict[str, Any]:
    """Kills one of two workers under the load of eight clients."""
    data, clients = request("/v1/recognize", photo(512)), 8

    async def run(process: subprocess.Popen[str], port: int) -> Load:
        task = asyncio.create_task(closed_loop(port, data, clients, arguments.seconds))
        await asyncio.sleep(WARM_S + arguments.seconds / 3)
        workers = [pid for pid in family(process.pid)[1:] if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(workers[0], signal.SIGKILL)
        return await task

    with service(mien(arguments.model, "--workers", "2")) as (process, port):
        # Both workers are there before the load begins.
        while len(family(process.pid)) < 4:
            time.sleep(0.1)
        time.sleep(5)
        load = asyncio.run(run(process, port))
    return {"clients": clients, **load.summary()}


def soak(arguments: argparse.Namespace) -> dict[str, Any]:
    """Minutes of photos, crops and broken bodies from 16 clients: statuses, and memory every tenth of the time."""
    pictures = [
        request("/v1/recognize", photo(512)),
        request("/v1/recognize", photo(256)),
        request("/v1/recognize?detector=none", crop()),
        request("/v1/recognize", photo(512)[:9000]),
        request("/v1/recognize", b"no picture"),
        request("/v1/explain?format=json", photo(256)),
    ]
    seconds = 60 * arguments.soak
    memories: list[float] = []

    async def run(process: subprocess.Popen[str], port: int) -> list[Load]:
        async def watch() -> None:
            for part in range(11):
                memories.append(memory(process.pid))
                print(f"{part * seconds / 600:.1f} min: {memories[-1]:.0f} MB", flush=True)
                await asyncio.sleep(seconds / 10)

        watcher = asyncio.create_task(watch())
        clients = (closed_loop(port, pictures[number % len(pictures)], 1, seconds) for number in range(16))
        loads = await asyncio.gather(*clients)
        await watcher
        return list(loads)

    with service(mien(arguments.model)) as (process, port):
        loads = asyncio.run(run(process, port))
    together = Load()
    for load in loads:
        together.add(load)
    numbers = together.summary()
    # After the first fifth everything is loaded and every size was seen: from then on memory has to stay.
    answers = {name: numbers[name] for name in ("statuses", "late", "late_longest_ms")}
    return {**answers, "memory_mb": memories, "growth": memories[-1] / memories[2]}


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs what was chosen; returns all numbers."""
    if arguments.soak:
        return {"soak": soak(arguments)}
    results: dict[str, Any] = {}
    if "compare" in arguments.parts:
        names = ("picture", "way", "clients", "requests/s", "p50, ms", "p99, ms", "answers", "late")
        print(f"| {' | '.join(names)} |\n{'|---' * len(names)}|")
        results["compare"] = compare(arguments)
    if "overload" in arguments.parts:
        results["overload"] = overload(arguments)
    if "kill" in arguments.parts:
        results["kill"] = kill(arguments)
    return results


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini", help="the model that is served (mini)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each row (10)")
    parser.add_argument("--parts", nargs="+", default=["compare", "overload", "kill"],
                        choices=("compare", "overload", "kill"), help="what to run (all)")  # fmt: skip
    parser.add_argument("--clients", type=int, nargs="+", default=list(CLIENTS), help="of the comparison (1 8 64)")
    parser.add_argument("--soak", type=float, default=0.0, metavar="MINUTES", help="run a soak test instead")
    parser.add_argument("--fer", metavar="PYTHON", help="interpreter that can import fer")
    parser.add_argument("--fer-packages", default="fer-web", metavar="DIR", help="folder with FastAPI for it (fer-web)")
    return parser


if __name__ == "__main__":
    options = parser().parse_args()
    print(json.dumps({**main(options), "machine": machine(), "model": options.model}, indent=1))
