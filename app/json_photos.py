"""Photos inside JSON, as the protocols of others send them: base64 text beside parameters."""

from __future__ import annotations

import base64
import json
from typing import Any

from app.errors import ServiceError

LARGEST_TOP_K = 100  # as `?top_k=` of /predict
# For the API description: a PNG of 8 by 8 pixels, so that its requests can be sent as they stand.
EXAMPLE_PHOTO = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFUlEQVR42mO8Ns2DARtgYsABBqcEAFjdAcQyQ2pSAAAAAElFTkSuQmCC"
)
# For the API description: the object `parameters` of the protocols that know these two.
PARAMETERS: dict[str, Any] = {
    "type": ["object", "null"],
    "properties": {
        "top_k": {"type": ["integer", "null"], "minimum": 1, "maximum": LARGEST_TOP_K},
        "min_confidence": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
    },
}


def json_object(body: bytes, whole: str) -> dict[str, Any]:
    """The JSON object in `body`; `whole` names it in the sentence of the `ServiceError` with slug `bad_request`."""
    try:
        found = json.loads(body)
    except RecursionError:
        raise ServiceError("bad_request", f"{whole} is no JSON: it is nested too deeply.") from None
    except ValueError as error:  # text that is not UTF-8 and numbers of thousands of digits, too
        raise ServiceError("bad_request", f"{whole} is no JSON: {error}.") from None
    if not isinstance(found, dict):
        raise ServiceError("bad_request", f"{whole} must be a JSON object, not {shown(found)}.")
    return found


def parameters_of(body: dict[str, Any], where: str = "parameters") -> dict[str, Any]:
    """The object `parameters`, empty where it is absent or null. Raises `ServiceError` with slug `bad_request`."""
    found = body.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ServiceError("bad_request", f"The field {where} must be a JSON object, not {shown(found)}.")
    return found


def photo_of(text: object, where: str) -> bytes:
    """The bytes of a photo sent as base64 text, a `data:` URL or with line breaks too.

    Raises `ServiceError` with slug `bad_request`, or `missing_image` where the text is empty.
    """
    if not isinstance(text, str):
        raise ServiceError("bad_request", f"{where} must be the base64 text of a photo, not {shown(text)}.")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        photo = base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        raise ServiceError(
            "bad_request", f"{where} is no base64: it begins with {shown(text[:20])}. Encode the photo's bytes."
        ) from None
    if not photo:
        raise ServiceError("missing_image", f"{where} is empty. Send the base64 text of a photo.")
    return photo


def top_k_of(parameters: dict[str, Any], default: int) -> int:
    """`top_k` of the parameters, 1 to 100. Raises `ServiceError` with slug `invalid_parameter`."""
    found = parameters.get("top_k")
    if found is None:
        return default
    top_k = whole_number(found)
    if top_k is None or not 1 <= top_k <= LARGEST_TOP_K:
        raise ServiceError(
            "invalid_parameter",
            f"The parameter top_k must be a whole number from 1 to {LARGEST_TOP_K}, not {shown(found)}.",
        )
    return top_k


def min_confidence_of(parameters: dict[str, Any], default: float | None) -> float | None:
    """`min_confidence` of the parameters, 0 to 1. Raises `ServiceError` with slug `invalid_parameter`."""
    found = parameters.get("min_confidence")
    if found is None:
        return default
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= 1:
        raise ServiceError(
            "invalid_parameter", f"The parameter min_confidence must be a number from 0 to 1, not {shown(found)}."
        )
    return float(found)


def whole_number(value: object) -> int | None:
    """An integer as JSON Schema means it, 3.0 among them; None for all else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def shown(value: object) -> str:
    """A client's value for a sentence: short, in ASCII."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
