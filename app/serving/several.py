"""Photos of requests that bring several: they wait their turn outside of the lines of single photos.

A request is let in or refused as a whole. What was let in finds room whenever its turn comes, in the
order in which the requests came, so that none that was promised an answer is delayed by a later one
with several. They share the decoders with single photos, in turns (`app.decoding.line.Line`). Only so
many are under way at a time as keep decoders and engines busy: a single photo stands behind these,
and not behind all that wait.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager


class Several:
    """At most `most` photos are under way; `waiting` are let in and not begun, by whether they are quick to decode."""

    def __init__(self, most: int) -> None:
        self.waiting = Counter[bool]()
        self._free = asyncio.Semaphore(most)

    @contextmanager
    def request(self, quick: Iterable[bool]) -> Iterator[RequestTurns]:
        """Let in a request with these photos, until it is answered."""
        mine = RequestTurns(self, Counter(quick))
        self.waiting += mine.left
        try:
            yield mine
        finally:
            self.waiting -= mine.left

    async def acquire(self) -> None:
        """Wait for a turn."""
        await self._free.acquire()

    def release(self) -> None:
        """A turn is over."""
        self._free.release()


class RequestTurns:
    """The turns of one request; `left` are not begun."""

    def __init__(self, several: Several, left: Counter[bool]) -> None:
        self._several, self.left = several, left

    @asynccontextmanager
    async def turn(self, quick: bool, seconds: float) -> AsyncIterator[None]:
        """A photo's, from its decoding to its answer. Raises `TimeoutError` where it has not come after `seconds`."""
        async with asyncio.timeout(seconds):
            await self._several.acquire()
        self.left[quick] -= 1
        self._several.waiting[quick] -= 1
        try:
            yield
        finally:
            self._several.release()
