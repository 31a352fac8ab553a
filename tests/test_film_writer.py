"""Films with boxes: as long as the original, in its rhythm, with its sound; what is written otherwise is told."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
import pytest
from film_helpers import numbered, picture

from mien.recognition.film import writer
from mien.recognition.film.reader import about, frames
from mien.recognition.film.writer import write_annotated
from mien.recognition.results import Recognition


def copied(source: Path, path: Path, every: int = 1, stop: int | None = None, audio: bool = True) -> list[str]:
    """Writes a copy of a film as `mien predict --video-out` does; what was told."""
    told: list[str] = []
    says = about(source)
    with write_annotated(
        path,
        says.rate / every,
        time_base=says.time_base,
        end_s=says.duration_s,
        sound=source if audio else None,
        say=told.append,
    ) as add:
        for row in frames(source, every):
            if stop is not None and row.index >= stop:
                raise KeyboardInterrupt
            status: Literal["no_face", "error"] = "error" if row.pixels is None else "no_face"
            add(Recognition("film", status, row.reason, frame=row.index, time_s=row.time_s, pixels=row.pixels))
    return told


def tone(path: Path) -> tuple[float, float, float]:
    """Where the sound of a film begins and ends, in seconds, and how loud it is in between, of 1."""
    with av.open(str(path)) as film:
        pieces = [frame for frame in film.decode(audio=0) if frame.pts is not None]
        loud = np.concatenate([np.abs(piece.to_ndarray().astype(float)).ravel() for piece in pieces])
        scale = 32768 if pieces[0].format.name.startswith("s16") else 1
        last = pieces[-1]
        return float(pieces[0].time or 0), float(last.time or 0) + last.samples / last.sample_rate, loud.mean() / scale


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
    with av.open(str(source)) as one, av.open(str(tmp_path / "out.mp4")) as other:
        packets = [[bytes(packet) for packet in film.demux(audio=0) if packet.size] for film in (one, other)]
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
    (told,) = copied(source, tmp_path / "out.mp4")
    assert (
        told == f"{tmp_path / 'out.mp4'}: its sound (pcm_s16le) was encoded anew as aac, as MP4 does not hold it well"
    )
    assert tone(tmp_path / "out.mp4") == pytest.approx(tone(source), abs=0.05)
    source = numbered(tmp_path / "film.mp4", 50, sound="aac", sound_s=2.0)
    (told,) = copied(source, tmp_path / "out.avi")
    assert "its sound (aac) was encoded anew as pcm_s16le" in told
    assert tone(tmp_path / "out.avi") == pytest.approx(tone(source), abs=0.05)


def test_sound_may_be_left_out(tmp_path: Path) -> None:
    source = numbered(tmp_path / "film.mp4", 10, sound="aac", sound_s=0.4)
    copied(source, tmp_path / "out.mp4", audio=False)
    assert kinds(tmp_path / "out.mp4") == {"video": "h264"}


@pytest.mark.parametrize("name", ["out.mp4", "out.avi"])
def test_a_rate_that_varies_stays(name: str, tmp_path: Path) -> None:
    shown = [0, 40, 80, 120, 400, 440, 1000, 1040, 1120]
    source = numbered(tmp_path / "film.mkv", 9, "libx264", times=shown, time_base=Fraction(1, 1000))
    copied(source, tmp_path / name)
    rows = list(frames(tmp_path / name))
    assert [row.time_s for row in rows] == pytest.approx(
        [time / 1000 for time in shown], abs=0.02 * (name[-1] == "i") + 1e-6
    )
    with av.open(str(tmp_path / name)) as film:
        assert film.duration is not None and film.duration / 1e6 == pytest.approx(1.16, abs=0.041)


@pytest.mark.parametrize("every", [1, 7])
def test_it_is_as_long_as_the_original(every: int, tmp_path: Path) -> None:
    source = numbered(tmp_path / "film.mp4", 50, "libx264", rate=Fraction(30000, 1001))
    copied(source, tmp_path / "out.mp4", every)
    assert about(tmp_path / "out.mp4").duration_s == pytest.approx(50 * 1001 / 30000, abs=1e-3)
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
    (told,) = copied(source, tmp_path / "out.mp4")
    assert "is written as MPEG-4 part 2, as this installation has no H.264 encoder" in told
    assert kinds(tmp_path / "out.mp4") == {"video": "mpeg4"}
    assert [row.time_s for row in frames(tmp_path / "out.mp4")] == pytest.approx(np.arange(10) / 25, abs=1e-3)


def test_colours_stay(tmp_path: Path) -> None:
    """The pixels that are written come back, whatever the tags of colour say."""
    shown = np.zeros((64, 96, 3), np.uint8)
    for place, colour in enumerate([(220, 40, 40), (40, 200, 60), (50, 60, 210), (200, 180, 60)]):
        shown[:, 24 * place : 24 * place + 24] = colour
    for name in ("out.mp4", "out.avi"):
        with write_annotated(tmp_path / name, 25) as add:
            for index in range(5):
                add(Recognition("film", "no_face", frame=index, time_s=index / 25, pixels=shown))
        pixels = next(frames(tmp_path / name)).pixels
        assert pixels is not None
        for place in range(4):
            here = slice(24 * place + 6, 24 * place + 18)
            assert np.abs(pixels[:, here].astype(float) - shown[:, here]).mean() < 6


def test_the_size_of_films_is_that_of_the_first_frame(tmp_path: Path) -> None:
    tall = np.full((120, 60, 3), 200, np.uint8)
    with write_annotated(tmp_path / "out.mp4", 25) as add:
        for index, pixels in enumerate([picture(0), tall]):
            add(Recognition("film", "no_face", frame=index, time_s=index / 25, pixels=pixels))
    fitted = list(frames(tmp_path / "out.mp4"))[1].pixels
    assert fitted is not None and fitted.shape == (64, 96, 3)
    assert fitted[32, :28].max() < 40 < 160 < fitted[32, 36:60].min(), "in the middle, on black, not stretched"
