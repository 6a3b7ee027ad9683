"""What Vertex AI asks of a container: health and prediction on the paths, and at the port, that its
environment names.

    AIP_HTTP_PORT=8080 AIP_HEALTH_ROUTE=/health AIP_PREDICT_ROUTE=/predict FOOD_VISION_HOST=0.0.0.0 python -m app …
    curl -H 'Content-Type: application/json' -d '{"instances": [{"b64": "/9j/4AAQSkZJRg…"}]}' …/predict

Source: Vertex AI, "Custom container requirements for inference". The port is the default of the
setting `port` (`app.settings`). A path may be one that the service has already: its health routes
mean the same, and on others JSON goes to Vertex and anything else where it always went.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.routing import Match
from starlette.types import Scope

from app.faults import ErrorBody, ServiceError, shown
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
from app.serving.schemas import Health, Prediction
from app.web.body import read_body
from app.web.errors import responses
from app.web.leaving import unless_gone
from app.web.routes import PHOTO_ERRORS, MinConfidence, TimeoutMs, TopK, UnfamiliarMode, answers, ready, service_of
from app.web.upload import is_json
from contract.errors import ContractError

HEALTH, PREDICT = "AIP_HEALTH_ROUTE", "AIP_PREDICT_ROUTE"
KEYS = ("b64", "image_bytes", "image")  # of an instance; each holds base64 text, or an object with the first of them
TAGS = ["Vertex AI"]


INSTANCE: dict[str, Any] = {
    "type": "object",
    "properties": {KEYS[0]: {"type": "string", "format": "byte", "description": "the photo in base64"}},
    "anyOf": [{"required": [key]} for key in KEYS],
}


class VertexAnswer(BaseModel):
    """One entry for each instance, in order: a prediction or an error."""

    predictions: list[Prediction | ErrorBody]


BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["instances"],
                    "properties": {
                        "instances": {"type": "array", "minItems": 1, "items": INSTANCE},
                        "parameters": PARAMETERS,
                    },
                },
                "example": {"instances": [{"b64": EXAMPLE_PHOTO}], "parameters": {"top_k": 3}},
            }
        },
    }
}


class _JsonRoute(APIRoute):
    """A route that only sees JSON, so that another at the same path sees the rest."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches(scope) if is_json(Headers(scope=scope).get("content-type")) else (Match.NONE, {})


def install_vertex(app: FastAPI, environ: Mapping[str, str]) -> frozenset[str]:
    """Add the routes that Vertex names in `environ`, after all others are there; without its
    variables, none.

    Gives the path of health if it is a new one: Vertex probes it without a key. Raises
    `ContractError` for a route that is no path.
    """
    own = {route.path for route in iter_route_contexts(app.routes)}
    health, path = _path(environ, HEALTH), _path(environ, PREDICT)
    probed = frozenset({health} if health is not None and health not in own else ())
    for new in probed:
        app.add_api_route(
            new, ready, response_model=Health, responses=responses("not_ready", "engine_stuck"), tags=[*TAGS],
            operation_id="vertex_health",
        )  # fmt: skip
        app.add_api_route(new, ready, methods=["HEAD"], response_model=Health, include_in_schema=False)
    if path is not None:
        app.router.add_api_route(
            path, predict, methods=["POST"], response_model=VertexAnswer, responses=responses(*PHOTO_ERRORS),
            openapi_extra=BODY, tags=[*TAGS], operation_id="vertex_predict", include_in_schema=path not in own,
            route_class_override=_JsonRoute if path in own else APIRoute,
        )  # fmt: skip
        app.router.routes.insert(0, app.router.routes.pop())  # it is asked first
    return probed


def _path(environ: Mapping[str, str], name: str) -> str | None:
    path = environ.get(name)
    if not path:
        return None
    if not re.fullmatch(r"/[\w.~:@!$&'()*+,;=/-]*", path, re.ASCII):
        raise ContractError(f"The variable {name} must be a path like /predict, not {shown(path)}.")
    return path


async def predict(
    request: Request,
    top_k: TopK = None,
    min_confidence: MinConfidence = None,
    unfamiliar: UnfamiliarMode = None,
    timeout_ms: TimeoutMs = None,
) -> VertexAnswer:
    """Name the food on the photos of JSON `instances`: an answer or an error for each, in order."""
    service = service_of(request)
    read = partial(_from_json, max_images=service.settings.max_images)
    photos, parameters = await parsed(await read_body(request), read, request.app.state.json_reader)
    top_k = top_k_of(parameters, top_k)
    min_confidence = min_confidence_of(parameters, min_confidence)
    unfamiliar = unfamiliar_of(parameters, unfamiliar)
    service.check_serving()  # what concerns every photo is no matter of one entry
    found = await unless_gone(request, service.predict_all(photos, top_k, timeout_ms, min_confidence, unfamiliar))
    return VertexAnswer(predictions=answers(found))


def _from_json(body: bytes, max_images: int) -> tuple[list[bytes], dict[str, Any]]:
    found = json_object(body, "The body", max_images)
    return _photos(found, max_images), parameters_of(found)


def _photos(body: dict[str, Any], max_images: int) -> list[bytes]:
    instances = body.get("instances")
    if not isinstance(instances, list):
        raise ServiceError("bad_request", f"The field instances must be a list, not {shown(instances)}.")
    if not instances:
        raise ServiceError("missing_image", 'The field instances is empty. Send {"b64": "…"} for each photo there.')
    if len(instances) > max_images:
        raise ServiceError("too_many_images", f"More than {max_images} images were sent. Send fewer.")
    return [_photo(one, f"Instance {index}") for index, one in enumerate(instances)]


def _photo(instance: object, where: str) -> bytes:
    """The photo of `{"b64": …}`, `{"image_bytes": {"b64": …}}` or `{"image": …}`."""
    given = [key for key in KEYS if key in instance] if isinstance(instance, dict) else []
    if not isinstance(instance, dict) or len(given) != 1:
        raise ServiceError("bad_request", f"{where} must have one of {', '.join(KEYS)}; it is {shown(instance)}.")
    value = instance[given[0]]
    return photo_of(value.get(KEYS[0]) if isinstance(value, dict) else value, where)
