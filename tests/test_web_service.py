"""Who is admitted: places and memory for bodies, and after how many seconds trying again is worth it."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from mien.web import service
from mien.web.problems import Problem
from mien.web.service import Admission
from mien.web.settings import ServiceSettings


def test_bodies_count_as_they_come_and_no_more_than_fit_are_held() -> None:
    admission = Admission(ServiceSettings(max_bytes=1024))
    with ExitStack() as held:
        grows = [held.enter_context(admission.slot()) for _ in range(20)]
        for grow in grows[:15]:
            grow(1024)
        with admission.slot():
            grows[15](1)
        with pytest.raises(Problem, match="busy"), admission.slot():
            pass
        grows[16](1023)
        with pytest.raises(Problem, match="busy"):
            grows[17](1)
    with admission.slot() as grow:
        grow(1024)


def test_the_time_without_requests_is_none_between_two_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(service, "time", SimpleNamespace(monotonic=lambda: clock.now))
    admission = Admission(ServiceSettings())
    for _ in range(40):
        clock.now += 2
        with admission.slot():
            admission.note_answer()
    with ExitStack() as held:
        for _ in range(64):
            held.enter_context(admission.slot())
        assert admission.retry_after_s() == 4
        for _ in range(40):
            clock.now += 0.5
            admission.note_answer()
        assert admission.retry_after_s() == 16
