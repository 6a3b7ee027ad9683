"""The shapes of the answers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from app.faults import ErrorBody


class Candidate(BaseModel):
    """One label with its probability."""

    class_id: int = Field(description="id in the label set", examples=[6])
    label: str = Field(description="the data set's name", examples=["beignets"])
    prediction: str = Field(description="name for people", examples=["Beignets"])
    confidence: float = Field(
        description="probability among the labels, 0 to 1; as calibrated as the bundle's temperature (1: not fitted)",
        examples=[0.94],
    )


class Model(BaseModel):
    """Which model answered: name and version (the first characters of the bundle's digest)."""

    name: str = Field(examples=["food101"])
    version: str = Field(examples=["ad197e481c04"])


class Abstention(BaseModel):
    """Why a photo was left without an answer."""

    reason: Literal["unfamiliar", "low_confidence"] = Field(
        description="a slug for programs; a photo that is `unfamiliar` is not asked how sure its label is"
    )
    message: str = Field(
        description="a sentence for people", examples=["The best label has a probability of 0.41, below 0.6."]
    )
    min_confidence: float | None = Field(
        default=None,
        description="for low_confidence: what was asked for by the request, else by the setting abstain_below",
        examples=[0.6],
    )
    min_familiarity: float | None = Field(
        default=None, description="for unfamiliar: the setting unfamiliar_below", examples=[0.01]
    )


class Prediction(BaseModel):
    """The best label of one photo, or none (`abstained`) where it does not look like what the model was trained on, or
    the model is not sure enough.

    `prediction` and `raw_output` are the original contract.
    """

    prediction: str | None = Field(description="name for people; null: abstained", examples=["Beignets"])
    raw_output: str = Field(
        description="the caption of the best label, also where it is not sure", examples=["a photo of delicious 6"]
    )
    class_id: int | None = Field(description="null: abstained", examples=[6])
    label: str | None = Field(description="null: abstained", examples=["beignets"])
    confidence: float = Field(
        description="probability of the best label among the labels, 0 to 1; as calibrated as the bundle's temperature "
        "(1: not fitted)",
        examples=[0.94],
    )
    abstained: Abstention | None = Field(description="null where there is an answer")
    familiarity: float | None = Field(
        description="share of the training photos that look less like the rest than this photo does, 0 to 1; null: not "
        "asked for, or the bundle cannot tell",
        examples=[0.62],
    )
    unfamiliar: bool | None = Field(
        description="whether familiarity is below the setting unfamiliar_below; null as familiarity", examples=[False]
    )
    top: list[Candidate] = Field(description="the best labels, best first, however sure")
    model: Model
    timings_ms: dict[str, float] = Field(
        description="milliseconds of each stage: decode, queue, encode, score, and total",
        examples=[{"decode": 2.4, "queue": 0.1, "encode": 8.0, "score": 0.9, "total": 11.6}],
    )


class BatchAnswer(BaseModel):
    """One entry for each photo sent, in order: a prediction or an error."""

    results: list[Prediction | ErrorBody]


class Caption(BaseModel):
    """A free caption of one photo; `prediction` is the label it names, if it names one."""

    caption: str = Field(examples=["a photo of delicious 6"])
    prediction: str | None = Field(examples=["Beignets"])
    model: Model
    timings_ms: dict[str, float] = Field(
        description="milliseconds of each stage: decode, queue, encode, generate, total"
    )


class Labels(BaseModel):
    """All labels in id order."""

    labels: list[dict[str, Any]] = Field(examples=[[{"id": 6, "name": "beignets", "display": "Beignets"}]])


class Health(BaseModel):
    """`ok`; anything else is answered in the error shape."""

    status: str = Field(examples=["ok"])


class Links(BaseModel):
    """Where what is: the answer of `/` to a program."""

    page: str = "/"
    docs: str = "/docs"
    description: str = "/openapi.json"
    predict: str = "/predict"
    predict_batch: str = "/predict/batch"
    caption: str = "/caption"
    labels: str = "/labels"
    info: str = "/info"
    health: str = "/health"
