"""Load at several times capacity: what is accepted is answered in time, the rest is refused at once."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np


@dataclass
class Load:
    """What a stretch of load came to; times in seconds."""

    seconds: float
    statuses: Counter[str] = field(default_factory=Counter)
    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    without_retry_after: int = 0

    @property
    def goodput(self) -> float:
        """Answers of 200 a second."""
        return len(self.accepted) / self.seconds

    def percentile(self, of: list[float], share: float) -> float:
        """Seconds below which `share` percent of the times lie."""
        return float(np.percentile(of, share)) if of else 0.0

    def line(self) -> str:
        """One line of figures."""
        p50, p99 = (1000 * self.percentile(self.accepted, share) for share in (50, 99))
        refused = 1000 * self.percentile(self.refused, 50), 1000 * self.percentile(self.refused, 99)
        return (
            f"{self.goodput:.0f} answers/s, accepted p50 {p50:.0f} ms, p99 {p99:.0f} ms, {len(self.refused)} refused in "
            f"p50 {refused[0]:.1f} ms, p99 {refused[1]:.1f} ms; {dict(self.statuses)}"
        )


def closed_loop(url: str, photo: bytes, clients: int, seconds: float) -> Load:
    """`clients` that each send the next photo when they have their answer: the best that the server can do."""

    async def run() -> Load:
        load, session = Load(seconds), Session(url, photo)
        ends = time.monotonic() + seconds

        async def client() -> None:
            while time.monotonic() < ends:
                await session.ask(load)

        await asyncio.gather(*(client() for _ in range(clients)))
        session.close()
        return load

    return asyncio.run(run())


def open_loop(url: str, photo: bytes, rate: float, seconds: float, most: int = 2000) -> Load:
    """Arrivals at `rate` a second whether or not the server keeps up; at most `most` at a time wait for their answers."""

    async def run() -> Load:
        load, session = Load(seconds), Session(url, photo)
        tasks: set[asyncio.Task[None]] = set()
        rng = np.random.default_rng(0)
        began = due = time.monotonic()
        while due - began < seconds:
            due += float(rng.exponential(1 / rate))
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if len(tasks) < most:
                task = asyncio.create_task(session.ask(load))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        load.seconds = time.monotonic() - began
        await asyncio.gather(*tasks)
        session.close()
        return load

    return asyncio.run(run())


class Session:
    """Posts one photo again and again over kept connections: a client that costs little beside the server it measures."""

    def __init__(self, url: str, photo: bytes) -> None:
        place = urlsplit(url)
        self._address = place.hostname or "", place.port or 0
        head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(photo)}\r\n\r\n"
        self._request = head.encode() + photo
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, load: Load) -> None:
        """Post once and count the answer."""
        began = time.monotonic()
        try:
            reader, writer = await self._connection()
            writer.write(self._request)
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
        except (OSError, asyncio.IncompleteReadError) as error:
            load.statuses[type(error).__name__] += 1
            return
        took = time.monotonic() - began
        self._free.append((reader, writer))
        status = head.split(b" ", 2)[1].decode()
        if status == "200":
            load.statuses[status] += 1
            load.accepted.append(took)
        else:
            load.statuses[f"{status} {json.loads(body)['error_type']}"] += 1
            load.refused.append(took)
            load.without_retry_after += status == "503" and b"retry-after:" not in head.lower()

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._free:  # the last used first; those that the server has closed meanwhile are let go
            reader, writer = self._free.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(*self._address)

    def close(self) -> None:
        """Close the kept connections."""
        for _, writer in self._free:
            writer.close()
