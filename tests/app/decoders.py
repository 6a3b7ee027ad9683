"""Pools of decoding processes for tests, and their processes."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any
from unittest.mock import MagicMock

import psutil
import pytest
from PIL import Image

from app.decoding.client import Decoder
from app.decoding.pool import DecodePool
from app.decoding.worker import ANSWER, PIXELS
from tests.app.photos import encoded
from tests.conftest import drawn_png

PHOTO = drawn_png(0, size=64)
SLOW_KIND = b"RIFF----WEBP"  # no more is known of it than that it may be slow
QUICK = encoded(Image.new("RGB", (40, 40), "red"), "JPEG")  # may lie ready at a process


LONG = 1000  # seconds, of a time that does not pass by itself


def decoders(parent: int | None = None) -> list[psutil.Process]:
    """The decoding processes of a process, by default of this one."""
    found = []
    for one in psutil.Process(parent).children():
        with contextlib.suppress(psutil.Error):  # it has just ended
            if one.cmdline()[2:3] in (["app.decoding.worker"], ["tests.app.strange_decoder"]):
                found.append(one)
    return found


async def settle() -> None:
    """Let everything run that can run: photos asked for are then at the processes, or wait."""
    for _ in range(20):
        await asyncio.sleep(0)


def a_pool(processes: int, **options: Any) -> DecodePool:
    """Patient, for small pixels."""
    usual = {"max_waiting": 64, "image_size": 32, "max_pixels": 10**6, "cpu_ms": 60_000, "longest": 60}
    return DecodePool(processes, **usual | options)


class StandIn(Decoder):
    """A decoder without a process: it answers when it is told to."""

    def __init__(self, pool: DecodePool) -> None:
        super().__init__(pool, MagicMock())
        self.connection_made(MagicMock())
        self.ready = True

    @property
    def photos(self) -> list[bytes]:
        """What it has been sent and not answered."""
        return [job.photo for job in self.jobs]

    def answer(self) -> None:
        """Give pixels for the first."""
        pixels = bytes(math.prod(self._pool.shape))
        self.get_buffer(-1)[: ANSWER.size + len(pixels)] = ANSWER.pack(PIXELS, len(pixels)) + pixels
        self.buffer_updated(ANSWER.size + len(pixels))


def stand_ins(processes: int, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[DecodePool, list[StandIn]]:
    """A pool of such decoders, in the time of the event loop."""
    monkeypatch.setattr("app.decoding.client.clock", lambda: asyncio.get_running_loop().time())
    pool = a_pool(processes, **options)
    found = [StandIn(pool) for _ in range(processes)]
    pool._decoders += found
    return pool, found


def with_pool(work: Callable[[DecodePool], Awaitable[Any]], processes: int = 1, **options: Any) -> Any:
    """Do something with a pool that is ready."""

    async def whole() -> Any:
        pool = a_pool(processes, **options)
        try:
            await pool.start()
            await pool.ready()
            return await work(pool)
        finally:
            await pool.close()

    found = asyncio.run(whole())
    assert decoders() == [], "none stays behind"
    return found


Story = Callable[[DecodePool, list[StandIn]], Coroutine[Any, Any, None]]
Told = Callable[..., None]  # the fixture `told`: a story, the number of its processes, options of the pool
asked: list[asyncio.Task[Any]] = []  # by the story that is being told


async def ask(pool: DecodePool, photo: bytes, owner: object, timeout: float = LONG) -> asyncio.Task[Any]:
    """Ask for its pixels."""
    task = asyncio.create_task(pool.decode(photo, timeout, owner))
    asked.append(task)
    await settle()
    return task
