"""Two commands and one --out: the second is refused, and the first publishes all that it wrote, or tells.

A command is stopped at every change that it makes to the file system, and each other command runs against it then. The
stops are events of Python's audit hooks (open for writing, mkdir, rename, remove), so no moment is left to chance; the
other command runs in another thread, for which the lock is as closed as for another process. Processes that are stopped
by SIGSTOP follow below.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from data_helpers import encode, write_folder
from hostile_helpers import Whole, error_of, mien, run_mien, write_classifier

from mien.config import TrainConfig
from mien.errors import MienError
from mien.files import atomic_file, atomic_folder, refuse_inputs, refuse_others, write_json
from mien.locks import RUN_LOCK, claim, holds_out
from mien.recognition.training_set import crop_set

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.chmod"}
WRITING = os.O_WRONLY | os.O_RDWR


class Stops:
    """Calls something at every change of the file system below a folder that the thread of a block makes."""

    def __init__(self) -> None:
        self.active: tuple[int, str, Callable[[], None]] | None = None
        self.count = 0
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        active = self.active
        if active is None or active[0] != threading.get_ident():
            return
        if event not in CHANGES and not (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING):
            return
        place = arguments[0]
        if not isinstance(place, str | bytes | os.PathLike) or active[1] not in os.fsdecode(place):
            return
        self.active = None  # what the other command does is no stop
        self.count += 1
        try:
            active[2]()
        finally:
            self.active = active

    @contextmanager
    def at_every_change(self, below: Path, act: Callable[[], None]) -> Iterator[None]:
        self.count = 0
        self.active = (threading.get_ident(), str(below), act)
        try:
            yield
        finally:
            self.active = None


STOPS = Stops()


def in_a_thread(act: Callable[[], object]) -> object:
    """What something returns, or raises, in a thread of its own."""
    results: list[object] = []

    def work() -> None:
        try:
            results.append(act())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return results[0]


def photos(folder: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    return write_folder(folder, {"happy/a.png": encode(pixels), "sad/b.png": encode(pixels)})


class TestEveryStop:
    """Commands that write one folder as a whole: crop, export, pack and evaluate share ``atomic_folder``."""

    @pytest.fixture
    def other_commands(self, tmp_path: Path) -> dict[str, Callable[[], object]]:
        """What other commands do first with the --out of the one that is stopped."""
        out, source = tmp_path / "box" / "out", photos(tmp_path / "photos")

        class Config:
            pass

        Config.out = str(out)  # type: ignore[attr-defined]
        return {
            "crop": lambda: crop_set(source, out, Whole(), size=20),
            "pack": lambda: refuse_others(out, {"meta.json"}, "pack"),
            "report": lambda: atomic_folder(out).__enter__(),
            "train": lambda: holds_out(lambda config: "trained")(Config()),
        }

    def test_crop_against_each(self, other_commands: dict[str, Callable[[], object]], tmp_path: Path) -> None:
        out = tmp_path / "box" / "out"
        failures: list[str] = []

        def others_run() -> None:
            if not any(entry.name.endswith(".tmp") for entry in out.parent.iterdir()):
                return  # nothing is written yet, or all is done
            for name, other_command in other_commands.items():
                error = in_a_thread(other_command)
                if not (isinstance(error, MienError) and "is being written by another command" in str(error)):
                    failures.append(f"{STOPS.count}: {name}: {error!r}")

        (tmp_path / "box").mkdir()
        with STOPS.at_every_change(tmp_path / "box", others_run):
            crop_set(tmp_path / "photos", out, Whole(), size=20)
        assert not failures and STOPS.count >= 8
        assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png")) == ["happy/a.png", "sad/b.png"]
        assert [entry.name for entry in (tmp_path / "box").iterdir()] == ["out"]

    def test_a_run_against_each(self, other_commands: dict[str, Callable[[], object]], tmp_path: Path) -> None:
        out = tmp_path / "box" / "out"
        failures: list[str] = []

        def others_run() -> None:
            for name, other_command in other_commands.items():
                error = in_a_thread(other_command)
                message = "exists; choose" if name == "crop" else "is being written by another command"
                if not (isinstance(error, MienError) and message in str(error)):
                    failures.append(f"{STOPS.count}: {name}: {error!r}")

        def train(config: TrainConfig) -> str:
            with STOPS.at_every_change(tmp_path / "box", others_run):
                for epoch in range(2):
                    with atomic_folder(out / "model") as temporary:
                        write_json(temporary / "config.json", {"epoch": epoch})
                    write_json(out / "meta.json", {"epoch": epoch})
            return "trained"

        assert holds_out(train)(TrainConfig(data="", out=str(out))) == "trained"
        assert not failures and STOPS.count >= 8
        assert (out / "model" / "config.json").read_text() == (out / "meta.json").read_text()
        assert not (out / RUN_LOCK).exists() and len(list(out.iterdir())) == 2
        # Once it has ended, the next one may.
        assert in_a_thread(other_commands["train"]) == "trained"

    def test_what_a_command_in_a_folder_of_a_run_finds(self, tmp_path: Path) -> None:
        with claim(tmp_path / "run", inside=True):
            for below in ("model", "model/deeper", "."):
                error = in_a_thread(partial(atomic_folder(tmp_path / "run" / below).__enter__))
                assert "is being written by another command" in str(error), below


class TestNewcomers:
    """A file or folder that comes to be at --out while a command runs is not destroyed."""

    def test_a_folder(self, tmp_path: Path) -> None:
        out = tmp_path / "set"
        with pytest.raises(MienError, match=r"set: came to be while .* and is left as it is; the result is in .*set-2"):  # noqa: SIM117
            with atomic_folder(out) as temporary:
                (temporary / "new").write_text("new")
                out.mkdir()
                (out / "mine.txt").write_text("precious")
        assert (out / "mine.txt").read_text() == "precious" and (tmp_path / "set-2" / "new").read_text() == "new"
        assert {entry.name for entry in tmp_path.iterdir()} == {"set", "set-2"}

    def test_a_file_in_the_place_of_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(MienError, match="set-2"), atomic_folder(tmp_path / "set"):
            (tmp_path / "set").write_text("precious")
        assert (tmp_path / "set").read_text() == "precious"

    def test_another_folder_than_the_former(self, tmp_path: Path) -> None:
        out = tmp_path / "report"
        out.mkdir()
        with pytest.raises(MienError, match="report-2"), atomic_folder(out):
            out.rename(tmp_path / "kept")
            out.mkdir()
            (out / "mine.txt").write_text("precious")
        assert (out / "mine.txt").read_text() == "precious"

    def test_a_file_in_the_former_folder(self, tmp_path: Path) -> None:
        out = tmp_path / "exported"
        out.mkdir()
        (out / "model.onnx").write_text("old")

        def check(former_folder: Path) -> None:
            if (former_folder / "mine.txt").exists():
                raise MienError(f"{former_folder}: holds mine.txt")

        with pytest.raises(MienError, match=r"exported: holds mine.txt"), atomic_folder(out, check=check):
            (out / "mine.txt").write_text("precious")
        assert (out / "mine.txt").read_text() == "precious" and (out / "model.onnx").read_text() == "old"
        assert [entry.name for entry in tmp_path.iterdir()] == ["exported"]

    @pytest.mark.parametrize("exists_before", [False, True])
    def test_a_file(self, exists_before: bool, tmp_path: Path) -> None:
        out = tmp_path / "heat.png"
        if exists_before:
            out.write_text("old")
        with pytest.raises(MienError, match=r"the result is in .*heat-2.png"):  # noqa: SIM117
            with atomic_file(out, spare_newcomer=True) as temporary:
                temporary.write_text("new")
                out.unlink(missing_ok=True)
                (tmp_path / "other").write_text("precious")
                (tmp_path / "other").rename(out)
        assert out.read_text() == "precious" and (tmp_path / "heat-2.png").read_text() == "new"

    def test_a_file_that_was_there_is_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "heat.png").write_text("old")
        with atomic_file(tmp_path / "heat.png", spare_newcomer=True) as temporary:
            temporary.write_text("new")
        assert (tmp_path / "heat.png").read_text() == "new"


class TestVeryFolder:
    """What is published is the very folder that was written."""

    @pytest.mark.parametrize("make_again", [False, True])
    def test_a_temporary_folder_that_was_removed(self, make_again: bool, tmp_path: Path) -> None:
        with pytest.raises(MienError, match="was removed or replaced while it was written; nothing was written"):  # noqa: SIM117
            with atomic_folder(tmp_path / "packed") as temporary:
                (temporary / "model.onnx").write_text("weights")
                (temporary / "model.onnx").unlink()
                temporary.rmdir()
                if make_again:
                    temporary.mkdir()
        assert not (tmp_path / "packed").exists()

    def test_no_parent_is_made_anew_in_it(self, tmp_path: Path) -> None:
        with pytest.raises(MienError, match="cannot be written"), atomic_folder(tmp_path / "packed") as temporary:
            temporary.rmdir()
            write_json(temporary / "meta.json", {})
        assert not list(tmp_path.iterdir())


class TestInputs:
    @pytest.mark.parametrize(
        ("out", "message"),
        [("run/model", "is what"), ("run", "holds"), ("run/model/packed", "lies in"), ("link", "is what"), ("new", "")],
    )
    def test_an_out_at_an_input(self, out: str, message: str, tmp_path: Path) -> None:
        (tmp_path / "run" / "model").mkdir(parents=True)
        (tmp_path / "link").symlink_to(tmp_path / "run" / "model")
        if not message:
            refuse_inputs(tmp_path / out, [tmp_path / "run" / "model", None, tmp_path / "nothing"])
            return
        with pytest.raises(
            MienError, match=f"--out .*{out}: {message} .*choose another place, so that nothing is lost"
        ):
            refuse_inputs(tmp_path / out, [tmp_path / "run" / "model"])

    def test_pack_into_its_own_run(self, tmp_path: Path) -> None:
        model = write_classifier(tmp_path / "run" / "model")
        weights_before = (model / "model.safetensors").read_bytes()
        for out in (model, model / "packed", tmp_path / "run"):
            assert "made from" in error_of("pack", tmp_path / "run", "--data", tmp_path / "no.zip", "--out", out)
        assert (model / "model.safetensors").read_bytes() == weights_before

    def test_a_card_over_its_record(self, tmp_path: Path) -> None:
        (tmp_path / "meta.json").write_text("{}")
        assert "is what it is made from" in error_of("card", tmp_path, "--out", tmp_path / "meta.json")
        assert (tmp_path / "meta.json").read_text() == "{}"

    def test_crops_into_their_photos(self, tmp_path: Path) -> None:
        source = photos(tmp_path / "photos")
        assert "lies in" in error_of("data", "crop", source, "--out", source / "set")
        assert not (source / "set").exists()


class TestProcesses:
    """The same with processes, one of which is stopped by SIGSTOP while it writes."""

    def test_a_second_command_is_refused_and_the_first_goes_on(self, tmp_path: Path) -> None:
        source, out = photos(tmp_path / "photos"), tmp_path / "box" / "set"
        code = (
            "import sys, time; from pathlib import Path; from hostile_helpers import Whole\n"
            "from mien.recognition.training_set import crop_set\n"
            "class Slow(Whole):\n"
            "    def detect(self, picture):\n"
            "        print('detecting', flush=True); sys.stdin.readline(); return super().detect(picture)\n"
            "crop_set(Path(sys.argv[1]), Path(sys.argv[2]), Slow(), size=20)\n"
        )
        first = subprocess.Popen(
            [sys.executable, "-c", code, source, out], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert first.stdin and first.stdout and first.stdout.readline() == "detecting\n"
        os.kill(first.pid, signal.SIGSTOP)
        try:
            completed = run_mien("data", "crop", source, "--out", out)
            assert completed.returncode == 2 and completed.stderr.count("\n") == 1, completed.stderr
            assert "is being written by another command" in completed.stderr
            assert not out.exists()
        finally:
            os.kill(first.pid, signal.SIGCONT)
        first.communicate("\n\n\n\n", timeout=60)
        assert first.returncode == 0 and len(list(out.rglob("*.png"))) == 2
        assert [entry.name for entry in out.parent.iterdir()] == ["set"]

    def test_what_a_killed_command_left_goes(self, tmp_path: Path) -> None:
        code = (
            "import os, signal, sys; from pathlib import Path; from mien.files import atomic_file, atomic_folder\n"
            "box = Path(sys.argv[1])\n"
            "with atomic_folder(box / 'set') as folder, atomic_file(box / 'a.csv') as file:\n"
            "    (folder / 'half').write_text('half'); file.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        assert subprocess.run([sys.executable, "-c", code, tmp_path], env=environment).returncode == -signal.SIGKILL
        assert len(list(tmp_path.iterdir())) == 3  # the folder, the file and the lock
        (tmp_path / ".theirs.123.tmp").touch()  # of another program: only ours are known by their names
        with atomic_folder(tmp_path / "set") as folder:
            (folder / "whole").write_text("whole")
        with atomic_file(tmp_path / "b.csv") as file:
            file.write_text("whole")
        assert {entry.name for entry in tmp_path.iterdir()} == {"set", "b.csv", ".theirs.123.tmp"}


def test_a_lock_that_vanished_does_not_let_two_in(tmp_path: Path) -> None:
    """The lock file of the former holder is removed just when the next one has opened it."""
    barrier = threading.Barrier(4)
    holders, most_holders = 0, 0

    def work() -> None:
        nonlocal holders, most_holders
        barrier.wait()
        for _ in range(200):
            try:
                with claim(tmp_path / "out"):
                    holders += 1
                    most_holders = max(most_holders, holders)
                    time.sleep(0)
                    holders -= 1
            except MienError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most_holders == 1 and not list(tmp_path.iterdir())


def test_help_is_not_held_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert mien("--help") == 0 and "Commands:" in capsys.readouterr().out
