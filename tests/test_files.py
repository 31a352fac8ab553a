"""Writing so that a reader never sees half of anything, also where the writer was killed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mien.errors import MienError
from mien.files import atomic_file, atomic_folder, recover_folder


def fill(folder: Path, text: str) -> None:
    with atomic_folder(folder) as temporary:
        (temporary / "said").write_text(text)


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    fill(tmp_path / "model", "old")
    fill(tmp_path / "model", "new")
    assert (tmp_path / "model" / "said").read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_what_fails_leaves_what_was_there(tmp_path: Path) -> None:
    fill(tmp_path / "model", "old")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "model") as temporary:
        (temporary / "said").write_text("half")
        raise RuntimeError
    assert (tmp_path / "model" / "said").read_text() == "old"
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    fill(tmp_path / "model", "old")
    original, calls = os.replace, []

    def replace(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise Killed
        original(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(Killed):
            fill(tmp_path / "model", "new")
    assert not (tmp_path / "model").exists()
    recover_folder(tmp_path / "model")
    assert (tmp_path / "model" / "said").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_leftovers_of_a_killed_writer_go(tmp_path: Path) -> None:
    fill(tmp_path / "model", "old")
    (tmp_path / ".model.abc").mkdir()
    recover_folder(tmp_path / "model")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_place_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(MienError, match="cannot be written"):
        fill(tmp_path / "runs" / "model", "new")
