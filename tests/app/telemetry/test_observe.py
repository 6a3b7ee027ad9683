"""Every request has an id, one log line, and, where a photo was answered, its timings in a header."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.decoding.pool import DecodePool
from app.telemetry.logs import JsonLines, TextLines, request_line
from app.telemetry.metrics import Metrics, State
from app.telemetry.observe import refused_unread
from app.telemetry.record import Record, current
from tests.app.inside import running, until
from tests.app.logged import logged
from tests.app.photos import assert_error
from tests.conftest import drawn_png

GOOD = drawn_png(0, size=32)


class Lines(logging.Handler):
    """Keeps what is logged, as JSON."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))

    def of(self, route: str) -> list[dict[str, object]]:
        return [line for line in map(json.loads, self.texts) if line.get("route") == route]


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler, logger = Lines(), logging.getLogger("food_vision")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_one_line_for_each_request(bundle: Path, lines: Lines) -> None:
    with running(bundle) as (url, _):
        answer = httpx.post(f"{url}/predict?top_k=1", content=GOOD, headers={"X-Request-Id": "dinner-1"})
        assert answer.headers["X-Request-Id"] == "dinner-1"
        bad = httpx.post(f"{url}/predict", content=b"secret bytes", headers={"Authorization": "Bearer hidden"})
        assert_error(bad, "unsupported_format")
        assert len(bad.headers["X-Request-Id"]) == 32
        missing = httpx.get(f"{url}/private-path?password=hunter2")
        assert httpx.get(f"{url}/health/live").headers["X-Request-Id"]
        until(lambda: len(lines.of("/health/live")) == 1)
    first, second = lines.of("/predict")
    assert first.pop("milliseconds") > 0  # type: ignore[operator]
    assert {**first, "time": ""} == {
        "time": "", "level": "info", "logger": "food_vision.requests", "id": "dinner-1", "method": "POST",
        "route": "/predict", "status": 200, "outcome": "ok", "bytes_in": len(GOOD),
    }  # fmt: skip
    assert (second["status"], second["outcome"], second["bytes_in"]) == (415, "unsupported_format", 12)
    assert second["id"] == bad.headers["X-Request-Id"]
    assert [(line["status"], line["id"]) for line in lines.of("other")] == [(404, missing.headers["X-Request-Id"])]
    assert lines.of("/health/live")[0]["level"] == "debug"
    assert not any(word in line for line in lines.texts for word in ("hidden", "secret", "hunter2", "private-path"))


def test_server_timing(bundle: Path) -> None:
    with running(bundle) as (url, _):
        answer = httpx.post(f"{url}/predict", content=GOOD)
        entries = dict(part.split(";dur=") for part in answer.headers["Server-Timing"].split(", "))
        assert {stage: float(value) for stage, value in entries.items()} == answer.json()["timings_ms"]
        assert "generate;dur=" in httpx.post(f"{url}/caption", content=GOOD).headers["Server-Timing"]
        for other in (
            httpx.post(f"{url}/predict/batch", files=[("images", ("a", GOOD))] * 2),
            httpx.post(f"{url}/predict", content=b"x"),
            httpx.get(f"{url}/labels"),
        ):
            assert "Server-Timing" not in other.headers


def test_a_fault_has_an_id_too_and_the_log_finds_it(
    bundle: Path, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("a fault")

    with running(bundle, cors_origins="https://a.org") as (url, _):
        monkeypatch.setattr(DecodePool, "decode", fail)
        answer = httpx.post(f"{url}/predict", content=GOOD, headers={"Origin": "https://a.org"})
        assert_error(answer, "internal_error")
        assert answer.headers["Access-Control-Allow-Origin"] == "https://a.org"  # else the page cannot read the error
        until(lambda: bool(lines.of("/predict")))
    assert lines.of("/predict")[0]["outcome"] == "internal_error"
    faults = [line for line in map(json.loads, lines.texts) if "a fault" in line.get("exception", "")]
    assert [line["id"] for line in faults] == [answer.headers["X-Request-Id"]]


def test_what_was_refused_unread_has_a_line_and_an_id(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    metrics = Metrics(lambda: State(True, {}, 0.0, {}))
    monkeypatch.setattr(time, "perf_counter", lambda: 11.5)
    name = refused_unread(metrics, "headers_too_large", 10.0, 70_000)
    (line,) = caplog.records
    fields = json.loads(JsonLines().format(line))
    assert fields["id"] == name
    assert (fields["method"], fields["route"], fields["status"]) == ("-", "other", 431)
    assert (fields["outcome"], fields["bytes_in"]) == ("headers_too_large", 70_000)
    assert fields["milliseconds"] == 1500


def test_text_lines_name_the_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    token = current.set(record := Record("abc", "POST", "/predict", status=200, bytes_in=7))
    try:
        logging.getLogger("food_vision").warning("odd")
        request_line(record, quiet=False)
        texts = [TextLines().format(one) for one in caplog.records]
    finally:
        current.reset(token)
    assert texts[0] == "WARNING food_vision: odd (id abc)"
    assert texts[1].startswith("INFO food_vision.requests: POST /predict 200 ok ")
    assert texts[1].endswith(" 7 bytes in, id abc")


def test_json_logs_of_a_real_server(bundle: Path, tmp_path: Path) -> None:
    """Everything that it writes is JSON, uvicorn's lines too; and there is no second line for a request."""
    with logged(bundle, tmp_path / "log", "--threads", 1, "--decode-processes", 1) as (url, _, lines):
        httpx.get(f"{url}/labels")
    found = lines()
    assert {line["logger"] for line in found} >= {"uvicorn.error", "food_vision", "food_vision.requests"}
    assert [line["outcome"] for line in found if line.get("route") == "/labels"] == ["ok"]
    assert sum("/labels" in json.dumps(line) for line in found) == 1
