"""What is checked before a byte of a body is asked for, and the budget that all bodies share."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from app import heap
from app.faults import ServiceError
from app.web.body import READ_AT_ONCE, UNHURRIED, BodyLimit, Budget
from tests.app.fake_time import play
from tests.app.inside import Gate, running, until
from tests.app.photos import assert_error
from tests.conftest import drawn_png

GOOD = drawn_png(0, size=32)
FORM = "Content-Type: multipart/form-data; boundary=cut\r\n"
LIMIT, PATIENCE = 1000, 0.6


def ask(length: int | None = None, expect: str = "", path: str = "/predict") -> bytes:
    """The head of a POST request."""
    declared = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"POST {path} HTTP/1.1\r\nHost: t\r\n{declared}\r\n{expect}\r\n".encode()


# -- the budget -------------------------------------------------------------------------------------------------------


class Story:
    """A `BodyLimit` with a budget, and requests to it; `asked` counts the times a client's body was
    asked for.
    """

    def __init__(self, most_bytes: int = LIMIT, most_requests: int = 2) -> None:
        self.budget = Budget(most_bytes, most_requests)
        self.asked = 0
        self.check: Callable[[], None] = lambda: None

    async def request(
        self,
        pieces: list[bytes],
        *,
        declared: int | None = None,
        whole: bool = True,
        gone: bool = False,
        then: Callable[[], Awaitable[None]] | None = None,
    ) -> str:
        """The slug of the refusal, or `ok`: a client that sends the pieces; `then` is the route's
        work afterwards.
        """
        left = list(pieces)

        async def receive() -> Message:
            self.asked += 1
            if not left:
                if not gone:
                    await asyncio.sleep(1000)
                return {"type": "http.disconnect"}
            data = left.pop(0)
            await asyncio.sleep(0)
            return {"type": "http.request", "body": data, "more_body": bool(left) or not whole}

        async def route(scope: Scope, receive: Receive, send: Send) -> None:
            while (message := await receive()).get("more_body"):
                pass
            if message["type"] == "http.request" and then is not None:
                await then()

        async def send(message: Message) -> None:
            raise AssertionError(message)

        headers = [(b"content-length", str(declared).encode())] if declared is not None else []
        limits = BodyLimit(route, LIMIT, PATIENCE, budget=self.budget, check=lambda: self.check())
        try:
            await limits({"type": "http", "method": "POST", "headers": headers}, receive, send)
        except ServiceError as error:
            return error.slug
        return "ok"

    @property
    def held(self) -> tuple[int, int]:
        return self.budget.bytes, self.budget.requests


def test_nothing_is_asked_for_that_could_not_be_answered() -> None:
    async def story() -> None:
        one = Story(most_requests=1)

        def not_ready() -> None:
            raise ServiceError("not_ready", "Not yet.")

        one.check = not_ready
        assert await one.request([b"a"]) == "not_ready"
        one.check = lambda: None
        one.budget.enter(0)
        assert await one.request([b"a"]) == "overloaded"
        one.budget.leave(0)
        one.budget.hold(LIMIT - 99)
        assert await one.request([b"a"], declared=100) == "overloaded"
        assert one.asked == 0
        assert await one.request([b"a" * 99], declared=99) == "ok"

    play(story())


def test_what_has_come_counts_until_the_answer() -> None:
    async def story() -> None:
        one, end = Story(most_requests=3), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            first = group.create_task(one.request([b"a" * 300] * 2, then=end.wait))  # type: ignore[arg-type]
            idle = group.create_task(one.request([b"a"], declared=LIMIT, whole=False))  # promises much, sends little
            await asyncio.sleep(0.1)
            assert one.held == (601, 2)
            assert await one.request([b"a" * 300] * 2) == "overloaded"  # chunked: refused at its second piece
            assert await one.request([b"a" * 300], declared=300) == "ok"
            assert one.held == (601, 2)
            end.set()
        assert (first.result(), idle.result()) == ("ok", "body_timeout")
        assert one.held == (0, 0)

    play(story())


async def fail() -> None:
    raise RuntimeError("a fault of ours")


PATHS: dict[str, dict[str, Any]] = {
    "answered": {"pieces": [b"a" * 500] * 2},
    "empty": {"pieces": [b""]},
    "gone in its body": {"pieces": [b"a" * 500], "whole": False, "gone": True},
    "silent": {"pieces": [b"a" * 500], "whole": False},
    "too large": {"pieces": [b"a" * 500] * 3},
    "a fault": {"pieces": [b"a" * 500], "then": fail},
}


@pytest.mark.parametrize("name", PATHS)
def test_all_is_given_back_however_it_ends(name: str) -> None:
    async def story() -> None:
        one = Story()
        try:
            await one.request(**PATHS[name])
        except RuntimeError:
            assert name == "a fault"
        assert one.held == (0, 0)
        assert one.asked > 0

    play(story())


@pytest.mark.parametrize("whole", [True, False])
def test_all_is_given_back_by_a_request_that_is_cancelled(whole: bool) -> None:
    async def story() -> None:
        one = Story()
        task = asyncio.create_task(one.request([b"a" * 500], whole=whole, then=asyncio.Event().wait))  # type: ignore[arg-type]
        await asyncio.sleep(0.1)
        assert one.held == (500, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert one.held == (0, 0)

    play(story())


def test_large_bodies_take_turns() -> None:
    """So that whoever else comes waits for a few pieces only, not for one of each body."""
    pieces, turn, asked = 12, 0, Counter[int]()

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass

    async def client(limits: BodyLimit) -> None:
        left = pieces

        async def receive() -> Message:
            nonlocal left
            left -= 1
            if left < pieces - 1:
                asked[turn] += 1
            return {"type": "http.request", "body": bytes(UNHURRIED), "more_body": left > 0}

        await limits({"type": "http", "method": "POST", "headers": []}, receive, fail)  # type: ignore[arg-type]

    async def story() -> None:
        nonlocal turn
        most = 20 * pieces * UNHURRIED
        limits = BodyLimit(route, most, PATIENCE, budget=Budget(most, 20))
        bodies = [asyncio.create_task(client(limits)) for _ in range(20)]
        while not all(body.done() for body in bodies):
            await asyncio.sleep(0)
            turn += 1
        await asyncio.gather(*bodies)
        assert asked.total() == 20 * (pieces - 1)
        assert max(asked.values()) == READ_AT_ONCE

    play(story())


# -- what bodies leave behind -----------------------------------------------------------------------------------------


def test_the_heap_is_given_back_after_large_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "PAUSE", 0)
    trimmed = threading.Event()
    monkeypatch.setattr(heap, "trim", trimmed.set)

    async def story() -> None:
        found = heap.Heap()
        for _ in range(1000):
            found.freed(heap.LARGE - 1)
        assert found._timer is None
        for _ in range(heap.AFTER // heap.LARGE):
            found.freed(heap.LARGE)
        assert await asyncio.to_thread(trimmed.wait, 60)

    asyncio.run(story())


# -- a whole service --------------------------------------------------------------------------------------------------


def connected(url: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=60)


def first_line(connection: socket.socket, sent: bytes) -> bytes:
    connection.sendall(sent)
    return connection.makefile("rb").readline()


@pytest.mark.parametrize("settings", [{"max_requests": 1}, {"max_queue": 1, "max_batch": 1}, {"max_decoding": 1}])
def test_a_full_service_refuses_before_the_body(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    with running(bundle, decode_processes=1, **settings) as (url, app), ThreadPoolExecutor(2) as threads:
        gate, model = Gate(monkeypatch), app.state.service.model
        try:
            if "max_decoding" in settings:
                model._decoder._room = 0
            else:
                first = threads.submit(httpx.post, f"{url}/predict", content=GOOD)
                until(lambda: gate.calls == [1])
            if "max_queue" in settings:
                threads.submit(httpx.post, f"{url}/predict", content=GOOD)
                until(lambda: model._scores.depth == 1)
            for path in ("/predict", "/predict/batch", "/caption", "/"):
                with connected(url) as connection:
                    assert b" 503 " in first_line(connection, ask(5000, FORM + "Expect: 100-continue\r\n", path)), path
            refused = httpx.post(f"{url}/predict", content=GOOD)
            assert_error(refused, "overloaded")
            assert refused.headers["Retry-After"] == "1"
            for path in ("/health", "/metrics", "/labels", "/docs"):
                assert httpx.get(url + path).status_code == 200, path
            assert_error(httpx.post(f"{url}/nothing", content=GOOD), "not_found")
        finally:
            gate.open.set()
            model._decoder._room = max(model._decoder._room, 1)
        if "max_decoding" not in settings:
            assert first.result().status_code == 200
        assert httpx.post(f"{url}/predict", content=GOOD).status_code == 200
        until(lambda: app.state.budget.requests == app.state.budget.bytes == 0)


def test_room_for_the_body_is_said_to_who_asks_before(bundle: Path) -> None:
    with running(bundle) as (url, _), connected(url) as connection:
        assert first_line(connection, ask(len(GOOD), "Expect: 100-continue\r\n")) == b"HTTP/1.1 100 Continue\r\n"
        connection.sendall(GOOD)
        assert b" 200 " in connection.makefile("rb").readlines(2)[-1]


def test_the_order_of_refusals(bundle: Path, tmp_path: Path) -> None:
    """The first request has every fault; each that is told is mended before the next."""
    (tmp_path / "keys").write_text("key\n")
    with running(bundle, api_keys_file=tmp_path / "keys", max_body_bytes=20_000) as (url, app):
        app.state.service.state, app.state.budget.requests = "starting", 512
        headers, body, found = {"content-encoding": "gzip", "x-a": "a" * 65_500}, bytes(20_001), []
        for _ in range(7):
            response = httpx.post(f"{url}/predict", content=body, headers=headers)
            found.append(response.json().get("error_type", "ok"))
            match found[-1]:
                case "unauthorized":
                    headers["x-api-key"] = "key"
                case "headers_too_large":
                    del headers["x-a"]
                case "body_too_large":
                    body = GOOD
                case "unsupported_encoding":
                    del headers["content-encoding"]
                case "not_ready":
                    app.state.service.state = "ready"
                case "overloaded":
                    app.state.budget.requests = 0
    assert found == [
        "unauthorized", "headers_too_large", "body_too_large", "unsupported_encoding", "not_ready", "overloaded", "ok",
    ]  # fmt: skip
