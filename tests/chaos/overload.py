"""Load at several times capacity, at the server's default settings: goodput stays, and comes back.

What is accepted is answered in time, the rest is refused at once. `benchmarks.overload` has the whole grid.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil

from tests.chaos.part import Part
from tests.conftest import drawn_png, serving_process

SPEED, CAPACITY = "0,50", 20.0  # ms a call and a photo: photos a second, whatever the machine
TIMES = 5  # of the capacity
DEADLINE = 10.0  # seconds: the server's default
LEAST = 0.9  # of the capacity
LOST = 0.01  # of those accepted, that calls which took longer than expected left no time for
GROWTH = 64e6  # bytes


def overload_part(bundle: Path, seconds: float) -> Part:
    """Five times capacity for `seconds`, half of it for two deadlines: goodput, refusals, memory and recovery.

    The first deadline, or half of a shorter time, is the queue's to fill.
    """
    part, settling = Part("overload"), min(DEADLINE, seconds / 2)
    flags = ("--log-level", "error", "--threads", 1, "--device-ms", SPEED)
    with serving_process(bundle, *flags, module="benchmarks.known_engine") as (url, process):
        photo = drawn_png(0, size=64)
        open_loop(url, photo, CAPACITY / 2, 1)
        before = resident_bytes(process.pid)
        load, calm = asyncio.run(overload_and_calm(url, photo, seconds))
        grown = resident_bytes(process.pid) - before
    goodput = load.answers(settling, seconds) / (seconds - settling)
    late = load.statuses["504 deadline_exceeded"]
    part.figures = {
        "capacity": CAPACITY, "goodput": goodput, "p99_seconds": load.percentile(load.accepted, 99),
        "too_late": late, "refused": load.statuses["503 overloaded"], "memory_bytes": grown,
        "lost_afterwards": calm.later_than(DEADLINE),
    }  # fmt: skip
    print(f"overload: {goodput:.1f} of {CAPACITY:.0f} answers/s; {load.line()}; memory {grown / 1e6:+.1f} MB")
    print(f"afterwards: {calm.line()}")
    part.must(goodput >= LEAST * CAPACITY, f"goodput fell from {CAPACITY:.0f} to {goodput:.1f}/s")
    part.must(load.percentile(load.accepted, 99) <= DEADLINE, "accepted requests were late")
    part.must(load.without_retry_after == 0, "a refusal had no Retry-After")
    part.must(late <= LOST * max(100, len(load.accepted)), f"{late} were accepted and not answered in time")
    others = set(load.statuses + calm.statuses) - {"200", "503 overloaded", "504 deadline_exceeded"}
    part.must(not others, f"other answers under overload: {sorted(others)}")
    part.must(calm.later_than(DEADLINE) == 0, "half the capacity was not answered one deadline after the overload")
    part.must(grown <= GROWTH, f"memory grew by {grown / 1e6:.0f} MB under overload")
    return part


def resident_bytes(pid: int) -> int:
    """Memory of a server and of the processes that decode its photos."""
    server, found = psutil.Process(pid), 0
    for one in (server, *server.children()):
        with contextlib.suppress(psutil.NoSuchProcess):
            found += one.memory_info().rss
    return found


@dataclass
class Load:
    """What a stretch of load came to; times in seconds."""

    seconds: float
    statuses: Counter[str] = field(default_factory=Counter)
    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    without_retry_after: int = 0
    began: float = field(default_factory=time.monotonic)
    answered: list[float] = field(default_factory=list)  # when, since it began
    failed: list[float] = field(default_factory=list)  # when asked

    @property
    def goodput(self) -> float:
        """Answers of 200 a second."""
        return len(self.accepted) / self.seconds

    def answers(self, begin: float, end: float) -> int:
        """Answers of 200 between two moments."""
        return sum(begin <= one < end for one in self.answered)

    def later_than(self, begin: float) -> int:
        """Requests asked after a moment that had no answer of 200."""
        return sum(one >= begin for one in self.failed)

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


def open_loop(url: str, photo: bytes, rate: float, seconds: float) -> Load:
    """Arrivals at `rate` a second whether or not the server keeps up."""

    async def run() -> Load:
        session = Session(url, photo)
        found, tasks = await arriving(session, rate, seconds)
        await asyncio.gather(*tasks)
        session.close()
        return found

    return asyncio.run(run())


async def overload_and_calm(url: str, photo: bytes, seconds: float) -> tuple[Load, Load]:
    """Too many for `seconds`, then at once half of what can be done for two deadlines."""
    session = Session(url, photo)
    load, tasks = await arriving(session, TIMES * CAPACITY, seconds)
    calm, more = await arriving(session, CAPACITY / 2, 2 * DEADLINE)
    await asyncio.gather(*tasks, *more)
    session.close()
    return load, calm


async def arriving(session: Session, rate: float, seconds: float) -> tuple[Load, set[asyncio.Task[None]]]:
    """Poisson arrivals for `seconds`; and the requests that are still under way then."""
    load, tasks = Load(seconds), set[asyncio.Task[None]]()
    rng = np.random.default_rng(0)
    due = load.began
    while (due := due + float(rng.exponential(1 / rate))) < load.began + seconds:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        task = asyncio.create_task(session.ask(load))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    return load, tasks


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
            load.failed.append(began - load.began)
            return
        took = time.monotonic() - began
        self._free.append((reader, writer))
        status = head.split(b" ", 2)[1].decode()
        if status == "200":
            load.statuses[status] += 1
            load.accepted.append(took)
            load.answered.append(began + took - load.began)
        else:
            load.failed.append(began - load.began)
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
