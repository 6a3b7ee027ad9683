"""Stations of the simulation: processors that running work shares, and a thread that does one thing at a time."""

from __future__ import annotations

import asyncio
import heapq
import math

ALMOST = 1e-9  # seconds of work: less is rounding
RESTED = 0.005  # seconds without work after which most of what a thread had in the caches is gone


class Processors:
    """`count` processors among which running work is shared evenly (processor sharing); 0: as many as wanted.

    It need not be whole: threads that wait for one lock get less done than the processors could.

    Work that runs on k threads wants k processors. While more are wanted than there are, all work slows down alike.
    Kept by a virtual time that advances as fast as one thread gets on, so that an event costs the logarithm of what runs.
    """

    def __init__(self, count: float) -> None:
        self._count, self._loop = count, asyncio.get_running_loop()
        self._virtual, self._last, self._wanted = 0.0, self._loop.time(), 0
        self._running: list[tuple[float, int, int, asyncio.Future[None]]] = []  # ends at, order, threads
        self._order = 0
        self._timer: asyncio.TimerHandle | None = None
        self._armed: tuple[float, float] | None = None  # what the timer waits for: end, and speed
        self.busy_seconds = 0.0  # of one processor

    async def work(self, seconds: float, threads: int = 1) -> None:
        """Get `seconds` of each of `threads` processors."""
        if seconds <= 0:
            return
        self._advance()
        self._order += 1
        done: asyncio.Future[None] = self._loop.create_future()
        heapq.heappush(self._running, (self._virtual + seconds, self._order, threads, done))
        self._wanted += threads
        self._arm()
        await done

    @property
    def _speed(self) -> float:
        return min(1.0, self._count / self._wanted) if self._count and self._wanted else 1.0

    def _advance(self) -> None:
        now = self._loop.time()
        progress = (now - self._last) * self._speed
        self._virtual += progress
        self.busy_seconds += progress * self._wanted
        self._last = now

    def _arm(self) -> None:
        wanted = (self._running[0][0], self._speed) if self._running else None
        if wanted == self._armed:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._armed = None, wanted
        if wanted is not None:
            ends, speed = wanted
            self._timer = self._loop.call_later(max(0.0, ends - self._virtual) / speed, self._finish)

    def _finish(self) -> None:
        self._timer = self._armed = None
        self._advance()
        while self._running and self._running[0][0] <= self._virtual + ALMOST:
            _, _, threads, done = heapq.heappop(self._running)
            self._wanted -= threads
            if not done.done():
                done.set_result(None)
        self._arm()


class Thread:
    """One thread, such as an event loop: pieces of work one after the other, in order of arrival, on `processors`.

    A thread that has rested has to be woken and finds its caches cold: its next piece takes up to `cold_seconds` longer.
    `rests` sums how cold it was each time, from 0 to 1.
    """

    def __init__(self, processors: Processors, cold_seconds: float = 0.0) -> None:
        self._processors, self._turn, self._cold = processors, asyncio.Lock(), cold_seconds
        self._clock, self._ended = asyncio.get_running_loop().time, -math.inf
        self.busy_seconds = self.rests = 0.0

    async def work(self, seconds: float) -> None:
        """Wait for its turn and get `seconds` of a processor; 0 waits for what came before."""
        async with self._turn:
            if seconds <= 0:
                return
            cold = -math.expm1((self._ended - self._clock()) / RESTED)
            self.rests += cold
            seconds += cold * self._cold
            self.busy_seconds += seconds
            await self._processors.work(seconds)
            self._ended = self._clock()
