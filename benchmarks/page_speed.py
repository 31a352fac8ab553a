"""Measures the page in headless Chromium: ``python benchmarks/page_speed.py`` after ``make page``.

Prints the size of the first load, the time from a portrait of 1,024 pixels to its answer, and the frames a second that
the camera is read at, by default on one thread. The portrait is scikit-image's astronaut; the camera is Chromium's fake
device, which plays the same portrait at 30 frames a second.
"""

from __future__ import annotations

import argparse
import gzip
import io
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import skimage.data
from browser import CHROMIUM, FLAGS, mien_served
from PIL import Image
from playwright.sync_api import Page, sync_playwright

WARM_UP = 5
"""Readings before those that are measured: the browser compiles what is used often a second time."""


@contextmanager
def browser_page(address: str, flags: tuple[str, ...] = ()) -> Iterator[Page]:
    """Opens the page in headless Chromium and waits until it can read."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=[*FLAGS, *flags])
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("body[data-ready]", timeout=120_000)
        yield page
        browser.close()


def portrait(side: int, kind: str) -> bytes:
    """The astronaut as the bytes of a square picture."""
    image = Image.fromarray(skimage.data.astronaut()).resize((side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, format=kind, quality=90)
    return buffer.getvalue()


def write_camera(path: Path, frames: int = 60, width: int = 640, height: int = 480) -> None:
    """Writes an uncompressed film (YUV4MPEG2, 30 frames a second) of the astronaut, who moves from side to side."""
    picture = Image.fromarray(skimage.data.astronaut()).resize((height, height))
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F30:1 Ip A1:1 C420jpeg\n".encode())
        for frame in range(frames):
            canvas = Image.new("RGB", (width, height), (120, 120, 120))
            canvas.paste(picture, (round((width - height) * (1 - abs(2 * frame / frames - 1))), 0))
            luma, blue, red = (np.asarray(plane) for plane in canvas.convert("YCbCr").split())
            file.write(b"FRAME\n" + luma.tobytes() + blue[::2, ::2].tobytes() + red[::2, ::2].tobytes())


def first_load(address: str) -> int:
    """Returns the bytes of all files that the page loads before its first answer, each compressed by gzip."""
    addresses: set[str] = set()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        context = browser.new_context()
        context.on("response", lambda response: addresses.add(response.url))
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("body[data-ready]", timeout=120_000)
        sizes = [len(gzip.compress(context.request.get(url).body(), 9)) for url in sorted(addresses)]
        browser.close()
    return sum(sizes)


def answer_times(page: Page, picture: bytes, count: int) -> list[float]:
    """Milliseconds from the file to the answer on the page, for each of ``count`` readings."""
    times = []
    for _ in range(WARM_UP + count):
        page.set_input_files("#files", {"name": "portrait.jpg", "mimeType": "image/jpeg", "buffer": picture})
        page.wait_for_selector("#tools:not([hidden])", timeout=60_000)
        times.append(float(page.evaluate("performance.getEntriesByName('mien-answer').at(-1).duration")))
        page.click("#forget")
    return times[WARM_UP:]


def camera_rates(page: Page, seconds: int) -> list[float]:
    """Frames a second that the camera is read at, once a second."""
    page.click("#use-camera")
    page.click("#start-camera")
    page.wait_for_selector("#rate[data-rate]", timeout=60_000)
    page.wait_for_timeout(5_000)
    rates = []
    for _ in range(seconds):
        page.wait_for_timeout(1_000)
        rates.append(float(page.get_attribute("#rate", "data-rate") or 0))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--count", type=int, default=20, help="portraits that are measured")
    parser.add_argument("--seconds", type=int, default=10, help="for which the camera is measured")
    options = parser.parse_args()
    with mien_served() as address, tempfile.TemporaryDirectory() as folder:
        print(f"first load: {first_load(address) / 1e6:.2f} MB by gzip")
        film = Path(folder) / "camera.y4m"
        write_camera(film)
        device = (
            "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-video-capture={film}",
        )  # fmt: skip
        with browser_page(f"{address}?threads={options.threads}", device) as page:
            times = answer_times(page, portrait(1024, "JPEG"), options.count)
            rates = camera_rates(page, options.seconds)
    print(f"portrait of 1,024 px: median {statistics.median(times):.0f} ms, fastest {min(times):.0f}, "
          f"slowest {max(times):.0f}, of {len(times)}; {options.threads} thread(s)")  # fmt: skip
    print(f"camera: median {statistics.median(rates):.1f} frames/s, least {min(rates):.1f}")


if __name__ == "__main__":
    main()
