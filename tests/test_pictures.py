"""Pictures as people hand them over: every kind becomes upright uint8 pixels, and what is damaged is told."""

from __future__ import annotations

import io
import os
import struct
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from recognition_helpers import bomb, encoded, read

from mien.errors import MienError
from mien.recognition.pictures import LARGEST_FILE, check_color, read_photo

RED = (204, 102, 51)
COLOUR = np.tile(np.array(RED, np.uint8), (4, 6, 1))
GREY = np.full((4, 6), 90, np.uint8)


def test_files_bytes_images_and_arrays_give_the_same(tmp_path: Path) -> None:
    path = tmp_path / "face.png"
    path.write_bytes(encoded(COLOUR))
    data = path.read_bytes()
    for source in (path, str(path), data, bytearray(data), memoryview(data), Image.fromarray(COLOUR)):
        pixels = read(source, "x")
        assert pixels.dtype == np.uint8 and np.array_equal(pixels, COLOUR)
    assert np.array_equal(read(COLOUR, "x", "rgb"), COLOUR)
    assert np.array_equal(read(COLOUR[..., ::-1], "x", "bgr"), COLOUR)


def test_equal_channels_are_grey_in_an_array_as_in_a_file() -> None:
    colour = np.repeat(GREY[..., None], 3, axis=2)
    opaque = np.dstack([colour, np.full(GREY.shape, 255, np.uint8)])
    for source, color in ((encoded(colour), None), (colour, "rgb"), (colour, "bgr"), (opaque, "rgb")):
        assert np.array_equal(read(source, "x", color), GREY)


def test_arrays_are_copied() -> None:
    array = COLOUR.copy()
    pixels = read(array, "x", "rgb")
    array[:] = 0
    assert np.array_equal(pixels, COLOUR)


@pytest.mark.parametrize(
    ("array", "color", "expected"),
    [
        (GREY, None, GREY),
        (GREY, "rgb", GREY),
        (GREY[..., None], "gray", GREY),
        (np.dstack([COLOUR, np.full((4, 6), 255, np.uint8)]), "rgb", COLOUR),
        (np.dstack([COLOUR[..., ::-1], np.zeros((4, 6), np.uint8)]), "bgr", np.full_like(GREY, 255)),
        (np.dstack([COLOUR, np.full((4, 6), 51, np.uint8)]), "rgb", np.tile([245, 224, 214], (4, 6, 1))),
        (np.asfortranarray(COLOUR), "rgb", COLOUR),
    ],
    ids=["grey", "grey whatever the colour", "one channel", "opaque", "clear", "a fifth", "other memory order"],
)
def test_arrays_of_every_shape(array: np.ndarray, color: str | None, expected: np.ndarray) -> None:
    pixels = read(array, "x", color)
    assert pixels.dtype == np.uint8 and np.array_equal(pixels, expected)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]
)
def test_images_of_every_mode(mode: str) -> None:
    grey = mode in ("1", "L", "LA", "La")
    start = {"La": "LA", "PA": "P", "RGBa": "RGBA"}.get(mode, mode)
    image = Image.new("RGB", (6, 4), RED).convert(start).convert(mode)
    pixels = read(image, "x")
    assert (pixels.shape, pixels.dtype) == ((4, 6) if grey else (4, 6, 3), np.uint8)
    if mode != "1":
        expected = np.array(127 if grey else RED)  # 0.299 * 204 + 0.587 * 102 + 0.114 * 51
        assert np.abs(pixels.astype(int) - expected).max() <= 3


def test_lab_becomes_rgb() -> None:
    lab = ImageCms.profileToProfile(
        Image.fromarray(COLOUR), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None and lab.mode == "LAB"
    assert np.abs(read(lab, "x").astype(int) - RED).max() <= 3


def test_cmyk_jpeg() -> None:
    pixels = read(encoded(Image.fromarray(COLOUR).convert("CMYK"), "JPEG", quality=95), "x")
    assert np.abs(pixels.astype(int) - RED).max() <= 4


def test_colour_in_name_alone_is_grey() -> None:
    assert read(encoded(np.dstack([GREY] * 3)), "x").shape == (4, 6)
    pixels = np.full((40, 40, 3), 90, np.uint8)
    pixels[17, 17] = RED
    assert read(encoded(pixels), "x").shape == (40, 40, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "GIF"])
def test_what_is_transparent_becomes_white(mode: str) -> None:
    image = Image.new("RGBA", (4, 2), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (2, 0, 4, 2))
    kind = "GIF" if mode == "GIF" else "PNG"
    data = encoded(image if mode == "GIF" else image.convert(mode), kind)
    pixels = read(data, "x") if mode != "P" else read(encoded(image.quantize(2)), "x")
    assert pixels.tolist() == [[0, 0, 255, 255]] * 2


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_scaled_by_the_full_range(kind: str) -> None:
    pixels = np.array([[0, 128, 129, 257 * 90, 65535]], np.uint16)
    assert read(encoded(pixels, kind), "x").tolist() == [[0, 0, 1, 90, 255]]


def test_wider_values_are_told() -> None:
    with pytest.raises(MienError, match="x: has grey values from -1 to 70000, expected 0 to 65535; save it with 8 or"):
        read(Image.fromarray(np.array([[-1, 70000]], np.int32)), "x")
    with pytest.raises(MienError, match=r"pixels of kind F .*; save it as such"):
        read(Image.fromarray(np.ones((2, 2), np.float32)), "x")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_is_read_upright(orientation: int) -> None:
    pixels = np.zeros((24, 32), np.uint8)
    pixels[:8, :8] = 255  # the corner that is top left in the file
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright_pixels = read(encoded(pixels, "JPEG", quality=95, exif=exif), "x")
    assert upright_pixels.shape == ((24, 32) if orientation < 5 else (32, 24))
    at_top, at_left = orientation in (1, 2, 5, 6), orientation in (1, 4, 5, 8)
    corner = upright_pixels[:8, :] if at_top else upright_pixels[-8:, :]
    assert (corner[:, :8] if at_left else corner[:, -8:]).mean() > 200


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_cost_the_picture() -> None:
    data = encoded(GREY, "JPEG", exif=b"Exif\x00\x00II*\x00" + struct.pack("<IH", 8, 9) + b"\xff" * 40)
    assert read(data, "x").shape == (4, 6)


def test_a_turned_photo_whose_exif_has_a_tag_of_an_unusual_type_is_read() -> None:
    tags = (struct.pack("<HHIf", 0x010F, 11, 1, 1.5), struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0))  # a maker in floats
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(tags) + bytes(4)
    assert read(encoded(GREY, "JPEG", exif=exif), "x").shape == (6, 4)


def test_threads_leave_the_filters_of_warnings() -> None:
    data, switch_s = encoded(GREY, "PNG"), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with warnings.catch_warnings(), ThreadPoolExecutor(8) as pool:
            before = list(warnings.filters)
            list(pool.map(lambda number: read(data, "x"), range(2000)))
            assert list(warnings.filters) == before
    finally:
        sys.setswitchinterval(switch_s)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animated_file_is_read(kind: str) -> None:
    images = [Image.new("L", (6, 4), level) for level in (90, 180, 250)]
    data = encoded(
        images[0], kind, save_all=True, append_images=images[1:], **({"lossless": 1} if kind == "WEBP" else {})
    )
    photo = read_photo(data, "x")
    assert np.abs(photo.pixels.astype(int) - 90).max() <= 1 and photo.first_of_several
    assert not read_photo(encoded(images[0], kind), "x").first_of_several


def test_the_preview_of_a_jpeg_is_no_other_picture() -> None:
    image = Image.new("L", (64, 48), 90)
    data = encoded(image, "MPO", save_all=True, append_images=[image.resize((32, 24))])
    assert data[:3] == b"\xff\xd8\xff" and getattr(Image.open(io.BytesIO(data)), "is_animated", False)
    assert not read_photo(data, "x").first_of_several


NAN = np.full((4, 4), np.nan, np.float32)


@pytest.mark.parametrize(
    ("source", "color", "message"),
    [
        (b"", None, "x: is empty; replace or remove the file"),
        (b"no picture", None, "x: is not a picture that can be read, expected JPEG, PNG, .*, PPM, GIF or AVIF;"),
        (encoded(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8), "JPEG")[:-900], None, "truncated or"),
        (encoded(COLOUR)[:50], None, "x: is a truncated or broken picture"),
        (encoded(COLOUR)[:20], None, "x: is "),
        (bomb(12_000, packed=False), None, "x: is 12000x12000 pixels, expected at most 134 million; make it smaller"),
        (bytes(LARGEST_FILE + 1), None, "x: is not a picture"),
        (NAN, None, "x: is a float32 array with NaN, expected uint8 in 0 to 255; find out where"),
        (np.ones((4, 4)), None, "x: is a float64 array, expected uint8 .* 0 to 1 give \\(255 \\* x\\).round"),
        (np.ones((4, 4), np.uint16), None, "x: is a uint16 array, .* give \\(x // 257\\)"),
        (np.array([["a"]]), None, "x: is a <U1 array, expected uint8"),
        (np.ones((4, 4, 2), np.uint8), None, r"x: is an array \[4, 4, 2\], expected \[H, W\] \(grey\) or \[H, W, 3\]"),
        (np.ones((2, 4, 4, 3), np.uint8), "rgb", r"array \[2, 4, 4, 3\], .* \(colour\) with color='rgb'"),
        (COLOUR.transpose(2, 0, 1), "rgb", r"array \[3, 4, 6\], .* with color='rgb'; give x\.transpose\(1, 2, 0\)$"),
        (COLOUR, "gray", "with color='gray'$"),
        (np.ones(4, np.uint8), None, r"x: is an array \[4\]"),
        (COLOUR, "gray", r"x: is an array \[4, 6, 3\], expected \[H, W\] with color='gray'"),
        (np.ones((0, 4), np.uint8), None, "x: is 4x0 pixels, expected at least one"),
        (np.broadcast_to(np.uint8(1), (12_000, 12_000)), None, "x: is 12000x12000 pixels, expected at most"),
        (Image.new("L", (0, 3)), None, "x: is 0x3 pixels"),
        (None, None, "x: is None, expected a path, .*; cv2.imread gives None where it cannot read a file"),
        (7, None, "x: is an int, expected a path, bytes, a binary file, a PIL image, a NumPy array, or a list"),
        ("no\0name", None, "x: cannot be read"),
        ("a" * 5000, None, "x: cannot be read"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told_on_one_line(source: Any, color: str | None, message: str) -> None:
    with pytest.raises(MienError, match=message):
        read(source, "x", color)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_image_whose_file_is_closed_is_not_called_broken(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "photo"
    path.write_bytes(encoded(COLOUR, kind))
    with Image.open(path) as loaded:
        loaded.load()
    assert read(loaded, "x").shape == COLOUR.shape
    with Image.open(path) as image:
        pass
    with path.open("rb") as file:
        of_file = Image.open(file)
    for closed in (image, of_file):
        with pytest.raises(MienError, match=r"x: is a PIL image whose file is closed; give the path, or call load\(\)"):
            read(closed, "x")


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb())
    assert path.stat().st_size < 1_000_000
    with pytest.raises(
        MienError, match=r"bomb\.png: (is 30000x30000 pixels|has more pixels).*expected at most 134 million"
    ):
        read(path, str(path))


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(MienError, match=r"x: cannot be read \(No such file"):
        read(tmp_path / "missing.png", "x")
    with pytest.raises(MienError, match="x: is a folder, expected a picture"):
        read(tmp_path, "x")
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(MienError, match="is no regular file"):  # and does not wait for somebody to write
        read(tmp_path / "pipe.jpg", "x")
    locked = tmp_path / "locked.png"
    locked.write_bytes(encoded(GREY))
    locked.chmod(0)
    if not os.access(locked, os.R_OK):  # root reads everything
        with pytest.raises(MienError, match=r"cannot be read \(Permission denied"):
            read(locked, "x")
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    with pytest.raises(MienError, match="x: is larger than 1 GiB"):
        read(tmp_path / "large.png", "x")


def test_a_large_file_without_compression_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (4000, 3000), (9, 9, 9)).save(tmp_path / "large.bmp")
    assert (tmp_path / "large.bmp").stat().st_size > 2**25
    assert read(tmp_path / "large.bmp", "x").shape == (3000, 4000)


def test_an_empty_path_is_told() -> None:
    with pytest.raises(MienError, match="the path is empty, expected that of a picture"):
        read("", "")


def test_grey_of_32_bits_that_fits_in_8_is_taken_as_it_is() -> None:
    values = np.array([[0, 90, 255]], np.int32)
    assert read(Image.fromarray(values, "I"), "x").tolist() == values.tolist()


def test_transparent_grey_of_16_bits_is_white() -> None:
    image = Image.fromarray(np.array([[0, 257 * 90]], np.uint16))
    image.info["transparency"] = 0
    assert read(image, "x").tolist() == [[255, 90]]


def test_the_order_of_channels_must_be_said() -> None:
    for source in (GREY, GREY[..., None], "path.jpg", b"", None):
        check_color(source, None)
    check_color(COLOUR, "bgr")
    with pytest.raises(
        MienError, match=r"color: is missing for an array \[4, 6, 3\], .* color='bgr' for one from OpenCV"
    ):
        check_color(COLOUR, None)
    with pytest.raises(MienError, match="color: got 'BGR', expected one of 'rgb', 'bgr', 'gray'"):
        check_color(COLOUR, "BGR")
