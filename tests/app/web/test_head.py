"""A wish for another protocol changes nothing: the body is read, what follows is a request of its own."""

from __future__ import annotations

import pytest
from starlette.types import Receive, Scope, Send

from tests.app.fake_time import play
from tests.app.wire import REQUEST, Wire, answer, turns

INSIDE = b"GET /labels HTTP/1.1\r\nHost: t\r\n\r\n"  # a body that would be a request
WISHES = {
    "any": b"Connection: Upgrade\r\nUpgrade: foo\r\n",
    "WebSocket": b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAA\r\n",
    "curl and Java": b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\nUpgrade: h2c\r\n",
    "a long head": b"X-A: %b\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n" % (b"a" * 1500),
}
BODIES = {
    "none": (b"", b"", b""),
    "length 0": (b"Content-Length: 0\r\n", b"", b""),
    "length": (b"Content-Length: %d\r\n" % len(INSIDE), INSIDE, INSIDE),
    "chunks": (
        b"Transfer-Encoding: chunked\r\n",
        b"%x;a=b\r\n%b\r\n0\r\nX-Trailer: a\r\n\r\n" % (len(INSIDE), INSIDE),
        INSIDE,
    ),
    "a megabyte": (b"Content-Length: %d\r\n" % (1 << 20), bytes(1 << 20), bytes(1 << 20)),
}


async def told(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what the request was."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    await answer(send, b"%b %b %d %r|" % (scope["method"].encode(), scope["raw_path"], len(body), body[:40]))


@pytest.mark.parametrize("apart", [False, True], ids=["at once", "apart"])
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("wish", WISHES)
def test_a_wish_takes_no_body_away_and_the_connection_goes_on(wish: str, body: str, apart: bool) -> None:
    field, sent, read = BODIES[body]
    head = b"POST /health HTTP/1.1\r\nHost: t\r\n" + WISHES[wish] + field + b"\r\n"
    wanted = [b"POST /health %d %r|" % (len(read), read[:40])] * 2 + [b"GET /health 0 b''|"]

    async def story() -> None:
        async with Wire(told) as wire:
            client = await wire.client()
            for piece in (head, sent, head, sent, REQUEST) if apart else (head + sent + head + sent + REQUEST,):
                await client.send(piece)
                await turns()
            found = await client.read(wanted[-1])
            assert [one.partition(b"\r\n\r\n")[2] for one in found.split(b"HTTP/1.1 200 OK\r\n")[1:]] == wanted
            assert b"connection: close" not in found
            assert not client.gone
            assert wire.counted == []

    play(story())


def test_a_body_is_asked_for_beside_a_wish() -> None:
    async def story() -> None:
        async with Wire(told) as wire:
            head = b"POST / HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 3\r\n"
            client = await wire.client(head + WISHES["any"] + b"\r\n")
            assert await client.read(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(b"abc" + REQUEST)
            assert b"POST / 3 b'abc'|" in await client.read(b"GET /health 0 b''|")

    play(story())


def test_who_wishes_and_closes_is_answered_once() -> None:
    async def story() -> None:
        async with Wire(told) as wire:
            wish = (
                b"POST / HTTP/1.1\r\nHost: t\r\nConnection: close, Upgrade\r\nUpgrade: foo\r\nContent-Length: 3\r\n\r\n"
            )
            client = await wire.client(wish + b"abc" + REQUEST)
            found = await client.read()
            assert found.endswith(b"POST / 3 b'abc'|")
            assert found.count(b"HTTP/1.1 ") == 1

    play(story())


@pytest.mark.parametrize("target", [b"t:443", b"/", b"http://t/", b"*"])
def test_a_tunnel_is_refused_and_what_would_go_through_it_is_no_request(target: bytes) -> None:
    async def story() -> None:
        async with Wire(told) as wire:
            client = await wire.client(b"CONNECT %b HTTP/1.1\r\nHost: t\r\n\r\n" % target + INSIDE)
            found = await client.read()
            assert found.startswith(b"HTTP/1.1 400 ")
            assert b"CONNECT is for proxies" in found
            assert found.count(b"HTTP/1.1 4") == 1
            assert [slug for slug, _ in wire.counted] == ["bad_request"]

    play(story())


def test_a_wish_beside_a_body_that_cannot_be_read_is_refused() -> None:
    async def story() -> None:
        async with Wire(told) as wire:
            head = b"POST / HTTP/1.1\r\nHost: t\r\n" + WISHES["any"] + b"Transfer-Encoding: %b\r\n\r\n"
            for encoding in (b"strange", b"chunked\r\nContent-Length: 5"):
                client = await wire.client(head % encoding + INSIDE)
                found = await client.read()
                assert found.startswith(b"HTTP/1.1 400 ")
                assert found.count(b"HTTP/1.1 4") == 1

    play(story())
