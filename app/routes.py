"""The routes of the service's own REST face."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request

from app.errors import ServiceError, body_of, log, responses
from app.images import read_photo, read_photos
from app.schemas import BatchAnswer, Caption, Health, Labels, Prediction
from app.service import Service
from contract.errors import PhotoError

router = APIRouter()
R = TypeVar("R")

TopK = Annotated[int | None, Query(ge=1, le=100, description="how many labels `top` holds")]
PHOTO_ERRORS = (
    "bad_request", "missing_image", "empty_image", "bad_image", "invalid_parameter", "not_a_classifier",
    "body_too_large", "image_too_large", "too_many_images", "unsupported_format", "internal_error", "engine_failed",
    "not_ready", "overloaded", "deadline_exceeded",
)  # fmt: skip


def _binary(description: str) -> dict[str, Any]:
    return {"type": "string", "format": "binary", "description": description}


ONE_PHOTO = {
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
                    "properties": {"images": {"type": "array", "items": _binary("a photo")}},
                }
            }
        },
    }
}


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _unless_gone(request: Request, work: Coroutine[Any, Any, R]) -> R:
    """Await `work`, but cancel it as soon as the client goes away, so that its place in the batch is freed."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ServiceError("bad_request", "The client closed the connection before the answer.")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


@router.post("/predict", response_model=Prediction, responses=responses(*PHOTO_ERRORS), openapi_extra=ONE_PHOTO)
async def predict(request: Request, top_k: TopK = None) -> Prediction:
    """Name the food on one photo: multipart field `image`, or the photo's bytes as the body."""
    service = _service(request)
    photo = await read_photo(request)
    return await _unless_gone(request, service.predict(photo, top_k or service.settings.top_k))


@router.post(
    "/predict/batch", response_model=BatchAnswer, responses=responses(*PHOTO_ERRORS), openapi_extra=SEVERAL_PHOTOS
)
async def predict_batch(request: Request, top_k: TopK = None) -> BatchAnswer:
    """Name the food on several photos: an answer or an error for each, in order. One bad photo fails alone."""
    service = _service(request)
    photos = await read_photos(request, service.settings.max_images)
    service.check_ready()  # what concerns every photo is no matter of one entry
    found = await _unless_gone(request, service.predict_all(photos, top_k or service.settings.top_k))
    return BatchAnswer(results=[body_of(_logged(one)) if isinstance(one, BaseException) else one for one in found])


def _logged(error: BaseException) -> Exception:
    if not isinstance(error, Exception):
        raise error
    if not isinstance(error, ServiceError | PhotoError):
        log.error("one photo of a batch failed", exc_info=error)
    return error


@router.post("/caption", response_model=Caption, responses=responses(*PHOTO_ERRORS), openapi_extra=ONE_PHOTO)
async def caption(request: Request) -> Caption:
    """Describe one photo freely with the model's own words."""
    photo = await read_photo(request)
    return await _unless_gone(request, _service(request).caption(photo))


@router.get("/labels", response_model=Labels, responses=responses("not_a_classifier"))
async def labels(request: Request) -> Labels:
    """All labels in id order."""
    found = _service(request).bundle.labels
    if found is None:
        raise ServiceError("not_a_classifier", "This model has no labels: it can caption, not classify.")
    return Labels(labels=[label.model_dump() for label in found])


@router.get("/info")
async def info(request: Request) -> dict[str, Any]:
    """The model, the provider that runs it, limits and parity figures."""
    return _service(request).info()


@router.head("/health/live", include_in_schema=False)
@router.get("/health/live", response_model=Health)
async def live() -> Health:
    """The process answers."""
    return Health(status="ok")


@router.head("/health", include_in_schema=False)
@router.head("/health/ready", include_in_schema=False)
@router.get("/health", response_model=Health, responses=responses("not_ready"))
@router.get("/health/ready", response_model=Health, responses=responses("not_ready"))
async def ready(request: Request) -> Health:
    """200 once the model is loaded and warm; 503 with the reason before, and while stopping."""
    _service(request).check_ready()
    return Health(status="ok")
