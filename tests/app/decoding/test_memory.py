"""Photos that were answered are let go at once, whatever the answer was: nothing waits for the
garbage collector.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.decoding.pool import DecodePool
from app.faults import ServiceError
from contract.errors import PhotoError
from tests.app.decoders import PHOTO, SLOW_KIND, decoders, settle, with_pool
from tests.app.inside import running, until
from tests.app.photos import assert_error

PATIENT = 60  # seconds: only against hanging


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def good(pool: DecodePool, photo: bytes) -> None:
    """Pixels."""
    await pool.decode(photo, PATIENT, None)


async def damaged(pool: DecodePool, photo: bytes) -> None:
    """A refusal of the photo."""
    with pytest.raises(PhotoError):
        await pool.decode(b"no" + photo, PATIENT, None)
    with pytest.raises(PhotoError):
        await pool.decode(SLOW_KIND + photo, PATIENT, None)


async def late(pool: DecodePool, photo: bytes) -> None:
    """A deadline that passes, for the photo that is read and for one that waits."""
    (busy,) = decoders()
    busy.suspend()
    tasks = [asyncio.create_task(pool.decode(photo, 0.05, None)) for _ in range(3)]
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(one) for one in found} == {TimeoutError}
    await replaced(pool, busy.pid)


async def cancelled(pool: DecodePool, photo: bytes) -> None:
    """A client that leaves."""
    (busy,) = decoders()
    busy.suspend()
    tasks = [asyncio.create_task(pool.decode(photo, PATIENT, None)) for _ in range(3)]
    await settle()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await replaced(pool, busy.pid)


async def refused(pool: DecodePool, photo: bytes) -> None:
    """No room."""
    pool._room = 0
    with pytest.raises(ServiceError):
        await pool.decode(photo, PATIENT, None)
    pool._room = 64


async def replaced(pool: DecodePool, pid: int) -> None:
    """The process was ended, and there is another."""
    async with asyncio.timeout(PATIENT):
        while [decoder.ready for decoder in pool._decoders if decoder.process.pid != pid] != [True]:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("answered", [good, damaged, late, cancelled, refused])
def test_nothing_keeps_a_photo_that_was_answered(answered: Callable[[DecodePool, bytes], Awaitable[None]]) -> None:
    async def work(pool: DecodePool) -> tuple[int, int]:
        photo = PHOTO + bytes(1000)
        before = sys.getrefcount(photo)
        await answered(pool, photo)
        await settle()
        return before, sys.getrefcount(photo)

    before, after = with_pool(work)
    assert before == after


def test_photos_answered_504_are_let_go(bundle: Path) -> None:
    photo, times = PHOTO + bytes(8 << 20), 5
    with running(bundle, decode_processes=1, request_timeout_ms=300) as (url, app):
        pool = app.state.service.model._decoder

        def late() -> Any:
            (busy,) = decoders()
            busy.suspend()
            answer = httpx.post(f"{url}/predict", content=photo, timeout=60)
            until(lambda: [one.ready for one in pool._decoders if one.process.pid != busy.pid] == [True])
            return answer

        late()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            answers = [late() for _ in range(times)]
            kept = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
    for answer in answers:
        assert_error(answer, "deadline_exceeded")
    assert kept < 2 * len(photo), f"{kept / len(photo):.1f} of {times} photos"
