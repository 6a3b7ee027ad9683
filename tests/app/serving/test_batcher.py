"""The batcher: work-conserving, bounded, and sparing with answers that nobody reads. All in a story's own time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from app.serving.batcher import Batcher, Done, Expired, Failed, QueueFull
from app.serving.slots import Slots
from tests.app.fake_time import play

Run = Callable[[list[int]], Awaitable[list[int]]]


class Engine:
    """A fake engine that doubles numbers, once `gate` is open, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def run(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        await self.gate.wait()
        return [2 * item for item in items]


def batcher_of(
    run: Run, *, max_batch: int = 4, max_queue: int = 100, slots: Slots | None = None, **options: Any
) -> Batcher[int, int]:
    clock = asyncio.get_running_loop().time
    return Batcher(run, max_batch=max_batch, max_queue=max_queue, slots=slots or Slots(), **{"clock": clock} | options)


async def settle() -> None:
    """Let everything run that can run."""
    for _ in range(20):
        await asyncio.sleep(0)


def submitted(batcher: Batcher[int, int], *items: int, timeout: float = 5) -> list[asyncio.Task[Done[int]]]:
    return [asyncio.create_task(batcher.enter(timeout).submit(item)) for item in items]


def test_a_lone_request_runs_at_once() -> None:
    async def story() -> None:
        engine = Engine()
        batcher = batcher_of(engine.run)
        (task,) = submitted(batcher, 7)
        await settle()  # no time passes: a batcher that waits for company would not have answered
        assert task.done()
        done = task.result()
        assert (done.result, done.batch_size) == (14, 1)
        assert done.queue_seconds == 0
        await batcher.close()

    play(story())


def test_the_next_batch_grows_while_the_engine_runs_and_takes_the_oldest() -> None:
    async def story() -> None:
        engine = Engine()
        engine.gate.clear()
        batcher = batcher_of(engine.run, max_batch=4)
        tasks = submitted(batcher, 0)
        await settle()
        tasks += submitted(batcher, *range(1, 7))
        await settle()
        assert (engine.batches, batcher.depth) == ([[0]], 6)
        engine.gate.set()
        found = await asyncio.gather(*tasks)
        assert engine.batches == [[0], [1, 2, 3, 4], [5, 6]]
        assert [done.result for done in found] == [0, 2, 4, 6, 8, 10, 12]
        assert [done.batch_size for done in found] == [1, 4, 4, 4, 4, 2, 2]
        assert batcher.depth == 0
        await batcher.close()

    play(story())


def test_queue_seconds_is_the_wait_before_the_engine() -> None:
    async def story() -> None:
        engine = Engine()
        engine.gate.clear()
        batcher = batcher_of(engine.run)
        tasks = submitted(batcher, 1)
        await settle()
        tasks += submitted(batcher, 2)
        await settle()
        await asyncio.sleep(3)
        engine.gate.set()
        first, second = await asyncio.gather(*tasks)
        assert (first.queue_seconds, second.queue_seconds) == (0.0, 3.0)
        await batcher.close()

    play(story())


def test_a_full_queue_refuses_at_once_and_recovers() -> None:
    async def story() -> None:
        engine = Engine()
        engine.gate.clear()
        batcher = batcher_of(engine.run, max_queue=2)
        tasks = submitted(batcher, 0)
        await settle()
        tasks += submitted(batcher, 1, 2)
        await settle()
        with pytest.raises(QueueFull):
            batcher.enter(5)
        engine.gate.set()
        assert [done.result for done in await asyncio.gather(*tasks)] == [0, 2, 4]
        assert (await batcher.enter(5).submit(4)).result == 8
        assert engine.batches == [[0], [1, 2], [4]]
        await batcher.close()

    play(story())


def test_the_cancelled_do_not_fill_the_queue() -> None:
    async def story() -> None:
        engine = Engine()
        engine.gate.clear()
        batcher = batcher_of(engine.run, max_queue=2)
        tasks = submitted(batcher, 0)
        await settle()
        gone = submitted(batcher, 1, 2)
        await settle()
        for task in gone:
            task.cancel()
        await settle()
        tasks += submitted(batcher, 3, 4)
        await settle()
        engine.gate.set()
        assert [done.result for done in await asyncio.gather(*tasks)] == [0, 6, 8]
        assert all(task.cancelled() for task in gone)
        await batcher.close()

    play(story())


def test_the_cancelled_are_left_out_of_the_batch() -> None:
    async def story() -> None:
        engine = Engine()
        engine.gate.clear()
        batcher = batcher_of(engine.run, max_batch=2)
        tasks = submitted(batcher, 0)
        await settle()
        tasks += submitted(batcher, 1, 2, 3, 4)
        await settle()
        tasks[1].cancel()
        tasks[3].cancel()
        await settle()
        engine.gate.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert engine.batches == [[0], [2, 4]]
        assert [type(one) for one in found] == [Done, asyncio.CancelledError, Done, asyncio.CancelledError, Done]
        await batcher.close()

    play(story())


def test_the_expired_are_answered_in_time_and_never_computed() -> None:
    async def story() -> None:
        engine = Engine()
        engine.gate.clear()
        batcher = batcher_of(engine.run)
        tasks = submitted(batcher, 0)
        await settle()
        began = asyncio.get_running_loop().time()
        (late,) = submitted(batcher, 1, timeout=0.02)
        tasks += submitted(batcher, 2)
        with pytest.raises(Expired):
            await late
        assert asyncio.get_running_loop().time() - began == pytest.approx(0.02)
        engine.gate.set()
        await asyncio.gather(*tasks)
        assert engine.batches == [[0], [2]]
        await batcher.close()

    play(story())


def test_the_deadline_is_checked_when_the_batch_is_formed() -> None:
    async def story() -> None:
        now = 0.0
        engine = Engine()
        engine.gate.clear()
        batcher = batcher_of(engine.run, clock=lambda: now)
        tasks = submitted(batcher, 0)
        await settle()
        tasks += submitted(batcher, 1, timeout=5) + submitted(batcher, 2, timeout=50)
        await settle()
        now = 5.0  # the loop was busy: its own timers have not fired yet
        engine.gate.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in found] == [Done, Expired, Done]
        assert engine.batches == [[0], [2]]
        await batcher.close()

    play(story())


def test_an_exception_fails_its_batch_and_no_other() -> None:
    async def story() -> None:
        engine = Engine()

        async def run(items: list[int]) -> list[int]:
            results = await engine.run(items)
            if 1 in items:
                raise ValueError("boom")
            return results

        batcher = batcher_of(run, max_batch=2)
        engine.gate.clear()
        tasks = submitted(batcher, 0)
        await settle()
        tasks += submitted(batcher, 1, 2, 3, 4)
        await settle()
        engine.gate.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in found] == [Done, Failed, Failed, Done, Done]
        assert found[1] is not found[2], "each has its own, whose traceback is its own"
        assert (await batcher.enter(5).submit(5)).result == 10
        await batcher.close()

    play(story())


@pytest.mark.parametrize("results", [[], [1], [1, 2, 3]])
def test_a_wrong_number_of_results_fails_the_batch(results: list[int]) -> None:
    async def story() -> None:
        answers = iter([results, [8]])
        slots = Slots()
        await slots.acquire()

        async def run(items: list[int]) -> list[int]:
            return next(answers)

        told: list[tuple[str, int]] = []
        batcher = batcher_of(run, slots=slots, on_failure=lambda error, size: told.append((str(error), size)))
        tasks = submitted(batcher, 1, 2)
        await settle()
        slots.release()
        for one in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(one, Failed)
            assert one.kind is RuntimeError
        assert told == [(f"the engine gave {len(results)} results for 2 items", 2)]
        assert (await batcher.enter(5).submit(4)).result == 8
        await batcher.close()

    play(story())


def test_close_cancels_those_who_wait_and_those_who_run() -> None:
    async def story() -> None:
        engine = Engine()
        engine.gate.clear()
        slots = Slots()
        batcher = batcher_of(engine.run, max_batch=1, slots=slots)
        tasks = submitted(batcher, 0, 1, 2)
        await settle()
        await batcher.close()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in found] == [asyncio.CancelledError] * 3
        assert engine.batches == [[0]]
        assert batcher.depth == 0
        assert slots.idle(0)

    play(story())
