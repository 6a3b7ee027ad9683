"""The engines that batchers share, and when they will be done with what stands before them."""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

from app.decoding.read_times import shared
from app.serving.call_times import CallTimes


class Sharer(Protocol):
    """What of a batcher the others need to know: what its calls take, and how many items wait before a moment."""

    @property
    def times(self) -> CallTimes: ...

    def before(self, arrives: float) -> int: ...


class Slots:
    """The engines that batchers share: each running call holds one, and a batcher forms its batch
    once it holds one.
    """

    def __init__(self, engines: int = 1) -> None:
        self.engines = engines
        self.batchers: list[Sharer] = []
        self._free = asyncio.Semaphore(engines)

    def add(self) -> None:
        """One more engine."""
        self.engines += 1
        self.release()

    async def acquire(self) -> None:
        """Wait for an engine."""
        await self._free.acquire()

    def release(self) -> None:
        """Give an engine back."""
        self._free.release()

    def idle(self, arrives: float) -> bool:
        """Whether an engine is free and nobody stands before one who arrives then."""
        running = 0
        for one in self.batchers:
            if one.before(arrives):
                return False
            running += one.times.running
        return running < self.engines

    def free_in(self, work: float = 0.0) -> float:
        """Seconds until an engine is free, after what runs and so many seconds of work."""
        rests: list[float] = []
        for one in self.batchers:
            rests += one.times.rests()
        rests += [0.0] * (self.engines - len(rests))
        return shared(work, rests)

    def done_in(self, newcomer: Sharer, arrives: float, time: float) -> float:
        """Seconds until an item of a batcher that arrives then would be done, after all before it;
        within `time`.
        """
        size, own = newcomer.times.own_batch(time)
        work = newcomer.times.drain(newcomer.before(arrives) // size * size)
        for one in self.batchers:
            if one is not newcomer:
                work += one.times.drain(one.before(arrives))
        return self.free_in(work) + own

    def all_done_in(self, newcomer: Sharer, more: int) -> float:
        """Seconds until all that has a place, and so many items more of a batcher, would be done."""
        work = sum(one.times.drain(one.before(math.inf) + more * (one is newcomer)) for one in self.batchers)
        return self.free_in(work)
