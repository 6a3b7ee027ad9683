"""The outermost layer: each request gets an id, and when it ends, it is logged, counted, traced."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Protocol, TypeAlias

from app.faults import ERRORS
from app.telemetry.logs import request_line
from app.telemetry.metrics import Metrics
from app.telemetry.record import Record, current, request_id

OTHER = "other"  # the route of a path that has none

# ASGI's kinds, as `starlette.types` names them: this wing knows no web framework.
Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class Tracer(Protocol):
    """What makes a trace of a request that has ended."""

    def ended(self, record: Record, headers: Iterable[tuple[bytes, bytes]]) -> None: ...


class Observe:
    """ASGI application around another. `template` gives the route of a path: `/v2/models/{name}`.

    GET and HEAD of the `quiet` paths are left out of the requests in flight, and logged at level
    debug. It is not installed with `add_middleware`: it must stand outside of the handler of
    unforeseen faults to see its answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        template: Callable[[str], str],
        metrics: Metrics,
        tracer: Tracer | None = None,
        quiet: frozenset[str] = frozenset(),
    ) -> None:
        self.app = app
        self._quiet = quiet
        self._template = template
        self._metrics = metrics
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        record = Record(request_id(scope["headers"]), scope["method"], self._template(scope["path"]))

        async def counted() -> Message:
            message = await receive()
            record.bytes_in += len(message.get("body", b""))
            return message

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *_headers(record)]}
            await send(message)

        quiet = scope["method"] in ("GET", "HEAD") and scope["path"] in self._quiet
        token = current.set(record)
        if not quiet:
            self._metrics.in_flight.inc()
        try:
            await self.app(scope, counted, noted)
        except asyncio.CancelledError:
            record.error = record.error or "not_ready"  # cut off while the service stops
            raise
        except Exception:
            record.error = record.error or "internal_error"
            raise
        finally:
            if not quiet:
                self._metrics.in_flight.dec()
            self._metrics.ended(record)
            request_line(record, quiet=quiet)
            if self._tracer is not None:
                self._tracer.ended(record, scope["headers"])
            current.reset(token)


def refused_unread(metrics: Metrics, slug: str, began: float, bytes_in: int) -> str:
    """Count and log a request that was refused before its head was whole; gives it an id.

    `began` by `time.perf_counter`. What it asked for is not known: method and route stay open.
    """
    record = Record(request_id(()), "-", OTHER, began, ERRORS[slug].status, slug, bytes_in)
    metrics.ended(record)
    request_line(record, quiet=False)
    return record.id


def _headers(record: Record) -> list[tuple[bytes, bytes]]:
    """`X-Request-Id`, and `Server-Timing` where one photo was answered (several have their timings
    in the body).

    https://www.w3.org/TR/server-timing/: durations in milliseconds.
    """
    found = [(b"x-request-id", record.id.encode())]
    if len(record.timings_ms) == 1 and record.error is None:
        stages = ", ".join(f"{stage};dur={value:.3f}" for stage, value in record.timings_ms[0].items())
        found.append((b"server-timing", stages.encode()))
    return found
