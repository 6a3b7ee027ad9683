"""Photos → pixels in a process of the service's (`app.decoding.pool`), under its limits for each photo.

A photo that crashes it, or makes it hang, costs two processes at most, and no other photo anything.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Self

from app.decoding.pool import DecodePool
from contract.errors import ContractError, PhotoError

LONGEST = 60.0  # seconds that one photo may be read, whatever its processor time: beyond that its process hangs
PATIENCE = 3600.0  # seconds for a photo's pixels: there is no process to be had
FAULTY = "The decoder failed on this photo; the log of Ray's worker has the fault."


class Decoding:
    """The process, from `with` to its end. Raises `ContractError` where none stays alive."""

    def __init__(self, image_size: int, max_pixels: int, cpu_ms: int) -> None:
        self._runner = asyncio.Runner()
        self._pool = DecodePool(1, 1, image_size=image_size, max_pixels=max_pixels, cpu_ms=cpu_ms, longest=LONGEST)

    def __enter__(self) -> Self:
        try:
            self._runner.run(self._start())
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    async def _start(self) -> None:
        await self._pool.start()
        await self._pool.ready()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._runner.run(self._pool.close())
        self._runner.close()

    def pixels(self, photo: bytes) -> tuple[bytes, float]:
        """uint8 [S, S, 3] as bytes, and the milliseconds it took. Raises `PhotoError`, also for a photo that its
        process does not survive, or fails on.
        """
        began = time.perf_counter()
        try:
            found, _ = self._runner.run(self._pool.decode(photo, PATIENCE, self))
        except TimeoutError:
            raise ContractError(
                "No process that decodes photos stays alive; the log of Ray's worker says why."
            ) from None
        except RuntimeError:
            raise PhotoError("internal_error", FAULTY) from None
        return found.tobytes(), 1000 * (time.perf_counter() - began)
