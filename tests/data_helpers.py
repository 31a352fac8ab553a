"""Tiny sources of faces for the tests of ``mien.data``, and a Python process of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

import mien
from mien.labels import FER2013

USAGES = (("PrivateTest", "test"), ("PublicTest", "test"), ("Training", "train"))
"""FER2013's names of its splits, and the folder of Kaggle's archive that holds each."""


def noise(seed: int, side: int = 6, channels: int = 0) -> np.ndarray:
    """uint8 [side, side] (or with channels), different for each seed."""
    shape = (side, side, channels) if channels else (side, side)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encode(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    """The bytes of a picture file; PNG gives the pixels back exactly."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format=kind, **options)
    return stream.getvalue()


def write_zip(path: Path, members: Mapping[str, bytes]) -> Path:
    """A zip archive; a name that ends in a slash is a folder."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def write_folder(path: Path, members: Mapping[str, bytes]) -> Path:
    """The same files in a folder."""
    path.mkdir(exist_ok=True)
    for name, data in members.items():
        target = path / name
        if name.endswith("/"):
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    return path


def kaggle_members(side: int = 48) -> dict[str, bytes]:
    """One picture for each split and expression, in the alphabetical order of its path."""
    members = {}
    for split, (usage, folder) in enumerate(USAGES):
        for number, name in enumerate(FER2013):
            members[f"{folder}/{name}/{usage}_{number}.png"] = encode(noise(10 * split + number, side))
    return dict(sorted(members.items()))


def start_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Starts another Python process that imports this very package."""
    environment = os.environ | {"PYTHONPATH": str(Path(mien.__file__).parents[1])}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
