"""When the batcher gives engines their batches, and how it shares them."""

from __future__ import annotations

import asyncio

import pytest

from app.serving.batcher import Failed
from app.serving.slots import Slots
from tests.app.fake_time import play
from tests.app.serving.test_batcher import Engine, batcher_of, settle, submitted


def test_batchers_that_share_a_slot_take_turns_and_form_late() -> None:
    async def story() -> None:
        slots, running, log = Slots(), 0, []

        async def run(items: list[int]) -> list[int]:
            nonlocal running
            running += 1
            assert running == 1
            log.append(items)
            await asyncio.sleep(0.01)
            running -= 1
            return items

        one, two = batcher_of(run, slots=slots), batcher_of(run, slots=slots)
        tasks = submitted(one, 10)
        await settle()
        tasks += submitted(two, 20)  # its worker now waits for the slot
        await settle()
        tasks += submitted(two, 21, 22) + submitted(one, 11)
        assert [done.result for done in await asyncio.gather(*tasks)] == [10, 20, 21, 22, 11]
        assert log == [[10], [20, 21, 22], [11]]
        await one.close()
        await two.close()

    play(story())


def test_an_engine_that_is_done_gets_its_next_batch_before_the_answers_go_out() -> None:
    async def story() -> None:
        log: list[str] = []
        running: list[asyncio.Future[list[int]]] = []

        def run(items: list[int]) -> asyncio.Future[list[int]]:
            log.append(f"starts {items}")
            running.append(asyncio.get_running_loop().create_future())
            return running[-1]

        async def ask(item: int) -> None:
            await batcher.enter(5).submit(item)
            log.append(f"answered {item}")

        batcher = batcher_of(run, max_batch=2)
        tasks = [asyncio.create_task(ask(item)) for item in range(5)]
        for batch in ([0, 1], [2, 3], [4]):
            await settle()
            running[-1].set_result(batch)
        await asyncio.gather(*tasks)
        assert log == [
            "starts [0, 1]", "starts [2, 3]", "answered 0", "answered 1", "starts [4]", "answered 2", "answered 3",
            "answered 4",
        ]  # fmt: skip
        await batcher.close()

    play(story())


def test_those_who_would_be_paid_as_padding_come_first_in_the_next_batch() -> None:
    async def story() -> None:
        engine = Engine()
        engine.gate.clear()
        batcher = batcher_of(engine.run, max_batch=16)
        batcher.fit(16, (1, 2, 4, 8, 16))
        tasks = submitted(batcher, 0)
        await settle()
        tasks += submitted(batcher, *range(1, 10))
        await settle()
        engine.gate.set()
        assert [done.result for done in await asyncio.gather(*tasks)] == [2 * item for item in range(10)]
        assert engine.batches == [[0], [1, 2, 3, 4, 5, 6, 7, 8], [9]]
        assert batcher.depth == 0
        await batcher.close()

    play(story())


def test_an_engine_that_cannot_start_fails_its_batch_and_gives_its_place_back() -> None:
    async def story() -> None:
        def run(items: list[int]) -> asyncio.Future[list[int]]:
            raise RuntimeError(f"no thread for {items}")

        slots, told = Slots(), list[str]()
        batcher = batcher_of(run, slots=slots, on_failure=lambda error, size: told.append(str(error)))
        for item in (1, 2):
            with pytest.raises(Failed):
                await batcher.enter(5).submit(item)
        assert told == ["no thread for [1]", "no thread for [2]"]
        await settle()
        await batcher.close()
        assert slots.idle(0)

    play(story())
