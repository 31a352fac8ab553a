"""The detectors by name."""

from __future__ import annotations

from typing import Any

from mien.errors import MienError
from mien.recognition.detection import Detector, WholePicture

DETECTORS: tuple[str, ...] = ("yunet", "none")


KNOWN = "yunet, yunet:FILE.onnx or none"
"""The names that ``detector`` knows."""


def detector(name: str, **options: Any) -> Detector:
    """The detector of a name.

    Args:
        name: ``yunet``, or ``yunet:FILE.onnx`` with a model of one's own; ``none`` for face crops.
        options: of ``YuNet`` in the module beside this one.

    Raises:
        MienError: there is no such detector or option, or its model cannot be had.
    """
    kind, separator, file = name.partition(":")
    if kind == "haar":
        raise MienError("detector 'haar': is no part of Mien any more, yunet replaced it and finds more; take yunet, "
                        "or leave the detector out")  # fmt: skip
    if kind not in DETECTORS or (separator and (kind != "yunet" or not file)):
        raise MienError(f"detector {name!r}: is not known, expected {KNOWN}; choose one")
    if separator:
        options = {"model": file, **options}
    try:
        return _make(kind, options)
    except TypeError as error:
        raise MienError(
            f"detector {name!r}: does not take the options {', '.join(sorted(options))} ({error}); leave them out"
        ) from error


def _make(kind: str, options: dict[str, Any]) -> Detector:
    if kind == "none":
        return WholePicture(**options)
    from mien.recognition.yunet import YuNet

    return YuNet(**options)
