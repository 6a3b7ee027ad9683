"""One table of errors: slug, HTTP code and meaning. Handlers and docs are made from it.

Every answer that is not 2xx has the body `{"error": "<sentence>", "error_type": "<slug>"}`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, compile_path

from app.prefix import prefix_of
from app.record import note_error
from contract.errors import PhotoError

log = logging.getLogger("food_vision")
LONGEST_RETRY = 60  # seconds


class Kind(NamedTuple):
    """HTTP status and one sentence on what the slug means."""

    status: int
    meaning: str


ERRORS: dict[str, Kind] = {
    "bad_request": Kind(400, "The request cannot be read: damaged multipart, or fields that do not belong."),
    "missing_image": Kind(400, "No image was sent: multipart without the field `image`, or an empty body."),
    "empty_image": Kind(400, "The image field is there but holds 0 bytes."),
    "bad_image": Kind(400, "The image is damaged or truncated and cannot be decoded."),
    "invalid_parameter": Kind(400, "A query parameter or header is outside its range."),
    "unauthorized": Kind(401, "No API key was sent, or one that is not in `api_keys_file`."),
    "not_found": Kind(404, "There is no such route."),
    "unknown_model": Kind(404, "No model of that name and version is served."),
    "method_not_allowed": Kind(405, "The route does not answer this HTTP method."),
    "body_timeout": Kind(408, "The request body came too slowly: see `body_timeout_ms`. The connection is closed."),
    "not_a_classifier": Kind(409, "The bundle has no labels: it can caption, not classify."),
    "body_too_large": Kind(413, "The request body is larger than `max_body_bytes`."),
    "image_too_large": Kind(
        413, "The image has more pixels than `max_pixels`, or a side above 30,000; nothing is decoded."
    ),
    "image_too_costly": Kind(413, "Decoding the image takes more processor time or memory than one photo may have."),
    "too_many_images": Kind(413, "More images than `max_images` in one request."),
    "unsupported_format": Kind(415, "Not an image, or not JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC."),
    "unsupported_encoding": Kind(
        415, "The body has a `Content-Encoding`; gzip and deflate are read where `accept_compressed` is set."
    ),
    "headers_too_large": Kind(
        431, "The request has over 256 headers, or over 64 KiB of headers, or of trailers and chunk heads."
    ),
    "internal_error": Kind(500, "A fault of the service; it is logged."),
    "engine_failed": Kind(
        500, "The engine raised an error or gave no numbers for the batch of this request; it is logged."
    ),
    "not_ready": Kind(503, "The model is still loading or warming up, or failed to load. Try again later."),
    "engine_stuck": Kind(
        503, "An engine call has run for longer than `stuck_seconds`; liveness fails until a restart."
    ),
    "overloaded": Kind(
        503,
        "A line is full or too long to be answered in time, or there are `max_connections`, `max_requests` or "
        "`max_bodies_bytes` at a time. Try again after `Retry-After` seconds.",
    ),
    "deadline_exceeded": Kind(504, "The request waited longer than `request_timeout_ms` and was dropped."),
}


class ErrorBody(BaseModel):
    """The one error shape."""

    error: str = Field(description="a sentence for people")
    error_type: str = Field(description="a slug for programs", json_schema_extra={"enum": list(ERRORS)})


class ServiceError(Exception):
    """An error with a slug of `ERRORS` and a sentence for the client."""

    def __init__(self, slug: str, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.slug = slug
        self.retry_after = retry_after  # seconds, sent with `overloaded` and `not_ready`


def body_of(error: Exception) -> ErrorBody:
    """The body for an exception of ours; anything else is an `internal_error` without its text."""
    if isinstance(error, ServiceError | PhotoError):
        return ErrorBody(error=str(error), error_type=error.slug)
    return ErrorBody(error="The service failed on this request; the fault is logged.", error_type="internal_error")


def forget_frames(error: BaseException | None) -> None:
    """Let go of what an error passed through: its traceback holds every variable there, the photo
    among them.

    An error that a future brought is in a ring with them, which the garbage collector alone would
    find, minutes later.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__context__


def overloaded(why: str, seconds: float) -> ServiceError:
    """With the whole seconds until there is room, 1 to `LONGEST_RETRY`."""
    wait = min(LONGEST_RETRY, max(1, math.ceil(seconds)))
    return ServiceError("overloaded", f"{why} Try again in {wait} s.", retry_after=wait)


def error_response(slug: str, message: str, retry_after: int = 1) -> JSONResponse:
    """The HTTP answer for a slug of the table; `retry_after` in seconds where trying again helps."""
    headers = {"Retry-After": str(retry_after)} if slug in ("overloaded", "not_ready") else {}
    if slug == "unauthorized":
        headers["WWW-Authenticate"] = 'Bearer realm="food-vision"'
    if slug == "body_timeout":
        headers["Connection"] = "close"  # the rest of the body may still come, and is no next request
    note_error(slug)
    body = ErrorBody(error=message, error_type=slug).model_dump()
    return JSONResponse(body, status_code=ERRORS[slug].status, headers=headers)


def install_handlers(app: FastAPI) -> None:
    """Make every error of the application take the one shape."""

    @app.exception_handler(ServiceError)
    @app.exception_handler(PhotoError)
    async def ours(request: Request, error: Exception) -> JSONResponse:
        body = body_of(error)
        forget_frames(error)
        return error_response(body.error_type, body.error, getattr(error, "retry_after", 1))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][1:])
        return error_response("invalid_parameter", f"The parameter {name} is wrong: {first['msg']}.")

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        prefix, path = prefix_of(request.scope), request.scope["path"]
        if error.status_code == 404:
            return error_response("not_found", f"There is no route {prefix}{path}; see {prefix}/docs.")
        if error.status_code == 405:
            answer = error_response(
                "method_not_allowed", f"The route {prefix}{path} does not answer {request.method}; see {prefix}/docs."
            )
            answer.headers.update(error.headers or {})
            answer.headers["Allow"] = allowed_methods(request.app.routes, path)
            return answer
        return error_response("bad_request", str(error.detail))

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: Exception) -> JSONResponse:
        return error_response("bad_request", "The client closed the connection before its request was complete.")

    @app.exception_handler(Exception)
    async def internal(request: Request, error: Exception) -> JSONResponse:
        log.error("request failed", exc_info=error)  # the line of the request has its route
        body = body_of(error)
        return error_response(body.error_type, body.error)


def allowed_methods(routes: Iterable[BaseRoute], path: str) -> str:
    """The methods that are answered at a path, for `Allow`: Starlette names those of the first of several routes only."""
    found: set[str] = set()
    for route in iter_route_contexts(list(routes)):
        if route.path is not None and compile_path(route.path)[0].match(path):
            found |= set(route.methods or ())
    return ", ".join(sorted(found))


def responses(*slugs: str) -> dict[int | str, dict[str, object]]:
    """OpenAPI entries for the errors that a route can answer."""
    by_status: dict[int, list[str]] = {}
    for slug in slugs:
        by_status.setdefault(ERRORS[slug].status, []).append(slug)
    return {
        status: {
            "model": ErrorBody,
            "description": "\n\n".join(f"`{slug}`: {ERRORS[slug].meaning}" for slug in same),
            "content": {"application/json": {"examples": {slug: _example(slug) for slug in same}}},
        }
        for status, same in by_status.items()
    }


def _example(slug: str) -> dict[str, object]:
    return {"value": ErrorBody(error=ERRORS[slug].meaning, error_type=slug).model_dump()}
