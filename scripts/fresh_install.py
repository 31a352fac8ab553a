"""Installs the wheel alone into a fresh environment and uses it: ``python scripts/fresh_install.py``.

Draws and inspects faces, reads a photo and a film, explains an answer, and sees that torch is neither installed nor
needed. It needs neither ``make`` nor a shell, so that it runs on Linux, macOS and Windows.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PHOTO = ROOT / "docs" / "astronaut.jpg"
FRAMES = 5

MAKE_FILM = """
import av, sys
from PIL import Image
photo, film, count = sys.argv[1:]
frame = av.VideoFrame.from_image(Image.open(photo).convert("RGB"))
with av.open(film, "w") as container:
    stream = container.add_stream("mpeg4", rate=25)
    stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p"
    for _ in range(int(count)):
        container.mux(stream.encode(frame.reformat(format="yuv420p")))
    container.mux(stream.encode())
"""

READ = """
import importlib.util, json, sys
from mien import Recognizer
face, = Recognizer().recognize(sys.argv[1]).faces
print(json.dumps({"label": face.label, "torch": importlib.util.find_spec("torch") is not None}))
"""


class Environment:
    """A fresh virtual environment.

    Args:
        folder: where it is made.
    """

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=True)
        self._programs = folder / ("Scripts" if os.name == "nt" else "bin")
        self._folder = folder.parent

    def python(self, *arguments: str) -> str:
        """Runs its Python outside the checkout, and returns what it printed.

        Raises:
            SystemExit: the exit code is not 0.
        """
        return self._run(str(self._programs / "python"), *arguments)

    def mien(self, *arguments: str, code: int = 0) -> str:
        """Runs ``mien`` as ``python`` does, and expects an exit code."""
        return self._run(str(self._programs / "mien"), *arguments, code=code)

    def _run(self, *command: str, code: int = 0) -> str:
        completed = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", cwd=self._folder, env=_clean_environment()
        )
        if completed.returncode != code:
            raise SystemExit(
                f"fresh_install.py: exit code {completed.returncode}, expected {code}: {' '.join(command)}\n"
                f"{completed.stdout}{completed.stderr}"
            )
        return completed.stdout + completed.stderr


def _clean_environment() -> dict[str, str]:
    """This process's environment without what would let the checkout in."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**environment, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def build_wheel(folder: Path) -> Path:
    """Builds the wheel of this checkout into a folder and returns its path."""
    shutil.rmtree(ROOT / "build", ignore_errors=True)  # setuptools would add files that are no longer in src/
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("mien-*.whl")
    return wheel


def check_content(wheel: Path) -> None:
    """Checks that a wheel holds sources and data alone.

    Raises:
        SystemExit: it holds compiled files, which may be of modules that are gone.
    """
    with zipfile.ZipFile(wheel) as archive:
        compiled = [name for name in archive.namelist() if name.endswith(".pyc")]
    if compiled:
        sys.exit(f"{wheel.name}: holds {len(compiled)} compiled files, the first is {compiled[0]}")


def use(environment: Environment, folder: Path) -> None:
    """Runs the commands of a base install.

    Args:
        environment: Mien is installed in it.
        folder: an empty folder for what the commands write.

    Raises:
        SystemExit: a command failed, or its answer is not the expected one.
    """
    archive, film, csv, heat = (str(folder / name) for name in ("drawn.zip", "film.mp4", "film.csv", "heat.png"))
    photo = str(PHOTO)
    print(environment.mien("--version").strip())
    environment.mien("--help")
    environment.mien("data", "draw", "--out", archive, "--train", "70", "--validation", "14", "--test", "14")
    environment.mien("data", "inspect", archive)
    refusal = environment.mien("train", "--data", archive, "--out", str(folder / "run"), code=2)
    expect("mien[train]" in refusal, f"`mien train` without torch said: {refusal}")

    record = json.loads(environment.mien("predict", photo, "--json"))
    answer = json.loads(environment.python("-c", READ, photo))
    expect(record["status"] == "ok" and record["faces"][0]["label"] == answer["label"] == "happy", f"{record} {answer}")
    expect(not answer["torch"], "torch is installed, though nothing asked for it")
    print(f"photo: {answer['label']}")

    environment.python("-c", MAKE_FILM, photo, film, str(FRAMES))
    environment.mien("predict", film, "--csv", csv, "--video-out", str(folder / "marked.mp4"))
    rows = Path(csv).read_text(encoding="utf-8").splitlines()
    expect(len(rows) == 1 + FRAMES, f"{FRAMES} frames with a face each gave {len(rows) - 1} rows")
    print(f"film: {len(rows) - 1} frames")
    environment.mien("explain", photo, "--out", heat)
    expect(Path(heat).stat().st_size > 0, "the explanation is empty")


def expect(holds: bool, message: str) -> None:
    """Raises SystemExit with a message if a condition does not hold."""
    if not holds:
        raise SystemExit(f"fresh_install.py: {message}")


def main() -> int:
    """Installs and uses the wheel; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, help="a wheel that was built before (by default it is built)")
    parser.add_argument("--oldest", action="store_true", help="the oldest versions that pyproject.toml allows")
    options = parser.parse_args()
    constraints = ROOT / ("constraints-oldest.txt" if options.oldest else "constraints.txt")
    with tempfile.TemporaryDirectory(prefix="mien-fresh-") as name:
        folder = Path(name).resolve()
        wheel = options.wheel.resolve() if options.wheel else build_wheel(folder)
        check_content(wheel)
        environment = Environment(folder / "environment")
        environment.python("-m", "pip", "install", "--quiet", "-c", str(constraints), str(wheel))
        print(environment.python("-m", "pip", "freeze").strip())
        files = folder / "files"
        files.mkdir()
        use(environment, files)
    return 0


if __name__ == "__main__":
    sys.exit(main())
