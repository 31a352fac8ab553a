"""Films and cameras: a record for every frame, steady numbering and memory, no half-written files."""

from __future__ import annotations

import gc
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from film_helpers import (
    HEIGHT,
    WIDTH,
    number_of,
    numbered,
    picture,
    write,
)
from recognition_helpers import encoded

from mien.errors import MienError
from mien.recognition.draw import COLOURS
from mien.recognition.engine import Answers
from mien.recognition.film import reader as camera
from mien.recognition.film.reader import LOST, About, about, frames
from mien.recognition.film.records import recognize_film
from mien.recognition.film.writer import check_film, write_annotated
from mien.recognition.results import Face, Recognition

NAMES = ("happy", "sad")


def numbers(path: Path, **options: Any) -> list[int]:
    """The numbers in the frames of a film."""
    return [number_of(row.pixels) for row in frames(path, **options) if row.pixels is not None]


def damage(path: Path, first: int, count: int) -> Path:
    """Zeros in the place of some frames of an MPEG-4 film."""
    data = bytearray(path.read_bytes())
    pieces = bytes(data).split(b"\x00\x00\x01\xb6")  # what a frame begins with, ISO 14496-2, 6.2.5
    starts = np.cumsum([len(pieces[0]), *(4 + len(piece) for piece in pieces[1:])])
    end = data.rindex(b"moov") - 4 if first + count == len(pieces) - 1 else starts[first + count]
    data[starts[first] : end] = bytes(end - starts[first])
    path.write_bytes(data)
    return path


class Network:
    """What of an engine the reading of films asks for."""

    names, image_size, grey, threshold, stated_accuracy = NAMES, 20, False, 0.6, 0.8

    def read(self, crops: np.ndarray) -> Answers:
        raise AssertionError("the recognizer reads")


class RedSquares:
    """Finds the red square of a frame; it is happy in even frames and sad in odd ones."""

    def __init__(self) -> None:
        self.engine = Network()
        self.batches: list[int] = []

    def recognize(self, given: list[Any], color: str | None = None) -> list[Recognition]:
        assert color == "rgb"
        self.batches.append(len(given))
        return [self._read(pixels, index) for index, pixels in enumerate(given)]

    def _read(self, pixels: np.ndarray, index: int) -> Recognition:
        red = (pixels[10:, :, 0] > 180) & (pixels[10:, :, 2] < 80)
        if red.sum() < 200:
            return Recognition(f"picture {index}", "no_face", width=WIDTH, height=HEIGHT, pixels=pixels)
        rows, columns = np.nonzero(red)
        box = (float(columns.min()), float(rows.min() + 10), float(np.ptp(columns) + 1), float(np.ptp(rows) + 1))
        happy = 1.0 if number_of(pixels) % 2 == 0 else 0.0
        label = "happy" if happy else "sad"
        found = Face(box, label, 1.0, {"happy": happy, "sad": 1 - happy}, False, 7.0)
        return Recognition(f"picture {index}", "ok", width=WIDTH, height=HEIGHT, faces=(found,), pixels=pixels)


class Quick(RedSquares):
    """Finds the same face in every frame."""

    def _read(self, pixels: np.ndarray, index: int) -> Recognition:
        found = Face((20.0, 20.0, 30.0, 30.0), "sad", 0.9, {"happy": 0.1, "sad": 0.9}, False)
        return Recognition(f"picture {index}", "ok", faces=(found,), pixels=pixels)


class TestFrames:
    @pytest.mark.parametrize("name", ["film.mp4", "film.avi", "film.mkv", "a film: with % and #.mp4"])
    @pytest.mark.parametrize("rate", [25.0, 29.97])
    def test_every_frame_has_its_number_and_its_time(self, name: str, rate: float, tmp_path: Path) -> None:
        path = numbered(tmp_path / name, 40, rate=Fraction(rate).limit_denominator(1001))
        rows = list(frames(path))
        assert [row.index for row in rows] == [number_of(row.pixels) for row in rows if row.pixels is not None]
        assert [row.index for row in rows] == list(range(40))
        assert [row.time_s for row in rows] == pytest.approx([index / rate for index in range(40)], abs=1e-3)
        told = about(path)
        assert told.rate == pytest.approx(rate, rel=1e-3)
        assert (told.frames, told.width, told.height) == (40, WIDTH, HEIGHT)

    def test_pixels_are_rgb(self, tmp_path: Path) -> None:
        row = next(frames(numbered(tmp_path / "film.mp4", 3)))
        assert row.pixels is not None and row.pixels.dtype == np.uint8 and row.pixels.shape == (HEIGHT, WIDTH, 3)
        red, green, blue = row.pixels[40, 10].tolist()
        assert red > 200 and green < 60 and blue < 60

    def test_every_seventh_keeps_its_number(self, tmp_path: Path) -> None:
        rows = list(frames(numbered(tmp_path / "film.mp4", 40), every=7))
        assert [row.index for row in rows] == [0, 7, 14, 21, 28, 35]
        assert [number_of(row.pixels) for row in rows if row.pixels is not None] == [0, 7, 14, 21, 28, 35]
        assert [row.time_s for row in rows] == pytest.approx([index / 25 for index in range(0, 40, 7)])
        with pytest.raises(ValueError, match="expected at least 1, got 0"):
            frames(tmp_path / "film.mp4", every=0)

    @pytest.mark.parametrize(("first", "count"), [(5, 1), (30, 4), (0, 2), (78, 2), (79, 1)])
    def test_damaged_frames_have_rows_and_the_others_keep_their_numbers(
        self, first: int, count: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        rows = list(frames(damage(numbered(tmp_path / "film.mp4", 80), first, count)))
        assert [row.index for row in rows] == list(range(80))
        assert [row.time_s for row in rows] == pytest.approx([index / 25 for index in range(80)])
        lost = [row.index for row in rows if row.pixels is None]
        assert lost == list(range(first, first + count))
        assert {rows[index].reason for index in lost} == {LOST}
        # Every twelfth frame stands for itself, and ends the traces that damage leaves.
        traces = range(first, 12 * ((first + count - 1) // 12 + 1))
        for row in rows:
            assert row.pixels is None or row.index in traces or number_of(row.pixels) == row.index
        assert capfd.readouterr().err == ""

    def test_a_film_that_was_cut_short_says_so_at_its_end(self, tmp_path: Path) -> None:
        path = numbered(tmp_path / "film.avi", 30)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        rows = list(frames(path))
        assert [row.index for row in rows] == list(range(len(rows))) and 10 < len(rows) < 20
        # Of the last frame a half is there.
        assert all(row.pixels is not None for row in rows[:-2]) and rows[-2].reason == LOST and rows[-1].pixels is None
        assert str(rows[-1].reason).startswith("the film is cut short: ")

    @pytest.mark.parametrize(
        ("name", "data", "told"),
        [
            ("missing.mp4", None, "cannot be read (No such file or directory)"),
            ("empty.mp4", b"", "is empty; replace or remove the file"),
            ("text.mp4", b"hello\n" * 100, "is not a film that can be read, expected MP4, MOV, AVI"),
            ("text.txt", b"hello\n" * 100, "is not a film that can be read"),
            ("list.m3u8", b"#EXTM3U\n#EXTINF:10,\nfilm.mp4\n#EXT-X-ENDLIST\n", "is not a film that can be read"),
            ("list.ffconcat", b"ffconcat version 1.0\nfile film.mp4\n", "is not a film that can be read"),
            ("picture.mp4", encoded(picture(0)), "is not a film that can be read"),
            (".", None, "is no regular file"),
        ],
    )
    def test_what_is_no_film_is_told_on_one_line(
        self, name: str, data: bytes | None, told: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        numbered(tmp_path / "film.mp4", 3)
        if data is not None:
            (tmp_path / name).write_bytes(data)
        for look in (about, lambda path: list(frames(path))):
            with pytest.raises(MienError) as caught:
                look(tmp_path / name)
            assert str(caught.value).startswith(f"{tmp_path / name}: ") and told in str(caught.value)
            assert "\n" not in str(caught.value)
        assert capfd.readouterr().err == ""

    def test_a_film_of_which_nothing_can_be_decoded(self, tmp_path: Path) -> None:
        path = numbered(tmp_path / "film.mp4", 5)
        data = bytearray(path.read_bytes())
        start = data.index(b"mdat") + 4
        end = data.rindex(b"moov") - 4
        data[start:end] = bytes(end - start)
        path.write_bytes(data)
        assert [(row.index, row.pixels) for row in frames(path)] == [(index, None) for index in range(5)]

    def test_a_film_without_a_frame_is_refused(self, tmp_path: Path) -> None:
        whole = numbered(tmp_path / "film.avi", 1).read_bytes()
        (tmp_path / "film.avi").write_bytes(whole[: whole.index(b"movi") + 4])
        with pytest.raises(MienError, match=r"film\.avi: (holds no frame|is not a film)"):
            list(frames(tmp_path / "film.avi"))


class TestCamera:
    """FFmpeg's own test pattern stands in for a camera: it is opened and read as one."""

    @pytest.fixture(autouse=True)
    def pattern(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(camera, "_CAMERA_PAUSE_S", 0.0)
        sources = {0: "testsrc2=size=96x64:rate=25:duration=0.12", 1: "testsrc2=size=96x64:rate=25:duration=0"}
        system = camera._device
        monkeypatch.setattr(
            camera, "_device", lambda number: (sources[number], "lavfi", {}) if number in sources else system(number)
        )

    def test_one_that_is_not_there(self, capfd: pytest.CaptureFixture[str]) -> None:
        for number in (97, -1, 200):
            for look in (about, lambda number: next(frames(number))):
                with pytest.raises(MienError, match=f"camera {number}: cannot be opened; check that it is there"):
                    look(number)
        assert capfd.readouterr().err == ""

    def test_its_frames_are_numbered_and_its_end_is_told(self) -> None:
        rows = list(frames(0))
        assert [row.index for row in rows] == [0, 1, 2, 3] and rows[0].time_s == 0
        assert [row.time_s for row in rows] == sorted(row.time_s for row in rows)
        assert [None if row.pixels is None else row.pixels.shape for row in rows] == [(64, 96, 3)] * 3 + [None]
        assert rows[3].reason == "the camera gives no more pictures"
        assert [row.index for row in frames(0, every=2)] == [0, 2, 3]
        assert about(0) == About(25.0, None, 96, 64)

    def test_one_that_gives_nothing(self) -> None:
        with pytest.raises(MienError, match="camera 1: gives no picture"):
            list(frames(1))

    def test_frames_are_read_one_by_one(self) -> None:
        recognizer = Quick()
        records = list(recognize_film(recognizer, 0))
        assert recognizer.batches == [1, 1, 1]
        assert {record.input for record in records} == {"camera 0"}
        assert [record.status for record in records] == ["ok", "ok", "ok", "error"]

    @pytest.mark.parametrize(
        ("system", "device"),
        [("linux", ("/dev/video3", "v4l2")), ("darwin", ("3", "avfoundation")), ("win32", ("video=Cam 3", "dshow"))],
    )
    def test_each_system_has_its_own_name_for_it(
        self, system: str, device: tuple[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Device:
            def __init__(self, name: str, kind: str) -> None:
                self.name, self.media_types = name, [kind]

        listed = [Device("Microphone", "audio"), *(Device(f"Cam {number}", "video") for number in range(4))]
        monkeypatch.setattr(av.device, "enumerate_input_devices", lambda name: listed)
        monkeypatch.setattr(camera.sys, "platform", system)
        found = camera._device(3)
        assert found is not None and found[:2] == device


class TestRecords:
    def test_every_frame_has_its_record(self, tmp_path: Path) -> None:
        path, recognizer = numbered(tmp_path / "film.mp4", 20), RedSquares()
        records = list(recognize_film(recognizer, path, smoothing=0))
        assert recognizer.batches == [8, 8, 4]
        assert [record.frame for record in records] == list(range(20))
        assert [record.time_s for record in records] == pytest.approx([index / 25 for index in range(20)])
        assert {(record.input, record.status, record.width, record.height) for record in records} == {
            (str(path), "ok", WIDTH, HEIGHT)
        }
        assert [record.faces[0].label for record in records] == ["happy", "sad"] * 10
        assert {record.faces[0].id for record in records} == {0} and records[0].pixels is None
        for index, record in enumerate(records):
            assert record.faces[0].box[0] == pytest.approx(index, abs=3)

    def test_batches_change_nothing(self, tmp_path: Path) -> None:
        path = numbered(tmp_path / "film.mp4", 20)
        one, many = (list(recognize_film(RedSquares(), path, batch=batch)) for batch in (1, 20))
        assert one == many

    def test_smoothing_and_threshold(self, tmp_path: Path) -> None:
        records = list(recognize_film(RedSquares(), numbered(tmp_path / "film.mp4", 3), smoothing=0.25))
        kept = float(np.exp(-0.04 / 0.25))
        happy = [1.0, kept, kept**2 + 1 - kept]
        assert [record.faces[0].probabilities["happy"] for record in records] == pytest.approx(happy)
        assert records[1].faces[0].label == "happy" and not records[1].faces[0].uncertain

    def test_damaged_frames_are_records_and_the_face_keeps_its_id(self, tmp_path: Path) -> None:
        path = damage(numbered(tmp_path / "film.mp4", 80), 30, 4)
        records = list(recognize_film(RedSquares(), path, keep_pixels=True))
        assert [record.frame for record in records] == list(range(80))
        lost = [record for record in records if record.status == "error"]
        assert lost and all(record.error and record.pixels is None and not record.faces for record in lost)
        assert all(record.pixels is not None for record in records if record.status != "error")
        assert lost[0].record()["frame"] == lost[0].frame and lost[0].record()["error"] == lost[0].error

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"batch": 0}, "batch: expected at least 1"),
            ({"every": 0}, "every:"),
            ({"smoothing": -1}, "smoothing:"),
        ],
    )
    def test_wrong_settings_are_refused_at_once(self, options: dict[str, Any], told: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=told):
            recognize_film(RedSquares(), numbered(tmp_path / "film.mp4", 1), **options)

    def test_no_decoded_frame_waits_for_the_clean_up_of_python(self, tmp_path: Path) -> None:
        """They are large and made outside of Python, so that what waits there would be many megabytes."""
        path = numbered(tmp_path / "film.mp4", 300)
        list(frames(path))
        gc.collect()
        gc.disable()
        try:
            for _ in frames(path):
                pass
            assert gc.collect() < 100
        finally:
            gc.enable()

    def test_memory_does_not_grow_with_the_film(self, tmp_path: Path) -> None:
        path, count = tmp_path / "film.avi", 2000
        shown = [picture(number) for number in range(20)]
        write(path, (shown[number % 20] for number in range(count)), "mjpeg", pixels="yuvj420p")
        held, peaks = [], []
        tracemalloc.start()
        try:
            for record in recognize_film(Quick(), path):
                if record.frame in (499, count - 1):
                    now, peak = tracemalloc.get_traced_memory()
                    held.append(now)
                    peaks.append(peak)
                    tracemalloc.reset_peak()
        finally:
            tracemalloc.stop()
        assert record.frame == count - 1 and record.time_s == pytest.approx((count - 1) / 25)
        # A batch may be held at one time and not at the other; 1,500 frames would be 28 MB.
        assert abs(held[1] - held[0]) < 10 * WIDTH * HEIGHT * 3
        assert peaks[1] < peaks[0] + 10 * WIDTH * HEIGHT * 3


def records(count: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Iterator[Recognition]:
    for number in range(count):
        pixels = picture(number)[: size[1], : size[0]]
        found = Face((20.0, 26.0, 30.0, 30.0), "sad", 0.9, {"happy": 0.1, "sad": 0.9}, False)
        yield Recognition("film", "ok", faces=(found,), frame=number, time_s=number / 25, pixels=pixels)


class TestAnnotated:
    @pytest.mark.parametrize("name", ["out.mp4", "out.avi", "OUT.MP4"])
    @pytest.mark.parametrize("rate", [25.0, 29.97, 0.02])
    def test_every_frame_is_written_once(self, name: str, rate: float, tmp_path: Path) -> None:
        path = tmp_path / "new" / name
        with write_annotated(path, rate) as add:
            for record in records(30):
                add(replace(record, time_s=(record.frame or 0) / rate))
            assert not path.exists()
        rows = list(frames(path))
        assert [number_of(row.pixels) for row in rows if row.pixels is not None] == list(range(30))
        told = about(path)
        assert (told.width, told.height, len(rows)) == (WIDTH, HEIGHT, 30)
        assert [row.time_s for row in rows] == pytest.approx([index / rate for index in range(30)], rel=1e-3)
        pixels = rows[0].pixels
        assert pixels is not None
        red, _, blue = pixels[55, 25:45].mean(axis=0)
        assert COLOURS["sad"] == (72, 132, 220) and blue - red > 30  # lossy, on grey ground, and one pixel wide
        assert [entry.name for entry in path.parent.iterdir()] == [name]

    def test_after_ctrl_c_what_was_written_can_be_played(self, tmp_path: Path) -> None:
        path = tmp_path / "out.mp4"
        with pytest.raises(KeyboardInterrupt), write_annotated(path, 25) as add:
            for record in records(30):
                if record.frame == 17:
                    raise KeyboardInterrupt
                add(record)
        assert [row.index for row in frames(path)] == list(range(17))
        assert list(tmp_path.iterdir()) == [path]

    def test_after_an_error_there_is_no_film_and_the_former_one_stays(self, tmp_path: Path) -> None:
        path = tmp_path / "out.mp4"
        path.write_text("the former one")
        for error in (MienError("the model is broken"), RuntimeError("a fault")):
            with pytest.raises(type(error)), write_annotated(path, 25) as add:
                for record in records(5):
                    add(record)
                raise error
        with pytest.raises(KeyboardInterrupt), write_annotated(path, 25):
            raise KeyboardInterrupt
        assert path.read_text() == "the former one" and list(tmp_path.iterdir()) == [path]

    def test_frames_that_could_not_be_decoded_keep_the_time(self, tmp_path: Path) -> None:
        def lost(number: int) -> Recognition:
            return Recognition("film", "error", "damaged", frame=number, time_s=number / 25)

        first, second, third = records(3)
        with write_annotated(tmp_path / "out.avi", 25) as add:
            for record in (lost(0), first, second, lost(3), third):
                add(record)
        shown = [row.pixels for row in frames(tmp_path / "out.avi")]
        assert len(shown) == 5 and shown[0] is not None and shown[0].max() < 10
        assert [number_of(pixels) for pixels in shown if pixels is not None] == [0, 0, 1, 1, 2]

    def test_odd_sides_lose_a_pixel(self, tmp_path: Path) -> None:
        with write_annotated(tmp_path / "out.mp4", 25) as add:
            for record in records(2, (95, 63)):
                add(record)
            for record in records(2):
                add(record)
        found = about(tmp_path / "out.mp4")
        assert (found.width, found.height, found.frames) == (94, 62, 4)

    def test_what_cannot_be_written_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(MienError, match=r"out\.webm: cannot be written as a film, expected a name that ends in"):
            check_film(tmp_path / "out.webm")
        (tmp_path / "file").write_text("")

        def tried(path: Path, record: Recognition, rate: float = 25) -> None:
            with write_annotated(path, rate) as add:
                add(record)

        with pytest.raises(MienError, match="was not written, as no frame could be decoded"):
            tried(tmp_path / "out.mp4", Recognition("film", "error", "damaged", frame=0, time_s=0.0))
        with pytest.raises(MienError, match=r"out\.mp4: cannot be written"):
            tried(tmp_path / "file" / "out.mp4", next(records(1)))
        with pytest.raises(
            MienError, match=r"out\.mp4: cannot be written as a film of 0 frames a second, expected 0.01"
        ):
            tried(tmp_path / "out.mp4", next(records(1)), rate=0)
        with pytest.raises(ValueError, match="ask recognize_film for keep_pixels=True"):
            tried(tmp_path / "out.mp4", Recognition("film", "no_face", frame=0, time_s=0.0))
        assert [entry.name for entry in tmp_path.iterdir()] == ["file"]

    def test_a_full_disk_is_told_and_leaves_nothing(self, tmp_path: Path) -> None:
        """A limit on the size of files stands in for a disk that is full."""
        code = f"""
import resource
from pathlib import Path
from test_video import records
from mien.errors import MienError
from mien.recognition.film.writer import check_film, write_annotated
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    with write_annotated(Path({str(tmp_path / "out.avi")!r}), 25) as write:
        for record in records(200):
            write(record)
except MienError as error:
    print(error)
"""
        place = Path(__file__).parent
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=place, timeout=120)
        assert done.stdout == f"{tmp_path / 'out.avi'}: cannot be written (File too large); choose another place\n", (
            done
        )
        assert list(tmp_path.iterdir()) == []
