"""Traces: a span for each request with its stages below; nothing is imported unless an endpoint is named."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from app.decoding.pool import DecodePool
from app.telemetry.tracing import ENDPOINTS, RequestTracer, make_tracer
from tests.app.inside import running, until
from tests.conftest import ROOT, drawn_png, serving

GOOD = drawn_png(0, size=32)
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("app.server.make_tracer", lambda name, version: RequestTracer(provider))
    return exporter


def ended(exporter: InMemorySpanExporter, name: str) -> tuple[ReadableSpan, list[ReadableSpan]]:
    """The one span of that name, and those below it."""
    until(lambda: any(span.name == name for span in exporter.get_finished_spans()))
    spans = exporter.get_finished_spans()
    (root,) = [span for span in spans if span.name == name]
    below = [span for span in spans if span.parent is not None and span.parent.span_id == root.context.span_id]
    return root, below


def test_a_request_and_its_stages(bundle: Path, exported: InMemorySpanExporter) -> None:
    with running(bundle) as (url, _):
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "Authorization": "Bearer hidden"}
        answer = httpx.post(f"{url}/predict", content=GOOD, headers=headers)
        root, stages = ended(exported, "POST /predict")
    assert answer.headers["X-Request-Id"] == TRACE
    assert root.parent is not None
    assert (f"{root.context.trace_id:032x}", f"{root.parent.span_id:016x}") == (TRACE, PARENT)
    assert root.kind is SpanKind.SERVER
    assert root.attributes is not None
    assert root.attributes["http.response.status_code"] == 200
    assert "hidden" not in str(root.attributes)
    found = {span.name: (span.end_time or 0) - (span.start_time or 0) for span in stages}
    timings = answer.json()["timings_ms"]
    assert set(found) == set(timings) - {"total"}
    for stage, nanoseconds in found.items():
        assert nanoseconds / 1e6 == pytest.approx(timings[stage], abs=0.01)
    assert all((span.start_time or 0) >= (root.start_time or 0) for span in stages)


def test_one_span_for_a_request_where_the_process_is_instrumented(
    bundle: Path, exported: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FastAPI makes spans of its own, where a global provider is set, unless it is told not to."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    monkeypatch.setattr("opentelemetry.trace.get_tracer_provider", lambda: provider)
    with running(bundle) as (url, _):
        httpx.get(f"{url}/labels")
        ended(exported, "GET /labels")
    assert [span.name for span in exported.get_finished_spans()] == ["GET /labels"]


def test_spans_reach_a_collector(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        monkeypatch.setenv(ENDPOINTS[0], f"http://127.0.0.1:{collector.server_port}")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "the-kitchen")
        with serving(bundle, "--threads", 1, "--decode-processes", 1) as url:
            assert httpx.post(f"{url}/predict", content=GOOD).status_code == 200
        collector.shutdown()  # the server has ended, and sent what it had
    assert {path for path, _ in received} == {"/v1/traces"}
    sent = b"".join(body if body[:2] != b"\x1f\x8b" else gzip.decompress(body) for _, body in received)
    assert all(text in sent for text in (b"the-kitchen", b"POST /predict", b"score"))


def test_a_fault_and_a_client_error(
    bundle: Path, exported: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError

    with running(bundle) as (url, _):
        httpx.get(f"{url}/nothing/to/see")
        client, below = ended(exported, "GET other")
        monkeypatch.setattr(DecodePool, "decode", fail)
        httpx.post(f"{url}/predict", content=GOOD)
        fault, _ = ended(exported, "POST /predict")
    assert (client.status.status_code, below) == (StatusCode.UNSET, [])
    assert (fault.status.status_code, fault.status.description) == (StatusCode.ERROR, "internal_error")


def test_off_unless_an_endpoint_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    assert make_tracer("a", "1") is None
    monkeypatch.setenv(ENDPOINTS[0], "http://127.0.0.1:1")
    assert isinstance(make_tracer("a", "1"), RequestTracer)
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert make_tracer("a", "1") is None


def test_a_missing_package_is_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv(ENDPOINTS[0], "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    assert make_tracer("a", "1") is None
    assert "food-vision[otel]" in caplog.text


def test_no_cost_when_off() -> None:
    code = "import sys, app.__main__; print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
