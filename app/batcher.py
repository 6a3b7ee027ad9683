"""The batcher: asynchronous, bounded, work-conserving. Knows nothing of HTTP or of the engine.

A lone request never waits while an engine is idle. While all engines run, the queue grows, and the next batch takes
the oldest `max_batch` of it at the moment an engine is free. Requests that expired or whose caller went away are left
out when the batch is formed, so nobody computes an answer that nobody reads. An engine that is done gets its next batch
before the answers of the last one are handed out, which takes the event loop some milliseconds. Where the engine pads
batches to a few sizes, a batch that would be mostly padding is cut to the size below: nine photos that are paid as sixteen
take longer than eight and then one.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")
FILLED = 0.75  # of a size, for a batch that is padded to it


class QueueFull(Exception):
    """The queue holds `max_queue` items; the caller should answer 503."""


class Expired(Exception):
    """The item was not answered before its deadline."""


@dataclass(frozen=True)
class Done(Generic[R]):
    """An item's result, the seconds it waited in the queue, and the size of the batch it ran in."""

    result: R
    queue_seconds: float
    batch_size: int


@dataclass(eq=False)
class _Waiting(Generic[T, R]):
    item: T
    future: asyncio.Future[Done[R]]
    since: float
    deadline: float


class Batcher(Generic[T, R]):
    """Collects items for `run`, which takes up to `max_batch` of them and returns as many results in order.

    `slot` counts the free engines: batchers that share engines share one semaphore, and each forms its batch only once
    it holds a place. An exception of `run` fails the items of its batch and no others. `max_batch` may be lowered later,
    and `sizes` set: those to which the engine pads a batch, ascending; empty where it runs a batch as it is.
    `run` may be a plain function that starts the engine and returns a future: then the engine starts at once.
    """

    def __init__(
        self,
        run: Callable[[list[T]], Awaitable[list[R]]],
        *,
        max_batch: int,
        max_queue: int,
        slot: asyncio.Semaphore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self.max_batch = max_batch
        self.sizes: Sequence[int] = ()
        self._max_queue = max_queue
        self._slot = slot
        self._clock = clock
        self._queue: deque[_Waiting[T, R]] = deque()
        self._wake = asyncio.Event()
        self.seconds_per_item = 0.0  # of engine time, averaged over the last batches
        self._running: set[asyncio.Task[None]] = set()
        self._worker = asyncio.create_task(self._work())

    @property
    def depth(self) -> int:
        """Items waiting."""
        return len(self._queue)

    @property
    def oldest_seconds(self) -> float:
        """How long the oldest item has been waiting; 0 when none is."""
        return self._clock() - self._queue[0].since if self._queue else 0.0

    def check_room(self) -> None:
        """Raise `QueueFull` as `submit` would: for callers that have work to do before they submit."""
        if len(self._queue) >= self._max_queue:
            self._queue = deque(w for w in self._queue if not w.future.done())
            if len(self._queue) >= self._max_queue:
                raise QueueFull

    async def submit(self, item: T, timeout: float) -> Done[R]:
        """Wait for the item's result, at most `timeout` seconds.

        Raises `QueueFull` at once, `Expired`, or whatever `run` raised for the item's batch. If the caller is
        cancelled the item is left out of the next batch.
        """
        self.check_room()
        now = self._clock()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Done[R]] = loop.create_future()
        self._queue.append(_Waiting(item, future, now, now + timeout))
        self._wake.set()
        alarm = loop.call_later(timeout, _expire, future)  # a third of the cost of `asyncio.wait_for`
        try:
            return await future
        finally:
            alarm.cancel()

    async def close(self) -> None:
        """Stop the worker and the running batches; their items and those still waiting are cancelled."""
        tasks = [self._worker, *self._running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for waiting in self._queue:
            waiting.future.cancel()
        self._queue.clear()

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            await self._slot.acquire()
            batch = self._form()
            if not self._queue:
                self._wake.clear()
            if not batch:
                self._slot.release()
                continue
            self._start(batch)

    def _start(self, batch: list[_Waiting[T, R]]) -> None:
        started = self._clock()
        try:
            running = asyncio.ensure_future(self._run([waiting.item for waiting in batch]))
        except Exception as error:
            self._slot.release()
            _fail(batch, error)
            return
        running.add_done_callback(
            lambda _: self._slot.release()
        )  # before `_answer` hears of it: the engine comes first
        task = asyncio.create_task(self._answer(batch, running, started))
        self._running.add(task)
        task.add_done_callback(lambda ended: self._ended(ended, running))

    def _ended(self, task: asyncio.Task[None], running: asyncio.Future[list[R]]) -> None:
        self._running.discard(task)
        running.cancel()  # if the task was cancelled before it began to wait

    def _form(self) -> list[_Waiting[T, R]]:
        """Take the oldest live items, up to `max_batch`, and no more than fill one of `sizes` well."""
        now = self._clock()
        batch: list[_Waiting[T, R]] = []
        while self._queue and len(batch) < self.max_batch:
            waiting = self._queue.popleft()
            if waiting.future.done():
                continue
            if now >= waiting.deadline:
                waiting.future.set_exception(Expired())
                continue
            batch.append(waiting)
        kept = filling(len(batch), self.sizes)
        self._queue.extendleft(reversed(batch[kept:]))
        return batch[:kept]

    def _measure(self, seconds: float) -> None:
        self.seconds_per_item += 0.2 * (seconds - self.seconds_per_item) if self.seconds_per_item else seconds

    async def _answer(self, batch: list[_Waiting[T, R]], running: asyncio.Future[list[R]], started: float) -> None:
        try:
            results = await running
            if len(results) != len(batch):
                raise RuntimeError(f"the engine gave {len(results)} results for {len(batch)} items")
        except Exception as error:
            _fail(batch, error)
            return
        except asyncio.CancelledError:
            for waiting in batch:
                waiting.future.cancel()
            raise
        self._measure((self._clock() - started) / len(batch))
        for waiting, result in zip(batch, results, strict=True):
            if not waiting.future.done():
                waiting.future.set_result(Done(result, started - waiting.since, len(batch)))


def filling(count: int, sizes: Sequence[int]) -> int:
    """How many of `count` items to take: all that fill `FILLED` of the next of `sizes` (ascending), else the one below."""
    below = 0
    for size in sizes:
        if size >= count:
            return count if count >= FILLED * size or not below else below
        below = size
    return count


def _fail(batch: list[_Waiting[T, R]], error: Exception) -> None:
    for waiting in batch:
        if not waiting.future.done():
            waiting.future.set_exception(error)


def _expire(future: asyncio.Future[Done[R]]) -> None:
    if not future.done():
        future.set_exception(Expired())
