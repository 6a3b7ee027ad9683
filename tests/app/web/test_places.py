"""Too many connections: who gives way to whom, and that a probe is always answered."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from app.web.places import AT_ONCE, OTHER_FILES, Doing, Places, Turns, connections_allowed
from tests.app.fake_time import play
from tests.app.inside import running
from tests.app.wire import POST, REQUEST, Wire, answer, reader, turns
from tests.conftest import drawn_png

BODY = POST + b"Content-Length: 9\r\n\r\n"
MOST = 16  # 15 of them for requests at work


class Holder:
    """Notes that it gave way."""

    def __init__(self, gone: list[int], number: int) -> None:
        self._gone, self._number = gone, number

    def give_way(self) -> None:
        self._gone.append(self._number)


def test_the_longest_wait_gives_way_first_and_work_never() -> None:
    gone: list[int] = []
    places, holders = Places(4), [Holder(gone, number) for number in range(9)]
    for one in holders[:4]:
        assert places.enter(one)
    places.put(holders[0], Doing.READING)
    places.put(holders[1], Doing.WORKING)
    places.put(holders[2], Doing.READING)
    assert places.enter(holders[4])
    assert gone == [3], "it waited, and the newcomer stays"
    places.put(holders[4], Doing.READING)
    places.put(holders[2], Doing.READING)  # still: it does not go to the end
    assert places.enter(holders[5])
    assert gone == [3, 0]
    for number in (2, 4, 5):
        places.put(holders[number], Doing.WORKING)
    assert places.full
    assert not places.enter(holders[6]), "nobody waits"
    assert gone == [3, 0]
    places.leave(holders[6])
    places.leave(holders[1])
    assert places.enter(holders[7])
    assert gone == [3, 0]


def test_what_waits_gives_way_to_a_newcomer() -> None:
    async def story() -> None:
        async with Wire(reader, most=MOST) as wire:
            idle, half, body = [await wire.client(sent) for sent in (REQUEST, b"GET /he", BODY)]
            others = [await wire.client(BODY) for _ in range(MOST - 3)]
            assert (await idle.read(b"0 bytes")).startswith(b"HTTP/1.1 200 ")
            for client, told in ((idle, b""), (half, b'"error_type":"overloaded"}'), (body, b"overloaded")):
                newcomer = await wire.client(REQUEST)
                assert (await newcomer.read(b"0 bytes")).startswith(b"HTTP/1.1 200 ")
                await newcomer.send(BODY)
                await turns()
                assert client.gone
                assert (await client.read()).endswith(told)
            assert [slug for slug, _ in wire.counted] == ["overloaded"], "that of a body is counted by the application"
            for client in others:
                await client.send(b"123456789")
                assert (await client.read(b"9 bytes")).startswith(b"HTTP/1.1 200 ")

    play(story())


def test_an_unread_answer_gives_way() -> None:
    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, bytes(4 << 20))

    async def story() -> None:
        async with Wire(large, most=MOST) as wire:
            clients = [await wire.client(REQUEST) for _ in range(MOST)]
            assert all(client.served.flow.write_paused for client in clients)
            await wire.client()
            assert await clients[0].gone_after() < 0.1
            assert not clients[1].served.transport.is_closing()

    play(story())


def test_requests_at_work_are_kept_and_probes_answered_beside_them() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/health":
            await asyncio.sleep(3600)
        await answer(send, b"hi")

    async def story() -> None:
        async with Wire(app, most=MOST, always=frozenset({"/health"})) as wire:
            at_work = [await wire.client(POST + b"\r\n") for _ in range(MOST - 1)]
            for _ in range(3 * MOST):
                probe = await wire.client(REQUEST)
                assert (await probe.read(b"hi")).startswith(b"HTTP/1.1 200 ")
                refused = await wire.client(POST + b"\r\n")
                found = await refused.read()
                assert found.startswith(b"HTTP/1.1 503 ")
                assert b"\r\nretry-after: 1\r\n" in found
            assert {slug for slug, _ in wire.counted} == {"overloaded"}
            assert not any(client.served.transport.is_closing() for client in at_work)

    play(story())


def test_with_nobody_waiting_a_newcomer_is_told_so() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(3600)

    async def story() -> None:
        async with Wire(app, most=MOST, always=frozenset({"/health"})) as wire:
            for _ in range(MOST):
                await wire.client(REQUEST)
            newcomer = await wire.client()
            assert b'"error_type":"overloaded"' in await newcomer.read()
            assert wire.counted == [("overloaded", 0)]

    play(story())


def test_a_server_answers_beside_more_silent_connections_than_it_has_places(bundle: Path) -> None:
    with running(bundle, max_connections=MOST) as (url, _), contextlib.ExitStack() as stack:
        for number in range(5 * MOST):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), 60))
            one.sendall(BODY if number % 2 else b"GET /he")
            if number % 8 == 0:
                assert httpx.get(f"{url}/health/live").status_code == 200
        assert httpx.post(f"{url}/predict", content=drawn_png(0)).status_code == 200


@pytest.mark.parametrize(("soft", "hard", "asked", "allowed"), [
    (20_000, 20_000, None, 1000),
    (1024, 4096, (2000 + OTHER_FILES, 4096), 1000),
    (1024, resource.RLIM_INFINITY, (2000 + OTHER_FILES, resource.RLIM_INFINITY), 1000),
    (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None, 1000),
    (512, 1024, (1024, 1024), 384),
    (64, 64, (64, 64), 16),
])  # fmt: skip
def test_the_limit_of_open_files_is_raised_or_obeyed(
    soft: int,
    hard: int,
    asked: tuple[int, int] | None,
    allowed: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    found: list[object] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: found.append(limits))
    assert connections_allowed(1000) == allowed
    assert found == ([asked] if asked else [])
    assert (f"Only {allowed} connections" in caplog.text) == (allowed < 1000)


def test_a_few_begin_in_each_turn() -> None:
    begun: list[int] = []

    async def story() -> None:
        turns = Turns()
        for number in range(2 * AT_ONCE + 1):
            turns.begin(partial(begun.append, number))
        assert begun == list(range(AT_ONCE))
        await asyncio.sleep(0)
        assert begun == list(range(2 * AT_ONCE))
        turns.begin(partial(begun.append, 2 * AT_ONCE + 1))
        await asyncio.sleep(0)
        assert begun == list(range(2 * AT_ONCE + 2))
        await asyncio.sleep(0)
        turns.begin(partial(begun.append, 0))
        assert begun[-1] == 0, "who comes alone does not wait"

    play(story())


def test_health_does_not_wait_and_who_left_is_not_begun() -> None:
    begun: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.append(scope["path"])
        await answer(send, b"hi")

    async def story() -> None:
        async with Wire(app, always=frozenset({"/health"})) as wire:
            clients = [await wire.client() for _ in range(5 * AT_ONCE)]
            clients[-1].served.data_received(b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n")
            for client in clients[:-1]:
                client.served.data_received(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
            clients[-1].served.data_received(b"")
            probe = await wire.client()
            probe.served.data_received(b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n")
            clients[4 * AT_ONCE].served.connection_lost(None)
            for client in (*clients[: 4 * AT_ONCE], *clients[4 * AT_ONCE + 1 :], probe):
                assert (await client.read(b"hi")).startswith(b"HTTP/1.1 200 ")
            assert begun.count("/health") == 2
            assert begun.index("/health") == 0
            assert len(begun) == 5 * AT_ONCE

    play(story())
