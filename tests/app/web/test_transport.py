"""Head and body of an answer leave as one piece, and nothing is lost at the end of a connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import cast
from urllib.parse import urlsplit

from app.web.transport import OneWrite
from tests.conftest import drawn_png


class Sent:
    """A transport that notes what it is told."""

    def __init__(self) -> None:
        self.said: list[object] = []
        self.is_closing = self.resume_reading = lambda: None

    def write(self, data: bytes) -> None:
        self.said.append(data)

    def close(self) -> None:
        self.said.append("closed")

    def write_eof(self) -> None:
        self.said.append("half closed")

    def abort(self) -> None:
        self.said.append("aborted")


def said_of(work: Callable[[OneWrite], Awaitable[None]]) -> list[object]:
    """What a transport is told meanwhile and one turn of the event loop later."""

    async def whole() -> list[object]:
        sent = Sent()
        await work(OneWrite(cast(asyncio.Transport, sent), asyncio.get_running_loop()))
        await asyncio.sleep(0)
        return sent.said

    return asyncio.run(whole())


def test_what_is_written_in_one_turn_is_one_write() -> None:
    async def work(transport: OneWrite) -> None:
        transport.write(b"head")
        transport.write(b"body")
        await asyncio.sleep(0)
        transport.write(b"next")

    assert said_of(work) == [b"headbody", b"next"]


def test_a_close_sends_first_and_an_abort_does_not_wait() -> None:
    async def close(transport: OneWrite) -> None:
        transport.write(b"last")
        transport.close()

    async def abort(transport: OneWrite) -> None:
        transport.abort()

    assert said_of(close) == [b"last", "closed"]
    assert said_of(abort) == ["aborted"]


def test_what_was_not_sent_when_the_client_left_is_dropped() -> None:
    async def work(transport: OneWrite) -> None:
        transport.write(b"late")
        transport._transport.is_closing = lambda: True  # type: ignore[method-assign]
        transport.close()

    assert said_of(work) == []


def test_a_close_that_reads_on_closes_one_side_and_then_the_other() -> None:
    async def work(transport: OneWrite) -> None:
        transport._read_on = lambda: True
        transport.write(b"last")
        transport.close()
        assert transport.is_closing()
        transport.write(b"too late")
        transport.close()

    assert said_of(work) == [b"last", "half closed", "closed"]


def test_an_answer_arrives_in_one_piece(server: str) -> None:
    photo = drawn_png(0)
    with socket.create_connection(("127.0.0.1", urlsplit(server).port or 0), timeout=60) as one:
        for _ in range(20):
            one.sendall(b"POST /predict HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % len(photo) + photo)
            answer = one.recv(1 << 16)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert answer.endswith(b"}")
