"""Converts records to the formats of other tools and to rows of a table, and writes Parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

from mien.errors import MienError
from mien.files import atomic_file
from mien.recognition.faces import Face, Record
from mien.text import encodable

_ROWS_AT_ONCE = 4096


def fer(record: Record) -> list[dict[str, Any]]:
    """Returns the faces as ``FER().detect_emotions`` does: ``box`` [x, y, w, h] in whole pixels, and ``emotions``."""
    return [{"box": _whole_box(face), "emotions": dict(face.probabilities)} for face in record.faces]


def deepface(record: Record) -> list[dict[str, Any]]:
    """Returns the faces as ``DeepFace.analyze(actions=["emotion"])`` does; emotions are in percent.

    ``face_confidence`` is the detector's score, in [0, 1] as in deepface: a score outside is moved to the nearer end.
    It is 0 if the detector has none. Eyes are not detected.
    """
    return [
        {
            "emotion": {name: 100 * value for name, value in face.probabilities.items()},
            "dominant_emotion": face.label,
            "region": {**dict(zip("xywh", _whole_box(face), strict=True)), "left_eye": None, "right_eye": None},
            "face_confidence": min(max(face.detector_score or 0.0, 0.0), 1.0),
        }
        for face in record.faces
    ]


def hf(record: Record) -> list[list[dict[str, Any]]]:
    """Returns for every face what ``transformers.pipeline("image-classification")`` does: ``label`` and ``score``, the
    surest first."""
    return [
        [
            {"label": name, "score": value}
            for name, value in sorted(face.probabilities.items(), key=lambda item: -item[1])
        ]
        for face in record.faces
    ]


FORMATS: dict[str, Callable[[Record], list[Any]]] = {"fer": fer, "deepface": deepface, "hf": hf}
"""Functions to the formats of other tools, by the tool's name."""


def columns(names: Sequence[str]) -> list[str]:
    """Returns the columns of a table of faces, for a model with these expressions."""
    of_record = ["input", "status", "error", "width", "height", "frame", "time_s"]
    of_face = ["face", "id", "box_x", "box_y", "box_w", "box_h", "label", "score", "uncertain", "detector_score"]
    return [*of_record, *of_face, *(f"probability_{name}" for name in names)]


def rows(record: Record) -> list[dict[str, Any]]:
    """Returns a row for every face of a record, or one without a face if it has none; missing values are None.

    ``face`` counts the faces of a picture from 0.
    """
    common = {key: value for key, value in record.record().items() if key not in ("faces", "first_of_several")}
    common = {key: encodable(value) if isinstance(value, str) else value for key, value in common.items()}
    return [{**common, **_of_face(index, face)} for index, face in enumerate(record.faces)] or [common]


Add: TypeAlias = Callable[[Record], None]
"""Function that adds the next record to a table."""


class Ending:
    """Holds back what ends the block of a table or a film, until the records so far are in a complete file.

    Hours of reading must not be lost because of the last picture. Nothing is held back if the file itself could not be
    written, or if it has no record yet: then an earlier file stays. After Ctrl-C there is a table in any case.
    """

    def __init__(self) -> None:
        self._error: BaseException | None = None
        self._records = 0
        self._is_broken = False

    @contextmanager
    def held(self, add: Add) -> Iterator[Add]:
        """Gives the function that adds a record; what ends the block is kept for ``raise_again``."""

        def noted(record: Record) -> None:
            try:
                add(record)
            except Exception:
                self._is_broken = True
                raise
            self._records += 1

        try:
            yield noted
        except BaseException as error:
            if self._is_broken or not (self._records or isinstance(error, KeyboardInterrupt)):
                raise
            self._error = error

    @property
    def is_early(self) -> bool:
        """True if an error or Ctrl-C has ended the block, and is held back."""
        return self._error is not None

    def raise_again(self) -> None:
        """Raises what ended the block, if it was not its end."""
        if self._error is not None:
            raise self._error


def ensure_pyarrow() -> None:
    """Checks that Parquet files can be written.

    Raises:
        MienError: pyarrow is not installed.
    """
    if find_spec("pyarrow") is None:
        raise MienError("Parquet needs pyarrow, which is not installed; pip install 'mien[parquet]' brings it")


@contextmanager
def parquet_table(path: Path, names: Sequence[str]) -> Iterator[Add]:
    """Opens a Parquet file, which is complete when the block ends, whatever ends it (``Ending``).

    Args:
        path: the file; an existing one is replaced.
        names: the expressions of the model.

    Raises:
        MienError: it cannot be written, or pyarrow is not installed.
    """
    ensure_pyarrow()
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    whole, real, text = pyarrow.int64(), pyarrow.float64(), pyarrow.string()
    kinds = dict.fromkeys(["width", "height", "frame", "face", "id"], whole) | {"uncertain": pyarrow.bool_()}
    kinds |= dict.fromkeys(["input", "status", "error", "label"], text)
    schema = pyarrow.schema([(name, kinds.get(name, real)) for name in columns(names)])
    waiting: list[dict[str, Any]] = []
    ending = Ending()

    def flush() -> None:
        writer.write_table(pyarrow.Table.from_pylist(waiting, schema))
        waiting.clear()

    def add(record: Record) -> None:
        waiting.extend(rows(record))
        if len(waiting) >= _ROWS_AT_ONCE:
            flush()

    with atomic_file(path, spare_newcomer=True) as temporary, ParquetWriter(temporary, schema) as writer:
        with ending.held(add) as noted:
            yield noted
        flush()
    ending.raise_again()


def _whole_box(face: Face) -> list[int]:
    return [round(value) for value in face.box]


def _of_face(index: int, face: Face) -> dict[str, Any]:
    return {
        "face": index,
        "id": face.id,
        **{f"box_{side}": round(value, 1) for side, value in zip("xywh", face.box, strict=True)},
        "label": face.label,
        "score": face.score,
        "uncertain": face.uncertain,
        "detector_score": face.detector_score,
        **{f"probability_{name}": value for name, value in face.probabilities.items()},
    }
