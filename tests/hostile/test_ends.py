"""The ends of a process: signals, closed streams, full disks, too little memory; and archives that would end it."""

from __future__ import annotations

import csv
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from data_helpers import encode, noise, write_folder, write_zip
from hostile_helpers import Whole, error_of, mien, run_mien
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from recognition_helpers import Mean, picture

import mien.__main__ as entry
from mien.data.fetch import fetch
from mien.data.images import decode
from mien.data.read import read_faces
from mien.data.sources import DEEPEST
from mien.errors import MienError
from mien.recognition.detection import Detection
from mien.recognition.formats import csv_table
from mien.recognition.recognizer import Recognizer
from mien.recognition.results import Face, Recognition
from mien.recognition.training_set import crop_set

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.fixture(autouse=True)
def signals_as_a_terminal_leaves_them() -> Iterator[None]:
    """A shell starts what runs in the background with SIGINT ignored, nohup with SIGHUP, and both stay so."""
    former_handlers = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in former_handlers.items():
        signal.signal(number, handler)


class Signalling(Whole):
    """Sends this process a signal when it looks at the third picture."""

    def __init__(self, number: signal.Signals) -> None:
        self.number, self.calls = number, 0

    def detect(self, picture: np.ndarray) -> list[Detection]:
        self.calls += 1
        if self.calls == 3:
            signal.raise_signal(self.number)
        return super().detect(picture)


def photos(folder: Path, count: int = 5) -> Path:
    return write_folder(folder, {f"happy/{index}.png": encode(noise(index, 40)) for index in range(count)})


READ = ["0.png", "1.png"]
"""The photos that were read when the signal comes, at the third."""


class TestSignals:
    @pytest.mark.parametrize("output", ["csv", "parquet", "annotate", "json"])
    @pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
    def test_whole_records_and_no_temporary_files(
        self, number: signal.Signals, output: str, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        if output == "parquet":
            pytest.importorskip("pyarrow")

        def build(*arguments: Any, **options: Any) -> Recognizer:
            return Recognizer(detector=Signalling(number), engine=Mean(), batch_size=1)

        monkeypatch.setattr("mien.recognition.recognizer.Recognizer", build)
        out = tmp_path / "out"
        out.mkdir()
        choices: dict[str, list[object]] = {
            "csv": ["--csv", out / "a.csv"], "parquet": ["--parquet", out / "a.parquet"],
            "annotate": ["--annotate", out], "json": ["--json"],
        }  # fmt: skip
        assert mien("predict", photos(tmp_path / "photos"), *choices[output]) == SIGNALS[number]
        captured = capsys.readouterr()
        message = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
        assert captured.err.splitlines()[-1] == f"mien: {message}" and captured.err.count("\n") == 1
        assert not [entry.name for entry in out.iterdir() if entry.name.startswith(".")]
        if output == "csv":
            rows = list(csv.reader((out / "a.csv").open(encoding="utf-8")))
            assert [Path(row[0]).name for row in rows[1:]] == READ and all(len(row) == len(rows[0]) for row in rows)
        elif output == "parquet":
            import pyarrow.parquet

            rows = pyarrow.parquet.read_table(out / "a.parquet").to_pylist()
            assert [Path(row["input"]).name for row in rows] == READ
        elif output == "annotate":
            assert {path.name: Image.open(path).size for path in out.iterdir()} == dict.fromkeys(READ, (40, 40))
        else:
            records = [json.loads(line) for line in captured.out.splitlines()]
            assert [Path(record["input"]).name for record in records] == READ
            assert all(record["status"] == "ok" for record in records)
        assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)

    @pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
    def test_crop_leaves_nothing(self, number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mien.recognition.detectors.detector", lambda *_: Signalling(number))
        source, box = photos(tmp_path / "photos"), tmp_path / "box"
        assert mien("data", "crop", source, "--out", box / "set") == SIGNALS[number]
        assert not box.exists() or not list(box.iterdir())

    def test_an_ignored_signal_stays_ignored(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        former_handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
        try:
            monkeypatch.setattr("mien.recognition.detectors.detector", lambda *_: Signalling(signal.SIGHUP))
            assert mien("data", "crop", photos(tmp_path / "photos"), "--out", tmp_path / "set") == 0
        finally:
            signal.signal(signal.SIGHUP, former_handler)

    def test_ctrl_c_before_the_command_stands(self, monkeypatch: pytest.MonkeyPatch) -> None:
        handlers: list[Any] = []

        def main() -> int:
            handlers.append(signal.getsignal(signal.SIGINT))
            return 0

        monkeypatch.setattr("mien.cli.main", main)
        former_handler = signal.getsignal(signal.SIGINT)
        try:
            assert entry.run() == 0
        finally:
            signal.signal(signal.SIGINT, former_handler)
        assert handlers == [signal.SIG_DFL]  # ends without a traceback


class TestStreams:
    @pytest.mark.parametrize("closed_streams", [["stdout"], ["stderr"], ["stdout", "stderr"]], ids="+".join)
    def test_predict(self, closed_streams: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            "mien.recognition.recognizer.Recognizer", lambda *a, **k: Recognizer(detector=Whole(), engine=Mean())
        )
        source = photos(tmp_path / "photos")
        for options in ([], ["--json"], ["--csv", tmp_path / "a.csv"]):
            with monkeypatch.context() as patch:
                for name in closed_streams:
                    patch.setattr(sys, name, None)
                assert mien("predict", source, *options) == 0
        assert len((tmp_path / "a.csv").read_text().splitlines()) == 6

    def test_a_process(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        for command, code in (("--version", 0), ("data inspect nosuch.zip", 2)):
            text = f'exec "$0" -m mien {command} >&- 2>&-'
            completed = subprocess.run(["sh", "-c", text, sys.executable], env=environment, timeout=60)
            assert completed.returncode == code


def test_a_full_disk_leaves_whole_rows(tmp_path: Path) -> None:
    face = Face((0.0, 0.0, 1.0, 1.0), "calm", 0.9, {"calm": 0.9, "glad": 0.1}, None, None)
    record = Recognition("photo.jpg", "ok", None, 1, 1, (face, face))
    former_limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, former_limits[1]))
    try:
        with pytest.raises(MienError, match="File too large"), csv_table(tmp_path / "a.csv", ["calm", "glad"]) as add:
            for _ in range(100):
                add(record)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former_limits)
    text = (tmp_path / "a.csv").read_text()
    rows = list(csv.reader(text.splitlines()))
    assert text.endswith("\n") and len(rows) > 3 and len(rows) % 2 == 1 and {len(row) for row in rows} == {len(rows[0])}


def test_decoders_say_nothing_beside_the_records(tmp_path: Path) -> None:
    """libtiff writes lines of its own to stderr."""
    stream = io.BytesIO()
    Image.fromarray(noise(0, 64)).save(stream, "TIFF", compression="tiff_lzw")
    data = stream.getvalue()
    (tmp_path / "b.tif").write_bytes(data[:8] + bytes(3000) + data[3008:])
    completed = run_mien("predict", tmp_path, "--detector", "none")
    assert (
        completed.returncode == 3 and completed.stdout.count("\n") == 1 and "b.tif: is a truncated" in completed.stdout
    ), completed.stdout
    assert not completed.stderr


class TestMemory:
    def test_too_little_is_told_as_that(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        original = PngImageFile.load

        def load(self: PngImageFile) -> Any:
            if self.size == (26, 26):
                raise MemoryError
            return original(self)

        monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
        large, small = encode(noise(0, 26)), encode(picture())
        with pytest.raises(MienError, match="needs more memory than there is left") as error:
            decode(large, "large.png")
        assert "remove" not in str(error.value)
        records = Recognizer(detector=Whole(), engine=Mean()).recognize([large, small])
        assert [record.status for record in records] == ["error", "ok"]
        assert "needs more memory" in str(records[0].error) and "remove" not in str(records[0].error)

    def test_a_device_is_not_to_be_removed(self) -> None:
        record = Recognizer(detector=Whole(), engine=Mean()).recognize("/dev/null")
        assert "no regular file" in str(record.error) and "remove" not in str(record.error)


class TestCrop:
    def test_one_bad_photo_ends_nothing(self, tmp_path: Path) -> None:
        photo = encode(noise(0, 40))
        source = write_zip(tmp_path / "photos.zip", {"happy/a.png": photo, "happy/b.png": photo, "sad/c.png": photo})
        data = bytearray(source.read_bytes())
        with zipfile.ZipFile(source) as archive:
            info = archive.getinfo("happy/a.png")
        offset = info.header_offset + 30 + len(info.filename) + 20
        data[offset] ^= 0xFF
        source.write_bytes(data)
        records = crop_set(source, tmp_path / "set", Whole(), size=20)
        assert [len(record.crops) for record in records] == [0, 1, 1]
        assert "cannot be read from the archive" in str(records[0].reason)

    @pytest.mark.parametrize("kind", ["folder", "zip"])
    def test_a_photo_of_33_mb(self, kind: str, tmp_path: Path) -> None:
        members = {"happy/a.png": encode(noise(0, 40)) + bytes(33 * 2**20)}
        write = write_folder if kind == "folder" else write_zip
        records = crop_set(write(tmp_path / "photos.zip", members), tmp_path / "set", Whole(), size=20)
        assert [len(record.crops) for record in records] == [1]


class TestArchives:
    @pytest.mark.parametrize("name", ["d/" * 16_000 + "a.png", "d/" * (DEEPEST + 1) + "a.png", "x" * 5000 + "/a.png"])
    def test_deep_and_long_paths(self, name: str, tmp_path: Path) -> None:
        source = write_zip(tmp_path / "deep.zip", {name: encode(noise(0)), name + "b.png": encode(noise(1))})
        started = time.monotonic()
        line = error_of("data", "inspect", source)
        assert "folders deep" in line and len(line) < 500 and time.monotonic() - started < 5

    def test_what_is_as_deep_as_may_be(self, tmp_path: Path) -> None:
        name = "d/" * (DEEPEST - 2) + "happy/a.png"
        assert len(read_faces(write_zip(tmp_path / "set.zip", {name: encode(noise(0))}), cache=False)) == 1


def test_fetch_follows_no_link_out_of_the_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "s.png").write_bytes(b"secret")
    hub = write_folder(tmp_path / "hub", {"train/sad/a.png": encode(noise(0)), "train/sad/b.png": encode(noise(1))})
    (hub / "train/sad/evil.png").symlink_to(tmp_path / "secret")
    (hub / "train/happy").symlink_to(tmp_path / "more")
    (hub / "train/sad/inner.png").symlink_to(hub / "train/sad/a.png")
    module = ModuleType("kagglehub")
    module.dataset_download = lambda handle: str(hub)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kagglehub", module)
    monkeypatch.setattr("mien.data.fetch.answers", lambda endpoint: True)
    with zipfile.ZipFile(fetch(tmp_path / "archive.zip")) as archive:
        assert archive.namelist() == ["train/sad/a.png", "train/sad/b.png", "train/sad/inner.png"]
        assert not any(archive.read(name) == b"secret" for name in archive.namelist())
    assert "left out 2 links that lead out of the download" in capsys.readouterr().err
