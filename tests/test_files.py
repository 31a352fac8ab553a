"""Writing so that a reader never sees half of anything, also where the writer was killed."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file

from mien import files
from mien.errors import MienError
from mien.files import (
    SparedError,
    atomic_file,
    atomic_folder,
    ensure_writable,
    read_json_object,
    recover_folder,
    refuse_others,
    remove_leftovers,
)


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
    original, calls = os.rename, []

    def rename(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise Killed
        original(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        with pytest.raises(Killed):
            fill(tmp_path / "model", "new")
    assert not (tmp_path / "model").exists()
    recover_folder(tmp_path / "model")
    assert (tmp_path / "model" / "said").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_leftovers_of_a_killed_writer_go(tmp_path: Path) -> None:
    fill(tmp_path / "model", "old")
    (tmp_path / ".model.ab_12xyz.tmp").mkdir()
    (tmp_path / ".model.ab_12xyz.tmp.old").mkdir()
    recover_folder(tmp_path / "model")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "said").read_text() == "old"


def test_what_is_named_otherwise_is_no_leftover(tmp_path: Path) -> None:
    names = [".report.d", ".report.settings", ".report.other.ab_12xyz.tmp", "report.ab_12xyz.tmp"]
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / ".notes.tmp").write_text("")
    recover_folder(tmp_path / "report")
    remove_leftovers(tmp_path)
    assert {entry.name for entry in tmp_path.iterdir()} == {*names, ".notes.tmp"}


def test_files_of_a_killed_writer_go(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "state") as temporary:
        temporary.write_text("half")
        (tmp_path / ".mien-ab_12xyz.tmp").write_text("half")
        (tmp_path / ".mien-ab_12xyz.tmp.mp4").write_text("half")
        (tmp_path / ".state.123.tmp").write_text("half, of an earlier version")
        remove_leftovers(tmp_path)
        assert [entry.name for entry in tmp_path.iterdir()] == [temporary.name]
    remove_leftovers(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]
    remove_leftovers(tmp_path / "nowhere")


def test_a_second_rename_that_fails_keeps_the_former_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "model", "old")
    original, calls = os.rename, []

    def rename(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        original(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(MienError, match="Input/output error"):
        fill(tmp_path / "model", "new")
    assert (tmp_path / "model" / "said").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("is_link", [False, True])
def test_a_file_whose_place_is_a_folder_is_told_before_any_work(is_link: bool, tmp_path: Path) -> None:
    folder, place = tmp_path / "folder", tmp_path / "a.json"
    folder.mkdir()
    place.symlink_to("folder") if is_link else folder.rename(place)
    with (
        pytest.raises(MienError, match=r"a\.json: is a folder, expected the name of a file"),
        atomic_file(place, spare_newcomer=True),
    ):
        raise AssertionError("hours of work")
    assert place.is_dir() and place.is_symlink() == is_link
    assert len(list(tmp_path.iterdir())) == 1 + is_link


def test_a_place_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(MienError, match="cannot be written"):
        fill(tmp_path / "runs" / "model", "new")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), r"\(No space left on device\); free some space or choose"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), r"\(Disk quota exceeded\); free some space or choose"),
        (OSError(errno.EACCES, "Permission denied"), r"\(Permission denied\); choose another place"),
        (SafetensorError("I/O error: disk full (os error 28)"), r"\(No space left on device\); free some space"),
        (SafetensorError("failed to write whole buffer"), r"\(failed to write whole buffer\); choose another place"),
    ],
)
def test_the_remedy_is_that_of_the_trouble(error: Exception, message: str, tmp_path: Path) -> None:
    fill(tmp_path / "model", "old")
    (tmp_path / "file").write_text("old")
    with pytest.raises(MienError, match=f"model: cannot be written {message}"), atomic_folder(tmp_path / "model"):
        raise error
    with pytest.raises(MienError, match=f"file: cannot be written {message}"), atomic_file(tmp_path / "file"):
        raise error
    assert (tmp_path / "model" / "said").read_text() == (tmp_path / "file").read_text() == "old"
    assert {entry.name for entry in tmp_path.iterdir()} == {"model", "file"}


def test_weights_that_do_not_fit_are_told(tmp_path: Path) -> None:
    fill(tmp_path / "model", "old")
    resource = pytest.importorskip("resource", reason="Windows has no limits")
    former_limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, former_limits[1]))
    try:
        with pytest.raises(MienError, match=r"model: cannot be written \(File too large\)"):  # noqa: SIM117
            with atomic_folder(tmp_path / "model") as temporary:
                save_file({"weights": np.zeros(10_000, np.float32)}, temporary / "model.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former_limits)
    assert (tmp_path / "model" / "said").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


class TestEnsureWritable:
    def test_what_exists_and_what_can_be_made_pass(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ensure_writable(tmp_path)
        ensure_writable(tmp_path / "runs" / "first")
        monkeypatch.chdir(tmp_path)
        ensure_writable(Path("runs") / "first")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("below", [[], ["first"], ["first", "model"]])
    def test_a_file_in_the_way(self, below: list[str], tmp_path: Path) -> None:
        (tmp_path / "runs").write_text("")
        with pytest.raises(MienError, match=r"cannot be made, as .*runs is in its way and is no folder; choose"):
            ensure_writable((tmp_path / "runs").joinpath(*below))

    def test_a_link_to_nowhere(self, tmp_path: Path) -> None:
        (tmp_path / "runs").symlink_to(tmp_path / "nowhere")
        with pytest.raises(MienError, match="runs is in its way"):
            ensure_writable(tmp_path / "runs" / "first")

    def test_a_folder_that_may_only_be_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # The superuser may write anywhere, so that the system's answer is replaced.
        monkeypatch.setattr(os, "access", lambda place, mode: place != tmp_path)
        with pytest.raises(MienError, match=f"first: cannot be written, as you may not write to {tmp_path}; choose"):
            ensure_writable(tmp_path / "runs" / "first")


@pytest.mark.parametrize(("value", "kind"), [([], "list"), ("said", "str"), (None, "NoneType")])
def test_json_that_is_no_object_is_told(value: object, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "meta.json"
    path.write_text(json.dumps(value))
    with pytest.raises(MienError, match=f"meta.json: expected a JSON object, got {kind}; copy the whole folder again"):
        read_json_object(path)


def test_only_files_of_a_known_kind_may_be_lost(tmp_path: Path) -> None:
    refuse_others(tmp_path / "new", {"a.txt"}, "export")
    (tmp_path / "a.txt").touch()
    refuse_others(tmp_path, {"a.txt"}, "export")
    (tmp_path / "photos").mkdir()
    with pytest.raises(MienError, match="holds photos, which no export wrote; choose another --out"):
        refuse_others(tmp_path, {"a.txt"}, "export")


def test_the_umask_is_read_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_proc(path: str, *arguments: object, **options: object) -> object:
        raise FileNotFoundError(path)

    former_umask = os.umask(0o027)
    try:
        monkeypatch.setattr(files, "open", without_proc, raising=False)
        assert files.umask() == 0o027
        assert os.umask(0o027) == 0o027, "it is still set"
    finally:
        os.umask(former_umask)


def test_text_has_the_same_bytes_on_every_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def as_windows_writes(path: Path, text: str, encoding: str) -> None:
        path.write_bytes(text.replace("\n", "\r\n").encode(encoding))

    monkeypatch.setattr(Path, "write_text", as_windows_writes)
    files.write_text(tmp_path / "a.csv", "é\nb\n")
    files.write_json(tmp_path / "a.json", [1])
    assert (tmp_path / "a.csv").read_bytes() == b"\xc3\xa9\nb\n"
    assert (tmp_path / "a.json").read_bytes() == b"[\n  1\n]\n"


def test_a_number_that_is_taken_meanwhile_is_not_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two commands that look for a free number at the same time both find the same one."""
    path = tmp_path / "a.txt"
    for name in ("a.txt", "a-2.txt"):
        (tmp_path / name).write_text("of another command")
    link, there = os.link, os.path.lexists
    taken = tmp_path / "a-3.txt"

    def late(source: Path, target: Path, **options: bool) -> None:
        if target == taken and not there(taken):
            taken.write_text("of another command")
        link(source, target, **options)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(SparedError, match=r"a\.txt: came to be .*the result is in .*a-4\.txt") as error:  # noqa: SIM117
        with atomic_file(path, spare_all=True) as temporary:
            temporary.write_text("of this command")
    assert error.value.place == tmp_path / "a-4.txt" and error.value.place.read_text() == "of this command"
    assert {(tmp_path / f"a{end}.txt").read_text() for end in ("", "-2", "-3")} == {"of another command"}
    assert len(list(tmp_path.iterdir())) == 4


def test_an_empty_folder_that_appears_is_left_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(SparedError, match=r"/a: came to be .*the result is in .*a-2"):  # noqa: SIM117
        with atomic_folder(tmp_path / "a") as temporary:
            (temporary / "x").write_text("x")
            (tmp_path / "a").mkdir()
    assert not list((tmp_path / "a").iterdir()) and (tmp_path / "a-2" / "x").is_file()
