"""Either side leaves before the answer: the client, or the service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.faults import ServiceError
from app.web.errors import error_response

R = TypeVar("R")
UNWATCHED = 0.05  # seconds; most work is done sooner, and to watch for its client would take a task for nothing


async def unless_gone(request: Request, work: Coroutine[Any, Any, R]) -> R:
    """Await `work`, but cancel it when the client goes away, so that its place in the batch is
    freed.

    That is noticed at once, but not before the work has lasted for `UNWATCHED` seconds. The body of
    the request must have been read. Raises what `work` raises, and `ServiceError` for a client that
    left.
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


class Goodbye:
    """ASGI middleware: a request that is cut off because draining took too long still gets an
    answer of the one shape.

    While the service is `leaving`, each answer ends its connection: who keeps it would come back
    until the port closes, and might ask just then.
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
