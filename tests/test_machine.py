"""Calls on several threads, cores, and what is written down of software and machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import mien
from mien.machine import MOST, _processor, all_cores, cores, machine, threaded_map, versions


@pytest.mark.parametrize("threads", [1, 2, 3, 20])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_results_are_in_order(count: int, threads: int) -> None:
    assert [*threaded_map(threads)(lambda part: part * part, range(count))] == [part * part for part in range(count)]


def test_parts_are_worked_on_at_the_same_time() -> None:
    meeting = threading.Barrier(3, timeout=30)
    assert len([*threaded_map(3)(lambda _: meeting.wait(), range(3))]) == 3


def test_one_thread_is_the_calling_one() -> None:
    assert [*threaded_map(1)(lambda _: threading.get_ident(), range(2))] == [threading.get_ident()] * 2


@pytest.mark.parametrize("failing_part", [0, 1, 4])
def test_what_is_raised_anywhere_is_raised_here(failing_part: int) -> None:
    def call(part: int) -> int:
        if part == failing_part:
            raise ValueError(f"part {part}")
        return part

    with pytest.raises(ValueError, match=f"part {failing_part}"):
        list(threaded_map(2)(call, range(5)))


def test_no_call_begins_after_one_of_them_failed() -> None:
    begun_parts: list[int] = []

    def call(part: int) -> None:
        begun_parts.append(part)
        time.sleep(0.2)
        if not part:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(threaded_map(2)(call, range(20)))
    list(threaded_map(2)(time.sleep, (0.3, 0.3)))  # by now all others would have begun
    assert begun_parts[:2] in ([0, 1], [1, 0]) and len(begun_parts) <= 4


def test_threads_are_kept_and_no_more_than_a_few() -> None:
    threads_before = {thread for thread in threading.enumerate() if thread.name.startswith("mien")}
    for _ in range(50):
        assert list(threaded_map(64)(abs, range(64))) == list(range(64))
    assert threaded_map(64) == threaded_map(MOST)
    threads = {thread for thread in threading.enumerate() if thread.name.startswith("mien")}
    assert len(threads - threads_before) <= MOST


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_process_has_threads_of_its_own() -> None:
    code = (
        "import os; from mien.machine import threaded_map; kept = threaded_map(2); list(kept(abs, [1, 2]))\n"
        "child = os.fork(); os.write(1, f'{list(kept(abs, [-1, -2]))}\\n'.encode())\n"
        "if child: assert os.waitpid(child, 0)[1] == 0"
    )
    completed = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60)
    assert completed.stdout == "[1, 2]\n" * 2, completed.stderr


def test_there_is_a_core() -> None:
    assert 1 <= cores() <= 8


def test_calls_from_another_thread_work() -> None:
    results: list[list[int]] = []
    reader = threading.Thread(target=lambda: results.append(list(threaded_map(2)(abs, [-1, -2, -3]))))
    reader.start()
    reader.join(60)
    assert results == [[1, 2, 3]]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers that send signals")
def test_ctrl_c_ends_a_process_while_calls_run() -> None:
    code = (
        "import signal, threading, time; from mien.machine import threaded_map\n"
        "threading.Timer(0.3, lambda: signal.raise_signal(signal.SIGINT)).start()\n"
        "list(threaded_map(2)(time.sleep, [0.6, 0.6]))"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert completed.stderr.rstrip().endswith("KeyboardInterrupt"), completed.stderr


def test_cores_are_counted_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS and Windows
    for count, expected in ((3, 3), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        assert all_cores() == expected == machine()["cores"]


def test_versions_are_of_what_is_installed() -> None:
    installed = versions()
    assert installed["mien"] == mien.__version__ and installed["python"].count(".") == 2
    assert all(installed.values())


def test_the_processor_is_the_first_model_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\nmodel name\t: another\n", encoding="utf-8")
    assert _processor(cpuinfo) == "Some CPU @ 3 GHz"
    monkeypatch.setattr("platform.processor", lambda: "arm")
    assert _processor(tmp_path / "missing") == "arm"
    monkeypatch.setattr("platform.processor", lambda: "")
    assert _processor(tmp_path / "missing")
