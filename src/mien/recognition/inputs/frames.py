"""The frames of a film or of a camera: every frame has its number and its time, also one that cannot be decoded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mien.recognition.film.camera import about_camera, read_camera
from mien.recognition.film.reader import About, Frame, about_film, read_film

__all__ = ["About", "Frame", "about", "frames"]


def about(source: str | Path | int) -> About:
    """What a film, or a camera by its number, says of itself.

    Raises:
        MienError: as ``frames``.
    """
    return about_camera(source) if isinstance(source, int) else about_film(Path(source))


def frames(source: str | Path | int, every: int = 1) -> Iterator[Frame]:
    """The frames of a film or of a camera, in order; see ``read_film`` and ``read_camera``.

    Args:
        source: a film file that FFmpeg reads, or the number of a camera.
        every: give each ``every``-th frame alone, those whose number it divides; the others are not converted.

    Raises:
        MienError: the file is missing, empty, no film, or holds no frame; there is no such camera.
        ValueError: ``every`` is below 1.
    """
    if every < 1:
        raise ValueError(f"every: expected at least 1, got {every}")
    return read_camera(source, every) if isinstance(source, int) else read_film(Path(source), every)
