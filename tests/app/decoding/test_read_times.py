"""How long until a photo is read, as far as is known: with decoders that answer when told to."""

from __future__ import annotations

import asyncio

import pytest

from app.decoding.pool import DecodePool
from app.decoding.read_times import shared
from tests.app.decoders import QUICK, SLOW_KIND, StandIn, Told, ask


def wait(pool: DecodePool, quick: bool = True) -> float:
    """Seconds until a photo of a new request would be begun."""
    return pool.expected(quick, "newcomer")[0]


@pytest.mark.parametrize(
    ("work", "rests", "seconds"),
    [
        (0, [3], 3), (2, [3], 5), (0, [2, 0], 0), (4, [1, 1], 3), (4, [20, 0], 4), (4, [1, 20, 2], 3.5), (9, [2, 0, 1], 4),
    ],
)  # fmt: skip
def test_work_goes_to_those_who_are_free_first(work: float, rests: list[float], seconds: float) -> None:
    assert shared(work, rests) == seconds


def test_how_long_a_photo_would_wait(told: Told) -> None:
    async def story(pool: DecodePool, decoders: list[StandIn]) -> None:
        assert wait(pool) == 0
        task = await ask(pool, QUICK, "a")
        assert wait(pool) == 0, "nothing is known"
        await asyncio.sleep(0.5)
        assert wait(pool) == pytest.approx(0.5), "as long again"
        decoders[0].answer()
        await task
        assert wait(pool) == 0, "it is idle"
        for owner in range(5):
            await ask(pool, QUICK, owner)
        assert wait(pool) == pytest.approx(2.5)
        await asyncio.sleep(0.1)
        assert wait(pool) == pytest.approx(2.4)

    told(story, 1)


def test_the_average_follows_what_photos_take(told: Told) -> None:
    async def story(pool: DecodePool, decoders: list[StandIn]) -> None:
        for seconds in (1.0, 2.0):
            task = await ask(pool, SLOW_KIND, "a")
            await asyncio.sleep(seconds)
            decoders[0].answer()
            await task
        assert pool.times.seconds == {True: 0.0, False: pytest.approx(1.2)}

    told(story, 1)


def test_slow_photos_wait_for_each_other_and_a_request_for_its_own(told: Told) -> None:
    async def story(pool: DecodePool, decoders: list[StandIn]) -> None:
        pool.times.seconds = {True: 0.01, False: 2.0}
        assert pool.expected(False, "newcomer") == (0.0, 2.0)
        for owner in range(4):
            await ask(pool, SLOW_KIND, owner)
        assert pool.expected(False, "newcomer") == (8.0, 2.0)
        assert pool.expected(True, "newcomer") == (0.0, 0.01), "another process is idle"
        for _ in range(20):
            await ask(pool, SLOW_KIND, "many")
        assert wait(pool, quick=False) == 20, "four of others, and as many of the many in between"
        assert pool.expected(False, "many") == (48.0, 2.0)

    told(story, 2)


def test_slow_photos_are_expected_to_get_all_processes_but_one(told: Told) -> None:
    async def story(pool: DecodePool, decoders: list[StandIn]) -> None:
        pool.times.seconds = {True: 0.1, False: 3.0}
        await ask(pool, SLOW_KIND, "a")
        for _ in range(3):
            await ask(pool, QUICK, "b")
        assert wait(pool, quick=False) == pytest.approx(0.1), "as soon as a quick one is done"
        for owner in range(3):
            await ask(pool, SLOW_KIND, owner)
        # three seconds of one, and of two that begin in 0.1 s, have nine more to do
        assert wait(pool, quick=False) == pytest.approx((3 + 0.1 + 0.1 + 9) / 3)

    told(story, 4)


def test_a_process_that_is_idle_takes_a_photo_however_long_the_last_ones_took(told: Told) -> None:
    async def story(pool: DecodePool, decoders: list[StandIn]) -> None:
        pool.times.seconds = {True: 100.0, False: 100.0}
        await ask(pool, QUICK, "a", timeout=0.05)
        assert wait(pool) == 0
        await ask(pool, QUICK, "b", timeout=0.05)
        assert [one.photos for one in decoders] == [[QUICK], [QUICK]]

    told(story, 2)
