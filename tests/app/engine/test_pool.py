"""Several engines: two batches at a time, fewer where the memory ends, and answers that do not mix."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from app.engine.engine import Engine
from app.engine.load import EngineLoad
from app.engine.pool import EnginePool
from app.providers.gpu import GpuMemoryError, ProviderError
from app.serving.batcher import Batcher
from app.serving.service import Service
from app.serving.slots import Slots
from app.settings import load_settings
from contract.bundle import read_bundle
from tests.conftest import drawn_png


class Fake:
    """An engine that is only a number."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.max_batch = 8 - number
        self.worths = [0.0, 0.25, 0.5]

    def close(self) -> None:
        pass


def pool(size: int, fails: dict[int, Exception] | None = None) -> EnginePool:
    def make(number: int) -> Engine:
        if error := (fails or {}).get(number):
            raise error
        return cast(Engine, Fake(number))

    return EnginePool(make, size)


def test_two_batches_run_at_a_time_each_on_its_own_engine() -> None:
    async def run() -> list[int]:
        found = pool(2)
        await found.load()
        meeting = threading.Barrier(2, timeout=60)  # passed only if both run at the same time

        def work(engine: Any) -> int:
            meeting.wait()
            return int(engine.number)

        numbers = await asyncio.gather(found.run(work), found.run(work))
        assert found.max_batch == 7, "what every engine takes"
        await found.close()
        return list(numbers)

    assert sorted(asyncio.run(run())) == [0, 1]


def test_calls_count_for_the_load_as_long_as_they_run_and_other_work_does_not() -> None:
    now = 0.0
    load = EngineLoad(lambda: now)

    async def run() -> None:
        nonlocal now
        found = EnginePool(lambda number: cast(Engine, Fake(number)), 1, load)
        await found.load()
        for photos in (1, 2, 0):
            gate = threading.Event()
            running = found.run(lambda engine, gate=gate: gate.wait(60), photos)  # type: ignore[misc]
            now += 8
            gate.set()
            assert await running
            await asyncio.sleep(0)
        await found.close()

    asyncio.run(run())
    assert (load.busy_seconds, load.work_seconds) == (16, 8 * 0.25 + 8 * 0.5)


@pytest.mark.parametrize(
    "error", [GpuMemoryError("GPU full"), MemoryError("GPU full"), RuntimeError("CUDA failure 2: out of memory")]
)
def test_no_memory_for_the_second_leaves_one(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> int:
        found = pool(3, {1: error})
        await found.load()
        count = len(found.engines)
        await found.close()
        return count

    assert asyncio.run(run()) == 1
    assert "no memory for engine 2 of 3: 1 batch at a time" in caplog.text


@pytest.mark.parametrize(
    ("fails", "error"),
    [
        ({0: MemoryError("GPU full")}, MemoryError),
        ({0: GpuMemoryError("GPU full")}, ProviderError),
        ({1: ProviderError("the provider has no memory of us")}, ProviderError),
        ({1: RuntimeError("broken")}, RuntimeError),
    ],
)
def test_other_failures_are_not_hidden(fails: dict[int, Exception], error: type[Exception]) -> None:
    with pytest.raises(error):
        asyncio.run(pool(2, fails).load())


async def turns() -> None:
    """More turns of the event loop than anything here takes."""
    for _ in range(50):
        await asyncio.sleep(0)


def test_the_batcher_keeps_two_engines_busy() -> None:
    """While both run nothing is formed; then the queue goes out as one batch."""

    async def run() -> list[list[int]]:
        begun: list[list[int]] = []
        gates = [asyncio.Event() for _ in range(3)]

        async def engine(items: list[int]) -> list[int]:
            begun.append(items)
            await gates[len(begun) - 1].wait()
            return items

        batcher: Batcher[int, int] = Batcher(engine, max_batch=4, max_queue=10, slots=Slots(2))
        tasks = []
        for item in range(5):
            tasks.append(asyncio.create_task(batcher.enter(60).submit(item)))
            await turns()
        assert begun == [[0], [1]]
        gates[1].set()
        await turns()
        assert begun == [[0], [1], [2, 3, 4]]
        gates[0].set()
        gates[2].set()
        assert [done.result for done in await asyncio.gather(*tasks)] == [0, 1, 2, 3, 4]
        await batcher.close()
        return begun

    asyncio.run(run())


def test_a_service_with_two_engines_answers_like_one(bundle: Path) -> None:
    photos = [drawn_png(i) for i in range(24)]

    async def answers(in_flight: int) -> list[dict[int, float]]:
        settings = load_settings(
            bundle=bundle, threads=1, in_flight=in_flight, max_batch=4, decode_processes=1, request_timeout_ms=60_000
        )
        service = Service(read_bundle(bundle), settings)
        await service.start()
        assert service.info()["engines"] == in_flight
        found = await asyncio.gather(*(service.predict(photo, 16) for photo in photos))
        await service.stop()
        return [{top.class_id: top.confidence for top in one.top} for one in found]

    one, two = asyncio.run(answers(1)), asyncio.run(answers(2))
    for alone, other in zip(one, two, strict=True):
        assert other == pytest.approx(alone, abs=1e-4)  # another batch, other rounding
    assert all(a != pytest.approx(b, abs=1e-2) for i, a in enumerate(one) for b in one[:i]), (
        "or a mix could not be seen"
    )
