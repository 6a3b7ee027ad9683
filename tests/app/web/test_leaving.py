"""Under load and in trouble: who went away is not computed, who cannot be served is told so, and nothing stays stuck."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from app.decoding.pool import DecodePool
from app.engine.engine import Engine, EngineError, Scores
from contract.pixels import Pixels
from tests.app.inside import Gate, clockless, running, until
from tests.app.other_bundles import only_captions
from tests.app.photos import assert_error
from tests.conftest import drawn_png

GOOD = drawn_png(0, size=32)


@contextmanager
def posted(url: str, photos: int = 1) -> Iterator[socket.socket]:
    """A connection that has sent a request and does not wait for the answer; closed, the client is gone."""
    route, body, kind = "/predict", GOOD, "image/png"
    if photos > 1:
        route, kind = "/predict/batch", "multipart/form-data; boundary=x"
        part = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n' + GOOD + b"\r\n"
        body = part * photos + b"--x--\r\n"
    where = urlsplit(url)
    with socket.create_connection((str(where.hostname), int(where.port or 0)), timeout=10) as connection:
        head = f"POST {route} HTTP/1.1\r\nHost: test\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        yield connection


@contextmanager
def gate_opened_at_the_end(gate: Gate) -> Iterator[None]:
    try:
        yield
    finally:
        gate.open.set()


def queued(url: str) -> int:
    waiting: int = httpx.get(f"{url}/info").json()["queued"]["predict"]
    return waiting


@pytest.mark.parametrize("photos", [1, 3])
def test_a_client_that_went_away_while_waiting_is_not_computed(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, photos: int
) -> None:
    with running(bundle, max_batch=4) as (url, app), ThreadPoolExecutor(2) as threads:
        clockless(app.state.service.model, monkeypatch)
        gate = Gate(monkeypatch)  # after the warm-up
        with gate_opened_at_the_end(gate):
            first = threads.submit(httpx.post, f"{url}/predict", content=GOOD)
            until(lambda: gate.calls == [1])
            with posted(url, photos):
                until(lambda: queued(url) == photos)
            until(lambda: queued(url) == 0)  # it leaves the queue at once
            last = threads.submit(httpx.post, f"{url}/predict", content=GOOD)
            until(lambda: queued(url) == 1)
        assert first.result().status_code == last.result().status_code == 200
        assert gate.calls == [1, 1]
        assert httpx.post(f"{url}/predict", content=GOOD).status_code == 200


def test_a_full_queue_is_told_to_come_back(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(bundle, max_batch=1, max_queue=1) as (url, _), ThreadPoolExecutor(2) as threads:
        gate = Gate(monkeypatch)  # after the warm-up
        with gate_opened_at_the_end(gate):
            first = threads.submit(httpx.post, f"{url}/predict", content=GOOD)
            until(lambda: gate.calls == [1])
            waiting = threads.submit(httpx.post, f"{url}/predict", content=GOOD)
            until(lambda: queued(url) == 1)
            refused = httpx.post(f"{url}/predict", content=GOOD)
            assert_error(refused, "overloaded")
            assert refused.headers["Retry-After"] == "1"
            assert httpx.get(f"{url}/health/ready").status_code == 200  # busy is not broken
        assert first.result().status_code == waiting.result().status_code == 200
        assert httpx.post(f"{url}/predict", content=GOOD).status_code == 200
        assert gate.calls == [1, 1, 1]


def test_a_passed_deadline_is_told_and_not_computed(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(bundle, max_batch=1) as (url, app), ThreadPoolExecutor(2) as threads:
        service, patient = app.state.service, app.state.service.settings
        clockless(app.state.service.model, monkeypatch)
        gate = Gate(monkeypatch)  # after the warm-up
        with gate_opened_at_the_end(gate):
            service.settings = patient.model_copy(update={"request_timeout_ms": 300})
            while not gate.calls:  # again where a busy machine needs longer to bring it to the engine
                first = threads.submit(httpx.post, f"{url}/predict", content=GOOD)
                until(lambda first=first: bool(gate.calls) or first.done())  # type: ignore[misc]
            assert_error(httpx.post(f"{url}/predict", content=GOOD), "deadline_exceeded")
            assert_error(first.result(), "deadline_exceeded")
        service.settings = patient
        assert httpx.post(f"{url}/predict", content=GOOD).status_code == 200
        assert gate.calls == [1, 1]  # the one that waited in vain was never computed


@pytest.mark.parametrize("error", [EngineError("not finite"), RuntimeError("out of memory")])
def test_an_engine_failure_is_told_without_its_text(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(engine: Engine, pixels: Pixels) -> Scores:
        raise error

    with running(bundle) as (url, _):
        with monkeypatch.context() as patch:
            patch.setattr(Engine, "score", fail)
            answer = httpx.post(f"{url}/predict", content=GOOD)
            assert_error(answer, "engine_failed")
            assert str(error) not in answer.text
        assert httpx.post(f"{url}/predict", content=GOOD).status_code == 200


@pytest.mark.parametrize(("kind", "tracebacks"), [(EngineError, 0), (RuntimeError, 1)])
def test_a_batch_that_failed_is_one_line_of_the_log(
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: type[Exception],
    tracebacks: int,
) -> None:
    with running(bundle) as (url, app), ThreadPoolExecutor(1) as thread:
        clockless(app.state.service.model, monkeypatch)
        gate = Gate(monkeypatch)
        gate.error = kind("no numbers")
        with gate_opened_at_the_end(gate):
            photos = [("images", ("a", GOOD))] * 6
            asked = thread.submit(httpx.post, f"{url}/predict/batch", files=photos, timeout=60)
            until(lambda: sum(gate.calls) + app.state.service.model._scores.depth == 6)
        results = asked.result().json()["results"]
    assert [one["error_type"] for one in results] == ["engine_failed"] * 6
    why = "failed on this batch" if tracebacks else "gave no usable answer"
    assert {one["error"] for one in results} == {f"The engine {why}; the fault is logged."}
    assert len(gate.calls) == 2
    lines = [one for one in caplog.records if one.levelname == "ERROR"]
    assert [one.getMessage() for one in lines] == [f"engine: no numbers (a batch of {size})" for size in gate.calls]
    assert [bool(one.exc_info) for one in lines] == [tracebacks > 0] * 2


def test_numbers_that_are_not_finite_are_an_engine_failure(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(engine: Engine, pixels: Pixels) -> np.ndarray:
        real: np.ndarray = encode(engine, pixels)
        return np.full_like(real, np.nan)

    with running(bundle) as (url, _):
        encode = Engine.encode
        monkeypatch.setattr(Engine, "encode", nothing)
        assert_error(httpx.post(f"{url}/predict", content=GOOD), "engine_failed")
        assert_error(httpx.post(f"{url}/caption", content=GOOD), "engine_failed")


def test_an_unforeseen_fault_is_told_without_its_text(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> Pixels:
        raise RuntimeError("secret")

    with running(bundle) as (url, _):
        monkeypatch.setattr(DecodePool, "decode", fail)
        answer = httpx.post(f"{url}/predict", content=GOOD)
        assert_error(answer, "internal_error")
        batch = httpx.post(f"{url}/predict/batch", files=[("images", ("a", GOOD))] * 2).json()["results"]
        assert [one["error_type"] for one in batch] == ["internal_error"] * 2
        assert "secret" not in answer.text + json.dumps(batch)


def test_a_model_that_cannot_load_is_never_ready(bundle: Path) -> None:
    with running(bundle, provider="tensorrt") as (url, _):
        answer = httpx.post(f"{url}/predict", content=GOOD)
        assert_error(answer, "not_ready")
        assert answer.headers["Retry-After"] == "1"
        assert_error(httpx.post(f"{url}/caption", content=GOOD), "not_ready")
        health = httpx.get(f"{url}/health/ready")
        assert_error(health, "not_ready")
        assert "'tensorrt'" in health.json()["error"]
        assert httpx.get(f"{url}/health/live").status_code == 200


def test_a_bundle_without_labels_can_only_caption(bundle: Path, tmp_path: Path) -> None:
    with running(only_captions(bundle, tmp_path / "captions")) as (url, _):
        assert_error(httpx.post(f"{url}/predict", content=GOOD), "not_a_classifier")
        for count in (1, 2):
            assert_error(httpx.post(f"{url}/predict/batch", files=[("images", GOOD)] * count), "not_a_classifier")
        assert_error(httpx.get(f"{url}/labels"), "not_a_classifier")
        answer = httpx.post(f"{url}/caption", content=GOOD)
        assert (answer.status_code, answer.json()["prediction"]) == (200, None)
        assert httpx.get(f"{url}/info").json()["labels"] == 0
