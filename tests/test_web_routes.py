"""The routes of the service: answers, problems, limits, keys, headers, and that pictures leave no trace."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detection_helpers import astronaut
from PIL import Image
from recognition_helpers import bomb, encoded
from starlette.testclient import TestClient
from web_helpers import Broken, Gate, client, face, files, recognizer, wait_until

from mien.errors import MienError
from mien.files import read_json_object, write_json
from mien.model.places import SHIPPED
from mien.web import routes, uploads
from mien.web.app import create_app
from mien.web.assets import Assets
from mien.web.guard import SECURITY_HEADERS
from mien.web.model import wilson
from mien.web.problems import KINDS, MEDIA_TYPE, Problem
from mien.web.settings import ServiceSettings, read_api_keys

PNG = {"content-type": "image/png"}
KEY = "a-key-of-sixteen-or-more"


@pytest.fixture(scope="module")
def service() -> Any:
    with client() as test_client:
        yield test_client


def problem(response: Any, status: int, kind: str) -> dict[str, Any]:
    """The problem document of an answer, whose shape is checked."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == MEDIA_TYPE
    document: dict[str, Any] = response.json()
    assert document["type"] == f"/docs#{kind}" and document["title"] == KINDS[kind][1]
    assert document["status"] == status and "\n" not in document["detail"]
    assert document["instance"] == f"urn:request:{response.headers['x-request-id']}"
    return document


@pytest.mark.parametrize(
    "arguments",
    [
        {"content": face(), "headers": PNG},
        {"content": face(), "headers": {"content-type": "application/octet-stream"}},
        {"files": files([face()])},
        {"json": {"pictures": [base64.b64encode(face()).decode()]}},
        {"json": {"pictures": [{"name": "0.png", "data": base64.b64encode(face()).decode()}]}},
        {"json": {"pictures": ["data:image/png;base64," + base64.b64encode(face()).decode()]}},
    ],
)
def test_every_way_of_sending_a_picture_gives_the_same_faces(service: TestClient, arguments: dict[str, Any]) -> None:
    response = service.post("/v1/recognize", **arguments)
    assert response.status_code == 200, response.text
    (record,) = response.json()["records"]
    assert record["input"] in ("picture 0", "0.png") and record["status"] == "ok"
    (face_record,) = record["faces"]
    assert (
        face_record["box"] == [4.0, 6.0, 12.0, 12.0]
        and face_record["label"] == "glad"
        and face_record["uncertain"] is True
    )


def test_several_pictures_come_back_in_order_and_a_broken_one_says_why(service: TestClient) -> None:
    response = service.post("/v1/recognize", files=files([face(count=2), b"text", face(0), face()]))
    records = response.json()["records"]
    assert [record["input"] for record in records] == ["0.png", "1.png", "2.png", "3.png"]
    assert [len(record["faces"]) for record in records] == [2, 0, 0, 1]
    assert [record["status"] for record in records] == ["ok", "error", "no_face", "ok"]
    assert "is not a picture" in records[1]["error"]


def test_a_record_says_that_its_file_holds_more_pictures(service: TestClient) -> None:
    pages = [Image.open(io.BytesIO(face(level))) for level in (220, 140)]
    gif = encoded(np.asarray(pages[0]), "GIF", save_all=True, append_images=pages[1:])
    uploads = files([face(), gif])
    records = service.post("/v1/recognize", files=uploads).json()["records"]
    assert [record.get("first_of_several") for record in records] == [None, True]
    lines = service.post("/v1/recognize", files=uploads, headers={"accept": "application/x-ndjson"}).text.splitlines()
    assert [json.loads(line) for line in lines] == records
    explained = service.post("/v1/explain?format=json", content=gif, headers={"content-type": "image/gif"}).json()
    assert explained["record"]["first_of_several"] is True
    described = service.get("/openapi.json").json()["components"]["schemas"]["RecordModel"]
    assert "more pictures" in described["properties"]["first_of_several"]["description"]
    assert "first_of_several" not in described["required"]


def test_json_lines_on_request(service: TestClient) -> None:
    response = service.post("/v1/recognize", files=files([face(), face()]), headers={"accept": "application/x-ndjson"})
    lines = response.text.splitlines()
    assert response.headers["content-type"].startswith("application/x-ndjson")
    assert [json.loads(line)["input"] for line in lines] == ["0.png", "1.png"]


@pytest.mark.parametrize("path", ["/v1/explain", "/analyze"])
def test_what_takes_one_picture_refuses_two(service: TestClient, path: str) -> None:
    problem(service.post(path, files=files([face(), face()])), 422, "value")


def test_a_picture_may_be_a_crop(service: TestClient) -> None:
    records = service.post("/v1/recognize?detector=none", content=face(), headers=PNG).json()["records"]
    assert records[0]["faces"][0]["box"] == [0.0, 0.0, 24.0, 24.0]


def test_explanations_are_a_picture_or_numbers(service: TestClient) -> None:
    picture = service.post("/v1/explain", content=face(count=2), headers=PNG)
    assert picture.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(picture.content)).width > 1000, "two faces side by side, each beside its map"
    answer = service.post("/v1/explain?format=json&face=1&label=calm", content=face(count=2), headers=PNG).json()
    (explanation,) = answer["explanations"]
    assert explanation["face"] == 1 and explanation["label"] == "calm" and explanation["box"][0] == 24.0
    assert np.array(explanation["relevance"]).shape == (8, 8)
    assert np.array(explanation["crop"]).shape == (8, 8) and np.array(explanation["crop"]).max() == 220


@pytest.mark.parametrize(
    ("query", "picture", "status", "kind"),
    [
        ("face=2", face(count=2), 422, "value"),
        ("face=-1", face(), 422, "value"),
        ("label=glum", face(), 422, "value"),
        ("method=guess", face(), 422, "value"),
        ("method=rollout", face(), 422, "value"),
        ("", face(0), 400, "no-face"),
        ("", face(count=13), 422, "value"),
        ("", b"nothing", 422, "picture"),
    ],
)
def test_what_cannot_be_explained(service: TestClient, query: str, picture: bytes, status: int, kind: str) -> None:
    problem(service.post(f"/v1/explain?{query}", content=picture, headers=PNG), status, kind)


@pytest.mark.parametrize(
    ("path", "arguments", "name"),
    [
        ("/v1/recognize?detecter=none", {"files": files([face()])}, "'detecter'"),
        (
            "/v1/recognize?detector=none&detector=yunet",
            {"files": files([face()])},
            "'detector': is given more than once",
        ),
        ("/v1/explain?lable=calm", {"files": files([face()])}, "'lable'"),
        ("/analyze?detector=none", {"files": files([face()])}, "'detector'"),
        ("/v1/recognize", {"files": files([face()]), "data": {"detector": "none"}}, "detector: stands in the body"),
        ("/v1/explain", {"json": {"img": base64.b64encode(face()).decode(), "label": "calm"}}, "label: stands in the"),
    ],
)
def test_a_parameter_that_would_have_no_effect_is_refused(
    service: TestClient, path: str, arguments: dict[str, Any], name: str
) -> None:
    assert problem(service.post(path, **arguments), 422, "value")["detail"].startswith(name)


@pytest.mark.parametrize("actions", [["emotion"], None, '["emotion"]', "emotion"])
def test_deepface_clients_get_its_shape(service: TestClient, actions: Any) -> None:
    data = base64.b64encode(face(count=2)).decode()
    body = {"img": f"data:image/png;base64,{data}", "detector_backend": "opencv"}
    response = service.post("/analyze", json={**body, **({} if actions is None else {"actions": actions})})
    results = response.json()["results"]
    assert len(results) == 2
    assert results[0]["region"] == {"x": 4, "y": 6, "w": 12, "h": 12, "left_eye": None, "right_eye": None}
    assert results[0]["dominant_emotion"] == "glad" and sum(results[0]["emotion"].values()) == pytest.approx(100)


def count(name: str, service: TestClient) -> float:
    """The value of a counter without labels."""
    lines = service.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def test_deepface_forms_and_faces_that_are_not_enforced(service: TestClient) -> None:
    faces_before = count("mien_faces_total", service)
    fields = {"actions": '["emotion"]', "enforce_detection": "false"}
    response = service.post("/analyze", files={"img": ("a.png", face(0))}, data=fields)
    assert [result["region"]["w"] for result in response.json()["results"]] == [24]
    assert count("mien_faces_total", service) == faces_before + 1
    problem(service.post("/analyze", files={"img": ("a.png", face(0))}), 400, "no-face")
    response = service.post("/analyze", files={"img": ("a.png", face())}, data={"detector_backend": "skip"})
    assert [result["region"]["w"] for result in response.json()["results"]] == [24], "a face crop is read as a whole"
    for actions in ("age", 200 * "emotion "):
        problem(service.post("/analyze", files={"img": ("a.png", face())}, data={"actions": actions}), 422, "value")


@pytest.mark.parametrize("picture", ["https://example.org/a.jpg", "/etc/passwd", "file:///etc/passwd", "../a.png"])
@pytest.mark.parametrize(
    ("path", "key"), [("/v1/recognize", "pictures"), ("/analyze", "img"), ("/analyze", "img_path")]
)
def test_urls_and_paths_are_not_fetched(service: TestClient, path: str, key: str, picture: str) -> None:
    response = service.post(path, json={key: picture})
    assert response.status_code == 422 and response.headers["content-type"] == MEDIA_TYPE


def many_scans() -> bytes:
    """A progressive JPEG file whose last scan is there 200 times."""
    data = encoded(np.zeros((64, 64, 3), np.uint8), "JPEG", progressive=True)
    last_scan = data.rindex(b"\xff\xda")
    return data[:last_scan] + data[last_scan:-2] * 200 + data[-2:]


BODIES: dict[str, tuple[dict[str, Any], int, str]] = {
    "nothing": ({"headers": PNG}, 422, "picture"),
    "no type": ({"content": face()}, 415, "media-type"),
    "text": ({"content": face(), "headers": {"content-type": "text/plain"}}, 415, "media-type"),
    "a form by its type alone": (
        {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
        400,
        "bad-request",
    ),
    "a form that ends early": (
        {
            "content": b'--a\r\nContent-Disposition: form-data; name="pictures"; filename="a.png"\r\n\r\nabc',
            "headers": {"content-type": "multipart/form-data; boundary=a"},
        },
        422,
        "picture",
    ),
    "a form without pictures": ({"data": {"a": "b"}, "files": {"c": (None, "d")}}, 422, "picture"),
    "a form with many fields": ({"files": {f"f{number}": (None, "") for number in range(20)}}, 400, "bad-request"),
    "a form with a long field": ({"files": {"f": (None, "x" * 5000)}}, 400, "bad-request"),
    "no JSON": ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "bad-request"),
    "deep JSON": ({"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}, 400, "bad-request"),
    "a huge number": (
        {"content": b'{"pictures": ' + b"9" * 10_000 + b"}", "headers": {"content-type": "application/json"}},
        400,
        "bad-request",
    ),
    "no UTF-8": ({"content": b'"\xff"', "headers": {"content-type": "application/json"}}, 400, "bad-request"),
    "a list": ({"json": []}, 422, "value"),
    "no member": ({"json": {"photo": ""}}, 422, "value"),
    "an empty list": ({"json": {"pictures": []}}, 422, "picture"),
    "numbers": ({"json": {"pictures": [1]}}, 422, "value"),
    "an object without data": ({"json": {"pictures": [{"name": "a"}]}}, 422, "value"),
    "half base64": ({"json": {"pictures": ["abc"]}}, 422, "value"),
    "too many": ({"files": files([face()] * 5)}, 413, "too-large"),
    "too many in JSON": ({"json": {"pictures": ["aGFsbG8="] * 5}}, 413, "too-large"),
    "too many and wrong": ({"json": {"pictures": [1] * 5}}, 413, "too-large"),
    "too many and empty": ({"json": {"pictures": [""] * 5}}, 413, "too-large"),
    "too many values": ({"json": {"pictures": ["aGFsbG8="], "more": [0] * 10_000}}, 413, "too-large"),
    "a data URL without an end": ({"json": {"pictures": ["data:" + "a" * 90_000]}}, 422, "value"),
    "too many bytes": ({"content": bytes(100_001), "headers": PNG}, 413, "too-large"),
    "too many bytes, in pieces": ({"content": iter([bytes(60_000)] * 2), "headers": PNG}, 413, "too-large"),
    "too many pixels": ({"content": face(count=200), "headers": PNG}, 413, "too-large"),
    "the head of a bomb": ({"content": bomb(30_000, packed=False), "headers": PNG}, 413, "too-large"),
    "many scans": ({"content": many_scans(), "headers": {"content-type": "image/jpeg"}}, 413, "too-large"),
    "a film": ({"content": b"\x1a\x45\xdf\xa3" + bytes(100), "headers": PNG}, 422, "picture"),
    "a page": ({"content": b"<svg onload=alert(1)>", "headers": {"content-type": "image/svg+xml"}}, 422, "picture"),
    "a picture that ends early": ({"content": face()[:60], "headers": PNG}, 422, "picture"),
}


HEIC_IN_A_FRESH_WORKER = """
import io
import pillow_heif
from PIL import Image
from web_helpers import client
buffer = io.BytesIO()
pillow_heif.from_pillow(Image.new("RGB", (400, 300))).save(buffer)
assert "HEIF" not in Image.OPEN, "nobody has told Pillow of HEIC yet"
with client(max_pixels=10_000) as test_client:
    for _ in range(2):
        print(test_client.post("/v1/recognize", content=buffer.getvalue(), headers={"content-type": "image/heic"}).text)
"""


def test_the_pixels_of_the_first_heic_of_a_worker_are_checked() -> None:
    pytest.importorskip("pillow_heif")
    command = [sys.executable, "-c", HEIC_IN_A_FRESH_WORKER]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    for line in result.stdout.splitlines():
        assert "is 400x300 pixels, expected at most 10,000" in line, line
    assert len(result.stdout.splitlines()) == 2


@pytest.fixture(scope="module")
def small_service() -> Any:
    """A service with small limits, whose detector must not be asked."""
    with client(max_bytes=100_000, max_pixels=50_000, max_pictures=4, detector=Gate()) as test_client:
        yield test_client


@pytest.mark.parametrize("name", BODIES)
def test_a_wrong_body_is_a_problem_before_anything_is_searched(small_service: TestClient, name: str) -> None:
    arguments, status, kind = BODIES[name]
    problem(small_service.post("/v1/recognize", **arguments), status, kind)


MEGABYTES: dict[str, bytes] = {
    "empty pictures": b'{"pictures": [' + b'"",' * 500_000 + b'""]}',
    "wrong pictures": b'{"pictures": [' + b"[]," * 500_000 + b"[]]}",
    "other values": b'{"pictures": "aGFsbG8=", "more": [' + b"{}," * 500_000 + b"{}]}",
    "spaces": b'{"pictures": "' + b"aG\\n " * 300_000 + b'"}',
    "folders": b'{"pictures": {"name": "' + b"/" * 1_500_000 + b'a", "data": "aGFsbG8="}}',
    "a data URL without an end": b'{"pictures": "data:' + b"a" * 1_500_000 + b'"}',
}


@pytest.mark.parametrize("name", MEGABYTES)
def test_a_body_of_json_takes_memory_and_time_by_its_bytes_alone(name: str) -> None:
    """Nobody can break it off, and other threads wait for it."""
    tracemalloc.start()
    start = time.process_time()
    with suppress(Problem):
        uploads._from_json(MEGABYTES[name], ServiceSettings())
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 2 and peak < 5 * len(MEGABYTES[name])


def test_the_data_urls_of_browsers_are_taken_and_no_others() -> None:
    data = base64.b64encode(b"hello").decode()
    for start in ("", "data:;base64,", "data:image/png;base64,", "data:image/svg+xml;charset=utf-8;a=b;base64,"):
        for text in (start + data, f"{start} {data[:3]}\r\n{data[3:]}\t"):
            (upload,) = uploads._from_json(json.dumps({"pictures": [text]}).encode(), ServiceSettings()).pictures
            assert upload.data == b"hello"
    for start in ("data:image/png,", "data:image/png;base64", "data:a/b/c;base64,", "data:a;;base64,", "é"):
        with pytest.raises(Problem, match="is not base64"):
            uploads._from_json(json.dumps({"pictures": [start + data]}).encode(), ServiceSettings())


def broken_pictures() -> list[bytes]:
    """Pictures of each format, cut off and with changed bytes; the changes are the same each time."""
    generator = np.random.default_rng(0)
    corpus = []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        whole_picture = encoded(generator.integers(0, 256, (32, 32, 3), np.uint8), kind)
        corpus += [whole_picture[: len(whole_picture) // divisor] for divisor in (2, 4, 20)]
        for _ in range(12):
            data = bytearray(whole_picture)
            for position in generator.integers(0, min(len(data), 400), 6):
                data[position] = int(generator.integers(0, 256))
            corpus.append(bytes(data))
    return corpus


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's about damaged tags
def test_broken_pictures_are_records_or_problems_and_never_faults(service: TestClient) -> None:
    statuses = set()
    for path in ("/v1/recognize", "/v1/explain", "/analyze"):
        for data in broken_pictures():
            response = service.post(path, content=data, headers=PNG)
            statuses.add(response.status_code)
            assert response.status_code in (200, 400, 413, 422), (path, data[:40], response.text)
    assert {200, 422} <= statuses


def test_file_names_are_shown_without_folders_and_controls(service: TestClient) -> None:
    names = ["../../etc/passwd", "C:\\photos\\me.png", "a\x1b[31m.png", "x" * 1000]
    sent_files = [("pictures", (name, face())) for name in names]
    records = service.post("/v1/recognize", files=sent_files).json()["records"]
    assert [record["input"] for record in records[:2]] == ["passwd", "me.png"]
    assert records[2]["input"].isprintable() and len(records[3]["input"]) == 255


@pytest.mark.parametrize(
    "path",
    ["/../pyproject.toml", "/%2e%2e/pyproject.toml", "/..%2fpyproject.toml", "/models/../../config.py", "//etc/passwd",
     "/models/", "/built", "/index.html/", "/%00", "/models/nano-int8.onnx%00.png"],
)  # fmt: skip
def test_no_path_leads_out(service: TestClient, path: str) -> None:
    problem(service.request("GET", path), 404, "not-found")


def test_other_methods_are_refused_with_those_that_work(service: TestClient) -> None:
    for method, path, allowed_methods in [
        ("GET", "/v1/recognize", "POST"), ("DELETE", "/v1/model", "GET, HEAD"), ("TRACE", "/healthz", "GET, HEAD"),
        ("POST", "/models/yunet.onnx", "GET, HEAD"),
    ]:  # fmt: skip
        response = service.request(method, path)
        problem(response, 405, "method")
        assert response.headers["allow"] == allowed_methods


@pytest.mark.parametrize("path", ["/", "/healthz", "/v1/model", "/docs"])
def test_head_is_answered_as_get_without_the_body(service: TestClient, path: str) -> None:
    """Load balancers and monitors ask by HEAD."""
    head, get = service.head(path), service.get(path)
    assert head.status_code == 200 and not head.content
    for name in ("content-type", "content-length"):
        assert head.headers[name] == get.headers[name]
    assert 'method="HEAD"' in service.get("/metrics").text


def test_a_full_queue_says_so_at_once() -> None:
    detector = Gate()
    with client(queue=2, detector=detector) as test_client:
        answers: list[Any] = []

        def send() -> None:
            answers.append(test_client.post("/v1/recognize", content=face(), headers=PNG))

        threads = [threading.Thread(target=send) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_until(lambda: detector.searches >= 1 and "mien_requests_held 2.0" in test_client.get("/metrics").text)
        response = test_client.post("/v1/recognize", content=face(), headers=PNG)
        problem(response, 503, "busy")
        assert 1 <= int(response.headers["retry-after"]) <= 60
        problem(test_client.get("/readyz"), 503, "busy")
        assert test_client.get("/healthz").status_code == 200
        detector.gate.set()
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200, 200]
        assert test_client.get("/readyz").status_code == 200


def test_a_request_that_takes_too_long_ends_and_frees_its_place() -> None:
    detector = Gate()
    with client(queue=1, timeout_s=0.2, detector=detector) as test_client:
        problem(test_client.post("/v1/recognize", content=face(), headers=PNG), 504, "timeout")
        assert test_client.get("/readyz").status_code == 200
        wait_until(lambda: test_client.get("/healthz").status_code == 503)
        detector.gate.set()
        wait_until(lambda: test_client.get("/healthz").status_code == 200)


def test_a_broken_model_is_a_fault_of_the_service() -> None:
    with client(engine=Broken()) as test_client:
        document = problem(test_client.post("/v1/recognize", content=face(255), headers=PNG), 500, "internal")
        assert "model" in document["detail"]
        assert test_client.post("/v1/recognize", content=face(200), headers=PNG).status_code == 200


def test_an_unforeseen_fault_shows_nothing_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(routes, "need_readable", fail)
    origin = "https://example.org"
    with client(cors=(origin,)) as test_client:
        response = test_client.post("/v1/recognize", content=face(), headers={**PNG, "origin": origin})
        problem(response, 500, "internal")
        assert "secret" not in response.text
        assert response.headers["access-control-allow-origin"] == origin  # else a page elsewhere cannot read it


def test_keys_protect_what_costs_and_nothing_else(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"# ours\n\n{KEY}\n{KEY}-2\n")
    with client(api_keys=read_api_keys(keys)) as test_client:
        for path in ("/v1/recognize", "/v1/explain", "/analyze"):
            response = test_client.post(path, content=face(), headers=PNG)
            problem(response, 401, "api-key")
            assert response.headers["www-authenticate"] == "Bearer"
        problem(test_client.get("/metrics"), 401, "api-key")
        for wrong_headers in (
            {"x-api-key": "no"},
            {"authorization": "Bearer no"},
            {"authorization": f"Basic {KEY}"},
            {"x-api-key": ""},
        ):
            problem(test_client.post("/v1/recognize", content=face(), headers={**PNG, **wrong_headers}), 401, "api-key")
        for right_headers in ({"x-api-key": KEY}, {"authorization": f"Bearer {KEY}-2"}, {
            "authorization": "Bearer of-another-system", "x-api-key": KEY
        }):  # fmt: skip
            assert (
                test_client.post("/v1/recognize", content=face(), headers={**PNG, **right_headers}).status_code == 200
            )
        for path in ("/v1/model", "/healthz", "/readyz", "/docs", "/openapi.json"):
            assert test_client.get(path).status_code == 200
        assert test_client.get("/v1/model").json()["api_key_needed"] is True


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compared_pairs = []

    def note(first: bytes, second: bytes) -> bool:
        compared_pairs.append((first, second))
        return True

    monkeypatch.setattr("mien.web.service.hmac.compare_digest", note)
    keys = tmp_path / "keys"
    keys.write_text(f"{KEY}\n{KEY}-2\n{KEY}-3\n")
    with client(api_keys=read_api_keys(keys)) as test_client:
        test_client.post("/v1/recognize", content=face(), headers={**PNG, "x-api-key": KEY})
    assert len(compared_pairs) == 3 and all(len(digest) == 32 for pair in compared_pairs for digest in pair)


@pytest.mark.parametrize(
    "text", ["", "# none\n", "short\n", "a key with spaces in it\n", "schlüssel-der-zu-lang-ist\n"]
)
def test_files_without_good_keys_are_refused(tmp_path: Path, text: str) -> None:
    keys = tmp_path / "keys"
    keys.write_text(text)
    with pytest.raises(MienError, match="--api-key-file"):
        read_api_keys(keys)


def test_pages_of_other_origins_are_kept_out_unless_named(service: TestClient) -> None:
    origin = "https://example.org"
    assert "access-control-allow-origin" not in service.get("/v1/model", headers={"origin": origin}).headers
    with client(cors=(origin,)) as test_client:
        answer = test_client.get("/v1/model", headers={"origin": origin})
        assert answer.headers["access-control-allow-origin"] == origin
        assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
        assert (
            "access-control-allow-origin"
            not in test_client.get("/v1/model", headers={"origin": "https://e.org"}).headers
        )
        preflight_headers = {
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "x-api-key",
        }
        assert (
            test_client.options("/v1/recognize", headers=preflight_headers).headers["access-control-allow-origin"]
            == origin
        )
        response = test_client.options("/v1/recognize", headers={**preflight_headers, "origin": "https://e.org"})
        assert "--cors" in problem(response, 400, "bad-request")["detail"]


@pytest.mark.parametrize(
    ("origin", "site"), [("https://e.org", "cross-site"), ("http://localhost:3000", "same-site"), ("null", "same-site")]
)
def test_pages_of_other_origins_have_nothing_read_unless_named(service: TestClient, origin: str, site: str) -> None:
    headers = {**PNG, "origin": origin, "sec-fetch-site": site}
    for path in ("/v1/recognize", "/v1/explain", "/analyze"):
        document = problem(service.post(path, content=face(), headers=headers), 403, "origin")
        assert origin in document["detail"] and "--cors" in document["detail"]
    for own in ("same-origin", "none"):
        response = service.post("/v1/recognize", content=face(), headers={**headers, "sec-fetch-site": own})
        assert response.status_code == 200
    with client(cors=(origin,)) as test_client:
        assert test_client.post("/v1/recognize", content=face(), headers=headers).status_code == 200


def test_browsers_that_do_not_name_the_site_have_origin_compared_with_host(service: TestClient) -> None:
    def post(origin: str) -> Any:
        headers = {**PNG, "host": "gallery.lan:8000", "origin": origin}
        return service.post("/v1/recognize", content=face(), headers=headers)

    for origin in ("http://gallery.lan:8000", "https://gallery.lan:8000"):  # TLS may end at a proxy
        assert post(origin).status_code == 200
    for origin in ("http://gallery.lan", "http://gallery.lan:8001", "http://e.org", "null", "gallery.lan:8000"):
        detail = problem(post(origin), 403, "origin")["detail"]
        assert origin in detail and "may not call gallery.lan:8000;" in detail


@pytest.mark.parametrize(
    "origin",
    ["*", "example.org", "https://example.org/", "https://a b", "null", "https://example.org:443", "http://a:80"],
)
def test_origins_are_checked(origin: str) -> None:
    with pytest.raises(MienError, match="--cors"):
        ServiceSettings(cors=(origin,)).check()


def test_others_are_answered_while_a_large_form_is_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    parse = uploads._MemoryParser.parse

    async def noted(parser: Any) -> Any:
        threads.append(threading.current_thread().name)
        return await parse(parser)

    monkeypatch.setattr(uploads._MemoryParser, "parse", noted)
    with client() as test_client:
        for padding in (0, 100_000):
            body = face() + b"\r" * padding  # each of them may begin the boundary, so that forms of them take longest
            assert test_client.post("/v1/recognize", files={"pictures": ("a.png", body)}).status_code == 200
    small, large = threads
    assert small != large and "asyncio" in large  # one of asyncio's pool, not the event loop's


@pytest.mark.parametrize("path", ["/docs", "/v1/model", "/nothing", "/models/yunet.onnx", "/metrics"])
def test_every_answer_has_the_usual_headers(service: TestClient, path: str) -> None:
    headers = service.get(path).headers
    for name, value in SECURITY_HEADERS.items():
        assert headers[name] == value
    assert headers["cache-control"] in ("no-store", "no-cache")


def test_request_ids_are_taken_if_they_are_harmless(service: TestClient) -> None:
    assert service.get("/healthz", headers={"x-request-id": "abc-1.2_3"}).headers["x-request-id"] == "abc-1.2_3"
    for wrong_id in ("", "a b", "x" * 65, 'a"b', "é".encode("latin-1").decode("latin-1")):
        headers = {b"x-request-id": wrong_id.encode("latin-1")}
        answer = service.get("/healthz", headers=headers)
        assert answer.headers["x-request-id"] != wrong_id and len(answer.headers["x-request-id"]) == 32


def test_pictures_and_their_names_are_neither_logged_nor_stored(
    service: TestClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("a file was made")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    large_picture = encoded(np.random.default_rng(0).integers(0, 100, (1200, 1200, 3), np.uint8))
    assert len(large_picture) > 2**21, "more than a spooled file would keep in memory"
    with caplog.at_level(logging.DEBUG):
        for data in (large_picture, b"broken"):
            service.post("/v1/recognize", files={"pictures": ("my-secret-name.png", data)})
            service.post("/v1/recognize?detector=none", content=data, headers=PNG)
            service.post("/v1/recognize?my-secret-name=my-secret-name", content=data, headers=PNG)
            service.get("/my-secret-name")
    texts = [record.getMessage() + str(record.__dict__) for record in caplog.records if record.name.startswith("mien")]
    assert len(texts) >= 6 and not any("my-secret-name" in text for text in texts)
    (line,) = [
        record for record in caplog.records if getattr(record, "pictures", 0) and getattr(record, "bytes", 0) > 2**21
    ][:1]
    assert line.route == "/v1/recognize" and line.status == 200  # type: ignore[attr-defined]


def test_the_model_is_described(service: TestClient) -> None:
    model_info = service.get("/v1/model").json()
    assert (
        model_info["labels"] == ["calm", "glad"]
        and model_info["stated_accuracy"] == 0.8
        and model_info["threshold"] == 0.9
    )
    assert model_info["limits"] == {
        "max_bytes": 20_000_000,
        "max_pixels": 25_000_000,
        "max_pictures": 16,
        "timeout_s": 30.0,
    }
    assert model_info["accuracy"]["low"] < model_info["accuracy"]["value"] < model_info["accuracy"]["high"]
    assert "/models/nano-int8.onnx" in model_info["page"]["models"] and "guess" in model_info["notice"]
    assert 0 < model_info["sure"]["coverage"] < 1 and model_info["robustness"][0]["change"] == "none"
    card = service.get(model_info["card"])
    assert card.headers["content-type"].startswith("text/markdown") and "## Scores" in card.text
    page = service.get(model_info["card"], headers={"accept": "text/html"})
    assert "<h2>Scores</h2>" in page.text and "<table>" in page.text


def test_without_the_client_of_the_hub_the_card_is_that_of_the_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # the extra serve does not bring it
    with TestClient(create_app(ServiceSettings(model="nano-int8"))) as test_client:
        written_card = (SHIPPED / "nano" / "README.md").read_text(encoding="utf-8")
        assert test_client.get("/v1/model/card").text == written_card
    for name in ("model.int8.onnx", "meta.json"):
        shutil.copy(SHIPPED / "nano" / name, tmp_path)
    with TestClient(create_app(ServiceSettings(model=str(tmp_path)))) as test_client:
        assert test_client.get("/v1/model").json()["card"] is None


def test_a_model_that_is_replaced_on_disk_is_described_as_it_was_loaded(tmp_path: Path) -> None:
    for name in ("model.int8.onnx", "meta.json"):
        shutil.copy(SHIPPED / "nano" / name, tmp_path)
    with TestClient(create_app(ServiceSettings(model=str(tmp_path)))) as test_client:
        before = test_client.get("/v1/model").json()
        (tmp_path / "model.int8.onnx").write_bytes(b"another one")
        assert test_client.get("/v1/model").json() == before
        (tmp_path / "model.int8.onnx").unlink()
        assert test_client.get("/v1/model").json() == before


def test_what_a_model_was_trained_on_is_said_only_as_far_as_it_is_recorded(tmp_path: Path) -> None:
    shutil.copy(SHIPPED / "nano" / "model.int8.onnx", tmp_path)
    meta = read_json_object(SHIPPED / "nano" / "meta.json")
    other = meta | {"data": meta["data"] | {"images": {"train": 500, "validation": 90}}}
    for record, is_of_fer2013 in ((meta, True), (other, False), ({}, None)):
        write_json(tmp_path / "meta.json", record)
        with TestClient(create_app(ServiceSettings(model=str(tmp_path)))) as test_client:
            assert test_client.get("/v1/model").json()["trained_on_fer2013"] is is_of_fer2013


@pytest.mark.parametrize(
    "record", [{"release": None}, {"release": {"scores": {"test": {"n": 5}}}}, {"calibration": {"uncertain": {
        "coverage": float("nan"), "accuracy": 0.8}}}, {"calibration": {"uncertain": {"coverage": 0.5}}}],
)  # fmt: skip
def test_a_record_that_mien_did_not_write_is_left_out_with_a_warning(
    record: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(SHIPPED / "nano" / "model.int8.onnx", tmp_path)
    (tmp_path / "meta.json").write_text(json.dumps(record))
    with TestClient(create_app(ServiceSettings(model=str(tmp_path)))) as test_client:
        model_info = test_client.get("/v1/model").json()
    assert [model_info[name] for name in ("accuracy", "scores", "sure", "robustness", "card")] == [None] * 5
    assert "meta.json is not as `mien pack` wrote it" in caplog.text


def test_a_model_without_onnx_is_served(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    model = tmp_path / "run" / "model"
    shutil.copytree(SHIPPED / "nano", model, ignore=shutil.ignore_patterns("*.onnx"))
    photo = encoded(astronaut(512))
    with TestClient(create_app(ServiceSettings(model=str(tmp_path / "run")))) as test_client:
        model_info = test_client.get("/v1/model").json()
        (record,) = test_client.post("/v1/recognize", content=photo, headers=PNG).json()["records"]
    weights = (model / "model.safetensors").read_bytes()
    assert (model_info["name"], model_info["file"], model_info["bytes"]) == ("run", "model.safetensors", len(weights))
    assert model_info["sha256"] == hashlib.sha256(weights).hexdigest() and 0 < model_info["accuracy"]["value"] < 1
    assert record["status"] == "ok" and record["faces"][0]["label"] in model_info["labels"]


def test_int8_states_its_own_accuracy() -> None:
    with TestClient(create_app(ServiceSettings(model="mini-int8"))) as test_client:
        int8_info = test_client.get("/v1/model").json()
    with TestClient(create_app(ServiceSettings(model="mini"))) as test_client:
        mini_info = test_client.get("/v1/model").json()
    assert mini_info["scores"]["ece"] != mini_info["scores"]["cross_fitted_ece"], "the temperature was fitted there"
    assert int8_info["file"] == "model.int8.onnx" and int8_info["sha256"] != mini_info["sha256"]
    assert int8_info["accuracy"]["value"] != mini_info["accuracy"]["value"] and int8_info["accuracy"]["clean"] is None
    assert int8_info["accuracy"]["low"] < int8_info["accuracy"]["value"] < int8_info["accuracy"]["high"]


def test_the_accuracy_of_int8_is_that_of_the_split_it_was_measured_on(tmp_path: Path) -> None:
    shutil.copy(SHIPPED / "nano" / "model.int8.onnx", tmp_path)
    meta = read_json_object(SHIPPED / "nano" / "meta.json")
    scores = meta["release"]["scores"]
    scores["test"] = scores["validation"] | {"n": 100, "accuracy": 0.5}
    write_json(tmp_path / "meta.json", meta)
    with TestClient(create_app(ServiceSettings(model=str(tmp_path)))) as test_client:
        accuracy = test_client.get("/v1/model").json()["accuracy"]
    value, pictures = meta["release"]["onnx"]["engines"]["ONNX int8"]["accuracy"], scores["validation"]["n"]
    assert accuracy == {
        "split": "validation", "pictures": pictures, "value": value, "clean": None,
        "low": pytest.approx(wilson(value, pictures)[0]), "high": pytest.approx(wilson(value, pictures)[1]),
    }  # fmt: skip


def test_the_report_is_shown_if_it_is_named(service: TestClient, tmp_path: Path) -> None:
    problem(service.get("/v1/model/report"), 404, "not-found")
    with pytest.raises(MienError, match="--report"):
        ServiceSettings(report=tmp_path).check()
    (tmp_path / "report.html").write_text("<style>p {color: red}</style><p>report</p>")
    with client(report=tmp_path) as test_client:
        answer = test_client.get(test_client.get("/v1/model").json()["report"])
        (tmp_path / "report.html").unlink()
        problem(test_client.get("/v1/model/report"), 404, "not-found")
    assert "<p>report</p>" in answer.text and "sandbox" in answer.headers["content-security-policy"]
    assert "script" not in answer.headers["content-security-policy"]


def test_the_page_is_served_packed_and_by_its_tag(tmp_path: Path) -> None:
    (tmp_path / "built").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html>" + "hello " * 200)
    (tmp_path / "reader.js").write_text("export {}")
    (tmp_path / "secret.key").write_text("no")
    (tmp_path / "built" / "engine.wasm").write_bytes(bytes(5000))
    (tmp_path / "outside.js").symlink_to("/etc/hostname")
    with TestClient(create_app(ServiceSettings(), recognizer, tmp_path)) as test_client:
        page = test_client.get("/")
        assert page.headers["content-type"] == "text/html; charset=utf-8" and "hello" in page.text
        assert page.headers["content-encoding"] == "gzip" and int(page.headers["content-length"]) < 200
        cached_page = test_client.get("/", headers={"if-none-match": page.headers["etag"]})
        assert cached_page.status_code == 304 and not cached_page.content
        plain_page = test_client.get("/", headers={"accept-encoding": "gzip;q=0, identity"})
        assert "content-encoding" not in plain_page.headers and plain_page.headers["etag"] != page.headers["etag"]
        assert test_client.get("/reader.js").headers["content-type"].startswith("text/javascript")
        assert test_client.get("/built/engine.wasm").headers["content-type"] == "application/wasm"
        head = test_client.head("/built/engine.wasm")
        assert head.status_code == 200 and not head.content
        assert test_client.get("/v1/model").json()["page"]["built"] is True
        for path in ("/secret.key", "/outside.js", "/built/", "/reading.js"):
            assert test_client.get(path).status_code == 404
        (tmp_path / "index.html").write_text("changed")
        assert test_client.get("/").text == "changed"


def test_a_checkout_without_built_parts_says_so(tmp_path: Path) -> None:
    assert not Assets(tmp_path).is_built
    assert Assets(tmp_path).paths == ["/models/mini-int8.onnx", "/models/nano-int8.onnx", "/models/yunet.onnx"]


def test_counts_have_no_more_rows_than_there_are_routes(service: TestClient) -> None:
    for number in range(20):
        service.get(f"/nothing-{number}")
        service.request(f"M{number}", "/healthz")
    text = service.get("/metrics").text
    assert "nothing-1" not in text and 'method="M1"' not in text
    for name in ("mien_requests_total", "mien_request_seconds_bucket", "mien_faces_total", "mien_batch_faces_bucket"):
        assert name in text
