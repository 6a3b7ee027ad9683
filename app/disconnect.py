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
    mine, gone = asyncio.current_task(), False
    assert mine is not None

    async def watch() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        mine.cancel()

    watching = asyncio.ensure_future(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if not gone:  # somebody else's wish, such as the end of a drain
            raise
        mine.uncancel()
        raise ServiceError("bad_request", "The client closed the connection before the answer.") from None
    finally:
        watching.cancel()
