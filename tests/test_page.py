"""The page in headless Chromium: in the browser and by the server, photos, films, the camera, and its manners."""

from __future__ import annotations

import base64
import csv
import gzip
import importlib
import io
import json
import os
import re
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import build_page as builder
import numpy as np
import page_helpers as helpers
import pytest
import skimage.data
from page_helpers import DONE, LONG_MS, READY, Log, choose, download, encoded, file, png, records
from PIL import ExifTags, Image

from mien import Recognizer
from mien.recognition.explain import colours
from mien.recognition.results import Face

pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright; pip install 'mien[dev]'")
pytest.importorskip("cv2")  # draws the scenes; the package with YuNet's weights brings one
scenes: Any = importlib.import_module("scenes")
write_camera: Any = importlib.import_module("page_speed").write_camera

pytestmark = pytest.mark.slow
CAMERA_FLAGS = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    helpers.need_browser()
    helpers.need_built()
    with helpers.browser.mien_served() as address:
        yield address


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    helpers.need_browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium


@pytest.fixture(scope="module")
def browser(chromium: Any) -> Iterator[Any]:
    browser = chromium.launch(executable_path=str(helpers.CHROMIUM), args=list(helpers.browser.FLAGS))
    yield browser
    browser.close()


@contextmanager
def opened(browser: Any, address: str, reading_place: str | None = None) -> Iterator[tuple[Any, Log]]:
    """The page, ready to read at a place, with the log of its requests; it must show no error of a script."""
    context = browser.new_context()
    page, log, faults = context.new_page(), Log(), []
    context.on("request", log.note)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(address)
    page.wait_for_selector(READY, timeout=LONG_MS)
    if reading_place is not None:
        page.select_option("#where", reading_place)
        page.wait_for_selector(f"body[data-ready^='{reading_place}']", timeout=LONG_MS)
    try:
        yield page, log
        assert not faults
    finally:
        context.close()


@pytest.fixture(scope="module")
def astronaut() -> bytes:
    return png(skimage.data.astronaut())


def check_one_face(page: Any) -> None:
    assert page.locator(".box").count() == 1
    assert page.locator(".face").count() == 1
    assert page.locator(".face .bars li").count() == 7
    assert page.inner_text(".face .word") == "happy"
    shares = [float(text.split()[0]) for text in page.locator(".face .share").all_inner_texts()]
    assert sum(shares) == pytest.approx(100, abs=4)


def test_a_photo_is_read_in_the_tab_and_sent_nowhere(browser: Any, service: str, astronaut: bytes) -> None:
    with opened(browser, service) as (page, log):
        choose(page, file("astronaut.png", astronaut, "image/png"))
        check_one_face(page)
        assert page.inner_text(".face .number") == "Face 0"  # as in the tables that the page saves
        assert "read in this tab" in page.inner_text("#summary")
        page.click(".face button")
        page.wait_for_selector(".heat canvas", timeout=LONG_MS)
        assert log.sent() == []
        assert log.hosts() == {service.split("/")[2]}


def test_a_photo_is_read_by_the_server_if_that_is_chosen(browser: Any, service: str, astronaut: bytes) -> None:
    with opened(browser, service, "server") as (page, log):
        assert "sent to" in page.inner_text("#place-text")
        choose(page, file("astronaut.png", astronaut, "image/png"))
        check_one_face(page)
        assert "read by the server" in page.inner_text("#summary")
        assert log.sent() == [f"{service}v1/recognize"]
        page.click(".face button")
        page.wait_for_selector(".heat canvas", timeout=LONG_MS)
        assert log.sent()[1].startswith(f"{service}v1/explain?face=0&label=happy")
        assert log.hosts() == {service.split("/")[2]}


def test_the_static_folder_needs_no_service(browser: Any, tmp_path: Path, astronaut: bytes) -> None:
    helpers.need_built()
    builder._write_static(helpers.PAGE / "built", tmp_path / "site/mien", builder.model_files())
    with helpers.folder_served(tmp_path / "site") as address, opened(browser, f"{address}mien/") as (page, log):
        assert page.locator("#where option[value=server]").count() == 0
        choose(page, file("astronaut.png", astronaut, "image/png"))
        check_one_face(page)
        assert log.sent() == []
        assert all(url.startswith((f"{address}mien/", "blob:")) for _, url, _ in log.requests)


@pytest.mark.parametrize(
    "answer", [{"status": 404, "body": ""}, {"body": '{"models": [', "content_type": "application/json"}]
)
def test_without_its_built_parts_the_page_reads_by_the_server_and_says_so(
    browser: Any, service: str, astronaut: bytes, answer: dict[str, Any]
) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.route("**/built/**", lambda route: route.fulfill(**answer))
    page.goto(service)
    page.wait_for_selector("body[data-ready='server mini']", timeout=LONG_MS)
    assert "lacks the parts that read pictures in the browser" in page.inner_text("#not-built")
    choose(page, file("astronaut.png", astronaut, "image/png"))
    check_one_face(page)
    context.close()


def test_what_is_saved_is_what_mien_predict_writes(browser: Any, service: str, astronaut: bytes) -> None:
    truth = Recognizer("mini-int8").recognize(astronaut)
    with opened(browser, service) as (page, _):
        choose(page, file("=astronaut.png", astronaut, "image/png"))
        (record,) = json.loads(download(page, "#save-json"))
        assert record.keys() == truth.to_dict().keys()
        assert record["faces"][0].keys() == truth.to_dict()["faces"][0].keys()
        assert record["faces"][0]["box"] == pytest.approx(truth.to_dict()["faces"][0]["box"], abs=0.11)
        (row,) = csv.DictReader(io.StringIO(download(page, "#save-csv").decode()))
        assert row["input"] == "./=astronaut.png"  # no formula
        assert float(row["probability_happy"]) == record["faces"][0]["probabilities"]["happy"]
        image = Image.open(io.BytesIO(download(page, "#save-picture")))
        assert image.size == (512, 512)
        assert (np.asarray(image.convert("RGB")) != skimage.data.astronaut()).any()


def pictures_of_faces() -> list[np.ndarray]:
    """Portraits of many sizes, tilted, mirrored, grey, cut off, transparent; twelve faces; composites."""
    portraits = [scenes.portrait(side, tilt, mirrored).pixels for side, tilt, mirrored in (
        (97, 0, False), (150, 5, True), (300, 10, True), (512, 0, False), (640, -12, False), (1024, 0, False),
        (1200, 18, True), (1600, -15, False), (3000, 0, False),
    )]  # fmt: skip
    centre_x, centre_y, share = scenes.ASTRONAUT
    left, top, side = (round(512 * value) for value in (centre_x - share / 2, centre_y - share / 2, share))
    grey = np.asarray(Image.fromarray(skimage.data.astronaut()).convert("L"))
    face = np.asarray(
        Image.fromarray(grey[top : top + side, left : left + side]).resize((48, 48), Image.Resampling.BOX)
    )
    generator = np.random.default_rng(3)
    composites = []
    for number, background in enumerate(scenes.backgrounds()[:8]):
        height, width = background.shape[:2]
        scale = max(1.0, 260 / min(height, width))
        enlarged_picture = Image.fromarray(background).resize((round(scale * width), round(scale * height)))
        composites.append(scenes.composite([face] * (1 + number % 4), np.asarray(enlarged_picture), generator).pixels)
    photo = skimage.data.astronaut()
    return [
        *portraits,
        scenes.collage(200).pixels,
        grey,
        photo[60:400, 190:420],
        photo[:140],
        skimage.data.camera(),
        *composites,
    ]


def nearest(faces: list[dict[str, Any]], expected: Sequence[Face]) -> list[dict[str, Any]]:
    """Orders faces like the expected ones: where boxes lie exactly below one another, rounding decides on the order."""
    ordered = []
    for face in expected:
        distances = [float(np.abs(np.subtract(candidate["box"], face.box)).max()) for candidate in faces]
        ordered.append(faces[distances.index(min(distances))])
    assert len({tuple(face["box"]) for face in ordered}) == len(faces), "two faces have the same nearest box"
    return ordered


@pytest.mark.parametrize("model", ["mini-int8", "nano-int8"])
def test_the_page_and_python_give_the_same_answers(browser: Any, service: str, model: str) -> None:
    pictures = [np.ascontiguousarray(picture) for picture in pictures_of_faces()]
    assert len(pictures) >= 20
    recognizer = Recognizer(model)
    truths = [recognizer.recognize(png(picture)) for picture in pictures]
    assert sum(len(truth.faces) for truth in truths) > 30
    with opened(browser, service) as (page, _):
        page.select_option("#where", model)
        page.wait_for_selector(f"body[data-ready='tab {model}']", timeout=LONG_MS)
        page.set_input_files("#files", [file(f"{n}.png", png(p), "image/png") for n, p in enumerate(pictures)])
        last_button = page.locator("#strip li button").nth(len(pictures) - 1)
        last_button.and_(page.locator("[aria-label$=face], [aria-label$=faces]")).wait_for(timeout=LONG_MS)
        answers = records(page)
    for number, (truth, answer) in enumerate(zip(truths, answers, strict=True)):
        assert answer["status"] == truth.status, number
        assert len(answer["faces"]) == len(truth.faces), number
        for face, expected in zip(nearest(answer["faces"], truth.faces), truth.faces, strict=True):
            assert np.abs(np.subtract(face["box"], expected.box)).max() < 2, number
            differences = [abs(face["probabilities"][name] - value) for name, value in expected.probabilities.items()]
            assert max(differences) < 0.01, number
            is_near_threshold = abs(expected.score - (recognizer.engine.threshold or 0)) < 0.01
            assert is_near_threshold or face["uncertain"] == expected.uncertain, number


def test_a_photo_that_lies_on_its_side_is_read_upright(browser: Any, service: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # turn it to the right to see it upright
    buffer = io.BytesIO()
    rotated_picture = Image.fromarray(skimage.data.astronaut()[:400]).transpose(Image.Transpose.ROTATE_90)
    rotated_picture.save(buffer, format="JPEG", quality=95, exif=exif)
    (expected,) = Recognizer("mini-int8").recognize(buffer.getvalue()).faces
    with opened(browser, service) as (page, _):
        choose(page, file("phone.jpg", buffer.getvalue(), "image/jpeg"))
        (record,) = records(page)
        assert (record["width"], record["height"]) == (512, 400)
        assert np.abs(np.subtract(record["faces"][0]["box"], expected.box)).max() < 2


def test_a_webp_file_that_browsers_leave_on_its_side_is_read_by_the_server_alone(browser: Any, service: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    upright = Image.fromarray(skimage.data.astronaut()[:400])
    files = []
    for name, data in ("upright", b""), ("turned", exif):
        buffer = io.BytesIO()
        (upright.transpose(Image.Transpose.ROTATE_90) if data else upright).save(buffer, format="WEBP", exif=data)
        files.append(file(f"{name}.webp", buffer.getvalue(), "image/webp"))
    with opened(browser, service) as (page, _):
        choose(page, files[0])
        check_one_face(page)
        choose(page, files[1])
        problem = page.inner_text("#problem")
        assert "browsers do not turn WebP files" in problem and "choose the server" in problem
        page.select_option("#where", "server")
        choose(page, files[1])
        assert (records(page)[2]["width"], records(page)[2]["height"]) == (512, 400)
        check_one_face(page)
        assert page.is_visible(".no-preview") and page.is_disabled("#save-picture")


def test_twelve_faces_have_twelve_boxes_and_84_bars(browser: Any, service: str) -> None:
    with opened(browser, service) as (page, _):
        choose(page, file("twelve.png", png(scenes.collage(240).pixels), "image/png"))
        assert page.locator(".box").count() == 12
        assert page.locator(".face .bars li").count() == 84


def test_the_label_of_a_face_at_the_top_does_not_cover_it(browser: Any, service: str) -> None:
    with opened(browser, service) as (page, _):
        # Pictures of a visitor have no copy in training: the score of the clean part, not the 70 of the whole split.
        assert "it names about 65 as people had labelled them" in page.inner_text("#accuracy-text")
        choose(page, file("top.png", png(skimage.data.astronaut()[40:]), "image/png"))
        box, label = (page.locator(name).bounding_box() for name in (".box", ".chip"))
        assert label["y"] >= box["y"] + box["height"]


def test_a_picture_without_a_face_is_told_apart_from_an_error(browser: Any, service: str) -> None:
    with opened(browser, service) as (page, _):
        choose(page, file("cat.png", png(skimage.data.chelsea()), "image/png"), file("notes.txt", b"Not a picture.\n"))
        assert "No face was found" in page.inner_text("#summary")
        assert page.locator(".face").count() == 0
        page.wait_for_selector("#strip li:nth-child(2)[data-done=true]", timeout=LONG_MS)
        page.click("#strip li:nth-child(2) button")
        assert page.inner_text("#result-title") == "notes.txt cannot be read"
        assert "is a text; a picture or a film is expected" in page.inner_text("#problem")
        statuses = [record["status"] for record in records(page)]
        assert statuses == ["no_face", "error"]


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG\r\n\x1a\n broken", b"\xff\xd8\xff\xe0" + 100 * b"\0", b"\0\x01\x02" * 50, b"%PDF-1.7\n"]
)
def test_a_damaged_file_gives_a_reason_and_the_next_one_is_read(
    browser: Any, service: str, astronaut: bytes, content: bytes
) -> None:
    with opened(browser, service) as (page, _):
        choose(page, file("broken.png", content, "image/png"))
        assert page.locator("#problem").is_visible() and len(page.inner_text("#problem")) > 20
        choose(page, file("astronaut.png", astronaut, "image/png"))
        page.wait_for_selector(DONE, timeout=LONG_MS)
        check_one_face(page)


def huge_heads() -> dict[str, bytes]:
    """The first bytes of files of 16,000 x 16,000 pixels, without anything that could be decoded."""
    side = 16_000
    big, little, extended = struct.pack(">II", side, side), struct.pack("<ii", side, -side), struct.pack("<I", side - 1)
    frame = b"\xff\xc2\0\x11\x08" + struct.pack(">HH", side, side)
    return {
        "a.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + big + b"\x08\x02\0\0\0",
        "a.jpg": b"\xff\xd8" + b"\xff\xe1\xff\xff" + bytes(65_533) + b"\xff" + frame,
        "a.gif": b"GIF89a" + struct.pack("<HH", side, side) + b"\xf7\0\0",
        "a.bmp": b"BM" + bytes(12) + struct.pack("<I", 40) + little + bytes(20),
        "old.bmp": b"BM" + bytes(12) + struct.pack("<IHH", 12, side, side) + bytes(20),
        "extended.webp": b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + 2 * extended[:3] + bytes(20),
        "lossless.webp": b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f" + struct.pack("<I", (side - 1) * 0x4001) + bytes(20),
        "lossy.webp": b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0\0\0\0\x9d\x01\x2a" + struct.pack("<HH", side, side) + bytes(20),
    }


@pytest.mark.parametrize(
    ("reading_place", "most"), [(None, "this tab reads at most 40"), ("server", "the server takes at most 25")]
)
def test_a_huge_picture_is_refused_before_it_is_decoded_or_sent(
    browser: Any, service: str, reading_place: str | None, most: str
) -> None:
    heads = huge_heads()
    with opened(browser, service, reading_place) as (page, log):
        page.set_input_files("#files", [file(name, content) for name, content in heads.items()])
        page.wait_for_selector(f"#strip li:nth-child({len(heads)})[data-done=true]", timeout=LONG_MS)
        reason = f"it has 16000 x 16000 pixels, and {most} million; make it smaller"
        assert [(record["input"], record["error"]) for record in records(page)] == [(name, reason) for name in heads]
        assert not log.sent()


def test_the_size_of_a_picture_is_found_in_its_first_bytes(browser: Any, service: str) -> None:
    pixels = skimage.data.astronaut()[:300, :401]
    kinds: list[dict[str, Any]] = [
        {"format": "PNG"}, {"format": "GIF"}, {"format": "BMP"}, {"format": "JPEG"},
        {"format": "JPEG", "progressive": True, "icc_profile": bytes(200_000), "comment": b"c" * 60_000},
        {"format": "WEBP"}, {"format": "WEBP", "lossless": True}, {"format": "WEBP", "exif": b"Exif\0\0" + bytes(8)},
    ]  # fmt: skip
    find = "async (code) => (await import(`${location.origin}/files.js`)).sizeOf(await (await fetch(code)).blob())"
    contents: list[bytes] = []
    with opened(browser, service) as (page, _):
        page.route("**/picture-*", lambda route: route.fulfill(body=contents[int(route.request.url[-1])]))
        for options in kinds:
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, **options)
            contents.append(buffer.getvalue())
        sizes = [page.evaluate(find, f"picture-{number}") for number in range(len(kinds))]
        assert sizes == [[401, 300]] * len(kinds)
        contents = [b"", b"\x89PNG", b"\xff\xd8\xff", b"\xff\xd8\xff\xe0\0\x10", b"no picture" * 9]
        assert [page.evaluate(find, f"picture-{number}") for number in range(len(contents))] == [None] * len(contents)


def test_the_page_says_that_a_file_holds_more_pictures(browser: Any, service: str) -> None:
    pages = [Image.fromarray(skimage.data.astronaut()[top:, : 512 - top]) for top in (0, 8)]
    pages[1] = pages[1].resize(pages[0].size)
    single = [encoded(pages[:1], kind) for kind in ("GIF", "PNG", "WEBP", "AVIF", "JPEG")]
    several = [encoded(pages, kind) for kind in ("GIF", "PNG", "WEBP", "AVIF")]
    contents = [*single, *several, *(content[:40] for content in several[:3])]
    find = "async (url) => (await import(`${location.origin}/files.js`)).holdsSeveral(await (await fetch(url)).blob())"
    sentence = "only the first was read"
    with opened(browser, service) as (page, _):
        page.route("**/picture-*", lambda route: route.fulfill(body=contents[int(route.request.url.split("-")[-1])]))
        answers = [page.evaluate(find, f"picture-{number}") for number in range(len(contents))]
        assert answers == [False] * 5 + [True] * 4 + [False] * 3
        choose(page, file("one.gif", single[0]))
        assert sentence not in page.inner_text("#summary")
        choose(page, file("two.gif", several[0]))
        page.click("#strip li:nth-child(2) button")
        assert sentence in page.inner_text("#summary")
        assert page.locator("#stage canvas").count() == 1, "it does not move below the boxes of its first picture"
        assert [record.get("first_of_several") for record in records(page)] == [None, True]
    with opened(browser, service, "server") as (page, _):
        choose(page, file("two.tif", encoded(pages, "TIFF")))
        assert sentence in page.inner_text("#summary") and records(page)[0]["first_of_several"]


@pytest.mark.parametrize(
    "part",
    ["models/yunet.onnx", "models/mini-int8.onnx", "built/ort.wasm.min.js", "built/ort-wasm-simd-threaded.wasm",
     "reading/worker.js"],
)  # fmt: skip
def test_a_part_that_could_not_be_fetched_is_fetched_again_for_the_next_photo(
    browser: Any, service: str, astronaut: bytes, part: str
) -> None:
    context = browser.new_context()
    page = context.new_page()
    context.route(f"**/{part}", lambda route: route.fulfill(status=503, body=""))
    page.goto(service)
    page.wait_for_selector("#state:has-text('This tab cannot read pictures')", timeout=LONG_MS)
    context.unroute(f"**/{part}")
    choose(page, file("astronaut.png", astronaut, "image/png"))
    check_one_face(page)
    page.wait_for_selector("body[data-ready='tab mini-int8']", timeout=LONG_MS)
    assert page.inner_text("#problem") == ""
    context.close()


def test_a_photo_that_comes_before_the_page_knows_its_readers_waits(
    browser: Any, service: str, astronaut: bytes
) -> None:
    context = browser.new_context()
    page = context.new_page()
    held: list[Any] = []
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.route("**/built/models.json", lambda route: held.append(route))
    page.goto(service)
    page.set_input_files("#files", file("astronaut.png", astronaut, "image/png"))
    page.wait_for_selector("#visit:visible", timeout=LONG_MS)
    page.wait_for_timeout(300)
    assert not page.is_visible("#result") and not faults
    held[0].continue_()
    page.wait_for_selector(".face", timeout=LONG_MS)
    check_one_face(page)
    assert not faults
    context.close()


def test_after_a_worker_was_lost_the_next_photo_is_read(browser: Any, service: str, astronaut: bytes) -> None:
    lose = """async () => {
        const { currentReader } = await import("./places.js");
        const { worker } = currentReader().tab ?? currentReader();
        worker.dispatchEvent(new ErrorEvent("error", {message: "out of memory", cancelable: true}));
    }"""
    with opened(browser, service) as (page, _):
        for _ in range(2):
            page.evaluate(lose)
            choose(page, file("astronaut.png", astronaut, "image/png"))
            check_one_face(page)


def probabilities(page: Any) -> list[float]:
    """The probabilities of the only face in the latest record."""
    return list(records(page)[-1]["faces"][0]["probabilities"].values())


def test_answers_come_from_the_model_that_is_shown(browser: Any, service: str, astronaut: bytes) -> None:
    """Even if another one was chosen for a moment, whose network comes late."""
    expected = list(Recognizer("mini-int8").recognize(astronaut).faces[0].probabilities.values())
    held: list[Any] = []
    with opened(browser, service) as (page, _):
        page.context.route("**/models/nano-int8.onnx", lambda route: held.append(route))
        page.select_option("#where", "nano-int8")
        helpers.wait_until(page, lambda: held)
        page.select_option("#where", "mini-int8")
        page.wait_for_selector("body[data-ready='tab mini-int8']", timeout=LONG_MS)
        assert page.inner_text("#about-name") == "mini"
        choose(page, file("before.png", astronaut, "image/png"))
        assert probabilities(page) == pytest.approx(expected, abs=0.01)
        with page.expect_event("requestfinished", lambda request: "nano" in request.url, timeout=LONG_MS):
            held[0].continue_()
        page.wait_for_timeout(3000)  # nano is loaded now
        assert page.get_attribute("body", "data-ready") == "tab mini-int8"
        choose(page, file("after.png", astronaut, "image/png"))
        assert probabilities(page) == pytest.approx(expected, abs=0.01)
        page.select_option("#where", "nano-int8")
        choose(page, file("nano.png", astronaut, "image/png"))
        assert probabilities(page) != pytest.approx(expected, abs=0.01)
        assert "with nano-int8" in page.inner_text("#summary")


def heat_map(page: Any) -> str:
    page.click(".face button")
    page.wait_for_selector(".heat canvas", timeout=LONG_MS)
    return str(page.evaluate("document.querySelector('.heat canvas').toDataURL()"))


def test_a_heat_map_is_of_the_model_that_read_the_photo(browser: Any, service: str, astronaut: bytes) -> None:
    maps = []
    for place in (None, "nano-int8", "server"):
        with opened(browser, service) as (page, log):
            choose(page, file("astronaut.png", astronaut, "image/png"))
            if place is not None:
                page.select_option("#where", place)
                page.wait_for_selector(f"body[data-ready$='{place.replace('server', 'mini')}']", timeout=LONG_MS)
                page.click("#strip button")
            assert "with mini-int8" in page.inner_text("#summary")
            maps.append(heat_map(page))
            assert log.sent() == []
    assert maps[0] == maps[1] == maps[2]


@pytest.mark.parametrize(("place", "model"), [(None, "mini-int8"), ("server", "mini")])
def test_a_heat_map_lies_over_what_the_network_read_beyond_the_edge_of_the_photo_too(
    browser: Any, service: str, place: str | None, model: str
) -> None:
    photo = png(skimage.data.astronaut()[:, 215:])  # cuts the face in two
    (face,) = Recognizer(model).recognize(photo).faces
    assert face.box[0] == 0 and face.box[2] < 0.8 * face.box[3] and face.crop is not None
    with opened(browser, service, place) as (page, _):
        choose(page, file("cut.png", photo, "image/png"))
        data = base64.b64decode(heat_map(page).partition(",")[2])
    heat = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(float)
    ground = Image.fromarray(face.crop).convert("L").resize(heat.shape[:2], Image.Resampling.BILINEAR)
    expected = colours(np.zeros(heat.shape[:2]), 0.3 + 0.6 * np.asarray(ground) / 255)
    is_plain = np.ptp(heat, axis=2) < 12  # the pixels with nearly no colour
    assert is_plain.mean() > 0.05
    assert np.abs(heat - expected)[is_plain].mean() < 5


def test_a_photo_belongs_to_the_reader_that_was_asked(browser: Any, service: str, astronaut: bytes) -> None:
    """What was read in the tab is not sent for its heat map, although the server was chosen while it was read."""
    held: list[Any] = []
    context = browser.new_context()
    page, log = context.new_page(), Log()
    context.on("request", log.note)
    context.route("**/models/yunet.onnx", lambda route: held.append(route))
    page.goto(service)
    page.set_input_files("#files", [file("astronaut.png", astronaut, "image/png")])
    helpers.wait_until(page, lambda: held)
    page.select_option("#where", "server")
    page.wait_for_selector("body[data-ready='server mini']", timeout=LONG_MS)
    held[0].continue_()
    page.wait_for_selector(DONE, timeout=LONG_MS)
    assert "read in this tab with mini-int8" in page.inner_text("#summary")
    heat_map(page)
    assert log.sent() == []
    context.close()


@pytest.mark.parametrize("reading_place", [None, "server"])
def test_a_film_has_a_timeline(browser: Any, service: str, tmp_path: Path, reading_place: str | None) -> None:
    astronaut = skimage.data.astronaut()[:480]
    frames = [np.roll(astronaut, 2 * number, axis=1) for number in range(20)] + [np.full_like(astronaut, 90)] * 10
    with opened(browser, service, reading_place) as (page, log):
        choose(page, file("film.webm", helpers.film(frames, tmp_path / "film.webm"), "video/webm"))
        assert page.locator("#timeline figure").count() == 1, page.inner_text("main")
        assert page.locator(".thumb:visible").count() == (reading_place is None), "no empty square for a face"
        assert re.search(r"0:00\.\d to 0:0\d\.\d,", page.inner_text("#timeline figcaption"))
        answers = records(page)
        assert 14 <= len(answers) <= 16  # five a second; containers round the length
        counts = [len(record["faces"]) for record in answers]
        assert counts[:9] == [1] * 9 and counts[-3:] == [0] * 3
        assert {face["id"] for record in answers for face in record["faces"]} == {0}
        assert [record["frame"] for record in answers] == list(range(len(answers)))
        assert (log.sent() == []) == (reading_place is None)


def test_the_camera_asks_first_and_is_read_live(chromium: Any, service: str, tmp_path: Path) -> None:
    write_camera(tmp_path / "camera.y4m", frames=30)
    flags = (*helpers.browser.FLAGS, *CAMERA_FLAGS, f"--use-file-for-fake-video-capture={tmp_path / 'camera.y4m'}")
    browser = chromium.launch(executable_path=str(helpers.CHROMIUM), args=list(flags))
    with opened(browser, service) as (page, log):
        page.click("#use-camera")
        consent = page.inner_text("#consent")
        assert "has to be told" in consent and "article 5(1)(f)" in consent and "guess about a look" in consent
        assert page.locator("#stage video").count() == 0
        page.click("#start-camera")
        page.wait_for_selector(".box", timeout=LONG_MS)
        page.wait_for_selector(".face .bars li:nth-child(7)", timeout=LONG_MS)
        assert page.locator(".box").count() == 1
        assert float(page.get_attribute("#rate", "data-rate") or -1) >= 0
        page.click("#take-photo")
        page.wait_for_selector(DONE, timeout=LONG_MS)
        check_one_face(page)
        assert page.locator("#stage video").count() == 0
        assert log.sent() == []
    browser.close()


def held_requests(page: Any, files: list[Any]) -> list[Any]:
    """Gives files to the page, which reads on the server; returns the requests of its pictures, which wait."""
    requests: list[Any] = []
    page.route("**/v1/recognize", lambda route: requests.append(route))
    page.set_input_files("#files", files)
    helpers.wait_until(page, lambda: requests)
    return requests


@contextmanager
def first_answer_held(browser: Any, service: str) -> Iterator[tuple[Any, list[Any]]]:
    """The page, which reads on the server, and the requests of its pictures, of which the first gets no answer yet."""
    requests: list[Any] = []

    def hold(route: Any) -> None:
        requests.append(route)
        if len(requests) > 1:
            route.continue_()

    with opened(browser, service, "server") as (page, _):
        page.route("**/v1/recognize", hold)
        yield page, requests


@pytest.mark.parametrize("kind", ["photo", "film", "two photos"])
def test_what_was_forgotten_stays_forgotten_although_it_was_being_read(
    browser: Any, service: str, tmp_path: Path, astronaut: bytes, kind: str
) -> None:
    photo = file("astronaut.png", astronaut, "image/png")
    with first_answer_held(browser, service) as (page, requests):
        if kind == "film":
            frames = [skimage.data.astronaut()[:480]] * 10
            page.set_input_files(
                "#files", [file("film.webm", helpers.film(frames, tmp_path / "film.webm"), "video/webm")]
            )
        else:
            page.set_input_files("#files", [photo] * (2 if kind == "two photos" else 1))
        helpers.wait_until(page, lambda: requests)
        page.click("#forget")
        with page.expect_response("**/v1/recognize", timeout=LONG_MS):
            requests[0].continue_()
        page.wait_for_timeout(1000)
        assert not page.is_visible("#result") and not page.is_visible("#visit")
        assert page.locator("#stage img, #stage video, .box, .face, #strip li").count() == 0
        assert "astronaut" not in page.content() and "film.webm" not in page.content()
        assert len(requests) == 1, "what was forgotten is not sent"
        choose(page, photo)
        check_one_face(page)


@pytest.mark.parametrize("kind", ["photo", "film"])
def test_what_the_server_never_answers_holds_up_nothing_once_it_was_forgotten(
    browser: Any, service: str, tmp_path: Path, astronaut: bytes, kind: str
) -> None:
    photo = file("astronaut.png", astronaut, "image/png")
    film = helpers.film([skimage.data.astronaut()[:480]] * 10, tmp_path / "film.webm")
    with opened(browser, service, "server") as (page, _):
        held_requests(page, [photo if kind == "photo" else file("film.webm", film, "video/webm")])
        page.click("#forget")
        assert not page.is_visible("#film-tools")
        page.select_option("#where", "mini-int8")
        page.wait_for_selector("body[data-ready='tab mini-int8']", timeout=LONG_MS)
        choose(page, photo)
        check_one_face(page)


def test_a_film_that_was_forgotten_does_not_end_the_reading_of_the_next_one(
    browser: Any, service: str, tmp_path: Path
) -> None:
    film = file("film.webm", helpers.film([skimage.data.astronaut()[:480]] * 10, tmp_path / "film.webm"), "video/webm")
    with opened(browser, service, "server") as (page, _):
        requests = held_requests(page, [film])
        page.click("#forget")
        page.set_input_files("#files", [film])
        helpers.wait_until(page, lambda: len(requests) == 2)
        with page.expect_response("**/v1/recognize", timeout=LONG_MS):
            requests[0].continue_()
        page.wait_for_timeout(1000)
        assert page.is_visible("#stop-film")
        requests[1].continue_()
        helpers.wait_until(page, lambda: len(requests) == 3)
        page.click("#stop-film")
        page.wait_for_selector("#strip li[data-done=true]", timeout=LONG_MS)
        assert "it was stopped" in page.inner_text("#summary") and not page.is_visible("#film-tools")


def test_a_camera_that_was_started_runs_on_when_a_photo_was_read(
    chromium: Any, service: str, tmp_path: Path, astronaut: bytes
) -> None:
    write_camera(tmp_path / "camera.y4m", frames=30)
    flags = (*helpers.browser.FLAGS, *CAMERA_FLAGS, f"--use-file-for-fake-video-capture={tmp_path / 'camera.y4m'}")
    browser = chromium.launch(executable_path=str(helpers.CHROMIUM), args=list(flags))
    with first_answer_held(browser, service) as (page, requests):
        page.set_input_files("#files", [file("astronaut.png", astronaut, "image/png")])
        helpers.wait_until(page, lambda: requests)
        page.click("#use-camera")
        page.click("#start-camera")
        page.wait_for_selector(".box", timeout=LONG_MS)
        requests[0].continue_()
        page.wait_for_selector("#strip li[data-done=true]", timeout=LONG_MS)
        assert page.locator("#stage video").count() == 1 and page.is_visible("#stop-camera")
        page.click("#strip button")
        check_one_face(page)
        assert page.locator("#stage video").count() == 0 and not page.is_visible("#stop-camera")
    browser.close()


def test_a_waiting_photo_that_was_chosen_ends_the_camera_when_its_turn_comes(
    chromium: Any, service: str, tmp_path: Path, astronaut: bytes
) -> None:
    write_camera(tmp_path / "camera.y4m", frames=30)
    flags = (*helpers.browser.FLAGS, *CAMERA_FLAGS, f"--use-file-for-fake-video-capture={tmp_path / 'camera.y4m'}")
    browser = chromium.launch(executable_path=str(helpers.CHROMIUM), args=list(flags))
    with opened(browser, service, "server") as (page, _):
        requests = held_requests(page, [file(name, astronaut, "image/png") for name in ("a.png", "b.png")])
        page.route("**/v1/recognize", lambda route: route.continue_())  # the pictures of the camera
        page.click("#use-camera")
        page.click("#start-camera")
        page.wait_for_selector(".box", timeout=LONG_MS)
        page.evaluate("() => { window.cameraTrack = document.querySelector('#stage video').srcObject.getTracks()[0]; }")
        page.route("**/v1/recognize", lambda route: requests.append(route))
        page.click("#strip li:nth-child(2) button")
        assert page.get_attribute("#strip li:nth-child(2) button", "aria-current") == "true"
        requests[0].continue_()
        page.wait_for_selector("#result-title:has-text('b.png')", timeout=LONG_MS)
        assert not page.is_visible("#stop-camera") and page.locator(".box").count() == 0
        assert page.evaluate("window.cameraTrack.readyState") == "ended"
    browser.close()


def test_a_waiting_photo_that_was_chosen_stays_marked_when_another_one_was_read(
    browser: Any, service: str, astronaut: bytes
) -> None:
    with first_answer_held(browser, service) as (page, requests):
        page.set_input_files("#files", [file(name, astronaut, "image/png") for name in ("a.png", "b.png", "c.png")])
        helpers.wait_until(page, lambda: requests)
        page.wait_for_selector("#result-title:has-text('a.png')", timeout=LONG_MS)
        page.click("#strip li:nth-child(3) button")
        page.route("**/v1/recognize", lambda route: None)  # b.png has no answer
        requests[0].continue_()
        page.wait_for_selector("#strip li:nth-child(1)[data-done=true]", timeout=LONG_MS)
        assert page.get_attribute("#strip li:nth-child(3) button", "aria-current") == "true"
        assert page.locator("#strip [aria-current]").count() == 1


def test_a_photo_that_was_chosen_stays_when_another_one_was_read(browser: Any, service: str, astronaut: bytes) -> None:
    with opened(browser, service, "server") as (page, _):
        choose(page, file("first.png", astronaut, "image/png"))
        requests = held_requests(page, [file("second.png", astronaut, "image/png")])
        page.wait_for_selector("#result-title:has-text('second.png')", timeout=LONG_MS)
        page.click("#strip li:nth-child(2) button")  # it is shown already, and nothing is known of it yet
        page.click("#strip li:nth-child(1) button")
        requests[0].continue_()
        page.wait_for_selector("#strip li:nth-child(2)[data-done=true]", timeout=LONG_MS)
        assert page.inner_text("#result-title") == "first.png"


def test_a_photo_that_came_while_another_one_was_read_is_shown(browser: Any, service: str, astronaut: bytes) -> None:
    with first_answer_held(browser, service) as (page, requests):
        page.set_input_files("#files", [file("first.png", astronaut, "image/png")])
        helpers.wait_until(page, lambda: requests)
        page.wait_for_selector("#result-title:has-text('first.png')", timeout=LONG_MS)
        page.set_input_files("#files", [file("second.png", astronaut, "image/png")])
        requests[0].continue_()
        page.wait_for_selector("#strip li:nth-child(2)[data-done=true]", timeout=LONG_MS)
        assert page.inner_text("#result-title") == "second.png"


def test_what_is_saved_before_all_was_read_says_so(browser: Any, service: str, astronaut: bytes) -> None:
    with opened(browser, service, "server") as (page, _):
        requests = held_requests(page, [file(name, astronaut, "image/png") for name in ("first.png", "second.png")])
        assert page.inner_text("#visit-title") == "This visit: 0 of 2 read"
        for number, title, name in ((1, "This visit: 1 of 2 read", "mien-1-of-2.json"), (2, "This visit", "mien.json")):
            helpers.wait_until(page, lambda: requests)
            requests.pop().continue_()
            page.wait_for_selector(f"#strip li:nth-child({number})[data-done=true]", timeout=LONG_MS)
            assert page.inner_text("#visit-title") == title
            with page.expect_download(timeout=LONG_MS) as event:
                page.click("#save-all-json")
            assert event.value.suggested_filename == name
            assert len(json.loads(Path(event.value.path()).read_bytes())) == number


def test_a_film_that_is_read_can_be_left_and_stopped(
    browser: Any, service: str, tmp_path: Path, astronaut: bytes
) -> None:
    film = helpers.film([skimage.data.astronaut()[:480]] * 10, tmp_path / "film.webm")
    with opened(browser, service, "server") as (page, _):
        choose(page, file("photo.png", astronaut, "image/png"))
        requests = held_requests(page, [file("film.webm", film, "video/webm")])
        page.click("#strip li:nth-child(1) button")
        assert page.inner_text("#result-title") == "photo.png"
        page.click("#strip li:nth-child(2) button")
        assert page.inner_text("#result-title") == "film.webm" and page.locator("#stage video").count() == 1
        requests[0].continue_()
        helpers.wait_until(page, lambda: len(requests) == 2)
        page.click("#stop-film")  # without the answer that is under way
        page.wait_for_selector("#strip li:nth-child(2)[data-done=true]", timeout=LONG_MS)
        assert page.inner_text("#strip li:nth-child(2) .caption") == "read in part"
        assert "read at 1 moment; reading ended early: it was stopped" in page.inner_text("#summary")
        *read_records, last_record = records(page)[1:]
        assert [record["status"] for record in read_records] == ["ok"]
        assert last_record == {
            "input": "film.webm", "status": "error", "error": "reading ended early: it was stopped",
            "width": None, "height": None, "frame": 1, "time_s": None, "faces": [],
        }  # fmt: skip
        rows = list(csv.DictReader(io.StringIO(download(page, "#save-csv").decode())))
        assert [row["status"] for row in rows] == ["ok", "error"] and "stopped" in rows[-1]["error"]
        assert json.loads(download(page, "#save-json"))[-1] == last_record


def test_a_film_that_was_read_has_its_boxes_while_another_one_is_read(
    browser: Any, service: str, tmp_path: Path
) -> None:
    content = helpers.film([skimage.data.astronaut()[:480]] * 10, tmp_path / "film.webm")
    with opened(browser, service, "server") as (page, _):
        choose(page, file("first.webm", content, "video/webm"))
        held_requests(page, [file("second.webm", content, "video/webm")])
        page.click("#strip li:nth-child(1) button")
        assert page.inner_text("#result-title") == "first.webm"
        assert page.locator(".box").count() == 1 and page.locator(".face").count() == 1


def test_a_picture_of_a_film_that_comes_later_than_the_browser_says_is_waited_for(
    browser: Any, service: str, tmp_path: Path
) -> None:
    content = helpers.film([skimage.data.astronaut()[:480]] * 10, tmp_path / "film.webm")
    with opened(browser, service, "server") as (page, _):
        page.evaluate("""() => {
            const make = window.createImageBitmap;
            let early = 2;
            window.createImageBitmap = (source) => early-- > 0
              ? Promise.reject(new DOMException("The image source is not usable.", "InvalidStateError")) : make(source);
        }""")
        choose(page, file("film.webm", content, "video/webm"))
        assert {record["status"] for record in records(page)} == {"ok"}


FILMS = {
    "QuickTime.mov": b"\0\0\0\x08wide\0\0\1\0mdat",
    "piece.ts": b"\1\2" + 20 * (b"G" + bytes(187)),
    "camcorder.mts": 20 * (bytes(4) + b"G" + bytes(187)),
}


def test_a_film_without_a_name_in_its_first_bytes_is_no_damaged_picture(browser: Any, service: str) -> None:
    with opened(browser, service) as (page, _):
        page.set_input_files("#files", [file(name, content) for name, content in FILMS.items()])
        page.wait_for_selector(f"#strip li:nth-child({len(FILMS)})[data-done=true]", timeout=LONG_MS)
        assert all(str(record["error"]).startswith("this browser cannot play it") for record in records(page))


FILM_STAND_IN = """async () => {
    const { open } = await import(`${location.origin}/films.js`);
    window.film = Object.assign(new EventTarget(), { readyState: 0, seeking: false, videoWidth: 64, load() {} });
    window.opened = open(window.film, "film.webm").then(() => "opened", (error) => error.message);
}"""


def test_a_film_is_opened_without_an_event_and_given_up_after_a_minute(browser: Any, service: str) -> None:
    """Browsers need not tell of the last step, from a film's metadata to its picture."""
    with opened(browser, service) as (page, _):
        page.evaluate(FILM_STAND_IN)
        page.evaluate("() => { window.film.readyState = 2; }")
        assert page.evaluate("window.opened") == "opened"
        page.evaluate(FILM_STAND_IN)
        page.evaluate("() => window.film.dispatchEvent(new Event('error'))")
        assert page.evaluate("window.opened").startswith("this browser cannot play it")
        page.clock.install()
        page.evaluate(FILM_STAND_IN)
        page.clock.run_for(59_000)
        page.evaluate("() => { window.opened.then((answer) => { window.answer = answer; }); }")
        assert page.evaluate("window.answer") is None
        page.clock.run_for(2_000)
        assert page.evaluate("window.opened").startswith("this browser cannot play it")


def test_while_a_film_is_read_nobody_can_move_it(browser: Any, service: str, tmp_path: Path) -> None:
    frames = [skimage.data.astronaut()[:480]] * 10
    photo = file("film.webm", helpers.film(frames, tmp_path / "film.webm"), "video/webm")
    with first_answer_held(browser, service) as (page, requests):
        page.set_input_files("#files", [photo])
        helpers.wait_until(page, lambda: requests)
        assert page.locator("#stage video").count() == 1 and page.locator("#stage video[controls]").count() == 0
        requests[0].continue_()
        page.wait_for_selector(DONE, timeout=LONG_MS)
        assert page.locator("#stage video[controls]").count() == 1


@pytest.mark.parametrize("kind", ["photo", "film"])
def test_a_server_that_is_busy_is_told_apart_from_a_picture_that_cannot_be_read(
    browser: Any, service: str, tmp_path: Path, astronaut: bytes, kind: str
) -> None:
    busy = {"type": "/docs#busy", "title": "busy", "status": 503, "detail": "64 requests are being read"}
    film = helpers.film([skimage.data.astronaut()[:480]] * 10, tmp_path / "film.webm")
    with opened(browser, service, "server") as (page, _):
        page.route("**/v1/recognize", lambda route: route.fulfill(status=503, json=busy))
        choose(page, file("film.webm", film) if kind == "film" else file("astronaut.png", astronaut))
        assert page.inner_text("#problem") == "64 requests are being read."
        assert "NaN" not in page.inner_text("main") and page.inner_text("#strip .caption") == "cannot be read"
        page.unroute("**/v1/recognize")
        choose(page, file("broken.png", astronaut[:2000]))
        assert "Choose another file" in page.inner_text("#problem")


def test_a_busy_server_is_asked_again_when_it_says_so(browser: Any, service: str, astronaut: bytes) -> None:
    busy = {"type": "/docs#busy", "title": "busy", "status": 503, "detail": "64 requests are being read"}
    times: list[float] = []

    def answer(route: Any) -> None:
        times.append(time.monotonic())
        if len(times) == 1:
            route.fulfill(status=503, json=busy, headers={"Retry-After": "3"})
        else:
            route.continue_()

    with opened(browser, service, "server") as (page, _):
        page.route("**/v1/recognize", answer)
        choose(page, file("astronaut.png", astronaut))
        (milliseconds,) = re.findall(r"in (\d+) ms", page.inner_text("#summary"))
        assert len(times) == 2 and times[1] - times[0] > 2.9
        assert int(milliseconds) < 1000 * (time.monotonic() - times[0] - 2.5), "the wait is no reading"
        assert not page.is_visible("#problem") and page.inner_text("#strip .caption") != "cannot be read"


SHORT_LIMITS = """() => {
    const timeout = AbortSignal.timeout.bind(AbortSignal);
    AbortSignal.timeout = (limit) => { window.limit = limit; return timeout(300); };
}"""


def test_a_server_that_does_not_answer_is_given_up(browser: Any, service: str, astronaut: bytes) -> None:
    """After twice its time limit, for the picture and for the answer, and a margin."""
    with opened(browser, service, "server") as (page, _):
        page.evaluate(SHORT_LIMITS)
        page.route("**/v1/recognize", lambda route: None)
        choose(page, file("astronaut.png", astronaut, "image/png"))
        assert page.evaluate("window.limit") == 70_000
        assert "The server has not answered for 70 s; try again." in page.inner_text("#problem")
        assert "This tab reads pictures, too" in page.inner_text("#problem")


def test_the_camera_is_read_once_at_a_time_and_its_end_is_told(chromium: Any, service: str, tmp_path: Path) -> None:
    flags = (*helpers.browser.FLAGS, *CAMERA_FLAGS)
    browser = chromium.launch(executable_path=str(helpers.CHROMIUM), args=list(flags))
    with opened(browser, service, "server") as (page, _):
        requests: list[Any] = []
        page.route("**/v1/recognize", lambda route: requests.append(route))
        page.click("#use-camera")
        page.click("#start-camera")
        helpers.wait_until(page, lambda: len(requests) == 1)
        page.click("#live")
        page.click("#live")
        helpers.wait_until(page, lambda: len(requests) == 2)
        requests[0].continue_()
        page.wait_for_timeout(1500)
        assert len(requests) == 2, "the first run has ended"
        requests[1].continue_()
        helpers.wait_until(page, lambda: len(requests) == 3)
        end = "document.querySelector('#stage video').srcObject.getTracks()[0].dispatchEvent(new Event('ended'))"
        page.evaluate(f"() => {{ {end}; }}")
        assert "unplugged" in page.inner_text("#problem") and not page.is_visible("#camera-tools")
        page.click("#use-camera")
        page.click("#start-camera")
        page.wait_for_selector("#stop-camera", timeout=LONG_MS)
        page.focus("#stop-camera")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "use-camera"
        page.click("#use-camera")
        page.click("#start-camera")
        page.wait_for_selector("#stop-camera", timeout=LONG_MS)
        page.select_option("#where", "mini-int8")
        assert page.is_visible(".intro") and not page.is_visible("#result"), "no empty page is left"
    browser.close()


def test_a_camera_that_opens_after_it_was_given_up_is_closed(browser: Any, service: str, astronaut: bytes) -> None:
    with opened(browser, service, "server") as (page, _):
        page.evaluate("""() => {
            const stream = document.createElement("canvas").captureStream();
            window.cameraTrack = stream.getTracks()[0];
            navigator.mediaDevices.getUserMedia = () => new Promise((open) => (window.openCamera = () => open(stream)));
            HTMLMediaElement.prototype.play = () => Promise.reject(new Error("it shows nothing"));
        }""")
        page.click("#use-camera")
        page.click("#start-camera")
        helpers.wait_until(page, lambda: page.evaluate("Boolean(window.openCamera)"))
        choose(page, file("astronaut.png", astronaut, "image/png"))
        page.evaluate("window.openCamera()")
        helpers.wait_until(page, lambda: page.evaluate("window.cameraTrack.readyState") == "ended")
        assert not page.is_visible("#problem")


@pytest.mark.parametrize("error", ["NotFoundError", "OverconstrainedError"])  # of Chromium and Firefox, of WebKit
def test_the_page_says_that_there_is_no_camera(browser: Any, service: str, error: str) -> None:
    with opened(browser, service) as (page, _):
        refuse = "Promise.reject(Object.assign(new Error('Invalid constraint'), {name}))"
        page.evaluate(f"(name) => {{ navigator.mediaDevices.getUserMedia = () => {refuse}; }}", error)
        page.click("#use-camera")
        page.click("#start-camera")
        page.wait_for_selector("#problem:has-text('There is no camera; choose a photo instead')", timeout=LONG_MS)


def test_before_the_camera_starts_the_page_knows_where_its_pictures_go(browser: Any, service: str) -> None:
    held: list[Any] = []
    context = browser.new_context()
    page = context.new_page()
    page.route("**/built/**", lambda route: route.fulfill(status=404, body=""))
    page.route("**/v1/model", lambda route: held.append(route))
    page.goto(service)
    helpers.wait_until(page, lambda: held)
    page.click("#use-camera")
    page.wait_for_timeout(300)
    assert page.locator("#consent[open]").count() == 0
    assert "stay here" not in page.inner_text("#place-title")
    held[0].continue_()
    page.wait_for_selector("#consent[open]", timeout=LONG_MS)
    assert f"sent to {service.split('/')[2]}" in page.inner_text("#consent-place")
    context.close()


PHONE_CAMERA = """() => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 640, height: 480 });
    setInterval(() => canvas.getContext("2d").fillRect(0, 0, canvas.width, canvas.height), 50);
    navigator.mediaDevices.getUserMedia = () => Promise.resolve(canvas.captureStream());
    window.turn = () => { Object.assign(canvas, { width: 480, height: 640 }); };
}"""


def test_the_boxes_fit_the_picture_of_a_phone_that_is_turned(browser: Any, service: str) -> None:
    shape = "document.querySelector('#stage .frame').style.aspectRatio"
    with opened(browser, service) as (page, _):
        page.evaluate(PHONE_CAMERA)
        page.click("#use-camera")
        page.click("#start-camera")
        helpers.wait_until(page, lambda: page.evaluate(shape) == "640 / 480")
        page.evaluate("window.turn()")
        helpers.wait_until(page, lambda: page.evaluate("document.querySelector('#stage video').videoWidth") == 480)
        page.wait_for_timeout(300)
        assert page.evaluate(shape) == "480 / 640"


def test_without_a_reader_the_camera_does_not_start(browser: Any, service: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.route("**/built/**", lambda route: route.fulfill(status=404, body=""))
    page.route("**/v1/model", lambda route: route.fulfill(status=404, body=""))
    page.goto(service)
    page.wait_for_selector("#not-built:not([hidden])", timeout=LONG_MS)
    page.click("#use-camera")
    page.click("#start-camera")
    page.wait_for_selector("#problem:not([hidden])", timeout=LONG_MS)
    assert "Nothing here reads pictures" in page.inner_text("#problem")
    context.close()


def test_a_browser_that_stores_nothing_reads_too(browser: Any, service: str, astronaut: bytes) -> None:
    deny = "{ get() { throw new DOMException('Access is denied for this document.', 'SecurityError'); } }"
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script(f"Object.defineProperty(window, 'sessionStorage', {deny})")
    page.goto(service)
    page.wait_for_selector("body[data-ready='tab mini-int8']", timeout=LONG_MS)
    choose(page, file("astronaut.png", astronaut, "image/png"))
    check_one_face(page)
    context.close()


DROP = """([base64, isText]) => {
    const entry = (name, give) => ({isFile: true, name, fullPath: `/folder/${name}`, file: give});
    const good = new File([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], "good.png");
    const lists = [[
        entry("bad.jpg", (resolve, reject) => reject(new DOMException("gone", "NotFoundError"))),
        entry("good.png", (resolve) => resolve(good)),
        {name: "locked", fullPath: "/folder/locked", createReader: () => ({readEntries: (_, reject) => reject()})},
    ], []];
    const folder = {name: "folder", createReader: () => ({readEntries: (resolve) => resolve(lists.shift())})};
    const transfer = {types: ["Files"], files: [], items: [{webkitGetAsEntry: () => (isText ? null : folder)}]};
    const event = new Event("drop", {bubbles: true, cancelable: true});
    Object.defineProperty(event, "dataTransfer", {value: transfer});
    document.body.dispatchEvent(event);
}"""


def test_of_a_dropped_folder_what_cannot_be_opened_is_named_and_the_rest_is_read(
    browser: Any, service: str, astronaut: bytes
) -> None:
    with opened(browser, service) as (page, _):
        page.evaluate(DROP, ["", True])
        page.wait_for_selector("#state:has-text('no file')", timeout=LONG_MS)
        assert not page.is_visible("#visit")
        page.evaluate(DROP, [base64.b64encode(astronaut).decode(), False])
        page.wait_for_selector("#state:has-text('Ready')", state="attached", timeout=LONG_MS)
        page.wait_for_selector("#strip li:nth-child(3)[data-done=true]", timeout=LONG_MS)
        answers = {record["input"]: record for record in records(page)}
        assert list(answers) == ["folder/bad.jpg", "folder/good.png", "folder/locked"]
        assert [record["status"] for record in answers.values()] == ["error", "ok", "error"]
        assert "cannot open it" in answers["folder/bad.jpg"]["error"]


def test_a_picture_that_the_browser_cannot_show_cannot_be_saved(browser: Any, service: str) -> None:
    tiff = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()).save(tiff, format="TIFF")
    with opened(browser, service, "server") as (page, _):
        choose(page, file("astronaut.tiff", tiff.getvalue()))
        assert page.inner_text(".face .word") == "happy"
        assert page.is_disabled("#save-picture") and page.is_enabled("#save-json")


NOISE = """
const everyPixel = OffscreenCanvasRenderingContext2D.prototype.getImageData;
OffscreenCanvasRenderingContext2D.prototype.getImageData = function (...place) {
    const image = everyPixel.apply(this, place);
    image.data.forEach((_, index) => { image.data[index] = 256 * Math.random(); });
    return image;
};
"""
"""What Firefox does to a canvas with privacy.resistFingerprinting."""


def change_worker(context: Any, script: str) -> None:
    """Runs a script in the worker before its first task."""

    def change(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=script + answer.text())

    context.route("**/reading/worker.js", change)


@contextmanager
def opened_in_noise(browser: Any, service: str) -> Iterator[Any]:
    """The page in a browser that gives noise in place of pixels, and says already that the tab cannot read."""
    context = browser.new_context()
    change_worker(context, NOISE)
    context.add_init_script(NOISE)
    page = context.new_page()
    page.goto(service)
    page.wait_for_selector("#state:has-text('cannot read pictures: this browser gives pages noise')", timeout=LONG_MS)
    yield page
    context.close()


def test_noise_in_place_of_pixels_is_never_read(browser: Any, service: str, astronaut: bytes, tmp_path: Path) -> None:
    frames = [skimage.data.astronaut()[:480]] * 10
    with opened_in_noise(browser, service) as page:
        choose(page, file("astronaut.png", astronaut, "image/png"))
        problem = page.inner_text("#problem")
        assert "noise" in problem and "The server reads pictures, too" in problem
        page.select_option("#where", "server")
        choose(page, file("astronaut.png", astronaut, "image/png"))  # is sent as it is
        check_one_face(page)
        assert page.is_disabled("#save-picture")
        page.click(".face .quiet")
        page.wait_for_selector(".heat [role=alert]:has-text('noise')", timeout=LONG_MS)
        choose(page, file("film.webm", helpers.film(frames, tmp_path / "film.webm"), "video/webm"))
        assert "noise" in page.inner_text("#problem")
        answers = json.loads(download(page, "#save-all-json"))
        assert [record["status"] for record in answers] == ["error", "ok", "error"]


def test_a_browser_that_cannot_run_the_networks_says_what_to_do(browser: Any, service: str, astronaut: bytes) -> None:
    context = browser.new_context()
    change_worker(context, "delete self.WebAssembly;")
    page = context.new_page()
    page.goto(service)
    page.wait_for_selector("#state:has-text('switch WebAssembly on')", timeout=LONG_MS)
    assert not page.inner_text("#state").endswith("..")
    choose(page, file("astronaut.png", astronaut, "image/png"))
    assert "The server reads pictures, too" in page.inner_text("#problem")
    context.close()


def test_a_model_that_cannot_be_fetched_is_named(browser: Any, service: str) -> None:
    with opened(browser, service) as (page, _):
        page.context.route("**/models/nano-int8.onnx", lambda route: route.abort())
        page.select_option("#where", "nano-int8")
        page.wait_for_selector("#state:has-text('models/nano-int8.onnx cannot be fetched; check')", timeout=LONG_MS)


def changed_model(page: Any, **changes: Any) -> None:
    """Changes what the service says of its model."""

    def answer(route: Any) -> None:
        route.fulfill(json=route.fetch().json() | changes)

    page.route("**/v1/model", answer)
    page.route("**/built/**", lambda route: route.fulfill(status=404, body=""))


def test_a_wrong_key_can_be_typed_again(browser: Any, service: str, astronaut: bytes) -> None:
    sent_keys: list[str] = []

    def guarded(route: Any) -> None:
        sent_keys.append(route.request.headers.get("x-api-key", ""))
        if sent_keys[-1] == "right":
            route.continue_()
        else:
            route.fulfill(status=401, json={"type": "/docs#api-key", "detail": "send `X-API-Key: KEY`"})

    context = browser.new_context()
    page = context.new_page()
    changed_model(page, api_key_needed=True)
    page.route("**/v1/recognize", guarded)
    page.goto(service)
    page.wait_for_selector(READY, timeout=LONG_MS)
    for key, text in (("", "Nothing was sent"), ("ключ", "does not accept this key"),
                      ("wrong", "does not accept this key"), (" right", "")):  # fmt: skip
        page.set_input_files("#files", [file("astronaut.png", astronaut)])
        page.wait_for_selector("#key-dialog[open]", timeout=LONG_MS)
        page.fill("#key", key)
        page.click("#use-key")
        page.wait_for_selector(f"#problem:has-text('{text}')" if text else DONE, timeout=LONG_MS)
    check_one_face(page)
    assert sent_keys == ["wrong", "right"]
    context.close()


def test_without_the_key_a_folder_is_asked_for_it_once(browser: Any, service: str, astronaut: bytes) -> None:
    sent: list[Any] = []
    context = browser.new_context()
    page = context.new_page()
    changed_model(page, api_key_needed=True)
    page.route("**/v1/recognize", lambda route: sent.append(route))
    page.goto(service)
    page.wait_for_selector(READY, timeout=LONG_MS)
    photos = [file(f"{number}.png", astronaut, "image/png") for number in range(4)]
    for files, typed_key in ((photos[:3], ""), (photos[3:], "typed, and not used")):
        page.set_input_files("#files", files)
        page.wait_for_selector("#key-dialog[open]", timeout=LONG_MS)
        page.fill("#key", typed_key)
        page.keyboard.press("Escape")
        number = page.locator("#strip li").count()
        page.wait_for_selector(f"#strip li:nth-child({number})[data-done=true]", timeout=LONG_MS)
        assert page.locator("#key-dialog[open]").count() == 0
    assert not sent and all(record["error"].startswith("nothing was sent") for record in records(page))
    context.close()


def test_the_page_says_of_a_model_only_what_is_known(browser: Any, service: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    accuracy = {"split": "validation", "pictures": 90, "value": 0.5, "low": 0.4, "high": 0.6, "clean": None}
    changed_model(
        page, trained_on_fer2013=False, labels=["calm", "glad"], accuracy=accuracy, sure=None, card=None,
        scores={"names": ["calm", "glad"], "confusion": [[3, 1], [0, 0]]}, stated_accuracy=None, threshold=None,
    )  # fmt: skip
    page.goto(service)
    page.wait_for_selector(READY, timeout=LONG_MS)
    assert "which of 2 expressions" in page.inner_text(".lead") and "seven" not in page.inner_text(".intro")
    assert page.inner_text("#accuracy-text") == (
        "Of 100 faces, some of which it may know from training, it names about 50 as people had labelled them."
    )
    assert "near-copies" not in page.inner_text("#confusion"), "which of them have one is not known"
    assert "28,709" not in page.inner_text("#about") and "other faces" in page.inner_text("#trained-on")
    assert "FER2013" not in page.inner_text("#facts") and "NaN" not in page.inner_text("#confusion")
    context.close()


def test_a_model_that_is_never_sure_is_not_sure_in_films_either(browser: Any, service: str, tmp_path: Path) -> None:
    """Such a model was calibrated, but no threshold reached the accuracy that was asked for."""
    film = helpers.film([skimage.data.astronaut()[:480]] * 10, tmp_path / "film.webm")
    context = browser.new_context()
    page = context.new_page()
    changed_model(page, threshold=None, stated_accuracy=0.8, sure=None)
    page.goto(service)
    page.wait_for_selector(READY, timeout=LONG_MS)
    assert "“not sure” of every answer" in page.inner_text("#accuracy-text")
    choose(page, file("film.webm", film, "video/webm"))
    assert page.inner_text(".face .word") == "not sure"
    assert {face["uncertain"] for record in records(page) for face in record["faces"]} == {True}
    context.close()


def test_the_start_page_promises_no_more_than_the_clean_score(browser: Any, service: str) -> None:
    with opened(browser, service) as (page, _):
        assert "that it cannot know it names about 65 as" in page.inner_text("#accuracy-text")
        assert "at least 80 in 100" in page.inner_text("#accuracy-text")
        assert "on other photos it may be less" in page.inner_text("#accuracy-text")
        assert "28,709" in page.inner_text("#trained-on") and "which of seven" in page.inner_text(".lead")
        for table in ("#confusion", "#robustness"):  # what the shipped int8 form did not do itself
            assert "before the weights were rounded" in page.inner_text(table)
            assert "near-copies of training pictures included" in page.inner_text(table)
        assert "(validation, which also chose the model" in page.locator("#facts").text_content()


def test_a_page_that_was_built_again_is_not_mixed_with_what_the_browser_keeps(browser: Any, tmp_path: Path) -> None:
    helpers.need_built()
    builder._write_static(helpers.PAGE / "built", tmp_path / "mien", builder.model_files())
    for path in tmp_path.rglob("*"):
        os.utime(path, (1_600_000_000, 1_600_000_000))  # so old that browsers think it will not change soon
    with helpers.folder_served(tmp_path) as address, opened(browser, f"{address}mien/") as (page, _):
        models = tmp_path / "mien/built/models.json"
        models.write_text(models.read_text("utf-8").replace('"mini"', '"built again"'), "utf-8")
        page.goto("about:blank")
        page.goto(f"{address}mien/")
        page.wait_for_selector(READY, timeout=LONG_MS)
        assert page.inner_text("#about-name") == "built again"


def test_a_picture_can_be_pasted_and_dropped(browser: Any, service: str, astronaut: bytes) -> None:
    script = """async ([bytes, kind]) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([Uint8Array.from(bytes)], `${kind}.png`, {type: "image/png"}));
        const event = kind === "paste" ? new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true})
            : new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true});
        document.body.dispatchEvent(event);
    }"""
    with opened(browser, service) as (page, _):
        for number, kind in enumerate(("paste", "drop"), 1):
            page.evaluate(script, [list(astronaut), kind])
            page.wait_for_selector(f"#strip li:nth-child({number}) [aria-label$='1 face']", timeout=LONG_MS)


def test_the_keyboard_is_enough(browser: Any, service: str, astronaut: bytes) -> None:
    def focused(page: Any) -> str:
        return str(page.evaluate("document.activeElement.id || document.activeElement.className"))

    with opened(browser, service) as (page, _):
        # Playwright tells the browser to hand over file choosers without waiting for it; a key right after it may be
        # faster, so a first listener asks early.
        page.on("filechooser", lambda chooser: None)
        for _ in range(12):
            page.keyboard.press("Tab")
            if focused(page) == "choose":
                break
        with page.expect_file_chooser() as chooser:
            page.keyboard.press("Enter")
        chooser.value.set_files([file("astronaut.png", astronaut, "image/png")])
        page.wait_for_selector(DONE, timeout=LONG_MS)
        reached_elements = []
        for _ in range(12):
            page.keyboard.press("Tab")
            reached_elements.append(focused(page))
            if reached_elements[-1].startswith("box"):
                break
        assert {"use-camera", "save-picture", "save-json", "save-csv"} <= set(reached_elements), reached_elements
        page.keyboard.press("Enter")
        assert page.locator(".face.is-chosen").count() == 1
        page.focus(".face button")
        page.keyboard.press("Enter")
        page.wait_for_selector(".heat canvas", timeout=LONG_MS)
        assert focused(page) == "" and page.evaluate("document.activeElement.localName") == "canvas"  # not lost
        page.focus("#use-camera")
        page.keyboard.press("Enter")
        assert page.locator("#consent[open]").count() == 1
        page.keyboard.press("Escape")
        assert page.locator("#consent[open]").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_has_no_serious_finding(browser: Any, service: str, astronaut: bytes, scheme: str, width: int) -> None:
    if not helpers.AXE.is_file():
        pytest.skip("axe-core is not installed; npm ci")
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": 900}, reduced_motion="reduce", bypass_csp=True
    )
    page = context.new_page()
    page.goto(service)
    page.wait_for_selector(READY, timeout=LONG_MS)
    page.evaluate(helpers.AXE.read_text("utf-8"))
    check_accessible(page, "start")
    choose(page, file("astronaut.png", astronaut, "image/png"))
    page.click(".face button")
    page.wait_for_selector(".heat canvas", timeout=LONG_MS)
    page.click("summary")
    check_accessible(page, "result")
    choose(page, file("notes.txt", b"Not a picture.\n"))
    check_accessible(page, "problem")
    page.click("#use-camera")
    check_accessible(page, "consent")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than the window"
    context.close()


def test_nothing_is_cut_on_a_phone(browser: Any, service: str) -> None:
    plain = png(np.full((48, 64, 3), 128, np.uint8))
    with opened(browser, service) as (page, _):
        page.set_viewport_size({"width": 360, "height": 800})
        ends = page.locator("caption").evaluate_all("nodes => nodes.map(node => node.getBoundingClientRect().right)")
        assert len(ends) == 2 and max(ends) <= 360, ends
        page.click("summary")
        for number in page.locator(".card table td:nth-child(2)").all():
            assert number.bounding_box()["x"] < 200, "a long name of a row leaves no room for its number"
        for number in range(6):
            choose(page, file(f"{number}.png", plain, "image/png"))
        left, right = page.locator("#strip [aria-current=true]").evaluate(
            "node => [node.getBoundingClientRect().left, node.getBoundingClientRect().right]"
        )
        assert 0 <= left < right <= 360, "the tile of what is shown is in view"
        page.click("#use-camera")
        box = page.locator("#consent").bounding_box()
        assert box["x"] > 0 and box["x"] + box["width"] < 360, "the page is seen around a dialog"


def check_accessible(page: Any, state: str) -> None:
    violations = page.evaluate("axe.run().then(({violations}) => violations)")
    serious_violations = [
        (violation["id"], [node["html"][:120] for node in violation["nodes"]][:3])
        for violation in violations
        if violation["impact"] in ("serious", "critical")
    ]
    assert not serious_violations, (state, serious_violations)


def test_the_first_load_is_at_most_eight_megabytes() -> None:
    helpers.need_built()
    files = [path.read_bytes() for path in helpers.PAGE.rglob("*") if path.is_file()]
    files += [content for name, content in builder.model_files().items() if name in ("yunet", "mini-int8")]
    assert sum(len(gzip.compress(content, 6)) for content in files) <= 8_000_000


def test_the_lockfile_pins_every_package_and_names_no_registry() -> None:
    lock = json.loads((helpers.ROOT / "package-lock.json").read_text("utf-8"))
    packages = [values for name, values in lock["packages"].items() if name]
    assert packages and all(values["integrity"].startswith("sha512-") for values in packages)
    assert not any("resolved" in values for values in packages)


def test_the_page_names_no_other_host() -> None:
    addresses = [
        (path.name, word)
        for path in helpers.PAGE.rglob("*")
        if path.suffix in (".html", ".css", ".js") and "built" not in path.parts
        for word in path.read_text("utf-8").split()
        if "://" in word
    ]
    allowed_addresses = ("http://www.w3.org/2000/svg", "https://protobuf.dev")
    assert [(name, word) for name, word in addresses if not any(address in word for address in allowed_addresses)] == []
