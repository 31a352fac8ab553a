"""The layouts of labelled sets: folders of classes, splits, sizes, colours; FER2013's tables; what is refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from data_helpers import encode, noise, write_folder, write_zip
from PIL import Image

from mien.data.faces import FaceSet
from mien.data.read import read_faces, read_unlabelled
from mien.errors import Faults, MienError

PICTURE = encode(noise(0))
PIXELS = " ".join(["7"] * 2304)
TABLE = f"emotion,pixels,Usage\n0,{PIXELS},Training\n6,{PIXELS},Training\n6,{PIXELS},PrivateTest\n"


def read(tmp_path: Path, members: dict[str, bytes]) -> FaceSet:
    return read_faces(write_folder(tmp_path / "faces", members), cache=False)


def refused(tmp_path: Path, members: dict[str, bytes], *messages: str) -> None:
    with pytest.raises(MienError) as error:
        read(tmp_path, members)
    assert "\n" not in str(error.value)
    for message in messages:
        assert message in str(error.value), str(error.value)


@pytest.mark.parametrize("top", ["", "fer2013/", "some/folders/"])
def test_kaggle_layout_splits_by_file_name(tmp_path: Path, top: str) -> None:
    names = [
        "test/angry/PrivateTest_7.png",
        "test/angry/PublicTest_8.png",
        "train/angry/Training_1.png",
        "train/neutral/Training_2.png",
    ]
    faces = read(tmp_path, {top + name: encode(noise(seed)) for seed, name in enumerate(names)})
    assert faces.ids.tolist() == [top + name for name in names]
    assert faces.splits.tolist() == ["test", "validation", "train", "train"]
    assert faces.names == ("angry", "neutral")
    assert faces.labels.tolist() == [0, 0, 0, 1] and faces.labels.dtype == np.int64
    assert faces.images.shape == (4, 6, 6) and faces.images.dtype == np.uint8
    assert all((faces.images[seed] == noise(seed)).all() for seed in range(4))


def test_private_test_alone(tmp_path: Path) -> None:
    faces = read(tmp_path, {"test/sad/PrivateTest_1.png": PICTURE, "test/happy/PrivateTest_2.png": PICTURE})
    assert faces.splits.tolist() == ["test", "test"] and faces.names == ("happy", "sad")
    with pytest.raises(MienError, match="no train split"):
        faces.part("train")
    with pytest.raises(MienError, match="split: got 'val', expected one of train, validation, test"):
        faces.part("val")


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        ("train", "train"),
        ("val", "validation"),
        ("Validation", "validation"),
        ("PublicTest", "validation"),
        ("FER2013Valid", "validation"),
        ("test", "test"),
    ],
)
def test_other_names_go_by_their_folder(tmp_path: Path, folder: str, split: str) -> None:
    assert read(tmp_path, {f"{folder}/calm/a.png": PICTURE}).splits.tolist() == [split]


def test_a_folder_a_class_alone_is_all_train(tmp_path: Path) -> None:
    faces = read(tmp_path, {"zeal/b.png": PICTURE, "Contempt/a.PNG": PICTURE, "happiness/1.png": PICTURE})
    assert faces.names == ("contempt", "happy", "zeal")
    assert faces.labels.tolist() == [0, 1, 2] and set(faces.splits) == {"train"}
    assert faces.warnings == ()


def test_seven_known_classes_come_in_fer2013s_order(tmp_path: Path) -> None:
    faces = read(tmp_path, {f"{name}/1.png": PICTURE for name in ("neutral", "anger", "surprise", "sad", "fear")})
    assert faces.names == ("angry", "fear", "sad", "surprise", "neutral")


def test_a_warning_counts_other_files_but_not_junk(tmp_path: Path) -> None:
    faces = read(
        tmp_path, {"a/1.png": PICTURE, "a/.DS_Store": b"x", "a/Thumbs.db": b"x", "readme.txt": b"x", "b.md": b""}
    )
    assert len(faces) == 1
    assert faces.warnings == ("left out 2 file(s) that are no pictures, the first is b.md",)


def test_a_warning_names_kinds_of_pictures_that_are_not_read(tmp_path: Path) -> None:
    faces = read(tmp_path, {"a/1.png": PICTURE, "a/2.HEIC": b"x", "a/3.gif": b"x", "a/readme": b"x"})
    assert faces.warnings == (
        "left out 3 file(s) that are no pictures, the first is a/2.HEIC; 2 may be pictures of a kind that is not read "
        "(.gif, .heic), save these as .png",
    )


def test_a_warning_names_a_file_in_the_folder_of_another_split(tmp_path: Path) -> None:
    faces = read(tmp_path, {"train/sad/PublicTest_3.png": PICTURE, "train/sad/Training_1.png": PICTURE})
    assert faces.splits.tolist() == ["validation", "train"]
    assert any("train/sad/PublicTest_3.png; the name decides" in warning for warning in faces.warnings)


def test_counts_are_held_against_the_official_ones(tmp_path: Path) -> None:
    faces = read(tmp_path, {"train/sad/Training_1.png": PICTURE, "test/sad/PrivateTest_1.png": PICTURE})
    assert faces.warnings == (
        "named as in FER2013, but with other counts: train 1 instead of 28,709, test 1 instead of 3,589; expected of "
        "another set or a part of FER2013, else get it again",
    )


def test_grey_pictures_saved_as_colour_are_grey(tmp_path: Path) -> None:
    grey = noise(5)
    members = {
        "a/1.png": encode(grey),
        "a/2.png": encode(np.repeat(grey[..., None], 3, axis=2)),
        "a/3.png": encode(np.dstack([grey, grey, grey, np.full_like(grey, 255)])),
        "a/4.jpg": encode(np.full((6, 6, 3), 77, np.uint8), "JPEG"),
    }
    faces = read(tmp_path, members)
    assert faces.is_grey and faces.images.shape == (4, 6, 6)
    assert (faces.images[:3] == grey).all() and (faces.images[3] == 77).all()


def test_one_colour_picture_makes_the_set_colour(tmp_path: Path) -> None:
    grey, colour = noise(5), noise(6, channels=3)
    for order in ([grey, colour, grey], [colour, grey, colour]):
        faces = read(tmp_path, {f"a/{index}.png": encode(pixels) for index, pixels in enumerate(order)})
        assert not faces.is_grey and faces.images.shape == (3, 6, 6, 3)
        for image, pixels in zip(faces.images, order, strict=True):
            assert (image == (pixels if pixels.ndim == 3 else pixels[..., None])).all()


def test_a_palette_and_a_sideways_photo_are_understood(tmp_path: Path) -> None:
    grey = noise(5)
    sideways = Image.Exif()
    sideways[0x0112] = 6
    stream = io.BytesIO()
    Image.fromarray(grey).quantize(256).save(stream, "PNG")
    faces = read(tmp_path, {"a/1.png": stream.getvalue(), "a/2.png": encode(grey, exif=sideways)})
    assert (faces.images[0] == grey).all()
    assert (faces.images[1] == np.rot90(grey, -1)).all()


def test_an_empty_folder(tmp_path: Path) -> None:
    refused(tmp_path, {}, "faces", "holds no picture", "expected train/")


@pytest.mark.parametrize(
    ("members", "place"),
    [
        ({"train/sad/1.png": PICTURE, "train/happy/": b""}, "train/happy"),
        ({"train/sad/1.png": PICTURE, "train/happy/notes.txt": b"x"}, "train/happy"),
        ({"sad/1.png": PICTURE, "happy/": b""}, "happy"),
        ({"top/sad/1.png": PICTURE, "top/angry/2.png": PICTURE, "top/happy/": b""}, "top/happy"),
        ({"train/sad/1.png": PICTURE, "val/": b""}, "val"),
    ],
)
def test_an_empty_class_or_split(tmp_path: Path, members: dict[str, bytes], place: str) -> None:
    refused(tmp_path, members, f"{place}:", "holds no picture", "put pictures there or remove it")
    with pytest.raises(MienError, match=f"{place}: .*holds no picture"):
        read_faces(write_zip(tmp_path / "faces.zip", members), cache=False)


@pytest.mark.parametrize("path", ["stray.png", "train/stray.png", "train/sad/deep/stray.png", "extra/sad/stray.png"])
def test_a_picture_outside_the_layout(tmp_path: Path, path: str) -> None:
    refused(tmp_path, {"train/sad/1.png": PICTURE, path: PICTURE}, path, "outside the layout", "move or remove it")


def test_the_pictures_of_ferplus_are_not_of_the_class_of_their_split(tmp_path: Path) -> None:
    members = {f"FER2013{split}/fer{split}.png": PICTURE for split in ("Train", "Valid", "Test")}
    refused(tmp_path, members, "FER2013Test/ferTest.png, ", ": lies outside the layout, expected SPLIT/CLASS/FILE")


def test_a_split_of_an_unknown_name_is_told_those_that_are_known(tmp_path: Path) -> None:
    refused(tmp_path, {"train_set/sad/1.png": PICTURE, "dev_set/sad/1.png": PICTURE}, "CLASS/FILE, or", "one of train,")


def test_an_unknown_prefix_among_fer2013s(tmp_path: Path) -> None:
    members = {"test/sad/PublicTest_1.png": PICTURE, "test/sad/Publictest_2.png": PICTURE}
    refused(tmp_path, members, "Publictest_2.png", "unknown prefix Publictest_", "Training_, PublicTest_, PrivateTest_")
    assert len(read_faces(write_folder(tmp_path / "b", {"test/sad/Publictest_2.png": PICTURE}), cache=False)) == 1


def test_a_label_that_no_training_image_has(tmp_path: Path) -> None:
    members = {"train/sad/1.png": PICTURE, "train/happy/1.png": PICTURE, "val/hapy/1.png": PICTURE}
    refused(
        tmp_path, members, "val/hapy/1.png", "unknown label hapy", "expected one of happy, sad", "correct the label"
    )


def test_two_spellings_of_a_class(tmp_path: Path) -> None:
    refused(tmp_path, {"happy/1.png": PICTURE, "Happiness/2.png": PICTURE}, "faces", "two spellings", "happy")


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((6, 5), np.uint8), "is 5x6 pixels, expected 6x6"),
        (np.zeros((7, 7), np.uint8), "is 7x7 pixels, expected 6x6"),
    ],
)
def test_a_picture_of_another_size(tmp_path: Path, pixels: np.ndarray, message: str) -> None:
    refused(tmp_path, {"a/1.png": PICTURE, "a/2.png": encode(pixels)}, "a/2.png", message, "mien data crop")


def test_a_first_picture_that_is_not_square(tmp_path: Path) -> None:
    members = {"a/1.png": encode(np.zeros((6, 5), np.uint8))}
    refused(tmp_path, members, "a/1.png", "is 5x6 pixels, expected a square", "mien data crop")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_a_truncated_picture(tmp_path: Path, kind: str) -> None:
    data = encode(noise(3, side=48), kind)
    members = {"a/1.png": encode(noise(2, side=48)), "a/2.png": data[: len(data) // 2]}
    refused(tmp_path, members, "a/2.png", "truncated or broken picture", "replace or remove")


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "is empty"), (b"hello", "is not a picture"), (b"%!PS-Adobe", "is not a picture")]
)
def test_a_file_that_is_no_picture(tmp_path: Path, data: bytes, message: str) -> None:
    refused(tmp_path, {"a/1.png": PICTURE, "a/2.png": data}, "a/2.png", message, "replace or remove")


@pytest.mark.parametrize(
    ("side", "message"),
    [
        (2049, "2049x2049 pixels, expected at most"),
        (10000, "10000x10000 pixels, expected at most"),
        (60000, "more pixels than can be read"),
    ],
)
def test_a_picture_that_claims_many_pixels_is_not_decoded(tmp_path: Path, side: int, message: str) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    bomb += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    refused(tmp_path, {"a/1.png": bomb}, "a/1.png", message)


def test_pixels_that_need_a_decision_are_refused(tmp_path: Path) -> None:
    members = {"a/1.png": encode(np.zeros((6, 6), np.uint16))}
    refused(tmp_path, members, "a/1.png", "I;16", "expected 8-bit")
    transparent = {"a/1.png": encode(noise(1, channels=4))}
    refused(tmp_path, transparent, "a/1.png", "transparent parts")


ODD = {
    "a/2.png": b"",
    "b/2.png": encode(noise(1, channels=4)),
    "b/3.png": encode(noise(1, 7)),
    "b/4.png": b"",
    "b/5.png": b"hello",
    "b/6.png": b"",
    "b/7.png": b"",
}


@pytest.mark.parametrize("container", ["folder", "zip"])
def test_all_broken_pictures_are_counted_and_the_first_named(tmp_path: Path, container: str) -> None:
    write = write_folder if container == "folder" else write_zip
    source = write(tmp_path / "faces", {"a/1.png": PICTURE, "b/1.png": PICTURE, **ODD})
    with pytest.raises(MienError) as error:
        read_faces(source, cache=False)
    text = str(error.value)
    assert text.startswith(f"{source}: 7 of 9 pictures cannot be used: a/2.png, b/4.png: is empty; b/2.png: has ")
    assert "; b/3.png: is 7x7 pixels, expected 6x6 as a/1.png has; " in text and "\n" not in text
    assert "; and 2 more, which --verbose names; replace or remove the file; save it without transparency; " in text


def test_details_name_every_broken_picture(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", "mien"), pytest.raises(MienError):
        read(tmp_path, {"a/1.png": PICTURE, "b/1.png": PICTURE, **ODD})
    assert all(any(f"faces/{name}: " in message for message in caplog.messages) for name in ODD)


def test_reading_stops_where_most_pictures_are_unfit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Faults, "MANY", 10)
    members = {f"b/{number:03}.png": PICTURE for number in range(100)}
    refused(tmp_path, {"a/1.png": encode(noise(0, 9)), **members}, "10 of the first 11 pictures", "6x6", "as a/1.png")


def test_all_that_is_wrong_with_the_layout_is_told(tmp_path: Path) -> None:
    stray = {"a/1.png": PICTURE, "a/x/2.png": PICTURE, "stray.png": PICTURE}
    refused(tmp_path, stray, "faces: 2 of 3 pictures cannot be used: a/x/2.png, stray.png: lies outside the layout")
    empty = write_folder(tmp_path / "empty", {"a/1.png": PICTURE, "b/": b"", "c/": b""})
    with pytest.raises(MienError, match="2 of 3 folders cannot be used: b: the folder of a class b holds no picture; "):
        read_faces(empty, cache=False)
    names = write_folder(tmp_path / "c", {f"test/a/{name}_1.png": PICTURE for name in ("PublicTest", "Test", "Val")})
    with pytest.raises(MienError, match=r"2 of 3 pictures cannot be used: test/a/Test_1\.png: .*; test/a/Val_1\.png:"):
        read_faces(names, cache=False)
    untrained = write_folder(tmp_path / "d", {f"{name}/1.png": PICTURE for name in ("train/a", "val/b", "val/c")})
    with pytest.raises(MienError, match=r"2 of 3 classes .* val/b/1\.png: unknown label b .* val/c/1\.png: unknown"):
        read_faces(untrained, cache=False)


def write_table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "fer2013.csv"
    path.write_text(text, encoding="utf-8")
    return path


def refused_table(path: Path, *messages: str) -> None:
    with pytest.raises(MienError) as error:
        read_faces(path, cache=False)
    assert "\n" not in str(error.value)
    for message in messages:
        assert message in str(error.value), str(error.value)


def test_rows_become_faces(tmp_path: Path) -> None:
    image = noise(4, side=48)
    pixels = " ".join(map(str, image.reshape(-1)))
    text = f"emotion,pixels,Usage\r\n3,{PIXELS},Training\r\n1,{PIXELS},Training\r\n1,{pixels},PublicTest\r\n"
    faces = read_faces(write_table(tmp_path, text), cache=False)
    assert faces.names == ("disgust", "happy") and faces.labels.tolist() == [1, 0, 0]
    assert faces.splits.tolist() == ["train", "train", "validation"]
    assert faces.ids.tolist() == ["row 2", "row 3", "row 4"]
    assert (faces.images[0] == 7).all() and (faces.images[2] == image).all()
    assert faces.images.dtype == np.uint8 and "train 2 instead of 28,709" in faces.warnings[0]


def test_spaces_in_the_header_and_a_byte_order_mark(tmp_path: Path) -> None:
    text = f"\ufeffemotion, Usage, pixels\n2,Training,{PIXELS}\n"
    faces = read_faces(write_table(tmp_path, text), cache=False)
    assert faces.names == ("fear",) and faces.splits.tolist() == ["train"]


def test_without_usage_every_row_is_training_and_no_count_is_expected(tmp_path: Path) -> None:
    faces = read_faces(write_table(tmp_path, f"emotion,pixels\n2,{PIXELS}\n\n5,{PIXELS}\n"), cache=False)
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
        (f"7,{PIXELS},Training", ("row 3, emotion", "unknown label '7'", "6 neutral", "or give a folder with")),
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
    path = write_table(tmp_path, f"emotion,pixels,Usage\n0,{PIXELS},Training\n{row}\n")
    refused_table(path, str(path), "correct", *parts)


def test_all_wrong_rows_are_counted_and_the_first_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"{'9' if row in (4, 6) else 0},{PIXELS},{'Test' if row > 6 else 'Training'}\n" for row in range(2, 13)]
    path = write_table(tmp_path, "emotion,pixels,Usage\n" + "".join(rows))
    refused_table(path, f"{path}: 8 of 11 rows cannot be used: row 4, row 6, emotion: unknown label '9', expected ")
    refused_table(path, "; row 7, row 8, row 9, Usage: unknown split 'Test'", "; and 3 more, which --verbose names; ")
    monkeypatch.setattr(Faults, "MANY", 5)
    refused_table(path, "5 of the first 8 rows")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the header is ''"),
        ("label,pixels\n", "the header is 'label,pixels', expected emotion,pixels,Usage"),
        ("emotion,pixels,Usage\n", "no row below its header"),
        ("emotion,pixels,Usage\n0,\x00,Training\n", "fer2013.csv"),
    ],
)
def test_a_wrong_table(tmp_path: Path, text: str, message: str) -> None:
    refused_table(write_table(tmp_path, text), message)


def test_a_table_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "fer2013.csv"
    path.write_bytes(b"\xff\xfe\x00emotion")
    refused_table(path, "is not a CSV file that can be read", "download it again")


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_table_in_another_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "faces.csv").write_bytes(f"emotion,pixels,who\n0,{PIXELS},José\n".encode(encoding))
    refused_table(tmp_path / "faces.csv", "faces.csv: is not a CSV file that can be read", "save it as UTF-8")


def test_a_table_in_a_zip_or_a_folder(tmp_path: Path) -> None:
    challenge = {
        "challenge/fer2013.csv": TABLE.encode(),
        "challenge/train.csv": f"emotion,pixels\n0,{PIXELS}\n".encode(),
        "challenge/example_submission.csv": b"id,emotion\n",
        "challenge/README": b"hello",
    }
    for path in (write_zip(tmp_path / "a.zip", challenge), write_folder(tmp_path / "a", challenge)):
        faces = read_faces(path, cache=False)
        assert faces.splits.tolist() == ["train", "train", "test"]
        assert faces.warnings[-1] == (
            "read challenge/fer2013.csv alone; left out 2 other table(s), the first is challenge/example_submission.csv"
        )


def test_a_wrong_row_in_a_zip_names_archive_and_table(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"x/fer2013.csv": TABLE.replace("6,", "9,", 1).encode()})
    refused_table(path, f"{path}: x/fer2013.csv: row 3, emotion")


def test_tables_that_leave_a_choice(tmp_path: Path) -> None:
    tables = {"a.csv": TABLE.encode(), "b.csv": TABLE.encode()}
    refused_table(
        write_zip(tmp_path / "two.zip", tables), "several FER2013 tables (a.csv, b.csv)", "expected one", "unpack"
    )
    archive = write_zip(tmp_path / "none.zip", {"a.csv": b"x,y\n"})
    refused_table(archive, "a.csv", "has the header emotion,pixels,Usage")


def test_a_table_of_another_encoding_stands_in_the_way_only_where_it_may_be_the_one(tmp_path: Path) -> None:
    notes = {"notes.csv": "name\nJos\u00e9\n".encode("latin-1"), "a/notes.csv": "Jos\u00e9\n".encode("latin-1")}
    for path in (
        write_zip(tmp_path / "a.zip", {"fer2013.csv": TABLE.encode(), **notes}),
        write_folder(tmp_path / "a", {"fer2013.csv": TABLE.encode(), **notes}),
    ):
        assert read_faces(path, cache=False).splits.tolist() == ["train", "train", "test"]
    without_usage = {"train.csv": f"emotion,pixels\n0,{PIXELS}\n".encode()}
    refused_table(write_zip(tmp_path / "b.zip", without_usage | notes), "notes.csv: is not a CSV file", "UTF-8")


def test_a_table_cut_short_in_a_zip(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"fer2013.csv": TABLE.encode()})
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF
    path.write_bytes(data)
    refused_table(path, "fer2013.csv", "download")


def test_classes_that_are_numbers_have_a_warning(tmp_path: Path) -> None:
    faces = read(tmp_path, {"1/a.png": PICTURE, "2/a.png": encode(noise(1)), "happy/a.png": encode(noise(2))})
    assert [warning for warning in faces.warnings if "2 class(es) have a number as name (1, 2)" in warning]


def test_names_of_another_split_have_a_warning(tmp_path: Path) -> None:
    raf_db = ["happy/test_0001_aligned.png", "happy/train_00001_aligned.png", "sad/train_00002_aligned.png"]
    faces = read(tmp_path, {name: encode(noise(seed)) for seed, name in enumerate(raf_db)})
    assert [warning for warning in faces.warnings if f"the first is {raf_db[0]}, read as train" in warning]
    names = ["train/happy/train_1.png", "train/sad/val_1.png", "test/sad/test_1.png"]
    split = {name: encode(noise(seed)) for seed, name in enumerate(names)}
    (warning,) = read_faces(write_folder(tmp_path / "split", split), cache=False).warnings
    assert warning.startswith("1 file(s) are named as of another split") and "train/sad/val_1.png" in warning


def test_a_class_of_pictures_that_are_not_read_says_so(tmp_path: Path) -> None:
    members = {"fear/a.gif": PICTURE, "fear/b.GIF": PICTURE, "sad/a.png": PICTURE}
    refused(tmp_path, members, "class fear holds no picture that is read", "2 may be", "(.gif); save these as .png")


def test_pictures_with_labels_in_a_table_are_told_so(tmp_path: Path) -> None:
    members = {"FER2013Train/fer0000000.png": PICTURE, "FER2013Train/label.csv": b"fer0000000.png,4,0\n"}
    refused(tmp_path, members, "lies outside the layout", "a table such as FER2013Train/label.csv is not read")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("archive.zip", "give the archive in it, {folder}/archive.zip"),
        ("fer2013.tar.gz", "unpack the archive in it, {folder}/fer2013.tar.gz"),
        ("happy/IMG_1.HEIC", "1 may be pictures of a kind that is not read (.heic): save these as .png"),
        ("notes.txt", "check that this is the right place"),
    ],
)
def test_a_place_without_pictures_says_what_is_there(tmp_path: Path, name: str, remedy: str) -> None:
    expected = remedy.format(folder=tmp_path / "faces")
    refused(tmp_path, {name: b"x"}, "holds no picture", expected)
    with pytest.raises(MienError) as error:
        read_unlabelled(tmp_path / "faces", image_size=8, cache=False)
    assert "holds no picture" in str(error.value) and expected in str(error.value)


def test_an_archive_in_an_archive_is_to_be_unpacked(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "outer.zip", {"data/archive.zip": b"PK"})
    with pytest.raises(MienError, match=r"unpack the archive in it, .*outer\.zip: data/archive\.zip"):
        read_faces(path, cache=False)


@pytest.mark.parametrize("colours", [2, 6])  # RGB and RGBA in PNG's numbers
def test_colours_of_16_bits_are_refused(tmp_path: Path, colours: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    side, channels = 6, {2: 3, 6: 4}[colours]
    row = b"\0" + b"\x0f\xff" * side * channels
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 16, colours, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(row * side)) + chunk(b"IEND", b"")
    refused(tmp_path, {"a/1.png": data}, "1.png: has pixels of kind RGB", ";16B, expected 8-bit grey or colour")
