"""How long bodies are waited for, to the millisecond, in a time of the test's own; heads: `test_connection`.

`test_bodies` shows the same on a real server, but for how long.
"""

from __future__ import annotations

import asyncio
import gzip
from dataclasses import dataclass, field

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.faults import ServiceError
from app.web.body import SHARES, SLOWEST, BodyLimit, Budget
from tests.app.fake_time import play

PATIENCE = 0.6
LIMIT = 1 << 20
Piece = tuple[float, bytes]  # seconds of silence, and what comes then


def now() -> float:
    return asyncio.get_running_loop().time()


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


def test_a_small_body_of_unknown_length_may_come_as_slowly_as_one_that_declares_it() -> None:
    async def story() -> None:
        limit = 100 * SLOWEST * 20
        for declared in (None, 25 * SLOWEST):
            steady = [(PATIENCE / 20, b"a" * (SLOWEST // 8))] * 200  # in each stretch twice and a half of the least
            found = await Sender(steady, whole=True, declared=declared).sent(limit)
            assert (found.refused, len(found.got)) == (None, 25 * SLOWEST)

    play(story())


def test_a_large_body_of_unknown_length_has_to_come_faster_and_faster() -> None:
    async def story() -> None:
        limit = 100 * SLOWEST * 20
        slow = await Sender([(PATIENCE * 0.4, b"a" * SLOWEST)] * 1000).sent(limit)
        assert slow.refused is not None
        assert slow.refused[0] == "body_timeout"
        assert len(slow.got) < 40 * SLOWEST
        fast = [(PATIENCE * 0.99, b"a" * (limit // SHARES))] * SHARES
        found = await Sender(fast, whole=True).sent(limit)
        assert (found.refused, len(found.got)) == (None, limit)

    play(story())


def test_waiting_for_the_answer_is_no_silence() -> None:
    async def story() -> None:
        found = await Sender([(0, b"a")], whole=True).sent()
        assert (found.refused, found.got, found.last) == (None, b"a", "http.disconnect")

    play(story())
