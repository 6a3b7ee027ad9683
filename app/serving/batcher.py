"""The batcher: asynchronous, bounded, work-conserving. Knows nothing of HTTP or of the engine.

A lone request never waits while an engine is idle. While all engines run, the queue grows, and the next batch takes the
oldest of it at the moment an engine is free: as many as the engine does best (`CallTimes.best`). An engine that is done
gets its next batch before the answers of the last one are handed out, which takes the event loop some milliseconds.

Nobody computes an answer that nobody reads. What cannot be answered before its deadline is refused at the door, before
its photo is decoded: `enter` expects when it will be decoded, and when all that stands before it then will be done. An
idle engine takes whatever comes, so a wrong expectation is put right by the next call. What has a place but cannot be
done in time any more, since calls took longer than expected, is left out when a batch is formed; what has expired or
lost its caller leaves the queue at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from app.serving.call_times import Call, CallTimes
from app.serving.slots import Slots

T = TypeVar("T")
R = TypeVar("R")
CAUTIOUS = 16  # items that may wait while the first call ever runs, whose end tells what calls take
PROMISED = 0.9  # of an item's time: what is expected to take longer is refused, since calls take longer than expected


class Refused(Exception):
    """There is no place; the caller should answer 503. `seconds`: until there is one, as far as can be known."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


class QueueFull(Refused):
    """`max_queue` items wait."""


class TooLate(Refused):
    """It could not be answered before its deadline."""


class Expired(Exception):
    """The item was not answered before its deadline."""


class Failed(Exception):
    """`run` failed on the item's batch, with an error of this kind that `on_failure` was told of.

    Each item has one of its own: an error that is raised in many places has all of them in its
    traceback.
    """

    def __init__(self, kind: type[Exception]) -> None:
        super().__init__()
        self.kind = kind


@dataclass(frozen=True)
class Done(Generic[R]):
    """An item's result, the seconds it waited in the queue, and the size of the batch it ran in."""

    result: R
    queue_seconds: float
    batch_size: int


class Place(Generic[T, R]):
    """An item's place in the line, from the door to its answer. Who does not `submit` must `leave`."""

    def __init__(self, batcher: Batcher[T, R], deadline: float, promised: float, arrives: float) -> None:
        self._batcher = batcher
        self.deadline = deadline
        self.promised = promised  # seconds after `enter` by which it is to be answered
        self.arrives = arrives  # when its item is expected
        self.since = 0.0  # when it was queued
        self._future: asyncio.Future[Done[R]] | None = None

    async def submit(self, item: T) -> Done[R]:
        """Wait for the item's result. Raises `Expired`, or `Failed` with its batch.

        If the caller is cancelled, the item is left out of the next batch.
        """
        loop = asyncio.get_running_loop()
        self._future = loop.create_future()
        self.since = self._batcher.queued(self, item)
        # a third of the cost of `asyncio.wait_for`
        alarm = loop.call_later(max(0.0, self.deadline - self.since), self.fail, Expired())
        try:
            return await self._future
        finally:
            alarm.cancel()
            self.leave()

    def leave(self) -> None:
        """Give the place back."""
        self._batcher.left(self)
        self._future = None  # else it, its exception and this frame would hold one another

    @property
    def waited_for(self) -> bool:
        """Whether it is queued or in a batch, and still to be answered."""
        return self._future is not None and not self._future.done()

    def answer(self, done: Done[R]) -> None:
        """Give the result, if it is still waited for."""
        if self._future is not None and not self._future.done():
            self._future.set_result(done)

    def fail(self, error: Exception) -> None:
        """Raise an error where the result is waited for."""
        if self._future is not None and not self._future.done():
            self._future.set_exception(error)

    def cancel(self) -> None:
        """Cancel who waits for the result."""
        if self._future is not None:
            self._future.cancel()


class Batcher(Generic[T, R]):
    """Collects items for `run`, which takes up to `max_batch` of them and returns as many results in order.

    Nobody is let in while `max_queue` items wait for an engine. An exception of `run` fails the items of its batch and
    no others; `on_failure` is told of it once, with their number. `run` may be a plain function that starts the engine
    and returns a future: then the engine starts at once.
    """

    def __init__(
        self,
        run: Callable[[list[T]], Awaitable[list[R]]],
        *,
        max_batch: int,
        max_queue: int,
        slots: Slots,
        on_failure: Callable[[Exception, int], None] = lambda error, size: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run, self._on_failure = run, on_failure
        self._max_queue = max_queue
        self._slots = slots
        self._clock = clock
        self.times = CallTimes(lambda: self._clock())
        self.fit(max_batch, ())
        self._decoding: set[Place[T, R]] = set()  # have a place and no item yet
        self._queue: dict[Place[T, R], T] = {}  # in order
        self._wake = asyncio.Event()
        self._first_ended = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._worker = asyncio.create_task(self._work())
        slots.batchers.append(self)

    def fit(self, max_batch: int, sizes: Sequence[int]) -> None:
        """Set the most items of a batch, and the sizes to which the engine pads one, ascending; empty: to none."""
        self.times.fit(max_batch, sizes)

    @property
    def depth(self) -> int:
        """Items in the queue."""
        return len(self._queue)

    def before(self, arrives: float) -> int:
        """Items that wait, or are expected by then."""
        count = len(self._queue)
        for place in self._decoding:
            count += place.arrives <= arrives
        return count

    @property
    def oldest_seconds(self) -> float:
        """How long the oldest item has been in the queue; 0 when none is."""
        return self._clock() - next(iter(self._queue)).since if self._queue else 0.0

    def check_full(self) -> None:
        """Raise `QueueFull` as `enter` would."""
        if len(self._queue) >= self._max_queue:
            raise QueueFull(self._slots.free_in())

    def check(self, timeout: float, wait: float = 0.0, making: float = 0.0) -> float:
        """Raise `QueueFull` or `TooLate` as `enter` would, else when the item is expected."""
        self.check_full()
        if self.times.first_runs and len(self._decoding) + len(self._queue) >= CAUTIOUS:
            raise TooLate(self._slots.free_in())
        arrives, promised = self._clock() + wait + making, PROMISED * timeout
        idle = self._slots.idle(arrives)
        if wait or not idle:
            ready = wait and wait + making  # what is begun at once may take less time than the last
            alone = self.times.seconds(1)
            done = 0.0 if idle else self._slots.done_in(self, arrives, promised)
            over = max(done, ready + alone) - promised
            if over > 0:
                raise TooLate(min(over, max(done - alone, ready)))  # at the latest when all before it is done
        return arrives

    async def known(self, timeout: float) -> None:
        """Wait while the first call ever runs, whose end tells what calls take. Raises `Expired` after
        `timeout` seconds.
        """
        if self.times.first_runs:
            try:
                await asyncio.wait_for(self._first_ended.wait(), timeout)
            except TimeoutError:
                raise Expired from None

    def check_all(self, count: int, ahead: int, timeout: float, made: float, alone: float) -> None:
        """Raise `QueueFull` or `TooLate` where `count` items more would not all be answered within `timeout` seconds.

        They come behind `ahead` others that have no place yet, the last of them after `made` seconds; where nobody
        stood before them it would be after `alone`. What would take too long even then is let in where nobody does.
        """
        self.check_full()
        before = len(self._decoding) + len(self._queue) + ahead
        if self.times.first_runs and before >= CAUTIOUS:
            raise TooLate(self._slots.free_in())
        promised, last = PROMISED * timeout, self.times.seconds(1)
        done = max(self._slots.all_done_in(self, ahead + count), made + last)
        if done > promised:
            own = max(self.times.drain(count) / self._slots.engines, alone + last)
            if before or own <= promised:
                raise TooLate(done - max(own, promised))

    def enter(self, timeout: float, wait: float = 0.0, making: float = 0.0, *, let_in: bool = False) -> Place[T, R]:
        """A place for an item that must be answered within `timeout` seconds.

        After `wait` seconds it begins to be made, in `making` seconds. Raises `QueueFull` or `TooLate`, unless it was
        `let_in` before.
        """
        arrives = self._clock() + wait + making if let_in else self.check(timeout, wait, making)
        place = Place(self, self._clock() + timeout, PROMISED * timeout, arrives)
        self._decoding.add(place)
        return place

    def queued(self, place: Place[T, R], item: T) -> float:
        """A place has its item; the time."""
        self._decoding.discard(place)
        self._queue[place] = item
        self._wake.set()
        return self._clock()

    def left(self, place: Place[T, R]) -> None:
        """A place is given back."""
        self._decoding.discard(place)
        self._queue.pop(place, None)

    async def close(self) -> None:
        """Stop the worker and the running batches; their items and those still waiting are cancelled."""
        tasks = [self._worker, *self._running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for place in self._queue:
            place.cancel()
        self._queue.clear()

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            await self._slots.acquire()
            batch = self._form()
            if not self._queue:
                self._wake.clear()
            if not batch:
                self._slots.release()
                continue
            self._start(batch)
            del batch  # it is not held until the next one

    def _start(self, batch: dict[Place[T, R], T]) -> None:
        call = self.times.begin(len(batch))
        try:
            running = asyncio.ensure_future(self._run(list(batch.values())))
        except Exception as error:
            self.times.end(call, counts=False)
            self._slots.release()
            self._fail(batch, error)
            return
        running.add_done_callback(lambda ended: self._free(call, ended))  # before `_answer`: the engine comes first
        task = asyncio.create_task(self._answer(list(batch), running, call.began))
        self._running.add(task)
        task.add_done_callback(lambda ended: self._ended(ended, running))

    def _free(self, call: Call, ended: asyncio.Future[list[R]]) -> None:
        self.times.end(call, counts=not ended.cancelled() and ended.exception() is None)
        self._first_ended.set()
        self._slots.release()

    def _ended(self, task: asyncio.Task[None], running: asyncio.Future[list[R]]) -> None:
        self._running.discard(task)
        running.cancel()  # if the task was cancelled before it began to wait

    def _form(self) -> dict[Place[T, R], T]:
        """Take the oldest that can be done in time, as many as are best. What cannot any more is left out for good.

        Where nothing can, as far as is known, the youngest is tried alone: the engine has nothing better to do, and may
        be faster than it was.
        """
        now, needed = self._clock(), dict[float, float]()
        able: list[Place[T, R]] = []
        late: list[Place[T, R]] = []
        gone: list[Place[T, R]] = []  # expired, or their callers went away, and they have not heard of it yet
        for place in self._queue:
            if len(able) == self.times.max_batch:
                break
            if place.promised not in needed:
                needed[place.promised] = self.times.needed(len(self._queue), place.promised)
            left = place.deadline - now
            if not place.waited_for or left <= 0:
                gone.append(place)
            else:
                (able if left >= needed[place.promised] else late).append(place)
        if not able:
            able, late = late[-1:], []
        for place in (*gone, *late):
            self._queue.pop(place)
            place.fail(Expired())
        count = self.times.best([place.deadline - now for place in able]) if able else 0
        return {place: self._queue.pop(place) for place in able[:count]}

    async def _answer(self, batch: list[Place[T, R]], running: asyncio.Future[list[R]], started: float) -> None:
        try:
            results = await running
            if len(results) != len(batch):
                raise RuntimeError(f"the engine gave {len(results)} results for {len(batch)} items")
            for place, result in zip(batch, results, strict=True):
                place.answer(Done(result, started - place.since, len(batch)))
        except Exception as error:
            self._fail(batch, error)
        except asyncio.CancelledError:
            for place in batch:
                place.cancel()
            raise
        finally:
            del batch, running  # an error holds this frame, and must not be held by it

    def _fail(self, batch: Collection[Place[T, R]], error: Exception) -> None:
        self._on_failure(error, len(batch))
        for place in batch:
            place.fail(Failed(type(error)))
