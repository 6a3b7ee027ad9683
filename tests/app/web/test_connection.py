"""No connection is held for ever: how long heads, silence, late bodies and readers are waited for.

All in a time of the test's own. What is counted instead of timed: `test_connection_limits`.
"""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Receive, Scope, Send

from app.web import connection
from app.web.connection import LINGER_SECONDS
from app.web.places import Doing
from tests.app.fake_time import play
from tests.app.wire import PATIENCE, POST, REQUEST, Client, Wire, answer, hello, now, reader, turns

KEEP_ALIVE = 5.0  # uvicorn's


async def trickle(client: Client, data: bytes) -> None:
    """Send it again and again until the server has closed."""
    try:
        while True:
            await client.send(data)
            await asyncio.sleep(0.05)
    except ConnectionError:
        pass


@pytest.mark.parametrize("sent", [b"", b"POST /predict HT", b"POST /predict HTTP/1.1\r\nHost: t\r\nX-A: "])
def test_headers_that_do_not_come_are_not_waited_for(sent: bytes) -> None:
    async def story() -> None:
        async with Wire() as wire:
            began = now()
            client = await wire.client(sent)
            found = await client.read()
            assert now() - began == pytest.approx(PATIENCE)
            assert found.startswith(b"HTTP/1.1 408 ") == bool(sent), "one without a request is closed without a word"
            assert wire.counted == ([("body_timeout", len(sent))] if sent else [])

    play(story())


def test_a_head_in_pieces_has_no_more_time() -> None:
    async def story() -> None:
        async with Wire() as wire:
            client = await wire.client()
            for at in range(0, 10, 2):
                await client.send(REQUEST[at : at + 2])
                await asyncio.sleep(0.1)
            began = now()
            assert b'"error_type":"body_timeout"' in await client.read()
            assert now() - began == pytest.approx(0.1)

    play(story())


def test_a_second_request_may_come_late_but_not_slowly() -> None:
    async def story() -> None:
        async with Wire() as wire:
            client = await wire.client()
            for pause in (1, 0):
                await client.send(REQUEST)
                assert (await client.read(b"hi")).startswith(b"HTTP/1.1 200 ")
                await asyncio.sleep(pause)
            await client.send(b"GET /health")
            began = now()
            assert (await client.read()).startswith(b"HTTP/1.1 408 ")
            assert now() - began == pytest.approx(PATIENCE)

    play(story())


@pytest.mark.parametrize(("first", "seconds"), [(b"", PATIENCE), (REQUEST, KEEP_ALIVE)], ids=["new", "kept"])
def test_blank_lines_are_no_request(first: bytes, seconds: float) -> None:
    async def story() -> None:
        async with Wire() as wire:
            client = await wire.client(first)
            sending = asyncio.create_task(trickle(client, b"\r\n"))
            assert await client.gone_after() == pytest.approx(seconds, abs=0.1)
            await sending

    play(story())


def test_an_answer_before_the_end_of_the_body_closes_after_a_while() -> None:
    async def story() -> None:
        async with Wire(hello) as wire:
            client = await wire.client(POST + b"Content-Length: 1000\r\n\r\n")
            sending = asyncio.create_task(trickle(client, b"x"))
            found = await client.read()
            assert found.startswith(b"HTTP/1.1 200 ")
            assert b"connection: close" in found
            assert found.endswith(b"hi")
            assert await client.gone_after() == pytest.approx(LINGER_SECONDS, abs=0.1)
            await sending

    play(story())


def test_who_sends_on_after_an_early_answer_can_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    body = 1 << 20

    async def story(wanted: bool) -> None:
        async with Wire(hello) as wire:
            client = await wire.client(POST + b"Content-Length: %d\r\n\r\n" % body)
            try:
                for _ in range(body >> 14):
                    await client.send(bytes(1 << 14))
            except ConnectionError:
                assert not wanted
            else:
                assert wanted, "it was fed without limit"
                assert (await client.read()).endswith(b"hi")
            assert await client.gone_after() < LINGER_SECONDS + 0.1

    play(story(True))
    monkeypatch.setattr(connection, "LINGER_BYTES", body // 2)
    play(story(False))


def test_a_connection_whose_body_was_read_is_kept() -> None:
    async def story() -> None:
        async with Wire(reader) as wire:
            client = await wire.client()
            for _ in range(2):
                await client.send(POST + b"Content-Length: 1000\r\n\r\n" + bytes(400))
                await asyncio.sleep(0.1)
                await client.send(bytes(600))
                assert b"connection: close" not in await client.read(b"1000 bytes")

    play(story())


async def large(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with more than the buffers of the socket and of the server hold."""
    await answer(send, bytes(4 << 20))


async def first_large(scope: Scope, receive: Receive, send: Send) -> None:
    """`large` for what has no body, and `reader` for what has."""
    await (large if scope["method"] == "GET" else reader)(scope, receive, send)


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"], ids=["kept", "closed"])
def test_an_answer_that_nobody_reads_is_not_kept(close: bytes) -> None:
    async def story() -> None:
        async with Wire(large) as wire:
            client = await wire.client(b"GET / HTTP/1.1\r\nHost: t\r\n%b\r\n" % close)
            assert await client.gone_after() == pytest.approx(PATIENCE, abs=0.1)

    play(story())


def test_the_next_request_waits_until_the_answer_before_it_was_taken() -> None:
    begun = 0

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal begun
        begun += 1
        await large(scope, receive, send)

    async def story() -> None:
        async with Wire(counted) as wire:
            request = REQUEST[:-2] + b"X-A: %b\r\n\r\n" % bytes(2000).replace(b"\0", b"a")  # more than a step
            client = await wire.client(request * 3 + request[:1500])
            assert begun == 1
            left = 3 * (len(b"HTTP/1.1 200 OK\r\ncontent-length: 4194304\r\n\r\n") + (4 << 20))
            while left > 0:
                left -= len(await client.read(bytes(1)))
            await client.send(request[1500:])
            assert (await client.read(bytes(1))).startswith(b"HTTP/1.1 200 ")
            assert begun == 4

    play(story())


def test_a_request_whose_body_is_on_its_way_is_not_at_work_once_the_answer_before_it_was_taken() -> None:
    async def story() -> None:
        async with Wire(first_large) as wire:
            client = await wire.client(REQUEST + POST + b"Content-Length: 10\r\n\r\n")
            held = client.served.places._held
            left = len(b"HTTP/1.1 200 OK\r\ncontent-length: 4194304\r\n\r\n") + (4 << 20)
            while left > 0:
                left -= len(await client.read(bytes(1)))
            await turns()
            assert client.served in held[Doing.READING]
            await client.send(b"x" * 10)
            assert (await client.read(b"bytes")).endswith(b"10 bytes")

    play(story())


def test_a_client_that_reads_slowly_but_reads_gets_all() -> None:
    async def story() -> None:
        async with Wire(large) as wire:
            client = await wire.client(REQUEST)
            await asyncio.sleep(PATIENCE - 0.1)
            found = len((await client.read(bytes(1))).partition(b"\r\n\r\n")[2])
            while found < 4 << 20:
                await asyncio.sleep(0.001)
                found += len(await client.read(bytes(1)))
            await client.send(REQUEST)
            assert (await client.read(bytes(1))).startswith(b"HTTP/1.1 200 ")

    play(story())


def test_a_head_behind_a_request_at_work_has_time_until_that_is_answered() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(3 * PATIENCE)
        await answer(send, b"hi")

    async def story() -> None:
        async with Wire(slow) as wire:
            client = await wire.client(REQUEST + REQUEST[:9])
            assert (await client.read(b"hi")).startswith(b"HTTP/1.1 200 ")
            assert now() == pytest.approx(100 + 3 * PATIENCE)
            found = await client.read()
            assert now() == pytest.approx(100 + 4 * PATIENCE)
            assert found.startswith(b"HTTP/1.1 408 ")

    play(story())


def test_a_kept_connection_is_not_idle_while_its_request_is_at_work() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(2 * KEEP_ALIVE)
        await answer(send, b"hi")

    async def story() -> None:
        async with Wire(slow) as wire:
            client = await wire.client()
            for _ in range(2):
                await client.send(REQUEST)
                assert (await client.read(b"hi")).startswith(b"HTTP/1.1 200 ")

    play(story())


def test_a_server_that_stops_does_not_wait_for_the_rest_of_a_body() -> None:
    async def story() -> None:
        async with Wire(hello) as wire:
            client = await wire.client(POST + b"Content-Length: 1000\r\n\r\n")
            assert await client.read()
            client.served.shutdown()
            assert await client.gone_after() < 0.1

    play(story())
