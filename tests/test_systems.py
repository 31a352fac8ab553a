"""Windows and macOS: commands run without what only Linux has. Windows is simulated (``windows_like.py``)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import film_helpers as films
import pytest
from PIL import Image

from mien import files, machine
from mien.data import cache
from mien.recognition import time_limit

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the simulation reads /proc")

HERE = Path(__file__).parent
SOURCE = HERE.parent / "src"


def as_on_windows(folder: Path, *arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a command of Mien, or else Python code, as on Windows, in a folder."""
    environment = {**os.environ, "PYTHONPATH": f"{SOURCE}{os.pathsep}{HERE}", "MIEN_CACHE": str(folder / "cache")}
    command = ["-c", f"import windows_like\nwindows_like.become_windows()\n{code}"] if code else [
        str(HERE / "windows_like.py"), *arguments
    ]  # fmt: skip
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=folder, env=environment, timeout=120
    )


def test_a_set_is_drawn_read_and_cached_on_windows(tmp_path: Path) -> None:
    for arguments in (
        ["data", "draw", "--out", "drawn.zip", "--train", "7", "--validation", "7", "--test", "7"],
        ["data", "inspect", "drawn.zip"],
    ):
        done = as_on_windows(tmp_path, *arguments)
        assert done.returncode == 0 and "cache" not in done.stderr, done.stderr
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["cache", "drawn.zip"], "no lock, no temporary file"
    assert [entry.suffix for entry in (tmp_path / "cache").iterdir()] == [".npz"]


def test_a_photo_and_a_film_are_read_on_windows(tmp_path: Path) -> None:
    Image.fromarray(films.portrait()).save(tmp_path / "photo.png")
    done = as_on_windows(tmp_path, "predict", "photo.png", "--csv", "photo.csv", "--annotate", "marked")
    assert done.returncode == 0, done.stderr
    assert "happy" in (tmp_path / "photo.csv").read_text(encoding="utf-8")
    films.numbered(tmp_path / "film.mp4", 3)
    done = as_on_windows(
        tmp_path, "predict", "film.mp4", "--csv", "film.csv", "--video-out", "out.mp4", "--timeline", "out.png"
    )
    assert done.returncode == 0, done.stderr
    names = {entry.name for entry in tmp_path.iterdir()} - {"cache"}
    assert names == {"photo.png", "photo.csv", "marked", "film.mp4", "film.csv", "out.mp4", "out.png"}


@pytest.mark.parametrize("former", [False, True])
def test_a_folder_is_written_as_a_whole_on_windows(former: bool, tmp_path: Path) -> None:
    if former:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "old.json").touch()
    code = (
        "from pathlib import Path\nfrom mien.files import atomic_folder, write_json\n"
        "with atomic_folder(Path('model')) as folder:\n    write_json(folder / 'new.json', {})\n"
    )
    done = as_on_windows(tmp_path, code=code)
    assert done.returncode == 0, done.stderr
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["model", "model/new.json"]


def test_a_write_that_fails_leaves_nothing_on_windows(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\nfrom mien.files import atomic_folder, atomic_file\n"
        "for write in (atomic_folder, atomic_file):\n    try:\n        with write(Path('out')):\n            1 / 0\n"
        "    except ZeroDivisionError:\n        print('raised')\n"
    )
    done = as_on_windows(tmp_path, code=code)
    assert done.stdout == "raised\nraised\n", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_simulation_refuses_what_windows_refuses(tmp_path: Path) -> None:
    code = (
        "import os, signal\nfile = open('a', 'w')\nfor call in (lambda: os.replace('a', 'b'), lambda: os.unlink('a'), "
        "lambda: os.open('.', os.O_RDONLY)):\n    try:\n        call()\n    except PermissionError:\n"
        "        print('refused')\nprint(hasattr(os, 'O_NOFOLLOW'), hasattr(signal, 'SIGHUP'))\n"
    )
    assert as_on_windows(tmp_path, code=code).stdout == "refused\nrefused\nrefused\nFalse False\n"


def test_cores_are_counted_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert machine.all_cores() == 3
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.all_cores() == 1


def test_the_processor_has_a_name_without_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.processor", lambda: "arm")
    assert machine._processor(tmp_path / "cpuinfo") == "arm"


def test_the_umask_is_read_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_proc(path: str, *arguments: object, **options: object) -> object:
        raise FileNotFoundError(path)

    former = os.umask(0o027)
    try:
        monkeypatch.setattr(files, "open", without_proc, raising=False)
        assert files.umask() == 0o027
        assert os.umask(0o027) == 0o027, "it is still set"
    finally:
        os.umask(former)


def test_files_without_an_owner_are_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o777)  # as Windows says of every folder
    assert not cache._is_own(tmp_path.stat())
    monkeypatch.delattr(os, "geteuid")
    assert cache._is_own(tmp_path.stat())


def test_a_process_that_ends_well_is_not_overdue_without_alarms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(signal, "SIGALRM")
    process = time_limit.TimedProcess(60, _prepare_ending)
    with pytest.raises(time_limit.OverdueError, match=r"ended the process that read it \(exit code 0\)"):
        list(process.answers(None, "photo.jpg"))


def _prepare_ending(say: object) -> tuple[None, time_limit.Work]:
    return None, lambda task: os._exit(0)
