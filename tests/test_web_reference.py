"""The description: the service does what it says, the examples are real, the page needs no other host."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from html.parser import HTMLParser
from typing import Any, cast
from urllib.parse import urljoin, urlsplit

import pytest
import schemathesis
from detection_helpers import astronaut
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from recognition_helpers import encoded
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from starlette.testclient import TestClient
from web_helpers import client, recognizer

from mien.cli.output import print_json
from mien.recognition.recognizer import Recognizer
from mien.web import reference, schemas
from mien.web.app import create_app
from mien.web.problems import HELP, KINDS, Problem
from mien.web.schemas import EXAMPLES
from mien.web.settings import ServiceSettings

EXAMPLES_EACH = 20

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
    unsupported_method,
    ignored_auth,
]


@pytest.fixture(scope="module")
def description() -> Any:
    with client() as test_client:
        yield test_client.get("/openapi.json").json()


def statuses_of(changes: dict[str, Any], mode: GenerationMode, examples: int) -> set[int]:
    """Calls every operation with generated requests, and checks each answer; returns the statuses."""
    app = create_app(ServiceSettings(**changes), recognizer)
    statuses: set[int] = set()
    with TestClient(app):
        for result in schemathesis.openapi.from_asgi("/openapi.json", app).get_all_operations():

            @given(case=cast(Any, result).ok().as_strategy(generation_mode=mode))
            @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
            def check(case: Any) -> None:
                statuses.add(case.call_and_validate(checks=CHECKS).status_code)

            with suppress(Unsatisfiable):  # an address without parameters has no wrong requests
                check()
    return statuses


def test_a_problem_has_the_members_that_its_schema_promises() -> None:
    assert schemas.ProblemModel.model_fields.keys() == Problem("value", "wrong", ["one"]).body("id").keys()


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_answer_is_described(mode: GenerationMode) -> None:
    statuses = statuses_of({"max_pictures": 3}, mode, EXAMPLES_EACH)
    assert {200, 422} <= statuses and max(statuses) < 500


def test_the_description_tells_of_keys_and_the_service_asks_for_them() -> None:
    statuses = statuses_of({"api_keys": (bytes(32),)}, GenerationMode.POSITIVE, 3)
    assert 401 in statuses and max(statuses) < 500


def test_the_description_is_whole(description: dict[str, Any]) -> None:
    assert description["openapi"].startswith("3.1")
    assert set(description["paths"]) == {
        "/v1/recognize", "/v1/explain", "/analyze", "/v1/model", "/v1/model/card", "/v1/model/report", "/healthz",
        "/readyz", "/metrics",
    }  # fmt: skip
    text = json.dumps(description)
    for name in re.findall(r'"#/components/schemas/(\w+)"', text):
        assert name in description["components"]["schemas"]
    for operations in description["paths"].values():
        for operation in operations.values():
            assert operation["summary"] and operation["description"]
            assert {"400", "408", "431", "500", "503"} <= set(operation["responses"])


def test_every_kind_of_problem_is_explained() -> None:
    assert set(HELP) == set(KINDS)
    page = reference.page({"info": {"title": "", "version": "", "description": ""}, "openapi": "", "paths": {}})
    for kind in KINDS:
        assert f'id="{kind}"' in page


class Links(HTMLParser):
    """Collects what a page loads and where it leads."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("href", "src"):
                self.targets.append(value or "")
            elif name == "id":
                self.ids.append(value or "")
            assert name != "style" and not name.startswith("on"), "the policy forbids it"


def test_the_page_of_the_description_needs_nothing_from_elsewhere() -> None:
    with client() as test_client:
        page = test_client.get("/docs")
        links = Links()
        links.feed(page.text)
        assert "script" not in links.tags and len(links.ids) == len(set(links.ids))
        for target in links.targets:
            if target.startswith("#"):
                assert target[1:] in links.ids, target
            else:
                assert_below_any_path(test_client, "/docs", target)
        assert "curl -F pictures=@photo.jpg http://127.0.0.1:8000/v1/recognize" in page.text


def assert_below_any_path(test_client: TestClient, page: str, target: str) -> None:
    """Checks that a link of a page leads to an address of the service where a proxy serves that below a path, too."""
    assert not target.startswith("/"), target
    address = urlsplit(urljoin(f"http://proxy/faces{page}", target)).path
    assert address.startswith("/faces/"), target
    assert test_client.get(address.removeprefix("/faces")).status_code == 200, target


def test_the_model_card_is_a_page_below_any_path() -> None:
    with client() as test_client:
        page = test_client.get("/v1/model/card", headers={"accept": "text/html"})
        links = Links()
        links.feed(page.text)
        own = [target for target in links.targets if not target.startswith(("#", "http"))]
        assert page.status_code == 200 and any(target.endswith("docs.css") for target in own)
        for target in own:
            assert_below_any_path(test_client, "/v1/model/card", target)


def nearly(first: Any, second: Any) -> bool:
    """True if two JSON values are equal, numbers within 0.02."""
    if isinstance(first, float | int) and not isinstance(first, bool):
        return bool(first == pytest.approx(second, abs=0.02, rel=1e-3))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(nearly(value, second[key]) for key, value in first.items())
    if isinstance(first, list):
        return len(first) == len(second) and all(map(nearly, first, second))
    return bool(first == second)


def test_the_examples_are_real_answers(capsys: pytest.CaptureFixture[str]) -> None:
    photo = encoded(astronaut(512))
    with TestClient(create_app(ServiceSettings())) as test_client:
        recognized = test_client.post("/v1/recognize", files={"pictures": ("astronaut.png", photo)}).json()
        analyzed = test_client.post("/analyze", files={"img": ("a.png", photo)}).json()
        small_response = test_client.post("/v1/recognize", json={"pictures": [EXAMPLES["picture"]]})
        line = test_client.post(
            "/v1/recognize", content=photo, headers={"content-type": "image/png", "accept": "application/x-ndjson"}
        ).text
    assert nearly(EXAMPLES["recognize"], recognized) and nearly(EXAMPLES["analyze"], analyzed)
    assert small_response.status_code == 200 and small_response.json()["records"][0]["status"] == "no_face"
    print_json(Recognizer().recognize(photo))
    assert line == capsys.readouterr().out, "to the last digit what `mien predict --json` prints"


def test_the_examples_of_bodies_are_taken(description: dict[str, Any]) -> None:
    with client() as test_client:
        for path, operations in description["paths"].items():
            if "post" in operations:
                body = operations["post"]["requestBody"]["content"]["application/json"]["example"]
                response = test_client.post(path, params={"detector": "none"} if "/v1/" in path else {}, json=body)
                assert response.status_code == 200 or response.json()["type"] == "/docs#no-face", response.text


def test_markdown_of_a_model_cannot_bring_html() -> None:
    page = reference.markdown_page("---\na: b\n---\n# T\n<script>x</script>\n[a](javascript:x)\n", "<T>", "./")
    assert "<script>" not in page and "javascript:" not in page.replace("[a](javascript:x)", "") and "&lt;T&gt;" in page
    assert "a: b" not in page
