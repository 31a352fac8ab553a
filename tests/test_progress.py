"""Progress: plain lines with rate and time left, a bar on a terminal, nothing where it is quiet."""

from __future__ import annotations

import io
import re
import sys
import time

import pytest

from mien.progress import progress


class Clock:
    """Stands in for the monotonic clock; time passes by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stderr that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def test_a_plain_line_tells_rate_and_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("training", 5000, "images") as advance:
        clock.now += 10
        advance(1000)
        assert capsys.readouterr().err == "", "a line every half a minute"
        clock.now += 20
        advance(500, "loss 1.25")
        assert capsys.readouterr().err == "training: 1,500/5,000 images, 50/s, 70 s left, loss 1.25\n"
        clock.now += 29
        advance(500)
        assert capsys.readouterr().err == ""
        clock.now += 41
        advance(3000)
    output = capsys.readouterr()
    assert output.err == "training: 5,000/5,000 images, 50/s, 0 s left\n"
    assert output.out == ""


def test_what_was_done_before_does_not_count_in_the_rate(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("training", 5000, "images", done=4000) as advance:
        clock.now += 30
        advance(300)
    assert capsys.readouterr().err == "training: 4,300/5,000 images, 10/s, 70 s left\n"


def test_work_that_stands_still_has_no_end(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("reading", 10, "files") as advance:
        clock.now += 31
        advance(0)
    assert capsys.readouterr().err == "reading: 0/10 files, 0/s, inf s left\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_quiet_shows_nothing(terminal: bool, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress("training", 10, "images", quiet=True) as advance:
        clock.now += 60
        advance(10, "loss 1")
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    for name, value in (("TERM", "xterm"), ("COLUMNS", "120")):
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    with progress("training", 40, "images", done=10) as advance:
        advance(20, "loss 1.25")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert "training" in text and "30/40" in text and "images/s" in text and "loss 1.25" in text
    assert stream.getvalue() != text, "drawn with the terminal's own codes"
