"""Who gets a process, who waits and for how long, and what is not waited for: with decoders that
answer when told to.
"""

from __future__ import annotations

import asyncio

import pytest

from app.decoding.pool import START_SECONDS, DecodePool
from tests.app.decoders import LONG, QUICK, SLOW_KIND, StandIn, Told, ask, settle


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_a_quick_photo_finds_a_process_whatever_slow_ones_there_are(told: Told, processes: int) -> None:
    async def story(pool: DecodePool, decoders: list[StandIn]) -> None:
        for i in range(3 * processes):
            await ask(pool, SLOW_KIND, i % 4)
        assert sum(one.photos == [SLOW_KIND] for one in decoders) == processes - 1
        (free,) = (one for one in decoders if not one.jobs)
        for _ in range(3):
            newcomer = await ask(pool, QUICK, "newcomer")
            assert free.photos == [QUICK]
            free.answer()
            await newcomer

    told(story, processes)


def test_a_photo_that_turns_out_to_be_slow_counts_as_such(told: Told) -> None:
    async def story(pool: DecodePool, decoders: list[StandIn]) -> None:
        await ask(pool, QUICK, "a")
        await asyncio.sleep(0.15)
        await ask(pool, SLOW_KIND, "b")
        assert [len(one.jobs) for one in decoders] == [1, 0]
        decoders[0].answer()
        assert sum(len(one.jobs) for one in decoders) == 1

    told(story, 2)


def test_quick_photos_of_one_request_use_all_processes(told: Told) -> None:
    async def story(pool: DecodePool, decoders: list[StandIn]) -> None:
        for _ in range(8):
            await ask(pool, QUICK, "a")
        assert [one.photos for one in decoders] == [[QUICK] * 2] * 3

    told(story, 3)


def test_requests_take_turns(told: Told) -> None:
    async def story(pool: DecodePool, decoders: list[StandIn]) -> None:
        many = [await ask(pool, SLOW_KIND, "a") for _ in range(5)]
        one = await ask(pool, SLOW_KIND, "b")
        slow = next(one for one in decoders if one.jobs)
        for _ in range(4):
            slow.answer()
        await settle()
        assert one.done(), "behind the one that was being read and two that waited"
        assert [task.done() for task in many] == [True, True, True, False, False]

    told(story, 2)


def test_at_one_process_quick_and_slow_take_turns(told: Told) -> None:
    async def story(pool: DecodePool, decoders: list[StandIn]) -> None:
        for photo in (SLOW_KIND, SLOW_KIND, SLOW_KIND, QUICK + b"1", QUICK + b"2"):
            await ask(pool, photo, photo)
        order = []
        for _ in range(5):
            order.append(decoders[0].photos[0])
            decoders[0].answer()
        assert order == [SLOW_KIND, QUICK + b"1", SLOW_KIND, QUICK + b"2", SLOW_KIND]

    told(story, 1)


def test_slow_photos_wait_for_the_process_that_replaces_another(told: Told) -> None:
    async def story(pool: DecodePool, decoders: list[StandIn]) -> None:
        pool._decoders.remove(decoders[0])
        pool._dying.add(decoders[0])
        await ask(pool, SLOW_KIND, "a")
        assert not decoders[1].jobs, "or a quick one would find none"
        pool._dying.clear()  # no other can be started
        pool.dispatch()
        assert decoders[1].photos == [SLOW_KIND]

    told(story, 2)


def test_slow_photos_do_not_wait_for_a_process_that_cannot_come_up(told: Told) -> None:
    async def story(pool: DecodePool, decoders: list[StandIn]) -> None:
        gone, left = decoders
        pool._spawn = lambda work: work.close()  # type: ignore[method-assign]
        pool.lost(gone)
        await ask(pool, SLOW_KIND, "a")
        assert not left.jobs, "its replacement is about to come"
        pool._dying.clear()
        again = StandIn(pool)
        again.ready = False
        pool._decoders.append(again)
        pool.lost(again)
        pool.dispatch()
        assert left.photos == [SLOW_KIND], "it ended before it was ready"
        came = StandIn(pool)
        pool._decoders.append(came)
        pool._dying.clear()
        pool.came()
        await ask(pool, SLOW_KIND, "b")
        assert not came.jobs, "now there are two"

    told(story, 2)


def test_a_process_that_never_gets_ready_is_ended(told: Told) -> None:
    async def story(pool: DecodePool, decoders: list[StandIn]) -> None:
        decoders[1].ready = False
        await asyncio.sleep(START_SECONDS - 1)
        assert [one.killed for one in decoders] == ["", ""]
        await asyncio.sleep(2)
        assert [one.killed for one in decoders] == ["", "hung"]

    told(story, 2)


def test_a_photo_whose_process_was_ended_takes_no_less_than_others(told: Told) -> None:
    async def story(pool: DecodePool, decoders: list[StandIn]) -> None:
        pool.times.seconds[False] = 2.0
        task = await ask(pool, SLOW_KIND, "a", timeout=0.1)
        await asyncio.wait([task])
        await asyncio.sleep(0.3)
        assert decoders[0].killed == "forgotten"
        pool._judge(decoders[0], -9)
        assert pool.times.seconds[False] == 2.0

    told(story, 1)


def test_what_nobody_waits_for_leaves_the_line_at_once(told: Told) -> None:
    async def story(pool: DecodePool, decoders: list[StandIn]) -> None:
        await ask(pool, SLOW_KIND, "a")
        live = await ask(pool, SLOW_KIND + b"live", "a")
        cancelled = await ask(pool, SLOW_KIND, "a")
        late = await ask(pool, SLOW_KIND, "a", timeout=0.05)
        cancelled.cancel()
        await asyncio.wait([cancelled, late])
        assert isinstance(late.exception(), TimeoutError)
        assert len(pool._lines[False]) == 1
        decoders[0].answer()
        decoders[0].answer()
        await live

    told(story, 1)


def test_what_can_no_longer_be_read_in_time_is_left_out(told: Told) -> None:
    async def story(pool: DecodePool, decoders: list[StandIn]) -> None:
        pool.times.seconds[False] = 2.0
        first = await ask(pool, SLOW_KIND, "a")
        late = await ask(pool, SLOW_KIND + b"late", "b", timeout=10)
        hasty = await ask(pool, SLOW_KIND + b"hasty", "c", timeout=8.2)
        live = await ask(pool, SLOW_KIND + b"live", "d", timeout=16)
        await asyncio.sleep(8.1)
        decoders[0].answer()  # now one takes more than three seconds on average
        await asyncio.wait([first, late, hasty])
        assert isinstance(late.exception(), TimeoutError)
        assert isinstance(hasty.exception(), TimeoutError)
        assert decoders[0].photos == [SLOW_KIND + b"live"]
        pool.times.seconds[False] = 100.0
        other = await ask(pool, SLOW_KIND + b"other", "e", timeout=16)
        await asyncio.sleep(7)
        decoders[0].answer()
        await live
        assert decoders[0].photos == [SLOW_KIND + b"other"], "it has more than half of its time, and may be faster"
        assert not other.done()

    told(story, 1)


@pytest.mark.parametrize("why", ["cancelled", "late"])
def test_a_process_that_reads_for_nobody_is_ended(told: Told, why: str) -> None:
    lost: list[int] = []

    async def story(pool: DecodePool, decoders: list[StandIn]) -> None:
        task = await ask(pool, SLOW_KIND, "a", timeout=0.05 if why == "late" else LONG)
        if why == "cancelled":
            task.cancel()
        await asyncio.wait([task])
        killed = [decoders[0].killed]  # it may be done in a moment
        await asyncio.sleep(0.3)
        assert [*killed, decoders[0].killed] == ["", "forgotten"]
        pool._dying.add(decoders[0])
        pool._judge(decoders[0], -9)

    told(story, 1, on_lost=lambda: lost.append(1))
    assert lost == []


def test_a_photo_that_lies_ready_at_a_process_that_is_ended_is_not_to_blame(told: Told) -> None:
    async def story(pool: DecodePool, decoders: list[StandIn]) -> None:
        first = await ask(pool, QUICK, "a")
        second = await ask(pool, QUICK, "b")
        first.cancel()
        await asyncio.sleep(0.3)
        assert decoders[0].killed == "forgotten"
        (job,) = pool._lines[True]
        pool._decoders.clear()
        pool._judge(decoders[0], -9)
        assert (list(pool._lines[True]), job.deaths, second.done()) == ([job], 0, False)

    told(story, 1)
