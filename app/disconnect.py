"""Work that ends when its client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from app.errors import ServiceError

R = TypeVar("R")


async def unless_gone(request: Request, work: Coroutine[Any, Any, R]) -> R:
    """Await `work`, but cancel it as soon as the client goes away, so that its place in the batch is freed.

    The body of the request must have been read. Raises what `work` raises, and `ServiceError` for a client that left.
    """
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
