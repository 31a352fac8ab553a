"""What a caller may pass as a picture: open files, arrays of bools; and what is said about everything else."""

from __future__ import annotations

import gzip
import io
import os
import tempfile
import threading
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recognition_helpers import Bright, Mean, encoded, read

from mien.errors import MienError
from mien.recognition.pictures import check_type
from mien.recognition.recognizer import Recognizer

COLOUR = np.tile(np.array((204, 102, 51), np.uint8), (4, 6, 1))
GREY = np.full((3, 5), 90, np.uint8)


class Column(list[str]):
    """A column of paths, as of pandas: with one axis, and an array if that is asked for."""

    shape = (2,)

    def __array__(self) -> np.ndarray:
        return np.array(list(self))


class Upload:
    """A file of a web framework that is read with await."""

    async def read(self) -> bytes:
        return b""


def test_open_files_are_read_from_where_they_stand(tmp_path: Path) -> None:
    data = encoded(COLOUR)
    stream = io.BytesIO(data)
    expected = read(data, "x")
    assert np.array_equal(read(stream, "x"), expected)
    with pytest.raises(MienError, match=r"x: is at its end, nothing is left to read; call seek\(0\) first"):
        read(stream, "x")
    stream.seek(0)
    assert np.array_equal(read(stream, "x"), expected)
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with path.open("rb") as file:
        assert np.array_equal(read(file, "x"), expected)
    with tempfile.SpooledTemporaryFile() as spooled:
        spooled.write(data)
        spooled.seek(0)
        assert np.array_equal(read(spooled, "x"), expected)


def test_a_file_that_gives_its_bytes_bit_by_bit_is_read_to_its_end() -> None:
    data = encoded(COLOUR)
    reading_end, writing_end = os.pipe()

    def send() -> None:
        with open(writing_end, "wb", buffering=0) as pipe:
            for start in range(0, len(data), 40):
                pipe.write(data[start : start + 40])
                time.sleep(0.01)

    sender = threading.Thread(target=send)
    sender.start()
    with open(reading_end, "rb", buffering=0) as pipe:
        assert np.array_equal(read(pipe, "x"), COLOUR)
    sender.join()


def test_a_small_file_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(COLOUR))
    tracemalloc.start()
    try:
        with path.open("rb") as file:
            read(file, "x")
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_files_that_give_no_bytes_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("text")
    with path.open() as text, pytest.raises(MienError, match="is a file opened as text, expected bytes; open it with"):
        read(text, "x")
    with pytest.raises(MienError, match=r"x: cannot be read .*closed file.*; open it again"):
        read(text, "x")
    with pytest.raises(MienError, match=r"is read with await, expected a plain file; give the bytes: await x.read"):
        read(Upload(), "x")
    with pytest.raises(MienError, match="x: is empty"):
        read(io.BytesIO(), "x")


def test_a_picture_that_was_opened_as_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(COLOUR))
    with (
        path.open(encoding="utf-8") as text,
        pytest.raises(MienError, match="is a file opened as text, expected bytes; open it with mode 'rb'"),
    ):
        read(text, "x")


def test_a_damaged_member_or_packed_file_is_a_record() -> None:
    data = encoded(COLOUR)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.png", data)
    recognizer = Recognizer(detector=Bright(), engine=Mean())
    with (
        zipfile.ZipFile(io.BytesIO(packed.getvalue().replace(data, bytes(len(data))))) as archive,
        gzip.open(io.BytesIO(gzip.compress(data)[:-20])) as cut_short,
    ):
        records = list(recognizer.stream([data, archive.open("a.png"), cut_short, data]))
    assert [record.status for record in records] == ["ok", "error", "error", "ok"]
    assert str(records[1].error).startswith("a.png: cannot be read (Bad CRC-32")
    assert "cannot be read (Compressed file ended before" in str(records[2].error)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({1, 2}, "is a set, expected a path, .*; a set has no order: give a list"),
        (["a.jpg"], r"is a list, .*; give one list, without lists in it$"),
        ({"a": b""}, r"is a dict, .*; give list\(x.values\(\)\) for the pictures in a dict"),
        ((path for path in "ab"), r"is a generator, .*; give list\(x\), or read it with Recognizer.stream"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"an array \[2, 4, 4, 3\] of several pictures, expected one of them"),
        (np.array(["a.jpg", "b.jpg"]), r"an array of 2 values, expected one picture; give list\(x\)"),
        (np.array([COLOUR, GREY], object), r"an array of 2 values, expected one picture; give list\(x\)"),
        (Column(), r"is a Column, expected a path, .*; give list\(x\), or read it with Recognizer.stream"),
        (7, "picture: is an int, expected a path"),
    ],
    ids=["set", "list", "dict", "generator", "4-D", "paths", "arrays", "column", "int"],
)
def test_values_that_are_no_picture_are_mistakes_of_the_call(value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message) as error:
        check_type(value)
    assert isinstance(error.value, MienError)


def test_a_tensor_is_told_how_it_becomes_an_array() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(MienError, match=r"is a Tensor, .*; give x.permute\(1, 2, 0\).cpu\(\).numpy\(\), as uint8"):
        check_type(torch.zeros(3, 8, 8))
    with pytest.raises(MienError, match=r"; give x.cpu\(\).numpy\(\), as uint8"):
        check_type(torch.zeros(8, 8, 3))


def test_true_is_white_in_a_bool_array() -> None:
    array = np.array([[True, False], [False, True]])
    assert read(array, "x").tolist() == [[255, 0], [0, 255]]
    assert read(np.dstack([array] * 3), "x", "rgb").max() == 255


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("https://example.org/a.jpg", "https://example.org/a.jpg: is an address, and Mien downloads nothing"),
        (Path("https://example.org/a.jpg"), "is an address, and Mien downloads nothing; download it"),
        ("rtsp://camera/1", r"is an address \(rtsp\), expected a file; record a part of the stream"),
        ("file:///photos/a.jpg", "is an address, expected a path; give it without file://"),
        ("data:image/png;base64,iVBORw0", r"is a data URI, expected a picture; give the bytes: base64.b64decode"),
        ("photos/*.jpg", r"is a pattern that no file has as its name; give sorted\(glob.glob\(pattern\)\)"),
    ],
)
def test_addresses_and_patterns_are_told_what_is_possible(text: Any, message: str) -> None:
    with pytest.raises(MienError, match=message):
        read(text, str(text))


def test_a_file_may_be_named_like_a_pattern(tmp_path: Path) -> None:
    path = tmp_path / "face [1].png"
    path.write_bytes(encoded(COLOUR))
    assert read(str(path), "x").shape == COLOUR.shape


def test_a_long_data_uri_is_not_repeated_in_the_message() -> None:
    text = "data:image/png;base64," + "A" * 100_000
    with pytest.raises(MienError) as error:
        read(text, text)
    assert len(str(error.value)) < 300
