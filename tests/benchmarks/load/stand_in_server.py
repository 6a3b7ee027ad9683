"""A small HTTP server in a thread whose every answer a test decides, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator

from benchmarks.load.client import Client
from benchmarks.load.connection import server_of
from benchmarks.load.phase import Target
from benchmarks.load.photographs import drawn
from benchmarks.load.routes import Route

CLOSE = None  # instead of bytes: cut the connection without an answer


class Request:
    """What came: `number` counts the requests of this server from 0."""

    def __init__(self, number: int, head: bytes, body: bytes) -> None:
        self.number, self.body = number, body
        line, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.path, _ = line.split(" ")
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}


Behaviour = Callable[[Request], Awaitable[bytes | None]]


def answer(body: object, status: int = 200, headers: str = "") -> bytes:
    """A whole HTTP answer with a JSON body."""
    data = json.dumps(body).encode()
    return f"HTTP/1.1 {status} X\r\ncontent-length: {len(data)}\r\n{headers}\r\n".encode() + data


def good(label: str = "Pizza") -> bytes:
    """What /predict answers."""
    return answer({"prediction": label}, headers="server-timing: decode;dur=1.5, total;dur=2\r\n")


@contextlib.contextmanager
def stand_in(behave: Behaviour) -> Iterator[str]:
    """The base URL of a server that answers every POST by `behave`, and 404 to every GET."""
    loop, count = asyncio.new_event_loop(), iter(range(10**9))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = await reader.readexactly(1)
                if head == b"\x16":  # TLS
                    break
                head += await reader.readuntil(b"\r\n\r\n")
                lengths = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(int(lengths[0]) if lengths else 0)
                if head.startswith(b"GET"):
                    said: bytes | None = answer({}, 404)
                else:
                    said = await behave(Request(next(count), head, body))
                if said is CLOSE:
                    break
                writer.write(said)
                await writer.drain()
                if b"connection: close" in said:
                    break
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(serve, "127.0.0.1", 0)

    server = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:

        async def stop() -> None:
            server.close()
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), loop).result(timeout=60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=60)
        loop.close()


def target(url: str, route: str = "predict", timeout: float = 5.0, photos: int = 2) -> Target:
    """Where to send small drawn pictures."""
    return Target(Route(route, server_of(url), "tiny"), drawn((32,), photos, 0), timeout, scraped=False)


async def asked(url: str, times: int = 1, timeout: float = 5.0) -> list[object]:
    """The status, or the kind of error, of requests one after the other over one client."""
    from benchmarks.load.connection import NoAnswer

    client, found = Client(server_of(url), timeout=timeout), list[object]()
    request = target(url).requests()[0]
    for _ in range(times):
        try:
            found.append((await client.ask(request)).status)
        except NoAnswer as error:
            found.append(error.kind)
    client.close()
    return [*found, client.repeated]
