"""Commands run as on Windows, which ``windows_like.py`` simulates."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import film_helpers as films
import pytest
from PIL import Image

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
        completed = as_on_windows(tmp_path, *arguments)
        assert completed.returncode == 0 and "cache" not in completed.stderr, completed.stderr
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["cache", "drawn.zip"], "no lock, no temporary file"
    assert [entry.suffix for entry in (tmp_path / "cache").iterdir()] == [".npz"]


def test_a_photo_and_a_film_are_read_on_windows(tmp_path: Path) -> None:
    Image.fromarray(films.portrait()).save(tmp_path / "photo.png")
    completed = as_on_windows(tmp_path, "predict", "photo.png", "--csv", "photo.csv", "--annotate", "marked")
    assert completed.returncode == 0, completed.stderr
    assert "happy" in (tmp_path / "photo.csv").read_text(encoding="utf-8")
    films.numbered(tmp_path / "film.mp4", 3)
    completed = as_on_windows(
        tmp_path, "predict", "film.mp4", "--csv", "film.csv", "--video-out", "out.mp4", "--timeline", "out.png"
    )
    assert completed.returncode == 0, completed.stderr
    names = {entry.name for entry in tmp_path.iterdir()} - {"cache"}
    assert names == {"photo.png", "photo.csv", "marked", "film.mp4", "film.csv", "out.mp4", "out.png"}


@pytest.mark.parametrize("has_former_folder", [False, True])
def test_a_folder_is_written_as_a_whole_on_windows(has_former_folder: bool, tmp_path: Path) -> None:
    if has_former_folder:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "old.json").touch()
    code = (
        "from pathlib import Path\nfrom mien.files import atomic_folder, write_json\n"
        "with atomic_folder(Path('model')) as folder:\n    write_json(folder / 'new.json', {})\n"
    )
    completed = as_on_windows(tmp_path, code=code)
    assert completed.returncode == 0, completed.stderr
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["model", "model/new.json"]


def test_a_write_that_fails_leaves_nothing_on_windows(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\nfrom mien.files import atomic_folder, atomic_file\n"
        "for write in (atomic_folder, atomic_file):\n    try:\n        with write(Path('out')):\n            1 / 0\n"
        "    except ZeroDivisionError:\n        print('raised')\n"
    )
    completed = as_on_windows(tmp_path, code=code)
    assert completed.stdout == "raised\nraised\n", completed.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_simulation_refuses_what_windows_refuses(tmp_path: Path) -> None:
    code = (
        "import os, signal\nfile = open('a', 'w')\nfor call in (lambda: os.replace('a', 'b'), lambda: os.unlink('a'), "
        "lambda: os.open('.', os.O_RDONLY)):\n    try:\n        call()\n    except PermissionError:\n"
        "        print('refused')\nprint(hasattr(os, 'O_NOFOLLOW'), hasattr(signal, 'SIGHUP'))\n"
    )
    assert as_on_windows(tmp_path, code=code).stdout == "refused\nrefused\nrefused\nFalse False\n"
