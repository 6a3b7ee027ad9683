"""Pools of decoding processes for tests, and their processes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import psutil
from PIL import Image

from app.decode_pool import DecodePool
from tests.app.photos import encoded
from tests.conftest import drawn_png

PHOTO = drawn_png(0, size=64)
QUICK = encoded(Image.new("RGB", (40, 40), "red"), "JPEG")  # may lie ready at a process


def decoders(parent: int | None = None) -> list[psutil.Process]:
    """The decoding processes of a process, by default of this one."""
    found = []
    for one in psutil.Process(parent).children():
        with contextlib.suppress(psutil.Error):  # it has just ended
            if one.cmdline()[2:3] in (["app.decoder_process"], ["tests.app.strange_decoder"]):
                found.append(one)
    return found


async def settle() -> None:
    """Let everything run that can run: photos asked for are then at the processes, or wait."""
    for _ in range(20):
        await asyncio.sleep(0)


def with_pool(work: Callable[[DecodePool], Awaitable[Any]], processes: int = 1, **options: Any) -> Any:
    """Do something with a pool that is ready."""

    async def whole() -> Any:
        pool = DecodePool(
            processes,
            **{"max_waiting": 64, "image_size": 32, "max_pixels": 10**6, "cpu_ms": 60_000, "longest": 60} | options,
        )
        try:
            await pool.start()
            await pool.ready()
            return await work(pool)
        finally:
            await pool.close()

    found = asyncio.run(whole())
    assert decoders() == [], "none stays behind"
    return found
