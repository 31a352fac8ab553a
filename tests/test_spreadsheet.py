"""The workbook of ``mien predict --xlsx``: its sheets by hand, hostile names, and memory."""

from __future__ import annotations

import errno
import gc
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from mien.errors import MienError
from mien.recognition import spreadsheet
from mien.recognition.formats import columns
from mien.recognition.results import Face, Recognition
from mien.recognition.spreadsheet import MEANINGS, Summary, ensure_openpyxl, xlsx_table

openpyxl = pytest.importorskip("openpyxl")
from openpyxl.worksheet._write_only import WriteOnlyWorksheet  # noqa: E402
from openpyxl.writer.excel import ExcelWriter  # noqa: E402

NAMES = ("happy", "sad")


def face(happy: float, *, uncertain: bool | None = False, number: int | None = None) -> Face:
    label, score = ("happy", happy) if happy >= 0.5 else ("sad", 1 - happy)
    return Face((1, 2, 3, 4), label, score, {"happy": happy, "sad": 1 - happy}, uncertain, 0.9, id=number)


RECORDS = [
    Recognition("a.png", "ok", None, 9, 9, (face(0.9), face(0.2, uncertain=True))),
    Recognition("b.png", "error", "b.png: cannot be read"),
    Recognition("f.mp4", "ok", None, 9, 9, (face(0.8, number=0), face(0.4, number=1)), frame=0, time_s=0.0),
    Recognition("f.mp4", "ok", None, 9, 9, (face(0.6, number=0),), frame=24, time_s=0.96),
    Recognition("f.mp4", "ok", None, 9, 9, (face(0.1, number=0),), frame=25, time_s=1.0),
]


def written(path: Path, records: list[Recognition]) -> dict[str, list[tuple[Any, ...]]]:
    with xlsx_table(path, NAMES) as add:
        for record in records:
            add(record)
    return {sheet.title: list(sheet.values) for sheet in openpyxl.load_workbook(path)}


def test_the_sheets_by_hand(tmp_path: Path) -> None:
    sheets = written(tmp_path / "faces.xlsx", RECORDS)
    assert list(sheets) == ["Faces", "Expressions", "Files", "People", "Seconds", "Columns"]
    assert sheets["Faces"][0] == tuple(columns(NAMES)) and len(sheets["Faces"]) == 1 + 7
    first_row = dict(zip(sheets["Faces"][0], sheets["Faces"][1], strict=True))
    assert (first_row["input"], first_row["label"], first_row["score"], first_row["uncertain"]) == (
        "a.png",
        "happy",
        0.9,
        False,
    )
    assert (first_row["probability_sad"], first_row["id"]) == (0.1, None)
    assert sheets["Expressions"] == [
        ("label", "faces", "share", "sure", "mean_probability"),
        ("happy", 3, 0.5, 3, 0.5), ("sad", 3, 0.5, 2, 0.5),
    ]  # fmt: skip
    assert sheets["Files"] == [
        ("file", "records", "unreadable", "faces", "sure", "most_frequent", "mean_happy", "mean_sad"),
        ("a.png", 1, 0, 2, 1, "happy", 0.55, 0.45),
        ("b.png", 1, 1, 0, 0, None, None, None),
        ("f.mp4", 3, 0, 4, 4, "happy", 0.475, 0.525),
    ]
    assert sheets["People"] == [
        ("file", "person", "first_s", "last_s", "faces", "sure", "most_frequent", "mean_happy", "mean_sad"),
        ("f.mp4", 0, 0, 1, 3, 3, "happy", 0.5, 0.5),
        ("f.mp4", 1, 0, 0, 1, 1, "sad", 0.4, 0.6),
    ]
    assert sheets["Seconds"] == [
        ("file", "second", "faces", "sure", "most_frequent", "mean_happy", "mean_sad"),
        ("f.mp4", 0, 3, 3, "happy", 0.6, 0.4),
        ("f.mp4", 1, 1, 1, "sad", 0.1, 0.9),
    ]


def test_every_column_has_a_meaning(tmp_path: Path) -> None:
    sheets = written(tmp_path / "faces.xlsx", [])
    described_columns = {name for names in MEANINGS for name in names.split(", ")}
    for title, (heads, *_) in sheets.items():
        for head in heads if title != "Columns" else ():
            name = next((f"{start}..." for start in ("probability_", "mean_") if head.startswith(start)), head)
            assert {name, "file" if name == "file" else name} <= {*described_columns, "file"}, head
    text = " ".join(row[1] for row in sheets["Columns"])
    assert "not about what the person feels" in text and "promises its stated accuracy" in text


def test_nothing_is_a_formula_and_odd_names_are_written(tmp_path: Path) -> None:
    odd_names = ["=HYPERLINK(1)", "+1.png", "-2", "@x", "a\x07b\ud83c.png", "x" * 40_000, "\ufffe\uffff.png"]
    records = [Recognition(name, "error", "=1+1") for name in odd_names]
    path = tmp_path / "faces.xlsx"
    written(path, records)
    for sheet in openpyxl.load_workbook(path):
        for row in sheet.iter_rows():
            for cell in row:
                assert cell.data_type != "f"
                assert not str(cell.value if cell.value is not None else "").startswith(("=", "+", "@")), cell.value
    inputs = [row[0] for row in openpyxl.load_workbook(path)["Faces"].values][1:]
    assert inputs[:3] == ["./=HYPERLINK(1)", "./+1.png", "./-2"]
    assert inputs[4] == "a\\x07b\\ud83c.png" and len(inputs[5]) == 32_767
    assert inputs[6] == "\\ufffe\\uffff.png", "XML has no such characters: no workbook with them opens"


def test_shares_look_like_percent(tmp_path: Path) -> None:
    written(tmp_path / "faces.xlsx", RECORDS)
    sheet = openpyxl.load_workbook(tmp_path / "faces.xlsx")["Faces"]
    heads = [cell.value for cell in sheet[1]]
    formats = {head: cell.number_format for head, cell in zip(heads, sheet[2], strict=True)}
    assert formats["score"] == formats["probability_happy"] == "0.0%" and formats["box_x"] == "General"
    assert sheet.freeze_panes == "A2"


def test_a_full_sheet_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreadsheet, "MOST_ROWS", 3)
    sheets = written(tmp_path / "faces.xlsx", RECORDS)
    assert [title for title in sheets if title.startswith("Faces")] == ["Faces", "Faces 2", "Faces 3", "Faces 4"]
    rows = [row for title, rows in sheets.items() if title.startswith("Faces") for row in rows[1:]]
    assert len(rows) == 7 and all(rows[0] for rows in sheets.values())


def test_memory_does_not_grow_with_the_faces(tmp_path: Path) -> None:
    peaks = []
    for count in (200, 2000):
        tracemalloc.start()
        with xlsx_table(tmp_path / f"{count}.xlsx", NAMES) as add:
            for _ in range(count):
                add(RECORDS[0])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 300_000, peaks


@pytest.mark.parametrize("error", [KeyboardInterrupt, MienError, MemoryError])
def test_the_workbook_is_whole_whatever_ends_the_reading(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "faces.xlsx"
    with pytest.raises(error), xlsx_table(path, NAMES) as add:
        add(RECORDS[0])
        raise error("stop")
    workbook = openpyxl.load_workbook(path)
    assert len(list(workbook["Faces"].values)) == 3 and len(list(workbook["Files"].values)) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["faces.xlsx"]


def test_a_workbook_that_cannot_be_written_or_is_empty_replaces_none(tmp_path: Path) -> None:
    path = tmp_path / "faces.xlsx"
    path.write_text("the former one")
    for error in (MienError("the model is broken"), KeyboardInterrupt()):
        with pytest.raises(type(error)), xlsx_table(path, NAMES):
            raise error
        assert path.read_text() == "the former one"
    with pytest.raises(AttributeError), xlsx_table(path, NAMES) as add:
        add(RECORDS[0])
        add(None)  # type: ignore[arg-type]
    assert path.read_text() == "the former one" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_of_temporary_files_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    close = WriteOnlyWorksheet.close

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def close_and_fail(sheet: Any) -> None:
        close(sheet)
        fail()

    monkeypatch.setattr(spreadsheet, "gettempdir", lambda: "/scratch")
    message = r"faces\.xlsx: cannot be written, as its temporary file in /scratch cannot \(No space left on device\)"
    with pytest.raises(MienError, match=message), xlsx_table(tmp_path / "faces.xlsx", NAMES) as add:
        add(RECORDS[0])
        monkeypatch.setattr(WriteOnlyWorksheet, "append", fail)
        monkeypatch.setattr(WriteOnlyWorksheet, "close", close_and_fail)
        add(RECORDS[0])
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_at_the_end_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Archive and sheets that stayed open would print tracebacks when they are collected."""
    resource = pytest.importorskip("resource", reason="Windows has no limits")
    write_data, former_limits = ExcelWriter.write_data, resource.getrlimit(resource.RLIMIT_FSIZE)
    unraisable: list[object] = []

    def write_data_on_a_full_disk(writer: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, former_limits[1]))
        write_data(writer)

    monkeypatch.setattr(ExcelWriter, "write_data", write_data_on_a_full_disk)
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    try:
        with pytest.raises(MienError, match=r"faces\.xlsx: cannot be written \(File too large\); choose another place"):
            written(tmp_path / "faces.xlsx", RECORDS)
        gc.collect()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former_limits)
    assert (unraisable, list(tmp_path.iterdir())) == ([], [])


def test_a_full_disk_of_temporary_files_is_named_at_the_end_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = WriteOnlyWorksheet.close

    def close_and_fail(sheet: Any) -> None:
        close(sheet)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(WriteOnlyWorksheet, "close", close_and_fail)
    with pytest.raises(MienError, match=r"its temporary file in .* cannot \(No space left on device\); free some"):
        written(tmp_path / "faces.xlsx", RECORDS)


def test_openpyxl_is_named_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreadsheet, "find_spec", lambda name: None)
    with pytest.raises(MienError, match=r"openpyxl, which is not installed; pip install 'mien\[tables\]' brings it"):
        ensure_openpyxl()


def test_a_summary_of_nothing_has_no_shares() -> None:
    rows = {title: list(values) for title, _, values in Summary(NAMES).sheets()}
    assert rows["Expressions"] == [["happy", 0, None, 0, None], ["sad", 0, None, 0, None]]
