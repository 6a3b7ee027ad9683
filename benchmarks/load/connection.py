"""A server's address and one HTTP/1.1 connection to it, for a client that costs little beside the server it measures.

httptools parses; a general client (httpx, aiohttp) takes several times the processor for each request, which on a machine
that runs client and server is taken from the server.
"""

from __future__ import annotations

import asyncio
import math
import ssl
import time
from dataclasses import dataclass
from typing import cast
from urllib.parse import quote, urlsplit

import httptools

from contract.errors import ContractError


class NoAnswer(Exception):
    """A request got no HTTP answer; `kind` is `timeout`, `refused`, `closed`, `network`, `tls`, `not_http` or `no_sockets`.

    `detail` is what the operating system said of it, for people.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind)
        self.kind = kind
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: status, body, the Server-Timing header if any, and when its last byte came (`time.perf_counter`)."""

    status: int
    body: bytes
    server_timing: bytes | None
    done: float


@dataclass(frozen=True)
class Server:
    """Where to connect."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    path: str  # what the URL says behind the host, without a slash at its end

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def server_of(url: str) -> Server:
    """The server of `http://host:port/prefix` or https. Raises `ContractError` when it is not such a URL.

    A URL with a password is refused, since URLs are written to results.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").encode("idna").decode()
    except ValueError as error:
        raise ContractError(f"The URL {_shown(url)!r} is wrong: {error}.") from None
    if "@" in parts.netloc:
        raise ContractError("The URL holds a user name or password; send it by --header 'Authorization: ...' instead.")
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise ContractError(f"The URL {url!r} is wrong: write http://HOST:PORT or https://HOST.")
    if parts.query or parts.fragment:
        raise ContractError(f"The URL {url!r} has a query or a fragment; give the server, and the face by --route.")
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    return Server(host, port or (443 if tls else 80), tls, quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~"))


def _shown(url: str) -> str:
    return url.rpartition("@")[2]


class Connection(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Reply] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._timing: bytes | None = None
        self._sized = self._ends_with_connection = (
            False  # whether the body's length is said, or its end is the connection's
        )
        self.received = False  # anything of the answer that is awaited
        self.open = True
        self.ends = math.inf  # when what is awaited comes too late (`time.perf_counter`)

    def ask(self, request: bytes, ends: float) -> asyncio.Future[Reply]:
        """Send a whole request; the future is its answer, or `NoAnswer`."""
        assert self._transport is not None
        self._waiter = asyncio.get_running_loop().create_future()
        self.received, self.ends = False, ends
        self._transport.write(request)
        return self._waiter

    def give_up(self) -> None:
        """What is awaited has come too late."""
        self._fail("timeout")
        self.close()

    def close(self) -> None:
        """Cut the connection."""
        self.open = False
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own type is not a subclass

    def data_received(self, data: bytes) -> None:
        self.received = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail("not_http")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if exc is None and self._ends_with_connection:
            self._answer()
        self._fail("closed")

    # -- httptools ----------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._body, self._timing, self._sized = [], None, False

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"server-timing":
            self._timing = value
        elif name in (b"content-length", b"transfer-encoding"):
            self._sized = True

    def on_headers_complete(self) -> None:
        self._ends_with_connection = not self._sized and self._parser.get_status_code() >= 200

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:
            return  # 100 Continue, 103 Early Hints: the answer is still to come
        self._ends_with_connection = False
        if not self._parser.should_keep_alive():
            self.open = False
            assert self._transport is not None
            self._transport.close()
        self._answer()

    def _answer(self) -> None:
        self.ends = math.inf
        if self._waiter is not None and not self._waiter.done():
            reply = Reply(self._parser.get_status_code(), b"".join(self._body), self._timing, time.perf_counter())
            self._waiter.set_result(reply)

    def _fail(self, kind: str) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(NoAnswer(kind))
