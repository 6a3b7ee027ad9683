"""The routes of the service's own REST face."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from app.faults import ErrorBody, ServiceError, body_of
from app.serving.schemas import BatchAnswer, Caption, Health, Labels, Prediction
from app.serving.service import Service
from app.settings import Unfamiliar
from app.telemetry.metrics import Metrics
from app.web.errors import log, responses
from app.web.leaving import unless_gone
from app.web.upload import read_photo, read_photos
from contract.errors import PhotoError


class LeanRoute(APIRoute):
    """A route that costs little, for a function that takes `request`, and else only query and
    header parameters that have defaults.

    Most requests give a photo and no parameters: there is nothing to solve and to validate. FastAPI
    still describes the route, and still takes every request with a query or one of the route's
    headers. The others go straight to the function with its defaults; of the event loop's time for
    a request, FastAPI's part was a fifth.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        wanted = self.dependant
        needs = [*wanted.path_params, *wanted.body_params, *wanted.cookie_params, *wanted.dependencies]
        given = [*wanted.query_params, *wanted.header_params]
        assert not needs, self.path
        assert not any(one.field_info.is_required() for one in given), self.path
        self._headers = {one.alias.lower().encode() for one in wanted.header_params}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `starlette.routing.Route`."""
        asked = scope["query_string"] or any(name in self._headers for name, _ in scope["headers"])
        if asked or scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)
            return
        answer: BaseModel = await self.endpoint(Request(scope, receive, send))
        body = answer.__pydantic_serializer__.to_json(answer)
        await Response(body, media_type="application/json")(scope, receive, send)


router = APIRouter()
photo_router = APIRouter(route_class=LeanRoute)

TopK = Annotated[int | None, Query(ge=1, le=100, description="how many labels `top` holds")]
MinConfidence = Annotated[
    float | None,
    Query(ge=0, le=1, description="least probability of an answer, else `prediction` is null; setting abstain_below"),
]
UnfamiliarMode = Annotated[
    Unfamiliar | None,
    Query(
        description="what becomes of a photo that does not look like the training photos: `prediction` is null (abstain), "
        "it is told (mark), or nothing is (off); setting unfamiliar. A bundle that cannot tell answers all photos"
    ),
]
TimeoutMs = Annotated[
    int | None,
    Header(
        alias="X-Request-Timeout-Ms",
        ge=1,
        description="milliseconds the client will wait; never longer than the setting request_timeout_ms",
    ),
]
PHOTO_ERRORS = (
    "bad_request", "missing_image", "empty_image", "bad_image", "invalid_parameter", "unauthorized", "not_a_classifier",
    "body_timeout", "body_too_large", "image_too_large", "image_too_costly", "too_many_images", "unsupported_format",
    "unsupported_encoding", "headers_too_large", "internal_error", "engine_failed",
    "not_ready", "engine_stuck", "overloaded", "deadline_exceeded",
)  # fmt: skip


def _binary(description: str) -> dict[str, Any]:
    return {"type": "string", "format": "binary", "description": description}


ONE_PHOTO: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["image"], "properties": {"image": _binary("the photo")}}
            },
            "image/*": {"schema": _binary("the bytes of the photo")},
        },
    }
}
SEVERAL_PHOTOS = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "properties": {"images": {"type": "array", "minItems": 1, "items": _binary("a photo")}},
                }
            }
        },
    }
}


def service_of(request: Request) -> Service:
    """The service that answers the request."""
    service: Service = request.app.state.service
    return service


@photo_router.post("/predict", response_model=Prediction, responses=responses(*PHOTO_ERRORS), openapi_extra=ONE_PHOTO)
async def predict(
    request: Request,
    top_k: TopK = None,
    min_confidence: MinConfidence = None,
    unfamiliar: UnfamiliarMode = None,
    timeout_ms: TimeoutMs = None,
) -> Prediction:
    """Name the food on one photo: multipart field `image`, or the photo's bytes as the body."""
    service = service_of(request)
    photo = await read_photo(request)
    return await unless_gone(request, service.predict(photo, top_k, timeout_ms, min_confidence, unfamiliar))


@photo_router.post(
    "/predict/batch", response_model=BatchAnswer, responses=responses(*PHOTO_ERRORS), openapi_extra=SEVERAL_PHOTOS
)
async def predict_batch(
    request: Request,
    top_k: TopK = None,
    min_confidence: MinConfidence = None,
    unfamiliar: UnfamiliarMode = None,
    timeout_ms: TimeoutMs = None,
) -> BatchAnswer:
    """Name the food on several photos: an answer or an error for each, in order. One bad photo fails alone."""
    service = service_of(request)
    photos = await read_photos(request, service.settings.max_images)
    service.check_serving()  # what concerns every photo is no matter of one entry
    found = await unless_gone(request, service.predict_all(photos, top_k, timeout_ms, min_confidence, unfamiliar))
    return BatchAnswer(results=answers(found))


def answers(found: list[Prediction | BaseException]) -> list[Prediction | ErrorBody]:
    """What `Service.predict_all` found, with each exception as the body that the client gets."""
    return [body_of(_logged(one)) if isinstance(one, BaseException) else one for one in found]


def _logged(error: BaseException) -> Exception:
    if not isinstance(error, Exception):
        raise error
    if not isinstance(error, ServiceError | PhotoError):
        log.error("one photo of a batch failed", exc_info=error)
    return error


@photo_router.post("/caption", response_model=Caption, responses=responses(*PHOTO_ERRORS), openapi_extra=ONE_PHOTO)
async def caption(request: Request, timeout_ms: TimeoutMs = None) -> Caption:
    """Describe one photo freely with the model's own words."""
    photo = await read_photo(request)
    return await unless_gone(request, service_of(request).caption(photo, timeout_ms))


@router.get("/labels", response_model=Labels, responses=responses("unauthorized", "not_a_classifier"))
async def labels(request: Request) -> Labels:
    """All labels in id order."""
    found = service_of(request).bundle.labels
    if found is None:
        raise ServiceError("not_a_classifier", "This model has no labels: it can caption, not classify.")
    return Labels(labels=[label.model_dump() for label in found])


@router.get("/info", responses=responses("unauthorized"))
async def info(request: Request) -> dict[str, Any]:
    """The model, the provider that runs it, limits and parity figures."""
    return service_of(request).info()


@router.head("/health/live", include_in_schema=False)
@router.get("/health/live", response_model=Health, responses=responses("engine_stuck"))
async def live(request: Request) -> Health:
    """The process answers and its engine gets on with its work; 503 when it needs a restart."""
    service_of(request).check_live()
    return Health(status="ok")


@router.head("/health", include_in_schema=False)
@router.head("/health/ready", include_in_schema=False)
@router.get("/health", response_model=Health, responses=responses("not_ready", "engine_stuck"))
@router.get("/health/ready", response_model=Health, responses=responses("not_ready", "engine_stuck"))
async def ready(request: Request) -> Health:
    """200 once the model is loaded and warm; 503 with the reason before, and while stopping."""
    service_of(request).check_ready()
    return Health(status="ok")


@router.head("/metrics", include_in_schema=False)
@router.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    """All metrics, in the text format of Prometheus, or of OpenMetrics if the client accepts that."""
    found: Metrics = request.app.state.metrics
    text, content_type = found.written(request.headers.get("accept", ""))
    return Response(text, headers={"Content-Type": content_type})
