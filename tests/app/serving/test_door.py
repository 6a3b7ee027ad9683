"""Who comes in: what cannot be answered in time is refused at once, with the time until there is room; all else is not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from app.serving.batcher import CAUTIOUS, Batcher, Done, Expired, QueueFull, TooLate
from app.serving.slots import Slots
from tests.app.fake_time import play
from tests.app.serving.test_batcher import batcher_of, settle, submitted


class Device:
    """An engine whose calls take a known time, remembered by when each began."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.seconds, self.calls = seconds, list[tuple[float, list[int]]]()

    async def run(self, items: list[int]) -> list[int]:
        loop = asyncio.get_running_loop()
        self.calls.append((loop.time() - 100, items))
        await asyncio.sleep(self.seconds(len(items)))
        return items


async def learnt(batcher: Batcher[int, int], *counts: int) -> None:
    """Calls of so many items, so that their times are known."""
    for count in counts:
        await batcher._slots.acquire()
        tasks = submitted(batcher, *range(count), timeout=1000)
        await settle()
        batcher._slots.release()
        await asyncio.gather(*tasks)


def test_what_cannot_be_done_in_time_is_refused_at_the_door() -> None:
    async def story() -> None:
        device = Device(lambda count: 1.0 * count)
        batcher = batcher_of(device.run, max_batch=1)
        await learnt(batcher, 1)
        tasks = submitted(batcher, *range(4), timeout=10)
        await settle()  # one runs, three wait: a fifth is done in five seconds
        with pytest.raises(TooLate) as refused:
            batcher.enter(5)
        # 1 s still runs, 3 s wait, its own 1 s may be 1.25 s: 5.25 s, and 4.5 s of its five are promised
        assert refused.value.seconds == pytest.approx(0.75)
        await asyncio.sleep(0.7)
        with pytest.raises(TooLate):
            batcher.enter(5)
        await asyncio.sleep(0.1)
        tasks += submitted(batcher, 4, timeout=5)
        assert [done.result for done in await asyncio.gather(*tasks)] == [0, 1, 2, 3, 4]
        await batcher.close()

    play(story())


def test_until_the_first_call_has_ended_few_may_wait() -> None:
    """Nothing is known of a new engine: it may be too slow for a crowd that came at once."""

    async def story() -> None:
        batcher = batcher_of(Device(lambda count: 0.1).run, max_batch=4)
        tasks = submitted(batcher, 0, timeout=1000)
        await settle()
        tasks += submitted(batcher, *range(CAUTIOUS), timeout=1000)
        await settle()
        with pytest.raises(TooLate):
            batcher.enter(1000)
        await asyncio.sleep(0.2)
        batcher.enter(1000).leave()
        assert len(await asyncio.gather(*tasks)) == CAUTIOUS + 1
        await batcher.close()

    play(story())


def test_who_has_no_photo_yet_stands_in_the_line_too() -> None:
    async def story() -> None:
        batcher = batcher_of(Device(lambda count: 1.0).run, max_batch=1)
        await learnt(batcher, 1)
        places = [batcher.enter(10) for _ in range(2)]
        with pytest.raises(TooLate):
            batcher.enter(3)
        places.pop().leave()
        batcher.enter(3).leave()
        assert (await places.pop().submit(7)).result == 7
        await batcher.close()

    play(story())


def test_who_comes_later_stands_before_nobody() -> None:
    async def story() -> None:
        batcher = batcher_of(Device(lambda count: 1.0).run, max_batch=1)
        await learnt(batcher, 1)
        places = [batcher.enter(20, wait=1.0 * number, making=0.5) for number in range(1, 9)]
        batcher.enter(0.1).leave()  # the engine is idle
        with pytest.raises(TooLate):
            batcher.enter(5.8, making=4.6)  # four come before, and its own second may be 1.25
        batcher.enter(5.9, making=4.6).leave()
        await asyncio.sleep(8)
        with pytest.raises(TooLate):
            batcher.enter(8)  # seven are late and may come at any time
        for place in places:
            place.leave()
        await batcher.close()

    play(story())


def test_the_queue_is_full_of_those_who_wait_for_an_engine() -> None:
    async def story() -> None:
        batcher = batcher_of(Device(lambda count: 1.0).run, max_batch=1, max_queue=1)
        tasks = [asyncio.create_task(place.submit(7)) for place in [batcher.enter(10) for _ in range(2)]]
        await settle()
        assert batcher.depth == 1, "the other one runs"
        with pytest.raises(QueueFull):
            batcher.enter(10)
        await asyncio.gather(*tasks)
        batcher.enter(10).leave()
        await batcher.close()

    play(story())


def test_the_time_until_its_photo_is_decoded_counts_and_what_waits_is_done_meanwhile() -> None:
    async def story() -> None:
        batcher = batcher_of(Device(lambda count: 1.0).run, max_batch=1)
        await learnt(batcher, 1)
        tasks = submitted(batcher, 0, 1)
        await settle()
        batcher.enter(5, wait=3.0, making=0.4).leave()
        with pytest.raises(TooLate) as refused:
            batcher.enter(5, wait=3.0, making=0.6)
        assert refused.value.seconds == pytest.approx(0.1)
        await asyncio.gather(*tasks)
        await batcher.close()

    play(story())


def test_what_is_decoded_too_late_is_refused_though_the_engine_is_idle() -> None:
    async def story() -> None:
        batcher = batcher_of(Device(lambda count: 1.0).run, max_batch=1)
        await learnt(batcher, 1)
        batcher.enter(10, making=60).leave()  # it is begun at once, and may be faster than the last
        batcher.enter(10, wait=7, making=0.9).leave()
        with pytest.raises(TooLate) as refused:
            batcher.enter(10, wait=7, making=1.1)
        assert refused.value.seconds == pytest.approx(0.1)
        await batcher.close()

    play(story())


def test_queues_that_share_an_engine_count_each_other() -> None:
    async def story() -> None:
        slots = Slots()
        one = batcher_of(Device(lambda count: 1.0).run, max_batch=1, slots=slots)
        two = batcher_of(Device(lambda count: 3.0).run, max_batch=1, slots=slots)
        await learnt(one, 1)
        await learnt(two, 1)
        tasks = submitted(two, 0, timeout=20)
        await settle()
        tasks += submitted(two, 1, timeout=20)
        with pytest.raises(TooLate):
            one.enter(8)  # 3 s run, 3 s wait, and its own
        one.enter(8.1).leave()
        await asyncio.gather(*tasks)
        await one.close()
        await two.close()

    play(story())


def test_two_engines_are_twice_as_fast() -> None:
    async def story() -> None:
        batcher = batcher_of(Device(lambda count: 1.0).run, max_batch=1, slots=Slots(2))
        await learnt(batcher, 1)
        tasks = submitted(batcher, *range(6))
        await settle()  # two run, four wait
        with pytest.raises(TooLate):
            batcher.enter(4.7)
        batcher.enter(4.8).leave()
        await asyncio.gather(*tasks)
        await batcher.close()

    play(story())


def test_an_engine_that_hangs_holds_up_nobody_at_the_other() -> None:
    async def story() -> None:
        times = iter([1.0, 60.0] + [1.0] * 9)
        batcher = batcher_of(Device(lambda count: next(times)).run, max_batch=1, slots=Slots(2))
        (first,) = submitted(batcher, 0)
        await first
        hanging = submitted(batcher, 0, timeout=100)
        await asyncio.sleep(30)
        tasks = submitted(batcher, *range(3), timeout=5)  # the second and the third wait
        assert [done.result for done in await asyncio.gather(*tasks)] == [0, 1, 2]
        await asyncio.gather(*hanging)
        await batcher.close()

    play(story())


def test_a_first_call_that_hangs_counts_before_it_ends() -> None:
    async def story() -> None:
        batcher = batcher_of(Device(lambda count: 8.0).run, max_batch=1)
        tasks = submitted(batcher, 0, timeout=20)
        await settle()
        batcher.enter(10).leave()
        await asyncio.sleep(7)
        with pytest.raises(TooLate):
            batcher.enter(10)
        await asyncio.gather(*tasks)
        await batcher.close()

    play(story())


def test_an_idle_engine_takes_whatever_comes_and_so_learns_that_it_is_fast_again() -> None:
    async def story() -> None:
        times = iter([60.0] + [0.1] * 100)
        device = Device(lambda count: next(times))
        batcher = batcher_of(device.run, max_batch=1)
        (first,) = submitted(batcher, 0, timeout=100)
        await first
        refused = 0
        for item in range(1, 30):  # as one leaves two come
            (task,) = submitted(batcher, item, timeout=10)
            await settle()
            try:
                batcher.enter(10).leave()
            except TooLate:
                refused += 1
            assert (await task).result == item
        assert 0 < refused < 15
        await batcher.close()

    play(story())


def test_what_can_no_longer_be_done_is_left_out_and_what_can_is_done() -> None:
    async def story() -> None:
        times = iter([1.0, 7.0] + [1.0] * 9)
        device = Device(lambda count: next(times))
        batcher = batcher_of(device.run, max_batch=1)
        await learnt(batcher, 1)
        tasks = submitted(batcher, *range(5), timeout=8.9)
        await asyncio.sleep(7.5)
        tasks += submitted(batcher, 5, timeout=60)
        await asyncio.sleep(1)
        # the call of seven seconds left time for one more; the sixth came later and has time
        assert [task.done() for task in tasks] == [True] * 5 + [False]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in found] == [Done, Done, Expired, Expired, Expired, Done]
        assert [items for _, items in device.calls[1:]] == [[0], [1], [5]]
        await batcher.close()

    play(story())


def test_where_nothing_seems_to_be_in_time_the_youngest_is_tried() -> None:
    async def story() -> None:
        times = iter([9.0] + [0.1] * 9)
        device = Device(lambda count: next(times))
        batcher = batcher_of(device.run, max_batch=4)
        (first,) = submitted(batcher, 0, timeout=60)
        await settle()
        tasks = submitted(batcher, 1, 2, 3, timeout=10)
        assert [done.result for done in await asyncio.gather(first, *tasks)] == [0, 1, 2, 3]
        assert [items for _, items in device.calls] == [[0], [3], [2], [1]]
        await batcher.close()

    play(story())


async def held(batcher: Batcher[int, int], seconds: float, first: range, *last: int) -> list[asyncio.Task[Done[int]]]:
    """Items that have ten seconds and wait for so long before an engine is free; and those that come as it is."""
    await batcher._slots.acquire()
    tasks = submitted(batcher, *first, timeout=10)
    await asyncio.sleep(seconds)
    tasks += submitted(batcher, *last, timeout=60)
    await settle()
    batcher._slots.release()
    return tasks


def test_a_batch_is_cut_to_what_is_done_in_time() -> None:
    """0.7 s a photo: eight take 5.6 s, and sixteen longer than they may."""

    async def story() -> None:
        device = Device(lambda count: 0.7 * count)
        batcher = batcher_of(device.run, max_batch=16)
        batcher.fit(16, (1, 2, 4, 8, 16))
        await learnt(batcher, 1, 16)
        tasks = await held(batcher, 4, range(8))
        assert [done.result for done in await asyncio.gather(*tasks)] == list(range(8))
        assert [len(items) for _, items in device.calls[2:]] == [4, 2, 2]
        await batcher.close()

    play(story())


@pytest.mark.parametrize(("others", "alone"), [(15, False), (0, True)])
def test_a_photo_that_would_make_the_batches_slow_is_left_out(others: int, alone: bool) -> None:
    """Half a second a call and a tenth a photo: alone it would still be in time."""

    async def story() -> None:
        device = Device(lambda count: 0.5 + 0.1 * count)
        batcher = batcher_of(device.run, max_batch=16)
        batcher.fit(16, (1, 2, 4, 8, 16))
        await learnt(batcher, 1, 16)
        tasks = await held(batcher, 9, range(1), *range(others))
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in found] == [Done if alone else Expired] + [Done] * others
        assert [len(items) for _, items in device.calls[2:]] == [1 if alone else others]
        await batcher.close()

    play(story())


def test_the_cancelled_and_the_expired_leave_the_queue_at_once() -> None:
    async def story() -> None:
        batcher = batcher_of(Device(lambda count: 20.0).run, max_batch=1)
        tasks = submitted(batcher, 0, timeout=60)
        await settle()
        tasks += submitted(batcher, 1, timeout=60) + submitted(batcher, 2, timeout=3) + submitted(batcher, 3)
        await settle()
        assert batcher.depth == 3
        tasks[1].cancel()
        await settle()
        assert batcher.depth == 2
        await asyncio.sleep(3)
        assert (batcher.depth, batcher.oldest_seconds) == (1, 3)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (batcher.depth, batcher.oldest_seconds) == (0, 0)
        await batcher.close()

    play(story())
