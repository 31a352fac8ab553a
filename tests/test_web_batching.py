"""Batches across requests: answers stay with their requests, faces share batches, and a fault hits its own request."""

from __future__ import annotations

import functools
import gc
import threading
import time
import weakref
from concurrent.futures import Future
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from recognition_helpers import Mean
from web_helpers import Broken, Gate, face, recognizer, wait_until

from mien.recognition.recognizer import BrokenModelError, Recognizer
from mien.recognition.results import Recognition
from mien.web import batching
from mien.web.batching import OneThread, Reader
from mien.web.uploads import Upload


def uploads(*pictures: bytes) -> list[Upload]:
    return [Upload(f"{number}.png", data) for number, data in enumerate(pictures)]


def test_the_records_are_those_of_the_recognizer() -> None:
    pictures = [face(200), face(240, count=3), b"no picture", face(0)]
    with closing(Reader(recognizer(), 2, 0.1)) as reader:
        records = reader.submit(uploads(*pictures)).result(10)
    single_records = [Recognizer(engine=Mean(), detector=Gate(is_open=True)).recognize(picture) for picture in pictures]
    assert [record.to_dict()["faces"] for record in records] == [record.to_dict()["faces"] for record in single_records]
    assert [record.status for record in records] == ["ok", "ok", "error", "no_face"]
    assert [record.input for record in records] == ["0.png", "1.png", "2.png", "3.png"]
    assert str(records[2].error).startswith("2.png: is not a picture")


def test_faces_of_several_requests_share_a_batch_while_pictures_wait() -> None:
    detector, engine = Gate(), Mean()
    with closing(Reader(recognizer(detector, engine), 1, 60.0)) as reader:
        futures = [reader.submit(uploads(face(140 + number * 20))) for number in range(6)]
        wait_until(lambda: detector.searches == 1)
        detector.gate.set()
        labels = [future.result(10)[0].faces[0].probabilities["glad"] for future in futures]
    assert engine.batches == [6]
    assert labels == sorted(labels) and len(set(labels)) == 6, "each request has its own answer"


def test_a_full_batch_is_read_although_pictures_wait() -> None:
    detector, engine = Gate(), Mean()
    with closing(Reader(recognizer(detector, engine), 1, 60.0)) as reader:
        futures = [reader.submit(uploads(face())) for _ in range(20)]
        wait_until(lambda: detector.searches == 1)
        detector.gate.set()
        for future in futures:
            future.result(10)
    assert engine.batches == [8, 8, 4]


def test_the_faces_of_each_batch_are_counted() -> None:
    own_recognizer, counts = recognizer(engine=Mean()), list[int]()
    own_recognizer.batch_size = 2
    with closing(Reader(own_recognizer, 1, 0.1, counts.append)) as reader:
        assert len(reader.submit(uploads(face(count=5))).result(10)[0].faces) == 5
    assert counts == [2, 2, 1]


def test_without_waiting_each_request_is_read_alone() -> None:
    detector, engine = Gate(), Mean()
    with closing(Reader(recognizer(detector, engine), 1, 0.0)) as reader:
        futures = [reader.submit(uploads(face(), face())) for _ in range(3)]
        wait_until(lambda: detector.searches == 1)
        detector.gate.set()
        for future in futures:
            future.result(10)
    assert max(engine.batches) <= 2


def test_a_lone_face_does_not_wait() -> None:
    with closing(Reader(recognizer(), 1, 600.0)) as reader:
        assert reader.submit(uploads(face())).result(5)[0].status == "ok"


def test_what_breaks_the_model_fails_alone() -> None:
    detector = Gate()
    with closing(Reader(recognizer(detector, Broken()), 1, 60.0)) as reader:
        futures = [reader.submit(uploads(face(level))) for level in (200, 255, 210)]
        wait_until(lambda: detector.searches == 1)
        detector.gate.set()
        assert futures[0].result(10)[0].status == futures[2].result(10)[0].status == "ok"
        with pytest.raises(BrokenModelError):
            futures[1].result(10)
        assert reader.alive()


def test_a_cancelled_request_is_not_searched() -> None:
    detector = Gate()
    with closing(Reader(recognizer(detector), 1, 0.1)) as reader:
        first_future = reader.submit(uploads(face()))
        wait_until(lambda: detector.searches == 1)
        second_future, third_future = reader.submit(uploads(face(), face())), reader.submit(uploads(face()))
        second_future.cancel()
        detector.gate.set()
        assert first_future.result(10) and third_future.result(10)
    assert detector.searches == 2


def test_the_pictures_of_a_cancelled_request_are_forgotten_at_once() -> None:
    detector = Gate()
    with closing(Reader(recognizer(detector), 1, 0.1)) as reader:
        reader.submit(uploads(face()))
        wait_until(lambda: detector.searches == 1)
        live_future, picture = reader.submit(uploads(face())), Upload("a", face())
        kept = weakref.ref(picture)
        futures = [reader.submit([picture]), reader.call(functools.partial(len, picture.data))]
        del picture
        for future in futures:
            future.cancel()
        gc.collect()
        assert kept() is None
        detector.gate.set()
        assert live_future.result(10)
    assert detector.searches == 2


def test_an_unforeseen_fault_fails_the_request_and_not_the_thread() -> None:
    class Faulty(Gate):
        def detect(self, picture: np.ndarray) -> Any:
            if picture.max() < 210:
                raise ZeroDivisionError("a fault")
            return super().detect(picture)

    with closing(Reader(recognizer(Faulty(is_open=True)), 1, 0.1)) as reader:
        with pytest.raises(ZeroDivisionError):
            reader.submit(uploads(face(200))).result(10)
        assert reader.submit(uploads(face(220))).result(10)[0].status == "ok"


def test_crops_are_read_without_a_search() -> None:
    detector = Gate()
    with closing(Reader(recognizer(detector), 1, 0.1)) as reader:
        (record,) = reader.submit(uploads(face()), "none").result(10)
    assert detector.searches == 0 and record.faces[0].box == (0.0, 0.0, 24.0, 24.0)


def test_calls_run_in_turn_and_pass_on_their_errors() -> None:
    with closing(Reader(recognizer(), 1, 0.1)) as reader:
        assert reader.call(threading.get_ident).result(10) != threading.get_ident()
        with pytest.raises(KeyError):
            reader.call({}.popitem).result(10)


def test_closing_finishes_what_is_queued() -> None:
    detector = Gate()
    reader = Reader(recognizer(detector), 1, 0.1)
    futures: list[Future[list[Recognition]]] = [reader.submit(uploads(face())) for _ in range(3)]
    detector.gate.set()
    reader.close()
    assert all(future.done() and future.result()[0].status == "ok" for future in futures)
    assert not reader.alive()


def test_closing_does_not_wait_for_each_thread_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "_CLOSE_S", 0.3)
    detector = Gate()
    reader = Reader(recognizer(detector), 4, 0.1)
    for _ in range(4):
        reader.submit([Upload("a", face())])
    wait_until(lambda: detector.searches == 4)
    started = time.monotonic()
    reader.close()
    assert 0.3 <= time.monotonic() - started < 1.0
    detector.gate.set()
    reader.close()


def test_a_thread_that_hangs_shows() -> None:
    detector = Gate()
    with closing(Reader(recognizer(detector), 1, 0.1)) as reader:
        assert reader.stuck_s() == 0
        reader.submit(uploads(face()))
        wait_until(lambda: reader.stuck_s() > 0.05)
        detector.gate.set()
        wait_until(lambda: reader.stuck_s() == 0)


def test_a_picture_alone_is_searched_on_all_threads_and_others_on_one_each() -> None:
    class Sides(Gate):
        threads = 2

        def __init__(self) -> None:
            super().__init__()
            self.lone_searches = 0

        def detect_alone(self, picture: np.ndarray) -> Any:
            self.lone_searches += 1
            return super().detect(picture)

    detector = Sides()
    with closing(Reader(recognizer(detector), 1, 0.1)) as reader:
        futures = [reader.submit(uploads(face()))]
        wait_until(lambda: detector.searches == 1)
        futures += [reader.submit(uploads(face())) for _ in range(2)]
        detector.gate.set()
        for future in futures:
            future.result(10)
    assert detector.lone_searches == 1, "the first and the last had the threads for themselves"
    assert OneThread(detector).name == "bright"
