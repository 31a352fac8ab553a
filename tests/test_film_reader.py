"""Films and cameras: a row for every frame, steady numbering, and one line for what is no film."""

from __future__ import annotations

import gc
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from film_helpers import HEIGHT, WIDTH, damage, number_of, numbered, picture
from recognition_helpers import encoded

from mien.errors import MienError
from mien.recognition.film import reader as camera
from mien.recognition.film.reader import LOST, FilmInfo, film_info, frames


def numbers(path: Path, **options: Any) -> list[int]:
    """The numbers in the frames of a film."""
    return [number_of(row.pixels) for row in frames(path, **options) if row.pixels is not None]


class TestFrames:
    @pytest.mark.parametrize("name", ["film.mp4", "film.avi", "film.mkv", "a film: with % and #.mp4"])
    @pytest.mark.parametrize("rate", [25.0, 29.97])
    def test_every_frame_has_its_number_and_its_time(self, name: str, rate: float, tmp_path: Path) -> None:
        path = numbered(tmp_path / name, 40, rate=Fraction(rate).limit_denominator(1001))
        rows = list(frames(path))
        assert [row.index for row in rows] == [number_of(row.pixels) for row in rows if row.pixels is not None]
        assert [row.index for row in rows] == list(range(40))
        assert [row.time_s for row in rows] == pytest.approx([index / rate for index in range(40)], abs=1e-3)
        info = film_info(path)
        assert info.rate == pytest.approx(rate, rel=1e-3)
        assert info.frames == 40

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
        lost_frames = [row.index for row in rows if row.pixels is None]
        assert lost_frames == list(range(first, first + count))
        assert {rows[index].reason for index in lost_frames} == {LOST}
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

    def test_a_film_that_was_written_to_a_pipe_is_whole(self, tmp_path: Path) -> None:
        path = numbered(tmp_path / "film.avi", 30)
        data = path.read_bytes()
        path.write_bytes(data[:4] + b"\xff\xff\xff\xff" + data[8:])  # a length that is not known, as FFmpeg leaves it
        assert [(row.index, row.reason) for row in frames(path)] == [(index, None) for index in range(30)]

    @pytest.mark.parametrize(
        ("name", "data", "message"),
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
        self, name: str, data: bytes | None, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        numbered(tmp_path / "film.mp4", 3)
        if data is not None:
            (tmp_path / name).write_bytes(data)
        for look in (film_info, lambda path: list(frames(path))):
            with pytest.raises(MienError) as error:
                look(tmp_path / name)
            assert str(error.value).startswith(f"{tmp_path / name}: ") and message in str(error.value)
            assert "\n" not in str(error.value)
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
        film_bytes = numbered(tmp_path / "film.avi", 1).read_bytes()
        (tmp_path / "film.avi").write_bytes(film_bytes[: film_bytes.index(b"movi") + 4])
        with pytest.raises(MienError, match=r"film\.avi: (holds no frame|is not a film)"):
            list(frames(tmp_path / "film.avi"))

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
            for look in (film_info, lambda number: next(frames(number))):
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
        assert film_info(0) == FilmInfo(25.0)

    def test_a_frame_that_cannot_be_converted_has_a_row(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(*_: object) -> np.ndarray:
            raise av.error.ArgumentError(22, "Invalid argument")

        monkeypatch.setattr(camera.PixelConverter, "pixels", refused)
        rows = list(frames(0))
        assert [row.pixels for row in rows] == [None] * 4 and "cannot be converted" in str(rows[0].reason)

    def test_one_that_gives_nothing(self) -> None:
        with pytest.raises(MienError, match="camera 1: gives no picture"):
            list(frames(1))

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

        devices = [Device("Microphone", "audio"), *(Device(f"Cam {number}", "video") for number in range(4))]
        monkeypatch.setattr(av.device, "enumerate_input_devices", lambda name: devices)
        monkeypatch.setattr(camera.sys, "platform", system)
        camera_device = camera._device(3)
        assert camera_device is not None and camera_device[:2] == device
