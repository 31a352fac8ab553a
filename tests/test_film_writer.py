"""Films with boxes: as long as the original, in its rhythm, with its sound; what is written otherwise is told."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import av
import numpy as np
import pytest
from film_helpers import HEIGHT, WIDTH, number_of, numbered, picture, write

from mien.errors import MienError
from mien.recognition.draw import COLOURS
from mien.recognition.film import writer
from mien.recognition.film.reader import FilmInfo, film_info, frames
from mien.recognition.film.writer import check_film, write_annotated
from mien.recognition.results import Face, Recognition


def copied(source: Path, path: Path, every: int = 1, stop: int | None = None, audio: bool = True) -> list[str]:
    """Writes a copy of a film as `mien predict --video-out` does; what was told."""
    messages: list[str] = []
    sound = source if audio else None
    with write_annotated(path, film_info(source), every=every, sound=sound, say=messages.append) as add:
        for row in frames(source, every):
            if stop is not None and row.index >= stop:
                raise KeyboardInterrupt
            status: Literal["no_face", "error"] = "error" if row.pixels is None else "no_face"
            add(Recognition("film", status, row.reason, frame=row.index, time_s=row.time_s, pixels=row.pixels))
    return messages


def tone(path: Path) -> tuple[float, float, float]:
    """Where the sound of a film begins and ends, in seconds, and how loud it is in between, of 1."""
    with av.open(str(path)) as film:
        pieces = [frame for frame in film.decode(audio=0) if frame.pts is not None]
        loudness = np.concatenate([np.abs(piece.to_ndarray().astype(float)).ravel() for piece in pieces])
        scale = 32768 if pieces[0].format.name.startswith("s16") else 1
        last_piece = pieces[-1]
        return (
            float(pieces[0].time or 0),
            float(last_piece.time or 0) + last_piece.samples / last_piece.sample_rate,
            loudness.mean() / scale,
        )


def kinds(path: Path) -> dict[str, str]:
    with av.open(str(path)) as film:
        return {stream.type: stream.codec_context.codec.canonical_name for stream in film.streams}


@pytest.mark.parametrize(
    ("name", "sound"), [("a.mp4", "aac"), ("a.mkv", "ac3"), ("a.avi", "libmp3lame"), ("a.mkv", "libopus")]
)
def test_sound_is_copied_packet_by_packet(name: str, sound: str, tmp_path: Path) -> None:
    source = numbered(tmp_path / name, 50, "libx264" if sound != "libmp3lame" else "", sound=sound, sound_s=2.0)
    assert copied(source, tmp_path / "out.mp4") == []
    assert kinds(tmp_path / "out.mp4") == {"video": "h264", "audio": kinds(source)["audio"]}
    with av.open(str(source)) as source_film, av.open(str(tmp_path / "out.mp4")) as written_film:
        packets = [
            [bytes(packet) for packet in film.demux(audio=0) if packet.size] for film in (source_film, written_film)
        ]
    assert packets[0] == packets[1] and len(packets[0]) > 40
    assert tone(tmp_path / "out.mp4") == pytest.approx(tone(source), abs=0.03)
    assert [row.time_s for row in frames(tmp_path / "out.mp4")] == pytest.approx([row.time_s for row in frames(source)])


def test_pictures_that_begin_late_still_meet_the_sound(tmp_path: Path) -> None:
    source = numbered(tmp_path / "late.mp4", 20, "libx264", rate=10, times=range(7, 27), sound="aac", sound_s=3.0)
    copied(source, tmp_path / "out.mp4")
    assert [row.time_s for row in frames(tmp_path / "out.mp4")] == pytest.approx([row.time_s for row in frames(source)])
    assert tone(tmp_path / "out.mp4") == pytest.approx(tone(source), abs=0.03)


def test_a_broadcast_keeps_pictures_and_sound_together(tmp_path: Path) -> None:
    source = numbered(
        tmp_path / "film.ts", 50, "mpeg2video", times=range(10, 60), sound="mp2", sound_s=2.4,
        container={"output_ts_offset": "900"},
    )  # fmt: skip
    copied(source, tmp_path / "out.mp4")
    with av.open(str(source)) as film:
        video, audio = (float(stream.start_time * stream.time_base) for stream in film.streams)  # type: ignore[operator]
    assert next(frames(tmp_path / "out.mp4")).time_s - tone(tmp_path / "out.mp4")[0] == pytest.approx(
        video - audio, abs=0.03
    )


def test_sound_that_the_container_does_not_hold_is_encoded_anew_and_told(tmp_path: Path) -> None:
    source = numbered(tmp_path / "film.avi", 50, sound="pcm_s16le", sound_s=2.0)
    (message,) = copied(source, tmp_path / "out.mp4")
    assert (
        message
        == f"{tmp_path / 'out.mp4'}: its sound (pcm_s16le) was encoded anew as aac, as MP4 does not hold it well"
    )
    assert tone(tmp_path / "out.mp4") == pytest.approx(tone(source), abs=0.05)
    source = numbered(tmp_path / "film.mp4", 50, sound="aac", sound_s=2.0)
    (message,) = copied(source, tmp_path / "out.avi")
    assert "its sound (aac) was encoded anew as pcm_s16le" in message
    assert tone(tmp_path / "out.avi") == pytest.approx(tone(source), abs=0.05)


@pytest.mark.parametrize(("name", "sound"), [("out.mp4", "aac"), ("out.avi", "aac"), ("out.avi", "mp2")])
@pytest.mark.parametrize(
    ("first", "second", "late", "early_s"),
    [(0.0, 0.0, 0, 0.0), (900.0, 0.0, 10, 0.4), (0.0, 1.7, 0, 0.0)],  # FFmpeg takes the second for 26.5 hours later
)
def test_joined_recordings_keep_pictures_and_sound_together(
    first: float, second: float, late: int, early_s: float, name: str, sound: str, tmp_path: Path
) -> None:
    """Two recordings of a broadcast that were joined, as by ``cat``; in each the sound ends before the pictures."""
    source = tmp_path / "joined.ts"
    with source.open("wb") as file:
        for offset in (first, second):
            piece = numbered(
                tmp_path / "piece.ts", 50, "libx264", times=range(late, late + 50), sound=sound, sound_s=2.0,
                container={"output_ts_offset": str(offset)},
            )  # fmt: skip
            file.write(piece.read_bytes())
    *_, message = copied(source, tmp_path / name)
    reason = "the clock of its sound goes back after"
    assert message.startswith(f"{tmp_path / name}: {reason} ") and message.endswith(" s; what overlaps is left out")
    assert float(message.split(reason)[1].split(" s")[0]) == pytest.approx(2.0, abs=0.06)
    rows = list(frames(tmp_path / name))
    numbers = [number_of(row.pixels) for row in rows if row.pixels is not None]
    assert numbers[:48] == [*range(48)] and numbers[-49:] == [*range(1, 50)], "at the join a packet counts as damaged"
    if second == 0 or name == "out.mp4":  # in AVI frames that overlap take a tick each
        assert rows[-1].time_s - rows[0].time_s == pytest.approx(
            99 / 25 + (name == "out.avi") * early_s if second == 0 else 3.58, abs=0.07
        )
        assert tone(tmp_path / name)[1] == pytest.approx(rows[-1].time_s + 0.04 - early_s, abs=0.05)


def test_sound_with_a_gap_at_the_join_meets_the_pictures_again(tmp_path: Path) -> None:
    """The sound of the first recording ends so early that its clock hardly goes back at the join."""
    source = tmp_path / "joined.ts"
    with source.open("wb") as file:
        for count, sound_s in ((50, 0.3), (75, 2.6)):
            piece = numbered(tmp_path / "piece.ts", count, "libx264", sound="aac", sound_s=sound_s)
            file.write(piece.read_bytes())
    copied(source, tmp_path / "out.mp4")
    last_s = [row.time_s for row in frames(tmp_path / "out.mp4")][-1]
    assert last_s == pytest.approx(5.0, abs=0.05) and tone(tmp_path / "out.mp4")[1] == pytest.approx(4.6, abs=0.07)


def test_sound_that_goes_back_alone_is_left_out_until_it_has_caught_up(tmp_path: Path) -> None:
    source = tmp_path / "joined.ts"
    whole = numbered(tmp_path / "piece.ts", 50, "libx264", sound="aac", sound_s=2.0).read_bytes()
    alone = write(tmp_path / "alone.ts", [], "", sound="aac", sound_s=3.0, container={"mpegts_start_pid": "257"})
    source.write_bytes(whole + alone.read_bytes())
    (message,) = copied(source, tmp_path / "out.mp4")
    assert "the clock of its sound goes back after" in message
    assert tone(tmp_path / "out.mp4")[1] == pytest.approx(3.0, abs=0.1)


def test_sound_whose_layout_changes_goes_on(tmp_path: Path) -> None:
    """Broadcasts change from stereo to mono, or to 5.1, with the programme."""
    source = tmp_path / "joined.ts"
    mono = numbered(tmp_path / "mono.ts", 50, "libx264", sound="aac", sound_s=2.0)
    with av.open(str(mono)) as film, av.open(str(tmp_path / "stereo.ts"), "w") as output:
        pictures = output.add_stream_from_template(film.streams.video[0])
        sound = output.add_stream("aac", rate=48_000)
        sound.codec_context.layout = "stereo"
        resampler = av.AudioResampler("fltp", "stereo", 48_000)
        for packet in film.demux():
            if packet.stream.type == "video" and packet.size:
                packet.stream = pictures
                output.mux(packet)
            for frame in packet.decode() if packet.stream.type == "audio" else []:
                for piece in resampler.resample(frame):  # type: ignore[arg-type]
                    output.mux(sound.encode(piece))
        output.mux(sound.encode(None))
    source.write_bytes(mono.read_bytes() + (tmp_path / "stereo.ts").read_bytes())
    copied(source, tmp_path / "out.avi")
    assert tone(tmp_path / "out.avi")[1] == pytest.approx(4.0, abs=0.1)


def with_later_sound(source: Path, path: Path, from_s: float, by_s: float) -> Path:
    """A copy of a film whose sound, from a time on, comes later."""
    with av.open(str(source)) as film, av.open(str(path), "w") as output:
        streams = {stream.index: output.add_stream_from_template(stream) for stream in film.streams}
        for packet in film.demux():
            if packet.size:
                assert packet.pts is not None
                if packet.stream.type == "audio" and packet.pts * packet.time_base >= from_s:
                    packet.pts += round(by_s / packet.time_base)
                    packet.dts = packet.pts
                packet.stream = streams[packet.stream_index]
                output.mux(packet)
    return path


@pytest.mark.parametrize("from_s", [-1.0, 1.0])
def test_avi_which_stores_no_times_of_sound_gets_silence_in_gaps(from_s: float, tmp_path: Path) -> None:
    whole = numbered(tmp_path / "whole.mkv", 75, "libx264", sound="aac", sound_s=2.0)
    source = with_later_sound(whole, tmp_path / "film.mkv", from_s, 0.8)
    copied(source, tmp_path / "out.avi")
    assert tone(tmp_path / "out.avi")[1] == pytest.approx(2.8, abs=0.05)
    with av.open(str(tmp_path / "out.avi")) as film:
        levels = np.concatenate([np.abs(piece.to_ndarray().astype(int)).ravel() for piece in film.decode(audio=0)])
    hundredths = levels[: len(levels) // 480 * 480].reshape(-1, 480)
    quiet_s = float((hundredths.max(axis=1) < 50).sum()) / 100
    assert quiet_s == pytest.approx(0.8, abs=0.06)


def test_times_with_jitter_do_not_end_the_sound_of_avi(tmp_path: Path) -> None:
    """In AVI a tick is as long as a packet, here 24 ms, and the times lie half-way between two."""
    whole = numbered(tmp_path / "whole.mkv", 75, "libx264", sound="mp2", sound_s=3.0)
    with av.open(str(whole)) as film, av.open(str(tmp_path / "film.mkv"), "w") as output:
        streams = {stream.index: output.add_stream_from_template(stream) for stream in film.streams}
        for index, packet in enumerate(film.demux()):
            if packet.size:
                if packet.stream.type == "audio":
                    assert packet.pts is not None and packet.time_base == Fraction(1, 1000)
                    packet.pts = packet.dts = packet.pts + 12 + index % 3
                packet.stream = streams[packet.stream_index]
                output.mux(packet)
    assert copied(tmp_path / "film.mkv", tmp_path / "out.avi") == []
    with av.open(str(whole)) as film, av.open(str(tmp_path / "out.avi")) as written:
        first, second = ([bytes(packet) for packet in each.demux(audio=0) if packet.size] for each in (film, written))
    assert first == second and len(first) == 125


def test_a_gap_in_sound_that_is_copied_into_avi_is_told(tmp_path: Path) -> None:
    whole = numbered(tmp_path / "whole.mkv", 75, "libx264", sound="mp2", sound_s=2.0)
    source = with_later_sound(whole, tmp_path / "film.mkv", 1.0, 0.8)
    (message,) = copied(source, tmp_path / "out.avi")
    reason = r"AVI does not hold the gap in its sound before 1\.8\d s, after which it is 0\.\d\d s early; choose \.mp4"
    assert re.search(reason, message)


def test_pictures_that_avi_shows_late_are_told_once(tmp_path: Path) -> None:
    late = [dataclasses.replace(record, time_s=index / 50) for index, record in enumerate(records(30))]
    messages: list[str] = []
    for name in ("out.avi", "out.mp4"):
        with write_annotated(tmp_path / name, FilmInfo(25), say=messages.append) as add:
            for record in late:
                add(record)
    (message,) = messages
    assert message == (
        f"{tmp_path / 'out.avi'}: AVI has one frame rate, for which pictures from 0.12 s on come late; choose .mp4"
    )


def test_sound_may_be_left_out(tmp_path: Path) -> None:
    source = numbered(tmp_path / "film.mp4", 10, sound="aac", sound_s=0.4)
    copied(source, tmp_path / "out.mp4", audio=False)
    assert kinds(tmp_path / "out.mp4") == {"video": "h264"}


@pytest.mark.parametrize("name", ["out.mp4", "out.avi"])
def test_a_rate_that_varies_stays(name: str, tmp_path: Path) -> None:
    times_ms = [0, 40, 80, 120, 400, 440, 1000, 1040, 1120]
    source = numbered(tmp_path / "film.mkv", 9, "libx264", times=times_ms, time_base=Fraction(1, 1000))
    copied(source, tmp_path / name)
    rows = list(frames(tmp_path / name))
    assert [row.time_s for row in rows] == pytest.approx(
        [time / 1000 for time in times_ms], abs=0.02 * (name[-1] == "i") + 1e-6
    )
    with av.open(str(tmp_path / name)) as film:
        assert film.duration is not None and film.duration / 1e6 == pytest.approx(1.16, abs=0.041)


@pytest.mark.parametrize("every", [1, 7])
def test_it_is_as_long_as_the_original(every: int, tmp_path: Path) -> None:
    source = numbered(tmp_path / "film.mp4", 50, "libx264", rate=Fraction(30000, 1001))
    copied(source, tmp_path / "out.mp4", every)
    assert film_info(tmp_path / "out.mp4").duration_s == pytest.approx(50 * 1001 / 30000, abs=1e-3)
    assert [row.time_s for row in frames(tmp_path / "out.mp4")] == [
        pytest.approx(row.time_s, abs=1e-6) for row in frames(source, every)
    ]


def test_after_ctrl_c_the_sound_ends_with_the_pictures(tmp_path: Path) -> None:
    source = numbered(tmp_path / "film.mp4", 100, "libx264", sound="aac", sound_s=4.0)
    with pytest.raises(KeyboardInterrupt):
        copied(source, tmp_path / "out.mp4", stop=50)
    assert len(list(frames(tmp_path / "out.mp4"))) == 50
    assert tone(tmp_path / "out.mp4")[1] == pytest.approx(2.0, abs=0.05)


def test_without_h264_it_is_told_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer.av, "codecs_available", {"mpeg4", "mjpeg", "aac"})
    source = numbered(tmp_path / "film.mp4", 10)
    (message,) = copied(source, tmp_path / "out.mp4")
    assert "is written as MPEG-4 part 2, as this installation has no H.264 encoder" in message
    assert kinds(tmp_path / "out.mp4") == {"video": "mpeg4"}
    assert [row.time_s for row in frames(tmp_path / "out.mp4")] == pytest.approx(np.arange(10) / 25, abs=1e-3)


def test_colours_stay(tmp_path: Path) -> None:
    """The pixels that are written come back, whatever the tags of colour say."""
    stripes = np.zeros((64, 96, 3), np.uint8)
    for place, colour in enumerate([(220, 40, 40), (40, 200, 60), (50, 60, 210), (200, 180, 60)]):
        stripes[:, 24 * place : 24 * place + 24] = colour
    for name in ("out.mp4", "out.avi"):
        with write_annotated(tmp_path / name, FilmInfo(25)) as add:
            for index in range(5):
                add(Recognition("film", "no_face", frame=index, time_s=index / 25, pixels=stripes))
        pixels = next(frames(tmp_path / name)).pixels
        assert pixels is not None
        for place in range(4):
            columns = slice(24 * place + 6, 24 * place + 18)
            assert np.abs(pixels[:, columns].astype(float) - stripes[:, columns]).mean() < 6


def test_the_size_of_films_is_that_of_the_first_frame(tmp_path: Path) -> None:
    tall_picture = np.full((120, 60, 3), 200, np.uint8)
    with write_annotated(tmp_path / "out.mp4", FilmInfo(25)) as add:
        for index, pixels in enumerate([picture(0), tall_picture]):
            add(Recognition("film", "no_face", frame=index, time_s=index / 25, pixels=pixels))
    second_frame = list(frames(tmp_path / "out.mp4"))[1].pixels
    assert second_frame is not None and second_frame.shape == (64, 96, 3)
    assert second_frame[32, :28].max() < 40 < 160 < second_frame[32, 36:60].min(), (
        "in the middle, on black, not stretched"
    )


def records(count: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Iterator[Recognition]:
    for number in range(count):
        pixels = picture(number)[: size[1], : size[0]]
        face = Face((20.0, 26.0, 30.0, 30.0), "sad", 0.9, {"happy": 0.1, "sad": 0.9}, False)
        yield Recognition("film", "ok", faces=(face,), frame=number, time_s=number / 25, pixels=pixels)


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class TestAnnotated:
    @pytest.mark.parametrize("name", ["out.mp4", "out.avi", "OUT.MP4"])
    @pytest.mark.parametrize("rate", [25.0, 29.97, 0.02])
    def test_every_frame_is_written_once(self, name: str, rate: float, tmp_path: Path) -> None:
        path = tmp_path / "new" / name
        with write_annotated(path, FilmInfo(rate)) as add:
            for record in records(30):
                add(replace(record, time_s=(record.frame or 0) / rate))
            assert not path.exists()
        rows = list(frames(path))
        assert [number_of(row.pixels) for row in rows if row.pixels is not None] == list(range(30))
        assert {row.pixels.shape for row in rows if row.pixels is not None} == {(HEIGHT, WIDTH, 3)}
        assert len(rows) == 30
        assert [row.time_s for row in rows] == pytest.approx([index / rate for index in range(30)], rel=1e-3)
        pixels = rows[0].pixels
        assert pixels is not None
        red, _, blue = pixels[55, 25:45].mean(axis=0)
        assert COLOURS["sad"] == (72, 132, 220) and blue - red > 30  # lossy, on grey ground, and one pixel wide
        assert [entry.name for entry in path.parent.iterdir()] == [name]

    @pytest.mark.parametrize(
        "error",
        [KeyboardInterrupt(), MienError("the model is broken"), RuntimeError("a fault"), OSError(errno.EIO, "a disk"),
         MemoryError(), av.error.InvalidDataError(1094995529, "Invalid data"), GeneratorExit()],
        ids=lambda error: type(error).__name__,
    )  # fmt: skip
    def test_what_was_written_can_be_played_whatever_ends_it(self, error: BaseException, tmp_path: Path) -> None:
        path = tmp_path / "out.mp4"
        path.write_text("the former one")
        with pytest.raises(type(error)) as raised, write_annotated(path, FilmInfo(25)) as add:
            for record in records(30):
                if record.frame == 17:
                    raise error
                add(record)
        assert raised.value is error
        assert [row.index for row in frames(path)] == list(range(17))
        assert list(tmp_path.iterdir()) == [path]

    def test_without_a_frame_or_if_it_cannot_be_written_the_former_film_stays(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "out.mp4"
        path.write_text("the former one")
        lost = Recognition("film", "error", "damaged", frame=0, time_s=0.0)
        for error in (KeyboardInterrupt(), MienError("the model is broken"), RuntimeError("a fault")):
            for begun in ([], [lost]):
                with pytest.raises(type(error)), write_annotated(path, FilmInfo(25)) as add:
                    for record in begun:
                        add(record)
                    raise error
        with pytest.raises(MienError, match="cannot be written"), write_annotated(path, FilmInfo(25)) as add:
            for record in records(5):
                if record.frame == 3:
                    monkeypatch.setattr(writer._Film, "_put", full)
                add(record)
        assert path.read_text() == "the former one" and list(tmp_path.iterdir()) == [path]

    def test_frames_that_could_not_be_decoded_keep_the_time(self, tmp_path: Path) -> None:
        def lost_frame(number: int) -> Recognition:
            return Recognition("film", "error", "damaged", frame=number, time_s=number / 25)

        first, second, third = records(3)
        with write_annotated(tmp_path / "out.avi", FilmInfo(25)) as add:
            for record in (lost_frame(0), first, second, lost_frame(3), third):
                add(record)
        written_frames = [row.pixels for row in frames(tmp_path / "out.avi")]
        assert len(written_frames) == 5 and written_frames[0] is not None and written_frames[0].max() < 10
        assert [number_of(pixels) for pixels in written_frames if pixels is not None] == [0, 0, 1, 1, 2]

    def test_odd_sides_lose_a_pixel(self, tmp_path: Path) -> None:
        with write_annotated(tmp_path / "out.mp4", FilmInfo(25)) as add:
            for record in records(2, (95, 63)):
                add(record)
            for record in records(2):
                add(record)
        rows = list(frames(tmp_path / "out.mp4"))
        assert [None if row.pixels is None else row.pixels.shape for row in rows] == [(62, 94, 3)] * 4

    def test_what_cannot_be_written_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(MienError, match=r"out\.webm: cannot be written as a film, expected a name that ends in"):
            check_film(tmp_path / "out.webm")
        (tmp_path / "file").write_text("")

        def try_to_write(path: Path, record: Recognition) -> None:
            with write_annotated(path, FilmInfo(25)) as add:
                add(record)

        with pytest.raises(MienError, match="was not written, as no frame could be decoded"):
            try_to_write(tmp_path / "out.mp4", Recognition("film", "error", "damaged", frame=0, time_s=0.0))
        with pytest.raises(MienError, match=r"out\.mp4: cannot be written"):
            try_to_write(tmp_path / "file" / "out.mp4", next(records(1)))
        with pytest.raises(ValueError, match="ask FilmRecognition for keep_pixels=True"):
            try_to_write(tmp_path / "out.mp4", Recognition("film", "no_face", frame=0, time_s=0.0))
        assert [entry.name for entry in tmp_path.iterdir()] == ["file"]

    def test_a_full_disk_is_told_and_leaves_nothing(self, tmp_path: Path) -> None:
        """A limit on the size of files stands in for a disk that is full."""
        code = f"""
import resource
from pathlib import Path
from test_film_writer import records
from mien.errors import MienError
from mien.recognition.film.reader import FilmInfo
from mien.recognition.film.writer import check_film, write_annotated
resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000))
try:
    with write_annotated(Path({str(tmp_path / "out.avi")!r}), FilmInfo(25)) as write:
        for record in records(200):
            write(record)
except MienError as error:
    print(error)
"""
        place = Path(__file__).parent
        completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=place, timeout=120)
        assert (
            completed.stdout == f"{tmp_path / 'out.avi'}: cannot be written (File too large); choose another place\n"
        ), completed
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", ["out.mp4", "out.avi"])
    def test_the_largest_size_of_a_file_keeps_the_film_until_then(self, name: str, tmp_path: Path) -> None:
        """A limit of this process stands in for FAT's 4 GiB: the same error of the system."""
        source, path = numbered(tmp_path / "film.mp4", 10, sound="aac", sound_s=60.0), tmp_path / name
        code = f"""
import resource
from pathlib import Path
from test_film_writer import records
from mien.errors import MienError
from mien.recognition.film.reader import FilmInfo
from mien.recognition.film.writer import write_annotated
resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))
try:
    with write_annotated(Path({str(path)!r}), FilmInfo(25), sound=Path({str(source)!r})) as write:
        for record in records(1500):
            write(record)
except MienError as error:
    print(record.frame, error)
"""
        place = Path(__file__).parent
        completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=place, timeout=240)
        last, _, message = completed.stdout.partition(" ")
        assert message == (
            f"{path}: cannot be written on, as no file may be larger there, and holds the film until "
            f"{int(last) / 25:.2f} s; free some space or choose another place\n"
        ), completed
        numbers = [number_of(row.pixels) for row in frames(path) if row.pixels is not None]
        assert numbers == list(range(int(last) + 1)) and 20 < len(numbers) < 1500
        assert 500_000 < path.stat().st_size <= 1_500_000
        assert {entry.name for entry in tmp_path.iterdir()} == {"film.mp4", name}

    def test_a_quota_is_noticed_before_it_is_used_up(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "out.mp4"

        def allocate(number: int, start: int, length: int) -> None:
            if start + length > 900_000:
                raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

        monkeypatch.setattr(writer.os, "posix_fallocate", allocate, raising=False)
        with (
            pytest.raises(MienError, match="as the quota is used up, and holds"),
            write_annotated(path, FilmInfo(25)) as add,
        ):
            for record in records(1500):
                add(record)
        assert 20 < len(list(frames(path))) < 1500 and path.stat().st_size < 900_000

    @pytest.mark.parametrize("name", ["out.mp4", "out.avi"])
    def test_a_disk_that_gets_full_keeps_the_film_until_then(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = numbered(tmp_path / "film.mp4", 10, sound="aac", sound_s=60.0)
        path = tmp_path / name
        path.write_text("the former one")
        disk_size = source.stat().st_size + (3 << 19)

        def usage(folder: Path) -> SimpleNamespace:
            return SimpleNamespace(
                total=disk_size, free=disk_size - sum(entry.stat().st_size for entry in folder.iterdir())
            )

        monkeypatch.setattr(writer.shutil, "disk_usage", usage)
        written = 0
        with (
            pytest.raises(MienError, match="cannot be written on, as the disk is full, and holds the film") as raised,
            write_annotated(path, FilmInfo(25), sound=source) as add,
        ):
            for record in records(1500):
                written += 1
                add(record)
        numbers = [number_of(row.pixels) for row in frames(path) if row.pixels is not None]
        assert numbers == list(range(written)) and 20 < written < 1500
        assert f"until {(written - 1) / 25:.2f} s; free some space or choose another place" in str(raised.value)
        assert tone(path)[1] == pytest.approx(written / 25, abs=0.06)
        assert {entry.name for entry in tmp_path.iterdir()} == {"film.mp4", name}
        assert usage(tmp_path).free > 0
