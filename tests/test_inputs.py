"""What was typed becomes pictures and films, in order; what names nothing is told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mien.recognition.inputs.paths import Film, Input, Nothing, expand
from mien.recognition.inputs.pictures import FILMS


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


def names(found: list[Input]) -> list[str]:
    return [f"film {one.name}" if isinstance(one, Film) else str(one) for one in found]


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
    for word, told in (
        ("empty", "empty: holds no picture and no film; check the path"),
        ("photos/*.tif", "photos/*.tif: no file has such a name; check the pattern"),
        ("", "an empty word names no file; check the command line"),
    ):
        assert expand([word]) == [Nothing(word, told)]
    (folder / "empty" / "notes.txt").touch()
    (found,) = expand(["empty"])
    assert isinstance(found, Nothing)
    assert found.reason == (
        "empty: holds no picture and no film; its 1 files have other endings than .jpg, .png, .mp4 and the like; "
        "check the path"
    )


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
    (found,) = expand(["locked"])
    assert isinstance(found, Nothing) and "cannot be listed" in found.reason


def test_a_folder_within_that_cannot_be_listed_leaves_the_rest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = os.scandir

    def guarded(path: Any) -> Any:
        if os.fspath(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", guarded)
    *rest, last = expand(["photos"])
    assert isinstance(last, Nothing) and "photos/more/deep: cannot be listed (Permission denied)" in last.reason
    assert names(rest) == [name for name in IN_PHOTOS if "deep" not in name]


def test_of_animated_pictures_the_first_frame_is_read() -> None:
    assert ".gif" not in FILMS and {".mp4", ".avi", ".mov", ".mkv", ".webm"} <= set(FILMS)
    assert names(expand(["moving.gif"])) == ["moving.gif"]


def test_cameras_have_a_name() -> None:
    assert Film(0).name == "camera 0"
