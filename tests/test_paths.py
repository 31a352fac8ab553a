"""Arguments become pictures and films, in order; an argument that names nothing is reported."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from film_helpers import write
from recognition_helpers import encoded, picture

from mien.recognition.film.reader import frames
from mien.recognition.paths import Film, Input, Nothing, counted, expand
from mien.recognition.pictures import FILM_SUFFIXES, SUFFIXES, Kind, kind_of_bytes


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a folder of photos."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.jpg", "a.PNG", "film.mp4", "notes.txt", "more/c.webp", "more/deep/d.gif", ".hidden.jpg",
                 "__MACOSX/a.jpg", ".git/x.png"):  # fmt: skip
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


def names(inputs: list[Input]) -> list[str]:
    return [f"film {entry.name}" if isinstance(entry, Film) else str(entry) for entry in inputs]


IN_PHOTOS = ["photos/a.PNG", "photos/b.jpg", "film photos/film.mp4", "photos/more/c.webp", "photos/more/deep/d.gif"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["photos"], IN_PHOTOS),
        (["photos/"], IN_PHOTOS),
        (["."], IN_PHOTOS),
        (["photos/b.jpg", "photos/a.PNG", "photos/b.jpg"], ["photos/b.jpg", "photos/a.PNG", "photos/b.jpg"]),
        (["photos/*.jpg"], ["photos/b.jpg"]),
        (["photos/[ab].*"], ["photos/a.PNG", "photos/b.jpg"]),
        (["photos/mor?"], ["photos/more/c.webp", "photos/more/deep/d.gif"]),
        (["photos/**/*.gif", "photos/**/*.webp"], ["photos/more/deep/d.gif", "photos/more/c.webp"]),
        (["photos/more**"], ["photos/more/c.webp", "photos/more/deep/d.gif"]),
        (["photos/more/**"], ["photos/more/c.webp", "photos/more/deep/d.gif"]),
        (["photos/notes.txt", "nowhere.jpg", "nowhere.mp4"], ["photos/notes.txt", "nowhere.jpg", "film nowhere.mp4"]),
        ([], []),
    ],
    ids=lambda words: " ".join(words) or "nothing",
)
def test_words_become_files(words: list[str], expected: list[str], folder: Path) -> None:
    assert names(expand(words)) == expected


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(folder: Path) -> None:
    (folder / "photo[1].jpg").touch()
    assert names(expand(["photo[1].jpg"])) == ["photo[1].jpg"]


def test_what_names_nothing_is_told(folder: Path) -> None:
    for word, message in (
        ("empty", "empty: holds no picture and no film; check the path"),
        ("photos/*.tif", "photos/*.tif: no file has such a name; check the pattern"),
    ):
        assert expand([word]) == [Nothing(word, message)]
    (folder / "empty" / "notes.txt").touch()
    (folder / "empty" / "words.dat").write_text("some words\n" * 100)
    (entry,) = expand(["empty"])
    assert isinstance(entry, Nothing)
    assert entry.reason == (
        "empty: holds no picture and no film; its 2 files hold something else (1 empty, 1 text); check the path"
    )


@pytest.mark.skipif(os.name == "nt", reason="Windows makes up a home folder for any name")
def test_a_home_that_nobody_has_harms_no_other_word(folder: Path) -> None:
    word = "~nobody-of-this-name/a.jpg"
    problem, *others = expand([word, str(folder / "b.jpg")])
    assert isinstance(problem, Nothing) and problem.reason.startswith(f"{word}: its home folder is not known")
    assert len(others) == 1


def test_where_results_go_is_not_read(folder: Path) -> None:
    (folder / "photos" / "marked").mkdir()
    (folder / "photos" / "marked" / "b.jpg").touch()
    assert names(expand(["photos"], leave_out=Path("photos/marked"))) == IN_PHOTOS
    assert "photos/marked/b.jpg" in names(expand(["photos"]))
    for word in ("photos/**", "photos/**/*.jpg", "photos/*"):
        assert not [name for name in names(expand([word], leave_out=Path("photos/marked"))) if "marked" in name]
    assert names(expand(["photos/marked/*"], leave_out=Path("photos/marked"))) == ["photos/marked/b.jpg"]
    # Copies may go into the very folder that holds the originals.
    assert names(expand(["photos/more"], leave_out=folder / "photos/more")) == IN_PHOTOS[3:]


def test_links_in_a_circle_end(folder: Path) -> None:
    (folder / "photos" / "more" / "up").symlink_to(folder / "photos")
    assert names(expand(["photos"])) == IN_PHOTOS


def test_a_folder_that_cannot_be_listed_is_told(folder: Path) -> None:
    locked = folder / "locked"
    locked.mkdir(mode=0)
    if os.access(locked, os.R_OK):
        pytest.skip("root lists everything")
    (entry,) = expand(["locked"])
    assert isinstance(entry, Nothing) and "cannot be listed" in entry.reason


def test_a_folder_within_that_cannot_be_listed_leaves_the_rest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original_scandir = os.scandir

    def guarded(path: Any) -> Any:
        if os.fspath(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return original_scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    *inputs, last_input = expand(["photos"])
    assert (
        isinstance(last_input, Nothing)
        and "photos/more/deep: cannot be listed (Permission denied)" in last_input.reason
    )
    assert names(inputs) == [name for name in IN_PHOTOS if "deep" not in name]


def test_of_animated_pictures_the_first_frame_is_read(folder: Path) -> None:
    assert not set(SUFFIXES) & set(FILM_SUFFIXES)
    (folder / "moving.mp4").write_bytes(encoded(picture([255]), "GIF"))
    assert names(expand(["moving.gif", "moving.mp4"])) == ["moving.gif", "moving.mp4"]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A film of every usual container, by FFmpeg's name of it."""
    film_folder = tmp_path_factory.mktemp("films")
    codecs = {
        "mp4": "libx264", "mov": "libx264", "avi": "mpeg4", "matroska": "libx264", "webm": "libvpx", "flv": "libx264",
        "asf": "wmv2", "mpegts": "mpeg2video", "mpeg": "mpeg1video", "vob": "mpeg2video", "mpeg2video": "mpeg2video",
        "h264": "libx264", "hevc": "libx265", "m4v": "mpeg4", "ivf": "libvpx", "mxf": "mpeg2video", "nut": "mpeg4",
        "yuv4mpegpipe": "wrapped_avframe", "ogg": "libvpx", "dv": "dvvideo", "rm": "rv20",
    }  # fmt: skip
    film_bytes = {}
    for form, codec in codecs.items():
        size = (720, 576) if codec == "dvvideo" else (176, 144)
        pictures = [np.full((size[1], size[0], 3), 40 * index, np.uint8) for index in range(6)]
        options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        film_bytes[form] = write(film_folder / form, pictures, codec, form=form, options=options).read_bytes()
    packets = range(0, len(film_bytes["mpegts"]), 188)
    # As Blu-ray discs and AVCHD cameras write it: four bytes before each packet.
    film_bytes["m2ts"] = b"".join(bytes(4) + film_bytes["mpegts"][start : start + 188] for start in packets)
    film_bytes["joined in the middle of a packet"] = film_bytes["mpegts"][100:]
    return film_bytes


def test_what_is_a_film_its_content_tells(films: dict[str, bytes], folder: Path) -> None:
    for form, data in films.items():
        for name in ("film", "film.dat", "photo.jpg", "notes.txt"):
            (folder / name).write_bytes(data)
            (entry,) = expand([name])
            assert isinstance(entry, Film), (form, name)
            assert [frame.index for frame in frames(folder / name) if frame.pixels is not None][:5] == [0, 1, 2, 3, 4]


def test_a_film_whose_beginning_is_lost_is_known_by_its_name(films: dict[str, bytes], folder: Path) -> None:
    for name in ("rest", "rest.mpg"):
        (folder / name).write_bytes(b"\x93\x01\xfe" * 300 + films["mpeg"])
    assert names(expand(["rest", "rest.mpg"])) == ["rest", "film rest.mpg"]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF"])
def test_what_is_a_picture_its_content_tells(kind: str, folder: Path) -> None:
    for name in ("picture", "film.mp4", "notes.txt"):
        (folder / name).write_bytes(encoded(picture([255]), kind))
        assert names(expand([name])) == [name]


def test_in_a_folder_all_that_can_be_read_is_read_and_the_rest_is_counted(
    films: dict[str, bytes], folder: Path
) -> None:
    files = {
        "a": encoded(picture([255])), "b.dat": films["vob"], "c.MTS": films["m2ts"], "d.mp4": b"", "e.jpg": b"words",
        "f.txt": b"words\n", "g.json": b"{}", "h.zip": b"PK\x03\x04" + bytes(30), "i.pdf": b"%PDF-1.7\n%\xe2\xe3",
        "j.bin": bytes(range(256)) * 8, "k.mp3": b"ID3" + bytes(300), "l": b"", "m.npy": b"\x93NUMPY" + bytes(300),
        "n.ans": b"\x1b[31mcolours\x1b[0m of a terminal\n" * 50, "o.m3u8": b"#EXTM3U\nfilm.mp4\n",
        "q.ts": b"export const one = 1;\n",
    }  # fmt: skip
    (folder / "mixed").mkdir()
    for name, data in files.items():
        (folder / "mixed" / name).write_bytes(data)
    music = write(folder / "mixed" / "p.mka", [], "", form="matroska", sound="aac", sound_s=0.3)
    assert kind_of_bytes(music.read_bytes()[:4096]) is Kind.FILM
    skipped_kinds: Counter[Kind] = Counter()
    input_names = names(expand(["mixed"], skipped=skipped_kinds))
    assert input_names == ["mixed/a", "film mixed/b.dat", "film mixed/c.MTS", "film mixed/d.mp4", "mixed/e.jpg"]
    assert skipped_kinds == {
        Kind.TEXT: 5, Kind.SOUND: 2, Kind.ARCHIVE: 1, Kind.DOCUMENT: 1, Kind.EMPTY: 1, Kind.OTHER: 1, Kind.UNKNOWN: 1,
    }  # fmt: skip
    assert counted(skipped_kinds).startswith("5 text, 2 sound, 1 ")


def test_cameras_have_a_name() -> None:
    assert Film(0).name == "camera 0"
