"""Calls side by side."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from mien.threads import begun, cores, side_by_side


@pytest.mark.parametrize("threads", [1, 2, 3, 20])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_results_are_in_order(count: int, threads: int) -> None:
    assert side_by_side(lambda part: part * part, range(count), threads) == [part * part for part in range(count)]


def test_parts_are_worked_on_at_the_same_time() -> None:
    meeting = threading.Barrier(3, timeout=30)
    assert len(side_by_side(lambda _: meeting.wait(), range(3), 3)) == 3


@pytest.mark.parametrize("wrong", [0, 1, 4])
def test_what_is_raised_anywhere_is_raised_here(wrong: int) -> None:
    def call(part: int) -> int:
        if part == wrong:
            raise ValueError(f"part {part}")
        return part

    with pytest.raises(ValueError, match=f"part {wrong}"):
        side_by_side(call, range(5), 2)
    with pytest.raises(ValueError, match="part"):
        begun(lambda: call(wrong)).result()


def test_there_is_a_core() -> None:
    assert 1 <= cores() <= 8


def test_a_thread_goes_on_when_the_main_one_has_ended() -> None:
    code = (
        "import threading; from mien.threads import side_by_side; main = threading.main_thread(); "
        "threading.Thread(target=lambda: (main.join(), print(side_by_side(abs, [-1, -2], 2)))).start()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[1, 2]\n", done.stderr
