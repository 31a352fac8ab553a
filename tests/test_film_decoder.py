"""Films as people bring them: interlaced, trimmed, late, askew, cut short, damaged; each is read right.

Everything is made here, by the encoders of PyAV.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.container import InputContainer
from av.video.stream import VideoStream
from film_helpers import (
    HEIGHT,
    interlaced,
    number_of,
    numbered,
    picture,
    portrait,
    trimmed,
    without_packets,
    write,
)

from mien.errors import MienError
from mien.recognition.film import decoder
from mien.recognition.film.reader import LOST, FilmInfo, film_info, frames
from mien.recognition.film.truncation import missing_end
from mien.recognition.film.writer import write_annotated
from mien.recognition.results import Recognition

# Films of x265 are written as Matroska: FFmpeg 8 refuses one in ten as MP4 or MOV ("patches welcome"), by chance.
X265 = {"x265-params": "log-level=none:keyint=12", "crf": "12"}


def numbers(path: Path, **options: Any) -> list[int]:
    """The numbers in the frames of a film."""
    return [number_of(row.pixels) for row in frames(path, **options) if row.pixels is not None]


def times(path: Path) -> list[float]:
    return [row.time_s for row in frames(path)]


def apart(first: np.ndarray, second: np.ndarray) -> float:
    """Mean difference of two pictures, 0 to 255."""
    assert first.shape == second.shape
    return float(np.abs(first.astype(float) - second).mean())


def combed(pixels: np.ndarray) -> float:
    """How much neighbouring lines differ, compared with lines that are two apart: more than 1 in a comb."""
    grey = pixels.mean(axis=2)
    neighbours, next_ones = (np.abs(grey[step:] - grey[:-step]).mean() for step in (1, 2))
    return float(neighbours / next_ones)


INTERLACED: dict[str, tuple[str, str, dict[str, Any]]] = {
    # What a camera (AVCHD), a broadcast (DVB), an editor (ProRes) and a tape (DV) give.
    "avchd.mp4": ("libx264", "yuv420p", {"options": {"flags": "+ildct+ilme", "x264-params": "tff=1"}}),
    "avchd.m2ts": ("libx264", "yuv420p", {"options": {"flags": "+ildct+ilme", "x264-params": "tff=1"}}),
    "dvb.ts": ("mpeg2video", "yuv420p", {"options": {"flags": "+ildct+ilme", "qmin": "2", "qmax": "4"}}),
    "dvd.vob": ("mpeg2video", "yuv420p", {"options": {"flags": "+ildct+ilme", "bf": "2", "qmin": "2", "qmax": "4"}}),
    "editor.mov": ("prores_ks", "yuv422p10le", {"options": {"flags": "+ildct"}}),
    "tape.dv": ("dvvideo", "yuv420p", {}),
}


class TestInterlaced:
    """Frames of two fields, of moments that are half a frame apart, of a picture that moves."""

    @pytest.mark.parametrize("name", INTERLACED)
    def test_frames_are_whole_and_not_combed(self, name: str, tmp_path: Path) -> None:
        codec, pixels, options = INTERLACED[name]
        wide_picture = np.pad(portrait(512), ((32, 32), (130, 130), (0, 0)), mode="reflect")
        pictures = [np.ascontiguousarray(wide_picture[:, 4 * index : 4 * index + 720]) for index in range(12)]
        path = write(tmp_path / name, interlaced(pictures), codec, pixels=pixels, **options)
        with av.open(str(path)) as film:
            decoded_frames = list(film.decode(video=0))
            assert {frame.interlaced_frame for frame in decoded_frames} == {True}, (
                "the film that is tested is interlaced"
            )
            woven_pictures = [frame.to_ndarray(format="rgb24") for frame in decoded_frames]
        rows = list(frames(path))
        assert [row.index for row in rows] == list(range(6))
        assert np.diff([row.time_s for row in rows]) == pytest.approx([0.04] * 5, abs=1e-3)
        for woven, row in zip(woven_pictures, rows, strict=True):
            assert row.pixels is not None
            assert combed(woven) > 1.2 and combed(row.pixels) < 0.8
            assert abs(float(row.pixels.mean()) - woven.mean()) < 3, "what was black was no picture"

    def test_frames_and_fields_may_alternate_and_damage_keeps_its_place(self, tmp_path: Path) -> None:
        options = {"flags": "+ildct+ilme", "x264-params": "tff=1:keyint=1", "crf": "10"}
        path = numbered(tmp_path / "film.mp4", 12, "libx264", options=options)
        data = bytearray(path.read_bytes())
        with av.open(str(path)) as film:
            packets = [packet for packet in film.demux(video=0) if packet.size]
            place, size = packets[5].pos, packets[5].size
        assert place is not None
        data[place : place + size] = bytes(size)
        path.write_bytes(data)
        rows = list(frames(path))
        assert [row.index for row in rows if row.pixels is None] == [5]
        assert [row.time_s for row in rows] == pytest.approx([index / 25 for index in range(12)])
        assert numbers(path) == [number for number in range(12) if number != 5]


class TestTimes:
    @pytest.mark.parametrize("name", ["trim.mp4", "trim.mov"])
    @pytest.mark.parametrize("first", [1, 13])
    def test_edit_lists(self, name: str, first: int, tmp_path: Path) -> None:
        """Only what the list shows is there, also where it begins between key frames; and no phantom at the end."""
        path = trimmed(numbered(tmp_path / "whole.mp4", 40, "libx264"), tmp_path / name, first)
        with av.open(str(path)) as film:
            assert sum(packet.size > 0 for packet in film.demux(video=0)) == 40
        rows = list(frames(path))
        assert [row.index for row in rows] == list(range(40 - first)) and all(row.reason is None for row in rows)
        assert numbers(path) == list(range(first, 40))
        assert times(path) == pytest.approx([index / 25 for index in range(40 - first)])

    @pytest.mark.parametrize("name", ["late.mp4", "late.mkv", "late.mov"])
    @pytest.mark.parametrize("sound", [None, "aac"])
    def test_pictures_that_begin_late_meet_the_sound(self, name: str, sound: str | None, tmp_path: Path) -> None:
        path = numbered(tmp_path / name, 20, "libx264", rate=10, times=range(7, 27), sound=sound, sound_s=2.0)
        assert times(path) == pytest.approx([(7 + index) / 10 for index in range(20)], abs=2e-3)

    @pytest.mark.parametrize("first_time", [0, 7])
    def test_a_piece_of_a_broadcast_begins_at_nought(self, first_time: int, tmp_path: Path) -> None:
        """Its clock runs on from any time; what counts is where pictures and sound begin."""
        path = numbered(tmp_path / "film.ts", 20, "mpeg2video", times=range(first_time, 20 + first_time),
                        sound="mp2", sound_s=1.2, container={"output_ts_offset": "5000"})  # fmt: skip
        with av.open(str(path)) as film:
            assert film.start_time > 4_000_000_000
        assert times(path) == pytest.approx([(first_time + index) / 25 for index in range(20)], abs=0.03)

    def test_a_rate_that_varies(self, tmp_path: Path) -> None:
        """As browsers record: milliseconds, left-out frames, no length in the header."""
        times_ms = [0, 33, 66, 100, 400, 433, 1000, 1033, 1100]
        time_base = Fraction(1, 1000)
        path = numbered(
            tmp_path / "film.webm", 9, "libvpx", times=times_ms, time_base=time_base, container={"live": "1"}, rate=30
        )
        assert times(path) == pytest.approx([time / 1000 for time in times_ms])
        assert numbers(path) == list(range(9)) and film_info(path).frames is None

    @pytest.mark.parametrize("name", ["film.avi", "film.h264", "film.flv", "film.mkv", "film.mpg", "film.asf"])
    def test_pictures_that_are_stored_in_another_order(self, name: str, tmp_path: Path) -> None:
        codec = {".mpg": "mpeg2video", ".asf": "mpeg4"}.get(Path(name).suffix, "libx264")
        path = numbered(tmp_path / name, 30, codec, options={"bf": "2"})
        assert numbers(path) == list(range(30))
        assert np.diff(times(path)) == pytest.approx([0.04] * 29, abs=2e-3)

    def test_empty_packets_are_no_damage(self, tmp_path: Path) -> None:
        """Ogg (Theora) has packets that hold nothing for a picture that stays; PyAV's decoder refuses them."""

        class Gappy:
            """A container that gives an empty packet after every third."""

            def __init__(self, container: InputContainer) -> None:
                self.format, self.start_time = container.format, container.start_time
                self.container = container

            def demux(self, stream: VideoStream) -> Iterator[av.Packet]:
                for index, packet in enumerate(self.container.demux(stream)):
                    yield packet
                    if index % 3 == 0:
                        yield av.Packet(0)

        path = numbered(tmp_path / "film.mkv", 20)
        with decoder.opened(path) as (container, stream):
            frames_of_film = [*decoder.decoded_frames(Gappy(container), stream)]  # type: ignore[arg-type]
            assert [frame.picture is not None for frame in frames_of_film] == [True] * 20

    def test_gaps_are_gaps(self, tmp_path: Path) -> None:
        """Frames that were left out, as by a camera that could not keep up, are no damage either."""
        complete_film = numbered(tmp_path / "whole.avi", 20)
        path = without_packets(complete_film, tmp_path / "film.avi", lambda index: index in (5, 6, 11))
        assert numbers(path) == [number for number in range(20) if number not in (5, 6, 11)]
        assert all(row.reason is None for row in frames(path))
        assert times(path)[-1] == pytest.approx(19 / 25)

    def test_recordings_that_are_joined_go_on(self, tmp_path: Path) -> None:
        piece = numbered(tmp_path / "piece.ts", 20, "mpeg2video").read_bytes()
        (tmp_path / "film.ts").write_bytes(piece + piece)
        frame_times = times(tmp_path / "film.ts")
        assert (
            len(frame_times) == 40
            and np.diff(frame_times).min() > 0
            and frame_times[-1] == pytest.approx(39 / 25, abs=0.1)
        )


class TestShape:
    def turned(self, degrees: float, **flips: bool) -> Any:
        return lambda stream: stream.set_display_rotation(degrees, **flips)

    @pytest.mark.parametrize(
        ("degrees", "flips", "expected"),
        [
            (90, {}, lambda pixels: np.rot90(pixels, 1)),
            (-90, {}, lambda pixels: np.rot90(pixels, -1)),
            (180, {}, lambda pixels: np.rot90(pixels, 2)),
            (0, {"hflip": True}, lambda pixels: pixels[:, ::-1]),
            (0, {"vflip": True}, lambda pixels: pixels[::-1]),
        ],
    )
    def test_quarter_turns_and_mirrors_are_exact(
        self, degrees: float, flips: dict[str, bool], expected: Any, tmp_path: Path
    ) -> None:
        plain_film = numbered(tmp_path / "plain.mp4", 2, "libx264")
        turned_film = numbered(tmp_path / "turned.mp4", 2, "libx264", prepare=self.turned(degrees, **flips))
        (plain_frame, _), (turned_frame, _) = list(frames(plain_film)), list(frames(turned_film))
        assert plain_frame.pixels is not None and turned_frame.pixels is not None
        assert (
            np.array_equal(turned_frame.pixels, expected(plain_frame.pixels)) and turned_frame.pixels.flags.c_contiguous
        )

    @pytest.mark.parametrize("flips", [{}, {"hflip": True}])
    @pytest.mark.parametrize("degrees", [30, -7.5, 135])
    def test_any_other_angle(self, degrees: float, flips: dict[str, bool], tmp_path: Path) -> None:
        """A mark that is right of the middle has to come where the matrix puts it."""
        marked_picture = np.zeros((160, 160, 3), np.uint8)
        marked_picture[72:88, 132:148] = 255
        path = write(tmp_path / "film.mp4", [marked_picture] * 2, "libx264", prepare=self.turned(degrees, **flips))
        pixels = next(frames(path)).pixels
        assert pixels is not None
        rows, columns = np.nonzero(pixels[..., 0] > 128)
        down, right = rows.mean() - (pixels.shape[0] - 1) / 2, columns.mean() - (pixels.shape[1] - 1) / 2
        # FFmpeg counts counter-clockwise, and mirrors what was turned.
        angle = np.radians(-degrees)
        across = 60 * np.cos(angle) * (-1 if flips else 1)
        assert (right, down) == pytest.approx((across, 60 * np.sin(angle)), abs=2)

    @pytest.mark.parametrize(
        ("aspect", "width"), [(Fraction(16, 15), 768), (Fraction(64, 45), 1024), (Fraction(8, 9), 640)]
    )
    def test_pixels_become_square(self, aspect: Fraction, width: int, tmp_path: Path) -> None:
        def prepare(stream: VideoStream) -> None:
            stream.codec_context.sample_aspect_ratio = aspect

        half_white = np.zeros((576, 720, 3), np.uint8)
        half_white[:, 360:] = 255
        path = write(tmp_path / "film.mkv", [half_white] * 2, "libx264", prepare=prepare)
        pixels = next(frames(path)).pixels
        assert pixels is not None and pixels.shape == (576, width, 3)
        assert abs(int((pixels[300, :, 0] > 128).argmax()) - width // 2) <= 2

    def test_a_size_that_changes_in_the_middle(self, tmp_path: Path) -> None:
        first = numbered(tmp_path / "first.ts", 10, "mpeg2video").read_bytes()
        large = [np.repeat(np.repeat(picture(10 + index), 2, axis=0), 2, axis=1) for index in range(10)]
        second = write(tmp_path / "second.ts", large, "mpeg2video").read_bytes()
        (tmp_path / "film.ts").write_bytes(first + second)
        rows = [row for row in frames(tmp_path / "film.ts") if row.pixels is not None]
        assert {row.pixels.shape for row in rows if row.pixels is not None} == {(64, 96, 3), (128, 192, 3)}
        assert not any(row.cut for row in rows)
        with write_annotated(tmp_path / "out.mp4", FilmInfo(25)) as add:
            for row in rows:
                add(Recognition("film", "no_face", frame=row.index, time_s=row.time_s, pixels=row.pixels))
        steps = [len(row.pixels) // HEIGHT for row in rows if row.pixels is not None]
        frame_numbers = [
            number_of(row.pixels[::step, ::step])
            for row, step in zip(rows, steps, strict=True)
            if row.pixels is not None
        ]
        assert numbers(tmp_path / "out.mp4") == frame_numbers and len(frame_numbers) >= 18


class TestPixels:
    @pytest.mark.parametrize(
        ("codec", "pixels", "tolerance"),
        [
            ("libx264", "yuv420p10le", 6), ("libx265", "yuv422p10le", 6), ("libx264", "yuv444p", 4),
            ("libvpx-vp9", "yuva420p", 6), ("libx264", "gray", 60), ("ffv1", "bgr0", 0.1), ("ffv1", "gray16le", 60),
            ("rawvideo", "rgb24", 0.1), ("rawvideo", "uyvy422", 4), ("prores_ks", "yuv444p10le", 4),
        ],
    )  # fmt: skip
    def test_any_kind_of_pixels_becomes_rgb_of_eight_bits(
        self, codec: str, pixels: str, tolerance: float, tmp_path: Path
    ) -> None:
        options = X265 if codec == "libx265" else {"crf": "10"} if codec in ("libx264", "libvpx-vp9") else {}
        form = "nut" if codec == "rawvideo" else "matroska"
        path = write(tmp_path / "film", [portrait()] * 3, codec, pixels=pixels, options=options, form=form)
        rows = list(frames(path))
        assert len(rows) == 3
        for row in rows:
            assert row.pixels is not None and row.pixels.dtype == np.uint8
            assert apart(row.pixels, portrait()) < tolerance

    @pytest.mark.parametrize(("matrix", "tag"), [("ITU601", 6), ("ITU709", 1)])
    @pytest.mark.parametrize("range_", [1, 2])
    def test_colours_follow_the_tags(self, matrix: str, tag: int, range_: int, tmp_path: Path) -> None:
        def prepare(stream: VideoStream) -> None:
            context = stream.codec_context
            context.colorspace, context.color_range, context.color_primaries, context.color_trc = tag, range_, tag, tag

        convert = {"dst_colorspace": matrix, "dst_color_range": range_}
        path = write(
            tmp_path / "film.mp4", [portrait()] * 2, options={"crf": "6"}, prepare=prepare, convert=convert,
            pixels="yuv444p",
        )  # fmt: skip
        pixels = next(frames(path)).pixels
        assert pixels is not None and apart(pixels, portrait()) < 2.5

    @pytest.mark.parametrize("transfer", [16, 18])
    def test_a_high_dynamic_range_looks_like_an_ordinary_film(self, transfer: int, tmp_path: Path) -> None:
        """The portrait in PQ (16) or HLG (18) with BT.2020 primaries, its white at 203 cd/m2 (ITU-R BT.2408)."""
        light = (portrait() / 255) ** 2.4 @ np.linalg.inv(
            [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
        ).T
        light = np.clip(light, 0, 1) * 203
        if transfer == 16:
            power = (light / 10_000) ** 0.1593017578125
            signal = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
        else:
            luminance = np.maximum(light @ [0.2627, 0.6780, 0.0593], 1e-6)[..., None]
            scene = light / 1000 * (luminance / 1000) ** (1 / 1.2 - 1)
            high = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
            signal = np.where(scene <= 1 / 12, np.sqrt(3 * scene), high)

        def prepare(stream: VideoStream) -> None:
            context = stream.codec_context
            context.colorspace, context.color_range, context.color_primaries, context.color_trc = 9, 1, 9, transfer

        path = tmp_path / "film.mkv"
        with av.open(str(path), "w") as output:
            stream = output.add_stream("libx265", rate=25, options=X265)
            assert isinstance(stream, VideoStream)
            stream.width = stream.height = 256
            stream.pix_fmt = "yuv420p10le"
            prepare(stream)
            frame = av.VideoFrame.from_ndarray((signal * 65535).round().astype(np.uint16), "rgb48le")
            frame = frame.reformat(format="yuv420p10le", dst_colorspace="BT2020", dst_color_range=1)
            frame.pts, frame.time_base = 0, Fraction(1, 25)
            frame.color_trc, frame.color_primaries = transfer, 9
            for packet in (*stream.encode(frame), *stream.encode(None)):
                packet.dts = packet.pts  # of a film of one frame, libx265 leaves it unset once in some hundred times
                output.mux(packet)
        pixels = next(frames(path)).pixels
        assert pixels is not None and apart(pixels, portrait()) < 9
        with av.open(str(path)) as film:  # without toning, the film is dull
            assert apart(next(film.decode(video=0)).to_ndarray(format="rgb24"), portrait()) > 18


class TestDamage:
    def hurt(self, path: Path, index: int) -> None:
        """Zeros in the place of a packet."""
        with av.open(str(path)) as film:
            packet = bytes([packet for packet in film.demux(video=0) if packet.size][index])
        data = path.read_bytes()
        assert data.count(packet) == 1
        path.write_bytes(data.replace(packet, bytes(len(packet))))

    def test_a_key_frame_of_h264_takes_those_along_that_build_on_it(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        path = numbered(tmp_path / "film.mp4", 40, "libx264", options={"g": "10", "x264-params": "scenecut=0"})
        self.hurt(path, 10)
        rows = list(frames(path))
        assert [row.index for row in rows] == list(range(40)) and np.diff([row.time_s for row in rows]).min() > 0
        lost_frames = [row.index for row in rows if row.pixels is None]
        assert 8 <= len(lost_frames) <= 12 and set(lost_frames) <= set(range(8, 20)), (
            "a group of pictures, and its leading ones"
        )
        assert {rows[index].reason for index in lost_frames} == {LOST}
        shown_frames = [number_of(row.pixels) for row in rows if row.pixels is not None]
        assert shown_frames[:8] == list(range(8)) and shown_frames[-20:] == list(range(20, 40))
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9", "mjpeg", "prores_ks", "ffv1"])
    @pytest.mark.parametrize("index", [0, 7, 19])
    def test_no_frame_is_lost_without_a_word(self, codec: str, index: int, tmp_path: Path) -> None:
        pixels = {"mjpeg": "yuvj420p", "prores_ks": "yuv422p10le"}.get(codec, "yuv420p")
        options = X265 if codec == "libx265" else {"g": "12"}
        path = numbered(tmp_path / "film.mov", 20, codec, pixels=pixels, options=options) if codec not in (
            "libx265", "libvpx-vp9", "ffv1"
        ) else numbered(tmp_path / "film.mkv", 20, codec, options=options)  # fmt: skip
        self.hurt(path, index)
        rows = list(frames(path))
        assert [row.index for row in rows] == list(range(20))
        assert [row.time_s for row in rows] == pytest.approx(np.arange(20) / 25, abs=2e-3)

    def test_a_broadcast_that_was_joined_in_the_middle_has_no_damage(self, tmp_path: Path) -> None:
        data = numbered(tmp_path / "film.ts", 40, "libx264", options={"g": "10"}).read_bytes()
        with av.open(str(tmp_path / "film.ts")) as film:
            place = [packet.pos for packet in film.demux(video=0) if packet.size][6]
        assert place is not None
        (tmp_path / "film.ts").write_bytes(data[place:])
        rows = list(frames(tmp_path / "film.ts"))
        assert all(row.reason is None for row in rows) and numbers(tmp_path / "film.ts")[-20:] == list(range(20, 40))

    @pytest.mark.parametrize(
        ("name", "container"),
        [
            ("film.mkv", {}), ("film.webm", {"live": "1"}), ("film.asf", {}), ("film.avi", {}),
            ("film.mp4", {"movflags": "frag_keyframe+empty_moov"}), ("film.mp4", {"movflags": "faststart"}),
        ],
    )  # fmt: skip
    def test_a_film_that_is_cut_short_says_so(self, name: str, container: dict[str, str], tmp_path: Path) -> None:
        codec = {".webm": "libvpx", ".asf": "wmv2", ".avi": "mpeg4"}.get(Path(name).suffix, "libx264")
        path = numbered(tmp_path / name, 60, codec, container=container, options={"g": "5"})
        assert numbers(path) == list(range(60)) and all(row.reason is None for row in frames(path))
        # Two thirds of the MP4 end 18 bytes behind a fragment, and at its very end nothing would be missing.
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3 + 400])
        rows = list(frames(path))
        assert 8 < len(rows) <= 61 and str(rows[-1].reason).startswith("the film is cut short: ")
        assert [row.index for row in rows] == list(range(len(rows)))
        assert sum(row.pixels is not None for row in rows) > 7

    def test_a_second_part_of_avi_that_is_cut_short_is_missing(self, tmp_path: Path) -> None:
        path = numbered(tmp_path / "film.avi", 10, "mpeg4")
        part = b"RIFF" + struct.pack("<I", 1001) + b"AVIX" + bytes(998)
        with path.open("ab") as file:
            file.write(bytes(path.stat().st_size % 2) + part + part)
        assert missing_end(path) is None
        path.write_bytes(path.read_bytes()[:-501])
        assert missing_end(path) == "500 bytes are"

    def test_a_film_that_is_cut_before_its_first_frame_says_so(self, tmp_path: Path) -> None:
        path = numbered(tmp_path / "film.mkv", 8)
        path.write_bytes(path.read_bytes()[:900])
        with pytest.raises(MienError, match=r"film\.mkv: holds no frame, as [0-9,]+ bytes are missing at the end"):
            list(frames(path))

    @pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.webm", "film.avi", "film.asf", "film.ogv"])
    def test_what_is_appended_to_a_film_is_no_loss(self, name: str, tmp_path: Path) -> None:
        codecs = {".webm": "libvpx", ".asf": "wmv2", ".avi": "mpeg4", ".ogv": "libvpx"}
        path = numbered(tmp_path / name, 10, codecs.get(Path(name).suffix, "libx264"))
        with path.open("ab") as file:
            file.write(b"\x4a\x10\x08\x01" + np.random.default_rng(3).bytes(999))
        assert numbers(path) == list(range(10)) and all(row.reason is None for row in frames(path))

    def test_an_unfinished_film_says_what_is_missing(self, tmp_path: Path) -> None:
        path = numbered(tmp_path / "film.mp4", 20)
        data = path.read_bytes()
        path.write_bytes(data[: data.rindex(b"moov") - 4])
        with pytest.raises(MienError, match=r"film\.mp4: is an unfinished film: its index \(moov\) is missing"):
            list(frames(path))

    def test_what_is_no_film_of_pictures(self, tmp_path: Path) -> None:
        path = write(tmp_path / "film.mp4", [], "", sound="aac", sound_s=0.5)
        with pytest.raises(MienError, match="holds sound and no pictures, expected a film"):
            list(frames(path))

    def test_no_other_file_is_followed(self, tmp_path: Path) -> None:
        """Play lists of every kind name a film that is there; none of them is read."""
        numbered(tmp_path / "film.mp4", 3)
        play_lists = {
            "a.mp4": "ffconcat version 1.0\nfile film.mp4\n", "b.mp4": "#EXTM3U\n#EXTINF:1,\nfilm.mp4\n",
            "c.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=video 5004 RTP/AVP 96\n",
            "d.mp4": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
        }  # fmt: skip
        for name, text in play_lists.items():
            (tmp_path / name).write_text(text)
            with pytest.raises(MienError, match="is not a film that can be read"):
                list(frames(tmp_path / name))


def test_films_may_be_opened_by_several_threads(tmp_path: Path) -> None:
    paths = [numbered(tmp_path / f"{index}.mp4", 10 + index, "libx264") for index in range(6)]
    (tmp_path / "none.mp4").write_text("no film")
    counts: dict[int, list[int]] = {}

    def read(index: int) -> None:
        for _ in range(5):
            counts.setdefault(index, []).append(len(list(frames(paths[index]))))
            with pytest.raises(MienError):
                film_info(tmp_path / "none.mp4")

    threads = [threading.Thread(target=read, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == {index: [10 + index] * 5 for index in range(6)}
