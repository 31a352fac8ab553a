"""Whole commands, killed at each change that they make to files, or stopped there while another one runs.

Whatever the moment: what stands at --out is the former or the new one, whole; nothing else in the folder is touched;
the next run works, and leaves nothing behind of the one that was killed. Commands of many changes (train, pack) are
killed at some of them only, as that takes minutes: MIEN_EVERY_STOP=1 does all.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import film_helpers as films
import pytest
from data_helpers import encode, noise, write_folder, write_zip
from hostile_helpers import write_classifier
from PIL import Image
from stopped_commands import Commands, Job

pytestmark = pytest.mark.skipif(not hasattr(os, "fork") or sys.platform != "linux", reason="forks and flock")

EVERY = bool(os.environ.get("MIEN_EVERY_STOP"))
MOST_STOPS = 3
"""Of a command with more changes, so many are tried, spread evenly, unless all are."""

DISK, PAGE = 96 * 2**20, 4096
"""Bytes of a small disk, and of the pieces that it gives away."""

SMALL = ("--detector", "none", "--model", "{root}/packed")
"""A network that answers in no time: what is tested is files."""

COMMANDS: dict[str, list[str]] = {
    "crop": ["data", "crop", "{root}/photos", "--out", "{box}/out"],
    "draw": ["data", "draw", "--out", "{box}/out.zip", "--train", "7", "--validation", "7", "--test", "7", "--force"],
    "export": ["export", "{root}/model", "--out", "{box}/out"],
    "evaluate": ["evaluate", "{root}/model", "--data", "{root}/data.zip", "--split", "test", "--out", "{box}/out"],
    "pack": ["pack", "{root}/run", "--data", "{root}/data.zip", "--out", "{box}/out"],
    "card": ["card", "{root}/packed", "--out", "{box}/out.md"],
    "annotate": ["predict", "{root}/photos", *SMALL, "--annotate", "{box}/out"],
    "csv": ["predict", "{root}/many", *SMALL, "--csv", "{box}/out.csv"],
    "parquet": ["predict", "{root}/photos", *SMALL, "--parquet", "{box}/out.parquet"],
    "film": ["predict", "{root}/film.mp4", *SMALL, "--video-out", "{box}/out.mp4", "--timeline",
             "{box}/out.png"],
    "explain": ["explain", "{root}/photos/happy/a.png", *SMALL, "--out", "{box}/out.png"],
    "train": ["train", "--data", "{root}/data.zip", "--backbone", "nano", "--image-size", "16", "--patch-size", "8",
              "--epochs", "1", "--batch-size", "8", "--out", "{box}/out"],
    "pretrain": ["pretrain", "--data", "{root}/data.zip", "--preset", "nano", "--image-size", "16", "--epochs", "1",
                 "--batch-size", "8", "--probe-epochs", "0", "--out", "{box}/out"],
}  # fmt: skip
"""Commands that write, each to a path that begins with ``out``."""

RUNS = ("train", "pretrain")
IN_PLACE = ("csv", "annotate")
"""What writes file by file, so that a part of it may be there."""

RANDOM = re.compile(r"\.[a-z0-9_]{8}\.tmp|\.mien-[a-z0-9_]{8}\.tmp|\.tmp[A-Za-z0-9]{6}")
PUBLISHED = re.compile(r"os\.rename /out/[^/]+")
OURS = re.compile(r"\.(.+\.[a-z0-9_]{8}\.tmp(\.old)?|mien-[a-z0-9_]{8}\.tmp(\.\w+)?|.+\.lock|tmp[A-Za-z0-9]{6})")
"""Hidden names of Mien; the last are those of safetensors, which writes a file under such a name first."""


class Stage:
    """The inputs of all commands, and the process that runs them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "notes").mkdir()
        self.commands = Commands(root / "notes", root / "cache")  # loads its libraries while the inputs are made
        splits, names = ("train", "val", "test"), ("happy", "sad")
        places = itertools.product(splits, names, range(4))
        members = {f"{split}/{name}/{number}.png": (split, name, number) for split, name, number in places}
        write_zip(root / "data.zip", {path: encode(noise(number, 16)) for number, path in enumerate(members)})
        write_classifier(root / "model", names)
        (root / "photos" / "happy").mkdir(parents=True)
        Image.fromarray(films.portrait()).save(root / "photos" / "happy" / "a.png")
        Image.fromarray(films.portrait()[:, ::-1]).save(root / "photos" / "happy" / "b.png")
        write_folder(root / "many", {f"{number}.png": encode(noise(number, 16)) for number in range(60)})
        films.numbered(root / "film.mp4", 4)
        self.complete_runs: dict[str, tuple[Path, list[str]]] = {}
        self.boxes = itertools.count()
        for name, argv in (("train", self.argv("train", root)), ("pack", self.argv("pack", root))):
            (result,) = self.commands.run(root, *argv)
            assert result["code"] == 0, result["output"]
            (root / "out").rename(root / ("run" if name == "train" else "packed"))

    def argv(self, name: str, box: Path) -> list[str]:
        return [argument.format(root=self.root, box=box) for argument in COMMANDS[name]]

    def box(self) -> Path:
        """A new folder with a file that belongs to somebody else."""
        box = self.root / f"box{next(self.boxes)}"
        box.mkdir()
        (box / "mine.txt").write_text("precious")
        return box

    def whole(self, name: str) -> Path:
        """The box of a command that ran undisturbed; nobody may change it."""
        if name not in self.complete_runs:
            box = self.box()
            (result,) = self.commands.run(box, *self.argv(name, box))
            assert result["code"] == 0, result["output"]
            self.complete_runs[name] = box, result["events"]
        return self.complete_runs[name][0]

    def changes(self, name: str) -> list[str]:
        """The changes that a command makes if it runs undisturbed."""
        self.whole(name)
        return self.complete_runs[name][1]

    def stops(self, name: str, limit: int = MOST_STOPS, *, between_files: bool = False) -> list[int]:
        """The changes before which a command is stopped, by their number.

        Args:
            name: of the command.
            limit: so many, spread evenly, if there are more.
            between_files: also those right after each file or folder that the command publishes.
        """
        events = self.changes(name)
        count = len(events)
        if EVERY or count <= limit:
            return list(range(1, count + 1))
        even_stops = {1 + round(number * (count - 1) / (limit - 1)) for number in range(limit)}
        published_stops = {number + 1 for number, event in enumerate(events, 1) if PUBLISHED.fullmatch(event)}
        return sorted(even_stops | published_stops if between_files else even_stops)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("stage"))
    yield stage
    stage.commands.close()


def listing(box: Path) -> dict[str, str]:
    """Each file below a folder with the SHA-256 of its content; folders with none."""
    return {
        str(path.relative_to(box)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(box.rglob("*"))
    }


def shape(box: Path) -> tuple[str, ...]:
    """The names in a folder, without what is random in them."""
    return tuple(sorted({RANDOM.sub(".RANDOM", name) for name in listing(box)}))


def public(box: Path) -> dict[str, str]:
    """What is not hidden; hidden entries must be Mien's own."""
    files = listing(box)
    for name in files:
        hidden_parts = [part for part in Path(name).parts if part.startswith(".")]
        assert all(OURS.fullmatch(part) for part in hidden_parts), name
    return {name: content for name, content in files.items() if "/." not in f"/{name}"}


def check_whole(name: str, box: Path, complete_names: Sequence[str], former_files: dict[str, str]) -> None:
    """What a killed command leaves in its box is the former state or the new one, file by file for a run."""
    files = public(box)
    assert (box / "mine.txt").read_text() == "precious"
    for path in files:
        if path.endswith(".json"):
            json.loads((box / path).read_text())
    if name in RUNS:
        model = {path for path in files if path.startswith("out/model/")}
        assert not model or model == {path for path in complete_names if path.startswith("out/model/")}
        assert set(files) <= set(complete_names)
    elif name in IN_PLACE or name == "film":  # the film and its timeline are two files
        assert set(files) <= set(complete_names)
    else:
        possible_names = [set(complete_names), {"mine.txt"}]
        assert set(files) in possible_names and (set(files) != {"mine.txt"} or not former_files or _has_old(box)), (
            sorted(files)
        )
        if former_files and set(files) == set(complete_names) and files != former_files:
            assert not any(files[path] == former_files[path] for path in files if path.endswith(".html")), (
                "half and half"
            )


def _has_old(box: Path) -> bool:
    return any(entry.name.endswith(".tmp.old") for entry in box.iterdir())


def run_again(name: str, stage: Stage, boxes: Sequence[Path], complete_names: Sequence[str]) -> None:
    """The next run works, in each box, and leaves nothing of the killed one."""
    jobs: list[Job] = []
    for box in boxes:
        argv = stage.argv(name, box)
        if name in RUNS and (box / "out" / "state.safetensors").exists():
            argv.append("--resume")
        jobs.append((box, argv, {}))
    for box, (result,) in zip(boxes, stage.commands.run_all(jobs), strict=True):
        if result["code"] == 2 and name == "crop" and (box / "out").exists():
            # The killed one had published a set: it is left to the user to remove it.
            assert "exists; choose" in result["output"], result["output"]
            shutil.rmtree(box / "out")
            (result,) = stage.commands.run(box, *stage.argv(name, box))
        assert result["code"] == 0, result["output"]
        names = sorted(listing(box))
        if name == "annotate":  # copies never take the place of others
            names = [entry for entry in names if not re.search(r"-\d\.png$", entry)]
        assert names == sorted(complete_names)
        assert (box / "mine.txt").read_text() == "precious"
        shutil.rmtree(box)


@pytest.mark.parametrize("replacing", [False, True], ids=["new", "replaced"])
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_each_change(name: str, replacing: bool, stage: Stage) -> None:
    if replacing and (name in (*RUNS, *IN_PLACE, "crop")):
        pytest.skip("replaces nothing")
    complete_box = stage.whole(name)
    complete_names, former_files = sorted(listing(complete_box)), listing(complete_box) if replacing else {}
    jobs: list[Job] = []
    for stop in stage.stops(name, between_files=name in RUNS):
        box = stage.box()
        if replacing:
            shutil.copytree(complete_box, box, dirs_exist_ok=True)
        jobs.append((box, stage.argv(name, box), {"kill": stop}))
    states: dict[tuple[str, ...] | Path, Path] = {}
    for (box, _, job), (result,) in zip(jobs, stage.commands.run_all(jobs), strict=True):
        assert result["code"] == -9, (job, result)
        check_whole(name, box, complete_names, former_files)
        states.setdefault(box if EVERY else shape(box), box)
    run_again(name, stage, list(states.values()), complete_names)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "csv"])
def test_killed_in_the_middle_of_a_file(name: str, stage: Stage) -> None:
    """By a limit on the size of files, which strikes native code that writes too."""
    complete_box = stage.whole(name)
    complete_names = sorted(listing(complete_box))
    sizes = sorted({path.stat().st_size for path in complete_box.rglob("*") if path.is_file()})
    # A state holds the seconds of its run, and so is some bytes shorter in one run than another.
    boxes = {stage.box(): largest for largest in {sizes[-1] // 2, sizes[-1] - 64}}
    jobs = [(box, stage.argv(name, box), {"largest": largest}) for box, largest in boxes.items()]
    for box, (result,) in zip(boxes, stage.commands.run_all(jobs), strict=True):
        assert result["code"] in (-25, 2), result  # SIGXFSZ, or a library that blocks it and tells
        check_whole(name, box, complete_names, {})
    run_again(name, stage, list(boxes), complete_names)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of its own of a few megabytes."""
    folder = tmp_path_factory.mktemp("disk")
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    completed = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", folder], capture_output=True)
    if completed.returncode:
        pytest.skip(f"no small file system can be mounted here: {completed.stderr.decode(errors='replace').strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(disk: Path, room: int) -> None:
    """Fills a disk but for so many bytes."""
    with (disk / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize - room)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk(name: str, stage: Stage, disk: Path) -> None:
    complete_box, box = stage.whole(name), disk / name
    complete_names = sorted(listing(complete_box))
    files = [path for path in complete_box.rglob("*") if path.is_file() and path.name != "mine.txt"]
    size = sum(-(-path.stat().st_size // PAGE) * PAGE for path in files)
    for room in sorted({0, size // 2 // PAGE * PAGE}):
        shutil.rmtree(box, ignore_errors=True)
        box.mkdir()
        (box / "mine.txt").write_text("precious")
        fill(disk, room)
        (result,) = stage.commands.run(box, *stage.argv(name, box))
        (disk / "filler").unlink()
        check_refused(name, f"{name} with room for {room} of {size} bytes", box, result)
        check_whole(name, box, complete_names, {})
    run_again(name, stage, [box], complete_names)


def check_refused(name: str, description: str, box: Path, result: dict[str, Any]) -> None:
    """A command said in one line that the disk is full, left nothing hidden behind, and only whole rows.

    A film is read to its end without its copy and its timeline, with a line for each.
    """
    code, begin, most = (3, "mien: ", 2) if name == "film" else (2, "mien: error: ", 1)
    full = re.compile("no space left|disk is full", re.IGNORECASE)
    errors = [line for line in result["output"].splitlines() if line.startswith(begin)]
    told = [line for line in errors if full.search(line)]
    assert result["code"] == code and "Traceback" not in result["output"], (description, result)
    assert 1 <= len(told) <= most and (name == "film" or told == errors), (description, errors)
    assert not [entry for entry in listing(box) if "/." in f"/{entry}"], (description, sorted(listing(box)))
    for path in box.rglob("*.csv"):
        text = path.read_text()
        rows = list(csv.reader(text.splitlines()))
        assert not text or (text.endswith("\n") and len({len(row) for row in rows}) == 1), (description, text)


@pytest.mark.parametrize("name", COMMANDS)
def test_stopped_while_others_run(name: str, stage: Stage) -> None:
    other_names = itertools.cycle(COMMANDS) if not EVERY else None
    for _ in range(list(COMMANDS).index(name)):
        next(other_names or iter([""]))
    for stop in stage.stops(name, 3):
        for other_name in list(COMMANDS) if other_names is None else [next(other_names)]:
            box = stage.box()
            argv, other_argv = stage.argv(name, box), stage.argv(other_name, box)
            results = stage.commands.run(box, *argv, stop=stop, meanwhile=other_argv)
            check_both(f"{name} stopped at {stop}, {other_name} meanwhile", box, results)
            shutil.rmtree(box)


def check_both(description: str, box: Path, results: list[dict[str, Any]]) -> None:
    """Each of two commands succeeded or said in one line why not; nothing is half, mixed or left behind."""
    for result in results:
        assert result["code"] in (0, 2), (description, result)
        assert "Traceback" not in result["output"] and "unexpected" not in result["output"], (description, result)
        errors = [line for line in result["output"].splitlines() if line.startswith("mien: error: ")]
        assert len(errors) == (result["code"] == 2), (description, result)
    assert any(result["code"] == 0 for result in results), (description, results)
    assert (box / "mine.txt").read_text() == "precious", description
    assert not [name for name in listing(box) if "/." in f"/{name}"], (description, sorted(listing(box)))
    for path in box.rglob("*.json"):
        json.loads(path.read_text())
    for path in box.rglob("*.csv"):
        assert b"\0" not in path.read_bytes(), description
