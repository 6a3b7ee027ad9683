"""The outermost layer: gives each request an id, and when it ends, logs it, counts it, and traces it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from typing import Protocol

from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute, Mount, compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.faults import ERRORS
from app.telemetry.logs import request_line
from app.telemetry.metrics import Metrics
from app.telemetry.record import Record, current
from app.telemetry.request_id import request_id

OTHER = "other"
# Answered without a key, left out of the requests in flight, and logged at level debug.
HEALTH_PATHS = frozenset({"/health", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"})
OPEN_PATHS = HEALTH_PATHS | {"/metrics", "/docs", "/openapi.json"}


class Tracer(Protocol):
    """What makes a trace of a request that has ended."""

    def ended(self, record: Record, headers: Iterable[tuple[bytes, bytes]]) -> None: ...


class RouteTable:
    """Which route's template a path belongs to; unknown paths are all `other`, so that nobody can invent label values.

    A table of its own rather than what the router found: a request may be refused before it is routed.
    """

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._fixed: set[str] = set()
        self._patterns: list[tuple[re.Pattern[str], str]] = []
        for route in iter_route_contexts(list(routes)):
            path = route.path
            if path is None:
                continue
            if isinstance(route.original_route, Mount):
                path = path.rstrip("/") + "/{path:path}"
            if "{" in path:
                pattern, template, _ = compile_path(path)
                self._patterns.append((pattern, template))
            else:
                self._fixed.add(path)

    def template(self, path: str) -> str:
        """`/v2/models/{name}` for `/v2/models/food`; `other` where there is no such route."""
        if path in self._fixed:
            return path
        return next((template for pattern, template in self._patterns if pattern.match(path)), OTHER)


class Observe:
    """ASGI application around another. `routes` is called at the first request, when all routes are there.

    `probed` are paths of health beyond `OPEN_PATHS`, as quiet as these.

    It is not installed with `add_middleware`: it must stand outside of the handler of unforeseen faults to see its answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Callable[[], Iterable[BaseRoute]],
        metrics: Metrics,
        tracer: Tracer | None = None,
        probed: frozenset[str] = frozenset(),
    ) -> None:
        self.app = app
        self._quiet = OPEN_PATHS | probed
        self._routes = routes
        self._table: RouteTable | None = None
        self._metrics = metrics
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self._table is None:
            self._table = RouteTable(self._routes())
        record = Record(request_id(scope["headers"]), scope["method"], self._table.template(scope["path"]))

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
    """`X-Request-Id`, and `Server-Timing` where one photo was answered (several have their timings in the body).

    https://www.w3.org/TR/server-timing/: durations in milliseconds.
    """
    found = [(b"x-request-id", record.id.encode())]
    if len(record.timings_ms) == 1 and record.error is None:
        stages = ", ".join(f"{stage};dur={value:.3f}" for stage, value in record.timings_ms[0].items())
        found.append((b"server-timing", stages.encode()))
    return found
