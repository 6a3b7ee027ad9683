"""A thousand connections at a time that never end by themselves, beside a good client.

The server has its default settings, but for `keep_alive_seconds`: by default an idle connection is
kept for ten minutes, until its place is needed. What must not happen: a good request that is not
answered, a probe that waits, memory that stays, a connection that the server keeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import resource
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil

from tests.chaos.part import Part
from tests.conftest import drawn_png, serving_process

PATIENCE = 10.0  # seconds: the server's default for a head
LATE = PATIENCE + 15  # seconds after which it must have closed all of a kind
SLOWEST_PROBE = 1.0  # seconds: kubelet's default patience
GROWTH = 64e6  # bytes
OPENING = 2.0  # seconds over which the connections of a kind are opened
SPARE = 2  # connections of the good client and of probes, now and then
FEW = 4  # connections that bring much
POST = b"POST /predict HTTP/1.1\r\nHost: t\r\n"
CHUNKED = b"POST /nowhere HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Kind:
    """What a hostile connection sends at first, and then again and again."""

    first: bytes = b""
    then: bytes = b""
    every: float = 0.5  # seconds
    reads: bool = True
    zeros: int = 0  # bytes of a body, right after `first`


_LIVE = b"GET /health/live HTTP/1.1\r\nHost: t\r\n\r\n"
# Two kinds at a time, half of the connections each.
KINDS = [
    {"opened and silent": Kind(), "a head byte by byte": Kind(b"GET /", b"a")},
    {
        "a body byte by byte": Kind(POST + b"Content-Length: 100000\r\n\r\n", b"a"),
        "answers not read": Kind(b"GET /openapi.json HTTP/1.1\r\nHost: t\r\n\r\n" * 4, reads=False),
    },
    {
        "trailers for ever": Kind(CHUNKED + b"0\r\n", b"a:\r\n" * 4096),
        "an extension for ever": Kind(CHUNKED + b"1;", b"a" * 16384),
    },
    {"blank lines after an answer": Kind(_LIVE, b"\r\n"), "kept and idle": Kind(_LIVE)},
    {
        "refused, and one byte more": Kind(POST + b"Content-Length: 99999999\r\n\r\n", b"a"),
        "no route, and one byte more": Kind(b"POST /nowhere HTTP/1.1\r\nHost: t\r\nContent-Length: 99\r\n\r\n", b"a"),
    },
]
LARGE = Kind(POST + b"Content-Length: 33000000\r\n\r\n", b"a", zeros=31_000_000)


class Asker(threading.Thread):
    """Asks again and again, on a new connection each time, until `done`."""

    def __init__(self, url: str, method: str, path: str, body: bytes | None, every: float) -> None:
        super().__init__()
        self._host, self._asked, self._every = urlsplit(url).netloc, (method, path, body), every
        self.statuses: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.done = threading.Event()

    def run(self) -> None:
        """See the class."""
        while not self.done.wait(self._every):
            began = time.monotonic()
            with contextlib.closing(http.client.HTTPConnection(self._host, timeout=30)) as connection:
                try:
                    connection.request(*self._asked)
                    status = str(connection.getresponse().status)
                except (OSError, http.client.HTTPException) as error:
                    status = type(error).__name__
            self.statuses[status] += 1
            self.seconds.append(time.monotonic() - began)

    def end(self) -> None:
        """Stop, and wait for the last answer."""
        self.done.set()
        self.join(60)


@dataclass
class Watch:
    """Open files and memory of the server."""

    server: psutil.Process
    files: int
    bytes: int
    most_files: int = 0
    most_bytes: int = 0
    closed_after: dict[str, float | None] = field(default_factory=dict)  # seconds; None: too late

    def look(self) -> int:
        """Open files more than before."""
        files = self.server.num_fds()
        self.most_files = max(self.most_files, files)
        self.most_bytes = max(self.most_bytes, self.server.memory_info().rss)
        return files - self.files


async def _attack(url: str, kinds: list[Kind], watch: Watch, count: int, spared: int) -> float | None:
    """Seconds from the last connection until the server has closed all but `spared`; None: too late."""
    tasks = []
    for number in range(count):
        tasks.append(asyncio.create_task(_hostile(url, kinds[number % len(kinds)])))
        await asyncio.sleep(OPENING / count)
    found = await _closed(watch, spared)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return found


async def _closed(watch: Watch, spared: int) -> float | None:
    began = time.monotonic()
    while time.monotonic() < began + LATE:
        await asyncio.sleep(0.1)
        if watch.look() <= spared + SPARE:
            return round(time.monotonic() - began, 1)
    return None


async def _hostile(url: str, kind: Kind) -> None:
    """One connection, until the server has closed it for good, and then as long as it is let."""
    place = urlsplit(url)
    loop = asyncio.get_running_loop()
    with socket.socket() as one, contextlib.suppress(OSError):
        one.setblocking(False)
        if not kind.reads:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(one, (place.hostname or "", place.port or 0))
        await loop.sock_sendall(one, kind.first)
        for _ in range(kind.zeros // 1_000_000):
            await loop.sock_sendall(one, bytes(1_000_000))
        while True:
            await asyncio.sleep(kind.every)
            if kind.then:
                await loop.sock_sendall(one, kind.then)
            if kind.reads:
                with contextlib.suppress(BlockingIOError):
                    one.recv(65536)


async def _all(url: str, watch: Watch, count: int) -> None:
    large = [asyncio.create_task(_hostile(url, LARGE)) for _ in range(FEW)]
    for kinds in KINDS:
        watch.closed_after[" | ".join(kinds)] = await _attack(url, list(kinds.values()), watch, count, FEW)
    watch.closed_after["much, and then little"] = await _closed(watch, 0)
    for task in large:
        task.cancel()
    await asyncio.gather(*large, return_exceptions=True)


def connections_part(bundle: Path, count: int = 1000) -> Part:
    """`count` connections at a time, of one pair of kinds after the other; see the module."""
    part = Part("connections")
    allow_files(2 * count + 1000)
    flags = ("--log-level", "error", "--threads", 1, "--keep-alive-seconds", 5)
    with serving_process(bundle, *flags) as (url, process):
        server, photo = psutil.Process(process.pid), drawn_png(0)
        for _ in range(50):  # fills the caches
            _ask_once(url, photo)
        watch = Watch(server, server.num_fds(), server.memory_info().rss)
        good = Asker(url, "POST", "/predict", photo, 0.1)
        live = Asker(url, "GET", "/health/live", None, 0.5)
        for asker in (good, live):
            asker.start()
        try:
            asyncio.run(_all(url, watch, count))
        finally:
            for asker in (good, live):
                asker.end()
        until = time.monotonic() + 10
        while watch.look() > 0 and time.monotonic() < until:
            time.sleep(0.1)
        left, grown = watch.look(), server.memory_info().rss - watch.bytes
    p50, p99 = (1000 * float(np.percentile(good.seconds, share)) for share in (50, 99))
    slowest = max(live.seconds)
    part.figures = {
        "connections": count,
        "good": dict(good.statuses),
        "good_p50_ms": round(p50, 1),
        "good_p99_ms": round(p99, 1),
        "live": dict(live.statuses),
        "slowest_live_s": round(slowest, 3),
        "memory_before_mb": round(watch.bytes / 1e6),
        "memory_peak_mb": round(watch.most_bytes / 1e6),
        "memory_after_mb": round((watch.bytes + grown) / 1e6),
        "files_before": watch.files,
        "files_peak": watch.most_files,
        "files_after": watch.files + left,
        "closed_after_s": watch.closed_after,
    }
    print(f"connections: {', '.join(f'{name} {value}' for name, value in part.figures.items())}")
    part.must(set(good.statuses) == {"200"}, f"good requests were answered with {dict(good.statuses)}")
    part.must(set(live.statuses) == {"200"}, f"liveness was answered with {dict(live.statuses)}")
    part.must(slowest <= SLOWEST_PROBE, f"liveness took {slowest:.2f} s")
    part.must(grown <= GROWTH, f"memory grew by {grown / 1e6:.0f} MB")
    part.must(left <= 0, f"{left} more open files and connections than before")
    for name, seconds in watch.closed_after.items():
        part.must(seconds is not None, f"{name}: not all closed within {LATE:g} s")
    return part


def _ask_once(url: str, photo: bytes) -> None:
    with contextlib.closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)) as connection:
        connection.request("POST", "/predict", photo)
        connection.getresponse().read()


def allow_files(count: int) -> None:
    """Let this process open so many files, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
