"""The inputs of ``fuzz.py``: small sound files of every kind that Mien reads, and what spoils them."""

from __future__ import annotations

import io
import random
import struct
import tempfile
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def _encoded(kind: str, rng: random.Random, **options: Any) -> bytes:
    side = rng.choice((1, 8, 48, 64))
    pixels = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (side, side, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def sound_picture(rng: random.Random) -> bytes:
    """A small picture of any kind that is read."""
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True, "exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}), ("GIF", {}),
        ("WEBP", {}), ("WEBP", {"lossless": True}), ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {}), ("BMP", {}),
        ("PPM", {}), ("AVIF", {}),
    ]  # fmt: skip
    kind, options = rng.choice(kinds)
    return _encoded(kind, rng, **options)


@lru_cache(maxsize=1)
def sound_film() -> bytes:
    """A film of twelve small frames of noise."""
    from mien.recognition.film.reader import FilmInfo
    from mien.recognition.film.writer import write_annotated
    from mien.recognition.results import Recognition

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        frame = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        with write_annotated(path, FilmInfo(25.0)) as write:
            for index in range(12):
                write(Recognition("x", "no_face", None, 64, 48, (), index, index / 25, pixels=np.roll(frame, index, 1)))
        return path.read_bytes()


def sound_archive(rng: random.Random) -> bytes:
    """A set of four pictures, a folder a class."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for split in ("train", "val"):
            for name in ("happy", "sad"):
                archive.writestr(f"{split}/{name}/{rng.randrange(9)}.png", _encoded("PNG", random.Random(1)))
    return stream.getvalue()


def sound_table(rng: random.Random) -> bytes:
    """Three rows of FER2013's CSV."""
    rows = [f"{rng.randrange(7)},{' '.join(str(rng.randrange(256)) for _ in range(2304))},Training" for _ in range(3)]
    return "\n".join(["emotion,pixels,Usage", *rows, ""]).encode()


def sound_settings(rng: random.Random) -> bytes:
    """Settings of a run as YAML."""
    return b"epochs: 3\nlr: 1.0e-3\naugment:\n  rotation: 5\n  mixup: 0.2\nteacher: [a, b]\nbackbone: tiny\nseed: 1\n"


def spoil(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to eight changes: bits, numbers at their limits, pieces cut, doubled, moved or made noise."""
    spoilt = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        position = rng.randrange(len(spoilt) + 1)
        length = min(len(spoilt) - position, rng.choice((1, 2, 4, 16, 256, len(spoilt))))
        change = rng.randrange(7)
        if change == 0 and position < len(spoilt):
            spoilt[position] ^= 1 << rng.randrange(8)
        elif change == 1:
            number = rng.choice((0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1))
            spoilt[position : position + 4] = struct.pack(rng.choice(("<Q", ">Q")), number)[:4]
        elif change == 2:
            del spoilt[position : position + length]
        elif change == 3:
            spoilt[position:position] = spoilt[position : position + length] * rng.choice((1, 2, 50))
        elif change == 4:
            spoilt[position : position + length] = rng.randbytes(length)
        elif change == 5:
            del spoilt[position:]
        else:
            spoilt[position:position] = rng.choice(
                (b"\0" * 64, b"../../../evil", b"\x1b[2J", b"[" * 3000, b"9" * 5000, b"&a *a", b"\n")
            )
        del spoilt[2**22 :]
    return bytes(spoilt)


def spoil_json(value: Any, rng: random.Random) -> Any:
    """A JSON value with one of its parts, at any depth, replaced, removed or added."""
    odd_values: list[Any] = [
        None, True, -1, 0, 1e308, 2**70, "", "../../evil", "\x1b[2J", "x" * 5000, [], {}, [[]] * 3, "hf-hub:a/b",
        {"a": 1}, float("nan"),
    ]  # fmt: skip
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(sorted(value))
        if rng.random() < 0.15:
            return {key: part for key, part in value.items() if key != name}
        if rng.random() < 0.15:
            extra = rng.choice(("auto_map", "transformers_weights", "attn_implementation", "quantization_config"))
            return {**value, extra: rng.choice(odd_values)}
        return {**value, name: spoil_json(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.6:
        position = rng.randrange(len(value))
        return [*value[:position], spoil_json(value[position], rng), *value[position + 1 :]]
    return rng.choice(odd_values)
