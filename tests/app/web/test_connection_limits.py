"""No connection is fed without limit: what is no body is counted, and requests wait unread."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from starlette.types import Receive, Scope, Send

from app.web.body import LARGEST_HEAD
from app.web.connection import MOST_FIELDS, STEP
from tests.app.fake_time import play
from tests.app.inside import running
from tests.app.wire import PATIENCE, POST, REQUEST, Client, Wire, answer, hello, now, reader, turns

CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

ENDLESS = {
    "trailers": (CHUNKED + b"0\r\n", b"a:\r\n"),
    "one trailer": (CHUNKED + b"0\r\na:", b"aaaa"),
    "the name of a trailer": (CHUNKED + b"0\r\n", b"aaaa"),
    "a chunk's extension": (CHUNKED + b"1;", b"aaaa"),
    "a chunk's size": (CHUNKED, b"0000"),
    "chunks of one byte": (CHUNKED, b"1\r\na\r\n"),
    "chunks with extensions": (CHUNKED, b"1;aaaaaaaa\r\na\r\n"),
}


async def feed(client: Client, one: bytes, most: int = 1 << 20) -> int:
    """Bytes sent until the server has answered, or `most`."""
    piece, sent = one * (8192 // len(one)), 0
    with contextlib.suppress(ConnectionError):
        while sent < most and not client.served.transport.is_closing():
            await client.send(piece)
            await turns()
            sent += len(piece)
    return sent


@pytest.mark.parametrize("app", [reader, hello], ids=["read", "answered before"])
@pytest.mark.parametrize("name", ENDLESS)
def test_what_is_no_body_has_an_end(name: str, app: Callable[..., object]) -> None:
    async def story() -> None:
        async with Wire(app) as wire:  # type: ignore[arg-type]
            first, more = ENDLESS[name]
            client = await wire.client(first)
            assert await feed(client, more) < LARGEST_HEAD * 1.5
            found = await client.read()
            assert b"connection: close" in found
            assert found.endswith(b"headers_too_large" if app is reader else b"hi")
            assert wire.counted == [], "the application knows of it, and counts it itself"

    play(story())


@pytest.mark.parametrize("first", [b"", REQUEST], ids=["new", "kept"])
@pytest.mark.parametrize(("begin", "more"), [
    (b"", b"\r\n"), (b"", b"a"), (b"GET /", b"a"), (b"GET / HTTP/1.1\r\na: ", b"a"), (b"GET / HTTP/1.1\r\n", b"a:\r\n"),
], ids=["blank lines", "no HTTP", "a path", "a field", "fields"])  # fmt: skip
def test_a_head_has_an_end(first: bytes, begin: bytes, more: bytes) -> None:
    async def story() -> None:
        async with Wire() as wire:
            client = await wire.client(first)
            if first:
                await client.read(b"hi")
            if begin:
                await client.send(begin)
            assert await feed(client, more) < LARGEST_HEAD * 1.5
            slug = "bad_request" if (begin, more) == (b"", b"a") else "headers_too_large"
            assert slug.encode() in await client.read()
            assert [counted for counted, _ in wire.counted] == [slug]

    play(story())


@pytest.mark.parametrize(("fields", "status"), [(MOST_FIELDS, 200), (MOST_FIELDS + 1, 431)])
def test_fields_are_counted(fields: int, status: int) -> None:
    async def story() -> None:
        async with Wire() as wire:
            client = await wire.client(REQUEST[:-2] + b"a:\r\n" * (fields - 1) + b"\r\n")
            assert (await client.read(b"hi" if status == 200 else None)).startswith(b"HTTP/1.1 %d " % status)

    play(story())


def test_trailers_are_read_and_forgotten() -> None:
    seen: list[list[tuple[bytes, bytes]]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await reader(scope, receive, send)
        seen.append(scope["headers"])

    async def story() -> None:
        async with Wire(app) as wire:
            client = await wire.client()
            for _ in range(2):
                await client.send(CHUNKED + b"3;a=b\r\nabc\r\n0\r\nExpect: 100-continue\r\nX-Api-Key: k\r\n\r\n")
                assert (await client.read(b"3 bytes")).startswith(b"HTTP/1.1 200 ")
        assert seen == [[(b"host", b"t"), (b"transfer-encoding", b"chunked")]] * 2

    play(story())


@pytest.mark.parametrize(("size", "count"), [(1, 12_000), (110, 20_000), (8192, 200)])
def test_bodies_in_ordinary_chunks_are_read(size: int, count: int) -> None:
    async def story() -> None:
        async with Wire(reader) as wire:
            client = await wire.client(CHUNKED)
            chunk = b"%x\r\n" % size + bytes(size) + b"\r\n"
            for at in range(0, count, 100):
                await client.send(chunk * min(100, count - at))
            await client.send(b"0\r\n\r\n")
            assert (await client.read(b"bytes")).endswith(b"%d bytes" % (size * count))

    play(story())


@pytest.mark.parametrize("size", [60_000, 70_000, 250_000])
def test_a_body_that_comes_at_once_is_read(size: int) -> None:
    async def story() -> None:
        async with Wire(reader) as wire:
            client = await wire.client()
            for _ in range(2):
                client.served.data_received(POST + b"Content-Length: %d\r\n\r\n" % size + bytes(size))
                assert (await client.read(b"bytes")).endswith(b"%d bytes" % size)

    play(story())


def test_a_broken_chunk_is_refused_through_the_application() -> None:
    async def story() -> None:
        async with Wire(reader) as wire:
            client = await wire.client(CHUNKED + b"3\r\nabc\r\nno size\r\n")
            found = await client.read()
            assert found.startswith(b"HTTP/1.1 400 ")
            assert found.endswith(b"bad_request")

    play(story())


def test_a_server_refuses_endless_trailers_in_the_one_shape(bundle: Path) -> None:
    with running(bundle) as (url, app), socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), 60) as one:
        one.sendall(CHUNKED + b"0\r\n" + b"a:\r\n" * (LARGEST_HEAD // 4 + 1000))
        found = one.makefile("rb").read()
        assert found.startswith(b"HTTP/1.1 431 ")
        assert b"trailers" in found
        labels = {"route": "/predict", "outcome": "headers_too_large"}
        assert app.state.metrics.registry.get_sample_value("food_vision_requests_total", labels) == 1


# -- requests that do not wait for answers ----------------------------------------------------------------------------


def test_requests_behind_each_other_are_answered_in_order_and_wait_unread() -> None:
    ahead, clients = 0, list[Client]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal ahead
        ahead = max(ahead, len(clients[0].served.pipeline))
        await answer(send, scope["path"].encode())

    count = 2000
    wanted = [b"/%06d" % number for number in range(count)]

    async def story() -> None:
        async with Wire(app) as wire:
            client = await wire.client()
            clients.append(client)
            requests = (b"GET %b HTTP/1.1\r\nHost:\r\n\r\n" % one for one in wanted)
            sending = asyncio.create_task(client.send(b"".join(requests)))
            found = await client.read(wanted[-1])
            await sending
            assert [one[-7:] for one in found.split(b"HTTP/1.1 200 OK")[1:]] == wanted
            assert ahead < STEP / 20

    play(story())


@pytest.mark.parametrize(
    "body", [b"Content-Length: 3\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"]
)
def test_bodies_behind_each_other(body: bytes) -> None:
    async def story() -> None:
        async with Wire(reader) as wire:
            client = await wire.client()
            await client.send((POST + body + REQUEST) * 50)
            await client.send(POST + b"Content-Length: 4\r\n\r\nlast")
            found = await client.read(b"4 bytes")
            assert [one[-7:] for one in found.split(b"HTTP/1.1 200 OK")[1:-1]] == [b"3 bytes", b"0 bytes"] * 50

    play(story())


SLOW = {
    "no body": REQUEST,
    "a body": POST + b"Content-Length: 3\r\n\r\nabc",
    "chunks": CHUNKED + b"3\r\nabc\r\n0\r\n\r\n",
    "a wish": POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc",
}
WRONG = {
    "garbage": (b"\0", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "many fields": (b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 300, 431),
    "70 KB": (b"GET / HTTP/1.1\r\nX-A: " + b"a" * 70_000, 431),
    "unfinished": (b"GET / HTTP/1.1\r\nHost:", 408),
}


@pytest.mark.parametrize("apart", [False, True], ids=["at once", "apart"])
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("first", SLOW)
def test_a_wrong_head_is_refused_after_the_answers_before_it(first: str, wrong: str, apart: bool) -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(1)
        await reader(scope, receive, send)

    async def story() -> None:
        async with Wire(slow) as wire:
            sent, status = WRONG[wrong]
            client = await wire.client(b"" if apart else SLOW[first] * 2 + sent)
            for piece in (SLOW[first], SLOW[first], sent) if apart else ():
                await client.send(piece)
                await turns()
            one, other, refusal = (await client.read()).split(b"HTTP/1.1 ")[1:]
            assert one == other
            assert one.startswith(b"200 ")
            assert one.endswith(b"0 bytes" if first == "no body" else b"3 bytes")
            assert refusal.startswith(b"%d " % status)
            assert now() == pytest.approx(102 + (PATIENCE if status == 408 else 0))

    play(story())


def test_a_wish_to_continue_is_granted_when_the_body_is_read() -> None:
    async def story() -> None:
        async with Wire(reader) as wire:
            client = await wire.client(POST + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
            assert await client.read(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(b"abc")
            assert (await client.read(b"3 bytes")).startswith(b"HTTP/1.1 200 ")
        async with Wire(hello) as wire:
            client = await wire.client(POST + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
            assert (await client.read()).startswith(b"HTTP/1.1 200 "), "nothing is granted by an answer"

    play(story())
