"""Requests begin a few in each turn of the event loop, in their order, and health before them."""

from __future__ import annotations

import asyncio
from functools import partial

from starlette.types import Receive, Scope, Send

from app.web.turns import AT_ONCE, Turns
from tests.app.fake_time import play
from tests.app.wire import Wire, answer


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
