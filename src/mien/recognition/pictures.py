"""Reads photos of any kind as upright pixels, and detects the kind of a file from its first bytes.

The reader accepts many formats, but no damage. ``mien.data.images`` reads data sets more strictly: a transparent or
16-bit picture is a mistake in a training set, but a valid photo here.
"""

from __future__ import annotations

import glob
import inspect
import io
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from PIL import Image, ImageCms

from mien.data.images import SUFFIXES as DATA_SUFFIXES
from mien.data.images import grey_if_equal, open_picture, pillow_errors, upright
from mien.data.sources import open_file
from mien.errors import MienError, first_line
from mien.files import expanded
from mien.recognition.arguments import EXPECTED, WrongTypeError, address_hint, not_uint8, remedy, type_of

_Item = TypeVar("_Item")

SUFFIXES: tuple[str, ...] = (*DATA_SUFFIXES, ".gif", ".jfif", ".avif", ".heic", ".heif", ".jp2")
"""Endings of pictures, in lower case. If such a file of a folder cannot be read, that is reported as an error;
it is not skipped."""

MOST_PIXELS = 2**27
"""Pixels of the largest photo that is read (134 million); checked before decoding."""

Color = Literal["rgb", "bgr", "gray"]
"""Meaning of the last axis of an array."""

LARGEST_FILE = 2**30
"""Bytes of the largest file that is read: twice an uncompressed photo of the most pixels."""

_PART = 2**20
_MOST = f"{MOST_PIXELS / 1e6:.0f} million"
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF", "AVIF")
_WIDE = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_WIDEST = 65535
_WHITE = (255, 255, 255, 255)


class NamedFile(io.BytesIO):
    """The whole content of a picture that is not on disk, as an open file.

    Attributes:
        name: its name in records.
    """

    def __init__(self, name: str, data: bytes) -> None:
        super().__init__(data)
        self.name = name


@dataclass(frozen=True)
class Photo:
    """What was read of a picture.

    Attributes:
        pixels: uint8 [H, W] (grey) or [H, W, 3] (RGB), upright.
        first_of_several: True if the file holds more pictures, as frames of an animation or as pages; they are not
            read.
    """

    pixels: np.ndarray
    first_of_several: bool = False


def read_photo(picture: Any, where: str, color: str | None = None) -> Photo:
    """Reads a picture, of at most ``MOST_PIXELS`` pixels.

    EXIF orientation is applied. An animated file gives its first frame. Transparent parts become white. 16-bit grey is
    divided by 257; 32-bit grey is too, unless its values fit in 8 bits. Palettes, CMYK, YCbCr, HSV and Lab become RGB.
    A colour picture with three equal channels is grey.

    Args:
        picture: a path, the bytes of a file, a binary file that is read from where it stands to its end (``BytesIO``,
            an upload), a PIL image, or an array [H, W] (grey), [H, W, 1], [H, W, 3] or [H, W, 4] (with transparency
            last) of uint8, or of bool (True is white).
        where: name of the picture in messages.
        color: order of the channels of an array; not used for files and PIL images.

    Raises:
        MienError: it cannot be read; the message gives the reason.
    """
    if isinstance(picture, np.ndarray):
        return Photo(_from_array(picture, where, color))
    if isinstance(picture, Image.Image):
        with pillow_errors(where, _FORMATS, _MOST):
            _check_size(picture.size, where)
            _check_open(picture, where)
            return Photo(_pixels(picture, where))
    if isinstance(picture, str | os.PathLike):
        return _decode(_bytes_of_file(os.fsdecode(picture), where), where)
    if isinstance(picture, bytes | bytearray | memoryview):
        data = bytes(picture)
    elif callable(getattr(picture, "read", None)):
        data = bytes_of_stream(picture, where)
    else:
        hint = "; cv2.imread gives None where it cannot read a file: give its path instead" if picture is None else ""
        raise MienError(f"{where}: is {type_of(picture)}, expected {EXPECTED}{hint or remedy(picture)}")
    _check_kind(data[:HEAD], where, "")
    return _decode(data, where)


def _check_open(image: Image.Image, where: str) -> None:
    """Rejects a PIL image whose file was closed before its pixels were read; ``tile`` lists what is yet to be read."""
    file = getattr(image, "fp", None)
    if getattr(image, "tile", None) and (file is None or file.closed):
        raise MienError(f"{where}: is a PIL image whose file is closed; give the path, or call load() before it closes")


def _bytes_of_file(name: str, where: str) -> bytes:
    """Reads a file that is no film and at most ``LARGEST_FILE`` bytes long."""
    if not name:
        raise MienError("the path is empty, expected that of a picture; check where it comes from")
    check_is_path(name, where)
    path = Path(name) if os.path.lexists(name) else expanded(name)
    if os.path.isdir(path):  # unlike Path.is_dir, no exception for a name that is too long
        raise MienError(
            f"{where}: is a folder, expected a picture; give a list of its files, or read it with `mien predict`"
        )
    try:
        if path.exists() and not path.is_file():
            raise MienError(f"{where}: is no regular file, expected one; give another path")
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            data = stream.read(HEAD)
            _check_kind(data, where, path.suffix)
            data += stream.read() if size <= LARGEST_FILE else b""
    except (OSError, ValueError) as error:  # ValueError: the name holds a NUL
        reason = getattr(error, "strerror", None) or error
        raise MienError(f"{where}: cannot be read ({reason}); check the file and its rights") from error
    if size > LARGEST_FILE:
        raise MienError(f"{where}: is larger than {LARGEST_FILE >> 30} GiB, expected a picture; make it smaller")
    return data


def _check_kind(head: bytes, where: str, suffix: str) -> None:
    """Rejects a film, which has another reader; the ending decides only if the content is of no known kind."""
    kind = kind_of_bytes(head)
    if kind is Kind.FILM or (kind is Kind.UNKNOWN and suffix.lower() in FILM_SUFFIXES):
        raise MienError(
            f"{where}: is a film, expected a picture; read it with Recognizer.recognize_film or `mien predict`"
        )


def _decode(data: bytes, where: str) -> Photo:
    with open_picture(data, where, formats_of(data, where), _MOST) as image:
        _check_size(image.size, where)  # before anything is decoded
        # The pixels come first: whether there are more, a GIF answers by looking for its second frame.
        return Photo(_pixels(image, where), _has_more(image))


def _has_more(image: Image.Image) -> bool:
    """True if a file holds more pictures than the one that was decoded; a JPEG's previews (MPO) are none."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # a GIF looks for its second frame, which may be damaged
        return False


def formats_of(data: bytes, where: str) -> tuple[str, ...]:
    """Returns Pillow's names of the formats as which a file is opened, all of which Pillow knows from then on.

    Code that opens a file before ``read_photo`` does has to use these formats and no others: Pillow knows HEIC only
    after this function has seen the first such file.

    Args:
        data: content of the file.
        where: name of the picture in messages.

    Raises:
        MienError: it is a HEIC file and pillow-heif is not installed, or the format is one that is not read.
    """
    if data.startswith(_JPEG_2000):
        raise MienError(f"{where}: is a JPEG 2000 picture, which Mien does not read; save it as JPEG, PNG or TIFF")
    if data[4:8] != b"ftyp" or data[8:12] not in _HEIC_BRANDS or b"avif" in data[:64]:
        return _FORMATS
    try:
        import pillow_heif
    except ImportError as error:
        raise MienError(
            f"{where}: is a HEIC picture, as iPhones take them; pip install 'mien[heif]' lets Mien read it, or save it "
            "as JPEG"
        ) from error
    pillow_heif.register_heif_opener()
    return (*_FORMATS, "HEIF")


def _check_size(size: tuple[int, int], where: str) -> None:
    width, height = size
    if not width or not height:
        raise MienError(f"{where}: is {width}x{height} pixels, expected at least one; replace it")
    if width * height > MOST_PIXELS:
        raise MienError(f"{where}: is {width}x{height} pixels, expected at most {_MOST}; make it smaller")


def _pixels(image: Image.Image, where: str) -> np.ndarray:
    """Converts an image of any mode to upright uint8 [H, W] or [H, W, 3]; RGB with equal channels becomes grey."""
    image.load()
    image = upright(image)
    if image.mode in _WIDE:
        return _from_wide(image, where)
    if image.mode == "F":
        raise MienError(
            f"{where}: has pixels of kind F (floats without a known range), expected 8 or 16 bits; save it as such"
        )
    if image.has_transparency_data:
        # Pillow cannot convert premultiplied grey (La) to RGBA directly.
        with_alpha = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), with_alpha)
    if image.mode in ("1", "L", "LA", "La"):
        return np.asarray(image.convert("L"))
    return grey_if_equal(np.asarray(_from_lab(image) if image.mode == "LAB" else image.convert("RGB")))


def _from_lab(image: Image.Image) -> Image.Image:
    converted = ImageCms.profileToProfile(
        image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    if converted is None:
        raise ValueError("Lab pixels cannot be converted")
    return converted


def _from_wide(image: Image.Image, where: str) -> np.ndarray:
    """Converts 16-bit grey to uint8 [H, W] over its full range; 32-bit grey that fits in 8 bits keeps its values."""
    wide = np.asarray(image).astype(np.int64)
    if wide.min() < 0 or wide.max() > _WIDEST:
        raise MienError(
            f"{where}: has grey values from {wide.min()} to {wide.max()}, expected 0 to {_WIDEST}; save it with 8 or "
            "16 bits"
        )
    if "transparency" in image.info:
        wide[wide == image.info["transparency"]] = _WIDEST
    fits_in_8_bits = image.mode == "I" and wide.max() <= 255
    return (wide if fits_in_8_bits else (wide + 128) // 257).astype(np.uint8)


def _from_array(array: np.ndarray, where: str, color: str | None) -> np.ndarray:
    """Converts an array of a caller to uint8 [H, W] or [H, W, 3] in RGB, always as a copy; equal channels as grey."""
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    if array.dtype != np.uint8:
        raise MienError(f"{where}: {not_uint8(array)}")
    channels = {"gray": (1,), "rgb": (3, 4), "bgr": (3, 4)}.get(color or "", (1, 3, 4))
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in channels):
        expected = "[H, W]" if color == "gray" else "[H, W] (grey) or [H, W, 3] (colour)"
        as_color = f" with color={color!r}" if color else ""
        channels_first = array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4)
        advice = "; give x.transpose(1, 2, 0)" if channels_first else ""
        raise MienError(f"{where}: is an array {list(array.shape)}, expected {expected}{as_color}{advice}")
    _check_size((array.shape[1], array.shape[0]), where)
    if array.ndim == 2 or array.shape[2] == 1:
        return np.array(array.reshape(array.shape[:2]))
    # A copy in any case: the result must not change if the caller changes the array later.
    pixels = np.array(array[..., :3])
    if color == "bgr":
        for channel in range(3):  # seven times as fast as a copy with the last axis reversed
            pixels[..., channel] = array[..., 2 - channel]
    if array.shape[2] == 4:
        alpha = array[..., 3:].astype(np.uint16)
        pixels = ((pixels * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return grey_if_equal(pixels)  # as of a file: in a grey picture the detector looks at smaller faces more closely


def check_color(picture: Any, color: str | None) -> None:
    """Checks the option ``color`` for a picture.

    Args:
        picture: as for ``read_photo``.
        color: ``rgb``, ``bgr``, ``gray`` or None.

    Raises:
        MienError: ``color`` has another value, or is missing for an array that may be RGB or BGR.
    """
    if color is not None and color not in get_args(Color):
        raise MienError(f"color: got {color!r}, expected one of {', '.join(map(repr, get_args(Color)))}")
    if color is None and isinstance(picture, np.ndarray) and picture.ndim == 3 and picture.shape[2] in (3, 4):
        raise MienError(
            f"color: is missing for an array {list(picture.shape)}, whose first channel may be red or blue; "
            "say color='bgr' for one from OpenCV, color='rgb' for one from Pillow, imageio or scikit-image"
        )


def check_type(picture: Any) -> None:
    """Checks that a value may be one picture, before anything is read.

    None passes, as ``cv2.imread`` gives it for a file that it cannot read: that is a fault of one picture.

    Raises:
        WrongTypeError (a MienError and a TypeError): it has another type, or is an array of several pictures or paths.
    """
    if isinstance(picture, np.ndarray):
        if picture.ndim == 1 and picture.dtype.kind in "OUST":
            raise WrongTypeError(f"picture: is an array of {len(picture)} values, expected one picture; give list(x)")
        if picture.ndim == 4:
            raise WrongTypeError(
                f"picture: is an array {list(picture.shape)} of several pictures, expected one of them, [H, W, 3]; "
                "give list(array)"
            )
        return
    if picture is None or _is_readable(picture):
        return
    raise WrongTypeError(f"picture: is {type_of(picture)}, expected {EXPECTED}{remedy(picture)}")


def check_several(pictures: Any) -> None:
    """Checks that a value may hold pictures: a path, an array or an open file would be cut into letters, rows or lines.

    Raises:
        WrongTypeError (a MienError and a TypeError): it is one picture itself, or is not iterable.
    """
    shape: tuple[int, ...] = pictures.shape if isinstance(pictures, np.ndarray) else ()
    if len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4)) or _is_readable(pictures):
        raise WrongTypeError(
            f"pictures: is one picture ({type_of(pictures)}), expected several; give [x], or read it with "
            "Recognizer.recognize"
        )
    if not isinstance(pictures, Iterable):
        raise WrongTypeError(f"pictures: is {type_of(pictures)}, expected a list, a generator or the like")


def until_error(items: Iterator[_Item], errors: list[Exception]) -> Iterator[_Item]:
    """Yields items; an error that ends them is added to a list, to be raised when the items before it are done with."""
    try:
        yield from items
    except Exception as error:
        errors.append(error)


def _is_readable(value: Any) -> bool:
    """True if a value other than an array is read as one picture."""
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)
    return isinstance(value, kinds) or callable(getattr(value, "read", None))


def check_is_path(name: str, where: str) -> None:
    """Refuses texts that name no file and are addresses, pictures themselves or patterns, with what to do instead."""
    if os.path.lexists(name):
        return
    hint = address_hint(name)
    if hint is None and glob.has_magic(name):
        hint = "is a pattern that no file has as its name; give sorted(glob.glob(pattern)), or use `mien predict`"
    if hint is not None:
        raise MienError(f"{where if len(where) <= 200 else where[:60] + '...'}: {hint}")


def bytes_of_stream(stream: Any, where: str) -> bytes:
    """Reads an open binary file to its end.

    Raises:
        MienError: it is closed, damaged, at its end, opened as text, asynchronous, or larger than ``LARGEST_FILE``.
    """
    if inspect.iscoroutinefunction(stream.read):
        raise MienError(
            f"{where}: is read with await, expected a plain file; give the bytes: await x.read(), or x.file"
        )
    as_text = f"{where}: is a file opened as text, expected bytes; open it with mode 'rb'"
    # In parts: a pipe may give less than is asked for, and a file sets aside memory for all that is asked for.
    data = bytearray()
    while len(data) <= LARGEST_FILE:
        try:
            part = stream.read(_PART)
        except MemoryError:
            raise
        except UnicodeDecodeError as error:
            raise MienError(as_text) from error
        except Exception as error:  # members of archives, packed files and connections have errors of their own
            reason = getattr(error, "strerror", None) or first_line(error)
            raise MienError(f"{where}: cannot be read ({reason}); open it again, or get it anew") from error
        if isinstance(part, str):
            raise MienError(as_text)
        if not isinstance(part, bytes | bytearray | memoryview):
            raise MienError(f"{where}: read() gives {type_of(part)}, expected bytes; give the bytes of the file")
        if not part:
            break
        data += part
    if len(data) > LARGEST_FILE:
        raise MienError(f"{where}: is larger than {LARGEST_FILE >> 30} GiB, expected a picture; make it smaller")
    if not len(data) and _position(stream):
        raise MienError(f"{where}: is at its end, nothing is left to read; call seek(0) first")
    return bytes(data)


def _position(stream: Any) -> int:
    """Returns where an open file stands, in bytes from its start; 0 if it does not say."""
    try:
        return int(stream.tell())
    except (AttributeError, OSError, TypeError, ValueError):
        return 0


# The kind of a file, by its first bytes.

HEAD = 4096
"""Bytes from the start of a file by which its kind is detected."""

FILM_SUFFIXES: tuple[str, ...] = (
    ".mp4", ".m4v", ".mov", ".qt", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mpe", ".m2v", ".ts", ".mts", ".m2ts",
    ".vob", ".flv", ".f4v", ".wmv", ".asf", ".3gp", ".3g2", ".ogv", ".mxf", ".dv", ".rm", ".rmvb", ".h264", ".264",
    ".h265", ".265", ".hevc", ".ivf", ".wtv",
)  # fmt: skip
"""Usual endings of films, in lower case. The content decides what is a film. The ending decides for a file that holds
neither film nor picture, so that the error describes a damaged film; but a text that ends in ``.ts`` may be
TypeScript, and is no film."""

SOUND_SUFFIXES: tuple[str, ...] = (".m4a", ".m4b", ".m4r", ".mka", ".weba", ".wma", ".ra", ".3ga")
"""Usual endings of sound, in lower case, in containers that may also hold a film."""


class Kind(Enum):
    """Kind of a file's content; the value is its name in the count of skipped files."""

    PICTURE = "picture"
    FILM = "film"
    SOUND = "sound"
    TEXT = "text"
    ARCHIVE = "archive"
    DOCUMENT = "document"
    EMPTY = "empty"
    UNREADABLE = "unreadable"
    OTHER = "other"
    UNKNOWN = "unknown"


# Brands of ISO base media files with pictures, or with sound only (MP4RA).
_PICTURE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"crx ")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_JPEG_2000 = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
_SOUND_BRANDS = (b"M4A ", b"M4B ", b"M4P ", b"F4A ", b"F4B ", b"aax ", b"aaxc")

# First bytes of files of each kind, tested in this order.
_BEGINNINGS: tuple[tuple[Kind, tuple[bytes, ...]], ...] = (
    (
        Kind.PICTURE,
        (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+",
         b"\0\0\0\x0cjP  \r\n", b"\xff\x4f\xff\x51", b"\xff\x0a", b"\0\0\0\x0cJXL \r\n"),
    ),
    (
        Kind.FILM,
        (b"\x1a\x45\xdf\xa3", b"FLV\x01", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b".RMF", b"DKIF", b"YUV4MPEG2",
         b"\x06\x0e\x2b\x34\x02\x05\x01\x01", b"nut/multimedia container", b"NSVf", b"NSVs",
         b"\xb7\xd8\x00\x20\x37\x49\xda\x11", b"\0\0\0\0\x01\xbc", b"\x1f\x07\x00", b"\x12\x00\x0a"),
    ),
    (
        Kind.SOUND,
        (b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"\xff\xf1", b"\xff\xf9", b"fLaC", b"FORM", b"MThd", b"#!AMR",
         b"\x0b\x77", b"MAC ", b"wvpk"),
    ),
    (
        Kind.ARCHIVE,
        (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"7z\xbc\xaf\x27\x1c", b"Rar!",
         b"\x28\xb5\x2f\xfd"),
    ),
    (Kind.DOCUMENT, (b"%PDF", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"{\\rtf")),
    (
        Kind.OTHER,
        (b"\x7fELF", b"MZ", b"SQLite format 3\0", b"\x93NUMPY", b"PAR1", b"\x89HDF", b"OTTO", b"wOFF", b"\0\x01\0\0\0"),
    ),
)  # fmt: skip
_RIFFS = {b"AVI ": Kind.FILM, b"CDXA": Kind.FILM, b"AMV ": Kind.FILM, b"WEBP": Kind.PICTURE, b"WAVE": Kind.SOUND}
_BOXES = (b"moov", b"moof", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp", b"sidx")
# Netpbm: P1 to P6, then white space or a comment. The number after it excludes texts that begin with "P1".
_NETPBM = re.compile(rb"P[1-6](\s+(#[^\n]*\n)?)+\d")
# Start codes of MPEG-1, -2 and -4 (a pack of a program stream, a sequence, an object).
_MPEG = re.compile(rb"\0\0\0*\x01([\xba\xb3\xb0\xb5]|[\x00\x20][\x00\x01]\0\0\x01)")
# H.264: a delimiter or a set of parameters; H.265: the same (VPS, SPS or delimiter of layer 0).
_NAL = re.compile(rb"\0\0\0?\x01([\x09\x27\x47\x67]|[\x40\x42\x46]\x01)")
# Transport streams: a byte 0x47 (G) every 188 bytes, 192 (Blu-ray, AVCHD) or 204 (with error correction). The first may
# be anywhere in the length of a packet, as in a piece of a broadcast.
_TRANSPORT = re.compile(
    b"|".join(b".{0,%d}?(G.{%d}){4}G" % (length - 1, length - 1) for length in (188, 192, 204)), re.DOTALL
)


def kind_of(path: Path) -> Kind:
    """Returns the kind of a file by its first ``HEAD`` bytes; EMPTY or UNREADABLE if there are none."""
    try:
        with open_file(path) as stream:
            return kind_of_bytes(stream.read(HEAD))
    except (MienError, ValueError):  # a name that holds a NUL
        return Kind.UNREADABLE


def kind_of_bytes(head: bytes) -> Kind:
    """Returns the kind of a file that begins with these bytes; a container that may hold a film counts as film."""
    if not head:
        return Kind.EMPTY
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        return Kind.PICTURE if brand in _PICTURE_BRANDS else Kind.SOUND if brand in _SOUND_BRANDS else Kind.FILM
    if head[:4] in (b"RIFF", b"RIFX"):
        return _RIFFS.get(head[8:12], Kind.OTHER)
    if head[:4] == b"OggS":
        return Kind.FILM if re.search(rb"theora|OVP80|BBCD|video/", head) else Kind.SOUND
    if head[4:8] in _BOXES or _MPEG.match(head) or _NAL.match(head) or _TRANSPORT.match(head):
        return Kind.FILM
    if head.startswith(_JPEG_2000) or _NETPBM.match(head) or (head[:2] == b"BM" and head[6:10] == bytes(4)):
        return Kind.PICTURE
    for kind, beginnings in _BEGINNINGS:
        if head.startswith(beginnings):
            return kind
    return Kind.TEXT if _is_text(head) else Kind.UNKNOWN


def _is_text(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16 with byte order mark
        return True
    # Text of any other encoding has no control characters but tabs, line ends and the like.
    return not re.search(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f]", head)
