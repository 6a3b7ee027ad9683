"""OpenTelemetry traces, sent where the standard variable OTEL_EXPORTER_OTLP_ENDPOINT says;
otherwise nothing is imported.

The packages come with `pip install food-vision[otel]`. Spans are made when a request has ended,
from its record: a span for the request, and one below it for each stage of each photo.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from typing import Any

from app.telemetry.record import Record

log = logging.getLogger("food_vision")
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def make_tracer(name: str, version: str) -> RequestTracer | None:
    """A tracer if the environment names an endpoint and the packages are there, else None."""
    if not any(os.environ.get(one) for one in ENDPOINTS) or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        log.warning("no traces: %s is set, but %s; pip install 'food-vision[otel]'", " or ".join(ENDPOINTS), error)
        return None
    service = os.environ.get("OTEL_SERVICE_NAME", name)
    provider = TracerProvider(resource=Resource.create({"service.name": service, "service.version": version}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))  # reads the endpoint itself
    return RequestTracer(provider)


class RequestTracer:
    """Makes the spans of requests that have ended. `provider` is an OpenTelemetry `TracerProvider`."""

    def __init__(self, provider: Any) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = provider.get_tracer("food_vision")
        self._propagator = TraceContextTextMapPropagator()

    def ended(self, record: Record, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """A span for the request, below the one that `traceparent` names, and spans for the stages
        of its photos.

        Stages are laid end to end before the request's end: their lengths are measured, their
        places are not.
        """
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers if name in _CONTEXT}
        now = time.time_ns()
        began = now - int((time.perf_counter() - record.started) * 1e9)
        attributes = {
            "http.request.method": record.method,
            "http.route": record.route,
            "http.response.status_code": record.status,
            "http.request.body.size": record.bytes_in,
            "food_vision.outcome": record.outcome,
            "food_vision.request_id": record.id,
        }
        span = self._tracer.start_span(
            f"{record.method} {record.route}",
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            start_time=began,
            attributes=attributes,
        )
        if record.status >= 500 or not record.status:
            span.set_status(Status(StatusCode.ERROR, record.outcome))
        below = set_span_in_context(span)
        for timings in record.timings_ms:
            at = max(began, now - int(timings.get("total", 0) * 1e6))
            for stage, milliseconds in timings.items():
                if stage != "total":
                    end = at + int(milliseconds * 1e6)
                    self._tracer.start_span(stage, context=below, start_time=at).end(end)
                    at = end
        span.end(now)


_CONTEXT = (b"traceparent", b"tracestate")
