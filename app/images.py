"""From a request to photo bytes, and from bytes to pixels in a bounded pool of threads, never on the event loop."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import ServiceError, error_response
from app.multipart import HINT, is_multipart, photos_of
from contract.pixels import Pixels, photo_to_pixels


class Goodbye:
    """ASGI middleware: a request that is cut off because draining took too long still gets an answer of the one shape."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
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

    Raises `ServiceError` with slug `missing_image`, `bad_request`, `too_many_images` or `body_too_large`.
    """
    if not is_multipart(request):
        body = await request.body()
        if not body:
            raise ServiceError("missing_image", f"The request body is empty. {HINT}")
        return body
    photos = await photos_of(request, max_files=4)
    if len(photos) > 1:
        raise ServiceError("too_many_images", "More than one image was sent. Use /predict/batch for several.")
    return photos[0]


async def read_photos(request: Request, max_images: int) -> list[bytes]:
    """The bytes of all photos of a multipart request, in order. Raises as `read_photo` does."""
    if not is_multipart(request):
        raise ServiceError("bad_request", "Send multipart with the field `images` once for each photo.")
    return await photos_of(request, max_files=max_images)


class DecodePool:
    """Decodes photos in threads; more than `max_waiting` at once are refused with `overloaded`."""

    def __init__(self, threads: int, max_waiting: int, *, image_size: int, max_pixels: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._room = max_waiting
        self._image_size = image_size
        self._max_pixels = max_pixels

    async def decode(self, data: bytes, timeout: float) -> tuple[Pixels, float]:
        """uint8 pixels [S, S, 3] and the seconds it took, waiting for a thread included.

        Raises `PhotoError`, `ServiceError` with slug `overloaded`, and `TimeoutError` after `timeout` seconds; a photo
        that no thread has begun by then is not decoded at all.
        """
        if self._room <= 0:
            raise ServiceError("overloaded", "Too many photos are waiting to be decoded. Try again in a second.")
        self._room -= 1
        started = time.perf_counter()
        try:
            async with asyncio.timeout(timeout):
                pixels = await asyncio.get_running_loop().run_in_executor(self._pool, self._decode, data)
            return pixels, time.perf_counter() - started
        finally:
            self._room += 1

    def _decode(self, data: bytes) -> Pixels:
        return photo_to_pixels(data, self._image_size, max_pixels=self._max_pixels)

    def close(self) -> None:
        """Let running decodes end and refuse new ones."""
        self._pool.shutdown(wait=False, cancel_futures=True)
