"""Names from outside, of files, members of archives and classes: shown, written to disk, put into tables."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import stat
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from conftest import synthetic_faces
from data_helpers import encode, noise, write_folder, write_zip
from hostile_helpers import Whole, mien
from recognition_helpers import Mean, picture

from mien.data.inspect import describe
from mien.data.read import read_faces
from mien.errors import MienError
from mien.evaluation.evaluate import Evaluation
from mien.evaluation.report import predictions_csv
from mien.export.card import markdown_table
from mien.files import atomic_file, atomic_folder, read_json, write_json
from mien.recognition.batch import Copies
from mien.recognition.formats import csv_table
from mien.recognition.recognizer import Recognizer
from mien.recognition.results import Face, Recognition
from mien.recognition.training_set import crop_set
from mien.text import csv_path, csv_text, is_safe_name, json_shown, markdown, markdown_code, safe_stem, shown

HOSTILE = ["esc\x1b[2J\x1b]0;pwned\x07", "cr\rwiped", "a.jpg\nb.jpg: happy 99% (forged)", "c1\x9b2J", "del\x7f",
           "turned\u202egnp.exe", "line\u2028two", "bytes\udcff", "isolate\u2066x"]  # fmt: skip
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class TestShown:
    @pytest.mark.parametrize("name", HOSTILE)
    def test_nothing_controls_a_terminal(self, name: str) -> None:
        assert not CONTROLS.search(shown(name)) and "\n" not in shown(name)
        assert not CONTROLS.search(str(MienError(f"{name}: is wrong"))) and "\n" not in str(MienError(name))
        assert not CONTROLS.search(json_shown(name, ascii_only="\udcff" in name))
        assert json.loads(json_shown({"name": name}))["name"] == name
        assert shown(shown(name)) == shown(name)

    def test_letters_of_all_scripts_stay(self) -> None:
        for name in ("Zoë.jpg", "слон.png", "象 a.png", "وجه.jpg", "👩‍🦰.jpg", "a\\b", " two  spaces "):
            assert shown(name) == name

    def test_what_they_become(self) -> None:
        assert shown("\x1b\n\r\t\x9b\u202e\udcff") == r"\x1b\n\r\t\x9b\u202e\xff"


class TestPredict:
    """The printed lines of `mien predict`, over files of such names."""

    @pytest.fixture(autouse=True)
    def recognizer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def build(*arguments: Any, **options: Any) -> Recognizer:
            return Recognizer(detector=Whole(), engine=Mean())

        monkeypatch.setattr("mien.recognition.recognizer.Recognizer", build)

    @pytest.mark.parametrize("extra", [[], ["--json"], ["--format", "hf"]])
    def test_lines(
        self, extra: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        photo, broken_photo = encode(picture()), b"no picture"
        for index, name in enumerate(HOSTILE):
            Path(f"{name}.png").write_bytes(photo if index % 2 else broken_photo)
        assert mien("predict", ".", *extra) == 3
        captured = capsys.readouterr()
        assert not CONTROLS.search(captured.out + captured.err)
        assert len(captured.out.splitlines()) == len(HOSTILE)
        assert not any(line.startswith("b.jpg") for line in (captured.out + captured.err).splitlines())

    def test_names_of_a_model(self, capsys: pytest.CaptureFixture[str]) -> None:
        from mien.cli.output import print_lines

        face = Face((0.0, 0.0, 1.0, 1.0), "\x1b[2Jglad", 0.9, {"\x1b[2Jglad": 0.9, "a\nb": 0.1}, None, None)
        print_lines(Recognition("photo.jpg", "ok", None, 1, 1, (face,)))
        assert not CONTROLS.search(out := capsys.readouterr().out) and out.count("\n") == 1


def test_inspect_shows_names_of_classes_and_files(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    report = {
        "splits": {"train": {"total": 2, "classes": {"glad\x1b[2J": 1, "a\nb": 1}}},
        "warnings": ["left out 1 file(s) that are no pictures, the first is x\x1b]0;y\x07\nwarning: forged"],
    }
    lines = describe(report).splitlines()
    assert not CONTROLS.search("".join(lines)) and len(lines) == 5


class TestSafeNames:
    @pytest.mark.parametrize(
        "name",
        ["", " ", ".", "..", " ..", ".. ", "\t..\n", "a/b", "a\\b", "a\0b", "a\nb", "a\x1bb", "\u202egnp",
         "\uff0e\uff0e", "\u2025", "a\uff0fb", "a\uff3cb"],
    )  # fmt: skip
    def test_refused(self, name: str) -> None:
        assert not is_safe_name(name)
        assert is_safe_name(safe_stem(name))

    @pytest.mark.parametrize("name", ["happy", "a.b", "...", "слон", "象", "so so", "ﬁne"])
    def test_fine(self, name: str) -> None:
        assert is_safe_name(name) and safe_stem(name) == name

    def test_long_and_odd_stems(self) -> None:
        assert len(safe_stem("x" * 255)) == 200 and len(safe_stem("象" * 85).encode()) <= 200
        assert safe_stem("ang\udcffry") == "ang%ffry" and safe_stem("a/\n\x1bb") == "a___b"


class TestCrop:
    @pytest.mark.parametrize("folder", [" ..", ".. ", "\uff0e\uff0e", "\u2025", " ", "a\x1b[2J"])
    def test_no_class_climbs_out(self, folder: str, tmp_path: Path) -> None:
        photo = encode(noise(0, 40))
        source = write_zip(tmp_path / "trav.zip", {f"{folder}/evil.png": photo, "happy/a.png": photo})
        out = tmp_path / "box" / "inner" / "set"
        if folder.startswith("."):  # as dotfiles, it is left out
            crop_set(source, out, Whole(), size=20)
            assert not list(tmp_path.rglob("evil.png"))
            return
        with pytest.raises(MienError, match="cannot give a class its name"):
            crop_set(source, out, Whole(), size=20)
        assert not list(tmp_path.rglob("evil.png")) and not out.exists()
        with pytest.raises(MienError, match="cannot give a class its name"):
            read_faces(source, cache=False)

    def test_odd_names_of_photos(self, tmp_path: Path) -> None:
        photo = encode(noise(0, 40))
        names = ["a\nb.png", "x" * 240 + ".png", "b\udcff.png"]
        source = write_folder(tmp_path / "photos", {f"happy/{name}": photo for name in names})
        records = crop_set(source, tmp_path / "set", Whole(), size=20)
        assert sum(len(record.crops) for record in records) == 3
        faces = read_faces(tmp_path / "set", cache=False)
        assert len(faces) == 3 and all(is_safe_name(Path(str(name)).name) for name in faces.ids)


class TestCsv:
    FORMULAS: ClassVar[list[str]] = [
        "=cmd|calc!A0.jpg", "@SUM(1).jpg", "+x.jpg", "-x.jpg", "\tx.jpg", "\r=x.jpg", "\n=x.jpg", "\uff1dx.jpg",
    ]  # fmt: skip

    def test_cells(self) -> None:
        for name in self.FORMULAS:
            assert csv_path(name).startswith("./") and csv_text(name).startswith("'")
        assert csv_path("a=b.jpg") == csv_text("a=b.jpg") == "a=b.jpg"

    def test_of_predictions(self, tmp_path: Path) -> None:
        face = Face((0.0, 0.0, 1.0, 1.0), "=1+1", 0.9, {"=1+1": 0.9, "@x": 0.1}, None, None)
        with csv_table(tmp_path / "faces.csv", ["=1+1", "@x"]) as add:
            for name in self.FORMULAS:
                add(Recognition(name, "ok", None, 1, 1, (face,)))
                add(Recognition(name, "error", f"{name}: is broken"))
        text = (tmp_path / "faces.csv").read_text(encoding="utf-8")
        assert len(text.splitlines()) == 1 + 2 * len(self.FORMULAS)
        for row in csv.reader(io.StringIO(text)):
            assert not any(cell.startswith(("=", "+", "@", "\t", "\r", "\n", "\uff1d")) for cell in row), row
            assert not any(re.match(r"-[^0-9]", cell) for cell in row), row
        assert os.path.samefile(tmp_path, tmp_path / csv_path("./"))

    def test_of_evaluations(self) -> None:
        faces = synthetic_faces({"validation": 2}, names=("=1+1", "@x"))
        evaluation = Evaluation.__new__(Evaluation)
        values = {"ids": np.array(["=a.png", "-b.png"]), "names": faces.names, "labels": faces.labels, "twins": None,
                  "probabilities": np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)}  # fmt: skip
        for name, value in values.items():
            object.__setattr__(evaluation, name, value)
        rows = list(csv.reader(io.StringIO(predictions_csv(evaluation))))
        assert [row[:3] for row in rows[1:]] == [["./=a.png", "'=1+1", "'=1+1"], ["./-b.png", "'@x", "'@x"]]
        assert rows[0][4:] == ["probability_=1+1", "probability_@x"]


class TestBytes:
    """Names that are not UTF-8."""

    def test_a_set(self, tmp_path: Path) -> None:
        source = write_folder(
            tmp_path / os.fsdecode(b"set\xe9"),
            {"ang\udcffry/f\udcf0.png": encode(noise(0)), "sad/b.png": encode(noise(1))},
        )
        for cache in (False, True, True):
            faces = read_faces(source, cache=cache)
            text = json.dumps([faces.ids.tolist(), faces.names, faces.source], ensure_ascii=False)
            assert text.encode() and "ang%ffry" in faces.names and any("\\xf0" in name for name in faces.ids)

    def test_json(self, tmp_path: Path) -> None:
        write_json(tmp_path / "meta.json", {"command": "mien train --data f\udcff", "é": 1})
        assert read_json(tmp_path / "meta.json") == {"command": "mien train --data f\udcff", "é": 1}


class TestMarkdown:
    @pytest.mark.parametrize("text", ["<img src=x onerror=alert(1)>", "a|b", "a\nb", "`code`", "[x](y)", "*b*", "# h"])
    def test_plain(self, text: str) -> None:
        line = markdown_table(["a", "b"], [(markdown(text), markdown_code(text))]).splitlines()[-1]
        assert len(re.findall(r"(?<!\\)\|", line)) == 3
        assert "<" not in markdown(text) and not re.search(r"(?<!\\)[*`\[#_]", markdown(text))
        assert markdown_code(text).count("`") == 2 and "\n" not in line


class TestLongNames:
    """255 bytes, the most that file systems allow."""

    @pytest.mark.parametrize("name", ["x" * 251 + ".png", "象" * 83 + "x.png", "x" * 255])
    def test_files_and_folders(self, name: str, tmp_path: Path) -> None:
        with atomic_file(tmp_path / name) as temporary:
            temporary.write_text("whole")
        assert (tmp_path / name).read_text() == "whole"
        (tmp_path / name).unlink()
        for _ in range(2):
            with atomic_folder(tmp_path / name) as folder:
                (folder / "a").touch()
        assert [entry.name for entry in tmp_path.iterdir()] == [name]

    def test_annotated_copies(self, tmp_path: Path) -> None:
        name = "x" * 251 + ".png"
        copies = Copies(tmp_path)
        record = Recognition(name, "ok", None, 8, 8, (), pixels=np.zeros((8, 8), np.uint8))
        first, second = copies.add(record), copies.add(record)
        gif = copies.add(Recognition("y" * 251 + ".gif", "ok", None, 8, 8, (), pixels=np.zeros((8, 8), np.uint8)))
        assert first.name == name and second != first and {first, second, gif} == set(tmp_path.iterdir())


class TestTemporaries:
    def test_nobody_can_take_their_names(self, tmp_path: Path) -> None:
        names = set()
        for _ in range(20):
            with atomic_file(tmp_path / "heat.png") as temporary:
                names.add(temporary.name)
                assert stat.S_IMODE(temporary.stat().st_mode) == 0o600 and str(os.getpid()) not in temporary.name
                temporary.write_text("new")
        assert len(names) == 20

    def test_a_link_in_their_place_is_not_written_through(self, tmp_path: Path) -> None:
        victim = tmp_path / "victim"
        victim.write_text("precious")
        (tmp_path / f".heat.png.{os.getpid()}.tmp").symlink_to(victim)
        with atomic_file(tmp_path / "heat.png") as temporary:
            temporary.write_text("new")
        assert victim.read_text() == "precious" and not (tmp_path / "heat.png").is_symlink()
        with pytest.raises(MienError, match="was replaced by something else"):  # noqa: SIM117
            with atomic_file(tmp_path / "other.png") as temporary:
                temporary.unlink()
                temporary.symlink_to(victim)
        assert not (tmp_path / "other.png").exists() and victim.read_text() == "precious"

    @pytest.mark.parametrize(
        ("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0, 0o666, 0o777)]
    )
    def test_modes_follow_the_umask(self, mask: int, file: int, folder: int, tmp_path: Path) -> None:
        former_umask = os.umask(mask)
        try:
            write_json(tmp_path / "a.json", {})
            with atomic_folder(tmp_path / "model") as temporary:
                (temporary / "weights").touch(mode=0o600)  # as safetensors makes them
                (temporary / "inner").mkdir(mode=0o700)
            with atomic_file(tmp_path / "private", private=True):
                pass
        finally:
            os.umask(former_umask)
        modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.json", "model", "model/weights")}
        assert modes == {"a.json": file, "model": folder, "model/weights": file}
        assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600
