"""What an overloaded service says: two sentences, the time until there is room, and nothing decoded for the refused."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.decoding.pool import DecodePool
from app.serving.batcher import Batcher
from tests.app.inside import Gate, running, until
from tests.app.photos import assert_error
from tests.conftest import drawn_png

GOOD = drawn_png(0, size=32)


@contextmanager
def full(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, waiting: int, **settings: Any
) -> Iterator[tuple[str, Any]]:
    """A service whose calls take so long, by a clock that stands: one photo has just begun and `waiting` wait."""
    now = [0.0]
    gate = Gate(monkeypatch)
    gate.open.set()
    with running(bundle, max_batch=1, **settings) as (url, app), ThreadPoolExecutor(waiting + 1) as pool:
        batchers: list[Batcher[Any, Any]] = [app.state.service.model._scores, app.state.service.model._captions]
        for batcher in batchers:
            monkeypatch.setattr(batcher, "_clock", lambda: now[0])
            call = batcher.times.begin(1)
            now[0] += seconds
            batcher.times.end(call)
        gate.calls.clear()
        gate.open.clear()
        sent: list[Future[httpx.Response]] = [pool.submit(httpx.post, f"{url}/predict", content=GOOD)]
        try:
            until(lambda: len(gate.calls) == 1)
            sent += [pool.submit(httpx.post, f"{url}/predict", content=GOOD) for _ in range(waiting)]
            until(lambda: batchers[0].depth == waiting)
            with monkeypatch.context() as patch:
                patch.setattr(DecodePool, "decode", lambda *_: pytest.fail("a photo was decoded"))
                yield url, now
        finally:
            gate.open.set()
        assert [one.result().status_code for one in sent] == [200] * (waiting + 1)


def test_what_would_be_too_late_is_told_when_to_come_back(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with full(bundle, monkeypatch, 2.5, 3) as (url, now):
        hasty = {"X-Request-Timeout-Ms": "5000"}
        for route in ("predict", "caption"):
            answer = httpx.post(f"{url}/{route}", content=GOOD, headers=hasty)
            assert_error(answer, "overloaded")
            # 2.5 s run, 7.5 s wait, its own may take 3.125 s: 8.625 s more than the 4.5 s promised
            assert answer.headers["retry-after"] == "9"
            said = "Too many photos are waiting to answer this one before its deadline. Try again in 9 s."
            assert answer.json()["error"] == said
        for count, seconds in ((1, "9"), (2, "10")):  # two need 5 s: they are begun where nobody stands before them
            listed = httpx.post(f"{url}/predict/batch", files=[("images", ("a", GOOD))] * count, headers=hasty)
            assert_error(listed, "overloaded")
            assert listed.headers["retry-after"] == seconds, count
        now[0] += 2
        assert httpx.post(f"{url}/predict", content=GOOD, headers=hasty).headers["retry-after"] == "7"


def test_a_full_queue_has_room_when_the_running_call_is_done(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with full(bundle, monkeypatch, 2.5, 3, max_queue=3, request_timeout_ms=3_600_000) as (url, _):
        answer = httpx.post(f"{url}/predict", content=GOOD)
        assert_error(answer, "overloaded")
        assert answer.headers["retry-after"] == "3"
        assert answer.json()["error"] == "The queue is full (3 waiting). Try again in 3 s."


def test_nobody_is_sent_away_for_longer_than_a_minute(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with full(bundle, monkeypatch, 1000, 1, request_timeout_ms=36_000_000) as (url, _):
        hasty = {"X-Request-Timeout-Ms": "5000"}
        assert httpx.post(f"{url}/predict", content=GOOD, headers=hasty).headers["retry-after"] == "60"
