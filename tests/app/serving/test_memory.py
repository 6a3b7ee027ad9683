"""Photos and pixels are freed when their answer is out, whatever it was: no cycle holds them until the collector comes."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engine.engine import EngineError
from app.faults import ServiceError
from app.serving.batcher import Batcher, Expired, Failed
from app.serving.service import Service
from app.serving.slots import Slots
from app.settings import load_settings
from contract.bundle import read_bundle
from contract.errors import PhotoError
from contract.pixels import Pixels
from tests.app.fake_time import play
from tests.app.inside import Gate, clockless
from tests.app.serving.test_batcher import settle

PATIENCE = 20  # seconds: a busy machine is no leak


class Item:
    """What may be large."""


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    logging.disable()  # pytest keeps what is logged, with its exception
    yield
    logging.disable(logging.NOTSET)
    gc.enable()


async def held(items: list[Item]) -> list[Item]:
    await asyncio.sleep(1)
    return items


async def failing(items: list[Item]) -> list[Item]:
    await asyncio.sleep(1)
    raise RuntimeError("boom")


def not_starting(items: list[Item]) -> asyncio.Future[list[Item]]:
    raise RuntimeError("no thread")


async def in_a_thread(items: list[Item]) -> list[Item]:
    def work() -> list[Item]:
        raise RuntimeError(f"boom {len(items)}")

    with ThreadPoolExecutor(1) as threads:
        return await asyncio.get_running_loop().run_in_executor(threads, work)


async def too_few(items: list[Item]) -> list[Item]:
    return []


@pytest.mark.parametrize(
    ("run", "timeout", "error"),
    [
        (held, 10, None), (held, 0.5, Expired), (failing, 10, Failed), (not_starting, 10, Failed),
        (in_a_thread, 10, Failed), (too_few, 10, Failed),
    ],
)  # fmt: skip
def test_an_item_is_free_once_it_is_answered(
    run: Callable[[list[Item]], Awaitable[list[Item]]], timeout: float, error: type[Exception] | None
) -> None:
    async def story() -> None:
        clock = asyncio.get_running_loop().time
        batcher: Batcher[Item, Item] = Batcher(run, max_batch=4, max_queue=9, slots=Slots(), clock=clock)
        item = Item()
        seen = weakref.ref(item)
        found: type[Exception] | None = None
        try:
            await batcher.enter(timeout).submit(item)
        except (Expired, Failed) as raised:
            found = type(raised)
        assert found is error
        del item
        await asyncio.sleep(1)  # the engine has what is late
        await settle()
        assert seen() is None
        await batcher.close()

    play(story())


@pytest.mark.parametrize("how", ["expired", "cancelled"])
def test_what_waits_no_more_is_free_although_the_engine_runs(how: str) -> None:
    async def story() -> None:
        clock = asyncio.get_running_loop().time
        batcher: Batcher[Item, Item] = Batcher(held, max_batch=1, max_queue=9, slots=Slots(), clock=clock)
        first = asyncio.create_task(batcher.enter(100).submit(Item()))
        await settle()
        item = Item()
        seen, task = weakref.ref(item), asyncio.create_task(batcher.enter(0.5).submit(item))
        del item
        await settle()
        if how == "cancelled":
            task.cancel()
        else:
            await asyncio.sleep(0.5)
        await settle()
        assert isinstance(task.exception() if how == "expired" else None, Expired | None)
        del task
        await settle()
        assert not first.done()
        assert seen() is None
        await first
        await batcher.close()

    play(story())


class Photo(bytes):
    """A photo whose end is seen; bytes have no weak references."""

    alive = 0

    def __init__(self, *_: object) -> None:
        type(self).alive += 1

    def __del__(self) -> None:
        type(self).alive -= 1


class Decoders:
    """In place of the decode pool: remembers the pixels that it gave out."""

    def __init__(self, side: int) -> None:
        self.side, self.error = side, dict[bytes, Exception]()
        self.seen: list[weakref.ref[Pixels]] = []

    async def decode(self, photo: bytes, *_: object, **__: object) -> tuple[Pixels, float]:
        await asyncio.sleep(0)
        if photo in self.error:
            raise self.error[photo]
        pixels: Pixels = np.zeros((self.side, self.side, 3), np.uint8)
        self.seen.append(weakref.ref(pixels))
        return pixels, 0.0

    @property
    def alive(self) -> int:
        return sum(one() is not None for one in self.seen)


Story = Callable[[Service, Decoders, Gate], Awaitable[None]]


def served(bundle: Path, monkeypatch: pytest.MonkeyPatch, story: Story, **settings: Any) -> None:
    """Play a story with a service whose engine is held while its gate is closed."""

    async def whole() -> None:
        chosen = load_settings(bundle=bundle, threads=1, decode_processes=1, max_batch=1, **settings)
        service = Service(read_bundle(bundle), chosen)
        await service.start()
        clockless(service.model, monkeypatch)
        gate = Gate(monkeypatch)
        decoders = Decoders(service.bundle.manifest.image_size)
        monkeypatch.setattr(service.model._decoder, "decode", decoders.decode)
        try:
            await story(service, decoders, gate)
        finally:
            gate.open.set()
            monkeypatch.undo()
            await service.stop()

    asyncio.run(whole())


async def slug(answer: Awaitable[object]) -> str:
    """What a request came to."""
    try:
        found = await answer
    except ServiceError as error:
        return error.slug
    if isinstance(found, list):
        return ",".join(one.slug if isinstance(one, ServiceError) else "ok" for one in found)
    return "ok"


async def freed(decoders: Decoders, photos: int) -> None:
    """No more than so many are left, once the engine's thread has let go of the last batch too."""
    ends = time.monotonic() + PATIENCE
    while (Photo.alive, decoders.alive) != (photos, photos) and time.monotonic() < ends:
        await asyncio.sleep(0.001)
    assert (Photo.alive, decoders.alive) == (photos, photos)


async def begun(service: Service, gate: Gate) -> asyncio.Task[str]:
    """A request that the engine holds."""
    task = asyncio.create_task(slug(service.predict(Photo(b"first"), 1)))
    while not gate.calls and not task.done():
        await asyncio.sleep(0.001)
    assert not task.done(), task.result()
    return task


def test_photos_that_are_too_late_or_find_no_room_are_free_while_the_engine_runs(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(service: Service, decoders: Decoders, gate: Gate) -> None:
        first = await begun(service, gate)
        for _ in range(3):
            assert await slug(service.predict(Photo(b"late"), 1, 1)) == "deadline_exceeded"
            assert await slug(service.caption(Photo(b"late"), 1)) == "deadline_exceeded"
            found = await slug(service.predict_all([Photo(b"late"), Photo(b"late")], 1, 1))
            assert found == "deadline_exceeded,deadline_exceeded"
            await freed(decoders, 1)
        for batcher in (service.model._scores, service.model._captions):
            monkeypatch.setattr(batcher, "_max_queue", 0)
        assert await slug(service.predict(Photo(b"no room"), 1)) == "overloaded"
        assert await slug(service.predict_all([Photo(b"no room")], 1)) == "overloaded"
        await freed(decoders, 1)
        gate.open.set()
        assert await first == "ok"
        await freed(decoders, 0)

    served(bundle, monkeypatch, story, request_timeout_ms=3_600_000)


def test_photos_whose_caller_went_away_are_free_while_the_engine_runs(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(service: Service, decoders: Decoders, gate: Gate) -> None:
        first = await begun(service, gate)
        going = [
            asyncio.create_task(slug(service.predict(Photo(b"gone"), 1))),
            asyncio.create_task(slug(service.predict_all([Photo(b"gone")] * 2, 1))),
        ]
        while service.model._scores.depth < 3:
            await asyncio.sleep(0.001)
        for task in going:
            task.cancel()
        await asyncio.wait(going)
        going.clear()
        del task
        await freed(decoders, 1)
        assert service.model._scores.before(math.inf) == 0
        gate.open.set()
        assert await first == "ok"

    served(bundle, monkeypatch, story, request_timeout_ms=3_600_000)


@pytest.mark.parametrize("error", [RuntimeError("boom"), EngineError("not finite")])
def test_photos_are_free_after_the_engine_failed(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def story(service: Service, decoders: Decoders, gate: Gate) -> None:
        gate.open.set()
        gate.error = error
        assert await slug(service.predict(Photo(b"fails"), 1)) == "engine_failed"
        assert await slug(service.predict_all([Photo(b"fails")] * 3, 1)) == "engine_failed," * 2 + "engine_failed"
        gate.error = None
        error.__traceback__ = None  # it is the test that keeps the error
        await freed(decoders, 0)
        assert await slug(service.predict(Photo(b"good"), 1)) == "ok"
        await freed(decoders, 0)

    served(bundle, monkeypatch, story, request_timeout_ms=3_600_000)


def test_a_photo_that_cannot_be_decoded_gives_its_place_back(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(service: Service, decoders: Decoders, gate: Gate) -> None:
        gate.open.set()
        late, full = TimeoutError(), ServiceError("overloaded", "Too many.")
        for error in (late, full, PhotoError("bad_image", "Damaged.")):
            decoders.error[b"bad"] = error
            with pytest.raises((ServiceError, PhotoError)):
                await service.predict(Photo(b"bad"), 1)
            assert service.model._scores.before(math.inf) == 0
        decoders.error.clear()
        del error, late, full
        await freed(decoders, 0)

    served(bundle, monkeypatch, story)
