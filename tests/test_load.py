"""The load benchmark: that it counts right and that its loads run; no test depends on a time."""

from __future__ import annotations

import asyncio
import importlib
import io
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from web_helpers import face, running

FOLDER = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))

load: Any = importlib.import_module("load")


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def test_a_summary_by_hand() -> None:
    first_load, second_load = load.Load(1.0), load.Load(3.0)
    for milliseconds in range(1, 101):
        first_load.note("200", milliseconds / 1000)
    second_load.note("503", 9.0)
    second_load.note("200", 60.0, late=True)
    first_load.add(second_load)
    summary = first_load.summary()
    assert summary["rate"] == 25 and summary["p50_ms"] == pytest.approx(50.5) and 99 < summary["p99_ms"] <= 100
    assert summary["statuses"] == {"200": 100, "503": 1}
    assert summary["late"] == {"200": 1} and summary["late_longest_ms"] == 60_000
    row = load.row_text({"picture": "crop", "way": "alone", "clients": 2, **summary})
    assert row.endswith("| 100 x 200, 1 x 503 | 1 x 200, 60000 ms at most |")
    assert load.row_text({"picture": "", "way": "", "clients": 1, **summary, "late": {}}).endswith("none |")


def test_clients_take_their_turns() -> None:
    data = load.request("/v1/recognize", face())
    with running() as first_address, running() as second_address:
        ports = {"first": port_of(first_address), "second": port_of(second_address)}
        loads = load.take_turns(ports, data, 2, 0.3)
    for name in ports:
        assert set(loads[name].latencies) == {"200"} and loads[name].seconds == pytest.approx(0.3)


def test_only_answers_within_the_time_count() -> None:
    data = load.request("/v1/recognize", face())
    with running() as address:
        result = asyncio.run(load.closed_loop(port_of(address), data, 2, 1.0, warm_s=0.0))
        connection, empty_load, warm_load = load.Connection(port_of(address)), load.Load(), load.Load()
        asyncio.run(connection.send(data, empty_load, (0.0, 1.0)))
        asyncio.run(load.Connection(port_of(address)).send(data, warm_load, (math.inf, math.inf)))
    assert result.summary()["rate"] == len(result.latencies["200"]) / 1.0
    assert result.summary()["late"] == {"200": 2}, "each client waits for one answer when the time is over"
    assert not empty_load.latencies and len(empty_load.late["200"]) == 1
    assert not warm_load.latencies and not warm_load.late


def test_more_than_the_service_takes_is_turned_away() -> None:
    data = load.request("/v1/recognize", face())
    with running(queue=1) as address:
        result = asyncio.run(load.open_loop(port_of(address), data, 400, 0.5))
    assert set(result.latencies) <= {"200", "503"} and "200" in result.latencies
    assert 100 < sum(map(len, result.latencies.values())) < 320


def test_lost_connections_are_counted() -> None:
    result = load.Load()
    asyncio.run(load.Connection(9).send(b"", result))
    assert set(result.latencies) == {"lost"}


def test_memory_is_that_of_the_process() -> None:
    assert 10 < load.memory(os.getpid()) < 100_000


def test_pictures_are_what_the_rows_say() -> None:
    assert Image.open(io.BytesIO(load.photo(512))).size == (512, 512)
    assert Image.open(io.BytesIO(load.crop())).size == (48, 48)
