"""Tables in CSV files, and those that go on after a stop."""

from __future__ import annotations

import csv
import dataclasses
from contextlib import suppress
from pathlib import Path

import pytest
from recognition_helpers import Bright, Mean, encoded, film, picture
from test_formats import BROKEN, NAMES, NONE, TWO

from mien.cli import main
from mien.errors import MienError
from mien.recognition.batch import Settings, read_inputs, resume
from mien.recognition.formats import columns, csv_table
from mien.recognition.paths import Film
from mien.recognition.recognizer import Recognizer
from mien.recognition.results import Face, Recognition


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "new" / "faces.csv"
    with csv_table(path, NAMES) as add:
        for count, record in ((3, TWO), (4, NONE), (5, BROKEN)):
            add(record)
            assert len(path.read_text().splitlines()) == count  # on disk at once
    with path.open(newline="") as file:
        rows_read = list(csv.DictReader(file))
    assert list(rows_read[0]) == columns(NAMES)
    assert [row["status"] for row in rows_read] == ["ok", "ok", "no_face", "error"]
    assert (rows_read[0]["score"], rows_read[0]["uncertain"], rows_read[1]["uncertain"]) == ("0.75", "False", "")
    assert rows_read[2]["label"] == "" and rows_read[3]["error"] == BROKEN.error


def test_file_names_that_are_no_utf8(tmp_path: Path) -> None:
    record = Recognition("ph\udce9to.jpg", "no_face", None, 1, 1)
    with csv_table(tmp_path / "faces.csv", NAMES) as add:
        add(record)
    assert "ph\\xe9to.jpg,no_face" in (tmp_path / "faces.csv").read_text()


def test_a_csv_file_is_replaced_with_the_first_record_or_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "faces.csv"
    path.write_text("the former one\n" * 99)
    with pytest.raises(MienError, match="the model is broken"), csv_table(path, NAMES):
        raise MienError("the model is broken")
    assert path.read_text() == "the former one\n" * 99
    header = ",".join(columns(NAMES))
    with csv_table(path, NAMES) as add:
        add(NONE)
        assert path.read_text().splitlines()[0] == header and len(path.read_text().splitlines()) == 2
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), csv_table(path, NAMES):
        raise KeyboardInterrupt
    assert path.read_bytes() == before
    path.unlink()
    with pytest.raises(KeyboardInterrupt), csv_table(path, NAMES):
        raise KeyboardInterrupt
    assert path.read_text().splitlines() == [header]
    path.write_text("the former one\n" * 99)
    with csv_table(path, NAMES):
        pass
    assert path.read_text().splitlines() == [header]
    with csv_table(path, NAMES) as add:
        add(TWO)
    before = path.read_bytes()
    _, former = resume(path, [Path(TWO.input)])
    assert former.end < former.size
    with pytest.raises(KeyboardInterrupt), csv_table(path, NAMES, former=former):
        raise KeyboardInterrupt
    assert path.read_bytes() == before, "nothing was read that could replace a row"
    with csv_table(tmp_path / "new.csv", NAMES):
        assert (tmp_path / "new.csv").read_text().splitlines() == [header], "at once"


def test_csv_is_rounded_and_marked_on_request(tmp_path: Path) -> None:
    third = Face((0, 0, 9, 9), "happy", 2 / 3, {"happy": 2 / 3, "sad": 1 / 3, "neutral": 0.0})
    record = Recognition("Müller.png", "ok", None, 20, 20, (third,), time_s=1 / 3)
    path = tmp_path / "faces.csv"
    with csv_table(path, NAMES, digits=2, byte_order_mark=True) as add:
        add(record)
        add(record)
    assert path.read_bytes().startswith(b"\xef\xbb\xbfinput,")
    assert path.read_bytes().count(b"\xef\xbb\xbf") == 1
    with path.open(newline="", encoding="utf-8-sig") as file:
        row = list(csv.DictReader(file))[1]
    assert (row["input"], row["score"], row["probability_sad"], row["time_s"]) == ("Müller.png", "0.67", "0.33", "0.33")
    with csv_table(path, NAMES) as add:
        add(record)
    assert path.read_bytes().startswith(b"input,") and b",0.6666666666666666," in path.read_bytes()


# Going on. The inputs: one, no and two faces, a film, a file that is no picture, and one that is named twice.

INPUTS = ["=one.png", "none.png", "two.png", "film.mkv", "broken.png", "two.png", "last.png"]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with inputs, read by a detector and an engine that a person can follow, and their whole table."""
    monkeypatch.setattr("mien.recognition.detectors.detector", lambda *_: Bright())
    monkeypatch.setattr("mien.recognition.engines.engine", lambda *_: Mean())
    monkeypatch.chdir(tmp_path)
    for name, levels in (("=one.png", [200]), ("none.png", []), ("two.png", [140, 220]), ("last.png", [160])):
        Path(name).write_bytes(encoded(picture(levels)))
    film("film.mkv", [200, 0, 240, 160])
    Path("broken.png").write_bytes(b"no picture")
    assert main(["predict", *INPUTS, "--csv", "whole.csv"]) == 3
    return Path("whole.csv")


def test_a_table_that_was_cut_anywhere_becomes_the_whole_one(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = table.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    assert len(ends) == 13
    for cut in [0, 7, *ends, *(end - 9 for end in ends[1:])]:
        Path("part.csv").write_bytes(whole[:cut])
        assert main(["predict", *INPUTS, "--csv", "part.csv", "--resume"]) in (0, 3)
        assert Path("part.csv").read_bytes() == whole, cut
    Path("part.csv").unlink()
    assert main(["predict", *INPUTS, "--csv", "part.csv", "--resume"]) == 3, "nothing to go on with"
    assert Path("part.csv").read_bytes() == whole
    assert "part.csv: goes on; 7 inputs are left" in capsys.readouterr().err


def test_only_what_is_missing_is_read(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[:5]) + "\n")  # to the second face of two.png
    Path("none.png").unlink()
    Path("none.png").write_bytes(b"no picture any more")
    assert main(["predict", *INPUTS[:3], "new.png", "--csv", "whole.csv", "--resume"]) == 3
    assert [line.split(",")[:2] for line in table.read_text().splitlines()[1:]] == [
        ["./=one.png", "ok"], ["none.png", "no_face"], ["two.png", "ok"], ["two.png", "ok"], ["new.png", "error"],
    ]  # fmt: skip
    assert "goes on; 2 inputs are left" in capsys.readouterr().err


def test_a_film_that_is_named_twice_is_read_twice_and_no_more(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", "film.mkv", "film.mkv", "last.png", "--csv", "twice.csv"]
    assert main(words) == 0
    whole = Path("twice.csv").read_bytes()
    capsys.readouterr()
    assert main([*words, "--resume"]) == 0 and Path("twice.csv").read_bytes() == whole
    captured = capsys.readouterr()
    assert "twice.csv: goes on; 1 input is left" in captured.err
    assert captured.out == "twice.csv: 1 record, 1 face in this run\n", "the table has eight more"


def test_a_film_that_was_broken_off_is_one_input(table: Path) -> None:
    lines = table.read_text().splitlines(keepends=True)
    frames = [line for line in lines if line.startswith("film.mkv")]
    film_input, last = Film(Path("film.mkv")), Path("last.png")
    reason = f"film.mkv,error,took too long{',' * (frames[0].count(',') - 2)}\n"
    for rows, left in (
        ([*frames, reason, lines[-1]], [last]),
        ([*frames, reason], [film_input, last]),
        ([*frames, reason, *frames, reason, lines[-1]], [last]),
    ):
        table.write_text("".join([lines[0], *rows]))
        count = sum(row == reason for row in rows)
        assert resume(table, [film_input] * count + [last])[0] == left


def test_frames_of_a_film_stay_until_the_last_of_them_is_read_again(table: Path) -> None:
    lines = table.read_text().splitlines(keepends=True)
    start = [line.startswith("film.mkv") for line in lines].index(True)
    cut = "".join(lines[: start + 3])  # frames 0 to 2
    film_input, last = Film(Path("film.mkv")), Path("last.png")
    reader = Recognizer()

    def resumed(records: list[Recognition]) -> str:
        table.write_text(cut)
        _, former = resume(table, [film_input, last])
        with suppress(KeyboardInterrupt), csv_table(table, reader.names, former=former) as add:
            for record in records:
                add(record)
            raise KeyboardInterrupt
        return table.read_text()

    read = list(read_inputs(reader, [film_input, last], Settings()))
    names = [record.input for record in read]
    assert names == ["film.mkv"] * 4 + ["last.png"]
    for count in (0, 1, 2, 3):
        assert resumed(read[:count]) == cut, count
    assert resumed(read[:4]) == "".join(lines[: start + 4])
    assert resumed([*read[:2], read[4]]) == cut + lines[-1], "a film that has become shorter keeps its rows"
    for records, message in (
        ([read[0], read[2]], "has frame 1 of film.mkv, which is now read with frame 2 in its place: another --every"),
        ([*read[:2], dataclasses.replace(read[2], status="no_face", faces=())], "which is now read as no face 0.00"),
    ):
        with pytest.raises(MienError, match=message):
            resumed(records)
        assert table.read_text() == cut


def test_rows_of_an_input_that_is_not_named_any_more_stay(table: Path) -> None:
    whole = table.read_bytes()
    assert main(["predict", *INPUTS[:2], "--csv", "whole.csv", "--resume"]) == 0
    assert table.read_bytes() == whole


@pytest.mark.parametrize("options", [["--digits", "2"], ["--bom"]])
def test_other_options_go_on_too(table: Path, options: list[str]) -> None:
    command = ["predict", *INPUTS, "--csv", "marked.csv", *options]
    assert main(command) == 3
    whole = Path("marked.csv").read_bytes()
    Path("marked.csv").write_bytes(whole[: len(whole) // 2])
    assert main([*command, "--resume"]) == 3
    assert Path("marked.csv").read_bytes() == whole


def test_another_model_adds_nothing(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = table.read_text().replace("last.png,ok", "last.png,no_face", 1)
    lines = other.splitlines()
    lines[-1] = ",".join(cell if number < 9 else "" for number, cell in enumerate(lines[-1].split(",")))
    table.write_text("\n".join(lines) + "\n")
    before = table.read_bytes()
    assert main(["predict", *INPUTS, "--csv", "whole.csv", "--resume"]) == 2
    assert "whole.csv has no face 0.00 for last.png, which is now read as" in capsys.readouterr().err
    assert table.read_bytes() == before


def test_what_cannot_go_on_is_told(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("other.csv").write_text("name,age\nx,1\n")
    Path("long.csv").write_text("x" * 200_000 + "\n")
    Path("short.csv").write_text("input,status\nnone.png,no_face\n")
    for words, reason in (
        (["none.png", "--csv", "other.csv"], "other.csv is no table of `mien predict --csv`"),
        (["none.png", "--csv", "long.csv"], "long.csv is no table of `mien predict --csv`"),
        (["none.png", "--csv", "short.csv"], "short.csv is no table of `mien predict --csv`"),
        (["0", "--csv", "whole.csv"], "goes with files, not with a camera"),
        (["none.png"], "is for tables by --csv FILE.csv, which is missing"),
    ):
        assert main(["predict", *words, "--resume"]) == 2
        assert reason in capsys.readouterr().err
    assert Path("other.csv").read_text() == "name,age\nx,1\n"


def test_a_score_that_another_program_has_rewritten_is_told(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = table.read_text().splitlines()
    header, last = lines[0].split(","), lines[-1].split(",")
    last[header.index("score")] = '"0,5"'
    table.write_text("\n".join([*lines[:-1], ",".join(last)]) + "\n")
    before = table.read_bytes()
    assert main(["predict", *INPUTS, "--csv", "whole.csv", "--resume"]) == 2
    assert "whole.csv has '0,5' as a score of last.png, expected a number such as 0.75" in capsys.readouterr().err
    assert table.read_bytes() == before


def test_a_table_that_changes_or_has_other_columns_is_left(tmp_path: Path) -> None:
    path = tmp_path / "faces.csv"
    with csv_table(path, NAMES) as add:
        add(TWO)
    left, former = resume(path, [tmp_path / "photo.jpg"])
    assert left == [tmp_path / "photo.jpg"] and former.end == former.size
    with pytest.raises(MienError, match="has other columns than"), csv_table(path, ("calm",), former=former):
        pass
    with path.open("a") as file:
        file.write("more\n")
    with pytest.raises(MienError, match="changed by another command"), csv_table(path, NAMES, former=former):
        pass
    assert path.read_text().endswith("more\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's disk that is always full")
def test_a_table_that_cannot_be_written_is_told_with_its_place_and_a_remedy(tmp_path: Path) -> None:
    full, file = Path("/dev/full"), tmp_path / "file"
    file.touch()
    with pytest.raises(MienError, match=r"/dev/full: cannot be written \(No space .*; free"), csv_table(full, NAMES):
        pass
    for place in (tmp_path, file / "faces.csv"):
        with pytest.raises(MienError, match=f"{place}: cannot be written .*; choose"), csv_table(place, NAMES):
            pass
