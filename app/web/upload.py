"""From a request to photo bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.faults import ServiceError
from app.web.body import read_body
from app.web.errors import error_response
from app.web.multipart import HINT, is_multipart, photos_of


class Goodbye:
    """ASGI middleware: a request that is cut off because draining took too long still gets an answer of the one shape.

    While the service is `leaving`, each answer ends its connection: who keeps it would come back until the port
    closes, and might ask just then.
    """

    def __init__(self, app: ASGIApp, leaving: Callable[[], bool] = lambda: False) -> None:
        self.app, self.leaving = app, leaving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            if message["type"] == "http.response.start" and self.leaving():
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except asyncio.CancelledError:
            if scope["type"] != "http" or begun:
                raise
            sentence = "The service is stopping and could not finish this request in time. Send it again."
            await error_response("not_ready", sentence)(scope, receive, send)


async def read_photo(request: Request) -> bytes:
    """The bytes of the one photo of a request: multipart field `image`, or the raw body.

    Raises `ServiceError` with slug `missing_image`, `bad_request`, `too_many_images` or
    `body_too_large`.
    """
    if not is_multipart(request):
        return not_empty(await read_body(request))
    photos = await photos_of(request, max_files=4)
    if len(photos) > 1:
        raise ServiceError("too_many_images", "More than one image was sent. Use /predict/batch for several.")
    return photos[0]


def not_empty(body: bytes) -> bytes:
    """The body as it is. Raises `ServiceError` with slug `missing_image` for one of 0 bytes."""
    if not body:
        raise ServiceError("missing_image", f"The request body is empty. {HINT}")
    return body


async def read_photos(request: Request, max_images: int) -> list[bytes]:
    """The bytes of all photos of a multipart request, in order. Raises as `read_photo` does."""
    if not is_multipart(request):
        raise ServiceError("bad_request", "Send multipart with the field `images` once for each photo.")
    return await photos_of(request, max_files=max_images)
