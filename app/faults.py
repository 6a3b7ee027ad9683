"""One table of faults: slug, HTTP status and meaning. Handlers (`app.web.errors`), metrics and docs
are made from it.

Every answer that is not 2xx has the body `{"error": "<sentence>", "error_type": "<slug>"}`.
"""

from __future__ import annotations

import math
import reprlib
from typing import NamedTuple

from pydantic import BaseModel, Field

from contract.errors import PhotoError

LONGEST_RETRY = 60  # seconds

_short = reprlib.Repr()
_short.maxlist = _short.maxdict = 4
_short.maxlevel = 3


class Fault(NamedTuple):
    """HTTP status and one sentence on what the slug means."""

    status: int
    meaning: str


ERRORS: dict[str, Fault] = {
    "bad_request": Fault(400, "The request cannot be read: damaged multipart, or fields that do not belong."),
    "missing_image": Fault(400, "No image was sent: multipart without the field `image`, or an empty body."),
    "empty_image": Fault(400, "The image field is there but holds 0 bytes."),
    "bad_image": Fault(400, "The image is damaged or truncated and cannot be decoded."),
    "invalid_parameter": Fault(400, "A query parameter or header is outside its range."),
    "unauthorized": Fault(401, "No API key was sent, or one that is not in `api_keys_file`."),
    "not_found": Fault(404, "There is no such route."),
    "unknown_model": Fault(404, "No model of that name and version is served."),
    "method_not_allowed": Fault(405, "The route does not answer this HTTP method."),
    "body_timeout": Fault(408, "The request body came too slowly: see `body_timeout_ms`. The connection is closed."),
    "not_a_classifier": Fault(409, "The bundle has no labels: it can caption, not classify."),
    "body_too_large": Fault(413, "The request body is larger than `max_body_bytes`."),
    "image_too_large": Fault(
        413, "The image has more pixels than `max_pixels`, or a side above 30,000; nothing is decoded."
    ),
    "image_too_costly": Fault(413, "Decoding the image takes more processor time or memory than one photo may have."),
    "too_many_images": Fault(413, "More images than `max_images` in one request."),
    "unsupported_format": Fault(
        415, "Not an image, or not JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or, with the extra `heic`, HEIC."
    ),
    "unsupported_encoding": Fault(
        415, "The body has a `Content-Encoding`; gzip and deflate are read where `accept_compressed` is set."
    ),
    "headers_too_large": Fault(
        431, "The request has over 256 headers, or over 64 KiB of headers, or of trailers and chunk heads."
    ),
    "internal_error": Fault(500, "A fault of the service; it is logged."),
    "engine_failed": Fault(
        500, "The engine raised an error or gave no numbers for the batch of this request; it is logged."
    ),
    "not_ready": Fault(503, "The model is still loading or warming up, or failed to load. Try again later."),
    "engine_stuck": Fault(
        503, "An engine call has run for longer than `stuck_seconds`; liveness fails until a restart."
    ),
    "overloaded": Fault(
        503,
        "A line is full or too long to be answered in time, or there are `max_connections`, `max_requests` or "
        "`max_bodies_bytes` at a time. Try again after `Retry-After` seconds.",
    ),
    "deadline_exceeded": Fault(504, "The request waited longer than `request_timeout_ms` and was dropped."),
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


def shown(value: object) -> str:
    """A client's value for a sentence: short, in ASCII, and cut before it is written out."""
    if isinstance(value, str | bytes):
        text = ascii(value[:60])
    else:
        text = _short.repr(value).encode("ascii", "backslashreplace").decode()
    return text if len(text) <= 60 else f"{text[:60]}…"
