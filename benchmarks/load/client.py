"""Kept connections to one server, with a limit on how long an answer may take."""

from __future__ import annotations

import asyncio
import errno
import resource
import ssl
import time
from collections import deque
from collections.abc import Awaitable
from typing import TypeVar

from benchmarks.load.connection import Connection, NoAnswer, Reply, Server

MOST = 4096  # connections at a time
Found = TypeVar("Found")


def allow_sockets() -> None:
    """Lift this process' limit of open files to what it may be: each connection is one (often 1024 at first)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MOST if hard == resource.RLIM_INFINITY else min(2 * MOST, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Client:
    """Connections to one server: the last used one first, new ones as needed, at most `most` at a time.

    One timer for all looks at what has waited for too long: a timer for each request would cost as much as the request.
    """

    def __init__(self, server: Server, *, timeout: float, most: int = MOST) -> None:
        self.repeated = 0  # requests sent again since the server closed a kept connection
        self._server = server
        self._timeout = timeout
        self._free: deque[Connection] = deque()
        self._all: set[Connection] = set()
        self._places = asyncio.Semaphore(most)
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, request: bytes) -> Reply:
        """Send a request and wait for its answer, at most `timeout` seconds (and up to 5 % more). Raises `NoAnswer`."""
        ends = time.perf_counter() + self._timeout
        if self._timer is None:
            self._look()
        if self._places.locked():  # waiting for a place counts as well
            await self._within(self._places.acquire(), ends)
        else:
            await self._places.acquire()
        connection: Connection | None = None
        try:
            connection = self._kept()
            fresh = connection is None
            if connection is None:
                connection = await self._connect(ends)
            try:
                reply = await connection.ask(request, ends)
            except NoAnswer as error:
                if fresh or connection.received or error.kind == "timeout":
                    raise
                # a server may close an idle connection at the moment when we write to it
                self.repeated += 1
                connection = await self._connect(ends)
                reply = await connection.ask(request, ends)
        except BaseException:
            if connection is not None:
                connection.close()
                self._all.discard(connection)
            raise
        finally:
            self._places.release()
        if connection.open:
            self._free.append(connection)
        else:
            self._all.discard(connection)
        return reply

    def _kept(self) -> Connection | None:
        while self._free:
            connection = self._free.pop()
            if connection.open:
                return connection
            self._all.discard(connection)
        return None

    async def _connect(self, ends: float) -> Connection:
        server = self._server
        loop = asyncio.get_running_loop()
        try:
            made = loop.create_connection(Connection, server.host, server.port, ssl=server.tls)
            _, connection = await self._within(made, ends)
        except ConnectionRefusedError:
            raise NoAnswer("refused") from None
        except ConnectionError:  # cut while it was being made
            raise NoAnswer("closed") from None
        except ssl.SSLError as error:
            raise NoAnswer("tls", error.reason or str(error)) from None
        except OSError as error:
            kind = "no_sockets" if error.errno in (errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL) else "network"
            raise NoAnswer(kind, error.strerror or str(error)) from None
        self._all.add(connection)
        return connection

    async def _within(self, work: Awaitable[Found], ends: float) -> Found:
        late = asyncio.timeout(max(0.0, ends - time.perf_counter()))
        try:
            async with late:
                return await work
        except TimeoutError:
            if late.expired():
                raise NoAnswer("timeout") from None
            raise  # the operating system's own

    def _look(self) -> None:
        now = time.perf_counter()
        for connection in [one for one in self._all if one.ends < now]:
            connection.give_up()
        self._timer = asyncio.get_running_loop().call_later(min(max(self._timeout / 20, 0.002), 0.25), self._look)

    def close(self) -> None:
        """Cut all kept connections."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._free:
            self._free.pop().close()
