"""--timeout: what never ends is broken off, has its record, and the next input is read; nothing is left behind."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import film_helpers as films
import numpy as np
import pytest
from data_helpers import encode, noise, write_zip
from hostile_helpers import (
    Stuck,
    endless_gif,
    endless_jpeg,
    error_of,
    mien,
    prepare_work,
    run_mien,
    write_endless_network,
)

from mien.errors import MienError
from mien.recognition import batch
from mien.recognition.batch import Settings, TimedReader
from mien.recognition.film import decoder
from mien.recognition.film.reader import frames
from mien.recognition.paths import Film
from mien.recognition.results import Recognition
from mien.recognition.time_limit import Alive, OverdueError, TimedProcess, Work

SECONDS = 2
"""Seconds that an input may take here; the endless ones would take 5 s to for ever."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "b.jpg").write_bytes(endless_jpeg())
    (folder / "c.png").write_bytes(encode(noise(0, 48)))
    return folder


def workers_of(pid: int) -> list[int]:
    """The processes that a process has started to read, without the tracker that ``multiprocessing`` starts beside."""
    children = [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [child for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]


class TestPredict:
    def test_pictures(self, pictures: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        completed = run_mien(
            "predict", pictures, "--detector", "none", "--timeout", SECONDS, "--csv", out / "a.csv", "--annotate", out
        )
        assert completed.returncode == 3 and "Traceback" not in completed.stderr, completed.stderr
        rows = list(csv.DictReader((out / "a.csv").open(encoding="utf-8")))
        assert [row["status"] for row in rows] == ["error", "ok"]
        assert rows[0]["error"].endswith(
            "b.jpg: took longer than 2 s and was broken off; leave it out, or give it a longer --timeout"
        )
        assert sorted(entry.name for entry in out.iterdir()) == ["a.csv", "c.png"]

    def test_a_gif_of_35_bytes(self, pictures: Path, tmp_path: Path) -> None:
        (tmp_path / "a.gif").write_bytes(endless_gif())
        assert (tmp_path / "a.gif").stat().st_size == 35
        inputs = [tmp_path / "a.gif", pictures / "c.png"]
        completed = run_mien("predict", *inputs, "--detector", "none", "--timeout", 0.5, "--json")
        records = [json.loads(line) for line in completed.stdout.splitlines()]
        assert records[0]["status"] == "error" and "took longer than 0.5 s" in records[0]["error"]
        assert len(records) == 2

    def test_a_network_that_loops_for_ever(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        model = write_endless_network(tmp_path / "model.onnx")
        films.numbered(tmp_path / "film.mp4", 4)
        (tmp_path / "photo.png").write_bytes(encode(noise(0, 48)))
        out = tmp_path / "out"
        code = mien(
            "predict", tmp_path / "film.mp4", tmp_path / "photo.png", tmp_path / "nosuch.png", "--model", model,
            "--detector", "none", "--timeout", 0.5, "--json", "--video-out", out / "film.mp4", "--timeline",
            out / "t.png", "--annotate", out,
        )  # fmt: skip
        records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert code == 3 and [record["status"] for record in records] == ["error"] * 3
        assert ["took longer than 0.5 s" in record["error"] for record in records] == [True, True, False]
        assert not out.exists() or not list(out.iterdir())
        assert not workers_of(os.getpid())

    def test_a_film_of_millions_of_parts(self, pictures: Path, tmp_path: Path) -> None:
        film = films.numbered(tmp_path / "film.mp4", 4)
        with film.open("ab") as file:
            file.write(b"\0\0\0\x08free" * 3_000_000)
        completed = run_mien("predict", film, pictures / "c.png", "--detector", "none", "--timeout", 0.2, "--json")
        records = [json.loads(line) for line in completed.stdout.splitlines()]
        assert "took longer than 0.2 s" in records[-2]["error"] and records[-1]["input"].endswith("c.png")

    def test_a_folder_whose_films_have_other_endings(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """FFmpeg may take for ever or crash: it opens no file in the first process."""

        def refuse(path: Path) -> None:
            raise AssertionError(f"{path}: was opened in the first process")

        folder = tmp_path / "folder"
        folder.mkdir()
        films.numbered(tmp_path / "film.mp4", 4).rename(folder / "film.dat")
        films.numbered(tmp_path / "film.mp4", 4).rename(folder / "long.dat")
        with (folder / "long.dat").open("ab") as file:
            file.write(b"\0\0\0\x08free" * 3_000_000)
        (folder / "noise.dat").write_bytes(noise(1, 64).tobytes())
        (folder / "photo.png").write_bytes(encode(noise(0, 48)))
        monkeypatch.setattr(decoder, "opened", refuse)
        code = mien("predict", folder, folder / "noise.dat", "--detector", "none", "--timeout", SECONDS, "--json")
        captured = capsys.readouterr()
        records = [json.loads(line) for line in captured.out.splitlines()]
        names = [Path(record["input"]).name for record in records if record["status"] == "ok"]
        assert code == 3 and names[:4] == ["film.dat"] * 4 and names[-1] == "photo.png", captured
        errors = [record["error"] for record in records if record["input"].endswith("long.dat") and record["error"]]
        assert len(errors) == 1 and f"took longer than {SECONDS} s" in errors[0]
        assert "skipped 1 file" in captured.err and records[-1]["input"].endswith("noise.dat")
        assert mien("explain", folder, "--detector", "none", "--timeout", SECONDS, "--out", tmp_path / "out") == 3
        assert not workers_of(os.getpid())

    def test_frames_that_are_left_out_keep_a_film_alive(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each decoded frame starts the limit again, and the first record comes before the film is read to its end."""

        class Reader:
            engine = type("Engine", (), {"threshold": None})
            names, stated_accuracy = ("glad",), None

            def __init__(self, **options: object) -> None: ...

            def recognize(self, pictures: list[np.ndarray], color: str) -> list[Recognition]:
                return [Recognition("film", "no_face")] * len(pictures)

        monkeypatch.setattr(batch, "Recognizer", Reader)
        said: list[object] = []
        film = films.numbered(tmp_path / "film.mp4", 24)
        _, work = batch._prepare_reading(said.append, {}, Settings(every=10), None)
        alive_at = [(record.frame, len(said)) for record in work(Film(film))]
        assert set(said) == {Alive()} and len(said) == 24
        # A record waits for three frames after its own, which decide on cuts, and for no other read frame.
        assert alive_at == [(0, 4), (10, 14), (20, 24)]

    def test_a_film_that_takes_too_long_keeps_its_copies_until_then(self, tmp_path: Path) -> None:
        film = films.numbered(tmp_path / "film.mp4", 12)
        out = tmp_path / "out"
        settings = Settings(video_out=out / "a.mp4", timeline=out / "a.png")
        options = {"detector": Stuck(), "model": "nano"}
        with closing(TimedReader(8, options, settings, out)) as reader:
            records = list(reader.read([Film(film), tmp_path / "nosuch.png"]))
        assert [record.frame for record in records] == [0, 1, 2, None, None]
        assert "took longer than 8 s" in str(records[3].error) and "nosuch.png" in str(records[4].error)
        assert sorted(entry.name for entry in out.iterdir()) == ["a.mp4", "a.png", "film.mp4"]
        assert [len(list(frames(out / name))) for name in ("a.mp4", "film.mp4")] == [3, 3]

    def test_answers_are_the_same(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for number in range(2):
            (tmp_path / f"{number}.png").write_bytes(encode(noise(number, 48)))
        films.numbered(tmp_path / "film.mp4", 12)
        outputs = []
        for options in ([], ["--timeout", 60]):
            out = tmp_path.with_name(f"{tmp_path.name}-{len(options)}")
            options += ["--annotate", out, "--video-out", out / "boxes.mp4", "--timeline", out / "t.png"]
            assert mien("predict", tmp_path, "--detector", "none", "--json", "--batch-size", 1, *options) == 0
            files = {entry.name: entry.read_bytes() for entry in out.iterdir()}
            # x264 chooses other bits for the same pictures in about one of a hundred runs on a busy machine (LOG.md).
            boxes = [(frame.time_s, np.asarray(frame.pixels, float)) for frame in frames(out / "boxes.mp4")]
            del files["boxes.mp4"]
            outputs.append((capsys.readouterr().out, files, boxes))
        assert outputs[0][0] == outputs[1][0] and len(outputs[0][0].splitlines()) == 14
        assert outputs[0][1] == outputs[1][1] and len(outputs[0][1]) == 4
        assert len(outputs[0][2]) == len(outputs[1][2]) == 12
        for (first_s, first), (second_s, second) in zip(outputs[0][2], outputs[1][2], strict=True):
            assert first_s == second_s and np.abs(first - second).mean() < 4, "of 255"

    @pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "x", "1e9"])
    def test_values(self, value: str) -> None:
        assert "--timeout: got" in error_of("predict", "a.png", f"--timeout={value}")

    def test_a_model_that_is_not_there(self) -> None:
        assert error_of("predict", "a.png", "--timeout", 9, "--model", "nosuch").startswith("mien: error: nosuch: ")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_both_processes(self, number: signal.Signals, pictures: Path, tmp_path: Path) -> None:
        first = subprocess.Popen(
            [sys.executable, "-c", "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
             "from mien.cli import main; sys.exit(main(sys.argv[1:]))",
             "predict", pictures / "c.png", pictures / "b.jpg", "--detector", "none", "--timeout", "60", "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert first.stdout and json.loads(first.stdout.readline())["status"] == "ok"
        workers = workers_of(first.pid)
        os.killpg(first.pid, number)
        _, stderr = first.communicate(timeout=60)
        assert first.returncode == (130 if number == signal.SIGINT else 143) and stderr.count("\n") == 1, stderr
        assert workers and not any(_lives(pid) for pid in workers)


class TestCrop:
    def test_a_photo_that_never_ends(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        source = tmp_path / "photos.zip"
        photos = {"glad/a.jpg": endless_jpeg(), "glad/b.png": encode(noise(0, 48)), "sad/c.png": encode(noise(1, 48))}
        write_zip(source, photos)
        for options, skipped_count in ((["--timeout", 1], 1), (["--timeout", 60, "--size", 16], 0)):
            out = tmp_path / f"set-{skipped_count}"
            names = ["glad/b.png", "sad/c.png"] if skipped_count else ["sad/c.png"]
            if not skipped_count:
                write_zip(source, {name: photos[name] for name in names})
            assert mien("data", "crop", source, "--detector", "none", "--out", out, *options) == 0
            assert sorted(str(path.relative_to(out)) for path in out.rglob("*.png")) == names
            stderr = capsys.readouterr().err
            assert ("a.jpg: took longer than 1 s and was broken off" in stderr) == bool(skipped_count), stderr
        assert not workers_of(os.getpid())

    def test_a_detector_that_is_not_there(self, tmp_path: Path) -> None:
        write_zip(tmp_path / "photos.zip", {"glad/b.png": encode(noise(0, 48))})
        options = ["--out", tmp_path / "set", "--timeout", 9, "--detector", "yunet:nosuch.onnx"]
        assert "nosuch.onnx: there is no such file" in error_of("data", "crop", tmp_path / "photos.zip", *options)
        assert [entry.name for entry in tmp_path.iterdir()] == ["photos.zip"]


class TestExplain:
    def test_a_network_that_loops_for_ever(self, tmp_path: Path) -> None:
        model = write_endless_network(tmp_path / "model.onnx")
        (tmp_path / "photo.png").write_bytes(encode(noise(0, 48)))
        options = ["--detector", "none", "--model", model, "--timeout", 0.5, "--out", tmp_path / "out" / "heat.png"]
        assert "took longer than 0.5 s" in error_of("explain", tmp_path / "photo.png", *options)
        assert not (tmp_path / "out").exists()

    def test_the_same_picture(self, pictures: Path, tmp_path: Path) -> None:
        for name, options in (("a.png", []), ("b.png", ["--timeout", 60])):
            assert mien("explain", pictures / "c.png", "--detector", "none", "--out", tmp_path / name, *options) == 0
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.fixture(scope="module")
def process() -> Iterator[TimedProcess]:
    with closing(TimedProcess(0.5, prepare_work)) as process:
        assert process.greeting == "prepared"
        yield process


class TestProcess:
    def test_one_that_dies(self, process: TimedProcess) -> None:
        with pytest.raises(OverdueError, match=r"a.png: ended the process that read it \(SIGKILL\); leave it out"):
            list(process.answers("yield 1\nos.kill(os.getpid(), signal.SIGKILL)", "a.png"))
        with pytest.raises(OverdueError, match=r"a.png: ended the process that read it \(exit code 7\)"):
            list(process.answers("os._exit(7)", "a.png"))
        assert list(process.answers("yield 1; yield 2", "b.png")) == [1, 2]

    def test_it_begins_a_new_process_only_when_it_must(self, process: TimedProcess) -> None:
        first, second = (list(process.answers("yield os.getpid()", "a.png")) for _ in range(2))
        with pytest.raises(OverdueError, match=r"took longer than 0.5 s"):
            list(process.answers("while True: pass", "a.png"))
        assert first == second != list(process.answers("yield os.getpid()", "a.png"))

    def test_the_time_is_that_of_each_piece(self, process: TimedProcess) -> None:
        assert list(process.answers("for n in range(4): time.sleep(0.25); yield n", "a.png")) == [0, 1, 2, 3]

    def test_a_sign_of_life_starts_it_again(self, process: TimedProcess) -> None:
        task = (
            "from mien.recognition.time_limit import Alive\nfor n in range(4): time.sleep(0.25); say(Alive())\nyield 1"
        )
        assert list(process.answers(task, "a.png")) == [1]
        with pytest.raises(OverdueError, match=r"took longer than 0.5 s"):
            list(process.answers(f"{task}\nwhile True: pass", "a.png"))

    def test_a_slow_reader_is_waited_for(self, process: TimedProcess) -> None:
        sizes = []
        for piece in process.answers("for n in range(3): yield bytes(10**6)", "a.png"):
            sizes.append(len(piece))
            time.sleep(0.7)
        assert sizes == [10**6] * 3

    def test_what_is_raised_comes_through(self, process: TimedProcess) -> None:
        with pytest.raises(MienError, match=r"^broken"):
            list(process.answers("raise MienError('broken')", "a.png"))
        with pytest.raises(KeyError) as error:
            list(process.answers("raise KeyError('x')", "a.png"))
        assert "Traceback" in error.value.__notes__[0]

    def test_remarks(self) -> None:
        remarks: list[str] = []
        with closing(TimedProcess(5, prepare_work, say=remarks.append)) as process:
            assert list(process.answers("say('remark'); yield 1", "a")) == [1]
        assert remarks == ["remark"]

    def test_nobody_is_left_when_the_first_process_is_killed(self) -> None:
        code = (
            "from mien.recognition.time_limit import TimedProcess; from hostile_helpers import prepare_work\n"
            "process = TimedProcess(0.5, prepare_work)\n"
            "for piece in process.answers('yield os.getpid()\\nwhile True: pass', 'a'):\n"
            "    print(piece, flush=True)\n"
            "    import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        first = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
        assert first.stdout
        worker = int(first.stdout.readline())
        assert first.wait(60) == -signal.SIGKILL
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and _lives(worker):
            time.sleep(0.1)
        assert not _lives(worker)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_process_that_ends_well_is_not_overdue_without_alarms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(signal, "SIGALRM")
    process = TimedProcess(60, _prepare_ending)
    with pytest.raises(OverdueError, match=r"ended the process that read it \(exit code 0\)"):
        list(process.answers(None, "photo.jpg"))


def _prepare_ending(say: object) -> tuple[None, Work]:
    return None, lambda task: os._exit(0)
