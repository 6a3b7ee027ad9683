"""Work that ends when its client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from app.faults import ServiceError

R = TypeVar("R")
UNWATCHED = 0.05  # seconds; most work is done sooner, and to watch for its client would take a task for nothing


async def unless_gone(request: Request, work: Coroutine[Any, Any, R]) -> R:
    """Await `work`, but cancel it when the client goes away, so that its place in the batch is freed.

    That is noticed at once, but not before the work has lasted for `UNWATCHED` seconds.
    The body of the request must have been read. Raises what `work` raises, and `ServiceError` for a client that left.
    """
    mine, gone, watching = asyncio.current_task(), False, None
    assert mine is not None

    async def watch() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        mine.cancel()

    def begin() -> None:
        nonlocal watching
        watching = asyncio.ensure_future(watch())

    soon = asyncio.get_running_loop().call_later(UNWATCHED, begin)
    try:
        return await work
    except asyncio.CancelledError:
        if not gone:  # somebody else's wish, such as the end of a drain
            raise
        mine.uncancel()
        raise ServiceError("bad_request", "The client closed the connection before the answer.") from None
    finally:
        soon.cancel()
        if watching is not None:
            watching.cancel()
