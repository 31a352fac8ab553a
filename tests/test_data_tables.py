"""FER2013 as a table, and what is refused with row and field."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_helpers import noise, write_folder, write_zip

from mien.data.read import read_faces
from mien.errors import MienError

PIXELS = " ".join(["7"] * 2304)
GOOD = f"emotion,pixels,Usage\n0,{PIXELS},Training\n6,{PIXELS},Training\n6,{PIXELS},PrivateTest\n"


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "fer2013.csv"
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path, *parts: str) -> None:
    with pytest.raises(MienError) as error:
        read_faces(path, cache=False)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value), str(error.value)


def test_rows_become_faces(tmp_path: Path) -> None:
    image = noise(4, side=48)
    pixels = " ".join(map(str, image.reshape(-1)))
    text = f"emotion,pixels,Usage\r\n3,{PIXELS},Training\r\n1,{PIXELS},Training\r\n1,{pixels},PublicTest\r\n"
    faces = read_faces(table(tmp_path, text), cache=False)
    assert faces.names == ("disgust", "happy") and faces.labels.tolist() == [1, 0, 0]
    assert faces.splits.tolist() == ["train", "train", "validation"]
    assert faces.ids.tolist() == ["row 2", "row 3", "row 4"]
    assert (faces.images[0] == 7).all() and (faces.images[2] == image).all()
    assert faces.images.dtype == np.uint8 and "train 2 instead of 28,709" in faces.warnings[0]


def test_spaces_in_the_header_and_a_byte_order_mark(tmp_path: Path) -> None:
    text = f"\ufeffemotion, Usage, pixels\n2,Training,{PIXELS}\n"
    faces = read_faces(table(tmp_path, text), cache=False)
    assert faces.names == ("fear",) and faces.splits.tolist() == ["train"]


def test_without_usage_every_row_is_training_and_no_count_is_expected(tmp_path: Path) -> None:
    faces = read_faces(table(tmp_path, f"emotion,pixels\n2,{PIXELS}\n\n5,{PIXELS}\n"), cache=False)
    assert faces.splits.tolist() == ["train", "train"] and faces.warnings == ()
    assert faces.ids.tolist() == ["row 2", "row 4"]


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        (f"0,{PIXELS} 7,Training", ("row 3, pixels", "has 2,305 values, expected 2,304 (48x48)")),
        (f"0,{PIXELS[2:]},Training", ("row 3, pixels", "has 2,303 values")),
        ("0,,Training", ("row 3, pixels", "has 0 values")),
        (f"0,{PIXELS[:-1]}x,Training", ("row 3, pixels", "'x' is not a grey value", "0 to 255")),
        (f"0,{PIXELS[:-1]}7.5,Training", ("row 3, pixels", "'7.5' is not a grey value")),
        (f"0,{PIXELS[:-1]}-7,Training", ("row 3, pixels", "'-7' is not a grey value")),
        (f"0,{PIXELS[:-1]}nan,Training", ("row 3, pixels", "'nan'")),
        (f"0,{PIXELS[:-1]}\u0667,Training", ("row 3, pixels", "is not a grey value")),
        (f"0,{PIXELS[:-1]}256,Training", ("row 3, pixels", "256 is no grey value, expected 0 to 255")),
        (f"0,{PIXELS[:-1]}{'9' * 40},Training", ("row 3, pixels", "is no grey value")),
        (f"7,{PIXELS},Training", ("row 3, emotion", "unknown label '7'", "6 neutral")),
        (f"happy,{PIXELS},Training", ("row 3, emotion", "unknown label 'happy'")),
        (f"-1,{PIXELS},Training", ("row 3, emotion", "unknown label '-1'")),
        (f"0,{PIXELS},Test", ("row 3, Usage", "unknown split 'Test'", "Training, PublicTest, PrivateTest")),
        (f"0,{PIXELS}", ("row 3", "has 2 fields, expected 3")),
        (f"0,{PIXELS},Training,x", ("row 3", "has 4 fields, expected 3")),
        (f"5,{PIXELS},PublicTest", ("row 3", "unknown label surprise", "no training image")),
        (f'0,"{PIXELS * 40}",Training', ("line 3", "correct it")),
    ],
)
def test_a_wrong_row(tmp_path: Path, row: str, parts: tuple[str, ...]) -> None:
    path = table(tmp_path, f"emotion,pixels,Usage\n0,{PIXELS},Training\n{row}\n")
    refused(path, str(path), "correct", *parts)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "the header is ''"),
        ("label,pixels\n", "the header is 'label,pixels', expected emotion,pixels,Usage"),
        ("emotion,pixels,Usage\n", "no row below its header"),
        ("emotion,pixels,Usage\n0,\x00,Training\n", "fer2013.csv"),
    ],
)
def test_a_wrong_table(tmp_path: Path, text: str, part: str) -> None:
    refused(table(tmp_path, text), part)


def test_a_table_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "fer2013.csv"
    path.write_bytes(b"\xff\xfe\x00emotion")
    refused(path, "is not a CSV file that can be read", "download it again")


def test_a_table_in_a_zip_or_a_folder(tmp_path: Path) -> None:
    challenge = {
        "challenge/fer2013.csv": GOOD.encode(),
        "challenge/train.csv": f"emotion,pixels\n0,{PIXELS}\n".encode(),
        "challenge/example_submission.csv": b"id,emotion\n",
        "challenge/README": b"hello",
    }
    for path in (write_zip(tmp_path / "a.zip", challenge), write_folder(tmp_path / "a", challenge)):
        assert read_faces(path, cache=False).splits.tolist() == ["train", "train", "test"]


def test_a_wrong_row_in_a_zip_names_archive_and_table(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"x/fer2013.csv": GOOD.replace("6,", "9,").encode()})
    refused(path, f"{path}: x/fer2013.csv: row 3, emotion")


def test_tables_that_leave_a_choice(tmp_path: Path) -> None:
    two = {"a.csv": GOOD.encode(), "b.csv": GOOD.encode()}
    refused(write_zip(tmp_path / "two.zip", two), "several FER2013 tables (a.csv, b.csv)", "expected one", "unpack")
    other = {"a.csv": b"x,y\n"}
    refused(write_zip(tmp_path / "none.zip", other), "a.csv", "has the header emotion,pixels,Usage")


def test_a_table_cut_short_in_a_zip(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"fer2013.csv": GOOD.encode()})
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF
    path.write_bytes(data)
    refused(path, "fer2013.csv", "download")
