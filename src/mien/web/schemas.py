"""The bodies of requests and answers, for the OpenAPI description."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from mien.web.problems import HELP, KINDS, MEDIA_TYPE

EXAMPLES: dict[str, Any] = json.loads((Path(__file__).parent / "examples.json").read_text(encoding="utf-8"))
"""Answers to scikit-image's portrait of an astronaut (512 x 512 pixels) by ``mini``; a test repeats them."""


class FaceModel(BaseModel):
    """A face: a guess about how it looks, not about what the person feels."""

    box: list[float] = Field(description="left, top, width and height in pixels of the upright picture")
    label: str = Field(description="the most probable expression")
    score: float = Field(ge=0, le=1, description="its calibrated probability")
    uncertain: bool | None = Field(
        description="true if the score is below the threshold from which the model promises its stated accuracy; null "
        "if it was not calibrated"
    )
    probabilities: dict[str, float] = Field(description="the calibrated probability of every expression; they sum to 1")
    detector_score: float | None = Field(description="confidence of the detector, on its own scale")


class RecordModel(BaseModel):
    """What was read in a picture: a line of `mien predict --json`."""

    input: str = Field(description="file name of the picture, or `picture N`, counted from 0")
    status: Literal["ok", "no_face", "error"]
    error: str | None = Field(description="why the picture cannot be read, if the status is error")
    width: int | None = Field(description="of the upright picture in pixels")
    height: int | None
    frame: int | None = Field(description="always null for pictures")
    time_s: float | None = Field(description="always null for pictures")
    faces: list[FaceModel] = Field(description="from left to right")
    first_of_several: bool = Field(
        default=False,
        description="true if the file holds more pictures, as frames of an animation or as pages, which were not read; "
        "else it is left out",
    )


class RecordsModel(BaseModel):
    """A record for each picture, in order."""

    records: list[RecordModel]
    model: str
    notice: str


class ExplanationModel(BaseModel):
    """What of a face an answer depends on."""

    face: int = Field(description="number of the face, from 0, left to right")
    label: str = Field(description="the explained expression")
    method: str
    box: list[float]
    crop: list[list[int]] | list[list[list[int]]] = Field(
        description="what the network read: a grey value from 0 to 255 for each pixel, or red, green and blue"
    )
    relevance: list[list[float]] = Field(
        description="a number for each pixel of the crop: above 0 it speaks for the label, below 0 against it; mean "
        "fall of the log-odds in nats"
    )


class ExplanationsModel(BaseModel):
    """The explained faces of a picture."""

    record: RecordModel
    explanations: list[ExplanationModel]
    model: str
    notice: str


class RegionModel(BaseModel):
    """A box in whole pixels, as deepface names it; eyes are not detected."""

    x: int
    y: int
    w: int
    h: int
    left_eye: list[int] | None
    right_eye: list[int] | None


class AnalyzedFaceModel(BaseModel):
    """A face as `DeepFace.analyze(actions=["emotion"])` describes it; emotions are in percent."""

    emotion: dict[str, float]
    dominant_emotion: str
    region: RegionModel
    face_confidence: float


class AnalyzedModel(BaseModel):
    """The answer of deepface's service."""

    results: list[AnalyzedFaceModel]


class AccuracyModel(BaseModel):
    """Share of right answers, with its 95 % interval."""

    pictures: int
    value: float
    low: float
    high: float


class SplitAccuracyModel(AccuracyModel):
    """Accuracy on a split, and on its part without a twin in training."""

    split: str
    clean: AccuracyModel | None


class SureModel(BaseModel):
    """Answers that are not uncertain: their share, and the share of them that is right."""

    coverage: float
    accuracy: float


class RobustnessModel(BaseModel):
    """Scores on the whole validation split with its pictures changed."""

    change: str
    how: str
    accuracy: float
    macro_f1: float
    difference: float | None = Field(default=None, description="of accuracy, from the unchanged pictures")
    difference_ci95: list[float] | None = Field(default=None, description="null if not recorded")


class DetectorModel(BaseModel):
    """The detector of faces."""

    name: str
    margin: float


class LimitsModel(BaseModel):
    """Limits of a request."""

    max_bytes: int
    max_pixels: int
    max_pictures: int
    timeout_s: float


class PageModel(BaseModel):
    """The page: whether it can read faces in the browser."""

    built: bool
    models: list[str]


class ModelModel(BaseModel):
    """The loaded model."""

    name: str
    labels: list[str]
    file: str
    bytes: int
    sha256: str
    image_size: int
    face_size: int
    grey: bool
    threshold: float | None
    stated_accuracy: float | None
    trained_on_fer2013: bool | None = Field(description="null if its training data is not recorded")
    accuracy: SplitAccuracyModel | None
    scores: dict[str, Any] | None
    sure: SureModel | None
    robustness: list[RobustnessModel] | None
    detector: DetectorModel
    limits: LimitsModel
    page: PageModel
    card: str | None
    report: str | None
    api_key_needed: bool
    mien: str
    notice: str


class ProblemModel(BaseModel):
    """A problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[str] | None = None


class StateModel(BaseModel):
    """The state of the service."""

    status: str


BASE64 = "base64 of a picture, also as a data: URL; URLs and paths are not fetched"

PICTURE_JSON: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "description": BASE64},
        {
            "type": "object",
            "required": ["data"],
            "properties": {"name": {"type": ["string", "null"]}, "data": {"type": "string", "description": BASE64}},
        },
    ]
}

RAW: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}


def pictures_body(key: str = "pictures", *, several: bool = True, more: dict[str, Any] | None = None) -> dict[str, Any]:
    """Returns the description of a body with pictures: multipart, raw bytes or JSON.

    Args:
        key: name of the JSON member.
        several: true if the JSON member is a list.
        more: further properties of the form and of the JSON object.
    """
    member = {"type": "array", "minItems": 1, "items": PICTURE_JSON} if several else PICTURE_JSON
    file: dict[str, Any] = {"type": "string", "format": "binary"}
    form = {"type": "array", "items": file} if several else file
    more = more or {}
    example = [EXAMPLES["picture"]] if several else EXAMPLES["picture"]
    return {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": {"type": "object", "required": [key], "properties": {key: form, **more}}},
            "application/json": {
                "schema": {"type": "object", "required": [key], "properties": {key: member, **more}},
                "example": {key: example},
            },
            "image/*": RAW,
            "application/octet-stream": RAW,
        },
    }


def problems(*kinds: str) -> dict[int | str, dict[str, Any]]:
    """Returns the descriptions of answers that are problems, by status."""
    answers: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        status, title = KINDS[kind]
        example = {
            "type": f"/docs#{kind}",
            "title": title,
            "status": status,
            "detail": HELP[kind],
            "instance": "urn:request:7f3a",
        }
        answer = answers.setdefault(
            status,
            {
                "description": title,
                "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemModel"}, "examples": {}}},
            },
        )
        answer["content"][MEDIA_TYPE]["examples"][kind] = {"value": example}
    return answers
