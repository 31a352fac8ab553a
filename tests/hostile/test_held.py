"""What held when it was attacked first, so that it goes on holding: pictures, archives, weights, pages, odd homes.

Memory is measured as the growth of this process's peak; every picture here is made in place, of at most a few MB.
"""

from __future__ import annotations

import io
import json
import os
import re
import resource
import socket
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import synthetic_faces
from data_helpers import encode, noise, write_zip
from hostile_helpers import Whole, mien, write_classifier
from recognition_helpers import Mean, picture

from mien.data.read import read_faces
from mien.errors import MienError
from mien.evaluation import figures, style
from mien.evaluation.evaluate import evaluate
from mien.evaluation.report import PAGE, write_report
from mien.model.classifier import Classifier
from mien.recognition.recognizer import Recognizer

MOST_GROWTH = 600 * 2**20
"""Bytes by which the peak may grow over one picture; none here has more than 1,000 pixels a side when decoded."""


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes, width: int = 24, height: int = 24, pixels: bytes | None = None) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes((width + 1) * height)) if pixels is None else pixels
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tiff(entries: list[tuple[int, int, int, int]], next_offset: int = 0) -> bytes:
    table = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8) + table + struct.pack("<I", next_offset) + bytes(64)


def jpeg_of(segments: bytes) -> bytes:
    data = encode(noise(0, 24), "JPEG")
    return data[:2] + segments + data[2:]


def exif(body: bytes) -> bytes:
    data = b"Exif\0\0" + body
    return b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data


ZEROS = zlib.compress(bytes(200 * 2**20), 9)
LOOP = tiff([(0x8769, 4, 1, 8), (0x8825, 4, 1, 8), (0xA005, 4, 1, 8)], 8)
STRIPS = [(256, 4, 1, 24), (257, 4, 1, 24), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (278, 4, 1, 1)]

PICTURES: dict[str, Callable[[], bytes]] = {
    "zTXt of 200 MB": lambda: png(chunk(b"zTXt", b"k\0\0" + ZEROS)),
    "iTXt of 200 MB": lambda: png(chunk(b"iTXt", b"k\0\1\0\0\0" + ZEROS)),
    "iCCP of 200 MB": lambda: png(chunk(b"iCCP", b"k\0\0" + ZEROS)),
    "pixels of 200 MB": lambda: png(pixels=ZEROS),
    "100,000 chunks": lambda: png(*[chunk(b"tEXt", b"k\0v")] * 100_000),
    "EXIF that loops": lambda: jpeg_of(exif(LOOP)),
    "EXIF of 5,000 tags of 16 MB": lambda: jpeg_of(exif(tiff([(n, 1, 2**24, 8) for n in range(5000)]))),
    "2,000 ICC segments": lambda: jpeg_of(
        b"".join(b"\xff\xe2\0\x14ICC_PROFILE\0" + bytes([1 + n % 255, 255]) + b"xx" for n in range(2000))
    ),
    "a header of 2^31": lambda: png(width=2**31 - 1, height=2**31 - 1, pixels=b""),
    "a bitmap of 2^31": lambda: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24,
                                                    0, 0, 0, 0, 0, 0),
    "a TIFF whose pages loop": lambda: tiff([*STRIPS, (273, 4, 1, 8), (279, 4, 1, 576)], 8),
    "a TIFF of 2^30 strips": lambda: tiff([*STRIPS, (273, 4, 2**30, 8), (279, 4, 2**30, 8)]),
    "PostScript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
    "an icon": lambda: b"\0\0\1\0\1\0" + bytes(16) + png(),
    "a PDF": lambda: b"%PDF-1.4\n1 0 obj<<>>endobj\n",
    "text with numbers": lambda: b"P3\n24 24\n255\n" + b"9" * 1_000_000,
    "an SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="/etc/passwd"/></svg>',
    "a WebP cut short": lambda: encode(noise(0, 24), "WEBP")[:60],
    "a GIF of one colour": lambda: encode(noise(0, 24), "GIF")[:100],
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Tag data larger")
@pytest.mark.parametrize("make", PICTURES.values(), ids=PICTURES)
def test_pictures(make: Callable[[], bytes]) -> None:
    data = make()
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    first, second = Recognizer(detector=Whole(), engine=Mean()).recognize([data, picture()], "gray")
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_before) * 1024
    assert second.status == "ok" and growth < MOST_GROWTH
    if first.status == "error":
        assert "\n" not in str(first.error) and len(str(first.error)) < 500
    else:
        assert (first.width, first.height) == (24, 24)


def test_files_of_other_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in a folder of pictures without being one: each is a record, and none is waited for."""
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "dead.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(2**40)
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # the path of a socket holds 107 letters
        server.bind("socket.png")
        paths = sorted(tmp_path.iterdir())
        records = Recognizer(detector=Whole(), engine=Mean()).recognize([*paths, encode(picture())])
    assert [record.status for record in records] == ["error"] * len(paths) + ["ok"]
    assert all("\n" not in str(record.error) for record in records)


class TestArchives:
    def test_links_and_archives_within_are_bytes(self, tmp_path: Path) -> None:
        source = tmp_path / "set.zip"
        with zipfile.ZipFile(source, "w") as archive:
            link = zipfile.ZipInfo("sad/link.png")
            link.create_system, link.external_attr = 3, 0o120777 << 16
            archive.writestr(link, "/etc/passwd")
            archive.writestr("sad/a.png", encode(noise(0)))
        with pytest.raises(MienError, match=r"link.png: is not a picture"):
            read_faces(source, cache=False)
        inner = io.BytesIO()
        with zipfile.ZipFile(inner, "w") as archive:
            archive.writestr("sad/a.png", encode(noise(0)))
        with pytest.raises(MienError, match="holds no picture"):
            read_faces(write_zip(tmp_path / "nested.zip", {"sad/inner.zip": inner.getvalue()}), cache=False)

    def test_10_000_members(self, tmp_path: Path) -> None:
        source = write_zip(tmp_path / "set.zip", {f"sad/{index}.png": b"" for index in range(10_000)})
        with pytest.raises(MienError, match=r"0.png: is empty"):
            read_faces(source, cache=False)


class TestWeights:
    @pytest.mark.parametrize(
        "data",
        [struct.pack("<Q", 2**62), struct.pack("<Q", 90 * 2**20) + b"{" * 1000, b"", struct.pack("<Q", 2) + b"{}",
         struct.pack("<Q", 60) + b'{"x":{"dtype":"F32","shape":[4611686018427387904],"data_off', b"\x80\x04K\x01."],
        ids=["2^62", "90 MB", "empty", "no weights", "cut", "pickle"],
    )  # fmt: skip
    def test_safetensors(self, data: bytes, tmp_path: Path) -> None:
        folder = write_classifier(tmp_path / "model")
        (folder / "model.safetensors").write_bytes(data)
        with pytest.raises(MienError, match="weights") as error:
            Classifier.load(folder)
        assert "\n" not in str(error.value)

    def test_code_beside_them_is_not_run(self, tmp_path: Path) -> None:
        folder = write_classifier(tmp_path / "model")
        for name in ("modeling_evil.py", "configuration_evil.py", "__init__.py", "conftest.py"):
            (folder / name).write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')")
        config = json.loads((folder / "config.json").read_text())
        config["auto_map"] = {"AutoConfig": "configuration_evil.Evil", "AutoModel": "modeling_evil.Evil"}
        (folder / "config.json").write_text(json.dumps(config))
        Classifier.load(folder)
        assert not (tmp_path / "pwned").exists()


def test_a_report_runs_no_script(tmp_path: Path) -> None:
    names = ("<img src=x onerror=alert(1)>", r"$\foo{$", "</script><svg onload=alert(2)>")
    network = Classifier.load(write_classifier(tmp_path / "model", names))
    faces = synthetic_faces({"train": 30, "validation": 30}, names=names)
    ids = np.array([f"<svg onload=alert({index})>.png" for index in range(len(faces))])
    object.__setattr__(faces, "ids", ids)
    name = "<script>alert(3)</script>"
    evaluation = evaluate(network, faces, "validation", training=None, quiet=True, model=name)
    write_report(tmp_path / "report", evaluation)
    page = (tmp_path / "report" / PAGE).read_text(encoding="utf-8")
    assert not re.search(r"<(img src=x|svg onload|script>alert)", page)
    assert "Content-Security-Policy" in page and re.search(r"(default|script)-src 'none'", page)


def test_odd_names_draw() -> None:
    figure = figures.confusion_matrix([[1, 0], [0, 1]], ("$\\foo{$", "\\x^_"), theme=style.LIGHT)
    assert style.png(figure).startswith(b"\x89PNG")


EVENTS: list[str] = []


@pytest.fixture(scope="module")
def events_seen() -> Iterator[list[str]]:
    """What this process asks of the network, and which programs it starts."""
    active = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if active and event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec"):
            EVENTS.append(f"{event} {str(arguments)[:100]}")

    sys.addaudithook(hook)
    yield EVENTS
    active = False


def test_no_network_and_no_program(events_seen: list[str], tmp_path: Path) -> None:
    events_seen.clear()
    (tmp_path / "photo.png").write_bytes(encode(noise(0, 64)))
    assert mien("predict", tmp_path / "photo.png", "--detector", "none", "--csv", tmp_path / "a.csv") == 0
    folder = write_classifier(tmp_path / "model", ("happy", "sad"))
    members = {f"{split}/{name}/{index}.png": encode(noise(index, 16)) for split in ("train", "val") for index, name in
               enumerate(("happy", "sad"))}  # fmt: skip
    source = write_zip(tmp_path / "set.zip", members)
    assert mien("evaluate", folder, "--data", source, "--split", "validation", "--out", tmp_path / "report") == 0
    assert not [event for event in events_seen if "ldconfig" not in event]


@pytest.mark.parametrize(
    "changes",
    [{"HOME": None}, {"HOME": "/nonexistent"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"}],
    ids=["no HOME", "a HOME that is not there", "latin-1"],
)
def test_odd_surroundings(changes: dict[str, str | None], tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment |= {name: value for name, value in changes.items() if value is not None}
    for name, value in changes.items():
        if value is None:
            del environment[name]
    environment.pop("MIEN_CACHE", None)
    if "HOME" in changes:
        environment["XDG_CACHE_HOME"] = str(tmp_path)
    source = write_zip(tmp_path / "セット.zip", {f"{name}/a.png": encode(noise(index)) for index, name in
                                              enumerate(("happy", "грусть"))})  # fmt: skip
    if changes.get("HOME") is None and "HOME" in changes:
        environment["MIEN_CACHE"] = str(tmp_path / "cache")  # else root's own home would get one
    options: list[list[str]] = [[], ["--json"]]
    for extra in options:
        command = [sys.executable, "-m", "mien", "data", "inspect", str(source), *extra]
        completed = subprocess.run(command, env=environment, capture_output=True, timeout=60)
        assert completed.returncode == 0 and b"Traceback" not in completed.stderr, completed.stderr
    assert set(json.loads(completed.stdout)["splits"]["train"]["classes"]) == {"happy", "грусть"}
