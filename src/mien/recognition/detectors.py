"""Makes a detector from its name."""

from __future__ import annotations

from typing import Any

from mien.errors import MienError
from mien.recognition.detection import Detector, WholePicture

DETECTORS: tuple[str, ...] = ("yunet", "none")

KNOWN = "yunet, yunet:FILE.onnx or none"
"""The names that ``detector`` accepts, as messages list them."""


def detector(name: str, **options: Any) -> Detector:
    """Makes the detector of a name.

    Args:
        name: ``yunet``; ``yunet:FILE.onnx`` to use another YuNet file; ``none`` for pictures that are face crops.
        options: keyword arguments of ``mien.recognition.yunet.YuNet``.

    Raises:
        MienError: the name or an option is unknown, or the model cannot be loaded.
    """
    kind, separator, file = name.partition(":")
    if kind == "haar":
        raise MienError("detector 'haar': is no part of Mien any more, yunet replaced it and finds more; take yunet, "
                        "or leave the detector out")  # fmt: skip
    if kind not in DETECTORS or (separator and (kind != "yunet" or not file)):
        raise MienError(
            f"detector {name!r}: is not known, expected {KNOWN}, or in Python an object with detect(); to use another "
            "detector, cut the faces out with it and give these crops with the detector none"
        )
    if separator:
        options = {"model": file, **options}
    try:
        if kind == "none":
            return WholePicture(**options)
        from mien.recognition.yunet import YuNet  # loads ONNX Runtime, which ``none`` does not need

        return YuNet(**options)
    except TypeError as error:
        raise MienError(
            f"detector {name!r}: does not take the options {', '.join(sorted(options))} ({error}); leave them out"
        ) from error
