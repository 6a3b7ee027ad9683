"""`X-Request-Timeout-Ms` shortens the deadline of one request and of no other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from tests.app.inside import Gate, clockless, running, until
from tests.app.photos import assert_error
from tests.conftest import drawn_png

GOOD = drawn_png(0, size=32)


def test_the_header_is_the_deadline(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(bundle, max_batch=1) as (url, app), ThreadPoolExecutor(2) as threads:
        clockless(app.state.service.model, monkeypatch)
        gate = Gate(monkeypatch)
        patient = threads.submit(httpx.post, f"{url}/predict", content=GOOD)
        try:
            until(lambda: gate.calls == [1])
            hasty = {"X-Request-Timeout-Ms": "200"}
            assert_error(httpx.post(f"{url}/predict", content=GOOD, headers=hasty), "deadline_exceeded")
            assert_error(httpx.post(f"{url}/caption", content=GOOD, headers=hasty), "deadline_exceeded")
            batch = httpx.post(f"{url}/predict/batch", files=[("images", ("a", GOOD))] * 2, headers=hasty)
            assert [one["error_type"] for one in batch.json()["results"]] == ["deadline_exceeded"] * 2
            assert not patient.done(), "it came first: no deadline of the setting's has passed"
        finally:
            gate.open.set()
        assert patient.result().status_code == 200


def test_milliseconds_from_now_and_no_more_than_the_setting(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(bundle, request_timeout_ms=5000) as (_, app):
        monkeypatch.setattr("app.serving.service.time", SimpleNamespace(perf_counter=lambda: 1000.0))
        deadline = app.state.service._deadline
        assert [deadline(asked) for asked in (None, 200, 60_000)] == [1005.0, 1000.2, 1005.0]


def test_it_cannot_be_longer_than_the_setting(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(bundle, request_timeout_ms=200) as (url, _):
        gate = Gate(monkeypatch)
        try:
            answer = httpx.post(f"{url}/predict", content=GOOD, headers={"X-Request-Timeout-Ms": "60000"})
            assert_error(answer, "deadline_exceeded")
        finally:
            gate.open.set()


def test_what_is_no_number_of_milliseconds_is_refused(server: str) -> None:
    for route in ("/predict", "/caption"):
        good = httpx.post(server + route, content=GOOD, headers={"X-Request-Timeout-Ms": "5000"})
        assert good.status_code == 200
        for wrong in ("0", "-5", "soon", "", "1e3", "9" * 5000):
            bad = httpx.post(server + route, content=GOOD, headers={"X-Request-Timeout-Ms": wrong})
            assert_error(bad, "invalid_parameter")
            assert "X-Request-Timeout-Ms" in bad.json()["error"]
