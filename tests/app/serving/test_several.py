"""Requests with several photos: let in or refused as a whole, and nobody waits behind all of them.

With decoders and an engine of known speed, in a time of its own.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from app.decoding.line import Job
from app.decoding.pool import DecodePool
from app.faults import ServiceError
from app.serving.answers import ranked
from app.serving.batcher import Batcher
from app.serving.model import _Scored
from app.serving.schemas import Prediction
from app.serving.service import Service
from app.serving.slots import Slots
from app.settings import load_settings
from contract.bundle import read_bundle
from contract.pixels import Pixels
from tests.app.decoders import QUICK, SLOW_KIND, StandIn
from tests.app.fake_time import play

DECODING = 0.02  # seconds of a photo
FULL = 32  # photos, as many as a request may have
CORES = [1, 2, 16, 32, 64]


class Steady(StandIn):
    """Answers each photo after `DECODING`, one that may be slow after `of_slow` seconds."""

    of_slow = DECODING

    def send(self, job: Job) -> None:
        super().send(job)
        if len(self.jobs) == 1:
            self._begin(job)

    def _begin(self, job: Job) -> None:
        asyncio.get_running_loop().call_later(DECODING if job.quick else self.of_slow, self._done)

    def _done(self) -> None:
        if len(self.jobs) > 1:
            self._begin(self.jobs[1])
        self.answer()


class House:
    """A service, `seconds` of whose engine a photo takes."""

    def __init__(self, bundle: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, **settings: Any) -> None:
        loop = asyncio.get_running_loop()
        clock = SimpleNamespace(perf_counter=loop.time, monotonic=loop.time)
        for module in ("serving.model", "serving.service", "decoding.pool"):
            monkeypatch.setattr(f"app.{module}.time", clock)
        monkeypatch.setattr("app.decoding.client.clock", loop.time)
        self.seconds = seconds
        self.service = Service(read_bundle(bundle), load_settings(bundle=bundle, **settings))
        self.service.state = "ready"
        model, chosen = self.service.model, self.service.settings
        slots = Slots()
        for name in ("_scores", "_captions"):
            one = Batcher[Pixels, Any](
                self._run, max_batch=chosen.max_batch, max_queue=chosen.max_queue, slots=slots, clock=loop.time
            )
            setattr(model, name, one)
        pool: DecodePool = model._decoder
        pool._decoders += [Steady(pool) for _ in range(chosen.decoders)]
        self.labels = len(self.service.bundle.labels or ())

    async def _run(self, batch: list[Pixels]) -> list[_Scored]:
        await asyncio.sleep(self.seconds * len(batch))
        row = np.full((1, self.labels), 1 / self.labels, np.float32)
        return [_Scored(ranked(row)[0], 0.0, 0.0) for _ in batch]

    async def several(self, photo: bytes = QUICK, count: int = FULL, timeout_ms: int | None = None) -> str:
        """What a request came to: `overloaded, 3 s`, or how many photos came to what."""
        try:
            found = await self.service.predict_all([photo] * count, 1, timeout_ms)
        except ServiceError as error:
            return f"{error.slug}, {error.retry_after} s"
        outcomes = Counter("ok" if isinstance(one, Prediction) else getattr(one, "slug", repr(one)) for one in found)
        return ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))

    async def one(self) -> float:
        """Seconds that a single photo took."""
        began = asyncio.get_running_loop().time()
        assert isinstance(await self.service.predict(QUICK, 1), Prediction)
        return asyncio.get_running_loop().time() - began

    async def close(self) -> None:
        """End it."""
        await asyncio.gather(self.service.model._scores.close(), self.service.model._captions.close())


Told = Callable[..., None]


@pytest.fixture
def told(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    """Tells a story of a service that has answered one photo, and so knows what they take; or of a `new` one."""

    def tell(story: Callable[[House], Awaitable[None]], seconds: float, *, new: bool = False, **settings: Any) -> None:
        async def whole() -> None:
            house = House(bundle, monkeypatch, seconds, **settings)
            if not new:
                await house.one()
            await story(house)
            await house.close()

        play(whole())

    return tell


@pytest.mark.parametrize("cores", CORES)
@pytest.mark.parametrize("photo", [QUICK, SLOW_KIND], ids=["quick", "slow"])
@pytest.mark.parametrize("requests", [1, 3, 20])
def test_no_photo_is_refused_for_its_siblings(told: Told, cores: int, photo: bytes, requests: int) -> None:
    """At default settings, where there is time for all of them."""

    async def story(house: House) -> None:
        found = await asyncio.gather(*(house.several(photo, timeout_ms=60_000) for _ in range(requests)))
        assert found == ["32 ok"] * requests

    told(story, 0.001, decode_processes=cores, request_timeout_ms=60_000)


@pytest.mark.parametrize("small", ["max_decoding", "max_queue", "max_batch"])
def test_small_lines_are_no_reason_either(told: Told, small: str) -> None:
    async def story(house: House) -> None:
        assert await asyncio.gather(*(house.several() for _ in range(3))) == ["32 ok"] * 3

    told(story, 0.01, decode_processes=16, **{small: 1})


@pytest.mark.parametrize("cores", CORES)
def test_what_is_too_much_is_refused_as_a_whole_and_at_once(told: Told, cores: int) -> None:
    async def story(house: House) -> None:
        waits = [asyncio.create_task(house.several()) for _ in range(20)]
        await asyncio.sleep(DECODING / 2)
        refused = [one.result() for one in waits if one.done()]
        assert len(refused) == 15, "1.6 s each, and 9 of 10 s are promised"
        assert set(refused) <= {f"overloaded, {seconds} s" for seconds in (1, 2)}
        found = [await one for one in waits]
        assert found.count("32 ok") == 5

    told(story, 0.05, decode_processes=cores)


@pytest.mark.parametrize("cores", CORES)
def test_where_decoding_is_short_requests_are_refused_as_a_whole_too(told: Told, cores: int) -> None:
    async def story(house: House) -> None:
        found = await asyncio.gather(*(house.several(timeout_ms=1000) for _ in range(200)))
        assert {one.split(",")[0] for one in found} <= {"32 ok", "overloaded"}
        assert found.count("32 ok") >= 0.8 * 0.9 * cores / DECODING / FULL - 1

    told(story, 0.0001, decode_processes=cores)


@pytest.mark.parametrize("cores", CORES)
def test_a_single_photo_does_not_wait_behind_all_of_them(told: Told, cores: int) -> None:
    async def story(house: House) -> None:
        waits = [asyncio.create_task(house.several()) for _ in range(20)]
        await asyncio.sleep(1)
        alone = await house.one()
        assert alone < 1.5, "all of them take 6.4 s"
        assert [await one for one in waits] == ["32 ok"] * 20

    told(story, 0.01, decode_processes=cores, request_timeout_ms=20_000)


def test_beside_single_photos_it_is_answered_or_its_deadline_has_passed(told: Told) -> None:
    """These come whenever there is room for one, and stand behind nobody who waits outside."""

    async def story(house: House) -> None:
        async def singles() -> None:
            while True:
                await asyncio.gather(*(house.one() for _ in range(40)), return_exceptions=True)

        busy, found = asyncio.create_task(singles()), list[str]()
        for _ in range(20):
            began = asyncio.get_running_loop().time()
            found.append(await house.several())
            if "deadline_exceeded" in found[-1]:
                assert asyncio.get_running_loop().time() - began > 9
        busy.cancel()
        assert "ok" in " ".join(found)
        assert all("overloaded" not in one or one.startswith("overloaded, ") for one in found)

    told(story, 0.05, decode_processes=16)


@pytest.mark.parametrize("cores", CORES[:3])  # more have read the singles before any waits
def test_beside_single_photos_that_never_end_decoders_are_shared(told: Told, cores: int) -> None:
    """What is let in is answered, and it is not for ever that nothing is."""

    async def story(house: House) -> None:
        async def singles() -> None:
            while True:
                await house.service.predict(QUICK, 1)

        busy = [asyncio.create_task(singles()) for _ in range(64)]
        waits = []
        for _ in range(20 * cores):
            await asyncio.sleep(0.5 / cores)
            waits.append(asyncio.create_task(house.several()))
        found = Counter([(await one).split(",")[0] for one in waits])
        assert set(found) <= {"32 ok", "overloaded"}
        assert found["32 ok"] >= 0.4 * 10 * cores / DECODING / FULL
        for one in busy:
            one.cancel()
        await asyncio.wait(busy)

    told(story, 0.0001, decode_processes=cores)


@pytest.mark.parametrize("cores", CORES)
def test_of_slow_photos_no_more_are_let_in_than_are_read_in_time(told: Told, cores: int) -> None:
    """One process reads none of them."""

    async def story(house: House) -> None:
        waits = []
        for _ in range(20 * cores):
            waits.append(asyncio.create_task(house.several(SLOW_KIND, timeout_ms=3000)))
            await asyncio.sleep(0.1 / cores)
        found = Counter([(await one).split(",")[0] for one in waits])
        assert set(found) == {"32 ok", "overloaded"}

    told(story, 0.0001, decode_processes=cores)


def test_engine_and_decoders_do_not_wait_for_each_other(told: Told) -> None:
    async def story(house: House) -> None:
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(house.several() for _ in range(10)))
        took = asyncio.get_running_loop().time() - began
        assert took == pytest.approx(3.2, abs=0.3), "320 photos, 10 ms each"

    told(story, 0.01, decode_processes=16)


def test_what_no_idle_service_could_do_is_begun_where_nobody_waits_and_ends_at_its_deadline(told: Told) -> None:
    async def story(house: House) -> None:
        began = asyncio.get_running_loop().time()
        first = asyncio.create_task(house.several())
        await asyncio.sleep(0)
        assert (await house.several()).startswith("overloaded")
        assert await first == "13 deadline_exceeded, 19 ok"
        assert asyncio.get_running_loop().time() - began == pytest.approx(10)

    told(story, 0.5, decode_processes=2)


def test_who_waits_for_a_turn_waits_until_its_own_deadline(told: Told) -> None:
    async def story(house: House) -> None:
        house.seconds = 1  # nobody knows
        began = asyncio.get_running_loop().time()
        first = asyncio.create_task(house.several())
        found = await house.several(timeout_ms=5000)
        assert {one.split()[1] for one in found.split(", ")} == {"deadline_exceeded", "ok"}, found
        assert asyncio.get_running_loop().time() - began == pytest.approx(5)
        assert "deadline_exceeded" in await first

    told(story, 0.001, decode_processes=2, max_batch=1)


def test_what_has_begun_does_not_wait_any_more(told: Told) -> None:
    async def story(house: House) -> None:
        waits = [asyncio.create_task(house.several()) for _ in range(5)]
        assert await waits.pop(0) == "32 ok"
        waits += [asyncio.create_task(house.several(count=count)) for count in (FULL, 16)]
        await asyncio.sleep(0)
        assert (await house.several()).startswith("overloaded"), "8.2 s, and 1.6 s"
        assert [await one for one in waits] == ["32 ok"] * 5 + ["16 ok"]

    told(story, 0.05, decode_processes=2)


def test_who_leaves_makes_room(told: Told) -> None:
    async def story(house: House) -> None:
        waits = [asyncio.create_task(house.several()) for _ in range(5)]
        await asyncio.sleep(0.1)
        assert (await house.several()).startswith("overloaded")
        for one in waits:
            one.cancel()
        await asyncio.wait(waits)
        assert await asyncio.gather(*(house.several() for _ in range(5))) == ["32 ok"] * 5

    told(story, 0.05, decode_processes=2)


def test_of_one_photo_it_is_the_request_that_is_refused(told: Told) -> None:
    async def story(house: House) -> None:
        waits = [asyncio.create_task(house.one()) for _ in range(2)]
        await asyncio.sleep(0.2)
        assert (await house.several(count=1)).startswith("overloaded")
        await asyncio.gather(*waits)

    told(story, 4, decode_processes=2)


def test_photos_that_are_slow_to_decode_are_counted_as_such(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Steady, "of_slow", 0.3)

    async def story(house: House) -> None:
        assert await house.several(SLOW_KIND, 2) == "2 ok"  # now it is known
        first = asyncio.create_task(house.several(SLOW_KIND))
        await asyncio.sleep(0)
        assert (await house.several(SLOW_KIND)).startswith("overloaded"), "4.8 s each"
        assert await house.several(count=8) == "8 ok"
        assert await first == "32 ok"

    told(story, 0.001, decode_processes=2)


def test_single_photos_that_wait_for_a_decoder_stand_before_it(told: Told) -> None:
    async def story(house: House) -> None:
        singles = [asyncio.create_task(house.one()) for _ in range(60)]
        await asyncio.sleep(DECODING / 2)
        assert (await house.several(timeout_ms=1500)).startswith("overloaded"), "1.2 s, and 0.64 s"
        await asyncio.gather(*singles)
        assert await house.several(timeout_ms=1500) == "32 ok"

    told(story, 0.001, decode_processes=1)


def test_a_batch_that_runs_stands_before_it(told: Told) -> None:
    async def story(house: House) -> None:
        assert await house.several(count=9) == "9 ok"  # now it is known what a batch takes
        singles = [asyncio.create_task(house.one()) for _ in range(9)]
        await asyncio.sleep(1)
        assert house.service.model._scores.depth == 0, "the first was alone in the engine, the others are"
        assert (await house.several(count=12)).startswith("overloaded"), "3.5 s, and 6 s"
        await asyncio.gather(*singles)
        assert await house.several(count=12) == "12 ok"

    told(story, 0.5, decode_processes=16)


def test_what_no_idle_decoder_could_do_is_begun_where_nobody_waits(told: Told) -> None:
    async def story(house: House) -> None:
        first = asyncio.create_task(house.several(timeout_ms=300))
        await asyncio.sleep(0)
        assert (await house.several(timeout_ms=300)).startswith("overloaded")
        found = await first
        assert "deadline_exceeded" in found
        assert "ok" in found

    told(story, 0.0001, decode_processes=1)


def test_nobody_is_let_in_while_the_line_of_the_engine_is_full(told: Told) -> None:
    async def story(house: House) -> None:
        singles = [asyncio.create_task(house.one()) for _ in range(6)]
        await asyncio.sleep(0.1)
        assert (await house.several(count=2)).startswith("overloaded")
        await asyncio.gather(*singles)
        assert await house.several(count=2) == "2 ok"

    told(story, 0.2, decode_processes=16, max_queue=4, max_batch=1)


@pytest.mark.parametrize(("patience", "outcome"), [(None, "32 ok"), (2_000, "deadline_exceeded, 1 s")])
def test_while_the_first_call_ever_runs_others_wait_for_its_end(told: Told, patience: int | None, outcome: str) -> None:
    """Nobody knows before how long it takes."""

    async def story(house: House) -> None:
        first = asyncio.create_task(house.several(count=1))
        await asyncio.sleep(1.5 * DECODING)
        house.seconds = 0.001
        assert await house.several(timeout_ms=patience) == outcome
        assert await first == "1 ok"
        assert await house.several() == "32 ok"

    told(story, 3, new=True, decode_processes=16)
