"""What `huggingface_hub.InferenceClient(model=url)` speaks: `POST /`, for `image_classification`
and `image_to_text`.

    InferenceClient(model="http://127.0.0.1:8000").image_classification("dinner.jpg", top_k=3)

The client posts to the URL exactly as given, and does not say which task it means. So each entry of
the answer holds the keys of both tasks; the client keeps what it does not know. It can send no
threshold in a body either, but in the URL:
`InferenceClient(model="http://127.0.0.1:8000/?min_confidence=0.6")`. Its `health_check` and
`get_endpoint_info` are `GET /health` and `GET /info`.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from app.faults import ServiceError, shown
from app.protocols.json_photos import (
    EXAMPLE_PHOTO,
    PARAMETERS,
    json_object,
    min_confidence_of,
    parameters_of,
    parsed,
    photo_of,
    top_k_of,
    unfamiliar_of,
)
from app.serving.schemas import Abstention, Prediction
from app.web.body import read_body
from app.web.errors import responses
from app.web.leaving import unless_gone
from app.web.routes import ONE_PHOTO, PHOTO_ERRORS, MinConfidence, TimeoutMs, TopK, UnfamiliarMode, service_of
from app.web.upload import is_json, is_multipart, not_empty, read_photo

router = APIRouter(tags=["Hugging Face InferenceClient"])


class HFCandidate(BaseModel):
    """One label; `generated_text` is the caption of the best one. Without labels, a free caption alone."""

    label: str | None = Field(default=None, description="the data set's name", examples=["beignets"])
    score: float | None = Field(default=None, description="probability among the labels, 0 to 1", examples=[0.94])
    generated_text: str = Field(description="what `image_to_text` gives", examples=["a photo of delicious 6"])
    abstained: Abstention | None = Field(default=None, description="left out where there is an answer")
    familiarity: float | None = Field(
        default=None,
        description="of the photo: the share of the training photos that look less like the rest; left out where it is "
        "not told",
        examples=[0.62],
    )
    unfamiliar: bool | None = Field(
        default=None, description="of the photo: whether that is below the setting unfamiliar_below", examples=[False]
    )


JSON_BODY: dict[str, Any] = {
    "schema": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "inputs": {"type": "string", "format": "byte", "description": "the photo in base64"},
            "parameters": PARAMETERS,
        },
    },
    "example": {"inputs": EXAMPLE_PHOTO, "parameters": {"top_k": 3}},
}
PHOTO_KINDS: dict[str, Any] = ONE_PHOTO["requestBody"]["content"]
BODY = {"requestBody": {"required": True, "content": PHOTO_KINDS | {"application/json": JSON_BODY}}}


@router.post(
    "/",
    response_model=list[HFCandidate],
    response_model_exclude_none=True,
    responses=responses(*(slug for slug in PHOTO_ERRORS if slug != "not_a_classifier")),
    openapi_extra=BODY,
)
async def infer(
    request: Request,
    top_k: TopK = None,
    min_confidence: MinConfidence = None,
    unfamiliar: UnfamiliarMode = None,
    timeout_ms: TimeoutMs = None,
) -> list[HFCandidate]:
    """The best labels of one photo, best first: its bytes as the body, or JSON `inputs` (base64) and `parameters`."""
    service = service_of(request)
    photo, parameters = await _read(request)
    top_k = top_k_of(parameters, top_k)
    min_confidence = min_confidence_of(parameters, min_confidence)
    unfamiliar = unfamiliar_of(parameters, unfamiliar)
    _check_function(parameters)
    if service.bundle.labels is None:
        return [HFCandidate(generated_text=(await unless_gone(request, service.caption(photo, timeout_ms))).caption)]
    found = await unless_gone(request, service.predict(photo, top_k, timeout_ms, min_confidence, unfamiliar))
    return _candidates(found)


def _candidates(found: Prediction) -> list[HFCandidate]:
    """A ranking, not a decision: it stays whole where the service abstains, and says so in each
    entry.
    """
    same = found.model_dump(include={"abstained", "familiarity", "unfamiliar"}) | {"generated_text": found.raw_output}
    return [HFCandidate(label=one.label, score=one.confidence, **same) for one in found.top]


async def _read(request: Request) -> tuple[bytes, dict[str, Any]]:
    """The photo and the parameters. A body that begins with a brace is JSON whatever its type says:
    no photo does.
    """
    if is_multipart(request):
        return await read_photo(request), {}
    body = await read_body(request)
    if is_json(request.headers.get("content-type")) or body[:1] == b"{":
        return await parsed(body, _from_json, request.app.state.json_reader)
    return not_empty(body), {}


def _from_json(body: bytes) -> tuple[bytes, dict[str, Any]]:
    found = json_object(body, "The body", photos=1)
    if "inputs" not in found:
        raise ServiceError("missing_image", "The field inputs is missing. Send the base64 text of a photo there.")
    return photo_of(found["inputs"], "The field inputs"), parameters_of(found)


def _check_function(parameters: dict[str, Any]) -> None:
    function = parameters.get("function_to_apply")
    if function not in (None, "softmax"):  # the others would need logits, and a bundle gives probabilities
        raise ServiceError(
            "invalid_parameter",
            f"The parameter function_to_apply can only be 'softmax', not {shown(function)}. Leave it out.",
        )
