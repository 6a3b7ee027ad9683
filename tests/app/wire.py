"""Clients of the connection class over socket pairs, for stories in a time of their own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from app.faults import ServiceError
from app.web.connection import Connection, connection_class
from app.web.places import Places

PATIENCE = 0.6
REQUEST = b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n"
POST = b"POST /predict HTTP/1.1\r\nHost: t\r\n"
App = Callable[[Scope, Receive, Send], Awaitable[None]]


async def answer(send: Send, body: bytes, status: int = 200) -> None:
    """One whole answer."""
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers at once, whatever comes."""
    await answer(send, b"hi")


async def reader(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the length of the body, or with the slug of its refusal."""
    size, more = 0, True
    try:
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size, more = size + len(message["body"]), message["more_body"]
    except ServiceError as error:
        await answer(send, error.slug.encode(), 400)
    else:
        await answer(send, b"%d bytes" % size)


def now() -> float:
    """Seconds of the story."""
    return asyncio.get_running_loop().time()


class Client:
    """The client's end of a connection, and what the server has of it."""

    def __init__(self, served: Connection, mine: socket.socket) -> None:
        self.served, self._mine = served, mine
        self._mine.setblocking(False)

    async def send(self, data: bytes) -> None:
        """Raises `ConnectionError` where the server has closed."""
        await asyncio.get_running_loop().sock_sendall(self._mine, data)

    async def read(self, until: bytes | None = None) -> bytes:
        """Up to `until`, or what comes before the server closes its side."""
        found = b""
        while until is None or not found.endswith(until):
            data = await asyncio.get_running_loop().sock_recv(self._mine, 4096)
            if not data:
                assert until is None, found[-200:]
                break
            found += data
        return found

    @property
    def gone(self) -> bool:
        """Whether the server has closed."""
        return self.served not in self.served.connections

    async def gone_after(self) -> float:
        """Seconds until the server has closed, to a twentieth."""
        began = now()
        while not self.gone:
            await asyncio.sleep(0.05)
        return now() - began

    def close(self) -> None:
        """Leave."""
        self._mine.close()


class Wire:
    """A server without a port: `async with Wire(app) as wire: client = await wire.client()`."""

    def __init__(self, app: App = hello, most: int = 1000, always: frozenset[str] = frozenset()) -> None:
        self.counted: list[tuple[str, int]] = []  # refusals: slug and bytes of the head
        self._class = connection_class(PATIENCE, self._refused, Places(most), always)
        self._config = uvicorn.Config(app, http=self._class, log_config=None, lifespan="off", ws="none")
        self._clients: list[Client] = []

    def _refused(self, slug: str, began: float, bytes_in: int) -> str:
        self.counted.append((slug, bytes_in))
        return "an-id"

    async def __aenter__(self) -> Wire:
        self._config.load()
        self._state = ServerState()
        return self

    async def client(self, sent: bytes = b"") -> Client:
        """A new connection, on which something was sent and read by the server."""
        mine, theirs = socket.socketpair()

        def protocol() -> Connection:
            return self._class(config=self._config, server_state=self._state, app_state={})

        _, served = await asyncio.get_running_loop().connect_accepted_socket(protocol, theirs)
        self._clients.append(Client(served, mine))
        if sent:
            await self._clients[-1].send(sent)
            await turns()
        return self._clients[-1]

    async def __aexit__(self, *error: Any) -> None:
        for client in self._clients:
            client.close()
            client.served.transport.abort()
        await turns()
        for task in self._state.tasks:
            task.cancel()


async def turns(count: int = 20) -> None:
    """Let the event loop turn: what has been sent is read, and what can be answered is."""
    for _ in range(count):
        await asyncio.sleep(0)
