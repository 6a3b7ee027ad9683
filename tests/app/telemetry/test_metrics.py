"""`/metrics`: what happened is counted under the right labels, and nobody can invent labels."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.faults import ERRORS
from app.telemetry.load import Load
from app.telemetry.metrics import METRICS, PREFIX, REASONS, Metrics, State
from app.telemetry.record import Record
from tests.app.inside import Gate, running, until
from tests.app.photos import assert_error
from tests.conftest import drawn_png

GOOD = drawn_png(0, size=32)
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(url: str) -> Samples:
    answer = httpx.get(f"{url}/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((PREFIX + name, frozenset(labels.items())), 0)


def test_what_happened_is_counted(bundle: Path) -> None:
    with running(bundle, max_pixels=4000) as (url, _):
        for _ in range(3):
            httpx.post(f"{url}/predict", content=GOOD)
        httpx.post(f"{url}/caption", content=GOOD)
        assert_error(httpx.post(f"{url}/predict", content=b"no photo"), "unsupported_format")
        assert_error(httpx.post(f"{url}/predict", content=drawn_png(0, size=128)), "image_too_large")
        assert_error(httpx.get(f"{url}/predict"), "method_not_allowed")
        photos = [("images", ("a", GOOD)), ("images", ("b", b"x")), ("images", ("c", drawn_png(0, size=128)))]
        httpx.post(f"{url}/predict/batch", files=photos)
        assert_error(httpx.post(f"{url}/predict/batch", files=photos * 12), "too_many_images")
        found = scrape(url)
    outcomes = {"ok": 3, "unsupported_format": 1, "image_too_large": 1, "method_not_allowed": 1, "internal_error": 0}
    for outcome, count in outcomes.items():
        assert value(found, "requests_total", route="/predict", outcome=outcome) == count
    assert value(found, "requests_total", route="/predict/batch", outcome="ok") == 1
    assert value(found, "request_seconds_count", route="/predict") == 6
    assert value(found, "request_seconds_sum", route="/predict") > 0
    assert value(found, "rejected_total", reason="image_too_large") == 2  # a request, and a photo of the batch
    assert value(found, "rejected_total", reason="overloaded") == 0
    # no photo by itself: that request failed as a whole
    assert value(found, "rejected_total", reason="too_many_images") == 1
    photos_by_stage = {"decode": 5, "queue": 5, "encode": 5, "score": 4, "generate": 1}
    for stage, count in photos_by_stage.items():
        assert value(found, "stage_seconds_count", stage=stage) == count
        assert value(found, "stage_seconds_sum", stage=stage) >= 0
    assert found["process_resident_memory_bytes", frozenset()] > 1e6
    assert found["process_cpu_seconds_total", frozenset()] > 0
    assert 0 < value(found, "engine_work_seconds_total") <= value(found, "engine_busy_seconds_total")


def test_the_state_of_this_moment(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(bundle, max_batch=1, max_queue=1) as (url, app), ThreadPoolExecutor(2) as threads:
        gate = Gate(monkeypatch)
        first = threads.submit(httpx.post, f"{url}/predict", content=GOOD)
        try:
            until(lambda: gate.calls == [1])
            second = threads.submit(httpx.post, f"{url}/predict", content=GOOD)
            until(lambda: value(scrape(url), "queue_depth", queue="predict") == 1)
            assert_error(httpx.post(f"{url}/predict", content=GOOD), "overloaded")
            busy = scrape(url)
        finally:
            gate.open.set()
        assert first.result().status_code == second.result().status_code == 200
        idle = scrape(url)
        app.state.service.state = "draining"
        draining = scrape(url)
        app.state.service.state = "ready"
        info = httpx.get(f"{url}/info").json()
    assert value(busy, "requests_in_flight") == 2
    assert value(busy, "rejected_total", reason="overloaded") == 1
    assert value(busy, "queue_depth", queue="caption") == 0
    assert (value(busy, "photos_waiting"), value(idle, "photos_waiting")) == (1, 0)
    assert (value(idle, "requests_in_flight"), value(idle, "queue_depth", queue="predict")) == (0, 0)
    assert (value(idle, "ready"), value(draining, "ready")) == (1, 0)
    served = {"model": info["model"]["name"], "model_version": info["model"]["version"], "provider": "cpu"}
    assert value(idle, "info", **served, version=app.version) == 1


def test_nobody_invents_labels(bundle: Path) -> None:
    with running(bundle) as (url, _):
        for path in ("/a", "/b", "/predict/", "/predict/x", "/static/../x", "/%0aa", "/v9/models/x"):
            httpx.get(url + path)
        with socket.create_connection((str(urlsplit(url).hostname), int(urlsplit(url).port or 0))) as raw:
            raw.sendall(b"PROPFIND /c HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            raw.makefile("rb").read()
        httpx.post(f"{url}/predict", content=GOOD, headers={"X-Request-Id": "label-of-mine"})
        first = scrape(url)
        second = scrape(url)
    routes = {dict(labels)["route"] for name, labels in first if name == f"{PREFIX}requests_total"}
    assert routes <= {"other", "/predict", "/static/{path}", "/health/ready", "/metrics"}
    assert value(first, "requests_total", route="other", outcome="not_found") >= 6
    outcomes = {dict(labels)["outcome"] for name, labels in second if name == f"{PREFIX}requests_total"}
    assert outcomes <= {"ok", *ERRORS}
    assert "label-of-mine" not in str(second)


def test_before_it_is_ready(bundle: Path) -> None:
    with running(bundle, provider="tensorrt") as (url, _):
        assert_error(httpx.post(f"{url}/predict", content=GOOD), "not_ready")
        found = scrape(url)
    assert value(found, "ready") == 0
    assert value(found, "rejected_total", reason="not_ready") == 1
    assert {dict(labels)["provider"] for name, labels in found if name == f"{PREFIX}info"} == {""}


def test_openmetrics_for_who_accepts_it(server: str) -> None:
    answer = httpx.get(f"{server}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_the_table_is_what_there_is() -> None:
    metrics = Metrics(lambda: State(True, {"predict": 0}, 0.0, {}))
    other = Metrics(lambda: State(False, {"predict": 0}, 0.0, {}))  # two in one process do not meet
    other.ended(Record("a", "GET", "/labels", status=200))
    metrics.batch("predict", 3)
    names = {family.name for family in metrics.registry.collect() if not family.name.startswith("process_")}
    assert names == {(PREFIX + name).removesuffix("_total") for name in METRICS}
    assert set(REASONS) <= set(ERRORS)
    assert metrics.registry.get_sample_value(f"{PREFIX}batch_size_sum", {"queue": "predict"}) == 3
    labels = {"route": "/labels", "outcome": "ok"}
    assert metrics.registry.get_sample_value(f"{PREFIX}requests_total", labels) is None
    assert other.registry.get_sample_value(f"{PREFIX}requests_total", labels) == 1


def test_the_load_is_that_of_the_busiest_part() -> None:
    now, worked = 0.0, [0.0, 0.0]
    load = Load(processors=4, clock=lambda: now)
    metrics = Metrics(lambda: State(True, {}, 0.0, {}, 0, worked[0], worked[0] / 2, worked[1]), load)

    def told(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(PREFIX + name, labels)

    assert told("load_percent") == 0
    now, worked = 100.0, [90.0, 320.0]
    # Beside what is given there is the processor time of this test, which is the event loop's.
    assert [told("load_percent"), told("part_load_percent", part="host")] == pytest.approx([80, 80], abs=1)
    assert told("part_load_percent", part="engine") == 45
    assert (told("engine_busy_seconds_total"), told("engine_work_seconds_total")) == (90, 45)


def test_times_are_counted_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics(lambda: State(True, {}, 0.0, {}))
    monkeypatch.setattr("app.telemetry.metrics.time", SimpleNamespace(perf_counter=lambda: 12.5))
    two = [{"decode": 250.0, "score": 4.0, "total": 500.0}, {"decode": 500.0, "score": 4.0, "total": 800.0}]
    metrics.ended(Record("a", "POST", "/predict", started=10.0, status=200, timings_ms=list(two)))

    def seconds(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"{PREFIX}{name}_sum", labels)

    assert seconds("request_seconds", route="/predict") == 2.5
    assert {stage: seconds("stage_seconds", stage=stage) for stage in ("decode", "score")} == {
        "decode": 0.75,
        "score": pytest.approx(0.008),
    }


def test_a_request_that_fails_for_its_photos_is_one_refusal() -> None:
    metrics = Metrics(lambda: State(True, {}, 0.0, {}))
    metrics.ended(Record("a", "POST", "/", status=503, error="overloaded", refused=["overloaded"] * 3))
    metrics.ended(Record("b", "POST", "/", status=200, refused=["overloaded", "bad_image", "deadline_exceeded"]))

    def count(reason: str) -> float | None:
        return metrics.registry.get_sample_value(f"{PREFIX}rejected_total", {"reason": reason})

    assert [count(reason) for reason in ("overloaded", "deadline_exceeded", "bad_image")] == [2, 1, None]


def test_an_answer_that_nobody_named_is_filed_by_its_status() -> None:
    def outcome(status: int) -> str:
        return Record("a", "GET", "/", status=status).outcome

    found = {status: outcome(status) for status in (200, 204, 304, 401, 404, 405, 418, 500, 502, 0)}
    assert found == {
        200: "ok", 204: "ok", 304: "ok", 401: "unauthorized", 404: "not_found", 405: "method_not_allowed",
        418: "bad_request", 500: "internal_error", 502: "internal_error", 0: "internal_error",
    }  # fmt: skip
    assert set(found.values()) <= {"ok", *ERRORS}


def test_batches_and_the_oldest_in_the_queue(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    with running(bundle, max_batch=4) as (url, _), ThreadPoolExecutor(4) as pool:
        sent = [pool.submit(httpx.post, f"{url}/predict", content=GOOD)]
        until(lambda: len(gate.calls) == 1)
        sent += [pool.submit(httpx.post, f"{url}/predict", content=GOOD) for _ in range(3)]
        until(lambda: value(scrape(url), "queue_depth", queue="predict") == 3)
        first = value(scrape(url), "queue_oldest_seconds")
        until(lambda: value(scrape(url), "queue_oldest_seconds") > first)
        gate.open.set()
        assert {one.result().status_code for one in sent} == {200}
        found = scrape(url)
        assert value(found, "batch_size_count", queue="predict") == 2
        assert value(found, "batch_size_sum", queue="predict") == 4
        assert value(found, "queue_oldest_seconds") == 0


ACCEPTS = (
    "", "*/*", "*/*;q=", "*/*;q=x", "text/html", "text/plain", ";", ",", "=", "," * 10_000, "a" * 20_000,
    "\xa0", "text/plain\xe9",
    *(
        f"{kind};version={version}{rest}"
        for kind in ("text/plain", "application/openmetrics-text")
        for version in (
            "", "0.0.4", "1.0.0", "2.0.0", "1.x", "1.", ".", "x", "-1", "1.0.0-rc1", "1_0.0", '"1.0.0"', "\xb2",
            "1.0.0=2", "9" * 4000, "9" * 5000, "1" + ".0" * 5000,
        )
        for rest in ("", ";q=0.5", ";q=", ";escaping=dots", ";escaping=values", ";escaping=\xe9", ";escaping", ",*/*;q=0.1")
    ),
)  # fmt: skip


def test_whatever_is_accepted_the_answer_is_there(server: str) -> None:
    with httpx.Client(base_url=server) as client:
        for accept in ACCEPTS:
            answer = client.get("/metrics", headers=[(b"Accept", accept.encode("latin-1"))])
            assert answer.status_code == 200, accept[:200]
            assert answer.headers["Content-Type"].split(";")[0] in ("text/plain", "application/openmetrics-text")
            assert "ready 1.0" in answer.text, "the name before it may be escaped"
