"""Readers of labelled sets and of pictures without labels: which reader takes a source, what it reads and refuses."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from data_helpers import USAGES, encode, kaggle_members, noise, start_python, write_folder, write_zip
from PIL import Image

from mien.data import images as decoding
from mien.data import read as reading
from mien.data.faces import FaceSet, fingerprint_of
from mien.data.read import is_labelled, read_faces, read_for_pretraining, read_unlabelled
from mien.errors import MienError
from mien.labels import FER2013

PICTURE = encode(noise(0))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("MIEN_CACHE", str(folder))
    return folder


def test_every_kind_of_source_gives_the_same_set(tmp_path: Path) -> None:
    rows = []
    for path in kaggle_members():
        usage, number = Path(path).stem.split("_")
        split = [name for name, _ in USAGES].index(usage)
        rows.append((number, " ".join(map(str, noise(10 * split + int(number), 48).reshape(-1))), usage))
    original = tmp_path / "fer2013.csv"
    original.write_text("emotion,pixels,Usage\n" + "".join(f"{e},{p},{u}\n" for e, p, u in rows))
    challenge = tmp_path / "icml_face_data.csv"
    challenge.write_text("emotion, Usage, pixels\n" + "".join(f"{e},{u},{p}\n" for e, p, u in rows))
    sources = [
        write_zip(tmp_path / "archive.zip", kaggle_members()),
        write_folder(tmp_path / "unpacked", kaggle_members()),
        original,
        challenge,
        write_zip(tmp_path / "table.zip", {"fer2013/fer2013.csv": original.read_bytes()}),
    ]
    first, *same_sets = [read_faces(source) for source in sources]
    assert len(first) == 21 and first.names == FER2013
    assert [name for name in ("train", "validation", "test") if first.has(name)] == ["train", "validation", "test"]
    for faces in same_sets:
        assert (faces.images == first.images).all() and (faces.labels == first.labels).all()
        assert (faces.splits == first.splits).all() and faces.names == first.names
        assert faces.fingerprint == first.fingerprint and faces.warnings == first.warnings


def test_a_fingerprint_changes_with_everything_that_counts() -> None:
    images, labels = np.zeros((2, 2, 2), np.uint8), np.array([0, 1])
    fingerprint = fingerprint_of(images, labels, ["train", "train"], ("a", "b"))
    assert len(fingerprint) == 64
    other_fingerprints = {
        fingerprint_of(images + 1, labels, ["train", "train"], ("a", "b")),
        fingerprint_of(images.reshape(1, 4, 2), labels, ["train", "train"], ("a", "b")),
        fingerprint_of(images, labels[::-1], ["train", "train"], ("a", "b")),
        fingerprint_of(images, labels, ["train", "test"], ("a", "b")),
        fingerprint_of(images, labels, ["train", "train"], ("a", "c")),
    }
    assert len(other_fingerprints) == 5 and fingerprint not in other_fingerprints


def test_a_missing_source(tmp_path: Path) -> None:
    with pytest.raises(MienError, match=r"nowhere\.zip: there is no such file.*mien data fetch.*mien data draw"):
        read_faces(tmp_path / "nowhere.zip")


@pytest.mark.parametrize("source", ["", "x" * 300])
def test_a_name_that_nothing_can_have(source: str) -> None:
    with pytest.raises(MienError, match="check the path"):  # "" is not the working folder
        read_faces(source)


def test_a_source_that_is_neither_file_nor_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MienError, match="pipe: is no file or folder"):
        read_faces(tmp_path / "pipe")


def test_reading_needs_the_base_install_alone() -> None:
    code = (
        "import sys, mien.data.inspect, mien.data.twins, mien.data.fetch, mien.data.read; "
        "print({'torch', 'scipy', 'sklearn'} & set(sys.modules))"
    )
    assert start_python(code).communicate(timeout=60) == ("set()\n", "")


def read_pictures(tmp_path: Path, members: dict[str, bytes], size: int = 6, **options: bool) -> FaceSet:
    return read_unlabelled(write_folder(tmp_path / "faces", members), image_size=size, cache=False, **options)


def header_alone(width: int, height: int) -> bytes:
    """A PNG file that claims a size and holds no pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", b"")
    )


BROKEN = {
    "empty": (b"", "is empty"),
    "text": (b"hello", "is not a picture"),
    "cut": (encode(noise(3, side=48))[:900], "truncated or broken"),
    "cut photo": (encode(noise(3, side=400, channels=3), "JPEG")[:20000], "truncated or broken"),
    "deep": (encode(np.zeros((6, 6), np.uint16)), "I;16"),
    "transparent": (encode(noise(1, channels=4)), "transparent parts"),
    "large": (header_alone(8193, 1), "8193x1 pixels, expected at most 8192x8192"),
    "bomb": (header_alone(60000, 60000), "more pixels than can be read"),
}


class TestPictures:
    @pytest.mark.parametrize("container", ["folder", "zip"])
    def test_flat_and_nested_pictures_are_all_training(self, tmp_path: Path, container: str) -> None:
        names = ["1.png", "anna/2.PNG", "anna/deep/er/3.png", "ben/4.png"]
        members = {name: encode(noise(seed)) for seed, name in enumerate(names)}
        source = write_folder(tmp_path / "f", members) if container == "folder" else write_zip(tmp_path / "z", members)
        faces = read_unlabelled(source, image_size=6)
        assert faces.ids.tolist() == names and faces.names == ("face",)
        assert faces.labels.tolist() == [0] * 4 and faces.labels.dtype == np.int64
        assert faces.splits.tolist() == ["train"] * 4 and faces.warnings == ()
        assert faces.images.dtype == np.uint8 and faces.is_grey
        assert all((faces.images[seed] == noise(seed)).all() for seed in range(4))
        assert faces.source == str(source) and len(faces.fingerprint) == 64

    def test_the_square_is_cut_from_the_centre(self, tmp_path: Path) -> None:
        square = noise(1)
        wide_picture = np.hstack([np.full((6, 2), 255, np.uint8), square, np.full((6, 2), 255, np.uint8)])
        faces = read_pictures(tmp_path, {"high.png": encode(wide_picture.T), "wide.png": encode(wide_picture)})
        assert (faces.images[0] == square.T).all() and (faces.images[1] == square).all()

    def test_an_odd_margin_is_halved_between_two_pixels(self, tmp_path: Path) -> None:
        # Columns 0, 100, 200: the square of side 2 lies half a pixel in, and sees 50 and 150.
        faces = read_pictures(tmp_path, {"1.png": encode(np.tile(np.array([0, 100, 200], np.uint8), (2, 1)))}, size=2)
        assert faces.images[0].tolist() == [[50, 150]] * 2

    def test_sizes_are_mixed_and_details_averaged(self, tmp_path: Path) -> None:
        checks = np.indices((64, 64)).sum(0) % 2 * 255
        members = {
            "checks.png": encode(checks.astype(np.uint8)),
            "photo.jpg": encode(np.full((300, 400), 90, np.uint8), "JPEG"),
            "small.png": encode(np.full((2, 2), 7, np.uint8)),
        }
        faces = read_pictures(tmp_path, members, size=8)
        assert faces.images.shape == (3, 8, 8)
        # Nearest neighbours would give 0 or 255.
        assert np.abs(faces.images[0].astype(int) - 127.5).max() < 3
        assert (faces.images[1] == 90).all() and (faces.images[2] == 7).all()

    def test_one_colour_picture_makes_the_set_colour(self, tmp_path: Path) -> None:
        grey, colour = noise(5), noise(6, channels=3)
        saved_as_colour = np.repeat(grey[..., None], 3, axis=2)
        members = {"1.png": encode(grey), "2.png": encode(saved_as_colour)}
        assert read_pictures(tmp_path, members).is_grey
        faces = read_pictures(tmp_path, {**members, "3.png": encode(colour)})
        assert faces.images.shape == (3, 6, 6, 3)
        assert (faces.images[0] == grey[..., None]).all() and (faces.images[2] == colour).all()

    def test_a_large_jpeg_is_decoded_small(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        sizes: list[tuple[int, int]] = []
        original = decoding._opaque

        def noted(image: Image.Image, where: str) -> Image.Image:
            sizes.append(image.size)
            return original(image, where)

        monkeypatch.setattr(decoding, "_opaque", noted)
        ramp = np.tile(np.linspace(0, 255, 640).astype(np.uint8), (480, 1))
        faces = read_pictures(tmp_path, {"a.jpg": encode(ramp, "JPEG")}, size=24)
        # An eighth: its height of 60 still is over 2 * 24.
        assert sizes == [(80, 60)]
        # The square holds columns 80 to 560 of the ramp, 20 a pixel of the result.
        expected = (80 + 20 * (np.arange(24) + 0.5)) * 255 / 640
        assert np.abs(faces.images[0, 12, 1:-1] - expected[1:-1]).max() < 3

    def test_a_sideways_photo_is_turned(self, tmp_path: Path) -> None:
        sideways = Image.Exif()
        sideways[0x0112] = 6
        wide_picture = np.hstack([noise(5), noise(5)[:, :2]])
        upright = read_pictures(tmp_path, {"1.png": encode(wide_picture)}).images[0]
        faces = read_pictures(tmp_path, {"1.png": encode(wide_picture, exif=sideways)})
        assert (faces.images[0] == np.rot90(upright, -1)).all()


class TestBroken:
    @pytest.mark.parametrize("kind", BROKEN)
    def test_the_error_has_the_remedy(self, tmp_path: Path, kind: str) -> None:
        data, message = BROKEN[kind]
        with pytest.raises(MienError) as error:
            read_pictures(tmp_path, {"a/1.png": PICTURE, "a/2.png": data})
        assert "a/2.png: " in str(error.value) and message in str(error.value)
        assert str(error.value).endswith("leave such pictures out with --skip-broken")

    def test_broken_pictures_can_be_left_out_and_are_counted(self, tmp_path: Path) -> None:
        good_members = {f"{seed}.png": encode(noise(seed, channels=3)) for seed in range(3)}
        broken_members = {f"bad/{kind}.jpg": data for kind, (data, _) in BROKEN.items()}
        faces = read_pictures(
            tmp_path, {**good_members, **broken_members, "notes.txt": b"x", ".DS_Store": b"x"}, skip_broken=True
        )
        assert faces.ids.tolist() == list(good_members)
        assert all((faces.images[seed] == noise(seed, channels=3)).all() for seed in range(3))
        other_files_warning, broken_warning = faces.warnings
        assert other_files_warning == "left out 1 file(s) that are no pictures, the first is notes.txt"
        assert broken_warning.startswith("left out 8 of 11 pictures that cannot be read, the first is ")
        assert "bad/bomb.jpg: has more pixels" in broken_warning

    def test_members_of_a_damaged_archive_can_be_left_out(self, tmp_path: Path) -> None:
        source = write_zip(tmp_path / "faces.zip", {"1.png": PICTURE, "2.png": encode(noise(2))})
        data = bytearray(source.read_bytes())
        start = data.index(b"2.png") + len("2.png")
        data[start : start + 20] = bytes(20)
        source.write_bytes(data)
        with pytest.raises(MienError, match=r"2\.png: cannot be read from the archive.*--skip-broken"):
            read_unlabelled(source, image_size=6)
        faces = read_unlabelled(source, image_size=6, skip_broken=True)
        assert faces.ids.tolist() == ["1.png"] and "left out 1 of 2 pictures" in faces.warnings[0]

    def test_broken_pictures_alone(self, tmp_path: Path) -> None:
        with pytest.raises(MienError, match=r"faces: none of its 2 pictures can be read, the first is .*1\.png: is em"):
            read_pictures(tmp_path, {"1.png": b"", "2.png": b"hello"}, skip_broken=True)

    @pytest.mark.parametrize("members", [{}, {"notes.txt": b"x"}, {"a/": b""}])
    def test_no_picture(self, tmp_path: Path, members: dict[str, bytes]) -> None:
        with pytest.raises(MienError, match="faces: holds no picture, expected a folder or zip"):
            read_pictures(tmp_path, members)

    @pytest.mark.parametrize("skip", [False, True])
    def test_an_archive_that_climbs_out_is_refused_whole(self, tmp_path: Path, skip: bool) -> None:
        source = write_zip(tmp_path / "faces.zip", {"1.png": PICTURE, "../2.png": PICTURE})
        for attempt in (read_unlabelled, read_for_pretraining):
            with pytest.raises(MienError, match="climbs out of the archive"):
                attempt(source, image_size=6, skip_broken=skip)

    def test_a_missing_source(self, tmp_path: Path) -> None:
        for attempt in (read_unlabelled, read_for_pretraining):
            with pytest.raises(MienError, match="nowhere: there is no such file or folder"):
                attempt(tmp_path / "nowhere", image_size=6)


class TestCache:
    def test_each_way_of_reading_has_a_cache_of_its_own(
        self, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sizes: list[int] = []
        original = reading.decode_resized

        def noted(data: bytes, where: str, size: int) -> np.ndarray:
            sizes.append(size)
            return original(data, where, size)

        monkeypatch.setattr(reading, "decode_resized", noted)
        source = write_folder(tmp_path / "faces", {"1.png": PICTURE, "2.png": encode(noise(2))})
        for _ in range(2):
            assert read_unlabelled(source, image_size=6).image_size == 6
            assert read_unlabelled(source, image_size=4).image_size == 4
            assert len(read_unlabelled(source, image_size=6, skip_broken=True)) == 2
        assert sizes == [6, 6, 4, 4, 6, 6] and len(list(cache.iterdir())) == 3
        (source / "3.png").write_bytes(encode(noise(3)))
        assert len(read_unlabelled(source, image_size=6)) == 3 and len(sizes) == 9

    def test_the_cache_keeps_the_warning_about_skipped_pictures(self, tmp_path: Path) -> None:
        source = write_folder(tmp_path / "faces", {"1.png": PICTURE, "2.png": b""})
        first = read_unlabelled(source, image_size=6, skip_broken=True)
        second = read_unlabelled(source, image_size=6, skip_broken=True)
        assert first.warnings == second.warnings and "left out 1 of 2" in second.warnings[0]
        with pytest.raises(MienError, match=r"2\.png: is empty"):
            read_unlabelled(source, image_size=6)

    def test_the_labelled_reading_has_a_cache_of_its_own(self, tmp_path: Path) -> None:
        source = write_folder(tmp_path / "faces", {"calm/1.png": PICTURE, "glad/2.png": encode(noise(2))})
        assert read_unlabelled(source, image_size=6).names == ("face",)
        assert read_faces(source).names == ("calm", "glad")
        assert read_unlabelled(source, image_size=6).names == ("face",)


class TestWhichReader:
    @pytest.mark.parametrize(
        ("paths", "labelled"),
        [
            (["train/sad/1.png", "test/sad/2.png"], True),
            (["Val/sad/1.png"], True),
            (["top/train/sad/1.png", "top/PrivateTest/sad/2.png", "stray.png"], True),
            (["sad/Training_1.png"], True),
            (["PrivateTest_1.png", "mine.png"], True),
            (["fer2013.csv"], True),
            (["inside/icml_face_data.CSV", "readme.txt"], True),
            (["1.png", "2.png"], False),
            (["anna/1.png", "ben/2.png"], False),
            (["people/anna/1.png", "people/ben/2.png", "people/ben/holiday/3.png"], False),
            (["train/1.png", "test/2.png"], False),
            (["holiday/train/station/1.png", "anna/home/2.png"], False),
            (["attributes.csv", "1.png"], False),
            (["readme.txt"], False),
            ([], False),
        ],
    )
    def test_names_decide(self, tmp_path: Path, paths: list[str], labelled: bool) -> None:
        members = dict.fromkeys(paths, b"not decoded")
        assert is_labelled(write_folder(tmp_path / "faces", members)) is labelled
        assert is_labelled(write_zip(tmp_path / "faces.zip", members)) is labelled

    def test_a_csv_file_is_labelled(self, tmp_path: Path) -> None:
        table = tmp_path / "fer2013.csv"
        table.write_text("not read")
        assert is_labelled(table)

    def test_a_source_with_splits_keeps_them_and_its_size(self, tmp_path: Path) -> None:
        source = write_folder(tmp_path / "faces", {"train/sad/1.png": PICTURE, "test/sad/2.png": PICTURE})
        faces = read_for_pretraining(source, 48, False)
        assert faces.splits.tolist() == ["test", "train"] and faces.names == ("sad",) and faces.image_size == 6

    def test_pictures_without_splits_are_scaled(self, tmp_path: Path) -> None:
        source = write_folder(tmp_path / "faces", {"anna/1.png": PICTURE, "2.png": b""})
        faces = read_for_pretraining(source, 4, True)
        assert faces.names == ("face",) and faces.images.shape == (1, 4, 4)

    def test_nothing_is_left_out_of_a_source_with_splits(self, tmp_path: Path) -> None:
        source = write_folder(tmp_path / "faces", {"train/sad/1.png": PICTURE})
        with pytest.raises(MienError, match=r"--skip-broken: .*faces is a data set with .*, expected a folder or zip"):
            read_for_pretraining(source, 6, True)
