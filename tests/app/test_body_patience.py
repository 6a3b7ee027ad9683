"""How long heads and bodies are waited for, to the millisecond, in a time of the test's own.

`test_bodies` shows the same on a real server, but for how long.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
from dataclasses import dataclass, field

import pytest
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.server import ServerState

from app.body import SHARES, SLOWEST, BodyLimit, Budget
from app.errors import ServiceError
from app.slow_heads import LimitedHeads, limited_heads
from tests.app.fake_time import play

PATIENCE = 0.6
LIMIT = 1 << 20
REQUEST = b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n"
Piece = tuple[float, bytes]  # seconds of silence, and what comes then


def now() -> float:
    return asyncio.get_running_loop().time()


# -- bodies -----------------------------------------------------------------------------------------------------------


def limits(app: ASGIApp, limit: int) -> BodyLimit:
    return BodyLimit(app, limit, PATIENCE, budget=Budget(limit, most_requests=1), compressed=True)


@dataclass
class Sender:
    """Sends the pieces of a body and, where it is `whole`, leaves after a long time; else it falls silent."""

    pieces: list[Piece]
    whole: bool = False
    encoding: str = ""
    declared: int | None = None
    got: bytes = b""
    last: str = ""
    refused: tuple[str, str, float] | None = field(default=None)  # slug, sentence, and when

    async def receive(self) -> Message:
        if not self.pieces:
            await asyncio.sleep(1000)
            return {"type": "http.disconnect"}
        pause, data = self.pieces.pop(0)
        await asyncio.sleep(pause)
        return {"type": "http.request", "body": data, "more_body": bool(self.pieces) or not self.whole}

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reads the body, and then waits for the client's leaving, as all routes do while they work."""
        while (message := await receive())["type"] == "http.request":
            self.got += message["body"]
        self.last = message["type"]

    async def sent(self, limit: int = LIMIT) -> Sender:
        began = now()
        headers = [(b"content-encoding", self.encoding.encode())] if self.encoding else []
        if self.declared is not None:
            headers.append((b"content-length", str(self.declared).encode()))

        async def send(message: Message) -> None:
            raise AssertionError(message)

        try:
            await limits(self.app, limit)({"type": "http", "method": "POST", "headers": headers}, self.receive, send)
        except ServiceError as error:
            self.refused = (error.slug, str(error), now() - began)
        return self


@pytest.mark.parametrize(
    ("pieces", "encoding", "total", "seconds"),
    [
        ([], "", 0, PATIENCE),
        ([(0, b"a" * 99)], "", 99, PATIENCE),
        ([(0.1, b"a" * 99)], "", 99, PATIENCE),
        ([(0.1, gzip.compress(b"a" * 999)[:20])], "gzip", 20, PATIENCE),
        ([(0, b"a" * 40_000)], "", 40_000, PATIENCE),  # much at once buys no longer silence
        ([(0.11, b"x")] * 100, "", 5, PATIENCE),  # a byte now and then
        ([(0.5, b"a" * SLOWEST)] * 3, "", 3 * SLOWEST, 1.5 + PATIENCE),  # enough, and then silence
        (
            [(0, b"a" * 900_000)] + [(0.5, b"x")] * 100,
            "",
            900_001,
            PATIENCE,
        ),  # almost all, and then a byte now and then
    ],
)
def test_a_sender_of_too_little_is_let_go(pieces: list[Piece], encoding: str, total: int, seconds: float) -> None:
    async def story() -> None:
        found = await Sender([*pieces], encoding=encoding).sent()
        assert found.refused is not None
        slug, sentence, when = found.refused
        assert slug == "body_timeout"
        assert sentence.startswith(f"Too little of the request body came in 0.6 seconds ({total} bytes")
        assert when == pytest.approx(seconds)

    play(story())


def test_a_slow_sender_that_keeps_going_is_served() -> None:
    async def story() -> None:
        found = await Sender([(0.25, b"a" * 10_000)] * 4, whole=True).sent()  # longer in all than the limit on silence
        assert (found.refused, len(found.got)) == (None, 40_000)

    play(story())


def test_a_large_body_has_to_come_faster() -> None:
    """Of a body that declares much a part of it must come in each stretch of time, so that none
    takes for ever.
    """

    async def story() -> None:
        declared = 100 * SLOWEST * 2
        slow = await Sender([(PATIENCE * 0.4, b"a" * (SLOWEST * 7 // 10))] * 200, declared=declared).sent(4 * LIMIT)
        assert slow.refused is not None
        assert slow.refused[0] == "body_timeout"
        assert slow.refused[2] == pytest.approx(PATIENCE)
        steady = [(PATIENCE * 0.99, b"a" * (declared // SHARES))] * SHARES
        found = await Sender(steady, whole=True, declared=declared).sent(4 * LIMIT)
        assert (found.refused, len(found.got)) == (None, declared)

    play(story())


def test_waiting_for_the_answer_is_no_silence() -> None:
    async def story() -> None:
        found = await Sender([(0, b"a")], whole=True).sent()
        assert (found.refused, found.got, found.last) == (None, b"a", "http.disconnect")

    play(story())


# -- heads ------------------------------------------------------------------------------------------------------------


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"hi"})


class Client:
    """A connection to a server with `PATIENCE` for a head."""

    def __init__(self) -> None:
        self.counted: list[tuple[str, int]] = []

    def refused(self, slug: str, began: float, bytes_in: int) -> str:
        self.counted.append((slug, bytes_in))
        return "an-id"

    async def __aenter__(self) -> Client:
        heads = limited_heads(PATIENCE, self.refused)
        config = uvicorn.Config(hello, http=heads, log_config=None, lifespan="off")
        config.load()
        self.state, loop = ServerState(), asyncio.get_running_loop()
        self.mine, theirs = socket.socketpair()
        self.mine.setblocking(False)

        def protocol() -> LimitedHeads:
            return heads(config=config, server_state=self.state, app_state={})

        self.transport, _ = await loop.connect_accepted_socket(protocol, theirs)
        return self

    async def __aexit__(self, *error: object) -> None:
        self.mine.close()
        self.transport.close()
        await asyncio.sleep(0)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.mine, data)

    async def read(self, until: bytes | None = None) -> bytes:
        """Up to `until`, or what comes before the server closes."""
        found = b""
        while until is None or not found.endswith(until):
            data = await asyncio.get_running_loop().sock_recv(self.mine, 4096)
            if not data:
                assert until is None
                break
            found += data
        return found


@pytest.mark.parametrize("sent", [b"", b"POST /predict HT", b"POST /predict HTTP/1.1\r\nHost: t\r\nX-A: "])
def test_headers_that_do_not_come_are_not_waited_for(sent: bytes) -> None:
    async def story() -> None:
        async with Client() as client:
            began = now()
            if sent:
                await client.send(sent)
            found = await client.read()
            assert now() - began == pytest.approx(PATIENCE)
            assert found.startswith(b"HTTP/1.1 408 ") == bool(sent), "one without a request is closed without a word"
            assert client.counted == ([("body_timeout", len(sent))] if sent else [])

    play(story())


def test_a_head_in_pieces_has_no_more_time() -> None:
    async def story() -> None:
        async with Client() as client:
            for at in range(0, 10, 2):
                await client.send(REQUEST[at : at + 2])
                await asyncio.sleep(0.1)
            began = now()
            assert b'"error_type":"body_timeout"' in await client.read()
            assert now() - began == pytest.approx(0.1)

    play(story())


def test_a_second_request_may_come_late_but_not_slowly() -> None:
    async def story() -> None:
        async with Client() as client:
            for pause in (1, 0):
                await client.send(REQUEST)
                assert (await client.read(b"hi")).startswith(b"HTTP/1.1 200 ")
                await asyncio.sleep(pause)
            await client.send(b"GET /health")
            began = now()
            assert (await client.read()).startswith(b"HTTP/1.1 408 ")
            assert now() - began == pytest.approx(PATIENCE)

    play(story())
